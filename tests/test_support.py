"""The harness itself: what it says of an app is what the app did."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from support import Jar, StrippingProxy, Visitor, VisitorError
from support.browser import count_iframes, open_app, record_text, recorded_text, wait_for_cookie

if TYPE_CHECKING:
    from conftest import Served, Visit
    from playwright.sync_api import BrowserContext, Page

    from support import AppServer

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


PAGES = """
    import streamlit as st

    def one():
        st.write("one")

    def two():
        st.write("two")

    st.write("always")
    st.navigation([st.Page(one, default=True), st.Page(two, url_path="second")]).run()
"""

FRAGMENT = """
    import streamlit as st
    from streamlit_cookies_controller.cookie_controller import _cookie_controller as component

    @st.fragment
    def ask():
        st.write(f"Answer {component(method='getAll', default=None, key='ask-apart')}")

    ask()
"""

# One server for all, below a base path; what is in it is told by the query.
APP = "\n".join(
    [
        "import streamlit as st",
        "case = st.query_params.get('case', 'counter')",
        *(
            f"if case == {case!r}:\n{textwrap.indent(textwrap.dedent(source), '    ')}"
            for case, source in (("counter", COUNTER), ("cookies", COOKIES), ("fragment", FRAGMENT), ("pages", PAGES))
        ),
    ]
)


@pytest.fixture
def server(served: Served) -> AppServer:
    """Return the server."""
    return served(APP, options={"server.baseUrlPath": "shop"})


@pytest.fixture
def counter(server: AppServer, visit: Visit) -> Visitor:
    """Return a tab on the app COUNTER."""
    return visit(server)


@pytest.fixture
def cookies(server: AppServer, visit: Visit) -> Visit:
    """Return what opens a tab on the app COOKIES."""

    def open_tab(url: str = server.url, **options: Any) -> Visitor:
        return visit(url, query="case=cookies", **options)

    return open_tab


def test_a_click_counts_once(counter: Visitor) -> None:
    """A button's value is sent with the click alone, not with the runs after it."""
    tab = counter
    assert (tab.runs, tab.metric("Count")) == (1, "0")
    tab.click("Increment").rerun()
    assert (tab.runs, tab.metric("Count")) == (3, "1")
    assert tab.click("inc").metric("Count") == "2"


def test_other_widgets_keep_their_values(counter: Visitor) -> None:
    """Texts and ticks go along with every later run, as from a browser."""
    tab = counter.set_text_input("Name", "Ada").set_checkbox("More", True).click("Increment")
    assert "Hello Ada" in tab.texts()
    assert tab.alerts() == ["more"]
    assert tab.set_checkbox("More", False).alerts() == []


def test_a_form_waits_for_its_button(counter: Visitor) -> None:
    """A widget inside a form starts no run; its button sends both."""
    tab = counter.set_text_input("Inside", "box")
    assert tab.runs == 1
    assert "Inside box" in tab.click("Submit").texts()


def test_a_chat_message_is_sent_once(counter: Visitor) -> None:
    """What was said is gone in the next run."""
    tab = counter.chat_input("hello")
    assert "Said hello" in tab.texts()
    assert "Said hello" not in tab.rerun().texts()


def test_a_fragment_replaces_its_own_elements(counter: Visitor) -> None:
    """A button inside a fragment runs the fragment; the rest of the page stays."""
    tab = counter.click("Increment").click("Part")
    assert (tab.full_runs, tab.fragment_runs) == (2, 1)
    assert (tab.metric("Count"), tab.metric("Part")) == ("1", "1")
    assert "once" in tab.texts()
    tab.click("Increment")
    assert "once" not in tab.texts()
    assert tab.metric("Part") == "1"


def test_waiting_includes_the_run_of_a_rerun(counter: Visitor) -> None:
    """A script that reruns itself is idle after its last run."""
    tab = counter.click("Rerun")
    assert tab.runs == 3
    assert tab.finished["FINISHED_EARLY_FOR_RERUN"] == 1


def test_runs_can_overlap(counter: Visitor) -> None:
    """A click while a run is under way interrupts it; the interrupted run never ends."""
    tab = counter.click("Slow", wait=False).wait_running().click("Increment")
    assert tab.metric("Count") == "1"
    assert (tab.runs, sum(tab.finished.values())) == (3, 2)


def test_a_flood_of_clicks_ends_idle(counter: Visitor) -> None:
    """However many requests Streamlit merges or interrupts, the last one's run is waited for."""
    tab = counter
    for number in range(20):
        tab.set_text_input("Name", f"name {number}", wait=False)
    assert "Hello name 19" in tab.wait_run().texts()


def test_stop_ends_a_run(counter: Visitor) -> None:
    """The Stop of the page's menu ends an endless script."""
    tab = counter.click("Slow", wait=False).wait_running().stop_script()
    assert tab.click("Increment").metric("Count") == "1"


def test_an_exception_shows(counter: Visitor) -> None:
    """The page tells the type and message, and forgets it with the next run."""
    tab = counter.click("Fail")
    assert tab.exceptions() == ["ValueError: as told"]
    assert tab.rerun().exceptions() == []


def test_a_missing_widget_is_told(counter: Visitor) -> None:
    """A test with a wrong label fails at once and says what is there."""
    with pytest.raises(VisitorError, match=r"'Incremint' once, found it 0 times.*button 'Increment'"):
        counter.click("Incremint")


def test_a_reload_is_a_new_session(counter: Visitor) -> None:
    """A lost connection keeps Streamlit's session and needs no run; a reload loses it."""
    tab = counter.click("Increment")
    first = tab.session_id
    tab.reconnect()
    assert tab.runs == 2
    assert (tab.click("Increment").metric("Count"), tab.session_id) == ("2", first)
    with tab.reload() as again:
        assert again.metric("Count") == "0"
        assert again.session_id != first


