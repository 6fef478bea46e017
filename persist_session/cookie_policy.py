"""What the cookie of a state is called, which attributes it has, and which of several counts. Pure."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from persist_session.errors import ConfigurationError
from persist_session.settings import Settings
from persist_session.signing import Signed, unsign
from persist_session.stores.layout import is_name

_log = logging.getLogger(__name__)

_DEFAULT_PORTS = {"http": 80, "https": 443}


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
    partitioned: bool = False

    @property
    def beside(self) -> CookiePolicy:
        """How a script's cookie looks where the server's may be in the way: a script can't replace an HttpOnly one."""
        return replace(self, cookie_name=f"{self.cookie_name}~script")

    @property
    def embedded(self) -> CookiePolicy:
        """How the cookie has to look in a foreign page: browsers keep no other there, and this one for that page alone.

        https://developers.google.com/privacy-sandbox/cookies/chips
        """
        return replace(self, same_site="none", secure=True, partitioned=True)

    def is_in(self, headers: Iterable[str]) -> bool:
        """Whether Cookie headers carry it."""
        return bool(_values(self.cookie_name, headers))

    def header(self, value: str, max_age: float | None, *, http_only: bool = True) -> str:
        """The Set-Cookie header; with max_age 0, one that removes the cookie.

        Args:
            value: Of characters that need no quoting.
            max_age: Seconds; None: until the browser is closed.
            http_only: Whether it is kept from scripts.
        """
        parts = [
            f"{self.cookie_name}={value}",
            f"Path={self.path}",
            *([f"Max-Age={int(max_age)}"] if max_age is not None else []),
            f"SameSite={self.same_site.capitalize()}",
            *(["HttpOnly"] if http_only else []),
            *(["Secure"] if self.secure else []),
            *(["Partitioned"] if self.partitioned else []),
        ]
        return "; ".join(parts)

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
        return options | {flag: True for flag in ("secure", "partitioned") if getattr(self, flag)}


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
    cookie = CookiePolicy(cookie_name, path, settings.same_site, secure)
    return cookie.embedded if settings.partitioned else cookie


def _scheme_and_port(url: str) -> tuple[str, int | None]:
    try:
        address = urlsplit(url)
        # Browsers leave it out; proxies that name the host and the port they listen on do not.
        return address.scheme, address.port if address.port != _DEFAULT_PORTS.get(address.scheme) else None
    except ValueError:  # the visitor's browser says what the address is: nonsense must not stop the app
        return "", None


def newest(name: str, values: Iterable[str], settings: Settings, max_age: float) -> Signed | None:
    """The valid signed cookie that was signed last, or None.

    A value that is not valid counts as absent; that there was one is logged, without the value.

    Args:
        name: The state's name.
        values: What cookies say.
        settings: The settings in force: the server's own cookies live for their `max_age`, whatever the state's is.
        max_age: Seconds that a script's cookie lives.
    """
    values, now = list(values), time.time()
    found = (unsign(name, value, settings.keys, math.inf) for value in values)
    valid = [
        signed
        for signed in found
        if signed is not None and now - signed.signed_at <= (settings.max_age if signed.http_only else max_age)
    ]
    if len(valid) < len(values):
        _log.warning("A cookie of state %r is forged, expired or foreign: it counts as absent.", name)
    # A script sets its own beside the server's only where it could not know of that one.
    return max(valid, key=lambda signed: (signed.http_only, signed.signed_at), default=None)


def values_in_headers(cookie: CookiePolicy, headers: Iterable[str]) -> list[str]:
    """All values that Cookie headers carry for a state, whoever set them.

    A browser sends one for each path and domain that a cookie was set with; a dict of cookies would hide all but one.
    """
    headers = list(headers)
    return [*_values(cookie.cookie_name, headers), *values_beside(cookie, headers)]


def values_beside(cookie: CookiePolicy, headers: Iterable[str]) -> list[str]:
    """The values that scripts have set beside the server's cookie."""
    return _values(cookie.beside.cookie_name, headers)


def brings_others(headers: Iterable[str]) -> bool:
    """Whether Cookie headers carry more than Streamlit's login, which a proxy that keeps cookies back may let by."""
    names = (part.partition("=")[0].strip() for header in headers for part in header.split(";"))
    return any(name and not name.startswith("_streamlit_user") for name in names)


def values_in_answer(cookie: CookiePolicy, answer: Mapping[str, Any]) -> list[str]:
    """The values that the browser's answer carries for a state.

    The component parses values as JSON, so what was no string in the browser's cookie may be anything here.
    """
    values = (answer.get(name) for name in (cookie.cookie_name, cookie.beside.cookie_name))
    return [value for value in values if isinstance(value, str)]


def _values(cookie_name: str, headers: Iterable[str]) -> list[str]:
    pairs = (part.strip().partition("=") for header in headers for part in header.split(";"))
    return [value for key, _, value in pairs if key == cookie_name]


def check_name(name: object) -> None:
    """Nothing, for a name that can be a cookie's and a folder's.

    Raises:
        ConfigurationError: It can't.
    """
    if not is_name(name):
        raise ConfigurationError(
            f"name must be 1 to 64 letters, digits, '_', '.' or '-', and not only dots (a cookie and a folder are "
            f'called by it), such as "app-state"; it is {name!r}.'
        )
