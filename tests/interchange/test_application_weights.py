"""Weights of ``keras.applications`` from Keras's own files give the logits of the network that wrote them."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import keras
import keras_writer
import numpy as np
import pytest
import torch_writer
import weights_table
from application_networks import CLASSES, SIZE, built, built_once, load
from composing import compose
from foreign_files import Arrays, save_safetensors
from names_of_torch import TORCH_NAMES

from trainer.config.check import check
from trainer.config.schema.networks import SMALLEST_IMAGES, ApplicationName
from trainer.errors import RestoreRefused, UsageError
from trainer.interchange import nameless, own_layers, torch_layers, torch_state
from trainer.interchange.application_modes import CAFFE, HALF, PIXELS_01, mode_of
from trainer.interchange.contents import Contents, Kind, Tensor
from trainer.interchange.keras_layers import Layer, Wanted, translate_keras, wanted_layers
from trainer.models import conventions
from trainer.models.heads import head_layers
from trainer.run import application_start, warm_start
from trainer.run.warm_start import WarmStart
from trainer.training.step import inference

pytestmark = pytest.mark.usefixtures("in_this_process")

RELATIVE = 1e-5
FILES = ("model.keras", "model.weights.h5", "model.h5", "checkpoint", "exported")
QUICK_FILES = ("model.weights.h5", "model.h5")
FILES_OF_KERAS_2 = (*FILES[:-1], "weights_only.h5", "tensorflow/weights", "saved")
# of each family one that builds quickly, and ResNet for its mode; the others are in the long test
NETWORKS = ("MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "ResNet50")


def difference(place: Path, name: str, size: int = SIZE) -> float:
    """The relative difference to the logits in ``place`` for the same pixels: the norm of it, of that of the logits."""
    there = np.load(place / "logits.npz")
    given, expected = there["images"], there["logits"]
    assert np.median(np.ptp(expected, axis=0)) > 100 * RELATIVE * np.abs(expected).max(), (
        "outputs that do not depend on the image prove nothing"
    )
    if there["rescales"]:
        mode = PIXELS_01 if name.startswith("EfficientNetB") else mode_of(name)  # it was written without weights
        given = ((given / 255.0 - mode.mean) / mode.std).astype(np.float32)
    found = inference(built(name, size)[1], "raw")(given).numpy()
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@functools.cache
def written(name: str, place: Path) -> Path:
    keras_writer.main(name, SIZE, place, () if name == "MobileNet" else QUICK_FILES)
    return place


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_format_gives_the_logits_of_the_network_that_wrote_it(name: str, files: Path) -> None:
    place = written(name, files / name)
    for file in FILES if name == "MobileNet" else QUICK_FILES:
        lines = load(place / file, name, "preprocess")
        total = len(built(name)[1].variables)
        assert f"{total} of {total} variables loaded" in lines[0], file
        assert not any("nothing in this network has such a name" in line for line in lines), lines
        assert difference(place, name) < RELATIVE, file


def of_mobilenet(place: Path) -> keras.Model:
    return keras.models.load_model(place / "model.keras", compile=False)


def headed(base: keras.Model, head: str) -> keras.Model:
    """The base without its classifier, nested or flat, with what people put on top of it."""
    # not by its name, which Keras numbers through the process
    (pool,) = (layer for layer in base.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D))
    features = keras.Model(base.input, pool.output, name="features")
    image = keras.Input((SIZE, SIZE, 3))
    x = features.output if head.startswith("flat") else features(image)
    x = keras.layers.Flatten()(x)
    inputs = features.input if head.startswith("flat") else image
    if head.endswith("deep"):
        x = keras.layers.Dropout(0.3)(keras.layers.Dense(6, activation="relu", name="hidden")(x))
    if head.endswith("two"):
        return keras.Model(inputs, [keras.layers.Dense(CLASSES)(x), keras.layers.Dense(3)(x)])
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="answer")(x))


@pytest.mark.parametrize("head", ["nested", "flat", "nested deep", "flat deep", "nested two"])
def test_a_head_that_people_put_on_top_is_listed_and_a_single_layer_is_taken_by_consent(
    head: str, files: Path, tmp_path: Path
) -> None:
    base = of_mobilenet(written("MobileNet", files / "MobileNet"))
    model = headed(base, head)
    for file in ("model.keras", "model.weights.h5", "model.h5"):
        model.save_weights(tmp_path / file) if "weights" in file else model.save(tmp_path / file)
        text = "\n".join(load(tmp_path / file, "MobileNet", "preprocess", follow=True))
        assert "135 of 137 variables loaded" in text, text
        assert "freshly initialised: conv_preds/kernel [1, 1, 1024, 10]" in text
        layers = {"deep": "2 dense layers", "two": "2 dense layers"}.get(
            head.partition(" ")[2], "does not say for which"
        )
        assert layers in text, text
        found = built("MobileNet")[1].variables["conv_pw_13/kernel"].numpy()
        assert np.array_equal(found, base.get_layer("conv_pw_13").kernel.numpy())
        if layers.startswith("does not say"):
            assert "allow=[data.classes] says that they are those of the data, and takes it" in text
            text = "\n".join(load(tmp_path / file, "MobileNet", "preprocess", "data.classes", follow=True))
            assert "137 of 137 variables loaded" in text, text
            assert "the file's own head is the classifier, by allow=[data.classes]: answer/" in text
            answer = model.get_layer("answer").kernel.numpy()
            assert np.array_equal(built("MobileNet")[1].variables["conv_preds/kernel"].numpy()[0, 0], answer)


def arrays(name: str, *, without: Sequence[str] = ()) -> Arrays:
    """Values for every variable of a network, by the names that Keras's files have."""
    shapes = {name: tuple(variable.shape) for name, variable in built(name)[1].variables.items()}
    generator = np.random.default_rng(2)
    return {
        variable: np.abs(generator.normal(size=shape)).astype(np.float32)
        for variable, shape in shapes.items()
        if variable.rpartition("/")[0] not in without
    }


