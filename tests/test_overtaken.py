"""Tabs that stay open while a page load gives their browser another HttpOnly cookie: they go on with that one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from persist_session import clear_cookie_state, load_state, persistent_state, relay, state_info
from persist_session.signing import record_key
from support.records import CountingStore
from support.tabs import AppState, Browser, Tab, pretended

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "app-state"


@pytest.fixture
def store() -> CountingStore:
    """Return the store of all browsers."""
    return CountingStore()


@pytest.fixture
def browser(store: CountingStore) -> Iterator[Browser]:
    """Return a browser, for which nothing is saved yet."""
    with pretended(store) as made:
        yield made


def run(tab: Tab, *items: str, **changes: Any) -> AppState:
    """Return what a run of the tab got, after it changed that."""
    tab.begin()
    with persistent_state(NAME, AppState) as state:
        for name, value in changes.items():
            setattr(state, name, value)
        state.items.extend(items)
    return state


def look(tab: Tab) -> tuple[int, list[Any]]:
    """Return what a run of the tab sees."""
    tab.begin()
    state = load_state(NAME, AppState)
    return state.count, list(state.items)


def clear(tab: Tab) -> None:
    """Clear in a run of the tab."""
    tab.begin()
    clear_cookie_state(NAME)


def key(tab: Tab) -> str | None:
    """Return what names the record of what the tab loaded last."""
    tab.go_on()
    info = state_info(NAME)
    assert info is not None
    return info.record_key


def key_in(browser: Browser) -> str:
    """Return what names the record of the browser's only cookie."""
    (value,) = browser.values().values()
    return record_key(NAME, value[:32])


def keys_of(store: CountingStore) -> set[str]:
    """Return what names the records in the store."""
    return {key for _, key in store._records}


def cleared(browser: Browser) -> Tab:
    """Return a tab that had the server's cookie, and a state, and has cleared it."""
    tab = browser.load(NAME)
    run(tab, "before", count=1)
    clear(tab)
    assert look(tab) == (0, [])
    return tab


def test_the_tab_that_cleared_goes_on_with_the_next_page(browser: Browser, store: CountingStore) -> None:
    """Another tab is opened, which gets another id: what is done in the old one goes on there, and so does that tab."""
    tab = cleared(browser)
    old = key(tab)
    other = browser.load(NAME)
    run(other, "other")
    assert key(other) == key_in(browser) != old
    run(tab, "mine", count=5)
    assert tab.is_asking
    assert look(tab) == (5, ["other", "mine"])
    run(tab)
    assert not tab.is_asking
    assert key(tab) == key_in(browser)
    assert look(other) == look(browser.load(NAME)) == (5, ["other", "mine"])
    assert keys_of(store) == {key_in(browser)}


def test_a_tab_in_which_nobody_cleared_goes_on_with_the_next_page(browser: Browser, store: CountingStore) -> None:
    """What it showed is gone, since it was cleared; what is done in it from now on is done to the new state."""
    idle = browser.load(NAME)
    run(idle, "before")
    tab = browser.load(NAME)
    clear(tab)
    other = browser.load(NAME)
    run(other, "other")
    assert run(idle, "mine").items == ["mine"]
    assert look(idle) == (0, ["other", "mine"])
    run(idle, "again")
    assert look(other) == (0, ["other", "mine", "again"])
    assert keys_of(store) == {key_in(browser)}


def test_what_was_saved_in_that_very_moment_comes_along(browser: Browser, store: CountingStore) -> None:
    """The page load saw nothing under the old id; a save that came a moment later is not left behind there."""
    tab = cleared(browser)
    old = key(tab)
    other = browser.load(NAME)
    late = relay.replaced
    relay.replaced = relay.Notes()
    run(tab, "late", count=3)
    assert old in keys_of(store)
    relay.replaced = late
    run(other, "other")
    assert look(tab) == (3, ["late"])
    run(tab)
    assert look(tab) == look(other) == (3, ["other", "late"])
    assert keys_of(store) == {key_in(browser)}


def test_an_object_stays_the_same_on_its_way(browser: Browser) -> None:
    """A callback of a widget that was drawn before changes what is saved after."""
    tab = cleared(browser)
    browser.load(NAME)
    state = run(tab, "one")
    state.items.append("two")
    assert run(tab) is state
    state.items.append("three")
    assert run(tab) is state
    assert look(browser.load(NAME)) == (0, ["one", "two", "three"])


def test_an_answer_that_never_comes_loses_nothing(
    browser: Browser, store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tab goes on under the id that it knows, and asks again at every run until the server hears."""
    tab = cleared(browser)
    other = browser.load(NAME)
    run(other, "other")
    with monkeypatch.context() as patch:
        patch.setattr(Tab, "fetch", lambda *_: None)
        for number in range(3):
            run(tab, f"{number}")
            run(tab)
            assert look(tab) == (0, [f"{each}" for each in range(number + 1)])
    assert look(other) == (0, ["other"])
    for _ in range(3):
        run(tab)
    assert look(tab) == look(other) == (0, ["other", "0", "1", "2"])
    assert keys_of(store) == {key_in(browser)}


def test_clearing_clears_what_the_browser_has_by_now(browser: Browser, store: CountingStore) -> None:
    """Not only what the tab knew of; the next page load brings another id again."""
    tab = cleared(browser)
    other = browser.load(NAME)
    run(other, "other")
    before = key_in(browser)
    clear(tab)
    for _ in range(2):
        assert look(tab) == (0, [])
    assert look(other) == (0, [])
    assert before not in keys_of(store)
    browser.load(NAME)
    assert key_in(browser) != before


@pytest.mark.parametrize("options", [{"user": "ada"}, {"remember": False}])
def test_who_needs_no_cookie_asks_for_none(browser: Browser, options: dict[str, Any]) -> None:
    """A user's state, and one that is not remembered, lie nowhere under the browser's id."""
    tab = cleared(browser)
    browser.load(NAME)
    for count in (1, 2):
        tab.begin()
        with persistent_state(NAME, AppState, **options) as state:
            state.count += 1
            assert state.count == count
        assert not tab.is_asking


def test_nothing_is_asked_without_need(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on first visits nor after a clear, as long as no page load has replaced the cookie."""
    monkeypatch.setattr(Tab, "fetch", lambda *_: pytest.fail("asked"))
    tab = cleared(browser)
    run(tab, "one")
    other = browser.load(NAME)
    run(other, "two")
    assert look(tab) == (0, ["one", "two"])
    run(Browser().load(NAME))
