"""Weight files of other programs: where they are, what they hold, and which of our variables their names mean.

May import: models, run_directory, checkpoint, config, storage.
"""
