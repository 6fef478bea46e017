"""What a visitor sees in a real browser: a state that is there again, at once, and nothing of how."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from support import AppServer, StrippingProxy, write_app
from support.browser import (
    click_at_once,
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
)
from support.server import WITH_MIDDLEWARE, SecureServer, self_signed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Served
    from playwright.sync_api import Browser, BrowserContext, Page, Route

pytestmark = pytest.mark.browser

DAY = 24 * 3600

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


NO_QUESTION = """
from persist_session import configure

configure(ask_browser=False)
"""


# A reload


def test_a_reload_restores_in_one_run_without_a_flash(in_each_mode: Served, page: Page) -> None:
    """The first thing that a reloaded page shows is the restored value, in one run, and no iframe is ever in it."""
    server = in_each_mode(COUNTER)
    record_text(page, ".st-key-count")
    record_text(page, "iframe")
    visit_first(page, server)
    for _ in range(3):
        press(page, "Add")
    reload_app(page)
    press(page, "Look")
    assert [text for text in recorded_text(page, ".st-key-count") if text] == ["Count 3"]
    assert recorded_text(page, "iframe") == [None]
    assert run_shown(page) == 2, "one for the reload, one for the click"


def test_a_first_visit_takes_two_runs(served: Served, page: Page) -> None:
    """The browser is asked in the first run and gets its cookie in the second; no third one follows."""
    server = served(COUNTER)
    visit_first(page, server)
    press(page, "Look")
    assert run_shown(page) == 3, "two for the visit, one for the click"


def test_a_first_visit_takes_one_run_where_the_browser_is_not_asked(in_each_mode: Served, page: Page) -> None:
    """With `ask_browser=False` the cookie is set in the first run, and a reload restores as ever."""
    server = in_each_mode(f"{NO_QUESTION}{COUNTER}")
    visit_first(page, server)
    press(page, "Add")
    assert run_shown(page) == 2, "one for the visit, one for the click"
    reload_app(page)
    assert shown(page, "count") == "Count 1"


def test_a_killed_server_comes_back_with_the_state(in_each_mode: Served, page: Page) -> None:
    """After SIGKILL and a new start the open page goes on where it was, and so does a reloaded one."""
    server = in_each_mode(COUNTER)
    visit_first(page, server)
    press(page, "Add")
    server.kill()
    page.wait_for_function(f"() => {CONNECTION} !== 'CONNECTED'")
    server.start()
    page.wait_for_function(f"() => {CONNECTION} === 'CONNECTED'")
    assert shown(page, "count") == "Count 1"
    page.get_by_role("button", name="Add").click()
    page.get_by_text("Count 2").wait_for()
    wait_idle(page)
    reload_app(page)
    assert shown(page, "count") == "Count 2"


def test_another_browser_gets_a_state_of_its_own(in_each_mode: Served, page: Page, chromium: Browser) -> None:
    """A visitor without the cookie starts fresh, and leaves the first one's state alone."""
    server = in_each_mode(COUNTER)
    visit_first(page, server)
    press(page, "Add")
    with chromium.new_context() as context:
        another = context.new_page()
        visit_first(another, server)
        assert shown(another, "count") == "Count 0"
        press(another, "Add")
        press(another, "Add")
    reload_app(page)
    assert shown(page, "count") == "Count 1"


# The cookie


def test_the_cookie_is_as_promised(in_each_mode: Served, page: Page) -> None:
    """It is called after state and port, lasts 30 days, stays on the site, and belongs to the whole site."""
    server = in_each_mode(COUNTER)
    visit_first(page, server)
    cookie = cookie_of(page.context, f"app-state-{server.port}")
    assert abs(cookie["expires"] - time.time() - 30 * DAY) < 120
    assert (cookie["sameSite"], cookie["path"], cookie["domain"]) == ("Lax", "/", "127.0.0.1")
    assert not cookie["secure"]
    assert cookie["httpOnly"] == is_served_by_the_server(server)
    assert set(cookie["value"]) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~-")


