"""One image, from its encoded bytes to the network's input: headers, decoding, crops, augmentation, blending."""
