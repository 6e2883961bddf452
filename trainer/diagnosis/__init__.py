"""Why would this file not restore? Compares it with a model and reduces the differences to causes.

May import: interchange, training, models, data, run_directory, checkpoint, config, storage.
"""
