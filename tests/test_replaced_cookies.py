"""Cookies that are replaced, renewed or removed under open tabs: each goes on with what its browser has."""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import time_machine

from persist_session import (
    LockTimeoutError,
    binding,
    clear_cookie_state,
    load_state,
    persistent_state,
    relay,
    save_state,
    state_info,
)
from persist_session.errors import StoreError
from persist_session.signing import record_key
from support.records import CountingStore
from support.tabs import AppState, Browser, Tab, pretended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "app-state"


@pytest.fixture
def store() -> CountingStore:
    """Return the store of all browsers."""
    return CountingStore()


@pytest.fixture
def browser(store: CountingStore) -> Iterator[Browser]:
    """Return a browser, for which nothing is saved yet."""
    with pretended(store, lock_timeout=0.2) as made:
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
    """Return a tab that had the server's cookie, and a state, and has cleared it; the errand is still to come."""
    tab = browser.load(NAME)
    run(tab, "before", count=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tab, "fetch", lambda *_: None)
        clear(tab)
        assert look(tab) == (0, [])
    return tab


def lost(tab: Tab, *items: str) -> None:
    """Have a run of the tab in which no errand reaches the server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tab, "fetch", lambda *_: None)
        run(tab, *items)


@contextmanager
def sent_later() -> Iterator[list[str]]:
    """Collect errands that the browser does not go on yet."""
    errands: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tab, "fetch", lambda _, path: errands.append(path))
        yield errands


def unintroduced(key: str) -> None:
    """Have the page that replaced this id have come to a browser that was not known by then: no tab can follow it."""
    assert relay.replaced.get(key) is not None
    relay.replaced.put(key, relay.Heard(None))


# The tab that clears


def test_a_clear_brings_another_id_at_once(browser: Browser, store: CountingStore) -> None:
    """The browser fetches it in the run of the clear; from the next one on the fresh state lies under it."""
    tab = browser.load(NAME)
    run(tab, "before")
    old = key_in(browser)
    clear(tab)
    assert key_in(browser) != old
    state = run(tab)
    assert state.items == []
    assert keys_of(store) == {key_in(browser)} == {key(tab)}
    state.items.append("by a callback")
    assert run(tab) is state
    assert look(browser.load(NAME)) == (0, ["by a callback"])
    assert not tab.is_asking


def test_what_the_factory_draws_after_a_clear_is_kept(browser: Browser) -> None:
    """As on a first visit."""

    def go(tab: Tab) -> list[Any]:
        tab.begin()
        with persistent_state(NAME, lambda: AppState(items=[uuid.uuid4()])) as state:
            return list(state.items)

    tab = browser.load(NAME)
    before = go(tab)
    clear(tab)
    drawn = go(tab)
    assert before != drawn == go(tab) == go(browser.load(NAME))


def test_a_run_that_clears_and_goes_on_loses_nothing(browser: Browser, store: CountingStore) -> None:
    """The browser has its new id long before the run ends, which saves under that one then."""
    tab = browser.load(NAME)
    run(tab, "before")
    tab.begin()
    clear_cookie_state(NAME)
    with persistent_state(NAME, AppState) as state:
        state.items.append("after")
    assert keys_of(store) == {key_in(browser)}
    assert look(browser.load(NAME)) == (0, ["after"])


def test_a_save_by_hand_after_a_clear_is_a_save(browser: Browser, store: CountingStore) -> None:
    """Even of what is as the factory made it; the id that it lies under stays, then."""
    tab = cleared(browser)
    tab.begin()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tab, "fetch", lambda *_: None)
        save_state(NAME, load_state(NAME, AppState))
    assert keys_of(store) == {key_in(browser)}
    for _ in range(2):
        assert look(tab) == look(browser.load(NAME)) == (0, [])


def test_what_was_saved_after_a_clear_keeps_its_id(browser: Browser, store: CountingStore) -> None:
    """Where it was faster than the errand: neither that nor a page load leaves it behind."""
    tab = cleared(browser)
    old = key_in(browser)
    lost(tab, "after")
    run(tab)
    assert look(browser.load(NAME)) == look(tab) == (0, ["after"])
    assert keys_of(store) == {key_in(browser)} == {old}


def test_an_errand_that_comes_back_within_a_block_counts_for_it(browser: Browser, store: CountingStore) -> None:
    """The browser had its new id before the block ended: what that saves lies under it, though no run comes after."""
    tab = cleared(browser)
    with sent_later() as errands:
        tab.begin()
        with persistent_state(NAME, AppState) as state:
            state.items.append("after")
            browser.fetch(errands[-1])
    assert keys_of(store) == {key_in(browser)}
    assert look(browser.load(NAME)) == (0, ["after"])


def test_an_errand_is_sent_once_a_run_and_anew_for_another_reason(browser: Browser) -> None:
    """An element that the page has already is not loaded again: what it was sent for before is no answer now."""
    with time_machine.travel(time.time(), tick=False) as clock, sent_later() as errands:
        tab = browser.load(NAME)
        run(tab)
        clock.shift(600)
        for _ in range(2):
            run(tab)
            look(tab)
        tab.begin()
        for _ in range(3):
            load_state(NAME, AppState)
        assert len(errands) == 5
        assert len(set(errands)) == 1
        clock.shift(10)
        run(tab)
        assert errands[-1] != errands[0]
        clear(tab)
        assert len(set(errands)) == 3


def test_an_errand_that_is_lost_is_sent_again(browser: Browser) -> None:
    """Until the server has heard of it."""
    tab = cleared(browser)
    old = key_in(browser)
    lost(tab)
    assert key_in(browser) == old
    run(tab)
    assert key_in(browser) != old


# A tab that stays open


def test_the_tab_that_cleared_goes_on_with_the_next_page(browser: Browser, store: CountingStore) -> None:
    """A page that is loaded before the errand brings another id: what is done in the old tab goes on there."""
    tab = cleared(browser)
    old = key(tab)
    other = browser.load(NAME)
    run(other, "other")
    assert key(other) == key_in(browser) != old
    lost(tab, "mine")
    run(tab, count=5)
    run(tab)
    assert look(tab) == look(other) == look(browser.load(NAME)) == (5, ["other", "mine"])
    assert keys_of(store) == {key_in(browser)}
    assert not tab.is_asking


@pytest.mark.parametrize("by", ["errand", "page"])
def test_a_tab_in_which_nobody_cleared_goes_on_with_the_new_one(
    browser: Browser, store: CountingStore, by: str
) -> None:
    """What it showed is gone, since it was cleared; what is done in it from now on is done to the new state."""
    idle = browser.load(NAME)
    run(idle, "before")
    tab = browser.load(NAME)
    if by == "errand":
        clear(tab)
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tab, "fetch", lambda *_: None)
            clear(tab)
    other = browser.load(NAME)
    run(other, "other")
    assert run(idle, "mine").items == ["other", "mine"]
    assert not idle.is_asking, "an answer would start a run, which may interrupt a click's"
    assert look(browser.load(NAME)) == look(idle) == (0, ["other", "mine"])
    run(idle, "again")
    assert look(other) == (0, ["other", "mine", "again"])
    assert keys_of(store) == {key_in(browser)}


def test_a_clear_where_another_tab_has_cleared_clears_at_once(browser: Browser) -> None:
    """Not what is saved later, though the tab comes back to the state only then."""
    idle = browser.load(NAME)
    run(idle, "before")
    tab = browser.load(NAME)
    clear(tab)
    run(tab, "more")
    clear(idle)
    assert look(tab) == (0, [])
    idle.begin()  # a page without the state
    run(tab, "later")
    assert look(idle) == look(tab) == look(browser.load(NAME)) == (0, ["later"])


def test_such_a_clear_is_made_up_for_where_the_store_failed(browser: Browser, store: CountingStore) -> None:
    """By the next load; it raises nothing, since the tab has nothing of the state any more."""
    idle = browser.load(NAME)
    run(idle, "before")
    tab = browser.load(NAME)
    clear(tab)
    run(tab, "more")
    with pytest.MonkeyPatch.context() as patch:

        def fail_later(name: str, key: str) -> None:
            if key == key_in(browser):
                raise StoreError("Out of order.")

        patch.setattr(store, "delete", fail_later)
        clear(idle)
    assert look(idle) == look(tab) == (0, [])


def test_a_tab_whose_cookies_were_deleted_since_another_one_cleared_asks_once(browser: Browser) -> None:
    """The hidden request says that the browser is not known, the component that it has no cookie."""
    idle = browser.load(NAME)
    run(idle, "before")
    tab = browser.load(NAME)
    clear(tab)
    run(tab)
    browser.cookies.clear()
    browser.http_only.clear()
    run(idle)
    assert idle.is_asking
    run(idle, "mine")
    assert not idle.is_asking
    assert look(idle) == (0, ["mine"])


def test_what_was_saved_in_that_very_moment_comes_along(browser: Browser, store: CountingStore) -> None:
    """The page load saw nothing under the old id; a save that came a moment later is not left behind there."""
    tab = cleared(browser)
    old = key(tab)
    other = browser.load(NAME)
    run(other, "other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay, "replaced", relay.Notes())
        lost(tab, "late")
        assert old in keys_of(store)
    for _ in range(3):
        run(tab)
    assert look(tab) == look(other) == (0, ["other", "late"])
    assert keys_of(store) == {key_in(browser)}


def test_what_is_saved_while_a_page_is_loaded_is_on_it(browser: Browser, store: CountingStore) -> None:
    """A visitor who clears and reloads at once: the run that goes on meanwhile saves where the new page looks."""
    tab = cleared(browser)
    tab.begin()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tab, "fetch", lambda *_: None)
        with persistent_state(NAME, AppState) as state:
            state.items.append("after")
            page = browser.load(NAME)
    assert look(page) == (0, ["after"])
    assert keys_of(store) == {key_in(browser)}


def thief_of(browser: Browser, *, knows_browser: bool = True) -> Tab:
    """Return a tab of somebody who has copied a visitor's cookies."""
    thief = Browser()
    thief.load(NAME)
    copied = {name: found for name, found in browser.cookies.items() if knows_browser or name != relay.BROWSER}
    thief.cookies |= copied
    return thief.open()


