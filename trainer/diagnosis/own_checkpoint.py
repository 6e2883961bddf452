"""Our own checkpoint directories: the files compared with the manifest, the tensors, the stored configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trainer.checkpoint import directory
from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.manifest import PREFIX, Manifest, ManifestError
from trainer.checkpoint.verification import foreign_note
from trainer.config import stored
from trainer.config.schema import Config
from trainer.errors import NoValidCheckpoint
from trainer.interchange.bundles import damage, read_bundle
from trainer.interchange.contents import Contents, Kind
from trainer.interchange.findings import DAMAGE, NOTE, Finding, Unusable
from trainer.interchange.locate import Shards, shards
from trainer.run_directory.layout import CHECKPOINTS
from trainer.storage.durable import stored_digest
from trainer.storage.guarded import refuse_unless_file
from trainer.storage.unacceptable import Unacceptable


@dataclasses.dataclass(frozen=True)
class OwnCheckpoint:
    """A checkpoint directory as far as it can be read. A part that cannot be read is None and has a finding."""

    place: Path
    manifest: Manifest | None
    config: Config | None
    contents: Contents | None
    findings: tuple[Finding, ...]

    @property
    def run_dir(self) -> Path | None:
        """The directory of the checkpoint's run."""
        for parent in self.place.absolute().parents:
            if parent.name == CHECKPOINTS:
                return parent.parent
        return None


def open_own(place: Path) -> OwnCheckpoint:
    """Read a checkpoint directory as far as possible, without its values."""
    findings: list[Finding] = []
    if place.name.startswith(directory.UNFINISHED):
        title = f"{place.name} was not finished: the process that wrote it died, and readers ignore it"
        findings.append(Finding("unfinished", DAMAGE, title))
    manifest = None
    try:
        manifest = manifests.read(place / manifests.FILE_NAME)
    except ManifestError as error:
        if not findings:
            details = ("without it nothing shows whether the other files are complete",)
            findings.append(Finding("manifest", DAMAGE, str(error), details))
    config = None
    try:
        config = stored.read(place / stored.FILE_NAME)
    except NoValidCheckpoint as error:
        findings.append(Finding("config", DAMAGE, str(error)))
    contents = None
    unopened = _not_files(place)
    findings += unopened
    try:
        if unopened:
            return OwnCheckpoint(place, manifest, config, None, tuple(findings))
        contents = dataclasses.replace(read_bundle(place / PREFIX, Kind.BUNDLE), kind=Kind.OWN)
    except Unusable as error:
        findings.append(error.finding)
    return OwnCheckpoint(place, manifest, config, contents, tuple(findings))


def _not_files(place: Path) -> list[Finding]:
    """Links, FIFOs and the like in place of the files of values, which TensorFlow would follow or wait for."""
    found = []
    for path in sorted(place.iterdir()):
        if path.name.startswith(f"{PREFIX}."):
            try:
                refuse_unless_file(path)
            except Unacceptable as error:
                found.append(Finding("not_a_file", DAMAGE, str(error)))
    return found


def examine(checkpoint: OwnCheckpoint) -> list[Finding]:
    """Everything damaged or missing: compares each file with its digest and each tensor with its checksum."""
    findings = list(checkpoint.findings)
    if checkpoint.contents is not None:
        # the readers of bundles know the prefix, not the layout of our directories
        findings += damage(dataclasses.replace(checkpoint.contents, kind=Kind.BUNDLE), _shards(checkpoint))
    if checkpoint.manifest is None:
        return findings
    place, files = checkpoint.place, checkpoint.manifest.files
    for name in sorted(files):
        if not (place / name).exists():
            _add_missing(findings, place / name)
        else:
            _add_digest(findings, place / name, files[name], tensors_read=checkpoint.contents is not None)
    return [*findings, *foreign_files(place, checkpoint.manifest)]


def _shards(checkpoint: OwnCheckpoint) -> Shards:
    """The files of values, without foreign files that have similar names."""
    named = None if checkpoint.manifest is None else checkpoint.manifest.files
    return {
        file: numbers
        for file, numbers in shards(checkpoint.place / PREFIX).items()
        if named is None or file.name in named
    }


def foreign_files(place: Path, manifest: Manifest) -> list[Finding]:
    """A remark about other files in the directory."""
    return [Finding("foreign_file", NOTE, note) for note in foreign_note(place, manifest)]


def _add_missing(findings: list[Finding], path: Path) -> None:
    """Report a missing file of the manifest, unless a reader has reported it already."""
    if any(path.name in finding.title for finding in findings):
        return
    title = f"{path} is missing"
    if path.name.startswith(f"{PREFIX}.data-"):
        for number, finding in enumerate(findings):
            if finding.cause == "missing_shard":
                findings[number] = dataclasses.replace(finding, title=title)
                return
    findings.append(Finding("missing_file", DAMAGE, title))


def _add_digest(findings: list[Finding], path: Path, wanted: str, *, tensors_read: bool) -> None:
    """Compare a file with its digest. A finding about the same damage gets the digests as a detail."""
    try:
        found = stored_digest(path)
    except Unacceptable as error:
        if not any(str(path) in finding.title for finding in findings):
            findings.append(Finding("not_a_file", DAMAGE, str(error)))
        return
    if found == wanted:
        return
    text = f"SHA-256 of {path.name} is {found[:16]}…, the manifest says {wanted[:16]}…"
    for number, finding in enumerate(findings):
        if path.name in " ".join((finding.title, *finding.details)):
            findings[number] = dataclasses.replace(finding, details=(*finding.details, text))
            return
    whole = tensors_read and path.name.startswith(PREFIX)
    details = (text, *(["every tensor in it still has its checksum"] if whole else []))
    findings.append(Finding("digest", DAMAGE, f"{path} was changed after it was written", details))
