"""The settings: from `configure`, the environment, `st.secrets`, defaults, in this order."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from persist_session import keys
from persist_session.errors import ConfigurationError, PersistSessionError
from persist_session.keys import Keys
from persist_session.stores import FileStore, MemoryStore, Store, open_store
from persist_session.stores.layout import is_name

SameSite = Literal["lax", "strict", "none"]

DEFAULT_MAX_AGE = 30 * 24 * 3600.0
DEFAULT_MAX_BYTES = 16 * 1024 * 1024
DEFAULT_LOCK_TIMEOUT = 10.0
# Browsers cap a cookie's age at 400 days (RFC 6265bis, section 5.5): a longer promise would not be kept.
LONGEST_COOKIE = 400 * 24 * 3600.0

_LONGEST = 100 * 366 * 24 * 3600.0  # a hundred years: beyond, dates overflow

_log = logging.getLogger(__name__)

_lock = threading.Lock()
_configured: dict[str, Any] = {}
_resolved: dict[str, Settings] = {}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force for one app; `app` names its folder, where that is the default store."""

    keys: Keys
    store: Store
    app: str | None
    max_age: float
    cookie_name: str
    cookie_max_age: float
    same_site: SameSite
    secure: bool | None
    path: str | None
    partitioned: bool
    ask_browser: bool
    max_bytes: int
    lock_timeout: float


