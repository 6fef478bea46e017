"""Pickles whose classes are found where the caller sees them.

Streamlit executes the main script and every page in a fresh module called `__main__` at each run; the one in
`sys.modules` belongs to whichever visitor ran last (streamlit/runtime/scriptrunner/script_runner.py). There plain
pickle looks, and fails or hands out another visitor's class. Here a class is written as its module and qualified name,
and looked up in a `View`: what the code that asks for the state sees.
"""

from __future__ import annotations

import copyreg
import functools
import importlib
import io
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Any, NamedTuple

Reference = tuple[str, str]
"""Module and qualified name of a class or function."""

_CONCURRENT_CHANGE_RETRIES = 50
_LONGEST_SEARCH = 200


class UnpicklableError(Exception):
    """An object can't be pickled; the message says which part of it and why."""


class Pickled(NamedTuple):
    """A pickle, and the app's own classes and functions that it refers to."""

    data: bytes
    references: Mapping[Reference, Any]


class View:
    """What a caller sees: the namespaces in which its classes are looked up.

    Args:
        namespaces: Global namespaces, the nearest first.
        factory: Makes the state; a class is found as itself, a function through its globals.
    """

    def __init__(self, namespaces: tuple[dict[str, Any], ...], factory: Callable[[], Any]) -> None:
        target = _unwrapped(factory)
        self._factory_class = target if isinstance(target, type) else None
        self._namespaces = (*namespaces, *_globals_of(target))

    def find(self, module: str, qualname: str) -> Any:
        """The class or function of this name.

        Raises:
            LookupError: Nothing of this name can be seen.
        """
        seen = self._factory_class
        if seen is not None and (seen.__module__, seen.__qualname__) == (module, qualname):
            return seen
        for found in self._seen(module, qualname):
            return found
        if module == "__main__":
            raise LookupError(f"{qualname} is not defined where the state is loaded")
        try:
            return _walk(vars(importlib.import_module(module)), qualname)
        except (ImportError, LookupError) as error:
            raise LookupError(f"{module}.{qualname} can't be imported") from error

    def _seen(self, module: str, qualname: str) -> Iterator[Any]:
        # A hot-reloaded module lives on in the runs that imported it before: what the caller holds comes before
        # sys.modules, so that isinstance() holds in every run.
        top = qualname.partition(".")[0]
        for namespace in self._namespaces:
            value = namespace.get(top)
            if namespace.get("__name__") != module and (
                getattr(value, "__module__", None) != module or getattr(value, "__qualname__", None) != top
            ):
                continue
            try:
                yield _walk(namespace, qualname)
            except LookupError:
                continue

    def sees(self, references: Mapping[Reference, Any]) -> bool:
        """Whether each of these names still means the same object."""
        try:
            return all(self.find(*name) is known for name, known in references.items())
        except LookupError:
            return False

    def is_like(self, other: View) -> bool:
        """Whether the other view looks at the same namespaces, so that every name means the same in both."""
        return (
            self._factory_class is other._factory_class
            and len(self._namespaces) == len(other._namespaces)
            and all(one is two for one, two in zip(self._namespaces, other._namespaces, strict=True))
        )

    def has_no_class_but(self, name: Reference) -> bool:
        """Whether the script that the caller sees defines no class but this one, and none inside it."""
        classes = {
            value
            for namespace in self._namespaces
            if namespace.get("__name__") == "__main__"
            for value in list(namespace.values())
            if isinstance(value, type) and value.__module__ == "__main__"
        }
        bases = {base for kind in classes for base in kind.__mro__ if base.__module__ == "__main__"}
        inner = {value for base in bases for value in vars(base).values() if isinstance(value, type)}
        return not inner and {(kind.__module__, kind.__qualname__) for kind in classes} <= {name}


def _unwrapped(factory: Any) -> Any:
    while isinstance(factory, functools.partial):
        factory = factory.func
    return getattr(factory, "__func__", factory)


