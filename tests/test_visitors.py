"""Many visitors at once, and one visitor who is faster than the script: no change is lost, no class is mixed up."""

from __future__ import annotations

import json
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import pytest

from support import Visitor, write_app
from support.server import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from conftest import Served, Visit

    from support import AppServer

VISITORS = 10

# What the app under test sees of its own runs, kept for the whole process and out of reach of any module reload.
METER = """
    import json
    import threading
    import time

    import streamlit as st
    from streamlit.runtime.scriptrunner import get_script_run_ctx


    @st.cache_resource
    def meter():
        return {
            "lock": threading.Condition(), "begun": [], "active": {},
            "most": 0, "runs": 0, "met": 0, "wrong": [], "handled": {},
        }


    class running:
        \"\"\"Counts the runs that are under way at once, and lasts until another visitor's run has begun.\"\"\"

        def __enter__(self):
            self.me = get_script_run_ctx().session_id
            self.handled = meter()["handled"]
            with meter()["lock"]:
                meter()["active"][self] = self.me
                meter()["most"] = max(meter()["most"], len(set(meter()["active"].values())))
                meter()["runs"] += 1
                meter()["begun"].append(self.me)
                self.at = len(meter()["begun"])
                meter()["lock"].notify_all()

        def note_click(self):
            self.handled[self.me] = self.handled.get(self.me, 0) + 1

        def meet(self):
            with meter()["lock"]:
                others = lambda: set(meter()["begun"][self.at :]) - {self.me}
                meter()["met"] += bool(meter()["lock"].wait_for(others, 0.3))

        def __exit__(self, *error):
            with meter()["lock"]:
                del meter()["active"][self]


    def check(**facts):
        wrong = [name for name, is_right in facts.items() if not is_right]
        with meter()["lock"]:
            meter()["wrong"] += wrong
        return wrong


    def report():
        seen = meter()
        st.text("report=" + json.dumps({name: seen[name] for name in ("most", "runs", "met", "wrong", "handled")}))
"""

CLASSES = """
    from dataclasses import dataclass
    from enum import Enum


    class Color(Enum):
        RED = 1
        BLUE = 2


    @dataclass
    class Item:
        number: int
        color: Color


    class AppState:
        def __init__(self):
            self.count = 0
            self.other = 0
            self.items = []
"""

# Streamlit takes changed modules out of sys.modules while other visitors' runs import them: Python answers with these
# errors, whatever the module holds.
IMPORTING = """
    import streamlit as st

    while True:
        try:
            import states
            from meter import check, report, running
            if "module" in st.query_params:
                from states import AppState, Color, Item
            break
        except (ImportError, KeyError):
            continue
"""

# What a tab does is told by its query: `case`, and `module` where the classes are not to be the script's own.
CASES = """
    import threading
    import time
    from pathlib import Path

    from persist_session import load_state, persistent_state, save_state

    case = st.query_params.get("case", "look")

    def block():
        return persistent_state("app-state", AppState)

    def item(number):
        return Item(number, Color.BLUE if number % 2 else Color.RED)

    def add(s):
        s.count += 1
        s.items.append(item(s.count))

    def is_right(s):
        items = all(type(each) is Item and each.color is item(each.number).color for each in s.items)
        return type(s) is AppState and items and [each.number for each in s.items] == list(range(1, s.count + 1))

    def show(s):
        is_same = st.session_state.get("seen", s) is s
        st.session_state.seen = s
        st.text(f"{s.count} {is_right(s)} {is_same} {getattr(states, 'EDITED', 0)}")

    def sleep(s):
        show(s)
        while "sleepy" in st.query_params and not Path("awake").exists():
            time.sleep(0.01)

    def add_in_a_block():
        with block() as s:
            add(s)

    def add_by_hand():
        s = load_state("app-state", AppState)
        add(s)
        save_state("app-state", s)

    if case == "report":
        report()

    if case == "count":
        run = running()
        with run:
            # A list's classes are seen by nothing but the caller's own namespace.
            with block() as s, persistent_state("list-state", list) as items:
                if st.button("Go"):
                    add(s)
                    items.append(item(s.count))
                    run.note_click()
                if "meet" in st.query_params:
                    run.meet()
                wrong = check(state=is_right(s), list=[type(each) for each in items] == [Item] * s.count)
                st.text(f"count={s.count} wrong={wrong}")

    if case == "look":
        with block() as s:
            show(s)

    if case == "in the body":
        with block() as s:
            if st.button("Go"):
                add(s)
            sleep(s)

    if case == "by hand":
        s = load_state("app-state", AppState)
        if st.button("Go"):
            add(s)
        sleep(s)
        save_state("app-state", s)

    if case == "in a callback that is given it":
        with block() as s:
            st.button("Go", on_click=add, args=(s,))
            sleep(s)

    if case == "in a callback with a block":
        with block() as s:
            st.button("Go", on_click=add_in_a_block)
            sleep(s)

    if case == "in a callback by hand":
        st.button("Go", on_click=add_by_hand)
        with block() as s:
            sleep(s)

    if case == "in a fragment":
        @st.fragment
        def part():
            with block() as s:
                if st.button("Go"):
                    add(s)
                show(s)

        part()

    if case == "in a dialog":
        @st.dialog("Ask")
        def ask():
            with block() as s:
                if st.button("Go"):
                    add(s)
                show(s)

        if st.button("Open"):
            ask()
        with block() as s:
            pass

    if case == "in parallel fragments":
        at_once = st.cache_resource(lambda: threading.Barrier(2))()

        @st.fragment(parallel=True)
        def left():
            with block() as s:
                at_once.wait(20)
                add(s)
                at_once.wait(20)

        @st.fragment(parallel=True)
        def right():
            with block() as s:
                at_once.wait(20)
                s.other += 1
                at_once.wait(20)

        left()
        right()
"""


