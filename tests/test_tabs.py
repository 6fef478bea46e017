"""Runs that overlap, of one tab and of two tabs of one visitor: no change is lost, and nothing cleared comes back."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Served, Visit

    from support import AppServer, Visitor

# A button that is called "late" holds its run inside of the block until a file, the gate of its name, is there. With
# `quick`, all runs are held there before they have drawn their button.
APP = """
    import json
    import time
    from pathlib import Path

    import streamlit as st
    from persist_session import clear_cookie_state, persistent_state

    class Text:
        def __init__(self, words):
            self.words = words

        def __str__(self):
            assert type(self) is Text
            return self.words

    class AppState:
        def __init__(self):
            self.title = Text("none")
            self.count = 0
            self.log = []
            self.done = {}

    gates, who = Path(st.query_params["gates"]), st.query_params.get("who", "A")
    st.session_state.number = st.session_state.get("number", 0) + 1

    def wait_for(gate):
        (gates / f"{gate} is held").touch()
        while not (gates / gate).exists():
            time.sleep(0.01)

    def clear():
        clear_cookie_state("app-state")

    def add(s):
        s.count += 1
        s.title = Text(f"number {s.count}")

    def show(s):
        log, done = [str(each) for each in s.log], sorted(s.done)
        seen = {"title": str(s.title), "count": s.count, "log": log, "done": done}
        st.text(json.dumps(seen | {"run": st.session_state.number}))

    def quick():
        run = f"run {st.session_state.number}"
        try:
            with persistent_state("app-state", AppState) as s:
                (gates / f"{run} is held").touch()
                spot = st.empty()
                while not (gates / "draw").exists():
                    time.sleep(0.01)
                    spot.text("Not yet")
                st.button("Add", on_click=add, args=(s,))
                show(s)
                if (gates / "raise").exists():
                    raise ValueError("Broken on purpose")
        finally:
            (gates / f"{run} is over").touch()

    def late():
        st.button("Clear", on_click=clear)
        ways = ("Count", "Say", "Rename", "Loop", "Raise", "End late", "Stop late", "Raise late")
        way = "".join([each for each in ways if st.button(each)])
        try:
            with persistent_state("app-state", AppState) as s:
                if way == "Count":
                    s.count += 1
                if way == "Say":
                    s.log.append(Text(f"said by {who}"))
                if way == "Rename":
                    s.title = Text(f"named by {who}")
                if way == "Loop":
                    s.done["loop"] = Text("yes")
                    (gates / "loop is held").touch()
                    while True:
                        time.sleep(0.01)
                        st.empty()
                if way == "Raise":
                    s.done["raised"] = Text("yes")
                    raise ValueError("Broken on purpose")
                if way.endswith("late"):
                    how = way.partition(" ")[0].lower()
                    s.done[f"{how}, before"] = Text("yes")
                    if "rename" in st.query_params:
                        s.title = Text(f"named by {who}")
                        s.log.append(Text(f"said by {who}, late"))
                    wait_for(how)
                    s.done[f"{how}, after"] = Text("yes")
                    if how == "stop":
                        st.stop()
                    if how == "raise":
                        raise ValueError("Broken on purpose")
        finally:
            if way.endswith("late"):
                (gates / f"{how} is over").touch()
        show(s)

    if "quick" in st.query_params:
        quick()
    else:
        late()
"""


@pytest.fixture
def app(served: Served) -> AppServer:
    """Return the server of APP."""
    return served(APP)


class Gates:
    """The files that hold the runs of the app in their blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.query = f"gates={quote(str(folder))}"

    def open(self, name: str) -> None:
        """Let the runs go on that wait at this gate."""
        (self._folder / name).touch()

    def close(self, name: str) -> None:
        """Hold the runs that come to this gate from now on."""
        (self._folder / name).unlink()

    def wait_until(self, what: str) -> None:
        """Return as soon as it is so: "<name> is held", or "<name> is over"."""
        deadline = time.monotonic() + 30
        while not (self._folder / what).exists():
            assert time.monotonic() < deadline, f"waited too long until {what}"
            time.sleep(0.01)

    def end(self, name: str) -> None:
        """Let the runs go on, and return as soon as one of them has left its block."""
        self.open(name)
        self.wait_until(f"{name} is over")


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[Gates]:
    """Return the gates of one test; with its end all are open."""
    gates = Gates(tmp_path)
    yield gates
    for name in ("end", "stop", "raise", "draw"):
        gates.open(name)


def state(tab: Visitor) -> dict[str, Any]:
    """Return what the tab shows of its state."""
    (text,) = [text for text in tab.texts() if text.startswith("{")]
    seen: dict[str, Any] = json.loads(text)
    return seen


def hold(tab: Visitor, gates: Gates, way: str) -> None:
    """Press the button and return as soon as its run is held in its block."""
    tab.click(way, wait=False)
    gates.wait_until(f"{way.partition(' ')[0].lower()} is held")


# Runs of one tab that overlap


