"""Settings that decide a network's outputs and leave no trace in its tensors.

A network that differs in one of them loads a file without an error when all shapes fit, and every output is wrong. The
size of the error, in logits whose root mean square is 1 to 3: an epsilon of 1e-5 instead of 1e-3 moves them by 0.7.
Pools that count the padding move them by 1 at 299 pixels, and by more on smaller grids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from trainer.config.parse import leaves
from trainer.config.schema import Config
from trainer.interchange import keras_names, slim_names, torch_names
from trainer.interchange.contents import Contents
from trainer.interchange.origin import origin_config
from trainer.interchange.translation import Translation

KEYS = ("model.activation", "model.batch_norm.epsilon", "model.count_include_pad")
# tensorflow/models research/slim/nets/inception_utils.py and inception_v3.py; keras/src/applications/inception_v3.py
# with the epsilon of keras.layers.BatchNormalization
TENSORFLOW = {"model.activation": "relu", "model.batch_norm.epsilon": 0.001, "model.count_include_pad": False}
PUBLISHED: Mapping[str, Mapping[str, object]] = {
    slim_names.TITLE: TENSORFLOW,
    keras_names.TITLE: TENSORFLOW,
    # pytorch/vision torchvision/models/inception.py: BasicConv2d; F.avg_pool2d counts padding by default
    torch_names.TITLE: {**TENSORFLOW, "model.count_include_pad": True},
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A key whose value is ``found`` in the file's network and ``configured`` in the network that loads the file."""

    key: str
    found: str
    configured: str


def differing_settings(contents: Contents, translation: Translation, config: Config) -> list[Setting]:
    """The ``KEYS`` whose value in ``config`` differs from the value in the file's network, where that is known."""
    configured = _texts(config)
    origin = origin_config(contents)
    if origin is not None:
        found = _texts(origin)
    elif translation.scheme in PUBLISHED:
        found = {name: _text(value) for name, value in PUBLISHED[translation.scheme].items()}
    else:
        return []
    return [Setting(name, found[name], configured[name]) for name in KEYS if found[name] != configured[name]]


def _texts(config: Config) -> dict[str, str]:
    return {path: _text(value) for path, value, _ in leaves(config) if path in KEYS}


def _text(value: object) -> str:
    """The value as an override writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