@pytest.mark.parametrize("is_answered", [False, True])
@pytest.mark.parametrize("knows_browser", [False, True])
def test_nobody_follows_who_has_copied_cookies(browser: Browser, *, knows_browser: bool, is_answered: bool) -> None:
    """Who has a tab open with them is out as soon as the visitor has cleared and the browser has heard of it."""
    tab = browser.load(NAME)
    run(tab, "before")
    theirs = thief_of(browser, knows_browser=knows_browser)
    assert look(theirs) == (0, ["before"])
    for when in ("after", "later"):
        with sent_later() if not is_answered else nullcontext():
            clear(tab)
            if is_answered:
                run(tab)
        tab = browser.load(NAME)
        run(tab, when)
        for number in range(4):
            with sent_later() if number < 2 else nullcontext():
                assert when not in run(theirs, f"{number}").items
    assert look(tab) == look(browser.load(NAME)) == (0, ["later"])


@pytest.mark.parametrize(
    ("cleared_at", "knows_browser"),
    [(-6.0, True), (-1.0, False), (1.0, True), (100.0, True)],
)
def test_nobody_follows_who_clears_with_copied_cookies(
    browser: Browser, cleared_at: float, *, knows_browser: bool
) -> None:
    """Some seconds before the visitor loads a page, or after that."""
    with time_machine.travel(time.time(), tick=False) as clock, sent_later():
        page = browser.load(NAME)
        run(page, "before")
        theirs = thief_of(browser, knows_browser=knows_browser)
        assert look(theirs) == (0, ["before"])
        for at in sorted((0.0, cleared_at)):
            if at == cleared_at:
                for _ in range(6):
                    assert "after" not in run(theirs).items
                clear(theirs)
            else:
                clear(page)
                page = browser.load(NAME)
                run(page, "after")
            clock.shift(abs(cleared_at))
        for _ in range(3):
            assert "after" not in run(theirs).items
        assert look(page) == (0, ["after"])


