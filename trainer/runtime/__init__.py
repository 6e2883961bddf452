"""The process: TensorFlow's settings, devices, signals, random seeds, and checks for hidden state in a graph.

May import: config, storage.
"""
