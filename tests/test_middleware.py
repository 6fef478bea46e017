"""The cookie that the server sets with the page: on pages, on nothing else, and for whom it has to be a new one."""

from __future__ import annotations

import asyncio
import http.client
import logging
import re
import threading
import time
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

from persist_session import ConfigurationError, CookieMiddleware, StoreError, configure, host
from persist_session import settings as settings_module
from persist_session.browser import middleware
from persist_session.browser.cookie import Cookie, Signed, cookie_for, new_visitor_id
from persist_session.keys import derive
from persist_session.records import Home, Kind, Saved, visitor_key
from persist_session.stores import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from pathlib import Path

    from conftest import Served, Visit
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from support import AppServer

COOKIE, SCRIPTS = "persist_session", "persist_session-js"
OLD, SECRET, FOREIGN = "o" * 32, "s" * 32, "f" * 32
HOUR = 3600.0

HTML = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-cache"), (b"etag", b'"1"')]
OURS = "private, no-store"
IN_A_FOREIGN_PAGE = {"sec-fetch-dest": "iframe", "sec-fetch-site": "cross-site"}
FROM_ELSEWHERE = {"sec-fetch-dest": "document", "sec-fetch-site": "cross-site"}


@pytest.fixture
def store() -> MemoryStore:
    """The store of all pages."""
    return MemoryStore()


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: MemoryStore) -> None:
    """Start every test with nothing configured but keys, a store, and a cookie that lives for an hour."""
    monkeypatch.setattr(settings_module, "_configured", {})
    monkeypatch.setattr(settings_module, "_resolved", {})
    monkeypatch.setattr(host, "_serving", [])
    for name in settings_module._CHECKS:
        monkeypatch.delenv(f"PERSIST_SESSION_{name.upper()}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    middleware._warn_of_http.cache_clear()
    configure(secret_keys=[SECRET], store=store, cookie_max_age=HOUR)


# --- requests without a server


@dataclass
class SetCookie:
    """The content of one Set-Cookie header; `attributes` in small letters, without the value where there is none."""

    name: str
    value: str = field(repr=False)
    attributes: dict[str, str]

    @classmethod
    def parse(cls, header: str) -> SetCookie:
        """Parse a header."""
        (name, _, value), *others = (part.strip().partition("=") for part in header.split(";"))
        return cls(name, value, {key.lower(): text for key, _, text in others})

    @property
    def is_removal(self) -> bool:
        """Whether the browser is to forget it."""
        return (self.value, self.attributes["max-age"]) == ("", "0")

    @property
    def visitor_id(self) -> str:
        """The id that it was signed for."""
        return unsigned(self.value).visitor_id


@dataclass
class Answer:
    """An answer."""

    status: int
    headers: list[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        """The values of a header."""
        return [value for key, value in self.headers if key.lower() == name]

    @property
    def cookies(self) -> dict[str, SetCookie]:
        """The cookies of ours that it sets or removes."""
        found = [SetCookie.parse(header) for header in self.all("set-cookie")]
        ours = [cookie for cookie in found if COOKIE in cookie.name]
        assert len({cookie.name for cookie in ours}) == len(ours)
        return {cookie.name: cookie for cookie in ours}

    @property
    def cookie(self) -> SetCookie:
        """The one cookie that it sets."""
        (cookie,) = self.cookies.values()
        assert not cookie.is_removal
        return cookie


def unsigned(value: str) -> Signed:
    """The content of a signed value, for the path `/`."""
    found = _cookie().unsign(value, derive([SECRET]), HOUR)
    assert found is not None
    return found


def signed(visitor_id: str, *, ago: float = 0.0, secret: str = SECRET, path: str = "/") -> str:
    """A value that was signed that many seconds ago."""
    with time_machine.travel(time.time() - ago, tick=False):
        return _cookie(path).sign(visitor_id, derive([secret]))


def _cookie(path: str = "/") -> Cookie:
    return cookie_for("http://localhost/", path, settings_module.resolve("", dict))


def answering(status: int = 200, headers: Iterable[tuple[bytes, bytes]] = HTML) -> ASGIApp:
    """An app that always answers so."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": b"text"})

    return app


def wrapped(app: ASGIApp | None = None, **options: Any) -> CookieMiddleware:
    """The middleware around an app, by default one that answers with a page."""
    return CookieMiddleware(app or answering(), **options)


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
    **changed: Any,
) -> Answer:
    """The answer to a request; `cookies` are one Cookie header or several."""
    sent = [cookies] if isinstance(cookies, str) else cookies
    all_headers = [*({"host": "localhost"} | (headers or {})).items(), *(("cookie", text) for text in sent)]
    raw = [(key.encode(), value.encode("latin-1")) for key, value in all_headers]
    start = messages_of(app or wrapped(), path, headers=raw if raw_headers is None else raw_headers, **changed)[0]
    return Answer(start["status"], [(key.decode(), value.decode("latin-1")) for key, value in start["headers"]])


# --- where a page is


@pytest.mark.parametrize(
    "path", ["/", "/page2", "/a/b/c", "/é", "/_stcore", "/mediathek", "/components/x", "/staticity", "/app/staticity"]
)
def test_a_page_brings_a_cookie(path: str) -> None:
    """Also one whose path only begins like a reserved one, and one that nobody knows: it shows the app all the same."""
    cookie = get(path=path).cookie
    assert cookie.name == COOKIE
    assert re.fullmatch("[0-9a-f]{32}", cookie.visitor_id)


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
def test_reserved_paths_bring_none(path: str) -> None:
    """Even where it is HTML, as the iframe of a component is; nor is its answer touched."""
    answer = get(path=path)
    assert not answer.cookies
    assert answer.all("cache-control") == ["no-cache"]


@pytest.mark.parametrize(
    ("same_site", "headers", "is_issued"),
    [
        ("strict", FROM_ELSEWHERE, False),
        ("strict", {"sec-fetch-site": "none", "sec-fetch-dest": "document"}, True),
        ("lax", FROM_ELSEWHERE, True),
    ],
)
def test_a_strict_cookie_kept_back(same_site: Any, headers: dict[str, str], *, is_issued: bool) -> None:
    """A page reached from another site's leaves it alone: a new one would take its place."""
    configure(same_site=same_site)
    assert bool(get(headers=headers).cookies) == is_issued


@pytest.mark.parametrize("path", ["/myapp", "/myapp/", "/myapp/page2", "/elsewhere"])
def test_below_a_base_path(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cookie's path is the base path, without `__Host-`, and reserved paths lie below it."""
    monkeypatch.setattr(host, "base_path", lambda: "/myapp")
    (cookie,) = get(path=path, scheme="https").cookies.values()
    assert (cookie.name, cookie.attributes["path"], "secure" in cookie.attributes) == (COOKIE, "/myapp", True)
    assert not any(get(path=f"/myapp{reserved}").cookies for reserved in RESERVED)


def test_an_app_in_an_app() -> None:
    """Reserved paths lie below the place where it is mounted."""
    app = Starlette(routes=[Mount("/mnt", app=wrapped())])
    assert not any(get(app, f"/mnt{path}").cookies for path in RESERVED)
    assert get(app, "/mnt/page2").cookies


@pytest.mark.parametrize("of", ["/", "/shop"])
def test_two_apps_of_one_host(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At `/` and at `/shop`, with the same keys: neither takes the other's cookie."""
    other = {"/": "/shop", "/shop": "/"}[of]
    mine, theirs = signed("a" * 32, path=of), signed("b" * 32, path=other)
    monkeypatch.setattr(host, "base_path", lambda: of)
    assert get(path=of, cookies=f"{COOKIE}={theirs}").cookies
    assert not get(path=of, cookies=f"{COOKIE}={theirs}; {COOKIE}={mine}").cookies


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_only_a_get_brings_a_cookie(method: str) -> None:
    """Health checks ask with HEAD, and are no visitors."""
    assert not get(method=method).cookies


def test_other_connections_are_handed_on() -> None:
    """The app gets the server's own objects."""
    got: list[Any] = []

    async def app(*given: Any) -> None:
        got.extend(given)

    scope: Scope = {"type": "lifespan", "path": "/", "headers": [(b"host", b"localhost")]}
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
def test_parts_of_a_page_bring_none(destination: str, is_page: bool) -> None:
    """It says so itself (Sec-Fetch-Dest)."""
    assert bool(get(headers={"sec-fetch-dest": destination}).cookies) == is_page


@pytest.mark.parametrize(
    "header", [{"sec-purpose": "prefetch"}, {"sec-purpose": "prefetch;prerender"}, {"purpose": "prefetch"}]
)
def test_a_prefetch_brings_no_cookie(header: dict[str, str]) -> None:
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
def test_only_found_html_is_a_page(status: int, content_type: bytes, is_page: bool) -> None:
    """A redirect, an error and the app's data are none."""
    assert bool(get(wrapped(answering(status, [(b"content-type", content_type)]))).cookies) == is_page


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [({"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}, True), ({"accept": "*/*"}, False), ({}, False)],
)
def test_a_page_not_modified(accept: dict[str, str], is_page: bool) -> None:
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
        {"raw_headers": [(b"host", b"["), (b"sec-fetch-site", b"none")]},
        {"raw_headers": [(b"host", b"h:99999")]},
        {"raw_headers": [(b"host", b"\xff")]},
        {"raw_headers": [(b"host", b"h"), (b"x-forwarded-host", b"[::1"), (b"x-forwarded-proto", b"\xe9")]},
        {"raw_headers": [(b"host", b"h"), (b"cookie", b"\xff=\xff; persist_session=\xff")]},
        {"path": "/a?b#c", "raw_headers": [(b"host", b"a/b?c")]},
        {"server": None, "raw_headers": []},
    ],
)
def test_an_odd_request_is_served(changed: dict[str, Any]) -> None:
    """What a client says of itself stops no page."""
    assert get(**changed).status == 200


# --- the answer


def test_no_cache_keeps_our_answer() -> None:
    """A shared one could hand one visitor's id to many; all else that the app says stays."""
    headers = [*HTML, (b"set-cookie", b"theirs=1; Path=/"), (b"cache-control", b"public, max-age=60"), (b"x-a", b"b")]
    answer = get(wrapped(answering(headers=headers)))
    assert answer.all("cache-control") == [OURS]
    assert answer.all("set-cookie")[0] == "theirs=1; Path=/"
    assert len(answer.all("set-cookie")) == 2
    assert (answer.all("etag"), answer.all("x-a")) == (['"1"'], ["b"])


def test_other_answers_are_untouched() -> None:
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

    cookies = f"{COOKIE}={signed(new_visitor_id())}".encode()
    got = messages_of(wrapped(app), headers=[(b"host", b"localhost"), (b"cookie", cookies)])
    assert [message["type"] for message in got] == ["http.response.start", "http.response.body"]
    assert got == sent


def test_no_visitor_gets_anothers_cookie() -> None:
    """An app may send the same list of headers again and again, as a Starlette response that serves as an app does."""
    app = wrapped(HTMLResponse("text"))
    first, second = get(app), get(app)
    assert first.cookie.visitor_id != second.cookie.visitor_id
    good = signed(new_visitor_id())
    assert not get(app, cookies=f"{COOKIE}={good}").cookies


@pytest.mark.parametrize("headers", [tuple(HTML), iter(HTML)], ids=["a tuple", "an iterator"])
def test_headers_are_any_iterable(headers: Any) -> None:
    """As the ASGI specification has it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    answer = get(wrapped(app))
    assert answer.cookie.name == COOKIE
    assert answer.all("etag") == ['"1"']


def test_no_headers_are_no_page() -> None:
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


def test_the_header_holds_every_attribute() -> None:
    """No script sees it, and no other site's form brings it along."""
    cookie = get().cookie
    assert cookie.attributes == {"path": "/", "max-age": "3600", "samesite": "Lax", "httponly": ""}
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", cookie.value)


@pytest.mark.parametrize(
    ("scheme", "headers", "name", "is_secure"),
    [
        ("http", {}, "persist_session", False),
        ("https", {}, "__Host-persist_session", True),
        ("http", {"x-forwarded-proto": "https"}, "__Host-persist_session", True),
        ("http", {"x-forwarded-proto": "https,http"}, "__Host-persist_session", True),
        ("http", {"x-forwarded-proto": "https , http"}, "__Host-persist_session", True),
        ("http", {"x-forwarded-proto": "HTTPS"}, "__Host-persist_session", True),
        ("https", {"x-forwarded-proto": "http"}, "persist_session", False),
        ("http", {"x-forwarded-proto": "http,https"}, "persist_session", False),
        ("http", {"x-forwarded-proto": "nonsense"}, "persist_session", False),
        ("http", {"host": "localhost:8501"}, "persist_session-8501", False),
        ("http", {"host": "[::1]:8501"}, "persist_session-8501", False),
        ("https", {"host": "h:8443"}, "__Host-persist_session-8443", True),
        ("http", {"host": "10.0.0.5:8501", "x-forwarded-host": "shop.example"}, "persist_session", False),
        (
            "http",
            {"host": "inner:8501", "x-forwarded-host": "shop.example:81, inner:8501"},
            "persist_session-81",
            False,
        ),
        (
            "http",
            {"host": "i:8501", "x-forwarded-host": "shop.example", "x-forwarded-proto": "https"},
            "__Host-persist_session",
            True,
        ),
    ],
)
def test_the_name_follows_the_address(scheme: str, headers: dict[str, str], name: str, is_secure: bool) -> None:
    """As the script sees it: behind a proxy that ends TLS, and on another port, too."""
    cookie = get(headers=headers, scheme=scheme).cookie
    assert cookie.name == name
    assert ("secure" in cookie.attributes) == is_secure
    assert cookie.attributes["path"] == "/"


def test_the_attributes_follow_the_settings() -> None:
    """All that a script's cookie follows."""
    configure(cookie_max_age=timedelta(days=1, seconds=0.9), same_site="strict", secure=True, path="/shop")
    assert get().cookies[COOKIE].attributes == {
        "path": "/shop",
        "max-age": "86400",
        "samesite": "Strict",
        "httponly": "",
        "secure": "",
    }


@pytest.mark.parametrize(
    ("headers", "is_told"),
    [
        ({"host": "shop.example", "sec-fetch-site": "none"}, True),
        ({"host": "shop.example", "sec-fetch-site": "none", "x-forwarded-proto": "https"}, False),
        ({"host": "shop.example"}, False),
        ({"host": "localhost:8501", "sec-fetch-site": "none"}, False),
        ({"host": "app.localhost", "sec-fetch-site": "none"}, False),
        ({"host": "127.0.0.1", "sec-fetch-site": "none"}, False),
    ],
)
def test_https_that_is_not_seen(headers: dict[str, str], caplog: pytest.LogCaptureFixture, *, is_told: bool) -> None:
    """One WARNING: only a browser that asked by https, or a page of its own machine, sends such a header."""
    app = wrapped()
    for _ in range(3):
        get(app, headers=headers)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * is_told
    assert ("X-Forwarded-Proto" in caplog.text) == is_told


# --- for whom


def test_every_visitor_has_another_id() -> None:
    """Whoever brings none gets a new one."""
    app = wrapped()
    assert len({get(app).cookie.visitor_id for _ in range(20)}) == 20


@pytest.mark.parametrize("ago", [0.0, HOUR / 2 - 60, -40 * 24 * HOUR])
def test_a_good_cookie_is_left_alone(ago: float) -> None:
    """The answer is as the app made it; a signature from the future is one of now."""
    answer = get(cookies=f"x=1; {COOKIE}={signed(new_visitor_id(), ago=ago)}")
    assert not answer.cookies
    assert answer.all("cache-control") == ["no-cache"]


def test_a_cookie_is_signed_anew() -> None:
    """When half of its time is over: its id stays, and it has its whole time again."""
    visitor_id = new_visitor_id()
    cookie = get(cookies=f"{COOKIE}={signed(visitor_id, ago=HOUR / 2 + 60)}").cookie
    assert (cookie.visitor_id, cookie.attributes["max-age"]) == (visitor_id, "3600")
    assert time.time() - unsigned(cookie.value).signed_at < HOUR / 4


def test_a_cookie_follows_the_settings() -> None:
    """Also one that an earlier setting would have let live longer."""
    visitor_id = new_visitor_id()
    value = signed(visitor_id, ago=HOUR - 60)
    assert get(cookies=f"{COOKIE}={value}").cookie.visitor_id == visitor_id
    configure(cookie_max_age=HOUR / 2)
    assert get(cookies=f"{COOKIE}={value}").cookie.visitor_id != visitor_id


@pytest.mark.parametrize(
    "make",
    [
        lambda: signed("a" * 32, ago=HOUR + 60),
        lambda: signed("a" * 32, secret=FOREIGN),
        lambda: signed("a" * 32, path="/shop"),
        lambda: signed("a" * 32)[:-2],
        lambda: "a" * 32,
        lambda: "",
        lambda: "x" * 4000,
    ],
    ids=["expired", "forged", "foreign", "cut", "unsigned", "empty", "long"],
)
def test_a_bad_cookie_counts_as_absent(make: Callable[[], str], caplog: pytest.LogCaptureFixture) -> None:
    """A new id takes its place: nobody chooses a visitor's. One WARNING, without the value."""
    value = make()
    assert get(cookies=f"{COOKIE}={value}").cookie.visitor_id != "a" * 32
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "a" * 32 not in caplog.text
    assert not value or value not in caplog.text


def test_good_visitors_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Nor are those without a cookie; and nothing that is logged holds an id."""
    get(cookies=f"{COOKIE}={get().cookie.value}")
    assert not caplog.records


def test_a_cookie_planted_beside_the_hosts() -> None:
    """A sibling domain can set the plain name, but not the one behind `__Host-`; on https that one is read alone."""
    planted, good = signed("a" * 32), signed("b" * 32)
    assert get(cookies=f"{COOKIE}={planted}", scheme="https").cookie.visitor_id != "a" * 32
    assert not get(cookies=f"{COOKIE}={planted}; __Host-{COOKIE}={good}", scheme="https").cookies


def test_the_newest_of_several_counts() -> None:
    """A browser sends one for each path; in one header or, over HTTP/2, in several."""
    new, old = signed("b" * 32, ago=HOUR / 2 + 60), signed("a" * 32, ago=HOUR / 2 + 120)
    for cookies in ([f"{COOKIE}={old}; {COOKIE}={new}"], [f"{COOKIE}={new}", f"{COOKIE}={old}"]):
        assert get(cookies=cookies).cookie.visitor_id == "b" * 32


def test_a_rotation_loses_nobody() -> None:
    """A cookie that an older key signed is good, and the newest signs it anew."""
    value = signed("a" * 32, secret=OLD)
    configure(secret_keys=[OLD, SECRET])
    cookie = get(cookies=f"{COOKIE}={value}").cookie
    assert cookie.visitor_id == "a" * 32
    assert not get(cookies=f"{COOKIE}={cookie.value}").cookies


# --- a script's cookie


def keep(store: MemoryStore, visitor_id: str, name: str = "app-state") -> None:
    """Have the store keep a record of a visitor."""
    Home(Kind.BROWSER, store, derive([SECRET]), visitor_key(visitor_id), name).write(b"x", Saved(), HOUR)


@pytest.mark.parametrize("ago", [0.0, HOUR / 2 + 60])
def test_a_scripts_cookie_becomes_the_servers(ago: float) -> None:
    """With the same id: to move to the middleware keeps every visitor's state. The script's own is the tab's affair."""
    visitor_id = new_visitor_id()
    cookie = get(cookies=f"{SCRIPTS}={signed(visitor_id, ago=ago)}").cookie
    assert (cookie.name, cookie.visitor_id) == (COOKIE, visitor_id)


def test_a_bad_script_cookie_is_none() -> None:
    """A new id is drawn."""
    assert get(cookies=f"{SCRIPTS}={signed('a' * 32, secret=FOREIGN)}").cookie.visitor_id != "a" * 32


@pytest.mark.parametrize(
    ("server", "script", "leads"),
    [(True, True, "server"), (True, False, "server"), (False, False, "server"), (False, True, "script")],
)
def test_two_ids_become_one(store: MemoryStore, leads: str, *, server: bool, script: bool) -> None:
    """The server's leads, unless only the script's has records: then the page gives the server's cookie that id."""
    ids = {"server": "a" * 32, "script": "b" * 32}
    for which, has_records in (("server", server), ("script", script)):
        if has_records:
            keep(store, ids[which])
    answer = get(cookies=f"{COOKIE}={signed(ids['server'])}; {SCRIPTS}={signed(ids['script'])}")
    if leads == "server":
        assert not answer.cookies
    else:
        assert answer.cookie.visitor_id == ids["script"]


def test_a_failing_store_fails_no_page(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's id stays, the log says why; the script tells the visitor."""
    monkeypatch.setattr(store, "names", failing)
    answer = get(cookies=f"{COOKIE}={signed('a' * 32)}; {SCRIPTS}={signed('b' * 32)}")
    assert (answer.status, answer.cookies) == (200, {})
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def failing(*_: Any) -> list[str]:
    """Fail as a store does."""
    raise StoreError("The disk is full.")


def test_the_loop_waits_for_no_store(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take its time: all other visitors are served meanwhile. It is asked where two ids differ, only."""
    threads: list[threading.Thread] = []

    def names(_: str) -> list[str]:
        threads.append(threading.current_thread())
        return []

    monkeypatch.setattr(store, "names", names)
    loops: list[threading.Thread] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        loops.append(threading.current_thread())
        await answering()(scope, receive, send)

    get(wrapped(app), cookies=f"{COOKIE}={signed('a' * 32)}")
    assert not threads
    get(wrapped(app), cookies=f"{COOKIE}={signed('a' * 32)}; {SCRIPTS}={signed('b' * 32)}")
    assert threads
    assert not {*threads} & {*loops}


# --- in a foreign page


@pytest.mark.parametrize(
    ("headers", "is_embedded"),
    [
        (IN_A_FOREIGN_PAGE, True),
        ({"sec-fetch-dest": "iframe", "sec-fetch-site": "same-origin"}, False),
        ({"sec-fetch-dest": "iframe", "sec-fetch-site": "same-site"}, False),
        (FROM_ELSEWHERE, False),
        ({}, False),
    ],
)
def test_a_foreign_page_is_seen(headers: dict[str, str], *, is_embedded: bool) -> None:
    """Browsers keep only a partitioned, secure cookie there, on http://localhost, too; its name stays."""
    cookie = get(headers=headers).cookie
    assert (cookie.name, "partitioned" in cookie.attributes, "secure" in cookie.attributes) == (
        COOKIE,
        is_embedded,
        is_embedded,
    )
    assert cookie.attributes["samesite"] == ("None" if is_embedded else "Lax")


def test_a_partitioned_cookie_stays_one() -> None:
    """When it is signed anew, and when it is removed."""
    aging = f"{COOKIE}={signed('a' * 32, ago=HOUR / 2 + 60)}"
    again = get(headers=IN_A_FOREIGN_PAGE, cookies=aging).cookie
    assert (again.visitor_id, "partitioned" in again.attributes) == ("a" * 32, True)


def test_the_setting_partitions_every_cookie() -> None:
    """For a frame whose browser does not say that it is one."""
    configure(partitioned=True)
    for answer in (get(), get(wrapped(remember=never), cookies=f"{COOKIE}={signed('a' * 32)}")):
        (cookie,) = answer.cookies.values()
        assert cookie.attributes.keys() >= {"partitioned", "secure", "httponly"}
        assert cookie.attributes["samesite"] == "None"


# --- who is not to be remembered


def never(_: Request) -> bool:
    """Remember nobody."""
    return False


def test_an_unremembered_visitor_gets_no_cookie() -> None:
    """The answer is as the app made it, also for one who has cookies of others."""
    for cookies in ([], ["x=1; other=2"]):
        answer = get(wrapped(remember=never), cookies=cookies)
        assert not answer.cookies
        assert answer.all("cache-control") == ["no-cache"]


def test_a_no_removes_cookies_and_records(store: MemoryStore) -> None:
    """The server's and the script's, and all records of both; nobody else's."""
    for visitor_id in ("a" * 32, "b" * 32, "c" * 32):
        keep(store, visitor_id)
        keep(store, visitor_id, "other")
    cookies = f"{COOKIE}={signed('a' * 32)}; {SCRIPTS}={signed('b' * 32)}; other=1"
    answer = get(wrapped(remember=never), cookies=cookies)
    assert set(answer.cookies) == {COOKIE, SCRIPTS}
    assert all(cookie.is_removal and cookie.attributes["path"] == "/" for cookie in answer.cookies.values())
    assert answer.all("cache-control") == [OURS]
    assert [len(store.names(visitor_key(each * 32))) for each in "abc"] == [0, 0, 2]


def test_a_failed_removal_is_tried_again(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The cookie stays until the records are gone; the page comes all the same."""
    keep(store, "a" * 32)
    cookies = f"{COOKIE}={signed('a' * 32)}"
    with monkeypatch.context() as patch:
        patch.setattr(store, "delete", failing)
        assert not get(wrapped(remember=never), cookies=cookies).cookies
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "a" * 32 not in caplog.text
    assert get(wrapped(remember=never), cookies=cookies).cookies
    assert not store.names(visitor_key("a" * 32))


@pytest.mark.parametrize(
    ("headers", "is_forgotten"),
    [
        (FROM_ELSEWHERE, False),
        (IN_A_FOREIGN_PAGE, True),
        ({"sec-fetch-site": "same-site"}, True),
        ({"sec-fetch-site": "none"}, True),
    ],
)
def test_a_link_withdraws_no_consent(store: MemoryStore, headers: dict[str, str], *, is_forgotten: bool) -> None:
    """Browsers keep back cookies then, that of a consent as well; in an iframe it is the partition's own."""
    keep(store, "a" * 32)
    answer = get(wrapped(remember=never), headers=headers, cookies=f"{COOKIE}={signed('a' * 32)}")
    assert bool(answer.cookies) == is_forgotten
    assert bool(store.names(visitor_key("a" * 32))) != is_forgotten
    assert all("partitioned" in cookie.attributes for cookie in answer.cookies.values()) or "iframe" not in str(headers)


def connect(app: CookieMiddleware, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers that a connection arrives with at the wrapped app."""
    arrived: list[tuple[bytes, bytes]] = []

    async def connection(scope: Scope, receive: Receive, send: Send) -> None:
        arrived.extend(scope["headers"])

    async def send(_: Message) -> None:
        raise AssertionError("nothing is answered")

    app._app = connection
    scope: Scope = {"type": "websocket", "path": "/_stcore/stream", "query_string": b"", "headers": list(headers)}
    finish(app(scope, nothing_to_receive, send))
    return arrived


def test_a_connection_tells_of_a_no() -> None:
    """By a header of its own, so that no script sets a cookie; and nobody else says so."""
    refusal = (host.REFUSAL.encode(), b"1")
    plain = [(b"host", b"localhost"), (b"cookie", b"consent=yes")]
    assert connect(wrapped(remember=never), plain) == [*plain, refusal]
    assert connect(wrapped(remember=lambda _: True), [*plain, refusal]) == plain
    assert connect(wrapped(), [*plain, (host.REFUSAL.title().encode(), b"1")]) == plain


def test_remember_is_asked_once_a_page() -> None:
    """With the request, and of pages only: not for every image."""
    asked: list[Request] = []

    def remember(request: Request) -> bool:
        asked.append(request)
        return request.cookies.get("consent") == "yes"

    app = wrapped(remember=remember)
    assert not get(app, cookies="consent=no").cookies
    assert get(app, cookies="consent=yes", headers={"x-a": "b"}).cookies
    assert [request.headers.get("x-a") for request in asked] == [None, "b"]
    for path in RESERVED:
        get(app, path)
    get(wrapped(answering(404), remember=remember))
    get(app, method="HEAD")
    assert len(asked) == 2


def test_an_error_of_remember_is_shown() -> None:
    """It is the app's own; nobody is remembered by mistake."""

    def remember(_: Request) -> bool:
        raise LookupError("of the app")

    with pytest.raises(LookupError, match="of the app"):
        get(wrapped(remember=remember))


def test_remember_is_no_coroutine() -> None:
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


# --- a real server

MAIN = """
    import streamlit as st
    from persist_session import persistent_state

    class AppState:
        def __init__(self):
            self.count = 0

    st.session_state.runs = st.session_state.get("runs", 0) + 1
    with persistent_state("app-state", AppState) as s:
        if st.button("Increment"):
            s.count += 1
        st.metric("Count", s.count)
    st.metric("Runs", st.session_state.runs)
    st.download_button("Page", "<html></html>", mime="text/html")
"""

ASGI = """
    import streamlit as st
    from starlette.middleware import Middleware
    from persist_session import CookieMiddleware

    app = st.App("app.py", middleware=[Middleware(CookieMiddleware)])
"""


@pytest.fixture
def server(served: Served) -> AppServer:
    """The server of an `st.App` with the middleware, below a base path."""
    return served(
        MAIN,
        asgi=ASGI,
        files={"static/page.html": "<html></html>"},
        options={"server.enableStaticServing": True, "server.baseUrlPath": "myapp"},
    )


def ask(server: AppServer, path: str, headers: dict[str, str] | None = None, *, method: str = "GET") -> Answer:
    """The server's answer; no redirect is followed."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, f"/myapp{path}", headers=headers or {})
        answer = connection.getresponse()
        answer.read()
        return Answer(answer.status, answer.getheaders())
    finally:
        connection.close()


def test_streamlits_pages_bring_a_cookie(server: AppServer) -> None:
    """Wherever it answers with its page, also a compressed one; a 304, too, until the cookie is there."""
    for path in ("/", "/page2", "/no/such/page", "/?a=%ff", "/index.html"):
        answer = ask(server, path, {"Accept-Encoding": "gzip"})
        assert (answer.status, answer.all("cache-control")) == (200, [OURS])
        assert answer.cookie.name == f"{COOKIE}-{server.port}"
        assert answer.cookie.attributes["path"] == "/myapp"
    known = {"If-None-Match": ask(server, "/").all("etag")[0], "Accept": "text/html"}
    answer = ask(server, "/", known)
    assert (answer.status, answer.all("cache-control")) == (304, [OURS])
    again = ask(server, "/", known | {"Cookie": f"{answer.cookie.name}={answer.cookie.value}"})
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
def test_streamlits_other_answers_bring_none(
    server: AppServer, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """They come as Streamlit makes them."""
    answer = ask(server, path, headers, method=method)
    assert answer.status == status
    assert not answer.cookies
    assert OURS not in answer.all("cache-control")


def test_components_and_media_bring_none(server: AppServer, visit: Visit) -> None:
    """Though a component, and the app's own media, may be HTML; nor does the websocket of a tab."""
    tab = visit(server)
    assert tab._socket is not None
    assert tab._socket.response is not None
    assert not any(COOKIE in header for header in tab._socket.response.headers.get_all("Set-Cookie"))
    (media,) = [urlsplit(element.proto.url).path for element in tab.find("download_button")]
    component = "/component/streamlit_cookies_controller.cookie_controller.cookie_controller/index.html"
    for path in (media.removeprefix("/myapp"), component):
        answer = ask(server, path)
        assert answer.all("content-type")[0].startswith("text/html")
        assert (answer.status, answer.cookies, OURS in answer.all("cache-control")) == (200, {}, False)


def test_a_first_visit_is_one_run(server: AppServer, visit: Visit) -> None:
    """Without a component; and so is each reload. No script sees the cookie."""
    tab = visit(server, fetch_page=True)
    cookie = f"{COOKIE}-{server.port}"
    assert cookie in tab.jar.http_only
    assert (tab.metric("Runs"), tab.iframes(), tab.cookie_calls) == ("1", [], [])
    tab.click("Increment")
    before = tab.jar[cookie]
    with tab.reload() as again:
        assert (again.metric("Count"), again.metric("Runs"), again.iframes()) == ("1", "1", [])
        assert again.jar[cookie] == before


@pytest.mark.parametrize("headers", [{"X-Forwarded-Proto": "https"}, IN_A_FOREIGN_PAGE])
def test_page_and_script_name_it_alike(server: AppServer, visit: Visit, headers: dict[str, str]) -> None:
    """Behind a proxy that ends TLS, and in a foreign page."""
    address = "https://shop.example" if "X-Forwarded-Proto" in headers else None
    tab = visit(server, fetch_page=True, address=address, headers=headers)
    assert (tab.metric("Runs"), tab.iframes()) == ("1", [])
    tab.click("Increment")
    with tab.reload() as again:
        assert again.metric("Count") == "1"
