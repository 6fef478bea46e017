"""Two tabs of one visitor, and runs of one tab that overlap: no change is lost, and nothing cleared comes back."""

from __future__ import annotations

import json
import textwrap
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from support.browser import numbered, open_app, press, reload_app, shown, wait_for_cookie, wait_idle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Served, Visit
    from playwright.sync_api import BrowserContext, Page

    from support import AppServer, Visitor

HEAD = """
    import json
    import time
    from pathlib import Path

    import streamlit as st
    from persist_session import clear_cookie_state, persistent_state, state_info

    class AppState:
        def __init__(self):
            self.title = "none"
            self.count = 0
            self.log = []
            self.done = {}
"""

# A text is the only thing in the state that is of a class of the script, beside the state itself, or not.
ONE_CLASS = """
    def text(words):
        return words
"""

TWO_CLASSES = """
    class Text:
        def __init__(self, words):
            self.words = words

        def __str__(self):
            assert type(self) is Text
            return self.words

    def text(words):
        return Text(words)
"""

# A button that is called "late" holds its run inside of the block until a file, the gate of its name, is there.
TABS = """
    gates, who = Path(st.query_params["gates"]), st.query_params.get("who", "A")

    def wait_for(gate):
        (gates / f"{gate} is held").touch()
        while not (gates / gate).exists():
            time.sleep(0.01)

    def words():
        yield "Once "
        wait_for("reply")
        yield "upon a time"

    def decide(base, mine, theirs):
        assert type(base) is type(mine) is type(theirs) is AppState
        mine.title = f"{base.title}, {mine.title} and {theirs.title}"
        mine.count += theirs.count - base.count
        return mine

    def clear():
        clear_cookie_state("app-state")

    st.button("Clear", on_click=clear)
    ways = ("Count", "Say", "Rename", "Ask", "Loop", "Raise", "End late", "Stop late", "Raise late", "Clear after")
    way = "".join([each for each in (*ways, "Look") if st.button(each)])
    on_conflict = decide if st.query_params.get("conflict") == "decide" else st.query_params.get("conflict", "merge")
    try:
        with persistent_state("app-state", AppState, on_conflict=on_conflict) as s:
            if way == "Count":
                s.count += 1
            if way == "Say":
                s.log.append(text(f"said by {who}"))
            if way == "Rename":
                s.title = text(f"named by {who}")
            if way == "Ask":
                s.log.append(text("question"))
                s.log.append(text(st.write_stream(words())))
            if way == "Loop":
                s.done["loop"] = text("yes")
                (gates / "loop is held").touch()
                while True:
                    time.sleep(0.01)
                    st.empty()
            if way == "Raise":
                s.done["raised"] = text("yes")
                raise ValueError("Broken on purpose")
            if way.endswith("late"):
                how = way.partition(" ")[0].lower()
                s.done[f"{how}, before"] = text("yes")
                if "rename" in st.query_params:
                    s.title = text(f"named by {who}")
                wait_for(how)
                s.done[f"{how}, after"] = text("yes")
                if how == "stop":
                    st.stop()
                if how == "raise":
                    raise ValueError("Broken on purpose")
    finally:
        if way.endswith("late"):
            (gates / f"{how} is over").touch()
    if way == "Clear after":
        clear()
    with st.container(key="state"):
        info = state_info("app-state")
        log, done, key = [str(each) for each in s.log], sorted(s.done), info.record_key if info else None
        st.text(json.dumps({"title": str(s.title), "count": s.count, "log": log, "done": done, "key": key}))
"""


def source(*parts: str) -> str:
    """Return one source of several."""
    return numbered("\n".join(textwrap.dedent(part) for part in parts))


CLASSES = {"one class": source(HEAD, ONE_CLASS, TABS), "two classes": source(HEAD, TWO_CLASSES, TABS)}


@pytest.fixture(params=CLASSES)
def tabs(request: pytest.FixtureRequest, served: Served) -> AppServer:
    """Return the server of the app, whose state holds objects of one or of two classes of the script."""
    return served(CLASSES[request.param])