def configure(  # noqa: PLR0913 (one per setting, all optional)
    *,
    secret_keys: Sequence[str] | None = None,
    store: Store | str | None = None,
    app: str | None = None,
    max_age: float | timedelta | None = None,
    cookie_name: str | None = None,
    cookie_max_age: float | timedelta | None = None,
    same_site: SameSite | None = None,
    secure: bool | None = None,
    path: str | None = None,
    partitioned: bool | None = None,
    ask_browser: bool | None = None,
    max_bytes: int | None = None,
    lock_timeout: float | None = None,
) -> None:
    """Settings for the whole process, above environment and secrets; to repeat the same values does nothing.

    Call it at the top of the main script, before the first state is loaded, or where the `st.App` is made, if there is
    one. What is left out keeps its value.

    Args:
        secret_keys: Oldest to newest; the last one signs and seals, all verify. At least 32 characters each.
        store: Where records lie: a `Store` or a URL such as `file:///srv/state`.
        app: Names the folder of the default store; apps with one name share their records.
        max_age: Seconds or a timedelta after which a state that nobody visits expires; default 30 days.
        cookie_name: The name of the one cookie; default `persist_session`.
        cookie_max_age: Seconds or a timedelta that the cookie lives; default 400 days, the most that browsers allow.
        same_site: The cookie's SameSite attribute.
        secure: The cookie's Secure attribute; by default set where the page is https.
        path: The cookie's path; by default the server's base URL path.
        partitioned: For an app in an iframe of a foreign page: its cookie is SameSite=None, Secure and Partitioned,
            since browsers keep no other there. Not needed with `CookieMiddleware`, which sees it by itself.
        ask_browser: Whether a tab whose handshake brought no valid cookie asks the browser for one.
        max_bytes: The largest pickle of one state.
        lock_timeout: Seconds that a block with `exclusive=True` waits for another one; default 10.

    Raises:
        ConfigurationError: A value makes no sense.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    checked = {name: _checked(name, value) for name, value in given.items()}
    with _lock:
        if any(name not in _configured or _configured[name] != value for name, value in checked.items()):
            _configured.update(checked)
            _resolved.clear()


def resolve(script: str, secrets: Callable[[], Mapping[str, Any]]) -> Settings:
    """The settings in force for the app of this main script.

    Args:
        script: Path of the app's main script.
        secrets: The `[persist_session]` section of `st.secrets`; called once per app.

    Raises:
        ConfigurationError: A value makes no sense, or a folder or key can't be used.
    """
    settings = _resolved.get(script)
    if settings is None:
        with _lock:
            settings = _resolved.get(script) or _resolve(script, secrets())
            _resolved[script] = settings
    return settings


def _resolve(script: str, section: Mapping[str, Any]) -> Settings:
    for name in os.environ:
        if name.startswith(_variable("")) and name not in map(_variable, _CHECKS):
            _log.warning("The environment variable %s names no setting of persist_session: it is ignored.", name)
    values = _of_secrets(section) | _environment() | _configured
    if (values.get("same_site") == "none" or values.get("partitioned")) and values.get("secure") is False:
        raise ConfigurationError(
            "Browsers refuse a cookie with same_site='none' or partitioned=True that is not secure; set secure=True."
        )
    app = None if "store" in values else values.get("app") or _app_name(script)
    if values.get("store") is not None and "secret_keys" not in values and not _is_local(values["store"]):
        raise ConfigurationError(
            "A store that several machines share needs configured secret_keys: each machine would make a key of its "
            f"own. {keys.HOW_TO_MAKE_ONE}"
        )
    settings = Settings(
        keys=keys.derive(values.get("secret_keys") or (keys.load_or_make(_home()),)),
        store=values["store"] if app is None else _default_store(app),
        app=app,
        cookie_name=values.get("cookie_name", "persist_session"),
        cookie_max_age=values.get("cookie_max_age", LONGEST_COOKIE),
        max_age=values.get("max_age", DEFAULT_MAX_AGE),
        same_site=values.get("same_site", "lax"),
        secure=values.get("secure"),
        path=values.get("path"),
        partitioned=values.get("partitioned", False),
        ask_browser=values.get("ask_browser", True),
        max_bytes=values.get("max_bytes", DEFAULT_MAX_BYTES),
        lock_timeout=values.get("lock_timeout", DEFAULT_LOCK_TIMEOUT),
    )
    keys.check_store(settings.keys, settings.store)
    return settings


def check(secrets: Callable[[], Mapping[str, Any]]) -> None:
    """Returns if all settings make sense, as far as that can be told before the app is known.

    Raises:
        ConfigurationError: One makes no sense.
    """
    values = _of_secrets(secrets()) | _environment() | _configured
    if "secret_keys" in values and "store" in values:
        keys.check_store(keys.derive(values["secret_keys"]), values["store"])


def resolve_outside(secrets: Callable[[], Mapping[str, Any]]) -> Settings:
    """The settings in force outside of an app, as in a cron job.

    Raises:
        ConfigurationError: Neither a store nor an app is configured; or see `resolve`.
    """
    values = _of_secrets(secrets()) | _environment() | _configured
    if "store" not in values and "app" not in values:
        raise ConfigurationError(
            "Outside of a Streamlit run nobody can tell which app is meant: configure(store=...) or configure(app=...) "
            "before, as the app does."
        )
    return resolve("", secrets)


def _is_local(store: Store) -> bool:
    return isinstance(store, (FileStore, MemoryStore))


def _of_secrets(section: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(section) - set(_CHECKS)
    if unknown:
        raise ConfigurationError(
            f"[persist_session] in secrets.toml has no setting {min(unknown)!r}; "
            f"known are {', '.join(sorted(_CHECKS))}."
        )
    return {name: _checked(name, value) for name, value in section.items()}


def _environment() -> dict[str, Any]:
    texts = {name: os.environ[_variable(name)] for name in _CHECKS if _variable(name) in os.environ}
    for name, text in texts.items():
        if not text.strip():
            raise ConfigurationError(f"{_variable(name)} is set, but empty; give it a value, or unset it.")
    return {name: _checked(name, text) for name, text in texts.items()}


def other_app_with(key: str, settings: Settings) -> str | None:
    """The app of this user, if it is another one, whose default folder has records of a visitor.

    Args:
        key: The visitor key.
        settings: The settings in force.
    """
    others = [] if settings.app is None else [app for app in _apps() if app != settings.app]
    return next((app for app in others if _has_records(app, key)), None)


def _apps() -> list[str]:
    home = _home()
    return sorted(folder.name for folder in home.iterdir() if folder.is_dir()) if home.is_dir() else []


def _has_records(app: str, key: str) -> bool:
    try:
        return bool(_default_store(app).names(key))
    except PersistSessionError:  # a neighbour's folder that can't be read is none of this app's affairs
        return False


def _variable(name: str) -> str:
    return f"PERSIST_SESSION_{name.upper()}"


def _home() -> Path:
    remedy = (
        "There is no home folder to keep the key and the records in; set HOME, or both PERSIST_SESSION_SECRET_KEYS "
        "and PERSIST_SESSION_STORE."
    )
    try:
        home = Path.home()
    except RuntimeError as error:
        raise ConfigurationError(remedy) from error
    if not home.is_absolute() or home == Path(home.anchor):  # HOME="" is the root folder to Python
        raise ConfigurationError(remedy)
    return home / ".streamlit" / "persist_session"


def configured_stores(secrets: Callable[[], Mapping[str, Any]]) -> list[Store]:
    """The configured store; where none is, the default stores of all apps of this user.

    Args:
        secrets: The `[persist_session]` section of `st.secrets`.

    Raises:
        ConfigurationError: The store can't be used.
    """
    values = _of_secrets(secrets()) | _environment() | _configured
    if "store" in values:
        return [values["store"]]
    return [_default_store(app) for app in _apps()]


def _default_store(app: str) -> Store:
    return FileStore(_home() / app, strict=True)


def _app_name(script: str) -> str:
    path = Path(script).resolve()
    stem = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in path.stem)
    return f"{stem[:40]}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"


def _checked(name: str, value: Any) -> Any:
    return _CHECKS[name](value)


def seconds(name: str, value: Any, most: float = _LONGEST) -> float:
    """A time in seconds, from seconds, a timedelta or the environment's text.

    Raises:
        ConfigurationError: It is no number above 0, or too large.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    number = _number(name, value)
    if not 0 < number <= most:
        raise ConfigurationError(f"{name} must be above 0 and at most {most:.0f} seconds, not {value!r}.")
    return number


