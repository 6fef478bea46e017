"""Who a tab's visitor is: found once, by the handshake, by the browser's answer, or drawn anew."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import time_machine

from persist_session import (
    StoreError,
    clear_cookie_state,
    host,
    load_state,
    persistent_state,
    state_info,
    tab,
)
from persist_session import settings as settings_module
from persist_session.browser import identity
from persist_session.browser.cookie import Cookie
from persist_session.keys import derive
from persist_session.records import visitor_key
from support.records import KEYS, CountingStore
from support.tabs import COOKIE, SCRIPTS, AppState, Browser, RerunError, Tab, pretended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from persist_session.keys import Keys

DAY = 24 * 3600.0
MONTHS = 100 * DAY
"""The `max_age` of the records of these tests, which travel in time."""


@pytest.fixture(autouse=True)
def unwarned() -> None:
    """Forget which warnings this process has given."""
    for warning in (identity._warn_of_stripped, identity._warn_of_refusal, tab._warn_of_other_app):
        warning.cache_clear()


@pytest.fixture
def store() -> CountingStore:
    """The store of all tabs."""
    return CountingStore()


@pytest.fixture
def browser(store: CountingStore) -> Iterator[Browser]:
    """A browser that nobody knows yet."""
    with pretended(store, max_age=MONTHS) as browser:
        yield browser


in_both_modes = pytest.mark.parametrize("come", [Browser.open, Browser.load], ids=["script", "middleware"])


def add(tab: Tab, item: str | None = None, name: str = "app-state", **options: Any) -> list[str]:
    """Run a script whose block appends an item, or only looks; return the items."""
    tab.begin()
    with persistent_state(name, AppState, **options) as state:
        if item:
            state.items.append(item)
    return list(state.items)


def settled(tab: Tab) -> Tab:
    """The tab, after its last run and the browser's answer."""
    tab.end()
    tab.answer()
    return tab


def visitor(browser: Browser, name: str = SCRIPTS) -> str:
    """The visitor id in a cookie."""
    return browser.values()[name].partition(".")[0]


def remembered(come: Callable[[Browser], Tab], browser: Browser, item: str = "a") -> Tab:
    """A tab that has saved an item."""
    tab = come(browser)
    add(tab)
    add(tab, item)
    return settled(tab)


def signed(visitor_id: str, path: str = "/", keys: Keys = KEYS) -> tuple[str, float]:
    """A cookie of this visitor, as a browser keeps it."""
    return Cookie(COOKIE, path, "lax", secure=False).sign(visitor_id, keys), 1e12


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings that were logged."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# --- the handshake


@in_both_modes
def test_a_reload_restores_in_one_run(come: Callable[[Browser], Tab], browser: Browser) -> None:
    """The first run has the state, and nothing is mounted: no question, no cookie."""
    remembered(come, browser)
    asked, cookies = browser.asked, browser.cookies.copy()
    tab = browser.open()
    assert add(tab) == ["a"]
    tab.end()
    assert not tab.is_asking
    assert (browser.asked, browser.cookies, tab._mounted) == (asked, cookies, set())
    assert state_info_of(tab).cookie == "seen"


class Drawn:
    """A state whose fresh ones differ."""

    def __init__(self) -> None:
        self.thread = time.perf_counter_ns()


def state_info_of(tab: Tab, name: str = "app-state") -> Any:
    """The facts about the tab's state."""
    tab.go_on()
    return state_info(name)


@in_both_modes
@pytest.mark.parametrize("loss", ["empty", "another's", "none", "forged"])
def test_a_tabs_visitor_never_changes(come: Callable[[Browser], Tab], browser: Browser, loss: str) -> None:
    """A later handshake that is empty, another visitor's, or none at all changes nothing, nor does a state cleared."""
    tab = remembered(come, browser)
    before = browser.cookies.copy()
    browser.cookies.clear()
    if loss == "none":
        tab.disconnect()
    else:
        if loss != "empty":
            browser.cookies[COOKIE] = signed("b" * 32) if loss == "another's" else ("forged", 1e12)
        tab.reconnect()
    assert add(tab, "b") == ["a", "b"]
    browser.cookies = before
    assert add(browser.open()) == ["a", "b"]


