"""Asks the browser for cookies and sends it new ones, through streamlit-cookies-controller."""

from __future__ import annotations

import re
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

from persist_session import host
from persist_session.cookie_policy import CookiePolicy

_LOOKS_SIGNED = re.compile(r"[0-9a-f]{32}\.")


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


def _component(**arguments: Any) -> Any:
    """Mounts the component beneath the controller.

    The controller's class mounts its own question and keeps its answers, signed cookies among them, where
    `st.write(st.session_state)` shows them. The component beneath it can be asked with a default that no browser
    answers, and sends without keeping.
    """
    # Imported in a run only: Streamlit serves no component that was declared elsewhere, as where an st.App is made.
    from streamlit_cookies_controller import cookie_controller  # noqa: PLC0415

    return cookie_controller._cookie_controller(**arguments)  # noqa: SLF001 (see above)


def send(policy: CookiePolicy, value: str, expires: float) -> None:
    """Mounts the element that sets the cookie, or, by an expiry that is over, removes it.

    The same arguments in every run keep the element on the page; it sets the cookie once. An element that the next run
    clears before it was loaded does nothing: so it must be mounted in every run until a handshake shows the cookie.

    Args:
        policy: The cookie's name and attributes.
        value: The signed cookie.
        expires: Unix time in seconds.
    """
    options = policy.options(expires)
    host.mount(lambda: _component(method="set", name=policy.cookie_name, value=value, options=options))
