"""Errands: what a browser is sent for, and what a tab hears of it."""

from __future__ import annotations

import gc
import weakref

import pytest
import time_machine

from persist_session import host, relay
from persist_session.errand import Errand
from persist_session.relay import Heard
from persist_session.signing import Signed

ISSUED = Heard(Signed("a" * 32, 0.0, http_only=True), is_issued=True)
FOUND = Heard(Signed("a" * 32, 0.0, http_only=True))


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
    assert errand.listen() is None
    errand.send("/", weakref.ref(Run))
    assert errand.is_under_way
    errand.hear(tokens[0], ISSUED)
    assert (errand.listen(), errand.listen(), errand.heard) == (ISSUED, None, ISSUED)
    assert (errand.is_under_way, errand.is_due) == (False, True)
    errand.send("/", weakref.ref(Errand))
    errand.hear(tokens[1], FOUND)
    assert (errand.listen(), errand.is_due) == (FOUND, False)
    assert tokens[0] != tokens[1]


def test_what_comes_of_an_older_request_is_not_heard(tokens: list[str]) -> None:
    """It was made for another reason, and saw another state of things."""
    errand = Errand("app-state")
    errand.send("/", weakref.ref(Run))
    errand.begin_anew()
    errand.hear(tokens[0], FOUND)
    assert errand.listen() is None
    errand.send("/", weakref.ref(Run))
    errand.hear(tokens[1], FOUND)
    assert errand.listen() == FOUND


def test_one_request_stands_on_the_page_for_a_while(tokens: list[str]) -> None:
    """An element that is there already is not loaded again; after some seconds another one is tried."""
    runs = [type("Run", (), {}) for _ in range(4)]
    with time_machine.travel(1e9, tick=False) as clock:
        errand = Errand("app-state")
        for run in runs[:3]:
            errand.send("/shop", weakref.ref(run))
            errand.send("/shop", weakref.ref(run))
        clock.shift(6)
        errand.send("/shop", weakref.ref(runs[3]))
    assert len(tokens) == 4
    assert tokens[:3] == [tokens[0]] * 3 != tokens[1:]


def test_nothing_is_kept_for_a_tab_that_is_gone(tokens: list[str]) -> None:
    """Its errand goes with it."""
    errand = Errand("app-state")
    errand.send("/", weakref.ref(Run))
    assert relay.errands.get(tokens[0]) is errand
    del errand
    gc.collect()
    assert relay.errands.get(tokens[0]) is None
