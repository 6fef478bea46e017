"""Many visitors at once, and one visitor who is faster than the script: no change is lost, no class is mixed up."""

from __future__ import annotations

import json
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from support import Visitor, write_app

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from conftest import Served, Visit

    from support import AppServer

VISITORS = 16

# What the app under test sees of its own runs, kept for the whole process and out of reach of any module reload.
METER = """
    import json
    import threading
    import time

    import streamlit as st
    from streamlit.runtime.scriptrunner import get_script_run_ctx


    @st.cache_resource
    def meter():
        return {"lock": threading.Condition(), "begun": [], "active": {}, "most": 0, "runs": 0, "met": 0, "wrong": []}


    class running:
        \"\"\"Counts the runs that are under way at once, and lasts until another visitor's run has begun.\"\"\"

        def __enter__(self):
            self.me = get_script_run_ctx().session_id
            with meter()["lock"]:
                meter()["active"][self] = self.me
                meter()["most"] = max(meter()["most"], len(set(meter()["active"].values())))
                meter()["runs"] += 1
                meter()["begun"].append(self.me)
                self.at = len(meter()["begun"])
                meter()["lock"].notify_all()

        def meet(self):
            with meter()["lock"]:
                others = lambda: set(meter()["begun"][self.at :]) - {self.me}
                meter()["met"] += bool(meter()["lock"].wait_for(others, 0.15))

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
        st.text("report=" + json.dumps({name: seen[name] for name in ("most", "runs", "met", "wrong")}))
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
            self.items = []
"""

COUNTING = """
    import streamlit as st
    from meter import check, report, running
    from persist_session import persistent_state

    if "report" in st.query_params:
        report()
        st.stop()
    run = running()
    with run:
        with persistent_state("app-state", AppState) as s:
            clicked = st.button("Increment")
            if clicked:
                s.count += 1
                s.items.append(Item(s.count, Color.BLUE if s.count % 2 else Color.RED))
            if "meet" in st.query_params:
                run.meet()
            wrong = check(
                state=isinstance(s, AppState) and type(s) is AppState,
                items=all(type(item) is Item for item in s.items),
                enums=all(item.color is (Color.BLUE if item.number % 2 else Color.RED) for item in s.items),
                numbers=[item.number for item in s.items] == list(range(1, s.count + 1)),
            )
            st.text(f"count={s.count} wrong={wrong}")
"""

PAGES = """
    import streamlit as st

    st.navigation([st.Page("counter.py"), st.Page("other.py")]).run()
"""

RELOADED = "\n    from states import AppState, Color, Item\n" + COUNTING


def source(*parts: str) -> str:
    """Return one source of several."""
    return "\n".join(textwrap.dedent(part) for part in parts)


def shown(tab: Visitor) -> list[str]:
    """Return what the app shows by st.text."""
    return [element.text for element in tab.find("text")]


def visit_and_click(server: AppServer, clicks: int, seen: list[str]) -> Visitor:
    """Return a visitor's closed tab after so many clicks; what its runs showed goes to `seen`."""
    with Visitor(server.url, query="meet=1", timeout=120) as tab:
        for _ in range(clicks):
            seen.extend([*shown(tab.click("Increment")), *tab.exceptions()])
    return tab


def all_click(server: AppServer, clicks: int) -> list[Visitor]:
    """Return the tabs of all visitors, who clicked at the same time; every run showed a right state."""
    seen: list[str] = []
    with ThreadPoolExecutor(VISITORS) as pool:
        tabs = list(pool.map(lambda _: visit_and_click(server, clicks, seen), range(VISITORS)))
    assert [text for text in seen if not text.endswith("wrong=[]")] == []
    return tabs


def report_of(server: AppServer) -> dict[str, Any]:
    """Return what the app counted of its own runs."""
    with Visitor(server.url, query="report=1") as tab:
        report: dict[str, Any] = json.loads(shown(tab)[-1].removeprefix("report="))
        return report


def assert_all_kept(tabs: Iterable[Visitor], clicks: int) -> None:
    """Every visitor finds all clicks after a reload, in one run."""
    found = []
    for tab in tabs:
        with tab.new_tab(query="") as again:
            found.append((shown(again), again.runs))
    assert found == [([f"count={clicks} wrong=[]"], 1)] * VISITORS


def assert_runs_overlapped(server: AppServer, clicks: int) -> None:
    """Nearly every run was met by another visitor's, and no run saw a wrong class."""
    report = report_of(server)
    assert report["wrong"] == []
    assert report["most"] >= VISITORS // 2
    assert report["met"] >= 0.9 * VISITORS * clicks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clicks", "app", "files"),
    [
        pytest.param(8, source(CLASSES, COUNTING), {}, id="main script"),
        pytest.param(
            6, PAGES, {"counter.py": source(CLASSES, COUNTING), "other.py": "import streamlit"}, id="st.Page"
        ),
    ],
)
def test_visitors_at_once_lose_nothing(served: Served, clicks: int, app: str, files: dict[str, str]) -> None:
    """Sixteen visitors whose runs overlap keep every increment, with the right classes in every run."""
    server = served(app, files={"meter.py": METER, **files})
    tabs = all_click(server, clicks)
    assert_all_kept(tabs, clicks)
    assert_runs_overlapped(server, clicks)


class Rewriting:
    """Rewrites a module again and again, as an editor's save does, from entry to exit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._rewrite)
        self.times = 0

    def __enter__(self) -> Rewriting:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _rewrite(self) -> None:
        # The watcher polls 5 times a second; a save between two of its looks would go unseen.
        while not self._over.wait(0.5):
            self.times += 1
            aside = write_app(self._folder, source(CLASSES, f"EDITED = {self.times}"), "states.aside")
            aside.replace(self._folder / "states.py")


@pytest.mark.slow
@pytest.mark.parametrize("run_on_save", [False, True])
def test_a_module_that_is_rewritten_meanwhile_loses_nothing(served: Served, *, run_on_save: bool) -> None:
    """The state's module is edited, and loaded anew, while sixteen visitors click: all increments are kept."""
    clicks = 6
    server = served(
        RELOADED,
        files={"meter.py": METER, "states.py": CLASSES},
        file_watcher="poll",
        options={"server.runOnSave": run_on_save},
    )
    with Rewriting(server.app.parent) as edits:
        tabs = all_click(server, clicks)
    assert edits.times > 1
    assert_all_kept(tabs, clicks)
    assert_runs_overlapped(server, clicks)
