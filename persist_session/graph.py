"""A state as a graph: which of its objects have parts, and which parts these are.

Dicts, lists, sets and the app's own objects have parts that change. Tuples, frozen objects and frozensets have parts
that don't. Everything else is a value as a whole: half a frame, or half of an object of somebody else's class, is none.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from enum import Enum
from types import FunctionType, MethodType
from typing import Any, NamedTuple

from persist_session.pickling import attributes_of
from persist_session.view import is_own_module

MISSING = object()

_ATOMS = frozenset(
    {
        int,
        float,
        complex,
        bool,
        str,
        bytes,
        type(None),
        type(MISSING),
        dt.datetime,
        dt.date,
        type,
        FunctionType,
    }
)
_LONGEST_PATH = 12


class Kind(Enum):
    """What the parts of an object are."""

    FIELDS = "attributes, and the items of a dict"
    LIST = "elements"
    SET = "members"
    FIXED = "parts that never change"


class Field(NamedTuple):
    """The name of an attribute, or a key of a dict; a dict of an own class may have both."""

    name: Any
    is_key: bool


class Way(NamedTuple):
    """How an object is reached from another one: by a field, or, without one, as an element or a key."""

    parent: Node
    field: Field | None


class Node:
    """One object with parts.

    Attributes:
        obj: The object.
        kind: What its parts are.
        fields: The attributes, and the dict's items under plain keys.
        items: The elements of a list, tuple or set, in order.
        odd: The dict's items under other keys: an own object, or a tuple with one in it.
        way: The first way on which the object is reached; None for the root.
        uses: The number of all ways.
        digest: Equal for two objects whose own values are equal; says nothing of the objects inside.
    """

    __slots__ = ("digest", "fields", "items", "kind", "obj", "odd", "uses", "way")

    def __init__(self, obj: Any, kind: Kind) -> None:
        self.obj = obj
        self.kind = kind
        self.items: list[Any] = list(obj) if isinstance(obj, (list, tuple, set, frozenset)) else []
        self.odd: list[tuple[Any, Any]] = []
        self.fields: dict[Field, Any] = {}
        if isinstance(obj, dict):
            for key, value in list(obj.items()):  # at once: another thread may change the dict meanwhile
                if type(key) in _ATOMS or isinstance(key, Enum):
                    self.fields[Field(key, is_key=True)] = value
                else:
                    self.odd.append((key, value))
        for name in _saved_attributes(obj):
            self.fields[Field(name, is_key=False)] = getattr(obj, name, MISSING)
        self.way: Way | None = None
        self.uses = 0
        self.digest = self._digest()

    def _digest(self) -> int:
        items = map(token, self.items)
        return hash(
            (
                type(self.obj),
                frozenset((field, token(value)) for field, value in self.fields.items()),
                frozenset((token(key), token(value)) for key, value in self.odd),
                frozenset(items) if isinstance(self.obj, (set, frozenset)) else tuple(items),
            )
        )

    def parts(self) -> Iterator[tuple[Field | None, Any]]:
        """All objects inside, each with its field."""
        yield from self.fields.items()
        for item in self.items:
            yield None, item
        for key, value in self.odd:
            yield None, key
            yield None, value

    def path(self) -> str:
        """The first way to the object, for messages; of a long one its end."""
        steps: list[str] = []
        node = self
        while node.way is not None and node.way.parent.way is not None:
            steps.append(step(node.way.field))
            node = node.way.parent
        left_out = ["..."] if len(steps) > _LONGEST_PATH else []
        return "".join([type(node.obj).__qualname__, *left_out, *reversed(steps[:_LONGEST_PATH])])


def step(field: Field | None) -> str:
    """A step of a path."""
    if field is not None and not field.is_key:
        return f".{field.name}"
    # A key may be a visitor's own words: only what reads like a name is shown.
    is_name = field is not None and isinstance(field.name, str) and field.name.isidentifier()
    return f"[{field.name!r}]" if field is not None and is_name else "[...]"


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
            for field, part in node.parts():
                found = self._meet(part)
                if found is None:
                    continue
                if not found.uses:
                    waiting.append(found)
                    found.way = Way(node, field)
                found.uses += 1

    def content(self, part: Any) -> Any:
        """What an object is found again by in a changed copy of the graph: what it holds itself."""
        node = self.nodes.get(id(part))
        return token(part) if node is None else node.digest

    def _meet(self, obj: Any) -> Node | None:
        if type(obj) in _ATOMS:
            return None
        node = self.nodes.get(id(obj))
        if node is None:
            kind = kind_of(obj)
            if kind is None:
                return None
            node = self.nodes[id(obj)] = Node(obj, kind)
        return node


def is_atom(obj: Any) -> bool:
    """Whether an object is a plain value, with nothing inside."""
    return type(obj) in _ATOMS


def kind_of(obj: Any) -> Kind | None:  # noqa: PLR0911 (a table of cases)
    """What the parts of an object are; None for a value."""
    kind: Any = type(obj)
    if isinstance(obj, dict):
        return Kind.FIELDS
    if kind is list:
        return Kind.LIST
    if kind is set:
        return Kind.SET
    if kind in (tuple, frozenset):
        return Kind.FIXED
    if isinstance(obj, (Enum, type)) or not _is_made_of_attributes(kind):
        return None
    if isinstance(obj, list):
        return Kind.LIST
    return Kind.FIXED if isinstance(obj, tuple) or is_frozen(kind) else Kind.FIELDS


def is_frozen(kind: Any) -> bool:
    """Whether a dataclass or pydantic model says that its instances never change."""
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
    """What a plain value is told apart by; of all others only the class."""
    kind: Any = type(value)
    if kind in _ATOMS:
        return kind, value
    if isinstance(value, MethodType) or kind.__hash__ in (None, object.__hash__) or is_own_module(kind.__module__):
        return kind
    try:
        return kind, hash(value)  # a path, a number of another kind
    except Exception:  # noqa: BLE001 (a tuple with a list in it, or anybody's own hash: then the class must do)
        return kind
