"""What a visitor sees where the server sets the cookie, on https, and in foreign pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from support import AppServer, StrippingProxy
from support.browser import (
    cookie_of,
    names_of,
    open_app,
    press,
    record_text,
    recorded_text,
    reload_app,
    run_shown,
    shown,
    visit_first,
    wait_for_cookie,
    wait_idle,
)
from support.server import APPS, SecureServer, embedding, self_signed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """Return a server of the small apps, which sets the cookie itself."""
    with AppServer(APPS / "asgi.py", home=tmp_path_factory.mktemp("home")) as running:
        yield running


def test_a_visit_takes_one_run(server: AppServer, page: Page) -> None:
    """A first visit and a reload: one run each, no iframe ever, one cookie for five names, and no script sees it."""
    record_text(page, "iframe")
    record_text(page, ".st-key-seen")
    visit_first(page, server, "five")
    press(page, "Add")
    reload_app(page)
    assert [text for text in recorded_text(page, ".st-key-seen") if text] == ["[1, 1, 1, 1, 1]"]
    press(page, "Add")
    assert run_shown(page) == 2, "one for the reload, one for the click"
    assert shown(page, "seen") == "[2, 2, 2, 2, 2]"
    assert recorded_text(page, "iframe") == [None]
    assert names_of(page.context) == [server.cookie_name]
    cookie = cookie_of(page.context, server.cookie_name)
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")
    assert "persist_session" not in page.evaluate("document.cookie")


def test_a_stripping_proxy_loses_nobody(server: AppServer, page: Page) -> None:
    """Behind it a script's cookie restores, beside the server's; and so does the server's after the proxy is gone."""
    with StrippingProxy(server.url) as proxy:
        name = f"persist_session-{proxy.url.rpartition(':')[2]}"
        open_app(page, proxy.url)
        value = wait_for_cookie(page.context, f"{name}-js")
        press(page, "Add")
        press(page, "Add")
        page.reload()
        page.get_by_text("Count 2").wait_for()
        wait_idle(page)
        assert names_of(page.context) == [name, f"{name}-js"]
        assert cookie_of(page.context, f"{name}-js")["value"] == value
        assert cookie_of(page.context, name)["httpOnly"]
        assert server.logs().count("A proxy keeps cookies from the websocket") == 1
        cookies = {f"persist_session-{server.port}{end}": cookie_of(page.context, name + end) for end in ("", "-js")}
        page.goto("about:blank")
    # The address without the proxy is another one here; in life it is the same, and the browser has the cookies.
    page.context.add_cookies(
        [
            {"name": name, "value": cookie["value"], "url": server.url, "httpOnly": cookie["httpOnly"]}
            for name, cookie in cookies.items()
        ]
    )
    for _ in range(2):
        open_app(page, server.url)
        assert (shown(page, "count"), run_shown(page)) == ("Count 2", 1)


def test_a_planted_cookie_counts_for_nothing(server: AppServer, tmp_path: Path, chromium: Browser) -> None:
    """On https the cookie is Secure and called `__Host-...`; a plain one is not read, if validly signed."""
    with (
        SecureServer(APPS / "asgi.py", home=server.home, options=self_signed(tmp_path)) as secure,
        chromium.new_context(ignore_https_errors=True) as context,
    ):
        page = context.new_page()
        planted = visit_first(page, server)
        press(page, "Add")
        context.clear_cookies()
        context.add_cookies([{"name": secure.cookie_name, "value": planted, "domain": "127.0.0.1", "path": "/"}])
        open_app(page, secure.url)
        assert shown(page, "count") == "Count 0"
        press(page, "Add")
        press(page, "Add")
        cookie = cookie_of(context, f"__Host-{secure.cookie_name}")
        assert (cookie["secure"], cookie["httpOnly"]) == (True, True)
        reload_app(page)
        assert (shown(page, "count"), run_shown(page)) == ("Count 2", 1)


def test_in_a_foreign_page_reloads_restore(server: AppServer, page: Page) -> None:
    """In an iframe of another site a reload of either page restores, by a cookie that is partitioned."""
    with embedding(server.url.replace("127.0.0.1", "localhost")) as url:
        page.goto(url)
        press(embedded(page), "Add")
        page.reload()
        frame = embedded(page)
        press(frame, "Add")
        assert (shown(frame, "count"), run_shown(frame)) == ("Count 2", 2)
        frame.evaluate("window.isOld = true")
        frame.evaluate("location.reload()")
        frame.wait_for_function("!window.isOld")
        frame = embedded(page)
        assert (shown(frame, "count"), run_shown(frame)) == ("Count 2", 1)
        cookie = cookie_of(page.context, server.cookie_name)
        assert (cookie["sameSite"], cookie["secure"], cookie["httpOnly"]) == ("None", True, True)
        assert cookie["partitionKey"] == "http://127.0.0.1"


def embedded(page: Page) -> Page:
    """Return the app in the page's iframe as soon as it is idle; a frame has all that this file asks of a page."""
    iframe = page.wait_for_selector("iframe")
    assert iframe is not None
    found = cast("Page", iframe.content_frame())
    found.locator(".st-key-run").wait_for()
    wait_idle(found)
    return found
