"""A logged-in user's state: found again everywhere, brought along from before, and seen by nobody else."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import time_machine

from persist_session import (
    ConfigurationError,
    LockTimeoutError,
    StateConflictError,
    StoreError,
    UnpicklableStateError,
    binding,
    clear_cookie_state,
    host,
    load_state,
    persistent_state,
    relay,
    save_state,
    state_info,
)
from persist_session.keys import derive
from persist_session.signing import user_record_keys
from persist_session.tab import Tab as TabMemory
from support.records import KEYS, CountingStore
from support.tabs import AppState, Browser, Tab, pretended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from persist_session.stores import Stored

NAME = "app-state"
MAX_AGE = 1000.0
ADA, BOB = "https://provider|ada", "https://provider|bob"


@pytest.fixture
def store() -> CountingStore:
    """Return the store of all browsers."""
    return CountingStore()


@pytest.fixture
def browser(store: CountingStore) -> Iterator[Browser]:
    """Return a browser, for which nothing is saved yet."""
    with pretended(store, MAX_AGE) as made:
        yield made


@pytest.fixture(params=["component", "middleware"])
def come(request: pytest.FixtureRequest) -> Callable[[Browser], Tab]:
    """Return what opens a tab, the server setting the cookie with its page, or a script."""
    return Browser.open if request.param == "component" else lambda browser: browser.load(NAME)


def block(user: str | None = None, **options: Any) -> persistent_state[Any]:
    """Return a block of the state."""
    return persistent_state(NAME, AppState, user=user, **options)


def run(tab: Tab, user: str | None = None, *, items: Any = (), options: Any = None, **changes: Any) -> AppState:
    """Return what a run of the tab got, after it changed that."""
    tab.begin()
    with block(user, **(options or {})) as state:
        for name, value in changes.items():
            setattr(state, name, value)
        state.items.extend(items)
    got: AppState = state
    return got


def look(tab: Tab, user: str | None = None, **options: Any) -> tuple[int, int, list[Any]]:
    """Return what a run of the tab sees."""
    tab.begin()
    state = load_state(NAME, AppState, user=user, **options)
    return state.count, state.other, list(state.items)


def key(tab: Tab) -> str | None:
    """Return what names the record of what the tab loaded last."""
    tab.go_on()
    info = state_info(NAME)
    assert info is not None
    return info.record_key


def anonymous(browser: Browser, come: Callable[[Browser], Tab] = Browser.open, **changes: Any) -> Tab:
    """Return a tab of a visitor who has done this, and whose browser has its cookie; its page has just been loaded."""
    tab = come(browser)
    run(tab)  # the browser answers in between
    run(tab, **changes)
    return come(browser)


def saved(user: str, **changes: Any) -> None:
    """Have the user's state saved by a browser of their own."""
    run(Browser().open(), user, **changes)


def key_of_user(user: str) -> str:
    """Return what names the record of the user."""
    return user_record_keys(NAME, user, KEYS)[-1]


def keys_of(store: CountingStore) -> set[str]:
    """Return what names the records in the store."""
    return {key for _, key in store._records}


def erased(store: CountingStore) -> bool:
    """Whether nothing is kept aside either."""
    return not any(store._aside.values())


def ids(browser: Browser) -> set[str]:
    """Return the ids that the browser's cookies carry."""
    return {value[:32] for value in browser.values().values()}


FRESH: tuple[int, int, list[Any]] = (0, 0, [])


# --- whose it is


def test_a_user_finds_their_state_in_every_browser(browser: Browser, store: CountingStore) -> None:
    """At once, without a cookie or a question, under a key that is neither their name nor another state's."""
    tab = browser.open()
    run(tab, ADA, count=3, items=["book"])
    other = Browser()
    again = other.open()
    assert look(again, ADA) == (3, 0, ["book"])
    run(again, ADA, items=["pen"])
    assert look(tab, ADA) == look(other.open(), ADA) == (3, 0, ["book", "pen"])
    assert browser.cookies == other.cookies == {}
    (only,) = keys_of(store)
    assert key(tab) == key(again) == only
    with persistent_state("another", AppState, user=ADA) as state:
        assert state.count == 0


def test_no_user_sees_what_another_one_or_nobody_has(browser: Browser) -> None:
    """Neither in another browser, nor in the same one."""
    run(browser.open(), ADA, count=3)
    for visitor in (browser, Browser()):
        assert look(visitor.open(), BOB) == look(visitor.open()) == FRESH
        assert look(visitor.open(), ADA.upper()) == look(visitor.open(), f"{ADA} ") == FRESH


@pytest.mark.parametrize("call", [block, lambda user: load_state(NAME, AppState, user=user)])
@pytest.mark.parametrize(("user", "said"), [("", "an empty one"), (7, "int"), (b"ada", "bytes"), (False, "bool")])
def test_what_names_nobody_is_refused(browser: Browser, call: Callable[[Any], Any], user: Any, said: str) -> None:
    """An empty name would be one state for all whom the provider gives none; the remedy is in the message."""
    browser.open().begin()
    for each in (call, lambda user: clear_cookie_state(NAME, user=user)):
        with pytest.raises(ConfigurationError, match=rf"user must be .*st\.user\.sub.*, not {said}\."):
            each(user)


