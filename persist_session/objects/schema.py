"""The attributes that a class gained since a state was saved, and their values.

A state's payload in its record is its pickle, behind the shapes that its classes had when it was taken.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import io
import pickle
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import Any

from persist_session.objects.classes import Reference, View, unwrapped
from persist_session.objects.pickling import Pickled, attributes_of, instances, loads

FACTORY: Reference = ("", "factory")
"""Stands for the factory among the names of the shapes."""

_shapes: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


def shape(target: Any) -> str:
    """A short digest of the names and strings in the code of a class or function: no new attribute without a new one.

    Nothing tells from outside which attributes a method sets, and what it sets it calls by a name.
    """
    target = unwrapped(target)
    if not isinstance(target, type):
        return _digest(_code_facts(_code_of(target)))
    if target not in _shapes:
        _shapes[target] = _digest([fact for base in target.__mro__[:-1] for fact in _class_facts(base)])
    return _shapes[target]


def shapes(references: Mapping[Reference, Any], factory: Callable[[], Any]) -> dict[Reference, str]:
    """The shapes of all classes that a pickle refers to, and of the factory."""
    return {name: shape(target) for name, target in references.items()} | {FACTORY: shape(factory)}


def changed(saved: Mapping[Reference, str], view: View, factory: Callable[[], Any]) -> set[Reference]:
    """The names whose shape is another one than when the shapes were taken.

    Raises:
        UnrestorableError: A class is gone.
    """
    return {name for name, old in saved.items() if shape(factory if name == FACTORY else view.find(*name)) != old}


def pack(pickled: Pickled, factory: Callable[[], Any]) -> bytes:
    """The payload: two pickles, one after the other."""
    return pickle.dumps(shapes(pickled.references, factory)) + pickled.data


def restore(payload: bytes, view: View, factory: Callable[[], Any]) -> tuple[Any, set[Reference]]:
    """The state, and the names of its classes that gained something since: for `fill`.

    Args:
        payload: From a record whose seal was verified.
        view: Finds the classes.
        factory: Makes a fresh state.

    Raises:
        UnrestorableError: A class is gone.
    """
    buffer = io.BytesIO(payload)
    saved: dict[Reference, str] = pickle.load(buffer)
    return loads(buffer.read(), view), changed(saved, view, factory)


def fill(obj: Any, grown: set[Reference], factory: Callable[[], Any]) -> None:
    """Gives the object, and the dataclasses and pydantic models inside it, the attributes that their classes gained.

    Args:
        obj: The restored state.
        grown: What `changed` said.
        factory: Is called if the state's own class or the factory changed: the new attributes' values are its own.
    """
    for instance in instances(obj, lambda kind: _name(kind) in grown):
        for field, default in _defaults(type(instance)):
            if not hasattr(instance, field):
                object.__setattr__(instance, field, default())
    if grown & {FACTORY, _name(type(obj))}:
        _fill_from(obj, factory())


def _fill_from(obj: Any, fresh: Any) -> None:
    if type(fresh) is not type(obj):
        return
    for attribute in attributes_of(fresh):
        if not hasattr(obj, attribute):
            object.__setattr__(obj, attribute, getattr(fresh, attribute))


def _defaults(kind: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The fields of a dataclass or pydantic model that have a default, and what makes it."""
    for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
        if field.default_factory is not dataclasses.MISSING:
            yield field.name, field.default_factory
        elif field.default is not dataclasses.MISSING:
            yield field.name, functools.partial(getattr, field, "default")
    for name, field in getattr(kind, "__pydantic_fields__", {}).items():
        if not field.is_required():
            yield name, functools.partial(field.get_default, call_default_factory=True)


def _name(kind: type) -> Reference:
    return kind.__module__, kind.__qualname__


def _class_facts(base: type) -> Iterator[object]:
    yield base.__qualname__
    # Pickling an instance notes its slots in the class (copyreg._slotnames): that is no change of its code.
    yield sorted(base.__dict__.keys() - {"__slotnames__"})
    yield sorted(base.__dict__.get("__dataclass_fields__", ()))
    yield sorted(base.__dict__.get("__pydantic_fields__", ()))
    for value in base.__dict__.values():
        for function in _functions_of(value):
            yield from _code_facts(_code_of(function))


def _functions_of(value: Any) -> tuple[Any, ...]:
    if isinstance(value, property):
        return value.fget, value.fset
    return (value.func if isinstance(value, functools.cached_property) else value,)


def _code_of(function: Any) -> CodeType | None:
    target = unwrapped(function)
    code = getattr(inspect.unwrap(target) if callable(target) else target, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _code_facts(code: CodeType | None) -> list[object]:
    # Names and strings are all that an attribute can be called by. Other constants stay out: a set's order
    # differs from process to process.
    if code is None:
        return []
    inner = [fact for constant in code.co_consts if isinstance(constant, CodeType) for fact in _code_facts(constant)]
    return [code.co_names, [constant for constant in code.co_consts if isinstance(constant, str)], *inner]


def _digest(facts: list[object]) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
