"""`persist` on classes and functions, outside of a server: what it makes is a class and a function as any other."""

from __future__ import annotations

import abc
import copy
import dataclasses
import functools
import logging
import pickle
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

import pydantic
import pytest
from streamlit.runtime.scriptrunner import script_runner
from streamlit.runtime.state import SafeSessionState, SessionState

from persist_session import ConfigurationError, decorator, host, persist, state
from persist_session.host import Run
from persist_session.pickling import dumps
from support.script import ScriptRun

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


@persist("own clear".replace(" ", "-"))
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
def test_outside_of_a_run_it_makes_ordinary_instances(kind: type) -> None:
    """Another one at each call, without a warning: unit tests of an app do so."""
    one, other = kind(), kind()
    assert one is not other
    assert type(one) is kind
    assert isinstance(one, kind)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_class_keeps_its_name_place_and_words(kind: type) -> None:
    """So that pickle, help and error messages find it."""
    assert kind.__module__ == __name__
    assert kind.__name__ == kind.__qualname__
    assert globals()[kind.__qualname__] is kind
    assert kind.__doc__ is not None
    assert repr(kind) == f"<class '{__name__}.{kind.__name__}'>"


@pytest.mark.parametrize("kind", CLASSES)
def test_instances_are_copied_and_pickled_as_usual(kind: type) -> None:
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


def test_arguments_defaults_and_class_attributes_are_the_classes() -> None:
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


def test_a_method_of_the_class_is_not_replaced() -> None:
    """It may clear more than we know."""
    assert OwnClear().clear_cookie_state() == "own"


def test_a_class_of_a_script_is_found_in_every_run() -> None:
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


def test_a_class_made_in_a_function_is_refused() -> None:
    """At decoration: no later run could find it."""
    with pytest.raises(ConfigurationError, match=r"\.Local is made inside a function.*top level") as caught:

        @persist("local")
        class Local:
            pass

    assert "<locals>" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "é", "a;b", None, 5, Plain, "a\n"])
def test_a_name_that_no_cookie_can_have_is_refused(name: Any) -> None:
    """At decoration, and `@persist` without a name, too."""
    with pytest.raises(ConfigurationError, match="name"):
        persist(name)


def test_a_wrong_option_of_a_class_is_refused_at_decoration() -> None:
    """Not in the visitor's first run."""
    options: dict[str, Any] = {"on_error": "ignore"}
    decorate: Any = persist("x", **options)
    with pytest.raises(ConfigurationError, match="on_error"):
        decorate(Plain)


def test_a_factory_on_a_class_and_none_on_a_function_are_refused() -> None:
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


def test_a_function_gets_the_state_first_and_its_arguments_then() -> None:
    """Its result is returned, and outside of a run every call has a fresh state."""
    assert add(2, times=3) == 7
    assert add(2) == 3


def test_a_function_keeps_its_name_and_words() -> None:
    """As functools.wraps keeps them."""
    assert (add.__name__, add.__doc__) == ("add", "Add.")


def test_an_error_of_a_function_is_raised() -> None:
    """Nothing is swallowed."""

    @persist("state", dict)
    def fail(_: dict[str, int]) -> None:
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        fail()


# --- in a run, as far as that goes without a server


