"""Merging: what both sides did is there, each field is one side's, and nothing gets lost unsaid."""

from __future__ import annotations

import copy
import gc
import time
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from persist_session.objects.merge import merge
from persist_session.objects.sameness import same
from support.script import ScriptRun

RUN = ScriptRun("""
    from dataclasses import dataclass, field
    from enum import Enum
    import numpy as np
    import pydantic

    class Color(Enum):
        RED = 1
        BLUE = 2

    class State:
        def __init__(self, **values):
            self.__dict__.update(values)

    class Slots:
        __slots__ = ("__private", "other")
        def __init__(self):
            self.__private, self.other = 0, 0
        def set(self, value):
            self.__private = value
        def get(self):
            return self.__private

    class SameId:
        def __init__(self, id, done=False):
            self.id, self.done = id, done
        def __eq__(self, other):
            return self.id == other.id
        def __hash__(self):
            return hash(self.id)

    @dataclass
    class Item:
        n: int = 0
        note: str = field(default="", compare=False)
        parent: object = None

    @dataclass(frozen=True)
    class Frozen:
        n: int = 0
        m: int = 0

    @dataclass
    class Pair:
        left: object = None
        right: object = None

    class Model(pydantic.BaseModel):
        n: int = 0
        m: int = 0
        tags: list[str] = []

    class Words(dict):
        pass

    class Tagged(set):
        pass

    class Grid(np.ndarray):
        pass

    class Refusing:
        def __eq__(self, other):
            raise ValueError("no")
        __hash__ = None
""")
State, Item = RUN.State, RUN.Item


def merged(base: Any, mine: Any, theirs: Any) -> tuple[Any, list[str]]:
    """Merge copies, as the three always are."""
    return merge(*copy.deepcopy((base,)), *copy.deepcopy((mine,)), *copy.deepcopy((theirs,)))


# --- fields


def test_each_side_keeps_its_changes() -> None:
    """Of objects in objects, dicts in objects and objects in dicts; new fields and removed ones, too."""
    base = State(a=1, b=1, inner=State(c=1, d=1), by={"k": State(e=1, f=1)}, gone=1, out=1)
    mine = State(a=2, b=1, inner=State(c=2, d=1), by={"k": State(e=2, f=1)}, out=1, mine=1)
    theirs = State(a=1, b=2, inner=State(c=1, d=2), by={"k": State(e=1, f=2), "new": 1}, gone=1, theirs=1)
    result, lost = merged(base, mine, theirs)
    wanted = State(a=2, b=2, inner=State(c=2, d=2), by={"k": State(e=2, f=2), "new": 1}, mine=1, theirs=1)
    assert same(result, wanted)
    assert lost == []


def test_mine_is_changed_in_place() -> None:
    """Whoever holds it, or a part of it, sees the result."""
    mine = State(inner=State(c=1), by={"k": 1})
    inner, by = mine.inner, mine.by
    result, _ = merge(State(inner=State(c=1), by={"k": 1}), mine, State(inner=State(c=2), by={"k": 2}))
    assert result is mine
    assert inner.c == 2
    assert by == {"k": 2}


def test_theirs_and_base_stay() -> None:
    """They are compared, not changed."""
    base, theirs = State(a=1, items=[1]), State(a=2, items=[1, 2])
    before = copy.deepcopy((base, theirs))
    merge(base, State(a=1, items=[1, 3]), theirs)
    assert same((base, theirs), before)


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "path"),
    [
        (State(a=1), State(a=2), State(a=3), "State.a"),
        (State(a=1), State(), State(a=3), "State.a"),
        (State(a=1), State(a=2), State(), "State.a"),
        (State(), State(a=2), State(a=3), "State.a"),
        ({"a": State(b=1)}, {"a": State(b=2)}, {"a": State(b=3)}, "dict[key 1].b"),
        ({"my words": 1}, {"my words": 2}, {"my words": 3}, "dict[key 1]"),
        ({0: 0, 1: 1}, {0: 0, 1: 2}, {0: 0, 1: 3}, "dict[key 2]"),
        ({1: 1, 0: 0}, {0: 0}, {1: 2, 0: 0}, "dict[new key]"),
        (State(a=[1, 2]), State(a=[2]), State(a=[1, 3]), "State.a"),
        (State(a=[1]), State(a=[2, 3]), State(a=[1, 4]), "State.a"),
        (State(a=(1,)), State(a=(1, 2)), State(a=(1, 3)), "State.a"),
        (State(a=RUN.Frozen(1)), State(a=RUN.Frozen(2)), State(a=RUN.Frozen(1, 2)), "State.a"),
        (State(a=RUN.Color.RED), State(a=RUN.Color.BLUE), State(a=None), "State.a"),
        (State(a=1), State(a=True), State(a=1.0), "State.a"),
        (1, 2, 3, "int"),
    ],
)
def test_mine_wins_and_says_so(base: Any, mine: Any, theirs: Any, path: str) -> None:
    """The path names the field; of a dict only the place of the key, which may be a visitor's own words."""
    result, lost = merged(base, mine, theirs)
    assert same(result, mine)
    assert lost == [path]


