"""The one cookie: its name, attributes and signed value, and the visitor that a browser's cookies name. Pure.

Its value is `<visitor id>.<timestamp>.<signature>`, all of it in `[A-Za-z0-9_.-]`: browsers and Streamlit hand it on
as it is, without any quoting. The server's cookie is HttpOnly; a script's has a name of its own, since a script can
neither see nor replace an HttpOnly one.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from itsdangerous import BadSignature, TimestampSigner

from persist_session.keys import Keys
from persist_session.settings import Settings

_log = logging.getLogger(__name__)

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LOCAL = ("localhost", "127.0.0.1", "::1")

# Looked at before any cryptography. It bounds the length, and closes a gap of lenient base64, which skips
# characters outside its alphabet. 8 characters hold the timestamps of 8 million years, 43 a SHA-256.
_SHAPE = re.compile(r"[0-9a-f]{32}\.[A-Za-z0-9_-]{1,8}\.[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Signed:
    """The content of a valid cookie.

    Attributes:
        visitor_id: 32 hex characters; secret, so not in the `repr`.
        signed_at: Unix seconds, never in the future.
        by_newest: Whether the newest key signed it.
    """

    visitor_id: str = field(repr=False)
    signed_at: float
    by_newest: bool = True

    def is_aging(self, settings: Settings) -> bool:
        """Tells whether the cookie is to be signed anew: half of its time is over, or an older key signed it."""
        return not self.by_newest or time.time() - self.signed_at > settings.cookie_max_age / 2


@dataclass(frozen=True, slots=True)
class Found:
    """The valid cookies that a browser has: the server's and a script's."""

    server: Signed | None = None
    script: Signed | None = None

    def leading(self, has_records: Callable[[str], bool]) -> Signed | None:
        """The cookie that names the visitor: the server's, unless only the script's has any record.

        Args:
            has_records: Tells of a visitor id whether a store has a record of it; asked only where the two differ.
        """
        if self.server is None or self.script is None:
            return self.server or self.script
        if self.server.visitor_id == self.script.visitor_id:
            return self.server
        is_left_behind = has_records(self.script.visitor_id) and not has_records(self.server.visitor_id)
        return self.script if is_left_behind else self.server


@dataclass(frozen=True, slots=True)
class Cookie:
    """The cookie as it is to be set on one page, by the server.

    Attributes:
        name: The setting `cookie_name`; with the port of the browser's address, because cookies ignore ports and two
            apps on one host would overwrite each other; behind `__Host-` where the page allows it, because then no
            sibling domain can plant one (RFC 6265bis, section 4.1.3.2).
    """

    name: str
    path: str
    same_site: str
    secure: bool
    partitioned: bool = False

    @property
    def script(self) -> Cookie:
        """The cookie that a script sets in the server's place."""
        return replace(self, name=f"{self.name}-js")

    @property
    def embedded(self) -> Cookie:
        """The cookie for an app in a foreign page: browsers keep no other there, and this one for that page alone.

        https://developers.google.com/privacy-sandbox/cookies/chips
        """
        return replace(self, same_site="none", secure=True, partitioned=True)

    def header(self, value: str, max_age: float) -> str:
        """The Set-Cookie header; with `max_age` 0 seconds, one that removes the cookie."""
        return "; ".join(
            [
                f"{self.name}={value}",
                f"Path={self.path}",
                f"Max-Age={int(max_age)}",
                f"SameSite={self.same_site.capitalize()}",
                "HttpOnly",
                *(["Secure"] if self.secure else []),
                *(["Partitioned"] if self.partitioned else []),
            ]
        )

    def options(self, expires: float) -> dict[str, Any]:
        """The attributes as streamlit-cookies-controller wants them.

        Args:
            expires: Unix seconds. Given as a fixed date: a relative one would change the arguments, and so mount a new
                iframe, at every run.
        """
        options: dict[str, Any] = {
            "path": self.path,
            "expires": datetime.fromtimestamp(int(expires), UTC).isoformat(),
            "sameSite": self.same_site,
        }
        return options | {flag: True for flag in ("secure", "partitioned") if getattr(self, flag)}

    def sign(self, visitor_id: str, keys: Keys) -> str:
        """The cookie's value for a visitor, signed with the newest key."""
        return self._signer(keys.cookie).sign(visitor_id).decode("ascii")

    def unsign(self, value: str, keys: Keys, max_age: float) -> Signed | None:
        """The content of a value, or None if it is not one that was signed for this path in the last `max_age` seconds.

        Every key verifies. No value raises: it comes from the visitor. The last character of a signature has bits that
        mean nothing, so an edited one may still be valid; it then carries the very id that was signed. A signature from
        the future counts as one of now: the clock was wrong then, or is now.
        """
        if not _SHAPE.fullmatch(value):
            return None
        try:
            text, signed_at = self._signer(keys.cookie).unsign(value, return_timestamp=True)
            by_newest = len(keys.cookie) == 1 or self._signer(keys.cookie[-1:]).validate(value)
            signed = Signed(text.decode("ascii"), min(signed_at.timestamp(), time.time()), by_newest)
        except (BadSignature, ValueError, OverflowError, OSError):
            # The last three: properly signed, but by a clock beyond the year 9999, which `datetime` can't hold.
            return None
        return signed if time.time() - signed.signed_at <= max_age else None

    def _signer(self, keys: Sequence[bytes]) -> TimestampSigner:
        # The path in the salt keeps apps at `/` and at `/shop`, whose keys are the same, from each other's cookies.
        return TimestampSigner(
            keys, salt=f"persist_session cookie {self.path}", key_derivation="hmac", digest_method=hashlib.sha256
        )

    def found_in_headers(self, headers: Iterable[str], settings: Settings) -> Found:
        """The valid cookies in a request's Cookie headers.

        A browser sends one for each path and domain that a cookie was set with; the one that was signed last counts.
        """
        pairs = [part.strip().partition("=") for header in headers for part in header.split(";")]
        return Found(
            *(
                self._newest((value for name, _, value in pairs if name == cookie.name), settings)
                for cookie in (self, self.script)
            )
        )

    def found_in_answer(self, answer: Mapping[str, Any], settings: Settings) -> Found:
        """The valid cookie in the answer of the browser's script, which sees no HttpOnly one.

        The component parses values as JSON, so what was no string in the browser's cookie may be anything here.
        """
        value = answer.get(self.script.name)
        return Found(script=self._newest([value] if isinstance(value, str) else [], settings))

    def _newest(self, values: Iterable[str], settings: Settings) -> Signed | None:
        values = list(values)
        valid = [
            signed
            for value in values
            if (signed := self.unsign(value, settings.keys, settings.cookie_max_age)) is not None
        ]
        if len(valid) < len(values):
            _log.warning("A cookie is forged, expired or foreign: it counts as absent.")
        return max(valid, key=lambda signed: signed.signed_at, default=None)