def test_a_base_path_keeps_the_cookie_to_itself(in_each_mode: Served, page: Page) -> None:
    """Below `server.baseUrlPath` the cookie's path is that path, and a reload restores in one run."""
    server = in_each_mode(COUNTER, options={"server.baseUrlPath": "shop"})
    record_text(page, "iframe")
    visit_first(page, server)
    press(page, "Add")
    assert cookie_of(page.context, f"app-state-{server.port}")["path"] == "/shop"
    reload_app(page)
    press(page, "Look")
    assert shown(page, "count") == "Count 1"
    assert recorded_text(page, "iframe") == [None]
    assert run_shown(page) == 2


def test_two_apps_on_one_host_leave_each_other_alone(in_each_mode: Served, page: Page) -> None:
    """Two ports of one host, one name, different keys, one browser: each app keeps its own state and cookie."""
    servers = [in_each_mode(COUNTER), in_each_mode(f"{COUNTER}st.text('The other app')\n")]
    pages = [page, page.context.new_page()]
    for tab, server, clicks in zip(pages, servers, (1, 2), strict=True):
        visit_first(tab, server)
        for _ in range(clicks):
            press(tab, "Add")
    for count in (2, 3):
        for tab in pages:
            tab.bring_to_front()  # a browser draws a page behind another one once a second
            reload_app(tab)
            press(tab, "Add")
        assert [shown(tab, "count") for tab in pages] == [f"Count {count}", f"Count {count + 1}"]


def test_a_clear_gives_a_fresh_state_and_another_cookie(served: Served, page: Page) -> None:
    """The button clears at once, the record is gone, the browser gets another id, and a reload stays fresh."""
    server = served(COUNTER)
    others = records_of(server)
    old = visit_first(page, server)
    press(page, "Add")
    reload_app(page)
    (record,) = records_of(server) - others
    press(page, "Clear")
    assert shown(page, "count") == "Count 0"
    assert record not in records_of(server)
    new = wait_for_other_cookie(page, f"app-state-{server.port}", old)
    assert new.split(".")[0] != old.split(".")[0]
    reload_app(page)
    assert shown(page, "count") == "Count 0"
    press(page, "Add")
    assert run_shown(page) == 2
    reload_app(page)
    assert shown(page, "count") == "Count 1"


def test_a_stripping_proxy_costs_a_run_and_no_cookie(served: Served, page: Page) -> None:
    """Where handshakes come without cookies a reload restores in two runs, and the cookie stays what it was."""
    server = served(COUNTER)
    with StrippingProxy(server.url) as proxy:
        name = f"app-state-{proxy.url.rpartition(':')[2]}"
        open_app(page, proxy.url)
        cookie = wait_for_cookie(page.context, name)
        wait_idle(page)
        press(page, "Add")
        press(page, "Add")
        for _ in range(2):
            page.reload()
            page.get_by_text("Count 2").wait_for()
            wait_idle(page)
            press(page, "Look")
            assert run_shown(page) == 3, "two for the reload, one for the click"
            assert shown(page, "count") == "Count 2"
            assert cookie_of(page.context, name)["value"] == cookie
        page.close()


def test_what_was_done_before_the_state_was_found_is_added_to_it(in_each_mode: Served, page: Page) -> None:
    """Behind such a proxy, a click that was faster than the browser's answer: the restored state has both."""
    server = in_each_mode(LEAVING, files=LEAVING_FILES)
    with StrippingProxy(server.url) as proxy:
        open_app(page, proxy.url)
        wait_for_cookie(page.context, name_behind(proxy))
        wait_idle(page)
        press(page, "Add")
        answer = hold_answer(page)
        reload_app(page)
        press(page, "Rerun", runs=2, early=True)
        assert shown(page, "log") == "Log: Rerun"
        answer()
        page.get_by_text("Log: Add Rerun").wait_for()
        wait_idle(page)
        page.reload()
        page.get_by_text("Log: Add Rerun").wait_for()
        page.close()


