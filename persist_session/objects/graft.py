"""Copies parts of one object graph into another one."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any

from persist_session.objects.classes import is_own_module
from persist_session.objects.pickling import attributes_of

_NONE = object()


class _Grafter(pickle.Pickler):
    """Pickles all but the objects that have a stand-in; classes and functions stand for themselves."""

    def __init__(self, buffer: io.BytesIO, stand_ins: Mapping[int, Any]) -> None:
        super().__init__(buffer, protocol=5)
        self._stand_ins = stand_ins
        self.used: list[Any] = []

    def persistent_id(self, obj: Any) -> int | None:
        stand_in = self._stand_ins.get(id(obj), _NONE)
        if stand_in is _NONE:
            if not isinstance(obj, (type, FunctionType, ModuleType)) and not _is_sentinel(obj):
                return None
            stand_in = obj
        self.used.append(stand_in)
        return len(self.used) - 1


class _Planter(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, used: list[Any]) -> None:
        super().__init__(buffer)
        self._used = used

    def persistent_load(self, pid: Any) -> Any:
        return self._used[pid]


def graft(value: Any, stand_ins: Mapping[int, Any]) -> Any:
    """A copy of the value in which stand-ins take the places of some objects.

    What is shared or goes in circles does so in the copy. It is made by pickling: what a state holds can be pickled.

    Args:
        value: May hold anything that was pickled before.
        stand_ins: By the identity of the objects whose places they take.
    """
    buffer = io.BytesIO()
    grafter = _Grafter(buffer, stand_ins)
    grafter.dump(value)
    buffer.seek(0)
    return _Planter(buffer, grafter.used).load()


def become(obj: Any, other: Any) -> Any:
    """The object, made to hold exactly what the other one holds; or the other one, where its class allows no such.

    No part of the object stays: only it itself is still where it was, also inside of what it holds now.
    """
    if type(obj) is not type(other) or not _is_refillable(type(obj)):
        return other
    slots = {name: getattr(other, name) for name in attributes_of(other)} if _has_plain_state(other) else None
    state = other.__getstate__() if slots is None else slots
    items = list(other.items()) if isinstance(other, dict) else list(other) if isinstance(other, (list, set)) else []
    state, items = graft((state, items), {id(other): obj})
    _empty(obj)
    if slots is None:
        obj.__setstate__(state)
    else:
        for name, value in state.items():
            object.__setattr__(obj, name, value)
    if isinstance(obj, list):
        list.extend(obj, items)
    elif isinstance(obj, (dict, set)):
        obj.update(items)
    return obj


def _is_refillable(kind: Any) -> bool:
    if kind in (dict, list, set):
        return True
    is_made_by_state = kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__
    return is_own_module(kind.__module__) and is_made_by_state and not issubclass(kind, (tuple, frozenset))


def _has_plain_state(obj: Any) -> bool:
    kind: Any = type(obj)
    return kind.__getstate__ is object.__getstate__ and not hasattr(obj, "__setstate__")


def _empty(obj: Any) -> None:
    if isinstance(obj, (dict, list, set)):
        obj.clear()
    for name in attributes_of(obj):
        object.__delattr__(obj, name)


def _is_sentinel(obj: Any) -> bool:
    """Tells whether an object is pickled by its name, as the value that a name stands for."""
    kind: Any = type(obj)
    if kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__:
        return False
    return is_own_module(kind.__module__) and isinstance(obj.__reduce_ex__(5), str)