def test_another_tabs_cookie_is_left_alone(browser: Browser) -> None:
    """Two tabs of a first visit each set one; the tab that meets the other's sends its own no more."""
    one, two = browser.open(), browser.open()
    add(one, "one")
    add(two, "two")
    settled(one)
    browser.cookies.clear()  # as the browser answered, before either came
    settled(two)
    second = browser.values()[SCRIPTS]
    one.reconnect()
    assert add(one, "more") == ["one", "more"]
    settled(one)
    assert browser.values()[SCRIPTS] == second
    assert add(browser.open()) == ["two"]


def test_no_connection_is_no_first_visit(browser: Browser) -> None:
    """While there is none, nobody is asked, and nothing drawn; with the next one the cookie is found."""
    remembered(Browser.open, browser)
    tab = browser.open()
    tab.disconnect()
    assert add(tab) == []
    tab.end()
    assert not tab.is_asking
    tab.reconnect()
    assert add(tab) == ["a"]


@in_both_modes
def test_a_lost_tab_is_replaced(come: Callable[[Browser], Tab], browser: Browser) -> None:
    """Where Streamlit has forgotten the session, a new one goes on; what the old one still saves comes there."""
    old = remembered(come, browser)
    old.begin()
    with persistent_state("app-state", AppState) as state:
        state.items.append("late")
        old.disconnect()
        new = browser.open()
        assert add(new) == ["a"]
        old.go_on()
    assert add(new, "b") == ["a", "late", "b"]


# --- the question


def test_one_question_for_all_names(browser: Browser) -> None:
    """200 names, met in several runs: one question, one cookie."""
    tab = browser.open()
    tab.begin()
    for number in range(200):
        load_state(f"chat-{number}", AppState)
    for _ in range(3):
        add(tab, "a")
        add(tab, "b", name="late")
    settled(tab)
    assert browser.asked == 1
    assert list(browser.values()) == [SCRIPTS]


def test_a_run_without_names_asks(browser: Browser) -> None:
    """Whichever run comes next, it binds what the tab holds: here one interrupted the run before its end."""
    tab = browser.open()
    tab.begin()
    with persistent_state("app-state", AppState) as state:
        state.items.append("a")
        end = tab.begin_over()
        tab.end()
    end()
    settled(tab)
    assert add(browser.open()) == ["a"]


def test_a_valid_cookie_is_adopted(browser: Browser) -> None:
    """Behind a stripping proxy: nothing is set before the answer, and the id stays for ever."""
    remembered(Browser.open, browser)
    before = browser.cookies.copy()
    browser.strips = True
    for _ in range(3):
        tab = browser.open()
        add(tab)
        assert browser.cookies == before
        assert add(tab) == ["a"]
        settled(tab)
        assert browser.cookies == before


def known_only(browser: Browser) -> Tab:
    """A tab whose browser has a cookie, and no record."""
    tab = browser.open()
    add(tab)
    return tab


def test_a_rerun_is_no_visit(browser: Browser, store: CountingStore) -> None:
    """The run that shows an adopted state belongs to the page's load: a fresh state of another name is not written."""
    remembered(Browser.open, browser)
    browser.strips = True
    tab = browser.open()
    for names in (["app-state"], ["app-state"], ["app-state", "other"]):
        add(tab)
        look_at("other")
        settled(tab)
        assert sorted(store.names(visitor_key(visitor(browser)))) == names


def look_at(name: str) -> None:
    """Open another block, without a change, in the tab's run."""
    with persistent_state(name, AppState):
        pass


def test_an_adopted_state_is_shown(browser: Browser) -> None:
    """Only where the browser's answer brings a record does the script run again, once."""
    remembered(Browser.open, browser)
    browser.strips = True
    reruns = []
    with pytest.MonkeyPatch.context() as patch:

        def rerun(run: Tab) -> None:
            reruns.append(run.is_fragment)
            raise RerunError

        patch.setattr(host, "rerun", rerun)
        tab = browser.open()
        add(tab)
        settled(tab)
        assert reruns == [True]
        add(tab)
        settled(tab)
        stranger = Browser().open()
        add(stranger, "b")
        settled(stranger)
        fresh = Browser()
        settled(known_only(fresh))
        fresh.strips = True
        tab = fresh.open()
        add(tab)
        settled(tab)
    assert reruns == [True]


