"""The configuration: from Hydra to frozen dataclasses, and the contracts between plug-ins and the program.

May import: storage.
"""
