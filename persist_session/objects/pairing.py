"""Pairs the objects of one graph with those of another, a changed copy of it.

Objects are paired by the ways on which both are reached, the root first. Where an object can be reached on several
ways, as `current` and in `chats`, some of them may lead elsewhere by now. So no pair is made before all ways to its
objects are known, as far as that can be, and those come first that have no rival.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from persist_session.objects.graph import Graph, Kind, Node, is_atom

Candidate = tuple[Node, Node]


class Pairing:
    """The pairs of two graphs.

    Attributes:
        there: The second graph's node of each paired one of the first, by the identity of the first one's object.
        back: The other way round.
        alike: The objects of the first graph, by identity, that are surely the same and hold no others.
    """

    def __init__(self) -> None:
        self.there: dict[int, Node] = {}
        self.back: dict[int, Node] = {}
        self.alike: set[int] = set()

    def add(self, one: Node, other: Node) -> None:
        """Makes a pair of two nodes."""
        self.there[id(one.obj)] = other
        self.back[id(other.obj)] = one

    def is_paired(self, one: Node, other: Node) -> bool:
        """Tells whether either node is one of a pair."""
        return id(one.obj) in self.there or id(other.obj) in self.back


class _Ends:
    """One graph's objects while they are paired.

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
        """Tells whether there are more ways to the node, from objects that are not paired, or not yet."""
        return node.uses > 1 and self._seen[id(node.obj)] < node.uses


class Search:
    """The search for the pairs of two graphs: always the likeliest candidate of all that are known is next.

    The work grows with the number of parts.

    Attributes:
        pairs: The pairs.
        doubtful: The elements of lists that stand where a changed one was: edited, or others in its place; by their
            identities.
    """

    def __init__(self, one: Graph, other: Graph) -> None:
        self.pairs = Pairing()
        self.doubtful: dict[tuple[int, int], Candidate] = {}
        self._graphs = one, other
        self._here, self._there = _Ends(), _Ends()
        self._votes: Counter[tuple[int, int]] = Counter()
        self._waiting: list[tuple[tuple[int, ...], int, Node, Node]] = []
        self._number = 0
        self._add_all(one.root, other.root)
        self._go_on()

    def is_doubtful(self, one: Node, other: Node) -> bool:
        """Tells whether two nodes are a doubtful candidate."""
        return (id(one.obj), id(other.obj)) in self.doubtful

    def accept(self, candidates: Iterable[Candidate]) -> None:
        """Takes some of the doubtful candidates into account, and goes on."""
        for a, b in candidates:
            self._here.unmatched.discard(id(a.obj))
            self._there.unmatched.discard(id(b.obj))
            if not self.pairs.is_paired(a, b):
                self._vote(a, b)
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting:
            rank, _, first, second = heapq.heappop(self._waiting)
            if self.pairs.is_paired(first, second) or self._is_unlikely(first, second):
                continue
            if rank < self._rank(first, second):  # a rival came since
                self._push(first, second)
            else:
                self._add_all(first, second)

    def _add_all(self, first: Node, second: Node) -> None:
        """Pairs two objects, and those inside of them to which there is no other way."""
        waiting = [(first, second)]
        for one, other in waiting:  # grows meanwhile
            self.pairs.add(one, other)
            self._drop_rivals(self._here.rivals.pop(id(one.obj), {}), self._there.rivals, one)
            self._drop_rivals(self._there.rivals.pop(id(other.obj), {}), self._here.rivals, other)
            common = [*_nodes_in_common(self._graphs[0], one, self._graphs[1], other, self.doubtful)]
            self._see(self._here, self._graphs[0], one, [a for a, _ in common])
            self._see(self._there, self._graphs[1], other, [b for _, b in common])
            for a, b in common:
                if type(a.obj) is not type(b.obj):
                    continue
                if a.uses == b.uses == 1:
                    if a.is_leaf and b.is_leaf:
                        self._add_leaf(a, b)
                    else:
                        waiting.append((a, b))
                elif not self.pairs.is_paired(a, b):
                    self._vote(a, b)

    def _add_leaf(self, one: Node, other: Node) -> None:
        self.pairs.add(one, other)
        if one.is_same_leaf(other):
            self.pairs.alike.add(id(one.obj))

    def _see(self, ends: _Ends, graph: Graph, parent: Node, matched: list[Node]) -> None:
        """Counts the ways from a node that was paired; a candidate to which there are no others becomes likelier."""
        shared = [node for node in _nodes_in(graph, parent) if node.uses > 1]
        if not shared:
            return
        found = {id(node.obj) for node in matched}
        for node in shared:
            key = id(node.obj)
            ends.see(node)
            if key not in found:
                ends.unmatched.add(key)
            if not ends.is_open(node) and key in ends.rivals:
                for a, b in ends.rivals[key].values():
                    self._push(a, b)

    def _vote(self, a: Node, b: Node) -> None:
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
        # Of equals the last one met: what points to an object stands nearer to the root than its owner.
        self._number -= 1
        heapq.heappush(self._waiting, (self._rank(first, second), self._number, first, second))

    def _rank(self, a: Node, b: Node) -> tuple[int, ...]:
        """The rank of a candidate; the smallest is the likeliest."""
        return (
            self._here.is_open(a) or self._there.is_open(b),
            min(len(self._here.rivals[id(a.obj)]), len(self._there.rivals[id(b.obj)])) > 1,
            -self._votes[id(a.obj), id(b.obj)],
            -likeness(a, b),
        )

    def _is_unlikely(self, a: Node, b: Node) -> bool:
        """Tells whether a removed object and a new one only meet where something refers to the one or the other."""
        doubts = (id(a.obj) in self._here.unmatched) + (id(b.obj) in self._there.unmatched)
        return doubts > 0 and likeness(a, b) < doubts


