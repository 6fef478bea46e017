"""The home of a state: every move of the design's table, and clearing, in both modes."""

from __future__ import annotations

import time
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
from persist_session.records import user_key, visitor_key
from support.records import CountingStore, home
from support.tabs import COOKIE, SCRIPTS, AppState, Browser, Tab, pretended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Come = Callable[[Browser], Tab]
    Values = tuple[int, int, list[Any]]

NAMES = ("app-state", "cart")


@pytest.fixture
def store() -> CountingStore:
    """The store of all tabs."""
    return CountingStore()


@pytest.fixture
def browser(store: CountingStore) -> Iterator[Browser]:
    """A browser that nobody knows yet."""
    with pretended(store) as browser:
        yield browser


@pytest.fixture(params=[Browser.open, Browser.load], ids=["script", "middleware"])
def come(request: pytest.FixtureRequest) -> Come:
    """Opens a tab: a script sets the cookie, or the server with the page."""
    come: Come = request.param
    return come


def decided(base: AppState, mine: AppState, theirs: AppState) -> AppState:
    """Decide a conflict, as an app may."""
    return AppState(base.count, mine.count, [*theirs.items, *mine.items])


choices = pytest.mark.parametrize("choice", ["merge", "overwrite", "raise", decided])
with_and_without = pytest.mark.parametrize("is_there", [True, False], ids=["record", "no record"])


def put(tab: Tab, values: Values | None = None, names: tuple[str, ...] = NAMES[:1], **options: Any) -> list[Values]:
    """Run a script with a block for each name, which puts values in, or only looks; return what each has."""
    tab.begin()
    found: list[Values] = []
    for name in names:
        with persistent_state(name, AppState, **options) as state:
            if values is not None:
                state.count, state.other, state.items = values[0], values[1], list(values[2])
            found.append((state.count, state.other, list(state.items)))
    return found


def settled(tab: Tab) -> Tab:
    """The tab, after its last run and the browser's answer."""
    tab.end()
    tab.answer()
    return tab


def known(come: Come, browser: Browser, values: Values | None = None, names: tuple[str, ...] = NAMES[:1]) -> Tab:
    """A tab of a browser that is known; with values, which a record has."""
    tab = come(browser)
    put(tab, names=names)
    settled(tab)
    if values:
        put(tab, values, names)
        settled(tab)
    return tab


def visitor(browser: Browser) -> str:
    """The visitor key of the browser's cookie."""
    values = browser.values()
    return visitor_key((values.get(COOKIE) or values[SCRIPTS]).partition(".")[0])


FRESH: Values = (0, 0, [])
MINE: Values = (1, 3, ["mine"])
THEIRS: Values = (7, 0, ["theirs"])
JOINED: Values = (7, 3, ["theirs", "mine"])
"""What a three-way merge over a fresh state makes of the two: of two values of one field the record's stays."""


# --- tab -> browser


@choices
@with_and_without
def test_from_tab_to_browser(browser: Browser, is_there: bool, choice: Any) -> None:
    """Two names at once, when the browser's answer comes; whatever `on_conflict` says, the record's values stay."""
    if is_there:
        known(Browser.open, browser, THEIRS, NAMES)
        browser.strips = True
    tab = browser.open()
    assert put(tab, MINE, NAMES, on_conflict=choice) == [MINE] * 2
    settled(tab)
    expected = [JOINED if is_there else MINE] * 2
    assert put(tab, names=NAMES, on_conflict=choice) == expected
    browser.strips = False
    assert put(browser.open(), names=NAMES) == expected


@with_and_without
@choices
def test_from_tab_to_browser_again(
    come: Come, browser: Browser, store: CountingStore, is_there: bool, choice: Any
) -> None:
    """`remember=True` after a no; where another tab has saved since, its values stay."""
    tab = known(come, browser)
    put(tab, MINE, NAMES, remember=False)
    settled(tab)
    assert browser.values().keys() == ({COOKIE} if come is Browser.load else set())
    if is_there:
        known(come, browser, THEIRS, NAMES)
        tab.reconnect()
    expected = [JOINED if is_there and come is Browser.load else MINE] * 2
    assert put(tab, names=NAMES, on_conflict=choice) == expected
    settled(tab)
    assert put(tab, names=NAMES) == expected


def test_who_did_nothing_takes_the_record(come: Come, browser: Browser) -> None:
    """An untouched fresh state is no value that a record could lose to, nor one to be merged."""
    known(come, browser, THEIRS)
    browser.strips = True
    tab = browser.open()
    put(tab)
    settled(tab)
    assert put(tab) == [THEIRS if come is Browser.open else FRESH]


