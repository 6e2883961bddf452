"""Sweeps: several runs, the trials, under one directory, which says what they are and can be resumed as a whole.

Jobs in a queue hold the pickled name ``trainer.sweeps.launched.run``: it must not move.

May import: run (inside functions), distributed, run_directory, checkpoint, config, runtime, storage.
"""