def _number(name: str, value: Any) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass  # said below, for every kind of wrong value at once
    raise ConfigurationError(f"{name} must be a number, not {value!r}.")


def _size(value: Any) -> int:
    size = _number("max_bytes", value)
    if not 1 <= size < math.inf:
        raise ConfigurationError(f"max_bytes must be at least 1, not {value!r}.")
    return int(size)


def _boolean(name: str) -> Callable[[Any], bool]:
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }

    def check(value: Any) -> bool:
        answer = value if isinstance(value, bool) else words.get(str(value).strip().lower())
        if answer is None:
            raise ConfigurationError(f"{name} must be true or false, not {value!r}.")
        return answer

    return check


def _secret_keys(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (str, Sequence)):
        raise ConfigurationError(f"secret_keys must be a list of strings, not a {type(value).__name__}.")
    secrets = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
    if not secrets:
        raise ConfigurationError("secret_keys must hold at least one key; leave it out for a key made by itself.")
    keys.check(secrets)
    return tuple(secrets)


def _store(value: Any) -> Store:
    if isinstance(value, str):
        return _opened(value)
    if isinstance(value, Store) and not isinstance(value, type):
        return value
    raise ConfigurationError(
        "store must be a Store (an instance, with all methods of persist_session.Store) or a URL such as "
        f"file:///srv/state, not a {type(value).__name__}."
    )


# The same store for the same URL: so configure sees that it was repeated.
_opened = functools.lru_cache(maxsize=8)(open_store)


def _app(value: Any) -> str:
    text = str(value)
    if not is_name(text):
        raise ConfigurationError("app must be 1 to 64 letters, digits, '_', '.' or '-', and not only dots.")
    return text


def _cookie_name(value: Any) -> str:
    text = str(value)
    if not is_name(text) or text.lower().startswith(("__host-", "__secure-")):
        raise ConfigurationError(
            f"cookie_name must be 1 to 64 letters, digits, '_', '.' or '-', without __Host- or __Secure- (which is "
            f"put before it where the page allows it), not {value!r}."
        )
    return text


def _same_site(value: Any) -> str:
    text = str(value).lower()
    if text not in ("lax", "strict", "none"):
        raise ConfigurationError(f"same_site must be 'lax', 'strict' or 'none', not {value!r}.")
    return text


def _path(value: Any) -> str:
    text = str(value)
    if not text.startswith("/") or ";" in text or not text.isascii() or not text.isprintable():
        raise ConfigurationError(f"path must start with '/' and hold no ';', not {value!r}.")
    return text


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "secret_keys": _secret_keys,
    "store": _store,
    "app": _app,
    "max_age": lambda value: seconds("max_age", value),
    "cookie_name": _cookie_name,
    "cookie_max_age": lambda value: seconds("cookie_max_age", value, LONGEST_COOKIE),
    "same_site": _same_site,
    "secure": _boolean("secure"),
    "path": _path,
    "partitioned": _boolean("partitioned"),
    "ask_browser": _boolean("ask_browser"),
    "max_bytes": _size,
    "lock_timeout": lambda value: seconds("lock_timeout", value),
}
