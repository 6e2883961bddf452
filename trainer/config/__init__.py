"""The configuration: Hydra in, frozen dataclasses out, and what a plug-in and the program agree on.

May import: storage.
"""
