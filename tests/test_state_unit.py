"""The public functions in runs that are only pretended: what no server is needed for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from persist_session import (
    StoreError,
    UnpicklableStateError,
    clear_cookie_state,
    load_state,
    persistent_state,
    save_state,
)
from support.records import CountingStore
from support.tabs import AppState, Browser, pretended

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Return a browser, for which nothing is saved yet."""
    with pretended(CountingStore()) as made:
        yield made


def save_elsewhere(browser: Browser, value: Any) -> None:
    """Let another tab, which the browser has answered, change a fresh state to this and save it."""
    tab = browser.open()
    for _ in range(2):
        tab.begin()
        load_state("x", type(value))
    save_state("x", value)


def test_one_block_object_serves_many_visitors_at_once(browser: Browser) -> None:
    """An imported module may make it: each thread leaves the block that it entered, in whichever order."""
    block = persistent_state("x", AppState)
    tabs = {name: browser.open() for name in "ab"}
    turns = {name: threading.Event() for name in ("a in", "b in", "a out")}
    got: dict[str, Any] = {}
    failed: list[BaseException] = []

    def visit(name: str, before: list[str], between: list[str], after: str) -> None:
        try:
            tabs[name].begin()
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


def test_nested_blocks_give_one_object(browser: Browser) -> None:
    """Also of one block object, and a load inside of a block."""
    browser.open().begin()
    block = persistent_state("x", AppState)
    with block as one, block as two, persistent_state("x", AppState) as three:
        assert one is two is three is load_state("x", AppState)


def test_a_state_that_can_not_be_pickled_when_the_browser_answers_is_told_as_such(browser: Browser) -> None:
    """What the visitor did before is to be merged then: the error is the one that a save would raise."""
    tab = browser.open()
    tab.begin()
    load_state("x", AppState).items.append(lambda: 1)
    save_elsewhere(browser, AppState(items=[2]))
    tab.begin()
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


def test_an_exception_before_the_browser_is_known_loses_nothing_of_earlier_runs(browser: Browser) -> None:
    """What blocks left, and what was saved by hand, comes back; and counts as a change once the record is known."""
    browser.open().begin()
    with persistent_state("x", AppState) as state:
        state.items.append(1)
    boom()
    assert load_state("x", AppState).items == [1]
    load_state("x", AppState).items.append(2)
    save_state("x", load_state("x", AppState))
    boom()
    assert load_state("x", AppState).items == [1, 2]


def test_another_object_saved_before_the_browser_is_known_is_added_to_the_record(browser: Browser) -> None:
    """Though it is what it was when it was put in."""
    tab = browser.open()
    tab.begin()
    load_state("x", dict)
    save_state("x", {"b": 2})
    save_elsewhere(browser, {"a": 1})
    tab.begin()
    assert load_state("x", dict) == {"a": 1, "b": 2}


def test_a_save_by_hand_after_an_exception_is_based_on_the_record(browser: Browser) -> None:
    """What another tab saved meanwhile is merged with it."""
    save_elsewhere(browser, {"base": 0})
    tab, other = browser.open(), browser.open()
    tab.begin()
    with pytest.raises(ValueError, match="boom"), persistent_state("x", dict):
        raise ValueError("boom")
    other.begin()
    with persistent_state("x", dict) as state:
        state["other"] = 1
    tab.begin()
    save_state("x", {"base": 0, "mine": 2})
    assert load_state("x", dict) == {"base": 0, "other": 1, "mine": 2}


def test_what_a_callback_does_to_the_object_of_a_failed_run_is_kept(browser: Browser) -> None:
    """Its widget is still on the page; what the run itself did to the object is not."""
    browser.open().begin()
    with persistent_state("x", AppState) as state:
        state.items.append(1)
    failed = boom(new="gone")
    failed.items.append(3)
    restored = load_state("x", AppState)
    assert restored.items == [1, 3]
    assert not hasattr(restored, "new")


def test_where_the_store_fails_nothing_is_cleared(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next load, or the next clear, finds the record."""

    def fail(*_: Any) -> None:
        raise StoreError("no")

    tab = browser.open()
    tab.begin()
    load_state("x", dict)
    save_elsewhere(browser, {"saved": 1})
    tab.begin()
    with monkeypatch.context() as patch:
        patch.setattr(CountingStore, "delete", fail)
        with pytest.raises(StoreError):
            clear_cookie_state("x")
    assert load_state("x", dict) == {"saved": 1}