def likeness(one: Node, other: Node) -> int:
    """2 where the own values of two objects are equal, 1 where some telling ones are, or where there are none."""
    if one.digest == other.digest:
        return 2
    values = {field: value for field, value in one.fields.items() if is_atom(value)}
    # That two objects are both not done, or both lack something, does not make them one.
    telling = [field for field, value in values.items() if value is not None and not isinstance(value, bool)]
    return int(not values or any(field in other.fields and values[field] == other.fields[field] for field in telling))


def pair_new(pairs: Pairing, here: Graph, there: Graph, old: set[int]) -> None:
    """Adds the objects that both sides made at one place, like a dict under one key.

    Only those that are reached on the same ways: that both sides have opened a chat, each under a key of its own, does
    not make their chats the same.

    Args:
        pairs: The pairs of the two graphs so far.
        here: The one graph.
        there: The other one.
        old: The objects, by identity, that the graph has of which both are changed copies.
    """
    ways: list[dict[int, set[tuple[int, Any]]]] = []
    waiting = [(pairs.back[id(other.obj)], other) for other in pairs.there.values() if other.links]
    for one, other in waiting:  # grows meanwhile
        is_new = id(one.obj) not in old
        for field, a in one.links.items() if one.kind is Kind.FIELDS else ():
            b = other.links.get(field)
            if b is None or type(a.obj) is not type(b.obj) or pairs.is_paired(a, b) or {id(a.obj), id(b.obj)} & old:
                continue
            # A list may be another one in its place; those of two new objects began as the same one.
            if a.kind is not Kind.FIELDS and not (is_new and a.kind is Kind.LIST):
                continue
            if a.uses == b.uses > 1:
                ways = ways or [_ways(here), _ways(there)]
                its_ways = {
                    (id(pairs.back[key].obj) if key in pairs.back else key, field) for key, field in ways[1][id(b.obj)]
                }
                own_ways = ways[0][id(a.obj)]
                if own_ways != its_ways or any(field is None for _, field in own_ways):
                    continue
            if a.uses == b.uses:
                pairs.add(a, b)
                waiting.append((a, b))


def _ways(graph: Graph) -> dict[int, set[tuple[int, Any]]]:
    """The ways to each object: the identities of the objects around it, with their fields."""
    found: dict[int, set[tuple[int, Any]]] = defaultdict(set)
    for node in graph.nodes.values():
        for field, part in node.links.items():
            found[id(part.obj)].add((id(node.obj), field))
        for element in node.elements:
            if element is not None:
                found[id(element.obj)].add((id(node.obj), None))
    return found


def _nodes_in(graph: Graph, node: Node) -> Iterator[Node]:
    yield from node.links.values()
    yield from (each for each in node.elements if each is not None)
    for item in node.odd:
        yield from (graph.nodes[id(part)] for part in item if id(part) in graph.nodes)


