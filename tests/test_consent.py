"""Who does not want to be remembered: the state stays in the tab, and what was kept of it is gone."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from persist_session import (
    ConfigurationError,
    StoreError,
    UnpicklableStateError,
    load_state,
    persistent_state,
    save_state,
)
from persist_session.records import user_key, visitor_key
from support.records import CountingStore
from support.tabs import COOKIE, SCRIPTS, AppState, Browser, Tab, pretended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Come = Callable[[Browser], Tab]


@pytest.fixture
def store() -> CountingStore:
    """The store of all browsers."""
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


def add(tab: Tab, item: str | None = None, *, remember: bool = True, **options: Any) -> list[str]:
    """Run a script whose block appends an item, or only looks; return the items."""
    tab.begin()
    with persistent_state("app-state", AppState, remember=remember, **options) as state:
        if item:
            state.items.append(item)
    return list(state.items)


def known(come: Come, browser: Browser, item: str | None = None) -> Tab:
    """A tab of a browser that is known, after its run."""
    tab = come(browser)
    add(tab)
    add(tab, item)
    tab.end()
    tab.answer()
    return tab


def records(store: CountingStore) -> list[str]:
    """The names of all records, of whomever; and what is set aside."""
    assert not any(store._aside.values())
    return [name for _, name in store._records if name != "persist_session.keys"]


# --- no


def test_the_state_stays_in_the_tab(come: Come, browser: Browser, store: CountingStore) -> None:
    """Every run has it, the very object, also what was saved by hand; no other tab does, and nothing is written."""
    browser.cookies["theirs"] = "x", 1e12
    tab = come(browser)
    tab.begin()
    first = load_state("app-state", AppState, remember=False)
    first.items.append("a")
    save_state("app-state", first)
    tab.begin()
    assert load_state("app-state", AppState, remember=False) is first
    save_state("app-state", AppState(items=["b"]))
    assert add(tab, remember=False) == ["b"]
    assert add(come(browser), remember=False) == []
    assert (records(store), store.writes, SCRIPTS in browser.values()) == ([], 0, False)


def test_a_no_in_the_first_run(come: Come, browser: Browser, store: CountingStore) -> None:
    """Record and script's cookie go; the tab goes on with what they held, and the next page finds nothing of it."""
    known(come, browser, "a")
    tab = browser.open()
    assert add(tab, remember=False) == ["a"]
    tab.end()
    assert records(store) == []
    assert list(browser.values()) == ([COOKIE] if come is Browser.load else [])
    assert add(tab, "b", remember=False) == ["a", "b"]
    assert add(come(browser)) == []


def test_a_no_before_the_answer(browser: Browser, store: CountingStore) -> None:
    """Behind a stripping proxy: the record that is found late goes, and its content comes to the tab."""
    known(Browser.open, browser, "a")
    browser.strips = True
    tab = browser.open()
    add(tab, remember=False)
    tab.end()
    tab.answer()
    assert (records(store), browser.values()) == ([], {})
    add(tab, "b", remember=False)
    assert sorted(add(tab, remember=False)) == ["a", "b"]
    tab.end()
    assert (records(store), browser.values()) == ([], {})


@pytest.mark.parametrize("by", ["block", "callback"])
def test_what_came_last_is_kept(come: Come, browser: Browser, by: str) -> None:
    """By another tab that this one has not heard of, and by the callback of the very click that says no."""
    tab = known(come, browser, "a")
    tab.begin()
    mine = load_state("app-state", AppState)
    add(come(browser), "elsewhere")
    tab.go_on()
    if by == "callback":
        mine.items.append("clicked")
    kept = add(tab, remember=False)
    assert kept == ["a", "elsewhere", *(["clicked"] if by == "callback" else [])]


def test_a_no_clears_in_other_tabs(come: Come, browser: Browser, store: CountingStore) -> None:
    """A block that is open there brings nothing back; its tab starts fresh."""
    one, two = known(come, browser, "a"), come(browser)
    two.begin()
    with persistent_state("app-state", AppState) as state:
        state.items.append("late")
        add(one, remember=False)
        two.go_on()
    assert records(store) == []
    assert add(two) == []
    assert add(one, remember=False) == ["a"]


def test_an_error_takes_its_own_block(come: Come, browser: Browser, store: CountingStore) -> None:
    """What the tab held before stays, though no record has it; also in the run that removed the record."""
    tab = known(come, browser, "a")
    for expected in (["a"], ["a", "b"]):
        tab.begin()
        with suppress(LookupError), persistent_state("app-state", AppState, remember=False) as state:
            state.items.append("wrong")
            raise LookupError
        tab.end(failed=True)
        assert add(tab, remember=False) == expected
        add(tab, "b", remember=False)
    assert add(tab, remember=False) == ["a", "b", "b"]
    assert records(store) == []


def test_an_unpicklable_state_is_told(come: Come, browser: Browser, store: CountingStore) -> None:
    """A callback put it in as the visitor said no: told once, and then the record is removed."""
    tab = known(come, browser, "a")
    tab.begin()
    load_state("app-state", AppState).items.append(lambda: None)
    tab.begin()
    with pytest.raises(UnpicklableStateError):
        load_state("app-state", AppState, remember=False)
    assert add(tab, remember=False) == ["a"]
    assert records(store) == []


