"""A visitor's cookies, as a browser keeps them."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

# What encodeURIComponent of a browser leaves as it is, beyond letters, digits and "_.-~".
_UNQUOTED = "!~*'()"
# JSON.parse of a browser knows no larger whole numbers: it rounds them.
_LARGEST_EXACT_INT = 2**53


class Jar(dict[str, str]):
    """Cookies by name, with their raw values as in the `Cookie` header; shared by a visitor's tabs.

    A plain dict for a test (`jar["drink"] = "tea"`); the cookies component goes through the methods.

    Attributes:
        options: What a script's last `set` of each name asked for (path, expires, sameSite, ...).
        http_only: Names that no script can see, replace or remove.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.options: dict[str, dict[str, Any]] = {}
        self.http_only: set[str] = set()
        self._lock = threading.Lock()

    def header(self) -> str:
        """Return the value of the `Cookie` request header ("" without cookies)."""
        with self._lock:
            return "; ".join(f"{name}={value}" for name, value in self.items())

    def seen_by_scripts(self) -> dict[str, Any]:
        """Return what the component's `getAll` answers: values decoded, and parsed where they are JSON."""
        with self._lock:
            return {name: _parse(value) for name, value in self.items() if name not in self.http_only}

    def set_by_script(self, name: str, value: object, options: dict[str, Any]) -> None:
        """Do what `document.cookie = ...` does: store, replace or (when it is expired) remove a cookie.

        A browser silently ignores what would touch an HttpOnly cookie or break the rules of `__Host-`.
        """
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        with self._lock:
            if name in self.http_only or _breaks_prefix_rules(name, options):
                return
            if _is_over(options):
                self.pop(name, None)
                self.options.pop(name, None)
            else:
                self[name] = quote(text, safe=_UNQUOTED)
                self.options[name] = dict(options)

    def remove_by_script(self, name: str) -> None:
        """Do what the component's `remove` does."""
        with self._lock:
            if name not in self.http_only:
                self.pop(name, None)
                self.options.pop(name, None)

    def store_response(self, set_cookie: str) -> None:
        """Do what a browser does with one `Set-Cookie` header of a response."""
        # Not http.cookies: before Python 3.14 that drops a cookie that is Partitioned.
        (name, _, value), *others = (part.strip().partition("=") for part in set_cookie.split(";"))
        attributes = {key.lower(): text for key, _, text in others}
        with self._lock:
            self.http_only.discard(name)
            if attributes.get("max-age") == "0":
                self.pop(name, None)
                return
            self[name] = value
            if "httponly" in attributes:
                self.http_only.add(name)


def _parse(raw: str) -> Any:
    value = unquote(raw)
    try:
        return json.loads(value.removeprefix("j:"), parse_constant=_refuse, parse_int=_whole_number)
    except ValueError:
        return value


def _refuse(constant: str) -> None:
    # NaN and Infinity are JSON to Python, not to a browser.
    raise ValueError(constant)


def _whole_number(digits: str) -> int | float:
    number = int(digits)
    return number if abs(number) <= _LARGEST_EXACT_INT else float(number)


def _is_over(options: dict[str, Any]) -> bool:
    if "maxAge" in options:
        return float(options["maxAge"]) <= 0
    if "expires" not in options:
        return False
    expires = datetime.fromisoformat(str(options["expires"]))
    # Like Date() in a browser: a time without a zone is local time.
    return expires.astimezone(UTC) <= datetime.now(UTC)


def _breaks_prefix_rules(name: str, options: dict[str, Any]) -> bool:
    if not name.startswith("__Host-"):
        return name.startswith("__Secure-") and not options.get("secure")
    return not options.get("secure") or options.get("path") != "/" or "domain" in options
