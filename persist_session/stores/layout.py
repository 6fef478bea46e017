r"""The layout of records on the disk: names of files, and the line that each begins with.

    <root>/<2 hex>/<visitor key>.<name>.pickle     "persist-session 1 <version> <expires at>\n", sealed bytes
    <root>/<2 hex>/<visitor key>.<name>.<n>.aside  set aside, 0 is the newest; modified at: when it expires
    <root>/<2 hex>/<visitor key>.<name>.<...>.tmp  being written; an hour later: left by a killed writer
    <root>/.locks/                                 the locks' files, a fixed number, and the time of the last sweep

A shard has no folders inside: one listing finds all names of a visitor, and a new name needs no folder. The key has a
fixed length, so that names may hold dots.

The first line serves compare-and-swap and expiry, which must work without a key. It is not sealed and need
not be: whoever can edit it can delete the file as well. The sealed bytes carry version and expiry too.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from persist_session.errors import ConfigurationError
from persist_session.stores.base import KEPT_ASIDE, Stored
from persist_session.stores.durable import STALE_AFTER, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_FIRST_LINE = 64
"""Bytes of a file that are surely enough for `parse` to find the version."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KEY = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(rf"({_KEY.pattern})\.({_NAME.pattern})\.(pickle|[0-9]\.aside|[0-9a-f]{{16}}\.tmp)")
_VERSION = re.compile(r"[0-9a-f]{16}")
_FIRST_LINE = re.compile(rb"persist-session 1 ([0-9a-f]{16}) (-?[0-9]{1,20})\n")


def is_name(text: object) -> bool:
    """Tell whether this can name a state, an app, a cookie."""
    # "." and ".." are folders already.
    return isinstance(text, str) and _NAME.fullmatch(text) is not None and text.strip(".") != ""


def record_path(root: Path, key: str, name: str) -> Path:
    """The file of a record; surely under `root`, whatever `key` and `name` are.

    Raises:
        ConfigurationError: They are no visitor key and name of a state.
    """
    if not is_name(name):
        raise ConfigurationError(
            "`name` can't name a file. Use 1 to 64 of the characters A-Z a-z 0-9 _ . - and not only dots."
        )
    if not _KEY.fullmatch(key):
        raise ConfigurationError("`key` is no visitor key. Give 64 hex characters.")
    return root / key[:2] / f"{key}.{name}.pickle"


def folders(root: Path, path: Path) -> tuple[Path, Path]:
    """The folders that lead to the record's file `path`, outermost first."""
    return root, path.parent


def names_in(root: Path, key: str) -> list[str]:
    """The names under which a visitor has a record, sorted.

    Raises:
        ConfigurationError: `key` is no visitor key.
        FileNotFoundError: The shard is not there.
    """
    folder = record_path(root, key, "any").parent
    with os.scandir(folder) as entries:
        found = (_FILE.fullmatch(entry.name) for entry in entries if entry.name.startswith(key))
        return sorted(each[2] for each in found if each is not None and each[3] == "pickle")


def asides(path: Path) -> tuple[Path, ...]:
    """The files of set-aside records, newest first. Fixed names: finding them needs no listing of the folder."""
    return tuple(path.with_suffix(f".{n}.aside") for n in range(KEPT_ASIDE))


def first_line(version: str, expires_at: float) -> bytes:
    """The line that a record's file begins with; the expiry is rounded up to whole seconds.

    Raises:
        ConfigurationError: `version` is not 16 hex characters.
    """
    if not _VERSION.fullmatch(version):
        raise ConfigurationError("`version` is not 16 hex characters. Make one with secrets.token_hex(8).")
    return f"persist-session 1 {version} {math.ceil(expires_at)}\n".encode()


def parse(content: bytes) -> Stored:
    """The sealed bytes and the version in `content`; all of it and `""` if its first line is damaged."""
    line = _FIRST_LINE.match(content)
    return Stored(content[line.end() :], line[1].decode()) if line else Stored(content, "")


def locks_folder(root: Path) -> Path:
    """The folder of the locks' files."""
    return root / ".locks"


def shards(root: Path) -> Iterator[Path]:
    """The folders that hold records."""
    yield from (folder for folder in root.glob("[0-9a-f][0-9a-f]") if folder.is_dir() and not folder.is_symlink())


def files(folder: Path) -> Iterator[Path]:
    """The files of a shard; those that are removed meanwhile may be missing."""
    with os.scandir(folder) as entries:
        yield from (Path(entry.path) for entry in entries if _FILE.fullmatch(entry.name))


def is_expired(path: Path, now: float) -> bool:
    """Tell whether nobody needs the file at this time.

    A record with a damaged first line is kept: it is for `read` to say so.
    """
    try:
        if path.suffix == ".pickle":
            with open_regular(path) as file:
                line = _FIRST_LINE.match(file.read(LONGEST_FIRST_LINE))
            return line is not None and int(line[2]) < now
        modified = path.lstat().st_mtime
    except OSError:  # gone meanwhile; or no file of ours, like a symlink: one of them must not end a sweep
        return False
    return modified < now - (STALE_AFTER if path.suffix == ".tmp" else 0)
