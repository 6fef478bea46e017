"""A store that counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from persist_session.keys import derive
from persist_session.records import Home, Kind
from persist_session.stores import MemoryStore

if TYPE_CHECKING:
    from persist_session.stores import Stored

KEYS = derive(["k" * 32])
VISITOR = "a" * 64


class CountingStore(MemoryStore):
    """A MemoryStore that counts what it is asked for; the fingerprints of keys do not count.

    Attributes:
        writes: Calls of `write`, refused ones, too.
        reads: Calls of `read`.
        versions: Calls of `version`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.reads = 0
        self.versions = 0

    def read(self, key: str, name: str) -> Stored | None:
        """Count, and read."""
        self.reads += name != "persist_session.keys"
        return super().read(key, name)

    def version(self, key: str, name: str) -> str | None:
        """Count, and look; that is no `read`."""
        self.versions += 1
        found = super().read(key, name)
        return found.version if found else None

    def write(self, key: str, name: str, data: bytes, **options: Any) -> bool:
        """Count, and write."""
        self.writes += name != "persist_session.keys"
        return super().write(key, name, data, **options)


def home(store: MemoryStore | None = None, name: str = "app-state", key: str = VISITOR) -> Home:
    """Return a browser's home in this store, or in a new one."""
    return Home(Kind.BROWSER, CountingStore() if store is None else store, KEYS, key, name)
