"""Which tensor of a file is which variable of a network whose layers have Keras's names: any of ``keras.applications``.

Layers with a name of their own are found by it, in whatever model they are nested. Keras numbers the others in the
order in which it creates them, from wherever the process had come to, so only their order has a meaning. Names of Keras
2 have slashes and capitals where Keras 3 has underscores.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

import keras

from trainer.interchange.contents import Contents, Tensor
from trainer.interchange.keras_names import OPTIMIZERS, TITLE, state_meanings
from trainer.interchange.meanings import Meaning
from trainer.interchange.translation import Translation
from trainer.models.depth import layer_path

AUTOMATIC = re.compile(r"(conv2d|batch_normalization|dense|separable_conv2d|layer_normalization)(?:_(\d+))?")
# Stacks of layers within a ConvNeXt of Keras, which files name by their class or by their name.
IN_STACK = re.compile(r"_stem_|_downsampling_")
STACK = re.compile(r"sequential(?:_\d+)?|convnext_[a-z]+_(?:stem|downsampling_block_\d+)")
# Scopes of names in a NASNet of Keras, which are in the paths of variables in an .h5 of Keras 3. They are no models.
OF_NASNET = re.compile(r"(?:normal|reduction)_A_block_\w+")
SCOPE = re.compile(rf"{OF_NASNET.pattern}|block_\d|adjust_(?:\w+_)?block(?:_\w+)?|separable_conv_block_\w+")
OPTIMIZER_STATE = ("optimizer", "optimizer_weights", "keras_api")
OLD_LEAVES = {"depthwise_kernel": "kernel"}  # of a DepthwiseConv2D in Keras 2


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of the network that is loaded: ``variables`` maps leaves (``kernel``) to shapes, in Keras's order."""

    path: str
    variables: Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The network that is loaded, as files of Keras name it: ``named`` by ``_plain``; ``numbered`` by the stem of their
    names, in the order of their creation.
    """

    named: Mapping[str, Layer]
    numbered: Mapping[str, Sequence[Layer]]

    @property
    def variables(self) -> dict[str, tuple[int, ...]]:
        """All variables by their names in the state tree."""
        layers = [*self.named.values(), *(layer for layers in self.numbered.values() for layer in layers)]
        return {f"{layer.path}/{leaf}": shape for layer in layers for leaf, shape in layer.variables.items()}


def wanted_layers(model: keras.Model) -> Wanted:
    named: dict[str, Layer] = {}
    numbered: dict[str, list[tuple[int, Layer]]] = {}
    for each in model.layers:
        if not each.variables:
            continue
        path = layer_path(each)
        layer = Layer(path, {v.path.rpartition("/")[2]: tuple(v.shape) for v in each.variables})
        if match := AUTOMATIC.fullmatch(path):
            numbered.setdefault(match[1], []).append((int(match[2] or 0), layer))
        else:
            named[_plain(path)] = layer
    ordered = {stem: [layer for _, layer in sorted(found, key=lambda one: one[0])] for stem, found in numbered.items()}
    return Wanted(named, ordered)


def _plain(name: str) -> str:
    return name.lower().replace("/", "_").replace(".", "_").replace("batchnorm", "bn")


def translate_keras(contents: Contents, wanted: Wanted) -> Translation:
    """``contents`` in this trainer's terms, for a network of ``wanted`` layers.

    Where several models in the file have the network's layers, that with most of them counts; two with equally many are
    in ``doubled``.
    """
    scopes: dict[str, dict[str, list[Tensor]]] = {}
    for tensor in contents.tensors:
        found = _place(tensor.label, wanted)
        if found is not None:
            scope, layer = found
            scopes.setdefault(scope, {}).setdefault(layer, []).append(tensor)
    resolved = [_resolved(layers, wanted) for layers in scopes.values()]
    most = max(map(len, resolved), default=0)
    doubled: dict[str, list[Tensor]] = {}
    for one in resolved if most else ():
        if len(one) == most:
            for name, tensors in one.items():
                doubled.setdefault(name, []).extend(tensors)
    variables = {name: tensors[0] for name, tensors in doubled.items()}
    taken = {tensor.key for tensors in doubled.values() for tensor in tensors}
    meanings = {tensor.label: Meaning("variable", name) for name, tensors in doubled.items() for tensor in tensors}
    rest = [tensor for tensor in contents.tensors if tensor.key not in taken]
    state = state_meanings([tensor.label for tensor in rest], meanings)
    slots: dict[str, int] = {}
    for tensor in rest:
        if tensor.label in state and state[tensor.label].role == "slot":
            slot = state[tensor.label].slot
            slots[slot] = slots[slot] + 1 if slot in slots else 1
    known = frozenset(slots)
    return Translation(
        scheme=TITLE,
        variables=variables,
        shadows={},
        slots=slots,
        optimizer=contents.optimizer or (OPTIMIZERS[known] if known in OPTIMIZERS else None),
        counters=tuple(t.label for t in rest if t.label in state and state[t.label].role == "counter"),
        unmatched=tuple(tensor for tensor in rest if tensor.label not in state),
        channels_first=False,
        doubled={name: tensors for name, tensors in doubled.items() if len(tensors) > 1},
        mixed_layouts=(),
    )


def _place(label: str, wanted: Wanted) -> tuple[str, str] | None:
    """The model in which a tensor's layer is, and the layer's name in it; None for layers that the network lacks."""
    *path, _ = label.split("/")
    if not path or path[0] in OPTIMIZER_STATE:
        return None
    for start in range(len(path)):
        name = _plain("_".join(path[start:]))
        if name in wanted.named:
            scope = path[:start]
            if any(OF_NASNET.fullmatch(each) for each in scope):
                scope = [each for each in scope if not SCOPE.fullmatch(each)]
                if scope and scope[-1] == path[-1]:  # a whole file has the layer in front of them, too
                    scope = scope[:-1]
            if scope and IN_STACK.search(name) and STACK.fullmatch(scope[-1]):
                stack, scope = scope[-1], scope[:-1]
                # whole .h5 files of Keras 3 have the stack as a layer and in the paths of its variables
                if scope and scope[-1] == stack:
                    scope = scope[:-1]
            return "/".join(scope), name
    match = AUTOMATIC.fullmatch(path[-1])
    return ("/".join(path[:-1]), path[-1]) if match and match[1] in wanted.numbered else None


def _resolved(layers: Mapping[str, Sequence[Tensor]], wanted: Wanted) -> dict[str, list[Tensor]]:
    """The variables that the layers of one model are: name in the state tree → tensors."""
    found: dict[str, list[Tensor]] = {}
    for name, layer in {**_numbered(layers, wanted), **wanted.named}.items():
        if name not in layers:
            continue
        for tensor in layers[name]:
            leaf = _leaf(tensor.label.rpartition("/")[2], layer, layers[name])
            if leaf is not None:
                found.setdefault(f"{layer.path}/{leaf}", []).append(tensor)
    return found


def _numbered(layers: Iterable[str], wanted: Wanted) -> dict[str, Layer]:
    """The layer that each numbered name means. What was put on top of the network has the higher numbers."""
    numbers: dict[str, dict[int, str]] = {}
    for name in layers:
        if match := AUTOMATIC.fullmatch(name):
            numbers.setdefault(match[1], {})[int(match[2] or 0)] = name
    return {
        there[number]: layer
        for stem, there in numbers.items()
        if stem in wanted.numbered and len(there) >= len(wanted.numbered[stem])
        for number, layer in zip(sorted(there), wanted.numbered[stem], strict=False)
    }


def _leaf(leaf: str, layer: Layer, tensors: Sequence[Tensor]) -> str | None:
    leaves = list(layer.variables)
    leaf = leaf.removesuffix(":0")
    if leaf in leaves:
        return leaf
    if leaf in OLD_LEAVES and OLD_LEAVES[leaf] in leaves:
        return OLD_LEAVES[leaf]
    if leaf.isdecimal() and int(leaf) < len(leaves):
        return leaves[int(leaf)]
    # LayerScale has a variable without a name, which Keras 2 calls Variable, and Keras 3 variable, with a number.
    # Keras.Model.export stores every variable twice.
    labels = {tensor.label for tensor in tensors}
    return leaves[0] if len(leaves) == len(labels) == 1 else None
