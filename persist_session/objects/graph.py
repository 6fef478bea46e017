"""A state as a graph: which of its objects have parts, and which parts these are.

Dicts, lists, sets and the app's own objects have parts that change. Tuples, frozen objects and frozensets have parts
that don't. Everything else is a value as a whole: half a frame, or half of an object of somebody else's class, is none.
"""

from __future__ import annotations

import datetime as dt
import functools
import operator
from collections.abc import Iterator
from enum import Enum
from types import FunctionType, MethodType
from typing import Any, NamedTuple

from persist_session.objects.classes import is_own_module
from persist_session.objects.pickling import attributes_of

MISSING = object()
"""Stands for a part that is not there."""

_ATOMS = frozenset(
    {int, float, complex, bool, str, bytes, type(None), type(MISSING), dt.datetime, dt.date, type, FunctionType}
)
_CONTAINERS = frozenset({dict, list, set, tuple, frozenset})
_LONGEST_PATH = 12
# Of most nodes, and never changed.
_NONE: list[Any] = []
_NO_LINKS: dict[Any, Any] = {}


class Kind(Enum):
    """The kinds of parts that objects have."""

    FIELDS = "attributes, and the items of a dict"
    LIST = "elements"
    SET = "members"
    FIXED = "parts that never change"


class Attribute(NamedTuple):
    """A field that is an attribute; a dict of an own class may have a key of the same name, which is a field, too."""

    name: str


ELEMENT = Attribute("")
"""Stands for the field of whatever has none: an element, a member, a key that is an object of its own."""

_attribute = functools.lru_cache(maxsize=4096)(Attribute)


class Node:
    """One object with parts.

    Attributes:
        obj: The object.
        kind: What its parts are.
        fields: The attributes, and a dict's items under plain keys.
        items: The elements of a list, tuple or set, in order.
        odd: A dict's items under other keys: an own object, or a tuple with one in it.
        links: Those fields that are nodes themselves.
        elements: The nodes of the items, None for one that is none; empty where all are none.
        is_leaf: Whether no part is a node.
        is_plain: Whether all parts are nodes or atoms.
        uses: The number of ways on which the object is reached.
        parent: Where the first of them comes from; None for the root.
        field: The parent's field that the first of them leads through.
    """

    __slots__ = (
        "_digest",
        "elements",
        "field",
        "fields",
        "is_leaf",
        "is_plain",
        "items",
        "kind",
        "links",
        "obj",
        "odd",
        "parent",
        "uses",
    )

    def __init__(self, obj: Any, kind: Kind) -> None:
        self.obj = obj
        self.kind = kind
        # Copied at once: another thread may change a container meanwhile.
        self.fields: dict[Any, Any] = dict(obj) if isinstance(obj, dict) else _NO_LINKS
        self.items: list[Any] = list(obj) if isinstance(obj, (list, tuple, set, frozenset)) else _NONE
        self.odd: list[tuple[Any, Any]] = _NONE
        if self.fields and not _ATOMS.issuperset(map(type, self.fields)):
            self.odd = [item for item in self.fields.items() if not _is_plain_key(item[0])]
            self.fields = {key: value for key, value in self.fields.items() if _is_plain_key(key)}
        if type(obj) not in _CONTAINERS:
            self.fields = self.fields | {
                _attribute(name): getattr(obj, name, MISSING) for name in _saved_attributes(obj)
            }
        self.links: dict[Any, Node] = _NO_LINKS
        self.elements: list[Node | None] = _NONE
        self.is_leaf = self.is_plain = True
        self.uses = 0
        self.parent: Node | None = None
        self.field: Any = ELEMENT
        self._digest: int | None = None

    @property
    def digest(self) -> int:
        """Equal for two objects whose own values are equal; of the objects inside only their classes count."""
        if self._digest is None:
            items = [token(item) for item in self.items] if self.items else []
            self._digest = hash(
                (
                    type(self.obj),
                    self._field_tokens(),
                    frozenset((token(key), token(value)) for key, value in self.odd),
                    len(items) + len(self.odd),
                    frozenset(items) if isinstance(self.obj, (set, frozenset)) else tuple(items),
                )
            )
        return self._digest

    def is_same_leaf(self, other: Node) -> bool:
        """Tells whether two objects hold nothing but plain values, and the same ones; looks at no single one."""
        return (
            self.is_leaf
            and other.is_leaf
            and self.is_plain
            and other.is_plain
            and self.fields == other.fields
            and self.items == other.items
            and all(map(operator.is_, map(type, self.fields.values()), map(type, other.fields.values())))
            and all(map(operator.is_, map(type, self.items), map(type, other.items)))
        )

    def _field_tokens(self) -> frozenset[Any]:
        kinds = [*map(type, self.fields.values())]
        if _ATOMS.issuperset(kinds):
            return frozenset(zip(self.fields.items(), kinds, strict=True))
        return frozenset((field, token(value)) for field, value in self.fields.items())

    def parts(self) -> Iterator[Any]:
        """All that is inside."""
        yield from self.fields.values()
        yield from self.items
        for item in self.odd:
            yield from item

    def step(self, field: Any) -> str:
        """A step of a path from here."""
        if field is ELEMENT:
            return "[...]"
        if isinstance(field, Attribute):
            return f".{field.name}"
        # A key may be a visitor's own words: its place is shown instead.
        known = list(self.fields)
        return f"[key {known.index(field) + 1}]" if field in known else "[new key]"

    def path(self) -> str:
        """The first way to the object, for messages; of a long one its end."""
        steps: list[str] = []
        node = self
        while node.parent is not None and node.parent.parent is not None:
            steps.append(node.parent.step(node.field))
            node = node.parent
        left_out = ["..."] if len(steps) > _LONGEST_PATH else []
        return "".join([type(node.obj).__qualname__, *left_out, *reversed(steps[:_LONGEST_PATH])])


