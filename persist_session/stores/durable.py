"""Files that are whole or not there, also after a crash, and that only their owner can read.

All of it raises plain `OSError`; the callers know what the failure means for them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

STALE_AFTER = 3600.0
"""Seconds after which a temporary file belongs to a writer that was killed: no write takes that long."""

_TEMPORARY = ".tmp"
# Both are missing on Windows, where neither symlinks nor pipes can be planted without rights.
_NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)


@contextlib.contextmanager
def written_aside(target: Path, data: bytes) -> Iterator[Path]:
    """A temporary file beside `target` that holds `data`, on the disk for good; mode 0600.

    The caller renames or links it into place. What is left of it at the end of the block is removed.
    """
    # A name of its own for every write: with a shared one, a second writer could rename the half-written
    # file of the first into place.
    temporary = target.with_name(f"{target.stem}.{secrets.token_hex(8)}{_TEMPORARY}")
    file = open(temporary, "xb", opener=_open_private)  # noqa: SIM115 (closed by the `with` below)
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def open_regular(path: Path) -> BinaryIO:
    """The regular file at `path`, open for reading; no symlink is followed, no pipe waited for."""
    file = open(path, "rb", opener=_open_no_follow)  # noqa: SIM115 (it is what the caller gets)
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "Not a regular file", str(path))


def make_folder(folder: Path) -> None:
    """Make `folder` and its missing parents, each with mode 0700 and on the disk for good.

    Whatever stands there already is left as it is: the caller judges it.
    """
    if folder.is_dir():
        return
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        # Another process made it meanwhile, or a symlink that leads nowhere stands there.
        with contextlib.suppress(FileExistsError):
            each.mkdir(mode=0o700)
        sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Bring names that were made, renamed or removed in `folder` to the disk for good."""
    if sys.platform == "win32":
        return  # a folder can't be opened there
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no fsync for folders; they write names through by themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | _NO_FOLLOW, 0o600)


def _open_no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | _NO_FOLLOW | _NO_WAIT)
