"""The harness itself: what it says of an app is what the app did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support import Jar, StrippingProxy, Visitor, VisitorError, write_app
from support.browser import count_iframes, open_app, record_text, recorded_text, wait_for_cookie
from support.server import AppServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Serve, Visit
    from playwright.sync_api import BrowserContext, Page

COUNTER = """
    import time
    import streamlit as st

    st.session_state.setdefault("count", 0)
    if st.button("Increment", key="inc"):
        st.session_state.count += 1
    if st.button("Slow"):
        while True:
            time.sleep(0.01)
            st.empty()
    if st.button("Rerun"):
        st.rerun()
    if st.button("Fail"):
        raise ValueError("as told")
    st.metric("Count", st.session_state.count)
    name = st.text_input("Name", key="name")
    st.write(f"Hello {name}")
    if st.checkbox("More"):
        st.info("more")
    with st.form("form"):
        inside = st.text_input("Inside")
        st.form_submit_button("Submit")
    st.write(f"Inside {inside}")
    if said := st.chat_input("Say"):
        st.write(f"Said {said}")

    @st.fragment
    def part():
        st.session_state.setdefault("part", 0)
        if st.button("Part"):
            st.session_state.part += 1
            st.write("once")
        st.metric("Part", st.session_state.part)

    part()
"""

COOKIES = """
    import streamlit as st
    from streamlit_cookies_controller.cookie_controller import _cookie_controller as component

    answer = component(method="getAll", default=None, key="ask")
    st.write(f"Handshake {sorted(st.context.cookies.items())}")
    st.write(f"Answer {answer}")
    st.write(f"Url {st.context.url}")
    options = {"path": "/", "expires": "2100-01-01T00:00:00+00:00", "sameSite": "lax"}
    if st.button("Set"):
        component(method="set", name="drink", value="black tea", options=options, key="set")
    if st.button("Remove"):
        component(method="remove", name="drink", options={"path": "/"}, key="remove")
    if st.button("Set and rerun"):
        component(method="set", name="drink", value="coffee", options=options, key="set")
        st.rerun()
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """Return a server of the app COUNTER."""
    with AppServer(write_app(tmp_path_factory.mktemp("counter"), COUNTER)) as server:
        yield server


@pytest.fixture(scope="module")
def cookies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """Return a server of the app COOKIES."""
    with AppServer(write_app(tmp_path_factory.mktemp("cookies"), COOKIES)) as server:
        yield server


def test_a_click_is_one_run_and_counts_once(counter: AppServer, visit: Visit) -> None:
    """A button's value is sent with the click alone, not with the runs after it."""
    tab = visit(counter)
    assert (tab.runs, tab.metric("Count")) == (1, "0")
    tab.click("Increment").rerun()
    assert (tab.runs, tab.metric("Count")) == (3, "1")
    assert tab.click("inc").metric("Count") == "2"


def test_other_widgets_keep_their_values(counter: AppServer, visit: Visit) -> None:
    """Texts and ticks go along with every later run, as from a browser."""
    tab = visit(counter).set_text_input("Name", "Ada").set_checkbox("More", True).click("Increment")
    assert "Hello Ada" in tab.texts()
    assert tab.alerts() == ["more"]
    assert tab.set_checkbox("More", False).alerts() == []


def test_a_form_waits_for_its_button(counter: AppServer, visit: Visit) -> None:
    """A widget inside a form starts no run; its button sends both."""
    tab = visit(counter).set_text_input("Inside", "box")
    assert tab.runs == 1
    assert "Inside box" in tab.click("Submit").texts()


def test_a_chat_message_is_sent_once(counter: AppServer, visit: Visit) -> None:
    """What was said is gone in the next run."""
    tab = visit(counter).chat_input("hello")
    assert "Said hello" in tab.texts()
    assert "Said hello" not in tab.rerun().texts()


def test_a_fragment_run_replaces_its_own_elements_only(counter: AppServer, visit: Visit) -> None:
    """A button inside a fragment runs the fragment; the rest of the page stays."""
    tab = visit(counter).click("Increment").click("Part")
    assert (tab.full_runs, tab.fragment_runs) == (2, 1)
    assert (tab.metric("Count"), tab.metric("Part")) == ("1", "1")
    assert "once" in tab.texts()
    tab.click("Increment")
    assert "once" not in tab.texts()
    assert tab.metric("Part") == "1"


def test_waiting_includes_the_run_of_a_rerun(counter: AppServer, visit: Visit) -> None:
    """A script that reruns itself is idle after its last run."""
    tab = visit(counter).click("Rerun")
    assert tab.runs == 3
    assert tab.finished["FINISHED_EARLY_FOR_RERUN"] == 1


