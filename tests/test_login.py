"""Streamlit's own login, against an OpenID provider: the state comes along, follows the user, and stays theirs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from support.browser import cookie_of, numbered, press, shown, wait_for_cookie, wait_idle
from support.server import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Served
    from playwright.sync_api import Browser, BrowserContext, Page

    from support import AppServer

pytestmark = pytest.mark.browser

SHOP = numbered("""
    import json

    import streamlit as st
    from persist_session import persistent_state, state_info

    class Cart:
        def __init__(self):
            self.items = []

    who = st.user.sub if st.user.is_logged_in else "nobody"
    st.button("Log in", on_click=st.login)
    st.button("Log out", on_click=st.logout)
    with persistent_state(
        "app-state", Cart, user=f"{st.user.iss}|{st.user.sub}" if st.user.is_logged_in else None
    ) as cart:
        for item in ("book", "pen", "cup"):
            if st.button(item):
                cart.items.append(item)
    info = state_info("app-state")
    with st.container(key="state"):
        st.text(json.dumps({"who": who, "items": cart.items, "key": info.visitor_key, "cookie": info.cookie}))
""")

SECRETS = """
[auth]
redirect_uri = "http://localhost:{port}/oauth2callback"
cookie_secret = "a secret of the tests, long enough"
client_id = "tests"
client_secret = "tests"
server_metadata_url = "{provider}/.well-known/openid-configuration"
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """Return the address of an OpenID provider that knows two users, and asks for no passwords."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    # Another process: it has warnings of its own.
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port)]
    command += ["--user", "ada", "--user", "bob"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_it_answers(process, f"{address}/.well-known/openid-configuration")
            yield address
        finally:
            process.terminate()


def _wait_until_it_answers(process: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + 60
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            opener.open(address, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert process.poll() is None, "the provider ended"
            assert time.monotonic() < deadline, "the provider did not answer in time"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def shop(served: Served, provider: str) -> AppServer:
    """Return the server of an app with a login; a script sets its cookie."""
    port = free_port()
    return served(
        SHOP,
        files={".streamlit/secrets.toml": SECRETS.format(port=port, provider=provider)},
        port=port,
        env={"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"},
    )


@pytest.fixture
def come(chromium: Browser, shop: AppServer) -> Iterator[Callable[[], Page]]:
    """Return what opens the app in a browser profile of its own, which knows its cookie then."""
    profiles: list[BrowserContext] = []

    def open_page() -> Page:
        profiles.append(chromium.new_context())
        profiles[-1].route("https://**", lambda route: route.abort())  # the provider's pages ask for a style
        page = profiles[-1].new_page()
        page.goto(f"http://localhost:{shop.port}")  # where the provider sends the visitor back to
        arrive(page, "nobody")
        wait_for_cookie(page.context, shop.cookie_name)
        wait_idle(page)
        return page

    yield open_page
    for profile in profiles:
        profile.close()


def state(page: Page) -> dict[str, Any]:
    """Return what the page shows."""
    seen: dict[str, Any] = json.loads(shown(page, "state"))
    return seen


def arrive(page: Page, who: str) -> None:
    """Return when the app shows that the visitor is this one, and is idle."""
    page.locator(".st-key-state").get_by_text(f'"who": "{who}"').wait_for()
    wait_idle(page)


def log_in(page: Page, who: str) -> None:
    """Have the provider say that the visitor is this user."""
    page.get_by_role("button", name="Log in", exact=True).click()
    page.locator(f"button[name=sub][value={who}]").first.click()
    arrive(page, who)


def log_out(page: Page) -> None:
    """Leave the app as Streamlit and the provider do it, and come back to it."""
    page.get_by_role("button", name="Log out", exact=True).click()
    page.wait_for_url("**/oauth2/end_session**")
    page.get_by_role("button", name="End session").click()
    arrive(page, "nobody")


def test_a_cart_follows_its_user(shop: AppServer, come: Callable[[], Page]) -> None:
    """Login takes it over, another browser has it, logout hides it, nobody else sees it; the cookie stays."""
    page = come()
    cookie = cookie_of(page.context, shop.cookie_name)["value"]
    press(page, "book")
    before = state(page)
    assert (before["items"], before["cookie"]) == (["book"], "pending")

    log_in(page, "ada")
    seen = state(page)
    assert (seen["items"], seen["cookie"]) == (["book"], "none")
    assert seen["key"] not in (None, before["key"])
    press(page, "pen")

    other = come()
    press(other, "cup")
    log_in(other, "ada")
    assert state(other)["items"] == ["book", "pen", "cup"]
    assert state(other)["key"] == seen["key"]

    log_out(page)
    after = state(page)
    assert (after["items"], after["key"]) == ([], before["key"])
    assert cookie_of(page.context, shop.cookie_name)["value"] == cookie