def test_the_same_change_is_no_conflict() -> None:
    """Nothing of it is lost."""
    assert merged(State(a="", b=[1]), State(a="x", b=[1, 2]), State(a="x", b=[1, 2]))[1] == []


def test_equal_numbers_may_be_increments() -> None:
    """Of which one is lost; but not where nothing was counted, or a fresh state meets a saved one."""
    assert merged({"n": 1}, {"n": 2}, {"n": 2}) == ({"n": 2}, ["dict[key 1]"])
    assert merged({}, {"n": 1.5}, {"n": 1.5}) == ({"n": 1.5}, ["dict[key 1]"])
    assert merged({}, {"n": 0}, {"n": 0}) == ({"n": 0}, [])
    assert merged({"n": 1}, {"n": True}, {"n": True}) == ({"n": True}, [])
    assert merge({"n": 1}, {"n": 2}, {"n": 2}, theirs_win=True) == ({"n": 2}, [])


def test_slots_are_merged_private_ones_too() -> None:
    """They go by their real names."""
    base, mine, theirs = RUN.Slots(), RUN.Slots(), RUN.Slots()
    mine.other = 1
    theirs.set(2)
    result, lost = merge(base, mine, theirs)
    assert (result.other, result.get(), lost) == (1, 2, [])


def test_pydantic_models_are_merged_by_field() -> None:
    """They stay whole."""
    result, lost = merged(RUN.Model(), RUN.Model(n=1, tags=["a"]), RUN.Model(m=2))
    assert (result.n, result.m, result.tags, lost) == (1, 2, ["a"], [])
    assert result.model_dump() == {"n": 1, "m": 2, "tags": ["a"]}


def test_own_dicts_have_keys_and_attributes() -> None:
    """Neither of the two hides the other."""
    base, mine, theirs = (RUN.Words(a=1, b=1) for _ in range(3))
    base.x = mine.x = 1
    mine["a"], theirs["b"], theirs.x = 2, 2, 2
    result, lost = merge(base, mine, theirs)
    assert (result, result.x, lost) == ({"a": 2, "b": 2}, 2, [])


# --- lists and sets


def test_what_both_appended_is_kept() -> None:
    """Theirs, which is saved already, comes first."""
    assert merged([1], [1, 2], [1, 3, 4]) == ([1, 3, 4, 2], [])


def test_a_shared_list_gets_it_once() -> None:
    """It is one list, so it is merged once."""
    base, mine, theirs = (State(a=items, b=items) for items in ([1], [1, 2], [1, 3]))
    result, lost = merge(base, mine, theirs)
    assert result.a is result.b
    assert (result.a, lost) == ([1, 3, 2], [])


def test_sets_follow_both_sides() -> None:
    """Each member is added or removed by itself."""
    assert merged({1, 2, 3}, {1, 2, 4}, {2, 3, 5}) == ({2, 4, 5}, [])


def test_members_are_not_doubled() -> None:
    """A copy's members are others than the original's: they are paired by what they hold."""
    base, mine, theirs = (State(items={State(n=1), State(n=2)}, by={State(n=3): 1, (State(n=5), 1): 1}) for _ in "abc")
    mine.n = 1
    theirs.items.add(State(n=4))
    theirs.by[next(iter(theirs.by))] = 2
    result, lost = merge(base, mine, theirs)
    assert sorted(item.n for item in result.items) == [1, 2, 4]
    assert sorted(result.by.values()) == [1, 2]
    assert lost == []


# --- structures


def test_a_cycle_is_merged() -> None:
    """Parents that know their children, which know their parents."""

    def family(n: int, m: int) -> Any:
        parent = State(n=n)
        parent.child = State(parent=parent, m=m)
        return parent

    result, lost = merge(family(0, 0), family(1, 0), family(0, 1))
    assert (result.n, result.child.m, lost) == (1, 1, [])
    assert result.child.parent is result


def test_shared_objects_are_merged_once() -> None:
    """Forty levels with two ways each are 2 ** 40 ways."""

    def diamond(n: int) -> Any:
        node = Item(n)
        for _ in range(40):
            node = RUN.Pair(node, node)
        return node

    assert same(diamond(1), diamond(1))
    assert not same(diamond(1), diamond(2))
    assert len(merge(diamond(1), diamond(2), diamond(3))[1]) == 1
    assert merge(diamond(1), diamond(1), diamond(3))[1] == []


def chain(n: int, length: int) -> Any:
    """Objects in objects."""
    node = State(n=n)
    for _ in range(length):
        node = State(next=node)
    return node