def renamed(found: Arrays, change: Mapping[str, str]) -> Arrays:
    return {change.get(name, name): value for name, value in found.items()}


@pytest.mark.parametrize("front", ["", "features/", "NAME/"], ids=["weights", "nested", "whole file"])
def test_scopes_of_names_in_a_nasnet_are_no_models(front: str) -> None:
    scopes = {
        "adjust_bn_0": "normal_A_block_0/adjust_block/adjust_reduction_block_0",
        "separable_conv_1_bn_normal_left1_0": "normal_A_block_0/block_1/separable_conv_block_normal_left1_0",
        "reduction_bn_1_stem_1": "reduction_A_block_stem_1",
        "stem_bn1": "",
    }
    labels = {f"{front.replace('NAME', name)}{scope}/{name}/beta": name for name, scope in scopes.items() if scope}
    stem = {f"{front.replace('NAME/', '')}stem_bn1/{leaf}": f"stem_bn1/{leaf}" for leaf in ("beta", "gamma")}
    tensors = tuple(Tensor(label, label, (4,), "f32") for label in (*labels, *stem))
    # the layer without a scope has more variables than any other, so a scope that were a model would lose to it
    leaves = {name: ("beta", "gamma") if name == "stem_bn1" else ("beta",) for name in scopes}
    wanted = Wanted({name: Layer(name, dict.fromkeys(there, (4,))) for name, there in leaves.items()}, {})
    found = translate_keras(Contents(Kind.KERAS, Path("x"), tensors, lambda tensor: None), wanted).variables
    assert {name: tensor.label for name, tensor in found.items()} == {
        **{f"{name}/beta": label for label, name in labels.items()},
        **{name: label for label, name in stem.items()},
    }


