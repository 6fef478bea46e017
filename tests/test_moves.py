"""Homes and moves: every row of the design's table, in runs that are only pretended."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from persist_session import (
    StateConflictError,
    StoreError,
    clear_cookie_state,
    load_state,
    persistent_state,
    save_state,
    state_info,
)
from persist_session import settings as settings_module
from persist_session.browser import identity
from persist_session.keys import derive
from persist_session.records import user_key, visitor_key
from support.records import CountingStore
from support.tabs import COOKIE, SCRIPTS, AppState, Browser, Tab, pretended

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def store() -> CountingStore:
    """The store of all tabs."""
    return CountingStore()


@pytest.fixture
def browser(store: CountingStore) -> Iterator[Browser]:
    """A browser that nobody knows yet."""
    with pretended(store) as browser:
        yield browser


def add(tab: Tab, item: str | None = None, name: str = "app-state", **options: Any) -> list[str]:
    """Run a script whose block appends an item, or only looks; return the items."""
    tab.begin()
    with persistent_state(name, AppState, **options) as state:
        if item:
            state.items.append(item)
    return list(state.items)


def known(browser: Browser) -> Tab:
    """A tab of a browser whose cookie has come."""
    tab = browser.open()
    add(tab)
    tab.begin()
    return tab


def visitor(browser: Browser) -> str:
    """The visitor id in the browser's cookie."""
    values = browser.values()
    return (values.get(COOKIE) or values[SCRIPTS]).partition(".")[0]


# --- tab -> browser


def test_a_browser_that_becomes_known(browser: Browser, store: CountingStore) -> None:
    """What was done before the answer is saved by it, in whichever run that comes; nothing was written before."""
    tab = browser.open()
    add(tab, "a")
    assert (store.writes, state_info("app-state").cookie) == (0, "asking")  # type: ignore[union-attr]
    tab.end()
    tab.answer()
    assert store.writes == 1
    assert add(browser.open()) == ["a"]


def test_a_record_found_late_keeps_both(browser: Browser) -> None:
    """Behind a proxy that strips cookies: of two values of one field the record's stays."""
    add(known(browser), "old")
    browser.strips = True
    tab = browser.open()
    tab.begin()
    with persistent_state("app-state", AppState) as state:
        state.items.append("new")
        state.count = 1
    assert add(tab) == ["old", "new"]
    assert add(browser.open(), None) == []  # asks first
    late = browser.open()
    add(late)
    assert add(late) == ["old", "new"]


@pytest.mark.parametrize("meets", ["callback", "branch", "once"])
def test_a_name_that_is_met_once(browser: Browser, meets: str) -> None:
    """The tab brings home what it holds, also in runs that meet no name."""
    factory: Any = list
    tab = browser.open()
    tab.begin()
    if meets == "callback":
        votes = load_state("votes", factory)
        votes.append(1)
        save_state("votes", votes)
    else:
        with persistent_state("votes", factory) as votes:
            votes.append(1)
    tab.begin()
    tab.begin()
    again = browser.open()
    again.begin()
    assert load_state("votes", list) == [1]


def test_many_names_have_one_cookie(browser: Browser) -> None:
    """And one question."""
    tab = browser.open()
    tab.begin()
    for number in range(200):
        with persistent_state(f"chat-{number}", AppState) as state:
            state.count = number
    tab.begin()
    assert list(browser.values()) == [SCRIPTS]
    again = browser.open()
    again.begin()
    assert [load_state(f"chat-{number}", AppState).count for number in (0, 99, 199)] == [0, 99, 199]


# --- login and logout


@pytest.mark.parametrize("remembers", [False, True])
def test_login_takes_the_states_along(browser: Browser, store: CountingStore, *, remembers: bool) -> None:
    """Into a user's state that is there or not; the id stays, and nothing is left under it."""
    if remembers:
        other = Browser()
        add(other.open(), "user's", user="alice")
    tab = known(browser)
    before = visitor(browser)
    add(tab, "mine")
    assert add(tab, user="alice") == (["user's", "mine"] if remembers else ["mine"])
    assert visitor(browser) == before
    reloaded = browser.open()
    assert add(reloaded) == []
    assert add(reloaded, user="alice") == (["user's", "mine"] if remembers else ["mine"])
    assert store.names(user_key("alice")) == ["app-state"]


def test_login_in_the_first_run(browser: Browser) -> None:
    """The browser's record comes along though this tab has never shown it."""
    add(known(browser), "mine")
    assert add(browser.open(), user="alice") == ["mine"]