def _globals_of(target: Any) -> tuple[dict[str, Any], ...]:
    if isinstance(target, FunctionType):
        return (target.__globals__,)
    # Methods that dataclasses and namedtuples generate carry the globals of whichever `__main__` was registered when
    # they were made: only globals that know the class by its name are its own.
    candidates = (
        (value.__globals__ for value in vars(target).values() if isinstance(value, FunctionType))
        if isinstance(target, type)
        else ()
    )
    for candidate in candidates:
        if candidate.get(target.__qualname__.partition(".")[0]) is target:
            return (candidate,)
    return ()


def _walk(namespace: Mapping[str, Any], qualname: str) -> Any:
    first, *rest = qualname.split(".")
    try:
        return functools.reduce(getattr, rest, namespace[first])
    except (KeyError, AttributeError) as error:
        raise LookupError(f"{qualname} is gone") from error


def _reference(module: str, qualname: str) -> Any:
    """Stands in a pickle for a class; `loads` puts its view's lookup in this place."""
    raise pickle.UnpicklingError(f"{module}.{qualname} is found by persist_session only")


def _set_fields(instance: Any, fields: dict[str, Any]) -> None:
    """Sets the fields of a slotted dataclass by name, past a frozen class's `__setattr__`."""
    known = type(instance).__dataclass_fields__
    for field, value in fields.items():
        if field in known:
            object.__setattr__(instance, field, value)


@functools.lru_cache(maxsize=1024)
def is_own_module(module: str) -> bool:
    """Whether a module may change while the app runs: not the standard library's, not an installed one."""
    if module.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
        return False
    path = getattr(sys.modules.get(module), "__file__", None) or ""
    return module == "__main__" or ("site-packages" not in path and "dist-packages" not in path)


class _Pickler(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, protocol=5)
        self.references: dict[Reference, Any] = {}
        self.reducer_override = self._reducer()  # type: ignore[method-assign]

    def _reducer(self) -> Callable[[Any], Any]:
        """What the pickler asks of every object but plain values and containers: so it answers fast.

        A closure costs half of a method here. Types that need nothing special are remembered.
        """
        ordinary: set[type] = set()

        def reduce(obj: Any) -> Any:
            kind = type(obj)
            if kind in ordinary:
                return NotImplemented
            if isinstance(obj, (type, FunctionType)):
                return self._reduce_name(obj)
            if _is_slotted_dataclass(kind):
                return _reduce_slotted(obj)
            ordinary.add(kind)
            return NotImplemented

        return reduce

    def _reduce_name(self, obj: Any) -> Any:
        name = (obj.__module__, obj.__qualname__)
        if name[0] == "builtins" or not isinstance(name[0], str):
            return NotImplemented
        if "<locals>" in name[1] or "<lambda>" in name[1]:
            raise pickle.PicklingError(
                f"{name[1].replace('<locals>.', '')} is made inside a function, so no later run can find it; "
                "define it at the top level of a script or module"
            )
        if is_own_module(name[0]):
            self.references[name] = obj
        return NotImplemented if _is_importable(obj, name) else (_reference, name)


def _is_importable(obj: Any, name: Reference) -> bool:
    module = sys.modules.get(name[0])
    if module is None or name[0] == "__main__":
        return False
    try:
        return _walk(vars(module), name[1]) is obj
    except LookupError:
        return False


def _is_slotted_dataclass(kind: type) -> bool:
    # The pair that dataclass(slots=True) generates stores values by position, so a field added in the middle
    # would shift all later values into the wrong fields (dataclasses.py, _dataclass_setstate).
    return getattr(kind.__dict__.get("__setstate__"), "__name__", "") == "_dataclass_setstate"


def _reduce_slotted(obj: Any) -> Any:
    kind = type(obj)
    fields = {field: getattr(obj, field) for field in kind.__dataclass_fields__ if hasattr(obj, field)}
    return copyreg.__newobj__, (kind,), fields, None, None, _set_fields  # type: ignore[attr-defined]


