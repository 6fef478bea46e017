"""Three-way merge of two changed copies of one state.

The objects of the three are paired first. Then each object is merged part by part: attributes, keys, members; a list to
which both sides only appended keeps both. A part that refers to another object on one side is a changed reference: one
of the two is chosen, and nothing is ever written through it. Values are compared, not pickles: a set's order differs
between equal pickles.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from persist_session.objects.graft import graft
from persist_session.objects.graph import ELEMENT, MISSING, Attribute, Graph, Kind, Node, is_atom
from persist_session.objects.pairing import Pairing, Search, likeness, pair_new
from persist_session.objects.sameness import Sameness


def merge(base: Any, mine: Any, theirs: Any, *, theirs_win: bool = False) -> tuple[Any, list[str]]:
    """My state with their changes merged in, and the paths of the parts where one side's change was dropped.

    Changes on one side only come out as that side has them, shared objects and cycles included. Each object of `mine`
    that is still there is changed in place, so that whoever holds it sees the result.

    Args:
        base: The state that both sides started from.
        mine: Wins where both changed one same part, if not `theirs_win`.
        theirs: Is left as it is; copies of its objects become parts of the result.
        theirs_win: Whether their part stays where both changed it.
    """
    try:
        return _Merge(base, mine, theirs, theirs_win=theirs_win).result()
    except RecursionError:  # nested too deeply to be looked into
        return mine, [type(mine).__qualname__]


class _Change(NamedTuple):
    """A part of mine that becomes theirs.

    Attributes:
        node: My object.
        place: A field, or a stretch of a list; ELEMENT for a member, and for an item under a key of another kind.
        key: My own key or member, where I have it.
        theirs: Their key and part, MISSING where they have none.
    """

    node: Node
    place: Any
    key: Any
    theirs: tuple[Any, Any]


class _Part(NamedTuple):
    """A part of an object: its field, or its key, and the value."""

    place: Any
    key: Any
    value: Any


_NO_PART = _Part(ELEMENT, MISSING, MISSING)


class _Merge:
    """One merge: who changed what, and what is made of it."""

    def __init__(self, base: Any, mine: Any, theirs: Any, *, theirs_win: bool) -> None:
        self.base, here, there = Graph(base), Graph(mine), Graph(theirs)
        self.mine, self.theirs = _Side(self.base, here), _Side(self.base, there)
        self.mine.decide(self.theirs)
        self.theirs.decide(self.mine)
        self.pairs = Pairing()
        self.alike: list[int] = []
        for old in self.base.nodes:
            if old in self.mine.pairs.alike and old in self.theirs.pairs.alike:
                self.alike.append(old)  # nothing is to be done for most objects, so nothing is
            elif old in self.mine.pairs.there and old in self.theirs.pairs.there:
                self.pairs.add(self.mine.pairs.there[old], self.theirs.pairs.there[old])
        pair_new(self.pairs, here, there, self.mine.pairs.back.keys() | self.theirs.pairs.back.keys())
        self.twins: dict[int, Any] = {}
        self.sameness = Sameness(self.pairs)
        self.theirs_win = theirs_win
        self.lost: list[str] = []
        self.root = here.root

    def result(self) -> tuple[Any, list[str]]:
        """The merged state, and the paths of what was dropped."""
        changes: list[_Change] = []
        for theirs in list(self.pairs.there.values()):
            mine = self.pairs.back[id(theirs.obj)]
            base = self.mine.pairs.back.get(id(mine.obj))
            if base is not None and self.mine.is_unchanged(base, mine) and self.theirs.is_unchanged(base, theirs):
                continue
            if mine.kind is Kind.LIST:
                changes += self._changed_list(base, mine, theirs)
            if mine.kind is not Kind.FIXED:
                changes += self._changed_parts(base, mine, theirs)
        self._apply(changes)
        return self.root.obj[""], self.lost

    def _changed_parts(self, base: Node | None, mine: Node, theirs: Node) -> list[_Change]:
        old = {} if base is None else _parts(base, None)
        own, other = _parts(mine, self.mine.pairs), _parts(theirs, self.theirs.pairs)
        changes = []
        for name in [*own, *(name for name in other if name not in own)]:
            before, here, there = old.get(name, _NO_PART), own.get(name, _NO_PART), other.get(name, _NO_PART)
            place = there.place if here is _NO_PART else here.place
            if self._is_taken(before.value, here.value, there.value, mine, place):
                changes.append(_Change(mine, place, here.key, (there.key, there.value)))
        return changes

    def _is_taken(self, base: Any, mine: Any, theirs: Any, owner: Node, field: Any) -> bool:
        """Tells whether my part becomes theirs; notes whose change is dropped, if one is."""
        if self.theirs.sameness.same(base, theirs):
            is_conflict, is_taken = self.theirs.is_lost(base, self.mine), False
        elif self.sameness.same(mine, theirs):
            self._replace(theirs, mine)
            is_conflict, is_taken = not self.theirs_win and _may_be_counts(base, mine), False
            if is_conflict:
                self.lost.append(_path(owner, field, mine))
            return False
        elif self.mine.sameness.same(base, mine):
            is_conflict, is_taken = self.mine.is_lost(base, self.theirs), True
        else:
            is_conflict, is_taken = True, False
        if is_conflict:
            self.lost.append(_path(owner, field, theirs if mine is MISSING else mine))
            if not self.theirs_win:
                self._replace(theirs, mine)
            return self.theirs_win
        return is_taken

    def _replace(self, theirs: Any, mine: Any) -> None:
        """Has my object stand for theirs, which is dropped for it, wherever else theirs is referred to."""
        if not is_atom(theirs) and type(theirs) is type(mine):
            self.twins.setdefault(id(theirs), mine)

    def _changed_list(self, base: Node | None, mine: Node, theirs: Node) -> list[_Change]:
        old, own, other = [] if base is None else base.items, mine.items, theirs.items
        start = len(old)
        if self.mine.sameness.same_items(old, own[:start]) and self.theirs.sameness.same_items(old, other[:start]):
            # Before anything else: two equal messages are two messages.
            if self.theirs_win or base is None:  # but a script fills every fresh list with the same greeting
                while start < min(len(own), len(other)) and self.sameness.same(own[start], other[start]):
                    start += 1
            return [_Change(mine, slice(start, start), None, (None, other[start:]))] if other[start:] else []
        if self.theirs.sameness.same_items(old, other):
            is_conflict, is_taken = any(self.theirs.is_lost(each, self.mine) for each in old), False
        elif self.sameness.same_items(own, other):
            return []
        elif self.mine.sameness.same_items(old, own):
            is_conflict, is_taken = any(self.mine.is_lost(each, self.theirs) for each in old), True
        else:
            is_conflict, is_taken = True, False
        if is_conflict:
            self.lost.append(mine.path())
            is_taken = self.theirs_win
        return [_Change(mine, slice(None), None, (None, other))] if is_taken else []

    def _apply(self, changes: list[_Change]) -> None:
        taken = [change.theirs for change in changes]
        if not all(is_atom(key) and is_atom(value) for key, value in taken):
            taken = graft(taken, self._stand_ins(changes))
        for change, (key, value) in zip(changes, taken, strict=True):
            _put(change.node.obj, change.place, key if change.key is MISSING else change.key, value)

    def _stand_ins(self, changes: list[_Change]) -> Mapping[int, Any]:
        """My objects by theirs; one that never changes only where the two hold the same."""
        placed = {id(change.theirs[1]) for change in changes if change.key is MISSING}
        placed |= {id(item) for change in changes if isinstance(change.place, slice) for item in change.theirs[1]}
        found = {key: mine for key, mine in self.twins.items() if key not in placed} | {id(MISSING): MISSING}
        for old in self.alike:
            found[id(self.theirs.pairs.there[old].obj)] = self.mine.pairs.there[old].obj
        for theirs in self.pairs.there.values():
            mine = self.pairs.back[id(theirs.obj)]
            if mine.kind is not Kind.FIXED or self.sameness.same_parts(mine, theirs):
                found[id(theirs.obj)] = mine.obj
        return found


class _Side:
    """One side of a merge: its changes since the base."""

    def __init__(self, base: Graph, graph: Graph) -> None:
        self._search = Search(base, graph)
        self.pairs = self._search.pairs
        self.sameness = Sameness(self.pairs)
        self._base = base
        self._looked_at: set[int] = set()

    def decide(self, other: _Side) -> None:
        """Takes a changed element of a list for the same one if that does no harm: the other side did not change it.

        Where the other side refers to it from more places than before, the two have to be alike.
        """
        self._search.accept(
            [
                (old, own)
                for old, own in self._search.doubtful.values()
                if other.is_as_before(old) and (likeness(old, own) or other.pairs.there[id(old.obj)].uses <= old.uses)
            ]
        )

    def is_as_before(self, old: Node) -> bool:
        """Tells whether neither an object of the base nor one that only it leads to was changed or dropped."""
        waiting = [old]
        for node in waiting:  # grows meanwhile
            own = self.pairs.there.get(id(node.obj))
            if own is None or node.digest != own.digest or not self._has_same_values(node, own):
                return False
            for part, its_part in _links(node, own):
                if part is None or its_part is None:
                    return False
                is_pair = self.pairs.there.get(id(part.obj)) is its_part
                if not is_pair and not self._search.is_doubtful(part, its_part):
                    return False
                if part.parent is node:
                    waiting.append(part)
        return True

    def _has_same_values(self, old: Node, own: Node) -> bool:
        """Tells whether the parts that are no nodes are the same."""
        if old.is_plain and own.is_plain:
            return _have_same_atoms(old, own)
        values = [field for field in old.fields if field not in old.links]
        return all(self.sameness.same(old.fields[field], own.fields.get(field)) for field in values)

    def is_unchanged(self, old: Node, own: Node) -> bool:
        """Tells whether an object surely has the parts that it had: what can be told at a glance."""
        if id(old.obj) in self.pairs.alike or old.is_same_leaf(own):
            return True
        if old.is_leaf or not old.is_plain or not own.is_plain or old.odd or old.digest != own.digest:
            return False
        if not _have_same_atoms(old, own):
            return False
        links = ((node, own.links.get(field)) for field, node in old.links.items())
        elements = zip(old.elements, own.elements, strict=False)
        return all(
            node is None or (node.kind is not Kind.FIXED and self.pairs.there.get(id(node.obj)) is its_node)
            for node, its_node in itertools.chain(links, elements)
        )

    def is_lost(self, old: Any, other: _Side) -> bool:
        """Tells whether the other side has dropped an object, or one inside of it, that this side has changed."""
        waiting = [old]
        is_lost = False
        for obj in waiting:  # grows meanwhile
            node = self._base.nodes.get(id(obj))
            if node is None or id(obj) in self._looked_at or id(obj) in other.pairs.there:
                continue
            self._looked_at.add(id(obj))
            own = self.pairs.there.get(id(obj))
            is_lost |= own is not None and not self.sameness.same_parts(node, own)
            waiting += node.parts()
        return is_lost


def _have_same_atoms(one: Node, other: Node) -> bool:
    """Tells whether two objects with equal digests have the same plain values: -1 and -2 have one hash."""
    fields = ((value, other.fields.get(field)) for field, value in one.fields.items() if is_atom(value))
    items = ((item, its) for item, its in zip(one.items, other.items, strict=False) if is_atom(item))
    return isinstance(one.obj, (set, frozenset)) or all(value == its for value, its in itertools.chain(fields, items))


def _links(one: Node, other: Node) -> Iterator[tuple[Node | None, Node | None]]:
    """The nodes inside of two objects, each with the one at its place."""
    for field in one.links.keys() | other.links.keys():
        yield one.links.get(field), other.links.get(field)
    for part, its_part in itertools.zip_longest(one.elements, other.elements):
        if part is not None or its_part is not None:
            yield part, its_part


def _may_be_counts(base: Any, mine: Any) -> bool:
    """Tells whether two equal changes may be two increments, so that one of them is lost."""
    return type(mine) in (int, float) and mine != (0 if base is MISSING else base)


def _path(owner: Node, field: Any, value: Any) -> str:
    return owner.path() + owner.step(field) if owner.parent else type(value).__qualname__


def _parts(node: Node, pairs: Pairing | None) -> dict[Any, _Part]:
    """The parts by what they are called on all sides: a key that is an object of its own by that of the base."""
    found: dict[Any, _Part] = {field: _Part(field, None, value) for field, value in node.fields.items()}
    found |= {_name(key, pairs): _Part(ELEMENT, key, value) for key, value in node.odd}
    if node.kind is Kind.SET:
        found |= {_name(each, pairs): _Part(ELEMENT, each, is_atom(each) or each) for each in node.items}
    return found


def _name(key: Any, pairs: Pairing | None) -> Any:
    if is_atom(key):
        return key
    if isinstance(key, (tuple, frozenset)):
        return type(key), (tuple if isinstance(key, tuple) else frozenset)(_name(each, pairs) for each in key)
    kind: Any = type(key)
    if kind.__hash__ is not object.__hash__:
        return key
    paired = None if pairs is None else pairs.back.get(id(key))
    return Node, id(key if paired is None else paired.obj)


def _put(obj: Any, place: Any, key: Any, value: Any) -> None:
    if isinstance(place, slice):
        obj[place] = value
    elif isinstance(place, Attribute) and place is not ELEMENT:
        _put_attribute(obj, place.name, value)
    else:
        _put_item(obj, key if place is ELEMENT else place, value)


def _put_attribute(obj: Any, name: str, value: Any) -> None:
    if value is not MISSING:
        object.__setattr__(obj, name, value)
    else:
        object.__delattr__(obj, name)


def _put_item(obj: Any, key: Any, value: Any) -> None:
    if isinstance(obj, dict):
        obj.pop(key, None) if value is MISSING else obj.__setitem__(key, value)
    elif value is MISSING:
        obj.discard(key)
    else:
        obj.add(key)