def test_a_state_that_is_cleared_before_it_was_found_is_cleared(in_each_mode: Served, page: Page) -> None:
    """Behind such a proxy, a click on Clear that was faster than the browser's answer: the record goes with it."""
    server = in_each_mode(COUNTER)
    others = records_of(server)
    with StrippingProxy(server.url) as proxy:
        open_app(page, proxy.url)
        old = wait_for_cookie(page.context, name_behind(proxy))
        wait_idle(page)
        press(page, "Add")
        (record,) = records_of(server) - others
        answer = hold_answer(page)
        reload_app(page)
        press(page, "Clear", early=True)
        answer()
        eventually(page, lambda: cookie_of(page.context, name_behind(proxy))["value"][:32] != old[:32])
        wait_idle(page)
        eventually(page, lambda: not record.exists())
        assert shown(page, "count") == "Count 0"
        press(page, "Add")
        page.reload()
        page.get_by_text("Count 1").wait_for()
        page.close()


def test_a_secure_page_has_a_cookie_that_no_sibling_can_plant(tmp_path: Path, chromium: Browser) -> None:
    """On https the cookie's name begins with `__Host-`, it is Secure, and a reload restores."""
    certificate = self_signed(tmp_path)
    with (
        SecureServer(write_app(tmp_path, COUNTER), options=certificate) as server,
        chromium.new_context(ignore_https_errors=True) as context,
    ):
        page = context.new_page()
        open_app(page, server.url)
        wait_for_cookie(context, f"__Host-app-state-{server.port}")
        wait_idle(page)
        press(page, "Add")
        reload_app(page)
        press(page, "Look")
        assert shown(page, "count") == "Count 1"
        assert run_shown(page) == 2
        assert cookie_of(context, f"__Host-app-state-{server.port}")["secure"]


# Leaving the block in other ways than by its end

LEAVING = numbered("""
    import time
    from pathlib import Path

    import streamlit as st
    from persist_session import persistent_state
    from visitor import AppState

    with persistent_state("app-state", AppState) as s:
        pressed = [each for each in ("Add", "Rerun", "Stop", "Switch", "Long", "Sleep", "Fail") if st.button(each)]
        for each in pressed:
            s.log.append(each)
            Path("heard").touch()
        if "Rerun" in pressed:
            st.rerun()
        if "Stop" in pressed:
            st.stop()
        if "Switch" in pressed:
            st.switch_page("pages/other.py")
        if "Fail" in pressed:
            raise ValueError("Broken on purpose")
        if "Long" in pressed:
            st.text("Working")
            while True:
                time.sleep(0.01)
                st.empty()
        if "Sleep" in pressed:
            st.text("Working")
            time.sleep(1)
    if "Sleep" in pressed:
        Path("slept").touch()
    with st.container(key="log"):
        st.text(f"Log: {' '.join(s.log)}")
""")
OTHER_PAGE = """
    import streamlit as st
    from persist_session import persistent_state
    from visitor import AppState

    with persistent_state("app-state", AppState) as s, st.container(key="other"):
        st.text(f"Other: {' '.join(s.log)}")
"""
VISITOR = """
    class AppState:
        def __init__(self):
            self.log = []
"""
LEAVING_FILES = {"visitor.py": VISITOR, "pages/other.py": OTHER_PAGE}


@pytest.fixture
def leaving(in_each_mode: Served) -> AppServer:
    """Return a server of an app that leaves its block in every way that there is."""
    return in_each_mode(LEAVING, files=LEAVING_FILES)


@pytest.mark.parametrize("way", ["Rerun", "Stop", "Switch"])
def test_the_first_change_of_a_first_visit_survives(leaving: AppServer, chromium: Browser, way: str) -> None:
    """A click as early as a browser can, which leaves the block by rerun, stop or switch: kept, with its cookie."""
    heard, heard_of = 0, leaving.app.parent / "heard"
    for _ in range(10):
        with chromium.new_context() as context:
            page = context.new_page()
            is_heard = click_at_once(page, leaving.url, way, heard_of)
            wait_for_cookie(context, f"app-state-{leaving.port}")
            wait_idle(page)

            def is_kept(page: Page = page) -> bool:
                open_app(page, leaving.url)  # a run that the app has heard of may still be on its way
                return shown(page, "log").split()[1:] == [way] * heard_of.exists()

            eventually(page, is_kept, 60)
        heard += is_heard
        if heard == 3:
            return
    pytest.fail("The app heard too few of the clicks.")


