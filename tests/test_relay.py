"""What scripts and middleware of one process tell each other: bounded, and safe between threads."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import pytest

from persist_session import relay
from persist_session.keys import derive
from persist_session.relay import Notes
from persist_session.signing import sign
from support.tabs import forget_relay


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with nothing noted."""
    forget_relay(monkeypatch)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep three notes at most."""
    monkeypatch.setattr(relay, "_MOST", 3)


def test_what_was_noted_is_there() -> None:
    """Under its key; a later note takes the place of an earlier one."""
    notes: Notes[int] = Notes()
    assert notes.get("a") is None
    notes.put("a", 1)
    notes.put("b", 2)
    notes.put("a", 3)
    assert [notes.get(key) for key in "abc"] == [3, 2, None]


def test_what_was_noted_is_dropped() -> None:
    """To drop what is not there is harmless."""
    notes: Notes[int] = Notes()
    notes.put("a", 1)
    notes.drop("a")
    notes.drop("a")
    assert notes.get("a") is None


def test_keys_are_taken_once_the_oldest_first() -> None:
    """So that of several runs each handles its own."""
    notes: Notes[int] = Notes()
    for key in "abc":
        notes.put(key, 1)
    assert [notes.take(2), notes.take(2), notes.take(2)] == [["a", "b"], ["c"], []]
    assert notes.get("a") is None


def test_unwanted_records_are_noted_by_state() -> None:
    """A run looks at those of the states that it loads, and at no others."""
    relay.unwanted("one").put("a", note=True)
    assert (relay.unwanted("one").take(9), relay.unwanted("other").take(9)) == (["a"], [])


def test_every_kind_has_notes_of_its_own() -> None:
    """An id that a handshake has shown is not retired by that."""
    one: Notes[int] = Notes()
    other: Notes[int] = Notes()
    one.put("a", 1)
    assert other.get("a") is None
    assert relay.shown is not relay.retired  # type: ignore[comparison-overlap]


def test_the_oldest_notes_are_forgotten_first(few: None) -> None:
    """As many visitors as may come: what is kept of them is bounded."""
    notes: Notes[int] = Notes()
    for number, key in enumerate("abcde"):
        notes.put(key, number)
    assert [notes.get(key) for key in "abcde"] == [None, None, 2, 3, 4]


def test_what_was_noted_again_is_no_longer_the_oldest(few: None) -> None:
    """A visitor who comes back is remembered longer than one who does not."""
    notes: Notes[int] = Notes()
    for key in "abcad":
        notes.put(key, 1)
    assert [notes.get(key) for key in "abcd"] == [1, None, 1, 1]


def test_a_hundred_thousand_visitors_are_known() -> None:
    """And no more: that is some megabytes."""
    notes: Notes[bool] = Notes()
    for number in range(100_001):
        notes.put(str(number), note=True)
    assert notes.get("0") is None
    assert notes.get("1") is True
    assert len(notes._notes) == 100_000


def test_threads_do_not_get_in_each_others_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """One may be about to forget what another one is about to note."""

    class Slow(OrderedDict[str, int]):
        def __setitem__(self, key: str, value: int) -> None:
            super().__setitem__(key, value)
            time.sleep(0.0001)  # lets another thread go on

    monkeypatch.setattr(relay, "_MOST", 1)
    notes: Notes[int] = Notes()
    notes._notes = Slow()
    start = threading.Barrier(4)

    def note(thread: int) -> None:
        start.wait()
        for number in range(100):
            notes.put(f"{thread} {number}", number)
            notes.get(f"{thread} {number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(note, range(4)))
    assert len(notes._notes) == 1


def test_a_browser_of_several_names_is_not_known() -> None:
    """One of them was planted; what was not signed here is no name."""
    keys, one, other = derive(["k" * 32]), "a" * 32, "b" * 32
    values = [sign(relay.BROWSER, one, keys), sign(relay.BROWSER, other, keys)]
    assert relay.browser_of([], keys) is None
    assert relay.browser_of(["x", sign(relay.BROWSER, other, derive(["f" * 32])), values[0]], keys) == one
    assert relay.browser_of([values[0], values[0]], keys) == one
    for several in (values, values[::-1]):
        assert relay.browser_of(several, keys) is None
