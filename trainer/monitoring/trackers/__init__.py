"""Trackers of experiments (MLflow, Weights & Biases, those of plug-ins), told what a run has committed and no more."""
