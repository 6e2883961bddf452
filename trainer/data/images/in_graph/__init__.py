"""What ``headers``, ``orientation`` and ``decoding`` do in Python, with TensorFlow's operations alone: for a graph that
is served where neither Python nor Pillow is. Each function names its counterpart.
"""