def test_another_network_is_refused_with_what_it_has_and_lacks(tmp_path: Path) -> None:
    deeper = {**arrays("ResNet50"), "conv4_block7_1_conv/kernel": np.ones((1, 1, 1024, 256), np.float32)}
    path = save_safetensors(tmp_path / "deeper.safetensors", deeper)
    with pytest.raises(
        RestoreRefused, match="it has further blocks, which ResNet50 does not have: conv4_block7_1_conv/kernel"
    ):
        load(path, "ResNet50", "preprocess")
    less = save_safetensors(tmp_path / "less.safetensors", arrays("ResNet50", without=["conv5_block3_3_bn"]))
    with pytest.raises(RestoreRefused, match=r"4 variables of ResNet50 are not in it: conv5_block3_3_bn/gamma"):
        load(less, "ResNet50", "preprocess")
    wide = {**arrays("ResNet50"), "conv1_conv/kernel": np.ones((7, 7, 1, 64), np.float32)}
    with pytest.raises(RestoreRefused, match=r"conv1_conv/kernel is \[7, 7, 1, 64\] in the file and \[7, 7, 3, 64\]"):
        load(save_safetensors(tmp_path / "wide.safetensors", wide), "ResNet50", "preprocess")
    other = save_safetensors(tmp_path / "other.safetensors", arrays("MobileNet"))
    with pytest.raises(RestoreRefused, match=r"(?s)0 of the 53 kernels of ResNet50.*\n  it holds .*conv_dw_1"):
        load(other, "ResNet50", "preprocess")


def test_the_file_itself_says_what_its_network_is_called(files: Path) -> None:
    place = written("MobileNet", files / "MobileNet")
    for file in ("model.keras", "model.h5"):
        with pytest.raises(RestoreRefused, match=r"(?s)is not this network.*it calls its network mobilenet_1.00_32"):
            load(place / file, "ResNet50")


def test_pixels_of_another_mode_are_refused_with_what_to_add(files: Path) -> None:
    path = written("ResNet50", files / "ResNet50") / "model.weights.h5"
    with pytest.raises(RestoreRefused) as refused:
        load(path, "ResNet50")
    told = "preprocess.normalize.mean=[0.48501960"
    assert told in str(refused.value), refused.value
    assert "preprocess.normalize.channels=bgr" in str(refused.value)
    assert "allow=[preprocess]" in str(refused.value)
    config, state = built("ResNet50")
    exact = dataclasses.replace(config, preprocess=dataclasses.replace(config.preprocess, normalize=CAFFE))
    start = WarmStart(warm_start.find(path), (), classes_follow_data=False)
    assert "320 of 320" in application_start.load(start, exact, state, ("a", "b"))[0]
    assert mode_of("ResNet50V2") == HALF


def test_a_classifier_for_another_number_of_classes_needs_consent(tmp_path: Path) -> None:
    thousand = {**arrays("MobileNet"), "conv_preds/kernel": np.ones((1, 1, 1024, 1000), np.float32)}
    thousand["conv_preds/bias"] = np.ones(1000, np.float32)
    path = save_safetensors(tmp_path / "thousand.safetensors", thousand)
    with pytest.raises(
        RestoreRefused, match=r"(?s)has 1000 classes, model.num_classes=10.*allow=\[model.num_classes\]"
    ):
        load(path, "MobileNet", "preprocess")
    lines = load(path, "MobileNet", "preprocess", "model.num_classes")
    assert "conv_preds/kernel [1, 1, 1024, 1000]" in "\n".join(lines)
    assert "this network has 10 classes there" in "\n".join(lines)


def test_a_file_without_the_names_of_its_layers_arrives_by_their_order(files: Path, tmp_path: Path) -> None:
    """As Keras 2.15 and early Keras 3 write it."""
    path = tmp_path / "model.weights.h5"
    path.write_bytes((written("MobileNet", files / "MobileNet") / "model.weights.h5").read_bytes())
    with h5py.File(path, "a") as file:
        file.visititems(lambda name, node: node.attrs.pop("name", None) and None)
    labels = [tensor.label for tensor in nameless.with_names(warm_start.find(path), "MobileNet").tensors]
    assert {"conv1/kernel", "conv_dw_7/kernel", "conv_pw_13_bn/moving_variance", "conv_preds/bias"} <= set(labels)
    assert "137 of 137 variables loaded" in load(path, "MobileNet", "preprocess")[0]
    assert difference(files / "MobileNet", "MobileNet") < RELATIVE


