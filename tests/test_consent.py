"""Who does not want to be remembered: the state stays in the tab, and what was kept of it is gone."""

from __future__ import annotations

import itertools
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from persist_session import (
    ConfigurationError,
    StoreError,
    UnpicklableStateError,
    clear_cookie_state,
    load_state,
    persistent_state,
    relay,
    save_state,
    state_info,
)
from support.records import CountingStore
from support.tabs import AppState, Browser, Tab, pretended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "app-state"
ADA = "https://provider|ada"


@pytest.fixture
def store() -> CountingStore:
    """Return the store of all browsers."""
    return CountingStore()


@pytest.fixture
def browser(store: CountingStore) -> Iterator[Browser]:
    """Return a browser, for which nothing is saved yet."""
    with pretended(store) as made:
        yield made


@pytest.fixture(params=["component", "middleware"])
def come(request: pytest.FixtureRequest) -> Callable[[Browser], Tab]:
    """Return what opens a tab, the server setting the cookie with its page, or a script."""
    return Browser.open if request.param == "component" else lambda browser: browser.load(NAME)


def block(*, remember: bool = True, **options: Any) -> persistent_state[Any]:
    """Return a block of the state."""
    return persistent_state(NAME, AppState, remember=remember, **options)


def run(tab: Tab, *, remember: bool = True, user: str | None = None, items: Any = (), **changes: Any) -> Any:
    """Return what a run of the tab got, after it changed that."""
    tab.begin()
    with block(remember=remember, user=user) as state:
        for name, value in changes.items():
            setattr(state, name, value)
        state.items.extend(items)
    return state


def look(tab: Tab, *, remember: bool = True, user: str | None = None) -> tuple[int, list[Any]]:
    """Return what a run of the tab sees."""
    tab.begin()
    state = load_state(NAME, AppState, remember=remember, user=user)
    return state.count, list(state.items)


def remembered(browser: Browser, come: Callable[[Browser], Tab] = Browser.open, **changes: Any) -> Tab:
    """Return a tab, its page just loaded, of a visitor who has done this, and whose browser has its cookie."""
    tab = come(browser)
    run(tab)  # the browser answers in between
    run(tab, **changes)
    return come(browser)


def is_empty(store: CountingStore) -> bool:
    """Whether nothing is kept, nor kept aside."""
    return not store._records and not any(store._aside.values())


def test_the_state_of_a_visitor_who_is_not_remembered_stays_in_the_tab(browser: Browser, store: CountingStore) -> None:
    """Every run of the tab has it, the very object; no other tab does; no cookie is set and nothing is written."""
    browser.cookies["_xsrf"] = "2|a|b", time.time() + 1000
    tab = browser.open()
    first = run(tab, remember=False, items=["book"])
    assert not tab.is_asking
    assert run(tab, remember=False, count=1) is first
    assert look(tab, remember=False) == (1, ["book"])
    save_state(NAME, first)
    info = state_info(NAME)
    assert info is not None
    assert (info.cookie, info.record_key, info.size, info.saved_at) == ("none", None, None, None)
    assert look(browser.open(), remember=False) == (0, [])
    assert list(browser.cookies) == ["_xsrf"]
    assert (is_empty(store), store.writes) == (True, 0)


def test_saving_by_hand_keeps_another_object_in_the_tab(browser: Browser, store: CountingStore) -> None:
    """Nothing of it is written."""
    tab = browser.open()
    look(tab, remember=False)
    save_state(NAME, AppState(7))
    assert look(tab, remember=False) == (7, [])
    assert store.writes == 0


@pytest.mark.parametrize("entered", [True, False], ids=["block", "load_state"])
def test_record_and_cookie_of_before_are_removed(
    browser: Browser, store: CountingStore, come: Callable[[Browser], Tab], *, entered: bool
) -> None:
    """In the very first run; the tab goes on with what they held, and the next page load finds nothing of it."""
    tab = remembered(browser, come, count=2, items=["book"])
    old = {value[:32] for value in browser.values().values()}
    assert old
    assert (run(tab, remember=False).count if entered else look(tab, remember=False)[0]) == 2
    assert is_empty(store)
    assert browser.seen_by_scripts() == {}
    assert look(tab, remember=False) == (2, ["book"])
    again = come(browser)
    assert {value[:32] for value in browser.values().values()}.isdisjoint(old)
    assert look(again, remember=False) == look(again) == (0, [])


def test_what_another_tab_saved_last_is_kept_in_the_tab(browser: Browser, store: CountingStore) -> None:
    """The tab where the visitor says no may not have seen it yet."""
    tab = remembered(browser, items=["book"])
    run(tab)
    run(browser.open(), items=["pen"], count=5)
    assert look(tab, remember=False) == (5, ["book", "pen"])
    assert is_empty(store)


