"""`persist` on classes and functions, without a server: what it makes is a class and a function as any other."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import copy
import dataclasses
import functools
import inspect
import logging
import pickle
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pydantic
import pytest

from persist_session import ConfigurationError, StoreError, UnpicklableStateError, load_state, persist
from persist_session.objects.pickling import dumps
from support.records import CountingStore
from support.script import ScriptRun
from support.tabs import Browser, Tab, pretended

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

T = TypeVar("T")


@persist("plain")
class Plain:
    """A state."""

    kind = "plain"

    def __init__(self, value: int = 0) -> None:
        self.value = value

    @classmethod
    def create(cls) -> Plain:
        """Make one."""
        return cls(5)

    @staticmethod
    def helper() -> int:
        """Help."""
        return 1

    def parent_of(self) -> type:
        """Use what a method's `super()` uses."""
        return type(super())


@persist("data")
@dataclasses.dataclass
class Data:
    """A dataclass."""

    value: int = 1
    items: list[int] = dataclasses.field(default_factory=list)


@persist("slots")
@dataclasses.dataclass(slots=True)
class Slots:
    """A dataclass with slots."""

    value: int = 1


@persist("model")
class Model(pydantic.BaseModel):
    """A pydantic model."""

    value: int = 1
    items: list[int] = []


class Base(abc.ABC):
    """An abstract base."""

    @abc.abstractmethod
    def act(self) -> str:
        """Act."""


@persist("concrete")
class Concrete(Base):
    """A concrete class."""

    value = 1

    def act(self) -> str:
        """Act."""
        return "acted"


@persist("generic")
class Box(Generic[T]):
    """A generic class."""

    value: int = 1


class Meta(type):
    """Makes instances in its own way."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make one, and mark it."""
        made = super().__call__(*args, **kwargs)
        made.mark = 1
        return made


@persist("meta")
class WithMeta(metaclass=Meta):
    """A class with a metaclass."""

    value = 1


@persist("words")
class Words(dict[str, int]):
    """A dict."""


@persist("own-clear")
class OwnClear:
    """A class that has the method already."""

    def clear_cookie_state(self) -> str:
        """Do what the class does."""
        return "own"


class Sub(Plain):
    """An ordinary subclass."""


CLASSES = [Plain, Data, Slots, Model, Concrete, Box, WithMeta, Words, OwnClear]


def test_a_metaclass_is_asked_for_instances() -> None:
    """Its own way of making them stays."""
    assert WithMeta().mark == 1  # type: ignore[attr-defined]
    assert isinstance(WithMeta, Meta)


@pytest.mark.parametrize("kind", CLASSES)
def test_outside_it_makes_ordinary_instances(kind: type) -> None:
    """Another one at each call, without a warning: unit tests of an app do so."""
    one, other = kind(), kind()
    assert one is not other
    assert type(one) is kind
    assert isinstance(one, kind)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_class_keeps_its_name(kind: type) -> None:
    """So that pickle, help and error messages find it."""
    assert kind.__module__ == __name__
    assert kind.__name__ == kind.__qualname__
    assert globals()[kind.__qualname__] is kind
    assert kind.__doc__ is not None
    assert repr(kind) == f"<class '{__name__}.{kind.__name__}'>"


@pytest.mark.parametrize("kind", CLASSES)
def test_instances_are_copied_and_pickled(kind: type) -> None:
    """By copy, deepcopy, pickle and by our own pickling."""
    obj: Any = kind()
    if hasattr(obj, "__dict__") and kind is not Words:
        obj.value = 7
    for made in (copy.copy(obj), copy.deepcopy(obj), pickle.loads(pickle.dumps(obj)), ScriptRun("").copy(obj)):
        assert type(made) is kind
        assert made is not obj
        assert getattr(made, "value", None) == getattr(obj, "value", None)


