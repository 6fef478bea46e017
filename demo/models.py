"""The states that more than one page loads: the page that fills them and the page that lists them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass
class Message:
    """One line of the chat."""

    role: str  # "user" or "assistant", the words of st.chat_message
    text: str


@dataclass
class Conversation:
    """A visitor's chat."""

    messages: list[Message] = field(default_factory=list)


@dataclass
class Notebook:
    """A visitor's note as it was last saved."""

    title: str = "Untitled"
    text: str = ""
    written_at: datetime | None = None
