"""The cookie that the server sets with the page: on pages, on nothing else, and for whom it has to be a new one."""

from __future__ import annotations

import asyncio
import http.client
import logging
import re
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import time_machine
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Mount

from persist_session import ConfigurationError, CookieMiddleware, StoreError, configure, host, relay
from persist_session import settings as settings_module
from persist_session.errand import Errand
from persist_session.keys import derive
from persist_session.signing import Signed, new_session_id, record_key, sign, unsign
from persist_session.stores import MemoryStore
from support import Jar
from support.tabs import forget_relay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator
    from pathlib import Path

    from conftest import Served, Visit
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from support import AppServer

NAME = "app-state"
OLD, SECRET, FOREIGN = "o" * 32, "s" * 32, "f" * 32
KEYS = derive([SECRET])
KNOWN = "b" * 32
HOUR = 3600.0

HTML = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-cache"), (b"etag", b'"1"')]
OURS = "private, no-store"
IN_A_FOREIGN_PAGE = {"sec-fetch-dest": "iframe", "sec-fetch-site": "cross-site"}


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start every test with nothing configured but keys, a store and an hour, and with nothing noted."""
    monkeypatch.setattr(settings_module, "_configured", {})
    monkeypatch.setattr(settings_module, "_resolved", {})
    for name in settings_module._CHECKS:
        monkeypatch.delenv(f"PERSIST_SESSION_{name.upper()}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    forget_relay(monkeypatch)
    configure(secret_keys=[SECRET], store=MemoryStore(), max_age=HOUR)


# --- requests without a server


@dataclass
class SetCookie:
    """What one Set-Cookie header says; `attributes` in small letters, without the value where there is none."""

    name: str
    value: str = field(repr=False)
    attributes: dict[str, str]

    @classmethod
    def parse(cls, header: str) -> SetCookie:
        """Return what the header says."""
        (name, _, value), *others = (part.strip().partition("=") for part in header.split(";"))
        return cls(name, value, {key.lower(): text for key, _, text in others})

    @property
    def is_removal(self) -> bool:
        """Whether the browser is to forget it."""
        return self.attributes["max-age"] == "0"

    @property
    def session_id(self) -> str:
        """The id that it was signed for."""
        return unsigned(self.value).session_id


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: list[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        """Return the values of a header."""
        return [value for key, value in self.headers if key.lower() == name]

    @property
    def cookies(self) -> dict[str, SetCookie]:
        """The cookies of states that it sets or removes."""
        found = [SetCookie.parse(header) for header in self.all("set-cookie")]
        ours = [
            cookie for cookie in found if not cookie.name.startswith("_streamlit") and "~browser" not in cookie.name
        ]
        assert len({cookie.name for cookie in ours}) == len(ours)
        return {cookie.name: cookie for cookie in ours}

    @property
    def introduction(self) -> SetCookie | None:
        """The cookie by which the browser is known from now on."""
        found = [SetCookie.parse(header) for header in self.all("set-cookie")]
        return next((cookie for cookie in found if "~browser" in cookie.name), None)

    @property
    def cookie(self) -> SetCookie:
        """The one cookie that it sets."""
        (cookie,) = self.cookies.values()
        return cookie


def unsigned(value: str, name: str = NAME) -> Signed:
    """Return what a signed cookie says."""
    signed = unsign(name, value, KEYS, HOUR)
    assert signed is not None
    return signed


def answering(status: int = 200, headers: Iterable[tuple[bytes, bytes]] = HTML) -> ASGIApp:
    """Return an app that always answers so."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": b"text"})

    return app


def wrapped(app: ASGIApp | None = None, **options: Any) -> CookieMiddleware:
    """Return the middleware around an app, by default one that answers with a page."""
    return CookieMiddleware(app or answering(), **({"names": [NAME]} | options))


async def nothing_to_receive() -> Message:
    """What nobody asks for."""
    raise AssertionError("a GET has no body")


def finish(work: Awaitable[None]) -> None:
    """Do asynchronous work, in a thread of its own: a browser of another test may have its loop in this one."""

    async def await_it() -> None:
        await work

    with ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, await_it()).result()


def messages_of(app: ASGIApp, path: str = "/", *, method: str = "GET", **changed: Any) -> list[Message]:
    """Return what an app sends as the answer to a request."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    } | changed
    finish(app(scope, nothing_to_receive, send))
    return sent


def get(
    app: ASGIApp | None = None,
    path: str = "/",
    headers: dict[str, str] | None = None,
    *,
    raw_headers: list[tuple[bytes, bytes]] | None = None,
    cookies: str | list[str] = (),  # type: ignore[assignment]
    is_known: bool = True,
    **changed: Any,
) -> Answer:
    """Return the answer to a request; `cookies` are one Cookie header or several, beside that of a known browser."""
    introduced = [f"{relay.BROWSER}={introduction(KNOWN)}"] if is_known else []
    sent_cookies = [*introduced, *([cookies] if isinstance(cookies, str) else cookies)]
    all_headers = [*({"host": "localhost"} | (headers or {})).items(), *(("cookie", text) for text in sent_cookies)]
    raw = [(key.encode(), value.encode("latin-1")) for key, value in all_headers]
    start = messages_of(app or wrapped(), path, headers=raw if raw_headers is None else raw_headers, **changed)[0]
    return Answer(start["status"], [(key.decode(), value.decode("latin-1")) for key, value in start["headers"]])


def signed(session_id: str, *, ago: float = 0.0, name: str = NAME, secret: str = SECRET, **marks: bool) -> str:
    """Return a signed value from that many seconds ago; by default as the server sets it."""
    with time_machine.travel(time.time() - ago, tick=False):
        return sign(name, session_id, derive([secret]), **({"http_only": True} | marks))


def introduction(browser: str) -> str:
    """Return the value by which a browser is known."""
    return sign(relay.BROWSER, browser, KEYS)


def by_script(session_id: str, *, ago: float = 0.0) -> str:
    """Return a signed value as a script sets it."""
    return signed(session_id, ago=ago, http_only=False)


# --- where a page is


@pytest.mark.parametrize(
    "path", ["/", "/page2", "/a/b/c", "/é", "/_stcore", "/mediathek", "/components/x", "/staticity", "/app/staticity"]
)
def test_a_page_brings_a_cookie(path: str) -> None:
    """Also one whose path only begins like a reserved one, and one that nobody knows: it shows the app all the same."""
    cookie = get(path=path).cookie
    assert cookie.name == NAME
    assert re.fullmatch("[0-9a-f]{32}", cookie.session_id)
    assert unsigned(cookie.value).http_only
    assert not unsigned(cookie.value).partitioned


RESERVED = [
    "/_stcore/health",
    "/_stcore/host-config",
    "/_stcore/stream",
    "/media/abc.html",
    "/component/streamlit_cookies_controller.cookie_controller.cookie_controller/index.html",
    "/static/js/index.js",
    "/static/index.html",
    "/app/static/page.html",
]


@pytest.mark.parametrize("path", RESERVED)
def test_what_streamlit_serves_beside_its_pages_brings_none(path: str) -> None:
    """Even where it is HTML, as the iframe of a component is; nor is its answer touched."""
    answer = get(path=path)
    assert not answer.cookies
    assert answer.all("cache-control") == ["no-cache"]


def test_a_page_reached_from_elsewhere_leaves_a_strict_cookie_alone() -> None:
    """The browser keeps it back then: a new one would take its place."""
    configure(same_site="strict")
    assert not get(headers={"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}).cookies
    assert get(headers={"sec-fetch-site": "none", "sec-fetch-dest": "document"}).cookies


def test_a_page_reached_from_elsewhere_brings_a_lax_cookie() -> None:
    """The browser would have sent the one that it has."""
    assert get(headers={"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}).cookies


def test_who_decides_per_request_is_no_coroutine() -> None:
    """What it returned were always true."""

    async def never(_: Any) -> bool:
        return False

    class Never:
        async def __call__(self, _: Any) -> bool:
            return False

    class Later:
        def __await__(self) -> Iterator[bool]:
            yield False

    for each in (never, Never(), 3):
        with pytest.raises(ConfigurationError, match="remember"):
            wrapped(remember=each)
    with pytest.raises(ConfigurationError, match="remember"):
        get(wrapped(remember=lambda _: Later()))


@pytest.mark.parametrize("path", ["/myapp", "/myapp/", "/myapp/page2", "/elsewhere"])
def test_a_page_below_a_base_path_brings_a_cookie_for_it(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cookie's path is the base path: another app on this host does not get it."""
    monkeypatch.setattr(host, "base_path", lambda: "/myapp")
    assert get(path=path).cookie.attributes["path"] == "/myapp"