@pytest.mark.parametrize("user", [None, "alice"])
def test_a_removal_that_fails_is_repeated(
    come: Come, browser: Browser, store: CountingStore, monkeypatch: pytest.MonkeyPatch, user: str | None
) -> None:
    """The error is the app's; the next run removes the record, and nothing is lost."""

    def failing(*_: Any) -> None:
        raise StoreError("The disk is full.")

    tab = known(come, browser)
    add(tab, "a", user=user)
    with monkeypatch.context() as patch:
        patch.setattr(store, "delete", failing)
        tab.begin()
        with pytest.raises(StoreError):
            load_state("app-state", AppState, remember=False, user=user)
    assert add(tab, remember=False, user=user) == ["a"]
    assert store.names(user_key(user) if user else visitor_key(_id(browser))) == []


def _id(browser: Browser) -> str:
    values = browser.values()
    return next((values[name].partition(".")[0] for name in (COOKIE, SCRIPTS) if name in values), "0" * 32)


@pytest.mark.parametrize("remember", [1, 0, None, "no", [], lambda: True])
def test_a_yes_is_a_bool(browser: Browser, remember: Any) -> None:
    """Anything but True and False is a mistake, which must not set a cookie."""
    browser.open().begin()
    for call in (persistent_state, load_state):
        with pytest.raises(ConfigurationError, match="remember must be True or False"):
            call("app-state", AppState, remember=remember)


def test_an_exclusive_block_needs_no_record(browser: Browser, store: CountingStore) -> None:
    """There is nothing that another one could change."""
    tab = browser.open()
    add(tab, "a", remember=False, exclusive=True)
    assert add(tab, remember=False, exclusive=True) == ["a"]
    assert store.writes == 0


# --- yes again


@pytest.mark.parametrize("by", ["block", "hand"])
def test_a_first_yes_saves(come: Come, browser: Browser, store: CountingStore, by: str) -> None:
    """Once the browser is known; in the run that says so, or by its answer."""
    tab = come(browser)
    add(tab, "a", remember=False)
    if by == "hand":
        tab.begin()
        save_state("app-state", AppState(items=["a"]))
    assert add(tab) == ["a"]
    tab.end()
    tab.answer()
    assert records(store) == ["app-state"]
    assert add(come(browser)) == ["a"]


def test_back_and_forth(come: Come, browser: Browser, store: CountingStore) -> None:
    """However often the visitor changes their mind, the tab loses nothing, and the store has it just when it may."""
    tab = known(come, browser)
    kept: list[str] = []
    for number in range(6):
        remember = bool(number % 2)
        kept.append(str(number))
        assert add(tab, str(number), remember=remember) == kept
        tab.end()
        tab.answer()
        assert records(store) == ["app-state"] * remember
        assert bool(browser.values()) == (remember or come is Browser.load)
    assert add(come(browser)) == kept


def test_a_no_of_two_tabs(browser: Browser) -> None:
    """Each that held the state goes on with it; the yes of one saves its own, and that of the other joins it."""
    one, two = known(Browser.load, browser, "a"), browser.load()
    add(two)
    add(one, "one", remember=False)
    add(two, "two", remember=False)
    assert add(one) == ["a", "one"]
    assert add(two) == ["a", "one", "two"]
    two.end()
    assert add(one) == add(browser.load()) == ["a", "one", "two"]


def test_a_cookie_is_removed_once(browser: Browser) -> None:
    """Once another tab has said yes, and set one, the tab that said no leaves it alone."""
    tab = known(Browser.open, browser, "a")
    add(tab, remember=False)
    tab.end()
    assert browser.values() == {}
    known(Browser.open, browser, "b")
    cookie = browser.values()
    for _ in range(3):
        add(tab, remember=False)
        tab.end()
    assert browser.values() == cookie


# --- with a user


def test_a_users_no(browser: Browser, store: CountingStore) -> None:
    """Theirs goes for all devices, and so does what the browser had; the tab holds both, and a yes saves it."""
    add(Browser().open(), "user's", user="alice")
    tab = known(Browser.open, browser, "browser's")
    assert add(tab, remember=False, user="alice") == ["user's", "browser's"]
    tab.end()
    assert (records(store), browser.values()) == ([], {})
    assert add(Browser().open(), user="alice") == []
    assert add(tab, "more", remember=False, user="alice") == ["user's", "browser's", "more"]
    assert records(store) == []
    add(tab, user="alice")
    assert add(Browser().open(), user="alice") == ["user's", "browser's", "more"]


def test_what_a_no_left_comes_along(come: Come, browser: Browser, store: CountingStore) -> None:
    """At the login; after the logout the tab has nothing of it."""
    tab = known(come, browser, "a")
    add(tab, remember=False)
    assert add(tab, user="alice") == ["a"]
    assert add(tab, remember=False) == []
    assert add(Browser().open(), user="alice") == ["a"]


def test_a_login_after_anothers_yes(browser: Browser) -> None:
    """What another tab has saved since this one's no comes along at the login, too."""
    tab = known(Browser.load, browser, "a")
    add(tab, remember=False)
    known(Browser.load, browser, "elsewhere")
    assert sorted(add(tab, user="alice")) == ["a", "elsewhere"]
