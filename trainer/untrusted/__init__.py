"""Reading files and text that somebody else may have written: a run directory may come from anywhere.

Nothing here follows a link, waits for another process, imports, instantiates or resolves what a text names, or builds
more than a bounded amount from it. What the text then means is for its reader to check.
"""
