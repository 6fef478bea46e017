"""What a visitor sees where the server sets the cookie, in foreign pages, and where they choose."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, cast

import pytest

from persist_session.keys import derive
from persist_session.signing import new_session_id, sign
from support import AppServer, StrippingProxy, write_app
from support.browser import (
    cookie_of,
    eventually,
    numbered,
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
    wait_quiet,
)
from support.server import WITH_MIDDLEWARE, SecureServer, UvicornServer, embedding, self_signed

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Serve, Served
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.browser

COUNTER = numbered("""
    import streamlit as st
    from persist_session import clear_cookie_state, persistent_state

    class AppState:
        def __init__(self):
            self.count = 0

    with persistent_state("app-state", AppState) as s:
        if st.button("Add"):
            s.count += 1
        with st.container(key="count"):
            st.text(f"Count {s.count}")
    st.button("Look")
    st.button("Clear", on_click=clear_cookie_state, args=["app-state"])
""")


@pytest.fixture
def server(served: Served) -> AppServer:
    """Return a server that sets the cookie of a counter itself."""
    return served(COUNTER, asgi=WITH_MIDDLEWARE)


# One browser


def test_a_visit_takes_one_run_and_no_iframe(server: AppServer, page: Page) -> None:
    """A first visit and a reload: one run each, no iframe ever, the value is there, and no script sees the cookie."""
    record_text(page, "iframe")
    record_text(page, ".st-key-count")
    visit_first(page, server)
    press(page, "Add")
    assert run_shown(page) == 2, "one for the visit, one for the click"
    assert recorded_text(page, "iframe") == [None]
    reload_app(page)
    press(page, "Look")
    assert run_shown(page) == 2, "one for the reload, one for the click"
    assert recorded_text(page, "iframe") == [None]
    assert [text for text in recorded_text(page, ".st-key-count") if text] == ["Count 1"]
    name = f"app-state-{server.port}"
    cookie = cookie_of(page.context, name)
    assert cookie["httpOnly"]
    assert (cookie["sameSite"], cookie["path"], cookie["domain"]) == ("Lax", "/", "127.0.0.1")
    seen = page.evaluate("document.cookie")
    assert name not in seen
    assert cookie["value"] not in seen
    assert names_of(page.context) == {name}


@pytest.mark.parametrize("workers", [1, 2])
def test_uvicorn_serves_it_too(tmp_path: Path, page: Page, workers: int) -> None:
    """Without `streamlit run`, in one process and in two: one run, no iframe, and what was done is there again."""
    write_app(tmp_path, COUNTER)
    with UvicornServer(write_app(tmp_path, WITH_MIDDLEWARE, "asgi.py"), workers=workers) as server:
        record_text(page, "iframe")
        visit_first(page, server)
        for count in range(1, 5):
            press(page, "Add")
            reload_app(page)
            assert shown(page, "count") == f"Count {count}"
        assert run_shown(page) == 1
        assert recorded_text(page, "iframe") == [None]
        assert cookie_of(page.context, f"app-state-{server.port}")["httpOnly"]
        page.goto("about:blank")


def test_a_clear_is_at_once_and_brings_another_id(server: AppServer, page: Page) -> None:
    """The state is fresh in the same run, its record gone, the cookie another one; without an iframe or another run."""
    others = records_of(server)
    old = visit_first(page, server)
    press(page, "Add")
    (record,) = records_of(server) - others
    record_text(page, "iframe")
    reload_app(page)
    press(page, "Clear")
    assert shown(page, "count") == "Count 0"
    assert not record.exists()
    name = f"app-state-{server.port}"
    eventually(page, lambda: id_of(cookie_of(page.context, name)["value"]) != id_of(old))
    cookie = cookie_of(page.context, name)
    assert cookie["httpOnly"]
    press(page, "Add")
    wait_quiet(page)
    press(page, "Look")
    assert run_shown(page) == 4, "one for the reload, three for the clicks"
    assert recorded_text(page, "iframe") == [None]
    assert page.locator("img[src*=persist_session]").count() == 0
    reload_app(page)
    assert shown(page, "count") == "Count 1"
    assert cookie_of(page.context, f"app-state-{server.port}")["value"] == cookie["value"]


def test_what_is_done_after_a_clear_stays(server: AppServer, page: Page) -> None:
    """A change between the clear and the next page load is there after it."""
    visit_first(page, server)
    press(page, "Add")
    press(page, "Add")
    press(page, "Clear")
    wait_quiet(page)
    press(page, "Add")
    for _ in range(2):
        reload_app(page)
        assert shown(page, "count") == "Count 1"


def test_two_tabs_have_one_state(server: AppServer, page: Page) -> None:
    """Each tab sees what the other did, a clear included, and goes on with it."""
    other = page.context.new_page()
    for tab in (page, other):
        open_app(tab, server.url)
    press(page, "Add")
    press(other, "Add")
    assert shown(other, "count") == "Count 2"
    page.bring_to_front()  # a browser draws a page behind another one once a second
    press(page, "Clear")
    wait_quiet(page)
    other.bring_to_front()
    number = run_shown(other)
    press(other, "Add")
    wait_quiet(other)
    assert shown(other, "count") == "Count 1", "of the new state"
    assert run_shown(other) == number + 1, "a question's answer would start another one, which may interrupt a click's"
    page.bring_to_front()
    press(page, "Add")
    assert shown(page, "count") == "Count 2"
    for tab in (page, other):
        tab.bring_to_front()
        reload_app(tab)
        assert shown(tab, "count") == "Count 2"


@pytest.mark.parametrize("cleared_in", ["the old tab", "the other tab"])
def test_a_tab_whose_cookie_a_page_load_replaced_goes_on_with_the_new_one(
    server: AppServer, page: Page, cleared_in: str
) -> None:
    """After a clear a page load brings another id; a tab that stays open finds it, and nothing done there is lost."""
    other = page.context.new_page()
    for tab in (page, other):
        open_app(tab, server.url)
        press(tab, "Add")
    old = id_of(cookie_of(page.context, f"app-state-{server.port}")["value"])
    press(page if cleared_in == "the old tab" else other, "Clear")
    other.bring_to_front()
    reload_app(other)
    assert shown(other, "count") == "Count 0"
    assert id_of(cookie_of(page.context, f"app-state-{server.port}")["value"]) != old
    page.bring_to_front()
    record_text(other, "iframe")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_text("Count 1").wait_for()
    wait_quiet(page)
    press(page, "Add")
    assert shown(page, "count") == "Count 2"
    other.bring_to_front()
    press(other, "Add")
    assert shown(other, "count") == "Count 3"
    page.bring_to_front()
    reload_app(page)
    assert shown(page, "count") == "Count 3"


# Https


def test_a_secure_page_ignores_a_planted_cookie(tmp_path: Path, chromium: Browser) -> None:
    """On https the cookie is Secure and called `__Host-...`; a plain one counts for nothing, if validly signed."""
    write_app(tmp_path, COUNTER)
    app = write_app(tmp_path, WITH_MIDDLEWARE, "asgi.py")
    with (
        AppServer(app) as plain,
        SecureServer(app, home=plain.home, options=self_signed(tmp_path)) as secure,
        chromium.new_context(ignore_https_errors=True) as context,
    ):
        page = context.new_page()
        planted = visit_first(page, plain)
        press(page, "Add")
        context.clear_cookies()
        plain_name = f"app-state-{secure.port}"
        context.add_cookies([{"name": plain_name, "value": planted, "domain": "127.0.0.1", "path": "/"}])
        open_app(page, secure.url)
        assert shown(page, "count") == "Count 0"
        press(page, "Add")
        press(page, "Add")
        cookie = cookie_of(context, f"__Host-app-state-{secure.port}")
        assert (cookie["secure"], cookie["httpOnly"]) == (True, True)
        assert id_of(cookie["value"]) != id_of(planted)
        reload_app(page)
        press(page, "Look")
        assert (shown(page, "count"), run_shown(page)) == ("Count 2", 2)
        assert cookie_of(context, f"__Host-app-state-{secure.port}")["value"] == cookie["value"]


# A proxy that strips cookies


def test_behind_a_stripping_proxy_the_component_takes_over(tmp_path: Path, chromium: Browser) -> None:
    """It asks at each page load, and one warning says why; the cookie stays the server's, and no script sees it."""
    write_app(tmp_path, COUNTER)
    app = write_app(tmp_path, WITH_MIDDLEWARE, "asgi.py")
    with chromium.new_context() as context:
        page = context.new_page()
        with AppServer(app) as server, StrippingProxy(server.url) as proxy:
            port = int(proxy.url.rpartition(":")[2])
            name = f"app-state-{port}"
            for count in range(3):
                page.goto(proxy.url)
                page.get_by_text(f"Count {count}").wait_for()
                eventually(page, lambda: run_shown(page) > 1)
                wait_quiet(page)
                # One more for each answer of the component that was faster than the errand.
                assert run_shown(page) in range(2, 6)
                press(page, "Add")
            cookie = cookie_of(context, name)
            assert cookie["httpOnly"]
            assert names_of(context) == {name}
            assert server.logs().count("CookieMiddleware sets the cookie of state 'app-state', but") == 1
            page.goto("about:blank")
        with AppServer(app, home=server.home, port=port) as direct:
            open_app(page, direct.url)
            assert shown(page, "count") == "Count 3"
            assert run_shown(page) == 1
            assert cookie_of(context, name)["value"] == cookie["value"]


