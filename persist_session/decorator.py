"""`persist`: sugar over `persistent_state`, and the only place that touches classes."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from persist_session import host
from persist_session.errors import ConfigurationError
from persist_session.objects.sameness import same
from persist_session.state import (
    MaxAge,
    OnError,
    OnUnloadable,
    check_name,
    clear_cookie_state,
    persistent_state,
)
from persist_session.tab import tab_of
from persist_session.transaction import OnConflict

S = TypeVar("S")
R = TypeVar("R")
P = ParamSpec("P")
C = TypeVar("C", bound=type)


@overload
def persist(
    name: str,
    *,
    max_age: MaxAge = None,
    on_conflict: OnConflict = "merge",
    on_error: OnError = "discard",
    on_unloadable: OnUnloadable = "raise",
) -> Callable[[C], C]: ...
@overload
def persist(
    name: str,
    factory: Callable[[], S],
    *,
    max_age: MaxAge = None,
    exclusive: bool = False,
    on_conflict: OnConflict = "merge",
    on_error: OnError = "discard",
    on_unloadable: OnUnloadable = "raise",
) -> Callable[[Callable[Concatenate[S, P], R]], Callable[P, R]]: ...
def persist(name: str, factory: Callable[[], Any] | None = None, **options: Any) -> Callable[[Any], Any]:
    """A decorator that keeps the state named `name`, for a class or for a function.

    On a class: the first `AppState()` of a run loads the visitor's state, further ones return the same object, and the
    end of the run saves it once, or, if the run showed an exception, throws its changes away. `__init__` runs for a
    fresh state only. `state.clear_cookie_state()` clears it. In a fragment call `AppState()` inside of it. Subclasses,
    and calls outside of a Streamlit run, make ordinary instances.

    On a function, with a factory: every call is a block, and the state is the function's first argument.

    Args:
        name: See `persistent_state`.
        factory: Makes a fresh state; for functions only, a class is its own factory.
        **options: `max_age`, `on_conflict`, `on_error`, `on_unloadable`, and for functions `exclusive`: see
            `persistent_state`.

    Raises:
        ConfigurationError: An argument makes no sense, or the class is made inside a function. A call raises it where
            the class was called with other arguments before in the same run.
        PersistSessionError: A call of the class raises what the end of the tab's last run met when it saved.
    """
    if callable(name):  # @persist without parentheses
        raise ConfigurationError('name must be 1 to 64 letters, digits, "_", "." or "-": @persist("app-state").')
    check_name(name)
    for option in {"user", "remember"} & options.keys():
        raise ConfigurationError(
            f"{option} is another one for each visitor, and a decorator has one for all; "
            f"use `with persistent_state(..., {option}=...)`."
        )

    def decorate(target: Any) -> Any:
        if isinstance(target, type):
            if factory is not None:
                raise ConfigurationError(f"@persist({name!r}, ...) on a class takes no factory: the class is its own.")
            if options.get("exclusive"):
                raise ConfigurationError(
                    f"@persist({name!r}, exclusive=True) on a class would hold its lock over the whole run; "
                    "use `with persistent_state(..., exclusive=True)` around the lines that need it."
                )
            persistent_state(name, target, **options)  # a wrong option is told here, not at the first call
            return _persistent_class(target, name, options)
        if factory is None:
            raise ConfigurationError(f"@persist({name!r}) on a function needs a factory: @persist({name!r}, AppState).")
        return _in_block(target, name, factory, options)

    return decorate


def _in_block(function: Callable[..., Any], name: str, factory: Callable[[], Any], options: dict[str, Any]) -> Any:
    """A function of the same kind, whose every call is a block: around the awaited, or the iterated, too."""

    def block() -> persistent_state[Any]:
        return persistent_state(name, factory, **options)

    block()  # a wrong option is told here, not at the first call

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with block() as state:
            return function(state, *args, **kwargs)

    @functools.wraps(function)
    async def call_awaited(*args: Any, **kwargs: Any) -> Any:
        with block() as state:
            return await function(state, *args, **kwargs)

    @functools.wraps(function)
    def call_iterated(*args: Any, **kwargs: Any) -> Any:
        with block() as state:
            return (yield from function(state, *args, **kwargs))

    @functools.wraps(function)
    async def call_iterated_awaited(*args: Any, **kwargs: Any) -> Any:
        with block() as state:
            async with contextlib.aclosing(function(state, *args, **kwargs)) as steps:
                async for each in steps:
                    yield each

    if inspect.iscoroutinefunction(function):
        return call_awaited
    if inspect.isgeneratorfunction(function):
        return call_iterated
    return call_iterated_awaited if inspect.isasyncgenfunction(function) else call


def _persistent_class(kind: type, name: str, options: dict[str, Any]) -> type:
    """A subclass in the class's place, whose calls return the visitor's state.

    Only a metaclass sees a call of the class and nothing else: copying and pickling make instances by `__new__`, and
    `isinstance` goes by inheritance.
    """
    if "<locals>" in kind.__qualname__:
        raise ConfigurationError(
            f"@persist({name!r}): {kind.__qualname__.replace('<locals>.', '')} is made inside a function, so no later "
            "run can find it; define it at the top level of a script or module."
        )

    def call(cls: type, *args: Any, **kwargs: Any) -> Any:
        make = functools.partial(type(kind).__call__, cls, *args, **kwargs)
        run = host.current_run()
        if cls is not persistent or run is None:
            return make()
        return _instance(run, name, _Factory(cls, make, (args, kwargs)), options)

    def clear(_self: Any) -> None:
        """Clears the visitor's state: the next call of the class starts fresh."""
        clear_cookie_state(name)

    meta = type(f"Persistent{type(kind).__name__}", (type(kind),), {"__call__": call})
    namespace: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__slots__": (),
    }
    if not hasattr(kind, "clear_cookie_state"):
        namespace["clear_cookie_state"] = clear
    persistent: type = meta(kind.__name__, (kind,), namespace)
    if "__parameters__" in vars(kind):  # typing takes a subclass without parameters of its own for no generic class
        setattr(persistent, "__parameters__", vars(kind)["__parameters__"])  # noqa: B010 (a type has no such attribute)
    return persistent


class _Factory:
    """Makes an ordinary instance, and goes by its class."""

    def __init__(self, kind: type, make: Callable[[], Any], arguments: Any) -> None:
        self.__func__ = kind
        self.arguments = arguments
        self.makes_anew = arguments == ((), {})
        self._make = make

    def __call__(self) -> Any:
        return self._make()


def _instance(run: host.Run, name: str, factory: _Factory, options: dict[str, Any]) -> Any:
    tab = tab_of(run)
    if name in tab.failures:
        raise tab.failures.pop(name)
    state, calls = persistent_state(name, factory, **options), tab.calls(run)
    if name not in calls:
        calls[name] = factory.arguments, state.open_for_run(run)
        return calls[name][1].obj
    arguments, block = calls[name]
    if not same(arguments, factory.arguments):
        raise ConfigurationError(
            f"{factory.__func__.__qualname__} was called with other arguments before in this run, and there is one "
            f"state {name!r}; call it with the same arguments, or set attributes."
        )
    state.go_on(run, block)
    return block.obj
