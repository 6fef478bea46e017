"""Records as files, one per record; `layout` has their names and their first lines."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from persist_session.errors import ConfigurationError, LockTimeoutError, StoreError
from persist_session.stores.durable import (
    open_regular,
    sync_folder,
    written_aside,
)
from persist_session.stores.folders import Folders
from persist_session.stores.layout import (
    LONGEST_FIRST_LINE,
    asides,
    files,
    first_line,
    is_expired,
    locks_folder,
    names_in,
    parse,
    record_path,
    shards,
)
from persist_session.stores.locks import file_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from persist_session.stores.base import Stored

_log = logging.getLogger(__name__)

# Fixed numbers, because a lock for each record would pile up. Two records with one lock wait for each other: for the
# short while of a rename, or, rarely, for the whole of an exclusive block.
_WRITE_LOCKS = 64
_BLOCK_LOCKS = 1024
# A visitor who saves meanwhile waits for so many removals at most: some milliseconds.
_REMOVED_AT_ONCE = 64
_WRITE_TIMEOUT = 10.0
"""Seconds for which comparing and renaming a record waits for others who do so; each takes milliseconds."""


class FileStore:
    """Keeps records as files under `root`; a write is whole or not at all, also on a crash or a full disk.

    Nothing is made before the first write or lock. Files get mode 0600, folders 0700.

    Args:
        root: The folder. It and its parents are made where they are missing.
        strict: Refuse `root`, and folders in it, unless they are real folders of ours that nobody else can
            write. Without it, only a folder that everybody can write is refused; one that its group can
            write (a Kubernetes volume) is good for one warning.
    """

    def __init__(self, root: str | Path, *, strict: bool = False) -> None:
        self._root = Path(root).expanduser().absolute()
        self._strict = strict
        self._folders = Folders(self._root, strict=strict)

    def __repr__(self) -> str:
        return f"FileStore({str(self._root)!r}, strict={self._strict})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FileStore) and (self._root, self._strict) == (other._root, other._strict)

    def __hash__(self) -> int:
        return hash((self._root, self._strict))

    def read(self, key: str, name: str) -> Stored | None:
        """The record and its version, or `None` if there is none.

        Of a file whose first line is damaged: all of its bytes, with the version `""`. They will not open.

        Raises:
            StoreError: The file can't be read.
            ConfigurationError: A folder is not to be trusted.
        """
        path = record_path(self._root, key, name)
        with self._failures("read"):
            try:
                self._folders.judge(path)
                with open_regular(path) as file:
                    return parse(file.read())
            except FileNotFoundError:
                return None

    def write(  # noqa: PLR0913 (the protocol's)
        self, key: str, name: str, data: bytes, *, version: str, based_on: str | None, expires_at: float
    ) -> bool:
        """Write the record if the one there still has the version `based_on`; tell whether it was written.

        Raises:
            StoreError: The disk is full, read-only, or fails, or a stopped process holds the lock; the old record is
                still there.
            ConfigurationError: A folder is not to be trusted.
        """
        path = record_path(self._root, key, name)
        content = first_line(version, expires_at) + data
        with self._failures("write"):
            self._folders.make(path)
            with written_aside(path, content) as temporary, self._one_at_a_time(key):
                if _version_at(path) != based_on:
                    return False
                temporary.replace(path)
            sync_folder(path.parent)
        return True

    def delete(self, key: str, name: str) -> None:
        """Erase the record and whatever was set aside of it; harmless where there is nothing.

        Raises:
            StoreError: A file can't be removed.
            ConfigurationError: A folder is not to be trusted.
        """
        path = record_path(self._root, key, name)
        with self._failures("delete"):
            if not self._folders.are_there(path):
                return
            with self._one_at_a_time(key):
                for each in (path, *asides(path)):
                    each.unlink(missing_ok=True)
            sync_folder(path.parent)

    def names(self, key: str) -> list[str]:
        """The names under which the visitor has a record, sorted; takes one listing of a shard, and opens no file.

        Raises:
            StoreError: The folder can't be read.
            ConfigurationError: A folder is not to be trusted.
        """
        with self._failures("list"):
            try:
                self._folders.judge(record_path(self._root, key, "any"))
                return names_in(self._root, key)
            except FileNotFoundError:
                return []

    def set_aside(self, key: str, name: str, *, version: str, expires_at: float) -> None:
        """Take the record away from `read`, but keep its file, if it still has this version.

        Renamed, not copied: this works on a full disk too, and keeps the bytes as they are.

        Raises:
            StoreError: The file can't be renamed.
            ConfigurationError: A folder is not to be trusted.
        """
        path = record_path(self._root, key, name)
        with self._failures("set aside"):
            if not self._folders.are_there(path):
                return
            with self._one_at_a_time(key):
                if _version_at(path) != version:
                    return
                _shift(path)
                os.utime(asides(path)[0], (expires_at, expires_at), follow_symlinks=False)
            sync_folder(path.parent)

    def version(self, key: str, name: str) -> str | None:
        """The record's version, `None` if there is none; takes one short read.

        Not only a stat: it could not tell two writes in one tick of the clock, and network file systems answer it from
        a cache.

        Raises:
            StoreError: The file can't be read.
        """
        with self._failures("read"):
            return _version_at(record_path(self._root, key, name))

    @contextlib.contextmanager
    def lock(self, key: str, name: str, *, timeout: float) -> Iterator[None]:
        """Hold the record's lock over a block, against threads and processes; a thread may take it again.

        Raises:
            LockTimeoutError: Somebody else held it for `timeout` seconds.
            StoreError: The lock's file can't be made.
        """
        with contextlib.ExitStack() as stack:
            with self._failures("lock"):
                stack.enter_context(
                    self._lock(f"block-{zlib.crc32(f'{key}{name}'.encode()) % _BLOCK_LOCKS:03x}.lock", timeout)
                )
            yield

    def begin_sweep(self, *, every: float) -> float | None:
        """Take the turn to sweep if the sweep before is at least `every` seconds ago, in either direction of the clock.

        Returns:
            The time of the sweep before in unix seconds, 0 for the first sweep; None where it is not the caller's turn.

        Raises:
            StoreError: The folder can't be written.
            ConfigurationError: A folder is not to be trusted.
        """
        with self._failures("sweep"):
            mark = locks_folder(self._root) / "swept"
            if not self._root.is_dir() or not _is_past(_modified_at(mark), every):
                return None
            with self._short_lock("sweep.lock"):
                before, now = _modified_at(mark), time.time()
                if not _is_past(before, every):
                    return None  # another process was faster
                mark.touch(mode=0o600)
                os.utime(mark, (now, now))
                return before

    def delete_expired(self, *, before: float, pause: float = 0.0) -> int:
        """Remove the records and set-aside ones that had expired both at `before` and now; return their number.

        Temporary files of killed writers go, too, and count. A clock that is wrong once removes nothing.

        Args:
            before: The time of the sweep before, in unix seconds.
            pause: How long to rest after each folder, as a multiple of the processor's time that the folder took.

        Raises:
            StoreError: A file can't be removed; the other shards are swept all the same.
            ConfigurationError: A folder is not to be trusted.
        """
        removed, at = 0, min(before, time.time())
        failed: list[Exception] = []
        for folder in shards(self._root):
            started = time.thread_time()
            try:
                self._folders.judge(folder / "any")
                removed += self._remove_expired(folder, at)
            except (OSError, StoreError, ConfigurationError) as error:
                failed.append(error)  # the other shards are swept all the same
            time.sleep(pause * (time.thread_time() - started))
        with self._failures("sweep"):
            for failure in failed:
                raise failure
        return removed

    def _remove_expired(self, folder: Path, at: float) -> int:
        expired = [path for path in files(folder) if is_expired(path, at)]
        removed = 0
        for start in range(0, len(expired), _REMOVED_AT_ONCE):
            with self._one_at_a_time(folder.name):
                for path in expired[start : start + _REMOVED_AT_ONCE]:
                    if is_expired(path, at):  # no visitor came meanwhile
                        path.unlink(missing_ok=True)
                        removed += 1
        return removed

    def _one_at_a_time(self, key: str) -> contextlib.AbstractContextManager[None]:
        """Let one thread of one process at a time compare and rename a record, of those in one shard.

        Args:
            key: The visitor key; or the name of its shard, the key's first two characters.
        """
        return self._short_lock(f"write-{int(key[:2], 16) % _WRITE_LOCKS:02x}.lock")

    @contextlib.contextmanager
    def _short_lock(self, file: str) -> Iterator[None]:
        """Hold a lock that others hold for milliseconds: who does not get it soon never would."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._lock(file, _WRITE_TIMEOUT))
            except LockTimeoutError as error:
                raise StoreError(
                    f"The records in {self._root} could not be changed: the lock {file} was not free for "
                    f"{_WRITE_TIMEOUT:g} seconds. Look for a process that is stopped while it writes (by SIGSTOP, a "
                    "debugger or a paused container), or a disk that hangs; let it go on, or end it."
                ) from error
            yield

    @contextlib.contextmanager
    def _lock(self, file: str, timeout: float) -> Iterator[None]:
        folder = locks_folder(self._root)
        self._folders.make(folder / file)
        with file_lock(folder / file, timeout):
            yield

    @contextlib.contextmanager
    def _failures(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"Could not {action} a record in {self._root}: {error.strerror or type(error).__name__}. "
                "Check that the disk has room, and that the user who runs the app can write the folder."
            ) from error


def _modified_at(mark: Path) -> float:
    try:
        return mark.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_past(moment: float, seconds: float) -> bool:
    # In either direction: a clock that was wrong once must not put the sweeps off for years.
    return abs(time.time() - moment) >= seconds


def _version_at(path: Path) -> str | None:
    try:
        with open_regular(path) as file:
            return parse(file.read(LONGEST_FIRST_LINE)).version
    except FileNotFoundError:
        return None


def _shift(path: Path) -> None:
    """All one place on, as log files rotate: the record becomes the newest, the oldest is overwritten."""
    for source, target in reversed(list(itertools.pairwise((path, *asides(path))))):
        with contextlib.suppress(FileNotFoundError):  # not all places are taken
            source.replace(target)
