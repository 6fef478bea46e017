"""What the scripts and the middleware of one process tell each other."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

QUESTION = "/_persist_session"
"""The path at which a middleware hears which cookies a tab's browser has by now, the HttpOnly ones among them."""

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

replaced: Notes[bool] = Notes()
"""The ids, by record key, that a page load has replaced: a tab whose handshake shows one is outdated."""

heard: Notes[dict[str, list[str]]] = Notes()
"""What a middleware heard to a tab's question, by its token: the cookies' values by state name; nothing until then."""


def new_question() -> str:
    """The token of a question that only this process hears the answer to."""
    token = secrets.token_hex(16)
    heard.put(token, {})
    return token


retired: Notes[Callable[[], bool]] = Notes()
"""The ids, by record key, whose state was cleared, each with what tells whether it is still as good as new."""