def test_what_a_callback_did_in_the_same_click_is_kept_in_the_tab(browser: Browser, store: CountingStore) -> None:
    """And joined with what another tab saved."""
    tab = remembered(browser)
    state = run(tab, items=["book"])
    run(browser.open(), count=5)
    tab.begin()
    state.items.append("pen")
    with block(remember=False) as mine:
        assert (mine.count, mine.items) == (5, ["book", "pen"])
    assert is_empty(store)


def test_another_tab_brings_nothing_back(browser: Browser, store: CountingStore) -> None:
    """A block that is open there saves nothing of what was there: it is gone, as after a clear."""
    tab = remembered(browser, items=["book"])
    late = browser.open()
    late.begin()
    with block() as state:
        state.items.append("late")
        assert look(tab, remember=False) == (0, ["book"])
        late.go_on()
    assert is_empty(store)
    assert look(late) == (0, [])


def test_remembering_again_saves_what_the_tab_holds(
    browser: Browser, store: CountingStore, come: Callable[[Browser], Tab]
) -> None:
    """A yes after a no: cookie and record are back, with all that was done meanwhile."""
    tab = remembered(browser, come, items=["book"])
    look(tab, remember=False)
    run(tab, remember=False, items=["pen"])
    assert is_empty(store)
    run(tab)
    run(tab)  # the browser answers in between
    assert look(come(browser)) == (0, ["book", "pen"])
    assert len(store._records) == 1


def test_a_first_yes_saves_what_the_tab_holds(browser: Browser, store: CountingStore) -> None:
    """Nothing was kept before; the first exit after the browser's answer saves."""
    tab = browser.open()
    run(tab, remember=False, items=["book"])
    run(tab)
    run(tab)
    assert browser.values()
    assert look(browser.open()) == (0, ["book"])


def test_saving_by_hand_before_the_yes_is_caught_up_with(browser: Browser) -> None:
    """What was saved into the tab only is saved as soon as it may be."""
    tab = browser.open()
    look(tab, remember=False)
    save_state(NAME, AppState(7))
    look(tab)
    look(tab)
    assert look(browser.open()) == (7, [])


def test_a_yes_joins_what_another_tab_has_saved_since(browser: Browser) -> None:
    """The browser may have a cookie by then: its values stay, and what the tab holds is added."""
    tab = remembered(browser, items=["book"])
    look(tab, remember=False)
    other = browser.open()
    run(other)
    run(other, items=["pen"], count=3)
    run(tab)
    run(tab)
    assert look(tab) == look(browser.open()) == (3, ["pen", "book"])


def test_a_yes_saves_what_a_no_of_another_tab_removed(browser: Browser) -> None:
    """Two tabs that said no one after the other hold the state each, though only one found it."""
    tab = remembered(browser, items=["book"])
    other = browser.open()
    for each in (tab, other):
        run(each)
    for each in (tab, other):
        assert look(each, remember=False) == (0, ["book"])
    run(other)
    run(other)
    assert look(browser.open()) == (0, ["book"])


def test_the_new_cookie_stays(browser: Browser) -> None:
    """Once a connection brought it, the tab sends nothing more, least of all the removal of before."""
    tab = remembered(browser, items=["book"])
    run(tab, remember=False)
    run(tab)
    run(tab)
    cookies = browser.values()
    tab.reconnect()
    for _ in range(2):
        run(tab)
        assert (browser.values(), len(cookies)) == (cookies, 1)


def test_back_and_forth(browser: Browser, store: CountingStore, come: Callable[[Browser], Tab]) -> None:
    """However often the visitor changes their mind, the tab loses nothing, and the store has it just when it may."""
    tab = come(browser)
    for number in range(4):
        run(tab)
        run(tab, items=[number])
        assert len(store._records) == 1
        run(tab, remember=False, items=[-number])
        assert is_empty(store)
        assert browser.seen_by_scripts() == {}
        tab.reconnect()
    assert look(tab, remember=False) == (0, [0, 0, 1, -1, 2, -2, 3, -3])
    run(tab)
    run(tab)
    assert look(come(browser)) == (0, [0, 0, 1, -1, 2, -2, 3, -3])


class Boom(Exception):  # noqa: N818 (it is what the app raises)
    """The app's own error."""


def fail(tab: Tab, *, remember: bool, user: str | None = None) -> None:
    """Have a run of the tab change the state, and raise."""
    tab.begin()
    with suppress(Boom), block(remember=remember, user=user) as state:
        state.items.append("broken")
        raise Boom