def test_an_answer_that_never_comes_loses_nothing(browser: Browser, store: CountingStore) -> None:
    """The tab goes on under the id that it knows, and asks again at every run until the server hears."""
    tab = cleared(browser)
    old = key_in(browser)
    other = browser.load(NAME)
    unintroduced(old)
    run(other, "other")
    for number in range(4):
        lost(tab, f"{number}")
    assert look(other) == (0, ["other"])
    for _ in range(3):
        run(tab)
    assert look(tab) == look(other) == (0, ["other", "0", "1", "2", "3"])
    assert keys_of(store) == {key_in(browser)}


@pytest.mark.parametrize("is_late", [False, True])
def test_clearing_clears_what_the_browser_has_by_now(browser: Browser, store: CountingStore, *, is_late: bool) -> None:
    """Not only what the tab knew of; that, too, where it was saved as late as in the moment of the page load."""
    tab = cleared(browser)
    other = browser.load(NAME)
    run(other, "other")
    before = key_in(browser)
    if is_late:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relay, "replaced", relay.Notes())
            lost(tab, "late")
    clear(tab)
    for _ in range(2):
        assert look(tab) == (0, [])
    assert look(other) == (0, [])
    assert before not in keys_of(store)
    browser.load(NAME)
    assert key_in(browser) != before
    assert keys_of(store) <= {key_in(browser)}


def test_what_an_errand_told_may_be_outdated_by_then(browser: Browser, store: CountingStore) -> None:
    """Another tab cleared meanwhile what the browser had when it went."""
    tab = cleared(browser)
    other = browser.load(NAME)
    run(other, "other")
    with sent_later() as errands:
        run(tab)
    browser.fetch(errands[-1])
    clear(other)
    for _ in range(3):
        run(tab)
    run(tab, "mine")
    assert look(other) == look(browser.load(NAME)) == (0, ["mine"])
    assert keys_of(store) == {key_in(browser)}


