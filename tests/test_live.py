"""The live object: one object for all runs of a tab where that can be, a faithful copy where it can't."""

from __future__ import annotations

import gc
import logging
import types
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from persist_session import live as live_module
from persist_session.live import Live
from persist_session.pickling import Pickled, UnpicklableError, dumps
from persist_session.view import UnrestorableError
from support.script import ScriptRun

if TYPE_CHECKING:
    from collections.abc import Callable

SIMPLE = """
class State:
    def __init__(self):
        self.count = 0
        self.items = []
        self.log = {}
"""
RICH = (
    SIMPLE
    + """
class Item:
    def __init__(self, n=0):
        self.n = n
"""
)


def begin(run: ScriptRun, obj: Any = None, *, saved: bool = True) -> Live:
    """Return the live object of a run: a fresh state, or another object."""
    obj = run.State() if obj is None else obj
    return Live(obj, run.caller(run.State), saved=saved)


def go_on(live: Live, run: ScriptRun) -> Any:
    """Bring the live object over into the next run and return it."""
    live.bring_over(run.caller(run.State))
    return live.obj


@pytest.fixture
def count_dumps(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return a function that tells how often an object was pickled."""
    calls: list[Any] = []

    def counting(obj: Any) -> Pickled:
        calls.append(obj)
        return dumps(obj)

    monkeypatch.setattr(live_module, "dumps", counting)
    return lambda: len(calls)


# --- one object


def test_in_one_run_nothing_is_done(count_dumps: Callable[[], int]) -> None:
    """A second block of a run gets the object as it is."""
    run = ScriptRun(RICH)
    live = begin(run)
    obj, before = live.obj, count_dumps()
    assert go_on(live, run) is obj
    assert count_dumps() == before


@pytest.mark.parametrize("source", [SIMPLE, "class State:\n    __slots__ = ('count',)"])
def test_where_only_the_states_class_is_the_scripts_it_stays_the_same_object(
    source: str, count_dumps: Callable[[], int]
) -> None:
    """It becomes an instance of this run's class; one pickle tells that nothing else has to."""
    first, second = ScriptRun(source), ScriptRun(source)
    live = begin(first)
    obj, before = live.obj, count_dumps()
    assert go_on(live, second) is obj
    assert type(obj) is second.State
    assert count_dumps() == before + 1


def test_a_callback_of_an_earlier_run_changes_the_same_object() -> None:
    """It closed over it, and there is only one."""
    live = begin(ScriptRun(SIMPLE))
    held = live.obj
    go_on(live, ScriptRun(SIMPLE))
    held.count = 5
    assert go_on(live, ScriptRun(SIMPLE)).count == 5
    assert live.change() is not None


def test_importable_classes_stay_as_they_are() -> None:
    """They are the same in every run."""
    live = begin(ScriptRun("State = dict"), {"error": logging.LogRecord("", 0, "", 0, "", (), None)})
    obj = live.obj
    assert go_on(live, ScriptRun("State = dict\nclass Unused: pass")) is obj


def test_the_state_may_be_any_object() -> None:
    """A dict with the script's objects in it."""
    first, second = ScriptRun("State = dict\nclass Item: pass"), ScriptRun("State = dict\nclass Item: pass")
    live = begin(first, {"item": first.Item()})
    assert type(go_on(live, second)["item"]) is second.Item


# --- a copy


def test_where_other_classes_are_the_scripts_it_is_a_copy() -> None:
    """Every part of it is of this run's classes, with all that was changed until now."""
    first, second = ScriptRun(RICH), ScriptRun(RICH)
    live = begin(first)
    live.obj.items.append(first.Item(1))
    live.obj.count = 3
    obj = go_on(live, second)
    assert type(obj) is second.State
    assert [type(item) for item in obj.items] == [second.Item]
    assert (obj.count, obj.items[0].n) == (3, 1)
    assert live.change() is not None, "what was changed before the copy is not saved yet"


def test_a_copy_alone_is_no_change() -> None:
    """A run that changes nothing writes nothing, though pickles of equal objects differ: here names are values."""
    first, second = ScriptRun(RICH), ScriptRun(RICH)
    state = first.State()
    state.items = [first.Item(n) for n in range(3)]
    state.log = {name: name for name in vars(state)}
    live = begin(first, state)
    assert dumps(second.copy(state)).data != dumps(state).data
    go_on(live, second)
    assert live.change() is None


def test_a_tree_of_the_states_own_class_is_a_copy() -> None:
    """All of its nodes are of this run's class, not only the root."""
    first, second = ScriptRun(SIMPLE), ScriptRun(SIMPLE)
    state = first.State()
    state.items.append(first.State())
    live = begin(first, state)
    obj = go_on(live, second)
    assert type(obj) is type(obj.items[0]) is second.State


def test_a_tree_that_a_callback_began_is_of_the_runs_class() -> None:
    """The first other instance of the state's own class came in after the object was last pickled."""
    first, second = ScriptRun(SIMPLE), ScriptRun(SIMPLE)
    live = begin(first)
    live.obj.items.append(first.State())
    assert type(go_on(live, second).items[0]) is second.State


def test_a_tree_that_grew_within_the_run_is_a_copy() -> None:
    """What the last save saw counts."""
    first, second = ScriptRun(SIMPLE), ScriptRun(SIMPLE)
    live = begin(first)
    live.obj.items.append(first.State())
    assert live.change() is not None
    obj = go_on(live, second)
    assert type(obj) is type(obj.items[0]) is second.State


def test_what_a_callback_put_in_before_the_run_is_of_the_runs_class() -> None:
    """The callback is a function of the run before, and so is the class that it knows."""
    first, second = ScriptRun(RICH), ScriptRun(RICH)
    live = begin(first)
    live.change()
    live.obj.items.append(first.Item(1))
    assert type(go_on(live, second).items[0]) is second.Item


def loaded_anew() -> ScriptRun:
    """Return a run of a script that imported a module after it had changed."""
    module = types.ModuleType("states")
    exec("class Item: pass", vars(module))
    return ScriptRun("", Item=module.Item)


def test_what_a_run_put_in_before_its_module_was_loaded_anew_is_of_the_next_runs_class() -> None:
    """The first instance of an imported class came in after the object was last pickled."""
    first, second = loaded_anew(), loaded_anew()
    live = Live([], first.caller(list), saved=True)
    live.obj.append(first.Item())
    live.bring_over(second.caller(list))
    assert [type(item) for item in live.obj] == [second.Item]


@pytest.mark.parametrize("load", [loaded_anew, lambda: ScriptRun("class Item: pass\nclass Other: pass")])
def test_a_run_that_is_not_over_puts_nothing_of_its_classes_into_the_next_runs_object(
    load: Callable[[], ScriptRun],
) -> None:
    """Each has an object of its own; what the older one gets is brought in."""
    first, second = load(), load()
    live = Live([], first.caller(list), saved=True)
    old = live.obj
    live.bring_over(second.caller(list))
    old.append(first.Item())
    assert live.obj == []
    live.absorb()
    assert [type(item) for item in live.obj] == [second.Item]


def test_two_runs_classes_in_one_object_become_one() -> None:
    """However they came in."""
    first, second, third = (ScriptRun(RICH) for _ in range(3))
    live = begin(first)
    obj = go_on(live, second)
    obj.items = [first.Item(1), second.Item(2)]
    live.change()
    assert {type(item) for item in go_on(live, third).items} == {third.Item}


def test_a_class_with_another_layout_takes_a_copy() -> None:
    """Python can't point such an object to its new class."""
    first = ScriptRun("class State:\n    __slots__ = ('a',)\n    def __init__(self): self.a = 1")
    second = ScriptRun("class State:\n    __slots__ = ('a', 'b')\n    def __init__(self): self.a, self.b = 1, 2")
    live = begin(first)
    live.obj.a = 7
    obj = go_on(live, second)
    assert type(obj) is second.State
    assert (obj.a, obj.b) == (7, 2)


# --- the script changes while the tab lives


@pytest.mark.parametrize("source", [SIMPLE, RICH])
def test_an_attribute_that_the_class_gained_is_filled_in(source: str) -> None:
    """At the next run, with and without a copy; and once only."""
    live = begin(ScriptRun(source))
    live.obj.count = 3
    grown = source.replace("self.count = 0", "self.count = 0\n        self.new = []")
    obj = go_on(live, ScriptRun(grown))
    assert (obj.count, obj.new) == (3, [])
    del obj.new
    assert not hasattr(go_on(live, ScriptRun(grown)), "new")


def test_a_class_that_is_gone_is_an_unrestorable_error() -> None:
    """The state's own, or one inside of it."""
    for source in ("def State(): ...", "State = list", SIMPLE):
        first = ScriptRun(RICH)
        state = first.State()
        state.items.append(first.Item())
        live = begin(first, state)
        with pytest.raises(UnrestorableError):
            go_on(live, ScriptRun(source))


def test_a_class_that_is_gone_and_not_needed_any_more_is_no_error() -> None:
    """Its last instance was removed before."""
    first = ScriptRun(RICH)
    state = first.State()
    state.items.append(first.Item())
    live = begin(first, state)
    state.items.clear()
    assert go_on(live, ScriptRun(SIMPLE)).items == []


def test_a_class_that_refuses_its_state_is_an_unrestorable_error() -> None:
    """The app's own error is its cause, and is not quoted."""
    source = RICH + "    def __setstate__(self, state):\n        raise KeyError('secret')\n"
    first = ScriptRun(RICH)
    live = begin(first)
    live.obj.items.append(first.Item())
    with pytest.raises(UnrestorableError, match="KeyError") as caught:
        go_on(live, ScriptRun(source))
    assert "secret" not in str(caught.value)


# --- changes


def test_a_change_is_seen_however_deep() -> None:
    """An item of a list of a dict."""
    live = begin(ScriptRun(SIMPLE))
    live.obj.log["a"] = [1]
    pickled = live.change()
    assert pickled is not None
    live.note_saved(pickled)
    assert live.change() is None
    live.obj.log["a"].append(2)
    assert live.change() is not None


def test_what_no_record_holds_is_a_change() -> None:
    """A fresh state is saved as it was made."""
    live = begin(ScriptRun(SIMPLE), saved=False)
    assert live.change() is not None


def test_a_run_that_changes_nothing_pickles_once(count_dumps: Callable[[], int]) -> None:
    """And once more where the script itself defines a class: a callback may have put in one of the run before."""
    script = "from collections import OrderedDict as State"
    for source, pickles in ((script, 1), (SIMPLE, 2)):
        live = begin(ScriptRun(source))
        before = count_dumps()
        go_on(live, ScriptRun(source))
        assert live.change() is None
        assert count_dumps() == before + pickles


def test_what_can_not_be_pickled_is_refused_at_once() -> None:
    """From the factory, and later."""
    run = ScriptRun(SIMPLE)
    live = begin(run)
    live.obj.log["f"] = lambda: 1
    with pytest.raises(UnpicklableError, match=r"State\.log\['f'\]"):
        live.change()
    with pytest.raises(UnpicklableError):
        begin(run, live.obj)


def test_is_untouched_until_something_changes() -> None:
    """In the object, or on another way."""
    run = ScriptRun(RICH)
    live = begin(run, saved=False)
    assert live.is_untouched()
    live.obj.count += 1
    assert not live.is_untouched()


def test_the_size_is_that_of_what_was_last_loaded_or_saved() -> None:
    """In bytes of its pickle."""
    live = begin(ScriptRun(SIMPLE))
    size = live.size
    live.obj.items = ["x" * 1000]
    assert live.size == size
    pickled = live.change()
    assert pickled is not None
    live.note_saved(pickled)
    assert live.size >= size + 1000


# --- objects that were the live one


def copied() -> tuple[Live, Any, Any, ScriptRun, ScriptRun]:
    """Return a live object that was copied once, the earlier and the later object, and their runs."""
    first, second = ScriptRun(RICH), ScriptRun(RICH)
    live = begin(first)
    live.obj.items = [first.Item(1)]
    earlier = live.obj
    later = go_on(live, second)
    assert later is not earlier
    pickled = live.change()
    assert pickled is not None
    live.note_saved(pickled)
    return live, earlier, later, first, second


def test_a_late_change_of_an_earlier_object_is_brought_in() -> None:
    """It is saved with the rest, in this run's classes, and brought in once."""
    live, earlier, later, first, second = copied()
    earlier.items.append(first.Item(2))
    earlier.count = 7
    later.items.append(second.Item(3))
    assert live.change() is not None
    assert live.obj is later
    assert [item.n for item in later.items] == [1, 2, 3]
    assert {type(item) for item in later.items} == {second.Item}
    assert later.count == 7
    live.absorb()
    assert [item.n for item in later.items] == [1, 2, 3]


def test_a_late_change_is_brought_in_at_the_next_run_too() -> None:
    """Before anything is copied."""
    live, earlier, _, _, _ = copied()
    earlier.count = 7
    assert go_on(live, ScriptRun(RICH)).count == 7
    assert live.change() is not None


def test_changes_of_several_earlier_objects_are_brought_in() -> None:
    """While their runs last."""
    runs = [ScriptRun(RICH) for _ in range(6)]
    live = begin(runs[0])
    live.obj.items = [runs[0].Item()]
    objects = [live.obj]
    objects += [go_on(live, run) for run in runs[1:]]
    for n, obj in enumerate(objects):
        obj.log[f"n{n}"] = n
    assert live.change() is not None
    assert live.obj.log == {f"n{n}": n for n in range(6)}


def test_when_a_run_has_drawn_all_earlier_objects_are_let_go() -> None:
    """No widget of an earlier run is left; a tab that lives long does not pile them up."""
    live = begin(ScriptRun(RICH))
    live.obj.items = [ScriptRun(RICH).Item()]
    seen = []
    for _ in range(20):
        seen.append(weakref.ref(live.obj))
        run = ScriptRun(RICH)
        go_on(live, run)
        live.forget_before(run.mark)
        del run
        gc.collect()
    assert sum(obj() is not None for obj in seen) == 0


def test_what_a_run_that_is_not_over_holds_stays() -> None:
    """Though a newer run has drawn everything."""
    live, earlier, _, _, second = copied()
    live.forget_before(second.mark)
    earlier.count = 9
    live.absorb()
    assert live.obj.count == 9


@pytest.mark.parametrize("interrupted", [1, 10])
def test_the_callback_of_a_widget_that_was_not_drawn_again_is_heard(interrupted: int) -> None:
    """The runs in between were interrupted before they came to that widget."""
    live = begin(ScriptRun(RICH))
    live.obj.items = [ScriptRun(RICH).Item()]
    held = live.obj
    for count in range(interrupted):
        go_on(live, ScriptRun(RICH))
        gc.collect()
        held.count += 1
        live.absorb()
        assert live.obj.count == count + 1
    run = ScriptRun(RICH)
    go_on(live, run)
    live.forget_before(run.mark)
    assert not live.holds(held)


def test_of_runs_that_all_interrupt_each_other_the_last_32_are_heard() -> None:
    """A visitor who never lets a run come to its end piles up no more objects than that."""
    live = begin(ScriptRun(RICH))
    live.obj.items = [ScriptRun(RICH).Item()]
    objects = [live.obj, *(go_on(live, ScriptRun(RICH)) for _ in range(39))]
    go_on(live, ScriptRun(RICH))
    assert [live.holds(obj) for obj in objects] == [False] * 8 + [True] * 32


def test_of_two_changes_of_one_value_the_newer_runs_wins(caplog: pytest.LogCaptureFixture) -> None:
    """A WARNING names the field, not the value."""
    live, earlier, later, _, _ = copied()
    earlier.count, later.count = 111, 222
    with caplog.at_level(logging.WARNING):
        live.absorb()
    assert live.obj.count == 222
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "State.count" in record.message
    assert "111" not in record.message
    assert "222" not in record.message


def test_a_late_change_that_can_not_be_pickled_is_lost_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """It does not stop the newer run, once and for all."""
    live, earlier, later, _first, _second = copied()
    later.count = 1
    earlier.log["f"] = lambda: 1
    assert live.change() is not None
    assert live.change() is not None
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "State.log" in record.message


def test_a_broken_earlier_object_among_several_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever its `__eq__` does."""
    source = RICH + "\n    def __eq__(self, other):\n        raise ValueError\n    __hash__ = None\n"
    source = source.replace("class State:", "class State:\n    def __eq__(self, other):\n        raise ValueError\n")
    runs = [ScriptRun(source) for _ in range(4)]
    live = begin(runs[0])
    live.obj.items = [runs[0].Item()]
    objects = [live.obj, *(go_on(live, run) for run in runs[1:])]
    objects[2].log["f"] = lambda: 1
    objects[1].count = 4
    live.absorb()
    assert live.obj.count == 4
    assert len(caplog.records) == 1


def test_a_forgotten_object_is_not_heard() -> None:
    """Its run failed: what it changed is thrown away."""
    live, earlier, _, _, _ = copied()
    earlier.count = 7
    live.forget(earlier)
    assert live.change() is None
    assert not live.holds(earlier)


def test_holds_knows_the_live_object_and_earlier_ones() -> None:
    """By identity."""
    live, earlier, later, first, _ = copied()
    assert live.holds(earlier)
    assert live.holds(later)
    assert not live.holds(first.State())


def test_a_change_of_an_earlier_object_counts() -> None:
    """Someone may hold and change that."""
    first, second = ScriptRun(RICH), ScriptRun(RICH)
    live = begin(first)
    live.obj.items = [first.Item()]
    fresh = begin(first, live.obj, saved=False)
    old = fresh.obj
    go_on(fresh, second)
    assert fresh.is_untouched()
    old.count = 1
    assert not fresh.is_untouched()


def test_a_change_before_a_copy_counts() -> None:
    """The copy's baseline is its own."""
    first, second = ScriptRun(RICH), ScriptRun(RICH)
    live = begin(first)
    live.obj.items = [first.Item()]
    go_on(live, second)
    assert not live.is_untouched()


# --- what was saved elsewhere


def test_rebase_brings_in_what_the_record_holds() -> None:
    """The object stays, the change is due to be saved, and a field changed twice is named."""
    run = ScriptRun(RICH)
    live = begin(run)
    obj = live.obj
    obj.count, obj.log = 1, {"mine": 1}
    theirs = run.State()
    theirs.count, theirs.items = 2, [run.Item(5)]
    assert live.rebase(begin(run, theirs)) == ["State.count"]
    assert live.obj is obj
    assert (obj.count, [item.n for item in obj.items], obj.log) == (1, [5], {"mine": 1})
    assert live.change() is not None


def test_after_a_rebase_the_record_is_the_base() -> None:
    """So that the next conflict knows what is new."""
    run = ScriptRun(RICH)
    live = begin(run)
    live.obj.items.append(1)
    theirs = run.State()
    theirs.items.append(2)
    live.rebase(begin(run, theirs))
    theirs = run.State()
    theirs.items += [2, 3]
    live.rebase(begin(run, theirs))
    assert live.obj.items == [2, 3, 1]
