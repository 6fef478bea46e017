"""The elements on a visitor's page, kept as Streamlit's frontend keeps them.

It follows the frontend's AppRoot and its visitors (`clearStaleNodes`, `filterMainScriptElements`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# RootContainer: main, sidebar, event (dialogs, toasts), bottom (chat input).
_ROOTS = range(4)


@dataclass(frozen=True)
class Origin:
    """Which run, fragment and script a node came from."""

    run_id: str
    fragment_id: str
    script_hash: str


@dataclass(frozen=True)
class Element:
    """One element: `element.proto` is its own message (Markdown, Button, ...), `element.type` names it."""

    path: tuple[int, ...]
    type: str
    proto: Any
    origin: Origin

    @property
    def id(self) -> str:
        """The widget's or component's id, "" for what has none."""
        return str(getattr(self.proto, "id", ""))

    @property
    def key(self) -> str:
        """The `key=` that the app gave, "" without one."""
        key = self.id.split("-", 2)[2] if self.id.startswith("$$") and self.id.count("-") > 1 else ""
        return "" if key == "None" else key

    @property
    def label(self) -> str:
        """The label of a widget or metric, "" for what has none."""
        return str(getattr(self.proto, "label", ""))

    @property
    def text(self) -> str:
        """What the element shows as text, "" for what shows none."""
        return str(getattr(self.proto, "code_text", "") or getattr(self.proto, "body", ""))


@dataclass
class Block:
    """A container; its children by their index."""

    type: str | None
    proto: Any
    origin: Origin | None
    children: dict[int, Element | Block] = field(default_factory=dict)


class Tree:
    """All elements of a page, by delta path."""

    def __init__(self) -> None:
        self._roots = {root: Block(None, None, None) for root in _ROOTS}

    def apply(self, path: Sequence[int], delta: Any, origin: Origin) -> None:
        """Put an element or a block at its path.

        Raises:
            ValueError: The path leads through something that is no block.
        """
        kind = delta.WhichOneof("type")
        if kind == "new_transient":
            # A spinner lies over its place; it never replaces what is there.
            return
        parent = self._parent(path)
        if kind == "add_block":
            parent.children[path[-1]] = _merged_block(parent.children.get(path[-1]), delta.add_block, origin)
        else:
            element_type = str(delta.new_element.WhichOneof("type"))
            proto = getattr(delta.new_element, element_type)
            parent.children[path[-1]] = Element(tuple(path), element_type, proto, origin)

    def clear_stale(self, run_id: str, fragment_ids: Sequence[str]) -> None:
        """Remove what the run that just ended left behind.

        Args:
            run_id: The run that ended.
            fragment_ids: The fragments it ran; empty for a run of the whole script.
        """
        for root in self._roots.values():
            _clear_stale(root, run_id, fragment_ids, inside=False)

    def clear_page(self, main_script_hash: str) -> None:
        """Keep only what the main script itself showed: the page was changed."""
        for root in self._roots.values():
            _clear_page(root, main_script_hash)

    def elements(self) -> list[Element]:
        """Return all elements in document order."""
        return [element for root in self._roots.values() for element in _walk(root)]

    def block_ids(self) -> set[str]:
        """Return the ids of all blocks that have one (a block with a state of its own counts as a widget)."""
        return {block_id for root in self._roots.values() for block_id in _block_ids(root)}

    def _parent(self, path: Sequence[int]) -> Block:
        node: Element | Block = self._roots[path[0]]
        for index in path[1:-1]:
            if not isinstance(node, Block) or index not in node.children:
                raise ValueError(f"Nothing can be put at {list(path)}: there is no block on the way.")
            node = node.children[index]
        if not isinstance(node, Block):
            # Not a TypeError: the message is wrong, not the caller.
            raise ValueError(f"Nothing can be put at {list(path)}: an element stands on the way.")  # noqa: TRY004
        return node


def _merged_block(old: Element | Block | None, proto: Any, origin: Origin) -> Block:
    kind = proto.WhichOneof("type")
    # A block of the same kind keeps its children, so that they don't flicker; another kind starts empty.
    kept = old.children if isinstance(old, Block) and old.type == kind else {}
    return Block(kind, proto, origin, kept)


def _clear_stale(block: Block, run_id: str, fragment_ids: Sequence[str], *, inside: bool) -> None:
    for index, child in list(block.children.items()):
        if _is_stale(child, run_id, fragment_ids, inside=inside):
            del block.children[index]
        elif isinstance(child, Block):
            enters = _belongs(child, run_id) and _fragment(child) in fragment_ids
            _clear_stale(child, run_id, fragment_ids, inside=inside or enters)


def _is_stale(node: Element | Block, run_id: str, fragment_ids: Sequence[str], *, inside: bool) -> bool:
    if isinstance(node, Element) and node.type == "toast":
        return False
    if not fragment_ids:
        return not _belongs(node, run_id)
    if not inside or _belongs(node, run_id):
        return False
    return isinstance(node, Block) or bool(_fragment(node))


def _belongs(node: Element | Block, run_id: str) -> bool:
    return node.origin is not None and node.origin.run_id == run_id


def _fragment(node: Element | Block) -> str:
    return node.origin.fragment_id if node.origin is not None else ""


def _clear_page(block: Block, main_script_hash: str) -> None:
    for index, child in list(block.children.items()):
        if child.origin is not None and child.origin.script_hash != main_script_hash:
            del block.children[index]
        elif isinstance(child, Block):
            _clear_page(child, main_script_hash)


def _walk(block: Block) -> Iterator[Element]:
    for _, child in sorted(block.children.items()):
        if isinstance(child, Block):
            yield from _walk(child)
        else:
            yield child


def _block_ids(block: Block) -> Iterator[str]:
    if block.proto is not None and block.proto.id:
        yield block.proto.id
    for child in block.children.values():
        if isinstance(child, Block):
            yield from _block_ids(child)