def test_an_open_tab_whose_cookie_a_page_removed_gets_another_one(browser: Browser, store: CountingStore) -> None:
    """Where its script says that the visitor is to be remembered: it does not save where nobody finds it."""
    answers = [True, False, True, True, True]
    tab = browser.load(NAME, remember=lambda _: answers.pop(0))
    run(tab, "before")
    browser.fetch("/")
    assert browser.values() == {}
    for _ in range(3):
        run(tab)
    run(tab, "after")
    assert keys_of(store) == {key_in(browser)}
    assert look(browser.open()) == look(tab) == (0, ["after"])


@pytest.mark.parametrize("options", [{"user": "ada"}, {"remember": False}])
def test_login_and_a_no_are_for_what_the_browser_has_by_now(
    browser: Browser, store: CountingStore, options: dict[str, Any]
) -> None:
    """What another tab did under the new id is taken over, or kept in the tab only; then nothing is asked any more."""
    tab = browser.load(NAME)
    run(tab, "before")
    other = browser.load(NAME)
    clear(other)
    run(other, "other")
    anonymous = key_in(browser)

    def go() -> list[Any]:
        tab.begin()
        with persistent_state(NAME, AppState, **options) as state:
            pass
        return list(state.items)

    for _ in range(3):
        go()
    assert go() == ["other"]
    assert anonymous not in keys_of(store)
    assert not tab.is_asking


