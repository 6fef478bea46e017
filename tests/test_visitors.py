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

    from conftest import Serve, Served, Visit

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
            self.items = []
"""

COUNTING = """
    import streamlit as st
    from persist_session import persistent_state

    if "report" in st.query_params:
        report()
        st.stop()
    run = running()
    with run:
        # A list's classes are seen by nothing but the caller's own namespace.
        with persistent_state("app-state", AppState) as s, persistent_state("list-state", list) as items:
            clicked = st.button("Increment")
            if clicked:
                items.append(Item(s.count + 1, Color.RED))
                s.count += 1
                s.items.append(Item(s.count, Color.BLUE if s.count % 2 else Color.RED))
                run.note_click()
            if "meet" in st.query_params:
                run.meet()
            wrong = check(
                state=isinstance(s, AppState) and type(s) is AppState,
                items=all(type(item) is Item for item in [*s.items, *items]),
                list=all(item.color is Color.RED for item in items) and len(items) == s.count,
                enums=all(item.color is (Color.BLUE if item.number % 2 else Color.RED) for item in s.items),
                numbers=[item.number for item in s.items] == list(range(1, s.count + 1)),
            )
            st.text(f"count={s.count} wrong={wrong}")
"""

PAGES = """
    import streamlit as st

    st.navigation([st.Page("counter.py"), st.Page("other.py")]).run()
"""

# Streamlit takes changed modules out of sys.modules while other visitors' runs import them: Python answers with these
# errors, whatever the module holds.
IMPORTING = """
    while True:
        try:
            from meter import check, report, running
            from states import AppState, Color, Item
            break
        except (ImportError, KeyError):
            continue
"""

METERED = "from meter import check, report, running"


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


def assert_all_kept(tabs: Iterable[Visitor], handled: dict[str, int]) -> None:
    """Every visitor finds all clicks that the app handled after a reload, in one run."""
    found, expected = [], []
    for tab in tabs:
        expected.append(([f"count={handled.get(tab.session_id, 0)} wrong=[]"], 1))
        with tab.new_tab(query="") as again:
            found.append((shown(again), again.runs))
    assert found == expected


def assert_runs_overlapped(report: dict[str, Any], clicks: int) -> None:
    """Most runs lasted until another visitor's had begun (the last one meets nobody), and none saw a wrong class."""
    assert report["wrong"] == []
    assert report["most"] >= VISITORS // 4
    assert report["met"] >= 0.5 * VISITORS * clicks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clicks", "app", "files"),
    [
        pytest.param(50, source(CLASSES, METERED, COUNTING), {}, id="main script"),
        pytest.param(
            10, PAGES, {"counter.py": source(CLASSES, METERED, COUNTING), "other.py": "import streamlit"}, id="st.Page"
        ),
    ],
)
def test_visitors_at_once_lose_nothing(served: Served, clicks: int, app: str, files: dict[str, str]) -> None:
    """Sixteen visitors whose runs overlap keep every increment, with the right classes in every run."""
    server = served(app, files={"meter.py": METER, **files})
    tabs = all_click(server, clicks)
    report = report_of(server)
    assert [report["handled"][tab.session_id] for tab in tabs] == [clicks] * VISITORS
    assert_all_kept(tabs, report["handled"])
    assert_runs_overlapped(report, clicks)


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
        source(IMPORTING, COUNTING),
        files={"meter.py": METER, "states.py": CLASSES},
        file_watcher="poll",
        # An installed library is not watched; this one lies in a folder on PYTHONPATH.
        options={"server.runOnSave": run_on_save, "server.folderWatchBlacklist": str(REPOSITORY)},
    )
    with Rewriting(server.app.parent) as edits:
        tabs = all_click(server, clicks)
    assert edits.times > 1
    report = report_of(server)
    if not run_on_save:
        # Else Streamlit starts runs of its own, and a click whose run they replace is no click to the app.
        assert [report["handled"][tab.session_id] for tab in tabs] == [clicks] * VISITORS
    assert_all_kept(tabs, report["handled"])
    assert_runs_overlapped(report, clicks)


# One visitor, faster than the script: every run sleeps inside of its block, without any call of Streamlit, until a file
# says otherwise.
SLEEPING = """
    import time
    import streamlit as st
    from pathlib import Path
    from persist_session import load_state, persistent_state, save_state

    class AppState:
        def __init__(self):
            self.count = 0
            self.words = []
"""

SECOND_CLASS = """
    class Word:
        def __init__(self, text):
            self.text = text

    def word(text):
        return Word(text)
"""

ONE_CLASS = """
    def word(text):
        return text
"""

SLEEP = """
    def sleep(s):
        st.text(f"count={s.count} words={len(s.words)}")
        while "sleepy" in st.query_params and not Path("awake").exists():
            time.sleep(0.01)
"""

