"""The state of a logged-in user: theirs on every device, and nobody else's. Moves are in test_homes."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import time_machine

from persist_session import (
    ConfigurationError,
    LockTimeoutError,
    StateConflictError,
    StateTooLargeError,
    StoreError,
    UnpicklableStateError,
    clear_cookie_state,
    configure,
    load_state,
    persistent_state,
    save_state,
    state_info,
)
from persist_session import settings as settings_module
from persist_session.keys import derive
from persist_session.records import user_key
from support.records import CountingStore
from support.tabs import AppState, Browser, Tab, pretended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ADA, BOB = "https://provider|ada", "https://provider|bob"


@pytest.fixture
def store() -> CountingStore:
    """The store of all browsers."""
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


def saved(user: str | None, name: str = "app-state") -> list[str]:
    """What a new browser has of a user."""
    return add(Browser().open(), name=name, user=user)


def known(browser: Browser, item: str | None = None) -> Tab:
    """A tab of a browser that is known, in its next run."""
    tab = browser.open()
    add(tab)
    add(tab, item)
    tab.begin()
    return tab


# --- whose it is


def test_a_user_has_one_state_everywhere(browser: Browser, store: CountingStore) -> None:
    """At once, under a key that is neither their name nor the browser's."""
    assert add(browser.open(), "a", user=ADA) == ["a"]
    assert store.writes == 1
    assert add(Browser().open(), "b", user=ADA) == ["a", "b"]
    info: Any = state_info("app-state")
    assert (info.visitor_key, info.cookie) == (user_key(ADA), "none")
    assert ADA not in repr(store._records) + repr(info)
    assert saved(BOB) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda user: persistent_state("app-state", AppState, user=user),
        lambda user: load_state("app-state", AppState, user=user),
        lambda user: clear_cookie_state("app-state", user=user),
        lambda user: clear_cookie_state(user=user),
    ],
    ids=["block", "load", "clear", "clear all"],
)
@pytest.mark.parametrize(("user", "said"), [("", "empty"), (3, "int"), (b"ada", "bytes"), (["ada"], "list")])
def test_a_bad_user_is_refused(browser: Browser, call: Callable[[Any], Any], user: Any, said: str) -> None:
    """An empty name would be one state for all whom the provider gives none; the remedy is in the message."""
    browser.open().begin()
    with pytest.raises(ConfigurationError, match=rf"user must be .*st\.user.*{said}"):
        call(user)


def test_a_user_needs_no_cookie(browser: Browser) -> None:
    """None is asked for where the connection brought others, and none is set."""
    browser.cookies["theirs"] = "x", 1e12
    tab = browser.open()
    for _ in range(2):
        add(tab, "a", user=ADA)
        tab.end()
        assert not tab.is_asking
    assert list(browser.values()) == ["theirs"]


def test_a_proxy_hides_a_browsers_state(browser: Browser) -> None:
    """Where the connection brought nothing but Streamlit's login, the browser is asked; no cookie is set."""
    known(browser, "a").end()
    before = browser.cookies.copy()
    browser.strips = True
    tab = browser.open()
    add(tab, user=ADA)
    assert add(tab, user=ADA) == ["a"]
    assert browser.cookies == before
    stranger = Browser()
    tab = stranger.open()
    add(tab, user=BOB)
    add(tab, user=BOB)
    assert (stranger.asked, stranger.cookies) == (1, {})


def test_a_page_load_writes_nothing(browser: Browser, store: CountingStore) -> None:
    """A user who only looks leaves no record, either."""
    add(browser.open(), user=ADA)
    assert store.writes == 0


def test_a_late_browser_is_asked_once(browser: Browser, store: CountingStore) -> None:
    """In every further run only the version of the user's record is looked up."""
    tab = known(browser, "a")
    add(tab, user=ADA)
    before = store.reads, store.versions, store.writes
    for _ in range(5):
        assert add(tab, user=ADA) == ["a"]
    assert (store.reads, store.versions, store.writes) == (before[0], before[1] + 5, before[2])


# --- login


