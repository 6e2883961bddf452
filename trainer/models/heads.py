"""The layers with which a network ends: what ``include_top=False`` of ``keras.applications`` leaves out."""

from __future__ import annotations

import keras

from trainer.models.depth import layer_path


def head_layers(model: keras.Model) -> list[str]:
    """The layers with variables after the last pooling over the whole grid, or after the flattening where there is
    none, by ``layer_path``; the classifier is the last of them.
    """
    layers = model.layers
    kinds: tuple[type[keras.Layer], ...] = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
    if not any(isinstance(layer, kinds) for layer in layers):
        kinds = (keras.layers.Flatten,)
    last = max((number for number, layer in enumerate(layers) if isinstance(layer, kinds)), default=0)
    found = [layer_path(layer) for layer in layers[last:] if layer.variables]
    classifier = [layer_path(layer) for layer in layers if hasattr(layer, "kernel")][-1]
    return [*(path for path in found if path != classifier), classifier]