@pytest.mark.parametrize("path", RESERVED)
def test_reserved_paths_are_known_below_a_base_path(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There they lie below it."""
    monkeypatch.setattr(host, "base_path", lambda: "/myapp")
    assert not get(path=f"/myapp{path}").cookies


@pytest.mark.parametrize("path", RESERVED)
def test_reserved_paths_are_known_in_a_mounted_app(path: str) -> None:
    """There they lie below the place where it is mounted; a page brings its cookie."""
    app = Starlette(routes=[Mount("/mnt", app=wrapped())])
    assert not get(app, f"/mnt{path}").cookies
    assert get(app, "/mnt/page2").cookie.name == NAME


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_only_a_get_brings_a_cookie(method: str) -> None:
    """Health checks ask with HEAD, and are no visitors."""
    assert not get(method=method).cookies


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_other_connections_are_handed_on_as_they_are(kind: str) -> None:
    """The app gets the server's own objects."""
    got: list[Any] = []

    async def app(*given: Any) -> None:
        got.extend(given)

    scope: Scope = {"type": kind, "path": "/", "headers": [(b"host", b"localhost")]}
    given = (scope, nothing_to_receive, lambda _: nothing_to_receive())
    finish(wrapped(app)(*given))  # type: ignore[arg-type]  # of no app in particular
    assert all(one is other for one, other in zip(got, given, strict=True))


@pytest.mark.parametrize(
    ("destination", "is_page"),
    [
        ("document", True),
        ("iframe", True),
        *((each, False) for each in ("image", "script", "style", "empty", "embed", "object", "frame", "worker", "")),
    ],
)
def test_what_a_browser_asks_for_to_use_inside_of_a_page_is_none(destination: str, is_page: bool) -> None:
    """It says so itself (Sec-Fetch-Dest)."""
    assert bool(get(headers={"sec-fetch-dest": destination}).cookies) == is_page


@pytest.mark.parametrize(
    "header", [{"sec-purpose": "prefetch"}, {"sec-purpose": "prefetch;prerender"}, {"purpose": "prefetch"}]
)
def test_a_page_that_is_fetched_ahead_brings_no_cookie(header: dict[str, str]) -> None:
    """Nobody may ever see it."""
    assert not get(headers={"sec-fetch-dest": "document"} | header).cookies


@pytest.mark.parametrize(
    ("status", "content_type", "is_page"),
    [
        (200, b"text/html", True),
        (200, b"text/html; charset=utf-8", True),
        (200, b"application/json", False),
        (200, b"text/plain", False),
        (200, b"application/xhtml+xml", False),
        *((status, b"text/html", False) for status in (201, 204, 206, 301, 302, 307, 401, 404, 500)),
    ],
)
def test_only_html_that_was_found_is_a_page(status: int, content_type: bytes, is_page: bool) -> None:
    """A redirect, an error and the app's data are none."""
    assert bool(get(wrapped(answering(status, [(b"content-type", content_type)]))).cookies) == is_page


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [({"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}, True), ({"accept": "*/*"}, False), ({}, False)],
)
def test_a_page_that_the_browser_still_has_brings_a_cookie(accept: dict[str, str], is_page: bool) -> None:
    """A 304 does not say of what; the request says what it was to be."""
    answer = get(wrapped(answering(304, [(b"etag", b'"1"')])), headers=accept)
    assert bool(answer.cookies) == is_page
    assert answer.all("cache-control") == ([OURS] if is_page else [])


@pytest.mark.parametrize(
    "changed",
    [
        {"query_string": b"a=\xff\xfe"},
        {"raw_headers": []},
        {"raw_headers": [(b"host", b"[")]},
        {"raw_headers": [(b"host", b"h:99999")]},
        {"raw_headers": [(b"host", b"\xff")]},
        {"raw_headers": [(b"host", b"h"), (b"x-forwarded-host", b"[::1"), (b"x-forwarded-proto", b"\xe9")]},
        {"raw_headers": [(b"host", b"h"), (b"cookie", b"\xff=\xff; app-state=\xff")]},
        {"path": "/a?b#c", "raw_headers": [(b"host", b"a/b?c")]},
        {"server": None, "raw_headers": []},
    ],
)
def test_an_odd_request_is_served_all_the_same(changed: dict[str, Any]) -> None:
    """What a client says of itself stops no page."""
    assert get(**changed).cookie.name == NAME


# --- the answer


def test_an_answer_with_our_cookie_is_kept_by_no_cache() -> None:
    """A shared one could hand one visitor's id to many; all else that the app says stays."""
    headers = [*HTML, (b"set-cookie", b"theirs=1; Path=/"), (b"cache-control", b"public, max-age=60"), (b"x-a", b"b")]
    answer = get(wrapped(answering(headers=headers)))
    assert answer.all("cache-control") == [OURS]
    assert answer.all("set-cookie")[0] == "theirs=1; Path=/"
    assert len(answer.all("set-cookie")) == 2
    assert (answer.all("etag"), answer.all("x-a")) == (['"1"'], ["b"])


def test_an_answer_without_our_cookie_is_untouched() -> None:
    """That of a visitor who has a good one: equal to the last byte."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sent.extend(
            [
                {"type": "http.response.start", "status": 200, "headers": [*HTML, (b"set-cookie", b"theirs=1")]},
                {"type": "http.response.body", "body": b"text"},
            ]
        )
        before = repr(sent)
        for message in sent:
            await send(message)
        assert repr(sent) == before

    cookies = f"{NAME}={signed(new_session_id())}; {relay.BROWSER}={introduction(KNOWN)}".encode()
    got = messages_of(wrapped(app), headers=[(b"host", b"localhost"), (b"cookie", cookies)])
    assert [message["type"] for message in got] == ["http.response.start", "http.response.body"]
    assert got == sent


def test_one_visitors_cookie_is_never_in_anothers_answer() -> None:
    """An app may send the same list of headers again and again, as a Starlette response that serves as an app does."""
    app = wrapped(HTMLResponse("text"))
    first, second = get(app), get(app)
    assert first.cookie.session_id != second.cookie.session_id
    good = signed(new_session_id())
    assert not get(app, cookies=f"{NAME}={good}").cookies


@pytest.mark.parametrize("headers", [tuple(HTML), iter(HTML)], ids=["a tuple", "an iterator"])
def test_headers_are_any_iterable(headers: Any) -> None:
    """As the ASGI specification has it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    answer = get(wrapped(app))
    assert answer.cookie.name == NAME
    assert answer.all("etag") == ['"1"']


def test_an_answer_without_headers_is_no_page() -> None:
    """They may be left out."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    assert [message["type"] for message in messages_of(wrapped(app))] == ["http.response.start"]


def test_a_body_streams_through() -> None:
    """Piece by piece, each as it comes: the app here goes on only once the last one has arrived."""
    arrived: list[Any] = []
    pieces = [
        {"type": "http.response.body", "body": b"one", "more_body": True},
        {"type": "http.response.body", "body": b"two", "more_body": False},
    ]

    async def visit() -> None:
        last = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": list(HTML)})
            for piece in pieces:
                await asyncio.wait_for(last.wait(), 30)
                last.clear()
                await send(piece)

        async def send(message: Message) -> None:
            arrived.append(message)
            last.set()

        scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"h")], "query_string": b""}
        await wrapped(app)(scope, nothing_to_receive, send)

    finish(visit())
    assert all(one is other for one, other in zip(arrived[1:], pieces, strict=True))


@pytest.mark.parametrize("is_started", [False, True])
def test_the_apps_exceptions_pass_through(is_started: bool) -> None:
    """Before and within its answer: whoever handles them stands outside."""
    failure = RuntimeError("of the app")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if is_started:
            await send({"type": "http.response.start", "status": 200, "headers": list(HTML)})
        raise failure

    with pytest.raises(RuntimeError) as caught:
        messages_of(wrapped(app))
    assert caught.value is failure


# --- how the cookie looks


def test_the_header_says_all_that_a_browser_has_to_know() -> None:
    """No script sees it, and no other site's form brings it along."""
    cookie = get().cookie
    assert cookie.attributes == {"path": "/", "max-age": "3600", "samesite": "Lax", "httponly": ""}
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", cookie.value)


@pytest.mark.parametrize(
    ("scheme", "headers", "name", "is_secure"),
    [
        ("http", {}, "app-state", False),
        ("https", {}, "__Host-app-state", True),
        ("http", {"x-forwarded-proto": "https"}, "__Host-app-state", True),
        ("http", {"x-forwarded-proto": "https,http"}, "__Host-app-state", True),
        ("http", {"x-forwarded-proto": "https , http"}, "__Host-app-state", True),
        ("http", {"x-forwarded-proto": "HTTPS"}, "__Host-app-state", True),
        ("https", {"x-forwarded-proto": "http"}, "app-state", False),
        ("http", {"x-forwarded-proto": "http,https"}, "app-state", False),
        ("http", {"x-forwarded-proto": "nonsense"}, "app-state", False),
        ("http", {"host": "localhost:8501"}, "app-state-8501", False),
        ("http", {"host": "[::1]:8501"}, "app-state-8501", False),
        ("https", {"host": "h:8443"}, "__Host-app-state-8443", True),
        ("http", {"host": "10.0.0.5:8501", "x-forwarded-host": "shop.example"}, "app-state", False),
        ("http", {"host": "inner:8501", "x-forwarded-host": "shop.example:81, inner:8501"}, "app-state-81", False),
        (
            "http",
            {"host": "i:8501", "x-forwarded-host": "shop.example", "x-forwarded-proto": "https"},
            "__Host-app-state",
            True,
        ),
    ],
)
def test_the_name_follows_the_address_in_the_browser(
    scheme: str, headers: dict[str, str], name: str, is_secure: bool
) -> None:
    """As the script sees it: behind a proxy that ends TLS, and on another port, too."""
    cookie = get(headers=headers, scheme=scheme).cookie
    assert cookie.name == name
    assert ("secure" in cookie.attributes) == is_secure
    assert cookie.attributes["path"] == "/"


def test_the_attributes_follow_the_settings() -> None:
    """All that a script's cookie follows."""
    configure(max_age=timedelta(days=1, seconds=0.9), same_site="strict", secure=True, path="/shop")
    assert get().cookie.attributes == {
        "path": "/shop",
        "max-age": "86400",
        "samesite": "Strict",
        "httponly": "",
        "secure": "",
    }


def test_below_a_base_path_no_host_prefix_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser takes it with the path `/` only."""
    monkeypatch.setattr(host, "base_path", lambda: "/myapp")
    cookie = get(path="/myapp/", scheme="https").cookie
    assert (cookie.name, "secure" in cookie.attributes) == (NAME, True)


# --- names


def test_every_name_has_a_cookie_of_its_own() -> None:
    """Each with an id of its own, valid for this name only."""
    cookies = get(wrapped(names=(name for name in ("one", "two")))).cookies
    assert set(cookies) == {"one", "two"}
    ids = {unsigned(cookie.value, name).session_id for name, cookie in cookies.items()}
    assert len(ids) == 2
    assert unsign("two", cookies["one"].value, KEYS, HOUR) is None


def test_only_the_name_that_needs_one_gets_a_cookie() -> None:
    """The other one's is good."""
    app = wrapped(names=["one", "two"])
    good = signed(new_session_id(), name="one")
    assert set(get(app, cookies=f"one={good}; x=y").cookies) == {"two"}
    aging = signed(new_session_id(), name="one", ago=HOUR / 2 + 60)
    fresh = signed(new_session_id(), name="two")
    assert set(get(app, cookies=[f"one={aging}", f"two={fresh}"]).cookies) == {"one"}


def test_no_names_mean_no_cookies() -> None:
    """Nothing is issued that nobody asked for."""
    assert not get(wrapped(names=[])).cookies


@pytest.mark.parametrize(
    "names", [NAME, "", [""], ["a b"], [NAME, "a;b"], [".."], ["x" * 65], ["é"], [None], [5], [b"a"], ["a\n"]]
)
def test_names_that_make_no_sense_are_refused(names: Any) -> None:
    """At once, not with the first page; and nothing is noted of them."""
    with pytest.raises(ConfigurationError, match="name"):
        wrapped(names=names)
    assert relay.served == {}


def test_a_str_of_names_is_told_how_to_be_a_list() -> None:
    """Else each of its letters were a name."""
    with pytest.raises(ConfigurationError, match=r"names=\['app-state'\]"):
        wrapped(names=NAME)


def test_scripts_learn_which_names_are_served() -> None:
    """Of all that stand in this process."""
    wrapped(names=["one"])
    wrapped(names=["two", "three"])
    assert relay.served.keys() == {"one", "two", "three"}


# --- for whom


def test_every_visitor_has_another_id() -> None:
    """Whoever brings none gets a new one."""
    app = wrapped()
    assert len({get(app).cookie.session_id for _ in range(20)}) == 20


@pytest.mark.parametrize("ago", [0.0, HOUR / 2 - 60])
def test_a_good_cookie_is_left_alone(ago: float) -> None:
    """The answer is as the app made it."""
    answer = get(cookies=f"x=1; {NAME}={signed(new_session_id(), ago=ago)}")
    assert not answer.cookies
    assert answer.all("cache-control") == ["no-cache"]


def test_a_cookie_is_renewed_when_half_of_its_time_is_over() -> None:
    """Its id stays, and it has its whole time again."""
    session_id = new_session_id()
    cookie = get(cookies=f"{NAME}={signed(session_id, ago=HOUR / 2 + 60)}").cookie
    again = unsigned(cookie.value)
    assert (again.session_id, again.http_only, again.partitioned) == (session_id, True, False)
    assert time.time() - again.signed_at < HOUR / 4
    assert cookie.attributes["max-age"] == "3600"


def test_a_cookie_lives_as_long_as_the_settings_say() -> None:
    """Also one that an earlier setting would have let live longer."""
    session_id = new_session_id()
    value = signed(session_id, ago=HOUR - 60)
    assert get(cookies=f"{NAME}={value}").cookie.session_id == session_id
    configure(max_age=HOUR / 2)
    assert get(cookies=f"{NAME}={value}").cookie.session_id != session_id


@pytest.mark.parametrize(
    "value",
    [
        signed("a" * 32, ago=HOUR + 60),
        signed("a" * 32, secret=FOREIGN),
        signed("a" * 32, name="other"),
        signed("a" * 32).replace("h.", "."),
        signed("a" * 32, http_only=False).replace(".", "h.", 1),
        signed("a" * 32)[:-2],
        "a" * 32,
        "a" * 32 + "h",
        "",
        "x" * 4000,
    ],
    ids=["expired", "forged", "foreign", "unmarked", "marked", "cut", "unsigned", "only marked", "empty", "long"],
)
def test_a_cookie_that_is_not_ours_counts_as_absent(value: str, caplog: pytest.LogCaptureFixture) -> None:
    """A new id takes its place: nobody chooses a visitor's. One WARNING, without the value."""
    cookie = get(cookies=f"{NAME}={value}").cookie
    assert cookie.session_id != "a" * 32
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert NAME in record.getMessage()
    assert "a" * 32 not in caplog.text
    assert not value or value not in caplog.text


def test_visitors_without_a_cookie_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Nor are those with a good one; and nothing that is logged holds an id."""
    cookie = get().cookie
    get(cookies=f"{NAME}={cookie.value}")
    assert not caplog.records


def test_a_cookie_planted_beside_that_of_the_host_is_not_read() -> None:
    """A sibling domain can set the plain name, but not the one behind `__Host-`."""
    planted = signed("a" * 32)
    assert get(cookies=f"{NAME}={planted}", scheme="https").cookie.session_id != "a" * 32
    good = signed("b" * 32)
    assert not get(cookies=f"{NAME}={planted}; __Host-{NAME}={good}", scheme="https").cookies


def test_of_several_cookies_the_newest_counts() -> None:
    """A browser sends one for each path; in one header or, over HTTP/2, in several."""
    new, old = signed("b" * 32, ago=HOUR / 2 + 60), signed("a" * 32, ago=HOUR / 2 + 120)
    for cookies in ([f"{NAME}={old}; {NAME}={new}"], [f"{NAME}={new}", f"{NAME}={old}"]):
        assert get(cookies=cookies).cookie.session_id == "b" * 32


def test_an_older_key_is_good_and_the_newest_signs() -> None:
    """A rotation loses nobody."""
    configure(secret_keys=[OLD, SECRET])
    assert not get(cookies=f"{NAME}={signed('a' * 32, secret=OLD)}").cookies
    renewed = get(cookies=f"{NAME}={signed('a' * 32, secret=OLD, ago=HOUR / 2 + 60)}").cookie
    assert unsigned(renewed.value).session_id == "a" * 32


# --- a script's cookie


@pytest.mark.parametrize("ago", [0.0, HOUR / 2 + 60])
@pytest.mark.parametrize("called", [NAME, f"{NAME}~script"])
def test_a_scripts_cookie_is_left_alone_until_a_handshake_has_shown_it(called: str, ago: float) -> None:
    """Behind a proxy that strips handshakes the component must go on to find it, and renews it itself."""
    answer = get(cookies=f"{called}={by_script(new_session_id(), ago=ago)}")
    assert not answer.cookies
    assert answer.all("cache-control") == ["no-cache"]


def test_a_handshake_has_to_have_shown_this_very_cookie() -> None:
    """Another visitor's, or the same id under another name, says nothing."""
    session_id = new_session_id()
    relay.shown.put(record_key(NAME, new_session_id()), note=True)
    relay.shown.put(record_key("other", session_id), note=True)
    assert not get(cookies=f"{NAME}={by_script(session_id)}").cookies


def test_a_scripts_cookie_becomes_the_servers_with_the_same_id() -> None:
    """To move to the middleware keeps every visitor's state."""
    session_id = new_session_id()
    relay.shown.put(record_key(NAME, session_id), note=True)
    cookie = get(cookies=f"{NAME}={by_script(session_id)}").cookie
    assert (cookie.name, cookie.session_id) == (NAME, session_id)
    assert unsigned(cookie.value).http_only
    assert "httponly" in cookie.attributes


def test_the_cookie_that_a_script_set_beside_is_removed_then() -> None:
    """With the attributes that it was set with; nothing else of that kind is."""
    session_id = new_session_id()
    relay.shown.put(record_key(NAME, session_id), note=True)
    cookies = get(cookies=f"{NAME}~script={by_script(session_id)}; other~script=1").cookies
    assert set(cookies) == {NAME, f"{NAME}~script"}
    assert cookies[NAME].session_id == session_id
    assert not cookies[NAME].is_removal
    assert cookies[f"{NAME}~script"].is_removal
    assert cookies[f"{NAME}~script"].value == ""
    assert cookies[f"{NAME}~script"].attributes["path"] == "/"


def test_the_servers_cookie_counts_before_a_scripts() -> None:
    """However new that is; it stays until a script has brought over what lies under its id."""
    of_server, of_script = new_session_id(), new_session_id()
    relay.shown.put(record_key(NAME, of_script), note=True)
    sent = f"{NAME}={signed(of_server, ago=60)}; {NAME}~script={by_script(of_script)}"
    assert not get(cookies=sent).cookies
    aging = f"{NAME}={signed(of_server, ago=HOUR / 2 + 60)}; {NAME}~script={by_script(of_script)}"
    assert get(cookies=aging).cookie.session_id == of_server
    relay.replaced.put(record_key(NAME, of_script), relay.Heard(None))
    (cookie,) = get(cookies=sent).cookies.values()
    assert (cookie.name, cookie.is_removal) == (f"{NAME}~script", True)


def test_how_long_a_scripts_cookie_lives_is_left_to_the_script() -> None:
    """A state may have a `max_age` of its own, longer than the setting; browsers forget a cookie by themselves."""
    session_id = new_session_id()
    cookies = f"{NAME}={by_script(session_id, ago=HOUR + 60)}"
    assert not get(cookies=cookies).cookies
    relay.shown.put(record_key(NAME, session_id), note=True)
    assert get(cookies=cookies).cookie.session_id == session_id


# --- an id whose state was cleared


@pytest.mark.parametrize(("is_unused", "stays"), [(True, False), (False, True)])
def test_a_retired_id_is_replaced_if_nothing_lies_under_it(is_unused: bool, stays: bool) -> None:
    """A script that cleared the state can't do it; what a visitor did since then is not thrown away."""
    session_id = new_session_id()
    relay.retired.put(record_key(NAME, session_id), note=lambda: is_unused)
    answer = get(cookies=f"{NAME}={signed(session_id)}")
    assert bool(answer.cookies) == (not stays)
    assert stays or answer.cookie.session_id != session_id


def test_a_retired_id_that_is_in_use_is_renewed_as_others_are() -> None:
    """In its time."""
    session_id = new_session_id()
    relay.retired.put(record_key(NAME, session_id), note=lambda: False)
    assert get(cookies=f"{NAME}={signed(session_id, ago=HOUR / 2 + 60)}").cookie.session_id == session_id


def test_the_store_is_asked_beside_the_loop() -> None:
    """It may take its time: all other visitors are served meanwhile."""
    session_id, threads = new_session_id(), []

    def is_unused() -> bool:
        threads.append(threading.current_thread())
        return False

    relay.retired.put(record_key(NAME, session_id), note=is_unused)
    get(cookies=f"{NAME}={signed(session_id)}")
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


def test_a_store_that_fails_keeps_no_page_from_the_visitor(caplog: pytest.LogCaptureFixture) -> None:
    """The id stays; the script says what is wrong."""
    session_id = new_session_id()

    def is_unused() -> bool:
        raise StoreError("The disk is gone.")

    relay.retired.put(record_key(NAME, session_id), note=is_unused)
    assert not get(cookies=f"{NAME}={signed(session_id)}").cookies
    (record,) = caplog.records
    assert (record.levelno, "The disk is gone." in record.getMessage()) == (logging.ERROR, True)
    assert session_id not in caplog.text


class Run:
    """What tells one run from another."""


def sent(errand: Errand, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return the token of an errand on which the browser is sent."""
    paths: list[str] = []
    monkeypatch.setattr(host, "fetch", paths.append)
    errand.know(KNOWN)
    errand.send(weakref.ref(Run))
    (path,) = paths
    assert path.startswith("/_persist_session?")
    return path.partition("?")[2].encode()


@pytest.mark.parametrize("is_unused", [True, False])
def test_scripts_learn_which_ids_a_page_replaced(is_unused: bool) -> None:
    """So that a tab that is still open does not go on under one that its browser does not have any more."""
    session_id = new_session_id()
    key = record_key(NAME, session_id)
    relay.retired.put(key, note=lambda: is_unused)
    get(cookies=f"{NAME}={signed(new_session_id())}")
    assert relay.replaced.get(key) is None
    cookies = get(cookies=f"{NAME}={signed(session_id)}").cookies
    found = relay.replaced.get(key)
    assert (found is not None) == is_unused
    if found is not None:
        assert found.signed is not None
        assert (found.signed.session_id, found.browser) == (cookies[NAME].session_id, KNOWN)


@pytest.mark.parametrize(
    ("path", "base", "changed"),
    [
        ("/_persist_session", "/", {}),
        ("/shop/_persist_session", "/shop", {}),
        ("/mounted/_persist_session", "/", {"root_path": "/mounted"}),
        ("/page2/_persist_session", "/", {}),  # of a page whose address ends with a slash
    ],
)
def test_a_tab_hears_which_cookies_its_browser_has(
    path: str, base: str, changed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever middleware the state is of; the answer itself says nothing, and is kept nowhere."""
    monkeypatch.setattr(host, "base_path", lambda: base)
    errand, value = Errand(NAME), signed(new_session_id())
    token = sent(errand, monkeypatch)
    app = wrapped(wrapped(answering(500), names=[NAME, "third"]), names=["other"])
    answer = get(
        app,
        path,
        cookies=[f"{NAME}=x; x=2", f"{NAME}={value}; {NAME}~script=x"],
        query_string=token,
        **changed,
    )
    assert errand.listen() == relay.Heard(unsigned(value), browser=KNOWN)
    assert answer.status == 204
    assert {name: cookie.is_removal for name, cookie in answer.cookies.items()} == {f"{NAME}~script": True}
    assert answer.all("cache-control") == [OURS]


@pytest.mark.parametrize(
    ("ago", "is_retired", "outcome"),
    [(0.0, False, "as it is"), (HOUR / 2 + 60, False, "renewed"), (0.0, True, "replaced"), (HOUR + 1, False, "none")],
)
def test_an_errand_does_for_a_cookie_what_a_page_load_does(
    ago: float, is_retired: bool, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for a browser that has none: who goes on an errand can't tell whether they stand in a foreign page."""
    errand, session_id = Errand(NAME), new_session_id()
    token = sent(errand, monkeypatch)
    if is_retired:
        relay.retired.put(record_key(NAME, session_id), note=lambda: True)
    answer = get(path="/_persist_session", cookies=f"{NAME}={signed(session_id, ago=ago)}", query_string=token)
    heard = errand.listen()
    assert heard is not None
    assert heard.is_issued == (outcome == "replaced")
    if outcome in ("as it is", "none"):
        assert not answer.cookies
        assert (heard.signed is None) == (outcome == "none")
        return
    assert heard.signed is not None
    assert heard.signed.session_id == answer.cookie.session_id
    assert (heard.signed.session_id == session_id) == (outcome == "renewed")
    assert time.time() - heard.signed.signed_at < 60
    assert answer.all("cache-control") == [OURS]


def test_an_errand_tells_who_is_not_to_be_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next page removes what they have: to withdraw what a page was told is no business of an image."""
    errand, session_id = Errand(NAME), new_session_id()
    token = sent(errand, monkeypatch)
    answer = get(
        wrapped(remember=never),
        "/_persist_session",
        cookies=f"{NAME}={signed(session_id)}",
        query_string=token,
    )
    assert errand.listen() == relay.Heard(None, is_refused=True)
    assert not answer.cookies
    assert relay.unwanted(NAME).take(9) == []


@pytest.mark.parametrize(
    ("headers", "is_heard"),
    [
        ({}, True),  # over plain http, browsers do not say
        ({"sec-fetch-site": "same-origin", "sec-fetch-dest": "image"}, True),
        ({"sec-fetch-site": "same-origin", "sec-fetch-dest": "document"}, False),
        ({"sec-fetch-site": "same-site", "sec-fetch-dest": "image"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, False),
        ({"sec-fetch-site": "none", "sec-fetch-dest": "document"}, False),
    ],
)
def test_only_an_image_of_the_apps_own_page_is_an_errand(
    headers: dict[str, str], monkeypatch: pytest.MonkeyPatch, *, is_heard: bool
) -> None:
    """A link, or an image on another site, makes the same request with the visitor's cookies."""
    errand, session_id = Errand(NAME), new_session_id()
    token = sent(errand, monkeypatch)
    relay.retired.put(record_key(NAME, session_id), note=lambda: True)
    answer = get(path="/_persist_session", headers=headers, cookies=f"{NAME}={signed(session_id)}", query_string=token)
    assert (answer.status, bool(answer.cookies)) == (204, is_heard)
    assert (errand.listen() is not None) == is_heard


def test_an_errand_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address may be kept, in a history or a log, for longer than its answer is waited for."""
    errand, session_id = Errand(NAME), new_session_id()
    token = sent(errand, monkeypatch)
    cookies = f"{NAME}={signed(session_id, ago=HOUR / 2 + 60)}"
    assert get(path="/_persist_session", cookies=cookies, query_string=token).cookies
    assert not get(path="/_persist_session", cookies=cookies, query_string=token).cookies


@pytest.mark.parametrize("value", [None, "", "x", f"{KNOWN}.a.b", "foreign"])
def test_an_errand_of_a_browser_that_is_not_known_is_for_nothing(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could tell whose it is: its cookie is not replaced either, since the tab would not hear of it."""
    errand, session_id = Errand(NAME), new_session_id()
    token = sent(errand, monkeypatch)
    relay.retired.put(record_key(NAME, session_id), note=lambda: True)
    value = sign(relay.BROWSER, KNOWN, derive([FOREIGN])) if value == "foreign" else value
    known_by = "" if value is None else f"{relay.BROWSER}={value}; "
    cookies = f"{known_by}{NAME}={signed(session_id)}"
    answer = get(path="/_persist_session", cookies=cookies, query_string=token, is_known=False)
    assert not answer.cookies
    assert errand.listen() == relay.Heard(None)


def test_an_errand_of_a_browser_of_two_names_is_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the two was planted, by a sibling domain or on another path."""
    errand, session_id = Errand(NAME), new_session_id()
    token = sent(errand, monkeypatch)
    relay.retired.put(record_key(NAME, session_id), note=lambda: True)
    cookies = f"{relay.BROWSER}={introduction('c' * 32)}; {NAME}={signed(session_id)}"
    assert not get(path="/_persist_session", cookies=cookies, query_string=token).cookies
    assert errand.listen() == relay.Heard(None)


def test_an_errand_replaces_nothing_for_another_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tab would not hear of it; a tab that does not know its browser yet may be of this one."""
    for is_known in (True, False):
        errand, session_id = Errand(NAME), new_session_id()
        if is_known:
            errand.know("c" * 32)
        else:
            errand.know_no_longer()
        paths: list[str] = []
        monkeypatch.setattr(host, "fetch", paths.append)
        errand.send(weakref.ref(Run))
        relay.retired.put(record_key(NAME, session_id), note=lambda: True)
        token = paths[0].partition("?")[2].encode()
        cookies = f"{NAME}={signed(session_id)}"
        assert bool(get(path="/_persist_session", cookies=cookies, query_string=token).cookies) == (not is_known)


def test_a_page_introduces_a_browser_once() -> None:
    """By a cookie of its own, which scripts see and which goes when the browser is closed."""
    cookie = get(is_known=False).introduction
    assert cookie is not None
    assert cookie.name == relay.BROWSER
    assert cookie.attributes == {"path": "/", "samesite": "Lax"}
    assert get(cookies=f"{cookie.name}={cookie.value}", is_known=False).introduction is None
    other = get(cookies=f"{cookie.name}={cookie.value[:-9]}.aaaaaaaa", is_known=False).introduction
    assert other is not None
    assert unsigned(other.value, relay.BROWSER).session_id != unsigned(cookie.value, relay.BROWSER).session_id
    assert get(wrapped(names=[]), is_known=False).introduction is None
    assert get(path="/_stcore/health", is_known=False).introduction is None


def test_the_browsers_cookie_looks_as_the_states_do() -> None:
    """Behind TLS nobody can plant one; in a foreign page it is kept; a strict one that is kept back is not replaced."""
    secure = get(scheme="https", is_known=False).introduction
    assert secure is not None
    assert secure.name == f"__Host-{relay.BROWSER}"
    assert "secure" in secure.attributes
    embedded = get(headers=IN_A_FOREIGN_PAGE, is_known=False).introduction
    assert embedded is not None
    assert embedded.attributes.keys() == {"path", "samesite", "secure", "partitioned"}
    configure(same_site="strict")
    assert get(headers={"sec-fetch-site": "cross-site"}, is_known=False).introduction is None


def test_several_middlewares_introduce_a_browser_once() -> None:
    """By one header; one that does not remember the visitor leaves the cookie to the others, and sets none."""
    both = wrapped(wrapped(answering(), names=["other"]))
    answer = get(both, is_known=False)
    assert sum("~browser" in header for header in answer.all("set-cookie")) == 1
    assert set(answer.cookies) == {NAME, "other"}
    mixed = wrapped(wrapped(answering(), names=["other"], remember=never))
    cookie = get(mixed, is_known=False).introduction
    assert cookie is not None
    again = get(
        mixed, cookies=f"{cookie.name}={cookie.value}; other={signed(new_session_id(), name='other')}", is_known=False
    )
    assert again.introduction is None
    assert get(wrapped(remember=never), is_known=False).introduction is None


@pytest.mark.parametrize("query", [b"", b"0" * 32, b"\xff", b"a=b"])
def test_an_errand_on_which_nobody_was_sent_is_for_nothing(query: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is noted is what a tab waits for: nobody fills the memory by asking, nor has anything renewed by it."""
    errand, session_id = Errand(NAME), new_session_id()
    token = sent(errand, monkeypatch)
    relay.retired.put(record_key(NAME, session_id), note=lambda: True)
    answer = get(path="/_persist_session", cookies=f"{NAME}={signed(session_id)}", query_string=query)
    assert (answer.status, answer.cookies) == (204, {})
    assert token
    assert errand.listen() is None


# --- in a foreign page


@pytest.mark.parametrize(
    ("headers", "is_embedded"),
    [
        (IN_A_FOREIGN_PAGE, True),
        (IN_A_FOREIGN_PAGE | {"sec-fetch-site": "same-origin"}, False),
        (IN_A_FOREIGN_PAGE | {"sec-fetch-site": "same-site"}, False),
        (IN_A_FOREIGN_PAGE | {"sec-fetch-dest": "document"}, False),
        ({"sec-fetch-dest": "iframe"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
    ],
)
def test_a_foreign_page_is_seen_by_itself(headers: dict[str, str], is_embedded: bool) -> None:
    """Browsers keep only a partitioned cookie there; a link from a foreign page makes no such one."""
    cookie = get(headers=headers, scheme="https").cookie
    assert cookie.name == f"__Host-{NAME}"
    assert cookie.attributes["samesite"] == ("None" if is_embedded else "Lax")
    assert ("partitioned" in cookie.attributes) == is_embedded
    assert "secure" in cookie.attributes
    assert unsigned(cookie.value).partitioned == is_embedded


def test_in_a_foreign_page_it_is_secure_in_any_case() -> None:
    """A browser takes no other one, on http://localhost either; the name is the same as without."""
    cookie = get(headers=IN_A_FOREIGN_PAGE).cookie
    assert (cookie.name, "secure" in cookie.attributes) == (NAME, True)


@pytest.mark.parametrize("headers", [{}, IN_A_FOREIGN_PAGE, {"sec-fetch-dest": "document"}])
def test_a_partitioned_cookie_stays_one(headers: dict[str, str]) -> None:
    """A request that does not say where the page stands does not put a second cookie beside it."""
    session_id = new_session_id()
    value = signed(session_id, ago=HOUR / 2 + 60, partitioned=True)
    cookie = get(headers=headers, cookies=f"{NAME}={value}").cookie
    assert cookie.attributes.keys() >= {"partitioned", "secure", "httponly"}
    assert cookie.attributes["samesite"] == "None"
    again = unsigned(cookie.value)
    assert (again.session_id, again.http_only, again.partitioned) == (session_id, True, True)


def test_a_scripts_cookie_of_a_foreign_page_is_made_the_servers_as_browsers_keep_it_there() -> None:
    """It does not say how it was set; an errand, which can't tell where the page stands, leaves it alone."""
    session_id = new_session_id()
    relay.shown.put(record_key(NAME, session_id), note=True)
    cookie = get(headers=IN_A_FOREIGN_PAGE, cookies=f"{NAME}={by_script(session_id)}").cookie
    assert cookie.attributes.keys() >= {"partitioned", "secure", "httponly"}
    assert unsigned(cookie.value).partitioned


def test_an_errand_leaves_a_scripts_cookie_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next page makes it the server's."""
    errand, session_id = Errand(NAME), new_session_id()
    value = by_script(session_id)
    token = sent(errand, monkeypatch)
    relay.shown.put(record_key(NAME, session_id), note=True)
    assert not get(path="/_persist_session", cookies=f"{NAME}={value}", query_string=token).cookies
    assert errand.listen() == relay.Heard(unsigned(value), browser=KNOWN)


def test_a_cookie_of_its_own_page_stays_one() -> None:
    """Where a browser still sends it to a foreign page's frame, it keeps it there, too."""
    session_id = new_session_id()
    aging = signed(session_id, ago=HOUR / 2 + 60)
    cookie = get(headers=IN_A_FOREIGN_PAGE, cookies=f"{NAME}={aging}").cookie
    assert cookie.session_id == session_id
    assert "partitioned" not in cookie.attributes
    assert not unsigned(cookie.value).partitioned


def test_the_setting_makes_all_cookies_partitioned() -> None:
    """For a frame whose browser does not say that it is one."""
    configure(partitioned=True)
    cookie = get().cookie
    assert cookie.attributes.keys() >= {"partitioned", "secure", "httponly"}
    assert cookie.attributes["samesite"] == "None"
    assert unsigned(cookie.value).partitioned


# --- who is not to be remembered


def never(_: Request) -> bool:
    """Remember nobody."""
    return False


def test_who_is_not_to_be_remembered_gets_no_cookie() -> None:
    """The answer is as the app made it, also for one who has cookies of others."""
    for cookies in ([], ["x=1; other=2"]):
        answer = get(wrapped(remember=never), cookies=cookies, is_known=False)
        assert not answer.cookies
        assert answer.all("cache-control") == ["no-cache"]


@pytest.mark.parametrize("ago", [0.0, HOUR / 2 + 60, HOUR + 60])
def test_what_there_is_of_them_is_removed(ago: float) -> None:
    """The server's cookie and the script's, good or not; under a name that is not ours nothing is."""
    value = signed(new_session_id(), ago=ago)
    answer = get(wrapped(remember=never), cookies=f"{NAME}={value}; {NAME}~script=x; other=1; other~script=1")
    assert set(answer.cookies) == {NAME, f"{NAME}~script"}
    assert all(cookie.is_removal and cookie.value == "" for cookie in answer.cookies.values())
    assert answer.all("cache-control") == [OURS]
    assert set(get(wrapped(remember=never), cookies=f"{NAME}={value}").cookies) == {NAME}


@pytest.mark.parametrize(
    ("headers", "is_forgotten"),
    [
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, False),
        ({"sec-fetch-site": "same-site"}, True),
        ({"sec-fetch-site": "none"}, True),
        (IN_A_FOREIGN_PAGE, False),
    ],
)
def test_another_site_withdraws_no_consent(headers: dict[str, str], *, is_forgotten: bool) -> None:
    """By a link or an iframe: browsers keep back cookies then, that of a consent as well."""
    session_id = new_session_id()
    answer = get(wrapped(remember=never), headers=headers, cookies=f"{NAME}={signed(session_id)}")
    assert bool(answer.cookies) == is_forgotten
    assert bool(relay.unwanted(NAME).take(9)) == is_forgotten


def test_a_yes_after_a_no_whose_answer_was_lost_keeps_the_record() -> None:
    """The browser has its cookie still."""
    session_id = new_session_id()
    get(wrapped(remember=never), cookies=f"{NAME}={signed(session_id)}")
    get(cookies=f"{NAME}={signed(session_id)}")
    assert relay.unwanted(NAME).take(9) == []


def test_their_record_is_named_to_the_scripts() -> None:
    """The middleware does not know the store of each script; a cookie that the server did not sign names no record."""
    session_id = new_session_id()
    get(wrapped(remember=never), cookies=f"{NAME}={new_session_id()}.a.b")
    get(wrapped(remember=never))
    assert relay.unwanted(NAME).take(9) == []
    get(wrapped(remember=never), cookies=f"{NAME}={signed(session_id)}")
    get(wrapped(remember=lambda _: True), cookies=f"{NAME}={signed(new_session_id())}")
    assert relay.unwanted(NAME).take(9) == [record_key(NAME, session_id)]


@pytest.mark.parametrize("headers", [{}, IN_A_FOREIGN_PAGE])
def test_a_cookie_of_a_foreign_page_is_removed_as_it_was_set(headers: dict[str, str]) -> None:
    """One that is not Partitioned lies elsewhere."""
    value = signed(new_session_id(), partitioned=True)
    cookie = get(wrapped(remember=never), headers=headers, cookies=f"{NAME}={value}").cookie
    assert cookie.is_removal
    assert cookie.attributes.keys() >= {"partitioned", "secure"}
    assert cookie.attributes["samesite"] == "None"


def test_who_is_remembered_is_asked_once_for_a_page() -> None:
    """With the request, and of pages only: not for each name, and not for every image."""
    asked: list[Request] = []

    def remember(request: Request) -> bool:
        asked.append(request)
        return request.cookies.get("consent") == "yes"

    app = wrapped(names=["one", "two"], remember=remember)
    assert not get(app, cookies="consent=no").cookies
    assert set(get(app, cookies="consent=yes", headers={"x-a": "b"}).cookies) == {"one", "two"}
    assert [request.headers.get("x-a") for request in asked] == [None, "b"]
    for path in RESERVED:
        get(app, path)
    get(wrapped(answering(404), names=["one"], remember=remember))
    get(app, method="HEAD")
    assert len(asked) == 2


def test_whoever_asks_may_take_their_time() -> None:
    """It is done beside the loop."""
    threads: list[threading.Thread] = []

    def remember(_: Request) -> bool:
        threads.append(threading.current_thread())
        return True

    get(wrapped(remember=remember))
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


def test_an_error_of_whoever_is_asked_is_not_hidden() -> None:
    """It is the app's own; nobody is remembered by mistake."""

    def remember(_: Request) -> bool:
        raise LookupError("of the app")

    with pytest.raises(LookupError, match="of the app"):
        get(wrapped(remember=remember))


# --- a real server

KEY_OF_THE_SERVER = {"PERSIST_SESSION_SECRET_KEYS": SECRET}

# What the server is started with; the app itself is main.py.
ASGI = """
    import streamlit as st
    from starlette.middleware import Middleware
    from persist_session import CookieMiddleware

    app = st.App("main.py", middleware=[Middleware(CookieMiddleware, names=["app-state"])])
"""

MAIN = """
    import streamlit as st
    from persist_session import clear_cookie_state, persistent_state

    class AppState:
        def __init__(self):
            self.count = 0

    st.session_state.runs = st.session_state.get("runs", 0) + 1
    with persistent_state("app-state", AppState) as s:
        if st.button("Increment"):
            s.count += 1
        st.metric("Count", s.count)
    if st.button("Clear"):
        clear_cookie_state("app-state")
        st.rerun()
    st.metric("Runs", st.session_state.runs)
    st.download_button("Page", "<html></html>", mime="text/html")
"""

FILES = {"main.py": MAIN, "static/page.html": "<html></html>"}


@pytest.fixture
def server(served: Served) -> AppServer:
    """Return the server of an `st.App` with the middleware."""
    return served(ASGI, files=FILES, env=KEY_OF_THE_SERVER, options={"server.enableStaticServing": True})


@pytest.fixture
def below(served: Served) -> AppServer:
    """Return the same below a base path."""
    return served(ASGI, files=FILES, env=KEY_OF_THE_SERVER, options={"server.baseUrlPath": "myapp"})


def ask(server: AppServer, path: str, headers: dict[str, str] | None = None, *, method: str = "GET") -> Answer:
    """Return the server's answer; what a redirect leads to is not asked for."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        answer.read()
        return Answer(answer.status, answer.getheaders())
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/", "/page2", "/no/such/page", "/?a=%ff", "/index.html"])
def test_a_real_page_brings_a_cookie(server: AppServer, path: str) -> None:
    """Wherever Streamlit answers with its page."""
    answer = ask(server, path, {"Accept-Encoding": "gzip"})
    assert answer.status == 200
    assert answer.cookie.name == f"{NAME}-{server.port}"
    assert answer.cookie.attributes["path"] == "/"
    assert answer.all("cache-control") == [OURS]


def test_a_real_page_that_the_browser_still_has_brings_a_cookie(server: AppServer) -> None:
    """Streamlit's page has an ETag; once the cookie is there, the 304 is Streamlit's own."""
    page = ask(server, "/")
    known = {"If-None-Match": page.all("etag")[0]}
    assert not ask(server, "/", known).cookies
    answer = ask(server, "/", known | {"Accept": "text/html"})
    assert (answer.status, answer.all("cache-control")) == (304, [OURS])
    assert answer.introduction is not None
    there = {"Cookie": "; ".join(f"{each.name}={each.value}" for each in (answer.cookie, answer.introduction))}
    again = ask(server, "/", known | {"Accept": "text/html"} | there)
    assert (again.status, again.cookies, OURS in again.all("cache-control")) == (304, {}, False)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("HEAD", "/", {}, 200),
        ("POST", "/", {}, 405),
        ("GET", "/_stcore/health", {}, 200),
        ("GET", "/_stcore/host-config", {}, 200),
        ("GET", "/static/no-such-file.js", {}, 200),  # the page's HTML
        ("GET", "/app/static/page.html", {}, 200),
        ("GET", "/media/no-such-file", {}, 404),
        ("GET", "/manifest.json", {}, 200),
        ("GET", "/page2/", {}, 301),
        ("GET", "/", {"Sec-Purpose": "prefetch"}, 200),
        ("GET", "/", {"Sec-Fetch-Dest": "empty"}, 200),
    ],
)
def test_real_answers_that_are_no_pages_bring_none(
    server: AppServer, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """They come as Streamlit makes them."""
    answer = ask(server, path, headers, method=method)
    assert answer.status == status
    assert not answer.cookies
    assert OURS not in answer.all("cache-control")


def test_a_tabs_websocket_components_and_media_bring_none(server: AppServer, visit: Visit) -> None:
    """Though a component and the app's own media may be HTML."""
    with visit(server) as tab:  # without the page's cookie: so the component is there
        assert tab._socket is not None
        assert tab._socket.response is not None
        assert not any(NAME in header for header in tab._socket.response.headers.get_all("Set-Cookie"))
        (media,) = [urlsplit(element.proto.url).path for element in tab.find("download_button")]
        component = "/component/streamlit_cookies_controller.cookie_controller.cookie_controller/index.html"
        for path in (media, component):
            answer = ask(server, path)
            assert answer.status == 200
            assert answer.all("content-type")[0].startswith("text/html")
            assert not answer.cookies
            assert OURS not in answer.all("cache-control")


def test_below_a_real_base_path_the_cookie_is_of_that_path(below: AppServer, visit: Visit) -> None:
    """On its pages; what is reserved is known there, too."""
    for path in ("/myapp/", "/myapp/page2"):
        assert ask(below, path).cookie.attributes["path"] == "/myapp"
    with visit(below) as tab:
        (media,) = [urlsplit(element.proto.url).path for element in tab.find("download_button")]
        for path in (f"/myapp{media}", "/myapp/_stcore/health", "/myapp/static/no-such-file.js"):
            answer = ask(below, path)
            assert (answer.status, answer.cookies) == (200, {})
    with visit(below, fetch_page=True) as tab:
        assert set(tab.jar) >= {f"{NAME}-{below.port}"}
        assert (tab.metric("Runs"), tab.cookie_calls) == ("1", [])


def test_a_first_visit_is_one_run_without_a_component(server: AppServer, visit: Visit) -> None:
    """And so is each reload; the value is there, and no script sees the cookie."""
    tab = visit(server, fetch_page=True)
    cookie = f"{NAME}-{server.port}"
    assert tab.jar.http_only >= {cookie}
    assert cookie not in tab.jar.seen_by_scripts()
    assert (tab.metric("Runs"), tab.iframes(), tab.cookie_calls) == ("1", [], [])
    tab.click("Increment")
    before = tab.jar[cookie]
    with tab.reload() as again:
        assert (again.metric("Count"), again.metric("Runs"), again.iframes()) == ("1", "1", [])
        assert again.jar[cookie] == before


def test_behind_tls_page_and_script_agree_on_the_name(server: AppServer, visit: Visit) -> None:
    """A proxy that ends TLS says so to the page; the script hears it from the browser."""
    tab = visit(
        server, fetch_page=True, address="https://shop.example", headers={"X-Forwarded-Proto": "https"}, page="page2"
    )
    assert set(tab.jar) >= {f"__Host-{NAME}"}
    assert (tab.metric("Runs"), tab.iframes()) == ("1", [])
    tab.click("Increment")
    with tab.reload() as again:
        assert again.metric("Count") == "1"


def test_in_a_foreign_page_a_state_is_kept(server: AppServer, visit: Visit) -> None:
    """In a partitioned cookie, which the script takes as any other."""
    tab = visit(server, fetch_page=True, headers=IN_A_FOREIGN_PAGE)
    assert unsigned(tab.jar[f"{NAME}-{server.port}"]).partitioned
    tab.click("Increment")
    with tab.reload() as again:
        assert (again.metric("Count"), again.metric("Runs")) == ("1", "1")


def test_a_state_whose_cookie_a_script_set_is_kept(server: AppServer, visit: Visit) -> None:
    """Its cookie becomes the server's with the first page after a handshake has shown it."""
    cookie, session_id = f"{NAME}-{server.port}", new_session_id()
    jar = Jar({cookie: sign(NAME, session_id, KEYS)})
    tab = visit(server, fetch_page=True, jar=jar)
    assert cookie not in tab.jar.http_only
    tab.click("Increment")
    with tab.reload() as again:
        assert cookie in again.jar.http_only
        assert unsigned(again.jar[cookie]).session_id == session_id
        assert (again.metric("Count"), again.metric("Runs"), again.iframes()) == ("1", "1", [])


def test_after_a_clear_the_next_page_brings_another_id(server: AppServer, visit: Visit) -> None:
    """If nothing was saved under the old one meanwhile."""
    cookie = f"{NAME}-{server.port}"
    tab = visit(server, fetch_page=True)
    tab.click("Increment")
    before = tab.jar[cookie]
    tab.click("Clear")
    assert tab.metric("Count") == "0"
    with tab.reload() as again:
        assert unsigned(again.jar[cookie]).session_id != unsigned(before).session_id
        assert again.metric("Count") == "0"


def test_after_a_clear_what_a_visitor_did_since_then_is_kept(server: AppServer, visit: Visit) -> None:
    """It lies under the old id, so this one stays."""
    cookie = f"{NAME}-{server.port}"
    tab = visit(server, fetch_page=True)
    tab.click("Increment")
    before = tab.jar[cookie]
    tab.click("Clear")
    tab.click("Increment")
    with tab.reload() as again:
        assert again.jar[cookie] == before
        assert again.metric("Count") == "1"
