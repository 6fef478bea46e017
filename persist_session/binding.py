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
    values_beside,
    values_in_answer,
    values_in_headers,
)
from persist_session.cookies import Delivery, Question
from persist_session.errand import Errand
from persist_session.settings import Settings
from persist_session.signing import Signed, new_session_id, record_key, sign

_log = logging.getLogger(__name__)

_PATIENCE = 3
"""How often a tab asks its browser again whose errand took longer than its answer."""


@dataclass(slots=True)
class Binding:
    """One name's session id in one tab. Bound once: a handshake that later changes or empties is no reason to rebind.

    Attributes:
        session_id: The visitor's secret index, None until the browser is known.
        is_http_only: The server set the cookie with the page: no script can replace it.
        is_wanted: Whether the browser is to have a cookie: not where the state is a user's, or is not to be remembered.
        retired: Ids that the handshake may still show, but that this tab has left.
        cleared: The id of a state that was cleared before the browser was known: its record is still to be deleted.
        left: The id of a script's cookie beside the server's own: what lies under it belongs under that one's.
    """

    name: str
    question: Question
    session_id: str | None = field(default=None, repr=False)
    is_http_only: bool = False
    is_wanted: bool = True
    retired: frozenset[str] = field(default=frozenset(), repr=False)
    cleared: str | None = field(default=None, repr=False)
    left: str | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _is_cleared: bool = False
    _is_outdated: bool = False
    _expired: str | None = field(default=None, repr=False)
    _seen_headers: tuple[str, ...] | None = field(default=None, repr=False)
    _was_unwanted: bool = False
    _is_dropped: bool = False
    _signed_at: float = math.inf
    # A script's cookie.
    _delivery: Delivery = field(default_factory=Delivery)
    # The server's own.
    _errand: Errand = field(init=False)
    _was_cleared_unheard: bool = False
    _doubted: Signed | None = field(default=None, repr=False)
    _kept: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Nothing is due."""
        self._errand = Errand(self.name)

    @property
    def is_pending(self) -> bool:
        """Whether a cookie was issued that no handshake has shown yet."""
        return self._delivery.is_pending

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
        self._listen()
        if self.session_id is not None:
            self._look_at_relay(self.session_id)
        if self._is_aging(settings.max_age if self.is_http_only else max_age) and is_current():
            self._renew(settings, max_age)
        if self.session_id is not None and not self.is_pending:
            return
        shaken = host.handshake()
        if shaken is None:
            return
        cookie = policy(self.name, shaken.url, host.base_path(), settings)
        if self.session_id is None:
            self._look_at_browser(shaken, settings)
        self._look_at_handshake(shaken.cookie_headers, cookie, settings, max_age)
        if self.session_id is not None:
            self._errand.know(None)  # unless it is known by something
        else:
            self._listen()
            self._look_at_heard(cookie, settings, max_age)
        if self.session_id is None:
            self._look_at_answer(self.question.answer(self.name), cookie, settings, max_age)

    def listen(self, *, waits: bool = False) -> None:
        """Takes note of what came of an errand; calls nothing of Streamlit.

        Args:
            waits: Whether to give one that is under way a moment to come back.
        """
        if waits:
            self._errand.wait()
        with self._lock:
            self._listen()

    def _listen(self) -> None:
        heard = self._errand.listen()
        if heard is None and self.session_id is not None and self.is_http_only:
            page = relay.replaced.get(record_key(self.name, self.session_id))
            if page is not None and self._errand.follows(page):
                heard, self._errand.is_due = page, True  # to be confirmed
        if heard is None or self.session_id is None:
            return
        if heard.signed is not None and heard.signed.http_only:
            if not self.is_http_only:  # a script has set a cookie because this was not heard in time
                self.left, self.is_http_only = self.session_id, True
                self._delivery.end()
                if self._was_cleared_unheard:
                    self.cleared = heard.signed.session_id
            self.session_id, self._signed_at = heard.signed.session_id, heard.signed.signed_at
        elif self.is_http_only:
            self._signed_at = math.inf  # another browser's, since its cookies were deleted, or none: nothing to renew

    def _look_at_browser(self, shaken: host.Handshake, settings: Settings) -> None:
        """Notes by what the server knows the tab's browser, as soon as a tab can tell."""
        answer = self.question.answer(self.name)
        cookie = policy(relay.BROWSER, shaken.url, host.base_path(), settings)
        values = [*values_in_headers(cookie, shaken.cookie_headers), *values_in_answer(cookie, answer or {})]
        browser = relay.browser_of(values, settings.keys)
        if browser is not None or answer is not None:
            self._errand.know(browser)

    def _look_at_relay(self, session_id: str) -> None:
        key = record_key(self.name, session_id)
        if not self.is_http_only and relay.promoted.get(key):
            self.is_http_only, self._signed_at = True, time.time()
            self._delivery.end()
        if self.is_http_only and relay.replaced.get(key):
            if session_id == self._kept:
                self._errand.is_due = True  # without a question, which starts a run each time
                return
            self._doubted = Signed(session_id, self._signed_at, http_only=True)
            self._let_go()

    def _look_at_handshake(
        self, headers: tuple[str, ...], cookie: CookiePolicy, settings: Settings, max_age: float
    ) -> None:
        if headers == self._seen_headers:
            return
        self._seen_headers = headers
        signed = newest(self.name, values_in_headers(cookie, headers), settings, max_age)
        if signed is None or signed.session_id in self.retired:
            return
        key = record_key(self.name, signed.session_id)
        if signed.http_only and relay.replaced.get(key):
            self._doubted = signed
            return
        if not signed.http_only:
            relay.shown.put(key, note=True)
        # Another valid id than ours is that of a tab opened in the same moment. The browser keeps it: to send ours
        # again would only turn the two tabs against each other.
        self._signed_at = math.inf
        self._delivery.end()
        if self.session_id in (None, signed.session_id):
            self._find(signed, settings, max_age)
            self._look_beside(values_beside(cookie, headers), settings, max_age)

    def _look_beside(self, values: list[str], settings: Settings, max_age: float) -> None:
        """Notes the id of a script's own cookie beside the server's: set where that one was not heard of in time."""
        signed = newest(self.name, values, settings, max_age)
        if signed is not None and self.is_http_only and signed.session_id not in (self.session_id, *self.retired):
            self.left = signed.session_id

    def _look_at_heard(self, cookie: CookiePolicy, settings: Settings, max_age: float) -> None:
        signed = self._errand.heard.signed if self._errand.heard is not None else None
        if signed is None or not signed.http_only or self._is_dropped:  # a script's is judged by the script
            return
        if relay.replaced.get(record_key(self.name, signed.session_id)):
            self._let_go()  # of what was heard and answered, too: the browser has another one since
            return
        if self._doubted is None and not self._was_unwanted:
            _warn_of_stripped(self.name)
        self._find(signed, settings, max_age)
        self._look_beside(values_in_answer(cookie.beside, self.question.answer(self.name) or {}), settings, max_age)

    def _look_at_answer(
        self, answer: dict[str, str] | None, cookie: CookiePolicy, settings: Settings, max_age: float
    ) -> None:
        if answer is None and (settings.ask_browser or self._is_outdated):
            return
        signed = newest(self.name, values_in_answer(cookie, answer or {}), settings, max_age)
        if self._errand.is_under_way and self._errand.missed < _PATIENCE:
            self._errand.missed += 1  # what no script sees must not be overwritten
            self.question.forget(self.name)
            return
        if self._errand.heard is None:
            if signed is None and self._doubted is not None:
                signed, self._kept = self._doubted, self._doubted.session_id
            if self.name in relay.served and self._doubted is None and not self._was_unwanted:
                _warn_of_stripped(self.name)
        if relay.served and self.name not in relay.served:
            _warn_of_missing(self.name)
        if signed is not None and signed.session_id not in self.retired:
            self._find(signed, settings, max_age)
        elif self._is_refused:
            _warn_of_refusal(self.name)
        elif self.is_wanted:
            is_heard = self._errand.heard is not None
            self.issue(settings, max_age)
            self._errand.is_due = self.name in relay.served and not is_heard  # the browser may have one all the same

    @property
    def _is_refused(self) -> bool:
        """Whether a middleware is told not to remember the visitor: then no script sets a cookie either."""
        return self._errand.heard is not None and self._errand.heard.is_refused

    def _find(self, signed: Signed, settings: Settings, max_age: float) -> None:
        is_http_only = signed.http_only or bool(relay.promoted.get(record_key(self.name, signed.session_id)))
        self._errand.heard, self._doubted = None, None
        if self._is_cleared:
            self.cleared, self._is_cleared = signed.session_id, False
            if not is_http_only:
                self.retired |= {signed.session_id}
                self.issue(settings, max_age)
                return
        self.session_id, self.is_http_only, self._signed_at = signed.session_id, is_http_only, signed.signed_at
        if not is_http_only and self._is_aging(max_age) and self.is_wanted:
            self._sign(settings, max_age)

    def _is_aging(self, max_age: float) -> bool:
        """Whether half of the cookie's time is over, so that its id is to be signed anew."""
        return time.time() - self._signed_at > max_age / 2

    def _renew(self, settings: Settings, max_age: float) -> None:
        if self.is_http_only:
            self._errand.is_due = True
        else:
            self._sign(settings, max_age)

    def issue(self, settings: Settings, max_age: float) -> None:
        """Binds the tab to a new id, whose cookie is to be sent."""
        # Of several tabs whose state expired, each goes on under the old id: so they go on with one state.
        self.session_id, self._expired = self._expired or new_session_id(), None
        self._is_cleared = False  # what is found later was made after the clearing
        self.is_http_only, self._errand.heard, self._doubted = False, None, None
        self._sign(settings, max_age)

    def _sign(self, settings: Settings, max_age: float) -> None:
        assert self.session_id is not None, "there is an id to sign"
        self._signed_at = time.time()
        self._delivery.begin(sign(self.name, self.session_id, settings.keys), self._signed_at + max_age)

    def want(self, *, is_wanted: bool) -> None:
        """Notes whether the browser is to have a cookie."""
        with self._lock:
            if is_wanted and not self.is_wanted:
                self._seen_headers, self._is_dropped = None, False
                self._delivery.keep()
                self._errand.heard = None if self._is_refused else self._errand.heard
            if not is_wanted:
                self._expired = None
            self.is_wanted = is_wanted
            self._was_unwanted |= not is_wanted

    def drop(self) -> None:
        """Lets go of the id; the browser is to forget its cookie."""
        with self._lock:
            if self.session_id is not None and not self.is_http_only:
                self.retired |= {self.session_id}
            self._let_go()
            self._is_dropped = True
            if self.is_http_only:
                self._delivery.keep()
            else:
                self._delivery.remove()

    def outdate(self, *, is_expired: bool = False) -> None:
        """Lets go of the id: another tab cleared the state, and the browser knows a newer one than the handshake.

        An HttpOnly cookie stays until a page load or an errand replaces it, and so does its id.

        Args:
            is_expired: The state may as well have expired. If the browser knows no newer id, this one is issued again.
        """
        with self._lock:
            if self.is_http_only:
                return
            if is_expired:
                self._expired = self.session_id
            elif self.session_id is not None:
                self.retired |= {self.session_id}
            self._let_go()

    def _let_go(self) -> None:
        self.session_id, self._signed_at, self._is_outdated = None, math.inf, True
        self._delivery.end()
        self._errand.heard = None
        self._errand.know_no_longer()
        self.question.forget(self.name)

    def replace_by_server(self) -> None:
        """Has the server give the browser another HttpOnly cookie, if nothing lies under this one's id any more."""
        self._errand.begin_anew()

    def successor(self) -> Binding:
        """An unbound binding in this one's place; but an HttpOnly cookie stays, and so does its id."""
        if self.is_http_only and self.session_id is not None:
            successor = replace(self, _lock=threading.Lock())
            successor._errand = self._errand  # noqa: SLF001 (of its own class)
            return successor
        successor = Binding(
            self.name,
            self.question,
            retired=self.retired | {self.session_id} if self.session_id is not None else self.retired,
            is_wanted=self.is_wanted,
            _was_unwanted=self._was_unwanted,
            _is_dropped=self._is_dropped,
            _is_cleared=self.session_id is None and not self._is_dropped,
            _is_outdated=self._is_outdated,
            _delivery=self._delivery.successor(),
            _doubted=self._doubted,
            _was_cleared_unheard=self._errand.is_due,
        )
        if self._errand.is_due:  # the browser may have a cookie of the server's, under which something lies
            successor._errand = self._errand
        return successor

    def talk(self, settings: Settings, max_age: float, run: weakref.ref[Any], is_gone: Callable[[], bool]) -> None:
        """Asks the browser, or sends it the cookie, where that is still to be done in this run.

        Args:
            settings: The settings in force.
            max_age: Seconds until the cookie expires.
            run: The current run.
            is_gone: Whether the state was cleared elsewhere, and the browser may have another cookie.

        Raises:
            BaseException: Streamlit's own, where the run is to stop or to start again.
        """
        shaken = host.handshake()
        if shaken is None:
            return
        target = policy(self.name, shaken.url, host.base_path(), settings)
        is_served = self.name in relay.served
        asks = self.session_id is None and self._is_to_ask(shaken.cookie_headers)
        if is_served and (self._errand.is_due or asks):
            self._errand.send(run)
            if asks and self._doubted is not None:  # a question takes a second run, which may interrupt a click's
                self._errand.wait()
                self.bind(settings, max_age)
                asks = self.session_id is None
        if asks:
            self.question.ask(self.name, run)
            self.bind(settings, max_age)
        if self._delivery.is_due:
            removed = [target, target.beside] if is_served or target.beside.is_in(shaken.cookie_headers) else [target]
            # A page without the state took the element away: here again, it overwrote what another tab has set.
            self._delivery.mount(target.beside if is_served else target, removed, run, is_gone)

    def _is_to_ask(self, headers: tuple[str, ...]) -> bool:
        """Whether the browser may have a cookie that its connection did not bring.

        Where none is to be issued, that is to be feared only if no other cookie came either: each question costs a run.
        """
        if self.is_wanted:
            return not self._is_refused
        may_have = self._doubted is not None or not brings_others(headers)
        return may_have and not self._is_dropped and self.question.answer(self.name) is None


@functools.lru_cache(maxsize=1024)  # once for each name
def _warn_of_stripped(name: str) -> None:
    _log.warning(
        "CookieMiddleware sets the cookie of state %r, but a visitor's connection brought none that is valid. A proxy "
        "keeps them from the websocket: let it pass on the header Cookie to /_stcore/stream, and X-Forwarded-Proto and "
        "Host to all pages. Until then, each page load of such a visitor takes a second run.",
        name,
    )


@functools.lru_cache(maxsize=1024)
def _warn_of_missing(name: str) -> None:
    _log.warning(
        "CookieMiddleware sets no cookie for state %r, so a script does: add it to names=[...] of the st.App.",
        name,
    )


@functools.lru_cache(maxsize=1024)
def _warn_of_refusal(name: str) -> None:
    _log.warning(
        "The state %r is kept in the tab only: a block says remember=True, but the `remember` of CookieMiddleware says "
        "no to this visitor. Let both say the same.",
        name,
    )
