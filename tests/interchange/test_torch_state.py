"""Weights in torchvision's and timm's names: their networks load them, and give the run's logits."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch_reader
import weights_table
from diagnosing import composed
from exports import export_of
from foreign_files import torch as torch_named
from keras_writer import fill
from stored_runs import keep_this_process, store_run

from trainer.__main__ import run
from trainer.config.schema import Config
from trainer.errors import UsageError
from trainer.inference.export import proof, writers
from trainer.interchange import torch_state
from trainer.interchange.safetensors_files import read_safetensors
from trainer.interchange.torch_state import refuse_other_network, state_dict
from trainer.models.inception_v3_units import BODY, unit_of
from trainer.training.interfaces import Run
from trainer.training.state import TrainingState, build_state
from trainer.training.step import inference

INCEPTION = ("model.num_classes=10", "model.count_include_pad=true", "preprocess.image_size=75")
APPLICATION = ("model=keras_application", "model.num_classes=10", "preprocess.image_size=64")


def arrays(*, scale: bool) -> dict[str, np.ndarray]:
    """Inception V3 of one filter a unit, in the network's order."""
    generator = np.random.default_rng(1)
    found = {}
    leaves = ["beta", *(["gamma"] if scale else []), "moving_mean", "moving_variance"]
    for unit in BODY:
        found[f"{unit}/conv/kernel"] = generator.normal(size=(3, 5, 2, 4)).astype(np.float32)
        found |= {f"{unit}/batch_norm/{leaf}": generator.normal(size=4).astype(np.float32) for leaf in leaves}
    found["logits/logits/kernel"] = generator.normal(size=(7, 10)).astype(np.float32)
    return found | {"logits/logits/bias": generator.normal(size=10).astype(np.float32)}


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_inception_v3_has_the_names_and_layouts_of_torchvision(library: torch_state.Library) -> None:
    values = arrays(scale=True)
    found = state_dict(values, composed(*INCEPTION), library)
    expected = torch_named(values)
    counters = {label for label in found if label.endswith("num_batches_tracked")}
    assert found.keys() - counters == expected.keys()
    assert len(counters) == len(BODY)
    for label, value in expected.items():
        assert np.array_equal(found[label], value), label


def test_a_batch_norm_without_scale_has_a_scale_of_one_there() -> None:
    values = arrays(scale=False)
    found = state_dict(values, composed(*INCEPTION), "torchvision")
    assert np.array_equal(found["Mixed_5b.branch1x1.bn.weight"], np.ones(64, np.float32))
    assert {unit_of(name) for name in values} >= BODY.keys()


@pytest.mark.parametrize(
    ("keys", "library", "message"),
    [
        (
            ("model.width=0.5", "model.batch_norm.epsilon=0.01"),
            "torchvision",
            r"inception_v3 computes something else: model\.width is 0\.5, and theirs 1\.0; model\.count_include_pad is "
            r"false, and theirs true; model\.batch_norm\.epsilon is 0\.01, and theirs 0\.001",
        ),
        (("model.min_depth=64",), "timm", r"model\.min_depth is 64, and theirs 32"),
        (
            (*APPLICATION, "model.name=NASNetMobile"),
            "timm",
            "NASNetMobile is no network that timm has",
        ),
        ((*APPLICATION, "model.name=ResNet50V2"), "torchvision", "ResNet50V2 is no network that torchvision has"),
        (
            (*APPLICATION, "model.name=VGG16"),
            "timm",
            "timm's VGG16 has other layers or names",
        ),
        ((*APPLICATION, "model.name=ResNet50"), "timm", r"model\.conventions is keras, and theirs is torch"),
        ((*APPLICATION, "model.name=EfficientNetB0"), "torchvision", r"model\.conventions is keras"),
    ],
)
def test_a_network_that_computes_something_else_there_is_refused(
    keys: tuple[str, ...], library: torch_state.Library, message: str
) -> None:
    with pytest.raises(UsageError, match=f"names={library}: .*{message}"):
        refuse_other_network(composed(*keys), library)


@pytest.mark.parametrize(
    ("keys", "library", "expected"),
    [
        ((*INCEPTION, "model.width=1"), "timm", 'timm.create_model("inception_v3", num_classes=7, aux_logits=False)'),
        ((*APPLICATION, "model.name=EfficientNetB0"), "timm", 'timm.create_model("tf_efficientnet_b0", num_classes=7)'),
        (
            (*APPLICATION, "model.name=MobileNetV3Large", "model.conventions=torch"),
            "torchvision",
            "torchvision.models.mobilenet_v3_large(weights=None, num_classes=7)",
        ),
    ],
)
def test_the_network_to_load_into_is_named(keys: tuple[str, ...], library: torch_state.Library, expected: str) -> None:
    config = composed(*keys)
    refuse_other_network(config, library)
    assert torch_state.constructor(config, library, 7) == expected