def test_runs_can_overlap(counter: AppServer, visit: Visit) -> None:
    """A click while a run is under way interrupts it; the interrupted run never ends."""
    tab = visit(counter).click("Slow", wait=False).wait_running().click("Increment")
    assert tab.metric("Count") == "1"
    assert (tab.runs, sum(tab.finished.values())) == (3, 2)


def test_a_flood_of_clicks_ends_idle(counter: AppServer, visit: Visit) -> None:
    """However many requests Streamlit merges or interrupts, the last one's run is waited for."""
    tab = visit(counter)
    for number in range(20):
        tab.set_text_input("Name", f"name {number}", wait=False)
    assert "Hello name 19" in tab.wait_run().texts()


def test_stop_ends_a_run(counter: AppServer, visit: Visit) -> None:
    """The Stop of the page's menu ends an endless script."""
    tab = visit(counter).click("Slow", wait=False).wait_running().stop_script()
    assert tab.click("Increment").metric("Count") == "1"


def test_an_exception_shows(counter: AppServer, visit: Visit) -> None:
    """The page tells the type and message, and forgets it with the next run."""
    tab = visit(counter).click("Fail")
    assert tab.exceptions() == ["ValueError: as told"]
    assert tab.rerun().exceptions() == []


def test_a_missing_widget_is_an_error_that_describes_the_page(counter: AppServer, visit: Visit) -> None:
    """A test with a wrong label fails at once and says what is there."""
    with pytest.raises(VisitorError, match=r"'Incremint' once, found it 0 times.*button 'Increment'"):
        visit(counter).click("Incremint")


def test_a_reload_is_a_new_session_and_a_reconnect_the_old_one(counter: AppServer, visit: Visit) -> None:
    """A lost connection keeps Streamlit's session and needs no run; a reload loses it."""
    tab = visit(counter).click("Increment")
    first = tab.session_id
    tab.reconnect()
    assert tab.runs == 2
    assert (tab.click("Increment").metric("Count"), tab.session_id) == ("2", first)
    with tab.reload() as again:
        assert again.metric("Count") == "0"
        assert again.session_id != first


def test_a_server_killed_and_started_again_has_the_same_address(serve: Serve, visit: Visit) -> None:
    """A tab that stays open over a crash goes on with a new session, its texts kept."""
    server = serve(COUNTER)
    tab = visit(server).set_text_input("Name", "Ada").click("Increment")
    server.kill()
    with pytest.raises(VisitorError, match="While waiting for"):
        tab.wait_until(lambda _: False)
    server.start()
    tab.reconnect().click("Increment")
    assert tab.metric("Count") == "1"
    assert "Hello Ada" in tab.texts()


def test_pages_are_reached_by_their_path(serve: Serve, visit: Visit) -> None:
    """Following the navigation replaces the page's elements, and a tab may start on any page."""
    server = serve(
        """
        import streamlit as st

        def one():
            st.write("one")

        def two():
            st.write("two")

        st.write("always")
        st.navigation([st.Page(one, default=True), st.Page(two, url_path="second")]).run()
        """
    )
    tab = visit(server)
    assert tab.texts() == ["always", "one"]
    assert tab.goto("second").texts() == ["always", "two"]
    assert tab.goto("").texts() == ["always", "one"]
    assert visit(server, page="second").texts() == ["always", "two"]


def test_a_base_path_and_a_public_address(serve: Serve, visit: Visit) -> None:
    """An app below a path is reached there, and sees the address that the visitor's address bar shows."""
    server = serve(COOKIES, options={"server.baseUrlPath": "shop"})
    assert f"Url {server.url}" in visit(server).texts()
    assert "Url https://app.example.com/shop" in visit(server, address="https://app.example.com/shop").texts()


def test_the_component_answers_and_sets_cookies(cookies: AppServer, visit: Visit) -> None:
    """The question costs one run; a set cookie is in the next handshake, raw, and the next answer, parsed."""
    tab = visit(cookies, jar={"number": "1"})
    assert (tab.runs, tab.cookie_calls) == (2, [("getAll", "")])
    assert "Answer {'number': 1}" in tab.texts()
    tab.click("Set")
    assert tab.jar["drink"] == "black%20tea"
    assert tab.jar.options["drink"]["sameSite"] == "lax"
    with tab.reload() as again:
        assert "Answer {'number': 1, 'drink': 'black tea'}" in again.texts()
        assert "Handshake [('drink', 'black%20tea'), ('number', '1')]" in again.texts()
        assert "drink" not in again.click("Remove").jar


