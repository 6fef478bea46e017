"""Tabs of one browser in runs that are only pretended: what no server is needed for."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from persist_session import CookieMiddleware, host, relay
from persist_session.host import Ended, Handshake, Run
from persist_session.settings import Settings

from .jar import Jar
from .records import KEYS, CountingStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request
    from starlette.types import Message, Receive, Scope, Send

    from persist_session.keys import Keys

URL = "http://localhost/"
_local = threading.local()


@dataclass
class AppState:
    """A state."""

    count: int = 0
    other: int = 0
    items: list[Any] = field(default_factory=list)


class Browser:
    """A visitor's browser.

    Attributes:
        cookies: Values and unix times of expiry, by name.
        http_only: The names of those that no script sees or replaces.
    """

    def __init__(self) -> None:
        self.cookies: dict[str, tuple[str, float]] = {}
        self.http_only: set[str] = set()
        self._middleware: Callable[..., Any] = partial(CookieMiddleware, names=())

    def values(self) -> dict[str, str]:
        """The states' cookies that have not expired."""
        return {name: value for name, value in self.sent().items() if name != relay.BROWSER}

    def sent(self) -> dict[str, str]:
        """What has not expired, with the cookie by which the server knows the browser."""
        return {name: value for name, (value, expires) in self.cookies.items() if expires > time.time()}

    def open(self) -> Tab:
        """A tab whose handshake has the cookies."""
        return Tab(self)

    def seen_by_scripts(self) -> dict[str, str]:
        """The states' cookies that have not expired, and are not HttpOnly."""
        return {name: value for name, value in self.values().items() if name not in self.http_only}

    def load(self, *names: str, remember: Callable[[Request], bool] | None = None) -> Tab:
        """A tab whose page came through the middleware for the states of these names."""
        self._middleware = partial(CookieMiddleware, names=names, remember=remember)
        self.fetch("/")
        return self.open()

    def fetch(self, path: str) -> None:
        """Ask the server for a path, through the middleware that the last page came through."""
        jar = Jar(self.sent())
        jar.http_only |= self.http_only
        # In a thread of its own: in that of a test in a browser Playwright's loop runs.
        thread = threading.Thread(target=lambda: asyncio.run(_fetch(jar, self._middleware, path)))
        thread.start()
        thread.join()
        self.cookies = {
            name: (value, self.cookies.get(name, ("", time.time() + 1e6))[1]) for name, value in jar.items()
        }
        self.http_only = jar.http_only & jar.keys()


async def _fetch(jar: Jar, middleware: Callable[..., Any], path: str) -> None:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        for key, value in message.get("headers", ()):
            if key == b"set-cookie":
                jar.store_response(value.decode())

    sent = [(b"host", b"localhost"), (b"cookie", jar.header().encode())]
    path, _, query = path.partition("?")
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": sent}
    await middleware(page)(scope, receive, send)


class _Context:
    """As much of Streamlit's run context as is asked for."""

    class Coordinator:
        """What lives as long as the run."""

    def __init__(self) -> None:
        self.main_script_path = __file__
        self._has_script_started = True
        self.parallel_coordinator = self.Coordinator()