def test_login_before_the_browser_answers(browser: Browser) -> None:
    """Behind a stripping proxy: the browser's record comes when it is known."""
    add(known(browser), "mine")
    browser.strips = True
    tab = browser.open()
    add(tab)
    add(tab, user="alice")
    assert add(tab, user="alice") == ["mine"]


@pytest.mark.parametrize("decide", ["merge", "overwrite", "raise", lambda base, mine, theirs: theirs])
def test_login_with_on_conflict(browser: Browser, decide: Any) -> None:
    """Both have a count; "raise" tells once, and the user goes on with their own."""
    stranger = Browser().open()
    stranger.begin()
    with persistent_state("app-state", AppState, user="alice") as state:
        state.count = 7
    tab = known(browser)
    tab.begin()
    with persistent_state("app-state", AppState) as state:
        state.count = 1
    tab.begin()
    if decide == "raise":
        with pytest.raises(StateConflictError) as caught:
            load_state("app-state", AppState, user="alice", on_conflict=decide)
        assert caught.value.mine.count == 1  # type: ignore[attr-defined]
    count = load_state("app-state", AppState, user="alice", on_conflict=decide).count
    assert count == (1 if decide == "overwrite" else 7)


def test_who_did_nothing_changes_nothing_at_login(browser: Browser) -> None:
    """With "overwrite", too."""
    add(Browser().open(), "user's", user="alice")
    tab = browser.open()
    add(tab)
    assert add(tab, user="alice", on_conflict="overwrite") == ["user's"]


def test_logout_leaves_the_users_state(browser: Browser) -> None:
    """And another user has their own."""
    tab = known(browser)
    add(tab, "a", user="alice")
    assert add(tab, "anonymous") == ["anonymous"]
    assert add(tab, user="bob") == ["anonymous"]
    assert add(tab, user="alice") == ["a"]


def test_an_old_users_object_is_not_saved_as_mine(browser: Browser) -> None:
    """By hand, after a logout."""
    tab = known(browser)
    tab.begin()
    old = load_state("app-state", AppState, user="alice")
    old.items.append("secret")
    save_state("app-state", old)
    tab.begin()
    load_state("app-state", AppState)
    save_state("app-state", old)
    assert add(browser.open()) == []


def test_another_tab_after_a_login(browser: Browser) -> None:
    """Its state goes on as its own, and what it does comes along at its own login, once."""
    one, two = known(browser), browser.open()
    add(one, "a")
    assert add(two) == ["a"]
    add(one, "b", user="alice")
    assert add(two, "c") == ["a", "c"]
    assert add(browser.open()) == []
    assert add(two, user="alice") == ["a", "b", "c"]


def test_a_long_block_while_another_tab_logs_in(browser: Browser) -> None:
    """What it did is not lost."""
    one, two = known(browser), browser.open()
    add(one, "a")
    two.begin()
    with persistent_state("app-state", AppState) as state:
        state.items.append("answer")
        add(one, user="alice")
        two.go_on()
    assert add(two, user="alice") == ["a", "answer"]
    assert add(one, user="alice") == ["a", "answer"]


def test_what_is_saved_during_a_login_comes_along(browser: Browser, store: CountingStore) -> None:
    """A move leaves only the version that it read."""
    one, two = known(browser), browser.open()
    add(one, "a")
    add(two)
    write, done = store.write, list[int]()

    def write_late(key: str, name: str, data: bytes, **options: Any) -> bool:
        written = write(key, name, data, **options)
        if key == user_key("alice") and not done:
            done.append(1)
            add(two, "late")
            one.go_on()
        return written

    store.write = write_late  # type: ignore[method-assign]
    assert add(one, user="alice") == ["a", "late"]
    assert add(one, user="alice") == ["a", "late"]


# --- consent


def test_consent_withdrawn_and_given_again(browser: Browser, store: CountingStore) -> None:
    """The record is gone, its content goes on in the tab, and comes back with the same id."""
    tab = known(browser)
    add(tab, "a")
    key = visitor_key(visitor(browser))
    assert add(tab, "b", remember=False) == ["a", "b"]
    tab.end()
    assert store.names(key) == []
    assert browser.values() == {}
    assert add(tab, "c") == ["a", "b", "c"]
    tab.begin()
    assert visitor_key(visitor(browser)) == key
    assert add(browser.open()) == ["a", "b", "c"]


