"""Asks the browser for cookies and sends it new ones, through streamlit-cookies-controller."""

from __future__ import annotations

import re
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from persist_session import host
from persist_session.cookie_policy import CookiePolicy

_LOOKS_SIGNED = re.compile(r"[0-9a-f]{32}\.")

_LOADED_WITHIN = 5.0
"""Seconds in which an element that removes a cookie surely came to the page, though newer runs took it away again."""


@dataclass(slots=True)
class Question:
    """What one tab asks its browser: once for all names that wait, and once more for names that come later."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _number: int = 1
    _waiting: set[str] = field(default_factory=set)
    _answers: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)
    _mounted: host.Once = field(default_factory=host.Once)

    def answer(self, name: str) -> dict[str, str] | None:
        """The browser's signed cookies as they were when it was asked for this name, or None before the answer."""
        return self._answers.get(name)

    def forget(self, name: str) -> None:
        """Forgets the answer for a name, so that the browser is asked again."""
        self._answers.pop(name, None)

    def ask(self, name: str, run: weakref.ref[Any]) -> None:
        """Mounts the question, once a run; the answer starts another run."""
        with self._lock:
            self._waiting.add(name)
            if not self._mounted.is_first(run):
                return
            key = f"persist_session_question_{self._number}"
        value = host.mount(lambda: _component(method="getAll", key=key, default=None, on_change=self._hear(key)))
        # Where st.session_state was cleared since the question was mounted, no callback comes.
        self._take(key, value)

    def _hear(self, key: str) -> Any:
        # A callback comes before the script: no line of the app ever finds the cookies in st.session_state.
        return lambda: self._take(key, host.widget_value(key))

    def _take(self, key: str, value: Any) -> None:
        if not isinstance(value, dict):
            return
        signed = {name: text for name, text in value.items() if isinstance(text, str) and _LOOKS_SIGNED.match(text)}
        with self._lock:
            for name in self._waiting:
                self._answers[name] = signed
            self._waiting.clear()
            self._number += 1
            self._mounted = host.Once()  # a name that comes later in this run asks for itself
        host.forget_widget(key)


@dataclass(slots=True)
class Delivery:
    """One tab's cookie on its way to the browser, or the removal of one.

    An element that the next run clears before it was loaded does nothing: so it is mounted in every run until a
    handshake has shown the cookie. The same arguments in every run keep it on the page; it sets the cookie once.
    """

    _value: str | None = field(default=None, repr=False)
    _expires: float = 0.0
    _removed_until: float = 0.0
    _mounted: host.Once = field(default_factory=host.Once)
    _times_mounted: int = 0

    @property
    def is_pending(self) -> bool:
        """Whether a cookie is on its way: no handshake has shown it yet."""
        return self._value is not None

    @property
    def is_due(self) -> bool:
        """Whether there is something to be set or removed."""
        return self.is_pending or time.time() < self._removed_until

    def begin(self, value: str, expires: float) -> None:
        """Has a cookie set from now on.

        Args:
            value: The signed cookie.
            expires: Unix time in seconds.
        """
        self._expires = expires
        self._value = value  # last: who sees it sends it, with its expiry

    def end(self) -> None:
        """Has it set no longer; one that is removed goes on being removed."""
        self._value = None

    def remove(self) -> None:
        """Has the browser's cookie removed, for as long as that takes."""
        self._value, self._removed_until = None, time.time() + _LOADED_WITHIN

    def keep(self) -> None:
        """Has the browser's cookie removed no longer."""
        self._removed_until = 0.0

    def successor(self) -> Delivery:
        """One for another cookie; not mounted in the run that was the first to mount this one.

        Two elements that come to a page at once and set one cookie race. One that came with an earlier run has set its
        own by now, and does not set it again.
        """
        mounted = self._mounted if self._times_mounted <= 1 else host.Once()
        return Delivery(_removed_until=self._removed_until, _mounted=mounted)

    def mount(
        self, target: CookiePolicy, removed: list[CookiePolicy], run: weakref.ref[Any], is_gone: Callable[[], bool]
    ) -> None:
        """Mounts what is to be mounted, once a run.

        Args:
            target: The cookie to be set.
            removed: The cookies to be removed where one is.
            run: The current run.
            is_gone: Whether the browser may have another cookie by now, which is not to be overwritten.
        """
        value = self._value
        if (value is None and time.time() >= self._removed_until) or not self._mounted.is_first(run):
            return
        if value is not None and is_gone():
            return
        self._times_mounted += 1
        if value is not None:
            _set(target, value, self._expires)
            return
        for each in removed:
            _set(each, "", 0.0)


def _set(policy: CookiePolicy, value: str, expires: float) -> None:
    options = policy.options(expires)
    host.mount(lambda: _component(method="set", name=policy.cookie_name, value=value, options=options))


def _component(**arguments: Any) -> Any:
    """Mounts the component beneath the controller.

    The controller's class mounts its own question and keeps its answers, signed cookies among them, where
    `st.write(st.session_state)` shows them. The component beneath it can be asked with a default that no browser
    answers, and sends without keeping.
    """
    # Imported in a run only: Streamlit serves no component that was declared elsewhere, as where an st.App is made.
    from streamlit_cookies_controller import cookie_controller  # noqa: PLC0415

    return cookie_controller._cookie_controller(**arguments)  # noqa: SLF001 (see above)
