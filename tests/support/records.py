"""A place for records in memory, and a store that counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from persist_session.keys import derive
from persist_session.place import Place
from persist_session.stores import MemoryStore

if TYPE_CHECKING:
    from persist_session.stores import Stored

KEYS = derive(["k" * 32])
RECORD_KEY = "a" * 64


class CountingStore(MemoryStore):
    """A MemoryStore that counts what it is asked for.

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

    def read(self, name: str, key: str) -> Stored | None:
        """Count, and read."""
        self.reads += 1
        return super().read(name, key)

    def version(self, name: str, key: str) -> str | None:
        """Count, and look; that is no `read`."""
        self.versions += 1
        found = super().read(name, key)
        return found.version if found else None

    def write(self, name: str, key: str, data: bytes, **options: Any) -> bool:
        """Count, and write."""
        self.writes += 1
        return super().write(name, key, data, **options)


def place(store: MemoryStore | None = None, name: str = "app-state", record_key: str = RECORD_KEY) -> Place:
    """Return a place in this store, or in a new one."""
    return Place(CountingStore() if store is None else store, KEYS, name, record_key)