def test_a_users_consent_withdrawn(browser: Browser, store: CountingStore) -> None:
    """Their record is deleted for all devices; who logs out has none of it."""
    tab = known(browser)
    add(tab, "a", user="alice")
    assert add(tab, user="alice", remember=False) == ["a"]
    assert store.names(user_key("alice")) == []
    assert add(tab, remember=False) == []


def test_nobody_asks_without_consent(browser: Browser, store: CountingStore) -> None:
    """No cookie, no record, though the browser brings cookies of others."""
    browser.cookies["_streamlit_xsrf"] = "x", 1e12
    tab = browser.open()
    add(tab, "a", remember=False)
    tab.end()
    assert not tab.is_asking
    assert (list(browser.values()), store.writes) == (["_streamlit_xsrf"], 0)


# --- clearing


def test_a_clear_leaves_the_id(browser: Browser) -> None:
    """Every tab starts fresh, and no late save brings the state back."""
    one, two = known(browser), browser.open()
    before = visitor(browser)
    add(one, "a")
    two.begin()
    with persistent_state("app-state", AppState) as state:
        state.items.append("late")
        one.begin()
        clear_cookie_state("app-state")
        clear_cookie_state("app-state")
        two.go_on()
    assert add(two) == []
    assert add(one, "b") == ["b"]
    assert visitor(browser) == before


def test_a_clear_before_the_browser_is_known(browser: Browser) -> None:
    """The record goes as soon as it is found; what came after the clear stays."""
    add(known(browser), "old")
    browser.strips = True
    tab = browser.open()
    tab.begin()
    clear_cookie_state("app-state")
    add(tab, "new")
    assert add(tab) == ["new"]


def test_a_clear_of_everything(browser: Browser, store: CountingStore) -> None:
    """All names of the visitor, also those that this tab has not loaded; nobody else's."""
    tab = known(browser)
    add(tab, "a")
    add(tab, "b", name="other")
    stranger = Browser()
    add(known(stranger), "theirs")
    reloaded = browser.open()
    reloaded.begin()
    clear_cookie_state()
    assert store.names(visitor_key(visitor(browser))) == []
    assert add(reloaded, name="other") == []
    assert add(stranger.open()) == ["theirs"]


# --- the identity


def test_a_tabs_visitor_is_found_once(browser: Browser) -> None:
    """A handshake that empties, or shows another visitor, changes nothing."""
    tab = known(browser)
    add(tab, "a")
    browser.cookies.clear()
    tab.reconnect()
    assert add(tab) == ["a"]


def test_scripts_and_middleware_take_turns(browser: Browser) -> None:
    """From a script's cookie to the server's and back: the state stays, and one cookie is left."""
    add(known(browser), "a")
    tab = browser.load()
    assert add(tab, "b") == ["a", "b"]
    tab.end()
    assert add(browser.load()) == ["a", "b"]
    assert list(browser.values()) == [COOKIE]
    assert add(browser.open(), "c") == ["a", "b", "c"]


