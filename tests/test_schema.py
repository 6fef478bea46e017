"""Shapes: equal while a class's code is; what a grown class gives an older object; payloads that hold both."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import textwrap
import weakref
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persist_session.objects.classes import UnrestorableError
from persist_session.objects.pickling import dumps
from persist_session.objects.schema import FACTORY, changed, fill, pack, restore, shape, shapes
from support.script import ScriptRun

BASE = """
from dataclasses import dataclass, field
class State:
    '''What an app keeps.'''
    kind = {"a", "b", "c"}
    def __init__(self):
        self.count = 0
    def act(self):
        def inner():
            return {"one", "two"}
        return [lambda: inner, "text"]
"""


def state(source: str = BASE) -> Any:
    """The class of a run of its own."""
    return ScriptRun(source).State


def test_every_run_has_one_shape() -> None:
    """Another visitor's class is no change."""
    assert shape(state()) == shape(state())


def test_every_process_has_one_shape() -> None:
    """A restart, with another order of sets and dicts, is no change."""
    program = (
        f"from persist_session.objects.schema import shape\nnames = {{'__name__': '__main__'}}\nexec({BASE!r}, names)\n"
        "print(shape(names['State']), shape(names['State'].act))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(path for path in sys.path if path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


@pytest.mark.parametrize(
    "change",
    [
        ("self.count = 0", "self.count = self.new = 0"),
        ("self.count = 0", "self.count = 0\n        setattr(self, 'new', 1)"),
        ("kind = ", "kinds = "),
        ("def act(self)", "def acts(self)"),
        ('{"one", "two"}', "self.new"),
        ("class State:", "class State:\n    new: int"),
        ("class State:", "class Base:\n    def __init__(self): self.new = 1\nclass State(Base):"),
        ("class State:", "@dataclass\nclass State:\n    new: int = 1"),
    ],
)
def test_what_may_set_attributes_is_seen(change: tuple[str, str]) -> None:
    """In methods, functions inside of them, bases, annotations and fields."""
    assert change[0] in BASE
    assert shape(state(BASE.replace(*change))) != shape(state())


def test_other_changes_are_none() -> None:
    """A number, a comment, an empty line."""
    assert shape(state(BASE.replace("count = 0", "count = 7  # seven\n"))) == shape(state())


def test_use_does_not_change_a_shape() -> None:
    """Python and pydantic note things in a class when it is first used."""
    run = ScriptRun("""
        import abc, functools, pickle, pydantic
        from dataclasses import dataclass
        class Slots:
            __slots__ = ("a",)
            def __init__(self): self.a = 1
        class Model(pydantic.BaseModel):
            a: int = 1
            @functools.cached_property
            def b(self): return 2
        class Abstract(abc.ABC): pass
        @dataclass
        class Data:
            a: int = 1
    """)
    for kind in (run.Slots, run.Model, run.Abstract, run.Data):
        before = shape(type(kind.__name__, (kind,), {"__module__": "__main__"}))
        obj = kind()
        run.copy(obj)
        repr(obj)
        assert obj == obj  # noqa: PLR0124
        assert isinstance(1, kind) is False
        if hasattr(obj, "model_dump"):
            obj.model_dump()
            kind.model_json_schema()
        assert shape(type(kind.__name__, (kind,), {"__module__": "__main__"})) == before


@pytest.mark.parametrize(
    "source",
    [
        """
        def wrapped(function):
            return functools.wraps(function)(lambda self: function(self))
        class State:
            @wrapped
            def __init__(self): self.a = 1
        """,
        """
        class State:
            @classmethod
            def make(cls):
                state = cls()
                state.a = 1
                return state
        """,
        """
        class State:
            @property
            def value(self): return 1
            @value.setter
            def value(self, value): self.a = value
        """,
        """
        class State:
            @functools.cached_property
            def value(self):
                self.a = 1
        """,
    ],
)
def test_wrapped_code_has_a_shape(source: str) -> None:
    """That of functions that wrap another, of class methods, of properties."""
    source = "import functools\n" + textwrap.dedent(source)
    old, same, new = ScriptRun(source), ScriptRun(source), ScriptRun(source.replace(".a =", ".b ="))
    assert shape(old.State) == shape(same.State) != shape(new.State)


def test_factories_have_shapes() -> None:
    """A lambda's changes with its code; what has no code has one and the same."""
    run = ScriptRun("""
        import functools
        one = lambda: {"a": 1}
        same = lambda: {"a": 1}
        other = lambda: {"b": 1}
        partial = functools.partial(one)
    """)
    assert shape(run.one) == shape(run.same) != shape(run.other)
    assert shape(run.partial) == shape(run.one) != shape(dict.fromkeys)


def test_a_shape_keeps_no_class() -> None:
    """Every run defines the script's classes anew: they must go."""
    kind = state()
    shape(kind)
    gone = weakref.ref(kind)
    del kind
    gc.collect()
    assert gone() is None


def test_what_changed_is_named() -> None:
    """The classes, and the factory; a class that is gone is an UnrestorableError."""
    source = "class A: pass\nclass B: pass\ndef make(): ..."
    old, new = ScriptRun(source), ScriptRun("class A: pass\nclass B:\n    new = 1\ndef make(): return A()")
    saved = shapes(dumps([old.A, old.B]).references, old.make)
    assert changed(saved, old.view(), old.make) == set()
    assert changed(saved, new.view(), new.make) == {("__main__", "B"), FACTORY}
    with pytest.raises(UnrestorableError):
        changed(saved, ScriptRun("class A: pass").view(), new.make)


# --- what a class gained


def loaded(payload: bytes, run: ScriptRun, factory: Any) -> Any:
    """The state with what its classes gained, as a load makes it."""
    obj, grown = restore(payload, run.view(factory), factory)
    if grown:
        fill(obj, grown, factory)
    return obj


def restored(old: str, new: str, *, calls: list[int] | None = None) -> Any:
    """The old source's state in the new source's class, filled; the factory itself is one that did not change."""
    before, after = ScriptRun(old), ScriptRun(new)

    def factory() -> Any:
        if calls is not None:
            calls.append(1)
        return after.State()

    return loaded(pack(dumps(before.State()), factory), after, factory)


def test_the_factory_gives_new_attributes() -> None:
    """The others stay as they were."""
    old = "class State:\n    def __init__(self): self.count = 5"
    obj = restored(old, "class State:\n    def __init__(self): self.count = 0; self.new = [1]")
    assert (obj.count, obj.new) == (5, [1])


def test_a_state_gets_its_new_slot() -> None:
    """Slots hold attributes, too."""
    old = "class State:\n    __slots__ = 'a'\n    def __init__(self): self.a = 5"
    obj = restored(old, "class State:\n    __slots__ = 'a', 'b'\n    def __init__(self): self.a = self.b = 1")
    assert (obj.a, obj.b) == (5, 1)


@pytest.mark.parametrize("options", ["", "slots=True", "frozen=True", "frozen=True, slots=True"])
def test_inner_dataclasses_get_new_fields(options: str) -> None:
    """Fields with a default, a default factory, or none: then it stays unset. The state's factory is not called."""
    source = f"""
from dataclasses import dataclass, field
@dataclass({options})
class Item:
    n: int
    kept: int = 1
    {{}}
class State:
    def __init__(self): self.items = [Item(1, 5), {{{{'a': Item(2, 5)}}}}]
"""
    calls: list[int] = []
    fields = "m: int = 7\n    tags: list = field(default_factory=list)\n    late: int = field(init=False)"
    obj = restored(source.format(""), source.format(fields), calls=calls)
    items = [obj.items[0], obj.items[1]["a"]]
    assert [(item.n, item.kept, item.m, item.tags) for item in items] == [(1, 5, 7, []), (2, 5, 7, [])]
    assert items[0].tags is not items[1].tags
    assert not hasattr(items[0], "late")
    assert calls == []


def test_a_pydantic_state_is_filled() -> None:
    """Its new field comes from the factory."""
    source = "import pydantic\nclass State(pydantic.BaseModel):\n    a: int = 1\n"
    obj = restored(source, source + "    b: list[int] = [3]\n")
    assert obj.model_dump() == {"a": 1, "b": [3]}


def test_inner_pydantic_models_are_filled() -> None:
    """By the defaults of their new fields, as dataclasses are."""
    source = """
import pydantic
class Item(pydantic.BaseModel):
    a: int = 0
    {}
class State:
    def __init__(self): self.item = Item(a=1)
"""
    obj = restored(source.format(""), source.format("b: list[int] = pydantic.Field(default_factory=lambda: [3])"))
    assert obj.item.model_dump() == {"a": 1, "b": [3]}


def test_an_unneeded_factory_is_not_asked() -> None:
    """It may be slow, or count."""
    calls: list[int] = []
    restored(BASE, BASE, calls=calls)
    assert calls == []


def test_another_factory_fills_nothing() -> None:
    """Attributes of another class are none of this one's."""
    old = ScriptRun("class State: pass")
    obj = old.State()
    other = ScriptRun("class State:\n    def __init__(self): self.new = 1").State
    fill(obj, {FACTORY}, other)
    assert vars(obj) == {}


def test_old_attributes_are_never_touched() -> None:
    """Not even where it is a property of the class."""
    run = ScriptRun("""
        class State:
            shown = property(lambda self: 5)
            def __init__(self): self.a = 1
    """)
    obj = run.State()
    obj.a = 2
    fill(obj, {FACTORY}, run.State)
    assert (obj.a, obj.shown) == (2, 5)


# --- payloads

OLD = """
class Item: pass
class State:
    def __init__(self):
        self.items = [Item()]
"""
NEW = OLD + "        self.new = 1\n"


@settings(max_examples=50)
@given(st.recursive(st.one_of(st.none(), st.integers(), st.text(), st.binary()), st.lists))
def test_what_was_packed_is_restored(value: Any) -> None:
    """Whatever the pickle holds, also bytes that look like another pickle's."""
    run = ScriptRun(OLD)
    assert loaded(pack(dumps([value]), list), run, list) == [value]


def test_the_pickle_stays_whole() -> None:
    """The shapes of all classes come first, and the pickle behind them as it was."""
    run = ScriptRun(OLD)
    pickled = dumps(run.State())
    payload = pack(pickled, run.State)
    assert payload.endswith(pickled.data)
    assert set(pickle.loads(payload)) == {("__main__", "State"), ("__main__", "Item"), FACTORY}


def test_another_run_restores_its_own() -> None:
    """The state and all that is in it are of the classes that this run sees."""
    old, new = ScriptRun(OLD), ScriptRun(OLD)
    obj = loaded(pack(dumps(old.State()), old.State), new, new.State)
    assert type(obj) is new.State
    assert type(obj.items[0]) is new.Item


def test_an_older_state_keeps_its_own() -> None:
    """It gets what its class gained beside it."""
    old, new = ScriptRun(OLD), ScriptRun(NEW)
    state = old.State()
    state.items.append(old.Item())
    obj = loaded(pack(dumps(state), old.State), new, new.State)
    assert (len(obj.items), obj.new) == (2, 1)


@pytest.mark.parametrize("source", ["", "class State: pass", "class Item: pass"])
def test_a_missing_class_is_unrestorable(source: str) -> None:
    """Whichever of them it is."""
    old = ScriptRun(OLD)
    with pytest.raises(UnrestorableError):
        restore(pack(dumps(old.State()), dict), ScriptRun(source).view(), dict)