def test_what_is_nested_deeply_is_merged() -> None:
    """Deeper than Python functions can call each other; the message names the end of the way."""
    result, lost = merge(chain(1, 5000), chain(2, 5000), chain(3, 5000))
    for _ in range(5000):
        result = result.next
    assert result.n == 2
    assert lost == ["State..." + ".next" * 12 + ".n"]


def test_what_is_too_deep_is_mine() -> None:
    """Where two new objects are too deep to be compared: it is no reason to fail a save."""

    def tower(n: int) -> list[Any]:
        inner: list[Any] = [n]
        for _ in range(2000):
            inner = [inner]
        return inner

    mine = State(a=tower(2))
    result, lost = merge(State(a=None), mine, State(a=tower(3)))
    assert result is mine
    assert lost == ["State"]


def test_depth_does_not_explode_the_time() -> None:
    """Each level is compared once, not once for every level above it."""

    def spent(depth: int) -> float:
        def tower(n: int) -> Any:
            node: Any = {"n": n}
            for _ in range(depth):
                node = {"inner": node, "items": list(range(200))}
            return node

        three = tower(1), tower(2), tower(3)
        start = time.process_time()
        merge(*three)
        return time.process_time() - start

    gc.collect()
    gc.disable()  # a collection looks at all that the tests before have left
    try:
        assert min(spent(160) for _ in range(3)) < 40 * max(min(spent(10) for _ in range(3)), 1e-4)
    finally:
        gc.enable()


# --- what counts as the same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Item(1, "a"), Item(1, "b")),
        (RUN.SameId(1), RUN.SameId(1, done=True)),
        (np.array([]), np.array([1.0])),
        (np.array([[1, 1], [1, 1]]), np.array([1, 1])),
        (np.array([1]), np.array([1.0])),
        (np.array([1]), 1),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]})),
        (1, True),
        (1, 1.0),
        ([1], (1,)),
        ({"a": 1}, {"a": 1, "b": 1}),
        (State(a=1), State(b=1)),
        (State(), Item()),
        (float("nan"), 1.0),
        (np.array([RUN.Refusing()]), np.array([RUN.Refusing()])),
    ],
)
def test_these_differ(one: Any, other: Any) -> None:
    """Whatever an `__eq__` of the app, or numpy's stretching, says."""
    assert not same(one, other)


def test_foreign_storage_counts_too() -> None:
    """A set with an attribute, an array with one."""
    one, other = RUN.Tagged([1]), RUN.Tagged([2])
    one.tag = other.tag = 1
    assert not same(one, other)
    other = RUN.Tagged([1])
    other.tag = 2
    assert not same(one, other)
    other.tag = 1
    assert same(one, other)
    grids = [np.array([n]).view(RUN.Grid) for n in (1, 2, 3)]
    for grid in grids:
        grid.tag = 1
    assert not same(grids[0], grids[1])
    assert merge(*grids) == (grids[1], ["Grid"])


def test_attributes_of_containers_count() -> None:
    """A dict with an attribute."""
    one, other = RUN.Words(a=1), RUN.Words(a=1)
    assert same(one, other)
    one.x, other.x = 1, 2
    assert not same(one, other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: float("nan"),
        lambda: np.array([1.0, np.nan]),
        lambda: np.array([], dtype=object),
        lambda: pd.DataFrame({"a": [1, None]}),
        lambda: {"a": [State(b=(1, Item(2)))], 1: {2, 3}},
        lambda: RUN.Model(tags=["a"]),
        lambda: b"",
    ],
)
def test_equal_values_are_the_same(make: Any) -> None:
    """Also where `==` says that what is no number is not even equal to itself."""
    assert same(make(), make())


def test_what_is_no_number_stays() -> None:
    """An unchanged NaN is no change of mine."""
    result, lost = merge(*(State(a=np.array([np.nan]), b=float("nan"), c=c) for c in (1, 1, 2)))
    assert (result.c, lost) == (2, [])
    result, lost = merge(State(a=float("nan")), State(a=float("nan")), State(a=2))
    assert (result.a, lost) == (2, [])


def test_a_frame_is_one_value() -> None:
    """Half a frame is none."""
    frames = [pd.DataFrame({"a": [n]}) for n in (1, 1, 2)]
    result, lost = merge(*(State(frame=frame) for frame in frames))
    assert same(result.frame, frames[2])
    assert lost == []


# --- laws

# Machines that many share are slow at times: that is no error.
BOUNDED = settings(max_examples=40)