def test_stop_rerun_and_switch_save(leaving: AppServer, page: Page) -> None:
    """Streamlit's own ways out of a block save what was done before them."""
    visit_first(page, leaving)
    press(page, "Stop")
    press(page, "Rerun", runs=2)
    assert shown(page, "log") == "Log: Stop Rerun"
    page.get_by_role("button", name="Switch", exact=True).click()
    page.get_by_text("Other: Stop Rerun Switch").wait_for()
    open_app(page, leaving.url)
    assert shown(page, "log") == "Log: Stop Rerun Switch"


def test_a_click_into_a_long_run_loses_neither(leaving: AppServer, page: Page) -> None:
    """A second click ends a run that calls Streamlit all the time: both changes are there, also after a reload."""
    visit_first(page, leaving)
    for _ in range(2):
        page.get_by_role("button", name="Long", exact=True).click()
        page.get_by_text("Working").wait_for()
        press(page, "Add", early=True)
    assert shown(page, "log") == "Log: Long Add Long Add"
    reload_app(page)
    assert shown(page, "log") == "Log: Long Add Long Add"


def test_a_click_into_a_sleeping_run_loses_neither(leaving: AppServer, page: Page) -> None:
    """A run that sleeps ends long after the one that took its place: both changes are there, whoever ended last."""
    (leaving.app.parent / "slept").unlink(missing_ok=True)
    visit_first(page, leaving)
    page.get_by_role("button", name="Sleep", exact=True).click()
    page.get_by_text("Working").wait_for()
    press(page, "Add", early=True)
    assert shown(page, "log") == "Log: Sleep Add"
    eventually(page, (leaving.app.parent / "slept").exists)
    reload_app(page)
    assert shown(page, "log") == "Log: Sleep Add"


def test_a_closed_tab_saves(leaving: AppServer, page: Page) -> None:
    """A tab that is closed in the middle of a run leaves behind what the run had done."""
    visit_first(page, leaving)
    press(page, "Add")
    page.get_by_role("button", name="Long", exact=True).click()
    page.get_by_text("Working").wait_for()
    another = page.context.new_page()
    page.close()
    open_app(another, leaving.url)

    def is_restored() -> bool:
        reload_app(another)
        return shown(another, "log") == "Log: Add Long"

    eventually(another, is_restored)


def test_an_exception_shows_and_discards(leaving: AppServer, page: Page) -> None:
    """The error is on the page as always; the next run and a reload have the last saved state."""
    visit_first(page, leaving)
    press(page, "Add")
    press(page, "Fail")
    assert "ValueError: Broken on purpose" in page.get_by_test_id("stException").inner_text()
    press(page, "Add")
    assert page.get_by_test_id("stException").count() == 0
    assert shown(page, "log") == "Log: Add Add"
    press(page, "Fail")
    reload_app(page)
    assert page.get_by_test_id("stException").count() == 0
    assert shown(page, "log") == "Log: Add Add"


# By hand

BY_HAND = numbered("""
    import streamlit as st
    from persist_session import load_state, save_state

    class AppState:
        def __init__(self):
            self.count = 0

    def add():
        state.count += 1
        save_state("app-state", state)

    def load_and_add():
        loaded = load_state("app-state", AppState)
        loaded.count += 1
        save_state("app-state", loaded)

    state = load_state("app-state", AppState)
    st.button("Callback", on_click=add)
    st.button("Callback that loads", on_click=load_and_add)
    if st.button("Save"):
        state.count += 1
        save_state("app-state", state)
    if st.button("Replace"):
        state = AppState()
        state.count = 40
        save_state("app-state", state)
    if st.button("Forget"):
        state.count += 100
    with st.container(key="count"):
        st.text(f"Count {state.count}")
""")


