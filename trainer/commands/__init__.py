"""One module for each command of ``python -m trainer``: its arguments, its help, what it prints.

May import everything. Only ``trainer.__main__`` imports it.
"""
