"""Pickling: a class is found where the caller sees it, whatever the other runs have made of `__main__` meanwhile."""

from __future__ import annotations

import functools
import gc
import operator
import pickle
import sys
import threading
import traceback
import types
import weakref
from collections import Counter, OrderedDict, deque
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamlit.proto.Common_pb2 import FileURLs
from streamlit.runtime.uploaded_file_manager import UploadedFile, UploadedFileRec

from persist_session.objects import classes
from persist_session.objects.classes import UnrestorableError, View, is_own_module
from persist_session.objects.pickling import (
    UnpicklableError,
    attributes_of,
    dumps,
    find_unloadable,
    instances,
    is_loadable,
    loads,
)
from persist_session.objects.sameness import same
from support.script import ScriptRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRIPT = """
import abc
import enum
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypedDict, TypeVar

import pydantic


class Color(enum.Enum):
    RED = 1
    BLUE = "blue"

class Rights(enum.Flag):
    READ = 1
    WRITE = 2

class Level(enum.IntEnum):
    LOW = 1

class Plain:
    def __init__(self, value=None):
        self.value = value

class Outer:
    class Inner:
        class Innermost(Plain):
            pass

class Slots:
    __slots__ = ("__private", "value")
    def __init__(self, value=None):
        self.value, self.__private = value, "own"
    def private(self):
        return self.__private

class Kept:
    def __init__(self, value):
        self.value, self.cache = value, lambda: 1
    def __getstate__(self):
        return {"value": self.value}
    def __setstate__(self, state):
        self.__dict__.update(state, cache=None)

class Reduced:
    def __init__(self, value):
        self.value = value
    def __reduce__(self):
        return Reduced, (self.value,)

class Meta(type):
    pass

class WithMeta(Plain, metaclass=Meta):
    pass

class Abstract(abc.ABC):
    @abc.abstractmethod
    def act(self): ...

class Concrete(Abstract):
    def act(self):
        return "acted"

T = TypeVar("T")

class Box(Generic[T]):
    def __init__(self, value):
        self.value = value

@dataclass
class Item:
    n: int
    color: Color = Color.RED
    tags: list = field(default_factory=list)

@dataclass(frozen=True)
class Frozen:
    n: int
    item: Item = None

@dataclass(slots=True)
class SlotItem:
    n: int
    item: Item = None

@dataclass(frozen=True, slots=True)
class FrozenSlots:
    n: int
    item: Item = None

Pair = namedtuple("Pair", "one two")

class Triple(NamedTuple):
    one: int
    two: Item

class Words(dict):
    pass

class Model(pydantic.BaseModel):
    n: int = 1
    colors: list[Color] = []
    inner: object = None
    _hidden: int = pydantic.PrivateAttr(default=3)

class Missing:
    def __reduce__(self):
        return "MISSING"

MISSING = Missing()

def helper():
    return 1

def make():
    return {"item": Item(1)}
"""