def test_where_the_server_hears_nothing_a_script_sets_a_cookie(tmp_path: Path, chromium: Browser) -> None:
    """Behind such a proxy, and away from the process that the tab talks to; without both, the server takes it over."""
    write_app(tmp_path, COUNTER)
    app = write_app(tmp_path, WITH_MIDDLEWARE, "asgi.py")
    with chromium.new_context() as context:
        page = context.new_page()
        with AppServer(app) as server, StrippingProxy(server.url) as proxy:
            port = int(proxy.url.rpartition(":")[2])
            name = f"app-state-{port}"
            context.route("**/_persist_session?*", lambda route: route.abort())
            open_app(page, proxy.url)
            value = wait_for_cookie(context, f"{name}~script")
            wait_idle(page)
            press(page, "Add")
            press(page, "Add")
            page.reload()
            page.get_by_text("Count 2").wait_for()
            assert cookie_of(context, f"{name}~script")["value"] == value
            page.goto("about:blank")
            context.unroute("**/_persist_session?*")
        with AppServer(app, home=server.home, port=port) as direct:
            for _ in range(2):
                open_app(page, direct.url)
                assert shown(page, "count") == "Count 2"
            assert id_of(cookie_of(context, name)["value"]) != id_of(value), "the server has set one from the start"
            assert cookie_of(context, name)["httpOnly"]
            assert names_of(context) == {name}
            press(page, "Add")
            reload_app(page)
            assert shown(page, "count") == "Count 3"