def cookie_for(url: str, base_path: str, settings: Settings) -> Cookie:
    """The cookie for the page at an address.

    Args:
        url: The address in the visitor's browser, or what comes nearest to it.
        base_path: The server's base URL path, `/` if it has none.
        settings: The settings in force.
    """
    scheme, port = _scheme_and_port(url)
    secure = scheme == "https" if settings.secure is None else settings.secure
    path = settings.path or base_path
    name = f"{settings.cookie_name}-{port}" if port else settings.cookie_name
    if scheme == "https" and secure and path == "/":
        name = f"__Host-{name}"
    cookie = Cookie(name, path, settings.same_site, secure)
    return cookie.embedded if settings.partitioned else cookie


def is_refused(cookie: Cookie, url: str) -> bool:
    """Tells whether browsers refuse the cookie: a secure one, or one for all sites, on a page without https."""
    try:
        address = urlsplit(url)
        is_local = (address.hostname or "") in _LOCAL or (address.hostname or "").endswith(".localhost")
    except ValueError:
        return False
    needs_https = cookie.secure or cookie.same_site == "none"
    return address.scheme == "http" and needs_https and not (is_local and cookie.secure)


def new_visitor_id() -> str:
    """128 random bits as 32 hex characters."""
    return secrets.token_hex(16)


def brings_others(headers: Iterable[str]) -> bool:
    """Tells whether Cookie headers carry more than Streamlit's login, which proxies that strip cookies may let by."""
    names = (part.partition("=")[0].strip() for header in headers for part in header.split(";"))
    return any(name and not name.startswith("_streamlit_user") for name in names)


def _scheme_and_port(url: str) -> tuple[str, int | None]:
    try:
        address = urlsplit(url)
        # Browsers leave it out; proxies that name the host and the port they listen on do not.
        return address.scheme, address.port if address.port != _DEFAULT_PORTS.get(address.scheme) else None
    except ValueError:  # the visitor's browser says what the address is: nonsense must not stop the app
        return "", None