SAMPLES = {
    "a plain object": "Plain([Plain(1), {'a': Plain(2)}])",
    "a nested class": "Outer.Inner.Innermost(5)",
    "slots": "Slots(Slots(2))",
    "__getstate__": "Kept(3)",
    "__reduce__": "Reduced(Plain(4))",
    "a metaclass": "WithMeta(1)",
    "an abstract base": "Concrete()",
    "a generic class": "Box[int](Plain(1))",
    "a dataclass": "Item(1, Color.BLUE, [Item(2)])",
    "a frozen dataclass": "Frozen(1, Item(2))",
    "a dataclass with slots": "SlotItem(1, Item(2))",
    "a frozen dataclass with slots": "FrozenSlots(1, Item(2))",
    "a namedtuple": "Pair(1, Item(2))",
    "a NamedTuple": "Triple(1, Item(2))",
    "a dict of a class of its own": "Words(a=Item(1))",
    "a defaultdict": "defaultdict(Plain, {'a': Plain(1)})",
    "an OrderedDict": "OrderedDict(a=Item(1))",
    "a pydantic model": "Model(n=2, colors=[Color.BLUE], inner=Model(n=3))",
    "a class": "[Item, Outer.Inner, Model, WithMeta, Color]",
    "a function": "[helper, Plain(helper)]",
    "a bound method": "Item(1).tags.append",
}


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """A function that writes and imports the module `own_models` anew, as hot reloading does."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def reload(source: str) -> Any:
        (tmp_path / "own_models.py").write_text(source)
        sys.modules.pop("own_models", None)
        return __import__("own_models")

    yield reload
    sys.modules.pop("own_models", None)
    classes._own_modules.clear()


# --- round trips


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_values_go_to_the_next_run(sample: str) -> None:
    """Every kind of class comes back as the class of the run that loads, with what it held."""
    old, new = ScriptRun(SCRIPT), ScriptRun(SCRIPT)
    made = eval(sample, old.namespace)
    got, wanted = new.copy(made), eval(sample, new.namespace)
    assert type(got) is type(wanted)
    assert same(got, wanted) or repr(got).split(" at ")[0] == repr(wanted).split(" at ")[0]
    assert all(value is getattr(new, name) for (_, name), value in dumps(got).references.items() if "." not in name)


def test_enum_members_are_identical() -> None:
    """`is` holds for members, flags and their combinations, also as keys and in sets."""
    old, new = ScriptRun(SCRIPT), ScriptRun(SCRIPT)
    got = new.copy(
        [old.Color.BLUE, {old.Color.RED: old.Level.LOW}, {old.Color.RED}, old.Rights.READ | old.Rights.WRITE]
    )
    assert got[0] is new.Color.BLUE
    assert got[1][new.Color.RED] is new.Level.LOW
    assert got[2] == {new.Color.RED}
    assert got[3] is new.Rights.READ | new.Rights.WRITE


def test_a_sentinel_is_the_runs() -> None:
    """An object that names itself is found where the caller sees it, as a class is."""
    old, new = ScriptRun(SCRIPT), ScriptRun(SCRIPT)
    assert new.copy(old.Plain(old.MISSING)).value is new.MISSING


def test_own_ways_to_pickle_are_kept() -> None:
    """Mangled slots come back, and `__getstate__` and `__reduce__` are asked."""
    old, new = ScriptRun(SCRIPT), ScriptRun(SCRIPT)
    assert new.copy(old.Slots(1)).private() == "own"
    assert new.copy(old.Kept(1)).cache is None
    assert new.copy(old.Model())._hidden == 3


def test_the_registered_main_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The `__main__` registered last is another visitor's: a class of the same name there is not taken."""
    old, new, other = (ScriptRun(SCRIPT) for _ in range(3))
    registered = types.ModuleType("__main__")
    vars(registered).update(other.namespace)
    monkeypatch.setitem(sys.modules, "__main__", registered)
    assert type(new.copy(old.Item(1))) is new.Item


def test_cycles_and_shared_objects_stay() -> None:
    """A parent pointer leads back, and what two fields share is one object."""
    old, new = ScriptRun(SCRIPT), ScriptRun(SCRIPT)
    root, shared = old.Plain(), old.Item(1)
    child = old.SlotItem(1, root)
    root.value = [root, shared, shared, child]
    got = new.copy(root)
    assert got.value[0] is got
    assert got.value[1] is got.value[2]
    assert got.value[3].item is got


def test_values_of_other_packages_come_back() -> None:
    """Arrays, frames, dates, numbers, paths: with the app's own classes inside."""
    old, new = ScriptRun(SCRIPT), ScriptRun(SCRIPT)
    array = np.array([[1.5, np.nan], [2, 3]])
    frame = pd.DataFrame({"when": pd.to_datetime(["2024-01-01", None]), "what": ["a", "b"]})
    objects = np.array([old.Item(1), None], dtype=object)
    cells = pd.DataFrame({"item": [old.Item(2)]})
    others = [datetime(2024, 1, 1, tzinfo=UTC), date(2024, 1, 1), timedelta(1), Decimal("1.10"), UUID(int=1)]
    others += [PurePosixPath("/a"), deque([old.Item(3)], 5), Counter("aab"), b"\0", bytearray(b"a"), range(3), 1j]
    got = new.copy([array, frame, objects, cells, others])
    assert np.array_equal(got[0], array, equal_nan=True)
    pd.testing.assert_frame_equal(got[1], frame)
    assert type(got[2][0]) is new.Item
    assert type(got[3]["item"][0]) is new.Item
    assert got[4][:6] == others[:6]
    assert type(got[4][6][0]) is new.Item
    assert got[4][6].maxlen == 5
    assert got[4][7:] == others[7:]


