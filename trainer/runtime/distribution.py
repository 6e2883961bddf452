"""What pip calls this program, its version, and a check that its files are its own."""

from __future__ import annotations

from pathlib import Path

NAME = "resumable-trainer"  # ``trainer`` on the Python index is another project
VERSION = "0.2.0"
PACKAGE = Path(__file__).resolve().parents[1]


def mixed_files() -> str | None:
    """Why the modules in ``PACKAGE`` are not all of this program, and what repairs it; None where they are.

    pip writes files of the distribution ``trainer`` into a package of the same name, and each of the two replaces
    modules of the other.
    """
    for record in PACKAGE.parent.glob("trainer-*.dist-info/RECORD"):
        if any(line.startswith("trainer/__init__.py,") for line in record.read_text("utf-8", "replace").splitlines()):
            return (
                f"the distribution {record.parent.name.removesuffix('.dist-info')} has put its files into {PACKAGE}, "
                f"among those of {NAME}\nremove both, then install {NAME} again: pip uninstall --yes trainer {NAME}"
            )
    return None
