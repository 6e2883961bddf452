"""What a network says of images: probabilities, computed as ``evaluate`` computes them, and the most probable classes.

The same compiled function, the same input pipeline and the same size of a batch give the same bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config.override import override
from trainer.config.schema import Config
from trainer.config.schema.training import WeightsName
from trainer.data.audit import warned_by_libjpeg
from trainer.data.bad_records import LEFT_OUT
from trainer.data.batches import evaluation_batches
from trainer.data.images.libjpeg import listening
from trainer.data.sixteen_bits import check_range
from trainer.data.sources.image_files import ImageFiles
from trainer.data.sources.source import Source
from trainer.run.restore import Restored
from trainer.training.state import TrainingState
from trainer.training.step import inference

Probabilities = npt.NDArray[np.float32]
Network = Callable[[tf.Tensor], tf.Tensor]
IMAGE_FOLDER = "image_folder"


def make_network(state: TrainingState, weights: WeightsName) -> Network:
    """A compiled function from the network's input, float32 ``[n, S, S, 3]``, to probabilities float32
    ``[n, classes]``.
    """
    logits_of = inference(state, weights)
    image = next(tensor for tensor in state.model.inputs if tensor.name == "image")

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, *image.shape[1:]], tf.float32)])
    def probabilities(images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(logits_of(images))

    return probabilities


def reading_files(config: Config, values: dict[str, object]) -> Config:
    """``config`` for image files in place of the data that a run was trained on. ``values`` (dotted key → value) change
    how they are found and read.

    Raises:
        UsageError: one of ``values`` is wrong.
    """
    wanted = override(config, {"data": IMAGE_FOLDER, "data.root": ".", **values})
    data = dataclasses.replace(wanted.data, classes=None, class_weights=None, on_bad_record="skip")
    return dataclasses.replace(wanted, data=data)


def of_files(
    restored: Restored, weights: WeightsName, config: Config, paths: Sequence[str], doubt: Callable[[str], object]
) -> Iterator[tuple[str, Probabilities | str]]:
    """Each of ``paths`` with its probabilities, float32 ``[classes]``, or with the reason why there are none.

    ``config`` is from ``reading_files``. ``doubt`` is called with warnings about images that are read nevertheless.
    """
    source = Source(ImageFiles(paths, restored.output_names), config.data, "test")
    for text in check_range(source, config.preprocess, new=False):
        doubt(text)
    network = make_network(restored.state, weights)
    reasons: list[str] = []
    unusable: set[int] = set()
    with listening() as heard:
        records = iter(range(source.count))
        for batch in evaluation_batches(source, config, warn=reasons.append):
            found, usable = network(batch["image"]).numpy(), batch["weight"].numpy() > 0.0
            for values, is_usable, record in zip(found, usable, records, strict=False):  # the last batch is filled up
                if not is_usable:
                    unusable.add(record)
                    yield paths[record], reasons.pop(0).removesuffix(LEFT_OUT)
                elif np.isfinite(values).all():
                    yield paths[record], values
                else:
                    yield paths[record], f"{source.place(record)}: the output of the network is not finite"
    if heard:
        for text in warned_by_libjpeg(source, config.preprocess, unusable, "looking for repaired images"):
            doubt(text)


def most_probable(values: Probabilities, class_names: Sequence[str], top: int) -> list[tuple[str, np.float32]]:
    """The ``top`` most probable classes, or all where there are fewer, with their probabilities; the first first. Of
    classes with equal probabilities, the one with the lower label is first.
    """
    order = np.argsort(-values, kind="stable")[:top]
    return [(class_names[label], values[label]) for label in order]