hashables = st.one_of(st.integers(), st.text(max_size=5), st.booleans(), st.none(), st.binary(max_size=5))
values = st.recursive(
    st.one_of(
        hashables, st.floats(allow_nan=False), st.sampled_from(["RED", "BLUE"]).map(lambda name: ("Color", name))
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(hashables, inner, max_size=4),
        st.sets(hashables, max_size=4),
        st.tuples(st.sampled_from(["Plain", "Slots", "SlotItem", "FrozenSlots", "Frozen", "Item", "Box"]), inner),
    ),
    max_leaves=20,
)
# Machines that many share are slow at times: that is no error.
BOUNDED = settings(max_examples=40)
OLD, NEW = ScriptRun(SCRIPT), ScriptRun(SCRIPT)


def build(plan: Any, run: ScriptRun) -> Any:
    """Make what `values` drew, of a run's classes."""
    if isinstance(plan, tuple):
        name, inner = plan
        return run.Color[inner] if name == "Color" else getattr(run, name)(build(inner, run))
    if isinstance(plan, list):
        return [build(part, run) for part in plan]
    if isinstance(plan, dict):
        return {key: build(part, run) for key, part in plan.items()}
    return plan


@BOUNDED
@given(values)
def test_anything_in_anything_comes_back(plan: Any) -> None:
    """Loading in another run gives what that run would have made itself; loading it back gives the first again."""
    there = NEW.copy(build(plan, OLD))
    assert same(there, build(plan, NEW))
    assert same(OLD.copy(there), build(plan, OLD))


# --- changed classes


@pytest.mark.parametrize("options", ["slots=True", "frozen=True, slots=True", "frozen=True", ""])
@pytest.mark.parametrize("kind", ["Point", "Sub"])
def test_dataclass_fields_are_stored_by_name(options: str, kind: str) -> None:
    """A field put in the middle, or taken away, moves no other field's value."""
    source = f"""
        from dataclasses import dataclass
        @dataclass({options})
        class Point:
            first: int
            {{}}
            last: int = 3
        class Sub(Point):
            pass
    """
    short, long = ScriptRun(source.format("")), ScriptRun(source.format("middle: int = 2"))
    grown = long.copy(getattr(short, kind)(1, last=9))
    assert (grown.first, grown.last) == (1, 9)
    shrunk = short.copy(getattr(long, kind)(1, 5, 9))
    assert (shrunk.first, shrunk.last) == (1, 9)


def test_a_dataclass_may_pickle_itself() -> None:
    """A frozen one with slots and a `__reduce__`, or half of the pair that dataclass generates."""
    source = """
        from dataclasses import dataclass
        @dataclass(frozen=True, slots=True)
        class Reduced:
            n: int
            def __reduce__(self):
                return Reduced, (self.n + 1,)
        @dataclass(frozen=True, slots=True)
        class Got:
            n: int
            def __getstate__(self):
                return [self.n + 1]
        @dataclass(slots=True)
        class Both:
            n: int
            def __getstate__(self):
                return self.n + 1
            def __setstate__(self, state):
                self.n = state
    """
    old, new = ScriptRun(source), ScriptRun(source)
    assert [new.copy(getattr(old, kind)(1)).n for kind in ("Reduced", "Got", "Both")] == [2, 2, 2]


def test_slots_beside_fields_are_kept() -> None:
    """A dataclass with slots below a class with slots of its own."""
    source = """
        from dataclasses import dataclass
        class Base:
            __slots__ = ("extra",)
        @dataclass(slots=True)
        class Point(Base):
            n: int
    """
    old, new = ScriptRun(source), ScriptRun(source)
    point = old.Point(1)
    point.extra = 2
    assert new.copy(point).extra == 2


def test_a_missing_class_is_unrestorable() -> None:
    """The message names it."""
    data = dumps(ScriptRun(SCRIPT).Item(1)).data
    with pytest.raises(UnrestorableError, match="Item is not defined where the state is loaded"):
        ScriptRun("").load(data)


def test_a_missing_nested_class_is_unrestorable() -> None:
    """Its outer class alone is not enough."""
    data = dumps(ScriptRun(SCRIPT).Outer.Inner()).data
    with pytest.raises(UnrestorableError, match=r"Outer\.Inner"):
        ScriptRun("class Outer: pass").load(data)


