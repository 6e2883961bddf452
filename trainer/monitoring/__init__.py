"""The views of a run for people: the terminal and TensorBoard.

May import: training, models, data, run_directory, checkpoint, runtime, config, storage.
"""