def test_our_own_names_are_those_of_the_state_tree() -> None:
    wanted = wanted_layers(built("MobileNet")[1].model)
    labels = [
        "model/conv1/kernel",
        "ema/conv1/kernel",
        "optimizer/m/conv1/kernel",
        "progress/step",
        "model/other/kernel",
    ]
    tensors = tuple(Tensor(label, label, (3, 3, 3, 32), "float32") for label in labels)
    found = own_layers.translate_own(Contents(Kind.BUNDLE, Path("x"), tensors, lambda tensor: None), wanted)
    assert list(found.variables) == list(found.shadows) == ["conv1/kernel"]
    assert dict(found.slots) == {"m": 1}
    assert found.counters == ("progress/step",)
    assert [tensor.label for tensor in found.unmatched] == ["model/other/kernel"]


def test_a_layer_in_a_stack_of_a_convnext_is_found_however_often_the_file_names_the_stack() -> None:
    """Whole ``.h5`` files of Keras 3 have it twice: as a layer of the model, and in the paths of its variables."""
    stacked = [f"convnext_tiny_downsampling_conv_{number}" for number in range(2)]
    others = [f"convnext_tiny_stage_{number}_block_0_depthwise_conv" for number in range(4)]
    wanted = Wanted({name: Layer(name, {"kernel": (1, 1, 2, 2)}) for name in [*stacked, *others]}, {})
    for model, stack in (("", "{0}/{0}/"), ("", "{0}/"), ("mine/", "{0}/{0}/")):
        blocks = [stack.format(f"convnext_tiny_downsampling_block_{number}") for number in range(2)]
        labels = [
            f"{model}{block}{name}/kernel" for block, name in zip([*blocks, *[""] * 4], wanted.named, strict=True)
        ]
        tensors = tuple(Tensor(label, label, (1, 1, 2, 2), "float32") for label in labels)
        found = translate_keras(Contents(Kind.LEGACY_H5, Path("x"), tensors, lambda tensor: None), wanted)
        assert found.variables == dict(zip(wanted.variables, tensors, strict=True)), (model, stack)


def test_the_head_is_what_keras_leaves_out_without_a_top() -> None:
    assert head_layers(built("MobileNet")[1].model) == ["conv_preds"]
    assert head_layers(built("MobileNetV3Small")[1].model) == ["conv_2", "logits"]
    assert head_layers(built("ResNet50")[1].model) == ["predictions"]


def sized(name: str) -> int:
    return max(SIZE, SMALLEST_IMAGES.get(name, SIZE))


@pytest.mark.long
@pytest.mark.parametrize("name", typing.get_args(ApplicationName))
def test_files_of_keras_2_and_3_give_the_logits_of_the_network_that_wrote_them(name: str, tmp_path: Path) -> None:
    """Set KERAS_2 to a Python that has TensorFlow 2.15, to try its files too."""
    size = sized(name)
    pythons = {"3": None, "2": os.environ.get("KERAS_2")}
    for version, python in pythons.items():
        place = tmp_path / version
        if version == "3":
            keras_writer.main(name, size, place)
        elif python is None:
            continue
        else:
            subprocess.run(
                [python, keras_writer.__file__, name, str(size), str(place)], check=True, capture_output=True
            )
        for file in FILES if version == "3" else FILES_OF_KERAS_2:
            load(place / file, name, "preprocess", size=size)
            found = difference(place, name, size)
            assert found < RELATIVE, file
            weights_table.note(name, f"Keras {version}", file, found)
    built_once.cache_clear()


def test_a_scale_without_a_name_of_its_own_is_found_in_an_export_that_has_all_variables_twice() -> None:
    """As ``keras.Model.export`` of Keras 3 writes a ConvNeXt."""
    wanted = Wanted({"block_scale": Layer("block_scale", {"variable_18": (4,)})}, {})
    keys = ("_all_variables/3", "_all_variables/7")
    tensors = tuple(Tensor(key, "block_scale/variable_5", (4,), "f32") for key in keys)
    found = translate_keras(Contents(Kind.BUNDLE, Path("x"), tensors, lambda tensor: None), wanted)
    assert [tensor.key for tensor in found.doubled["block_scale/variable_18"]] == list(keys)
    two = (tensors[0], Tensor("_all_variables/9", "block_scale/other", (4,), "f32"))
    assert not translate_keras(Contents(Kind.BUNDLE, Path("x"), two, lambda tensor: None), wanted).variables


