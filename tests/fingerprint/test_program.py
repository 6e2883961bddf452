"""What all processes of a run must have alike: found in this process, without what may differ between machines."""

from __future__ import annotations

from pathlib import Path

import pytest
from composing import compose
from small_plugin import SMALL, install, installed_here

from trainer.config.compose import compose_run
from trainer.distributed.agreement import differences
from trainer.errors import ProcessesDiffer
from trainer.fingerprint import program


def odd_facts(left: program.Facts, right: program.Facts) -> list[str]:
    return [name for _, name, _, _ in differences({0: left, 1: right})]


def asked(*overrides: str) -> program.Facts:
    return program.asked_to_train(*compose_run(overrides))


def test_every_file_of_the_program_has_a_digest() -> None:
    facts = program.of_process({})
    files = [name for name in facts if name.startswith("code of trainer/")]
    assert len(files) > 200
    assert facts["code of trainer/training/losses.py"] != facts["code of trainer/training/step.py"]
    assert odd_facts(facts, program.of_process({})) == []


def test_an_edit_of_one_file_is_a_difference_of_that_file(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place / "inner").mkdir(parents=True)
        (tmp_path / place / "inner" / "loss.py").write_text("smoothing = 1\n")
        (tmp_path / place / "__init__.py").write_text("")
    (tmp_path / "two" / "inner" / "loss.py").write_text("smoothing = 2\n")
    sides = [program.code("package", tmp_path / place) for place in ("one", "two")]
    assert odd_facts(*sides) == ["code of package/inner/loss.py"]


@pytest.mark.parametrize(
    ("override", "odd"),
    [
        ("seed=2", ["seed"]),
        ("train.label_smoothing=0.3", ["train.label_smoothing"]),
        ("runtime.precision=mixed_bfloat16", ["runtime.precision"]),
        ("on_existing=resume", ["on_existing"]),
        ("optimizer.learning_rate=0.5", ["optimizer.learning_rate"]),
    ],
)
def test_what_a_process_was_asked_for_differs_by_key(override: str, odd: list[str]) -> None:
    assert odd_facts(asked("run_dir=a"), asked("run_dir=a", override)) == odd


@pytest.mark.parametrize(
    "place", ["run_dir=b", "init_from=/local/weights.h5", "checkpoint.mirror=/local/mirror", "hydra.run.dir=/local/log"]
)
def test_places_may_differ(place: str) -> None:
    assert odd_facts(asked("run_dir=a"), asked("run_dir=a", place)) == []


def test_the_place_of_the_data_may_differ() -> None:
    here, there = (asked("data=image_folder", f"data.root=/{place}/images") for place in ("fast", "local"))
    assert odd_facts(here, there) == []


def test_a_resume_is_compared_by_the_keys_that_it_changes() -> None:
    one = program.asked_to_resume({"train.steps": 9, "data.root": "/here"}, ["data"])
    assert odd_facts(one, program.asked_to_resume({"train.steps": 9, "data.root": "/there"}, ["data"])) == []
    assert odd_facts(one, program.asked_to_resume({"train.steps": 10}, ["data"])) == ["train.steps"]
    assert odd_facts(one, program.asked_to_resume({"train.steps": 9}, [])) == ["allow"]
    assert "command" in odd_facts(one, asked("run_dir=a"))


def test_variables_that_choose_kernels_must_agree_and_places_among_them_need_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = program.of_process({})
    monkeypatch.setenv("CUDNN_PATH", "/opt/cudnn")
    monkeypatch.setenv("CUDNN_VERSION", "9.1")
    monkeypatch.setenv("HOSTNAME", "another")
    assert odd_facts(before, program.of_process({})) == []
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert odd_facts(before, program.of_process({})) == ["the variable TF_ENABLE_ONEDNN_OPTS"]


def test_another_version_of_what_computes_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    before = program.of_process({})
    version = program.metadata.version
    monkeypatch.setattr(program.metadata, "version", lambda name: "0.1" if name == "numpy" else version(name))
    assert odd_facts(before, program.of_process({})) == ["numpy"]


def test_the_code_of_the_plug_ins_that_a_run_uses_is_compared_and_of_no_others(tmp_path: Path) -> None:
    install(tmp_path)
    with installed_here(tmp_path):
        facts = program.plugin_code(compose(*SMALL))
        assert {f"code of trainer_small/{name}" for name in ("__init__.py", "journal.py", "paced.py")} == facts.keys()
        assert program.plugin_code(compose()) == {}
    edited = {**facts, "code of trainer_small/paced.py": "0"}
    program.refuse_other_code(facts, facts, 1)
    with pytest.raises(
        ProcessesDiffer, match=r"worker 1, process .* has code of trainer_small/paced\.py: 0; the others"
    ):
        program.refuse_other_code(facts, edited, 1)
