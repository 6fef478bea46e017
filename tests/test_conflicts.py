"""No change is lost silently: tabs of one visitor, exclusive blocks, renewal, expiry and clearing."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import time_machine

from persist_session import (
    ConfigurationError,
    LockTimeoutError,
    StateConflictError,
    StoreError,
    clear_cookie_state,
    load_state,
    persist,
    persistent_state,
    save_state,
    state_info,
)
from persist_session.objects import merge as merge_module
from persist_session.records import Saved
from persist_session.stores import Stored
from support.records import CountingStore
from support.tabs import AppState, Browser, Tab, pretended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "app-state"
MAX_AGE = 1000.0


@dataclass(frozen=True)
class Frozen:
    """A state whose fields can't be set."""

    count: int = 0
    other: int = 0


@pytest.fixture
def store() -> CountingStore:
    """Return the store of all tabs."""
    return CountingStore()


@pytest.fixture
def browser(store: CountingStore) -> Iterator[Browser]:
    """Return a browser, for which nothing is saved yet."""
    with pretended(store, MAX_AGE) as made:
        yield made


def block(**options: Any) -> persistent_state[Any]:
    """Return a block of the state."""
    return persistent_state(NAME, AppState, **options)


def save(tab: Tab, **changes: Any) -> None:
    """Change the state in a run of its own of the tab."""
    tab.begin()
    with block() as state:
        for name, value in changes.items():
            setattr(state, name, value)


def seen(tab: Tab, factory: Callable[[], Any] = AppState, **options: Any) -> Any:
    """Return what a run of the tab gets."""
    tab.begin()
    return load_state(NAME, factory, **options)


def two_tabs(browser: Browser, factory: Callable[[], Any] = AppState) -> tuple[Tab, Tab]:
    """Return two tabs that have loaded the saved state."""
    first = browser.load()
    first.begin()
    load_state(NAME, factory)
    save_state(NAME, factory())
    tabs = browser.open(), browser.open()
    for tab in tabs:
        seen(tab, factory)
    return tabs


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages of all warnings and worse."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- entry


