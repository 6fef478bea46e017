"""The decorator in a real server: the attribute style without any interception."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import AppServer, Visitor, write_app

APP = """
    import logging
    import pathlib
    import streamlit as st
    from persist_session import persist, persistent_state, state_info

    class Base:
        pass

    @persist("app-state")
    class AppState(Base):
        made = 0

        def __init__(self, step=1):
            super().__init__()
            with open(pathlib.Path(__file__).with_suffix(".inits"), "a") as file:
                file.write("i")
            self.count = 0
            self.step = step

    class Special(AppState):
        pass

    state = AppState()
    if st.button("increment"):
        state.count += state.step
    if st.button("increment and rerun"):
        state.count += 1
        st.rerun()
    if st.button("increment and stop"):
        state.count += 1
        st.stop()
    if st.button("increment and fail"):
        state.count += 100
        raise ValueError("broken")
    if st.button("other arguments"):
        AppState(step=2)
    if st.button("hold what can't be saved"):
        state.handle = open(__file__)
    if st.button("let go"):
        del state.handle
    if st.button("clear"):
        state.clear_cookie_state()
        st.text(f"after clearing: {AppState().count}")

    @st.fragment
    def part(fails=False):
        inner = AppState()
        if st.button("in a fragment"):
            inner.count += 10
        if st.button("fragment fails"):
            inner.count += 100
            raise ValueError("broken fragment")
        st.text(f"fragment={inner.count} same={inner is AppState()}")

    part()
    special = Special()
    special.count = 99
    st.text(f"count={state.count} same={state is AppState()} kind={isinstance(state, AppState)}")
    st.text(f"special={special is state} base={isinstance(state, Base)} name={type(state).__name__}")
    st.text(f"record={state_info('app-state').record_key and state_info('app-state').record_key[:8]}")

    @persist("function-state", dict)
    def page(kept, label):
        kept["clicks"] = kept.get("clicks", 0) + st.button(label)
        st.text(f"clicks={kept['clicks']}")

    page("count me")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """A server of the app."""
    with AppServer(write_app(tmp_path_factory.mktemp("decorated"), APP)) as running:
        yield running


@pytest.fixture
def visitor(server: AppServer) -> Iterator[Visitor]:
    """A tab of a new browser."""
    tab = Visitor(server.url)
    yield tab
    tab.close()


def value(tab: Visitor, name: str) -> str:
    """What the app shows after `name=`."""
    return next(word for text in tab.texts() for word in text.split() if word.startswith(f"{name}=")).partition("=")[2]


def test_changes_survive_a_reload_and_the_instance_is_one(visitor: Visitor) -> None:
    """Attributes set on the instance come back, and every call in a run gives the same object of the class."""
    assert value(visitor, "count") == "0"
    visitor.click("increment")
    visitor.click("increment")
    assert not visitor.exceptions()
    again = visitor.reload()
    assert (value(again, "count"), value(again, "same"), value(again, "kind")) == ("2", "True", "True")
    assert (again.runs, again.iframes()) == (1, [])


def test_init_runs_for_a_fresh_state_only(server: AppServer, visitor: Visitor) -> None:
    """A restored state is not initialised again."""
    inits = server.app.with_suffix(".inits")
    visitor.click("increment")
    before = inits.read_text()
    again = visitor.reload()
    again.click("increment")
    # What was added is the ordinary instances of the subclass, one a run.
    assert inits.read_text() == before + "i" * again.runs
    assert value(again, "count") == "2"


@pytest.mark.parametrize("way", ["increment and rerun", "increment and stop"])
def test_leaving_the_run_early_saves(visitor: Visitor, way: str) -> None:
    """st.rerun and st.stop end a run like its last line does."""
    visitor.click(way)
    assert value(visitor.reload(), "count") == "1"


def test_an_exception_discards(visitor: Visitor) -> None:
    """A run that shows an exception leaves the last saved state, for the tab and for the record."""
    visitor.click("increment")
    visitor.click("increment and fail")
    assert any("broken" in text for text in visitor.exceptions())
    visitor.rerun()
    assert value(visitor, "count") == "1"
    assert value(visitor.reload(), "count") == "1"


def test_a_fragment_saves_and_discards_by_itself(visitor: Visitor) -> None:
    """A fragment's rerun is a run: its change is kept, and thrown away if the fragment raises."""
    visitor.click("in a fragment")
    assert value(visitor, "fragment") == "10"
    again = visitor.reload()
    assert value(again, "count") == "10"
    again.click("fragment fails")
    assert any("broken fragment" in text for text in again.exceptions())
    assert value(again.reload(), "count") == "10"


def test_other_arguments_in_one_run_are_refused(visitor: Visitor) -> None:
    """There is one state of the name: a second call with other arguments says so."""
    visitor.click("other arguments")
    assert any("other arguments" in text for text in visitor.exceptions())


def test_a_failed_save_is_raised_by_the_next_call(server: AppServer, visitor: Visitor) -> None:
    """What can't be saved at the end of a run, where nobody could see an exception, is raised in the next run."""
    visitor.click("increment")
    visitor.click("hold what can't be saved")
    assert not visitor.exceptions()
    visitor.rerun()
    assert any("AppState.handle" in text for text in visitor.exceptions())
    assert "AppState.handle" in server.logs()
    visitor.rerun()
    assert not visitor.exceptions()
    assert value(visitor, "count") == "1"


def test_clearing_starts_fresh_under_another_record(visitor: Visitor) -> None:
    """`state.clear_cookie_state()` forgets the visitor: the next call is fresh, now and after a reload."""
    visitor.click("increment")
    old = value(visitor, "record")
    visitor.click("clear")
    assert "after clearing: 0" in visitor.texts()
    visitor.rerun()
    assert value(visitor, "count") == "0"
    again = visitor.reload()
    assert value(again, "count") == "0"
    assert value(again, "record") != old


def test_subclasses_are_ordinary(visitor: Visitor) -> None:
    """A subclass makes instances of its own, and the state keeps its bases and its name."""
    assert (value(visitor, "special"), value(visitor, "base"), value(visitor, "name")) == ("False", "True", "AppState")


def test_a_function_gets_the_state_first(visitor: Visitor) -> None:
    """On a function every call is a block around it."""
    visitor.click("count me")
    visitor.click("count me")
    assert value(visitor.reload(), "clicks") == "2"