def test_a_missing_module_is_unrestorable(own_module: Callable[[str], Any], tmp_path: Path) -> None:
    """And so is a class that its module does not define any more."""
    data = dumps(own_module("class Item: pass").Item()).data
    own_module("")
    with pytest.raises(UnrestorableError, match=r"own_models\.Item can't be imported"):
        ScriptRun("").load(data)
    sys.modules.pop("own_models")
    (tmp_path / "own_models.py").unlink()
    with pytest.raises(UnrestorableError, match=r"own_models\.Item can't be imported"):
        ScriptRun("").load(data)


@pytest.mark.parametrize(
    "raised", ["ValueError('secret')", "KeyError('secret')", "UnrestorableError", "AttributeError('secret')"]
)
def test_a_refusing_class_is_unrestorable(raised: str) -> None:
    """The error names what was raised, and quotes nothing of it."""
    source = f"""
        class Item:
            def __setstate__(self, state):
                raise {raised}
    """
    item = ScriptRun(source).Item()
    item.n = 1
    with pytest.raises(UnrestorableError) as caught:
        ScriptRun(source).copy(item)
    assert type(caught.value) is UnrestorableError
    assert_nothing_is_quoted(caught.value)


def test_a_function_is_no_class() -> None:
    """A function in the place of a class makes no instance."""
    data = dumps(ScriptRun("class Item: pass").Item()).data
    with pytest.raises(UnrestorableError):
        ScriptRun("def Item(): pass").load(data)


# --- where classes are looked up


def test_the_callers_module_is_found(own_module: Callable[[str], Any]) -> None:
    """By the factory, by a name of the script, by the module that the script imported, else by `sys.modules`."""
    old = own_module("class Item: pass\nclass Other: pass")
    new = own_module("class Item: pass\nclass Other: pass")
    for source, factory in (
        ("", old.Item),
        ("from own_models import Item", dict),
        ("import own_models", dict),
        ("import own_models as m", dict),
    ):
        sys.modules["own_models"] = old
        run = ScriptRun(source)
        sys.modules["own_models"] = new
        assert run.view(factory).find("own_models", "Item") is old.Item
    assert ScriptRun("").view().find("own_models", "Item") is new.Item
    assert ScriptRun("").view(old.Item).find("own_models", "Other") is new.Other, "no method tells Item's globals"


def test_an_evicted_modules_instance_is_saved(own_module: Callable[[str], Any]) -> None:
    """And comes back as what the run that loads sees."""
    item = own_module("class Item: pass").Item()
    new = own_module("class Item: pass")
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(item)
    assert type(ScriptRun("").copy(item)) is new.Item


@pytest.mark.parametrize(
    "factory",
    [
        "Item",
        "make",
        "lambda: None",
        "functools.partial(make)",
        "functools.partial(functools.partial(Item, 1), 2)",
        "Item.create",
        "Item().made",
        "Item.static",
    ],
)
def test_a_factory_tells_its_classes(factory: str) -> None:
    """A caller in another module, as a library of the app is, sees the script's classes through it."""
    run = ScriptRun(f"""
        import functools
        class Item:
            @classmethod
            def create(cls): ...
            @staticmethod
            def static(): ...
            def made(self): ...
        class Other: pass
        def make(): ...
        factory = {factory}
    """)
    elsewhere = View(({"__name__": "somewhere"},), run.factory)
    assert elsewhere.find("__main__", "Item") is run.Item
    assert elsewhere.find("__main__", "Other") is run.Other


def test_generated_methods_do_not_mislead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataclass's methods carry the globals of whichever `__main__` was registered when it was made."""
    other = types.ModuleType("__main__")
    exec("class Item: pass", vars(other))
    monkeypatch.setitem(sys.modules, "__main__", other)
    run = ScriptRun("""
        from dataclasses import dataclass
        @dataclass
        class State:
            n: int = 0
        class Item: pass
    """)
    assert run.view(run.State).find("__main__", "Item") is run.Item
    with pytest.raises(UnrestorableError):
        View((), run.State).find("__main__", "Item")


def test_the_nearest_namespace_wins() -> None:
    """Of two that define one name."""
    near, far = ScriptRun("class Item: pass"), ScriptRun("class Item: pass\nclass Other: pass")
    view = View((near.namespace, far.namespace), dict)
    assert view.find("__main__", "Item") is near.Item
    assert view.find("__main__", "Other") is far.Other


