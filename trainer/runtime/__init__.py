"""The process: TensorFlow's settings, devices, signals, random seeds, and what hides state from a graph.

May import: config.
"""
