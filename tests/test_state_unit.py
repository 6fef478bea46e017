"""The public functions in runs that are only pretended: what no server is needed for."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from persist_session import (
    PersistSessionError,
    StoreError,
    UnpicklableStateError,
    clear_cookie_state,
    load_state,
    persistent_state,
    save_state,
)
from support.records import CountingStore
from support.tabs import AppState, Browser, Tab, pretended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def store() -> CountingStore:
    """Return the store of all tabs."""
    return CountingStore()


@pytest.fixture
def browser(store: CountingStore) -> Iterator[Browser]:
    """Return a browser, for which nothing is saved yet."""
    with pretended(store) as made:
        yield made


def visit(browser: Browser, factory: Callable[[], Any] = AppState) -> Tab:
    """Return a tab in its second run, which has loaded the state."""
    tab = browser.load()
    for _ in range(2):
        tab.begin()
        load_state("x", factory)
    return tab


def saved(browser: Browser, factory: Callable[[], Any] = AppState) -> Any:
    """Return what a new tab gets."""
    browser.open().begin()
    return load_state("x", factory)


def save_elsewhere(browser: Browser, value: Any) -> None:
    """Let another tab change a fresh state to this and save it."""
    visit(browser, type(value))
    save_state("x", value)


def in_thread(work: Callable[[], Any]) -> Any:
    """Return what work returns, in a thread, and so in a context, of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(60)


# --- blocks


def test_one_block_object_serves_many_visitors(browser: Browser) -> None:
    """An imported module may make it: each thread leaves the block that it entered, in whichever order."""
    block = persistent_state("x", AppState)
    tabs = {name: browser.open() for name in "ab"}
    turns = {name: threading.Event() for name in ("a in", "b in", "a out")}
    got: dict[str, Any] = {}

    def visit(name: str, before: list[str], between: list[str], after: str) -> None:
        tabs[name].begin()
        for turn in before:
            assert turns[turn].wait(10)
        with block as got[name]:
            turns[f"{name} in"].set()
            for turn in between:
                assert turns[turn].wait(10)
        if after:
            turns[after].set()

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(visit, "a", [], ["b in"], "a out"), pool.submit(visit, "b", ["a in"], ["a out"], "")]
        for each in done:
            each.result(60)
    assert got["a"] is not got["b"]
    for tab in tabs.values():
        assert tab.memory["tab"].kept["x"]._open == []


def test_nested_blocks_give_one_object(browser: Browser, store: CountingStore) -> None:
    """Also of one block object, and a load inside of a block; the outermost saves once."""
    visit(browser)
    block = persistent_state("x", AppState)
    with block as one, block as two, persistent_state("x", AppState) as three:
        assert one is two is three is load_state("x", AppState)
        three.count = 1
        writes = store.writes
    assert store.writes == writes + 1
    assert saved(browser).count == 1


@pytest.mark.parametrize("way", ["clear", "login"])
def test_a_block_inside_an_outdated_one(browser: Browser, way: str) -> None:
    """Where the state was cleared meanwhile, or is another visitor's, the inner block saves by itself."""
    visit(browser)
    user = None
    with persistent_state("x", AppState) as outer:
        outer.count = 1
        if way == "clear":
            clear_cookie_state("x")
        else:
            save_state("x", outer)
            user = "ada"
        with persistent_state("x", AppState, user=user) as inner:
            inner.other = 2
    browser.open().begin()
    assert load_state("x", AppState, user=user) == AppState(int(way == "login"), 2)


def suspended(**changes: int) -> Iterator[None]:
    """Change the state in a block, and be suspended inside of it."""
    with persistent_state("x", AppState) as state:
        vars(state).update(changes)
        yield


def test_a_suspended_block_swallows_no_save(browser: Browser) -> None:
    """What later blocks of the run change is saved at its end, at the latest; a later run's block saves by itself."""
    tab = visit(browser)
    suspension = suspended(count=1)
    next(suspension)
    with persistent_state("x", AppState) as state:
        state.other = 2
    tab.end()
    assert saved(browser) == AppState(1, 2)
    tab.begin()
    with persistent_state("x", AppState) as state:
        state.items.append(3)
    assert saved(browser) == AppState(1, 2, [3])
    assert list(suspension) == []


@pytest.mark.parametrize("elsewhere", ["thread", "context"])
def test_a_generator_closed_elsewhere_saves(browser: Browser, elsewhere: str) -> None:
    """In another thread or context than it was begun in: it saves, and raises nothing."""
    visit(browser)
    suspension: Any = suspended(count=1)
    run_there = in_thread if elsewhere == "thread" else contextvars.copy_context().run
    next(suspension)
    run_there(suspension.close)
    assert saved(browser).count == 1
    visit(browser)
    suspension = suspended(count=2)
    contextvars.copy_context().run(next, suspension)
    suspension.close()
    assert saved(browser).count == 2


