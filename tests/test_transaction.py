"""Load, commit, catch up: one write for what changed, none for what did not, and no save that undoes another one."""

from __future__ import annotations

import logging
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import time_machine

from persist_session.errors import StateTooLargeError, StoreError, UnloadableStateError, UnpicklableStateError
from persist_session.live import Caller, Live
from persist_session.place import Absence, Place, Saved
from persist_session.stores import MemoryStore
from persist_session.transaction import ClearedError, Options, catch_up, commit, load, unsaved
from support.records import CountingStore, place
from support.script import ScriptRun

NAME = "app-state"
OPTIONS = Options(max_age=3600.0, max_bytes=1_000_000)
FORGIVING = Options(max_age=3600.0, max_bytes=1_000_000, on_unloadable="fresh")
SOURCE = """
class Item:
    def __init__(self, n=0):
        self.n = n

class State:
    def __init__(self):
        self.count = 0
        self.items = []
        self.log = {}
"""


def script(source: str = SOURCE) -> ScriptRun:
    """Return a run of the app."""
    return ScriptRun(source)


def caller(run: ScriptRun, factory: Any = None) -> Caller:
    """Return who asks in this run."""
    return run.caller(factory or run.State)


def fresh(by: Caller) -> Live:
    """Return a live object that no record holds."""
    return unsaved(by.factory(), by, NAME)


class Tab:
    """A tab that has loaded the state, and commits it."""

    def __init__(self, at: Place, run: ScriptRun | None = None) -> None:
        self.at = at
        self.run = run or script()
        live, self.saved = load(at, caller(self.run), OPTIONS)
        self.live: Live = live or fresh(caller(self.run))

    @property
    def state(self) -> Any:
        """The object that the app has."""
        return self.live.obj

    def commit(self, options: Options = OPTIONS) -> None:
        """Save."""
        self.saved = commit(self.live, self.at, self.saved, options)


def counting() -> tuple[Place, CountingStore]:
    """Return a place, and its store."""
    store = CountingStore()
    return place(store), store


# --- one write, or none


def test_what_is_committed_is_loaded() -> None:
    """In the classes of the run that loads."""
    at = place()
    tab = Tab(at)
    tab.state.items.append(tab.run.Item(3))
    tab.commit()
    later = Tab(at)
    assert type(later.state) is later.run.State
    assert [(type(item), item.n) for item in later.state.items] == [(later.run.Item, 3)]


def test_a_fresh_state_is_written_once_and_then_only_if_it_changed() -> None:
    """A thread id drawn by the factory is kept from the first commit on."""
    at, store = counting()
    tab = Tab(at)
    for _ in range(3):
        tab.commit()
    assert store.writes == 1
    for n in range(100):
        tab.state.items.append(n)
    tab.commit()
    tab.commit()
    assert store.writes == 2
    later = Tab(at)
    later.commit()
    assert store.writes == 2


def test_an_unchanged_state_is_not_even_read() -> None:
    """A commit without a change asks the store nothing."""
    at, store = counting()
    tab = Tab(at)
    tab.commit()
    reads = store.reads
    tab.commit()
    assert store.reads == reads


def test_what_changed_and_changed_back_is_not_written() -> None:
    """Pickles tell, not assignments."""
    at, store = counting()
    tab = Tab(at)
    tab.commit()
    tab.state.count = 1
    tab.state.count = 0
    tab.commit()
    assert store.writes == 1


def test_a_state_that_was_loaded_is_not_written_though_its_pickle_differs() -> None:
    """Equal strings that were two objects are one after a load, or the other way round: that is no change."""
    at, store = counting()
    tab = Tab(at)
    tab.state.log = {"a" * n: ("a" * n) for n in range(1, 30)}
    tab.state.items = [{"x", "y", "z"}, frozenset("abc")]
    tab.commit()
    writes = store.writes
    for _ in range(3):
        later = Tab(at)
        later.commit()
    assert store.writes == writes


# --- refused


def test_a_state_that_is_too_large_is_refused() -> None:
    """The old record is still there; the message has both sizes and the remedy."""
    at, _ = counting()
    tab = Tab(at)
    tab.commit()
    tab.state.items = ["x" * 1000]
    with pytest.raises(StateTooLargeError, match=r"max_bytes=500.*configure\(max_bytes") as caught:
        tab.commit(Options(max_age=1.0, max_bytes=500))
    assert caught.value.name == NAME
    assert Tab(at).state.items == []