def test_what_lies_under_a_scripts_cookie_comes_under_the_servers(served: Served, chromium: Browser) -> None:
    """A script's cookie beside the server's was made where that one was not heard of: the state is not left there."""
    secret = secrets.token_hex(32)
    server = served(COUNTER, asgi=WITH_MIDDLEWARE, env={"PERSIST_SESSION_SECRET_KEYS": secret})
    with chromium.new_context() as context:
        page = context.new_page()
        session_id = id_of(visit_first(page, server))
        press(page, "Add")
    with chromium.new_context() as context:
        page, name, keys = context.new_page(), f"app-state-{server.port}", derive([secret])
        of_server = sign("app-state", new_session_id(), keys, http_only=True)
        of_script = sign("app-state", session_id, keys)
        context.add_cookies(
            [
                {"name": name, "value": of_server, "url": server.url, "httpOnly": True},
                {"name": f"{name}~script", "value": of_script, "url": server.url},
            ]
        )
        open_app(page, server.url)
        assert shown(page, "count") == "Count 1"
        reload_app(page)
        assert shown(page, "count") == "Count 1"
        assert names_of(context) == {name}
        assert id_of(cookie_of(context, name)["value"]) == id_of(of_server)
        assert len(records_of(server)) == 1


WRITING = COUNTER.replace('if st.button("Add"):', 's.runs = vars(s).get("runs", 0) + 1\n    if st.button("Add"):')


def test_a_clear_brings_a_new_id_where_each_run_saves(served: Served, page: Page) -> None:
    """The save of the run that comes after a clear waits for the browser: who copied the old cookie is out."""
    server = served(WRITING, asgi=WITH_MIDDLEWARE)
    ids = [id_of(visit_first(page, server))]
    press(page, "Add")
    for _ in range(2):
        press(page, "Clear")
        press(page, "Add")
        reload_app(page)
        assert shown(page, "count") == "Count 1"
        ids.append(id_of(cookie_of(page.context, f"app-state-{server.port}")["value"]))
    assert len(set(ids)) == 3
    assert len(records_of(server)) == 1


# Somebody who has another visitor's browser make their request


