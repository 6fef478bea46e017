"""Errands: what a browser is sent for, and what a tab hears of it."""

from __future__ import annotations

import gc
import re
import threading
import weakref
from dataclasses import replace

import pytest
import streamlit
import time_machine

from persist_session import host, relay
from persist_session.errand import Errand
from persist_session.relay import Heard
from persist_session.signing import Signed

BROWSER = "b" * 32
ISSUED = Heard(Signed("a" * 32, 0.0, http_only=True), is_issued=True, browser=BROWSER)
FOUND = Heard(Signed("a" * 32, 0.0, http_only=True), browser=BROWSER)


class Run:
    """What tells one run from another."""


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the tokens of the requests that browsers make."""
    sent: list[str] = []
    monkeypatch.setattr(host, "fetch", lambda path: sent.append(path.partition("?")[2]))
    return sent


def test_what_is_heard_is_told_once(tokens: list[str]) -> None:
    """And is there to be looked at; what was only just issued is looked after once more."""
    errand = Errand("app-state", is_due=True)
    errand.know(BROWSER)
    assert errand.listen() is None
    errand.send(weakref.ref(Run))
    assert errand.is_under_way
    errand.hear(tokens[0], ISSUED)
    assert (errand.listen(), errand.listen(), errand.heard) == (ISSUED, None, ISSUED)
    assert (errand.is_under_way, errand.is_due) == (False, True)
    errand.send(weakref.ref(Errand))
    errand.hear(tokens[1], FOUND)
    assert (errand.listen(), errand.is_due) == (FOUND, False)
    assert tokens[0] != tokens[1]


def test_a_run_sends_the_browser_once(tokens: list[str]) -> None:
    """A second request would not be on the page in this run, and would be waited for in vain."""
    errand, run = Errand("app-state", is_due=True), weakref.ref(Run)
    errand.know(BROWSER)
    errand.send(run)
    errand.hear(tokens[0], ISSUED)
    assert errand.listen() == ISSUED
    errand.send(run)
    assert (errand.is_under_way, len(tokens)) == (False, 1)
    errand.send(weakref.ref(Errand))
    assert (errand.is_under_way, len(tokens)) == (True, 2)


def test_a_wait_lasts_a_second_at_most(tokens: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """For all waits for one request together, and whatever happens to the clock."""
    waited: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", lambda _, timeout: waited.append(timeout))
    errand = Errand("app-state")
    with time_machine.travel(10_000.0, tick=False) as clock:
        errand.wait()
        errand.send(weakref.ref(Run))
        for shift in (0.75, 5.0, -3600.0):
            errand.wait()
            clock.shift(shift)
        errand.wait()
    assert (len(tokens), waited) == (1, [1.0, 0.25, 0.0, 1.0])


def test_what_comes_of_an_older_request_is_not_heard(tokens: list[str]) -> None:
    """It was made for another reason, and saw another state of things."""
    errand = Errand("app-state")
    errand.know(BROWSER)
    errand.send(weakref.ref(Run))
    errand.begin_anew()
    errand.hear(tokens[0], FOUND)
    assert errand.listen() is None
    errand.send(weakref.ref(Run))
    errand.hear(tokens[1], FOUND)
    assert errand.listen() == FOUND


def test_what_another_browser_was_told_is_not_heard(tokens: list[str]) -> None:
    """Whoever has the address of a tab's request can have somebody else's browser make it."""
    errand = Errand("app-state", is_due=True)
    errand.know(BROWSER)
    errand.send(weakref.ref(Run))
    errand.hear(tokens[0], replace(ISSUED, browser="c" * 32))
    heard = errand.listen()
    assert heard is not None
    assert (heard.signed, heard.is_issued, errand.heard, errand.is_due) == (None, False, heard, False)
    unknown = Errand("app-state", is_due=True)
    unknown.know(None)
    unknown.send(weakref.ref(Run))
    unknown.hear(tokens[1], replace(FOUND, browser=None))
    assert unknown.listen() == replace(FOUND, signed=None, browser=None)


def test_a_browser_is_known_once(tokens: list[str]) -> None:
    """An old tab may connect anew when its browser's cookies are somebody else's by now."""
    for first in (BROWSER, None):
        errand = Errand("app-state")
        errand.know(first)
        errand.know("c" * 32)
        assert (errand.is_of(BROWSER), errand.is_of("c" * 32)) == (first == BROWSER, False)
        errand.know_no_longer()
        assert errand.is_of("c" * 32)
        errand.know("c" * 32)
        errand.send(weakref.ref(Run))
        errand.hear(tokens[-1], replace(FOUND, browser="c" * 32))
        assert errand.listen() == replace(FOUND, browser="c" * 32)


def test_a_wait_counts_from_when_the_browser_was_sent(tokens: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """So several states, or several saves, wait for no longer than one; where nobody was sent, nobody waits."""
    monkeypatch.setattr("persist_session.errand._WAITED_FOR", 1000.0)
    with time_machine.travel(1e9, tick=False) as clock:
        errand = Errand("app-state")
        errand.wait()
        errand.send(weakref.ref(Run))
        clock.shift(1000)
        errand.wait()
    assert len(tokens) == 1


def test_what_is_heard_waits_until_the_browser_is_known(tokens: list[str]) -> None:
    """Behind a proxy that strips cookies, only the browser's answer tells which one it is; a no is for anybody."""
    errand = Errand("app-state")
    errand.send(weakref.ref(Run))
    errand.hear(tokens[0], FOUND)
    assert errand.listen() is None
    assert errand.is_under_way
    errand.send(weakref.ref(Errand))
    assert len(tokens) == 1, "its answer is there"
    errand.know(BROWSER)
    assert (errand.listen(), errand.is_under_way) == (FOUND, False)
    refused = Errand("app-state")
    refused.send(weakref.ref(Run))
    refused.hear(tokens[1], Heard(None, is_refused=True))
    assert refused.listen() == Heard(None, is_refused=True)


