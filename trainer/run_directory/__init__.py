"""The run directory: its layout, its lock, the records in it, and its mirror on another filesystem.

May import: checkpoint, config, storage.
"""
