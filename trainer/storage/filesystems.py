"""Other filesystems than this machine's, through fsspec, which finds credentials by itself (environment, files)."""

from __future__ import annotations

from typing import Any

from trainer.errors import UsageError


class RemoteError(OSError):
    """A file of another machine cannot be read now, or is not the file that it was. ``strerror`` says why, and what to
    do. It says nothing about a single record.
    """


def filesystem_of(url: str, **options: Any) -> tuple[Any, str]:
    """The filesystem of a URL, or of a path of this machine, and the place in it. ``options`` are the filesystem's.

    Raises:
        UsageError: the scheme is unknown, or the package of its filesystem is not installed.
    """
    import fsspec  # takes a tenth of a second, so only runs that need it import it

    scheme = url.partition("://")[0]
    try:
        files, place = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        raise UsageError(f"{url} needs a package for {scheme}:// that is not installed: {error}") from error
    except ValueError as error:
        raise UsageError(f"{url} cannot be used: {error}") from error
    return files, str(place)