def test_old_runs_leave_newer_changes_alone(app: AppServer, visit: Visit, gates: Gates) -> None:
    """Whatever an old run comes to, what newer runs saved stays; one that was not left by an error keeps its own."""
    tab = visit(app, query=gates.query)
    for way in ("Raise late", "Stop late", "Loop", "End late"):
        hold(tab, gates, way)
        tab.click("Count")
    for name in ("raise", "stop", "end"):
        gates.end(name)
        with tab.new_tab() as again:
            assert state(again)["count"] >= 4
        tab.click("Count") if name != "end" else tab.rerun()
    kept = {"stop, before", "stop, after", "loop", "end, before", "end, after"}
    with tab.new_tab() as again:
        for seen in (state(tab), state(again)):
            assert seen["count"] == 6
            assert kept <= set(seen["done"])
    assert tab.exceptions() == []


@pytest.mark.parametrize("way", ["End late", "Stop late"])
def test_an_old_run_saves_by_itself(app: AppServer, visit: Visit, gates: Gates, way: str) -> None:
    """What the old run changed is in the record as soon as it has left its block; no further click is needed."""
    tab, how = visit(app, query=gates.query), way.partition(" ")[0].lower()
    hold(tab, gates, way)
    tab.click("Count").click("Say")
    gates.end(how)
    with tab.new_tab() as again:
        seen = state(again)
    assert (seen["count"], seen["log"]) == (1, ["said by A"])
    assert seen["done"] == [f"{how}, after", f"{how}, before"]


def test_a_newer_runs_error_is_its_own(app: AppServer, visit: Visit, gates: Gates) -> None:
    """The newest run's change goes with its error; what the older one did before and after that is kept."""
    tab = visit(app, query=gates.query).click("Count")
    hold(tab, gates, "End late")
    tab.click("Raise")
    assert tab.exceptions() == ["ValueError: Broken on purpose"]
    gates.end("end")
    with tab.new_tab() as again:
        for seen in (state(again), state(tab.rerun())):
            assert (seen["count"], seen["done"]) == (1, ["end, after", "end, before"])
    assert tab.exceptions() == []


def test_clicks_between_interrupted_runs_count(app: AppServer, visit: Visit, gates: Gates) -> None:
    """A callback gets the object of the last run that drew its button, be later ones cut short, or that one broken."""
    gates.open("draw")
    tab = visit(app, query=f"{gates.query}&quick=1")
    gates.close("draw")
    drawn = state(tab)["run"]
    for run in range(drawn + 1, drawn + 6):
        tab.click("Add", wait=False)
        gates.wait_until(f"run {run} is held")
        gates.wait_until(f"run {run - 1} is over")
    gates.open("draw")
    seen = state(tab.wait_run())
    assert (seen["run"], seen["count"], seen["title"]) == (drawn + 5, 5, "number 5")
    gates.open("raise")
    assert tab.rerun().exceptions() == ["ValueError: Broken on purpose"]
    gates.close("raise")
    seen = state(tab.click("Add"))
    assert (seen["count"], seen["title"], tab.exceptions()) == (6, "number 6", [])
    with tab.reload() as again:
        assert (state(again)["count"], state(again)["title"]) == (6, "number 6")


# Two tabs


def test_what_two_tabs_change_at_once(app: AppServer, visit: Visit, gates: Gates) -> None:
    """What another tab did while a block was open stays, with the messages of both; the log says whose title won."""
    tab = visit(app, query=f"{gates.query}&rename=1").click("Count")
    with tab.new_tab(query=f"{gates.query}&who=B") as other:
        hold(tab, gates, "End late")
        other.click("Rename").click("Count").click("Say")
        gates.end("end")
        wanted = ("named by A", 2, ["said by B", "said by A, late"], ["end, after", "end, before"])
        with tab.wait_run().new_tab() as again:
            for seen in (state(tab), state(other.rerun()), state(again)):
                assert (seen["title"], seen["count"], seen["log"], seen["done"]) == wanted
        assert state(tab.click("Count"))["count"] == state(other.rerun())["count"] == 3
        assert tab.exceptions() + other.exceptions() == []
    lost = [line for line in app.logs().splitlines() if "was changed elsewhere too" in line]
    assert [("title" in line, "'app-state'" in line) for line in lost] == [(True, True)]


def test_what_one_tab_clears_stays_cleared(app: AppServer, visit: Visit, gates: Gates) -> None:
    """A late save comes to nothing; all tabs go on with one fresh state, under the cookie that they had."""
    tab = visit(app, query=gates.query).click("Count")
    jar = dict(tab.jar)
    with tab.new_tab() as other:
        hold(tab, gates, "End late")
        other.click("Clear")
        gates.end("end")
        for each in (tab.wait_run().rerun(), other.rerun()):
            assert (state(each)["count"], state(each)["done"]) == (0, [])
        assert state(tab.click("Count"))["count"] == 1
        assert state(other.click("Count"))["count"] == 2
        assert state(tab.rerun())["count"] == 2
        assert tab.exceptions() + other.exceptions() == []
    with tab.reload() as again:
        assert (state(again)["count"], state(again)["done"], again.runs) == (2, [], 1)
    assert dict(tab.jar) == jar