class Graph:
    """All objects with parts that can be reached from a root.

    Attributes:
        root: A dict that holds the state: so the state is a part, too, which may be replaced.
        nodes: By the identity of their objects, in the order in which they are met.
    """

    def __init__(self, state: Any) -> None:
        self.root = Node({"": state}, Kind.FIELDS)
        self.nodes: dict[int, Node] = {id(self.root.obj): self.root}
        waiting = [self.root]
        for node in waiting:  # grows meanwhile: a walk in breadth, so that first ways are short ones
            if not _ATOMS.issuperset(map(type, node.fields.values())):
                found = {field: self._meet(node, field, part, waiting) for field, part in node.fields.items()}
                node.links = {field: part for field, part in found.items() if part is not None}
            if not _ATOMS.issuperset(map(type, node.items)):
                node.elements = [self._meet(node, ELEMENT, item, waiting) for item in node.items]
            for item in node.odd:
                for part in item:
                    self._meet(node, ELEMENT, part, waiting)

    def content(self, part: Any) -> Any:
        """The mark by which an object is found again in a changed copy of the graph: its own values."""
        node = self.nodes.get(id(part))
        return token(part) if node is None else node.digest

    def _meet(self, parent: Node, field: Any, obj: Any, waiting: list[Node]) -> Node | None:
        if type(obj) in _ATOMS:
            return None
        node = self.nodes.get(id(obj))
        if node is None:
            kind = kind_of(obj)
            if kind is None:
                parent.is_plain = False
                return None
            node = self.nodes[id(obj)] = Node(obj, kind)
            node.parent, node.field = parent, field
            waiting.append(node)
        node.uses += 1
        parent.is_leaf = False
        return node


def is_atom(obj: Any) -> bool:
    """Tells whether an object is a plain value, with nothing inside."""
    return type(obj) in _ATOMS


def _is_plain_key(key: Any) -> bool:
    return type(key) in _ATOMS or isinstance(key, Enum)


def kind_of(obj: Any) -> Kind | None:
    """The kind of an object's parts; None for a value."""
    if isinstance(obj, dict):
        return Kind.FIELDS
    kind: Any = type(obj)
    return _kind_of_class(kind)


@functools.lru_cache(maxsize=1024)
def _kind_of_class(kind: Any) -> Kind | None:
    known = {list: Kind.LIST, set: Kind.SET, tuple: Kind.FIXED, frozenset: Kind.FIXED}.get(kind)
    if known is not None:
        return known
    if issubclass(kind, (Enum, type)) or not _is_made_of_attributes(kind):
        return None
    if issubclass(kind, list):
        return Kind.LIST
    return Kind.FIXED if issubclass(kind, tuple) or is_frozen(kind) else Kind.FIELDS


def is_frozen(kind: Any) -> bool:
    """Tells whether a dataclass or pydantic model says that its instances never change."""
    parameters = getattr(kind, "__dataclass_params__", None)
    config = getattr(kind, "model_config", None)
    return bool(getattr(parameters, "frozen", False) or (isinstance(config, dict) and config.get("frozen")))


def _is_made_of_attributes(kind: Any) -> bool:
    # The attributes of other people's classes are their own affair. Nor are they all of an array or an exception with
    # attributes: there, what compares and what pickles is not Python.
    methods = ((getattr(kind, name), getattr(object, name)) for name in ("__eq__", "__reduce__", "__reduce_ex__"))
    is_storage = issubclass(kind, (list, tuple))
    return is_own_module(kind.__module__) and all(
        method is plain or is_storage or isinstance(method, FunctionType) for method, plain in methods
    )


def _saved_attributes(obj: Any) -> list[str]:
    """The names of the attributes that are pickled: a `__getstate__` may leave out some, like a lock."""
    names = attributes_of(obj)
    kind: Any = type(obj)
    if names and kind.__getstate__ is not object.__getstate__:
        state = obj.__getstate__()
        if isinstance(state, dict) and state.keys() < set(names):
            return [name for name in names if name in state]
    return names


def token(value: Any) -> Any:
    """The mark by which a plain value is told apart; of all others only the class."""
    kind: Any = type(value)
    if kind in _ATOMS:
        return kind, value
    if isinstance(value, MethodType) or kind.__hash__ in (None, object.__hash__) or is_own_module(kind.__module__):
        return kind
    try:
        return kind, hash(value)  # a path, a number of another kind
    except Exception:  # noqa: BLE001 (a tuple with a list in it, or anybody's own hash: then the class must do)
        return kind