class _Unpickler(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, view: View) -> None:
        super().__init__(buffer)
        self._view = view

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (__name__, _reference.__name__):
            return self._view.find
        return self._view.find(module, name) if is_own_module(module) else super().find_class(module, name)


def dumps(obj: Any) -> Pickled:
    """The object's pickle with the names of the app's own classes in it.

    A change that another thread makes meanwhile is met by trying again.

    Raises:
        UnpicklableError: Part of the object can't be pickled; the message names the path to it.
    """
    for attempt in range(_CONCURRENT_CHANGE_RETRIES):
        try:
            return _dump_once(obj)
        except RuntimeError as error:
            if "changed size during iteration" not in str(error) or attempt == _CONCURRENT_CHANGE_RETRIES - 1:
                raise _unpicklable(obj, error) from error
            time.sleep(0.001)
        except Exception as error:  # pickling calls any code of the app's classes: whatever it raises is the answer
            raise _unpicklable(obj, error) from error
    raise AssertionError("the last attempt returns or raises")


def _dump_once(obj: Any) -> Pickled:
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(obj)
    return Pickled(buffer.getvalue(), pickler.references)


def loads(data: bytes, view: View) -> Any:
    """The object, made of the classes that the view sees.

    Raises:
        LookupError: A class is gone.
        Exception: Whatever the app's own classes raise.
    """
    return _Unpickler(io.BytesIO(data), view).load()


def instances(obj: Any, wanted: Callable[[type], bool]) -> list[Any]:
    """All instances inside the object, itself included, whose class is wanted."""
    collector = _Collector(wanted)
    collector.dump(obj)
    return collector.found


class _Collector(_Pickler):
    """Walks an object as pickling does; the bytes are thrown away."""

    def __init__(self, wanted: Callable[[type], bool]) -> None:
        self._wanted = wanted
        self.found: list[Any] = []
        super().__init__(io.BytesIO())

    def _reducer(self) -> Callable[[Any], Any]:
        ordinary = super()._reducer()

        def reduce(obj: Any) -> Any:
            if not isinstance(obj, (type, FunctionType)) and self._wanted(type(obj)):
                self.found.append(obj)
            return ordinary(obj)

        return reduce


def _unpicklable(obj: Any, error: Exception) -> UnpicklableError:
    path = _path_to_culprit(obj, type(obj).__qualname__, set())
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return UnpicklableError(f"{path} can't be pickled: {reason}")


def _path_to_culprit(obj: Any, path: str, seen: set[int]) -> str:
    seen.add(id(obj))
    if len(seen) < _LONGEST_SEARCH:
        for step, child in _children(obj):
            if id(child) not in seen and not _picklable(child):
                return _path_to_culprit(child, path + step, seen)
    return path


def _picklable(obj: Any) -> bool:
    try:
        _dump_once(obj)
    except Exception:  # noqa: BLE001 (only asks whether)
        return False
    return True


def _children(obj: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(obj, dict):
        for key, value in list(obj.items()):
            # A key may be a visitor's own words: only what reads like a name is shown.
            shown = repr(key) if isinstance(key, int) or (isinstance(key, str) and key.isidentifier()) else "..."
            yield f"[{shown}]", key
            yield f"[{shown}]", value
    elif isinstance(obj, (list, tuple, set, frozenset)):
        yield from ((f"[{index}]", value) for index, value in enumerate(list(obj)))
    for attribute in attributes_of(obj):
        yield f".{attribute}", getattr(obj, attribute, None)


def attributes_of(obj: Any) -> list[str]:
    """The names of the attributes that the instance itself holds, in its `__dict__` or in slots."""
    slots = [
        slot
        for base in reversed(type(obj).__mro__)
        for slot in _slots_of(base)
        if slot not in ("__dict__", "__weakref__") and hasattr(obj, slot)
    ]
    return [*slots, *getattr(obj, "__dict__", {})]


def _slots_of(base: type) -> tuple[str, ...]:
    slots = base.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)
