"""Pickles whose classes are found where the caller sees them.

Plain pickle looks in `sys.modules`, where `__main__` is that of whichever visitor ran last: it fails, or hands out
another visitor's class. Here a class is written as its module and qualified name, and looked up in a `View`.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from persist_session.objects.classes import Reference, UnrestorableError, View, is_own_module, walk

References = dict[Reference, Any]

_CONCURRENT_CHANGE_RETRIES = 100
_LONGEST_SEARCH = 100

_AMBIGUOUS = object()


class UnpicklableError(Exception):
    """An object can't be pickled; the message says which part of it and why."""


class Pickled(NamedTuple):
    """A pickle, and the app's own classes and functions that it refers to.

    Attributes:
        data: The pickle.
        references: What each name means in it; where it means two classes at once, neither.
        is_root_alone: Whether no other instance of the object's own class is inside of it.
        ran_code: Whether a method of some class was called, which may have changed the object.
    """

    data: bytes
    references: Mapping[Reference, Any]
    is_root_alone: bool
    ran_code: bool


def _set_fields(instance: Any, fields: dict[str, Any]) -> None:
    """Sets the fields of a slotted dataclass by name, past a frozen class's `__setattr__`."""
    known = type(instance).__dataclass_fields__
    for field, value in fields.items():
        if field in known:
            object.__setattr__(instance, field, value)


class _Pickler(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO, root: type | None = None) -> None:
        super().__init__(buffer, protocol=5)
        self.references: dict[Reference, Any] = {}
        self.roots: list[Any] = []
        self.kinds: dict[type, Callable[[Any, References], Any] | None] = {}
        self._root = root
        self.reducer_override = self._reducer()  # type: ignore[method-assign]

    def _reducer(self) -> Callable[[Any], Any]:
        """The function that the pickler calls for every object but plain values and containers: so it is fast.

        A closure costs half of a method here. It must not know the pickler: the cycle would keep the whole state, and
        its pickle, in memory until the garbage collector comes by.
        """
        references, roots, root = self.references, self.roots, self._root
        ordinary: set[type] = set()
        special = self.kinds

        def reduce(obj: Any) -> Any:
            kind = type(obj)
            if kind in ordinary:
                return NotImplemented
            if kind is root:
                roots.append(obj)
            if kind not in special:
                special[kind] = _special(kind)
            how = special[kind]
            if how is not None:
                return how(obj, references)
            if kind is not root:
                ordinary.add(kind)
            return NotImplemented

        return reduce


def _special(kind: type) -> Callable[[Any, References], Any] | None:
    if issubclass(kind, (type, FunctionType)):
        return _reduce_name
    if issubclass(kind, io.BytesIO) and kind.__module__.startswith("streamlit."):
        return _reduce_upload
    if kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
        return _reduce_by_itself if is_own_module(kind.__module__) else None
    return _reduce_slotted if _is_slotted_dataclass(kind) else None


def _reduce_name(obj: Any, references: References) -> Any:
    name = (obj.__module__, obj.__qualname__)
    if name[0] == "builtins" or not isinstance(name[0], str):
        return NotImplemented
    if "<locals>" in name[1] or "<lambda>" in name[1]:
        raise pickle.PicklingError(
            f"{name[1].replace('<locals>.', '')} is made inside a function, so no later run can find it; "
            "define it at the top level of a script or module"
        )
    return _refer(obj, name, references)


def _reduce_by_itself(obj: Any, references: References) -> Any:
    reduced = obj.__reduce_ex__(5)
    # A sentinel names itself: a global, to be found where the caller sees it as a class is.
    return _refer(obj, (obj.__module__, reduced), references) if isinstance(reduced, str) else reduced


def _reduce_upload(obj: Any, _: References) -> Any:
    # An uploaded file that was read to its end would be empty after a reload, and a read would count as a change.
    return copyreg.__newobj__, (type(obj),), (obj.getvalue(), 0, vars(obj))  # type: ignore[attr-defined]


def _refer(obj: Any, name: Reference, references: References) -> Any:
    if is_own_module(name[0]) and references.setdefault(name, obj) is not obj:
        references[name] = _AMBIGUOUS
    # What stands for a class is the standard library's: Streamlit evicts modules beside a changed script, this one too
    # where it is not an installed one, and an evicted module's function can't be pickled.
    return name[1] if _is_importable(obj, name) else (pkgutil.resolve_name, (":".join(name),))


def _is_importable(obj: Any, name: Reference) -> bool:
    module = sys.modules.get(name[0])
    if module is None or name[0] == "__main__":
        return False
    try:
        return walk(vars(module), name[1]) is obj
    except (LookupError, AttributeError):
        return False


def _has_code(kind: type) -> bool:
    """Whether pickling an instance calls a method that may change it; none of the standard library's does."""
    return kind.__module__.partition(".")[0] not in sys.stdlib_module_names - {"__main__"} and any(
        getattr(kind, hook, None) is not getattr(object, hook)
        for hook in ("__reduce_ex__", "__reduce__", "__getstate__")
    )


