"""What the pipeline hands over to a step: tensors by name, a row for each example."""

from __future__ import annotations

import tensorflow as tf

Batch = dict[str, tf.Tensor]
