"""Three-way merge of two changed copies of one object.

Field by field: attributes of the app's own objects, keys of dicts, members of sets. A list to which both sides only
appended keeps both. Values are compared, not pickles: a set's order differs between equal pickles.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from persist_session.pickling import attributes_of, is_own_module

_MISSING = object()


def merge(base: Any, mine: Any, theirs: Any, path: str = "") -> tuple[Any, list[str]]:
    """My value with their changes brought in, and the paths of the fields where mine won over theirs.

    Where it can, it changes `mine` in place and returns it, so that whoever holds it sees the result.

    Args:
        base: What both sides started from; absent if one side made it anew.
        mine: Wins where both changed one same value.
        theirs: Is left as it is, but parts of it become parts of the result.
        path: How the messages call the value.
    """
    if same(mine, theirs) or same(base, theirs):
        return mine, []
    if same(base, mine) and not _by_field(mine, theirs):
        return theirs, []
    if _by_field(mine, theirs):
        return mine, _merge_fields(base, mine, theirs, path)
    if isinstance(mine, set) and isinstance(theirs, set) and isinstance(base, set):
        mine.update(theirs - base)
        mine.difference_update(base - theirs)
        return mine, []
    if _both_appended(base, mine, theirs):
        mine[len(base) : len(base)] = theirs[len(base) :]
        return mine, []
    return mine, [path or type(mine).__qualname__]


def _by_field(mine: Any, theirs: Any) -> bool:
    """Whether the two can be merged in place, field by field."""
    if type(mine) is not type(theirs):
        return False
    if isinstance(mine, dict):
        return True
    frozen = getattr(getattr(type(mine), "__dataclass_params__", None), "frozen", False)
    whole = isinstance(mine, (tuple, frozenset, list, set, Enum, type))
    # Attributes of other people's classes are their own affair: half a path or half a frame is no value.
    return not frozen and not whole and is_own_module(type(mine).__module__) and bool(attributes_of(mine))


def _merge_fields(base: Any, mine: Any, theirs: Any, path: str) -> list[str]:
    old, own, other = _fields(base), _fields(mine), _fields(theirs)
    lost: list[str] = []
    for field in [*own, *(field for field in other if field not in own)]:
        values = old.get(field, _MISSING), own.get(field, _MISSING), other.get(field, _MISSING)
        merged, conflicts = merge(*values, _step(mine, field, path))
        lost += conflicts
        if merged is not values[1]:
            _set_field(mine, field, merged)
    return lost


def _fields(obj: Any) -> dict[Any, Any]:
    if isinstance(obj, dict):
        return dict(obj)
    return {attribute: getattr(obj, attribute) for attribute in attributes_of(obj)}


def _set_field(obj: Any, field: Any, value: Any) -> None:
    if isinstance(obj, dict):
        obj.pop(field) if value is _MISSING else obj.__setitem__(field, value)
    elif value is _MISSING:
        object.__delattr__(obj, field)
    else:
        object.__setattr__(obj, field, value)


def _step(obj: Any, field: Any, path: str) -> str:
    root = path or type(obj).__qualname__
    if not isinstance(obj, dict):
        return f"{root}.{field}"
    # A key may be a visitor's own words: only what reads like a name is shown.
    return f"{root}[{field!r}]" if isinstance(field, str) and field.isidentifier() else f"{root}[...]"


def _both_appended(base: Any, mine: Any, theirs: Any) -> bool:
    if not all(type(value) is list for value in (base, mine, theirs)):
        return False
    start = len(base)
    return len(mine) >= start <= len(theirs) and same(mine[:start], base) and same(theirs[:start], base)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, looking into objects that only know themselves equal."""
    return _same(one, other, set())


def _same(one: Any, other: Any, met: set[tuple[int, int]]) -> bool:  # noqa: PLR0911 (a table of cases)
    if one is other:
        return True
    if type(one) is not type(other) or one is _MISSING:
        return False
    if (id(one), id(other)) in met:
        return True  # a cycle: whatever differs is met on another way
    met.add((id(one), id(other)))
    if isinstance(one, dict):
        return _same_items(one, other, met)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(_same(a, b, met) for a, b in zip(one, other, strict=True))
    if _equal(one, other):
        return True
    return bool(attributes_of(one)) and _same_items(_fields(one), _fields(other), met)


def _same_items(one: dict[Any, Any], other: dict[Any, Any], met: set[tuple[int, int]]) -> bool:
    return one.keys() == other.keys() and all(_same(value, other[key], met) for key, value in one.items())


def _equal(one: Any, other: Any) -> bool:
    try:
        # pandas answers == with a frame, numpy with an array
        answer = one.equals(other) if hasattr(one, "equals") else one == other
        return bool(answer.all() if hasattr(answer, "all") else answer)
    except Exception:  # noqa: BLE001 (a comparison that fails says nothing: the values count as different)
        return False