def test_without_a_user_the_state_is_the_cookies(browser: Browser) -> None:
    """None is no user's name."""
    tab = anonymous(browser, count=1)
    assert look(tab, None) == (1, 0, [])
    assert look(Browser().open(), None) == FRESH
    assert look(Browser().open(), "None") == FRESH


# --- the browser is left alone


def test_a_user_needs_no_cookie(browser: Browser) -> None:
    """None is asked for where the connection brought others, and none is set; one run, and so it is told."""
    browser.cookies["_xsrf"] = "2|a|b", time.time() + MAX_AGE
    tab = browser.open()
    run(tab, ADA, count=1)
    assert not tab.is_asking
    info = state_info(NAME)
    assert info is not None
    assert (info.cookie, info.size is not None, info.saved_at is not None) == ("none", True, True)
    run(tab, ADA)
    assert list(browser.cookies) == ["_xsrf"]


def test_a_proxy_may_hide_what_an_anonymous_visitor_did(browser: Browser, store: CountingStore) -> None:
    """Where the connection brought nothing but Streamlit's login, the browser is asked, and then left alone."""
    anonymous(browser, items=["book"])
    browser.cookies["_streamlit_user"] = "signed", time.time() + MAX_AGE
    tab = browser.open()
    object.__setattr__(tab, "_headers", ("_streamlit_user=signed",))
    run(tab, ADA)
    assert tab.is_asking
    assert look(tab, ADA) == (0, 0, ["book"])
    run(tab, ADA)
    run(tab, ADA)
    assert not tab.is_asking
    assert list(browser.values()) == ["_streamlit_user"]
    assert keys_of(store) == {key(tab)}


# --- login


def test_login_moves_what_the_visitor_has(
    browser: Browser, store: CountingStore, come: Callable[[Browser], Tab]
) -> None:
    """The first run has it; the anonymous record is gone with all that was kept of it, and nobody else has it."""
    tab = anonymous(browser, come, count=2, items=["book"])
    (before,) = keys_of(store)
    assert look(tab, ADA) == (2, 0, ["book"])
    assert keys_of(store) == {key(tab)} != {before}
    assert erased(store)
    assert look(Browser().open(), ADA) == (2, 0, ["book"])
    assert look(Browser().open(), BOB) == FRESH


def test_login_in_the_tab_moves_what_the_visitor_has(browser: Browser, store: CountingStore) -> None:
    """No page is loaded: it is the tab that learns who the visitor is."""
    tab = browser.open()
    run(tab)
    run(tab, count=2, items=["book"])
    assert look(tab, ADA) == (2, 0, ["book"])
    assert keys_of(store) == {key(tab)}
    run(tab, ADA, count=3)
    assert look(Browser().open(), ADA) == (3, 0, ["book"])


def test_a_script_has_the_cookie_removed_in_the_run_of_the_login(browser: Browser) -> None:
    """The visitor may log out, and so leave the page, in the next one."""
    tab = anonymous(browser, count=2)
    assert browser.values()
    run(tab, ADA)
    assert browser.values() == {}


@pytest.mark.parametrize("is_page", [True, False], ids=["by the next page", "at once"])
def test_the_server_replaces_its_cookie_when_its_visitor_logs_in(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, *, is_page: bool
) -> None:
    """A script can't remove that cookie: the tab has its browser fetch another one, or else the next page load does."""
    tab = anonymous(browser, lambda browser: browser.load(NAME), count=2)
    old = ids(browser)
    assert len(old) == 1
    with monkeypatch.context() as patch:
        patch.setattr(Tab, "fetch", lambda *_: None)
        run(tab, ADA)
        assert ids(browser) == old
    if not is_page:
        run(tab, ADA)
        assert ids(browser).isdisjoint(old)
    again = browser.load(NAME)
    assert (len(ids(browser)), ids(browser) & old) == (1, set())
    assert look(again, ADA) == (2, 0, [])
    assert look(again) == FRESH


def test_what_a_callback_did_before_the_login_is_taken_over(browser: Browser) -> None:
    """The click that logs the visitor in may also put something into their cart."""
    tab = browser.open()
    run(tab)
    state = run(tab)
    tab.begin()
    state.items.append("book")
    with block(ADA) as mine:
        assert mine.items == ["book"]
    assert look(Browser().open(), ADA) == (0, 0, ["book"])


def test_login_before_the_browser_is_known(browser: Browser, store: CountingStore) -> None:
    """What no record holds yet comes along in the tab, once."""
    tab = browser.open()
    run(tab, items=["book"])
    assert tab.is_asking
    for _ in range(3):
        assert look(tab, ADA) == (0, 0, ["book"])
    assert look(Browser().open(), ADA) == (0, 0, ["book"])
    assert keys_of(store) == {key(tab)}
    assert browser.values() == {}


