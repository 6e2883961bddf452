"""Why a file does not restore: compare it with a model, and reduce the differences to causes.

May import: interchange, training, models, data, run_directory, checkpoint, config, storage.
"""