def test_export_writes_them_reads_them_again_and_says_what_loads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_this_process(monkeypatch)

    def filled(run: Run) -> None:
        fill(run.state.model)

    network = ("model=keras_application", "model.name=MobileNetV3Small", "model.conventions=torch")
    size = (
        "preprocess.image_size=48",
        "data.train_examples=40",
        "data.validation_examples=20",
        "evaluation.batch_size=16",
    )
    stored = store_run(tmp_path / "run", filled, network=(*network, *size, "train.global_batch_size=8"))
    arguments = ["export", f"run_dir={stored}", "format=weights", "names=torchvision"]
    assert run([*arguments, f"output={tmp_path / 'm'}"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == (
        f"to load it in Python: model.load_state_dict(safetensors.torch.load_file('{tmp_path / 'm.safetensors'}'))  "
        "# model = torchvision.models.mobilenet_v3_small(weights=None, num_classes=10)"
    )
    written = {tensor.label: tensor.shape for tensor in read_safetensors(tmp_path / "m.safetensors").tensors}
    assert written["classifier.0.weight"] == (1024, 576)
    assert written["features.0.1.num_batches_tracked"] == ()

    of = torch_state.state_dict

    def wrong(*arguments: object) -> dict[str, np.ndarray]:
        found = of(*arguments)  # type: ignore[arg-type]
        return found | {"features.4.block.1.1.running_mean": found["features.4.block.1.1.running_mean"] + 0.5}

    monkeypatch.setattr(torch_state, "state_dict", wrong)
    assert run([*arguments, f"output={tmp_path / 'wrong'}"]) == 3
    assert re.search(r"wrong\.safetensors, read again, differs from the run's network", capsys.readouterr().err)
    assert not (tmp_path / "wrong.safetensors").exists()
    for keys, message in (
        (["format=keras", "names=timm"], "names=timm is for format=weights, and not for format=keras"),
        (["format=weights", "names=torch"], "names=torch does not exist; allowed: torchvision, timm"),
        (["format=weights", "names=timm"], "timm's MobileNetV3Small has other layers or names"),
        (
            ["format=weights", "names=timm", f"output={tmp_path / 'x.weights.h5'}"],
            "names=timm is for output=….safetensors",
        ),
    ):
        assert run(["export", f"run_dir={stored}", f"output={tmp_path / 'x'}", *keys]) == 2
        assert message in capsys.readouterr().err


OF_TORCH = {
    **weights_table.OF_TORCH,
    ("torchvision", "inception_v3"): "",
    ("timm", "inception_v3"): "",
    ("timm", "EfficientNetB0 with model.conventions=torch"): "",
}


@pytest.mark.long
@pytest.mark.skipif("TORCH" not in os.environ, reason="TORCH names no Python that has torch, torchvision and timm")
@pytest.mark.parametrize(("library", "name"), OF_TORCH)
def test_networks_of_torchvision_and_timm_load_an_export_and_give_its_logits(
    library: torch_state.Library, name: str, tmp_path: Path
) -> None:
    config, state = _filled(library, name)
    refuse_other_network(config, library)
    export = export_of(state, config)
    file = tmp_path / "m.safetensors"
    writers.TORCH[library].write(export, file)
    writers.TORCH[library].read(export, file, proof.probe(config, state, "raw"))
    size = config.preprocess.image_size
    patches = np.random.default_rng(5).uniform(-1, 1, (4, 4, 4, 3)).astype(np.float32)
    images = patches.repeat(-(-size // 4), 1).repeat(-(-size // 4), 2)[:, :size, :size]
    np.save(tmp_path / "images.npy", images)
    constructor = torch_state.constructor(config, library, 10)
    command = [os.environ["TORCH"], torch_reader.__file__, str(file), constructor]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert process.returncode == 0, process.stderr
    expected = inference(state, "raw")(images).numpy()
    assert np.median(np.ptp(expected, axis=0)) > 0.002 * np.abs(expected).max(), (
        "outputs that do not depend on the image prove nothing"
    )
    found = np.load(tmp_path / "logits.npy")
    relative = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    print(f"| {name} | {library} | {relative:.0e} |")
    assert relative < 1e-4


def _filled(library: str, name: str) -> tuple[Config, TrainingState]:
    if name == "inception_v3":
        config = composed(*INCEPTION, "model.width=1", "preprocess.image_size=107", "model.aux_logits=false")
    else:
        network, _, torch = name.partition(" with ")
        size = 224 if name.startswith("VGG") else 64  # torchvision pools VGG's features to the grid of 224 pixels
        of = torch or f"model.conventions={'keras' if (library, name[:4]) == ('timm', 'Effi') else 'torch'}"
        conventions = () if network.startswith(("VGG", "ConvNeXt")) else (of,)
        keys = ("model=keras_application", f"model.name={network}", "model.num_classes=10")
        config = composed(*keys, *conventions, f"preprocess.image_size={size}")
    state = build_state(config)
    fill(state.model)
    if name in ("EfficientNetB5", "EfficientNetB6", "EfficientNetB7"):
        for variable, value in state.variables.items():  # else sums of 39 and more blocks grow until rounding is all
            if variable.endswith("project_bn/gamma"):
                value.assign(0.7 * value)
    return config, state
