"""Every wrong restore is refused, naming the true culprit with both values, and changes nothing.

A real process makes one checkpoint of Inception V3, and one of a small network; every case then tries to continue one
of them with one thing changed: a configuration key, the code of the network, of the optimizer, of the input pipeline,
or the data. The cases run in this process up to the point where training would begin. What no network decides has the
small one, with which a refusal takes a third of the time.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import step_edits
import step_facts_once
import tensorflow as tf
from diagnosing import forge
from processes import NARROW, Trainer, metrics
from small_plugin import SMALL, install, installed_here

from trainer.checkpoint import manifest as manifests
from trainer.config import stored
from trainer.config.arguments import parse_arguments
from trainer.config.schema import Config
from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data import opened as opened_data
from trainer.data.images import decoding, draw, transforms
from trainer.data.images.decoding import EncodedImage
from trainer.data.order import permutation
from trainer.data.sources.source import Source
from trainer.distributed.replicas import Replicas
from trainer.errors import NoValidCheckpoint, RestoreRefused, UsageError
from trainer.fingerprint import facts, structure, versions
from trainer.fingerprint.facts import Fact
from trainer.fingerprint.pieces import file_of
from trainer.models import inception_v3
from trainer.run import assembly, restore, session
from trainer.runtime.signals import StopRequest
from trainer.storage.durable import digest
from trainer.training import schedules, state
from trainer.training.state import TrainingState, build_state

STEPS = 4
SCHEDULE = ("schedule.warmup_steps=1", "schedule.decay_steps=40")  # long enough for every resume
CADENCES = ("evaluation.every_steps=4", "checkpoint.every_steps=2")
ARGUMENTS = (*NARROW, *SCHEDULE, *CADENCES)
PLAIN = (*SMALL, *SCHEDULE, *CADENCES)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run of four steps of Inception V3, made by a process of its own."""
    place = tmp_path_factory.mktemp("original")
    trainer = Trainer(place)
    trainer.run("train", f"run_dir={place / 'run'}", *ARGUMENTS, f"train.steps={STEPS}")
    yield place / "run"
    trainer.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same of the small network."""
    place = tmp_path_factory.mktemp("plain")
    install(place)
    trainer = Trainer(place)
    trainer.run("train", f"run_dir={place / 'run'}", *PLAIN, f"train.steps={STEPS}")
    with installed_here(place):
        yield place / "run"
    trainer.close()


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """This process has used TensorFlow already, so its threads stay; and where training begins, the test ends."""
    reached: list[Any] = []
    monkeypatch.setattr(assembly.execution, "configure", lambda config: None)
    monkeypatch.setattr(session, "run_loop", reached.append)
    return reached


@pytest.fixture
def shared_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build a network once for all cases that want the same one. Not for cases that edit the code that builds it."""
    monkeypatch.setattr(assembly, "build_state", built_once)
    monkeypatch.setattr(state, "build_model", MODEL)