def _nodes_in_common(
    here: Graph, one: Node, there: Graph, other: Node, doubtful: dict[tuple[int, int], Candidate]
) -> Iterator[Candidate]:
    for field, node in one.links.items():
        if field in other.links:
            yield node, other.links[field]
    if len(one.elements) == len(other.elements) and all(map(_may_be_one, one.elements, other.elements)):
        yield from zip(one.elements, other.elements, strict=True)
    elif one.elements and other.elements:
        for i, j, is_sure in _places_in_common(here, one, there, other):
            a, b = one.elements[i], other.elements[j]
            if a is None or b is None or type(a.obj) is not type(b.obj):
                continue
            if is_sure:
                yield a, b
            else:
                doubtful[id(a.obj), id(b.obj)] = a, b
    if one.odd and other.odd:
        yield from _odd_in_common(here, one, there, other)


def _odd_in_common(here: Graph, one: Node, there: Graph, other: Node) -> Iterator[Candidate]:
    keys, its_keys = [key for key, _ in one.odd], [key for key, _ in other.odd]
    for i, j, _ in _in_order(here, keys, there, its_keys):
        for part, its_part in zip(one.odd[i], other.odd[j], strict=True):
            if id(part) in here.nodes and id(its_part) in there.nodes:
                yield here.nodes[id(part)], there.nodes[id(its_part)]


def _places_in_common(here: Graph, one: Node, there: Graph, other: Node) -> Iterable[tuple[int, int, bool]]:
    """The places of two objects' elements that may be the same ones, and whether they surely are."""
    if isinstance(one.obj, (set, frozenset)):
        return _by_content(map(here.content, one.items), map(there.content, other.items))
    if one.kind is Kind.FIXED:
        return ((i, i, True) for i in range(min(len(one.items), len(other.items))))
    return _in_order(here, one.items, there, other.items)


def _by_content(here: Iterable[Any], there: Iterable[Any]) -> Iterator[tuple[int, int, bool]]:
    """Pairs the places of the members of two sets that hold the same, and of a single one that is left."""
    places: defaultdict[Any, list[int]] = defaultdict(list)
    for j, content in enumerate(there):
        places[content].append(j)
    left = []
    for i, content in enumerate(here):
        if places[content]:
            yield i, places[content].pop(), True
        else:
            left.append(i)
    rest = [j for each in places.values() for j in each]
    if len(left) == len(rest) == 1:
        yield left[0], rest[0], False


def _in_order(here: Graph, one: list[Any], there: Graph, other: list[Any]) -> Iterator[tuple[int, int, bool]]:
    """Pairs the places of two lists: of what holds the same; with doubt, between that, of stretches of one length."""
    contents, its_contents = [*map(here.content, one)], [*map(there.content, other)]
    partner = _anchors(contents, its_contents)
    yield from ((i, j, True) for i, j in partner.items())
    taken = set(partner.values())
    i, j = 0, 0
    while i < len(one):
        start = i
        while i < len(one) and i not in partner:
            i += 1
        end = partner[i] if i < len(one) else len(other)
        if i - start == end - j and taken.isdisjoint(range(j, end)):
            yield from ((start + n, j + n, False) for n in range(i - start))
        elif i == len(one) and i - start < end - j and taken.isdisjoint(range(j, end)):
            nodes = (
                (here.nodes.get(id(each)) for each in one[start:]),
                (there.nodes.get(id(each)) for each in other[j:]),
            )
            yield from ((start + n, j + n, False) for n in range(_alike(*nodes)))  # changed, and longer
        i, j = i + 1, end + 1


def _may_be_one(one: Node | None, other: Node | None) -> bool:
    """Tells whether two elements are surely the same ones: compared without a look at each of their parts."""
    return one is not None and other is not None and one.is_same_leaf(other)


def _alike(one: Iterable[Node | None], other: Iterable[Node | None]) -> int:
    """The number of objects at the beginnings of two lists that are alike, each to the one at its place."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a is None or b is None or not likeness(a, b):
            break
        count += 1
    return count


def _anchors(here: list[Any], there: list[Any]) -> dict[int, int]:
    """The places of the elements that are the same for sure, by those in the first list."""
    shorter = min(len(here), len(there))
    start = next((i for i in range(shorter) if here[i] != there[i]), shorter)
    shorter -= start
    end = next((i for i in range(shorter) if here[-1 - i] != there[-1 - i]), shorter)
    found = {i: i for i in range(start)}
    middle, its_middle = range(start, len(here) - end), range(start, len(there) - end)
    if middle and its_middle:
        counts, its_counts = Counter(here[i] for i in middle), Counter(there[j] for j in its_middle)
        places = {there[j]: j for j in its_middle}
        found |= {i: places[here[i]] for i in middle if counts[here[i]] == its_counts[here[i]] == 1}
    return found | {len(here) - 1 - i: len(there) - 1 - i for i in range(end)}
