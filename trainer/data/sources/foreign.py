"""Names that other programs leave among a person's images. They are never classes and never images."""

from __future__ import annotations

# file managers of macOS; NAS of Synology, QNAP and NetApp; Windows' wastebasket, index and repair; e2fsck; Python
FOLDERS = frozenset(
    {"__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "~snapshot", "$recycle.bin"}
    | {"system volume information", "found.000", "lost+found", "network trash folder", "temporary items"}
    | {"__pycache__"}
)


def is_foreign(name: str) -> bool:
    """Whether a file or folder of this name is hidden (.DS_Store, .thumbnails, ._cat.jpg) or another program's folder;
    in any case of its letters, because the systems that make these folders ignore it.
    """
    return name.startswith(".") or name.lower() in FOLDERS
