"""Checkpoints: tensors in files, the commit protocol, the manifest, retention and verification.

May import: config, storage, runtime.
"""
