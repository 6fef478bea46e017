"""What the scripts and the middleware of one process tell each other."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_MOST = 100_000
"""How many visitors' notes are kept. A forgotten one leaves a cookie or a record as it is, until it expires."""


class Notes(Generic[T]):
    """Notes by record key; the oldest are forgotten first."""

    def __init__(self) -> None:
        self._notes: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, key: str, note: T) -> None:
        """Notes it."""
        with self._lock:
            self._notes[key] = note
            self._notes.move_to_end(key)
            if len(self._notes) > _MOST:
                self._notes.popitem(last=False)

    def get(self, key: str) -> T | None:
        """What was noted, or None."""
        return self._notes.get(key)

    def keys(self, note: T) -> list[str]:
        """The keys under which this was noted."""
        with self._lock:
            return [key for key, each in self._notes.items() if each == note]

    def drop(self, key: str) -> None:
        """Forgets what was noted."""
        with self._lock:
            self._notes.pop(key, None)


served: set[str] = set()
"""The names whose cookies a middleware sets."""

shown: Notes[bool] = Notes()
"""The ids, by record key, that a handshake has shown: cookies do arrive with this visitor's connections."""

unwanted: Notes[str] = Notes()
"""The ids, by record key, of visitors who are not to be remembered, each with the name of the state to delete."""

retired: Notes[Callable[[], bool]] = Notes()
"""The ids, by record key, whose state was cleared, each with what tells whether it is still as good as new."""
