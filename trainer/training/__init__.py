"""The computation: state, optimizer, gradients, the step, evaluation, and the loop around them.

May import: models, data, distributed, run_directory (metrics, phases and costs only), config, runtime.
"""
