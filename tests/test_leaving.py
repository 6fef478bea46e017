"""However a block is left: what it changed is saved, or, after an exception, what was saved last comes back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Served, Visit

    from support import AppServer, Visitor

APP = """
    import time
    from pathlib import Path

    import streamlit as st
    from persist_session import FileStore, StoreError, configure, persistent_state, state_info

    class AppState:
        def __init__(self):
            self.count = 0
            self.words = []

    @st.cache_resource
    def store():
        class Flagged(FileStore):
            def write(self, *args, **kwargs):
                with open("writes", "a") as writes:
                    writes.write("write\\n")
                if Path("broken").exists():
                    raise StoreError("The disk is out of order; mend it.")
                return super().write(*args, **kwargs)

        Path("records").mkdir(mode=0o700, exist_ok=True)
        return Flagged(Path("records").absolute())

    configure(store=store())

    def block():
        return persistent_state("app-state", AppState)

    def show(s):
        st.text(f"count={s.count} words={len(s.words)}")

    def wait_for(name):
        while not Path(name).exists():
            time.sleep(0.01)

    def first():
        case = st.query_params.get("case", "")
        buttons = ("Add", "Rerun", "Stop", "Switch", "Endless", "Fail", "Late")
        clicked = {name for name in buttons if st.button(name)}
        with block() as s:
            show(s)
            if case == "rerun at once" and not s.count:
                s.count += 1
                st.rerun()
            if case == "rerun when known" and not s.count and state_info("app-state").cookie == "pending":
                s.count += 1
                st.rerun()
            if case == "stop at once" and not s.count:
                s.count += 1
                st.stop()
            if "Late" in clicked:
                st.text("late")
                wait_for("go-on")
                raise ValueError("late, as told")
            if clicked:
                s.count += 1
                s.words.append(clicked)
            if "Rerun" in clicked:
                st.rerun()
            if "Stop" in clicked:
                st.stop()
            if "Switch" in clicked:
                st.switch_page(other)
            if "Fail" in clicked:
                raise ValueError("as told")
            if "Endless" in clicked:
                while True:
                    st.text(f"endless {s.count}")
                    time.sleep(0.01)

    def second():
        with block() as s:
            show(s)

    other = st.Page(second, url_path="second")
    st.navigation([st.Page(first, default=True), other]).run()
"""


@pytest.fixture
def app(served: Served) -> AppServer:
    """Return the server of APP, with a store that works."""
    server = served(APP)
    for name in ("broken", "go-on"):
        (server.app.parent / name).unlink(missing_ok=True)
    return server


def shown(tab: Visitor) -> list[str]:
    """Return what the app shows of its state."""
    return [element.text for element in tab.find("text") if element.text.startswith("count=")]


def after_reload(tab: Visitor, timeout: float = 60, wanted: str | None = None) -> list[str]:
    """Return what a new tab shows, as soon as that is `wanted` (older runs may still be on their way), in one run."""
    deadline = time.monotonic() + timeout
    while True:
        with tab.new_tab(query="") as again:
            if wanted is None or shown(again) == [wanted] or time.monotonic() > deadline:
                assert again.runs == 1
                assert again.exceptions() == []
                return shown(again)


@pytest.mark.parametrize("case", ["rerun at once", "rerun when known", "stop at once"])
def test_leaving_a_first_visits_block(app: AppServer, visit: Visit, case: str) -> None:
    """st.rerun or st.stop right after the first change, before the slow browser is known: nothing is lost."""
    tab = visit(app, query=f"case={case}", component_delay=0.3)
    if case == "rerun when known":
        tab.rerun()
    assert tab.exceptions() == []
    assert (tab.full_runs, tab.fragment_runs) == (1 + (case != "stop at once") + (case == "rerun when known"), 1)
    assert after_reload(tab) == ["count=1 words=0"]


@pytest.mark.parametrize("way", ["Rerun", "Stop", "Switch"])
def test_streamlits_own_exits_save(app: AppServer, visit: Visit, way: str) -> None:
    """st.rerun, st.stop and st.switch_page are no errors: what the block changed is saved, and was saved once."""
    tab = visit(app).rerun()
    writes = len((app.app.parent / "writes").read_text().splitlines())
    tab.click(way)
    assert tab.exceptions() == []
    if way != "Stop":
        assert shown(tab) == ["count=1 words=1"]
    assert len((app.app.parent / "writes").read_text().splitlines()) == writes + 1
    tab.page = ""
    assert after_reload(tab) == ["count=1 words=1"]


def test_an_interrupting_click_saves_both(app: AppServer, visit: Visit) -> None:
    """A run in an endless loop is interrupted by a click: its change and the click's are kept."""
    tab = visit(app).click("Endless", wait=False)
    tab.wait_until(lambda tab: "endless 1" in tab.texts()).click("Add")
    assert tab.exceptions() == []
    assert after_reload(tab, wanted="count=2 words=2") == ["count=2 words=2"]
    assert shown(tab.rerun()) == ["count=2 words=2"]


def test_a_tab_closed_in_mid_run_saves(app: AppServer, visit: Visit) -> None:
    """Closing the tab stops its run: what the block changed until then is kept."""
    tab = visit(app).click("Endless", wait=False)
    tab.wait_until(lambda tab: "endless 1" in tab.texts()).close()
    assert after_reload(tab, wanted="count=1 words=1") == ["count=1 words=1"]


def test_an_exception_discards(app: AppServer, visit: Visit) -> None:
    """The error shows as always; the next run, and a reload, have the state that was saved last."""
    tab = visit(app).click("Add")
    assert tab.click("Fail").exceptions() == ["ValueError: as told"]
    assert after_reload(tab) == ["count=1 words=1"]
    assert tab.rerun().exceptions() == []
    assert shown(tab) == ["count=1 words=1"]
    tab.click("Add")
    assert after_reload(tab) == ["count=2 words=2"]


def test_an_older_runs_exception_is_its_own(app: AppServer, visit: Visit) -> None:
    """A run that fails long after a newer one took over leaves what the newer ones changed alone."""
    tab = visit(app).click("Late", wait=False).wait_until(lambda tab: "late" in tab.texts())
    assert shown(tab.click("Add").click("Add"))[0].startswith("count=1 ")
    (app.app.parent / "go-on").touch()
    deadline = time.monotonic() + 60
    while "late, as told" not in app.logs():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert shown(tab.click("Add"))[0].startswith("count=2 ")
    assert shown(tab.rerun())[0].startswith("count=3 ")
    assert after_reload(tab)[0].startswith("count=3 ")


@pytest.mark.parametrize("way", ["Rerun", "Stop"])
def test_a_save_failing_under_a_stop(app: AppServer, visit: Visit, way: str) -> None:
    """Under st.stop and st.rerun the page can't show it: the log says it, the next exit raises, and nothing is lost."""
    tab, broken = visit(app), app.app.parent / "broken"
    before = app.logs().count("could not be saved")
    broken.touch()
    tab.click(way)
    assert app.logs().count("could not be saved") == before + 1
    # st.rerun's next run is the next exit already.
    failing = tab if way == "Rerun" else tab.rerun()
    assert [text.split(":")[0] for text in failing.exceptions()] == ["persist_session.errors.StoreError"]
    assert shown(failing) == ["count=1 words=1"]
    broken.unlink()
    assert tab.rerun().exceptions() == []
    assert after_reload(tab) == ["count=1 words=1"]
