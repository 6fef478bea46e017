"""The live object: one object for all runs of a tab where that can be, a faithful copy where it can't."""

from __future__ import annotations

import gc
import logging
import types
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from persist_session.objects import live as live_module
from persist_session.objects.classes import UnrestorableError
from persist_session.objects.live import Live
from persist_session.objects.pickling import Pickled, UnpicklableError, dumps
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


def begin(run: ScriptRun, obj: Any = None) -> Live:
    """The live object of a run: a fresh state, or another object."""
    obj = run.State() if obj is None else obj
    return Live(obj, run.caller(run.State))


def go_on(live: Live, run: ScriptRun) -> Any:
    """Bring the live object over into the next run and return it."""
    live.bring_over(run.caller(run.State))
    return live.obj


@pytest.fixture
def count_dumps(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """A function that tells how often an object was pickled."""
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
def test_one_class_keeps_the_object(source: str, count_dumps: Callable[[], int]) -> None:
    """Where only the state's is the script's, it becomes one of this run's; one pickle tells that this is enough."""
    first, second = ScriptRun(source), ScriptRun(source)
    live = begin(first)
    obj, before = live.obj, count_dumps()
    assert go_on(live, second) is obj
    assert type(obj) is second.State
    assert count_dumps() == before + 1


def test_a_callback_changes_the_same_object() -> None:
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


def test_several_classes_make_a_copy() -> None:
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


def test_a_tree_is_a_copy() -> None:
    """All of its nodes are of this run's class, not only the root."""
    first, second = ScriptRun(SIMPLE), ScriptRun(SIMPLE)
    state = first.State()
    state.items.append(first.State())
    live = begin(first, state)
    obj = go_on(live, second)
    assert type(obj) is type(obj.items[0]) is second.State


def test_a_callbacks_tree_is_a_copy() -> None:
    """The first other instance of the state's own class came in after the object was last pickled."""
    first, second = ScriptRun(SIMPLE), ScriptRun(SIMPLE)
    live = begin(first)
    live.obj.items.append(first.State())
    assert type(go_on(live, second).items[0]) is second.State


def test_a_runs_tree_is_a_copy() -> None:
    """What the last save saw counts."""
    first, second = ScriptRun(SIMPLE), ScriptRun(SIMPLE)
    live = begin(first)
    live.obj.items.append(first.State())
    assert live.change() is not None
    obj = go_on(live, second)
    assert type(obj) is type(obj.items[0]) is second.State


def test_what_callbacks_put_in_is_adapted() -> None:
    """The callback is a function of the run before, and so is the class that it knows."""
    first, second = ScriptRun(RICH), ScriptRun(RICH)
    live = begin(first)
    live.change()
    live.obj.items.append(first.Item(1))
    assert type(go_on(live, second).items[0]) is second.Item


def loaded_anew() -> ScriptRun:
    """A run of a script that imported a module after it had changed."""
    module = types.ModuleType("states")
    exec("class Item: pass", vars(module))
    return ScriptRun("", Item=module.Item)


def test_a_reloaded_modules_instance_is_adapted() -> None:
    """The first instance of an imported class came in after the object was last pickled."""
    first, second = loaded_anew(), loaded_anew()
    live = Live([], first.caller(list))
    live.obj.append(first.Item())
    live.bring_over(second.caller(list))
    assert [type(item) for item in live.obj] == [second.Item]


@pytest.mark.parametrize("load", [loaded_anew, lambda: ScriptRun("class Item: pass\nclass Other: pass")])
def test_a_late_run_has_its_own(load: Callable[[], ScriptRun]) -> None:
    """It puts nothing of its classes into the next run's object; what its own one gets is merged in."""
    first, second = load(), load()
    live = Live([], first.caller(list))
    old = live.obj
    live.bring_over(second.caller(list))
    old.append(first.Item())
    assert live.obj == []
    live.absorb()
    assert [type(item) for item in live.obj] == [second.Item]


def test_two_runs_classes_become_one() -> None:
    """However they came in."""
    first, second, third = (ScriptRun(RICH) for _ in range(3))
    live = begin(first)
    obj = go_on(live, second)
    obj.items = [first.Item(1), second.Item(2)]
    live.change()
    assert {type(item) for item in go_on(live, third).items} == {third.Item}


def test_another_layout_takes_a_copy() -> None:
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
def test_a_gained_attribute_is_filled_in(source: str) -> None:
    """At the next run, with and without a copy; and once only."""
    live = begin(ScriptRun(source))
    live.obj.count = 3
    grown = source.replace("self.count = 0", "self.count = 0\n        self.new = []")
    obj = go_on(live, ScriptRun(grown))
    assert (obj.count, obj.new) == (3, [])
    del obj.new
    assert not hasattr(go_on(live, ScriptRun(grown)), "new")


def test_a_missing_class_is_unrestorable() -> None:
    """The state's own, or one inside of it."""
    for source in ("def State(): ...", "State = list", SIMPLE):
        first = ScriptRun(RICH)
        state = first.State()
        state.items.append(first.Item())
        live = begin(first, state)
        with pytest.raises(UnrestorableError):
            go_on(live, ScriptRun(source))


def test_an_unneeded_class_may_be_missing() -> None:
    """Its last instance was removed before."""
    first = ScriptRun(RICH)
    state = first.State()
    state.items.append(first.Item())
    live = begin(first, state)
    state.items.clear()
    assert go_on(live, ScriptRun(SIMPLE)).items == []


def test_a_refusing_class_is_unrestorable() -> None:
    """The app's own error is not quoted."""
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


def test_an_idle_run_pickles_once(count_dumps: Callable[[], int]) -> None:
    """And once more where the script itself defines a class: a callback may have put in one of the run before."""
    script = "from collections import OrderedDict as State"
    for source, pickles in ((script, 1), (SIMPLE, 2)):
        live = begin(ScriptRun(source))
        before = count_dumps()
        go_on(live, ScriptRun(source))
        assert live.change() is None
        assert count_dumps() == before + pickles


def test_the_unpicklable_is_refused_at_once() -> None:
    """From the factory, and later."""
    run = ScriptRun(SIMPLE)
    live = begin(run)
    live.obj.log["f"] = lambda: 1
    with pytest.raises(UnpicklableError, match=r"State\.log\[key 1\]"):
        live.change()
    with pytest.raises(UnpicklableError):
        begin(run, live.obj)


def test_the_size_is_the_saved_ones() -> None:
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
    """A live object that was copied once, the earlier and the later object, and their runs."""
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


def test_a_late_change_is_merged_in() -> None:
    """Of an earlier object: it is saved with the rest, in this run's classes, and merged in once."""
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


def test_the_next_run_hears_it_too() -> None:
    """Before anything is copied."""
    live, earlier, _, _, _ = copied()
    earlier.count = 7
    assert go_on(live, ScriptRun(RICH)).count == 7
    assert live.change() is not None


def test_several_earlier_objects_are_heard() -> None:
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


def test_the_newer_runs_change_wins(caplog: pytest.LogCaptureFixture) -> None:
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


def test_an_unpicklable_late_change_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """It does not stop the newer run, once and for all."""
    live, earlier, later, _first, _second = copied()
    later.count = 1
    earlier.log["f"] = lambda: 1
    assert live.change() is not None
    assert live.change() is not None
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "State.log[key 1]" in record.message


def test_a_broken_earlier_object_goes(caplog: pytest.LogCaptureFixture) -> None:
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


def test_holds_knows_earlier_objects() -> None:
    """By identity."""
    live, earlier, later, first, _ = copied()
    assert live.holds(earlier)
    assert live.holds(later)
    assert not live.holds(first.State())


# --- who holds an earlier object


def copies(count: int, source: str = RICH) -> tuple[Live, list[weakref.ref[Any]]]:
    """A live object after this many copies, each by a run that is over, and the objects before it."""
    live = begin(ScriptRun(source))
    live.obj.items = [ScriptRun(source).Item()]
    earlier = []
    for _ in range(count):
        earlier.append(weakref.ref(live.obj))
        go_on(live, ScriptRun(source))
    gc.collect()
    return live, earlier


def test_the_newest_two_are_held() -> None:
    """A callback may hold only a part of them; all others go as soon as nobody else holds them."""
    _, earlier = copies(20)
    assert [reference() is not None for reference in earlier] == [False] * 18 + [True] * 2


def test_who_holds_a_part_is_heard() -> None:
    """As one that closed over a list of the state in the run before."""
    live = begin(ScriptRun(RICH))
    live.obj.items = [ScriptRun(RICH).Item()]
    log = live.obj.log
    for count in range(2):
        go_on(live, ScriptRun(RICH))
        gc.collect()
        log[str(count)] = count
        live.absorb()
        assert live.obj.log == {str(n): n for n in range(count + 1)}


def test_a_held_object_is_heard_long() -> None:
    """The widget of an interrupted run, say, which the runs after it did not draw again; the newest 16 of such."""
    live = begin(ScriptRun(RICH))
    live.obj.items = [ScriptRun(RICH).Item()]
    held = []
    for _ in range(20):
        held.append(live.obj)
        go_on(live, ScriptRun(RICH))
    assert [live.holds(obj) for obj in held] == [False] * 4 + [True] * 16
    held[4].count += 1
    live.absorb()
    assert live.obj.count == 1


@pytest.mark.parametrize("is_held", [False, True])
def test_a_held_list_is_told(is_held: bool, caplog: pytest.LogCaptureFixture) -> None:
    """No weak reference to a list or dict can be made: where the app still holds an older one, a WARNING says so."""
    live = begin(ScriptRun("State = list\nclass Item: pass"), [])
    held: list[Any] = []
    for _ in range(4):
        run = ScriptRun("State = list\nclass Item: pass")
        live.obj[:] = [live.caller.view.find("__main__", "Item")()]
        if is_held and not held:
            held.append(live.obj)
        go_on(live, run)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * is_held
    assert "list" in caplog.text or not is_held


def test_a_held_object_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """One of an own class is heard as long as anybody holds it, so nothing is to be said."""
    live = begin(ScriptRun(RICH))
    live.obj.items = [ScriptRun(RICH).Item()]
    held = live.obj
    for _ in range(4):
        go_on(live, ScriptRun(RICH))
    assert live.holds(held)
    assert not caplog.records


# --- pickles that change by themselves

RESTLESS = """
class Figure:
    def __init__(self):
        self.drawn = 0
    def __getstate__(self):
        self.drawn += 1
        return {"drawn": min(self.drawn, 2)}

class State:
    def __init__(self):
        self.figure, self.count = Figure(), 0
"""


def test_pickling_itself_is_no_change() -> None:
    """A figure that notes that it was pickled, for instance, is not written at every run."""
    live = begin(ScriptRun(RESTLESS))
    assert dumps(live.obj).data != live.base
    assert live.change() is None
    assert live.change() is None
    go_on(live, ScriptRun(RESTLESS))
    assert live.change() is None


def test_a_restless_state_can_change() -> None:
    """What the app changes beside it is seen all the same."""
    live = begin(ScriptRun(RESTLESS))
    live.obj.count = 1
    pickled = live.change()
    assert pickled is not None
    live.note_saved(pickled)
    assert live.change() is None


def test_an_unchanged_state_is_pickled_once(count_dumps: Callable[[], int]) -> None:
    """The second pickle of the base is taken only where the object's own has changed."""
    live = begin(ScriptRun(SIMPLE))
    before = count_dumps()
    assert live.change() is None
    assert count_dumps() == before + 1


# --- what was saved elsewhere, and what is thrown away


def test_their_changes_are_merged_in() -> None:
    """The object stays, its own change is still to be saved, and a field that both changed is named."""
    run = ScriptRun(RICH)
    live = begin(run)
    obj = live.obj
    obj.count, obj.log = 1, {"mine": 1}
    theirs = run.State()
    theirs.count, theirs.items = 2, [run.Item(5)]
    assert live.merge(begin(run, theirs)) == ["State.count"]
    assert live.obj is obj
    assert (obj.count, [item.n for item in obj.items], obj.log) == (1, [5], {"mine": 1})
    assert live.change() is not None


def test_a_merge_is_the_next_base() -> None:
    """So that the next conflict knows what is new."""
    run = ScriptRun(RICH)
    live = begin(run)
    live.obj.items.append(1)
    for theirs in ([2], [2, 3]):
        state = run.State()
        state.items = theirs
        live.merge(begin(run, state))
    assert live.obj.items == [2, 3, 1]


def test_an_untouched_state_follows_theirs() -> None:
    """It becomes what the record holds, in place, and that is no change of its own."""
    run = ScriptRun(SIMPLE)
    live = begin(run)
    obj = live.obj
    theirs = run.State()
    theirs.count, theirs.items = 5, [1]
    live.follow(begin(run, theirs))
    assert live.obj is obj
    assert (obj.count, obj.items) == (5, [1])
    assert live.change() is None


def test_a_thrown_away_change_is_gone() -> None:
    """The object is a new one; what a callback still does to the old one is merged in."""
    live = begin(ScriptRun(SIMPLE))
    old = live.obj
    old.count = 7
    live.go_back(live.base)
    assert (live.obj.count, live.change()) == (0, None)
    old.items.append(1)
    live.absorb()
    assert (live.obj.count, live.obj.items) == (0, [1])


def test_a_part_may_be_taken_back() -> None:
    """What came from one pickle to the next one is undone, and what came then stays."""
    live = begin(ScriptRun(SIMPLE))
    before = dumps(live.obj).data
    live.obj.log["first"] = 1
    since = dumps(live.obj).data
    live.obj.log["then"] = 2
    live.take_back(before, since)
    assert live.obj.log == {"then": 2}
    assert live.change() is not None


def test_a_replacement_is_a_copy() -> None:
    """A shared object of the app's stays the app's (S22); what was live before is not heard any more."""
    run = ScriptRun(SIMPLE)
    live = begin(run)
    old, shared = live.obj, run.State()
    shared.count = 3
    live.replace(shared)
    assert live.obj is not shared
    assert live.obj.count == 3
    assert live.change() is not None
    assert not live.holds(old)
