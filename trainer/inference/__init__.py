"""A trained network in use: evaluation of a checkpoint, predictions, exports.

May import: run, diagnosis, monitoring (confusion only), interchange, training, models, data, config,
runtime (quiet only).
"""
