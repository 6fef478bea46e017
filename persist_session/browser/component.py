"""Asks a browser for its cookies, and sets and removes one, through streamlit-cookies-controller.

An element that the next run clears before it was loaded does nothing: so a cookie is sent with every run until a
handshake has shown it. The same arguments in every run keep the element on the page; it sets the cookie once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from persist_session import host
from persist_session.browser.cookie import Cookie

_KEY = "persist_session_cookies"


def ask(hear: Callable[[dict[str, Any]], None]) -> None:
    """Asks for all cookies that scripts see; the answer comes in a run of its own, before anything else of that run.

    Args:
        hear: Called with the answer; also where the app has emptied `st.session_state`, so that no callback comes.
    """

    def heard() -> None:
        _take(host.widget_value(_KEY), hear)

    # A callback comes before the script: no line of the app ever finds the cookies in st.session_state.
    _take(_component(method="getAll", key=_KEY, default=None, on_change=heard), hear)


def _take(answer: Any, hear: Callable[[dict[str, Any]], None]) -> None:
    if isinstance(answer, dict):
        host.forget_widget(_KEY)
        hear(answer)


def send(cookie: Cookie, value: str, expires: float) -> None:
    """Sets a cookie.

    Args:
        cookie: Says how it is set.
        value: The signed value.
        expires: Unix seconds.
    """
    _component(method="set", name=cookie.name, value=value, options=cookie.options(expires))


def remove(cookie: Cookie) -> None:
    """Removes a cookie, which need not be there."""
    _component(method="set", name=cookie.name, value="", options=cookie.options(0.0))


def _component(**arguments: Any) -> Any:
    """Mounts the component beneath the controller.

    The controller's class mounts its own question and keeps its answers, signed cookies among them, where
    `st.write(st.session_state)` shows them. The component beneath it can be asked with a default that no browser
    answers, and sends without keeping.
    """
    # Imported in a run only: Streamlit serves no component that was declared elsewhere, as where an st.App is made.
    from streamlit_cookies_controller import cookie_controller  # noqa: PLC0415

    return cookie_controller._cookie_controller(**arguments)  # noqa: SLF001 (see above)
