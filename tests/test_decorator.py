"""The decorator in a real server: the attribute style without any interception."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Served, Visit

    from support import AppServer, Visitor

APP = """
    import pathlib
    import streamlit as st
    from persist_session import persist

    class Base:
        pass

    @persist("app-state")
    class AppState(Base):
        def __init__(self):
            super().__init__()
            with open(pathlib.Path(__file__).with_suffix(".inits"), "a") as file:
                file.write("i")
            self.count = 0

    state = AppState()
    if st.button("increment"):
        for _ in range(100):
            AppState().count += 1
    if st.button("increment and rerun"):
        state.count += 1
        st.rerun()
    if st.button("increment and stop"):
        state.count += 1
        st.stop()
    if st.button("increment and fail"):
        state.count += 100
        raise ValueError("broken")
    if st.button("hold what can't be saved"):
        state.handle = open(__file__)
    if st.button("clear"):
        state.clear_cookie_state()
        st.text(f"after clearing: {AppState().count}")

    @st.fragment
    def part():
        inner = AppState()
        if st.button("in a fragment"):
            inner.count += 10
        if st.button("fragment fails"):
            inner.count += 100
            raise ValueError("broken fragment")
        st.text(f"fragment={inner.count} same={inner is AppState()}")

    part()
    st.text(f"count={state.count} one={state is AppState()} kind={isinstance(state, AppState)}")

    @persist("function-state", dict)
    def page(kept, label):
        kept["clicks"] = kept.get("clicks", 0) + st.button(label)
        st.text(f"clicks={kept['clicks']}")

    page("count me")
"""


@pytest.fixture
def server(served: Served) -> AppServer:
    """Return a server of the app."""
    return served(APP)


@pytest.fixture
def visitor(server: AppServer, visit: Visit) -> Visitor:
    """Return a tab of a new browser."""
    return visit(server)


def value(tab: Visitor, name: str) -> str:
    """Return what the app shows after `name=`."""
    return next(word for text in tab.texts() for word in text.split() if word.startswith(f"{name}=")).partition("=")[2]


def test_changes_survive_a_reload(server: AppServer, visitor: Visitor) -> None:
    """Every call in a run gives the same object; a reload restores it in one run, without `__init__`."""
    assert value(visitor, "count") == "0"
    visitor.click("increment").click("increment").click("count me").click("count me")
    assert not visitor.exceptions()
    inits = server.app.with_suffix(".inits").read_text()
    with visitor.reload() as again:
        assert [value(again, name) for name in ("count", "one", "kind", "clicks")] == ["200", "True", "True", "2"]
        assert (again.runs, again.iframes()) == (1, [])
    assert server.app.with_suffix(".inits").read_text() == inits


@pytest.mark.parametrize("way", ["increment and rerun", "increment and stop"])
def test_leaving_the_run_early_saves(visitor: Visitor, way: str) -> None:
    """st.rerun and st.stop end a run like its last line does."""
    visitor.click(way)
    with visitor.reload() as again:
        assert value(again, "count") == "1"


def test_an_exception_discards(visitor: Visitor) -> None:
    """A run that shows an exception leaves the last saved state, for the tab and for the record."""
    visitor.click("increment").click("increment and fail")
    assert any("broken" in text for text in visitor.exceptions())
    assert value(visitor.rerun(), "count") == "100"
    with visitor.reload() as again:
        assert value(again, "count") == "100"


def test_a_fragment_saves_and_discards_by_itself(visitor: Visitor) -> None:
    """A fragment's rerun is a run: its change is kept, and thrown away if the fragment raises."""
    visitor.click("in a fragment")
    assert (value(visitor, "fragment"), value(visitor, "same")) == ("10", "True")
    with visitor.reload() as again:
        assert value(again, "count") == "10"
        again.click("fragment fails")
        assert any("broken fragment" in text for text in again.exceptions())
        with again.new_tab() as last:
            assert value(last, "count") == "10"


def test_a_failed_save_is_raised_later(server: AppServer, visitor: Visitor) -> None:
    """What can't be saved at the end of a run, where nobody could see an exception, is raised in the next run."""
    visitor.click("increment").click("hold what can't be saved")
    assert not visitor.exceptions()
    visitor.rerun()
    assert any("AppState.handle" in text for text in visitor.exceptions())
    assert "AppState.handle" in server.logs()
    visitor.rerun()
    assert not visitor.exceptions()
    assert value(visitor, "count") == "100"


def test_clearing_starts_fresh(visitor: Visitor) -> None:
    """`state.clear_cookie_state()`: the next call is fresh, now and after a reload; the cookie stays."""
    visitor.click("increment")
    jar = dict(visitor.jar)
    visitor.click("clear")
    assert "after clearing: 0" in visitor.texts()
    assert value(visitor.rerun(), "count") == "0"
    with visitor.reload() as again:
        assert (value(again, "count"), dict(again.jar)) == ("0", jar)