def test_middleware_behind_a_stripping_proxy(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    """A script's cookie keeps the state, with one warning; when the proxy lets cookies by, it stays."""
    identity._warn_of_stripped.cache_clear()
    browser.strips = True
    add(browser.load(), "a")
    tab = browser.load()
    add(tab, "a")
    tab.begin()
    reloaded = browser.load()
    add(reloaded)
    assert add(reloaded, "b") == ["a", "b"]
    assert [record.levelno for record in caplog.records].count(logging.WARNING) == 1
    browser.strips = False
    assert add(browser.load()) == ["a", "b"]


def test_a_planted_script_cookie_changes_nothing(browser: Browser) -> None:
    """The server's leads if it has any record."""
    add(browser.load(), "mine")
    tab = browser.load()
    add(tab, "mine")
    attacker = Browser()
    add(known(attacker), "planted")
    browser.cookies[SCRIPTS] = attacker.cookies[SCRIPTS]
    assert "mine" in add(browser.load())


def test_page_loads_leave_no_record(browser: Browser, store: CountingStore) -> None:
    """In no mode: crawlers, health checks, and clients that only look."""
    add(browser.load())
    add(Browser().open())
    with pretended(store, ask_browser=False) as other:
        add(other.open())
    assert store.writes == 0


def test_a_middleware_that_says_no(browser: Browser, store: CountingStore) -> None:
    """Cookie and records go with the page, and no script sets another."""
    add(browser.load(), "a")
    add(browser.load(), "a")
    assert store._records
    tab = browser.load(remember=lambda _: False)
    key = visitor_key("0" * 32)
    assert browser.values() == {}
    assert all(name == "persist_session.keys" for _, name in store._records)
    add(tab, "b")
    tab.begin()
    assert browser.values() == {}
    assert store.names(key) == []


# --- failures, and objects whose identity says nothing


def test_a_failed_logout_is_tried_again(browser: Browser, store: CountingStore, monkeypatch: Any) -> None:
    """A full disk while alice logs out: the next user gets nothing of hers, and her change is saved later."""
    tab = known(browser)
    add(tab, "a", user="alice")
    tab.begin()
    load_state("app-state", AppState, user="alice").items.append("pending")
    with monkeypatch.context() as patch:
        patch.setattr(store, "write", _full)
        tab.begin()
        with pytest.raises(StoreError):
            load_state("app-state", AppState, user="bob")
    assert add(tab, user="bob") == []
    assert add(tab, user="alice") == ["a", "pending"]


def _full(*_: Any, **__: Any) -> bool:
    raise StoreError("The disk is full.")


def test_keys_that_change_under_an_open_tab(store: CountingStore) -> None:
    """A key that is appended in a running process is no move."""
    with pretended(store) as browser, pytest.MonkeyPatch.context() as patch:
        tab = known(browser)
        add(tab, "a")
        newer = derive(["k" * 32, "n" * 32])
        old = settings_module.resolve("", dict)
        patch.setattr(settings_module, "resolve", lambda *_: dataclasses.replace(old, keys=newer))
        assert add(tab, "b") == ["a", "b"]
        assert add(browser.open()) == ["a", "b"]


def test_plain_values_are_saved_by_hand(browser: Browser) -> None:
    """An int, or a text, that was cleared, or another tab's, is no old object."""
    one, two = known(browser), browser.open()
    for tab, value in ((one, 3), (two, 6), (one, 3), (one, 5)):
        tab.begin()
        load_state("number", int)
        save_state("number", value)
    one.begin()
    clear_cookie_state("number")
    for value in (1, 5):
        load_state("number", int)
        save_state("number", value)
    two.begin()
    assert load_state("number", int) == 5


def test_an_older_copy_of_a_cleared_state(browser: Browser) -> None:
    """Saved by hand after the clear, it brings nothing back."""
    tab = known(browser)
    tab.begin()
    old = load_state("app-state", AppState)
    old.items.append("a")
    save_state("app-state", old)
    with pytest.raises(ValueError, match="no"), persistent_state("app-state", AppState):
        raise ValueError("no")
    tab.begin()
    load_state("app-state", AppState)
    clear_cookie_state("app-state")
    load_state("app-state", AppState)
    save_state("app-state", old)
    assert add(browser.open()) == []


def test_a_factory_with_shared_arguments(browser: Browser) -> None:
    """A partial of a class is no class: what it is given is the app's."""
    shared: list[str] = []
    factory: Any = functools.partial(AppState, items=shared)
    for who in (browser, Browser()):
        tab = who.open()
        tab.begin()
        with persistent_state("app-state", factory) as state:
            assert state.items == []
            state.items.append("secret")
    assert shared == []


def test_a_failed_load_frees_the_lock(browser: Browser) -> None:
    """An exclusive block whose factory raises leaves nothing locked, though its traceback lives."""
    tab = known(browser)
    tab.begin()
    with pytest.raises(ZeroDivisionError), persistent_state("new", lambda: 1 / 0, exclusive=True):
        pass
    failed: list[BaseException] = []

    def other() -> None:
        second = browser.open()
        second.begin()
        try:
            with persistent_state("new", AppState, exclusive=True) as state:
                state.count = 1
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert failed == []


def test_a_block_that_is_made_once(browser: Browser) -> None:
    """Entered by the threads of several visitors at once: each leaves its own."""
    block = persistent_state("app-state", AppState)
    tabs = [known(each) for each in (browser, Browser(), Browser())]
    barrier = threading.Barrier(3)

    def visit(tab: Tab, number: int) -> None:
        tab.begin()
        with contextlib.suppress(ValueError), block as state:
            state.count = number
            barrier.wait()
            if number == 1:
                raise ValueError
        tab.end()

    threads = [threading.Thread(target=visit, args=(tab, number)) for number, tab in enumerate(tabs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = []
    for tab in tabs:
        tab.begin()
        counts.append(load_state("app-state", AppState).count)
    assert counts == [0, 0, 2]
