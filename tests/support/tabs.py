"""Tabs of one browser in runs that are only pretended: what no server is needed for."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from persist_session import CookieMiddleware, host
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
COOKIE = "persist_session"
SCRIPTS = "persist_session-js"
LONG = 400 * 24 * 3600.0
_local = threading.local()


@dataclass
class AppState:
    """A state."""

    count: int = 0
    other: int = 0
    items: list[Any] = field(default_factory=list)


class RerunError(BaseException):
    """The script is to run again, as Streamlit's own exception says it."""


class Browser:
    """A visitor's browser.

    Attributes:
        cookies: Values and unix times of expiry, by name.
        http_only: The names of those that no script sees or replaces.
        strips: Whether a proxy keeps the cookies from the connections of its tabs.
        asked: The number of questions that came to its pages.
    """

    def __init__(self) -> None:
        self.cookies: dict[str, tuple[str, float]] = {}
        self.http_only: set[str] = set()
        self.strips = False
        self.asked = 0
        self._middleware: Callable[..., Any] | None = None

    def values(self) -> dict[str, str]:
        """The cookies that have not expired."""
        return {name: value for name, (value, expires) in self.cookies.items() if expires > time.time()}

    def seen_by_scripts(self) -> dict[str, str]:
        """The cookies that have not expired, and are not HttpOnly."""
        return {name: value for name, value in self.values().items() if name not in self.http_only}

    def open(self) -> Tab:
        """A tab whose handshake has the cookies."""
        return Tab(self)

    def load(self, *, remember: Callable[[Request], bool] | None = None) -> Tab:
        """A tab whose page came through the middleware."""
        self._middleware = partial(CookieMiddleware, remember=remember)
        jar = Jar(self.values())
        jar.http_only |= self.http_only
        _in_thread(partial(_fetch, jar, self._middleware))
        self.cookies = {
            name: (value, self.cookies.get(name, ("", time.time() + LONG))[1]) for name, value in jar.items()
        }
        self.http_only = jar.http_only & jar.keys()
        return self.open()

    def refuse(self) -> None:
        """Have the middleware say no from the next connection on."""
        self._middleware = partial(CookieMiddleware, remember=lambda _: False)

    def handshake(self) -> Handshake:
        """The handshake of a connection that is opened now."""
        sent = () if self.strips else tuple(f"{name}={value}" for name, value in self.values().items())
        refused = self._middleware is not None and _in_thread(partial(_connect, sent, self._middleware))
        return Handshake(sent, URL, is_refused=bool(refused))


def _in_thread(work: Callable[[], Any]) -> Any:
    # In a thread of its own: in that of a test in a browser Playwright's loop runs.
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(work())))
    thread.start()
    thread.join()
    return found[0] if found else None


async def _fetch(jar: Jar, middleware: Callable[..., Any]) -> None:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        for key, value in message.get("headers", ()):
            if key == b"set-cookie":
                jar.store_response(value.decode())

    sent = [(b"host", b"localhost"), (b"cookie", jar.header().encode())]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": sent}
    await middleware(page)(scope, receive, send)