@pytest.fixture
def two_classes(served: Served) -> AppServer:
    """Return the one of the two servers that has it harder."""
    return served(CLASSES["two classes"])


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
    for name in ("reply", "end", "stop", "raise", "draw"):
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


def records(server: AppServer) -> dict[Path, bytes]:
    """Return all records in the default store."""
    return {path: path.read_bytes() for path in server.data_folder.rglob("*.pickle")}


# Two tabs in a browser


def open_two(context: BrowserContext, server: AppServer, gates: Gates) -> tuple[Page, Page]:
    """Return two tabs, A and B, of one browser that has its cookie."""
    pages = context.new_page(), context.new_page()
    for page, who in zip(pages, "AB", strict=True):
        open_app(page, f"{server.url}/?{gates.query}&who={who}")
        wait_for_cookie(context, f"app-state-{server.port}")
        wait_idle(page)
    return pages


def on_page(page: Page) -> dict[str, Any]:
    """Return what the page shows of the state."""
    seen: dict[str, Any] = json.loads(shown(page, "state"))
    return seen


def start_reply(page: Page) -> None:
    """Press the button and return as soon as the first words of the reply are on the page; the rest is held."""
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("Once").wait_for()


def end_reply(page: Page, gates: Gates) -> None:
    """Let the rest of the reply come, and return when the run is over."""
    gates.open("reply")
    page.wait_for_function("() => document.querySelector('.st-key-state')?.innerText.includes('upon a time')")
    wait_idle(page)


@pytest.mark.browser
def test_what_another_tab_changes_during_a_long_reply_stays(
    in_each_mode: Served, context: BrowserContext, gates: Gates
) -> None:
    """One tab streams a reply, the other changes another field: both are there, at the next click and after reloads."""
    one, other = open_two(context, in_each_mode(CLASSES["two classes"]), gates)
    start_reply(one)
    press(other, "Rename")
    end_reply(one, gates)
    for page in (one, other):
        reload_app(page)
        seen = on_page(page)
        assert (seen["title"], seen["log"]) == ("named by B", ["question", "Once upon a time"])
    press(other, "Count")
    press(one, "Look")
    assert on_page(one)["count"] == 1, "without a reload"
    press(one, "Count")
    press(other, "Look")
    assert on_page(other)["count"] == 2


@pytest.mark.browser
def test_two_tabs_write_one_chat_history(in_each_mode: Served, context: BrowserContext, gates: Gates) -> None:
    """Messages that both tabs append at the same time are all there, those that were saved first come first."""
    one, other = open_two(context, in_each_mode(CLASSES["two classes"]), gates)
    press(one, "Say")
    start_reply(one)
    press(other, "Say")
    press(other, "Say")
    end_reply(one, gates)
    wanted = ["said by A", "said by B", "said by B", "question", "Once upon a time"]
    press(other, "Look")
    assert on_page(other)["log"] == wanted
    for page in (one, other):
        reload_app(page)
        assert on_page(page)["log"] == wanted


# Runs of one tab that overlap


def test_old_runs_that_raise_stop_and_end_leave_newer_changes_alone(
    tabs: AppServer, visit: Visit, gates: Gates
) -> None:
    """Whatever an old run comes to, what newer runs saved stays; one that was not left by an error keeps its own."""
    tab = visit(tabs, query=gates.query)
    for way in ("Raise late", "Stop late", "Loop", "End late"):
        hold(tab, gates, way)
        tab.click("Count")
    for name in ("raise", "stop", "end"):
        gates.end(name)
        with tab.new_tab() as again:
            assert state(again)["count"] >= 4
        tab.click("Count" if name != "end" else "Look")
    kept = {"stop, before", "stop, after", "loop", "end, before", "end, after"}
    with tab.new_tab() as again:
        for seen in (state(tab), state(again)):
            assert seen["count"] == 6
            assert kept <= set(seen["done"])
    assert tab.exceptions() == []


