"""Tells whether two values of two graphs hold the same, where some of their objects are known to be the same ones."""

from __future__ import annotations

import io
import pickle
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any

from persist_session.objects.classes import is_own_module
from persist_session.objects.graph import MISSING, Kind, Node, is_atom, kind_of, token
from persist_session.objects.pairing import Pairing
from persist_session.objects.pickling import attributes_of


def same(one: Any, other: Any) -> bool:
    """Tells whether two values hold the same: by attributes, not by the app's `__eq__`, which may see an id alone."""
    try:
        return Sameness(Pairing()).same(one, other)
    except RecursionError:  # nested too deeply to be looked into
        return False


class Sameness:
    """Compares values of two graphs: paired objects by their partners, all others by what they hold."""

    def __init__(self, pairs: Pairing) -> None:
        self._pairs = pairs
        self._met: set[tuple[int, int]] = set()
        self._known: set[tuple[int, int]] = set()
        self._made: dict[int, Node | None] = {}
        self._names: dict[int, int] | None = None

    def same(self, one: Any, other: Any) -> bool:
        """Tells whether two values are the same ones; of two objects, whether they are paired, or hold the same."""
        is_same = self._same(one, other)
        if is_same:
            self._known |= self._met  # what was taken for the same on the way is so
        self._met.clear()
        return is_same

    def _same(self, one: Any, other: Any) -> bool:  # noqa: PLR0911 (a table of cases)
        if one is other:
            return True
        if type(one) is not type(other) or one is MISSING:
            return False
        if is_atom(one):
            return bool(one == other) or _equal(one, other, self._bytes)
        node, its_node = self._node(one), self._node(other)
        if node is None or its_node is None:
            return self._same_values(one, other)
        if node.kind is not Kind.FIXED and self._pairs.is_paired(node, its_node):
            return self._pairs.there.get(id(one)) is its_node
        key = id(one), id(other)
        if key in self._met or key in self._known:
            return True  # a cycle: whatever differs is met on another way
        self._met.add(key)
        return self._same_parts(node, its_node)

    def same_parts(self, one: Node, other: Node) -> bool:
        """Tells whether the parts of two objects are the same ones."""
        is_same = self._same_parts(one, other)
        self._met.clear()
        return is_same

    def _same_parts(self, one: Node, other: Node) -> bool:
        if isinstance(one.obj, (set, frozenset)):
            is_same = self._same_members(one.items, other.items)
        else:
            is_same = len(one.items) == len(other.items) and all(map(self._same, one.items, other.items))
        return is_same and self._same_fields(one, other) and self._same_odd(one, other)

    def same_items(self, one: list[Any], other: list[Any]) -> bool:
        """Tells whether two sequences have the same elements."""
        return len(one) == len(other) and all(map(self.same, one, other))

    def _same_fields(self, one: Node, other: Node) -> bool:
        return one.fields.keys() == other.fields.keys() and all(
            self._same(value, other.fields[field]) for field, value in one.fields.items()
        )

    def _same_odd(self, one: Node, other: Node) -> bool:
        if not one.odd and not other.odd:
            return True
        values = {id(key): value for key, value in other.odd}
        found = self._partners([key for key, _ in one.odd], [key for key, _ in other.odd])
        return found is not None and all(self._same(value, values[id(found[id(key)])]) for key, value in one.odd)

    def _same_members(self, one: list[Any], other: list[Any]) -> bool:
        return self._partners(one, other) is not None

    def _partners(self, one: list[Any], other: list[Any]) -> dict[int, Any] | None:
        """Pairs the members of two sets, by identity; None where the sets are not the same."""
        if len(one) != len(other):
            return None
        found: dict[int, Any] = {}
        places: defaultdict[Any, list[Any]] = defaultdict(list)
        for member in other:
            paired = self._pairs.back.get(id(member))
            places[id(paired.obj) if paired is not None else self._content(member)].append(member)
        for member in one:
            candidates = places[id(member) if id(member) in self._pairs.there else self._content(member)]
            if not candidates or not self._same(member, candidates[-1]):
                return None
            found[id(member)] = candidates.pop()
        return found

    def _content(self, member: Any) -> Any:
        node = self._node(member)
        return token(member) if node is None else (node.digest,)

    def _node(self, obj: Any) -> Node | None:
        known = self._made.get(id(obj), MISSING)
        if known is not MISSING:
            return known  # type: ignore[return-value]
        there, back = self._pairs.there.get(id(obj)), self._pairs.back.get(id(obj))
        if there is not None:
            node: Node | None = self._pairs.back[id(there.obj)]
        elif back is not None:
            node = self._pairs.there[id(back.obj)]
        else:
            kind = kind_of(obj)
            node = None if kind is None else Node(obj, kind)
        self._made[id(obj)] = node
        return node

    def _same_values(self, one: Any, other: Any) -> bool:
        if is_own_module(type(one).__module__):
            return _equal(one, other, self._bytes) and self._same_attributes(one, other)
        return _equal(one, other, self._bytes) or (bool(attributes_of(one)) and self._same_attributes(one, other))

    def _same_attributes(self, one: Any, other: Any) -> bool:
        names = attributes_of(one)
        return {*names} == {*attributes_of(other)} and all(
            self._same(getattr(one, name, MISSING), getattr(other, name, MISSING)) for name in names
        )

    def _bytes(self, value: Any) -> bytes:
        """A pickle in which paired objects go by one name."""
        if self._names is None:
            self._names = {}
            for number, node in enumerate(self._pairs.there.values()):
                self._names[id(node.obj)] = self._names[id(self._pairs.back[id(node.obj)].obj)] = number
        buffer = io.BytesIO()
        _Naming(buffer, self._names).dump(value)
        return buffer.getvalue()


class _Naming(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO, names: Mapping[int, int]) -> None:
        super().__init__(buffer, protocol=5)
        self._names = names

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, (type, FunctionType, ModuleType)):
            return "itself", id(obj)
        return self._names.get(id(obj))


def _equal(one: Any, other: Any, pickled: Callable[[Any], bytes]) -> bool:
    try:
        # numpy stretches arrays of other shapes until they can be compared
        if any(getattr(one, trait, None) != getattr(other, trait, None) for trait in ("shape", "dtype")):
            return False
        # pandas answers == with a frame, numpy with an array
        answer = one.equals(other) if hasattr(one, "equals") else one == other
        is_equal = bool(answer.all() if hasattr(answer, "all") else answer)
        # what is no number is not even equal to itself; nor are two callables of two equal objects
        return is_equal or pickled(one) == pickled(other)
    except Exception:  # noqa: BLE001 (a comparison that fails says nothing: the values count as different)
        return False