@pytest.mark.parametrize("name", TORCH_NAMES)
def test_names_and_layouts_of_torchvision_and_timm_are_those_of_the_layers(name: str) -> None:
    model = built(name)[1].model
    wanted = wanted_layers(model)
    places = torch_layers.modules(name, {variable.rpartition("/")[0] for variable in wanted.variables})
    assert places.keys() == {variable.rpartition("/")[0] for variable in wanted.variables}
    for library in range(max(map(len, places.values()))):
        modules = [found[library] for found in places.values()]
        assert len(set(modules)) == len(modules), "two layers are in one module"
    for label, (shape, variable) in TORCH_NAMES[name].items():
        value = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        contents = Contents(Kind.SAFETENSORS, Path("x"), (Tensor(label, label, shape, "f32"),), lambda tensor: None)
        translation = torch_layers.translate_torch(contents, wanted, name)
        assert list(translation.variables) == [variable], label
        there = wanted.variables[variable]
        turned = torch_layers.value_of(value, there)
        assert turned.shape == translation.variables[variable].shape == there, label
        if len(shape) == 4 and shape[1] > 1 and len(there) == 4:
            assert turned[0, -1, 1, 2] == value[2, 1, 0, -1]


@pytest.mark.parametrize("name", TORCH_NAMES)
def test_a_state_for_torchvision_and_timm_has_their_names_and_layouts_and_comes_back(name: str) -> None:
    config = built(name)[0]
    variables = arrays(name)
    wanted = wanted_layers(built(name)[1].model).variables
    libraries: tuple[torch_state.Library, ...] = ("torchvision", "timm")
    written = {library: torch_state.state_dict(variables, config, library) for library in libraries}
    for label, (shape, variable) in TORCH_NAMES[name].items():
        found = next(state[label] for state in written.values() if label in state)
        assert found.shape == shape, label
        if not variable.endswith("moving_mean"):  # a bias may be in it
            assert np.array_equal(torch_layers.value_of(found, wanted[variable]), variables[variable]), label
    state = written["torchvision"]
    if name == "ResNet50":
        mean = variables["conv1_bn/moving_mean"] - variables["conv1_conv/bias"]
        assert np.array_equal(state["bn1.running_mean"], mean), "batch norm of x + bias is that of x, with another mean"
    norms = [label for label in state if label.endswith("running_mean")]
    for label in norms:
        counter = state[label.replace("running_mean", "num_batches_tracked")]
        assert (counter.dtype, counter.shape, int(counter)) == (np.int64, (), 0)
    assert len(state) - len(norms) == sum(name != "ResNet50" or "_conv/bias" not in each for each in variables)


def torch_file(name: str, place: Path) -> Path:
    """Our values under torchvision's names and in its layout."""
    wanted = wanted_layers(built(name)[1].model)
    places, found = torch_layers.modules(name, {variable.rpartition("/")[0] for variable in wanted.variables}), {}
    for variable, value in arrays(name).items():
        layer, _, leaf = variable.rpartition("/")
        turned = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        if not variable.endswith("_conv/bias"):  # as torchvision's ResNets are
            found[f"model.{places[layer][0]}.{torch_layers.LEAVES[leaf]}"] = turned
    return save_safetensors(place / "torch.safetensors", found)


def test_weights_of_torchvision_demand_its_conventions_and_its_pixels(tmp_path: Path) -> None:
    path = torch_file("ResNet50", tmp_path)
    with pytest.raises(
        RestoreRefused, match=r"(?s)model.conventions: torch in weights of torchvision or timm, keras is"
    ):
        load(path, "ResNet50", "preprocess")
    with pytest.raises(
        RestoreRefused, match=r"(?s)normalise by ImageNet.*mean=\[0.485,0.456,0.406\] .*allow=\[preproc"
    ):
        load(path, "ResNet50", "model.conventions")
    lines = load(path, "ResNet50", "model.conventions", "preprocess")
    assert "267 of 320 variables loaded" in lines[0]
    assert lines[1] == "  53 biases are 0: its convolutions have none, before batch norm"
    kernel = arrays("ResNet50")["conv3_block2_2_conv/kernel"]
    assert np.array_equal(built("ResNet50")[1].variables["conv3_block2_2_conv/kernel"].numpy(), kernel)