@pytest.mark.parametrize("user", [None, ADA])
def test_an_error_throws_away_its_own_block_only(browser: Browser, store: CountingStore, user: str | None) -> None:
    """What the tab held before it stays, though no record has it; also in the run that removed the record."""
    tab = browser.open()
    run(tab, user=user)
    run(tab, user=user, items=["book"])
    fail(tab, remember=False, user=user)
    assert is_empty(store)
    assert look(tab, remember=False, user=user) == (0, ["book"])
    run(tab, remember=False, user=user, items=["pen"])
    fail(tab, remember=False, user=user)
    assert look(tab, remember=False, user=user) == (0, ["book", "pen"])
    fail(tab, remember=True, user=user)
    run(tab, user=user)
    run(tab, user=user)
    assert look(browser.open(), user=user) == (0, ["book", "pen"])


def test_what_can_not_be_saved_is_told_before_anything_is_removed(browser: Browser, store: CountingStore) -> None:
    """A callback put it in as the visitor said no: the next run has the saved state, and removes that."""
    tab = remembered(browser)
    state = run(tab, items=["book"])
    tab.begin()
    state.items.append(lambda: None)
    with pytest.raises(UnpicklableStateError):
        load_state(NAME, AppState, remember=False)
    assert store._records
    assert look(tab, remember=False) == (0, ["book"])
    assert is_empty(store)


