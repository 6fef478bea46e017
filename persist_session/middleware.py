"""Sets the cookie with the page itself: HttpOnly, and there before the first script run."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request

from persist_session import host, relay
from persist_session.cookie_policy import CookiePolicy, check_name, newest, policy, values_beside, values_in_headers
from persist_session.errors import ConfigurationError, StoreError
from persist_session.relay import Heard, Listener, Outcome
from persist_session.settings import LONGEST_MAX_AGE, Settings, resolve
from persist_session.signing import Signed, new_session_id, record_key, sign

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)

# What Streamlit serves below these is no page, though some of it is HTML (streamlit/web/server/starlette).
_NO_PAGES = ("/_stcore/", "/media/", "/component/", "/static/", "/app/static/")
_PAGE_OR_UNKNOWN = ("document", "iframe", None)
_OK, _NO_CONTENT, _NOT_MODIFIED = 200, 204, 304


class CookieMiddleware:
    """ASGI middleware for `st.App` that sets the cookies of some states with the page: HttpOnly, no component needed.

    `st.App("app.py", middleware=[Middleware(CookieMiddleware, names=["app-state"])])`. It issues a cookie with the page
    to whoever has none, and renews it when half of the setting `max_age` is over. Blocks notice by themselves; to have
    one renewed or replaced under an open page, they have that ask for `/_persist_session`, which this answers. That a
    tab and such a request are of one browser, a session cookie tells, `persist_session~browser`.
    Call `configure` in the file that makes the `st.App`, not in the script: a page is served before the script runs.

    Args:
        app: What it wraps.
        names: The names of the states.
        remember: Tells for each request of a page, or of `/_persist_session`, whether its visitor is to be remembered.
            Where not, no cookie is set. With a page, a state's cookie that is there is removed; its record, by the next
            run that loads this state. Not where another site led to the page: browsers keep back some cookies then, and
            with them what tells. By default everybody is remembered. What it raises fails the request.

    Raises:
        ConfigurationError: A name makes no sense.
    """

    def __init__(
        self, app: ASGIApp, *, names: Iterable[str], remember: Callable[[Request], bool] | None = None
    ) -> None:
        is_awaited = inspect.iscoroutinefunction(remember) or inspect.iscoroutinefunction(type(remember).__call__)
        if remember is not None and (is_awaited or not callable(remember)):
            raise ConfigurationError(
                "remember must be a function that takes a request and returns a bool, no coroutine."
            )
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise ConfigurationError(f"names must be a list of names: names=[{names!r}].")
        self._app = app
        self._names = tuple(names)
        self._remember = remember
        for name in self._names:
            check_name(name)
        relay.served.update({name: partial(self._answer, name) for name in self._names})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or connection; of pages, adds cookies to the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        if _path(request).endswith(relay.ERRAND):
            await self._finish_errand(request, send)
        elif _asks_for_a_page(request):
            await self._app(scope, receive, self._with_cookies(request, send))
        else:
            await self._app(scope, receive, send)

    def _with_cookies(self, request: Request, send: Send) -> Send:
        async def send_with_cookies(message: Message) -> None:
            if message["type"] == "http.response.start":
                # A copy: an app may answer everybody with one list, which would hand a visitor's cookie to the next.
                message = {**message, "headers": list(message.get("headers", ()))}
                if _is_page(message, request):
                    await self._add_cookies(message, request)
            await send(message)

        return send_with_cookies

    async def _finish_errand(self, request: Request, send: Send) -> None:
        """Answers a tab's browser as with a page, and tells the tab what that comes to."""
        message: Message = {
            "type": "http.response.start",
            "status": _NO_CONTENT,
            "headers": [(b"cache-control", b"no-store")],
        }
        token = request.scope["query_string"].decode("latin-1")
        listener = relay.errands.pop(token, None) if _is_sent_by_a_page(request) else None
        # Of whichever middleware the state is; this one is the first of them.
        answer = relay.served.get(listener.name) if listener is not None else None
        if listener is not None and answer is not None:
            outcome = await run_in_threadpool(answer, request, listener)
            _add(message, outcome.cookies)
            listener.hear(token, outcome.heard)
        await send(message)
        await send({"type": "http.response.body", "body": b""})

    async def _add_cookies(self, message: Message, request: Request) -> None:
        # In a thread: what tells whether an id is still in use may ask a store.
        _add(message, await run_in_threadpool(self._cookies, request))

    def _cookies(self, request: Request) -> list[str]:
        settings, cookies = resolve("", host.secrets), list[str]()
        if self._asks_to_remember(request):
            for name in self._names:
                cookies += _remembered(name, request, settings, is_errand=False).cookies
            return cookies + _introductions(request, settings) if self._names else []
        for name in self._names:
            cookies += _forget(name, request, settings)
        return cookies

    def _answer(self, name: str, request: Request, listener: Listener) -> Outcome:
        settings = resolve("", host.secrets)
        if not self._asks_to_remember(request):
            return Outcome(Heard(None, is_refused=True), [])
        browser = _browser(request, settings)
        if browser is None or not listener.is_of(browser):
            return Outcome(Heard(None), [])  # it is none of the tab's business: nothing is replaced that it can't know
        outcome = _remembered(name, request, settings, is_errand=True)
        return replace(outcome, heard=replace(outcome.heard, browser=browser))

    def _asks_to_remember(self, request: Request) -> bool:
        answer = self._remember is None or self._remember(request)
        if inspect.isawaitable(answer):
            raise ConfigurationError("remember returned something to be awaited; let it return a bool.")
        return bool(answer)