IN_BODY = """
    with persistent_state("app-state", AppState) as s:
        if st.button("Increment"):
            s.count += 1
            s.words.append(word("again"))
        sleep(s)
"""

IN_CALLBACK = """
    def increment():
        with persistent_state("app-state", AppState) as s:
            s.count += 1
            s.words.append(word("again"))

    with persistent_state("app-state", AppState) as s:
        st.button("Increment", on_click=increment)
        sleep(s)
"""

BY_HAND = """
    s = load_state("app-state", AppState)
    if st.button("Increment"):
        s.count += 1
        s.words.append(word("again"))
    sleep(s)
    save_state("app-state", s)
"""


@pytest.mark.parametrize("way", [IN_BODY, IN_CALLBACK, BY_HAND], ids=["body", "callback", "by hand"])
@pytest.mark.parametrize("classes", [ONE_CLASS, SECOND_CLASS], ids=["one class", "two classes"])
def test_clicks_while_the_run_before_sleeps_all_count(served: Served, visit: Visit, way: str, classes: str) -> None:
    """Five clicks, each while the run before is still in its block: all five are kept."""
    server = served(source(SLEEPING, classes, SLEEP, way))
    tab, awake = visit(server).rerun(), server.app.parent / "awake"
    awake.touch()
    with tab.new_tab(query="sleepy=1") as fast:
        awake.unlink()
        try:
            for number in range(1, 6):
                wanted = [f"count={number} words={number}"]
                fast.click("Increment", wait=False).wait_until(lambda tab, wanted=wanted: shown(tab) == wanted)  # type: ignore[misc]
        finally:
            awake.touch()
        fast.wait_run()
        assert fast.exceptions() == []
    wait_for_record(tab, "count=5 words=5")


def wait_for_record(tab: Visitor, wanted: str, timeout: float = 60) -> None:
    """Return as soon as a reload shows the wanted text: older runs may still be on their way to their end."""
    deadline = time.monotonic() + timeout
    while True:
        with tab.new_tab(query="") as again:
            found = shown(again)
            if found == [wanted]:
                return
        assert time.monotonic() < deadline, f"A reload shows {found}, not {wanted}."


OLDER_RUN = """
    def wait_for(name):
        while not Path(name).exists():
            time.sleep(0.01)

    with persistent_state("app-state", AppState) as s:
        old, new = st.button("Old"), st.button("New")
        if old:
            s.words.append(word("old, before"))
            st.text("old")
            wait_for("go-on")
            s.count += 1
            s.words.append(word("old, after"))
        if new:
            s.extra = "new"
            s.words.append(word("new"))
        st.text(f"count={s.count} words={len(s.words)} extra={getattr(s, 'extra', None)}")
    if old:
        Path("old-is-over").touch()
"""


@pytest.mark.parametrize("classes", [ONE_CLASS, SECOND_CLASS], ids=["one class", "two classes"])
def test_an_older_run_that_goes_on_keeps_its_changes(served: Served, visit: Visit, classes: str) -> None:
    """A run that a newer one took over changes its object later: both runs' changes are kept."""
    server = served(source(SLEEPING, classes, OLDER_RUN))
    folder = server.app.parent
    tab = visit(server).click("Old", wait=False).wait_until(lambda tab: "old" in shown(tab))
    tab.click("New")
    (folder / "go-on").touch()
    wait_for_record(tab, "count=1 words=3 extra=new")
    assert tab.rerun().exceptions() == []
    assert shown(tab) == ["count=1 words=3 extra=new"]


# Its first two runs overlap, and in turns they load the state twice: the first, the second, the first, the second.
IN_TURNS = """
    import threading
    import streamlit as st
    from persist_session import load_state

    @st.cache_resource
    def turns():
        return [], threading.Event(), threading.Event()

    runs, seconds, firsts_again = turns()
    runs.append(len(runs))
    if len(runs) == 1:
        try:
            load_state("app-state", dict)
            seconds.wait(30)
            load_state("app-state", dict)
        finally:
            firsts_again.set()
    elif len(runs) == 2:
        load_state("app-state", dict)
        seconds.set()
        firsts_again.wait(30)
        load_state("app-state", dict)
    st.text("drawn")
"""


@pytest.mark.parametrize("is_answered", [True, False], ids=["cookie", "question"])
def test_runs_that_load_the_state_in_turns_talk_to_the_browser_once_each(
    serve: Serve, visit: Visit, *, is_answered: bool
) -> None:
    """Streamlit refuses a second element that is equal in a run, though a run that it interrupts came between."""
    tab = visit(serve(IN_TURNS), components=is_answered, connect=False).connect()
    if not is_answered:
        tab.wait_until(lambda tab: tab.iframes("getAll")).rerun(wait=False)
    tab.wait_run()
    assert tab.exceptions() == []
    assert (tab.runs, tab.texts()) == (2, ["drawn"])
    assert len(tab.iframes("set" if is_answered else "getAll")) == 1