@pytest.mark.parametrize("way", ["End late", "Stop late"])
def test_an_old_run_that_ends_after_the_newest_saves_by_itself(
    tabs: AppServer, visit: Visit, gates: Gates, way: str
) -> None:
    """What the old run changed is in the record as soon as it has left its block; no further click is needed."""
    tab, how = visit(tabs, query=gates.query), way.partition(" ")[0].lower()
    hold(tab, gates, way)
    tab.click("Count").click("Say")
    gates.end(how)
    with tab.new_tab() as again:
        seen = state(again)
    assert (seen["count"], seen["log"]) == (1, ["said by A"])
    assert seen["done"] == [f"{how}, after", f"{how}, before"]


def test_an_error_in_the_newest_run_leaves_an_older_one_alone(tabs: AppServer, visit: Visit, gates: Gates) -> None:
    """The newest run's change goes with its error; what the older one did before and after that is kept."""
    tab = visit(tabs, query=gates.query).click("Count")
    hold(tab, gates, "End late")
    tab.click("Raise")
    assert tab.exceptions() == ["ValueError: Broken on purpose"]
    gates.end("end")
    with tab.new_tab() as again:
        for seen in (state(again), state(tab.rerun())):
            assert (seen["count"], seen["done"]) == (1, ["end, after", "end, before"])
    assert tab.exceptions() == []


# Clearing


@pytest.fixture(params=[True, False], ids=["ask", "ask not"])
def asking(request: pytest.FixtureRequest, served: Served, two_classes: AppServer) -> AppServer:
    """Return a server that asks the browser on first visits, or one that does not."""
    if request.param:
        return two_classes
    return served(CLASSES["two classes"], env={"PERSIST_SESSION_ASK_BROWSER": "false"})


@pytest.mark.parametrize("is_running", [True, False], ids=["running", "idle"])
@pytest.mark.parametrize("button", ["Clear", "Clear after"])
def test_what_one_tab_clears_no_other_brings_back(
    asking: AppServer, visit: Visit, gates: Gates, button: str, *, is_running: bool
) -> None:
    """A late save comes to nothing; the tab's next run has the fresh state of the new id, and the two share it."""
    before = records(asking)
    tab = visit(asking, query=gates.query).click("Count")
    old = state(tab)["key"]
    with tab.new_tab() as other:
        assert state(other.rerun())["key"] == old
        if is_running:
            hold(tab, gates, "End late")
        other.click(button)
        gates.end("end") if is_running else None
        assert old not in {path.stem for path in records(asking)}
        seen, shared = state(tab.wait_run().rerun()), state(other.rerun())
        assert (seen["count"], seen["done"]) == (0, [])
        assert seen == shared
        assert seen["key"] not in (None, old)
        assert {path.stem for path in records(asking).keys() - before.keys()} == {seen["key"]}
        assert state(tab.click("Count"))["count"] == 1
        assert state(other.rerun())["count"] == 1
        assert state(other.click("Count"))["count"] == 2
        assert state(tab.rerun())["count"] == 2
        assert tab.exceptions() + other.exceptions() == []
    with tab.reload() as again:
        seen = state(again)
        assert (seen["count"], seen["done"], seen["key"], again.runs) == (2, [], shared["key"], 1)
    assert {path.stem for path in records(asking).keys() - before.keys()} == {shared["key"]}


# Conflicts


def meet(server: AppServer, visit: Visit, gates: Gates, conflict: str) -> tuple[Visitor, Visitor]:
    """Return two tabs, A and B, of which A named the state and counted before B did both, and saved after it."""
    tab = visit(server, query=f"{gates.query}&rename=1&conflict={conflict}")
    other = tab.new_tab(query=f"{gates.query}&who=B&conflict={conflict}")
    tab.click("Count")
    hold(tab, gates, "End late")
    other.click("Rename").click("Count")
    gates.end("end")
    tab.wait_run()
    return tab, other


