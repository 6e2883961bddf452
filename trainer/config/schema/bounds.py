"""Bounds far above anything that is trained, so that a stored text cannot ask for a list of 10^9 class names."""

LARGEST_BATCH = 2**24
LARGEST_CLASSIFIER = 2**24
