"""Which entries of a folder are images, and which are left alone, by their names and, without an ending, by content."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
import stat
from collections.abc import Callable

from trainer.config.schema.sources import ImageFolderConfig
from trainer.data.images.headers import known_format
from trainer.data.sources.foreign import is_foreign


@dataclasses.dataclass(frozen=True)
class ImageNames:
    """``extensions`` are the endings of images; files without any are images by their content where ``unnamed`` says
    so. ``ignore`` are patterns of names that are left alone.
    """

    extensions: tuple[str, ...]
    unnamed: bool
    ignore: tuple[re.Pattern[str], ...]

    def leaves(self, name: str) -> bool:
        """Whether a file or folder of this name is left alone."""
        return is_foreign(name) or self.is_ignored(name)

    def is_ignored(self, name: str) -> bool:
        """Whether ``data.ignore`` has a pattern for a name that is not left alone anyway."""
        return not is_foreign(name) and any(pattern.match(name) for pattern in self.ignore)

    def has_ending(self, name: str) -> bool:
        _, dot, ending = name.rpartition(".")
        return bool(dot) and ending.lower() in self.extensions

    def is_image(self, name: str, status: os.stat_result, begin: Callable[[], bytes]) -> bool:
        """``begin`` gives the first bytes of the file."""
        if not stat.S_ISREG(status.st_mode):
            return False
        return known_format(begin()) is not None if self.by_content(name) else self.has_ending(name)

    def by_content(self, name: str) -> bool:
        """Whether the first bytes of a file of this name decide."""
        return self.unnamed and "." not in name


def names_of(config: ImageFolderConfig) -> ImageNames:
    patterns = tuple(re.compile(fnmatch.translate(each), re.IGNORECASE) for each in config.ignore)
    return ImageNames(config.extensions, config.without_extension == "content", patterns)
