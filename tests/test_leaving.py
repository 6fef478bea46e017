"""However a block is left: what it changed is saved, or, after an exception, what was saved last comes back."""

from __future__ import annotations

import re
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
    from persist_session import (
        FileStore, StoreError, configure, load_state, persistent_state, save_state, state_info,
    )

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

    configure(store=store(), max_bytes=50_000)

    def block(**options):
        return persistent_state("app-state", AppState, **options)

    def show(s):
        st.text(f"count={s.count} words={len(s.words)}")

    def wait_for(name):
        while not Path(name).exists():
            time.sleep(0.01)

    def first():
        case = st.query_params.get("case", "")
        buttons = ("Add", "Rerun", "Stop", "Switch", "Endless", "Fail", "Late", "Large", "Unpicklable", "Nest")
        clicked = {name for name in buttons if st.button(name)}
        with block(on_error="commit" if case == "commit on error" else "discard") as s:
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
            if "Nest" in clicked:
                with block() as inner:
                    inner.count += 1
                    with block() as innermost:
                        innermost.count += 1
                inner.count += 1
                st.text(f"same={inner is s} after={len(Path('writes').read_text().splitlines())}")
            if "Late" in clicked:
                st.text("late")
                wait_for("go-on")
                raise ValueError("late, as told")
            if clicked - {"Nest"}:
                s.count += 1
                s.words.append(clicked)
            if "Large" in clicked:
                s.words.append("x" * 60_000)
            if "Unpicklable" in clicked:
                s.words.append((number for number in range(3)))
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


@pytest.mark.parametrize("delay", [0.0, 0.3])
@pytest.mark.parametrize("case", ["rerun at once", "rerun when known", "stop at once"])
def test_leaving_at_once_on_a_first_visit_is_kept(app: AppServer, visit: Visit, case: str, delay: float) -> None:
    """st.rerun or st.stop right after the first change, before the browser is known: nothing is lost, however slow."""
    tab = visit(app, query=f"case={case}", component_delay=delay)
    assert tab.exceptions() == []
    assert tab.runs <= 3
    assert after_reload(tab) == ["count=1 words=0"]


@pytest.mark.parametrize("delay", [0.0, 0.3])
@pytest.mark.parametrize("way", ["Rerun", "Stop", "Switch"])
def test_leaving_by_streamlits_own_exits_saves(app: AppServer, visit: Visit, way: str, delay: float) -> None:
    """st.rerun, st.stop and st.switch_page are no errors: what the block changed is saved, and was saved once."""
    tab = visit(app, component_delay=delay)
    writes = len((app.app.parent / "writes").read_text().splitlines())
    tab.click(way)
    assert tab.exceptions() == []
    if way != "Stop":
        assert shown(tab) == ["count=1 words=1"]
    assert len((app.app.parent / "writes").read_text().splitlines()) == writes + 1
    tab.page = ""
    assert after_reload(tab) == ["count=1 words=1"]


def test_a_click_that_interrupts_a_run_saves_both(app: AppServer, visit: Visit) -> None:
    """A run in an endless loop is interrupted by a click: its change and the click's are kept."""
    tab = visit(app).click("Endless", wait=False)
    tab.wait_until(lambda tab: "endless 1" in tab.texts()).click("Add")
    assert tab.exceptions() == []
    assert after_reload(tab, wanted="count=2 words=2") == ["count=2 words=2"]
    assert shown(tab.rerun()) == ["count=2 words=2"]


def test_a_tab_that_is_closed_in_mid_run_saves(app: AppServer, visit: Visit) -> None:
    """Closing the tab stops its run: what the block changed until then is kept."""
    tab = visit(app).click("Endless", wait=False)
    tab.wait_until(lambda tab: "endless 1" in tab.texts()).close()
    assert after_reload(tab, wanted="count=1 words=1") == ["count=1 words=1"]


def test_an_exception_discards_what_its_block_changed(app: AppServer, visit: Visit) -> None:
    """The error shows as always; the next run, and a reload, have the state that was saved last."""
    tab = visit(app).click("Add")
    assert tab.click("Fail").exceptions() == ["ValueError: as told"]
    assert after_reload(tab) == ["count=1 words=1"]
    assert tab.rerun().exceptions() == []
    assert shown(tab) == ["count=1 words=1"]
    tab.click("Add")
    assert after_reload(tab) == ["count=2 words=2"]


def test_an_exception_before_anything_was_saved_leads_back_to_the_fresh_state(app: AppServer, visit: Visit) -> None:
    """Where the very first click fails, the next run starts from what the factory made."""
    tab = visit(app)
    assert tab.click("Fail").exceptions() == ["ValueError: as told"]
    assert shown(tab.rerun()) == ["count=0 words=0"]


def test_on_error_commit_saves_in_spite_of_an_exception(app: AppServer, visit: Visit) -> None:
    """Those who want it keep what the failed block changed; the error shows all the same."""
    tab = visit(app, query="case=commit on error")
    assert tab.click("Fail").exceptions() == ["ValueError: as told"]
    assert after_reload(tab) == ["count=1 words=1"]


def test_an_exception_in_an_older_run_does_not_undo_a_newer_one(app: AppServer, visit: Visit) -> None:
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