def test_requests_of_before_are_not_waited_for(tokens: list[str]) -> None:
    """However often a tab tries."""
    runs = [type("Run", (), {}) for _ in range(20)]
    with time_machine.travel(1e9, tick=False) as clock:
        errand = Errand("app-state")
        for run in runs:
            errand.send(weakref.ref(run))
            clock.shift(6)
    assert len(set(tokens)) == 20
    assert [token for token in tokens if token in relay.errands] == [tokens[-1]]
    errand.begin_anew()
    assert tokens[-1] not in relay.errands


def test_one_request_stands_on_the_page_for_a_while(tokens: list[str]) -> None:
    """An element that is there already is not loaded again; after some seconds another one is tried."""
    runs = [type("Run", (), {}) for _ in range(4)]
    with time_machine.travel(1e9, tick=False) as clock:
        errand = Errand("app-state")
        for run in runs[:3]:
            errand.send(weakref.ref(run))
            errand.send(weakref.ref(run))
        clock.shift(6)
        errand.send(weakref.ref(runs[3]))
    assert len(tokens) == 4
    assert tokens[:3] == [tokens[0]] * 3 != tokens[1:]


def test_the_address_is_relative_to_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which path the app has in the browser, a proxy may decide: from the host's root it could be another app's."""
    written: list[str] = []
    monkeypatch.setattr(host, "mount", lambda element: element())
    monkeypatch.setattr(streamlit, "html", written.append)
    Errand("app-state").send(weakref.ref(Run))
    (element,) = written
    assert re.fullmatch(r'<img src="_persist_session\?[0-9a-f]{32}" alt="">', element)


def test_nothing_is_kept_for_a_tab_that_is_gone(tokens: list[str]) -> None:
    """Its errand goes with it."""
    errand = Errand("app-state")
    errand.send(weakref.ref(Run))
    assert relay.errands.get(tokens[0]) is errand
    del errand
    gc.collect()
    assert relay.errands.get(tokens[0]) is None