# The ways in which an app comes back to the state between two runs of its whole script, one per `?case=`.
WAYS = """
    import streamlit as st
    from persist_session import load_state, persistent_state, save_state

    case = st.query_params["case"]

    def same(s):
        seen = st.session_state.get("seen")
        st.session_state.seen = s
        return seen is None or seen is s

    if case == "callback on s":
        def change():
            s.count += 1
            s.words.append(word("called back"))

        with persistent_state("app-state", AppState) as s:
            st.button("Go", on_click=change)
            st.text(f"{s.count} {len(s.words)} {type(s) is AppState} {same(s)}")

    if case == "callback given s":
        def change(s):
            s.count += 1
            s.words.append(word("called back"))

        with persistent_state("app-state", AppState) as s:
            st.button("Go", on_click=change, args=(s,))
            st.text(f"{s.count} {len(s.words)} {type(s) is AppState} {same(s)}")

    if case == "block in callback":
        def change():
            with persistent_state("app-state", AppState) as s:
                s.count += 1
                s.words.append(word("called back"))

        st.button("Go", on_click=change)
        with persistent_state("app-state", AppState) as s:
            st.text(f"{s.count} {len(s.words)} {type(s) is AppState} {same(s)}")

    if case == "by hand in callback":
        def change():
            s = load_state("app-state", AppState)
            s.count += 1
            s.words.append(word("called back"))
            save_state("app-state", s)

        st.button("Go", on_click=change)
        s = load_state("app-state", AppState)
        st.text(f"{s.count} {len(s.words)} {type(s) is AppState} {same(s)}")

    if case == "block in fragment":
        @st.fragment
        def part():
            with persistent_state("app-state", AppState) as s:
                if st.button("Go"):
                    s.count += 1
                    s.words.append(word("in a fragment"))
                st.text(f"{s.count} {len(s.words)} {type(s) is AppState} {same(s)}")

        part()

    if case == "block in dialog":
        @st.dialog("Ask")
        def ask():
            with persistent_state("app-state", AppState) as s:
                if st.button("Go"):
                    s.count += 1
                    s.words.append(word("in a dialog"))
                st.text(f"{s.count} {len(s.words)} {type(s) is AppState} {same(s)}")

        if st.button("Open"):
            ask()
        with persistent_state("app-state", AppState) as s:
            if "shown" in st.query_params:
                st.text(f"{s.count} {len(s.words)} {type(s) is AppState} {same(s)}")

    if case == "parallel fragments":
        import threading
        at_once = st.cache_resource(lambda: threading.Barrier(2))()

        @st.fragment(parallel=True)
        def left():
            with persistent_state("app-state", AppState) as s:
                if "meet" in st.query_params:
                    at_once.wait(20)
                    s.count += 1
                    s.words.append(word("left"))
                    at_once.wait(20)

        @st.fragment(parallel=True)
        def right():
            with persistent_state("app-state", AppState) as s:
                if "meet" in st.query_params:
                    at_once.wait(20)
                    s.other += 1
                    s.words.append(word("right"))
                    at_once.wait(20)

        left()
        right()
        if "meet" not in st.query_params:
            with persistent_state("app-state", AppState) as s:
                st.text(f"{s.count} {s.other} {[str(w) for w in s.words]}")
"""

WAYS_STATE = """
    class AppState:
        def __init__(self):
            self.count = 0
            self.other = 0
            self.words = []
"""

OTHER_WORD = SECOND_CLASS.replace(
    "self.text = text", "self.text = text\n        def __str__(self):\n            return self.text"
)

CLASSES_LIE = {
    "one class": {"app.py": source(WAYS_STATE, ONE_CLASS, WAYS)},
    "two classes": {"app.py": source(WAYS_STATE, OTHER_WORD, WAYS)},
    "module": {
        "app.py": source("from states import AppState, word", WAYS),
        "states.py": source(WAYS_STATE, OTHER_WORD),
    },
}


@pytest.fixture(params=CLASSES_LIE, scope="module")
def ways(request: pytest.FixtureRequest, served: Served) -> AppServer:
    """Return a server of the app WAYS; its classes lie in the script or in a module."""
    files = CLASSES_LIE[request.param]
    return served(files["app.py"], files=files)


def keeps_identity(request: pytest.FixtureRequest) -> bool:
    """Return whether a tab gets the same object in all runs: no class but its own is defined anew by the script."""
    return "two classes" not in request.node.name


