"""Which states the demo keeps, under which name, and on which page they are filled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from models import Conversation, Notebook


@dataclass(frozen=True)
class Kept:
    """One state of the demo.

    Attributes:
        name: The name of the state.
        title: The name that visitors see.
        page: The page file that fills it, as seen from the demo's folder.
        factory: Makes a fresh one. None where the class lives in the page file: only that page can load it.
    """

    name: str
    title: str
    page: str
    factory: Callable[[], object] | None = None


KEPT = (
    Kept("demo-counter", "Counter", "pages_/counter.py"),
    Kept("demo-todo", "To-do list", "pages_/todo.py"),
    Kept("demo-chat", "Chat", "pages_/chat.py", Conversation),
    Kept("demo-note", "By hand", "pages_/by_hand.py", Notebook),
    Kept("demo-visits", "Decorator, on a class", "pages_/decorator.py"),
    Kept("demo-mood", "Decorator, on a function", "pages_/decorator.py", dict),
)