def errand_of(page: Page, url: str) -> str:
    """Return the path of the hidden request of a page, which its own browser does not make."""
    with page.expect_request("**/_persist_session?*") as request:
        page.context.route("**/_persist_session?*", lambda route: route.abort())
        page.goto(url)
    return "/_persist_session?" + request.value.url.partition("?")[2]


@pytest.mark.parametrize("bait", ["a link elsewhere", "an image in the app"])
def test_nobody_learns_a_state_by_a_hidden_request(server: AppServer, chromium: Browser, bait: str) -> None:
    """Whose page and whose cookies they are is told apart, though the request is the same."""
    with chromium.new_context() as visitor, chromium.new_context() as attacker, StrippingProxy(server.url) as proxy:
        page, theirs = visitor.new_page(), attacker.new_page()
        visit_first(page, server)
        press(page, "Add")
        address = server.url + errand_of(theirs, proxy.url)
        if bait == "an image in the app":
            with page.expect_response("**/_persist_session?*") as answer:
                page.evaluate(
                    "(source) => { document.body.append(Object.assign(new Image(), { src: source })); }", address
                )
        else:
            other = visitor.new_page()
            other.goto(server.url.replace("127.0.0.1", "localhost") + "/media/nothing")
            with other.expect_response("**/_persist_session?*") as answer:
                other.evaluate("(address) => { location.href = address; }", address)
        sent = {cookie.partition("=")[0] for cookie in answer.value.request.all_headers()["cookie"].split("; ")}
        assert f"app-state-{server.port}" in sent
        assert answer.value.status == 204
        wait_for_cookie(attacker, f"app-state-{proxy.url.rpartition(':')[2]}~script")
        wait_idle(theirs)
        for _ in range(3):
            press(theirs, "Look")
            assert shown(theirs, "count") == "Count 0"
        reload_app(page)
        assert shown(page, "count") == "Count 1"


# From one mode to the other


def test_a_move_to_the_middleware_and_back_keeps_the_state(serve: Serve, page: Page) -> None:
    """Another start file, the same visitor: their state goes on, under the same id, from the first page on."""
    server = serve(COUNTER)
    script, asgi = server.app, write_app(server.app.parent, WITH_MIDDLEWARE, "asgi.py")
    name = f"app-state-{server.port}"
    session_id = id_of(visit_first(page, server))
    press(page, "Add")
    page.goto("about:blank")
    server.app = asgi
    server.restart()
    open_app(page, server.url)
    assert shown(page, "count") == "Count 1"
    press(page, "Add")
    reload_app(page)
    press(page, "Look")
    assert (shown(page, "count"), run_shown(page)) == ("Count 2", 2)
    cookie = cookie_of(page.context, name)
    assert cookie["httpOnly"]
    assert id_of(cookie["value"]) == session_id
    page.goto("about:blank")
    server.app = script
    server.restart()
    open_app(page, server.url)
    assert shown(page, "count") == "Count 2"
    press(page, "Clear")
    press(page, "Add")
    assert shown(page, "count") == "Count 1"
    reload_app(page)
    assert shown(page, "count") == "Count 1"
    assert names_of(page.context) == {name}


# In a foreign page

PARTITIONED = """
from persist_session import configure

configure(partitioned=True)
"""


@pytest.mark.parametrize("mode", ["component", "middleware"])
def test_in_a_foreign_page_reloads_restore(served: Served, page: Page, mode: str) -> None:
    """In an iframe of another site a reload of either page restores, by a cookie that is partitioned."""
    is_middleware = mode == "middleware"
    server = served(COUNTER, asgi=WITH_MIDDLEWARE) if is_middleware else served(f"{PARTITIONED}{COUNTER}")
    name = f"app-state-{server.port}"
    with embedding(server.url.replace("127.0.0.1", "localhost")) as url:
        page.goto(url)
        frame = embedded(page)
        cookie = wait_for_cookie(page.context, name)
        wait_idle(frame)
        press(frame, "Add")
        page.reload()
        frame = embedded(page)
        press(frame, "Add")
        assert shown(frame, "count") == "Count 2"
        assert run_shown(frame) == 2, "one for the reload, one for the click"
        frame.evaluate("window.isOld = true")
        frame.evaluate("location.reload()")
        frame.wait_for_function("!window.isOld")
        frame = embedded(page)
        press(frame, "Add")
        assert shown(frame, "count") == "Count 3"
        assert run_shown(frame) == 2, "one for the reload, one for the click"
        kept = cookie_of(page.context, name)
        assert (kept["value"], kept["sameSite"], kept["secure"]) == (cookie, "None", True)
        assert kept["partitionKey"] == "http://127.0.0.1"
        assert kept["httpOnly"] == is_middleware


