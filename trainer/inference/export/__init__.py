"""A trained network in the formats of other programs: Keras, SavedModel, bare weights, ONNX, LiteRT."""