@pytest.mark.parametrize("case", ["callback on s", "callback given s", "block in callback", "by hand in callback"])
def test_what_a_callback_changes_is_kept(
    ways: AppServer, visit: Visit, request: pytest.FixtureRequest, case: str
) -> None:
    """A callback may change the object of the run before, or load it itself; where possible it stays the same."""
    tab = visit(ways, query=f"case={case}")
    for count in (1, 2, 3):
        assert tab.click("Go").exceptions() == []
        number, words, is_right, is_same = shown(tab)[0].split()
        assert (number, words, is_right) == (str(count), str(count), "True")
        assert is_same == "True" or not keeps_identity(request)
    with tab.reload() as again:
        assert (shown(again), again.runs) == (["3 3 True True"], 1)


def test_a_block_in_a_fragment_is_saved_by_the_fragment_alone(ways: AppServer, visit: Visit) -> None:
    """Reruns of a fragment, in which the script's own module is gone, save what its block changes."""
    tab = visit(ways, query="case=block in fragment")
    runs = tab.full_runs
    for count in (1, 2, 3):
        assert tab.click("Go").exceptions() == []
        assert shown(tab)[0].startswith(f"{count} {count} True")
        # The fragment goes on with the classes of the run that defined it.
        assert shown(tab)[0].endswith("True") or count == 1
    assert tab.full_runs == runs
    with tab.reload() as again:
        assert (shown(again), again.runs) == (["3 3 True True"], 1)


def test_a_block_in_a_dialog_is_saved_while_it_is_open(ways: AppServer, visit: Visit) -> None:
    """A click inside of a dialog runs the dialog alone, and is kept."""
    tab = visit(ways, query="case=block in dialog").click("Open").click("Go").click("Go")
    assert tab.exceptions() == []
    assert shown(tab)[0].startswith("2 2 True")
    with tab.new_tab(query="case=block in dialog&shown=1") as again:
        assert shown(again) == ["2 2 True True"]


def test_parallel_fragments_keep_both_changes(ways: AppServer, visit: Visit) -> None:
    """Two fragments that run at once, each in its own block: both are saved."""
    tab = visit(ways, query="case=parallel fragments")
    with tab.new_tab(query="case=parallel fragments&meet=1") as meeting:
        assert meeting.exceptions() == []
    with tab.new_tab() as again:
        count, other, words = shown(again)[0].split(" ", 2)
        assert (count, other) == ("1", "1")
        assert sorted(words.strip("[]").split(", ")) == ["'left'", "'right'"]


RELOADED_BETWEEN_RUNS = """
    import streamlit as st
    import states
    from persist_session import persistent_state
    from states import AppState, Color, Item

    def change(s):
        s.items.append(Item(1, Color.RED))

    with persistent_state("app-state", AppState) as s:
        st.button("Go", on_click=change, args=(s,))
        right = all(type(item) is Item and item.color is Color.RED for item in s.items)
        st.text(f"{getattr(states, 'EDITED', 0)} {len(s.items)} {type(s) is AppState and right}")
"""


def test_a_callback_of_before_a_reload_leaves_no_class_of_before(served: Served, visit: Visit) -> None:
    """What a callback puts into the object is of its module's old classes; the run after it has the new ones only."""
    server = served(
        RELOADED_BETWEEN_RUNS,
        files={"states.py": CLASSES},
        file_watcher="poll",
        options={"server.folderWatchBlacklist": str(REPOSITORY)},
    )
    tab, other = visit(server), visit(server)
    write_app(server.app.parent, source(CLASSES, "EDITED = 1"), "states.py")
    deadline = time.monotonic() + 20
    while shown(other.rerun()) != ["1 0 True"]:
        assert time.monotonic() < deadline, "the other tab's runs load the module anew"
    assert shown(tab.click("Go")) == ["1 1 True"]
    assert tab.exceptions() == []
    with tab.reload() as again:
        assert shown(again) == ["1 1 True"]


def test_a_library_that_is_loaded_anew_goes_on(served: Served, visit: Visit) -> None:
    """Where the library is no installed one, Streamlit evicts it with whatever was edited: the state stays."""
    server = served(RELOADED_BETWEEN_RUNS.replace("Go", "Add"), files={"states.py": CLASSES}, file_watcher="poll")
    tab = visit(server)
    assert shown(tab.click("Add").rerun()) == ["0 1 True"]
    write_app(server.app.parent, source(CLASSES, "EDITED = 1"), "states.py")
    deadline = time.monotonic() + 20
    while shown(tab.rerun()) != ["1 1 True"]:
        assert time.monotonic() < deadline, "the tab's runs load the module anew"
    assert not tab.exceptions()
    assert shown(tab.click("Add").rerun()) == ["1 2 True"]
