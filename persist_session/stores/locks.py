"""Locks between threads and processes, by files; the system frees a killed process's locks at once."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from persist_session.stores.base import lock_timeout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_POLL_SECONDS = 0.002
_locks: dict[tuple[int, str], tuple[threading.RLock, FileLock]] = {}


@contextlib.contextmanager
def file_lock(path: Path, timeout: float) -> Iterator[None]:
    """Holds the lock of this file, in this process and against others; a thread may take it again.

    Threads meet at a lock in memory first: the one in the file can only be polled.

    Args:
        path: The lock's file, in an existing folder.
        timeout: Seconds to wait for it.

    Raises:
        LockTimeoutError: Somebody else held it for longer.
        OSError: The file can't be opened.
    """
    threads, processes = _lock_of(path)
    started = time.monotonic()
    if not threads.acquire(timeout=timeout):
        raise lock_timeout(timeout)
    try:
        rest = max(0.0, timeout - (time.monotonic() - started))
        try:
            processes.acquire(timeout=rest, poll_interval=_POLL_SECONDS)
        except Timeout as error:
            raise lock_timeout(timeout) from error
        try:
            yield
        finally:
            processes.release()
    finally:
        threads.release()


def _lock_of(path: Path) -> tuple[threading.RLock, FileLock]:
    # One for each file in the process: two stores may have one root. A forked process must not use its parent's, which
    # another thread may have held; nor may it find a guard of this dict locked for ever. `setdefault` needs none.
    own = os.getpid(), str(path)
    return _locks.get(own) or _locks.setdefault(
        own, (threading.RLock(), FileLock(path, mode=0o600, thread_local=False))
    )
