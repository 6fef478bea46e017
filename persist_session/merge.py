"""Three-way merge of two changed copies of one object.

Field by field: attributes of the app's own objects, keys of dicts, members of sets. A list to which both sides only
appended keeps both. Values are compared, not pickles: a set's order differs between equal pickles.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from enum import Enum
from types import FunctionType
from typing import Any, NamedTuple

from persist_session.pickling import attributes_of
from persist_session.view import is_own_module

_MISSING = object()


class _Field(NamedTuple):
    """A key of a dict or the name of an attribute; a dict of a class of its own may have both."""

    name: Any
    is_key: bool


def merge(base: Any, mine: Any, theirs: Any, path: str = "", *, theirs_win: bool = False) -> tuple[Any, list[str]]:
    """My value with their changes brought in, and the paths of the fields where one side's change won.

    Where it can, it changes `mine` in place and returns it, so that whoever holds it sees the result.

    Args:
        base: What both sides started from; absent if one side made it anew.
        mine: Wins where both changed one same value, if not `theirs_win`.
        theirs: Is left as it is, but parts of it become parts of the result.
        path: How the messages call the value.
        theirs_win: Whether their value stays where both changed it.
    """
    try:
        return _merge(base, mine, theirs, path, _Met(theirs_win=theirs_win))
    except RecursionError:  # nested too deeply to look into
        return mine, [path or type(mine).__qualname__]


class _Met(dict[tuple[int, int, int], Any]):
    """What was merged on the way, by the ids of the three, and who wins."""

    def __init__(self, *, theirs_win: bool) -> None:
        super().__init__()
        self.theirs_win = theirs_win


def _merge(base: Any, mine: Any, theirs: Any, path: str, met: _Met) -> tuple[Any, list[str]]:
    # What can be reached on two ways, or on a cycle, is merged once: a list would get what was appended twice.
    key = id(base), id(mine), id(theirs)
    if key in met:
        return met[key], []
    met[key] = mine
    met[key], lost = _merge_value(base, mine, theirs, path, met)
    return met[key], lost


def _merge_value(  # noqa: PLR0911 (a table of cases)
    base: Any, mine: Any, theirs: Any, path: str, met: _Met
) -> tuple[Any, list[str]]:
    if _by_field(mine, theirs):
        return mine, _merge_fields(base, mine, theirs, path, met)
    if _both_appended(base, mine, theirs):
        # Before anything else: two equal messages are two messages.
        start = _shared_start(base, mine, theirs) if met.theirs_win else len(base)
        mine[start:start] = theirs[start:]
        return mine, []
    if same(base, theirs):
        return mine, []
    if same(mine, theirs):
        return mine, [path or type(mine).__qualname__] if _may_be_counts(base, mine) and not met.theirs_win else []
    if same(base, mine):
        return theirs, []
    if all(isinstance(value, set) and _tells_equals(value) for value in (base, mine, theirs)):
        mine.update(theirs - base)
        mine.difference_update(base - theirs)
        return mine, []
    return theirs if met.theirs_win else mine, [path or type(mine).__qualname__]


def _may_be_counts(base: Any, mine: Any) -> bool:
    """Whether two equal changes may be two increments, so that one of them is lost."""
    return type(mine) in (int, float) and not same(0 if base is _MISSING else base, mine)


def _by_field(mine: Any, theirs: Any) -> bool:
    """Whether the two can be merged in place, field by field."""
    if type(mine) is not type(theirs):
        return False
    if isinstance(mine, dict):
        return _tells_equals(mine) and _tells_equals(theirs)
    frozen = getattr(getattr(type(mine), "__dataclass_params__", None), "frozen", False)
    return not frozen and not isinstance(mine, (list, tuple, Enum)) and _is_made_of_attributes(mine)


def _is_made_of_attributes(value: Any) -> bool:
    # Attributes of other people's classes are their own affair: half a path or half a frame is no value. Nor are they
    # all of an array or an exception with attributes: there, what compares and what pickles is not Python.
    kind: Any = type(value)
    methods = ((getattr(kind, name), getattr(object, name)) for name in ("__eq__", "__reduce__", "__reduce_ex__"))
    return (
        is_own_module(kind.__module__)
        and not isinstance(value, type)
        and all(method is plain or isinstance(method, FunctionType) for method, plain in methods)
    )


def _tells_equals(members: Iterable[Any]) -> bool:
    # Where a copy's members are others than the original's, all of them would be taken for added.
    by_identity: Any = object.__hash__
    return all(type(member).__hash__ is not by_identity for member in list(members))


def _merge_fields(base: Any, mine: Any, theirs: Any, path: str, met: _Met) -> list[str]:
    old, own, other = _fields(base), _fields(mine), _fields(theirs)
    lost: list[str] = []
    for field in [*own, *(field for field in other if field not in own)]:
        values = old.get(field, _MISSING), own.get(field, _MISSING), other.get(field, _MISSING)
        merged, conflicts = _merge(*values, _step(mine, field, path), met)
        lost += conflicts
        if merged is not values[1]:
            _set_field(mine, field, merged)
    return lost


def _fields(obj: Any) -> dict[_Field, Any]:
    # A list of the items, at once: another thread may change the dict meanwhile.
    items = {_Field(key, is_key=True): value for key, value in list(obj.items())} if isinstance(obj, dict) else {}
    return items | {_Field(name, is_key=False): getattr(obj, name, _MISSING) for name in attributes_of(obj)}


def _set_field(obj: Any, field: _Field, value: Any) -> None:
    if field.is_key:
        obj.pop(field.name) if value is _MISSING else obj.__setitem__(field.name, value)
    elif value is _MISSING:
        object.__delattr__(obj, field.name)
    else:
        object.__setattr__(obj, field.name, value)


def _step(obj: Any, field: _Field, path: str) -> str:
    root = path or type(obj).__qualname__
    if not field.is_key:
        return f"{root}.{field.name}"
    # A key may be a visitor's own words: only what reads like a name is shown.
    is_name = isinstance(field.name, str) and field.name.isidentifier()
    return f"{root}[{field.name!r}]" if is_name else f"{root}[...]"


def _both_appended(base: Any, mine: Any, theirs: Any) -> bool:
    if not all(type(value) is list for value in (base, mine, theirs)):
        return False
    start = len(base)
    return len(mine) >= start <= len(theirs) and same(mine[:start], base) and same(theirs[:start], base)


def _shared_start(base: list[Any], mine: list[Any], theirs: list[Any]) -> int:
    """How far the two lists are the same: a script fills every fresh list with the same greeting."""
    start = len(base)
    while start < min(len(mine), len(theirs)) and same(mine[start], theirs[start]):
        start += 1
    return start


def same(one: Any, other: Any) -> bool:
    """Whether two values hold the same. Attributes tell, not an `__eq__` of the app, which may look at an id alone."""
    return _same(one, other, set())


def _same(one: Any, other: Any, met: set[tuple[int, int]]) -> bool:  # noqa: PLR0911 (a table of cases)
    if one is other:
        return True
    if type(one) is not type(other) or one is _MISSING:
        return False
    if (id(one), id(other)) in met:
        return True  # a cycle: whatever differs is met on another way
    met.add((id(one), id(other)))
    if isinstance(one, (dict, list, tuple)):
        return _same_parts(one, other, met) and _same_attributes(one, other, met)
    if _is_made_of_attributes(one):
        return _same_attributes(one, other, met)
    if is_own_module(type(one).__module__):
        return _equal(one, other) and _same_attributes(one, other, met)
    return _equal(one, other) or (bool(attributes_of(one)) and _same_attributes(one, other, met))


def _same_parts(one: Any, other: Any, met: set[tuple[int, int]]) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            _same(value, other.get(key, _MISSING), met) for key, value in list(one.items())
        )
    return len(one) == len(other) and all(_same(a, b, met) for a, b in zip(list(one), list(other), strict=False))


def _same_attributes(one: Any, other: Any, met: set[tuple[int, int]]) -> bool:
    names = attributes_of(one)
    return {*names} == {*attributes_of(other)} and all(
        _same(getattr(one, name, _MISSING), getattr(other, name, _MISSING), met) for name in names
    )


def _equal(one: Any, other: Any) -> bool:
    try:
        # numpy stretches arrays of other shapes until they can be compared
        if any(getattr(one, trait, None) != getattr(other, trait, None) for trait in ("shape", "dtype")):
            return False
        # pandas answers == with a frame, numpy with an array
        answer = one.equals(other) if hasattr(one, "equals") else one == other
        is_equal = bool(answer.all() if hasattr(answer, "all") else answer)
        # what is no number is not even equal to itself
        return is_equal or (not attributes_of(one) and pickle.dumps(one) == pickle.dumps(other))
    except Exception:  # noqa: BLE001 (a comparison that fails says nothing: the values count as different)
        return False
