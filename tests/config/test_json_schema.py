"""The JSON Schema takes every configuration that the program takes, and names what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from composing import compose

from trainer.config import json_schema, stored
from trainer.config.complete import complete
from trainer.config.compose import option_groups
from trainer.config.parse import leaves
from trainer.errors import UsageError

ROOT = Path(__file__).parents[2]
FILES = sorted(path for path in (ROOT / "conf").rglob("*.yaml") if path.parent.name in ("experiment", "conf"))
VALIDATOR = jsonschema.Draft202012Validator(json.loads((ROOT / "docs" / "configuration.schema.json").read_text()))


def stored_values(*overrides: str) -> dict[str, Any]:
    values = yaml.safe_load(stored.to_text(complete(compose(*overrides), 1000, 10)))
    assert isinstance(values, dict)
    return values


def errors(values: object) -> list[str]:
    return [".".join(map(str, error.absolute_path)) for error in VALIDATOR.iter_errors(values)]


def test_the_file_in_docs_is_current_and_a_schema() -> None:
    written = json.dumps(json_schema.document(), indent=1, ensure_ascii=False) + "\n"
    assert (ROOT / "docs" / "configuration.schema.json").read_text() == written, "run scripts/make_reference"
    jsonschema.Draft202012Validator.check_schema(json_schema.document())


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("optimizer=sgd", "schedule=exponential", "mixing=mixup_cutmix", "ema.decay=0.5", "profile=[3,5]"),
        ("experiment=images", "data=image_folder", "data.root=/x", "data.classes=[a,b]"),
        ("model=keras_application", "model.name=MobileNet", "preprocess.image_size=75", "preprocess=rand_augment"),
        ("data=tfrecord", "data.root=/x", "data.num_classes=3"),
        ("checkpoint.every_steps=auto", "preprocess.background=[1,2,3]"),
    ],
)
def test_what_the_program_stores_is_valid(overrides: tuple[str, ...]) -> None:
    assert errors(stored_values(*overrides)) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_files_of_conf_are_valid(path: Path) -> None:
    assert errors(yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", "three"),
        ("optimizer.learning_rat", 0.1),
        ("optimizer.learning_rate", 0),
        ("optimizer.name", 3),
        ("train.label_smoothing", 1.0),
        ("runtime.device", "tpu"),
        ("checkpoint.best_metric", "f1"),
        ("preprocess.normalize.mean", [0.5, 0.5]),
        ("profile", [1]),
    ],
)
def test_what_the_program_refuses_is_not_valid(key: str, value: object) -> None:
    values = stored_values()
    *sections, name = key.split(".")
    section = values
    for each in sections:
        section = section[each]
    section[name] = value
    (where,) = {error.partition(".")[0] for error in errors(values)}
    assert where == key.partition(".")[0]
    with pytest.raises(UsageError):
        stored.from_text(yaml.safe_dump(values))


def test_every_key_has_its_meaning() -> None:
    text = json.dumps(json_schema.document(), ensure_ascii=False)
    for _, _, fact in leaves(compose()):
        assert json.dumps(fact.doc, ensure_ascii=False)[1:-1] in text


def test_a_plug_in_is_known_by_its_name_alone() -> None:
    values = stored_values()
    for group in set(option_groups()) & {"model", "optimizer", "schedule", "data"}:
        values[group] = {"name": "of_a_plug_in", "anything": [1]}
    assert errors(values) == []