def test_names_may_mean_the_same() -> None:
    """To the run that made the object they do, to another they don't, and to one without them they don't either."""
    one, other = ScriptRun(SCRIPT), ScriptRun(SCRIPT)
    references = dumps([one.Item(1), one.helper]).references
    assert references == {
        ("__main__", "Item"): one.Item,
        ("__main__", "Color"): one.Color,
        ("__main__", "helper"): one.helper,
    }
    assert one.view().sees(references)
    assert not other.view().sees(references)
    assert not ScriptRun("").view().sees(references)


def test_two_classes_share_no_name() -> None:
    """An object that mixes two runs' classes is seen as such by both, in whichever order they come."""
    one, other = ScriptRun(SCRIPT), ScriptRun(SCRIPT)
    mixed = [one.Plain(), other.Plain()]
    for obj in (mixed, mixed[::-1], [*mixed, one.Plain()]):
        references = dumps(obj).references
        assert not one.view().sees(references)
        assert not other.view().sees(references)
        assert {type(part) for part in one.copy(obj)} == {one.Plain}


def test_views_may_be_alike() -> None:
    """Two equal namespaces are two all the same."""
    one, other = ScriptRun(SCRIPT), ScriptRun(SCRIPT)
    assert one.view(one.Item).is_like(one.view(one.Item))
    assert not one.view().is_like(other.view())
    assert not one.view(one.Item).is_like(one.view(one.Plain))
    assert not one.view().is_like(View((), dict))


@pytest.mark.parametrize(
    ("source", "anew"),
    [
        ("class S: pass", {"S"}),
        ("class S: pass\nfrom collections import OrderedDict\nimport enum\nfrom pydantic import BaseModel", {"S"}),
        ("class S: pass\nclass Other: pass\ndef function(): pass", {"S", "Other"}),
        ("class S:\n    class Inner: pass", {"S", "S.Inner"}),
        ("class Base:\n    class Inner: pass\nclass S(Base): pass\ndel Base", {"Base", "Base.Inner", "S"}),
        ("class S:\n    def __init__(self): pass\nS.itself = S", {"S"}),
    ],
)
def test_classes_defined_anew_are_told(source: str, anew: set[str]) -> None:
    """Imported ones are the same, inherited inner ones are not."""
    first, second = ScriptRun(source), ScriptRun(source)
    assert second.view().defined_anew(first.view()) == {("__main__", name) for name in anew}
    assert second.view().defined_anew(second.view()) == set()


@pytest.mark.parametrize("seen", ["Item", "add", "module"])
def test_modules_loaded_anew_are_told(seen: str) -> None:
    """By a class of it, a function of it, or itself, whichever the script imported."""

    def load() -> ScriptRun:
        module = types.ModuleType("states")
        exec("class Item: pass\ndef add(): pass", vars(module))
        return ScriptRun("", **{seen: module if seen == "module" else vars(module)[seen]})

    assert load().view().defined_anew(load().view()) == {("states", "" if seen == "module" else seen)}


def test_a_root_may_be_alone() -> None:
    """A tree is not."""
    run = ScriptRun(SCRIPT)
    assert dumps(run.Plain([run.Item(1)])).is_root_alone
    assert dumps([1]).is_root_alone
    assert not dumps(run.Plain([run.Plain()])).is_root_alone
    assert not dumps(run.FrozenSlots(1, run.FrozenSlots(2))).is_root_alone
    alone = run.Plain()
    alone.value = alone
    assert dumps(alone).is_root_alone


def test_an_installed_module_is_foreign() -> None:
    """The standard library and installed packages don't change while the app runs."""
    assert is_own_module("__main__")
    assert is_own_module("test_pickling")
    assert not any(is_own_module(name) for name in ("builtins", "collections.abc", "pydantic.main", "numpy"))


def test_references_are_the_apps_own_only() -> None:
    """Nobody reloads pandas."""
    assert dumps([pd.DataFrame(), OrderedDict(), Path, operator.itemgetter(1)]).references == {}


# --- what can't be pickled


def assert_nothing_is_quoted(error: BaseException) -> None:
    """Neither the error nor a traceback of it shows what the app's own error may have quoted of the state."""
    assert "secret" not in "".join(traceback.format_exception(error))
    assert error.__cause__ is None
    assert error.__suppress_context__


