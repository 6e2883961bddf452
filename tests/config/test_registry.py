"""The registry: every option has keys, values and a builder, and nothing is imported to know them."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest
import yaml

from trainer.config import plugins, registry
from trainer.config.compose import configuration_directory
from trainer.config.schema.optimization import AdamConfig, OptimizerPlugin

ROOT = Path(__file__).resolve().parents[2]
# group → where the values of its options are, and which package implements them
KINDS = {
    plugins.MODELS: ("model", "models"),
    plugins.OPTIMIZERS: ("optimizer", "training"),
    plugins.SCHEDULES: ("schedule", "training"),
    plugins.SOURCES: ("data", "data"),
    plugins.TRANSFORMS: (plugins.TRANSFORM_VALUES, "data"),
}
# declared by each variant at a place of its own; mypy believes the base to have them
OWED = {plugins.MODELS: {"weight_decay", "weight_decay_on", "batch_norm"}, plugins.OPTIMIZERS: {"clip_norm"}}


@pytest.mark.parametrize("group", plugins.GROUPS)
def test_every_builder_stands_in_the_package_of_its_kind(group: str) -> None:
    for keys in registry.variants(group):
        module, _, attribute = registry.builder_place(keys).partition(":")
        assert module.startswith(f"trainer.{KINDS[group][1]}."), keys
        body = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text()).body
        assert attribute in {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}, keys


@pytest.mark.parametrize("group", plugins.GROUPS)
def test_every_option_has_its_values_in_conf(group: str) -> None:
    files = (configuration_directory() / KINDS[group][0]).glob("*.yaml")
    there = {yaml.safe_load(file.read_text())["name"] for file in files}
    for keys in registry.variants(group)[:-1]:
        names = {name for name in registry.own_names(group) if registry.keys_of(group, name) is keys}
        assert names & there, f"{keys.__name__} has no file in conf/{KINDS[group][0]}/"


@pytest.mark.parametrize("group", OWED)
def test_every_variant_declares_what_its_base_promises(group: str) -> None:
    for keys in registry.variants(group):
        assert OWED[group] <= {field.name for field in dataclasses.fields(keys)}, keys


def test_a_plug_in_cannot_take_the_name_of_an_option_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "keys_of", lambda group, name, base: OptimizerPlugin)
    assert registry.keys_of(plugins.OPTIMIZERS, "adam") is AdamConfig
    assert registry.keys_of(plugins.OPTIMIZERS, "lion") is OptimizerPlugin


def test_two_options_of_one_name_are_a_bug() -> None:
    with pytest.raises(AssertionError, match=r"two options of trainer\.optimizers are called adam"):
        registry.option(plugins.OPTIMIZERS, "trainer.training.optimizers:adam")(AdamConfig)