def _add(message: Message, cookies: list[str]) -> None:
    headers = MutableHeaders(raw=message["headers"])
    is_there = {header.partition("=")[0] for header in headers.getlist("set-cookie")}
    for cookie in cookies:
        if cookie.partition("=")[0] not in is_there:  # another middleware of ours has introduced the browser
            headers.append("set-cookie", cookie)
    if cookies:
        # A shared cache could hand one visitor's id to many.
        headers["cache-control"] = "private, no-store"


def _remembered(name: str, request: Request, settings: Settings, *, is_errand: bool) -> Outcome:
    cookie, signed = _found(name, request, settings)
    if signed is None and (is_errand or _may_be_kept_back(cookie, request)):
        return Outcome(Heard(None), [])  # an errand can't tell how it is to look
    if signed is not None and not signed.http_only and is_errand:
        return Outcome(Heard(signed), [])  # nor here
    session_id = new_session_id() if signed is None else _session_id(name, signed, settings.max_age)
    is_issued = session_id is not None and (signed is None or session_id != signed.session_id)
    cookies = []
    if session_id is not None:
        old = signed
        signed = Signed(session_id, time.time(), http_only=True, partitioned=cookie.partitioned)
        value = sign(name, session_id, settings.keys, http_only=True, partitioned=cookie.partitioned)
        cookies.append(cookie.header(value, settings.max_age))
        if old is not None and is_issued:
            browser = _browser(request, settings)
            relay.replaced.put(record_key(name, old.session_id), Heard(signed, is_issued=True, browser=browser))
    if signed is not None and signed.http_only and not _is_left(name, signed, cookie, request, settings):
        cookies += _removals(request, cookie.beside)
    return Outcome(Heard(signed, is_issued=is_issued), cookies)


def _is_left(name: str, signed: Signed, cookie: CookiePolicy, request: Request, settings: Settings) -> bool:
    """Whether a script has set a cookie beside the server's, and what lies under its id is still to be brought over."""
    values = values_beside(cookie, request.headers.getlist("cookie"))
    beside = newest(name, values, settings, LONGEST_MAX_AGE)
    if beside is None or beside.session_id == signed.session_id:
        return False
    return not relay.replaced.get(record_key(name, beside.session_id))


def _found(name: str, request: Request, settings: Settings) -> tuple[CookiePolicy, Signed | None]:
    """How a state's cookie is to look, and what the browser has."""
    cookie = policy(name, _url(request), host.base_path(), settings)
    # How long a script's cookie lives is the state's own affair; its record goes by that in any case.
    values = values_in_headers(cookie, request.headers.getlist("cookie"))
    signed = newest(name, values, settings, LONGEST_MAX_AGE)
    # A script's cookie does not say how it was set.
    is_embedded = signed.partitioned if signed is not None and signed.http_only else _is_embedded(request)
    return cookie.embedded if is_embedded else cookie, signed


def _forget(name: str, request: Request, settings: Settings) -> list[str]:
    """Has the next run that loads the state delete the record: which store it lies in, scripts know."""
    cookie, signed = _found(name, request, settings)
    is_partitioned = settings.partitioned or (signed is not None and signed.partitioned)
    if _comes_from_elsewhere(request) and not is_partitioned:
        return []  # browsers may keep back there what tells of a consent, as a SameSite=Strict cookie
    if signed is not None:
        key = record_key(name, signed.session_id)
        relay.unwanted(name).put(key, note=True)
        relay.replaced.put(key, Heard(None))
    return _removals(request, cookie, cookie.beside)


