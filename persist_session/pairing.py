"""Which object of one graph is which one of another, a changed copy of it.

Objects are paired by the ways on which both are reached, the root first. Where an object can be reached on several
ways, as `current` and in `chats`, some of them may lead elsewhere by now. So no pair is made before all ways to its
objects are known, as far as that can be, and those come first that have no rival.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from persist_session.graph import Field, Graph, Kind, Node, is_atom

Candidate = tuple[Node, Node]


class Pairing:
    """The pairs of two graphs.

    Attributes:
        there: The second graph's node of each paired one of the first, by the identity of the first one's object.
        back: The other way round.
    """

    def __init__(self) -> None:
        self.there: dict[int, Node] = {}
        self.back: dict[int, Node] = {}

    def add(self, one: Node, other: Node) -> None:
        """Makes a pair of two nodes."""
        self.there[id(one.obj)] = other
        self.back[id(other.obj)] = one

    def is_paired(self, one: Node, other: Node) -> bool:
        """Whether either node is one of a pair."""
        return id(one.obj) in self.there or id(other.obj) in self.back


def pair(one: Graph, other: Graph) -> Pairing:
    """Pairs the objects of two graphs; the work grows with the number of their parts."""
    return _Search(one, other).pairs


class _Ends:
    """What is known of one graph's objects while they are paired.

    Attributes:
        rivals: The objects of the other graph that each may be, by its identity.
        unmatched: The objects that are reached from a pair on a way which its other object does not have.
    """

    def __init__(self) -> None:
        self.rivals: defaultdict[int, dict[int, Candidate]] = defaultdict(dict)
        self.unmatched: set[int] = set()
        self._seen: Counter[int] = Counter()

    def see(self, node: Node) -> None:
        """Counts one way to a node."""
        self._seen[id(node.obj)] += 1

    def is_open(self, node: Node) -> bool:
        """Whether there are more ways to the node, from objects that are not paired, or not yet."""
        return self._seen[id(node.obj)] < node.uses


class _Search:
    """The search for the pairs of two graphs: always the likeliest candidate of all that are known is next."""

    def __init__(self, one: Graph, other: Graph) -> None:
        self.pairs = Pairing()
        self._graphs = one, other
        self._here, self._there = _Ends(), _Ends()
        self._votes: Counter[tuple[int, int]] = Counter()
        self._waiting: list[tuple[tuple[int, ...], int, Node, Node]] = []
        self._number = 0
        self._add(one.root, other.root)
        while self._waiting:
            rank, _, first, second = heapq.heappop(self._waiting)
            if self.pairs.is_paired(first, second) or self._is_unlikely(first, second):
                continue
            if rank < self._rank(first, second):  # a rival came since
                self._push(first, second)
            else:
                self._add(first, second)

    def _add(self, first: Node, second: Node) -> None:
        self.pairs.add(first, second)
        self._drop_rivals(self._here.rivals.pop(id(first.obj), {}), self._there.rivals, first)
        self._drop_rivals(self._there.rivals.pop(id(second.obj), {}), self._here.rivals, second)
        common = [*_parts_in_common(self._graphs[0], first, self._graphs[1], second)]
        changed = [
            *self._see(self._here, self._graphs[0], first, {id(part) for part, _ in common}),
            *self._see(self._there, self._graphs[1], second, {id(part) for _, part in common}),
        ]
        for part, its_part in common:
            a, b = self._graphs[0].nodes.get(id(part)), self._graphs[1].nodes.get(id(its_part))
            if a is not None and b is not None and type(part) is type(its_part):
                self._vote(a, b)
        for rivals in changed:
            for a, b in rivals.values():
                self._push(a, b)

    def _see(self, ends: _Ends, graph: Graph, parent: Node, matched: set[int]) -> Iterator[dict[int, Candidate]]:
        """Counts the ways from a node that was paired, and yields the candidates of objects that have no others."""
        for _, part in parent.parts():
            node = graph.nodes.get(id(part))
            if node is None:
                continue
            ends.see(node)
            if id(part) not in matched:
                ends.unmatched.add(id(part))
            if not ends.is_open(node) and id(part) in ends.rivals:
                yield ends.rivals[id(part)]

    def _vote(self, a: Node, b: Node) -> None:
        if not self.pairs.is_paired(a, b):
            self._votes[id(a.obj), id(b.obj)] += 1
            self._here.rivals[id(a.obj)][id(b.obj)] = self._there.rivals[id(b.obj)][id(a.obj)] = a, b
            self._push(a, b)

    def _drop_rivals(self, gone: dict[int, Candidate], ends: dict[int, dict[int, Candidate]], node: Node) -> None:
        for key in gone:
            left = ends.get(key, {})
            left.pop(id(node.obj), None)
            if len(left) == 1:
                self._push(*next(iter(left.values())))

    def _push(self, first: Node, second: Node) -> None:
        self._number -= (
            1  # of equals the last one met: what points to an object stands nearer to the root than its owner
        )
        heapq.heappush(self._waiting, (self._rank(first, second), self._number, first, second))

    def _rank(self, a: Node, b: Node) -> tuple[int, ...]:
        """How likely the two are one object; the smallest is the likeliest."""
        return (
            self._here.is_open(a) or self._there.is_open(b),
            min(len(self._here.rivals[id(a.obj)]), len(self._there.rivals[id(b.obj)])) > 1,
            -self._votes[id(a.obj), id(b.obj)],
            -_likeness(a, b),
        )

    def _is_unlikely(self, a: Node, b: Node) -> bool:
        """Whether a removed object and a new one only meet where something refers to the one or the other."""
        doubts = (id(a.obj) in self._here.unmatched) + (id(b.obj) in self._there.unmatched)
        return _likeness(a, b) < doubts


def _likeness(one: Node, other: Node) -> int:
    """2 where the own values of two objects are equal, 1 where some are, or where there are none to tell."""
    if one.digest == other.digest:
        return 2
    values = [field for field, value in one.fields.items() if is_atom(value)]
    return int(
        not values or any(field in other.fields and one.fields[field] == other.fields[field] for field in values)
    )


def pair_new(pairs: Pairing, base_here: Pairing, base_there: Pairing, here: Graph, there: Graph) -> None:
    """Adds the objects that both sides made at one place, like a dict under one key.

    An object that can be reached on another way, too, is one of its own: that both sides have opened a chat does not
    make their chats the same.
    """
    waiting = [(here.nodes[id(node.obj)], pairs.there[id(node.obj)]) for node in pairs.back.values()]
    for one, other in waiting:  # grows meanwhile
        for field in [*_new_fields(one, other)]:
            a, b = here.nodes.get(id(one.fields[field])), there.nodes.get(id(other.fields[field]))
            if a is None or b is None or type(a.obj) is not type(b.obj) or a.kind is not Kind.FIELDS:
                continue
            is_new = id(a.obj) not in base_here.back and id(b.obj) not in base_there.back
            if is_new and a.uses == b.uses == 1:
                pairs.add(a, b)
                waiting.append((a, b))


def _new_fields(one: Node, other: Node) -> Iterator[Field]:
    return (field for field in one.fields if field in other.fields) if one.kind is Kind.FIELDS else iter(())


def _parts_in_common(here: Graph, one: Node, there: Graph, other: Node) -> Iterator[tuple[Any, Any]]:
    for field, part in one.fields.items():
        if field in other.fields:
            yield part, other.fields[field]
    if isinstance(one.obj, (set, frozenset)):
        contents = map(here.content, one.items), map(there.content, other.items)
        yield from ((one.items[i], other.items[j]) for i, j in _by_content(*contents))
    elif one.kind is Kind.FIXED:
        yield from zip(one.items, other.items, strict=False)
    else:
        yield from _in_order(here, one.items, there, other.items)
    keys, its_keys = [key for key, _ in one.odd], [key for key, _ in other.odd]
    values, its_values = dict(one.odd), dict(other.odd)
    for key, its_key in _in_order(here, keys, there, its_keys):
        yield key, its_key
        yield values[key], its_values[its_key]


def _by_content(here: Iterable[Any], there: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """Pairs the places of the members of two sets that hold the same, and of a single one that is left."""
    places: defaultdict[Any, list[int]] = defaultdict(list)
    for j, content in enumerate(there):
        places[content].append(j)
    left = []
    for i, content in enumerate(here):
        if places[content]:
            yield i, places[content].pop()
        else:
            left.append(i)
    rest = [j for each in places.values() for j in each]
    if len(left) == len(rest) == 1:
        yield left[0], rest[0]


def _in_order(here: Graph, one: list[Any], there: Graph, other: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Pairs the elements of two lists: those that hold the same; between them, those of stretches of one length."""
    partner = _anchors([*map(here.content, one)], [*map(there.content, other)])
    yield from ((one[i], other[j]) for i, j in partner.items())
    taken = set(partner.values())
    i, j = 0, 0
    while i < len(one):
        start = i
        while i < len(one) and i not in partner:
            i += 1
        end = partner[i] if i < len(one) else len(other)
        if i - start == end - j and taken.isdisjoint(range(j, end)):
            yield from zip(one[start:i], other[j:end], strict=True)
        elif i == len(one) and i - start < end - j and taken.isdisjoint(range(j, end)):
            yield from _alike(here, one[start:], there, other[j:])  # changed, and longer
        i, j = i + 1, end + 1


def _alike(here: Graph, one: list[Any], there: Graph, other: list[Any]) -> Iterator[tuple[Any, Any]]:
    for part, its_part in zip(one, other, strict=False):
        a, b = here.nodes.get(id(part)), there.nodes.get(id(its_part))
        if a is None or b is None or not _likeness(a, b):
            return
        yield part, its_part


def _anchors(here: list[Any], there: list[Any]) -> dict[int, int]:
    """The places of the elements that are the same for sure, by those in the first list."""
    shorter = min(len(here), len(there))
    start = next((i for i in range(shorter) if here[i] != there[i]), shorter)
    shorter -= start
    end = next((i for i in range(shorter) if here[-1 - i] != there[-1 - i]), shorter)
    found = {i: i for i in range(start)}
    middle, its_middle = range(start, len(here) - end), range(start, len(there) - end)
    counts, its_counts = Counter(here[i] for i in middle), Counter(there[j] for j in its_middle)
    places = {there[j]: j for j in its_middle}
    found |= {i: places[here[i]] for i in middle if counts[here[i]] == its_counts[here[i]] == 1}
    return found | {len(here) - 1 - i: len(there) - 1 - i for i in range(end)}