# --- login


@choices
@with_and_without
@pytest.mark.parametrize("source", ["tab", "browser", "record"])
def test_login(come: Come, browser: Browser, *, source: str, is_there: bool, choice: Any) -> None:
    """From a tab whose browser is not known, or that has not loaded the state, and from one that has; two names."""
    if is_there:
        put(Browser().open(), THEIRS, NAMES, user="alice")
    if source == "tab":
        tab = browser.open()
        put(tab, MINE, NAMES)
        tab.end()
        object.__setattr__(tab, "_asked", None)  # the browser never answers
    else:
        tab = known(come, browser, MINE, NAMES)
        tab = come(browser) if source == "record" else tab
    expected = {"merge": JOINED, "overwrite": MINE, "raise": THEIRS, decided: (0, 1, ["theirs", "mine"])}[choice]
    if is_there and choice == "raise":
        for name in NAMES:
            tab.begin()
            with pytest.raises(StateConflictError) as caught:
                load_state(name, AppState, user="alice", on_conflict="raise")
            error: Any = caught.value
            assert (error.mine.items, error.theirs.items) == (["mine"], ["theirs"])
    found = put(tab, names=NAMES, user="alice", on_conflict=choice)
    assert found == [expected if is_there else MINE] * 2
    settled(tab)
    assert put(Browser().open(), names=NAMES, user="alice") == found
    assert put(tab, names=NAMES) == [FRESH] * 2
    assert put(come(browser), names=NAMES) == [FRESH] * 2
    assert put(tab, names=NAMES, user="alice") == found


def test_login_before_the_browser_is_known(browser: Browser) -> None:
    """The tab's, the browser's and the user's are one, each item once, when the browser answers at last."""
    known(Browser.open, browser, (1, 0, ["browser"]), NAMES)
    put(Browser().open(), (2, 0, ["user"]), NAMES, user="alice")
    browser.strips = True
    tab = browser.open()
    tab.begin()
    for name in NAMES:
        load_state(name, AppState).items.append("tab")
    for name in NAMES:
        with persistent_state(name, AppState, user="alice"):
            pass
    settled(tab)
    for items in [found[2] for found in put(tab, names=NAMES, user="alice")]:
        assert sorted(items) == ["browser", "tab", "user"]
    browser.strips = False
    assert put(browser.open(), names=NAMES) == [FRESH] * 2


def test_a_login_of_one_name(come: Come, browser: Browser) -> None:
    """The states of a user and of nobody may stand side by side; only the user's moves."""
    tab = known(come, browser, MINE, NAMES)
    assert put(tab, user="alice") == [MINE]
    assert put(tab, names=NAMES[1:]) == [MINE]
    settled(tab)
    assert put(come(browser), names=NAMES) == [FRESH, MINE]


# --- logout


@with_and_without
@pytest.mark.parametrize("to", [None, "bob"])
def test_logout_moves_nothing(come: Come, browser: Browser, to: str | None, is_there: bool) -> None:
    """To the browser's own state or another user's, which is there or fresh; two names."""
    if is_there and to:
        put(Browser().open(), THEIRS, NAMES, user=to)
    tab = known(come, browser)
    put(tab, MINE, NAMES, user="alice")
    settled(tab)
    if is_there and to is None:
        put(come(browser), THEIRS, NAMES)
    assert put(tab, names=NAMES, user=to) == [THEIRS if is_there else FRESH] * 2
    settled(tab)
    if to or not is_there:
        assert put(tab, names=NAMES, user="alice") == [MINE] * 2
    assert put(Browser().open(), names=NAMES, user=to or "nobody") == [THEIRS if is_there and to else FRESH] * 2


def test_logout_to_the_tab(browser: Browser, store: CountingStore) -> None:
    """And into a state that is not to be remembered: a fresh one, of which nothing is written."""
    tab = browser.open()
    put(tab, MINE, user="alice")
    writes = store.writes
    assert put(tab, remember=False) == [FRESH]
    assert put(tab, THEIRS, remember=False) == [THEIRS]
    assert store.writes == writes
    assert put(tab, user="alice") == [(1, 3, ["mine", "theirs"])]


# --- consent