@pytest.mark.parametrize(
    ("statement", "path", "reason"),
    [
        ("s.callback = lambda: 1", r"S\.callback", "made inside a function"),
        ("s.items = [1, {'a': {'b': (1, memoryview(b''))}}]", r"S\.items\[1\]\[key 1\]\[key 1\]\[1\]", "memoryview"),
        ("s.items = [Item(1), Item(2)]; s.items[1].lock = threading.Lock()", r"S\.items\[1\]\.lock", "lock"),
        ("s.local = local()", r"S\.local", r"local\.Local is made inside a function"),
        ("s.kind = type(local())", r"S\.kind", r"local\.Local is made inside a function"),
        ("s.slots = Slots(); s.slots.value = threading.Lock()", r"S\.slots\.value", "lock"),
        ("s.frozen = Frozen(threading.Lock())", r"S\.frozen\.value", "lock"),
        ("s.made = (n for n in [1])", r"S\.made", "generator"),
        ("s.members = {Item(1)}; [*s.members][0].bad = lambda: 1", r"S\.members\[0\]\.bad", "made inside a function"),
        ("s.by_number = {5: 1, 7: lambda: 1}", r"S\.by_number\[key 2\]", "made inside a function"),
        ("s.by_key = {Item: {lambda: 1: 2}}", r"S\.by_key\[key 1\]\[key 1\]", "made inside a function"),
        ("s.by_word = {'my secret': lambda: 1}", r"S\.by_word\[key 1\]", "made inside a function"),
        ("s.raising = Raising('reduce')", r"S\.raising", "ValueError was raised"),
        ("s.raising = [Raising('state')]", r"S\.raising\[0\]", "ValueError was raised"),
        ("s.module = threading", r"S\.module", "module"),
        ("s.words = Words(); s.words.extra = lambda: 1", r"S\.words\.extra", "made inside a function"),
    ],
)
def test_the_error_names_the_path(statement: str, path: str, reason: str) -> None:
    """Attribute by attribute, index by index, key by key's place; nothing of the state is shown or chained."""
    run = ScriptRun("""
        import threading
        from dataclasses import dataclass
        class S: pass
        class Item:
            def __init__(self, n):
                self.n = n
        class Slots:
            __slots__ = ("value",)
        class Words(dict): pass
        @dataclass(frozen=True, slots=True)
        class Frozen:
            value: object
        class Raising:
            def __init__(self, where):
                self.where = where
            def __reduce__(self):
                if self.where == "reduce":
                    raise ValueError("my secret")
                return object.__reduce__(self)
            def __getstate__(self):
                raise ValueError("my secret")
        def local():
            class Local: pass
            return Local()
        s = S()
    """)
    exec(statement, run.namespace)
    with pytest.raises(UnpicklableError, match=rf"^{path} can't be pickled: .*{reason}") as caught:
        dumps(run.s)
    assert "secret" not in str(caught.value)
    assert_nothing_is_quoted(caught.value)


def test_who_knows_its_owner_is_innocent() -> None:
    """Items that point to their parent can't be pickled without it: yet they are none."""
    run = ScriptRun("""
        class Item:
            def __init__(self, parent):
                self.parent, self.callback = parent, None
        class S:
            def __init__(self):
                self.items = [Item(self) for _ in range(5)]
    """)
    state = run.S()
    state.items[3].callback = lambda: 1
    with pytest.raises(UnpicklableError, match=r"^S\.items\[3\]\.callback can't"):
        dumps(state)


def test_the_search_pickles_shared_parts_once() -> None:
    """A thousand items that share one large object: it is looked at as often as the path is long."""
    run = ScriptRun("""
        looks = 0
        class Catalog:
            def __getstate__(self):
                global looks
                looks += 1
                return {"a": 1}
        class Item:
            def __init__(self, catalog):
                self.catalog = catalog
        class S:
            def __init__(self):
                catalog = Catalog()
                self.items = [Item(catalog) for _ in range(1000)]
    """)
    state = run.S()
    state.items[-1].callback = lambda: 1
    with pytest.raises(UnpicklableError, match=r"^S\.items\[999\]\.callback can't"):
        dumps(state)
    assert run.looks <= 5


