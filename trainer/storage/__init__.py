"""Files: durable writes, leases, and reading files that another program may have written.

A run directory may come from anywhere. ``guarded``, ``documents`` and ``typed`` follow no link and wait for no other
process. They import, instantiate and resolve nothing that a text names, and build a bounded amount from it. The caller
checks what the text means.

May import: errors.
"""
