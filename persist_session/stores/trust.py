"""The trust in folders and files: nobody else may change the one, or read the other.

Judged by owner and mode. On Windows access lists decide instead; they are not judged.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

from persist_session.errors import ConfigurationError

_MODES_COUNT = sys.platform != "win32"
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def require_private(folder: Path) -> None:
    """Refuse `folder` unless it is a real folder of ours that nobody else can write.

    Raises:
        ConfigurationError: It is a symlink, no folder, belongs to another user, or others can write it.
        OSError: It can't be looked at, for instance because it is not there.
    """
    status = folder.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise ConfigurationError(f"{folder} is a symlink. Replace it by a real folder.")
    _require_folder(folder, status)
    _require_ours(folder, status)
    if _MODES_COUNT and status.st_mode & _WRITABLE_BY_OTHERS:
        raise ConfigurationError(f"Other users can write the folder {folder}. {_remedy(folder, status, '700')}")


def require_not_world_writable(folder: Path) -> None:
    """Refuse `folder` unless it is a folder that not everybody can write. A symlink to one is good.

    Raises:
        ConfigurationError: It is no folder, or everybody can write it.
        OSError: It can't be looked at, for instance because it is not there.
    """
    status = folder.stat()
    _require_folder(folder, status)
    if _MODES_COUNT and status.st_mode & stat.S_IWOTH:
        raise ConfigurationError(f"Everybody can write the folder {folder}. {_remedy(folder, status, 'o-w')}")


def is_group_writable(folder: Path) -> bool:
    """Tell whether the group of `folder` can write it."""
    return bool(_MODES_COUNT and folder.stat().st_mode & stat.S_IWGRP)


def require_private_file(path: Path, status: os.stat_result) -> None:
    """Refuse the open file at `path` with this `fstat` unless it is ours and nobody else can read or write it.

    Raises:
        ConfigurationError: It belongs to another user, or is open to others.
    """
    _require_ours(path, status)
    if _MODES_COUNT and status.st_mode & _OPEN_TO_OTHERS:
        raise ConfigurationError(
            f"Other users can read or write {path}. If they may have, delete it, else run: chmod 600 {path}"
        )


def _remedy(folder: Path, status: os.stat_result, mode: str) -> str:
    # A folder for everybody's temporary files is sticky, as a rule: to close it would break the machine.
    is_shared = status.st_mode & stat.S_ISVTX and status.st_mode & stat.S_IWOTH
    if is_shared or folder == Path(tempfile.gettempdir()):
        return "It is for everybody's temporary files: choose another folder, or one of your own in it."
    return f"Run: chmod {mode} {folder}"


def _require_folder(folder: Path, status: os.stat_result) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"{folder} is not a folder. Move it away, or configure another folder.")


def _require_ours(path: Path, status: os.stat_result) -> None:
    if sys.platform != "win32" and status.st_uid != os.geteuid():
        raise ConfigurationError(f"{path} belongs to another user. Run: chown {os.geteuid()} {path}")