def test_what_is_saved_by_hand_stays(in_each_mode: Served, page: Page) -> None:
    """Saves in the script and in callbacks are there after a reload; what was not saved stays in its tab only."""
    server = in_each_mode(BY_HAND)
    visit_first(page, server)
    for count, button in enumerate(("Save", "Callback", "Callback that loads"), start=1):
        press(page, button)
        assert shown(page, "count") == f"Count {count}"
    press(page, "Forget")
    assert shown(page, "count") == "Count 103"
    reload_app(page)
    assert shown(page, "count") == "Count 3"
    press(page, "Replace")
    press(page, "Callback")
    reload_app(page)
    assert shown(page, "count") == "Count 41"


@pytest.mark.parametrize("button", ["Save", "Callback"])
def test_a_save_by_hand_before_the_browser_answered_stays(in_each_mode: Served, page: Page, button: str) -> None:
    """What was saved while the question was still on its way, if there is one, is there after a reload."""
    server = in_each_mode(BY_HAND)
    answer = hold_answer(page)
    open_app(page, server.url)
    press(page, button, early=True)
    assert shown(page, "count") == "Count 1"
    answer()
    wait_for_cookie(page.context, f"app-state-{server.port}")
    wait_idle(page)
    reload_app(page)
    assert shown(page, "count") == "Count 1"


# Wherever the block stands

# A state that is told by what its factory drew: nothing has to be clicked, or submitted, for it to be kept.
PLACES = numbered("""
    import secrets
    import time
    from contextlib import nullcontext

    import streamlit as st
    from persist_session import persistent_state

    class AppState:
        def __init__(self):
            self.token = secrets.token_hex(4)

    def block():
        st.text("Above")
        with persistent_state("app-state", AppState) if kind == "persistent" else nullcontext(AppState()) as s:
            st.text("Inside")
            tokens.append(s.token)
        with st.container(key="after"):
            st.text(f"After {s.token}")

    def form():
        with st.form("form"):
            block()
            st.form_submit_button("Submit")

    def popover():
        with st.popover("Popover"):
            block()

    place, kind = st.query_params["place"], st.query_params["kind"]
    tokens = []
    if place == "main body":
        block()
    elif place == "column":
        with st.columns(2)[1]:
            block()
    elif place == "tab":
        with st.tabs(["One", "Two"])[1]:
            block()
    elif place == "form":
        form()
    elif place == "sidebar":
        with st.sidebar:
            block()
    elif place == "expander":
        with st.expander("Expander"):
            block()
    elif place == "open expander":
        with st.expander("Expander", expanded=True):
            block()
    elif place == "popover":
        popover()
    elif place == "dialog":
        st.dialog("Dialog")(block)()
    elif place == "form in a dialog":
        st.dialog("Dialog")(form)()
    elif place == "fragment":
        st.fragment(block)()
    elif place == "fragment in the sidebar":
        with st.sidebar:
            st.fragment(block)()
    elif place == "popover in a fragment":
        st.fragment(popover)()
    elif place == "parallel fragment":
        st.fragment(block, parallel=True)()
        while not tokens:  # it runs beside the script
            time.sleep(0.01)
    with st.container(key="below"):
        st.text(f"Below {tokens[0]}")
""")
EVERYWHERE = [
    "main body",
    "column",
    "tab",
    "form",
    "sidebar",
    "expander",
    "open expander",
    "popover",
    "dialog",
    "form in a dialog",
    "fragment",
    "fragment in the sidebar",
    "popover in a fragment",
    "parallel fragment",
]

