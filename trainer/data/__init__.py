"""From stored records to batches: ``sources`` reads them, ``order`` decides which come when, ``images`` transforms
them.

May import: config, runtime, storage.
"""