@pytest.mark.parametrize(
    ("conflict", "wanted"),
    [
        ("merge", ("named by A", 2, ["end, after", "end, before"])),
        ("overwrite", ("named by A", 1, ["end, after", "end, before"])),
        ("decide", ("none, named by A and named by B", 2, ["end, after", "end, before"])),
        ("raise", ("named by B", 2, [])),
    ],
)
def test_a_conflict_comes_to_what_the_app_chose(
    tabs: AppServer, visit: Visit, gates: Gates, conflict: str, wanted: tuple[str, int, list[str]]
) -> None:
    """Where two tabs changed one value, the later one, both, the app's function or an error decide, for good."""
    logged = len(tabs.logs())
    tab, other = meet(tabs, visit, gates, conflict)
    with other, tab.new_tab() as again:
        if conflict == "raise":
            assert [error.partition(":")[0].rpartition(".")[2] for error in tab.exceptions()] == ["StateConflictError"]
        for each in (again, other.rerun(), tab.rerun()):
            seen = state(each)
            assert (seen["title"], seen["count"], seen["done"]) == wanted
            assert each.exceptions() == []
        assert state(tab.click("Count"))["count"] == state(other.rerun())["count"] == wanted[1] + 1
    lost = [line for line in tabs.logs()[logged:].splitlines() if "was changed elsewhere too" in line]
    assert [("title" in line, "'app-state'" in line) for line in lost] == [(True, True)] * (conflict == "merge")


# Expiry

DAY = 24 * 3600
MAX_AGE = 10 * DAY

TRAVELLING = """
    import json
    import time
    from pathlib import Path

    import streamlit as st
    import time_machine
    from persist_session import clear_cookie_state, configure, persistent_state, state_info

    @st.cache_resource
    def clock():
        return time_machine.travel(time.time()).start()

    clock().move_to(float(Path("now").read_text()))
    configure(max_age=10 * 24 * 3600)

    class AppState:
        def __init__(self):
            self.count = 0

    if st.button("Clear"):
        clear_cookie_state("app-state")
    is_pressed = st.button("Count")  # a click is lost where the browser's answer interrupts its run before its button
    with persistent_state("app-state", AppState) as s:
        if is_pressed:
            s.count += 1
    info = state_info("app-state")
    expires = info.expires_at.timestamp() if info.expires_at else None
    st.text(json.dumps({"count": s.count, "key": info.record_key, "expires": expires}))
"""


class Travel:
    """The clock of an app under test."""

    def __init__(self, server: AppServer) -> None:
        self._file = server.app.parent / "now"
        self._started = time.time()
        self.to(0)

    def to(self, day: float) -> None:
        """Let it be so many days after the test began, from the next run on."""
        self._file.write_text(str(self._started + day * DAY))

    def day(self, moment: float) -> float:
        """Return how many days after the test's begin this moment is."""
        return (moment - self._started) / DAY


@pytest.fixture
def travelling(served: Served) -> AppServer:
    """Return the server of an app whose clock the test sets; its max_age is 10 days."""
    return served(source(TRAVELLING))


@pytest.fixture
def travel(travelling: AppServer) -> Travel:
    """Return the app's clock, which stands at the test's own time."""
    return Travel(travelling)


def cookie_expires(tab: Visitor) -> float:
    """Return when the tab's browser forgets the cookie."""
    (options,) = tab.jar.options.values()
    return datetime.fromisoformat(options["expires"]).timestamp()


def session_id(tab: Visitor) -> str:
    """Return the secret part of the tab's cookie."""
    (value,) = tab.jar.values()
    return value.partition(".")[0]


def nearly(day: float) -> Any:
    """Return what equals this day, give or take an hour and a half."""
    return pytest.approx(day, abs=0.06)


def visit_again(tab: Visitor, way: str) -> Visitor:
    """Return the tab after a run that changes nothing: a reload, or a rerun."""
    return tab.reload() if way == "reload" else tab.rerun()


