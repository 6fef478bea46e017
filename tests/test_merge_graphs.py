"""Merging graphs: objects that are reached on several ways, and objects that know their owner."""

from __future__ import annotations

import copy
import itertools
import os
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persist_session.objects.graft import become
from persist_session.objects.merge import merge
from support.script import ScriptRun

RUN = ScriptRun("""
    class Thing:
        def __init__(self, **values):
            self.__dict__.update(values)

        def add(self, value):
            self.items.append(value)
""")
Thing = RUN.Thing

# The same examples each time, but for the long run: of an object that lies in lists alone, is edited on one side and
# added to one of them on the other, nobody can tell yet that it is the same.
GRAPHS = settings(
    max_examples=int(os.environ.get("MERGE_EXAMPLES", "60")), derandomize="MERGE_EXAMPLES" not in os.environ
)


# --- shapes: what is compared, identities included


def shape(root: Any) -> Any:
    """A description that two graphs share only if they are isomorphic, whatever their dicts' order."""
    numbers: dict[int, int] = {}

    def describe(obj: Any) -> Any:
        if not isinstance(obj, (Thing, dict, list, tuple)):
            return obj
        if isinstance(obj, tuple):
            return "tuple", [describe(each) for each in obj]
        if id(obj) in numbers:
            return "again", numbers[id(obj)]
        number = numbers[id(obj)] = len(numbers)
        if isinstance(obj, list):
            return "list", number, [describe(each) for each in obj]
        parts = obj if isinstance(obj, dict) else vars(obj)
        return type(obj).__name__, number, [(key, describe(parts[key])) for key in sorted(parts)]

    return describe(root)


# --- random graphs, and changes of them


@dataclass
class World:
    """How a graph is made: each object lies in a table, and refers to others by the way."""

    kinds: list[str]
    links: list[tuple[int, str, int]]
    root_links: list[tuple[str, int]] = field(default_factory=list)

    def build(self) -> Any:
        """A graph."""
        made = [_make(kind, number) for number, kind in enumerate(self.kinds)]
        for source, name, target in self.links:
            put(made[source % len(made)], name, made[target % len(made)])
        return Thing(
            table={str(n): each for n, each in enumerate(made)},
            **{name: made[target % len(made)] for name, target in self.root_links},
        )


def _make(kind: str, number: int) -> Any:
    return Thing(n=number) if kind == "thing" else {"n": number} if kind == "dict" else [number]


def put(obj: Any, name: str, value: Any) -> None:
    """Set a part, or append one."""
    if isinstance(obj, list):
        obj.append(value)
    elif isinstance(obj, dict):
        obj[name] = value
    else:
        setattr(obj, name, value)


def change(root: Any, changes: list[tuple[str, int, str, int]], side: str, *, parity: int | None = None) -> None:
    """Carry out changes; with `parity`, only of those objects whose number is even, or odd."""
    count = len([key for key in root.table if key.isdigit()])
    for number, (what, source, name, value) in enumerate(changes):
        obj = root.table.get(str(source % count))
        if obj is not None and (parity is None or source % count % 2 == parity):
            _change(root, obj, what, name, value, root.table.get(str(value % count)), f"{side}{number}")


def _change(root: Any, obj: Any, what: str, name: str, value: int, other: Any, place: str) -> None:  # noqa: PLR0917
    if what == "new":
        value = root.table[place] = Thing(n=value, owner=obj, root=root)
    if what in ("set", "new"):
        put(obj, name, value)
    elif what in ("link", "pair"):
        put(obj, name, other if what == "link" else (other, root))
    elif what == "open":
        setattr(root, f"{name}_{place[0]}", other)
    elif what == "remove":
        for key in [key for key, each in root.table.items() if each is other]:
            del root.table[key]
    elif not isinstance(obj, list):
        (obj if isinstance(obj, dict) else vars(obj)).pop(name, None)


names = st.sampled_from(["a", "b", "c"])
worlds = st.builds(
    World,
    st.lists(st.sampled_from(["thing", "dict", "list"]), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), names, st.integers(0, 5)), max_size=10),
    st.lists(st.tuples(st.sampled_from(["current", "first"]), st.integers(0, 5)), max_size=2),
)
gentle = ["set", "link", "pair", "new", "open"]


def changes(kinds: list[str]) -> Any:
    """Some changes."""
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 5), names, st.integers(0, 9)), max_size=8)


