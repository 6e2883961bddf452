"""Weight files of other programs: finding them, reading them, and their names in ours.

May import: models, run_directory, checkpoint, config, storage.
"""
