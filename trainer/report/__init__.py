"""Reports: one page in one file about a run, or about several beside each other. Nothing here imports TensorFlow.

May import: monitoring (confusion only), run_directory, checkpoint, config, storage.
"""
