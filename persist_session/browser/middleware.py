"""Sets the cookie with the page itself: HttpOnly, and there before the first script run."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request

from persist_session import host
from persist_session.browser.cookie import Cookie, Found, cookie_for, new_visitor_id
from persist_session.errors import ConfigurationError, StoreError
from persist_session.records import has_state, visitor_key
from persist_session.settings import Settings, check, resolve

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)

# What Streamlit serves below these is no page, though some of it is HTML (streamlit/web/server/starlette).
_NO_PAGES = ("/_stcore/", "/media/", "/component/", "/static/", "/app/static/")
_PAGE_OR_UNKNOWN = ("document", "iframe", None)
_OK, _NOT_MODIFIED = 200, 304


class CookieMiddleware:
    """ASGI middleware for `st.App` that sets the cookie with the page: HttpOnly, no component needed.

    `st.App("app.py", middleware=[Middleware(CookieMiddleware)])`. It issues the cookie with the page to whoever has
    none, and renews it when half of the setting `cookie_max_age` is over.
    Call `configure` in the file that makes the `st.App`, not in the script: a page is served before the script runs.

    Args:
        app: The application that it wraps.
        remember: Tells for each request of a page, and for the connection that follows, whether its visitor is to be
            remembered. Where not, no cookie is set; the one that is there is removed, and the visitor's records with
            it. Not where another site led to the page: browsers keep back some cookies then, and with them what tells.
            By default everybody is remembered. What it raises fails the request.

    Raises:
        ConfigurationError: `remember` is no function that returns a bool, or a setting makes no sense.
    """

    def __init__(self, app: ASGIApp, *, remember: Callable[[Request], bool] | None = None) -> None:
        is_awaited = inspect.iscoroutinefunction(remember) or inspect.iscoroutinefunction(type(remember).__call__)
        if remember is not None and (is_awaited or not callable(remember)):
            raise ConfigurationError(
                "remember must be a function that takes a request and returns a bool, no coroutine."
            )
        check(host.secrets)
        self._app = app
        self._remember = remember
        host.serve_pages()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or connection; to the answer with a page it adds the cookie."""
        if scope["type"] == "websocket":
            await self._app(await run_in_threadpool(self._told, scope), receive, send)
        elif scope["type"] == "http" and _asks_for_a_page(Request(scope)):
            await self._app(scope, receive, self._with_cookies(Request(scope), send))
        else:
            await self._app(scope, receive, send)

    def _told(self, scope: Scope) -> Scope:
        """The connection's scope, with a header that tells the script where its visitor is not to be remembered."""
        headers = [(name, value) for name, value in scope["headers"] if name.decode("latin-1").lower() != host.REFUSAL]
        if not self._asks_to_remember(Request({**scope, "type": "http", "method": "GET"})):
            headers.append((host.REFUSAL.encode(), b"1"))
        return {**scope, "headers": headers}

    def _with_cookies(self, request: Request, send: Send) -> Send:
        async def send_with_cookies(message: Message) -> None:
            if message["type"] == "http.response.start":
                # A copy: an app may answer everybody with one list, which would hand a visitor's cookie to the next.
                message = {**message, "headers": list(message.get("headers", ()))}
                if _is_page(message, request):
                    # In a thread: what tells whether an id is still in use may ask a store.
                    _add(message, await run_in_threadpool(self._cookies, request))
            await send(message)

        return send_with_cookies

    def _cookies(self, request: Request) -> list[str]:
        try:
            settings = resolve(host.main_script(), host.secrets)
        except StoreError as error:
            _log.error("A page is served without a cookie: %s", error)  # the script tells the visitor
            return []
        url = _url(request)
        cookie = cookie_for(url, host.base_path(), settings)
        cookie = cookie.embedded if _is_embedded(request) else cookie
        found = cookie.found_in_headers(request.headers.getlist("cookie"), settings)
        if not self._asks_to_remember(request):
            return [] if _comes_from_elsewhere(request) and not cookie.partitioned else _forget(cookie, found, settings)
        if _is_https_unseen(request, url):
            _warn_of_http()
        visitor_id = _visitor_id(cookie, found, request, settings)
        if visitor_id is None:
            return []
        return [cookie.header(cookie.sign(visitor_id, settings.keys), settings.cookie_max_age)]

    def _asks_to_remember(self, request: Request) -> bool:
        answer = self._remember is None or self._remember(request)
        if inspect.isawaitable(answer):
            raise ConfigurationError("remember returned something to be awaited; let it return a bool.")
        return bool(answer)


def _visitor_id(cookie: Cookie, found: Found, request: Request, settings: Settings) -> str | None:
    """The id that a cookie is to be issued for, None where the browser's cookie is good."""

    def has_records(visitor_id: str) -> bool:
        try:
            return has_state(settings.store, visitor_key(visitor_id), settings.keys)
        except StoreError as error:
            _log.error("A page is served without a look at the store: %s", error)  # the script tells the visitor
            return False

    leading = found.leading(has_records)
    if leading is None:
        return None if _may_be_kept_back(cookie, request) else new_visitor_id()
    is_good = found.server is not None and found.server.visitor_id == leading.visitor_id
    return None if is_good and not leading.is_aging(settings) else leading.visitor_id


def _forget(cookie: Cookie, found: Found, settings: Settings) -> list[str]:
    removals = []
    for signed, each in ((found.server, cookie), (found.script, cookie.script)):
        if signed is not None:
            key = visitor_key(signed.visitor_id)
            try:
                for name in settings.store.names(key):
                    settings.store.delete(key, name)
            except StoreError as error:  # the cookie stays, so that the next page tries again
                _log.error("A visitor's records are to be deleted, and are not yet: %s", error)
                continue
            removals.append(each.header("", 0))
    return removals


def _add(message: Message, cookies: list[str]) -> None:
    headers = MutableHeaders(raw=message["headers"])
    for cookie in cookies:
        headers.append("set-cookie", cookie)
    if cookies:
        # A shared cache could hand one visitor's id to many.
        headers["cache-control"] = "private, no-store"


def _is_https_unseen(request: Request, url: str) -> bool:
    """Tells whether a browser asked by https, and the server does not know: only then it sends these headers."""
    if not url.startswith("http:") or request.headers.get("sec-fetch-site") is None:
        return False
    try:
        host_name = urlsplit(url).hostname or ""
    except ValueError:  # the client says what the address is: nonsense must not stop the app
        return False
    return host_name not in ("localhost", "127.0.0.1", "::1") and not host_name.endswith(".localhost")


@functools.lru_cache(maxsize=1)  # once
def _warn_of_http() -> None:
    _log.warning(
        "A page is served by https, but the server takes it for http, so CookieMiddleware's cookie is not secure. Let "
        "the proxy that ends TLS send X-Forwarded-Proto: https."
    )


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


def _may_be_kept_back(cookie: Cookie, request: Request) -> bool:
    """Tells whether the browser may have the cookie though it did not send it."""
    return cookie.same_site == "strict" and _comes_from_elsewhere(request)


def _comes_from_elsewhere(request: Request) -> bool:
    return request.headers.get("sec-fetch-site") == "cross-site"


def _is_embedded(request: Request) -> bool:
    """Tells whether the page is to stand in a foreign one."""
    return request.headers.get("sec-fetch-dest") == "iframe" and _comes_from_elsewhere(request)