def _is_slotted_dataclass(kind: Any) -> bool:
    # The pair that dataclass(frozen=True, slots=True) generates stores values by position, so a field added in the
    # middle would shift all later values into the wrong fields (dataclasses.py, _dataclass_setstate). Without it, a
    # field that was removed would make every older state fail: there is no slot for its value.
    fields = getattr(kind, "__dataclass_fields__", None)
    if fields is None:
        return False
    get, put = kind.__getstate__, getattr(kind, "__setstate__", None)
    if put is not None:
        return (get.__name__, getattr(put, "__name__", "")) == ("_dataclass_getstate", "_dataclass_setstate")
    slots = {slot for base in kind.__mro__ for slot in _slots_of(base)} - {"__weakref__"}
    return get is object.__getstate__ and kind.__dictoffset__ == 0 and slots <= fields.keys()


def _reduce_slotted(obj: Any, _: References) -> Any:
    kind = type(obj)
    fields = {field: getattr(obj, field) for field in kind.__dataclass_fields__ if hasattr(obj, field)}
    return copyreg.__newobj__, (kind,), fields, None, None, _set_fields  # type: ignore[attr-defined]


class _Unpickler(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, view: View) -> None:
        super().__init__(buffer)
        self._view = view

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("pkgutil", "resolve_name"):
            view = self._view  # not self: the memo holds what is returned, so a cycle would keep the whole state
            return lambda path: view.find(*path.split(":", 1))
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
            if "during iteration" not in str(error) or attempt == _CONCURRENT_CHANGE_RETRIES - 1:
                raise _unpicklable(obj, error) from None  # its words may quote the state
            time.sleep(0.001)
        except Exception as error:  # noqa: BLE001 (pickling calls any code of the app's: whatever it raises, tells)
            raise _unpicklable(obj, error) from None
    raise AssertionError("the last attempt returns or raises")


def _dump_once(obj: Any) -> Pickled:
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, type(obj))
    pickler.dump(obj)
    return Pickled(buffer.getvalue(), pickler.references, len(pickler.roots) <= 1, any(map(_has_code, pickler.kinds)))


def loads(data: bytes, view: View) -> Any:
    """The object, made of the classes that the view sees.

    Raises:
        UnrestorableError: A class is gone, or raised something.
    """
    try:
        return _Unpickler(io.BytesIO(data), view).load()
    except UnrestorableError:
        raise
    except Exception as error:  # noqa: BLE001 (restoring calls any code of the app's classes)
        raise UnrestorableError(
            f"restoring it raised {type(error).__name__}"
        ) from None  # its words may quote the state


def find_unloadable(obj: Any, view: View) -> tuple[str, str]:
    """The path to the innermost part that can be pickled, but not be made again of its pickle, and its class."""
    path, met = type(obj).__qualname__, {id(obj)}
    while len(met) < _LONGEST_SEARCH:
        for step, child in _children(obj):
            if id(child) not in met and not is_loadable(child, view):
                met.add(id(child))
                obj, path = child, path + step
                break
        else:
            break
    kind = type(obj)
    return path, f"{kind.__module__}.{kind.__qualname__}"


def is_loadable(obj: Any, view: View) -> bool:
    """Whether the object can be pickled, and be made again of its pickle."""
    try:
        loads(_dump_once(obj).data, view)
    except Exception:  # noqa: BLE001 (the app's own classes raise anything)
        return False
    return True


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
        ordinary, wanted, found = super()._reducer(), self._wanted, self.found

        def reduce(obj: Any) -> Any:
            if not isinstance(obj, (type, FunctionType)) and wanted(type(obj)):
                found.append(obj)
            return ordinary(obj)

        return reduce


def _unpicklable(obj: Any, error: Exception) -> UnpicklableError:
    path = type(obj).__qualname__
    if isinstance(error, RecursionError):
        return UnpicklableError(f"{path} can't be pickled: it is nested too deeply")
    path, error = _culprit(obj, path, error, set())
    # Pickling's own words name types; the app's own errors may quote what the state holds.
    said = isinstance(error, (pickle.PicklingError, TypeError, AttributeError))
    return UnpicklableError(f"{path} can't be pickled: {error if said else f'{type(error).__name__} was raised'}")


def _culprit(obj: Any, path: str, error: Exception, around: set[int]) -> tuple[str, Exception]:
    """The path to the innermost part that can't be pickled, and what pickling it raises."""
    around.add(id(obj))
    if len(around) < _LONGEST_SEARCH:
        probe = _Probe(around)
        for step, child in _children(obj):
            try:
                probe.dump(child)
            except Exception as inner:  # noqa: BLE001 (the app's own classes raise anything)
                return _culprit(child, path + step, inner, around)
    return path, error


class _Probe(_Pickler):
    """Pickles the parts of an object: what they share only once, and nothing of what is around them.

    A part that knows its owner can be pickled as little as the owner: it would be taken for the culprit.
    """

    def __init__(self, around: set[int]) -> None:
        super().__init__(io.BytesIO())
        self._around = around

    def persistent_id(self, obj: Any) -> Any:
        return 0 if id(obj) in self._around else None


def _children(obj: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(obj, (type, FunctionType, ModuleType)):
        return  # pickled by their names alone
    if isinstance(obj, dict):
        for number, (key, value) in enumerate(list(obj.items()), 1):
            # A key may be a visitor's own words: its place is shown instead.
            yield f"[key {number}]", key
            yield f"[key {number}]", value
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
    owner = base.__name__.lstrip("_")
    # Private names are mangled, as everywhere in a class (copyreg.py, _slotnames).
    return tuple(
        f"_{owner}{name}" if owner and name.startswith("__") and not name.endswith("__") else name
        for name in ((slots,) if isinstance(slots, str) else slots)
    )