@pytest.mark.parametrize("way", ["same run", "next run"])
def test_a_block_never_left(browser: Browser, way: str) -> None:
    """It makes no later block a nested one whose changes are lost."""
    tab = visit(browser)
    persistent_state("x", AppState).__enter__().count = 1
    if way == "next run":
        tab.begin()
        gc.collect()
    for n in (2, 3):
        with persistent_state("x", AppState) as state:
            state.items.append(n)
    if way == "same run":
        tab.end()
    assert saved(browser) == AppState(1, 0, [2, 3])


ORDERS = [(first, failing, last) for first in "ab" for failing in "ab" for last in "ab"]


@pytest.mark.parametrize(("first", "failing", "last"), ORDERS)
def test_one_tasks_error_takes_nothing(browser: Browser, first: str, failing: str, last: str) -> None:
    """Of two asyncio tasks in blocks of one name one raises: what the other one changed is saved, in every order."""
    tab = visit(browser)
    fields, other = {"a": "count", "b": "other"}, {"a": "b", "b": "a"}

    async def both() -> Any:
        happened = {f"{who} {what}": asyncio.Event() for who in "ab" for what in ("in", "did", "out")}

        async def act(who: str) -> None:
            if who != first:
                await happened[f"{first} in"].wait()
            with persistent_state("x", AppState) as state:
                happened[f"{who} in"].set()
                await happened[f"{other[who]} in"].wait()
                setattr(state, fields[who], 1)
                happened[f"{who} did"].set()
                await happened[f"{other[who]} did"].wait()
                if who == last:
                    await happened[f"{other[who]} out"].wait()
                if who == failing:
                    raise ValueError("boom")

        async def watch(who: str) -> None:
            try:
                await act(who)
            finally:
                happened[f"{who} out"].set()

        return await asyncio.gather(watch("a"), watch("b"), return_exceptions=True)

    assert [str(error) for error in asyncio.run(both()) if error is not None] == ["boom"]
    tab.end()
    assert getattr(saved(browser), fields[other[failing]]) == 1


def test_a_failing_tasks_own_changes_go(browser: Browser) -> None:
    """What it did before another task's block was opened is surely its own, and is thrown away."""
    visit(browser)
    inner = persistent_state("x", AppState)

    def fail() -> None:
        with pytest.raises(ValueError, match="boom"), persistent_state("x", AppState) as state:  # noqa: PT012 (the block)
            state.count = 1
            contextvars.Context().run(inner.__enter__).other = 2
            raise ValueError("boom")

    fail()
    inner.__exit__(None, None, None)
    assert saved(browser) == AppState(0, 2)


# --- one visitor's object is never another's


DEFAULTS: dict[str, Any] = {"theme": "dark", "items": []}


@pytest.mark.parametrize("way", ["factory", "save_state"])
def test_defaults_leak_to_nobody(browser: Browser, way: str) -> None:
    """A shared object that a factory hands out, or that is saved for each visitor, takes on no visitor's values."""

    def factory() -> dict[str, Any]:
        return DEFAULTS

    make = factory if way == "factory" else dict
    tabs = [Tab(Browser()) for _ in range(2)]
    for tab in (*tabs, *tabs):
        tab.begin()
        load_state("x", make)
        if way == "save_state":
            save_state("x", DEFAULTS)
    for tab, value in zip(tabs, ("one", "two"), strict=True):
        tab.begin()
        with persistent_state("x", make) as state:
            assert state == {"theme": "dark", "items": []}
            state["theme"] = value
            state["items"].append(value)
    assert DEFAULTS == {"theme": "dark", "items": []}
    for tab, value in zip(tabs, ("one", "two"), strict=True):
        tab.begin()
        assert load_state("x", make) == {"theme": value, "items": [value]}


# --- exceptions


def boom(**attributes: Any) -> AppState:
    """Return the object of a block that sets these attributes, and is left by an exception."""
    got: list[AppState] = []
    with pytest.raises(ValueError, match="boom"), persistent_state("x", AppState) as state:  # noqa: PT012 (the block)
        got.append(state)
        vars(state).update(attributes)
        raise ValueError("boom")
    return got[0]


def test_an_exception_spares_earlier_runs(browser: Browser) -> None:
    """Before the browser is known: what blocks left, and what was saved by hand, comes back."""
    tab = browser.open()
    tab.begin()
    with persistent_state("x", AppState) as state:
        state.items.append(1)
    boom(count=1)
    assert load_state("x", AppState).items == [1]
    load_state("x", AppState).items.append(2)
    save_state("x", load_state("x", AppState))
    boom(count=1)
    assert load_state("x", AppState) == AppState(items=[1, 2])
    tab.begin()
    assert saved(browser) == AppState(items=[1, 2])