def test_too_deep_a_state_is_told() -> None:
    """And no path of a thousand steps is shown."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UnpicklableError, match=r"^dict can't be pickled: it is nested too deeply$"):
        dumps({"deep": deep})


def test_a_stop_goes_through() -> None:
    """Streamlit's exceptions are no `Exception`: they go through."""

    class Stop(BaseException):
        pass

    class Stopping:
        def __getstate__(self) -> Any:
            raise Stop

    with pytest.raises(Stop):
        dumps(Stopping())


# --- what can be pickled, but not made again

KEY_ERRORS = """
class Fussy(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")

class Item:
    def __init__(self, value=None):
        self.value = value

class S(Item):
    pass
"""


@pytest.mark.parametrize(
    ("state", "path", "kind"),
    [
        ("Fussy(1, 2)", "Fussy", "Fussy"),
        ("S(Fussy(1, 2))", "S.value", "Fussy"),
        ("S([Item(), Item(Fussy(1, 2)), Fussy(3, 4)])", "S.value[1].value", "Fussy"),
        ("S({'my secret': {1: Item(Fussy(1, 2))}})", "S.value[key 1][key 1].value", "Fussy"),
    ],
)
def test_the_unloadable_part_is_named(state: str, path: str, kind: str) -> None:
    """By its path and class, so that a save that could not be loaded again is refused in words (S6)."""
    run = ScriptRun(KEY_ERRORS)
    obj = eval(state, run.namespace)
    assert not is_loadable(obj, run.view())
    assert find_unloadable(obj, run.view()) == (path, f"__main__.{kind}")


def test_an_unloadable_cycle_ends() -> None:
    """Parts that know their owner are looked at once."""
    run = ScriptRun(KEY_ERRORS)
    state = run.S([])
    state.value += [run.Item(state), run.Item(run.Fussy(1, 2))]
    path, kind = find_unloadable(state, run.view())
    assert path.startswith("S.value")
    assert kind in ("__main__.Item", "__main__.Fussy")


def test_a_missing_class_is_unloadable() -> None:
    """A class that the caller does not see is no better than one that refuses."""
    run = ScriptRun(KEY_ERRORS)
    assert is_loadable([run.Item()], run.view())
    assert not is_loadable([run.Item()], ScriptRun("").view())
    assert not is_loadable(lambda: 1, run.view())


def test_an_uploaded_file_is_rewound() -> None:
    """Read to its end it would be empty after a reload, and each read would count as a change."""
    record = UploadedFileRec(file_id="1", name="a.csv", type="text/csv", data=b"one,two")
    file = UploadedFile(record, FileURLs(file_id="1"))
    before = dumps([file]).data
    assert file.read() == b"one,two"
    assert dumps([file]).data == before
    assert file.read() == b"", "the app's own goes on where it was"
    (copy,) = ScriptRun("").copy([file])
    assert (copy.name, copy.size, copy.read()) == ("a.csv", 7, b"one,two")


# --- changed meanwhile


@pytest.mark.parametrize(
    ("make", "change"),
    [
        ("dict((n, Item()) for n in range(300))", "part[-n] = 1; del part[-n]"),
        ("set(Item() for n in range(300))", "part.add(n); part.discard(n)"),
        ("deque(Item() for n in range(300))", "part.append(n); part.pop()"),
        ("OrderedDict((n, Item()) for n in range(300))", "part[-n] = 1; del part[-n]"),
        ("[Item() for n in range(300)]", "part.append(n); part.pop()"),
        ("Holder(300)", "setattr(part, 'x', n); delattr(part, 'x')"),
    ],
)
def test_another_threads_change_is_tried_again(make: str, change: str) -> None:
    """A run that does not know yet that it is over goes on changing its object."""
    run = ScriptRun(f"""
        from collections import OrderedDict, deque
        class Item:
            def __getstate__(self):
                return {{"n": sum(range(20))}}
        class Holder:
            def __init__(self, count):
                for n in range(count):
                    setattr(self, f"a{{n}}", Item())
        part = {make}
        def change(stop):
            n = 0
            while not stop.is_set():
                n += 1
                {change}
                stop.wait(0.0005 if n % 40 else 0.06)  # now and then a pause, even for a slow machine
    """)
    stop = threading.Event()
    thread = threading.Thread(target=run.change, args=(stop,))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        for _ in range(30):
            assert run.load(dumps(run.part).data) is not None
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()


