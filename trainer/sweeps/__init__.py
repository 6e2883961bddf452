"""Sweeps: several runs, the trials, under one directory, which says what they are and can be resumed as a whole."""
