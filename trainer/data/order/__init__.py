"""Which record comes at which position of a run, as a function of seed and epoch, and the ledger that proves it."""