def test_a_store_that_fails_is_asked_again(
    browser: Browser, store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost by it: the next run has the state, and removes the record."""
    tab = remembered(browser, items=["book"])

    def refuse(*_: object) -> None:
        raise StoreError("on purpose")

    for method in ("read", "delete"):
        with monkeypatch.context() as patch:
            patch.setattr(CountingStore, method, refuse)
            tab.begin()
            with pytest.raises(StoreError, match="on purpose"):
                load_state(NAME, AppState, remember=False)
    assert look(tab, remember=False) == (0, ["book"])
    assert is_empty(store)


@pytest.mark.parametrize("remember", [True, False])
def test_a_no_that_the_middleware_hears_first_removes_the_record(
    browser: Browser, store: CountingStore, monkeypatch: pytest.MonkeyPatch, *, remember: bool
) -> None:
    """Cookie and record go with that page, and no others; a store that fails is asked again, and fails nobody's run."""
    other = remembered(Browser(), Browser.open, count=7)
    remembered(browser, lambda each: each.load(NAME), items=["book"])
    tab = browser.load(NAME, remember=lambda _: False)
    assert browser.values() == {}

    refused: list[object] = []

    def refuse(*_: object) -> None:
        refused.append(_)
        raise StoreError("on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(CountingStore, "delete", refuse)
        relay.unwanted(NAME).put("0" * 64, note=True)
        assert look(other) == (7, [])
    assert len(refused) <= 2, "it is asked once more, not for every record"
    assert len(store._records) == 2
    assert look(tab, remember=remember) == (0, [])
    assert len(store._records) == 1
    assert look(other) == (7, [])
    writes = store.writes
    assert look(other) == (7, [])
    assert (len(store._records), store.writes) == (1, writes)


@pytest.mark.usefixtures("browser")
def test_no_run_deletes_many_records_of_others(store: CountingStore) -> None:
    """A crowd that says no at once holds up nobody: each run that loads the state deletes some."""
    other = remembered(Browser(), Browser.open, count=7)
    crowd = [Browser() for _ in range(100)]
    for each in crowd:
        remembered(each, lambda each: each.load(NAME), items=["book"])
    for each in crowd:
        each.load(NAME, remember=lambda _: False)
    left = [len(store._records)]
    while left[-1] > 1:
        assert look(other) == (7, [])
        left.append(len(store._records))
    assert all(before - after <= 40 for before, after in itertools.pairwise(left))


@pytest.mark.parametrize("remember", [None, "no", 0, lambda: False])
def test_a_yes_that_is_not_one_is_refused(browser: Browser, remember: Any) -> None:
    """Anything but True and False is a mistake, which must not set a cookie."""
    for call in (persistent_state, load_state):
        with pytest.raises(ConfigurationError, match="remember must be True or False"):
            call(NAME, AppState, remember=remember)


def test_a_users_record_is_removed_too(browser: Browser, store: CountingStore) -> None:
    """And so is what their browser had from before; the tab holds both, and a yes saves it for the user."""
    run(Browser().open(), user=ADA, items=["pen"])
    tab = remembered(browser, items=["book"])
    assert look(tab, remember=False, user=ADA) == (0, ["pen", "book"])
    assert is_empty(store)
    assert browser.values() == {}
    info = state_info(NAME)
    assert info is not None
    assert (info.record_key, info.cookie, info.expires_at) == (None, "none", None)
    assert look(Browser().open(), user=ADA) == (0, [])
    run(tab, remember=False, user=ADA, items=["cup"])
    assert is_empty(store)
    run(tab, user=ADA)
    assert look(Browser().open(), user=ADA) == (0, ["pen", "book", "cup"])


@pytest.mark.parametrize("remember", [True, False])
def test_what_is_in_the_tab_only_is_brought_along_by_the_login(
    browser: Browser, store: CountingStore, *, remember: bool
) -> None:
    """Also what a record held before the visitor said no; after the logout the tab has nothing of it."""
    tab = remembered(browser, items=["book"])
    look(tab, remember=False)
    assert look(tab, remember=remember, user=ADA) == (0, ["book"])
    assert look(tab, remember=False) == (0, [])
    assert look(Browser().open(), user=ADA) == (0, ["book"] if remember else [])
    if not remember:
        assert is_empty(store)


def test_a_user_leaves_nothing_in_the_tab_for_the_next_one(browser: Browser) -> None:
    """Though it was in the tab only."""
    tab = browser.open()
    run(tab, remember=False, user=ADA, items=["book"])
    for user in ("bob", None):
        for remember in (False, True):
            assert look(tab, remember=remember, user=user) == (0, [])


@pytest.mark.parametrize("user", [None, ADA])
def test_clearing_empties_the_tab(browser: Browser, store: CountingStore, user: str | None) -> None:
    """And sets no cookie; it is safe to call twice."""
    browser.cookies["_xsrf"] = "2|a|b", time.time() + 1000
    tab = browser.open()
    run(tab, remember=False, user=user, items=["book"])
    for _ in range(2):
        clear_cookie_state(NAME)
    assert look(tab, remember=False, user=user) == (0, [])
    assert list(browser.cookies) == ["_xsrf"]
    assert is_empty(store)


def test_clearing_right_after_the_no_leaves_no_cookie(
    browser: Browser, store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a rerun came before the browser heard of the removal."""
    tab = remembered(browser, items=["book"])
    with monkeypatch.context() as patch:
        patch.setattr("persist_session.host.mount", lambda element: None)
        look(tab, remember=False)
        clear_cookie_state(NAME)
    assert browser.values()
    assert look(tab, remember=False) == (0, [])
    run(tab, remember=False)
    assert (browser.values(), is_empty(store)) == ({}, True)


def test_clearing_clears_what_the_browser_has_again(browser: Browser, store: CountingStore) -> None:
    """A tab that said no, and whose visitor said yes elsewhere since, clears what they have there."""
    tab = remembered(browser, lambda each: each.load(NAME), items=["book"])
    run(tab, remember=False)
    run(browser.load(NAME), items=["pen"])
    tab.reconnect()
    tab.begin()
    clear_cookie_state(NAME)
    assert look(tab) == look(browser.load(NAME)) == (0, [])


def test_clearing_before_the_browser_is_known_sets_no_cookie(browser: Browser, store: CountingStore) -> None:
    """Where a proxy hides it: the answer brings the old cookie, which goes with its record; none comes instead."""
    remembered(browser, items=["book"])
    tab = browser.open()
    object.__setattr__(tab, "_headers", ())
    run(tab, remember=False)
    assert tab.is_asking
    clear_cookie_state(NAME)
    for _ in range(3):
        assert look(tab, remember=False) == (0, [])
    assert (browser.values(), is_empty(store)) == ({}, True)


def test_a_proxy_may_hide_what_is_to_be_removed(browser: Browser, store: CountingStore) -> None:
    """Where the connection brought no cookie at all the browser is asked, and then left alone."""
    remembered(browser, items=["book"])
    tab = browser.open()
    object.__setattr__(tab, "_headers", ())
    run(tab, remember=False)
    assert tab.is_asking
    assert look(tab, remember=False) == (0, ["book"])
    run(tab, remember=False)
    run(tab, remember=False)
    assert not tab.is_asking
    assert (browser.values(), is_empty(store)) == ({}, True)


def test_an_exclusive_block_needs_no_record(browser: Browser, store: CountingStore) -> None:
    """There is nothing that another one could change."""
    tab = remembered(browser, count=1)
    for _ in range(2):
        tab.begin()
        with block(remember=False, exclusive=True) as state:
            state.count += 1
    assert look(tab, remember=False) == (3, [])
    assert is_empty(store)