@GRAPHS
@given(worlds, changes([*gentle, "remove", "forget"]))
def test_one_sides_changes_come_whole(world: World, made: Any) -> None:
    """The result is isomorphic to the side that changed something, whichever it is; nothing is lost."""
    base, mine, theirs = world.build(), world.build(), world.build()
    change(theirs, made, "t")
    wanted = shape(theirs)
    result, lost = merge(base, mine, theirs)
    assert shape(result) == wanted
    assert (result is mine, lost) == (True, [])
    mine = world.build()
    change(mine, made, "m")
    wanted = shape(mine)
    result, lost = merge(world.build(), mine, world.build())
    assert (shape(result), lost) == (wanted, [])


@GRAPHS
@given(worlds, changes([*gentle, "remove", "forget"]))
def test_an_untouched_object_becomes_the_other(world: World, made: Any) -> None:
    """Only the root stays the same object, also where the others know it."""
    mine, theirs = world.build(), world.build()
    change(theirs, made, "t")
    wanted = shape(theirs)
    assert become(mine, theirs) is mine
    assert shape(mine) == wanted == shape(theirs)


@GRAPHS
@given(worlds, changes(gentle), changes(gentle))
def test_changes_of_different_objects_stay(world: World, mine_made: Any, theirs_made: Any) -> None:
    """As if one side had made them all; what neither touched is shared as before."""
    base, mine, theirs, wanted = (world.build() for _ in range(4))
    change(mine, mine_made, "m", parity=0)
    change(theirs, theirs_made, "t", parity=1)
    change(wanted, theirs_made, "t", parity=1)
    change(wanted, mine_made, "m", parity=0)
    result, lost = merge(base, mine, theirs)
    assert shape(result) == shape(wanted)
    assert lost == []


@GRAPHS
@given(worlds, changes([*gentle, "remove", "forget"]), changes([*gentle, "remove", "forget"]))
def test_a_merge_always_ends_alike(world: World, mine_made: Any, theirs_made: Any) -> None:
    """It is deterministic, leaves theirs as it is, and a second merge with its own result changes nothing."""

    def sides() -> tuple[Any, Any, Any]:
        base, mine, theirs = world.build(), world.build(), world.build()
        change(mine, mine_made, "m")
        change(theirs, theirs_made, "t")
        return base, mine, theirs

    one, other = sides(), sides()
    first, lost = merge(*one)
    second, lost_too = merge(*other)
    assert (shape(first), lost) == (shape(second), lost_too)
    assert shape(one[2]) == shape(sides()[2])
    wanted = shape(first)
    again, lost = merge(copy.deepcopy(first), first, copy.deepcopy(first))
    assert (shape(again), lost) == (wanted, [])


# --- what people have: a chat that is open, a tree that knows its root, a method that is kept

KINDS = ScriptRun("""
    from dataclasses import dataclass, field
    import pydantic

    class PlainChat:
        def __init__(self, title):
            self.title, self.messages = title, []

    class PlainChats:
        def __init__(self):
            self.current, self.chats = None, {}

    @dataclass
    class DataChat:
        title: str
        messages: list = field(default_factory=list)

    @dataclass
    class DataChats:
        current: DataChat | None = None
        chats: dict = field(default_factory=dict)

    class ModelChat(pydantic.BaseModel):
        title: str
        messages: list[str] = []
        def __init__(self, title, **fields):
            super().__init__(title=title, **fields)

    class ModelChats(pydantic.BaseModel):
        current: ModelChat | None = None
        chats: dict[str, ModelChat] = {}

    class DictChat(dict):
        def __init__(self, title):
            super().__init__(title=title, messages=[])
        __getattr__ = dict.__getitem__
        __setattr__ = dict.__setitem__

    class DictChats(DictChat):
        def __init__(self):
            dict.__init__(self, current=None, chats={})
""")