def test_a_callback_before_the_login(browser: Browser) -> None:
    """The click that logs the visitor in may also put something into their cart."""
    tab = known(browser, "a")
    state = load_state("app-state", AppState)
    tab.begin()
    state.items.append("clicked")
    with persistent_state("app-state", AppState, user=ADA) as state:
        assert state.items == ["a", "clicked"]
    assert saved(ADA) == ["a", "clicked"]


def test_an_error_before_the_login(browser: Browser) -> None:
    """What an exception threw away is not taken along."""
    tab = known(browser, "a")
    with suppress(LookupError), persistent_state("app-state", AppState) as state:
        state.items.append("b")
        raise LookupError
    tab.end(failed=True)
    assert add(tab, user=ADA) == ["a"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_drawn_value_is_no_work(browser: Browser, is_there: bool) -> None:
    """A fresh state that nobody touched replaces no saved one and is no conflict; where none is, it goes on."""

    def draw() -> dict[str, int]:
        return {"thread": time.perf_counter_ns()}

    first = None
    if is_there:
        other = Browser().open()
        for _ in range(2):
            other.begin()
            with persistent_state("thread", draw, user=ADA) as first:
                pass
    tab = browser.open()
    tab.begin()
    mine = load_state("thread", draw)
    tab.begin()
    with persistent_state("thread", draw, user=ADA, on_conflict="raise") as found:
        assert found == (first or mine)
    with persistent_state("thread", draw, user=ADA, on_conflict="raise") as found:
        assert found == (first or mine)


def test_a_kept_value_is_told(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    """What stays behind at a merge is named once, by its field; nothing that the visitor has is shown there."""
    add(Browser().open(), "user's", user=ADA)
    other = Browser().open()
    other.begin()
    with persistent_state("app-state", AppState, user=ADA) as state:
        state.count, state.other = 7_000_001, 5
    tab = known(browser)
    with persistent_state("app-state", AppState) as state:
        state.count, state.other = 8_000_002, 5
        state.items.append("mine")
    assert add(tab, user=ADA) == ["user's", "mine"]
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "count" in said
    assert not any(part in said for part in ("other", "items", "7000001", "8000002", "mine", ADA))


@pytest.mark.parametrize("is_known", [True, False])
def test_a_raised_conflict_is_raised_once(browser: Browser, is_known: bool) -> None:
    """The error has the state that is gone; the next run has the user's, and nobody else has the other."""
    add(Browser().open(), "user's", user=ADA)
    tab = known(browser, "mine") if is_known else browser.open()
    if not is_known:
        add(tab, "mine")
    tab.begin()
    with pytest.raises(StateConflictError) as caught:
        load_state("app-state", AppState, user=ADA, on_conflict="raise")
    error: Any = caught.value
    assert (error.base.items, error.mine.items, error.theirs.items) == ([], ["mine"], ["user's"])
    assert add(tab, user=ADA, on_conflict="raise") == ["user's"]
    assert add(tab) == []
    assert add(browser.open()) == []


def test_a_login_that_fails_for_good(store: CountingStore) -> None:
    """It fails once: nobody is kept from their own state."""
    with pretended(store, max_bytes=500) as browser:
        add(Browser().open(), "u" * 300, user=ADA)
        tab = known(browser, "m" * 300)
        tab.begin()
        with pytest.raises(StateTooLargeError):
            load_state("app-state", AppState, user=ADA)
        assert add(tab, user=ADA) == ["u" * 300]
        assert saved(ADA) == ["u" * 300]


def test_a_store_fails_at_the_login(browser: Browser, store: CountingStore) -> None:
    """The next run moves the state; who logs out before has it still."""
    tab = known(browser, "a")
    for last in (False, True):
        tab.begin()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "write", failing)
            with pytest.raises(StoreError):
                load_state("app-state", AppState, user=ADA)
        if not last:
            assert add(tab) == ["a"]
    assert add(tab, user=ADA) == ["a"]
    assert add(tab) == []


def failing(*_: Any, **__: Any) -> Any:
    """Fail as a store does."""
    raise StoreError("The disk is full.")


def test_an_older_run_outlives_the_login(browser: Browser) -> None:
    """Its block commits what it did to the state that has moved: the user has it, and the browser none of it."""
    tab = known(browser, "a")
    with persistent_state("app-state", AppState) as state:
        end = tab.begin_over()
        with persistent_state("app-state", AppState, user=ADA):
            pass
        state.items.append("late")
    end()
    assert add(tab, user=ADA) == ["a", "late"]
    assert add(tab) == []
    assert add(browser.open()) == []


def test_two_tabs_log_in(browser: Browser) -> None:
    """What both hold comes along once."""
    one, two = known(browser, "a"), browser.open()
    add(two, "b")
    add(one)
    for tab in (one, two, one):
        add(tab, user=ADA)
    assert saved(ADA) == ["a", "b"]


# --- logout, and the next user


def test_a_callback_before_the_logout(browser: Browser) -> None:
    """The click that logs out may change something first: it is saved for whom it was done."""
    tab = known(browser)
    state = load_state("app-state", AppState, user=ADA)
    state.items.append("a")
    assert add(tab) == []
    tab.begin()
    load_state("app-state", AppState, user=ADA).items.append("b")
    assert add(tab, user=BOB) == []
    assert saved(ADA) == ["a", "b"]


def test_an_older_run_outlives_the_logout(browser: Browser) -> None:
    """Its change is the user's, and who logged in meanwhile sees nothing of it."""
    tab = known(browser)
    with persistent_state("app-state", AppState, user=ADA) as state:
        end = tab.begin_over()
        with persistent_state("app-state", AppState, user=BOB) as bobs:
            pass
        state.items.append("late")
    end()
    assert (bobs.items, saved(ADA), saved(BOB)) == ([], ["late"], [])


@pytest.mark.parametrize("between", [True, False])
def test_users_of_one_tab(browser: Browser, between: bool) -> None:
    """Neither gets anything of the other, whatever the tab still holds, and each finds their own again."""
    tab = browser.open()
    kept: list[AppState] = []
    for user, item in ((ADA, "a"), (BOB, "b"), (ADA, "c")):
        tab.begin()
        state = load_state("app-state", AppState, user=user)
        state.items.append(item)
        for old in kept:
            save_state("app-state", old)
        save_state("app-state", state)
        kept.append(state)
        if between:
            assert add(tab) == []
    assert (saved(ADA), saved(BOB)) == (["a", "c"], ["b"])


def test_a_broken_state_lets_go(browser: Browser) -> None:
    """What a callback broke is told once; the run after it has the next visitor's."""
    tab = known(browser)
    load_state("app-state", AppState, user=ADA).items.append(lambda: None)
    tab.begin()
    with pytest.raises(UnpicklableStateError):
        load_state("app-state", AppState)
    assert add(tab) == []


def test_an_unremembered_user_leaves_nothing(browser: Browser, store: CountingStore) -> None:
    """Neither in the store, nor in the tab for the next one."""
    tab = browser.open()
    add(tab, "a", user=ADA, remember=False)
    assert add(tab, user=ADA, remember=False) == ["a"]
    assert add(tab, user=BOB, remember=False) == []
    assert add(tab, remember=False) == []
    assert store.writes == 0
    assert add(tab, user=BOB) == []
    assert add(tab, user=ADA) == []


# --- clearing


@pytest.mark.parametrize(
    "clear",
    [
        lambda: clear_cookie_state("app-state", user=ADA),
        lambda: clear_cookie_state(user=ADA),
        lambda: clear_cookie_state("app-state"),
        clear_cookie_state,
    ],
    ids=["name and user", "user", "name", "nothing"],
)
def test_a_users_clear(browser: Browser, clear: Callable[[], None]) -> None:
    """For who is logged in, or whom the call names; other tabs do not bring it back, and others' states stay."""
    one, two = browser.open(), Browser().open()
    add(one, "a", user=ADA)
    add(two, user=ADA)
    add(Browser().open(), "bob's", user=BOB)
    two.begin()
    with persistent_state("app-state", AppState, user=ADA) as state:
        state.items.append("late")
        one.begin()
        clear()
        two.go_on()
    assert add(two, user=ADA) == add(one, user=ADA) == []
    assert saved(BOB) == ["bob's"]


def test_another_users_clear(browser: Browser) -> None:
    """An admin's page: the own state stays."""
    add(Browser().open(), "a", user=ADA)
    add(Browser().open(), "a", name="other", user=ADA)
    tab = known(browser, "mine")
    clear_cookie_state("app-state", user=ADA)
    assert (saved(ADA), saved(ADA, "other")) == ([], ["a"])
    tab.begin()
    clear_cookie_state(user=ADA)
    assert saved(ADA, "other") == []
    assert add(tab) == ["mine"]


# --- locks, expiry, keys


def test_an_exclusive_block_of_a_user(store: CountingStore) -> None:
    """One lock, wherever they are; another user is not kept waiting."""
    with pretended(store, lock_timeout=0.05) as browser:
        one, two = browser.open(), Browser().open()
        one.begin()
        with persistent_state("app-state", AppState, user=ADA, exclusive=True), ThreadPoolExecutor(1) as elsewhere:
            waits = elsewhere.submit(add, two, user=ADA, exclusive=True)
            assert isinstance(waits.exception(), LockTimeoutError)
            assert elsewhere.submit(add, Browser().open(), user=BOB, exclusive=True).result() == []
        assert add(two, "a", user=ADA, exclusive=True) == ["a"]


def test_a_users_state_expires(store: CountingStore) -> None:
    """After all of its time it is not served; a visit in its second half gives it all again."""
    with pretended(store, max_age=1000.0) as browser, time_machine.travel(time.time(), tick=False) as now:
        add(browser.open(), "a", user=ADA)
        for _ in range(3):
            now.shift(timedelta(seconds=600))
            assert saved(ADA) == ["a"]
        now.shift(timedelta(seconds=1001))
        assert saved(ADA) == []


# --- outside of a run


@pytest.fixture
def outside(store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[CountingStore]:
    """The configured store, where two users have a state, and no run is under way."""
    with pretended(store, max_age=30 * 24 * 3600.0, keys=derive(["s" * 32])) as browser:
        add(browser.open(), "a", user=ADA)
        add(browser.open(), "a", name="other", user=ADA)
        add(Browser().open(), "b", user=BOB)
    monkeypatch.setattr(settings_module, "_configured", {})
    monkeypatch.setattr(settings_module, "_resolved", {})
    for name in settings_module._CHECKS:
        monkeypatch.delenv(f"PERSIST_SESSION_{name.upper()}", raising=False)
    configure(secret_keys=["s" * 32], store=store)
    yield store
    settings_module._configured.clear()


def test_outside_a_users_state_is_read(outside: CountingStore) -> None:
    """By a job that looks up what a user has; it writes nothing."""
    writes = outside.writes
    state = load_state("app-state", AppState, user=ADA)
    assert state.items == ["a"]
    state.items.append("lost")
    assert load_state("app-state", AppState, user=ADA).items == ["a"]
    assert load_state("never", AppState, user=ADA).items == []
    assert outside.writes == writes


def test_outside_a_users_states_are_cleared(outside: CountingStore) -> None:
    """One, or all; nobody else's, and without any class."""
    clear_cookie_state("app-state", user=ADA)
    clear_cookie_state("app-state", user=ADA)
    assert outside.names(user_key(ADA)) == ["other"]
    clear_cookie_state(user=ADA)
    assert outside.names(user_key(ADA)) == []
    assert outside.names(user_key(BOB)) == ["app-state"]


def test_outside_a_store_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can tell which app is meant; without a user nothing is done, with a warning."""
    monkeypatch.setattr(settings_module, "_configured", {})
    monkeypatch.setattr(settings_module, "_resolved", {})
    for name in settings_module._CHECKS:
        monkeypatch.delenv(f"PERSIST_SESSION_{name.upper()}", raising=False)
    for call in (lambda: load_state("x", AppState, user=ADA), lambda: clear_cookie_state("x", user=ADA)):
        with pytest.raises(ConfigurationError, match=r"configure\(store="):
            call()