@with_and_without
@pytest.mark.parametrize("user", [None, "alice"])
def test_withdrawn_consent(
    come: Come, browser: Browser, store: CountingStore, user: str | None, is_there: bool
) -> None:
    """The record is deleted, its content goes on in the tab; in its first run, too. Of two names, one stays."""
    tab = known(come, browser)
    if is_there:
        put(tab, MINE, NAMES, user=user)
        settled(tab)
    key = user_key(user) if user else visitor(browser)
    for each in (come(browser), browser.open()):
        expected = MINE if NAMES[0] in store.names(key) else FRESH
        assert put(each, remember=False, user=user) == [expected]
        assert put(each, names=NAMES[1:], user=user) == [MINE if is_there else FRESH]
        settled(each)
        assert store.names(key) == list(NAMES[1:])
        assert put(each, remember=False, user=user) == [expected]


def test_another_names_cookie_stays(browser: Browser) -> None:
    """It goes only where no state of the tab is to be remembered."""
    tab = known(Browser.open, browser, MINE, NAMES)
    put(tab, remember=False)
    put(tab, names=NAMES[1:])
    settled(tab)
    assert list(browser.values()) == [SCRIPTS]
    tab.begin()
    for name in NAMES:
        load_state(name, AppState, remember=False)
    settled(tab)
    assert browser.values() == {}


# --- a move that fails


