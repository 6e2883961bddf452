"""The configuration boundary: what is accepted, what is refused and with which words."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from composing import compose
from omegaconf import OmegaConf
from processes import Trainer

from trainer.config import stored
from trainer.config.arguments import parse_arguments
from trainer.config.complete import complete, total_steps, with_leaves
from trainer.config.compose import compose_run, configuration_directory
from trainer.config.keys import facts
from trainer.config.override import adopt, changes, override
from trainer.config.parse import leaves, parse
from trainer.config.schema import Config, Invocation
from trainer.errors import RestoreRefused, UsageError

# what an option cannot know by itself
NEEDED = {
    "image_folder": ("data.root=images",),
    "table": ("data.file=labels.csv",),
    "tfrecord": ("data.root=shards", "data.num_classes=10"),
    "webdataset": ("data.root=shards", "data.num_classes=10"),
    "parquet": ("data.root=files",),
    "tfds": ("data.dataset=x",),
    "synthetic": ("data.train_examples=9", "data.validation_examples=9"),
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.stesp=3"], "unknown key train.stesp=3; did you mean train.steps?"),
        (["trian.steps=3"], "unknown key trian.steps=3; did you mean train.steps?"),
        (["learning_rate=3"], "unknown key learning_rate=3; did you mean optimizer.learning_rate?"),
        (["optimizr=adam"], "unknown key optimizr=adam; did you mean optimizer?"),
        (["+train.foo=1"], "unknown key train.foo=1"),
        (["optimizer=adm"], "optimizer=adm does not exist; allowed: adam, adamw, rmsprop, sgd; did you mean adam?"),
        (["train.steps=many"], "train.steps is 'many', but must be an integer or null"),
        (["train.steps=1.5"], "train.steps is 1.5, but must be an integer or null"),
        (["train.steps=true"], "train.steps is true, but must be an integer or null"),
        (["train.global_batch_size=0"], "train.global_batch_size is 0, but must be at least 1"),
        (["optimizer.learning_rate=-1"], "optimizer.learning_rate is -1.0, but must be above 0 and at most 1000"),
        (["optimizer.learning_rate=.inf"], "optimizer.learning_rate is"),
        (["optimizer.learning_rate=nan"], "must be finite"),
        (["model.dropout=1.0"], "model.dropout is 1.0, but must be at least 0 and below 1"),
        (["model.activation=rely"], "did you mean relu?"),
        (["preprocess.image_size=74"], "preprocess.image_size is 74, but must be at least 75"),
        (["preprocess.normalize.mean=[1,2]"], "preprocess.normalize.mean has 2 entries, but must have 3"),
        (["preprocess.normalize.std=[1,1,0]"], "preprocess.normalize.std[2] is 0"),
        (["preprocess.train=[decode,resise]"], "preprocess.train[1] is 'resise'"),
        (["preprocess.train=[resize,decode]"], "must begin with decode"),
        (["preprocess.eval=[decode,resize,central_crop]"], "central_crop after resize"),
        (["train.accumulate_steps=5"], "cannot be split into train.accumulate_steps=5 equal parts; the nearest"),
        (
            ["mixing=mixup", "train.global_batch_size=6", "train.accumulate_steps=2"],
            "makes parts of 3; make it 8, or set",
        ),
        (
            ["optimizer=SGD"],
            "optimizer=SGD does not exist; allowed: adam, adamw, rmsprop, sgd; did you mean optimizer=sgd?",
        ),
        (["model=resnet50"], "; did you mean model=keras_application model.name=ResNet50?"),
        (["data=image_folder"], "\nset it: data.root=…"),
        (["mixing=mixpu"], "mixing=mixpu does not exist; allowed: cutmix, mixup, mixup_cutmix, none; did you mean"),
        (["preprocess.random_erasing.min_area=0.5"], "min_area=0.5 is above its max_area=0.3333333333333333"),
        (["preprocess.train=[decode,resize,rand_augment,central_crop]"], "central_crop after resize"),
        (["evaluation.weights=ema"], "evaluation.weights=ema needs an average"),
        (["on_existing=maybe"], "on_existing is 'maybe', but must be one of fail, resume"),
        (["model=null"], "Config group override must be a string or a list"),
        (["train=null"], "train is null, but must be a section of keys"),
        (["data=image_folder"], "data.root is not set: directory of the class folders"),
        (["data=image_folder", "data.root="], "data.root is empty, but must be a path"),
        (["data=image_folder", "data.root=x", "data.validation_share=1"], "must be above 0 and below 1"),
        (["data=tfrecord", "data.root=x"], "set data.num_classes=N, or data.labels_file=FILE"),
        (["data=tfrecord", "data.root=x", "data.num_classes=2", "data.labels_file=n"], "leave data.num_classes null"),
        (
            ["data.root=x"],
            "data.root is not a key of data=digits; it is one of data=image_folder, data=parquet, data=table",
        ),
        (["optimizer=sgd", "optimizer.beta_1=0"], "is not a key of optimizer=sgd; it is one of optimizer=adam, "),
        (["run_dir=null"], "run_dir is not set: where the run lives"),
        (["model.name=ResNet50"], "choose the option that brings them: model=keras_application model.name=ResNet50"),
        (["optimizer.name=adamw"], "choose the option that brings them: optimizer=adamw"),
        (["schedule.name=constant"], "without its keys: schedule.decay_steps is none of them\nchoose the option that"),
        (["mixing.name=mixup"], "choose the option that brings them: mixing=mixup"),
        (["data.name=synthetic"], "choose the option that brings them: data=synthetic"),
        (["experiment=inception_v3_paper", "schedule=constant"], "schedule.decay_rate is set, and is not a key of"),
        (["+model.foo=1"], "unknown key model.foo=1"),
    ],
)
def test_a_wrong_configuration_is_refused_in_at_most_three_lines(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        compose(*arguments)
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 3


@pytest.mark.parametrize("option", ["optimizer=adamw", "optimizer=sgd", "optimizer=rmsprop", "schedule=constant"])
def test_every_option_composes_to_a_valid_configuration(option: str) -> None:
    group, name = option.split("=")
    assert getattr(compose(option), group).name == name


def test_every_group_option_in_conf_is_a_variant_of_the_schema() -> None:
    directory = configuration_directory()
    for group in ("model", "optimizer", "schedule", "data", "preprocess", "mixing"):
        for option in sorted((directory / group).glob("*.yaml")):
            compose(f"{group}={option.stem}", *NEEDED.get(option.stem, ()))


def test_every_key_is_declared_with_a_meaning_and_a_resume_policy() -> None:
    for path, _, fact in leaves(complete(compose(), 100, 10)):
        assert fact.doc, path
        assert fact.resume in ("free", "consent", "fixed"), path


def test_a_stored_configuration_reads_back_equal() -> None:
    config = complete(compose("optimizer=rmsprop", "schedule=exponential"), 1438, 10)
    assert stored.from_text(stored.to_text(config)) == config


def test_a_stored_configuration_is_complete() -> None:
    config = complete(compose("schedule=exponential", "schedule.warmup_epochs=0.5"), 1000, 10)
    assert config.model.num_classes == 10
    assert config.schedule.warmup_steps == 16  # 0.5 x 1000 / 32, rounded up
    assert config.evaluation.every_steps == 32
    assert [path for path, value, fact in leaves(config) if fact.completed and value is None] == []


def test_a_stored_interpolation_stays_text_and_is_refused_by_type() -> None:
    text = stored.to_text(complete(compose(), 100, 10)).replace("seed: 0", "seed: ${oc.env:HOME}")
    with pytest.raises(UsageError, match=r"seed is '\${oc.env:HOME}', but must be an integer"):
        stored.from_text(text)


def test_a_missing_key_in_a_stored_configuration_is_named() -> None:
    text = stored.to_text(complete(compose(), 100, 10)).replace("seed: 0\n", "")
    with pytest.raises(UsageError, match="missing key seed"):
        stored.from_text(text)


def test_steps_win_over_epochs_and_epochs_round_up() -> None:
    config = compose("train.epochs=1.5", "train.global_batch_size=32")
    assert total_steps(config, 100) == 5
    assert total_steps(with_leaves(config, {"train.steps": 7}), 100) == 7


def continued(config: Config, values: dict[str, object]) -> Config:
    wanted = override(config, values)
    return adopt(config, wanted, changes(config, wanted))


def test_changes_carry_both_values_and_the_policy_of_their_key() -> None:
    config = complete(compose("train.steps=10"), 100, 10)
    found = changes(config, override(config, {"train.steps": 20, "seed": 1, "model.activation": "elu"}))
    assert [(str(change), change.policy) for change in found] == [
        ("seed: 0 -> 1", "consent"),
        ("model.activation: relu -> elu", "fixed"),
        ("train.steps: 10 -> 20", "free"),
    ]


def test_another_variant_of_a_section_is_one_change() -> None:
    config = complete(compose(), 100, 10)
    wanted = compose("schedule=constant", "schedule.warmup_steps=3")
    (change,) = changes(config, wanted)
    assert str(change) == "schedule.name: cosine -> constant"
    assert adopt(config, wanted, [change]).schedule == wanted.schedule


def test_a_resume_in_epochs_replaces_stored_steps() -> None:
    config = complete(compose("train.steps=10"), 100, 10)
    assert total_steps(continued(config, {"train.epochs": 3}), 100) == 10  # ceil(3 x 100 / 32)
    cadence = continued(config, {"evaluation.every_epochs": 2})
    assert complete(cadence, 100, 10).evaluation.every_steps == 7


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["optimizer=sgd"], ["optimizer.name: adam -> sgd (fixed)"]),
        (["optimizer.name=sgd"], ["optimizer.name: adam -> sgd (fixed)"]),
        (["optimizer=sgd", "optimizer.momentum=0.5"], ["optimizer.name: adam -> sgd (fixed)"]),
        (["optimizer=adam"], []),
        (["schedule=constant"], ["schedule.name: cosine -> constant (consent)"]),
        (["schedule.name=exponential"], ["schedule.name: cosine -> exponential (consent)"]),
        (["mixing=mixup"], ["mixing.name: none -> mixup (consent)"]),
        (["mixing=none", "seed=3"], ["seed: 0 -> 3 (consent)"]),
        (["model=keras_application"], ["model.name: inception_v3 -> ResNet50V2 (fixed)"]),
        (["model.name=ResNet50"], ["model.name: inception_v3 -> ResNet50 (fixed)"]),
        (["data=image_folder", "data.root=/x"], ["data.name: digits -> image_folder (fixed)"]),
        (["preprocess=rand_augment"], ["preprocess.resize.antialias: False -> True (consent)"]),
        (["preprocess=inception"], []),
        (["experiment=renamed"], ["experiment: digits -> renamed (free)"]),
    ],
)
def test_a_group_is_chosen_on_resume_as_in_train_and_only_another_type_changes_something(
    arguments: list[str], changed: list[str]
) -> None:
    config = complete(compose("optimizer.learning_rate=0.1", "train.steps=10"), 100, 10)
    wanted = override(config, parse_arguments(arguments))
    found = [f"{change} ({change.policy})" for change in changes(config, wanted)]
    assert found[: len(changed)] == changed
    assert bool(found) == bool(changed)
    assert wanted.preprocess.image_size == 75, "the network was built for it"


def test_the_keys_of_another_type_come_with_it() -> None:
    config = complete(compose("train.steps=10"), 100, 10)
    wanted = override(config, parse_arguments(["schedule=exponential", "schedule.decay_steps=7"]))
    assert (wanted.schedule.decay_steps, wanted.schedule.decay_rate) == (7, 0.94)  # type: ignore[union-attr]
    assert adopt(config, wanted, changes(config, wanted)).schedule == wanted.schedule
    other = complete(compose("model=keras_application", "model.name=ResNet50"), 100, 10)
    assert override(other, {"model.name": "VGG16"}).model.name == "VGG16"
    assert override(other, {"model": "keras_application"}) == other


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["data=image_folder"], RestoreRefused, r"data\.name: digits -> image_folder; nothing was restored"),
        (["data.name=tfds"], RestoreRefused, r"data\.name cannot change on resume"),
        (["optimizer=sgd", "optimizer.beta_1=0.3"], RestoreRefused, r"optimizer\.name: adam -> sgd"),
        (["experiment=images"], RestoreRefused, "experiment=images is a recipe for a new run"),
        (["optimizer=foo"], UsageError, "optimizer=foo does not exist; allowed: adam, adamw"),
        (["mixing.name=mixpu"], UsageError, "did you mean mixup"),
        (["schedule=constant", "schedule.decay_steps=3"], UsageError, "decay_steps is not a key of schedule=constant"),
        (["optimizer.rho=0.3"], UsageError, "optimizer.rho is not a key of optimizer=adam; it is one of optimizer=rms"),
        (["train=3"], UsageError, "unknown key train=3"),
        (["init_from=x.h5"], UsageError, "init_from=x.h5 belongs to train, which begins a run"),
        (["on_existing=restart"], UsageError, "on_existing=restart belongs to train, which begins a run"),
    ],
)
def test_what_a_resume_cannot_choose_is_refused_for_its_own_reason(
    arguments: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        override(complete(compose("train.steps=10"), 100, 10), parse_arguments(arguments))


def test_the_same_command_line_resumes_without_a_change() -> None:
    composed = compose("train.steps=10")
    assert changes(complete(composed, 100, 10), composed) == []


def test_parse_refuses_what_is_not_a_section() -> None:
    with pytest.raises(UsageError, match="the configuration is 3"):
        parse(Config, 3)


def test_frozen_dataclasses_hold_the_configuration() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        compose().seed = 1  # type: ignore[misc]
    assert all(facts(field).doc for field in dataclasses.fields(Invocation))


def test_configuration_files_hold_plain_values_only() -> None:
    for path in configuration_directory().rglob("*.yaml"):
        assert "_target_" not in OmegaConf.to_yaml(OmegaConf.load(path)), path


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["train", "--help"],
        ["train", "--cfg", "job"],
        ["resume", "--help"],
        ["diff", "--help"],
        ["inspect", "--help"],
        ["doctor", "--help"],
        ["check-data", "--help"],
        ["check-data", "data=image_folder"],
        ["prepare-data", "--help"],
        ["prepare-data", "data=image_folder", "output=x"],
        ["doctor", "checkpoint=nowhere", "model.widht=1"],
        ["train", "train.stesp=1"],
        ["resume"],
        ["trian"],
    ],
)
def test_answers_that_need_no_tensorflow_do_not_import_it(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom trainer.__main__ import run\n"
        "try:\n    status = run(sys.argv[1:])\nexcept SystemExit as stop:\n    status = stop.code\n"
        "loaded = [name for name in ('tensorflow', 'keras') if name in sys.modules]\n"
        "print('LOADED', loaded, 'STATUS', status)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    expected = 0 if {"--help", "--cfg"} & set(arguments) else 2
    assert f"LOADED [] STATUS {expected}" in process.stdout.replace("STATUS None", "STATUS 0"), process.stderr
    assert list(tmp_path.iterdir()) == []


def test_exit_status_2_and_no_traceback_for_a_usage_error(trainer: Trainer) -> None:
    output = trainer.run("train", "train.steps=-1", status=2)
    assert output == (
        "error: train.steps is -1, but must be at least 0: length of the run in optimizer steps; null: epochs\n"
    )
    assert [path.name for path in trainer.cwd.iterdir() if path.suffix != ".log"] == []


def test_resume_of_a_directory_that_does_not_exist_exits_2(trainer: Trainer) -> None:
    assert "run_dir=nowhere does not exist" in trainer.run("resume", "run_dir=nowhere", status=2)
    assert "resume needs run_dir" in trainer.run("resume", "rundir=nowhere", status=2)


@pytest.mark.parametrize(
    "override",
    [
        "experiment=${oc.env:SECRET}",
        "data=image_folder data.root=${oc.env:SECRET}",
        "experiment=${oc.decode:x}",
        "experiment=${oc.create:x}",
        "run_dir=${oc.env:SECRET}",
        "hydra.job.env_set={A:${oc.env:SECRET}}",
        "experiment=${${x}.env:SECRET}",
    ],
)
def test_a_secret_of_the_environment_cannot_get_into_a_stored_configuration(
    override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    with pytest.raises(UsageError, match="is not allowed, because its result would be stored") as refused:
        compose(*override.split())
    assert "hunter2" not in str(refused.value)


def test_an_interpolation_that_leads_nowhere_is_a_usage_error_of_every_command() -> None:
    """It is found when the configuration is resolved, after Hydra has composed it."""
    for by in (compose, lambda *arguments: compose_run(arguments)):
        with pytest.raises(UsageError, match="seed cannot be resolved: Interpolation key 'nowhere' not found"):
            by("seed=${nowhere}")


@pytest.mark.parametrize(("text", "message"), [("${seed}", "interpolations"), ("a\tb", "control characters")])
def test_a_text_that_could_not_be_read_back_is_refused_when_it_is_given(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        override(compose(), {"experiment": text})
