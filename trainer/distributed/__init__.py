"""Several devices and several processes: who takes part, what they exchange, when they stop together.

May import: config, storage, runtime.
"""