def test_an_untouched_object_follows(browser: Browser, store: CountingStore, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is written for it, nothing warned of; and what it is changed to then is a change."""
    one, two = two_tabs(browser)
    mine = seen(one)
    items = mine.items
    save(two, count=5, items=[1])
    writes = store.writes
    one.begin()
    with block() as state:
        assert state is mine
        assert state.items is items or state.items == [1]
        assert (state.count, state.items) == (5, [1])
    assert store.writes == writes
    save(one, count=0)
    assert seen(browser.open()).count == 0
    assert warnings(caplog) == []


def test_an_unchanged_entry_asks_the_version(browser: Browser, store: CountingStore) -> None:
    """And its exit asks for nothing."""
    tab, _ = two_tabs(browser)
    before = store.versions, store.reads, store.writes
    tab.begin()
    with block():
        pass
    assert (store.versions, store.reads, store.writes) == (before[0] + 1, *before[1:])


def test_another_tabs_save_is_read_once(browser: Browser, store: CountingStore) -> None:
    """What it has read then is not read again."""
    one, two = two_tabs(browser)
    save(two, count=5)
    reads = store.reads
    for _ in range(3):
        seen(one)
    assert store.reads == reads + 1


# --- both changed: by the end of the block, or before its entry


def at_exit(one: Tab, two: Tab, change: Callable[[Any], Any], theirs: dict[str, Any], **options: Any) -> None:
    """Let tab two save while the block of tab one is open."""
    one.begin()
    with block(**options) as state:
        save(two, **theirs)
        change(state)


def at_entry(one: Tab, two: Tab, change: Callable[[Any], Any], theirs: dict[str, Any], **options: Any) -> None:
    """Let a callback of tab one change what it holds, and tab two save before tab one's next block."""
    state = seen(one)
    save(two, **theirs)
    change(state)
    one.begin()
    with block(**options):
        pass


WAYS = pytest.mark.parametrize("conflict", [at_exit, at_entry])


@WAYS
def test_merge_keeps_both_sides_changes(
    browser: Browser, conflict: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """Other fields of one state, and appends to one list: theirs come first; nothing is warned of."""
    one, two = two_tabs(browser)
    mine = seen(one)

    def change(state: Any) -> None:
        state.count = 1
        state.items.append("mine")

    conflict(one, two, change, {"other": 2, "items": ["theirs"]})
    for tab in (one, two, browser.open()):
        assert seen(tab) == AppState(1, 2, ["theirs", "mine"])
    assert seen(one) is mine
    assert warnings(caplog) == []


@WAYS
def test_the_own_change_stays(
    browser: Browser, conflict: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """One WARNING names state and field, and neither value."""
    one, two = two_tabs(browser)
    conflict(one, two, lambda state: setattr(state, "count", 1111), {"count": 2222, "other": 3})
    assert seen(browser.open()) == AppState(1111, 3)
    [message] = warnings(caplog)
    assert "AppState.count" in message
    assert NAME in message
    assert "1111" not in message
    assert "2222" not in message


@WAYS
def test_overwrite_keeps_this_sides_state(
    browser: Browser, conflict: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """As a whole; who chose it is not warned."""
    one, two = two_tabs(browser)
    conflict(
        one, two, lambda state: setattr(state, "count", 1), {"count": 2, "items": ["theirs"]}, on_conflict="overwrite"
    )
    assert seen(two) == seen(one) == seen(browser.open()) == AppState(1)
    assert warnings(caplog) == []


@WAYS
def test_raise_raises(browser: Browser, conflict: Callable[..., None]) -> None:
    """The error carries base, mine and theirs; the record stays, nothing of mine is saved by a later exit."""
    one, two = two_tabs(browser)
    save(one, count=1)
    seen(two)
    with pytest.raises(StateConflictError, match="on_conflict") as caught:
        conflict(one, two, lambda state: setattr(state, "count", 2), {"count": 3}, on_conflict="raise")
    error = caught.value
    assert (error.name, error.base, error.mine, error.theirs) == (NAME, AppState(1), AppState(2), AppState(3))
    assert seen(browser.open()).count == 3
    one.begin()
    with block(on_conflict="raise") as state:
        assert state.count == 3
    assert seen(browser.open()).count == 3


@WAYS
def test_one_sides_change_is_no_conflict(browser: Browser, conflict: Callable[..., None]) -> None:
    """A change of theirs alone is no conflict."""
    one, two = two_tabs(browser)
    conflict(one, two, lambda _: None, {"count": 3}, on_conflict="raise")
    assert seen(one).count == 3


@WAYS
def test_a_function_decides(browser: Browser, conflict: Callable[..., None]) -> None:
    """It gets base, mine and theirs once, and what it returns is saved, and given to the tab."""
    one, two = two_tabs(browser)
    save(one, count=10)
    seen(two)
    asked: list[tuple[int, int, int]] = []

    def add(base: Any, mine: Any, theirs: Any) -> Any:
        asked.append((base.count, mine.count, theirs.count))
        return AppState(mine.count + theirs.count - base.count)

    conflict(one, two, lambda state: setattr(state, "count", 11), {"count": 15}, on_conflict=add)
    assert asked == [(10, 11, 15)]
    for tab in (browser.open(), one, two):
        assert seen(tab).count == 16


@WAYS
def test_a_function_may_undo_both_changes(browser: Browser, conflict: Callable[..., None]) -> None:
    """What it gives back is saved, though this tab loaded just that."""
    one, two = two_tabs(browser)
    conflict(one, two, lambda s: setattr(s, "count", 1), {"count": 2}, on_conflict=lambda base, *_: base)
    assert seen(browser.open()) == AppState()


def test_two_conflicts_in_a_row(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    """What the first one brought in is no change of this side's in the second."""
    one, two = two_tabs(browser)
    seen(one).count = 1
    for value in (2, 3):
        save(two, other=value)
        assert seen(one) == AppState(1, value)
    assert warnings(caplog) == []


@WAYS
def test_a_function_that_returns_none(browser: Browser, conflict: Callable[..., None]) -> None:
    """A forgotten return is the developer's mistake; theirs stays saved."""
    one, two = two_tabs(browser)
    with pytest.raises(ConfigurationError, match="returned None"):
        conflict(one, two, lambda s: setattr(s, "count", 1), {"count": 2}, on_conflict=lambda *_: None)
    assert seen(browser.open()).count == 2


@WAYS
def test_an_error_of_a_function(browser: Browser, conflict: Callable[..., None]) -> None:
    """It comes out as it is; theirs stays saved."""
    one, two = two_tabs(browser)

    def refuse(*_: Any) -> Any:
        raise ZeroDivisionError("own")

    with pytest.raises(ZeroDivisionError, match="own"):
        conflict(one, two, lambda s: setattr(s, "count", 1), {"count": 2}, on_conflict=refuse)
    assert seen(browser.open()).count == 2
    assert seen(one, on_conflict=refuse).count == 2  # one bad run, not every later one


def test_a_refused_change_can_be_repeated(browser: Browser) -> None:
    """In the same run: what is loaded next is what was saved."""
    one, two = two_tabs(browser)
    one.begin()
    state = load_state(NAME, AppState, on_conflict="raise")
    state.count += 1
    save(two, count=10)
    one.go_on()
    with pytest.raises(StateConflictError):
        save_state(NAME, state)
    state = load_state(NAME, AppState, on_conflict="raise")
    state.count += 1
    save_state(NAME, state)
    assert seen(browser.open()).count == 11


def test_a_renewal_elsewhere_is_no_conflict(store: CountingStore) -> None:
    """It wrote the record anew, but changed nothing."""
    with time_machine.travel(10_000.0, tick=False) as clock, pretended(store, MAX_AGE) as browser:
        one, two = two_tabs(browser)
        clock.shift(MAX_AGE * 0.45)
        one.begin()
        with block(on_conflict="raise") as state:
            state.count = 1
            clock.shift(MAX_AGE * 0.1)
            writes = store.writes
            seen(two)
            assert store.writes == writes + 1
        assert seen(browser.open()).count == 1


def test_a_change_while_the_object_follows(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes between the merge and the new baseline."""
    one, two = two_tabs(browser)
    mine = seen(one)
    run = one._context.parallel_coordinator  # goes on
    save(two, other=1)

    def merge(*arguments: Any, **options: Any) -> Any:
        merged = merge_module.merge(*arguments, **options)
        mine.count = 9
        return merged

    with monkeypatch.context() as patch:
        patch.setattr("persist_session.objects.live.merge", merge)
        seen(one)
    assert run is not one._context.parallel_coordinator
    save(one)
    assert seen(browser.open()) == AppState(9, 1)


def test_a_failed_save_knows_the_record(
    browser: Browser, store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other tab clears the state before the next try: nothing of it comes back."""
    tab, _ = two_tabs(browser)
    store.delete(str(key(tab)), NAME)
    one, two = browser.open(), browser.open()
    one.begin()
    with pytest.raises(StoreError), block() as state:  # noqa: PT012 (the end of the block raises)
        state.count = 1
        save(two, items=["secret"])
        write, calls = store.write, itertools.count(1)

        def refuse_the_second(*arguments: Any, **options: Any) -> bool:
            if next(calls) == 2:
                raise StoreError("full")
            return write(*arguments, **options)

        monkeypatch.setattr(store, "write", refuse_the_second)
    monkeypatch.undo()
    clear(two)
    one.begin()
    with block():
        pass
    assert seen(browser.open()) == AppState()
    assert b"secret" not in b"".join(stored.data for stored in store._records.values())


@pytest.mark.parametrize(
    ("factory", "mine", "theirs"),
    [(int, 1111, 2222), (Frozen, Frozen(count=1111), Frozen(other=2222)), (tuple, (1111,), (2222,))],
)
def test_what_has_no_fields_to_merge(
    browser: Browser, factory: Callable[[], Any], mine: Any, theirs: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A number, a frozen dataclass: with a WARNING that names the class, and no value."""
    one, two = two_tabs(browser, factory)
    two.begin()
    save_state(NAME, theirs)
    one.begin()
    save_state(NAME, mine)
    assert seen(browser.open(), factory) == mine
    assert seen(two, factory) == mine
    [message] = warnings(caplog)
    assert factory.__name__ in message
    assert "1111" not in message
    assert "2222" not in message


@pytest.mark.parametrize("wrong", ["theirs", "Merge", "", None, 1, True])
def test_a_wrong_on_conflict_is_refused(wrong: Any) -> None:
    """Before anything is loaded; the error says what there is."""
    with pytest.raises(ConfigurationError, match="'merge', 'overwrite', 'raise' or a function"):
        block(on_conflict=wrong)
    with pytest.raises(ConfigurationError, match="on_conflict"):
        load_state(NAME, AppState, on_conflict=wrong)


# --- exclusive


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    """Return a started thread."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def enter_elsewhere(tab: Tab) -> None:
    """Let a thread of its own enter and leave an exclusive block of this tab."""
    done: list[bool] = []

    def enter() -> None:
        tab.begin()
        with block(exclusive=True):
            done.append(True)

    in_thread(enter).join(60)
    assert done == [True]


def test_exclusive_blocks_lose_no_increment(browser: Browser) -> None:
    """Two tabs that add one, each in a thread of its own: nothing is lost."""
    tabs = two_tabs(browser)
    failed: list[BaseException] = []

    def work(tab: Tab) -> None:
        try:
            for _ in range(50):
                tab.begin()
                with block(exclusive=True) as state:
                    count = state.count
                    time.sleep(0.001)  # long enough for the other one to come, were there no lock
                    state.count = count + 1
        except BaseException as error:
            failed.append(error)

    for thread in [in_thread(partial(work, tab)) for tab in tabs]:
        thread.join(60)
    assert failed == []
    assert seen(browser.open()).count == 100


def test_an_exclusive_entry_waits(browser: Browser) -> None:
    """It reads only when it has the lock: what the other block saved at its end is there."""
    one, two = two_tabs(browser)
    got: list[int] = []

    def wait() -> None:
        two.begin()
        with block(exclusive=True) as state:
            got.append(state.count)

    one.begin()
    with block(exclusive=True) as state:
        thread = in_thread(wait)
        thread.join(0.05)
        assert got == []
        state.count = 7
    thread.join(60)
    assert got == [7]


def test_an_ordinary_block_waits_for_none(store: CountingStore) -> None:
    """It enters, changes, saves and leaves while another tab's exclusive block is open; both changes are kept."""
    with pretended(store, lock_timeout=0.0) as browser:
        one, two = two_tabs(browser)
        one.begin()
        with block(exclusive=True) as state:
            in_thread(partial(save, two, other=2)).join(60)
            assert seen(browser.open()).other == 2
            state.count = 1
        assert seen(browser.open()) == AppState(1, 2)


def test_waiting_too_long_is_told(store: CountingStore) -> None:
    """The error names the setting; the block was not opened, and once the lock is free it can be."""
    with pretended(store, lock_timeout=0.01) as browser:
        one, two = two_tabs(browser)
        failed: list[BaseException] = []

        def wait() -> None:
            two.begin()
            try:
                with block(exclusive=True):
                    failed.append(AssertionError("opened"))
            except LockTimeoutError as error:
                failed.append(error)

        one.begin()
        with block(exclusive=True) as state:
            in_thread(wait).join(60)
            state.count = 1
        [error] = failed
        assert isinstance(error, LockTimeoutError)
        assert "lock_timeout" in str(error)
        two.begin()
        with block(exclusive=True) as state:
            assert state.count == 1


@pytest.mark.parametrize("on_error", ["discard", "commit"])
def test_an_exception_frees_the_lock(store: CountingStore, on_error: str) -> None:
    """Another tab need not wait at all."""
    with pretended(store, lock_timeout=0.0) as browser:
        one, two = two_tabs(browser)
        one.begin()
        with pytest.raises(ValueError, match="boom"), block(exclusive=True, on_error=on_error):
            raise ValueError("boom")
        enter_elsewhere(two)


def test_a_failed_entry_frees_the_lock(store: CountingStore) -> None:
    """A conflict that raises on entry under the lock."""
    with pretended(store, lock_timeout=0.0) as browser:
        one, two = two_tabs(browser)
        seen(one).count = 1
        save(two, count=2)
        one.begin()
        with pytest.raises(StateConflictError), block(exclusive=True, on_conflict="raise"):
            pass
        enter_elsewhere(two)


def test_exclusive_inside_of_an_ordinary_block(browser: Browser) -> None:
    """The state was loaded before there was a lock; the outer block goes on."""
    tab, _ = two_tabs(browser)
    tab.begin()
    with block() as state:
        with pytest.raises(ConfigurationError, match="exclusive=True at the outer one"), block(exclusive=True):
            pass
        state.count = 1
    assert seen(browser.open()).count == 1
    tab.begin()
    with block(exclusive=True) as outer, block(exclusive=True) as inner, block() as innermost:
        assert outer is inner is innermost
        innermost.count = 2
    assert seen(browser.open()).count == 2


def test_exclusive_on_a_class_is_refused() -> None:
    """At decoration, with the remedy."""
    options: dict[str, Any] = {"exclusive": True}
    decorate: Any = persist(NAME, **options)
    with pytest.raises(ConfigurationError, match=r"with persistent_state\(\.\.\., exclusive=True\)"):
        decorate(AppState)


# --- renewal and expiry


def test_a_visit_renews_the_record_once(store: CountingStore) -> None:
    """With its whole time, and the same lineage; a visit before that writes nothing."""
    with time_machine.travel(10_000.0, tick=False) as clock, pretended(store, MAX_AGE) as browser:
        one, two = two_tabs(browser)
        writes, lineage = store.writes, based_on(one).lineage
        clock.shift(MAX_AGE * 0.4)
        seen(one)
        assert store.writes == writes
        clock.shift(MAX_AGE * 0.2)
        for tab in (one, one, two, two, one):
            seen(tab)
        assert store.writes == writes + 1
        for tab in (one, two):
            assert based_on(tab).expires_at == 10_000 + MAX_AGE * 1.6
            assert based_on(tab).lineage == lineage
        clock.shift(MAX_AGE * 0.9)
        assert seen(browser.open()) == AppState()


def test_what_expired_is_not_served(store: CountingStore) -> None:
    """A fresh state, which is the other tab's too; a late save brings nothing back."""
    with time_machine.travel(10_000.0, tick=False) as clock, pretended(store, MAX_AGE) as browser:
        one, two = two_tabs(browser)
        save(one, count=1)
        old = key(one)
        clock.shift(MAX_AGE * 1.1)
        for _ in range(2):
            assert seen(one) == AppState()
        save(one, other=2)
        seen(two)
        assert seen(two) == AppState(other=2)
        assert key(two) == key(one) == old


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(("cleared", "is_touched"), [(None, False), (0, False), (0, True), (1, False), (1, True)])
def test_two_tabs_wake_after_the_expiry(
    store: CountingStore, cleared: int | None, *, is_touched: bool, order: tuple[int, int]
) -> None:
    """Nothing that a page showed since is lost; also where one of them had cleared the state before."""
    first, second = order
    with time_machine.travel(10_000.0, tick=False) as clock, pretended(store, MAX_AGE) as browser:
        tabs = two_tabs(browser)
        save(tabs[0], count=1)
        if cleared is not None:
            tabs[cleared].begin()
            clear_cookie_state(NAME)
            if is_touched:
                save(tabs[cleared], count=2)
        clock.shift(MAX_AGE * 1.1)
        shown = AppState()
        for number in (first, second):
            assert seen(tabs[number]) == AppState()
        for number, changes in ((first, {"count": 5}), (second, {"other": 6}), (first, {"items": [7]})):
            save(tabs[number], **changes)
            shown = replace(shown, **changes)
            assert seen(tabs[number]) == shown
        for tab in (*tabs, browser.open()):
            assert seen(tab) == shown


def test_a_record_that_was_healed_elsewhere(browser: Browser, store: CountingStore) -> None:
    """It was damaged, so one tab saved its own state anew; the other goes on with that."""
    one, two = two_tabs(browser)
    save(one, count=5)
    seen(two)
    damage(store, one)
    save(one, other=1)
    for _ in range(3):
        assert seen(two) == AppState(count=5, other=1)
    assert seen(browser.open()) == AppState(count=5, other=1)


def test_a_block_open_at_the_expiry(store: CountingStore) -> None:
    """What lies in the store by then is swept."""
    with time_machine.travel(10_000.0, tick=False) as clock, pretended(store, MAX_AGE) as browser:
        tab, _ = two_tabs(browser)
        tab.begin()
        with block() as state:
            state.count = 1
            clock.shift(MAX_AGE * 1.1)
            store.delete_expired(before=time.time())
        assert visitors(store) == []
        assert seen(tab) == AppState()


# --- cleared elsewhere


def clear(tab: Tab) -> None:
    """Clear in a run, and begin anew in the next one."""
    tab.begin()
    clear_cookie_state(NAME)
    save(tab)


def test_what_was_cleared_elsewhere_is_fresh(browser: Browser) -> None:
    """In the other tab, too; then both go on with one state."""
    one, two = two_tabs(browser)
    save(two, count=1)
    clear(one)
    for _ in range(2):
        assert seen(two) == AppState()
    assert key(one) == key(two)
    save(one, count=2)
    assert seen(two).count == 2


def test_a_late_save_brings_nothing_back(browser: Browser, store: CountingStore) -> None:
    """The visitor's id stays, and their next change is saved again."""
    one, two = two_tabs(browser)
    old = key(two)
    two.begin()
    with block() as state:
        state.count = 1
        clear(one)
        two.begin()
    assert visitors(store) == [key(one)] == [old]
    assert seen(one) == seen(browser.open()) == AppState()
    seen(two)
    save(two, other=2)
    assert seen(one) == AppState(other=2)


def test_a_late_save_by_hand(browser: Browser, store: CountingStore) -> None:
    """Neither the object that was loaded before, nor another one that was made of it."""
    one, two = two_tabs(browser)
    for late in (lambda state: state, lambda state: AppState(state.count)):
        save(two, count=1)
        state = seen(two)
        clear(one)
        two.begin()
        state.count = 2
        save_state(NAME, late(state))
        assert visitors(store) == [key(one)]
        for _ in range(3):
            assert seen(two) == AppState()
        assert seen(one) == AppState()


@pytest.mark.parametrize("runs", [1, 3])
def test_clearing_what_was_cleared_elsewhere(browser: Browser, store: CountingStore, runs: int) -> None:
    """The visitor who logs out in one tab means what the browser has, not what this tab knew of it."""
    one, two = two_tabs(browser)
    clear(one)
    save(one, count=1)
    two.begin()
    clear_cookie_state(NAME)
    for _ in range(runs):
        assert seen(two) == AppState()
    for _ in range(2):
        save(two, other=1)
    assert visitors(store) == [key(two)]
    assert seen(browser.open()) == AppState(other=1)


def test_an_error_spares_earlier_blocks(browser: Browser) -> None:
    """What that block left was never saved: it is merged with the record, as if there had been no exception."""
    one, two = browser.open(), browser.open()
    for tab, name in ((one, "count"), (two, "other")):
        tab.begin()
        with block() as state:
            setattr(state, name, 1)
    for _ in range(2):
        save(one)
    two.reconnect()
    two.begin()
    with pytest.raises(ValueError, match="boom"), block():
        raise ValueError("boom")
    save(two)
    assert seen(browser.open()) == AppState(count=1, other=1)


def test_whoever_is_known_looks_for_sweeps(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the handshake or by an answer; who does not know it has no store to look after."""
    looked: list[object] = []
    monkeypatch.setattr("persist_session.tab.sweep_if_due", looked.append)
    tab = browser.open()
    seen(tab)
    assert looked == []
    seen(tab)
    assert len(looked) == 1


def based_on(tab: Tab) -> Saved:
    """Return the record that the tab's object is based on."""
    saved: Saved = tab.memory["tab"].kept[NAME].transaction.saved
    return saved


def damage(store: CountingStore, tab: Tab) -> None:
    """Cut the tab's record short."""
    place = str(key(tab)), NAME
    stored = store._records[place]
    store._records[place] = Stored(stored.data[:-1], "")


def visitors(store: CountingStore) -> list[str]:
    """Return the visitor keys that have a record of the state."""
    return [key for key, name in store._records if name == NAME]


def key(tab: Tab) -> str | None:
    """Return the tab's record key."""
    tab.begin()
    info = state_info(NAME)
    return info.visitor_key if info else None


# --- a class that persists, where runs overlap


@persist("decorated")
class Decorated:
    """A state that a decorator keeps."""

    def __init__(self) -> None:
        self.a = 0
        self.b = 0


def decorated(tab: Tab) -> tuple[int, int]:
    """Return what a run of the tab gets."""
    tab.begin()
    state = Decorated()
    return state.a, state.b


def test_an_older_runs_late_change(browser: Browser) -> None:
    """Each run's end saves what that run had."""
    tab = browser.open()
    for _ in range(2):
        decorated(tab)
    tab.begin()
    state = Decorated()
    end_older = tab.begin_over()
    assert Decorated() is state
    tab.end()
    state.a = 1
    end_older()
    assert decorated(browser.open()) == (1, 0)


def test_a_newer_runs_error(browser: Browser) -> None:
    """As with blocks: what the older run had changed before is kept."""
    tab = browser.open()
    for _ in range(2):
        decorated(tab)
    tab.begin()
    Decorated().a = 1
    end_older = tab.begin_over()
    Decorated().b = 1
    tab.end(failed=True)
    end_older()
    assert decorated(browser.open()) == (1, 0)
