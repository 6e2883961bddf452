"""Whether a run may continue from a checkpoint with this program, data and configuration, and if not, exactly why.

Everything is compared before a single variable is restored. Either a changed configuration key explains a difference,
or the configuration does not show it: edited code, another image library, other data.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.checkpoint.manifest import Manifest
from trainer.command_line import changing_command, consent, place_beside
from trainer.config import plugins, reproduction, stored
from trainer.config.override import Change
from trainer.errors import RestoreRefused, UsageError, nearest, warn
from trainer.fingerprint import facts, surroundings
from trainer.fingerprint.facts import KINDS, STEP, Fact, FactDifference

SHOWN_CHANGES = 6
# Differences that may be accepted although no configuration key explains them. Another network structure never may.
ALLOWABLE_KINDS = ("data", "optimizer", "schedule", "behaviour", STEP)
EXACTNESS_PACKAGES = ("tensorflow", "keras", "numpy")
LIBRARIES_OF_GPUS = ("cuDNN", "TensorFloat-32")
REPLICAS = "replicas"
SAME_EXAMPLES = "; it sees the same examples, and rounds otherwise"  # on another number of replicas
DEVICES = ("device", REPLICAS, *LIBRARIES_OF_GPUS)
IMAGE_SIZE = "preprocess.image_size"
AUX_LOGITS = "model.aux_logits"
AUX_LAYERS = "layer aux_logits."  # how the places of facts about the auxiliary head begin
KIND_TITLES = {
    "data": "the data is not the data the checkpoint was trained on",
    "structure": "the code builds another network from the same configuration",
    "optimizer": "the code makes another optimizer from the same configuration",
    "schedule": "the code makes another schedule from the same configuration",
    "behaviour": "the input pipeline does something else with the same configuration (edited code or another library)",
    STEP: "a step does something else with the same configuration (edited code or another library)",
}


@dataclasses.dataclass(frozen=True)
class Request:
    """A resume: what a refusal needs to print the command that is meant.

    ``values`` are the keys and groups that were asked for. ``checkpoint`` is the argument that chooses the checkpoint,
    where it is not the newest of the run.
    """

    run_dir: Path
    values: Mapping[str, Any]
    checkpoint: Sequence[str]

    def command(self, allow: Sequence[str]) -> str:
        """The same resume with these names allowed."""
        return changing_command(self.run_dir, self.values, dict.fromkeys(allow), *self.checkpoint)


def judge_stored(
    checkpoint: Path,
    manifest: Manifest,
    found: Sequence[Fact],
    current: Mapping[str, str],
    changes: Sequence[Change],
    allow: Sequence[str],
    matters: Callable[[Fact], bool] = lambda fact: True,
    request: Request | None = None,
) -> tuple[str, ...]:
    """Compare the program that a checkpoint describes with the facts ``found`` and the versions ``current`` here.

    Facts that do not ``matter`` are left out. Prints a warning for each version that differs. Returns what was
    accepted, as ``judge`` does.

    Raises:
        NoValidCheckpoint: its fingerprint cannot be understood.
        UsageError, RestoreRefused: as in ``judge``.
    """
    logical = stored.read(checkpoint / stored.FILE_NAME).train.logical_replicas
    for warning in version_warnings(manifest.versions, current, any_layout=logical is not None):
        warn(warning)
    there = facts.of_checkpoint(checkpoint)
    if not facts.records_steps(there):
        warn(f"{checkpoint} does not record what a step does (an older program wrote it), so that is not compared")
    compared = [list(filter(matters, side)) for side in facts.comparable(there, found)]
    allowed = plugins.other_names(allow, manifest.versions)
    return judge(checkpoint, changes, facts.differences(*compared), allowed, request)


def judge(
    checkpoint: Path,
    changes: Sequence[Change],
    differences: Sequence[FactDifference],
    allow: Sequence[str],
    request: Request | None = None,
) -> tuple[str, ...]:
    """Decide by the policy of every changed key.

    Returns what was accepted, as text for the lineage: configuration changes and unexplained differences.

    ``request`` is the resume that is judged; None when the checkpoint is only read.

    Free keys are accepted. Keys that need consent are accepted when ``allow`` names them or a section that has them.
    Fixed keys are never accepted. A difference that no changed key explains is accepted when ``allow`` names its kind.

    Raises:
        UsageError: ``allow`` names something that did not change or can never be allowed.
        RestoreRefused: at least one change is not accepted. The message names the first causes with both values, what
            to do, and a file with the full list.
    """
    refused = [change for change in changes if not _is_accepted(change, allow)]
    unexplained = _roots([difference for difference in differences if not _explained_by(difference, changes)])
    kinds = [kind for kind in KINDS if any(difference.fact.kind == kind for difference in unexplained)]
    refused_kinds = [kind for kind in kinds if kind not in allow]
    _check_allow(checkpoint, allow, changes, differences, request, something_refused=bool(refused or refused_kinds))
    if refused or refused_kinds:
        advice = _advice(checkpoint, refused, refused_kinds, allow, request)
        read_only = refused_kinds if request is None and set(refused_kinds) <= set(ALLOWABLE_KINDS) else ()
        raise RestoreRefused(_report(checkpoint, refused, refused_kinds, unexplained, differences, advice), read_only)
    accepted = [str(change) for change in changes]
    accepted += [f"{kind}: {next(d for d in unexplained if d.fact.kind == kind)}" for kind in kinds]
    return tuple(accepted)


def _is_accepted(change: Change, allow: Sequence[str]) -> bool:
    return change.policy == "free" or (change.policy == "consent" and any(_covers(key, change.path) for key in allow))


def _covers(section: str, path: str) -> bool:
    return path == section or path.startswith(f"{section}.")


def _explained_by(difference: FactDifference, changes: Sequence[Change]) -> bool:
    # a free key changes no result, so it explains no difference: moved data (data.root) must still be the same data
    return any(change.policy != "free" and _concerns(change, difference) for change in changes)


def _roots(differences: Sequence[FactDifference]) -> list[FactDifference]:
    """The differences without consequences of others. Other data have consequences, such as the order of another number
    of records. Another schedule or other mixing changes what a step does.
    """
    other_data = any(difference.fact.kind == "data" for difference in differences)
    known = {key for difference in differences if difference.fact.kind != STEP for key in difference.fact.keys}
    return [
        d
        for d in differences
        if d.fact.kind == "data"
        or not ((other_data and "data" in d.fact.keys) or (d.fact.kind == STEP and known & set(d.fact.keys)))
    ]


def _concerns(change: Change, difference: FactDifference) -> bool:
    if change.path == IMAGE_SIZE and difference.fact.kind == "structure":
        return True  # it decides every shape behind the input, and which layers of the auxiliary head there can be
    if change.path == AUX_LOGITS and difference.fact.where.startswith(AUX_LAYERS):
        return True  # it decides whether these layers exist
    path = change.path.removesuffix(".name")
    return any(_covers(key, path) or _covers(path, key) for key in difference.fact.keys)


def _check_allow(
    checkpoint: Path,
    allow: Sequence[str],
    changes: Sequence[Change],
    differences: Sequence[FactDifference],
    request: Request | None,
    *,
    something_refused: bool,
) -> None:
    """Check the names in ``allow``. Where something is refused, a name that allows nothing is a typing error.
    Elsewhere it belongs to a command that runs again, for example by a scheduler, after its changes were accepted.
    """
    possible = {change.path for change in changes} | {difference.fact.kind for difference in differences}
    for name in allow:
        fixed = [change for change in changes if change.policy == "fixed" and _covers(name, change.path)]
        if fixed:
            raise UsageError(
                f"{consent([name])} is not possible: {fixed[0]} decides which variables exist or what they mean"
                + "".join(f"\n{line}" for line in _new_run(checkpoint, fixed, request))
            )
        if name in KINDS and name not in ALLOWABLE_KINDS:
            raise UsageError(
                f"{consent([name])} is not possible: a network of another structure cannot take these weights"
            )
        used = any(_covers(name, change.path) for change in changes) or name in possible
        if not used and something_refused:
            raise UsageError(f"{consent([name])} names nothing that changed{nearest(name, possible)}")


def _report(
    checkpoint: Path,
    refused: Sequence[Change],
    refused_kinds: Sequence[str],
    unexplained: Sequence[FactDifference],
    differences: Sequence[FactDifference],
    advice: Sequence[str],
) -> str:
    lines = [f"{checkpoint} does not match what was asked for; nothing was restored or changed"]
    for change in refused[:SHOWN_CHANGES]:
        lines.append(f"  {change}")
        lines += [f"    {line}" for line in _consequence([d for d in differences if _concerns(change, d)])]
    if len(refused) > SHOWN_CHANGES:
        lines.append(f"  and {len(refused) - SHOWN_CHANGES} more keys")
    for kind in refused_kinds:
        of_kind = [difference for difference in unexplained if difference.fact.kind == kind]
        lines.append(f"  {KIND_TITLES[kind]}")
        lines += [f"    {line}" for line in _consequence(of_kind)]
        lines.append(f"    look at {of_kind[0].fact.file}")
    lines += advice
    lines.append(_full_list(refused, differences))
    return "\n".join(lines)


def _consequence(differences: Sequence[FactDifference]) -> list[str]:
    """The first difference; the others follow from it downstream."""
    if not differences:
        return []
    more = f" (and {len(differences) - 1} that follow)" if len(differences) > 1 else ""
    return [f"first: {differences[0]}{more}"]


def _advice(
    checkpoint: Path,
    refused: Sequence[Change],
    refused_kinds: Sequence[str],
    allow: Sequence[str],
    request: Request | None,
) -> list[str]:
    fixed = [change for change in refused if change.policy == "fixed"]
    names = [change.path for change in refused if change.policy == "consent"]
    names += [kind for kind in refused_kinds if kind in ALLOWABLE_KINDS]
    lines = []
    if fixed:
        new_run = _new_run(checkpoint, fixed, request)
        lines.append(f"{fixed[0].path} cannot change on resume: leave it as stored{', or' if new_run else ''}")
        lines += new_run
    elif "structure" in refused_kinds:
        lines.append("use the code that wrote the checkpoint (its commit is in manifest.json)")
    elif names:
        lines.append(f"leave it as it was, or accept that the run is no longer the same: {consent(names)}")
        if request is not None:
            lines.append(f"  {request.command([*allow, *names])}")
    return lines


def _new_run(checkpoint: Path, fixed: Sequence[Change], request: Request | None) -> list[str]:
    """The command of a new run that has what a resume cannot change to; none when the checkpoint is only read."""
    if request is None:
        return []
    config = stored.read(checkpoint / stored.FILE_NAME)
    same = not any(change.path.startswith("model.") for change in fixed)  # weights fit the same structure only
    place = place_beside(request.run_dir, "new")
    try:
        command = reproduction.command_with(config, request.values, place, checkpoint if same else None)
    except UsageError:  # of an option that is gone, or of a plug-in that is not installed
        return []
    return [f"start a new run{' from its weights' if same else ''}:", f"  {command}"]


def _full_list(refused: Sequence[Change], differences: Sequence[FactDifference]) -> str:
    """Write the full list and say where it is. It goes into the temporary directory, because a refusal writes nothing
    into the run directory. If that cannot be written, the text says so instead.
    """
    text = "".join(
        [
            *(f"config  {change}  ({change.policy})\n" for change in refused),
            *(f"{d.fact.kind}  {d}  ({', '.join(d.fact.keys)}; {d.fact.file})\n" for d in differences),
        ]
    )
    path = None
    try:
        descriptor, path = tempfile.mkstemp(prefix="trainer-refused-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        if path is not None:
            os.unlink(path)
        return f"the full list could not be written ({error.strerror}): choose another place with TMPDIR=DIRECTORY"
    return f"the full list: {path}"


def version_warnings(stored: Mapping[str, str], current: Mapping[str, str], *, any_layout: bool = False) -> list[str]:
    """Differences in numerical libraries, devices and surroundings. They end bit-exactness and nothing else. With
    ``any_layout``, the run has the same bits on any number of replicas.
    """
    names = [name for name in (*EXACTNESS_PACKAGES, *DEVICES) if name != REPLICAS or not any_layout]
    lines = [
        f"{name} was {stored[name]} and is {current[name]}: training goes on, but bit-exactness is not promised"
        f"{SAME_EXAMPLES if name == REPLICAS else ''}"
        for name in names
        if name in stored and name in current and stored[name] != current[name]
    ]
    for name, before, now, remedy in surroundings.differences(stored, current):
        line = f"{name} was {before} and is {now}: training goes on, but bit-exactness is not promised"
        lines.append(f"{line}; as it was: {remedy}" if remedy else line)
    return lines


def worker_differences(chief: Mapping[str, str], own: Mapping[str, str]) -> list[str]:
    """In which libraries and plug-ins a process differs from its chief, besides what they compared when they met:
    these are known once both have computed on their devices.
    """
    plugged = [name for name in chief if name.startswith(plugins.RECORDED)]
    return [
        f"{name}: {own[name]}; the chief has: {chief[name]}"
        for name in (*plugged, *LIBRARIES_OF_GPUS)
        if name in chief and name in own and chief[name] != own[name]
    ]


def worker_warnings(rank: int, chief: Mapping[str, str], own: Mapping[str, str]) -> list[str]:
    """What differs between process ``rank`` of a run and its chief. The manifest records the chief's values only."""
    found = [("device", chief["device"], own["device"])] if chief["device"] != own["device"] else []
    found += [
        (name, there, here)
        for name, there, here, _ in surroundings.differences(chief, own)
        if name in (surroundings.PROCESSOR, surroundings.INSTRUCTION_SET)  # other variables are refused
    ]
    return [
        f"{name} is {here} in worker {rank} and {there} in the chief: with another placement of the processes the last "
        "bits differ"
        for name, there, here in found
    ]
