"""Sets the cookie with the page itself: HttpOnly, and there before the first script run."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response

from persist_session import host, relay
from persist_session.cookie_policy import check_name, newest, policy, values_in_headers
from persist_session.errors import ConfigurationError, StoreError
from persist_session.settings import resolve
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
    to whoever has none, and renews it when half of the setting `max_age` is over. Blocks notice by themselves. Call
    `configure` in the file that makes the `st.App`, not in the script: a page is served before the script runs.

    Args:
        app: What it wraps.
        names: The names of the states.
        remember: Tells for each request of a page whether its visitor is to be remembered. Where not, no cookie is set,
            and one that is there is removed; its record, by the next run that loads this state. By default everybody
            is remembered. What it raises fails the request.

    Raises:
        ConfigurationError: A name makes no sense.
    """

    def __init__(
        self, app: ASGIApp, *, names: Iterable[str], remember: Callable[[Request], bool] | None = None
    ) -> None:
        if inspect.iscoroutinefunction(remember) or not (remember is None or callable(remember)):
            raise ConfigurationError(
                "remember must be a function that takes a request and returns a bool, no coroutine."
            )
        if isinstance(names, str):
            raise ConfigurationError(f"names must be a list of names: names=[{names!r}].")
        self._app = app
        self._names = tuple(names)
        self._remember = remember
        for name in self._names:
            check_name(name)
        relay.served.update(self._names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or connection; of pages, adds cookies to the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        if _path(request) == relay.QUESTION:
            self._hear(request)
            await Response(status_code=_NO_CONTENT, headers={"cache-control": "no-store"})(scope, receive, send)
            return
        if not _asks_for_a_page(request):
            await self._app(scope, receive, send)
            return

        async def send_with_cookies(message: Message) -> None:
            if message["type"] == "http.response.start":
                # A copy: an app may answer everybody with one list, which would hand a visitor's cookie to the next.
                message = {**message, "headers": list(message.get("headers", ()))}
                if _is_page(message, request):
                    # What tells whether an id is still in use may ask a store.
                    _add(message, await run_in_threadpool(lambda: list(self._set_cookies(request))))
            await send(message)

        await self._app(scope, receive, send_with_cookies)

    def _hear(self, request: Request) -> None:
        """Tells a tab of this process which cookies its browser has: a script can't see them."""
        token = request.scope["query_string"].decode("latin-1")
        if relay.heard.get(token) is None:
            return
        settings, headers = resolve("", host.secrets), request.headers.getlist("cookie")
        policies = {name: policy(name, _url(request), host.base_path(), settings) for name in self._names}
        relay.heard.put(token, {name: values_in_headers(cookie, headers) for name, cookie in policies.items()})

    def _set_cookies(self, request: Request) -> Iterator[str]:
        """The Set-Cookie headers that the answer needs."""
        settings = resolve("", host.secrets)
        is_remembered = self._remember is None or self._remember(request)
        for name in self._names:
            cookie = policy(name, _url(request), host.base_path(), settings)
            headers = request.headers.getlist("cookie")
            signed = newest(name, values_in_headers(cookie, headers), settings, settings.max_age)
            if _is_embedded(request) if signed is None else signed.partitioned:
                cookie = cookie.embedded
            session_id = _session_id(name, signed, settings.max_age) if is_remembered else None
            if signed is None and cookie.same_site == "strict" and _comes_from_elsewhere(request):
                session_id = None  # the browser keeps back the cookie that it may have
            if session_id is not None:
                value = sign(name, session_id, settings.keys, http_only=True, partitioned=cookie.partitioned)
                yield cookie.header(value, settings.max_age)
            if signed is not None and not is_remembered:
                relay.unwanted.put(record_key(name, signed.session_id), note=name)
            if session_id is not None or not is_remembered:
                unwanted = (cookie.beside,) if is_remembered else (cookie, cookie.beside)
                yield from (each.header("", 0) for each in unwanted if each.is_in(headers))


def _session_id(name: str, signed: Signed | None, max_age: float) -> str | None:
    """The id that a cookie is to be issued for, None where the browser's cookie is good."""
    if signed is None:
        return new_session_id()
    key = record_key(name, signed.session_id)
    if not signed.http_only:
        # Once it is HttpOnly no script finds it: only where a handshake has shown it will the next one do so, too.
        return signed.session_id if relay.shown.get(key) else None
    if _is_retired(key):
        relay.replaced.put(key, note=True)
        return new_session_id()
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


def _add(message: Message, cookies: list[str]) -> None:
    headers = MutableHeaders(raw=message["headers"])
    for cookie in cookies:
        headers.append("set-cookie", cookie)
    if cookies:
        # A shared cache could hand one visitor's id to many.
        headers["cache-control"] = "private, no-store"


def _url(request: Request) -> str:
    """The page's address as the browser has it, so that a cookie is called what the script calls it.

    A proxy that ends TLS says so in X-Forwarded-Proto; servers heed that only from proxies that they were told of. To
    believe everybody does no harm here: whoever lies gets a cookie that their own script runs do not find.
    """
    headers = request.headers
    scheme = headers.get("x-forwarded-proto", request.scope.get("scheme", "http")).partition(",")[0].strip()
    address = headers.get("x-forwarded-host", headers.get("host", "")).partition(",")[0].strip()
    return f"{scheme}://{address}/"


def _comes_from_elsewhere(request: Request) -> bool:
    return request.headers.get("sec-fetch-site") == "cross-site"


def _is_embedded(request: Request) -> bool:
    """Whether the page is to stand in a foreign one."""
    return request.headers.get("sec-fetch-dest") == "iframe" and _comes_from_elsewhere(request)