def test_two_tabs_share_a_jar(cookies: AppServer, visit: Visit) -> None:
    """A cookie that one tab sets is there in the other; a component that watches cookies answers again."""
    one = visit(cookies)
    with one.new_tab() as calm, one.new_tab(reanswers=True) as watching:
        one.click("Set")
        watching.wait_until(lambda tab: "Answer {'drink': 'black tea'}" in tab.texts())
        assert calm.rerun().cookie_calls == [("getAll", "")]


def test_an_iframe_that_goes_before_it_loaded_never_ran(cookies: AppServer, visit: Visit) -> None:
    """With a loading time, a cookie set right before a rerun is lost, as it is in a browser."""
    tab = visit(cookies)
    tab._options["component_delay"] = 60.0
    assert tab.click("Set and rerun").jar == {}


def test_a_client_without_components(cookies: AppServer, visit: Visit) -> None:
    """A crawler runs no component: the question stays unanswered."""
    tab = visit(cookies, components=False)
    assert (tab.runs, len(tab.iframes("getAll"))) == (1, 1)
    assert "Answer None" in tab.texts()


def test_scripts_cannot_touch_http_only_cookies() -> None:
    """A jar hides such a cookie from the component and keeps it against a script's set and remove."""
    jar = Jar()
    jar.store_response("app=server; Path=/; HttpOnly")
    jar.set_by_script("app", "script", {"path": "/"})
    jar.remove_by_script("app")
    assert jar == {"app": "server"}
    assert jar.seen_by_scripts() == {}
    assert jar.header() == "app=server"


def test_an_expired_cookie_is_a_removal() -> None:
    """A script removes a cookie by a time in the past."""
    jar = Jar(old="1", gone="1")
    jar.set_by_script("old", "1", {"expires": "2001-01-01T00:00:00+00:00"})
    jar.set_by_script("gone", "1", {"maxAge": 0})
    assert jar == {}


@pytest.mark.parametrize("through", ["proxy", "strip_cookies"])
def test_stripped_cookies_reach_the_component_only(cookies: AppServer, visit: Visit, through: str) -> None:
    """Behind a stripping proxy the handshake has Streamlit's own cookies only; the component sees all."""
    jar = {"drink": "tea", "_streamlit_xsrf": "x"}
    with StrippingProxy(cookies.url) as proxy:
        tab = visit(proxy.url, jar=jar) if through == "proxy" else visit(cookies, jar=jar, strip_cookies=True)
        kept = [("_streamlit_xsrf", "x")] if through == "proxy" else []
        assert f"Handshake {kept}" in tab.texts()
        assert "Answer {'drink': 'tea', '_streamlit_xsrf': 'x'}" in tab.texts()
        tab.close()


@pytest.mark.browser
def test_a_browser_agrees_with_the_visitor(cookies: AppServer, context: BrowserContext, page: Page) -> None:
    """Real Chromium: the same answer, the same cookie, and the cookie in the next handshake and answer."""
    open_app(page, cookies.url)
    page.get_by_text("Answer {").wait_for()
    assert count_iframes(page) == 1
    page.get_by_role("button", name="Set", exact=True).click()
    wait_for_cookie(context, "drink", "black%20tea")
    page.reload()
    page.get_by_text("'drink': 'black tea'").wait_for()
    assert "('drink', 'black%20tea')" in page.get_by_text("Handshake").inner_text()


@pytest.mark.browser
def test_a_proxy_serves_a_browser(cookies: AppServer, context: BrowserContext, page: Page) -> None:
    """Real Chromium through the stripping proxy: the handshake is bare, the component answers."""
    with StrippingProxy(cookies.url) as proxy:
        context.add_cookies([{"name": "drink", "value": "tea", "url": proxy.url}])
        open_app(page, proxy.url)
        page.get_by_text("'drink': 'tea'").wait_for()
        assert "drink" not in page.get_by_text("Handshake").inner_text()
        page.close()


@pytest.mark.browser
def test_a_recorder_sees_every_text(counter: AppServer, page: Page) -> None:
    """The texts of an element are recorded in order, from before it was there."""
    metric = '[data-testid="stMetricValue"]'
    record_text(page, metric)
    open_app(page, counter.url)
    page.locator(metric).first.get_by_text("0").wait_for()
    page.get_by_role("button", name="Increment").click()
    page.locator(metric).first.get_by_text("1").wait_for()
    assert recorded_text(page, metric)[0] is None
    assert [text for text in recorded_text(page, metric) if text] == ["0", "1"]


def test_a_visitor_that_cannot_connect_says_so() -> None:
    """Nobody listens: the error is the system's own."""
    with pytest.raises(ConnectionRefusedError):
        Visitor("http://127.0.0.1:1")