@pytest.fixture
def shared_facts(shared_builds: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a step of the probe once for all cases whose steps do the same. Not for cases that edit a step's code."""
    step_facts_once.install(monkeypatch)


BUILT: dict[object, TrainingState] = {}
MODEL = functools.cache(state.build_model)


def built_once(config: Config, replicas: Replicas, *, drawn: bool) -> TrainingState:
    parts = (config.model, config.optimizer, config.ema, config.fine_tuning)
    wanted = (*parts, config.seed, config.preprocess.image_size)
    if wanted not in BUILT:
        BUILT[wanted] = build_state(config, replicas)
    return BUILT[wanted]


def resume(run_dir: Path, *arguments: str, allow: tuple[str, ...] = ()) -> None:
    values = parse_arguments(arguments)
    session.resume(run_dir, "latest", values, allow, StopRequest())


def content(run_dir: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run_dir.rglob("*") if path.is_file() and path.name != ".lock"}


def refusal(run_dir: Path, *arguments: str) -> str:
    """The message of a refused resume; requires that nothing changed and that the message fits a screen."""
    before = content(run_dir)
    with pytest.raises(RestoreRefused) as refused:
        resume(run_dir, "train.steps=9", *arguments)
    assert content(run_dir) == before
    message = str(refused.value)
    assert len(message.splitlines()) <= 24
    full = Path(message.rpartition("the full list: ")[2])
    assert full.read_text()
    full.unlink()
    return message


KEYS = {
    # what is asked for: (what the message must say, ...)
    "model.width=0.02": ("model.width: 0.01 -> 0.02", "first: layer", "filters 4 -> "),
    "model.min_depth=8": ("model.min_depth: 4 -> 8", "first: layer conv2d_1a_3x3.conv: filters 4 -> 8"),
    "model.activation=sigmoid": (
        "model.activation: relu -> sigmoid",
        "layer conv2d_1a_3x3.activation: activation relu -> sigmoid",
    ),
    "model.count_include_pad=true": (
        "model.count_include_pad: False -> True",
        "layer mixed_5b.branch_3.avgpool_0a_3x3: inbound",
    ),
    "model.batch_norm.momentum=0.5": ("layer conv2d_1a_3x3.batch_norm: momentum 0.95 -> 0.5",),
    "model.batch_norm.epsilon=0.01": ("layer conv2d_1a_3x3.batch_norm: epsilon 0.001 -> 0.01",),
    "model.batch_norm.scale=true": ("layer conv2d_1a_3x3.batch_norm: scale False -> True",),
    "model.batch_norm.synchronized=false": ("layer conv2d_1a_3x3.batch_norm: synchronized True -> False",),
    "model.batch_norm.group_size=4": ("layer conv2d_1a_3x3.batch_norm: group_size 8 -> 4",),
    "model.batch_norm.warmup=false": (
        "model.batch_norm.warmup: True -> False",
        "first: step update: batch norm statistics after step 0",
        "model.batch_norm.warmup cannot change on resume",
    ),
    "model.batch_norm.initial_updates=80": ("model.batch_norm.initial_updates: 0 -> 80",),
    "model.aux_logits=false": ("model.aux_logits: True -> False", "layer aux_logits.", "(absent)"),
    "model.num_classes=11": ("model.num_classes: 10 -> 11", ": units 10 -> 11"),
    "model.initializer=glorot_uniform": ("model.initializer: variance_scaling -> glorot_uniform",),
    "model.dropout=0.5": ("model.dropout: 0.2 -> 0.5", "layer logits.dropout_1b: rate 0.2 -> 0.5"),
    "model.weight_decay=0.1": ("model.weight_decay: 4e-05 -> 0.1",),
    "model.weight_decay_on=all": ("model.weight_decay_on: kernels -> all", "first: step objective"),
    "ema.decay=0.99": ("ema.decay: None -> 0.99",),
    "preprocess.image_size=80": ("preprocess.image_size: 75 -> 80",),
    "optimizer.learning_rate=0.5": (
        "optimizer.learning_rate: 0.003 -> 0.5",
        "schedule: learning rate at step 0",
        "allow=[optimizer.learning_rate]",
    ),
    "optimizer.beta_1=0.8": ("optimizer.beta_1: 0.9 -> 0.8", "optimizer: beta_1 0.9 -> 0.8"),
    "optimizer.epsilon=0.001": ("optimizer.epsilon: 1e-07 -> 0.001",),
    "optimizer.clip_norm=1.0": ("optimizer.clip_norm: None -> 1.0",),
    "schedule.warmup_steps=3": ("schedule.warmup_steps: 1 -> 3", "schedule: learning rate at step"),
    "schedule.decay_steps=50": ("schedule.decay_steps: 40 -> 50", "schedule: learning rate at step"),
    "schedule.minimum_fraction=0.5": ("schedule.minimum_fraction: 0.0 -> 0.5",),
    "train.global_batch_size=4": ("train.global_batch_size: 8 -> 4", "allow=[train.global_batch_size]"),
    "train.accumulate_steps=2": ("train.accumulate_steps: 1 -> 2",),
    "train.label_smoothing=0.0": ("train.label_smoothing: 0.1 -> 0.0",),
    "train.aux_weight=0.1": ("train.aux_weight: 0.4 -> 0.1",),
    "seed=1": ("seed: 0 -> 1", "random_area_crop"),
    "preprocess.resize.method=nearest": (
        "preprocess.resize.method: bilinear -> nearest",
        "first: preprocess.train[2] resize: probe 0",
    ),
    "preprocess.resize.antialias=true": (
        "preprocess.resize.antialias: False -> True",
        "first: preprocess.train[2] resize",
    ),
    "preprocess.normalize.mean=[0.4,0.5,0.5]": ("(0.5, 0.5, 0.5) -> (0.4, 0.5, 0.5)", "preprocess.train[4] normalize"),
    "preprocess.normalize.std=[1,1,1]": ("preprocess.normalize.std", "first: preprocess.train[4] normalize"),
    "preprocess.background=none": (
        "preprocess.background: white -> none",
        "first: preprocess.train[0] decode: probe 2",
    ),
    "preprocess.sixteen_bit_range=[0,4095]": (
        "preprocess.sixteen_bit_range: None -> (0, 4095)",
        "first: preprocess.train[0] decode: probe 2",
    ),
    "preprocess.central_crop.fraction=0.5": ("preprocess.central_crop.fraction: 0.875 -> 0.5",),
    "preprocess.train=[decode,random_area_crop,resize,normalize]": (
        "preprocess.train: ('decode', 'random_area_crop', 'resize', 'color_jitter', 'normalize') -> ",
        "first: preprocess.train[3]",
    ),
    "preprocess.eval=[decode,central_crop,resize,normalize]": (
        "preprocess.eval: ('decode', 'resize', 'normalize') -> ",
        "preprocess.eval[1]",
    ),
    "preprocess.random_area_crop.min_area=0.1": ("min_area: 0.7 -> 0.1", "preprocess.train[1] random_area_crop"),
    "preprocess.color_jitter.contrast=0.9": ("contrast: 0.2 -> 0.9", "preprocess.train[3] color_jitter"),
    "preprocess.color_jitter.hue=0.1": ("hue: 0.0 -> 0.1", "first: preprocess.train[3] color_jitter"),
    "preprocess.decode=shrunk": (
        "preprocess.decode: whole -> shrunk",
        "first: preprocess.train[0] decode: probe at 1/",
    ),
    "preprocess.rand_augment.magnitude=5": ("preprocess.rand_augment.magnitude: 9.0 -> 5.0",),
    "preprocess.random_erasing.probability=1": ("preprocess.random_erasing.probability: 0.25 -> 1.0",),
    "preprocess.train=[decode,random_area_crop,resize,rand_augment,color_jitter,normalize]": (
        "preprocess.train: ('decode', 'random_area_crop', 'resize', 'color_jitter', 'normalize') -> ",
        "first: preprocess.train[3]",
    ),
    "data.train_examples=30": ("data.train_examples: 40 -> 30", "data split train: count 40 -> 30"),
    "data.validation_examples=10": ("data.validation_examples: 20 -> 10", "data split validation: count 20 -> 10"),
    "data.classes=[nine,eight]": (
        "data.classes: None -> ('nine', 'eight')",
        "first: classes: class 0 zero -> nine",
        "data.classes cannot change on resume",
    ),
    "data.class_weights=[1,1,1,1,1,1,1,1,1,2]": (
        "data.class_weights: None -> (1.0, 1.0, ",
        "order of examples: records at positions from 0",
        "allow=[data.class_weights]",
    ),
    "early_stopping.patience=2": ("early_stopping.patience: None -> 2",),
    "checkpoint.best_metric=loss": ("checkpoint.best_metric: accuracy -> loss",),
    "runtime.deterministic=false": ("runtime.deterministic: True -> False",),
    "runtime.precision=mixed_bfloat16": ("runtime.precision: float32 -> mixed_bfloat16",),
    "fine_tuning.freeze_until_step=3": ("fine_tuning.freeze_until_step: 0 -> 3",),
    "fine_tuning.layer_decay=0.5": (
        "fine_tuning.layer_decay: 1.0 -> 0.5",
        "first: layer conv2d_1a_3x3/conv: factor of the learning rate (absent) -> 0.0001220703125",
        "allow=[fine_tuning.layer_decay]",
    ),
    "fine_tuning.freeze=[mixed_5b]": (
        "fine_tuning.freeze: () -> ('mixed_5b',)",
        "first: layer mixed_5b/branch_0/conv2d_0a_1x1/batch_norm: frozen (absent) -> True",
        "allow=[fine_tuning.freeze]",
    ),
    "loss_scale.initial=2.0": ("loss_scale.initial: 32768.0 -> 2.0",),
    "runtime.threads=1": ("runtime.threads: 2 -> 1",),
}
OF_NETWORK = ("model.", "fine_tuning.", "train.aux_weight")


@pytest.mark.usefixtures("shared_facts")
@pytest.mark.parametrize("argument", KEYS)
def test_a_changed_key_is_refused_with_its_consequence(argument: str, request: pytest.FixtureRequest) -> None:
    message = refusal(request.getfixturevalue("original" if argument.startswith(OF_NETWORK) else "plain"), argument)
    for expected in KEYS[argument]:
        assert expected in message, message
    assert argument.partition("=")[0] in message
    assert "the same configuration" not in message, "the key is what differs, not the code"


@pytest.mark.usefixtures("shared_facts")
@pytest.mark.parametrize("argument", ["optimizer=sgd", "optimizer.name=sgd"])
def test_another_optimizer_is_named_however_it_is_asked_for(argument: str, plain: Path) -> None:
    message = refusal(plain, argument)
    assert "  optimizer.name: adam -> sgd\n    first: optimizer: slots ['m', 'v'] -> ['momentum'] (and" in message
    assert "optimizer=sgd" in message.rpartition("start a new run")[2]


@pytest.mark.usefixtures("shared_facts")
def test_another_schedule_brings_its_keys_and_needs_consent(
    plain: Path, tmp_path: Path, no_training: list[Any]
) -> None:
    assert "schedule.name: cosine -> constant" in refusal(plain, "schedule=constant")
    run_dir = tmp_path / "run"
    shutil.copytree(plain, run_dir)
    resume(run_dir, "train.steps=9", "schedule=constant", allow=("schedule",))
    assert no_training[0].config.schedule.name == "constant"
    assert no_training[0].config.schedule.warmup_steps == 0


@pytest.mark.usefixtures("shared_facts")
@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("sgd", "slots ['m', 'v'] -> ['momentum']"),
        ("rmsprop", "slots ['m', 'v'] -> ['mean_square', 'momentum']"),
        ("adamw", "name adam -> adamw"),
    ],
)
def test_another_optimizer_is_one_finding_that_names_its_slots(name: str, first: str, plain: Path) -> None:
    from composing import compose

    wanted = compose(*PLAIN, "train.steps=9", f"optimizer={name}")
    invocation = session.Invocation(str(plain), "resume", None, ())
    before = content(plain)
    with pytest.raises(RestoreRefused) as refused:
        session.train(invocation, wanted, StopRequest())
    assert content(plain) == before
    message = str(refused.value)
    assert f"  optimizer.name: adam -> {name}\n    first: optimizer: {first}" in message
    assert "optimizer.beta_1:" not in message, "what follows from the type is not a finding of its own"
    assert f"init_from={plain}/checkpoints/step-{STEPS:08} " in message


