"""What the cookie of a state is called, which attributes it has, and which of several counts. Pure."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from persist_session.keys import Keys
from persist_session.settings import Settings
from persist_session.signing import Signed, unsign

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CookiePolicy:
    """How one state's cookie looks on one page.

    Attributes:
        cookie_name: The state's name; with the port of the browser's address, because cookies ignore ports and two
            apps on one host would overwrite each other; behind `__Host-` where the page allows it, because then no
            sibling domain can plant one (RFC 6265bis, section 4.1.3.2).
    """

    cookie_name: str
    path: str
    same_site: str
    secure: bool

    def options(self, expires: float) -> dict[str, Any]:
        """The cookie's attributes as streamlit-cookies-controller wants them.

        Args:
            expires: Unix time in seconds. Given as a fixed date: a relative one would change the arguments, and so
                mount a new iframe, at every run.
        """
        options: dict[str, Any] = {
            "path": self.path,
            "expires": datetime.fromtimestamp(int(expires), UTC).isoformat(),
            "sameSite": self.same_site,
        }
        return options | {"secure": True} if self.secure else options


def policy(name: str, url: str, base_path: str, settings: Settings) -> CookiePolicy:
    """The policy for a state on the page at this address.

    Args:
        name: The state's name.
        url: The address in the visitor's browser, or what comes nearest to it.
        base_path: The server's base URL path, `/` if it has none.
        settings: The settings in force.
    """
    scheme, port = _scheme_and_port(url)
    https = scheme == "https"
    secure = https if settings.secure is None else settings.secure
    path = settings.path or base_path
    cookie_name = f"{name}-{port}" if port else name
    if https and secure and path == "/":
        cookie_name = f"__Host-{cookie_name}"
    return CookiePolicy(cookie_name, path, settings.same_site, secure)


def _scheme_and_port(url: str) -> tuple[str, int | None]:
    try:
        address = urlsplit(url)
        return address.scheme, address.port
    except ValueError:  # the visitor's browser says what the address is: nonsense must not stop the app
        return "", None


def newest(name: str, values: Iterable[str], keys: Keys, max_age: float) -> Signed | None:
    """The valid signed cookie that was signed last, or None.

    A value that is not valid counts as absent; that there was one is logged, without the value.
    """
    values = list(values)
    valid = [signed for value in values if (signed := unsign(name, value, keys, max_age)) is not None]
    if len(valid) < len(values):
        _log.warning("A cookie of state %r is forged, expired or foreign: it counts as absent.", name)
    return max(valid, key=lambda signed: signed.signed_at, default=None)


def values_in_headers(cookie_name: str, headers: Iterable[str]) -> list[str]:
    """All values that the handshake's Cookie headers carry under one name.

    A browser sends one for each path and domain that a cookie was set with; a dict of cookies would hide all but one.
    """
    pairs = (part.strip().partition("=") for header in headers for part in header.split(";"))
    return [value for key, _, value in pairs if key == cookie_name]


def values_in_answer(cookie_name: str, answer: Mapping[str, Any]) -> list[str]:
    """The value that the browser's answer carries under one name.

    The component parses values as JSON, so what was no string in the browser's cookie may be anything here.
    """
    value = answer.get(cookie_name)
    return [value] if isinstance(value, str) else []
