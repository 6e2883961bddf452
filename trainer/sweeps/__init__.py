"""Sweeps: several runs (the trials) in one directory. The directory describes them and can be resumed as a whole.

Jobs in a queue hold the pickled name ``trainer.sweeps.launched.run``: it must not move.

May import: run (inside functions), distributed, run_directory, checkpoint, config, runtime, storage.
"""
