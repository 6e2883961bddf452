"""Facts about everything that decides the result of a run's steps, and the judgement of facts that differ.

May import: training, models, data, distributed, checkpoint, config, runtime, storage.
"""
