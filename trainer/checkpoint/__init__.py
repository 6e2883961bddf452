"""Checkpoints: tensors in files, the commit protocol, the manifest, retention and verification.

May import: storage, runtime.
"""
