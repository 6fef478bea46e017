"""Records in the memory of one process: for tests, and for states that may go with the server."""

from __future__ import annotations

import threading
from collections import defaultdict, deque

from persist_session.stores.base import KEPT_ASIDE, Stored


class MemoryStore:
    """Keeps records in a dict; everything is gone when the process ends.

    >>> store = MemoryStore()
    >>> store.write("app-state", "0" * 64, b"sealed", version="0" * 16, based_on=None, expires_at=0.0)
    True
    >>> store.read("app-state", "0" * 64).data
    b'sealed'
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[tuple[str, str], Stored] = {}
        self._aside: defaultdict[tuple[str, str], deque[bytes]] = defaultdict(lambda: deque(maxlen=KEPT_ASIDE))

    def read(self, name: str, key: str) -> Stored | None:
        """The record and its version, or `None` if there is none."""
        with self._lock:
            return self._records.get((name, key))

    def write(  # noqa: PLR0913 (the protocol's)
        self,
        name: str,
        key: str,
        data: bytes,
        *,
        version: str,
        based_on: str | None,
        expires_at: float,  # noqa: ARG002 (a store may keep a record for longer)
    ) -> bool:
        """Whether the record was written: only if the one there still has the version `based_on`."""
        with self._lock:
            found = self._records.get((name, key))
            if (found.version if found else None) != based_on:
                return False
            self._records[name, key] = Stored(data, version)
            return True

    def delete(self, name: str, key: str) -> None:
        """Erase the record and whatever was set aside of it."""
        with self._lock:
            self._records.pop((name, key), None)
            self._aside.pop((name, key), None)

    def set_aside(self, name: str, key: str, *, version: str, expires_at: float) -> None:  # noqa: ARG002 (see `write`)
        """Take the record away from `read`, but keep its bytes."""
        with self._lock:
            found = self._records.get((name, key))
            if found and found.version == version:
                del self._records[name, key]
                self._aside[name, key].append(found.data)
