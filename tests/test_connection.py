"""A connection that is lost, for a moment or for long, in a real browser: the state is there again."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from support import AppServer, CuttableProxy
from support.browser import count_iframes, eventually, open_app, shown, wait_for_cookie, wait_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from conftest import Served
    from playwright.sync_api import Locator, Page

    Visit = Callable[[Mapping[str, Any]], "Tab"]

pytestmark = pytest.mark.browser

# "Add late" holds its run inside of the block until a file, the gate, is there; "Add then" holds it before the block.
COUNTER = """
    import time
    import uuid
    from pathlib import Path

    import streamlit as st
    from persist_session import persistent_state

    gate = Path(st.query_params["gates"]) / "gate"

    def hold():
        gate.with_name("held").touch()
        while not gate.exists():
            time.sleep(0.01)

    class AppState:
        def __init__(self):
            self.count = 0

    if is_then := st.button("Add then"):
        hold()
    with persistent_state("app-state", AppState) as s:
        s.count += is_then
        if st.button("Add"):
            s.count += 1
        if st.button("Add late"):
            s.count += 1
            hold()
        with st.container(key="count"):
            st.text(f"Count {s.count}")
    with st.container(key="session"):
        st.text(st.session_state.setdefault("session", uuid.uuid4().hex))
"""

# A session is forgotten as soon as its connection is lost, and not only two minutes later.
FORGETFUL = {"server.disconnectedSessionTTL": 0}

in_time_and_after = pytest.mark.parametrize("options", [{}, FORGETFUL], ids=["in time", "forgotten"])

STATE = "document.querySelector('[data-testid=\"stApp\"]')?.getAttribute('data-test-connection-state')"
SCRIPT_STATE = "document.querySelector('[data-testid=\"stApp\"]')?.getAttribute('data-test-script-state')"

# In seconds. A page tries to connect again after half a second, and each time waits for twice as long.
PATIENCE = 40.0


class Tab:
    """A visitor's tab on the app, through a proxy; they have counted to two.

    Attributes:
        page: The page.
        server: What serves it.
        proxy: What it is connected through.
        session: Streamlit's session, by the name that the app gave it.
    """

    def __init__(self, page: Page, server: AppServer, proxy: CuttableProxy, gates: Path) -> None:
        self.page, self.server, self.proxy = page, server, proxy
        self._gates, self._others = gates, _records(server)
        open_app(page, f"{proxy.url}/?gates={quote(str(gates))}")
        wait_for_cookie(page.context, f"app-state-{proxy.url.rpartition(':')[2]}")
        wait_idle(page)
        self._cookie = self._look_at_cookie()
        self.add_to(1)
        self.add_to(2)
        self.session = self.shown_session()

    # What the visitor does

    def button(self, label: str) -> Locator:
        """Return the button of this label."""
        return self.page.get_by_role("button", name=label, exact=True)

    def add_to(self, count: int) -> None:
        """Press the button, and see that it makes this count."""
        self.button("Add").click()
        self.see(count)

    def hold(self, label: str) -> None:
        """Press a button whose run is held, and return when it is, and the page knows that it runs.

        A page that loses its connection before it has heard of a run asks for none when it is connected again.
        """
        self.button(label).click()
        eventually(self.page, (self._gates / "held").exists, PATIENCE)
        self.page.wait_for_function(f"() => {SCRIPT_STATE} === 'running'", timeout=PATIENCE * 1000)

    def let_go(self) -> None:
        """Let the held run go on."""
        (self._gates / "gate").touch()

    # What is there

    def shown_count(self) -> int:
        """Return the count on the page."""
        return int(shown(self.page, "count").removeprefix("Count "))

    def shown_session(self) -> str:
        """Return the name of the session that drew the page."""
        return shown(self.page, "session")

    def see(self, count: int) -> None:
        """Return as soon as the page shows this count, and nothing runs."""
        self.page.get_by_text(f"Count {count}", exact=True).wait_for(timeout=PATIENCE * 1000)
        self.wait_idle()
        assert self.shown_count() == count

    def wait_idle(self) -> None:
        """Return as soon as the page is connected, and nothing runs."""
        wait_idle(self.page, PATIENCE)

    def record(self) -> bytes:
        """Return the record's bytes."""
        (path,) = _records(self.server) - self._others
        return path.read_bytes()

    def expect(self, count: int) -> None:
        """See this count, count on, reload, and see that nothing else has come of the loss."""
        self.see(count)
        self.add_to(count + 1)
        assert self.page.get_by_test_id("stException").count() == 0
        assert count_iframes(self.page) == 0, "the new connection has shown the cookie"
        self.page.reload()
        self.see(count + 1)
        assert self.page.get_by_test_id("stException").count() == 0
        assert self._look_at_cookie() == self._cookie
        assert len(_records(self.server) - self._others) == 1

    def expect_one_of(self, *counts: int) -> None:
        """Expect one of these counts, where it is Streamlit that decides; the page may not have heard of it yet.

        A run that ends with its connection may leave half a page, connected and idle: a reload draws all of it.
        """
        self.page.reload()
        self.page.locator(".st-key-count").wait_for(timeout=PATIENCE * 1000)
        before = self.shown_count()
        self.button("Add").click()
        self.page.wait_for_function(
            "(count) => document.querySelector('.st-key-count').innerText !== `Count ${count}`", arg=before
        )
        self.wait_idle()
        assert self.shown_count() - 1 in counts
        self.expect(self.shown_count())

    def _look_at_cookie(self) -> tuple[str, str, bool]:
        """Return name and id of the state's only cookie, and whether it is HttpOnly."""
        (cookie,) = [cookie for cookie in self.page.context.cookies() if cookie["name"].startswith("app-state")]
        return cookie["name"], cookie["value"].partition(".")[0], cookie["httpOnly"]

    # What happens to the connection

    def lose_connection(self) -> None:
        """Cut the connection, and return as soon as the page knows it."""
        self.proxy.cut()
        self.wait_for_loss()

    def connect_again(self) -> None:
        """Let connections through, and return as soon as the page has one, and nothing runs."""
        self.proxy.restore()
        self.wait_idle()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the server, let it go on after the block, and return when the page is connected and nothing runs."""
        os.kill(self.server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.server.pid, signal.SIGCONT)
        self.wait_idle()

    def wait_for_loss(self) -> None:
        """Return as soon as the page knows that it has no connection."""
        self.page.wait_for_function(f"() => {STATE} !== 'CONNECTED'", timeout=PATIENCE * 1000)


@pytest.fixture
def visit(in_each_mode: Served, page: Page, tmp_path: Path) -> Iterator[Visit]:
    """Return a function that opens a tab on the app, served with these options of Streamlit's."""
    with ExitStack() as proxies:

        def open_tab(options: Mapping[str, Any]) -> Tab:
            server = in_each_mode(COUNTER, options=options)
            return Tab(page, server, proxies.enter_context(CuttableProxy(server.url)), tmp_path)

        yield open_tab
        (tmp_path / "gate").touch()


