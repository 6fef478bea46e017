"""What a tab sends its browser to the middleware for: HttpOnly cookies, which no script sees or replaces."""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass, field
from typing import Any

from persist_session import host, relay

_TRIED_FOR = 5.0
"""Seconds after which an errand of which nothing was heard is begun anew."""


@dataclass(slots=True)
class Errand:
    """A hidden request of one tab's browser, for one state: the server does what it would do for a page, and tells.

    Attributes:
        is_due: The browser is to go even where the tab knows its id: to have the cookie renewed or replaced.
        heard: What came of it, None until that is known.
        missed: How often something else came before that.
    """

    name: str
    is_due: bool = False
    heard: relay.Heard | None = field(default=None, repr=False)
    missed: int = 0
    _token: str = field(default="", repr=False)
    _since: float = 0.0
    _sent: host.Once = field(default_factory=host.Once)

    @property
    def is_under_way(self) -> bool:
        """Whether the browser was sent, and nothing was heard of it yet."""
        return bool(self._token)

    def send(self, path: str, run: weakref.ref[Any]) -> None:
        """Sends the browser, once a run: a newer run would take the element away before it was loaded.

        The same element in every run is loaded once. If nothing was heard for a while, another process may have.

        Args:
            path: That of the app, as the browser has it.
            run: The current run.
        """
        if not self._token or time.time() - self._since > _TRIED_FOR:
            self._token, self._since = relay.new_errand(self.name), time.time()
        if self._sent.is_first(run):
            host.fetch(f"{path.rstrip('/')}{relay.ERRAND}?{self._token}")

    def listen(self) -> relay.Heard | None:
        """What was heard of it since this was asked last; calls nothing of Streamlit."""
        heard = relay.heard.get(self._token)
        if heard is not None:
            relay.heard.drop(self._token)
            self.heard, self.is_due, self.missed, self._token = heard, False, 0, ""
        return heard

    def begin_anew(self) -> None:
        """Makes it due, whatever the browser was sent for before."""
        self.is_due, self.heard, self._token, self._sent = True, None, "", host.Once()