def test_a_state_that_can_not_be_pickled_is_refused() -> None:
    """With the path and the remedy; the old record is still there, and once mended it is saved."""
    at, _ = counting()
    tab = Tab(at)
    tab.commit()
    tab.state.count = 5
    tab.state.log["callback"] = lambda: 1
    with pytest.raises(UnpicklableStateError, match=r"State\.log\['callback'\].*__getstate__") as caught:
        tab.commit()
    assert caught.value.name == NAME
    assert Tab(at).state.count == 0
    del tab.state.log["callback"]
    tab.commit()
    assert Tab(at).state.count == 5


def test_a_factory_whose_state_can_not_be_pickled_is_refused() -> None:
    """At once, and not when the visitor leaves."""
    run = script("class State:\n    def __init__(self): self.f = lambda: 1")
    with pytest.raises(UnpicklableStateError, match=r"State\.f"):
        fresh(caller(run))


@pytest.mark.parametrize(
    "body",
    [
        "def __setstate__(self, state): raise ValueError('secret')",
        "def __setstate__(self, state): raise KeyError('secret')",
        "def __reduce__(self): return (Broken, ('secret',))",
        "__qualname__ = 'Hidden'",
    ],
)
def test_a_state_that_could_not_be_loaded_again_is_refused(body: str) -> None:
    """Before it is written: else the visitor were locked out; nothing of the state is quoted."""
    at, store = counting()
    tab = Tab(at, script(SOURCE + f"\nclass Broken:\n    n = 1\n    {body}\n"))
    tab.commit()
    broken = tab.run.Broken()
    broken.n = 2
    tab.state.items.append(broken)
    with pytest.raises(UnpicklableStateError, match="not loaded again") as caught:
        tab.commit()
    assert "secret" not in str(caught.value)
    assert store.writes == 1


def test_a_state_whose_name_means_another_class_by_now_is_refused() -> None:
    """It would come back as something else."""
    run = script(SOURCE + "\nOld = State\nclass State(Old): pass\n")

    def make() -> Any:
        return run.Old()

    tab = Tab(place(), run)
    tab.live = fresh(caller(run, make))
    with pytest.raises(UnpicklableStateError, match="different names"):
        tab.commit()


def test_a_failing_store_is_not_hidden() -> None:
    """And the next commit tries again."""

    class Failing(MemoryStore):
        fails = True

        def write(self, *args: Any, **kwargs: Any) -> bool:
            if self.fails:
                raise StoreError("The disk is full. Make room.")
            return super().write(*args, **kwargs)

    store = Failing()
    tab = Tab(place(store))
    with pytest.raises(StoreError):
        tab.commit()
    store.fails = False
    tab.commit()
    assert Tab(place(store)).state.count == 0


# --- saved elsewhere meanwhile


def test_two_tabs_keep_what_each_changed(caplog: pytest.LogCaptureFixture) -> None:
    """The later save brings in the earlier one; the object that its app holds has both."""
    at, store = counting()
    Tab(at).commit()
    one, two = Tab(at), Tab(at)
    held = two.state
    one.state.count = 1
    one.state.items.append(one.run.Item(1))
    two.state.log["two"] = 1
    two.state.items.append(two.run.Item(2))
    one.commit()
    two.commit()
    assert two.state is held
    later = Tab(at).state
    for state in (held, later):
        assert (state.count, [item.n for item in state.items], state.log) == (1, [1, 2], {"two": 1})
    assert {type(item) for item in held.items} == {two.run.Item}
    assert not caplog.records
    two.commit()
    assert store.writes == 4, "the first, one's, two's that was refused, two's"


def test_of_two_changes_of_one_value_the_later_save_wins(caplog: pytest.LogCaptureFixture) -> None:
    """And a WARNING names state and field, not the value."""
    at, _ = counting()
    Tab(at).commit()
    one, two = Tab(at), Tab(at)
    one.state.count, two.state.count = 111, 222
    one.commit()
    two.commit()
    assert Tab(at).state.count == 222
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "State.count" in record.message
    assert NAME in record.message
    assert "111" not in record.message


def test_two_fresh_states_of_one_visitor_become_one() -> None:
    """Two tabs opened at once: nothing was there for both."""
    at, _ = counting()
    one, two = Tab(at), Tab(at)
    one.state.log["one"] = 1
    two.state.log["two"] = 1
    one.commit()
    two.commit()
    assert Tab(at).state.log == {"one": 1, "two": 1}