def _records(server: AppServer) -> set[Path]:
    return set(server.data_folder.rglob("*.pickle"))


# The drop


def test_a_session_that_is_still_there_goes_on(visit: Visit) -> None:
    """Within Streamlit's time to live a new connection goes on with the session, and with its state."""
    tab = visit({})
    tab.lose_connection()
    tab.connect_again()
    tab.see(2)
    tab.add_to(3)
    assert tab.shown_session() == tab.session
    tab.expect(3)


def test_a_forgotten_session_is_replaced(visit: Visit) -> None:
    """After Streamlit's time to live a new connection gets a new session, which has the state from its first run on."""
    tab = visit(FORGETFUL)
    tab.lose_connection()
    tab.connect_again()
    tab.see(2)
    tab.add_to(3)
    assert tab.shown_session() != tab.session
    tab.expect(3)


def test_a_deploy_under_an_open_tab(visit: Visit) -> None:
    """After SIGTERM and a new start the open tab goes on; a button that is pressed in between does nothing."""
    tab = visit({})
    tab.server.stop()
    tab.wait_for_loss()
    tab.button("Add").dispatch_event("click")
    tab.server.start()
    tab.wait_idle()
    tab.expect(2)
    assert tab.shown_session() != tab.session


@in_time_and_after
def test_a_server_that_stood_still(visit: Visit, options: Mapping[str, Any]) -> None:
    """A server that is stopped while the connection is cut, and learns of that only later, has the state."""
    tab = visit(options)
    with tab.stopped():
        tab.lose_connection()
        tab.proxy.restore()
    tab.expect(2)


# A click into a lost connection


def test_a_click_that_never_arrives(visit: Visit) -> None:
    """A click that is lost with the connection counts nowhere, and nothing else is lost with it."""
    tab = visit({})
    tab.proxy.hang()
    tab.button("Add").click()
    tab.lose_connection()
    tab.button("Add").dispatch_event("click")
    tab.connect_again()
    tab.expect(2)


def test_a_click_that_arrives_with_the_end_of_its_connection(visit: Visit) -> None:
    """A click that a stopped server finds together with the connection's end counts or not, but once and for all."""
    tab = visit({})
    with tab.stopped():
        tab.button("Add").click()
        tab.lose_connection()
        tab.proxy.restore()
    tab.expect_one_of(2, 3)


# A run that goes on while the connection is lost


def test_a_block_that_ends_without_a_connection_is_saved(visit: Visit) -> None:
    """What an open block changed is in the store before there is a connection again, and then on the page."""
    tab = visit({})
    before = tab.record()
    tab.hold("Add late")
    tab.lose_connection()
    tab.let_go()
    eventually(tab.page, lambda: tab.record() != before, PATIENCE)
    tab.connect_again()
    tab.expect(3)


@in_time_and_after
def test_a_block_that_ends_after_the_next_connection_is_saved(visit: Visit, options: Mapping[str, Any]) -> None:
    """What it changed is saved though its connection is gone, and the page that has another one goes on from there."""
    tab = visit(options)
    before = tab.record()
    tab.hold("Add late")
    tab.lose_connection()
    tab.connect_again()
    if options:
        eventually(tab.page, lambda: tab.shown_session() != tab.session, PATIENCE)
        tab.see(2)
    else:
        tab.see(3)
    tab.let_go()
    eventually(tab.page, lambda: tab.record() != before, PATIENCE)
    tab.add_to(4)
    tab.expect(4)


def test_a_block_that_a_stopped_server_has_open_is_saved(visit: Visit) -> None:
    """A server that is stopped within a block, and loses the connection meanwhile, saves once it goes on."""
    tab = visit({})
    before = tab.record()
    tab.hold("Add late")
    with tab.stopped():
        tab.lose_connection()
        tab.proxy.restore()
        tab.let_go()
    eventually(tab.page, lambda: tab.record() != before, PATIENCE)
    tab.add_to(4)
    tab.expect(4)


def test_a_run_that_enters_its_block_without_a_connection(visit: Visit) -> None:
    """Streamlit may stop such a run before the block, or it counts; the state stays the visitor's own."""
    tab = visit({})
    tab.hold("Add then")
    tab.lose_connection()
    tab.let_go()
    tab.connect_again()
    tab.expect_one_of(2, 3)
