"""What a person watches while a run trains: the terminal and TensorBoard.

May import: training, models, data, run_directory, checkpoint, config, storage.
"""
