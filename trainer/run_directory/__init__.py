"""The run directory: what lies where, its lock, the records in it, and its mirror elsewhere.

May import: checkpoint, config, storage.
"""