def test_attributes_are_not_intercepted() -> None:
    """No `__setattr__`, no `__getattr__`, no proxy; slots stay slots."""
    for kind in CLASSES:
        own = vars(kind).keys() - {"__module__", "__doc__", "__slots__", "clear_cookie_state", "__qualname__"}
        assert not {name for name in own if name.endswith(("attr__", "attribute__"))}
    assert not hasattr(Slots(), "__dict__")
    with pytest.raises(AttributeError):
        Slots().other = 1  # type: ignore[attr-defined]


def test_arguments_and_defaults_are_the_classs() -> None:
    """As they were written."""
    assert Plain(3).value == 3
    assert Plain.kind == "plain"
    assert Plain.create().value == 5
    assert Plain.helper() == 1
    assert Plain().parent_of() is super
    with pytest.raises(TypeError):
        Plain(1, 2)  # type: ignore[call-arg]


def test_a_dataclass_stays_one() -> None:
    """Fields, comparison, replace, match."""
    assert [field.name for field in dataclasses.fields(Data)] == ["value", "items"]
    assert Data(2) == Data(2) != Data(3)
    assert dataclasses.replace(Data(2), value=4) == Data(4)
    assert dataclasses.asdict(Data(2)) == {"value": 2, "items": []}
    assert Data(2).items is not Data(2).items
    match Data(2):
        case Data(value=2):
            pass
        case _:
            pytest.fail("no match")


def test_a_pydantic_model_stays_one() -> None:
    """Validation, copy, dump, schema."""
    with pytest.raises(pydantic.ValidationError):
        Model(value="x")  # type: ignore[arg-type]
    assert Model(value=2).model_copy(update={"items": [1]}).model_dump() == {"value": 2, "items": [1]}
    assert Model.model_validate({"value": 3}) == Model(value=3)
    assert Model.model_json_schema()["title"] == "Model"


def test_an_abstract_class_stays_one() -> None:
    """What is not abstract any more can be made, what still is can't."""
    assert Concrete().act() == "acted"
    assert isinstance(Concrete(), Base)
    abstract: Any = persist("abstract")(Base)
    with pytest.raises(TypeError, match="abstract"):
        abstract()


def test_a_generic_class_can_be_subscripted() -> None:
    """And called so."""
    assert isinstance(Box[int](), Box)


def test_subclasses_are_ordinary() -> None:
    """They are no state of a visitor, whatever their base is."""
    assert Sub(2).value == 2
    assert isinstance(Sub(), Plain)
    assert type(copy.deepcopy(Sub())) is Sub


def test_the_classs_own_method_stays() -> None:
    """It may clear more than we know."""
    assert OwnClear().clear_cookie_state() == "own"


def test_a_scripts_class_is_found() -> None:
    """By its name, as the class that the script calls."""
    source = """
        from persist_session import persist
        @persist("state")
        class State:
            def __init__(self):
                self.value = 1
    """
    old, new = ScriptRun(source), ScriptRun(source)
    assert dumps(old.State()).references == {("__main__", "State"): old.State}
    assert type(new.copy(old.State())) is new.State


# --- refused


def test_a_local_class_is_refused() -> None:
    """At decoration: no later run could find it."""
    with pytest.raises(ConfigurationError, match=r"\.Local is made inside a function.*top level") as caught:

        @persist("local")
        class Local:
            pass

    assert "<locals>" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "é", "a;b", None, 5, Plain, "a\n"])
def test_a_wrong_name_is_refused(name: Any) -> None:
    """At decoration, and `@persist` without a name, too."""
    with pytest.raises(ConfigurationError, match="name"):
        persist(name)


def test_a_wrong_option_is_refused() -> None:
    """Not in the visitor's first run."""
    options: dict[str, Any] = {"on_error": "ignore"}
    decorate: Any = persist("x", **options)
    with pytest.raises(ConfigurationError, match="on_error"):
        decorate(Plain)