async def _connect(sent: tuple[str, ...], middleware: Callable[..., Any]) -> bool:
    heard: list[bool] = []

    async def connection(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append(any(name == host.REFUSAL.encode() for name, _ in scope["headers"]))

    headers = [(b"host", b"localhost"), *((b"cookie", value.encode()) for value in sent)]
    scope = {"type": "websocket", "path": "/_stcore/stream", "query_string": b"", "headers": headers}
    await middleware(connection)(scope, None, None)
    return heard[0]


class _Context:
    """As much of Streamlit's run context as is asked for."""

    class Coordinator:
        """What lives as long as the run."""

    def __init__(self) -> None:
        self.main_script_path = __file__
        self.on_script_error = None
        self.fragment_ids_this_run: list[str] = []
        self.parallel_coordinator = self.Coordinator()


class Tab(Run):
    """A tab; with `pretended`, the calling thread runs its script after `begin`."""

    __slots__ = ("_asked", "_browser", "_draw", "_handshake", "_memory", "_mounted", "_over", "_was_mounted")
    _asked: Callable[[], None] | None
    _browser: Browser
    _draw: Callable[[], None]
    _handshake: Handshake | None
    _memory: dict[str, Any]
    _mounted: set[str]
    _over: bool
    _was_mounted: set[str]

    def __init__(self, browser: Browser) -> None:
        super().__init__(_Context())
        own: dict[str, Any] = {
            "_asked": None,
            "_draw": lambda: None,
            "_browser": browser,
            "_memory": {},
            "_mounted": set(),
            "_over": True,
        }
        for name, value in (own | {"_was_mounted": set()}).items():
            object.__setattr__(self, name, value)
        self.reconnect()

    @property
    def memory(self) -> dict[str, Any]:
        """What the tab remembers."""
        return self._memory

    @property
    def is_asking(self) -> bool:
        """Whether a question to the browser is on the page: its answer starts a run of a fragment."""
        return self._asked is not None

    def reconnect(self) -> None:
        """Lose the connection, and shake hands anew."""
        object.__setattr__(self, "_handshake", self._browser.handshake())

    def disconnect(self) -> None:
        """Lose the connection for now: while there is none, nobody knows its handshake."""
        object.__setattr__(self, "_handshake", None)

    def begin(self) -> None:
        """End the tab's last run, let the browser answer, and begin another one; it is the calling thread's now."""
        self.end()
        self.answer()
        self._renew()

    def _renew(self) -> None:
        self._context.parallel_coordinator = _Context.Coordinator()
        self._context.fragment_ids_this_run = []
        object.__setattr__(self, "_over", False)
        self.go_on()

    def go_on(self) -> None:
        """Go on with the run, after one of another tab."""
        _local.tab = self

    def answer(self) -> None:
        """Let the browser answer, if it was asked: that runs the fragment that asked."""
        if self._asked is None:
            return
        before = getattr(_local, "tab", None)
        self._renew()
        self._context.fragment_ids_this_run = ["ours"]
        heard = self._asked
        heard()
        with suppress(RerunError):
            self._paint(self._draw)
        self._memory["end"](Ended(self, failed=False))
        self._context.fragment_ids_this_run = []
        object.__setattr__(self, "_over", True)
        _local.tab = before

    def end(self, *, failed: bool = False) -> None:
        """End the run."""
        if not self._over:
            object.__setattr__(self, "_over", True)
            before = getattr(_local, "tab", None)
            _local.tab = self
            if "end" in self._memory:
                self._memory["end"](Ended(self, failed))
            _local.tab = before

    def begin_over(self) -> Callable[[], None]:
        """Begin another run while the last one goes on; return what ends that one."""
        old = _Context()
        old.parallel_coordinator = self._context.parallel_coordinator
        run = Tab.__new__(Tab)
        for name in Tab.__slots__:
            object.__setattr__(run, name, getattr(self, name))
        object.__setattr__(run, "_context", old)
        self._renew()
        return run.end

    def mount_apart(self, draw: Callable[[], None]) -> None:
        """Draw in a fragment."""
        object.__setattr__(self, "_draw", draw)
        self._paint(draw)

    def _paint(self, draw: Callable[[], None]) -> None:
        object.__setattr__(self, "_was_mounted", self._mounted)
        object.__setattr__(self, "_mounted", set())
        draw()

    def seen(self) -> dict[str, str]:
        """What the browser says to the question."""
        return self._browser.seen_by_scripts()

    def mount(self, *, method: str, **arguments: Any) -> Any:
        """Do what the cookies component does: answer in the next run; set a cookie when it comes to the page."""
        if method == "getAll":
            self._browser.asked += 1
            object.__setattr__(self, "_asked", arguments["on_change"])
            return None
        name, value = arguments["name"], arguments["value"]
        assert f"{name}={value}" not in self._mounted, "Streamlit refuses two equal elements in one run"
        if f"{name}={value}" not in self._was_mounted and name not in self._browser.http_only:
            self._browser.cookies[name] = value, _unix(arguments["options"])
        self._mounted.add(f"{name}={value}")
        return None


def _unix(options: dict[str, Any]) -> float:
    return datetime.fromisoformat(options["expires"]).timestamp()


def _tab() -> Any:
    return getattr(_local, "tab", None)


def _rerun(run: Run) -> None:
    raise RerunError


@contextmanager
def pretended(
    store: CountingStore, max_age: float = 1000.0, lock_timeout: float = 10.0, keys: Keys = KEYS, **more: Any
) -> Iterator[Browser]:
    """A browser whose tabs' runs are the library's, with one store for all."""
    values: dict[str, Any] = {
        "keys": keys,
        "store": store,
        "app": None,
        "max_age": max_age,
        "cookie_name": COOKIE,
        "cookie_max_age": LONG,
        "same_site": "lax",
        "secure": None,
        "path": None,
        "partitioned": False,
        "ask_browser": True,
        "max_bytes": 100_000,
        "lock_timeout": lock_timeout,
    }
    settings = Settings(**values | more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "current_run", _tab)
        patch.setattr(host, "handshake", lambda: _tab()._handshake)
        patch.setattr(host, "base_path", lambda: "/")
        patch.setattr(host, "mount_apart", lambda draw: _tab().mount_apart(draw))
        patch.setattr(host, "rerun", _rerun)
        patch.setattr(host, "forget_session", lambda: None)
        patch.setattr(host, "widget_value", lambda key: _tab().seen())
        patch.setattr(host, "forget_widget", lambda key: object.__setattr__(_tab(), "_asked", None))
        patch.setattr(host, "hear_ends", lambda run, end: run.memory.update(end=end))
        patch.setattr(host, "_serving", [])
        patch.setattr("persist_session.browser.component._component", lambda **arguments: _tab().mount(**arguments))
        patch.setattr("persist_session.tab.sweep_if_due", lambda _: None)
        for module in ("settings", "browser.middleware"):
            patch.setattr(f"persist_session.{module}.resolve", lambda *_: settings)
        patch.setattr("persist_session.browser.middleware.check", lambda _: None)
        yield Browser()
        _local.tab = None