def embedded(page: Page) -> Page:
    """Return the app in the page's iframe as soon as it is idle; a frame has all that this file asks of a page."""
    iframe = page.wait_for_selector("iframe")
    assert iframe is not None
    frame = iframe.content_frame()
    found = cast("Page", frame)
    found.locator(".st-key-run").wait_for()
    wait_idle(found)
    return found


# Consent

CONSENT = numbered("""
    import streamlit as st
    from persist_session import persistent_state

    class AppState:
        def __init__(self):
            self.count = 0

    is_remembered = st.checkbox("Remember me", value=st.context.cookies.get("consent") == "yes")
    with persistent_state("app-state", AppState, remember=is_remembered) as s:
        if st.button("Add"):
            s.count += 1
        with st.container(key="count"):
            st.text(f"Count {s.count}")
""")
ASKED = """
    import streamlit as st
    from persist_session import CookieMiddleware
    from starlette.middleware import Middleware

    def remember(request):
        return request.cookies.get("consent") == "yes"

    app = st.App("app.py", middleware=[Middleware(CookieMiddleware, names=["app-state"], remember=remember)])
"""


@pytest.mark.parametrize("mode", ["component", "middleware"])
def test_a_visitor_is_remembered_where_they_agree(served: Served, page: Page, mode: str) -> None:
    """Without consent neither cookie nor record; with it what the tab holds is kept; taken back, both go."""
    server = served(CONSENT, asgi=ASKED if mode == "middleware" else None)
    context, name = page.context, f"app-state-{server.port}"
    open_app(page, server.url)
    press(page, "Add")
    reload_app(page)
    assert shown(page, "count") == "Count 0"
    assert names_of(context) == set()
    assert records_of(server) == set()

    press(page, "Add")
    choose(page, server, "yes")
    eventually(page, lambda: names_of(context) == {name if mode == "component" else f"{name}~script"})
    wait_quiet(page)
    press(page, "Add")
    assert len(records_of(server)) == 1
    for _ in range(2):
        reload_app(page)
        assert shown(page, "count") == "Count 2"
    assert names_of(context) == {name}
    assert cookie_of(context, name)["httpOnly"] == (mode == "middleware")

    choose(page, server, "no")
    assert shown(page, "count") == "Count 2"
    assert records_of(server) == set()
    if mode == "component":
        eventually(page, lambda: names_of(context) == set())
    reload_app(page)
    assert shown(page, "count") == "Count 0"
    assert names_of(context) == set()
    assert records_of(server) == set()


def test_a_no_that_only_the_page_says_removes_cookie_and_record(served: Served, page: Page) -> None:
    """As from a banner of another page of the site: the next page load removes both."""
    server = served(CONSENT, asgi=ASKED)
    others = records_of(server)
    page.context.add_cookies([{"name": "consent", "value": "yes", "url": server.url}])
    visit_first(page, server)
    press(page, "Add")
    assert len(records_of(server) - others) == 1
    page.context.add_cookies([{"name": "consent", "value": "no", "url": server.url}])
    reload_app(page)
    assert shown(page, "count") == "Count 0"
    assert names_of(page.context) == set()
    assert records_of(server) == others


def choose(page: Page, server: AppServer, answer: str) -> None:
    """Tick or clear "Remember me", and keep the answer in a cookie of the app's own, as its banner would."""
    page.context.add_cookies([{"name": "consent", "value": answer, "url": server.url}])
    number = run_shown(page) + 1
    page.get_by_test_id("stCheckbox").get_by_text("Remember me").click()
    page.wait_for_function(
        "(number) => Number(document.querySelector('.st-key-run').innerText) >= number", arg=number, polling=20
    )
    wait_idle(page)


# What tests ask of context and server


def names_of(context: BrowserContext) -> set[str]:
    """Return the names of all cookies of the state."""
    return {cookie["name"] for cookie in context.cookies() if "app-state" in cookie["name"]}


def id_of(value: str) -> str:
    """Return the session id in a signed cookie, without the mark behind it."""
    return value[:32]


def records_of(server: AppServer) -> set[Path]:
    """Return the files of all records."""
    return set(server.data_folder.rglob("*.pickle"))