# Where an element stands, whenever that changed; in a dialog, which comes in gliding, within the dialog.
# A form's button and an expander's content may come late, and move what is below: only the last place counts. So does
# what comes into a container later than what stands below it.
WATCH = """() => {
    const seen = window.__places = { after: [], below: [] };
    const isFormAbove = /form|expander/.test(location.search);
    const look = () => {
        for (const [name, places] of Object.entries(seen)) {
            const found = document.querySelector(`.st-key-${name}`);
            const box = found?.getBoundingClientRect();
            if (!box?.height) {
                continue;
            }
            const dialog = found.closest('[role="dialog"]');
            const y = Math.round(box.y - (dialog?.getBoundingClientRect().y ?? 0));
            if (name === 'below' && isFormAbove) {
                places.length = 0;
            }
            if (name === 'after' && !places.length) {
                seen.below.length = 0;
            }
            if (places.at(-1) !== y) {
                places.push(y);
            }
        }
    };
    const frame = () => { look(); requestAnimationFrame(frame); };
    new MutationObserver(look).observe(document, { subtree: true, childList: true, attributes: true });
    frame();
}"""


@pytest.mark.parametrize("place", EVERYWHERE)
def test_the_page_does_not_move(served: Served, chromium: Browser, place: str) -> None:
    """Beside, below and in every container: no element ever stands elsewhere than in the app without the library."""
    server = served(PLACES)
    with chromium.new_context() as context:
        plain = watched_page(context, server, place, "plain")
        expected = places_seen(plain)
        plain.close()
        page = watched_page(context, server, place, "persistent")
        wait_for_cookie(context, f"app-state-{server.port}")
        wait_idle(page)
        assert places_seen(page) == expected
        token = shown(page, "below")
        record_text(page, ".st-key-below")
        record_text(page, "iframe")
        reload_app(page)
        assert [text for text in recorded_text(page, ".st-key-below") if text] == [token]
        assert recorded_text(page, "iframe") == [None]
        assert places_seen(page) == expected


def test_the_servers_cookie_needs_no_element_anywhere(served: Served, page: Page) -> None:
    """In every container a visitor finds one and the same state, on first visits too, without any iframe."""
    server = served(PLACES, asgi=WITH_MIDDLEWARE)
    record_text(page, "iframe")
    tokens = []
    for place in EVERYWHERE:
        open_app(page, f"{server.url}/?place={place}&kind=persistent")
        tokens.append(shown(page, "below"))
        assert recorded_text(page, "iframe") == [None]
    assert tokens == tokens[:1] * len(EVERYWHERE)


def watched_page(context: BrowserContext, server: AppServer, place: str, kind: str) -> Page:
    """Return a tab that has been watched since before the app was loaded."""
    page = context.new_page()
    page.add_init_script(f"({WATCH})()")
    open_app(page, f"{server.url}/?place={place}&kind={kind}")
    return page


def places_seen(page: Page) -> dict[str, list[int]]:
    """Where the elements stood since the page was loaded, the present moment included."""
    if page.get_by_test_id("stForm").count():
        page.get_by_role("button", name="Submit").wait_for()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    places: dict[str, list[int]] = page.evaluate("() => window.__places")
    return places


# What tests ask of page, context and server

CONNECTION = "document.querySelector('[data-testid=\"stApp\"]').getAttribute('data-test-connection-state')"


def is_served_by_the_server(server: AppServer) -> bool:
    """Whether it is the server that sets the cookie."""
    return server.app.name == "asgi.py"


def name_behind(proxy: StrippingProxy) -> str:
    """Return what the cookie is called behind the proxy."""
    return f"app-state-{proxy.url.rpartition(':')[2]}"


def records_of(server: AppServer) -> set[Path]:
    """Return the files of all records."""
    return set(server.data_folder.rglob("*.pickle"))


def hold_answer(page: Page) -> Callable[[], None]:
    """Keep the browser from answering the library, by iframe or by errand, until the returned function is called."""
    held: list[Route] | None = []

    def hold(route: Route) -> None:
        if held is None:
            route.continue_()
        else:
            held.append(route)

    def release() -> None:
        nonlocal held
        routes, held = held or [], None
        for route in routes:
            route.continue_()

    page.route("**/component/**", hold)
    page.route("**/_persist_session?*", hold)
    return release


def wait_for_other_cookie(page: Page, name: str, old: str) -> str:
    """Return the cookie's value as soon as it is not the old one any more."""
    eventually(page, lambda: cookie_of(page.context, name)["value"] != old)
    return str(cookie_of(page.context, name)["value"])
