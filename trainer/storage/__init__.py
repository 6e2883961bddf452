"""Files: durable writes, leases, and reading what somebody else may have written.

A run directory may come from anywhere. ``guarded``, ``documents`` and ``typed`` follow no link, wait for no other
process, import, instantiate and resolve nothing that a text names, and build no more than a bounded amount from it.
What the text then means is for its reader to check.

May import: errors.
"""