def test_no_errand_is_sent_without_need(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on first visits nor on later ones; after a clear as long as it takes."""
    tab = browser.load(NAME)
    run(tab, "before")
    clear(tab)
    run(tab)
    monkeypatch.setattr(Tab, "fetch", lambda *_: pytest.fail("sent"))
    run(tab, "one")
    other = browser.load(NAME)
    run(other, "two")
    assert look(tab) == (0, ["one", "two"])


def test_no_script_sets_a_cookie_that_the_middleware_refuses(
    browser: Browser, store: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Though a block says that the visitor is to be remembered: the state stays in the tab, and the log says why."""
    binding._warn_of_refusal.cache_clear()
    tab = browser.load(NAME, remember=lambda _: False)
    for item in "abc":
        run(tab, item)
    assert look(tab) == (0, ["a", "b", "c"])
    assert not tab.is_asking
    assert (browser.values(), keys_of(store)) == ({}, set())
    assert ["says no" in record.getMessage() for record in caplog.records] == [True]


# Answers that are lost, late or out of turn


def unanswered(browser: Browser, path: str) -> None:
    """Have the server serve a request whose answer never comes, or comes before an older one."""
    before = dict(browser.cookies), set(browser.http_only)
    browser.fetch(path)
    browser.cookies, browser.http_only = before


def test_two_clears_at_once_come_to_one_id(browser: Browser) -> None:
    """Each of a double click sends the browser; it keeps the answer that comes last, and the tab finds out which."""
    tab = browser.load(NAME)
    run(tab, "before")
    with sent_later() as errands:
        clear(tab)
        clear(tab)
    unanswered(browser, errands[1])
    browser.fetch(errands[0])
    for _ in range(3):
        run(tab)
    run(tab, "mine")
    assert look(browser.load(NAME)) == (0, ["mine"])


def test_an_errand_and_a_page_at_once_come_to_one_id(browser: Browser) -> None:
    """Both were asked for with the old cookie."""
    tab = cleared(browser)
    with sent_later() as errands:
        run(tab)
    unanswered(browser, errands[-1])
    other = browser.load(NAME)
    run(other, "other")
    for _ in range(3):
        run(tab)
    run(tab, "mine")
    assert look(browser.load(NAME)) == (0, ["other", "mine"])


def test_an_answer_that_is_lost_loses_nothing(browser: Browser) -> None:
    """The tab heard of an id that the browser never got."""
    tab = browser.load(NAME)
    run(tab, "before")
    with sent_later() as errands:
        clear(tab)
        unanswered(browser, errands[-1])
        run(tab, "after")
    run(tab)
    assert look(browser.load(NAME)) == (0, ["after"])


def rests(tab: Tab, browser: Browser, loads: int = 1, *, is_heard: bool = True) -> bool:
    """Whether a tab whose answers come between its runs has nothing more to ask after a while."""
    for _ in range(20):
        with sent_later() as errands:
            run(tab)
            for _ in range(loads - 1):
                load_state(NAME, AppState)
        for errand in dict.fromkeys(errands) if is_heard else ():
            browser.fetch(errand)
        if not tab.is_asking:
            return True
    return False


def test_a_no_whose_answer_is_lost_starts_no_endless_runs(browser: Browser) -> None:
    """The browser has its cookie still when the visitor says yes again."""
    answers = [True, False]
    tab = browser.load(NAME, remember=lambda _: not answers or answers.pop(0))
    run(tab, "a")
    unanswered(browser, "/")
    assert rests(tab, browser)
    assert rests(browser.load(NAME), browser)


def test_loading_twice_starts_no_endless_runs(browser: Browser) -> None:
    """Where no errand is ever heard of."""
    tab = cleared(browser)
    run(browser.load(NAME), "other")
    assert rests(tab, browser, loads=2, is_heard=False)


@pytest.mark.parametrize("is_failing", [True, False])
def test_what_moves_to_the_new_id_is_saved_there(browser: Browser, store: CountingStore, *, is_failing: bool) -> None:
    """At once, and not before the new id is known: whatever the app does with it then."""
    tab = cleared(browser)
    old = key_in(browser)
    run(browser.load(NAME), "other")
    unintroduced(old)
    for number in range(3):
        lost(tab, f"{number}")
        assert len(keys_of(store)) == 2
    for _ in range(4):
        tab.begin()
        if is_failing:
            with pytest.raises(LookupError), persistent_state(NAME, AppState):
                raise LookupError
        else:
            load_state(NAME, AppState)
    assert look(browser.load(NAME)) == (0, ["other", "0", "1", "2"])


@pytest.mark.parametrize("is_connected_anew", [False, True])
@pytest.mark.parametrize("is_cleared", [False, True])
def test_a_tab_that_somebody_left_open_stays_out_of_the_next_visitors_state(
    browser: Browser, *, is_cleared: bool, is_connected_anew: bool
) -> None:
    """They deleted the cookies of the browser; the tab's errand, to renew its own, finds the one of somebody else."""
    with time_machine.travel(time.time(), tick=False) as clock:
        left_open = cleared(browser) if is_cleared else browser.load(NAME)
        lost(left_open, "first visitor's")
        browser.cookies.clear()
        browser.http_only.clear()
        clock.shift(600)
        second = browser.load(NAME)
        run(second, "second visitor's")
        if is_connected_anew:
            left_open.reconnect()
        for _ in range(3):
            run(left_open)
        assert look(second) == (0, ["second visitor's"])


def test_a_tab_of_a_browser_that_was_not_known_stays_out_too(browser: Browser) -> None:
    """Such a tab was open before the server introduced browsers; another visitor's cookies are no introduction."""
    with time_machine.travel(time.time(), tick=False) as clock:
        browser.load(NAME)
        del browser.cookies[relay.BROWSER]
        left_open = browser.open()
        run(left_open, "first visitor's")
        browser.cookies.clear()
        browser.http_only.clear()
        clock.shift(600)
        second = browser.load(NAME)
        run(second, "second visitor's")
        left_open.reconnect()
        for _ in range(3):
            run(left_open)
            clock.shift(6)
        with sent_later() as errands:
            run(left_open)
        assert errands == [], "nothing can come of one"
        assert look(second) == (0, ["second visitor's"])


@pytest.mark.parametrize("is_served", [True, False])
def test_a_cookie_that_is_gone_is_not_renewed_at_every_run(browser: Browser, *, is_served: bool) -> None:
    """Nor is anything asked of a server that has no middleware for the name any more."""
    with time_machine.travel(time.time(), tick=False) as clock:
        tab = browser.load(NAME)
        run(tab, "a")
        clock.shift(600)
        browser.cookies.clear()
        browser.http_only.clear()
        if not is_served:
            relay.served.clear()
        count, fetch = 0, Tab.fetch

        def counted(self: Tab, path: str) -> None:
            nonlocal count
            count += 1
            fetch(self, path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tab, "fetch", counted)
            for _ in range(10):
                run(tab)
                clock.shift(6)
        assert count == is_served


@pytest.mark.parametrize("come", [Browser.open, lambda browser: browser.load(NAME)], ids=["component", "middleware"])
def test_clearing_what_is_not_remembered_clears_nothing_later(browser: Browser, come: Callable[[Browser], Tab]) -> None:
    """What another tab saved since stays, though this one is remembered again."""
    tab = come(browser)

    def forget() -> None:
        with persistent_state(NAME, AppState, remember=False):
            pass

    for _ in range(2):
        run(tab, "a")
    for _ in range(2):
        tab.begin()
        forget()
    clear(tab)
    forget()
    other = come(browser)
    run(other, "book")
    run(other, "pen")
    for _ in range(3):
        run(tab)
    assert look(come(browser)) == (0, ["book", "pen"])


def test_what_was_cleared_is_not_shown_where_the_errand_comes_late(browser: Browser) -> None:
    """It is heard of in the middle of an entry: the record is deleted before anything is loaded."""
    run(browser.load(NAME), "secret")
    tab = browser.load(NAME)
    object.__setattr__(tab, "_headers", ())
    with sent_later() as errands, pytest.MonkeyPatch.context() as patch:
        run(tab)
        clear(tab)
        mount = Tab.mount

        def late(self: Tab, **arguments: Any) -> Any:
            for errand in set(errands):
                browser.fetch(errand)
            return mount(self, **arguments)

        patch.setattr(Tab, "mount", late)
        assert run(tab).items == []


def test_an_exclusive_block_locks_the_record_that_it_comes_to(browser: Browser) -> None:
    """Not that of the id before: no increment is lost in the run that moves."""
    tab = browser.load(NAME)
    run(tab, count=5)
    with sent_later() as errands:
        clear(tab)
        look(tab)
    browser.fetch(errands[-1])
    other = browser.load(NAME)
    refused: list[LockTimeoutError] = []

    def increment() -> None:
        other.begin()
        try:
            with persistent_state(NAME, AppState, exclusive=True) as theirs:
                theirs.count += 1
        except LockTimeoutError as error:
            refused.append(error)

    tab.begin()
    with persistent_state(NAME, AppState, exclusive=True) as state:
        count = state.count
        thread = threading.Thread(target=increment)
        thread.start()
        thread.join()
        state.count = count + 1
    assert len(refused) == 1
    assert look(browser.load(NAME))[0] == 1


# An open tab, and its cookie's age


@pytest.mark.parametrize("come", [Browser.open, lambda browser: browser.load(NAME)], ids=["component", "middleware"])
def test_a_cookie_is_renewed_while_its_tab_stays_open(browser: Browser, come: Callable[[Browser], Tab]) -> None:
    """For longer than `max_age`, without any page load."""
    with time_machine.travel(time.time(), tick=False) as clock:
        tab = come(browser)
        run(tab)
        for number in range(4):
            run(tab, f"{number}")
            clock.shift(400)
        assert look(come(browser)) == (0, ["0", "1", "2", "3"])


# A script's cookie that became HttpOnly meanwhile


def promoted(browser: Browser) -> tuple[Tab, Tab]:
    """Return a tab whose script has set the cookie, and a later one whose page has made it HttpOnly."""
    is_agreed = False
    first = browser.load(NAME, remember=lambda _: is_agreed)
    tab = first
    tab.begin()
    with persistent_state(NAME, AppState, remember=False):
        pass
    is_agreed = True
    for _ in range(2):
        run(tab)
    run(tab, "book")
    assert look(browser.load(NAME, remember=lambda _: is_agreed))[1] == ["book"]
    other = browser.load(NAME, remember=lambda _: is_agreed)
    assert look(other)[1] == ["book"]
    assert browser.seen_by_scripts() == {}
    return tab, other


def test_a_clear_elsewhere_reaches_the_tab_whose_script_set_the_cookie(browser: Browser) -> None:
    """It does not set another one of its own, which would hide what is saved since."""
    tab, other = promoted(browser)
    clear(other)
    run(other, "new")
    for _ in range(3):
        run(tab)
    assert look(tab) == look(other) == look(browser.load(NAME)) == (0, ["new"])


def test_a_login_there_replaces_the_id(browser: Browser) -> None:
    """As any login does."""
    tab, _ = promoted(browser)
    old = key_in(browser)
    tab.begin()
    load_state(NAME, AppState, user="ada")
    browser.load(NAME)
    assert key_in(browser) != old


def test_its_script_does_not_set_it_again(browser: Browser) -> None:
    """Back from a page without the state, where its element was gone."""
    tab, _ = promoted(browser)
    tab.begin()
    run(tab)
    assert browser.seen_by_scripts() == {}


def test_a_longer_max_age_of_one_state_survives_the_move_to_the_server(browser: Browser) -> None:
    """The setting is shorter: what a script's cookie says is for the state to judge, and so is its record."""
    with time_machine.travel(time.time(), tick=False) as clock:
        tab = browser.open()

        def go(tab: Tab, *items: str) -> list[Any]:
            tab.begin()
            with persistent_state(NAME, AppState, max_age=5000) as state:
                state.items.extend(items)
            return state.items

        go(tab)
        go(tab, "book")
        clock.shift(2000)
        assert go(browser.load(NAME)) == go(browser.load(NAME)) == ["book"]
        assert browser.seen_by_scripts() == {}


@pytest.mark.parametrize("runs", [1, 3], ids=["at once", "later than the browser's answer"])
def test_one_connection_without_cookies_hides_nothing(browser: Browser, store: CountingStore, runs: int) -> None:
    """The server is asked before a script sets a cookie of its own, which would count from then on."""
    with time_machine.travel(time.time(), tick=False) as clock:
        run(browser.load(NAME), "book")
        clock.shift(10)
        tab = browser.load(NAME)
        object.__setattr__(tab, "_headers", ())
        with sent_later() as errands:
            for _ in range(runs):
                run(tab)
        for errand in errands[:1]:
            browser.fetch(errand)
        assert run(tab).items == ["book"]
        run(tab, "pen")
        clock.shift(10)
        assert look(browser.load(NAME)) == (0, ["book", "pen"])
    assert browser.seen_by_scripts() == {}
    assert keys_of(store) == {key_in(browser)}


# A script's cookie beside the server's, of which nothing was heard in time


def impatient(browser: Browser) -> tuple[Tab, list[str]]:
    """Return a tab that never heard of the browser's cookie, so that a script set one, and the errands still to come.

    Under the server's lies "book", under the script's "pen".
    """
    run(browser.load(NAME), "book")
    tab = browser.load(NAME)
    object.__setattr__(tab, "_headers", ())
    with sent_later() as errands:
        for _ in range(6):
            run(tab)
        run(tab, "pen")
    assert len(browser.seen_by_scripts()) == 1
    return tab, errands


def expect_one(browser: Browser, store: CountingStore, *items: str) -> None:
    """Expect the server's cookie alone, and one record, of these items."""
    for _ in range(2):
        assert look(browser.load(NAME)) == (0, [*items])
    assert browser.seen_by_scripts() == {}
    assert keys_of(store) == {key_in(browser)}


def test_an_errand_that_comes_at_last_brings_the_states_together(browser: Browser, store: CountingStore) -> None:
    """The tab goes on under the server's id, with all that was done under either."""
    tab, errands = impatient(browser)
    browser.fetch(errands[-1])
    assert sorted(run(tab, "ink").items) == ["book", "ink", "pen"]
    expect_one(browser, store, "book", "pen", "ink")


def test_the_next_page_load_brings_the_states_together(browser: Browser, store: CountingStore) -> None:
    """Of a tab that was closed before."""
    impatient(browser)
    assert look(browser.load(NAME)) == (0, ["book", "pen"])
    expect_one(browser, store, "book", "pen")


def test_behind_the_proxy_still_the_next_page_load_does(browser: Browser, store: CountingStore) -> None:
    """Where the errand tells of the one, and the browser's answer of the other."""
    impatient(browser)
    tab = browser.load(NAME)
    object.__setattr__(tab, "_headers", ())
    for _ in range(3):
        run(tab)
    assert run(tab).items == ["book", "pen"]
    expect_one(browser, store, "book", "pen")


def test_two_tabs_bring_them_together_once(browser: Browser, store: CountingStore) -> None:
    """They may come in the same moment."""
    impatient(browser)
    one, two = browser.load(NAME), browser.load(NAME)
    set_aside, threads = CountingStore.set_aside, list[threading.Thread]()

    def interrupted(self: CountingStore, *args: Any, **options: Any) -> None:
        if not threads:
            threads.append(threading.Thread(target=run, args=[two]))
            threads[0].start()
            threads[0].join(0.05)  # it may wait for this one
        set_aside(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CountingStore, "set_aside", interrupted)
        run(one)
    threads[0].join()
    assert sorted(look(one)[1]) == sorted(look(two)[1]) == ["book", "pen"]
    expect_one(browser, store, "book", "pen")


def test_a_store_that_fails_meanwhile_loses_neither(browser: Browser, store: CountingStore) -> None:
    """What lies under the script's id goes only when it is under the server's."""
    impatient(browser)

    def refuse(*_: object, **__: object) -> None:
        raise StoreError("on purpose")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CountingStore, "write", refuse)
        with pytest.raises(StoreError):
            run(browser.load(NAME))
    expect_one(browser, store, "book", "pen")