def test_a_wrong_factory_is_refused() -> None:
    """A class is its own, a function has none."""
    decorated: Any = persist("state", dict)
    with pytest.raises(ConfigurationError, match="takes no factory"):
        decorated(Plain)
    decorated = persist("state")
    with pytest.raises(ConfigurationError, match="needs a factory"):
        decorated(lambda: 1)


# --- functions


@persist("state", Data)
def add(data: Data, amount: int, *, times: int = 1) -> int:
    """Add."""
    data.value += amount * times
    return data.value


def test_a_function_gets_the_state_first() -> None:
    """Its result is returned, and outside of a run every call has a fresh state."""
    assert add(2, times=3) == 7
    assert add(2) == 3


def test_a_function_keeps_its_name() -> None:
    """As functools.wraps keeps them."""
    assert (add.__name__, add.__doc__) == ("add", "Add.")


def test_a_functions_error_is_raised() -> None:
    """Nothing is swallowed."""

    @persist("state", dict)
    def fail(_: dict[str, int]) -> None:
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        fail()


@pytest.mark.parametrize("options", [{"user": "ada"}, {"remember": False}])
def test_options_for_each_visitor_are_refused(options: dict[str, Any]) -> None:
    """A decorator is evaluated for all of them at once."""
    with pytest.raises(ConfigurationError, match="for each visitor"):
        persist("app-state", **options)


# --- in a run


@pytest.fixture
def store() -> CountingStore:
    """Return the store of all tabs."""
    return CountingStore()


@pytest.fixture
def browser(store: CountingStore) -> Iterator[Browser]:
    """Return a browser, for which nothing is saved yet."""
    with pretended(store) as made:
        yield made


@pytest.fixture
def tab(browser: Browser) -> Tab:
    """Return a tab in its second run."""
    made = browser.load()
    for _ in range(2):
        made.begin()
        load_state("first", dict)
    return made


def saved(browser: Browser, name: str, factory: Callable[[], Any]) -> Any:
    """Return what a new tab gets."""
    browser.open().begin()
    return load_state(name, factory)


def test_every_call_gives_one_object(tab: Tab, browser: Browser, store: CountingStore) -> None:
    """Its changes are saved once, at the end of the run; `__init__` runs for a fresh state only."""
    one = Plain(3)
    one.value = 9
    assert Plain(3) is functools.partial(Plain, 3)() is one
    writes = store.writes
    tab.end()
    assert store.writes == writes + 1
    tab.begin()
    assert Plain(3) is one
    assert one.value == 9
    browser.open().begin()
    assert Plain(3).value == 9


def test_other_arguments_are_refused(tab: Tab) -> None:
    """There is one state; the same ones again are fine."""
    one = Plain(3)
    assert Plain(3) is one
    with pytest.raises(ConfigurationError, match="other arguments"):
        Plain(4)


def test_copies_and_subclasses_are_ordinary(tab: Tab) -> None:
    """Copying and pickling make an instance without a call of the class."""
    one = Plain(3)
    for made in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one)), ScriptRun("").copy(one)):
        assert made is not one
        assert made.value == 3
    assert Sub() is not Sub()
    model = Model()
    assert model.model_copy() is not model
    assert copy.deepcopy(Data()) is not Data()


def test_a_failed_run_is_thrown_away(tab: Tab, browser: Browser) -> None:
    """Whatever the class's calls changed in it."""
    Data().value = 5
    tab.begin()
    Data().value = 6
    tab.end(failed=True)
    tab.begin()
    assert Data().value == 5
    assert saved(browser, "data", Data).value == 5


def test_clearing_by_the_method(tab: Tab, browser: Browser) -> None:
    """The next call starts fresh, in the same run."""
    one: Any = Data()
    one.value = 5
    tab.begin()
    one.clear_cookie_state()
    assert Data().value == 1
    tab.end()
    browser.open().begin()
    assert Data().value == 1