def test_with_conventions_of_torch_a_network_pads_strides_and_divides_as_torchvision_does() -> None:
    layers = {layer.name: layer for layer in built("ResNet50", SIZE, "torch")[1].model.layers}
    assert layers["conv3_block1_1_conv"].strides == (1, 1)
    assert layers["conv3_block1_2_conv"].strides == (2, 2)
    assert layers["conv3_block1_2_conv.pad"].padding == ((1, 1), (1, 1))
    assert layers["conv3_block1_0_conv"].strides == (2, 2)
    assert layers["conv1_bn"].epsilon == 1e-5
    layers = {layer.name: layer for layer in built("MobileNetV3Small", SIZE, "torch")[1].model.layers}
    assert layers["conv.pad"].padding == ((1, 1), (1, 1))
    assert layers["expanded_conv_3_depthwise_pad"].padding == ((2, 2), (2, 2))
    assert layers["conv_bn"].epsilon == 1e-3


def test_conventions_matter_where_padding_strides_or_epsilon_differ() -> None:
    assert [name for name in (*NETWORKS, "VGG16", "ConvNeXtTiny", "ResNet50V2") if conventions.differs(name)] == [
        "MobileNetV2",
        "MobileNetV3Small",
        "EfficientNetB0",
        "ResNet50",
    ]


def test_conventions_of_torch_are_refused_for_a_network_that_torchvision_has_not() -> None:
    with pytest.raises(UsageError, match=r"model.conventions=torch is for networks that torchvision has"):
        check(compose("model=keras_application", "model.name=ResNet50V2", "model.conventions=torch"))


@pytest.mark.long
@pytest.mark.skipif("TORCH" not in os.environ, reason="TORCH names no Python that has torch, torchvision and timm")
@pytest.mark.parametrize(("library", "name"), weights_table.OF_TORCH)
def test_weights_of_torchvision_and_timm_give_the_logits_of_their_networks(
    library: str, name: str, tmp_path: Path
) -> None:
    theirs = weights_table.OF_TORCH[library, name]
    size = 224 if name.startswith("VGG") else 64  # torchvision pools VGG's features to the grid of 224 pixels
    of = "keras" if theirs.startswith("tf_") else "torch"
    command = [os.environ["TORCH"], torch_writer.__file__, library, theirs, str(size), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    config, state = built(name, size, of)
    path = tmp_path / "model.safetensors"
    start = WarmStart(warm_start.find(path), ("preprocess", "model.conventions"), classes_follow_data=False)
    application_start.load(start, config, state, tuple(map(str, range(CLASSES))))
    there = np.load(tmp_path / "logits.npz")
    found = inference(state, "raw")(there["images"]).numpy()
    relative = float(np.linalg.norm(found - there["logits"]) / np.linalg.norm(there["logits"]))
    assert relative < RELATIVE
    weights_table.note(name, library, "model.safetensors", relative)
    built_once.cache_clear()


def test_the_table_of_the_document_has_every_network_and_those_of_this_file_were_tried() -> None:
    """``scripts/make_weights_table`` writes it."""
    document = (Path(__file__).parents[2] / "docs" / "fine-tuning.md").read_text()
    there = weights_table.cells(weights_table.PLACE.shown(document))
    assert weights_table.PLACE.shown(document) == weights_table.rendered(weights_table.known(document))
    assert {network for network, _, _ in there} == set(typing.get_args(ApplicationName))
    assert all(float(cell) <= RELATIVE for cell in weights_table.known(document).values())
    tried = {network for network, writer, file in weights_table.known(document) if writer == weights_table.KERAS_3}
    assert set(NETWORKS) <= tried
