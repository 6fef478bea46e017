"""What a tab sends its browser to the middleware for: HttpOnly cookies, which no script sees or replaces."""

from __future__ import annotations

import math
import secrets
import threading
import time
import weakref
from dataclasses import dataclass, field, replace
from typing import Any

from persist_session import host, relay

_TRIED_FOR = 5.0
"""Seconds after which an errand of which nothing was heard is begun anew."""

_WAITED_FOR = 1.0
"""Seconds for which a save waits for an errand at most: browsers come back in some hundredths of one."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Errand:
    """A hidden request of one tab's browser, for one state: the server does what it would do for a page, and tells.

    Whoever gets hold of its address can have another visitor's browser make the request. So what is heard of an id
    counts only where the request carried the same `relay.BROWSER` cookie as the tab's own browser is known to have.

    Attributes:
        name: The state's.
        is_due: The browser is to go even where the tab knows its id: to have the cookie renewed or replaced.
        heard: What came of it, None until that is known.
        missed: How often something else came before that.
    """

    name: str
    is_due: bool = False
    heard: relay.Heard | None = field(default=None, repr=False)
    missed: int = 0
    _browser: str | None = field(default=None, repr=False)
    _is_browser_told: bool = False
    _begun_anew: float = -math.inf
    _token: str = field(default="", repr=False)
    _since: float = 0.0
    _sent: host.Once = field(default_factory=host.Once)
    _news: relay.Heard | None = field(default=None, repr=False)
    _is_back: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def is_under_way(self) -> bool:
        """Whether the browser was sent, and nothing was heard of it yet that can be told to be its own."""
        return bool(self._token) or self._news is not None

    def know(self, browser: str | None) -> None:
        """Notes what the tab's own browser is known by, None where that is surely nothing.

        Once only: after its cookies were deleted a browser may be another visitor's, and connect an old tab anew.
        """
        if not self._is_browser_told:
            self._browser, self._is_browser_told = browser, True

    def know_no_longer(self) -> None:
        """Forgets it: the browser is to tell anew what it is known by."""
        self._browser, self._is_browser_told = None, False

    def follows(self, page: relay.Heard) -> bool:
        """Whether the tab goes on with what a page load came to: its own browser's, right after the tab was cleared.

        Who holds a copy of a visitor's cookies must not follow them from id to id: else only an errand tells.

        Args:
            page: What the page load came to.
        """
        if page.signed is None or self._browser is None or page.browser != self._browser:
            return False
        return 0 < page.signed.signed_at - self._begun_anew < _TRIED_FOR

    def is_of(self, browser: str) -> bool:
        """Whether what is known of the tab's browser allows that it is this one."""
        return not self._is_browser_told or self._browser == browser

    def send(self, run: weakref.ref[Any]) -> None:
        """Sends the browser, once a run: a newer run would take the element away before it was loaded.

        The same element in every run is loaded once. If nothing was heard for a while, another process may have.

        Args:
            run: The current run.
        """
        if not self._sent.is_first(run):
            return
        if not self.is_under_way or time.time() - self._since > _TRIED_FOR:
            relay.errands.pop(self._token, None)
            self._token, self._since, self._news = secrets.token_hex(16), time.time(), None
            self._is_back.clear()
            relay.errands[self._token] = self
        if self._token:
            host.fetch(f"{relay.ERRAND}?{self._token}")

    def hear(self, token: str, heard: relay.Heard) -> None:
        """Takes what came of it, unless it was begun anew since.

        Args:
            token: Of the browser's request.
            heard: What came of it.
        """
        if token == self._token:
            self._news, self._token = heard, ""
            self._is_back.set()

    def wait(self) -> None:
        """Returns as soon as something was heard, if the browser was sent; or after a while."""
        if self._token:
            left = self._since + _WAITED_FOR - time.time()
            self._is_back.wait(min(max(left, 0.0), _WAITED_FOR))  # the clock may have been set back

    def listen(self) -> relay.Heard | None:
        """What was heard of it since this was asked last; calls nothing of Streamlit."""
        heard = self._news
        if heard is None or (heard.signed is not None and not self._is_browser_told):
            return None  # the browser's answer is still to tell which one it is
        if heard.browser is None or heard.browser != self._browser:
            heard = replace(heard, signed=None, is_issued=False)
        # What was only just issued may not be what the browser keeps: the next errand tells.
        self.heard, self.is_due, self.missed, self._news = heard, heard.is_issued, 0, None
        return heard

    def begin_anew(self) -> None:
        """Makes it due, whatever the browser was sent for before."""
        relay.errands.pop(self._token, None)
        self._begun_anew = time.time()
        self.is_due, self.heard, self._news, self._token, self._sent = True, None, None, "", host.Once()
