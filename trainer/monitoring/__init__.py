"""The views of a run for people: the terminal, TensorBoard, and trackers of experiments.

May import: training, models, data, run_directory, checkpoint, runtime, config, storage.
"""