@pytest.mark.usefixtures("shared_facts")
def test_mixing_that_is_switched_on_is_one_finding_with_its_consequence(plain: Path) -> None:
    from composing import compose

    wanted = compose(*PLAIN, "train.steps=9", "mixing=cutmix")
    with pytest.raises(RestoreRefused) as refused:
        session.train(session.Invocation(str(plain), "resume", None, ()), wanted, StopRequest())
    assert "  mixing.name: none -> cutmix\n    first: mixing: images (absent) -> [4, 75, 75, 3]" in str(refused.value)
    assert "mixing.alpha" not in str(refused.value), "what follows from the kind is not a finding of its own"


def swapped_branches(scope: Any, branches: list[Any], concat: Callable[..., Any] = inception_v3._concat) -> Any:
    """Concatenate the equal-shaped first two branches of mixed_5b the other way round."""
    return concat(scope, [branches[1], branches[0], *branches[2:]] if scope.name == "mixed_5b" else branches)


def edited(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    return lambda image, config, draw: function(image, config, draw) * 1.001


def other_decoder(encoded: EncodedImage, window: tf.Tensor, config: PreprocessConfig, least: int | None) -> tf.Tensor:
    """An image library whose JPEG decoder rounds otherwise."""
    return DECODE_WINDOW(encoded, window, config, least) // 2 * 2


class UnfusedBatchNormalization(tf.keras.layers.BatchNormalization):
    def __init__(self, group_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)


def patch_transform(name: str, function: Callable[..., tf.Tensor]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setitem(transforms.TRANSFORMS, name, function)


def patch_source(**changes: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """The same configuration finds other data."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        opened = opened_data.open_source

        def other(config: Any, split: Any) -> Source:
            source = opened(config, split)
            for name, value in changes.items():
                setattr(source, name, value(source) if callable(value) else value)
            return source

        patch.setattr(opened_data, "open_source", other)

    return apply


def brighter(source: Source) -> Callable[..., Any]:
    read = source.read
    return lambda records: ([image + b"x" for image in read(records)[0]], read(records)[1])


def relabelled(source: Source) -> Callable[..., Any]:
    read = source.read
    return lambda records: (read(records)[0], 9 - read(records)[1])


NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
EDITS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], tuple[str, ...]]] = {
    # an edit that the configuration does not see: (how it is made, what the message must say)
    "two equal-shaped branches swapped": (
        lambda patch: patch.setattr(inception_v3, "_concat", swapped_branches),
        ("the code builds another network", "layer mixed_5b.concat: inbound ['mixed_5b.branch_0", "inception_v3.py"),
    ),
    "another kind of pooling": (
        lambda patch: patch.setattr(inception_v3.keras.layers, "AveragePooling2D", tf.keras.layers.MaxPooling2D),
        ("first: layer mixed_5b.branch_3.avgpool_0a_3x3: class AveragePooling2D -> MaxPooling2D",),
    ),
    "aux head pooled with another stride": (
        lambda patch: patch.setattr(inception_v3, "AUX_STRIDE", 2),
        ("layer aux_logits.avgpool_1a_5x5: strides [3, 3] -> [2, 2]",),
    ),
    "another layer class": (
        lambda patch: patch.setattr(inception_v3, "FusedBatchNormalization", UnfusedBatchNormalization),
        ("layer conv2d_1a_3x3.batch_norm: class FusedBatchNormalization -> UnfusedBatchNormalization",),
    ),
    "another slot": (
        lambda patch: patch.setattr(
            structure, "rule_for", lambda config: dataclasses.replace(RULE(config), slots={"m": 0.0, "vhat": 0.0})
        ),
        ("the code makes another optimizer", "slots ['m', 'v'] -> ['m', 'vhat']", "allow=[optimizer]"),
    ),
    "another schedule formula": (
        lambda patch: patch.setattr(structure, "learning_rate_at", lambda *a: RATE(*a) * 2),
        ("the code makes another schedule", "learning rate at step 0", "trainer/training/schedules.py"),
    ),
    "resize edited": (
        patch_transform("resize", edited(transforms.resize)),
        ("the input pipeline does something else", "preprocess.train[2] resize: probe 0", "allow=[behaviour]"),
    ),
    "normalize edited": (
        patch_transform("normalize", edited(transforms.normalize)),
        ("first: preprocess.train[4] normalize", "trainer/data/images/transforms.py"),
    ),
    "another image library": (
        lambda patch: patch.setattr(transforms, "decode_window", other_decoder),
        ("first: preprocess.train[0] decode: probe 0",),
    ),
    "another stream of random numbers": (
        lambda patch: patch.setattr(draw, "derive_seed", lambda seed, *purpose: seed + 1),
        ("first: preprocess.train[1] random_area_crop",),
    ),
    "another order of examples": (
        lambda patch: patch.setattr(permutation, "ROUNDS", 11),
        ("order of examples: records at positions from 0 [", "trainer/data/order/permutation.py"),
    ),
    "class order flipped": (
        patch_source(class_names=NUMBERS[::-1]),
        ("the data is not the data", "classes: class 0 zero -> nine"),
    ),
    "a class renamed": (
        patch_source(class_names=(*NUMBERS[:7], "seventh", *NUMBERS[8:])),
        ("first: classes: class 7 seven -> seventh",),
    ),
    "a class less": (patch_source(class_names=NUMBERS[:9]), ("classes: class 9 nine -> (absent)",)),
    "a record less": (patch_source(count=19), ("data split train: count 40 -> 19", "allow=[data]")),
    "other images": (patch_source(read=brighter), ("data split train: content digest",)),
    "other labels": (patch_source(read=relabelled), ("data split train: content digest",)),
}
RULE, RATE = structure.rule_for, structure.learning_rate_at
DECODE_WINDOW = decoding.decode_window


# edits of the code that builds the network, and of the draws, which a step has too
OF_NETWORK_OR_STEP = (
    "two equal-shaped branches swapped",
    "another kind of pooling",
    "aux head pooled with another stride",
    "another layer class",
    "another stream of random numbers",
)


@pytest.mark.parametrize("edit", EDITS)
def test_a_change_that_the_configuration_does_not_see_is_refused(
    edit: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    run_dir = request.getfixturevalue("original" if edit in OF_NETWORK_OR_STEP else "plain")
    if edit not in OF_NETWORK_OR_STEP:
        request.getfixturevalue("shared_facts")
    make, expected = EDITS[edit]
    make(monkeypatch)
    message = refusal(run_dir)
    for text in expected:
        assert text in message, message


STEP_EDITS = {
    # an edit of a step's code: what the message must say; tests/fingerprint/test_step_facts.py has one in every module
    "label smoothing": "step objective: loss [",
    "moving statistics": "step batch norm and dropout: moving statistics on one replica",
    "number of a step": "step update: ",
}


@pytest.mark.usefixtures("shared_builds")
@pytest.mark.parametrize("what", STEP_EDITS)
def test_edited_code_of_a_step_is_refused_and_may_be_allowed_by_its_kind(
    what: str, plain: Path, tmp_path: Path, no_training: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, module, before, after = step_edits.EDITS[what]
    step_edits.edit(monkeypatch, module, before, after)
    message = refusal(plain)
    assert "a step does something else with the same configuration" in message
    for text in (STEP_EDITS[what], f"look at {file_of(module)}", "allow=[step]"):
        assert text in message, message
    assert message.count("first: ") == 1
    run_dir = tmp_path / "run"
    shutil.copytree(plain, run_dir)
    resume(run_dir, "train.steps=9", allow=("step",))
    (run,) = no_training
    assert run.checkpointer.contents.lineage[-1].changes[-1].startswith("step: step ")


@pytest.mark.usefixtures("shared_builds")
def test_another_schedule_is_one_finding_although_the_step_uses_it(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_edits.edit(monkeypatch, schedules, "tf.cast(peak * factor", "tf.cast(1.01 * peak * factor")
    message = refusal(plain)
    assert "the code makes another schedule" in message
    assert "allow=[schedule]" in message


def edited_fingerprint(run_dir: Path, change: Callable[[list[Fact]], list[Fact]]) -> None:
    """Store other facts with the newest checkpoint, with the digests that fit."""
    checkpoint = run_dir / "checkpoints" / f"step-{STEPS:08}"
    path = checkpoint / facts.FILE_NAME
    path.write_text(facts.to_text(change(facts.read(path))))
    manifest = manifests.read(checkpoint / manifests.FILE_NAME)
    other = dataclasses.replace(
        manifest,
        files={**manifest.files, path.name: digest(path)},
        sizes={**manifest.sizes, path.name: path.stat().st_size},
    )
    manifests.write(other, checkpoint / manifests.FILE_NAME)


@pytest.mark.usefixtures("shared_facts")
def test_a_checkpoint_that_does_not_tell_what_a_step_does_resumes_with_one_note(
    plain: Path, tmp_path: Path, no_training: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """As those do that were written before a fingerprint knew of steps."""
    run_dir = tmp_path / "run"
    shutil.copytree(plain, run_dir)
    edited_fingerprint(run_dir, lambda there: [fact for fact in there if fact.kind != facts.STEP])
    resume(run_dir, "train.steps=9")
    assert capsys.readouterr().err.count("warning: ") == 1
    assert len(no_training) == 1


@pytest.mark.usefixtures("shared_facts")
def test_rounding_of_another_processor_is_no_finding(plain: Path, tmp_path: Path, no_training: list[Any]) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(plain, run_dir)

    def rounded(fact: Fact) -> Fact:
        values = [value * (1.0 + 3e-6) if isinstance(value, float) else value for value in fact.value]
        return dataclasses.replace(fact, value=values)

    edited_fingerprint(run_dir, lambda there: [rounded(f) if f.kind == facts.STEP else f for f in there])
    resume(run_dir, "train.steps=9")
    assert len(no_training) == 1


def test_edited_code_of_the_evaluation_is_refused_where_a_checkpoint_is_only_read(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly.execution, "configure_for_reading", lambda config: None)
    _, *edits = step_edits.EDITS["predictions"]
    step_edits.edit(monkeypatch, *edits)
    with pytest.raises(RestoreRefused, match=r"step evaluation: predictions .*\n.*look at trainer/"):
        restore.restore(plain, "latest", ())
    assert restore.restore(plain, "latest", ("step",)).manifest.step == STEPS


FREE = {
    "train.steps=9": "train.steps: 4 -> 9",
    "train.epochs=7": "train.epochs: 20.0 -> 7.0",
    "train.log_every_steps=3": "train.log_every_steps: 2 -> 3",
    "evaluation.every_steps=3": "evaluation.every_steps: 4 -> 3",
    "evaluation.every_epochs=2": "evaluation.every_epochs: 1.0 -> 2.0",
    "evaluation.batch_size=7": "evaluation.batch_size: 16 -> 7",
    "checkpoint.every_steps=5": "checkpoint.every_steps: 2 -> 5",
    "checkpoint.keep_last=1": "checkpoint.keep_last: 100 -> 1",
    "checkpoint.keep_best=0": "checkpoint.keep_best: 1 -> 0",
    "checkpoint.keep_every_steps=10": "checkpoint.keep_every_steps: None -> 10",
    "checkpoint.async_save=false": "checkpoint.async_save: True -> False",
    "checkpoint.verify=fast": "checkpoint.verify: full -> fast",
    "checkpoint.on_error=stop": "checkpoint.on_error: continue -> stop",
    "checkpoint.mirror=memory://refusal": "checkpoint.mirror: None -> memory://refusal",
    "runtime.strategy=one": "runtime.strategy: auto -> one",
    "runtime.virtual_devices=1": "runtime.virtual_devices: None -> 1",
    "data.on_bad_record=skip": "data.on_bad_record: fail -> skip",
    "experiment=renamed": "experiment: digits -> renamed",
}


@pytest.mark.usefixtures("shared_facts")
@pytest.mark.parametrize("argument", FREE)
def test_a_free_key_is_accepted_and_shown(
    argument: str, plain: Path, tmp_path: Path, no_training: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(plain, run_dir)
    resume(run_dir, argument, *([] if argument.startswith(("train.steps", "train.epochs")) else ["train.steps=9"]))
    assert len(no_training) == 1
    assert f"changed on resume: {FREE[argument]}" in capsys.readouterr().out
    name = argument.partition("=")[0]
    text = stored.read(run_dir / "config.yaml")
    for part in name.split("."):
        text = getattr(text, part)
    assert text == parse_arguments([argument])[name]


@pytest.mark.usefixtures("shared_facts")
def test_the_same_command_may_be_run_again_when_what_it_allows_was_accepted_before(
    plain: Path, tmp_path: Path, no_training: list[Any]
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(plain, run_dir)
    resume(run_dir, "train.steps=9", allow=("seed", "preprocess", "behaviour"))
    assert len(no_training) == 1


@pytest.mark.usefixtures("shared_facts")
@pytest.mark.parametrize(("checkpoint", "step"), [("latest", 4), ("step-2", 2), ("step-00000002", 2), ("best", 4)])
def test_a_checkpoint_is_found_by_name(
    checkpoint: str, step: int, plain: Path, tmp_path: Path, no_training: list[Any]
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(plain, run_dir)
    session.resume(run_dir, checkpoint, {"train.steps": 9}, (), StopRequest())
    assert no_training[0].committed_step == step
    with pytest.raises(
        NoValidCheckpoint, match=r"checkpoint=step-3 does not exist; in .*: step-00000002, step-00000004"
    ):
        session.resume(plain, "step-3", {}, (), StopRequest())


@pytest.mark.usefixtures("shared_facts")
@pytest.mark.parametrize("other", [False, True])
def test_a_checkpoint_from_elsewhere_is_the_one_here_only_if_it_holds_the_same(
    other: bool, plain: Path, tmp_path: Path, no_training: list[Any]
) -> None:
    run_dir, name = tmp_path / "run", "step-00000004"
    shutil.copytree(plain, run_dir)
    elsewhere = Path(shutil.copytree(plain / "checkpoints" / name, tmp_path / name))
    if other:
        forge(elsewhere, "model/conv_0/kernel")
    session.resume(run_dir, str(elsewhere), {"train.steps": 9}, (), StopRequest())
    assert no_training[0].committed_step == (None if other else 4)
    assert (run_dir / "checkpoints" / "superseded" / name).is_dir() == other


@pytest.mark.usefixtures("shared_facts")
@pytest.mark.parametrize(
    ("arguments", "allow", "edit"),
    [
        (["optimizer.learning_rate=0.5"], ("optimizer.learning_rate",), None),
        (["optimizer.learning_rate=0.5", "optimizer.beta_1=0.8"], ("optimizer",), None),
        (["preprocess.resize.method=nearest", "seed=4"], ("preprocess.resize", "seed"), None),
        ([], ("behaviour",), "resize edited"),
        ([], ("data",), "class order flipped"),
    ],
)
def test_a_change_that_is_allowed_by_name_is_accepted_and_recorded(
    arguments: list[str],
    allow: tuple[str, ...],
    edit: str | None,
    plain: Path,
    tmp_path: Path,
    no_training: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(plain, run_dir)
    if edit is not None:
        EDITS[edit][0](monkeypatch)
    resume(run_dir, "train.steps=9", *arguments, allow=allow)
    (run,) = no_training
    path = run.checkpointer.contents.lineage[-1].changes
    for argument in arguments:
        assert any(change.startswith(argument.partition("=")[0]) for change in path), path
    assert edit is None or any(change.startswith(f"{allow[0]}: ") for change in path), path


@pytest.mark.usefixtures("shared_facts")
@pytest.mark.parametrize(
    ("arguments", "allow", "message"),
    [
        (["model.activation=silu"], ("model.activation",), "model.activation: relu -> silu decides which variables"),
        ([], ("structure",), "is not possible: a network of another structure"),
        (["seed=1"], ("sed",), "allow=[sed] names nothing that changed; did you mean seed?"),
    ],
)
def test_consent_that_cannot_be_given_is_a_usage_error(
    arguments: list[str], allow: tuple[str, ...], message: str, plain: Path
) -> None:
    before = content(plain)
    with pytest.raises(UsageError) as refused:
        resume(plain, "train.steps=9", *arguments, allow=allow)
    assert message in str(refused.value)
    assert content(plain) == before


@pytest.mark.usefixtures("shared_facts")
@pytest.mark.parametrize(
    ("package", "version"), [("tensorflow", "2.20.0"), ("keras", "3.0"), ("device", "NVIDIA H100")]
)
def test_another_library_or_device_is_a_warning_about_exactness(
    package: str, version: str, plain: Path, tmp_path: Path, no_training: list[Any],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run_dir = tmp_path / "run"
    shutil.copytree(plain, run_dir)
    found = versions.versions()
    monkeypatch.setattr(versions, "versions", lambda: {**found, package: version})
    resume(run_dir, "train.steps=9")
    assert f"warning: {package} was {found[package]} and is {version}" in capsys.readouterr().err
    assert len(no_training) == 1


@pytest.mark.usefixtures("shared_facts")
def test_surroundings_that_decide_the_last_bits_are_a_warning_with_the_variable_to_set(
    plain: Path, tmp_path: Path, no_training: list[Any], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run_dir = tmp_path / "run"
    shutil.copytree(plain, run_dir)
    resume(run_dir, "train.steps=9")
    assert "warning: " not in capsys.readouterr().err
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    resume(run_dir, "train.steps=9")
    output = capsys.readouterr().err
    assert "warning: TF_ENABLE_ONEDNN_OPTS was not set and is 0: training goes on, but bit-exactness is not" in output
    assert "; as it was: unset TF_ENABLE_ONEDNN_OPTS" in output
    there = no_training[0].checkpointer.contents.versions["instruction set"]
    assert f"warning: instruction set was {there} and is SSE41: " in output or there == "SSE41"
    assert no_training[1].checkpointer.contents.versions["TF_ENABLE_ONEDNN_OPTS"] == "0", "in the next manifest"


def test_an_edit_of_preprocessing_code_is_caught_by_a_real_process(plain: Path, trainer: Trainer) -> None:
    """The package is copied, one constant of one transform is edited, and a user resumes with it."""
    import os
    import subprocess
    import sys

    import trainer as package

    source = Path(package.__file__).parent
    shutil.copytree(source, trainer.cwd / "edited" / "trainer", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(source.parent / "conf", trainer.cwd / "edited" / "conf")
    file = trainer.cwd / "edited" / "trainer" / "data" / "images" / "transforms.py"
    before = "pixels + symmetric[0] * jitter.brightness"
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, before.replace("symmetric[0]", "symmetric[1]")))
    untouched = content(plain)
    process = subprocess.run(
        [sys.executable, "-m", "trainer", "resume", f"run_dir={plain}", "train.steps=9"],
        cwd=trainer.cwd / "edited",
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(trainer.cwd / "edited"), str(plain.parent)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 3, process.stderr
    assert "first: preprocess.train[3] color_jitter: probe 0" in process.stderr
    assert "Traceback" not in process.stderr
    assert content(plain) == untouched


@pytest.mark.usefixtures("small")
def test_consent_is_recorded_in_the_next_manifest_and_in_tensorboard(plain: Path, trainer: Trainer) -> None:
    run_dir = trainer.cwd / "run"
    shutil.copytree(plain, run_dir)
    arguments = ("resume", f"run_dir={run_dir}", "train.steps=6", "optimizer.learning_rate=0.0005")
    trainer.run(*arguments, status=3)
    output = trainer.run(*arguments, "allow=[optimizer.learning_rate]")
    assert "changed on resume: optimizer.learning_rate: 0.003 -> 0.0005" in output
    manifest = json.loads((run_dir / "checkpoints" / "step-00000006" / "manifest.json").read_text())
    assert [start["from_step"] for start in manifest["lineage"]] == [0, 4]
    assert "optimizer.learning_rate: 0.003 -> 0.0005" in manifest["lineage"][1]["changes"]
    events = b"".join(path.read_bytes() for path in (run_dir / "tensorboard" / "train").iterdir())
    assert b"optimizer.learning_rate: 0.003 -> 0.0005" in events
    assert metrics(run_dir)[-1]["step"] == 6


def test_init_from_takes_what_matches_lists_the_rest_and_refuses_too_little(original: Path, trainer: Trainer) -> None:
    checkpoint = original / "checkpoints" / "step-00000004"
    new = trainer.cwd / "new"
    output = trainer.run(
        *("train", f"run_dir={new}", *ARGUMENTS, "train.steps=0", f"init_from={checkpoint}"),
        *("model.num_classes=12", "optimizer=sgd", "model.activation=elu"),
        "allow=[model.num_classes,model.activation]",
    )
    assert "  freshly initialised: aux_logits/logits/kernel [7, 12], " in output
    assert "  not taken from the file: aux_logits/logits/bias [10], " in output
    from trainer.checkpoint.tensors import read_tensor

    kernel = "model/mixed_5b/branch_0/conv2d_0a_1x1/conv/kernel"
    start = new / "checkpoints" / "step-00000000"
    assert np.array_equal(read_tensor(start, kernel), read_tensor(checkpoint, kernel))
    manifest = json.loads((start / "manifest.json").read_text())
    assert manifest["lineage"][0]["checkpoint"].startswith(str(checkpoint))
    refused = trainer.run(
        *("train", f"run_dir={trainer.cwd / 'other'}", *ARGUMENTS, f"init_from={checkpoint}", "model.min_depth=8"),
        status=3,
    )
    assert "is not this network" in refused
    assert "to fit it: model.min_depth=4" in refused
    missing = trainer.run("train", f"run_dir={trainer.cwd / 'third'}", *ARGUMENTS, "init_from=nowhere", status=4)
    assert "init_from=nowhere: nowhere does not exist" in missing


def test_diff_compares_configuration_files_and_names_every_section_of_two_checkpoints(
    original: Path, trainer: Trainer
) -> None:
    assert "config: equal" in trainer.run(
        "diff", f"left={original / 'config.yaml'}", f"right={original / 'config.yaml'}"
    )
    other = trainer.cwd / "other"
    trainer.run("train", f"run_dir={other}", *ARGUMENTS, f"train.steps={STEPS}", "optimizer=sgd", "model.dropout=0.5")
    files = trainer.run("diff", f"left={original / 'config.yaml'}", f"right={other / 'config.yaml'}", status=3)
    assert "config: 2 values differ\n  model.dropout: 0.2 -> 0.5\n  optimizer.name: adam -> sgd" in files
    runs = trainer.run("diff", f"left={original}", f"right={other}", status=3)
    for expected in (
        "data: equal",
        "structure: 1 values differ\n  layer logits.dropout_1b: rate 0.2 -> 0.5",
        "optimizer: slots ['m', 'v'] -> ['momentum']",
        "behaviour: equal",
        "tensors differ",
    ):
        assert expected in runs, runs
    missing = trainer.run("diff", f"left={original}", "right=nowhere", status=4)
    assert "nowhere is not a checkpoint" in missing
