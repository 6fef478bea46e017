"""The decorator in a real browser: attributes that stay, with one load and one save for a whole run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.browser import (
    click_at_once,
    eventually,
    numbered,
    press,
    reload_app,
    run_shown,
    shown,
    visit_first,
    wait_for_cookie,
    wait_idle,
)

if TYPE_CHECKING:
    from conftest import Served
    from playwright.sync_api import Browser, Page

    from support import AppServer

pytestmark = pytest.mark.browser

# A store that leaves one letter in a file for each time that it is asked.
COUNTED_STORE = """
    from pathlib import Path

    from persist_session import FileStore

    class CountedStore(FileStore):
        def note(self, letter):
            with Path("asked").open("a") as asked:
                asked.write(letter)

        def read(self, name, key):
            self.note("r")
            return super().read(name, key)

        def write(self, name, key, data, **options):
            self.note("w")
            return super().write(name, key, data, **options)

        def delete(self, name, key):
            self.note("d")
            super().delete(name, key)

        def set_aside(self, name, key, **options):
            self.note("a")
            super().set_aside(name, key, **options)

    store = CountedStore(Path("records").absolute())
"""

ON_A_CLASS = numbered("""
    from pathlib import Path

    import counted_store
    import streamlit as st
    from persist_session import configure, persist

    configure(store=counted_store.store)

    @persist("app-state")
    class AppState:
        def __init__(self):
            self.count = 0
            self.seen = []

    def add():
        AppState().count += 1
        Path("heard").touch()

    @st.fragment
    def part():
        state = AppState()
        if st.button("Add in the fragment"):
            state.count += 1
        if st.button("Fail in the fragment"):
            state.count += 100
            raise ValueError("Broken in the fragment")
        with st.container(key="part"):
            st.text(f"Part {state.count}")

    state = AppState()
    if st.button("Add"):
        for _ in range(100):
            AppState().count += 0.01
        state.count = round(state.count)
    if st.button("Append"):
        state.seen.append(len(state.seen))
    if st.button("Add and rerun"):
        state.count += 1
        Path("heard").touch()
        st.rerun()
    if st.button("Add and stop"):
        state.count += 1
        Path("heard").touch()
        st.stop()
    st.button("Add in a callback", on_click=add)
    if st.button("Clear"):
        state.clear_cookie_state()
        state.count += 100
        state = AppState()
    failed = st.button("Fail")
    if failed:
        state.count += 100
    with st.container(key="count"):
        st.text(f"Count {state.count}, seen {state.seen}, {isinstance(state, AppState)}, {AppState() is state}")
    part()
    if failed:
        raise ValueError("Broken on purpose")
""")

ON_A_FUNCTION = numbered("""
    import streamlit as st
    from persist_session import persist

    class AppState:
        def __init__(self):
            self.count = 0

    @persist("app-state", AppState)
    def add(state, step, *, fail=False):
        state.count += step
        if fail:
            raise ValueError("Broken on purpose")
        return state.count

    if st.button("Add"):
        add(2)
    if st.button("Fail"):
        add(100, fail=True)
    with st.container(key="count"):
        st.text(f"Count {add(0)}")