leaves = st.one_of(st.integers(0, 3), st.booleans(), st.text("ab", max_size=2), st.none())
names = st.sampled_from(["a", "b", "c", "d"])
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(names, inner, max_size=4),
        st.dictionaries(names, inner, max_size=4).map(lambda values: State(**values)),
        st.sets(st.integers(0, 3), max_size=3),
        st.builds(Item, inner, st.text("ab", max_size=2)),
        st.builds(RUN.Frozen, inner),
    ),
    max_leaves=12,
)
states = st.dictionaries(names, trees, max_size=4).map(lambda values: State(**values))


@BOUNDED
@given(states, states)
def test_if_they_changed_nothing_mine_stays(base: Any, mine: Any) -> None:
    """Compared by value and as an object."""
    kept = copy.deepcopy(mine)
    result, lost = merge(base, mine, copy.deepcopy(base))
    assert result is mine
    assert same(result, kept)
    assert lost == []


@BOUNDED
@given(trees, trees)
def test_untouched_mine_takes_theirs(base: Any, theirs: Any) -> None:
    """Compared by value."""
    result, lost = merge(base, copy.deepcopy(base), copy.deepcopy(theirs))
    assert same(result, theirs)
    assert lost == []


@BOUNDED
@given(trees, trees)
def test_the_same_change_is_taken_once(base: Any, change: Any) -> None:
    """Whatever it was; what was appended to a list comes twice where neither side is the first."""
    result, lost = merge(base, copy.deepcopy(change), copy.deepcopy(change), theirs_win=True)
    assert same(result, change)
    assert lost == []


@BOUNDED
@given(states, st.dictionaries(names, trees), st.dictionaries(names, trees))
def test_changes_of_different_fields_commute(base: Any, one: dict[str, Any], other: dict[str, Any]) -> None:
    """Whoever saves first, the result is the same, and nothing is lost."""
    assume(not one.keys() & other.keys())
    first, second = copy.deepcopy(base), copy.deepcopy(base)
    vars(first).update(copy.deepcopy(one))
    vars(second).update(copy.deepcopy(other))
    assume(vars(first) and vars(second))
    there, lost = merged(base, first, second)
    back, lost_too = merged(base, second, first)
    assert same(there, back)
    assert lost == lost_too == []


@BOUNDED
@given(st.lists(trees, max_size=4), st.lists(trees, max_size=3), st.lists(trees, max_size=3))
def test_no_appended_element_is_ever_lost(base: list[Any], mine: list[Any], theirs: list[Any]) -> None:
    """All of the base, all of theirs, all of mine, in this order; unless both appended the same."""
    assume(not same(mine, theirs))
    result, lost = merged(base, base + mine, base + theirs)
    assert same(result, base + theirs + mine)
    assert lost == []


@BOUNDED
@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_a_set_follows_changed_members(base: set[int], mine: set[int], theirs: set[int]) -> None:
    """Of each member one side at most can have changed whether it is there."""
    result, lost = merged(base, mine, theirs)
    assert lost == []
    assert all((n in result) == ((n in theirs) if (n in mine) == (n in base) else (n in mine)) for n in range(10))


@BOUNDED
@given(trees, trees)
def test_same_is_symmetric_and_knows_copies(one: Any, other: Any) -> None:
    """A deep copy is the same."""
    assert same(one, copy.deepcopy(one))
    assert same(one, other) == same(other, one)


@BOUNDED
@given(trees, trees, trees)
def test_whatever_is_missing_is_said(base: Any, mine: Any, theirs: Any) -> None:
    """A merge without a loss, merged once more with theirs as the base, changes nothing any more."""
    result, lost = merged(base, mine, theirs)
    if not lost and type(result) is State:
        again, lost_again = merge(copy.deepcopy(theirs), copy.deepcopy(result), copy.deepcopy(theirs))
        assert same(again, result)
        assert lost_again == []


def test_two_equal_messages_are_two_messages() -> None:
    """What both sides appended stays twice, even if it says the same."""
    assert merge(["a"], ["a", "hi"], ["a", "hi"]) == (["a", "hi", "hi"], [])


def test_theirs_may_win() -> None:
    """Where both changed one value; everything else is merged as always."""
    merged, both = merge({"n": 0, "l": []}, {"n": 1, "l": [1]}, {"n": 2, "l": [2]}, theirs_win=True)
    assert merged == {"n": 2, "l": [2, 1]}
    assert both == ["dict[key 1]"]


def test_a_scripts_greeting_comes_once() -> None:
    """The greeting of a chat stands in the saved list already; what the visitor wrote comes after that list."""
    merged, both = merge([], ["hello", "new"], ["hello", "old"], theirs_win=True)
    assert (merged, both) == (["hello", "old", "new"], [])


def test_numbers_with_one_hash_differ() -> None:
    """-1 and -2 have: a change from one to the other is none the less a change."""
    result, lost = merge(State(n=-1, a=[1], b=State()), State(n=-1, a=[1, 2], b=State()), State(n=-2, a=[1], b=State()))
    assert (result.n, result.a, lost) == (-2, [1, 2], [])
