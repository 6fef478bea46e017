"""Which session id a tab is bound to for one name, and how the browser comes to know it."""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from persist_session import host, relay
from persist_session.cookie_policy import (
    CookiePolicy,
    brings_others,
    newest,
    policy,
    values_in_answer,
    values_in_headers,
)
from persist_session.cookies import Question, send
from persist_session.settings import Settings
from persist_session.signing import Signed, new_session_id, record_key, sign

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Binding:
    """One name's session id in one tab. Bound once: a handshake that later changes or empties is no reason to rebind.

    Attributes:
        session_id: The visitor's secret index, None until the browser is known.
        retired: The ids that this one replaces, all since the handshake; one that still shows them does not show ours.
        cleared: The id of a state that was cleared before the browser was known: its record is still to be deleted.
        is_http_only: The server set the cookie with the page: no script can replace it.
        is_wanted: Whether the browser is to have a cookie: not where the state is a user's, or is not to be remembered.
    """

    name: str
    question: Question
    session_id: str | None = field(default=None, repr=False)
    retired: frozenset[str] = field(default=frozenset(), repr=False)
    cleared: str | None = field(default=None, repr=False)
    _is_cleared: bool = False
    _cookie: str | None = field(default=None, repr=False)
    _expires: float = 0.0
    _signed_at: float = math.inf
    _is_outdated: bool = False
    _expired: str | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _sent_in: weakref.ref[Any] | None = None
    _times_sent: int = 0
    _seen_headers: tuple[str, ...] | None = field(default=None, repr=False)
    is_http_only: bool = False
    is_wanted: bool = True
    _was_unwanted: bool = False
    _is_unwanted_there: bool = False
    _doubted: Signed | None = field(default=None, repr=False)
    _token: str = field(default="", repr=False)

    @property
    def is_pending(self) -> bool:
        """Whether a cookie was issued that no handshake has shown yet."""
        return self._cookie is not None

    @property
    def is_overtaken(self) -> bool:
        """Whether a page load has replaced the HttpOnly cookie of the handshake, and what by is not known yet."""
        return self.session_id is None and self._doubted is not None

    def bind(self, settings: Settings, max_age: float, is_current: Callable[[], bool] = lambda: False) -> None:
        """Binds the tab to the id in the handshake, else to the one the browser answered, else to a new one.

        Args:
            settings: The settings in force.
            max_age: Seconds until the cookie expires.
            is_current: Whether an id that the tab is bound to is surely still the browser's, and may be signed anew.
        """
        with self._lock:  # two runs of a tab may come at once
            self._bind(settings, max_age, is_current)

    def _bind(self, settings: Settings, max_age: float, is_current: Callable[[], bool]) -> None:
        if self._is_aging(max_age) and is_current():
            self._sign(settings, max_age)
        if self.session_id is not None and self.is_http_only and _is_replaced(self.name, self.session_id):
            self._let_go()
        if self.session_id is not None and not self.is_pending:
            return
        shaken = host.handshake()
        if shaken is None:
            return
        cookie = policy(self.name, shaken.url, host.base_path(), settings)
        self._look_at_handshake(shaken.cookie_headers, cookie, settings, max_age)
        if self.session_id is None:
            self._look_at_answer(self.question.answer(self.name), cookie, settings, max_age)

    def _look_at_handshake(
        self, headers: tuple[str, ...], cookie: CookiePolicy, settings: Settings, max_age: float
    ) -> None:
        if headers == self._seen_headers:
            return
        self._seen_headers = headers
        signed = newest(self.name, values_in_headers(cookie, headers), settings, max_age)
        if signed is None or signed.session_id in self.retired:
            return
        if signed.http_only and _is_replaced(self.name, signed.session_id):
            self._doubted = signed
            return
        if not signed.http_only:
            relay.shown.put(record_key(self.name, signed.session_id), note=True)
        # Another valid id than ours is that of a tab opened in the same moment. The browser keeps it: to send ours
        # again would only turn the two tabs against each other.
        self._cookie, self._signed_at = None, math.inf
        if self.session_id in (None, signed.session_id):
            self._find(signed, settings, max_age)

    def _look_at_answer(
        self, answer: dict[str, str] | None, cookie: CookiePolicy, settings: Settings, max_age: float
    ) -> None:
        if answer is None and (settings.ask_browser or self._is_outdated):
            return
        if self._doubted is not None:
            pass
        elif self.name in relay.served and not self._was_unwanted:
            _warn_of_stripped(self.name)
        elif relay.served and self.name not in relay.served:
            _warn_of_missing(self.name)
        values = [*values_in_answer(cookie, answer or {}), *self._take_what_was_heard()]
        signed = newest(self.name, values, settings, max_age) or self._doubted
        self._doubted = None
        if signed is not None and signed.session_id not in self.retired:
            self._find(signed, settings, max_age)
        elif self.is_wanted:
            self.issue(settings, max_age)

    def _take_what_was_heard(self) -> list[str]:
        values = (relay.heard.get(self._token) or {}).get(self.name, [])
        relay.heard.drop(self._token)
        self._token = ""
        return values

    def _find(self, signed: Signed, settings: Settings, max_age: float) -> None:
        if self._is_cleared:
            self.cleared, self._is_cleared = signed.session_id, False
            if not signed.http_only:
                self.retired |= {signed.session_id}
                self.issue(settings, max_age)
                return
        self.session_id, self.is_http_only = signed.session_id, signed.http_only
        self._signed_at = math.inf if signed.http_only else signed.signed_at  # the next page load renews that one
        if self._is_aging(max_age) and self.is_wanted:
            self._sign(settings, max_age)

    def _is_aging(self, max_age: float) -> bool:
        """Whether half of the cookie's time is over, so that its id is to be signed anew."""
        return time.time() - self._signed_at > max_age / 2

    def issue(self, settings: Settings, max_age: float) -> None:
        """Binds the tab to a new id, whose cookie is to be sent."""
        # Of several tabs whose state expired, each goes on under the old id: so they go on with one state.
        self.session_id, self._expired = self._expired or new_session_id(), None
        self._is_cleared = False  # what is found later was made after the clearing
        self.is_http_only = False
        self._sign(settings, max_age)

    def _sign(self, settings: Settings, max_age: float) -> None:
        assert self.session_id is not None, "there is an id to sign"
        self._signed_at = time.time()
        self._expires = self._signed_at + max_age
        self._cookie = sign(self.name, self.session_id, settings.keys)  # last: who sees it sends it, with its expiry

    def want(self, *, is_wanted: bool) -> None:
        """Notes whether the browser is to have a cookie."""
        with self._lock:
            if is_wanted and not self.is_wanted:
                self._seen_headers, self._is_unwanted_there = None, False
            self.is_wanted = is_wanted
            self._was_unwanted |= not is_wanted

    def drop(self) -> None:
        """Lets go of the id; the browser is to forget its cookie."""
        seen = self._seen_headers
        self.outdate()
        self._seen_headers = seen  # an HttpOnly cookie is found again when it is wanted, not at every run
        self._is_unwanted_there = not self.is_http_only

    def outdate(self, *, is_expired: bool = False) -> None:
        """Lets go of the id: another tab cleared the state, and the browser knows a newer one than the handshake.

        Args:
            is_expired: The state may as well have expired. If the browser knows no newer id, this one is issued again.
        """
        with self._lock:
            self._expired = self.session_id if is_expired else None
            if self.session_id is not None and not is_expired and not self.is_http_only:
                self.retired |= {self.session_id}
            self._let_go()

    def _let_go(self) -> None:
        self._seen_headers = None if self.is_http_only else self._seen_headers
        self.session_id, self._cookie, self._signed_at, self._is_outdated = None, None, math.inf, True
        self.question.forget(self.name)

    def successor(self) -> Binding:
        """An unbound binding in this one's place; not heard in the run that was the first to send this one's cookie.

        Two elements that come to a page at once and set one cookie race. One that came with an earlier run has set its
        own by now, and does not set it again.
        An HttpOnly cookie stays, and so does its id.
        """
        if self.is_http_only and not self.is_overtaken:
            return replace(self, _lock=threading.Lock())
        return Binding(
            self.name,
            self.question,
            retired=self.retired | {self.session_id} if self.session_id is not None else self.retired,
            is_wanted=self.is_wanted,
            _was_unwanted=self._was_unwanted,
            _is_unwanted_there=self._is_unwanted_there,
            _is_cleared=self.session_id is None,
            _is_outdated=self._is_outdated,
            _sent_in=self._sent_in if self._times_sent <= 1 else None,
            _doubted=self._doubted,
        )

    def talk(self, settings: Settings, max_age: float, run: weakref.ref[Any]) -> None:
        """Asks the browser, or sends it the cookie, where that is still to be done in this run.

        Raises:
            BaseException: Streamlit's own, where the run is to stop or to start again.
        """
        shaken = host.handshake()
        if self.session_id is None and shaken is not None and self._is_to_ask(shaken.cookie_headers):
            if self._doubted is not None:
                self._ask_server(policy(self.name, shaken.url, host.base_path(), settings).path)
            self.question.ask(self.name, run)
            self.bind(settings, max_age)
        cookie = self._cookie
        if (cookie is None and not self._is_unwanted_there) or shaken is None or not self._claim(run):
            return
        target = policy(self.name, shaken.url, host.base_path(), settings)
        is_served = self.name in relay.served
        if cookie is not None:
            send(target.beside if is_served else target, cookie, self._expires)
        else:
            send(target, "", 0.0)
            if is_served or target.beside.is_in(shaken.cookie_headers):
                send(target.beside, "", 0.0)

    def _ask_server(self, path: str) -> None:
        """Has the browser show its cookies to the server, before it answers the script, which does not see them all."""
        self._token = self._token or relay.new_question()
        host.fetch(f"{path.rstrip('/')}{relay.QUESTION}?{self._token}")

    def _is_to_ask(self, headers: tuple[str, ...]) -> bool:
        """Whether the browser may have a cookie that its connection did not bring.

        Where none is to be issued, that is to be feared only if no other cookie came either: each question costs a run.
        """
        return self.is_wanted or (self.question.answer(self.name) is None and not brings_others(headers))

    def _claim(self, run: weakref.ref[Any]) -> bool:
        """Whether the cookie is to be sent by this caller: by the first one in a run."""
        with self._lock:  # parallel fragments are threads of one run
            first, self._sent_in = self._sent_in != run, run
            self._times_sent += first
            return first


def _is_replaced(name: str, session_id: str) -> bool:
    return relay.replaced.get(record_key(name, session_id)) is not None


@functools.lru_cache(maxsize=1024)  # once for each name
def _warn_of_stripped(name: str) -> None:
    _log.warning(
        "CookieMiddleware sets the cookie of state %r, but a visitor's connection brought none that is valid. The "
        "browser refuses cookies, or a proxy keeps them from the websocket: let it pass on the header Cookie to "
        "/_stcore/stream, and X-Forwarded-Proto and Host to all pages. Until then, a script sets the cookie for such a "
        "visitor.",
        name,
    )


@functools.lru_cache(maxsize=1024)
def _warn_of_missing(name: str) -> None:
    _log.warning(
        "CookieMiddleware sets no cookie for state %r, so a script does: add it to names=[...] of the st.App.",
        name,
    )
