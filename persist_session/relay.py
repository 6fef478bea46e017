"""What the scripts and the middleware of one process tell each other."""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from persist_session.signing import Signed, unsign

if TYPE_CHECKING:
    from persist_session.keys import Keys

T = TypeVar("T")

ERRAND = "/_persist_session"
"""The path to which a tab sends its browser on an errand: the middleware sees its HttpOnly cookies, and renews them."""

BROWSER = "persist_session~browser"
"""The name of the cookie by which a tab and a request are known to be of one browser; no state can be called so."""

_MOST = 100_000
"""How many visitors' notes are kept. A forgotten one leaves a cookie or a record as it is, until it expires."""


def browser_of(values: Iterable[str], keys: Keys) -> str | None:
    """What a browser is known by; None where its cookies do not say, or say several things: one may be planted."""
    signed = (unsign(BROWSER, value, keys, math.inf) for value in values)
    found = {each.session_id for each in signed if each is not None}
    return found.pop() if len(found) == 1 else None


class Notes(Generic[T]):
    """Notes by a key, as a rule a record key; the oldest are forgotten first."""

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

    def take(self, most: int) -> list[str]:
        """The oldest keys, at most so many, under which nothing is noted any more."""
        with self._lock:
            return [self._notes.popitem(last=False)[0] for _ in range(min(most, len(self._notes)))]

    def drop(self, key: str) -> None:
        """Forgets what was noted."""
        with self._lock:
            self._notes.pop(key, None)


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of an errand.

    Attributes:
        signed: The cookie that the browser has by now, None where it has none.
        is_issued: It has it by this very answer, if that arrives, and no other one comes after it.
        is_refused: The middleware is told not to remember this visitor.
        browser: What the request's own cookie says of which browser it came from, None where it has none.
    """

    signed: Signed | None
    is_issued: bool = False
    is_refused: bool = False
    browser: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a page, or an errand, does for one state.

    Attributes:
        heard: What that comes to.
        cookies: The Set-Cookie headers for it.
    """

    heard: Heard
    cookies: list[str] = field(repr=False)


class Listener(Protocol):
    """Waits for what comes of an errand."""

    @property
    def name(self) -> str:
        """The state's."""

    def is_of(self, browser: str) -> bool:
        """Whether it may be a tab of this browser."""

    def hear(self, token: str, heard: Heard) -> None:
        """Takes it, from any thread."""


served: dict[str, Callable[[Any, Listener], Outcome]] = {}
"""The names whose cookies a middleware sets, each with what answers an errand's request for it."""

shown: Notes[bool] = Notes()
"""The ids that a handshake has shown: cookies do arrive with this visitor's connections."""

promoted: Notes[bool] = Notes()
"""The ids whose cookie a script has set, and a page made HttpOnly since."""

retired: Notes[Callable[[], bool]] = Notes()
"""The ids whose state was cleared, each with what tells whether it is still as good as new."""

replaced: Notes[Heard] = Notes()
"""The ids whose HttpOnly cookie the browser has no longer, each with what it has instead.

A tab whose handshake shows one is outdated.
"""

errands: weakref.WeakValueDictionary[str, Listener] = weakref.WeakValueDictionary()
"""Who waits for what comes of an errand, by its token; closed tabs do not any more."""

_unwanted: dict[str, Notes[bool]] = {}


def unwanted(name: str) -> Notes[bool]:
    """The ids, for one state, of visitors who are not to be remembered: their records are to be deleted."""
    return _unwanted.get(name) or _unwanted.setdefault(name, Notes())
