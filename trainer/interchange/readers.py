"""The reader of each format."""

from __future__ import annotations

from trainer.interchange.bundles import read_bundle
from trainer.interchange.contents import STATE, Contents, Kind
from trainer.interchange.findings import DAMAGE, Finding, listed
from trainer.interchange.hdf5_files import read_hdf5, read_keras_archive
from trainer.interchange.locate import Located
from trainer.interchange.safetensors_files import INDEX, read_safetensors, read_safetensors_index
from trainer.interchange.state_files import checked_state
from trainer.interchange.values import unreadable


def read_contents(located: Located) -> Contents:
    """List a foreign checkpoint.

    Raises:
        Unusable: it is so damaged that nothing can be listed.
    """
    match located.kind:
        case Kind.BUNDLE | Kind.V1:
            return read_bundle(located.path, located.kind)
        case Kind.WEIGHTS_H5 | Kind.LEGACY_H5:
            return read_hdf5(located.path, located.kind)
        case Kind.KERAS:
            return read_keras_archive(located.path)
        case Kind.SAFETENSORS:
            if located.path.name.endswith(INDEX):
                return read_safetensors_index(located.path)
            contents = read_safetensors(located.path)
            return checked_state(contents) if STATE in contents.facts else contents
        case Kind.OWN | Kind.STATE:
            raise AssertionError(
                "our own checkpoints are opened by own_checkpoint.open_own, and no path alone is a state"
            )


def unreadable_values(contents: Contents) -> list[Finding]:
    """Read every value of a format without checksums; a value that cannot be read is damaged, or of an unknown type."""
    damaged, types = unreadable(contents, contents.tensors)
    return [
        *types,
        *(
            Finding("unreadable", DAMAGE, f"{len(labels)} tensors cannot be read: {listed(labels)}", (reason,))
            for reason, labels in damaged.items()
        ),
    ]