@pytest.mark.parametrize("method", ["write", "version", "read", "delete"])
def test_a_move_that_fails_loses_nothing(
    come: Come, browser: Browser, store: CountingStore, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Login and a no: the error is the app's, and the next run has everything."""
    tab = known(come, browser, MINE)
    moves: tuple[dict[str, Any], ...] = ({"user": "alice"}, {"remember": False, "user": "alice"})
    for options in moves:
        with monkeypatch.context() as patch:
            patch.setattr(store, method, failing)
            try:
                put(tab, **options)
            except StoreError:
                pass
            else:
                assert method in ("delete", "write", "read")
        assert put(tab, **options) == [MINE]
    assert not any(_holds(store, key, name) for key, name in store._records if name == "app-state")


def failing(*_: Any, **__: Any) -> Any:
    """Fail as a store does."""
    raise StoreError("The disk is full.")


def _holds(store: CountingStore, key: str, name: str) -> bool:
    payload, _ = home(store, name, key).read(100.0)
    return isinstance(payload, bytes)


# --- clearing


def test_a_clear_within_a_run(come: Come, browser: Browser) -> None:
    """What comes after it in the same run is kept, in a block or by hand; the object of before is not saved."""
    tab = known(come, browser, MINE)
    tab.begin()
    with persistent_state("app-state", AppState) as old:
        old.count = 5
        clear_cookie_state("app-state")
        old.count = 6
    with persistent_state("app-state", AppState) as new:
        assert new is not old
        new.items.append("new")
    save_state("app-state", old)
    settled(tab)
    assert put(come(browser)) == [(0, 0, ["new"])]
    tab.begin()
    clear_cookie_state("app-state")
    save_state("app-state", AppState(9))
    settled(tab)
    assert put(come(browser)) == [(9, 0, [])]


def test_a_clear_keeps_the_id(come: Come, browser: Browser) -> None:
    """And the cookie, byte for byte: neither clear nor login nor logout touches it."""
    tab = known(come, browser, MINE)
    before = browser.cookies.copy()
    for options in ({}, {"user": "alice"}, {"user": "bob"}, {}):
        put(tab, THEIRS, **options)  # type: ignore[arg-type]
        tab.begin()
        clear_cookie_state("app-state")
        assert put(tab, **options) == [FRESH]  # type: ignore[arg-type]
        settled(tab)
        settled(come(browser))
    assert {name: value for name, (value, _) in browser.cookies.items()} == {
        name: value for name, (value, _) in before.items()
    }


@pytest.mark.parametrize("late", ["tab", "run"])
@pytest.mark.parametrize("name", ["app-state", None])
def test_a_late_save_after_a_clear(come: Come, browser: Browser, late: str, name: str | None) -> None:
    """Of another tab's open block, or of an older run of the same tab: the state does not come back."""
    tab = known(come, browser, MINE)
    other = come(browser) if late == "tab" else tab
    other.begin()
    with persistent_state("app-state", AppState) as state:
        state.items.append("late")
        end = other.begin_over() if late == "run" else None
        if late == "tab":
            tab.begin()
        clear_cookie_state(name)
        settled(tab)
        other.go_on()
    if end is not None:
        end()
    for each in (tab, other, come(browser)):
        assert put(each) == [FRESH]


def test_two_tabs_clear(come: Come, browser: Browser) -> None:
    """What was done after the first clear goes with the second, and what came after that stays."""
    one, two = known(come, browser, MINE), come(browser)
    put(two)
    for tab in (one, two):
        tab.begin()
        clear_cookie_state("app-state")
        settled(tab)
        assert put(one) == put(two) == [FRESH]
        put(tab, THEIRS)
        settled(tab)
    assert put(one) == put(two) == put(come(browser)) == [THEIRS]


def test_a_clear_draws_anew(come: Come, browser: Browser) -> None:
    """The factory's own value after it is kept, as on a first visit; and the tab is in its second run already."""
    tab = come(browser)
    tab.begin()
    load_state("thread", draw)
    settled(tab)
    tab.begin()
    clear_cookie_state("thread")
    with persistent_state("thread", draw) as thread:
        pass
    again = come(browser)
    again.begin()
    assert load_state("thread", draw) == thread


def draw() -> list[int]:
    """A state that is never the same."""
    return [time.perf_counter_ns()]


def test_a_clear_without_a_load(come: Come, browser: Browser, store: CountingStore) -> None:
    """By a page that only clears; what another tab shows of it is gone by its next entry."""
    tab = known(come, browser, MINE, NAMES)
    other = come(browser)
    other.begin()
    clear_cookie_state("cart")
    assert store.names(visitor(browser)) == ["app-state"]
    assert put(tab, names=NAMES) == [MINE, FRESH]


def test_a_clear_without_consent(come: Come, browser: Browser, store: CountingStore) -> None:
    """It clears the tab's own and the record that another tab has meanwhile; no cookie is set."""
    tab = come(browser)
    put(tab, MINE, remember=False)
    settled(tab)
    known(come, browser, THEIRS)
    tab.reconnect()
    tab.begin()
    clear_cookie_state("app-state")
    assert put(tab, remember=False) == [FRESH]
    assert store.names(visitor(browser)) == []


# --- S23: moved is not cleared


@pytest.mark.parametrize("then", ["login", "logout", "other user"])
def test_another_tab_keeps_what_was_moved(come: Come, browser: Browser, then: str) -> None:
    """While tab A logs in, and whatever it does then, tab B's long block is kept as its own, and comes along."""
    a, b = known(come, browser, MINE), come(browser)
    b.begin()
    with persistent_state("app-state", AppState) as state:
        state.items.append("long")
        put(a, user="alice")
        if then != "login":
            put(a, user=None if then == "logout" else "bob")
        settled(a)
        b.go_on()
    assert put(b) == [(1, 3, ["mine", "long"])]
    assert put(come(browser)) == [FRESH]
    assert put(b, user="alice") == [(1, 3, ["mine", "long"])]
    settled(b)
    assert put(a, user="alice") == [(1, 3, ["mine", "long"])]


def test_after_a_move_another_record_begins(come: Come, browser: Browser) -> None:
    """Tab A logs in, out, and begins anew, also by a yes after a no; tab B, idle meanwhile, has its own still."""
    a, b = known(come, browser, MINE), come(browser)
    assert put(b) == [MINE]
    put(a, user="alice")
    put(a, remember=False)
    put(a, (5, 0, ["new"]), remember=False)
    put(a)
    settled(a)
    assert put(come(browser)) == [(5, 0, ["new"])]
    assert put(b) == [MINE]
    put(b, (1, 3, ["mine", "b"]))
    assert put(come(browser)) == put(a) == [(5, 0, ["new"])]
    a.begin()
    clear_cookie_state("app-state")
    assert put(b) == [(1, 3, ["mine", "b"])]


def test_a_clear_after_a_move(come: Come, browser: Browser) -> None:
    """By who has begun anew: a third tab, that saw only the new state, starts fresh."""
    a = known(come, browser, MINE)
    put(a, user="alice")
    put(a, THEIRS)
    c = come(browser)
    assert put(c) == [THEIRS]
    a.begin()
    clear_cookie_state("app-state")
    assert put(a) == put(c) == [FRESH]


# --- what is told


def test_the_facts_follow_the_home(come: Come, browser: Browser) -> None:
    """`state_info`: the visitor's key, and whether there is a record; nothing of a secret."""
    tab = browser.open()
    put(tab, MINE, remember=False)
    info: Any = state_info("app-state")
    assert (info.visitor_key, info.size, info.saved_at, info.expires_at, info.cookie) == (None,) * 4 + ("none",)
    tab = known(come, browser, MINE)
    tab.begin()
    info = state_info("app-state")
    assert info.visitor_key == visitor(browser)
    assert info.expires_at > info.saved_at
    assert all(value.partition(".")[0] not in repr(info) for value in browser.values().values())
    put(tab, user="alice")
    info = state_info("app-state")
    assert (info.visitor_key, info.cookie) == (user_key("alice"), "none")
