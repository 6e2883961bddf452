"""Our own checkpoints of networks other than Inception V3: compared with the model name by name."""

from __future__ import annotations

from trainer.checkpoint.tensors import ATTRIBUTE
from trainer.config.schema import Config
from trainer.interchange.contents import Contents
from trainer.interchange.findings import MISMATCH, Finding, listed, shape_text
from trainer.models import size
from trainer.training.state import build_state, flatten


def differing_names(contents: Contents, wanted: Config) -> list[Finding]:
    """The tensors of the state tree on one side only, or with another shape. ``wanted`` must be complete.

    Raises:
        UsageError: a network so large does not fit this machine; a stored configuration may ask for any.
    """
    size.refuse_excess(wanted)
    found = {tensor.key.removesuffix(ATTRIBUTE): tensor.shape for tensor in contents.tensors}
    there = {name: tuple(variable.shape) for name, variable in flatten(build_state(wanted, drawn=False).tree()).items()}
    findings = []
    for cause, names, side in (
        ("unexpected", found.keys() - there.keys(), "that the model does not have"),
        ("missing", there.keys() - found.keys(), "of the model are not in the checkpoint"),
    ):
        if names:
            findings.append(Finding(cause, MISMATCH, f"{len(names)} tensors {side}: {listed(sorted(names))}"))
    other = sorted(name for name in found.keys() & there.keys() if found[name] != there[name])
    if other:
        sides = [shape_text(each[other[0]]) for each in (found, there)]
        title = f"{len(other)} tensors have another shape: {listed(other)}"
        details = (f"{other[0]}: {sides[0]} in the checkpoint, {sides[1]} in the model",)
        findings.append(Finding("shape", MISMATCH, title, details))
    return findings