class Context:
    """As much of Streamlit's run context as the decorator asks for."""

    class Coordinator:
        """What lives as long as the run."""

    def __init__(self) -> None:
        self.parallel_coordinator = self.Coordinator()
        self.main_script_path = __file__


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Pretend that a run is on; return what its end would call."""
    memory: dict[str, Any] = {}
    made: dict[str, Any] = {}
    ends: list[Any] = []

    class Fake(Run):
        @property
        def memory(self) -> dict[str, Any]:
            return memory

    current = Fake(Context())
    monkeypatch.setattr(host, "current_run", lambda: current)
    monkeypatch.setattr(host, "at_end_of_run", lambda _, end: ends.append(end))

    def call(self: Any, _run: Any) -> Any:
        if self._name not in made:
            made[self._name] = self._factory()
        return made[self._name]

    monkeypatch.setattr(state.persistent_state, "call", call)
    return ends


def test_in_a_run_every_call_gives_the_same_object(run: list[Any]) -> None:
    """And the end of the run is waited for once."""
    one = Plain()
    one.value = 9
    assert Plain() is one
    assert len(run) == 1


def test_in_a_run_other_arguments_are_refused(run: list[Any]) -> None:
    """There is one state; the same ones again are fine."""
    one = Plain(3)
    assert Plain(3) is one
    with pytest.raises(ConfigurationError, match="other arguments"):
        Plain(4)


def test_in_a_run_copies_and_subclasses_are_ordinary(run: list[Any]) -> None:
    """Copying and pickling make an instance without a call of the class."""
    one = Plain(3)
    for made in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one)), ScriptRun("").copy(one)):
        assert made is not one
        assert made.value == 3
    assert Sub() is not Sub()
    model = Model()
    assert model.model_copy() is not model
    assert copy.deepcopy(Data()) is not Data()


def test_an_end_that_fails_is_told_by_the_next_call(run: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Once; an error of ours as it is, any other as the cause of one, and both are logged."""
    for error in (ConfigurationError("ours"), ValueError("secret")):
        Plain()

        def fail(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(decorator, "end_of_run", fail)
        run[0](host.Ended(failed=False, drew_all=True))
        with pytest.raises(Exception) as caught:  # noqa: PT011 (compared below)
            Plain()
        assert error in (caught.value, caught.value.__cause__)
        assert "secret" not in str(caught.value)
        Plain()


def test_the_failure_is_logged(
    run: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As an error: the visitor may never come back to see it."""

    def fail(*_: Any, **__: Any) -> None:
        raise ConfigurationError("ours")

    Plain()
    monkeypatch.setattr(decorator, "end_of_run", fail)
    run[0](host.Ended(failed=False, drew_all=True))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("options", [{"user": "ada"}, {"remember": False}])
def test_what_is_another_one_for_each_visitor_is_no_option(options: dict[str, Any]) -> None:
    """A decorator is evaluated for all of them at once."""
    with pytest.raises(ConfigurationError, match="for each visitor"):
        persist("app-state", **options)


def test_a_partial_of_a_persistent_class_makes_the_state(run: list[Any]) -> None:
    """It is a call of the class as any other."""
    assert functools.partial(Plain, 3)() is Plain(3)


class Runner:
    """As much of Streamlit's script runner as tells of a run's end; `heard` is what Streamlit's session hears of it."""

    def __init__(self) -> None:
        self.on_event = script_runner.Signal()  # type: ignore[attr-defined]  # whichever this release uses
        self.heard: list[str] = []
        self.on_event.connect(self.hear)

    def hear(self, _: Any, event: Any) -> None:
        """Note an event."""
        self.heard.append(event.name)

    def enqueue(self, _: Any) -> None:
        """Send a message."""

    def run(self) -> Run:
        """Return a run."""
        own = {"_enqueue": self.enqueue, "script_requests": SimpleNamespace(_state=SimpleNamespace(name="CONTINUE"))}
        state_of_tab = SafeSessionState(SessionState(), lambda: None)
        coordinator = Context.Coordinator()
        return Run(
            SimpleNamespace(session_state=state_of_tab, parallel_coordinator=coordinator, on_script_error=None, **own)
        )


def test_a_run_is_saved_before_the_browser_hears_that_it_is_over() -> None:
    """Else a reload that comes at once shows what was before."""
    event = script_runner.ScriptRunnerEvent
    for _ in range(20):  # of some signals the order is any
        runner = Runner()
        run = runner.run()
        host.at_end_of_run(run, lambda how, runner=runner: runner.heard.append(f"saved {how.drew_all}"))  # type: ignore[misc]
        for each in (event.ENQUEUE_FORWARD_MSG, event.SCRIPT_STOPPED_WITH_SUCCESS, event.SHUTDOWN):
            runner.on_event.send(runner, event=each)
        assert runner.heard == ["ENQUEUE_FORWARD_MSG", "saved True", "SCRIPT_STOPPED_WITH_SUCCESS", "SHUTDOWN"]
