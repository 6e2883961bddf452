"""One process that works on one run: ``session`` has the order of events, the other modules have the steps.

May import: diagnosis, monitoring, fingerprint, interchange, training, models, data, run_directory, distributed,
checkpoint, runtime, config, storage.
"""