def test_a_killed_server_keeps_its_address(server: AppServer, counter: Visitor) -> None:
    """A tab that stays open over a crash goes on with a new session, its texts kept."""
    tab = counter.set_text_input("Name", "Ada").click("Increment")
    server.kill()
    with pytest.raises(VisitorError, match="While waiting for"):
        tab.wait_until(lambda _: False)
    server.start()
    tab.reconnect().click("Increment")
    assert tab.metric("Count") == "1"
    assert "Hello Ada" in tab.texts()


def test_pages_are_reached_by_their_path(server: AppServer, visit: Visit) -> None:
    """Following the navigation replaces the page's elements, and a tab may start on any page."""
    tab = visit(server, query="case=pages")
    assert tab.texts() == ["always", "one"]
    assert tab.goto("second").texts() == ["always", "two"]
    assert tab.goto("").texts() == ["always", "one"]
    assert visit(server, query="case=pages", page="second").texts() == ["always", "two"]


def test_a_public_address(server: AppServer, cookies: Visit) -> None:
    """An app below a path is reached there, and sees the address that the visitor's address bar shows."""
    assert f"Url {server.url}" in cookies().texts()
    assert "Url https://app.example.com/shop" in cookies(address="https://app.example.com/shop").texts()


def test_an_answer_runs_its_fragment(server: AppServer, visit: Visit) -> None:
    """Where the component lies in a fragment, its answer runs that alone."""
    tab = visit(server, query="case=fragment", jar={"drink": "tea"})
    assert (tab.full_runs, tab.fragment_runs) == (1, 1)
    assert tab.texts() == ["Answer {'drink': 'tea'}"]


def test_the_component_answers_and_sets_cookies(cookies: Visit) -> None:
    """The question costs one run; a set cookie is in the next handshake, raw, and the next answer, parsed."""
    tab = cookies(jar={"number": "1"})
    assert (tab.runs, tab.cookie_calls) == (2, [("getAll", "")])
    assert "Answer {'number': 1}" in tab.texts()
    tab.click("Set")
    assert tab.jar["drink"] == "black%20tea"
    assert tab.jar.options["drink"]["sameSite"] == "lax"
    with tab.reload() as again:
        assert "Answer {'number': 1, 'drink': 'black tea'}" in again.texts()
        assert "Handshake [('drink', 'black%20tea'), ('number', '1')]" in again.texts()
        assert "drink" not in again.click("Remove").jar


def test_two_tabs_share_a_jar(cookies: Visit) -> None:
    """A cookie that one tab sets is there in the other; a component that watches cookies answers again."""
    one = cookies()
    with one.new_tab() as calm, one.new_tab(reanswers=True) as watching:
        one.click("Set")
        watching.wait_until(lambda tab: "Answer {'drink': 'black tea'}" in tab.texts())
        assert calm.rerun().cookie_calls == [("getAll", "")]


def test_an_iframe_gone_early_never_ran(cookies: Visit) -> None:
    """With a loading time, a cookie set right before a rerun is lost, as it is in a browser."""
    tab = cookies()
    tab._options["component_delay"] = 60.0
    assert tab.click("Set and rerun").jar == {}


def test_a_client_without_components(cookies: Visit) -> None:
    """A crawler runs no component: the question stays unanswered."""
    tab = cookies(components=False)
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
def test_stripped_cookies_reach_the_component_only(server: AppServer, cookies: Visit, through: str) -> None:
    """Behind a stripping proxy the handshake has Streamlit's own cookies only; the component sees all."""
    jar = {"drink": "tea", "_streamlit_xsrf": "x"}
    with StrippingProxy(server.url) as proxy:
        tab = cookies(proxy.url, jar=jar) if through == "proxy" else cookies(jar=jar, strip_cookies=True)
        kept = [("_streamlit_xsrf", "x")] if through == "proxy" else []
        assert f"Handshake {kept}" in tab.texts()
        assert "Answer {'drink': 'tea', '_streamlit_xsrf': 'x'}" in tab.texts()
        tab.close()


@pytest.mark.browser
def test_a_browser_agrees_with_the_visitor(server: AppServer, context: BrowserContext, page: Page) -> None:
    """Real Chromium: the same answer, the same cookie, and the cookie in the next handshake and answer."""
    open_app(page, f"{server.url}/?case=cookies")
    page.get_by_text("Answer {").wait_for()
    assert count_iframes(page) == 1
    page.get_by_role("button", name="Set", exact=True).click()
    wait_for_cookie(context, "drink", "black%20tea")
    page.reload()
    page.get_by_text("'drink': 'black tea'").wait_for()
    assert "('drink', 'black%20tea')" in page.get_by_text("Handshake").inner_text()


@pytest.mark.browser
def test_a_recorder_sees_every_text(server: AppServer, page: Page) -> None:
    """The texts of an element are recorded in order, from before it was there."""
    metric = '[data-testid="stMetricValue"]'
    record_text(page, metric)
    open_app(page, server.url)
    page.locator(metric).first.get_by_text("0").wait_for()
    page.get_by_role("button", name="Increment").click()
    page.locator(metric).first.get_by_text("1").wait_for()
    assert recorded_text(page, metric)[0] is None
    assert [text for text in recorded_text(page, metric) if text] == ["0", "1"]


def test_a_visitor_that_cannot_connect_says_so() -> None:
    """Nobody listens: the error is the system's own."""
    with pytest.raises(ConnectionRefusedError):
        Visitor("http://127.0.0.1:1")