def test_nested_blocks_save_once_at_the_outermost(app: AppServer, visit: Visit) -> None:
    """An inner block of the same name joins: the same object, and one write, when the outermost is left."""
    tab = visit(app)
    writes = app.app.parent / "writes"
    before = len(writes.read_text().splitlines())
    tab.click("Nest")
    assert f"same=True after={before}" in tab.texts()
    assert len(writes.read_text().splitlines()) == before + 1
    assert after_reload(tab) == ["count=3 words=0"]


@pytest.mark.parametrize("way", ["Rerun", "Stop"])
def test_a_save_that_fails_under_a_stop_is_logged_kept_and_tried_again(app: AppServer, visit: Visit, way: str) -> None:
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


def test_a_save_that_fails_at_the_end_shows_and_loses_nothing(app: AppServer, visit: Visit) -> None:
    """A failing store shows its error; the tab still has the change, and saves it as soon as it can."""
    tab, broken = visit(app).click("Add"), app.app.parent / "broken"
    broken.touch()
    assert tab.click("Add").exceptions() == ["persist_session.errors.StoreError: The disk is out of order; mend it."]
    assert after_reload(tab) == ["count=1 words=1"]
    assert shown(tab.rerun()) == ["count=2 words=2"]
    broken.unlink()
    assert tab.rerun().exceptions() == []
    assert after_reload(tab) == ["count=2 words=2"]


@pytest.mark.parametrize(
    ("button", "message"),
    [
        ("Large", r"persist_session.errors.StateTooLargeError: .* takes \d+ bytes, more than max_bytes=50000"),
        ("Unpicklable", r"persist_session.errors.UnpicklableStateError: .*AppState\.words\[2\] can't be pickled"),
    ],
)
def test_a_state_that_cannot_be_saved_does_not_brick_the_visitor(
    app: AppServer, visit: Visit, button: str, message: str
) -> None:
    """The run that made it so shows the error; the next one goes on from the state that was saved last."""
    tab = visit(app).click("Add")
    (error,) = tab.click(button).exceptions()
    assert re.match(message, error)
    assert tab.rerun().exceptions() == []
    assert shown(tab) == ["count=1 words=1"]
    assert tab.click("Add").exceptions() == []
    assert after_reload(tab) == ["count=2 words=2"]


WRONG = """
    from datetime import timedelta
    import streamlit as st
    from persist_session import *

    class AppState:
        pass

    class OtherState:
        pass

    def two_factories():
        with persistent_state("twice", AppState):
            pass
        with persistent_state("twice", OtherState):
            pass

    def two_factories_nested():
        with persistent_state("nested", AppState), persistent_state("nested", OtherState):
            pass

    attempts = {
        "two factories": two_factories,
        "two factories, nested": two_factories_nested,
        "save first": lambda: save_state("never-loaded", {}),
        "save, bad name": lambda: save_state("never loaded", {}),
        "name with a space": lambda: load_state("app state", AppState),
        "empty name": lambda: load_state("", AppState),
        "long name": lambda: load_state("a" * 65, AppState),
        "name with a newline": lambda: load_state("app-state\\n", AppState),
        "no name": lambda: load_state(None, AppState),
        "clear, bad name": lambda: clear_cookie_state("a/b"),
        "info, bad name": lambda: state_info("a/b"),
        "factory": lambda: load_state("a", AppState()),
        "max_age": lambda: load_state("a", AppState, max_age=0),
        "max_age text": lambda: load_state("a", AppState, max_age="soon"),
        "max_age, long": lambda: load_state("a", AppState, max_age=timedelta(days=401)),
        "on_error": lambda: load_state("a", AppState, on_error="ignore"),
        "on_unloadable": lambda: load_state("a", AppState, on_unloadable="ignore"),
        "configure store": lambda: configure(store="redis://localhost"),
        "configure secret_keys": lambda: configure(secret_keys=["short"]),
        "configure max_bytes": lambda: configure(max_bytes=0),
        "configure same_site": lambda: configure(same_site="loose"),
        "configure path": lambda: configure(path="shop"),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except Exception as error:
            st.text(f"{name} -> {type(error).__name__}: {error}")
        else:
            st.text(f"{name} -> nothing")
"""

NAMED = {
    "two factories": "AppState.*OtherState",
    "two factories, nested": "AppState.*OtherState",
    "save first": "'never-loaded'.*load_state",
    "save, bad name": "name",
    "name with a space": "name",
    "empty name": "name",
    "long name": "name",
    "name with a newline": "name",
    "no name": "name",
    "clear, bad name": "name",
    "info, bad name": "name",
    "factory": "factory",
    "max_age": "max_age",
    "max_age text": "max_age",
    "max_age, long": "max_age",
    "on_error": "on_error",
    "on_unloadable": "on_unloadable",
    "configure store": "store|redis",
    "configure secret_keys": "secret_keys|key",
    "configure max_bytes": "max_bytes",
    "configure same_site": "same_site",
    "configure path": "path",
}


def test_wrong_calls_are_refused_by_name(served: Served, visit: Visit) -> None:
    """Every wrong argument, and every wrong order, is a ConfigurationError that names what is wrong."""
    answers = dict(
        element.text.split(" -> ", 1) for element in visit(served(WRONG)).find("text") if " -> " in element.text
    )
    assert answers.keys() == NAMED.keys()
    wrong = {
        name: answer
        for name, answer in answers.items()
        if not re.match(f"ConfigurationError: .*({NAMED[name]})", answer, re.DOTALL)
    }
    assert wrong == {}