""")


@pytest.fixture
def on_a_class(in_each_mode: Served) -> AppServer:
    """Return a server of an app with a decorated class, whose session state has to be picklable."""
    strict = {"runner.enforceSerializableSessionState": True}
    return in_each_mode(ON_A_CLASS, files={"counted_store.py": COUNTED_STORE}, options=strict)


def test_attributes_stay(on_a_class: AppServer, page: Page) -> None:
    """What was set, appended, or changed in a callback, before a rerun and before a stop is there after a reload."""
    visit_first(page, on_a_class)
    for button in ("Add", "Add in a callback", "Add and rerun", "Append", "Append", "Add and stop"):
        press(page, button, runs=1 + (button == "Add and rerun"))
    reload_app(page)
    assert shown(page, "count") == "Count 4, seen [0, 1], True, True"
    press(page, "Add")
    assert shown(page, "count") == "Count 5, seen [0, 1], True, True"
    assert run_shown(page) == 2, "one for the reload, one for the click"
    assert_no_exception(page)


def test_the_first_change_of_a_first_visit_survives(on_a_class: AppServer, chromium: Browser) -> None:
    """A click as early as a browser can is kept, whichever way the run ends."""
    unheard = {"Add and rerun", "Add and stop", "Add in a callback"}
    heard_of = on_a_class.app.parent / "heard"
    for button in sorted(unheard) * 10:
        if button not in unheard:
            continue
        with chromium.new_context() as context:
            page = context.new_page()
            is_heard = click_at_once(page, on_a_class.url, button, heard_of)
            wait_for_cookie(context, f"app-state-{on_a_class.port}")
            wait_idle(page)

            def is_kept(page: Page = page) -> bool:
                reload_app(page)  # a run that the app has heard of may still be on its way
                return shown(page, "count") == f"Count {int(heard_of.exists())}, seen [], True, True"

            eventually(page, is_kept, 60)
        unheard -= {button} if is_heard else set()
    assert not unheard


def test_a_run_loads_once_and_saves_once(on_a_class: AppServer, page: Page) -> None:
    """A reload reads the store once; a run of 100 changes writes once and reads nothing; without a change: neither."""
    asked = on_a_class.app.parent / "asked"
    visit_first(page, on_a_class)
    for action, expected in ((reload_app, "r"), (click_add, "w"), (click_add, "w"), (look, "")):
        asked.write_text("")
        action(page)
        assert asked.read_text() == expected
    assert shown(page, "count") == "Count 2, seen [], True, True"


def test_an_exception_discards(on_a_class: AppServer, page: Page) -> None:
    """The error is on the page; what its run changed is not there in the next run, nor after a reload."""
    visit_first(page, on_a_class)
    press(page, "Add")
    press(page, "Fail")
    assert "ValueError: Broken on purpose" in page.get_by_test_id("stException").inner_text()
    press(page, "Add")
    assert shown(page, "count") == "Count 2, seen [], True, True"
    press(page, "Fail")
    reload_app(page)
    assert shown(page, "count") == "Count 2, seen [], True, True"
    assert_no_exception(page)


def test_a_fragment_saves_and_discards_by_itself(on_a_class: AppServer, page: Page) -> None:
    """A fragment's rerun loads and saves as a run does; an exception in it throws away its own changes only."""
    visit_first(page, on_a_class)
    press(page, "Add")
    runs = run_shown(page)
    page.get_by_role("button", name="Add in the fragment").click()
    page.get_by_text("Part 2").wait_for()
    page.get_by_role("button", name="Fail in the fragment").click()
    page.get_by_text("ValueError: Broken in the fragment").wait_for()
    page.get_by_role("button", name="Add in the fragment").click()
    page.get_by_text("Part 3").wait_for()
    wait_idle(page)
    assert run_shown(page) == runs, "clicks in the fragment run the fragment only"
    reload_app(page)
    assert shown(page, "count") == "Count 3, seen [], True, True"
    assert shown(page, "part") == "Part 3"


def test_the_method_clears(on_a_class: AppServer, page: Page) -> None:
    """`state.clear_cookie_state()` makes the next instance of the same run a fresh one, and a reload stays fresh."""
    old = visit_first(page, on_a_class)
    press(page, "Add")
    press(page, "Clear")
    assert shown(page, "count") == "Count 0, seen [], True, True"
    name = f"app-state-{on_a_class.port}"
    if on_a_class.app.name == "asgi.py":
        reload_app(page)  # no script can replace the server's cookie
    eventually(page, lambda: wait_for_cookie(page.context, name)[:32] != old[:32])
    wait_idle(page)
    reload_app(page)
    assert shown(page, "count") == "Count 0, seen [], True, True"
    press(page, "Add")
    reload_app(page)
    assert shown(page, "count") == "Count 1, seen [], True, True"
    assert_no_exception(page)


def test_a_function_is_a_block(in_each_mode: Served, page: Page) -> None:
    """Every call of the function changes the state and saves it; a call that raises changes nothing."""
    server = in_each_mode(ON_A_FUNCTION)
    visit_first(page, server)
    press(page, "Add")
    press(page, "Fail")
    assert "ValueError: Broken on purpose" in page.get_by_test_id("stException").inner_text()
    press(page, "Add")
    assert shown(page, "count") == "Count 4"
    reload_app(page)
    assert shown(page, "count") == "Count 4"
    assert run_shown(page) == 1


def click_add(page: Page) -> None:
    """Make one run that changes the state a hundred times."""
    press(page, "Add")


def look(page: Page) -> None:
    """Make one run that changes nothing."""
    number = run_shown(page)
    page.keyboard.press("r")
    eventually(page, lambda: run_shown(page) == number + 1)
    wait_idle(page)


def assert_no_exception(page: Page) -> None:
    """Fail if the page shows an exception."""
    assert page.get_by_test_id("stException").all_inner_texts() == []