@pytest.mark.parametrize("answer", [{SCRIPTS: 1}, {SCRIPTS: "forged"}, {SCRIPTS: None}, {SCRIPTS: {"a": 1}}, {}])
def test_an_answer_without_a_valid_cookie(
    browser: Browser, answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new one is set; the component parses values as JSON, so anything may come."""
    monkeypatch.setattr(Browser, "seen_by_scripts", lambda _: answer)
    tab = browser.open()
    add(tab, "a")
    settled(tab)
    monkeypatch.undo()
    assert len(visitor(browser)) == 32


def test_no_answer_writes_nothing(browser: Browser, store: CountingStore) -> None:
    """Where no component runs: the tab keeps its state, and asks in every run."""
    tab = browser.open()
    for number in range(3):
        tab.end()
        object.__setattr__(tab, "_asked", None)
        assert len(add(tab, "a")) == number + 1
    assert (store.writes, browser.values(), browser.asked) == (0, {}, 2)


def test_without_asking(store: CountingStore) -> None:
    """Where handshakes are known to be intact, `ask_browser=False`: a first visit is one run, and is remembered."""
    with pretended(store, ask_browser=False) as browser:
        tab = browser.open()
        add(tab, "a")
        tab.end()
        assert (browser.asked, list(browser.values())) == (0, [SCRIPTS])
        assert add(browser.open()) == ["a"]


@pytest.mark.parametrize("ask_browser", [True, False])
@in_both_modes
def test_a_page_load_leaves_no_record(come: Callable[[Browser], Tab], store: CountingStore, ask_browser: bool) -> None:
    """Crawlers, health checks, and clients that only look; with a factory that draws something, too."""
    with pretended(store, ask_browser=ask_browser) as browser:
        for factory in (AppState, Drawn):
            tab = come(browser)
            for each in (tab, browser.open()):
                each.begin()
                load_state(factory.__name__, factory)
                with persistent_state(factory.__name__, factory):
                    pass
                settled(each)
        health = Browser().open()
        health.disconnect()
        add(health)
        settled(health)
    assert store.writes == 0
    assert not store._records


@in_both_modes
def test_a_drawn_thread_id_is_kept(come: Callable[[Browser], Tab], browser: Browser) -> None:
    """As soon as somebody does something: in the tab's second run."""

    def draw() -> dict[str, int]:
        return {"thread": time.perf_counter_ns()}

    tab = come(browser)
    tab.begin()
    with persistent_state("thread", draw) as first:
        pass
    settled(tab)
    tab.begin()
    with persistent_state("thread", draw) as second:
        pass
    again = browser.open()
    again.begin()
    assert first == second == load_state("thread", draw)


# --- the cookie is sent until it is seen


def test_a_cookie_is_sent_until_seen(browser: Browser) -> None:
    """In every run, the same value, so that no rerun loses it; not after a handshake has shown it."""
    tab = browser.open()
    add(tab)
    settled(tab)
    value = browser.values()[SCRIPTS]
    for _ in range(3):
        browser.cookies.clear()
        object.__setattr__(tab, "_mounted", set())  # as if no element had been loaded
        add(tab)
        tab.end()
        assert browser.values() == {SCRIPTS: value}
        assert state_info_of(tab).cookie == "pending"
    tab.reconnect()
    add(tab)
    settled(tab)
    browser.cookies.clear()
    add(tab)
    tab.end()
    assert (browser.values(), state_info_of(tab).cookie) == ({}, "seen")


@in_both_modes
def test_half_way_it_is_signed_anew(come: Callable[[Browser], Tab], browser: Browser) -> None:
    """By the first run, or page, after half of `cookie_max_age`; with the same id, and its whole time again."""
    with time_machine.travel(time.time(), tick=False) as now:
        remembered(come, browser)
        name = SCRIPTS if come is Browser.open else COOKIE
        value, who = browser.values()[name], visitor(browser, name)
        for days, changes in ((90, False), (90, False), (30, True), (60, False)):
            now.shift(timedelta(days=days))
            tab = come(browser)
            assert add(tab) == ["a"]
            settled(tab)
            assert (browser.values()[name] != value) == changes
            value = browser.values()[name]
            assert visitor(browser, name) == who


def test_an_open_tab_renews_its_cookie(browser: Browser) -> None:
    """Without any page load; the server's is renewed by a script's of the same id."""
    with time_machine.travel(time.time(), tick=False) as now:
        tab = remembered(Browser.open, browser)
        for _ in range(9):
            now.shift(timedelta(days=90))
            add(tab)
            settled(tab)
        assert add(browser.open()) == ["a"]


def test_a_clock_that_was_wrong(browser: Browser) -> None:
    """A cookie from 40 days ahead counts as one of now, and one of a clock set back is simply old."""
    now = time.time()
    with time_machine.travel(now + 40 * DAY, tick=False):
        remembered(Browser.open, browser)
    with time_machine.travel(now, tick=False):
        assert add(browser.open(), "b") == ["a", "b"]
    with time_machine.travel(now + 40 * DAY, tick=False):
        assert add(browser.open()) == ["a", "b"]


def test_keys_in_two_orders(store: CountingStore) -> None:
    """While a rotation is on its way one process signs with the old key, another one with the new: one state."""
    old, new = "o" * 32, "n" * 32
    cookies: dict[str, tuple[str, float]] = {}
    items = []
    for keys in (derive([new, old]), derive([old, new]), derive([new, old])):
        with pretended(store, keys=keys) as browser:
            browser.cookies = cookies
            tab = browser.open()
            add(tab)
            items = add(tab, "a")
            settled(tab)
            user = Browser().open()
            add(user, "u", user="alice")
            assert add(user, user="alice") == ["u"] * len(items)
            cookies = browser.cookies
    assert items == ["a", "a", "a"]
    assert list(cookies) == [SCRIPTS]


def test_two_apps_of_one_host(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """At `/` and `/shop`, with the same keys and store: neither takes the other's cookie, however it comes."""
    remembered(Browser.open, browser, "root")
    for strips in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(host, "base_path", lambda: "/shop")
            shop = Browser()
            shop.cookies, shop.strips = browser.cookies.copy(), strips
            tab = shop.open()
            add(tab)
            assert add(tab, "shop") == ["shop"]
            settled(tab)
        back = Browser()
        back.cookies, back.strips = shop.cookies.copy(), strips
        tab = back.open()
        add(tab)
        assert add(tab) == []
    assert add(browser.open()) == ["root"]


# --- two cookies


def test_the_servers_twin_is_removed(browser: Browser) -> None:
    """Once the handshake shows both; the state is the same before and after."""
    remembered(Browser.open, browser)
    who = visitor(browser)
    tab = browser.load()
    assert {visitor(browser), visitor(browser, COOKIE)} == {who}
    assert add(tab, "b") == ["a", "b"]
    settled(tab)
    assert list(browser.values()) == [COOKIE]
    assert add(browser.load(), "c") == ["a", "b", "c"]


def test_a_proxy_that_begins_to_strip(browser: Browser) -> None:
    """In script mode, and stops again: the state is one, the id too."""
    remembered(Browser.open, browser)
    who = visitor(browser)
    for item, strips in (("b", True), ("c", False), ("d", True), ("e", False)):
        browser.strips = strips
        tab = browser.open()
        add(tab)
        add(tab, item)
        settled(tab)
        assert visitor(browser) == who
    assert add(browser.open()) == ["a", "b", "c", "d", "e"]


def test_a_proxy_that_strips_later(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    """In middleware mode a script's cookie begins anew; when it ends, the server's state is there again, unmerged."""
    remembered(Browser.load, browser)
    browser.strips = True
    remembered(Browser.load, browser, "stripped")
    again = browser.load()
    add(again)
    assert add(again) == ["stripped"]
    assert len(warnings(caplog)) == 1
    browser.strips = False
    assert add(browser.load()) == ["a"]


def test_a_proxy_that_stops_to_strip(browser: Browser) -> None:
    """The server's cookie never had a record: the script's leads, and the next page gives the server's its id."""
    browser.strips = True
    remembered(Browser.load, browser)
    who = visitor(browser)
    assert visitor(browser, COOKIE) != who
    browser.strips = False
    browser.load()
    assert visitor(browser, COOKIE) == who
    tab = browser.open()
    assert add(tab) == ["a"]
    settled(tab)
    assert list(browser.values()) == [COOKIE]


def test_moved_states_are_no_records(browser: Browser) -> None:
    """Under the server's id nothing lies but the mark of a login: the script's cookie leads, that has a state."""
    tab = remembered(Browser.load, browser)
    add(tab, user="alice")
    settled(tab)
    browser.strips = True
    remembered(Browser.load, browser, "stripped")
    browser.strips = False
    assert add(browser.load()) == ["stripped"]


@pytest.mark.parametrize("planted_has_records", [False, True])
@pytest.mark.parametrize("mine_has_records", [False, True])
def test_a_planted_script_cookie(
    browser: Browser, store: CountingStore, mine_has_records: bool, planted_has_records: bool
) -> None:
    """It changes nobody's state that is there; two ids' states are never merged."""
    tab = browser.load()
    add(tab)
    settled(tab)
    who = visitor(browser, COOKIE)
    if mine_has_records:
        add(tab, "mine")
        settled(tab)
    attacker = Browser()
    tab = attacker.open()
    add(tab)
    settled(tab)
    if planted_has_records:
        add(tab, "planted")
        settled(tab)
    browser.cookies[SCRIPTS] = attacker.cookies[SCRIPTS]
    found = add(browser.load())
    if mine_has_records or not planted_has_records:
        assert visitor(browser, COOKIE) == who
        assert found == ["mine"] * mine_has_records
    else:
        assert found == ["planted"]


# --- what the middleware decides


def test_a_refused_visitor_is_never_asked(browser: Browser, store: CountingStore) -> None:
    """`CookieMiddleware(remember=...)` says no: no question, no cookie by scripts, whatever the block says."""
    tab = browser.load(remember=lambda _: False)
    for number in range(3):
        assert len(add(tab, "a")) == number + 1
        settled(tab)
    assert (browser.asked, browser.values(), store.writes) == (0, {}, 0)


def test_a_refused_visitor_in_one_run(store: CountingStore) -> None:
    """With `ask_browser=False`, too."""
    with pretended(store, ask_browser=False) as browser:
        tab = browser.load(remember=lambda _: False)
        add(tab, "a")
        settled(tab)
        assert (browser.asked, browser.values(), store.writes) == (0, {}, 0)


def test_a_refused_visitor_renews_nothing(browser: Browser) -> None:
    """A no that an open tab hears with its next connection: no script sets a cookie there when one is due."""
    with time_machine.travel(time.time(), tick=False) as now:
        tab = remembered(Browser.load, browser)
        browser.refuse()
        now.shift(timedelta(days=250))
        tab.reconnect()
        add(tab)
        settled(tab)
        assert list(browser.values()) == [COOKIE]


def test_a_yes_after_the_middlewares_no(browser: Browser) -> None:
    """The next page is another one; the new cookie has a new id."""
    remembered(Browser.load, browser)
    who = visitor(browser, COOKIE)
    add(browser.load(remember=lambda _: False), "b")
    assert browser.values() == {}
    tab = browser.load()
    assert visitor(browser, COOKIE) != who
    assert add(tab) == []


# --- what is said


@pytest.mark.parametrize(
    ("url", "settings", "is_told"),
    [
        ("http://shop.example/", {"secure": True}, True),
        ("http://shop.example/", {"same_site": "none"}, True),
        ("http://localhost/", {"same_site": "none"}, True),
        ("http://localhost/", {"secure": True}, False),
        ("https://shop.example/", {"same_site": "none", "secure": True}, False),
    ],
)
def test_browsers_refuse_the_cookie(
    store: CountingStore, caplog: pytest.LogCaptureFixture, url: str, settings: dict[str, Any], *, is_told: bool
) -> None:
    """On a page without https: one WARNING, however often it is sent."""
    with pretended(store, **settings), pytest.MonkeyPatch.context() as patch:
        patch.setattr("support.tabs.URL", url)
        for _ in range(2):
            tab = Browser().open()
            add(tab)
            add(tab)
            settled(tab)
    assert len(warnings(caplog)) == is_told
    assert not is_told or "https" in caplog.text


def test_an_app_that_was_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A valid cookie whose records lie under this app's older name is one WARNING, with both names and the remedy."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in settings_module._CHECKS:
        monkeypatch.delenv(f"PERSIST_SESSION_{name.upper()}", raising=False)
    stores = {app: settings_module._default_store(app) for app in ("old-name", "new-name")}
    cookies: dict[str, tuple[str, float]] = {}
    with pretended(stores["old-name"], app="old-name") as browser:  # type: ignore[arg-type]
        remembered(Browser.open, browser)
        cookies = browser.cookies
    assert not warnings(caplog)
    with pretended(stores["new-name"], app="new-name") as browser:  # type: ignore[arg-type]
        add(Browser().open())
        assert not warnings(caplog)
        browser.cookies = cookies
        for _ in range(3):
            assert add(browser.open()) == []
    (said,) = warnings(caplog)
    assert all(part in said for part in ("'old-name'", "'new-name'", "configure(app=", "configure(store="))
    assert visitor(browser) not in said


# --- clears that wait


def test_a_clear_waits_for_the_browser(browser: Browser, store: CountingStore) -> None:
    """Of all states, too; what is done after it stays."""
    tab = remembered(Browser.open, browser)
    add(tab, "b", name="other")
    settled(tab)
    browser.strips = True
    tab = browser.open()
    tab.begin()
    clear_cookie_state()
    add(tab, "new")
    settled(tab)
    assert store.names(visitor_key(visitor(browser))) == ["app-state"]
    browser.strips = False
    again = browser.open()
    assert (add(again), add(again, name="other")) == (["new"], [])


def test_a_waiting_clear_outlives_a_failure(browser: Browser, store: CountingStore) -> None:
    """The store fails just when the browser answers: no page fails by it, and the next run clears."""
    remembered(Browser.open, browser)
    browser.strips = True
    tab = browser.open()
    browser.cookies["theirs"] = "x", 1e12
    tab.begin()
    clear_cookie_state("app-state")
    tab.end()

    def failing(*_: Any) -> None:
        raise StoreError("The disk is full.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "delete", failing)
        tab.answer()
        tab.begin()
        with pytest.raises(StoreError):
            load_state("app-state", AppState)
    assert add(tab) == []
    browser.strips = False
    assert add(browser.open()) == []


def test_a_tab_that_only_clears_asks(browser: Browser, store: CountingStore) -> None:
    """It loads nothing, behind a stripping proxy: what was kept is deleted all the same, and no cookie is set."""
    remembered(Browser.open, browser)
    before = browser.cookies.copy()
    browser.strips = True
    tab = browser.open()
    tab.begin()
    clear_cookie_state()
    settled(tab)
    assert store.names(visitor_key(visitor(browser))) == []
    assert browser.cookies == before
    stranger = Browser().open()
    stranger.begin()
    clear_cookie_state()
    settled(stranger)
    assert stranger._browser.values() == {}


def test_a_clear_that_failed_is_over(browser: Browser, store: CountingStore) -> None:
    """It has raised: nothing is cleared, then or later."""
    tab = remembered(Browser.open, browser)

    def failing(*_: Any) -> None:
        raise StoreError("The disk is full.")

    tab.begin()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "delete", failing)
        for name in ("app-state", None):
            with pytest.raises(StoreError):
                clear_cookie_state(name)
    clear_cookie_state("other")
    assert add(tab) == ["a"]
    assert add(browser.open()) == ["a"]
