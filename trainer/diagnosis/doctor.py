"""Whether a checkpoint of any format would restore into a model, and if not, the root causes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoint.verification import reading
from trainer.config import stored as config_file
from trainer.config.schema import Config
from trainer.config.schema.networks import InceptionV3Config
from trainer.diagnosis.by_name import differing_names
from trainer.diagnosis.comparison import differing
from trainer.diagnosis.expected import Expected, completed, expected_of
from trainer.diagnosis.own_checkpoint import OwnCheckpoint, examine, open_own
from trainer.diagnosis.prescription import look_command, next_command, state_command
from trainer.diagnosis.silent_settings import Setting, differing_settings
from trainer.diagnosis.wanted import setting_differences, wanted_config
from trainer.diagnosis.widths import Width
from trainer.errors import UsageError
from trainer.interchange import state_files
from trainer.interchange.bundles import damage
from trainer.interchange.contents import Contents, Kind
from trainer.interchange.findings import DAMAGE, MISMATCH, NOTE, Finding, Unusable, listed
from trainer.interchange.locate import Located, locate
from trainer.interchange.origin import origin_config
from trainer.interchange.readers import read_contents, unreadable_values
from trainer.interchange.translation import Translation, translate
from trainer.interchange.values import read_values
from trainer.storage.unreadable import readable


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """``findings`` are ordered by importance. ``status`` is the exit status they lead to.

    ``config`` is None when no configuration could be read. ``model`` says where it comes from.
    """

    path: Path
    description: str
    config: Config | None
    model: str
    findings: tuple[Finding, ...]
    next_command: str

    @property
    def status(self) -> int:
        return max((finding.status for finding in self.findings), default=NOTE)


def diagnose(path: Path, overrides: Sequence[str]) -> Diagnosis:
    """Compare the checkpoint at ``path`` with its own configuration, or the default one, with ``overrides``.

    Raises:
        UsageError: an override is wrong (``check_overrides`` says so earlier), or it asks for a network whose files
            from other programs are not understood.
        Unreadable: the system cannot read it now.
        Vanished: the run deleted the checkpoint while it was being read.
    """
    try:
        with readable(path):
            located = locate(path)
        if located.kind is Kind.OWN:
            with reading(located.path):
                return _own(located, overrides)
        contents = read_contents(located)
    except Unusable as error:
        command = next_command(path, None, overrides, [error.finding], foreign=True)
        return Diagnosis(path, "cannot be read", None, "", (error.finding,), command)
    if contents.kind is Kind.STATE:
        return _state(located, contents, overrides)
    return _foreign(located, contents, overrides)


def _state(located: Located, contents: Contents, overrides: Sequence[str]) -> Diagnosis:
    """Of a file with the whole state: what is damaged in it, and what differs from its own configuration."""
    stored, manifest = origin_config(contents), state_files.manifest_of(contents)
    wanted = completed(wanted_config(stored, overrides))
    findings = [*located.findings, *unreadable_values(contents)]
    if not findings:
        findings = _own_differences(stored, contents, wanted)
    return Diagnosis(
        path=located.path,
        description=f"{contents.description}, step {manifest.step}",
        config=wanted,
        model=_with("the configuration in it" if stored is not None else "the default configuration", overrides),
        findings=tuple(findings),
        next_command=state_command(located.path, overrides, findings),
    )


def _own(located: Located, overrides: Sequence[str]) -> Diagnosis:
    own = open_own(located.path)
    known = own.config is not None or overrides
    wanted = completed(wanted_config(own.config, overrides)) if known else None
    findings = [*located.findings, *examine(own)]
    if wanted is not None and own.contents is not None:
        findings = _attributed(findings, _own_differences(own.config, own.contents, wanted))
    source = "the config.yaml stored in it" if own.config is not None else "the default configuration"
    return Diagnosis(
        path=located.path,
        description=_own_description(own),
        config=wanted,
        model=_with(source, overrides),
        findings=tuple(findings),
        next_command=next_command(located.path, own, overrides, findings, foreign=False),
    )


def _own_differences(stored: Config | None, contents: Contents, wanted: Config) -> list[Finding]:
    """First the differences in the tensors; then the keys that differ and leave no trace in the tensors."""
    models = (wanted.model, *(() if stored is None else (stored.model,)))
    if not all(isinstance(model, InceptionV3Config) for model in models):
        findings = differing_names(contents, wanted)
        return findings if stored is None else [*findings, *setting_differences(stored, wanted, ())]
    expected = expected_of(wanted)
    translation = translate(contents)
    known = None
    if stored is not None and isinstance(stored.model, InceptionV3Config):
        known = Width(stored.model.width, stored.model.min_depth)
    findings = [
        *differing(translation, expected, known),
        *_optimizer_differences(translation, expected, stored),
        *_remaining_state(translation, expected),
    ]
    if stored is not None:
        findings += setting_differences(stored, wanted, [key for finding in findings for key in finding.keys])
    return findings


def _attributed(damages: list[Finding], differences: list[Finding]) -> list[Finding]:
    """Both. Where config.yaml itself was changed, the differences become details of that damage."""
    for number, finding in enumerate(damages):
        if finding.cause == "digest" and config_file.FILE_NAME in finding.title and differences:
            details = (*finding.details, *(f"so now {difference.title}" for difference in differences))
            return [*damages[:number], dataclasses.replace(finding, details=details), *damages[number + 1 :]]
    return [*damages, *differences]


def _own_description(own: OwnCheckpoint) -> str:
    step = f", step {own.manifest.step}" if own.manifest is not None else ""
    return f"{Kind.OWN.value}{step}"


def _with(source: str, overrides: Sequence[str]) -> str:
    return " ".join([source, *(["with", *overrides] if overrides else [])])


def _foreign(located: Located, contents: Contents, overrides: Sequence[str]) -> Diagnosis:
    config = wanted_config(None, overrides)
    if not isinstance(config.model, InceptionV3Config):
        raise UsageError(
            f"{located.path} was not written by this trainer; in such files doctor knows the names of Inception V3 "
            f"only, not those of model.name={config.model.name}: a run with init_from says what does not fit\n"
            f"look at what it holds: {look_command(located.path)}"
        )
    config = completed(config)
    expected = expected_of(config)
    translation = translate(contents)
    bundle = contents.kind in (Kind.BUNDLE, Kind.V1)
    findings = [*located.findings, *(damage(contents) if bundle else unreadable_values(contents))]
    causes = differing(translation, expected)
    if any(cause.cause == "not_inception_v3" for cause in causes):
        if not any(finding.status == DAMAGE for finding in findings):
            findings += causes  # other differences would be noise; a damaged file may only look like another network
    else:
        findings = _with_values(findings, contents, translation)
        findings += [_conversion(contents, translation), *_layout(translation)]
        findings += [_untraced(setting, translation) for setting in differing_settings(contents, translation, config)]
        findings += causes
        if translation.slots or contents.optimizer is not None:
            findings += _optimizer_differences(translation, expected, None)
        if translation.unknown:
            title = f"{len(translation.unknown)} tensors mean nothing here: {listed(translation.unknown)}"
            findings.append(Finding("unknown_tensors", NOTE, title))
    return Diagnosis(
        path=located.path,
        description=", ".join(
            [contents.description, *([f"names as {translation.scheme} writes them"] if translation.weights else [])]
        ),
        config=config,
        model=_with("the default configuration", overrides),
        findings=tuple(findings),
        next_command=next_command(located.path, None, overrides, findings, foreign=True),
    )


def _with_values(findings: list[Finding], contents: Contents, translation: Translation) -> list[Finding]:
    """The findings, and what is wrong with the values that a run would start from."""
    if any(finding.status == DAMAGE for finding in findings):
        return findings
    try:
        values = read_values(contents, translation.weights)
    except Unusable as error:
        return [*(finding for finding in findings if finding.cause != "dtype"), error.finding]
    return [*findings, *(Finding("values", NOTE, remark) for remark in values.remarks)]


def _conversion(contents: Contents, translation: Translation) -> Finding:
    """Why a file of another program does not restore even when every shape fits."""
    if contents.name_based:
        title = "written by tf.compat.v1.train.Saver, which finds tensors by name; tf.train.Checkpoint does not"
        advice = [
            "tf.train.Checkpoint(model=…).restore() matches nothing in it, and says so only when asserted",
            "load it by name: tf.train.load_checkpoint(PREFIX).get_tensor(NAME)",
        ]
        return Finding("name_based", MISMATCH, title, tuple(advice))
    if translation.scheme == "this trainer":
        title = "the tensors of a checkpoint of this trainer, without its manifest.json and config.yaml"
        return Finding("foreign_format", MISMATCH, title, ("give the checkpoint's directory with all its files",))
    title = f"{contents.description}, not a checkpoint of this trainer"
    details = ("resume needs configuration and position as well; the weights alone can start a new run",)
    return Finding("foreign_format", MISMATCH, title, details)


def _layout(translation: Translation) -> list[Finding]:
    findings = []
    if translation.channels_first:
        name, tensor = next(
            (name, tensor) for name, tensor in translation.weights.items() if name.endswith("conv/kernel")
        )
        title = f"kernels are channels first (out×in×height×width), the model's are height×width×in×out: {tensor.label}"
        details = (f"{name} in the model; transpose kernels by (2, 3, 1, 0) and the classifier by (1, 0)",)
        findings.append(Finding("channel_order", MISMATCH, title, details))
    if translation.shadows and not translation.variables:
        first = next(iter(translation.shadows.values()))
        title = f"only moving averages are in it ({first.label}), not the variables themselves"
        advice = (
            "load each average into the variable of its name; tf.train.ExponentialMovingAverage does not do this",
        )
        findings.append(Finding("ema_only", MISMATCH, title, advice))
    return findings


def _untraced(setting: Setting, translation: Translation) -> Finding:
    """A difference that no tensor shows: the weights would load, and every output would be wrong."""
    title = (
        f"{setting.key} is {setting.found} in networks of {translation.scheme} and {setting.configured} in the model"
    )
    details = ("every shape fits, but the same weights give other outputs",)
    return Finding("setting", MISMATCH, title, details, (f"{setting.key}={setting.found}",), (setting.key,))


def _optimizer_differences(translation: Translation, expected: Expected, stored: Config | None) -> list[Finding]:
    """Slots of another optimizer. ``stored`` is the configuration beside the checkpoint; None without one."""
    wanted = expected.config.optimizer.name
    slots = frozenset(translation.slots)
    found = stored.optimizer.name if stored is not None else translation.optimizer or "an unknown optimizer"
    if stored is None and (found == wanted or {found, wanted} <= {"adam", "adamw"}):
        return []
    if (
        stored is not None
        and found == wanted
        and (stored.optimizer != expected.config.optimizer or slots == expected.slots)
    ):
        return []  # another finding names a differing key of the optimizer
    sides = [", ".join(sorted(side)) or "none" for side in (slots, expected.slots)]
    title = f"the checkpoint holds {found}'s slots ({sides[0]}), the model's optimizer is {wanted} ({sides[1]})"
    overrides = (f"optimizer={found}",) if found in ("adam", "adamw", "sgd", "rmsprop") else ()
    return [Finding("optimizer", MISMATCH, title, (), overrides, ("optimizer.",))]


def _remaining_state(translation: Translation, expected: Expected) -> list[Finding]:
    """Moving averages and counters of our own checkpoints."""
    findings = []
    shadows, averaged = translation.shadows.keys(), expected.averaged
    if bool(shadows) != bool(averaged):
        title = (
            f"the checkpoint has {len(shadows) or 'no'} moving averages, the model {len(averaged) or 'none'} "
            f"(ema.decay={expected.config.ema.decay})"
        )
        findings.append(Finding("ema", MISMATCH, title, (), (), ("ema.",)))
    elif set(shadows) != set(averaged):
        odd = sorted(set(shadows) ^ set(averaged))
        title = f"moving averages on one side only: {listed(odd)} (ema.batch_norm={expected.config.ema.batch_norm})"
        findings.append(Finding("ema", MISMATCH, title, (), (), ("ema.",)))
    absent = sorted(expected.progress - set(translation.counters))
    if absent:
        title = f"counters of this version are not in the checkpoint: {listed(absent)}"
        findings.append(Finding("progress", MISMATCH, title))
    if translation.unknown:
        title = f"{len(translation.unknown)} tensors that the model does not have: {listed(translation.unknown)}"
        findings.append(Finding("unexpected", MISMATCH, title))
    return findings
