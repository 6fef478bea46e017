"""One tab's visitor: from the handshake, else from the browser's answer, else a new one."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from persist_session import host
from persist_session.browser import component
from persist_session.browser.cookie import Cookie, Found, brings_others, cookie_for, is_refused, new_visitor_id
from persist_session.settings import Settings

_log = logging.getLogger(__name__)

HasRecords = Callable[[str], bool]
CookieState = Literal["asking", "pending", "seen", "none"]

_LOADED_WITHIN = 5.0
"""Seconds in which an element that removes a cookie surely came to the page, though newer runs took it away again."""


@dataclass(slots=True)
class Identity:
    """The visitor of one tab, found once: a handshake that later changes or empties changes nothing.

    Attributes:
        visitor_id: The browser's secret, None until it is known.
        is_wanted: Whether the browser is to have a cookie: not where every state is a user's, or not to be remembered;
            None until a state says so.
    """

    visitor_id: str | None = field(default=None, repr=False)
    is_wanted: bool | None = None
    _headers: tuple[str, ...] | None = field(default=None, repr=False)
    _signed_at: float = 0.0
    _sent: tuple[str, float] | None = field(default=None, repr=False)
    _removed_until: float = 0.0
    _answer: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def cookie(self) -> CookieState:
        """The state of the cookie: "asking", "pending" until a handshake has shown it, "seen", or "none"."""
        if self.visitor_id is None:
            return "asking" if self.is_wanted else "none"
        return "pending" if self._sent is not None else "seen" if self.is_wanted else "none"

    def look(self, settings: Settings, has_records: HasRecords) -> None:
        """Looks at the handshake, where it has changed since the last look.

        Args:
            settings: The settings in force.
            has_records: Tells of a visitor id whether the store has a record of it.
        """
        shaken = host.handshake()
        if shaken is None:
            return
        if self.visitor_id is None and self._answer:
            self._adopt(cookie_for(shaken.url, host.base_path(), settings), settings)
        if shaken.cookie_headers == self._headers:
            return
        self._headers = shaken.cookie_headers
        cookie = cookie_for(shaken.url, host.base_path(), settings)
        found = cookie.found_in_headers(shaken.cookie_headers, settings)
        signed = found.leading(has_records)
        if signed is None:
            self._find_none(shaken, settings)
            return
        # Another valid id than the own one is that of a tab opened in the same moment. The browser keeps it: to send
        # the own one again would only turn the two tabs against each other.
        self._sent = None
        if self.visitor_id is None:
            self.visitor_id = signed.visitor_id
        if self.visitor_id == signed.visitor_id:
            self._signed_at = 0.0 if signed.is_aging(settings) else signed.signed_at
            if _is_superfluous(found, settings):
                self._removed_until = time.time() + _LOADED_WITHIN

    def _find_none(self, shaken: host.Handshake, settings: Settings) -> None:
        """Takes a handshake for the browser's answer, where it surely has no cookie that this does not show."""
        if host.pages_bring_cookies() and self.visitor_id is None and not shaken.is_refused:
            _warn_of_stripped()
        if not settings.ask_browser and self._answer is None and not shaken.is_refused:
            self._answer = {}

    def _begin(self, settings: Settings) -> None:
        self.visitor_id = new_visitor_id()
        self._signed_at = 0.0
        self.renew(settings)

    def want(self, settings: Settings) -> None:
        """Has the browser keep a cookie from now on."""
        self.is_wanted = True
        if self.visitor_id is None and self._answer is not None:
            self._begin(settings)
        self.renew(settings)

    def renew(self, settings: Settings) -> None:
        """Has the cookie signed anew and sent, where half of its time is over."""
        is_aging = time.time() - self._signed_at > settings.cookie_max_age / 2
        if self.visitor_id is None or not self.is_wanted or not is_aging:
            return
        shaken = host.handshake()
        if shaken is not None and not shaken.is_refused:
            cookie = cookie_for(shaken.url, host.base_path(), settings).script
            self._signed_at = time.time()
            self._sent = cookie.sign(self.visitor_id, settings.keys), self._signed_at + settings.cookie_max_age

    def withdraw(self) -> bool:
        """Has the browser forget a script's cookie, and tells whether it is to; the tab goes on under the same id."""
        if self.is_wanted is False or self.visitor_id is None:
            return False
        self.is_wanted, self._sent, self._signed_at = False, None, 0.0
        self._removed_until = time.time() + _LOADED_WITHIN
        return True

    def is_due(self) -> bool:
        """Tells whether the browser is to be asked, or to be sent something."""
        if self._sent is not None or time.time() < self._removed_until:
            return True
        shaken = host.handshake() if self.visitor_id is None else None
        return shaken is not None and self._is_to_ask(shaken)

    def talk(self, settings: Settings) -> bool:
        """Asks the browser, or sends it the cookie; returns whether the browser's answer names a visitor.

        Mounts at most one element, where the caller says; see `host.mount_apart`.
        """
        shaken = host.handshake()
        if shaken is None:
            return False
        cookie = cookie_for(shaken.url, host.base_path(), settings)
        if self.visitor_id is None and self._answer is None and self._is_to_ask(shaken):
            component.ask(self._hear)
        is_adopted = self.visitor_id is None and self._answer is not None and self._adopt(cookie, settings)
        self._send(cookie, shaken)
        return is_adopted

    def _hear(self, answer: dict[str, Any]) -> None:
        self._answer = answer

    def _is_to_ask(self, shaken: host.Handshake) -> bool:
        # Where no cookie is to be set, one is to be feared only if no other came either: each question costs a run.
        return (
            self._answer is None
            and not shaken.is_refused
            and (bool(self.is_wanted) or not brings_others(shaken.cookie_headers))
        )

    def _adopt(self, cookie: Cookie, settings: Settings) -> bool:
        """Takes the visitor that the browser's answer names, else draws a new id; returns whether it named one."""
        signed = cookie.found_in_answer(self._answer or {}, settings).script
        self._answer = {}
        if signed is not None:
            self.visitor_id = signed.visitor_id
            self._signed_at = 0.0 if signed.is_aging(settings) else signed.signed_at
            self.renew(settings)
        elif self.is_wanted:
            self._begin(settings)
        return signed is not None

    def _send(self, cookie: Cookie, shaken: host.Handshake) -> None:
        if self._sent is not None:
            if is_refused(cookie, shaken.url):
                _warn_of_refusal()
            component.send(cookie.script, *self._sent)
        elif time.time() < self._removed_until:
            component.remove(cookie.script)


def _is_superfluous(found: Found, settings: Settings) -> bool:
    """Tells whether a script's cookie only repeats the server's, which arrives: so it is not needed any more."""
    server, script = found.server, found.script
    is_twin = server is not None and script is not None and server.visitor_id == script.visitor_id
    return is_twin and server is not None and not server.is_aging(settings)


@functools.lru_cache(maxsize=1)  # once
def _warn_of_stripped() -> None:
    _log.warning(
        "CookieMiddleware sets the cookie with the page, but a visitor's connection brought none that is valid. A "
        "proxy keeps cookies from the websocket: let it pass on the header Cookie to /_stcore/stream, and the headers "
        "X-Forwarded-Proto and Host to all pages. Until then a script sets a cookie, too, and each page load takes a "
        "second run."
    )


@functools.lru_cache(maxsize=1)
def _warn_of_refusal() -> None:
    _log.warning(
        "The cookie is to be secure, or same_site='none', and the page is not https: browsers refuse it, so nothing is "
        "found again after a reload. Serve the app by https, or leave out these settings."
    )
