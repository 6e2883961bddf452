"""A trained network in use: evaluation of a checkpoint, predictions, exports.

May import: run, diagnosis, interchange, training, models, data, config.
"""