def test_what_the_visitor_did_before_the_browser_was_known_joins_what_it_brings(
    browser: Browser, store: CountingStore
) -> None:
    """A tab that had to ask, and its user who logs in meanwhile, find the user's, the cookie's and the tab's items."""
    saved(ADA, items=["pen"])
    anonymous(browser, items=["book"])
    tab = browser.open()
    object.__setattr__(tab, "_headers", ())  # a proxy keeps it from the connection
    run(tab, items=["cup"])
    look(tab, ADA)
    assert look(tab, ADA) == (0, 0, ["pen", "cup", "book"])
    assert keys_of(store) == {key(tab)}


def test_an_error_before_the_login_is_no_part_of_it(browser: Browser) -> None:
    """What an exception threw away is not taken over from the tab either."""
    tab = browser.open()
    run(tab, items=["book"])
    tab.begin()
    with pytest.raises(AttributeError), block() as state:
        state.items.append("broken").on_purpose()
    assert look(tab, ADA) == (0, 0, ["book"])


def test_both_have_something_and_it_is_merged(
    browser: Browser, store: CountingStore, come: Callable[[Browser], Tab]
) -> None:
    """Of two values of one field the user's own stays; both lists are there, and so is what only one side has."""
    saved(ADA, count=1, items=["pen"])
    tab = anonymous(browser, come, count=2, other=5, items=["book"])
    for _ in range(3):
        assert look(tab, ADA) == (1, 5, ["pen", "book"])
    assert look(Browser().open(), ADA) == (1, 5, ["pen", "book"])
    assert (keys_of(store), erased(store)) == ({key(tab)}, True)


def test_overwrite_keeps_what_the_visitor_did_last(browser: Browser, store: CountingStore) -> None:
    """The user's saved state is replaced."""
    saved(ADA, count=1, items=["pen"])
    tab = anonymous(browser, count=2, items=["book"])
    assert look(tab, ADA, on_conflict="overwrite") == (2, 0, ["book"])
    assert look(Browser().open(), ADA) == (2, 0, ["book"])
    assert keys_of(store) == {key(tab)}


@pytest.mark.parametrize("is_known", [True, False])
def test_raise_carries_what_is_gone(browser: Browser, store: CountingStore, *, is_known: bool) -> None:
    """The error has the anonymous state, which is nowhere else; the next run has the user's."""
    saved(ADA, count=1, items=["pen"])
    if is_known:
        tab = anonymous(browser, count=2, items=["book"])
    else:
        tab = browser.open()
        run(tab, count=2, items=["book"])
    tab.begin()
    with pytest.raises(StateConflictError) as caught, block(ADA, on_conflict="raise"):
        raise AssertionError("never entered")
    sides: list[Any] = [caught.value.base, caught.value.mine, caught.value.theirs]
    assert [(side.count, side.items) for side in sides] == [(0, []), (2, ["book"]), (1, ["pen"])]
    assert look(tab, ADA, on_conflict="raise") == (1, 0, ["pen"])
    assert (keys_of(store), erased(store)) == ({key(tab)}, True)
    run(tab, ADA)
    assert browser.values() == {}


def test_a_function_decides(browser: Browser, store: CountingStore) -> None:
    """It gets a fresh state, the anonymous one and the user's."""

    def decide(base: Any, mine: Any, theirs: Any) -> AppState:
        assert (base.count, base.items) == (0, [])
        return AppState(10 * mine.count + theirs.count, 0, [*mine.items, *theirs.items])

    saved(ADA, count=1, items=["pen"])
    tab = anonymous(browser, count=2, items=["book"])
    assert look(tab, ADA, on_conflict=decide) == look(Browser().open(), ADA) == (21, 0, ["book", "pen"])
    assert keys_of(store) == {key(tab)}


def test_who_did_nothing_before_the_login_changes_nothing(browser: Browser, store: CountingStore) -> None:
    """An untouched anonymous state, which every visit leaves, is no conflict and overwrites nothing."""
    saved(ADA, count=1, items=["pen"])
    choices: list[Any] = ["overwrite", "raise", "merge", lambda *_: pytest.fail("asked")]
    for choice in choices:
        for visitor in (Browser(), Browser()):
            tab = anonymous(visitor) if choice != "merge" else visitor.open()
            run(tab)
            assert look(tab, ADA, on_conflict=choice) == (1, 0, ["pen"])
    assert keys_of(store) == {key_of_user(ADA)}


@pytest.mark.parametrize("choice", ["overwrite", "raise"])
def test_who_only_had_a_fresh_state_that_was_drawn_changes_nothing(browser: Browser, choice: Any) -> None:
    """Its factory draws something anew each time, which is no work of the visitor's."""
    drawn = iter(range(1, 100))

    def draw() -> AppState:
        return AppState(next(drawn))

    def go(tab: Tab, user: str | None = None, **changes: Any) -> AppState:
        tab.begin()
        with persistent_state(NAME, draw, user=user, on_conflict=choice) as state:
            for name, value in changes.items():
                setattr(state, name, value)
        got: AppState = state
        return got

    mine = go(Browser().open(), ADA, other=7).count
    tab = browser.open()
    for _ in range(2):
        go(tab)
    got = go(browser.open(), ADA)
    assert (got.count, got.other) == (mine, 7)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_login_that_fails_for_good_fails_once(browser: Browser, *, is_known: bool) -> None:
    """What can't be joined is left behind; nobody is kept from their own state."""

    def refuse(*_: Any) -> Any:
        raise ZeroDivisionError

    saved(ADA, count=1)
    tab = anonymous(browser, count=2) if is_known else browser.open()
    if not is_known:
        run(tab, count=2)
    tab.begin()
    with pytest.raises(ZeroDivisionError), block(ADA, on_conflict=refuse):
        raise AssertionError("never entered")
    assert look(tab, ADA, on_conflict=refuse) == (1, 0, [])