@pytest.mark.parametrize("way", ["rerun", "rerun of the first visit", "reload"])
def test_cookie_and_record_are_renewed_once_half_of_their_time_is_over(
    travelling: AppServer, visit: Visit, travel: Travel, way: str
) -> None:
    """A visit before that leaves both as they are; one after that, which changes nothing, gives both all their time."""
    before = records(travelling)
    tab = visit(travelling).click("Count")
    if way == "rerun":
        tab = tab.reload()  # its handshake shows the cookie
    cookie, secret = dict(tab.jar), session_id(tab)
    ((path, record),) = records(travelling).items() - before.items()
    travel.to(4.9)
    tab = visit_again(tab, way)
    assert (dict(tab.jar), path.read_bytes(), state(tab)["count"]) == (cookie, record, 1)
    assert (travel.day(cookie_expires(tab)), travel.day(state(tab)["expires"])) == (nearly(10), nearly(10))
    travel.to(5.1)
    tab = visit_again(tab, way)
    assert (travel.day(cookie_expires(tab)), travel.day(state(tab)["expires"])) == (nearly(15.1), nearly(15.1))
    assert (session_id(tab), state(tab)["count"], tab.exceptions()) == (secret, 1, [])
    assert dict(tab.jar) != cookie
    travel.to(14.9)
    with tab.reload() as again:
        assert (session_id(again), state(again)["count"], state(again)["key"]) == (secret, 1, path.stem)


@pytest.mark.parametrize("way", ["rerun", "reload", "Count"])
def test_what_has_expired_is_not_served(travelling: AppServer, visit: Visit, travel: Travel, way: str) -> None:
    """After all of its time the record does not come back, not even in a tab that was open all the while.

    That one goes on under the old id: so do others that wake at the same moment.
    """
    tab = visit(travelling).click("Count")
    if way != "reload":
        tab = tab.reload()
    old, secret = state(tab)["key"], session_id(tab)
    travel.to(10.1)
    if way == "Count":
        tab.click("Count")
    tab = visit_again(tab, way if way != "Count" else "rerun")
    assert state(tab)["count"] == (way == "Count")
    assert (state(tab)["key"] == old, session_id(tab) == secret) == (way != "reload", way != "reload")
    assert tab.exceptions() == []
    assert travel.day(cookie_expires(tab)) == nearly(20.1)
    count = state(tab.click("Count"))["count"]
    with tab.reload() as again:
        assert (state(again)["count"], state(again)["key"], again.runs) == (count, state(tab)["key"], 1)


def test_a_record_that_expired_before_its_cookie_is_not_served(
    travelling: AppServer, visit: Visit, travel: Travel
) -> None:
    """Where the cookie was renewed later than the record was, the id goes on and its state starts fresh."""
    tab = visit(travelling).reload()
    travel.to(4.8)
    key = state(tab.click("Count"))["key"]
    travel.to(5.1)
    tab = tab.rerun()
    assert (travel.day(cookie_expires(tab)), travel.day(state(tab)["expires"])) == (nearly(15.1), nearly(14.8))
    tab.close()
    travel.to(14.95)
    with tab.reload() as again:
        assert (state(again)["count"], state(again)["key"], again.exceptions()) == (0, key, [])
        assert state(again.click("Count"))["count"] == 1
    with tab.new_tab() as again:
        assert (state(again)["count"], state(again)["key"]) == (1, key)


def test_a_tab_that_slept_finds_what_another_one_renewed(travelling: AppServer, visit: Visit, travel: Travel) -> None:
    """A record that another tab kept alive has not expired, however long ago this tab saw it last."""
    tab = visit(travelling).click("Count").reload()
    key = state(tab)["key"]
    with tab.new_tab() as other:
        travel.to(6)
        other.click("Count")
        travel.to(12)
        assert state(tab.click("Count"))["count"] == 3
        assert [state(each.rerun())["key"] for each in (tab, other)] == [key, key]
        assert [state(each)["count"] for each in (tab, other)] == [3, 3]
    with tab.reload() as again:
        assert (state(again)["count"], state(again)["key"], again.runs) == (3, key, 1)