@pytest.mark.parametrize("error", [StoreError("ours"), ValueError("secret")])
def test_a_failed_end_is_told_once(
    tab: Tab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """By the next call: an error of ours as it is, any other as the cause of one; both are logged as errors."""

    def fail(*_: Any, **__: Any) -> bool:
        raise error

    Data().value = 5
    with monkeypatch.context() as patch:
        patch.setattr(CountingStore, "write", fail)
        tab.end()
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    tab.begin()
    with pytest.raises(Exception) as caught:  # noqa: PT011 (compared below)
        Data()
    assert error in (caught.value, caught.value.__cause__)
    assert "secret" not in str(caught.value)
    Data()


# --- functions in a run


@persist("state", Data)
async def awaited(data: Data) -> int:
    """Change it after a wait."""
    await asyncio.sleep(0)
    data.value += 1
    return data.value


@persist("state", Data)
def iterated(data: Data) -> Iterator[int]:
    """Change it at each step."""
    for _ in range(2):
        data.value += 1
        got = yield data.value
        assert got is None


@persist("state", Data)
async def iterated_awaited(data: Data) -> AsyncIterator[int]:
    """Change it at each step, after a wait."""
    for _ in range(2):
        await asyncio.sleep(0)
        data.value += 1
        yield data.value


async def _all(steps: AsyncIterator[int]) -> list[int]:
    return [each async for each in steps]


BODIES: dict[str, tuple[Callable[..., Any], Callable[[], Any], Any]] = {
    "async": (awaited, lambda: asyncio.run(awaited()), 2),
    "generator": (iterated, lambda: list(iterated()), [2, 3]),
    "async generator": (iterated_awaited, lambda: asyncio.run(_all(iterated_awaited())), [2, 3]),
}


@pytest.mark.parametrize("kind", BODIES)
def test_the_block_surrounds_the_body(kind: str, tab: Tab, browser: Browser, store: CountingStore) -> None:
    """What an async, a generator or an async generator function does while it runs is saved once, when it is done."""
    function, run, result = BODIES[kind]
    writes = store.writes
    assert run() == result
    assert store.writes == writes + 1
    assert saved(browser, "state", Data).value == (result[-1] if isinstance(result, list) else result)
    for ask in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        assert ask(function) == ask(inspect.unwrap(function))


def test_a_generator_left_early_is_saved(tab: Tab, browser: Browser) -> None:
    """Closing is no error; an exception that comes out of its body throws its changes away."""
    steps: Any = iterated()
    next(steps)
    steps.close()
    assert saved(browser, "state", Data).value == 2
    tab.begin()
    steps = iterated()
    next(steps)
    with contextlib.suppress(AssertionError):
        steps.send(5)
    assert saved(browser, "state", Data).value == 2


def test_an_async_generator_left_early(tab: Tab, browser: Browser) -> None:
    """Its body is closed before the block is: what its `finally` does is saved, too."""

    @persist("state", Data)
    async def last(data: Data) -> AsyncIterator[int]:
        try:
            yield data.value
        finally:
            data.value = 7

    async def leave_early() -> None:
        steps: Any = last()
        await anext(steps)
        await steps.aclose()

    asyncio.run(leave_early())
    assert saved(browser, "state", Data).value == 7


def test_an_async_error_is_thrown_away(tab: Tab, browser: Browser) -> None:
    """What the body changed before it is gone, and the error comes out as it is."""

    @persist("state", Data)
    async def fail(data: Data) -> None:
        data.value = 9
        await asyncio.sleep(0)
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        asyncio.run(fail())
    assert saved(browser, "state", Data).value == 1


def test_a_functions_unsavable_change_is_told(tab: Tab) -> None:
    """By the call itself, since its end is the block's."""

    @persist("state", Data)
    def spoil(data: Data) -> None:
        data.items.append(lambda: 1)  # type: ignore[arg-type]

    with pytest.raises(UnpicklableStateError, match=r"Data\.items\[0\]"):
        spoil()
