"""The public functions in runs that are only pretended: what no server is needed for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from persist_session import (
    StoreError,
    UnpicklableStateError,
    clear_cookie_state,
    host,
    load_state,
    persistent_state,
    save_state,
)
from persist_session.host import Run
from persist_session.settings import Settings
from support.records import KEYS, CountingStore

if TYPE_CHECKING:
    from collections.abc import Callable


class AppState:
    """A state."""

    def __init__(self) -> None:
        self.items: list[Any] = []


class Tab(Run):
    """A run of a tab of its own, without a browser."""

    __slots__ = ("_memory",)
    _memory: dict[str, Any]

    def __init__(self) -> None:
        class Context:
            main_script_path = __file__

        class Coordinator:
            pass

        context: Any = Context()
        context.parallel_coordinator = Coordinator()
        super().__init__(context)
        object.__setattr__(self, "_memory", {})

    @property
    def memory(self) -> dict[str, Any]:
        """What the tab remembers."""
        return self._memory


@pytest.fixture
def enter_tab(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tab], None]:
    """Return a function after which the calling thread runs a tab's script."""
    local = threading.local()
    settings = Settings(
        keys=KEYS,
        store=CountingStore(),
        max_age=60.0,
        same_site="lax",
        secure=None,
        path=None,
        ask_browser=True,
        max_bytes=10_000,
        lock_timeout=10.0,
    )
    monkeypatch.setattr(host, "current_run", lambda: getattr(local, "tab", None))
    monkeypatch.setattr(host, "handshake", lambda: None)
    monkeypatch.setattr("persist_session.settings.resolve", lambda *_: settings)
    return lambda tab: setattr(local, "tab", tab)


def test_one_block_object_serves_many_visitors_at_once(enter_tab: Callable[[Tab], None]) -> None:
    """An imported module may make it: each thread leaves the block that it entered, in whichever order."""
    block = persistent_state("x", AppState)
    tabs = {name: Tab() for name in "ab"}
    turns = {name: threading.Event() for name in ("a in", "b in", "a out")}
    got: dict[str, Any] = {}
    failed: list[BaseException] = []

    def visit(name: str, before: list[str], between: list[str], after: str) -> None:
        try:
            enter_tab(tabs[name])
            for turn in before:
                assert turns[turn].wait(10)
            with block as got[name]:
                turns[f"{name} in"].set()
                for turn in between:
                    assert turns[turn].wait(10)
            if after:
                turns[after].set()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [
        threading.Thread(target=visit, args=("a", [], ["b in"], "a out")),
        threading.Thread(target=visit, args=("b", ["a in"], ["a out"], "")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert got["a"] is not got["b"]
    for tab in tabs.values():
        assert tab.memory["tab"].held["x"].blocks == {}


def test_nested_blocks_give_one_object(enter_tab: Callable[[Tab], None]) -> None:
    """Also of one block object, and a load inside of a block."""
    enter_tab(Tab())
    block = persistent_state("x", AppState)
    with block as one, block as two, persistent_state("x", AppState) as three:
        assert one is two is three is load_state("x", AppState)


def test_a_state_that_can_not_be_pickled_when_the_browser_answers_is_told_as_such(
    enter_tab: Callable[[Tab], None],
) -> None:
    """What the visitor did before is to be merged then: the error is the one that a save would raise."""
    tab, other = Tab(), Tab()
    enter_tab(tab)
    load_state("x", AppState).items.append(lambda: 1)
    enter_tab(other)
    load_state("x", AppState)
    answer(other)
    with persistent_state("x", AppState) as saved:
        saved.items.append(2)

    enter_tab(tab)
    answer(tab)
    with pytest.raises(UnpicklableStateError, match=r"AppState\.items\[0\]"):
        load_state("x", AppState)


def boom(**attributes: Any) -> AppState:
    """Return the object of a block that sets these attributes, and is left by an exception."""
    got: list[AppState] = []
    with pytest.raises(ValueError, match="boom"), persistent_state("x", AppState) as state:  # noqa: PT012 (the block)
        got.append(state)
        vars(state).update(attributes)
        raise ValueError("boom")
    return got[0]


def test_an_exception_before_the_browser_is_known_loses_nothing_of_earlier_runs(
    enter_tab: Callable[[Tab], None],
) -> None:
    """What blocks left, and what was saved by hand, comes back; and counts as a change once the record is known."""
    tab = Tab()
    enter_tab(tab)
    with persistent_state("x", AppState) as state:
        state.items.append(1)
    boom()
    assert load_state("x", AppState).items == [1]
    load_state("x", AppState).items.append(2)
    save_state("x", load_state("x", AppState))
    boom()
    assert load_state("x", AppState).items == [1, 2]


def test_another_object_saved_before_the_browser_is_known_is_added_to_the_record(
    enter_tab: Callable[[Tab], None],
) -> None:
    """Though it is what it was when it was put in."""
    tab, other = Tab(), Tab()
    enter_tab(other)
    load_state("x", dict)
    answer(other)
    with persistent_state("x", dict) as saved:
        saved["a"] = 1
    enter_tab(tab)
    load_state("x", dict)
    save_state("x", {"b": 2})
    answer(tab)
    assert load_state("x", dict) == {"a": 1, "b": 2}


def test_a_save_by_hand_after_an_exception_is_based_on_the_record(enter_tab: Callable[[Tab], None]) -> None:
    """What another tab saved meanwhile is merged with it."""
    tab, other = Tab(), Tab()
    for each in (tab, other):
        enter_tab(each)
        load_state("x", dict)
        answer(each)
    enter_tab(tab)
    with persistent_state("x", dict) as state:
        state["base"] = 0
    with pytest.raises(ValueError, match="boom"), persistent_state("x", dict):
        raise ValueError("boom")
    enter_tab(other)
    with persistent_state("x", dict) as state:
        state["other"] = 1
    enter_tab(tab)
    save_state("x", {"base": 0, "mine": 2})
    assert load_state("x", dict) == {"base": 0, "other": 1, "mine": 2}


def test_what_a_callback_does_to_the_object_of_a_failed_run_is_kept(enter_tab: Callable[[Tab], None]) -> None:
    """Its widget is still on the page; what the run itself did to the object is not."""
    enter_tab(Tab())
    with persistent_state("x", AppState) as state:
        state.items.append(1)
    failed = boom(other="gone")
    failed.items.append(3)
    restored = load_state("x", AppState)
    assert restored.items == [1, 3]
    assert not hasattr(restored, "other")


def test_where_the_store_fails_nothing_is_cleared(
    enter_tab: Callable[[Tab], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next load, or the next clear, finds the record."""

    def fail(*_: Any) -> None:
        raise StoreError("no")

    other, tab = Tab(), Tab()
    enter_tab(other)
    load_state("x", dict)
    answer(other)
    with persistent_state("x", dict) as state:
        state["saved"] = 1
    enter_tab(tab)
    load_state("x", dict)
    answer(tab)
    with monkeypatch.context() as patch:
        patch.setattr(CountingStore, "delete", fail)
        with pytest.raises(StoreError):
            clear_cookie_state("x")
    assert load_state("x", dict) == {"saved": 1}


def answer(tab: Tab) -> None:
    """Let the tab know its browser, which is the same one for all tabs here."""
    tab.memory["tab"].held["x"].binding.session_id = "0" * 32