class Tab(Run):
    """A tab; with `pretended`, the calling thread runs its script after `begin`."""

    __slots__ = ("_asked", "_browser", "_ends", "_headers", "_memory", "_mounted", "_was_mounted")
    _asked: tuple[str, Callable[[], None]] | None
    _browser: Browser
    _ends: list[Callable[[Ended], None]]
    _headers: tuple[str, ...]
    _memory: dict[str, Any]
    _mounted: set[str]
    _was_mounted: set[str]

    def __init__(self, browser: Browser) -> None:
        super().__init__(_Context())
        own: dict[str, Any] = {"_asked": None, "_browser": browser, "_ends": [], "_memory": {}, "_mounted": set()}
        for name, value in (own | {"_was_mounted": set()}).items():
            object.__setattr__(self, name, value)
        self.reconnect()

    @property
    def memory(self) -> dict[str, Any]:
        """What the tab remembers."""
        return self._memory

    @property
    def is_asking(self) -> bool:
        """Whether a question to the browser is on the page: its answer starts another run."""
        return self._asked is not None

    def reconnect(self) -> None:
        """Lose the connection, and shake hands anew."""
        sent = tuple(f"{name}={value}" for name, value in self._browser.sent().items())
        object.__setattr__(self, "_headers", sent)

    def begin(self) -> None:
        """End the tab's last run, and begin another one; it is the calling thread's from now on."""
        self.end()
        self._context.parallel_coordinator = _Context.Coordinator()
        object.__setattr__(self, "_was_mounted", self._mounted)
        object.__setattr__(self, "_mounted", set())
        self.go_on()
        if self._asked is not None:
            self._asked[1]()

    def go_on(self) -> None:
        """Go on with the run, after one of another tab."""
        _local.tab = self

    def end(self, *, failed: bool = False) -> None:
        """End the run."""
        self.finish(self._ends, failed=failed)

    def begin_over(self) -> Callable[[], None]:
        """Begin another run while the last one goes on; return what ends that one."""
        ends = self._ends
        object.__setattr__(self, "_ends", [])
        self.begin()
        return partial(self.finish, ends)

    def finish(self, ends: list[Callable[[Ended], None]], *, failed: bool = False) -> None:
        """Tell all who wait for a run's end."""
        while ends:
            ends.pop()(Ended(failed=failed, drew_all=not failed))

    def answer(self, key: str) -> dict[str, str] | None:
        """What the browser said to the question of this key."""
        if self._asked is None or self._asked[0] != key:
            return None
        return {name: value for name, value in self._browser.sent().items() if name not in self._browser.http_only}

    def fetch(self, path: str) -> None:
        """Have the browser ask the server for a path."""
        self._browser.fetch(path)

    def mount(self, *, method: str, **arguments: Any) -> Any:
        """Do what the cookies component does: answer in the next run; set a cookie when it comes to the page."""
        if method == "getAll":
            found = self.answer(arguments["key"])
            object.__setattr__(self, "_asked", (arguments["key"], arguments["on_change"]))
            return found
        name, value = arguments["name"], arguments["value"]
        if f"{name}={value}" not in self._was_mounted and name not in self._browser.http_only:
            self._browser.cookies[name] = value, _unix(arguments["options"])
        self._mounted.add(f"{name}={value}")
        return None


def _unix(options: dict[str, Any]) -> float:
    return datetime.fromisoformat(options["expires"]).timestamp()


def _tab() -> Any:
    return getattr(_local, "tab", None)


def forget_relay(patch: pytest.MonkeyPatch) -> None:
    """Begin as a process does: nothing is noted."""
    patch.setattr(relay, "served", {})
    patch.setattr(relay, "_unwanted", {})
    for notes in ("shown", "promoted", "retired", "replaced"):
        patch.setattr(relay, notes, relay.Notes())


@contextmanager
def pretended(
    store: CountingStore, max_age: float = 1000.0, lock_timeout: float = 10.0, keys: Keys = KEYS
) -> Iterator[Browser]:
    """A browser whose tabs' runs are the library's, with one store for all."""
    settings = Settings(
        keys=keys,
        store=store,
        max_age=max_age,
        same_site="lax",
        secure=None,
        path=None,
        partitioned=False,
        ask_browser=True,
        max_bytes=100_000,
        lock_timeout=lock_timeout,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "current_run", _tab)
        patch.setattr(host, "handshake", lambda: Handshake(_tab()._headers, URL))
        patch.setattr(host, "base_path", lambda: "/")
        patch.setattr(host, "mount", lambda element: element())
        patch.setattr(host, "fetch", lambda path: _tab().fetch(path))
        patch.setattr(host, "widget_value", lambda key: _tab().answer(key))
        patch.setattr(host, "forget_widget", lambda key: object.__setattr__(_tab(), "_asked", None))
        patch.setattr(host, "at_end_of_run", lambda run, end: run._ends.append(end))
        patch.setattr("persist_session.cookies._component", lambda **arguments: _tab().mount(**arguments))
        patch.setattr("persist_session.held.sweep_if_due", lambda _: None)
        patch.setattr("persist_session.errand._WAITED_FOR", 0.05)  # what does not come at once here never does
        patch.setattr("persist_session.settings.resolve", lambda *_: settings)
        patch.setattr("persist_session.middleware.resolve", lambda *_: settings)
        forget_relay(patch)
        yield Browser()
        _local.tab = None
