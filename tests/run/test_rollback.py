"""Which examples a rollback leaves out, where it goes back to, and how a run begins to roll back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from composing import compose

from trainer.checkpoint.tensors import StateFile
from trainer.config import additions
from trainer.config.complete import complete, with_leaves
from trainer.config.override import changes
from trainer.config.schema import Config
from trainer.distributed.peers import Message
from trainer.errors import Diverged, ProcessesDiffer, UsageError
from trainer.run import rollback
from trainer.run.assembly import Assembly
from trainer.run.rollback import Agreement
from trainer.training.state import build_state, flatten

STEP_12 = Diverged("the training loss is nan", "", 12, 88, 96)


def rolling(*overrides: str) -> Config:
    return complete(compose("train.on_divergence=rollback", *overrides), 100, 10)


def test_each_time_a_step_diverges_again_twice_as_many_batches_before_it_are_left_out() -> None:
    config = rolling()
    for _ in range(5):
        config = rollback._without(config, STEP_12)
    assert config.train.skip_examples == ("88-95", "80-95", "64-95", "32-95", "0-95")
    elsewhere = rollback._without(config, Diverged("", "", 13, 96, 104))
    assert elsewhere.train.skip_examples[-1] == "96-103", "the entries of other steps do not count"


def test_a_command_that_is_given_again_keeps_what_the_run_has_added_and_a_resume_may_take_it_away() -> None:
    begun = rolling("train.skip_examples=[1-2]")
    grown = with_leaves(begun, {"train.skip_examples": ("1-2", "88-95")})
    assert changes(grown, begun, whole=True) == []
    assert [str(each) for each in changes(grown, begun)] == ["train.skip_examples: ('1-2', '88-95') -> ('1-2',)"]
    other = with_leaves(begun, {"train.skip_examples": ("3-4",)})
    assert [each.policy for each in changes(grown, other, whole=True)] == ["consent"]


@pytest.mark.parametrize("entry", ["7", "9-8", "a-b", "-1-2", "1-2-3", "", "1 - 2"])
def test_an_entry_that_is_no_range_is_refused(entry: str) -> None:
    with pytest.raises(UsageError, match=r"train\.skip_examples has .* ranges FIRST-LAST"):
        compose(f"train.skip_examples=['{entry}']")


def test_a_process_that_has_seen_another_step_diverge_is_refused() -> None:
    told: Message = Agreement(12, 88, "text").message()
    Agreement.of(told).refuse_unless_of(STEP_12, "worker 1, process 7 on a")
    with pytest.raises(
        ProcessesDiffer, match="worker 1, process 7 on a, has seen step 13 diverge, and the chief step 12"
    ):
        Agreement.of(told).refuse_unless_of(Diverged("", "", 13, 96, 104), "worker 1, process 7 on a")


def test_a_run_may_begin_to_roll_back_and_cease_and_everything_else_is_restored(
    small: tuple[str, ...], tmp_path: Path
) -> None:
    def assembly(on: str) -> Assembly:
        config = complete(compose(*small, f"train.on_divergence={on}"), 40, 10)
        state = build_state(config)
        return Assembly(config, state, StateFile(state.tree(), flatten(state.tree())))

    def content(of: Assembly) -> dict[str, Any]:
        return {name: variable.numpy().tobytes() for name, variable in flatten(of.state.tree()).items()}

    both = {on: assembly(on) for on in ("stop", "rollback")}
    first = content(both["rollback"])
    for on, one in both.items():
        one.state.progress.step.assign(7)
        for variable in one.state.divergence.values():
            variable.assign(3)
        (tmp_path / on).mkdir()
        one.state_file.write(one.state_file.snapshot(), tmp_path / on)
    manifest: Any = dataclasses.make_dataclass("Manifest", ["step"])(7)
    for stored, wanted in (("stop", "rollback"), ("rollback", "stop"), ("rollback", "rollback")):
        expected = content(both[stored])
        restored = both[wanted]
        restored.state.progress.step.assign(1)
        restored.restore(tmp_path / stored, manifest, both[stored].config)
        for name, value in content(restored).items():
            begun = name.startswith("divergence/") and stored == "stop"
            assert value == (first if begun else expected)[name], (stored, wanted, name)
        both["rollback"].restore(tmp_path / "rollback", manifest)


def test_a_checkpoint_of_earlier_versions_stops_as_before() -> None:
    container: dict[str, Any] = {"train": {}}
    additions.with_additions(container)
    assert container["train"]["on_divergence"] == "stop"
    container["divergence"]["factor"] = 0.0
    assert additions.with_additions({"train": {}})["divergence"]["factor"] > 0, "each has its own"
