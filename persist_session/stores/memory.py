"""Records in the memory of one process: for tests, and for states that may go with the server."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from weakref import WeakValueDictionary

from persist_session.stores.base import KEPT_ASIDE, Stored, lock_timeout


class MemoryStore:
    """Keeps records in a dict; everything is gone when the process ends.

    A tab has one of its own for what no browser knows yet, so an empty one costs next to nothing.

    >>> store = MemoryStore()
    >>> store.write("0" * 64, "app-state", b"sealed", version="0" * 16, based_on=None, expires_at=0.0)
    True
    >>> store.read("0" * 64, "app-state").data
    b'sealed'
    >>> store.names("0" * 64)
    ['app-state']
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[tuple[str, str], Stored] = {}
        self._expiry: dict[tuple[str, str], float] = {}
        # A lock is made for whoever asks first, and gone when nobody holds it or waits for it.
        self._locks: WeakValueDictionary[tuple[str, str], threading.RLock] = WeakValueDictionary()
        self._swept_at = -math.inf
        # The bytes, and when they expire.
        self._aside: defaultdict[tuple[str, str], deque[tuple[bytes, float]]] = defaultdict(
            lambda: deque(maxlen=KEPT_ASIDE)
        )

    def read(self, key: str, name: str) -> Stored | None:
        """The record and its version, or `None` if there is none."""
        with self._lock:
            return self._records.get((key, name))

    def write(  # noqa: PLR0913 (the protocol's)
        self,
        key: str,
        name: str,
        data: bytes,
        *,
        version: str,
        based_on: str | None,
        expires_at: float,
    ) -> bool:
        """Write the record if the one there still has the version `based_on`; tell whether it was written."""
        with self._lock:
            found = self._records.get((key, name))
            if (found.version if found else None) != based_on:
                return False
            self._records[key, name] = Stored(data, version)
            self._expiry[key, name] = expires_at
            return True

    def delete(self, key: str, name: str) -> None:
        """Erase the record and whatever was set aside of it."""
        with self._lock:
            self._records.pop((key, name), None)
            self._expiry.pop((key, name), None)
            self._aside.pop((key, name), None)

    def set_aside(self, key: str, name: str, *, version: str, expires_at: float) -> None:
        """Take the record away from `read`, but keep its bytes until `expires_at`."""
        with self._lock:
            found = self._records.get((key, name))
            if found and found.version == version:
                del self._records[key, name], self._expiry[key, name]
                self._aside[key, name].append((found.data, expires_at))

    def version(self, key: str, name: str) -> str | None:
        """The record's version, `None` if there is none."""
        found = self.read(key, name)
        return found.version if found else None

    @contextlib.contextmanager
    def lock(self, key: str, name: str, *, timeout: float) -> Iterator[None]:
        """Hold the record's lock over a block; a thread may take it again.

        Raises:
            LockTimeoutError: Somebody else held it for `timeout` seconds.
        """
        with self._lock:
            lock = self._locks.setdefault((key, name), threading.RLock())
        if not lock.acquire(timeout=timeout):
            raise lock_timeout(timeout)
        try:
            yield
        finally:
            lock.release()

    def names(self, key: str) -> list[str]:
        """The names under which the visitor has a record, sorted."""
        with self._lock:
            return sorted(name for each, name in self._records if each == key)

    def begin_sweep(self, *, every: float) -> float | None:
        """Take the turn to sweep if the sweep before is at least `every` seconds ago, in either direction of the clock.

        Returns:
            The time of the sweep before in unix seconds, 0 for the first sweep; None where it is not the caller's turn.
        """
        with self._lock:
            before, now = self._swept_at, time.time()
            if abs(now - before) < every:
                return None
            self._swept_at = now
            return max(before, 0.0)

    def delete_expired(self, *, before: float, pause: float = 0.0) -> int:  # noqa: ARG002 (it takes no time)
        """Remove the records and set-aside ones that had expired both at `before` and now; return their number."""
        with self._lock:
            at = min(before, time.time())
            expired = [place for place, expires_at in self._expiry.items() if expires_at < at]
            for place in expired:
                del self._records[place], self._expiry[place]
            removed = len(expired)
            for place, kept in list(self._aside.items()):
                rest = [each for each in kept if each[1] >= at]
                removed += len(kept) - len(rest)
                kept.clear()
                kept.extend(rest)
                if not rest:
                    del self._aside[place]
            return removed