@pytest.mark.parametrize("is_stripped", [False, True])
def test_a_clear_clears_both(browser: Browser, store: CountingStore, *, is_stripped: bool) -> None:
    """Before either was loaded, and before the browser was known."""
    impatient(browser)
    tab = browser.load(NAME)
    if is_stripped:
        object.__setattr__(tab, "_headers", ())
    clear(tab)
    for _ in range(3):
        assert look(tab) == (0, [])
    assert look(browser.load(NAME)) == (0, [])
    assert keys_of(store) <= {key_in(browser)}


def test_a_clear_that_knows_of_one_clears_the_other_too(browser: Browser, store: CountingStore) -> None:
    """As soon as that is heard of."""
    tab, _ = impatient(browser)
    with sent_later() as errands:
        clear(tab)
        look(tab)
    browser.fetch(errands[-1])
    for _ in range(3):
        assert look(tab) == (0, [])
    assert look(browser.load(NAME)) == (0, [])
    assert keys_of(store) <= {key_in(browser)}


@pytest.mark.parametrize("options", [{"user": "ada"}, {"remember": False}])
def test_a_login_and_a_no_are_for_both(browser: Browser, store: CountingStore, options: dict[str, Any]) -> None:
    """The user gets all of it; who is not to be remembered leaves nothing."""
    impatient(browser)
    tab = browser.load(NAME)
    tab.begin()
    with persistent_state(NAME, AppState, **options) as state:
        assert sorted(state.items) == ["book", "pen"]
    assert len(keys_of(store)) == ("user" in options)