@pytest.mark.parametrize("message", ["dictionary changed size during iteration", "deque mutated during iteration"])
def test_endless_change_is_an_error(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last attempt, of which there are several."""
    attempts = []
    monkeypatch.setattr("persist_session.objects.pickling.time.sleep", lambda _: None)

    class Changing:
        def __getstate__(self) -> Any:
            attempts.append(1)
            raise RuntimeError(message)

    with pytest.raises(UnpicklableError):
        dumps(Changing())
    assert len(attempts) >= 50


def test_other_errors_are_not_tried_again() -> None:
    """It would not go away."""
    attempts = []

    class Broken:
        def __getstate__(self) -> Any:
            attempts.append(1)
            raise RuntimeError("no")

    with pytest.raises(UnpicklableError, match="RuntimeError was raised"):
        dumps([Broken()])
    assert len(attempts) <= 3


# --- the rest


def test_a_dump_leaves_nothing_behind() -> None:
    """No cycle keeps the state, or its pickle, in memory until the garbage collector comes by."""
    run = ScriptRun(SCRIPT)
    obj = run.Plain([1])
    gone = weakref.ref(obj)
    gc.collect()
    gc.disable()
    try:
        dumps(obj)
        instances(obj, lambda _: True)
        del obj
        assert gone() is None
    finally:
        gc.enable()


def test_a_load_leaves_nothing_behind() -> None:
    """Nor does the other way: what was loaded is held by nobody but the caller."""
    run = ScriptRun(SCRIPT)
    data = dumps(run.Plain([run.Item(1)])).data
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(run.load(data))
        assert gone() is None
    finally:
        gc.enable()


def test_one_object_has_one_pickle() -> None:
    """Else every run would write."""
    run = ScriptRun(SCRIPT)
    state = run.copy(run.Plain({"items": [run.Item(1), run.Color.RED], "words": {"a", "b"}, "m": run.Model()}))
    assert len({dumps(state).data for _ in range(5)}) == 1


def test_instances_are_found_wherever_they_hide() -> None:
    """In containers, attributes, slots and as the object itself; classes are none."""
    run = ScriptRun(SCRIPT)
    items = [run.Item(n) for n in range(4)]
    holder = run.Plain({"a": items[0], "b": (items[1], run.SlotItem(1, items[2])), "c": run.Item})
    assert instances(holder, lambda kind: kind is run.Item) == items[:3]
    assert instances(items[3], lambda kind: kind is run.Item) == [items[3]]


def test_attributes_are_the_objects_own() -> None:
    """Slots, private ones by their real name, and `__dict__`; no properties, no defaults of the class."""
    run = ScriptRun("""
        class Base:
            __slots__ = ("__private", "unset", "one")
            default = 1
            def __init__(self):
                self.__private, self.one = 1, 2
        class _Sub(Base):
            __slots__ = "__own"
            def __init__(self):
                super().__init__()
                self.__own = 3
        class Free(_Sub):
            @property
            def computed(self): ...
    """)
    free = run.Free()
    free.two = 4
    assert attributes_of(free) == ["_Base__private", "one", "_Sub__own", "two"]
    assert attributes_of(1) == attributes_of([]) == []


def test_plain_pickle_loads_no_own_class() -> None:
    """It looks into the `__main__` of whoever runs it, and finds nothing there."""
    with pytest.raises(AttributeError, match="Item"):
        pickle.loads(dumps(ScriptRun(SCRIPT).Item(1)).data)


def test_a_subclass_of_partial_is_unwrapped() -> None:
    """However deep."""
    run = ScriptRun(SCRIPT)
    factory = functools.partial(functools.partial(run.make))
    assert View((), factory).find("__main__", "Item") is run.Item


def test_only_own_classes_are_looked_up() -> None:
    """Once per class, however many instances there are: finding one may take a while."""
    run = ScriptRun(SCRIPT)
    asked = []

    class Asked(View):
        def find(self, module: str, qualname: str) -> Any:
            asked.append(qualname)
            return super().find(module, qualname)

    view = Asked((run.namespace,), dict)
    loads(dumps([run.Item(n) for n in range(100)] + [OrderedDict()]).data, view)
    assert sorted(asked) == ["Color", "Item"]


def test_an_older_protocol_loads() -> None:
    """Whatever protocol the bytes have, they load: the format may change with a release."""
    assert ScriptRun("").load(pickle.dumps([1, 2], protocol=2)) == [1, 2]
    assert dumps([1, 2]).data[:2] == pickle.dumps([1, 2], protocol=5)[:2]