def test_what_factories_draw_is_the_users_own(browser: Browser) -> None:
    """A thread id that the fresh anonymous state drew does not replace the saved one; where there is none, it stays."""
    drawn, first = iter(range(1, 100)), 0

    def draw() -> AppState:
        return AppState(next(drawn))

    tab = browser.open()
    for _ in range(2):
        tab.begin()
        with persistent_state(NAME, draw) as state:
            first = state.count
    for visitor in (browser, Browser()):
        tab = visitor.open()
        tab.begin()
        with persistent_state(NAME, draw, user=ADA) as state:
            assert state.count == first


def test_a_taken_over_value_is_not_warned_of_without_need(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    """What stays behind is named once in the log, by its field; nothing that the visitor has is shown there."""
    saved(ADA, count=111)
    tab = anonymous(browser, count=222, items=["book"])
    assert look(tab, ADA) == (111, 0, ["book"])
    (warning,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert "count" in warning
    assert all(each not in caplog.text for each in ("111", "222", "book", ADA, key(tab) or ""))


# --- login, at the same time


def test_two_tabs_log_in_at_once(browser: Browser, store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The anonymous state is taken over once: the others wait for the first one."""
    saved(ADA, items=["pen"])
    anonymous(browser, items=["book"])
    tabs = [browser.open() for _ in range(4)]
    ready, coming = threading.Barrier(len(tabs)), threading.Semaphore(0)
    lock, write = CountingStore.lock, CountingStore.write

    def note_and_lock(*args: Any, **options: Any) -> Any:
        coming.release()
        return lock(*args, **options)

    def write_when_all_are_there(*args: Any, **options: Any) -> bool:
        monkeypatch.setattr(CountingStore, "write", write)
        assert all(coming.acquire(timeout=10) for _ in tabs)
        return write(*args, **options)

    monkeypatch.setattr(CountingStore, "lock", note_and_lock)
    monkeypatch.setattr(CountingStore, "write", write_when_all_are_there)
    found: list[Any] = []

    def log_in(tab: Tab) -> None:
        tab.go_on()
        ready.wait(10)
        with block(ADA) as state:
            found.append(state.items)

    threads = [threading.Thread(target=log_in, args=(tab,)) for tab in tabs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [["pen", "book"]] * 4
    assert (keys_of(store), erased(store)) == ({key(tabs[0])}, True)


def test_two_runs_of_a_tab_log_in_at_once(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no record holds yet is brought along once, and the two go on with one object."""
    tab = browser.open()
    run(tab, items=["book"])
    found: list[Any] = []
    coming, hold = threading.Semaphore(0), TabMemory.hold

    def hold_and_note(self: TabMemory, name: str) -> Any:
        held = hold(self, name)
        coming.release()
        return held

    def log_in() -> None:
        tab.go_on()
        found.append(load_state(NAME, AppState, user=ADA))

    monkeypatch.setattr(TabMemory, "hold", hold_and_note)
    with tab.memory["tab"].held[NAME].lock:  # all of them wait for what the tab still holds
        threads = [threading.Thread(target=log_in) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert all(coming.acquire(timeout=10) for _ in threads)
    for thread in threads:
        thread.join(30)
    assert [state.items for state in found] == [["book"]] * 3
    assert len({id(state) for state in found}) == 1


def test_an_anonymous_tab_saves_while_another_one_logs_in(
    browser: Browser, store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it saves right after the record was read is taken over as well."""
    saved(ADA, items=["pen"])
    late = anonymous(browser, items=["book"])
    look(late)
    tab = browser.open()
    read = CountingStore.read
    (anonymous_key,) = keys_of(store) - {key_of_user(ADA)}

    def read_and_save(self: CountingStore, name: str, key: str) -> Stored | None:
        found = read(self, name, key)
        if key == anonymous_key:
            monkeypatch.setattr(CountingStore, "read", read)
            run(late, items=["cup"])
            tab.go_on()
        return found

    tab.begin()
    monkeypatch.setattr(CountingStore, "read", read_and_save)
    with block(ADA) as state:
        assert {"pen", "book", "cup"} == set(state.items)
    assert keys_of(store) == {key(tab)}


def test_a_late_save_of_an_anonymous_tab_brings_nothing_back(
    browser: Browser, store: CountingStore, come: Callable[[Browser], Tab]
) -> None:
    """Its record is gone with the login of another tab: it starts afresh, under another id where a script sets it."""
    tab = anonymous(browser, come, items=["book"])
    late = browser.open()
    late.begin()
    with block() as state:
        state.items.append("late")
        tab.begin()
        with block(ADA) as mine:
            assert mine.items == ["book"]
        late.go_on()
    assert keys_of(store) == {key(tab)}
    assert look(late) == FRESH
    assert look(tab, ADA) == look(Browser().open(), ADA) == (0, 0, ["book"])


def test_a_run_that_outlives_the_login_of_its_tab_brings_nothing_back(browser: Browser, store: CountingStore) -> None:
    """Nor does it when the visitor has logged out since: it takes the new anonymous state's id from nobody."""
    tab = anonymous(browser, items=["book"])
    tab.begin()
    with block() as state:
        state.items.append("late")
        end = tab.begin_over()
        with block(ADA):
            pass
        run(tab)
        run(tab, count=7)
        new = key(tab)
        state.items.append("later")
    end()
    assert look(tab) == (7, 0, [])
    assert (key(tab), keys_of(store)) == (new, {new, key_of_user(ADA)})
    assert look(browser.open()) == (7, 0, [])


# --- logout, and other users


def test_logout_in_the_tab_starts_fresh_under_a_new_id(browser: Browser, store: CountingStore) -> None:
    """Nothing of the user's is left in the tab or the browser, and the cookie is one that nobody had before."""
    tab = anonymous(browser, count=2)
    old, anonymous_key = ids(browser), keys_of(store)
    run(tab, ADA, items=["book"])
    users = keys_of(store)
    assert look(tab) == FRESH
    run(tab, count=9)
    assert (len(ids(browser)), ids(browser) & old) == (1, set())
    assert len(keys_of(store) - users - anonymous_key) == 1
    assert look(browser.open()) == (9, 0, [])
    assert look(Browser().open(), ADA) == (2, 0, ["book"])


def test_logout_by_a_page_load_starts_fresh_under_a_new_id(
    browser: Browser, store: CountingStore, come: Callable[[Browser], Tab]
) -> None:
    """As Streamlit's own does it: the old cookie is gone even if the login had a single run."""
    tab = anonymous(browser, come, count=2)
    old, anonymous_key = ids(browser), keys_of(store)
    run(tab, ADA)
    again = come(browser)
    assert look(again) == FRESH
    run(again, count=9)
    assert ids(browser)
    assert ids(browser) & old == set()
    assert keys_of(store).isdisjoint(anonymous_key)
    assert look(come(browser)) == (9, 0, [])
    assert look(Browser().open(), ADA) == (2, 0, [])


def test_logout_in_a_tab_with_the_servers_cookie_shows_nothing(browser: Browser, store: CountingStore) -> None:
    """Nothing that was done before; what is there now lies under an id that nobody had before."""
    tab = anonymous(browser, lambda browser: browser.load(NAME), count=2)
    old = ids(browser)
    run(tab, ADA, items=["book"])
    for _ in range(2):
        run(tab)
        assert look(tab) == FRESH
    assert ids(browser).isdisjoint(old)
    assert keys_of(store) == {key_of_user(ADA), key(tab)}
    run(tab, count=3)
    assert look(browser.load(NAME)) == (3, 0, [])
    assert ids(browser).isdisjoint(old)


@pytest.mark.parametrize("between", [False, True], ids=["directly", "after a logout"])
def test_one_user_after_another_in_one_tab(browser: Browser, store: CountingStore, *, between: bool) -> None:
    """Neither gets anything of the other, whatever the tab still holds; and each finds their own again."""
    tab = anonymous(browser, count=2)
    mine = run(tab, ADA, items=["book"])
    if between:
        assert look(tab) == FRESH
    assert look(tab, BOB) == FRESH
    run(tab, BOB, items=["cup"])
    mine.items.append("kept by a callback")
    assert look(tab, BOB) == look(Browser().open(), BOB) == (0, 0, ["cup"])
    assert look(tab, ADA) == look(Browser().open(), ADA) == (2, 0, ["book"])


def test_what_a_callback_did_before_the_logout_is_the_users(browser: Browser) -> None:
    """The click that logs out may change something first: it is saved for whom it was done."""
    tab = browser.open()
    state = run(tab, ADA, items=["book"])
    tab.begin()
    state.items.append("pen")
    assert load_state(NAME, AppState).items == []
    assert look(Browser().open(), ADA) == (0, 0, ["book", "pen"])


def test_a_run_that_outlives_the_logout_saves_for_whom_it_works(browser: Browser, store: CountingStore) -> None:
    """Its change is the user's, and the one who logged in meanwhile sees nothing of it."""
    tab = browser.open()
    run(tab, ADA)
    tab.begin()
    with block(ADA) as state:
        end = tab.begin_over()
        with block(BOB) as other:
            state.items.append("late")
            other.items.append("cup")
    end()
    assert look(tab, BOB) == look(Browser().open(), BOB) == (0, 0, ["cup"])
    assert look(Browser().open(), ADA) == (0, 0, ["late"])


def test_saving_the_object_of_whom_the_tab_had_before_saves_nothing(browser: Browser) -> None:
    """An app that keeps it in st.session_state does not hand it to the next one."""
    tab = browser.open()
    mine = run(tab, ADA, items=["book"])
    for user in (None, BOB):
        look(tab, user)
        save_state(NAME, mine)
        look(tab, user)
        assert look(tab, user) == FRESH
        mine = run(tab, ADA)


def test_saving_the_object_of_a_user_before_the_last_saves_nothing(browser: Browser) -> None:
    """Ada logs out, and Bob logs in, while a run of hers is late."""
    tab = browser.open()
    mine = run(tab, ADA, items=["book"])
    look(tab)
    look(tab, BOB)
    save_state(NAME, mine)
    assert look(tab, BOB) == look(Browser().open(), BOB) == FRESH


def test_a_run_that_was_overtaken_by_a_login_has_no_cookie_issued(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has met what the tab held before, when another run logs in: it looks again."""
    tab = anonymous(browser)
    tab.begin()
    meet = TabMemory.hold_for

    def be_overtaken(memory: TabMemory, name: str, user: str | None) -> Any:
        held = meet(memory, name, user)
        monkeypatch.setattr(TabMemory, "hold_for", meet)
        assert look(tab, ADA) == FRESH
        return held

    monkeypatch.setattr(TabMemory, "hold_for", be_overtaken)
    with block() as state:
        assert state == AppState()
    assert tab.memory["tab"].held[NAME].user is None
    look(tab, ADA)
    assert browser.values() == {}


def test_saving_the_object_of_before_saves_nothing_after_an_error(browser: Browser) -> None:
    """Nor where the tab had thrown its object away."""
    tab = browser.open()
    mine = run(tab, ADA, items=["book"])
    look(tab, BOB)
    tab.memory["tab"].held[NAME].live = None  # as after a failed save
    look(tab)
    tab.memory["tab"].held[NAME].live = None
    save_state(NAME, mine)
    assert look(tab) == FRESH


def test_a_state_that_can_not_be_saved_keeps_nobody_logged_in(browser: Browser) -> None:
    """What a callback broke is reported once; the run after it has the next visitor's."""
    tab = browser.open()
    state = run(tab, ADA, items=["book"])
    tab.begin()
    state.items.append(lambda: None)
    with pytest.raises(UnpicklableStateError):
        load_state(NAME, AppState)
    assert look(tab) == FRESH
    assert look(tab, ADA) == (0, 0, ["book"])


# --- the other functions


@pytest.mark.parametrize("user", [None, ADA])
def test_no_element_ends_a_callback(
    browser: Browser, store: CountingStore, monkeypatch: pytest.MonkeyPatch, user: str | None
) -> None:
    """Where people click fast, Streamlit ends a run at the next element: in a callback, before the state is changed."""

    class StopException(BaseException):
        pass

    def stop(_: object) -> None:
        raise StopException

    tab = browser.open()
    for item in ("one", "two", "three"):
        tab.begin()
        tab._context._has_script_started = False
        with monkeypatch.context() as patch:
            patch.setattr(host, "mount", stop)
            state = load_state(NAME, AppState, user=user)
            state.items.append(item)
            save_state(NAME, state)
        tab._context._has_script_started = True
        if item != "two":  # another click ends that run before it comes to the state
            load_state(NAME, AppState, user=user)
    run(tab, user)
    assert look(tab, user) == look(browser.open(), user) == (0, 0, ["one", "two", "three"])


def test_save_state_saves_the_users(browser: Browser) -> None:
    """At once: no browser needs to be known."""
    tab = browser.open()
    tab.begin()
    state = load_state(NAME, AppState, user=ADA)
    state.count = 4
    save_state(NAME, state)
    assert look(Browser().open(), ADA) == (4, 0, [])
    save_state(NAME, AppState(5))
    assert look(Browser().open(), ADA) == look(tab, ADA) == (5, 0, [])


@pytest.mark.parametrize("how", ["loaded", "named", "named from outside"])
def test_clearing_erases_the_users_state_everywhere(browser: Browser, store: CountingStore, how: str) -> None:
    """For who is logged in, or whom the call names; other tabs do not bring it back, and other states stay."""
    other = Browser().open()
    run(other, ADA, count=3)
    saved(BOB, count=1)
    tab = anonymous(browser, count=9) if how == "named from outside" else browser.open()
    look(tab, None if how == "named from outside" else ADA)
    other.begin()
    with block(ADA) as late:
        late.count = 4
        tab.go_on()
        clear_cookie_state(NAME, user=None if how == "loaded" else ADA)
        other.go_on()
    assert key_of_user(ADA) not in keys_of(store)
    assert look(other, ADA) == look(Browser().open(), ADA) == FRESH
    assert look(Browser().open(), BOB) == (1, 0, [])
    assert look(tab, None if how == "named from outside" else ADA)[0] == (9 if how == "named from outside" else 0)
    run(tab, ADA, count=6)
    assert look(other, ADA)[0] == 6


def test_an_exclusive_block_of_a_user_holds_all_their_browsers_off(store: CountingStore) -> None:
    """One lock, wherever they are; another user is not kept waiting, and the takeover comes inside of it."""
    with pretended(store, MAX_AGE, lock_timeout=0.01) as browser:
        tab, other = anonymous(browser, count=2), Browser().open()
        tab.begin()
        with block(ADA, exclusive=True) as state:
            assert state.count == 2
            failed: list[str] = []

            def come(user: str) -> None:
                other.begin()
                try:
                    with block(user, exclusive=True) as theirs:
                        theirs.count += 1
                except LockTimeoutError:
                    failed.append(user)

            for user in (ADA, BOB):
                thread = threading.Thread(target=come, args=(user,))
                thread.start()
                thread.join(10)
            assert failed == [ADA]
            tab.go_on()
        assert look(other, BOB) == (1, 0, [])


def test_the_users_state_expires(store: CountingStore) -> None:
    """After all of its time it is not served; a visit in its second half gives it all again."""
    with time_machine.travel(10_000.0, tick=False) as clock, pretended(store, MAX_AGE) as browser:
        tab = browser.open()
        run(tab, ADA, count=3)
        clock.shift(0.6 * MAX_AGE)
        assert look(Browser().open(), ADA)[0] == 3
        clock.shift(0.6 * MAX_AGE)
        assert look(tab, ADA)[0] == 3
        clock.shift(1.1 * MAX_AGE)
        assert look(tab, ADA) == look(Browser().open(), ADA) == FRESH
        run(tab, ADA, count=4)
        assert look(Browser().open(), ADA)[0] == 4
    assert browser.cookies == {}


def test_an_expired_anonymous_state_is_not_taken_over(store: CountingStore) -> None:
    """Nor does it stay."""
    with time_machine.travel(10_000.0, tick=False) as clock, pretended(store, MAX_AGE) as browser:
        tab = anonymous(browser, lambda browser: browser.load(NAME), count=3)
        tab.begin()
        with block(max_age=MAX_AGE / 4) as state:
            state.count = 4
        clock.shift(MAX_AGE / 2)
        tab = browser.open()
        assert look(tab, ADA) == FRESH
        run(tab, ADA)
        assert keys_of(store) == {key(tab)}


# --- keys

OLDEST, OLD, NEW = ("a" * 32, "b" * 32, "c" * 32)


@pytest.mark.parametrize("saved_under", [[OLDEST], [OLDEST, OLD]])
def test_a_rotation_of_keys_loses_no_user(store: CountingStore, saved_under: list[str]) -> None:
    """The record is found under whichever key it was saved, and moved to the newest, once and for all."""
    with pretended(store, keys=derive(saved_under)):
        saved(ADA, count=3)
    before = keys_of(store)
    with pretended(store, keys=derive([OLDEST, OLD, NEW])) as browser:
        tab = browser.open()
        assert look(tab, ADA) == (3, 0, [])
        assert keys_of(store) == {key(tab)}
        assert keys_of(store).isdisjoint(before)
        run(tab, ADA, count=4)
        assert look(Browser().open(), BOB) == FRESH
    with pretended(store, keys=derive([NEW])) as browser:
        assert look(browser.open(), ADA) == (4, 0, [])


def test_a_process_that_does_not_sign_with_the_newest_key_yet_loses_nothing(store: CountingStore) -> None:
    """It moves the record back while another process has a block open: that block finds it there."""
    old, new = "o" * 32, "n" * 32
    with pretended(store, MAX_AGE, keys=derive([new, old])):
        run(Browser().open(), ADA, items=["book"])
    with pretended(store, MAX_AGE, keys=derive([old, new])):
        tab = Browser().open()
        tab.begin()
        with block(ADA) as state:
            state.items.append("pen")
            with pretended(store, MAX_AGE, keys=derive([new, old])):
                assert look(Browser().open(), ADA) == (0, 0, ["book"])
            tab.go_on()
        assert look(Browser().open(), ADA) == (0, 0, ["book", "pen"])


def test_of_two_older_records_the_newer_key_has_the_users(store: CountingStore) -> None:
    """A server that did not know the newer key yet may have left another one."""
    for each, count in (([OLDEST], 1), ([OLD], 2)):
        with pretended(store, keys=derive(each)):
            saved(ADA, count=count)
    with pretended(store, keys=derive([OLDEST, OLD, NEW])) as browser:
        tab = browser.open()
        assert look(tab, ADA) == (2, 0, [])
        assert keys_of(store) == {key(tab)}


def test_login_after_a_rotation_joins_what_lies_under_the_old_key(store: CountingStore) -> None:
    """What the visitor did before is no fresh state that hides it."""
    with pretended(store, keys=derive([OLD])):
        saved(ADA, items=["pen"])
    with pretended(store, keys=derive([OLD, NEW])) as browser:
        tab = anonymous(browser, items=["book"])
        assert look(tab, ADA) == (0, 0, ["pen", "book"])
        assert keys_of(store) == {key(tab)}


def test_clearing_after_a_rotation_erases_what_lies_under_the_old_key(store: CountingStore) -> None:
    """Wherever the user's record is, it is gone for good."""
    with pretended(store, keys=derive([OLD])):
        saved(ADA, count=1)
    with pretended(store, keys=derive([OLD, NEW])) as browser:
        tab = browser.open()
        tab.begin()
        clear_cookie_state(NAME, user=ADA)
        assert keys_of(store) == set()
        assert look(tab, ADA) == FRESH


def test_who_reads_the_store_can_not_tell_whose_a_record_is(store: CountingStore) -> None:
    """The key of a record depends on a secret, on the state's name and on the user."""
    found: set[str] = set()
    for secret in (OLD, NEW):
        for name in (NAME, f"{NAME}1"):
            for user in (ADA, BOB, "1" + ADA):
                with pretended(store, keys=derive([secret])) as browser:
                    browser.open().begin()
                    with persistent_state(name, AppState, user=user):
                        info = state_info(name)
                        assert info is not None
                        found.add(str(info.record_key))
    assert len(found) == 12
    assert not any("ada" in each for each in found)


# --- a store that fails


def test_a_login_that_failed_leaves_what_was_done_before_to_the_visitor(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who logs out again, before the store is back, has it still."""
    tab = browser.open()
    run(tab, items=["book"])

    def refuse(*_: object, **__: object) -> None:
        raise StoreError("on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(CountingStore, "write", refuse)
        tab.begin()
        with pytest.raises(StoreError, match="on purpose"):
            load_state(NAME, AppState, user=ADA)
    run(tab)
    run(tab)
    assert look(tab) == look(browser.open()) == (0, 0, ["book"])


def test_what_can_not_be_saved_is_told_at_the_login(browser: Browser) -> None:
    """By the error that the app knows."""
    tab = anonymous(browser, count=1)
    tab.begin()
    with pytest.raises(UnpicklableStateError):
        load_state(NAME, lambda: AppState(items=[threading.Lock()]), user=ADA)


def test_after_an_expiry_login_and_logout_bring_another_id(browser: Browser) -> None:
    """Not the one that tabs with an expired state go on under."""
    with time_machine.travel(time.time(), tick=False) as clock:
        tab = anonymous(browser, count=2)
        look(tab)
        old = ids(browser)
        clock.shift(MAX_AGE * 1.5)
        look(tab)
        for user in (ADA, ADA, None, None):
            run(tab, user)
        assert len(ids(browser)) == 1
        assert ids(browser).isdisjoint(old)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_store_that_fails_at_the_login_loses_nothing(
    browser: Browser, store: CountingStore, monkeypatch: pytest.MonkeyPatch, *, is_known: bool
) -> None:
    """The error is the app's; the next run takes the anonymous state over."""
    saved(ADA, items=["pen"])
    if is_known:
        tab = anonymous(browser, items=["book"])
    else:
        tab = browser.open()
        run(tab, items=["book"])
    with monkeypatch.context() as patch:

        def fail(*_: object, **__: object) -> bool:
            raise StoreError("on purpose")

        patch.setattr(CountingStore, "write", fail)
        for _ in range(2):
            tab.begin()
            with pytest.raises(StoreError, match="on purpose"):
                load_state(NAME, AppState, user=ADA)
    assert look(tab, ADA) == (0, 0, ["pen", "book"])
    assert keys_of(store) == {key(tab)}


# --- beside a middleware


def test_a_state_that_the_middleware_does_not_know_is_told_of_once(
    browser: Browser, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is easily forgotten there, and all works without it."""
    binding._warn_of_missing.cache_clear()
    monkeypatch.setattr(relay, "served", {"another"})
    for tab in (browser.open(), Browser().open()):
        for _ in range(2):  # the browser answers in between
            run(tab)
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [NAME in message and "names=" in message for message in warned] == [True]


def test_who_agrees_in_the_tab_is_no_sign_of_a_proxy(
    browser: Browser, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was not to set a cookie, so no connection could bring one; nor could that of a page fetched ahead."""
    binding._warn_of_stripped.cache_clear()
    tab = browser.load(NAME, remember=lambda _: False)
    for remember in (False, True, True):
        run(tab, options={"remember": remember})
    another = Browser()
    another.load(NAME)
    another.cookies.clear()
    tab = another.open()
    for _ in range(3):
        run(tab)
    assert not caplog.records


@pytest.mark.parametrize("is_heard", [True, False], ids=["heard", "not heard"])
def test_a_proxy_that_keeps_cookies_back_is_told_of_once(
    browser: Browser, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, *, is_heard: bool
) -> None:
    """Whether the server saw the cookie that the connection did not bring, or the browser never came by."""
    binding._warn_of_stripped.cache_clear()
    if not is_heard:
        monkeypatch.setattr(Tab, "fetch", lambda *_: None)
    for _ in range(2):
        tab = browser.load(NAME)
        object.__setattr__(tab, "_headers", ())
        for _ in range(6):  # the browser answers in between
            run(tab)
    assert ["proxy" in record.getMessage() for record in caplog.records] == [True]


def test_a_users_run_looks_for_the_browsers_state_once(browser: Browser, store: CountingStore) -> None:
    """With the server's cookie, too: every other run asks for the version of the user's record, and no more."""
    tab = browser.load(NAME)
    run(tab, ADA, items=["book"])
    before = store.versions
    run(tab, ADA)
    assert store.versions == before + 1
