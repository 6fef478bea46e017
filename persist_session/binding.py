"""Which session id a tab is bound to for one name, and how the browser comes to know it."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from persist_session import host
from persist_session.cookie_policy import CookiePolicy, newest, policy, values_in_answer, values_in_headers
from persist_session.cookies import Question, send
from persist_session.settings import Settings
from persist_session.signing import Signed, new_session_id, sign


@dataclass(slots=True)
class Binding:
    """One name's session id in one tab. Bound once: a handshake that later changes or empties is no reason to rebind.

    Attributes:
        session_id: The visitor's secret index, None until the browser is known.
        retired: The ids that this one replaces, all since the handshake; one that still shows them does not show ours.
        cleared: The id of a state that was cleared before the browser was known: its record is still to be deleted.
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

    @property
    def is_pending(self) -> bool:
        """Whether a cookie was issued that no handshake has shown yet."""
        return self._cookie is not None

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
        signed = newest(self.name, values_in_headers(cookie.cookie_name, headers), settings.keys, max_age)
        if signed is None or signed.session_id in self.retired:
            return
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
        signed = newest(self.name, values_in_answer(cookie.cookie_name, answer or {}), settings.keys, max_age)
        if signed is not None and signed.session_id not in self.retired:
            self._find(signed, settings, max_age)
        else:
            self.issue(settings, max_age)

    def _find(self, signed: Signed, settings: Settings, max_age: float) -> None:
        if self._is_cleared:
            self.cleared, self.retired = signed.session_id, self.retired | {signed.session_id}
            self.issue(settings, max_age)
        else:
            self.session_id, self._signed_at = signed.session_id, signed.signed_at
            if self._is_aging(max_age):
                self._sign(settings, max_age)

    def _is_aging(self, max_age: float) -> bool:
        """Whether half of the cookie's time is over, so that its id is to be signed anew."""
        return time.time() - self._signed_at > max_age / 2

    def issue(self, settings: Settings, max_age: float) -> None:
        """Binds the tab to a new id, whose cookie is to be sent."""
        # Of several tabs whose state expired, each goes on under the old id: so they go on with one state.
        self.session_id, self._expired = self._expired or new_session_id(), None
        self._is_cleared = False  # what is found later was made after the clearing
        self._sign(settings, max_age)

    def _sign(self, settings: Settings, max_age: float) -> None:
        assert self.session_id is not None, "there is an id to sign"
        self._signed_at = time.time()
        self._expires = self._signed_at + max_age
        self._cookie = sign(self.name, self.session_id, settings.keys)  # last: who sees it sends it, with its expiry

    def outdate(self, *, is_expired: bool = False) -> None:
        """Lets go of the id: another tab cleared the state, and the browser knows a newer one than the handshake.

        Args:
            is_expired: The state may as well have expired. If the browser knows no newer id, this one is issued again.
        """
        with self._lock:
            self._expired = self.session_id if is_expired else None
            if self.session_id is not None and not is_expired:
                self.retired |= {self.session_id}
            self.session_id, self._cookie, self._signed_at, self._is_outdated = None, None, math.inf, True
        self.question.forget(self.name)

    def successor(self) -> Binding:
        """An unbound binding in this one's place; not heard in the run that was the first to send this one's cookie.

        Two elements that come to a page at once and set one cookie race. One that came with an earlier run has set its
        own by now, and does not set it again.
        """
        return Binding(
            self.name,
            self.question,
            retired=self.retired | {self.session_id} if self.session_id is not None else self.retired,
            _is_cleared=self.session_id is None,
            _is_outdated=self._is_outdated,
            _sent_in=self._sent_in if self._times_sent <= 1 else None,
        )

    def talk(self, settings: Settings, max_age: float, run: weakref.ref[Any]) -> None:
        """Asks the browser, or sends it the cookie, where that is still to be done in this run.

        Raises:
            BaseException: Streamlit's own, where the run is to stop or to start again.
        """
        if self.session_id is None and host.handshake() is not None:
            self.question.ask(self.name, run)
            self.bind(settings, max_age)
        cookie, shaken = self._cookie, host.handshake()
        if cookie is not None and shaken is not None and self._claim(run):
            send(policy(self.name, shaken.url, host.base_path(), settings), cookie, self._expires)

    def _claim(self, run: weakref.ref[Any]) -> bool:
        """Whether the cookie is to be sent by this caller: by the first one in a run."""
        with self._lock:  # parallel fragments are threads of one run
            first, self._sent_in = self._sent_in != run, run
            self._times_sent += first
            return first
