"""The networks: layers, builders, how many bytes they take, and the units of Inception V3.

May import: config, distributed, runtime.
"""