def test_no_append_is_lost_however_many_tabs_save_at_once() -> None:
    """Eight tabs, ten saves each."""
    at, _ = counting()
    Tab(at).commit()
    tabs = [Tab(at) for _ in range(8)]
    barrier = threading.Barrier(len(tabs))

    def work(number: int) -> None:
        tab = tabs[number]
        barrier.wait()
        for n in range(10):
            tab.state.items.append((number, n))
            tab.state.log[f"{number}-{n}"] = 1
            tab.commit()

    with ThreadPoolExecutor(len(tabs)) as pool:
        for done in [pool.submit(work, number) for number in range(len(tabs))]:
            done.result()
    state = Tab(at).state
    assert sorted(state.items) == [(number, n) for number in range(8) for n in range(10)]
    assert [n for number, n in state.items if number == 3] == [*range(10)]
    assert len(state.log) == 80


def test_a_store_that_never_takes_the_write_is_an_error() -> None:
    """After many attempts, and not for ever."""

    class Refusing(CountingStore):
        def write(self, *args: Any, **kwargs: Any) -> bool:
            self.writes += 1
            return False

    store = Refusing()
    tab = Tab(place(store))
    with pytest.raises(StoreError, match="find out what writes it"):
        tab.commit()
    assert 10 <= store.writes <= 1000


def test_a_later_releases_save_that_can_not_be_loaded_here_is_left_alone() -> None:
    """A server that still runs the old code meets a record with a class that it lacks."""
    at, _ = counting()
    tab = Tab(at)
    tab.commit()
    newer = Tab(at, script(SOURCE + "\nclass New: pass\n"))
    newer.state.items.append(newer.run.New())
    newer.commit()
    tab.state.count = 1
    with pytest.raises(UnloadableStateError, match="New is not defined"):
        tab.commit()
    assert at.read(3600.0)[1] == newer.saved


def test_a_later_releases_save_is_set_aside_if_the_app_wants_to_go_on() -> None:
    """What this tab has takes its place."""
    at, store = counting()
    tab = Tab(at)
    tab.commit()
    newer = Tab(at, script(SOURCE + "\nclass New: pass\n"))
    newer.state.items.append(newer.run.New())
    newer.commit()
    tab.state.count = 1
    tab.commit(FORGIVING)
    assert Tab(at).state.count == 1
    assert len(store._aside[NAME, at.record_key]) == 1


def test_an_older_releases_save_gets_what_its_class_gained() -> None:
    """Before it is merged."""
    at, _ = counting()
    older, newer = Tab(at), Tab(at, script(SOURCE + "        self.new = 5\n"))
    older.commit()
    newer.state.count = 1
    newer.commit()
    assert newer.state.new == 5


# --- cleared meanwhile


def test_a_save_of_what_was_cleared_does_not_bring_it_back() -> None:
    """Neither as it was, nor as a new record."""
    at, store = counting()
    tab = Tab(at)
    tab.commit()
    at.delete()
    tab.state.count = 1
    with pytest.raises(ClearedError):
        tab.commit()
    assert store.read(NAME, at.record_key) is None


def test_a_save_of_what_was_cleared_does_not_merge_into_a_new_record() -> None:
    """The lineage tells that it is another one."""
    at, _ = counting()
    late = Tab(at)
    late.state.items.append("cleared")
    late.commit()
    at.delete()
    Tab(at).commit()
    late.state.count = 1
    with pytest.raises(ClearedError):
        late.commit()
    assert Tab(at).state.items == []


def test_an_expired_record_is_replaced() -> None:
    """It is not merged, and not brought back by a load."""
    at, _ = counting()
    with time_machine.travel(1000.0, tick=False):
        old = Tab(at)
        old.state.count = 1
        old.commit()
    with time_machine.travel(5000.0, tick=False):
        tab = Tab(at)
        assert tab.state.count == 0
        tab.state.items.append(1)
        tab.commit()
        assert Tab(at).state.items == [1]


def test_a_record_that_broke_meanwhile_is_replaced() -> None:
    """By what the tab holds."""
    at, store = counting()
    tab = Tab(at)
    tab.commit()
    store.write(NAME, at.record_key, b"broken", version="0" * 16, based_on=tab.saved.version, expires_at=4e9)
    tab.state.count = 1
    tab.commit()
    assert Tab(at).state.count == 1


# --- load


def test_nothing_to_load_says_what_the_next_save_is_based_on() -> None:
    """On nothing."""
    assert load(place(), caller(script()), OPTIONS) == (None, Saved())


