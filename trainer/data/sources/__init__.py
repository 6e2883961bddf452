"""Where records come from: one module for each kind of data set, their labels, their indices and caches."""