def test_a_callback_of_a_failed_run(browser: Browser) -> None:
    """Its widget is still on the page: what it does to the run's object is kept; what the run itself did is not."""
    browser.open().begin()
    with persistent_state("x", AppState) as state:
        state.items.append(1)
    failed = boom(new="gone")
    failed.items.append(3)
    restored = load_state("x", AppState)
    assert restored.items == [1, 3]
    assert not hasattr(restored, "new")


def test_saving_by_hand_after_an_exception(browser: Browser) -> None:
    """It is based on the record: what another tab saved meanwhile is merged with it."""
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


def test_another_object_saved_early(browser: Browser) -> None:
    """Before the browser is known: it is added to the record, though it is what it was when it was put in."""
    browser.strips = True
    tab = browser.open()
    tab.begin()
    load_state("x", dict)
    save_state("x", {"b": 2})
    save_elsewhere(browser, {"a": 1})
    tab.begin()
    assert load_state("x", dict) == {"a": 1, "b": 2}


# --- failures


class Refused(Exception):  # noqa: N818 (an app's own)
    """An exception that pickles and does not unpickle."""

    def __init__(self, code: int, *, secret: str) -> None:
        super().__init__(f"{code} {secret}")


def test_what_does_not_unpickle_is_named(browser: Browser) -> None:
    """By path and class, with the remedy; the next run goes on with the saved state."""
    tab = visit(browser)
    with pytest.raises(UnpicklableStateError) as caught, persistent_state("x", AppState) as state:
        state.items.append({"secret": Refused(1, secret="hunter2")})
    said = str(caught.value)
    assert f"AppState.items[0][key 1], a {__name__}.Refused" in said
    assert "plain copy" in said
    assert "secret" not in said
    assert "hunter2" not in said
    tab.begin()
    with persistent_state("x", AppState) as state:
        assert state == AppState()
        state.count = 1
    assert saved(browser).count == 1


def test_a_failing_store_clears_nothing(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next load, or the next clear, finds the record."""

    def fail(*_: Any) -> None:
        raise StoreError("no")

    save_elsewhere(browser, {"saved": 1})
    tab = browser.open()
    tab.begin()
    load_state("x", dict)
    with monkeypatch.context() as patch:
        patch.setattr(CountingStore, "delete", fail)
        with pytest.raises(StoreError):
            clear_cookie_state("x")
    assert load_state("x", dict) == {"saved": 1}


def test_a_failing_renewal_fails_no_page(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A page that changes nothing is shown all the same, and the log tells."""

    def fail(*_: Any, **__: Any) -> bool:
        raise StoreError("The disk is full. Make room.")

    with pretended(store, max_age=1000.0) as browser:
        save_elsewhere(browser, AppState(1))
    with pretended(store, max_age=1e6) as again:
        again.cookies = browser.cookies
        tab = again.open()
        monkeypatch.setattr(store, "write", fail)
        for _ in range(2):
            tab.begin()
            with persistent_state("x", AppState) as state:
                assert state.count == 1
            tab.end()
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert "could not be renewed" in caplog.text


def test_storms_of_clears_and_saves(browser: Browser) -> None:
    """Threads of several tabs clear, save and move at once: none meets an error of the library's inside."""
    visit(browser)
    tabs = [browser.open() for _ in range(4)]
    start, own = threading.Barrier(8), list[BaseException]()

    def storm(tab: Tab, number: int) -> None:
        start.wait()
        for n in range(25):
            try:
                tab.go_on()
                user = "ada" if (n + number) % 5 == 0 else None
                with persistent_state("x", AppState, user=user) as state:
                    state.items.append(n)
                if (n + number) % 3 == 0:
                    clear_cookie_state("x")
                save_state("x", load_state("x", AppState, user=user))
            except PersistSessionError as error:
                own.append(error)

    for tab in tabs:
        tab.begin()
        load_state("x", AppState)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(storm, tab, n) for n, tab in enumerate([*tabs, *tabs])]:
            done.result(60)
    assert own == []
    for tab in tabs:
        tab.end()
    browser.open().begin()  # a tab that a login left behind keeps its state for itself
    with persistent_state("x", AppState) as state:
        state.count = 7
    assert saved(browser).count == 7


def test_deep_nesting_is_saved_or_told(browser: Browser) -> None:
    """Between 250 and 480 levels it works, or a clear error says why not; never a RecursionError."""
    tab = visit(browser, dict)
    for levels in range(250, 481, 46):
        deep: Any = 0
        for _ in range(levels):
            deep = AppState(items=[deep])
        for _ in range(2):
            tab.begin()
            try:
                with persistent_state("x", dict) as state:
                    state["deep"] = deep
            except PersistSessionError as error:
                assert "nested too deeply" in str(error)  # noqa: PT017 (it may work, too)
    tab.begin()
    with persistent_state("x", dict[str, int]) as done:
        done.clear()
        done["done"] = 1
    assert saved(browser, dict) == {"done": 1}