def test_a_cookie_that_is_not_known_to_be_alone_is_looked_after(browser: Browser) -> None:
    """As long as nothing is heard; once it is, no errand is sent any more."""
    tab = browser.load(NAME)
    browser.cookies = {name: found for name, found in browser.cookies.items() if name == relay.BROWSER}
    browser.http_only.clear()
    object.__setattr__(tab, "_headers", ())
    with sent_later() as errands:
        for _ in range(6):
            run(tab)
        count = len(errands)
        run(tab)
        assert len(errands) == count + 1
    browser.fetch(errands[-1])
    with sent_later() as errands:
        run(tab, "pen")
        run(tab)
    assert errands == []
    assert look(browser.load(NAME)) == (0, ["pen"])


# An errand in another visitor's browser


@pytest.mark.parametrize("connection", ["without a page", "without its cookies", "with its cookies"])
def test_who_has_another_visitor_run_their_errand_learns_nothing(browser: Browser, connection: str) -> None:
    """The address of a hidden request can be handed on as a link or an image: it brings nobody into a foreign state."""
    tab = browser.load(NAME)
    run(tab, "diary")
    attacker = Browser()
    theirs = attacker.open() if connection == "without a page" else attacker.load(NAME)
    if connection == "without its cookies":
        object.__setattr__(theirs, "_headers", ())
    with sent_later() as errands:
        run(theirs, "bait")
        if connection == "with its cookies":
            clear(theirs)
        run(theirs)
    for errand in errands:
        browser.fetch(errand)
    assert errands
    for number in range(6):
        assert "diary" not in run(theirs, f"{number}").items
    clear(theirs)
    assert look(tab) == look(browser.load(NAME)) == (0, ["diary"])