def source(*parts: str) -> str:
    """Return one source of several."""
    return "\n".join(textwrap.dedent(part) for part in parts)


APP = source(CLASSES, IMPORTING, CASES)
FILES = {"meter.py": METER, "states.py": CLASSES}


@pytest.fixture
def app(served: Served) -> AppServer:
    """Return the server of APP, which loads edited modules anew, but not this library: an installed one stays."""
    return served(APP, files=FILES, file_watcher="poll", options={"server.folderWatchBlacklist": str(REPOSITORY)})


def shown(tab: Visitor) -> list[str]:
    """Return what the app shows by st.text."""
    return [element.text for element in tab.find("text")]


# Many visitors


def visit_and_click(server: AppServer, query: str, clicks: int, seen: list[str]) -> Visitor:
    """Return a visitor's closed tab after so many clicks; what its runs showed goes to `seen`."""
    with Visitor(server.url, query=f"case=count&meet=1{query}", timeout=120) as tab:
        for _ in range(clicks):
            seen.extend([*shown(tab.click("Go")), *tab.exceptions()])
    return tab


def all_click(server: AppServer, query: str, clicks: int) -> list[Visitor]:
    """Return the tabs of all visitors, who clicked at the same time; every run showed a right state."""
    seen: list[str] = []
    with ThreadPoolExecutor(VISITORS) as pool:
        tabs = list(pool.map(lambda _: visit_and_click(server, query, clicks, seen), range(VISITORS)))
    assert [text for text in seen if not text.endswith("wrong=[]")] == []
    return tabs


def report_of(server: AppServer) -> dict[str, Any]:
    """Return what the app counted of its own runs."""
    with Visitor(server.url, query="case=report") as tab:
        report: dict[str, Any] = json.loads(shown(tab)[-1].removeprefix("report="))
        return report


def assert_all_kept(tabs: Iterable[Visitor], query: str, clicks: int) -> None:
    """Every visitor finds all clicks after a reload, in one run."""
    for tab in tabs:
        with tab.new_tab(query=f"case=count{query}") as again:
            assert (shown(again), again.runs) == ([f"count={clicks} wrong=[]"], 1)


@pytest.mark.slow
def test_visitors_at_once_lose_nothing(app: AppServer) -> None:
    """Runs that overlap keep every increment, with the main script's own classes right in every one of them."""
    clicks = 6
    tabs = all_click(app, "", clicks)
    report = report_of(app)
    assert [report["handled"][tab.session_id] for tab in tabs] == [clicks] * VISITORS
    assert report["wrong"] == []
    # Most runs lasted until another visitor's had begun (the last one meets nobody).
    assert report["most"] >= VISITORS // 4
    assert report["met"] >= 0.5 * VISITORS * clicks
    assert_all_kept(tabs, "", clicks)


class Rewriting:
    """Rewrites a module again and again, as an editor's save does, from entry to exit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._rewrite)
        self.times = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _rewrite(self) -> None:
        # The watcher polls 5 times a second; a save between two of its looks would go unseen.
        while not self._over.wait(0.3):
            self.times += 1
            edit(self._folder, self.times)


def edit(folder: Path, number: int) -> None:
    """Save another version of the module, at once."""
    write_app(folder, source(CLASSES, f"EDITED = {number}"), "states.aside").replace(folder / "states.py")


@pytest.mark.slow
def test_a_module_rewritten_meanwhile_loses_nothing(app: AppServer) -> None:
    """The state's module is edited, and loaded anew, while all visitors click."""
    clicks = 4
    with Rewriting(app.app.parent) as edits:
        tabs = all_click(app, "&module=1", clicks)
    assert edits.times > 1
    assert_all_kept(tabs, "&module=1", clicks)