def _browser_policy(request: Request, settings: Settings) -> CookiePolicy:
    cookie = policy(relay.BROWSER, _url(request), host.base_path(), settings)
    return cookie.embedded if _is_embedded(request) else cookie


def _browser(request: Request, settings: Settings) -> str | None:
    """What the browser is known by."""
    cookie = _browser_policy(request, settings)
    return relay.browser_of(values_in_headers(cookie, request.headers.getlist("cookie")), settings.keys)


def _introductions(request: Request, settings: Settings) -> list[str]:
    """The header by which the browser is known from now on, none where it is already."""
    if _browser(request, settings) is not None:
        return []
    cookie = _browser_policy(request, settings)
    if _may_be_kept_back(cookie, request):
        return []
    value = sign(relay.BROWSER, new_session_id(), settings.keys)
    # Scripts may see it: behind a proxy that strips cookies from the websocket, nobody else can tell the tab.
    return [cookie.header(value, None, http_only=False)]


def _removals(request: Request, *cookies: CookiePolicy) -> list[str]:
    headers = request.headers.getlist("cookie")
    return [cookie.header("", 0) for cookie in cookies if cookie.is_in(headers)]


def _session_id(name: str, signed: Signed, max_age: float) -> str | None:
    """The id that a cookie is to be issued for, None where the browser's cookie is good."""
    key = record_key(name, signed.session_id)
    if not signed.http_only:
        # Once it is HttpOnly no script finds it: only where a handshake has shown it will the next one do so, too.
        if not relay.shown.get(key):
            return None
        relay.promoted.put(key, note=True)
        return signed.session_id
    if _is_retired(key):
        return new_session_id()
    # The browser has it still: the answer that was to replace or remove it did not arrive.
    relay.replaced.drop(key)
    relay.unwanted(name).drop(key)
    return signed.session_id if time.time() - signed.signed_at > max_age / 2 else None


def _is_retired(key: str) -> bool:
    """Whether the state under an id was cleared, and nothing lies there since."""
    is_unused = relay.retired.get(key)
    try:
        return is_unused is not None and is_unused()
    except StoreError as error:
        _log.error("A page is served without a look at the store: %s", error)  # the script tells the visitor
        return False


def _path(request: Request) -> str:
    """The path within the app."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", "")).removeprefix(host.base_path().rstrip("/"))


def _asks_for_a_page(request: Request) -> bool:
    headers = request.headers
    return (
        request.method == "GET"
        and not _path(request).startswith(_NO_PAGES)
        and headers.get("sec-fetch-dest") in _PAGE_OR_UNKNOWN
        and "prefetch" not in headers.get("sec-purpose", headers.get("purpose", ""))
    )


def _is_page(message: Message, request: Request) -> bool:
    if message["status"] == _NOT_MODIFIED:  # does not say of what
        return "text/html" in request.headers.get("accept", "")
    return message["status"] == _OK and Headers(raw=message["headers"]).get("content-type", "").startswith("text/html")


def _url(request: Request) -> str:
    """The page's address as the browser has it, so that a cookie is called what the script calls it.

    A proxy that ends TLS says so in X-Forwarded-Proto; servers heed that only from proxies that they were told of. To
    believe everybody does no harm here: whoever lies gets a cookie that their own script runs do not find.
    """
    headers = request.headers
    scheme = headers.get("x-forwarded-proto", request.scope.get("scheme", "http")).partition(",")[0].strip()
    address = headers.get("x-forwarded-host", headers.get("host", "")).partition(",")[0].strip()
    return f"{scheme}://{address}/"


def _is_sent_by_a_page(request: Request) -> bool:
    """Whether one of the app's own pages makes the request, for an image, as far as the browser tells."""
    headers = request.headers
    return headers.get("sec-fetch-site") in ("same-origin", None) and headers.get("sec-fetch-dest") in ("image", None)


def _may_be_kept_back(cookie: CookiePolicy, request: Request) -> bool:
    """Whether the browser may have the cookie though it did not send it."""
    return cookie.same_site == "strict" and _comes_from_elsewhere(request)


def _comes_from_elsewhere(request: Request) -> bool:
    return request.headers.get("sec-fetch-site") == "cross-site"


def _is_embedded(request: Request) -> bool:
    """Whether the page is to stand in a foreign one."""
    return request.headers.get("sec-fetch-dest") == "iframe" and _comes_from_elsewhere(request)
