"""How deep a layer lies in its network, counted in blocks: what the learning rate of a layer may depend on.

Depth 0 is what sees the image first, the classifiers are the deepest. Batch norm belongs to the convolution before it.
Blocks are those of the papers, as the layers' names have them:

- ``inception_v3``: the stem up to the first pooling, the stem up to the second, then each ``mixed_…``. The auxiliary
  classifier with its convolutions is as deep as the other one: both are made anew for new classes.
- ``keras.applications``: the rule of its family in ``FAMILIES``. What comes before the first block is depth 0, what
  comes after the last one belongs to it. VGG has no blocks but convolutions.
- any other network: each layer with a kernel is a block.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import keras

from trainer.config.schema.networks import InceptionV3Config, KerasApplicationConfig, ModelConfig
from trainer.models.inception_v3_units import AUX

CLASSIFIERS = ("logits", AUX)  # first levels of the names below which an Inception V3 has its classifiers
SECOND_STEM = ("conv2d_3b_1x1", "conv2d_4a_3x3")


@dataclasses.dataclass(frozen=True)
class Family:
    """How networks of ``keras.applications`` whose names begin alike are cut into blocks, by the names of layers.

    ``inside`` finds a layer's block: layers with equal groups are of one block, a layer where it finds nothing is of
    the block of the layer before it. ``ends`` finds the last layer of a block instead, where convolutions have numbers
    for names.
    """

    inside: re.Pattern[str] | None = None
    ends: re.Pattern[str] | None = None


POOLED_STEM = r"max_pooling2d(?:_1)?"  # both networks have two poolings before their first block
RESIDUAL = re.compile(r"^(conv\d+_block\d+|pool\d+)_")
MOBILE = re.compile(r"^(block_\d+|expanded_conv(?:_\d+)?)_(?=[a-z])")
# keras/src/applications; the first beginning that fits a name counts
FAMILIES = {
    "ConvNeXt": Family(inside=re.compile(r"_(stage_\d+_block_\d+|downsampling)_(?:layernorm_|conv_)?(\d*)")),
    "DenseNet": Family(inside=RESIDUAL),
    "EfficientNet": Family(inside=re.compile(r"^(block\d+[a-z])_")),
    "InceptionResNet": Family(ends=re.compile(rf"^(?:{POOLED_STEM}|mixed_\d[ab]|block\d+_\d+_ac|block8_10_conv)$")),
    "Inception": Family(ends=re.compile(rf"^(?:{POOLED_STEM}|mixed\d+)$")),
    "MobileNetV": Family(inside=MOBILE),
    "MobileNet": Family(inside=re.compile(r"^conv_[dp]w_(\d+)")),
    "NASNet": Family(inside=re.compile(r"_(stem_\d+|reduce_\d+|\d+)$")),
    "ResNet": Family(inside=RESIDUAL),
    "VGG": Family(inside=re.compile(r"^(block\d+_conv\d+|fc\d+)$")),
    "Xception": Family(inside=re.compile(r"^(block\d+)_")),
}


def layer_path(layer: keras.Layer) -> str:
    """The name of a layer in the state tree, dots as levels."""
    return str(layer.name).replace(".", "/")


def depths(model: keras.Model, config: ModelConfig) -> dict[str, int]:
    """The depth of each layer of ``model`` that has variables, by ``layer_path``, in the order of the data flow."""
    layers = [layer for layer in model.layers if layer.variables]
    if isinstance(config, InceptionV3Config):
        return _numbered({layer_path(layer): _own_block(layer_path(layer)) for layer in layers})
    last = max(number for number, layer in enumerate(layers) if hasattr(layer, "kernel"))
    blocks = dict(zip((layer_path(layer) for layer in model.layers), _blocks(model.layers, config), strict=True))
    found = {layer_path(layer): blocks[layer_path(layer)] for layer in layers}
    found |= dict.fromkeys((layer_path(layer) for layer in layers[last:]), "the classifier")
    return _numbered(found)


def _numbered(blocks: dict[str, str]) -> dict[str, int]:
    """Blocks as numbers, in the order in which they come first; classifiers are the deepest wherever they are."""
    order = [block for block in dict.fromkeys(blocks.values()) if block != "the classifier"]
    number = {block: place for place, block in enumerate([*order, "the classifier"])}
    return {path: number[block] for path, block in blocks.items()}


def _own_block(path: str) -> str:
    first = path.partition("/")[0]
    if first in CLASSIFIERS:
        return "the classifier"
    if first.startswith("mixed_"):
        return first
    return "the second stem" if first in SECOND_STEM else "the stem"


def _blocks(layers: list[keras.Layer], config: ModelConfig) -> Iterator[str]:
    """The block of each of ``layers``."""
    family = Family()
    if isinstance(config, KerasApplicationConfig):
        family = next(rule for name, rule in FAMILIES.items() if config.name.startswith(name))
    block, ended = "the stem", 0
    total = sum(1 for layer in layers if family.ends and family.ends.search(layer.name))
    for number, layer in enumerate(layers):
        if family.ends is not None:
            yield f"block {min(ended, total - 1)}"
            ended += family.ends.search(layer.name) is not None
            continue
        if family.inside is None:
            block = str(number) if hasattr(layer, "kernel") else block
        elif match := family.inside.search(layer.name):
            block = "_".join(match.groups())
        yield block