# One visitor, faster than the script


@pytest.mark.parametrize("case", ["in the body", "by hand", "in a callback with a block"])
def test_clicks_during_sleeping_runs_count(app: AppServer, visit: Visit, case: str) -> None:
    """Five clicks, each while the runs before are still in their blocks, without any call of Streamlit."""
    tab, awake = visit(app, query=f"case={case}"), app.app.parent / "awake"
    awake.unlink(missing_ok=True)
    with tab.new_tab(query=f"case={case}&sleepy=1", connect=False) as fast:
        fast.connect()
        try:
            for number in range(6):
                wanted = f"{number} True "
                fast.wait_until(lambda tab, wanted=wanted: shown(tab)[0:1] and shown(tab)[0].startswith(wanted))  # type: ignore[misc]
                if number < 5:
                    fast.click("Go", wait=False)
        finally:
            awake.touch()
        assert fast.wait_run().exceptions() == []
    wait_for_record(tab, "5 True ")


def wait_for_record(tab: Visitor, wanted: str, classes: str = "", timeout: float = 60) -> None:
    """Return as soon as a reload shows the wanted text: older runs may still be on their way to their end."""
    deadline = time.monotonic() + timeout
    while True:
        with tab.new_tab(query=f"case=look{classes}") as again:
            (found,) = shown(again)
            if found.startswith(wanted):
                return
        assert time.monotonic() < deadline, f"A reload shows {found}, not {wanted}."


# Callbacks, fragments, dialogs


@pytest.mark.parametrize("classes", ["", "&module=1"])
@pytest.mark.parametrize(
    "case", ["in a callback that is given it", "in a callback with a block", "in a callback by hand", "in a fragment"]
)
def test_what_a_callback_or_fragment_changes_is_kept(app: AppServer, visit: Visit, case: str, classes: str) -> None:
    """Three clicks, a reload in one run; where no class is defined anew by the script, the object stays the same."""
    tab = visit(app, query=f"case={case}{classes}")
    runs = tab.full_runs
    for count in (1, 2, 3):
        assert tab.click("Go").exceptions() == []
        (text,) = shown(tab)
        assert text.startswith(f"{count} True ")
        assert not classes or " True True " in text
    assert tab.full_runs == runs + 3 * (case != "in a fragment")
    with tab.reload() as again:
        assert again.runs == 1
        assert shown(again)[0].startswith("3 True True")


def test_a_dialog_saves_while_it_is_open(app: AppServer, visit: Visit) -> None:
    """A click inside of it runs the dialog alone, and is kept."""
    tab = visit(app, query="case=in a dialog").click("Open").click("Go").click("Go")
    assert tab.exceptions() == []
    assert shown(tab)[0].startswith("2 True")
    wait_for_record(tab, "2 True")


def test_parallel_fragments_keep_both_changes(app: AppServer, visit: Visit) -> None:
    """Two fragments that run at once, each in its own block: both are saved, in each of three runs."""
    tab = visit(app, query="case=in parallel fragments").rerun().rerun()
    assert tab.exceptions() == []
    wait_for_record(tab, "3 True")


# Modules that are loaded anew


def edit_and_wait(server: AppServer, tab: Visitor, number: int) -> None:
    """Edit the module, and return when the tab's runs load it anew."""
    edit(server.app.parent, number)
    deadline = time.monotonic() + 20
    while not shown(tab.rerun())[0].endswith(f" {number}"):
        assert time.monotonic() < deadline, "the tab's runs load the module anew"


def test_a_callback_of_before_a_reload(app: AppServer, visit: Visit) -> None:
    """It puts an object of its module's old class into the state; the run after it has the new ones only."""
    query = "case=in a callback that is given it&module=1"
    tab, other = visit(app, query=query), visit(app, query=query)
    edit_and_wait(app, other, 1001)
    (text,) = shown(tab.click("Go"))
    assert text.startswith("1 True")
    assert text.endswith("1001")
    assert tab.exceptions() == []
    wait_for_record(tab, "1 True", "&module=1")


def test_a_library_loaded_anew_goes_on(served: Served, visit: Visit) -> None:
    """Where the library is no installed one, Streamlit evicts it with whatever was edited: the state stays."""
    server = served(APP, files=FILES, file_watcher="poll")
    tab = visit(server, query="case=in a callback that is given it&module=1")
    assert shown(tab.click("Go").rerun())[0].startswith("1 True")
    edit_and_wait(server, tab, 1)
    assert tab.exceptions() == []
    assert shown(tab.click("Go").rerun())[0].startswith("2 True")
    with tab.reload() as again:
        assert shown(again)[0].startswith("2 True")