def test_a_save_right_after_a_clear_waits_for_the_new_id(
    browser: Browser, store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app that writes in every run would else keep an id for ever that somebody may have copied."""
    monkeypatch.setattr("persist_session.errand._WAITED_FOR", 30.0)
    tab = browser.load(NAME)
    run(tab, "before")
    old = key_in(browser)
    tab.begin()
    with sent_later() as errands:
        clear_cookie_state(NAME)
        with persistent_state(NAME, AppState) as state:
            state.items.append("after")
            later = threading.Timer(0.2, browser.fetch, errands[-1:])
            later.start()
        later.join()
    assert keys_of(store) == {key_in(browser)} != {old}
    assert look(browser.load(NAME)) == (0, ["after"])


# What an element on the page sets or removes


@pytest.mark.parametrize("options", [{"user": "ada"}, {"remember": False}])
def test_a_cookie_is_removed_once(browser: Browser, options: dict[str, Any]) -> None:
    """A page without the state takes the element away; back from there, it does not remove what another tab set."""
    with time_machine.travel(time.time(), tick=False) as clock:
        tab = browser.open()
        run(tab)
        run(tab, "book")

        def leave(tab: Tab) -> None:
            tab.begin()
            with persistent_state(NAME, AppState, **options):
                pass

        leave(tab)
        assert browser.values() == {}
        clock.shift(60)
        other = browser.open()
        run(other)
        run(other, "pen")
        before = browser.values()
        tab.begin()
        leave(tab)
        assert browser.values() == before != {}


def test_a_pending_cookie_is_not_set_again_over_a_newer_one(browser: Browser) -> None:
    """The same of a cookie that no connection has shown yet, where another tab has cleared the state since."""
    tab = browser.open()
    run(tab)
    run(tab, "before")
    other = browser.open()
    clear(other)
    run(other, "new")
    newer = browser.values()
    tab.begin()  # a page without the state
    run(tab)
    assert browser.values() == newer
    run(tab)
    assert look(tab) == look(other) == (0, ["new"])


def test_a_first_cookie_and_the_one_after_a_clear_come_in_two_runs(browser: Browser) -> None:
    """Of two elements that come to a page at once and set one cookie, either may win: the second waits for a run."""
    tab = browser.open()
    run(tab)
    tab.begin()
    with persistent_state(NAME, AppState) as state:
        state.items.append("before")
    first = browser.values()
    assert first
    clear_cookie_state(NAME)
    with persistent_state(NAME, AppState) as state:
        state.items.append("after")
    assert browser.values() == first
    assert look(tab) == (0, ["after"])
    second = browser.values()
    assert second != first
    assert look(tab) == (0, ["after"])
    assert browser.values() == second
    assert look(browser.open()) == (0, ["after"])