@pytest.fixture(params=["Plain", "Data", "Model", "Dict"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which classes a state is made of."""
    return str(request.param)


def chats_of(kind: str, *titles: str) -> Any:
    """A state with chats, of which the last one is open."""
    state = KINDS.namespace[f"{kind}Chats"]()
    for title in titles:
        open_chat(kind, state, title)
    return state


def open_chat(kind: str, state: Any, title: str) -> None:
    """Open a new chat."""
    state.current = state.chats[title] = KINDS.namespace[f"{kind}Chat"](title)


def titles(state: Any) -> dict[str, str]:
    """The chats' titles by their keys."""
    return {key: chat.title for key, chat in state.chats.items()}


def test_an_open_chat_is_kept(kind: str) -> None:
    """Whoever opened one last, or on both sides at once: each keeps its title, and `current` is one of them."""
    base, mine, theirs = (chats_of(kind, "a") for _ in range(3))
    open_chat(kind, theirs, "b")
    result, lost = merge(base, mine, theirs)
    assert (titles(result), lost) == ({"a": "a", "b": "b"}, [])
    assert result.current is result.chats["b"]
    base, mine, theirs = (chats_of(kind, "a") for _ in range(3))
    open_chat(kind, theirs, "b")
    open_chat(kind, mine, "c")
    mine.current.messages.append("mine")
    theirs.chats["a"].messages.append("theirs")
    result, lost = merge(base, mine, theirs)
    assert titles(result) == {"a": "a", "b": "b", "c": "c"}
    assert result.current is result.chats["c"]
    assert [result.chats[key].messages for key in "abc"] == [["theirs"], [], ["mine"]]
    assert [path.endswith(("Chats.current", "Chats[key 1]")) for path in lost] == [True]


def test_fresh_and_saved_chats_stay_apart(kind: str) -> None:
    """As at login, or where the browser answers late: the saved chat stays open, and both are there."""
    result, _ = merge(chats_of(kind), chats_of(kind, "mine"), chats_of(kind, "theirs"), theirs_win=True)
    assert titles(result) == {"mine": "mine", "theirs": "theirs"}
    assert result.current is result.chats["theirs"]


def test_a_removed_chat_gives_nothing(kind: str) -> None:
    """What the other side wrote into it is gone with it, and said."""
    base, mine, theirs = (chats_of(kind, "a", "b") for _ in range(3))
    theirs.current.messages.append("for b")
    del mine.chats["b"]
    open_chat(kind, mine, "c")
    result, lost = merge(base, mine, theirs)
    assert titles(result) == {"a": "a", "c": "c"}
    assert result.chats["c"].messages == []
    assert lost


def test_a_removed_chats_loss_is_said(kind: str) -> None:
    """My change of it wins over their removal, since it is the later one."""
    base, mine, theirs = (chats_of(kind, "a", "b") for _ in range(3))
    mine.chats["a"].messages.append("mine")
    del theirs.chats["a"]
    result, lost = merge(base, mine, theirs)
    assert titles(result) == {"a": "a", "b": "b"}
    assert result.chats["a"].messages == ["mine"]
    assert len(lost) == 1


def test_a_kept_method_goes_on_working() -> None:
    """It belongs to the object, not to the other side's copy of it; also in a partial, and in a deque."""
    shop = RUN.Thing(items=[])
    shop.handlers = {"add": shop.add}
    base, mine, theirs = shop, copy.deepcopy(shop), copy.deepcopy(shop)
    theirs.handlers["add"]("b1")
    theirs.handlers["more"] = theirs.add
    mine.handlers["add"]("a1")
    result, lost = merge(base, mine, theirs)
    result.handlers["add"]("a2")
    result.handlers["more"]("a3")
    assert (result.items, lost) == (["b1", "a1", "a2", "a3"], [])


def test_elements_are_merged_in_place() -> None:
    """One side edits an entry of a list, the other one appends: both are there, and nothing is said."""
    base, mine, theirs = (Thing(todo=[Thing(title=title, done=False) for title in "abc"]) for _ in range(3))
    mine.todo[1].done = True
    theirs.todo.append(Thing(title="d", done=False))
    theirs.todo[0].title = "A"
    result, lost = merge(base, mine, theirs)
    assert [(each.title, each.done) for each in result.todo] == [("A", False), ("b", True), ("c", False), ("d", False)]
    assert lost == []


def test_removed_elements_shift_nothing() -> None:
    """Entries are told by what they hold, not by their place."""
    base, mine, theirs = (Thing(todo=[Thing(title=title, done=False) for title in "abc"]) for _ in range(3))
    del mine.todo[0]
    theirs.todo[2].done = True
    result, lost = merge(base, mine, theirs)
    assert [(each.title, each.done) for each in result.todo] == [("b", False), ("c", True)]
    assert lost == []


@pytest.mark.parametrize("shaped", ["list", "dict", "chain", "owners"])
def test_the_work_grows_with_the_graph(shaped: str) -> None:
    """Counted in calls of Python functions, not by the clock."""

    def made(size: int) -> Any:
        root = Thing(n=0)
        things = [Thing(n=n, root=root) for n in range(size)]
        for one, other in itertools.pairwise(things):
            if shaped == "chain":
                one.next = other
            elif shaped == "owners":
                other.owner = things[0]
        root.things = {str(each.n): each for each in things} if shaped == "dict" else things
        return root

    def calls(size: int) -> int:
        base, mine, theirs = made(size), made(size), made(size)
        for n in range(size):
            key = str(n) if shaped == "dict" else n
            (mine if n % 2 else theirs).things[key].more = Thing(n=n)
        count = 0

        def note(*_: Any) -> None:
            nonlocal count
            count += 1

        sys.setprofile(note)
        try:
            _, lost = merge(base, mine, theirs)
        finally:
            sys.setprofile(None)
        assert lost == []
        return count

    assert calls(400) < 4.6 * calls(100)


# --- chats in a list, and chats that both sides have made


def listed(*titles: str) -> Any:
    """A state with chats in a list, of which the last one is open."""
    state = Thing(chats=[], current=None, pinned={})
    for title in titles:
        state.current = Thing(title=title, messages=[], model="m")
        state.chats.append(state.current)
    return state


@pytest.mark.parametrize("swapped", [False, True])
def test_a_replaced_element_gets_nothing(swapped: bool) -> None:
    """A chat that was put in a removed one's place has none of its messages, whoever saves later; that is said."""
    base, mine, theirs = listed("a"), listed("a"), listed("a")
    theirs.current.messages.append("a: hi")
    mine.chats.pop()
    mine.current = Thing(title="b", messages=[], model="m")
    mine.chats.append(mine.current)
    if swapped:
        mine, theirs = theirs, mine
    result, lost = merge(base, mine, theirs)
    assert all(message.startswith(chat.title) for chat in result.chats for message in chat.messages)
    assert lost


def test_a_removed_element_is_no_new_one() -> None:
    """A reference to it does not lead to the one that stands in its place now."""
    base, mine, theirs = listed("a"), listed("a"), listed("a")
    mine.pinned["a"] = mine.chats[0]
    theirs.chats[:] = [Thing(title="b", messages=[], model="n")]
    theirs.current = theirs.chats[0]
    result, _ = merge(base, mine, theirs)
    assert result.pinned["a"].title == "a"


@pytest.mark.parametrize("theirs_win", [False, True])
@pytest.mark.parametrize("message", [None, "m"])
def test_new_ones_under_one_key_are_one(kind: str, message: str | None, *, theirs_win: bool) -> None:
    """Both made it, only one side has it open: `current` is the one that is in `chats`, whosever that is."""
    base, mine, theirs = (chats_of(kind, "home") for _ in range(3))
    for side in (mine, theirs):
        open_chat(kind, side, "x")
    mine.current = mine.chats["home"]
    if message:
        mine.chats["x"].messages.append(message)
        theirs.chats["x"].messages.append("t")
    result, _ = merge(base, mine, theirs, theirs_win=theirs_win)
    assert result.current is result.chats["x"]


@pytest.mark.parametrize("is_open", [False, True])
def test_new_ones_keep_the_messages_of_both(kind: str, *, is_open: bool) -> None:
    """At login: the user's first."""
    base, mine, theirs = (chats_of(kind) for _ in range(3))
    for side, message in ((mine, "m"), (theirs, "t")):
        open_chat(kind, side, "x")
        side.chats["x"].messages.append(message)
        if not is_open:
            side.current = None
    result, lost = merge(base, mine, theirs, theirs_win=True)
    assert (result.chats["x"].messages, lost) == (["t", "m"], [])


def test_chats_of_both_sides_in_one_list() -> None:
    """Each side opened one of its own: both are there, each once, and `current` is one of them."""
    base, mine, theirs = listed(), listed("m"), listed("t")
    result, lost = merge(base, mine, theirs)
    assert [chat.title for chat in result.chats] == ["t", "m"]
    assert any(result.current is chat for chat in result.chats)
    assert lost == ["Thing.current"]