@pytest.mark.parametrize("is_first_visit", [True, False])
@pytest.mark.parametrize("way", ["rerun", "Count"])
def test_a_cookie_that_is_due_is_not_sent_once_another_tab_cleared(
    travelling: AppServer, visit: Visit, travel: Travel, way: str, *, is_first_visit: bool
) -> None:
    """A tab whose cookie is half over does not renew it over the new one that a clear in another tab had sent."""
    tab = visit(travelling).click("Count")
    if not is_first_visit:
        tab = tab.reload()
    with tab.new_tab() as other:
        travel.to(4.9)
        other.click("Clear")
        assert state(other.click("Count"))["count"] == 1
        travel.to(5.1)
        secret = session_id(other)
        tab.rerun() if way == "rerun" else tab.click(way)
        assert (session_id(tab), state(tab)["count"]) == (secret, 1)
        assert state(tab)["key"] == state(other)["key"]


def test_two_open_tabs_that_expired_meet_again(travelling: AppServer, visit: Visit, travel: Travel) -> None:
    """Both go on under the old id, and share the new state."""
    tab = visit(travelling).click("Count").reload()
    old = state(tab)["key"]
    with tab.new_tab() as other:
        travel.to(10.1)
        assert state(tab.click("Count"))["count"] == 1
        assert state(other.rerun())["key"] == state(tab.rerun())["key"] == old
        assert state(other)["count"] == 1
        assert state(other.click("Count"))["count"] == state(tab.rerun())["count"] == 2
        assert tab.exceptions() + other.exceptions() == []


# A visitor who is faster than the script

FAST = """
    import json
    import time
    from pathlib import Path

    import streamlit as st
    from persist_session import persistent_state

    class Click:
        def __init__(self, number):
            self.number = number

    class AppState:
        def __init__(self):
            self.count = 0
            self.last = Click(0)

    def make_dict():
        return vars(AppState())

    def fields(s):
        return s if isinstance(s, dict) else vars(s)

    def add(s):
        fields(s)["count"] += 1
        fields(s)["last"] = Click(fields(s)["count"])

    gates, run = Path(st.query_params["gates"]), st.session_state.number
    try:
        with persistent_state("app-state", make_dict if st.query_params["kind"] == "dict" else AppState) as s:
            (gates / f"run {run} is held").touch()
            spot = st.empty()
            while not (gates / "draw").exists():
                time.sleep(0.01)
                spot.text("Not yet")
            st.button("Add", on_click=add, args=(s,))
            count, last = fields(s)["count"], fields(s)["last"]
            st.text(json.dumps({"run": run, "count": count, "right": type(last) is Click and last.number == count}))
            if (gates / "raise").exists():
                raise ValueError("Broken on purpose")
    finally:
        (gates / f"run {run} is over").touch()
"""


@pytest.mark.parametrize("kind", ["class", "dict"])
def test_clicks_count_whatever_becomes_of_the_runs_between_them(
    served: Served, visit: Visit, gates: Gates, kind: str
) -> None:
    """A callback gets the object of the last run that drew its button, be later ones cut short, or that one broken."""
    gates.open("draw")
    tab = visit(served(source(FAST)), query=f"{gates.query}&kind={kind}")
    gates.close("draw")
    drawn = state(tab)["run"]
    for run in range(drawn + 1, drawn + 6):
        tab.click("Add", wait=False)
        gates.wait_until(f"run {run} is held")
        gates.wait_until(f"run {run - 1} is over")
    gates.open("draw")
    assert state(tab.wait_run()) == {"run": drawn + 5, "count": 5, "right": True}
    gates.open("raise")
    assert tab.rerun().exceptions() == ["ValueError: Broken on purpose"]
    gates.close("raise")
    assert state(tab.click("Add")) == {"run": drawn + 7, "count": 6, "right": True}
    assert tab.exceptions() == []
    with tab.reload() as again:
        assert (state(again)["count"], state(again)["right"]) == (6, True)