def test_a_record_whose_class_is_gone_stays_as_it_is() -> None:
    """The error names class, record and remedy; once the class is back it is served again."""
    at, store = counting()
    tab = Tab(at)
    tab.state.items.append(tab.run.Item(7))
    tab.commit()
    data = store.read(NAME, at.record_key)
    gone = script("class State: pass")
    for _ in range(2):
        with pytest.raises(UnloadableStateError, match=r"Item is not defined.*aaaaaaaa .*on_unloadable") as caught:
            load(at, caller(gone), OPTIONS)
        assert caught.value.name == NAME
        assert at.record_key[:9] not in str(caught.value)
    assert store.read(NAME, at.record_key) == data
    assert Tab(at).state.items[0].n == 7


def test_a_record_whose_class_is_gone_is_set_aside_if_the_app_wants_to_go_on(caplog: pytest.LogCaptureFixture) -> None:
    """One WARNING, a fresh state, and the old bytes are kept."""
    at, store = counting()
    tab = Tab(at)
    tab.state.items.append(tab.run.Item(7))
    tab.commit()
    assert load(at, caller(script("class State: pass")), FORGIVING) == (None, Saved())
    assert len(store._aside[NAME, at.record_key]) == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("raised", ["ValueError('secret')", "KeyError('secret')", "AttributeError('secret')"])
def test_a_class_that_refuses_its_state_is_not_quoted(raised: str) -> None:
    """The app's error is the cause, for the developer."""
    at, _ = counting()
    Tab(at).commit()
    refusing = script(SOURCE + f"    def __setstate__(self, state):\n        raise {raised}\n")
    with pytest.raises(UnloadableStateError) as caught:
        load(at, caller(refusing), OPTIONS)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_nothing_is_unpickled_before_its_seal_was_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that anybody could have written never reaches pickle."""
    at, store = counting()

    class Bomb:
        def __reduce__(self) -> Any:
            return pytest.fail, ("unpickled",)

    store.write(NAME, at.record_key, pickle.dumps(Bomb()), version="0" * 16, based_on=None, expires_at=4e9)
    monkeypatch.setattr("persist_session.transaction.restore", lambda *_: pytest.fail("read"))
    assert load(at, caller(script()), OPTIONS) == (None, Saved())
    assert at.read(1.0)[0] is Absence.NEVER


# --- catch up, replace


def test_an_untouched_state_gives_way_to_the_records() -> None:
    """What the factory made is dropped, and nothing is written."""
    at, store = counting()
    before = Tab(at)
    before.state.count = 5
    before.commit()
    run = script()
    live = fresh(caller(run))
    saved = catch_up(live, at, Saved(), OPTIONS)
    assert live.obj.count == 5
    assert commit(live, at, saved, OPTIONS) == saved
    assert store.writes == 1


def test_what_the_visitor_did_before_the_record_was_known_is_merged() -> None:
    """Into the object that the app holds; also where the run that knows the record is another one."""
    at, _ = counting()
    before = Tab(at)
    before.state.items.append(before.run.Item(1))
    before.state.count = 5
    before.commit()
    first, second = script(), script()
    live = fresh(caller(first))
    live.obj.items.append(first.Item(2))
    live.bring_over(caller(second))
    saved = catch_up(live, at, Saved(), OPTIONS)
    assert (live.obj.count, [item.n for item in live.obj.items]) == (5, [1, 2])
    assert {type(item) for item in live.obj.items} == {second.Item}
    commit(live, at, saved, OPTIONS)
    assert [item.n for item in Tab(at).state.items] == [1, 2]


def test_without_a_record_the_tabs_own_state_stays() -> None:
    """And is saved."""
    at, store = counting()
    run = script()
    live = fresh(caller(run))
    live.obj.count = 2
    saved = catch_up(live, at, Saved(), OPTIONS)
    commit(live, at, saved, OPTIONS)
    assert store.writes == 1
    assert Tab(at).state.count == 2


def test_an_object_in_the_place_of_the_live_one_is_saved_in_its_place() -> None:
    """Based on what the record holds: what was saved elsewhere is merged, not overwritten."""
    at, _ = counting()
    Tab(at).commit()
    tab, other = Tab(at), Tab(at)
    other.state.log["other"] = 1
    other.commit()
    replacement = tab.run.State()
    replacement.count = 9
    tab.live.replace(replacement)
    tab.commit()
    later = Tab(at).state
    assert (later.count, later.log) == (9, {"other": 1})


def test_the_expiry_moves_with_every_write() -> None:
    """max_age counts from the last one."""
    at, _ = counting()
    with time_machine.travel(1000.0, tick=False) as clock:
        tab = Tab(at)
        tab.commit()
        clock.move_to(2000.0)
        tab.state.count = 1
        tab.commit()
    assert (tab.saved.saved_at, tab.saved.expires_at) == (2000.0, 5600.0)
