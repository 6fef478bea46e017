"""One chat is referred to twice: by its title, and as the one that is open."""

import json

import streamlit as st

from persist_session import persistent_state


class Chat:
    """A conversation."""

    def __init__(self, title: str) -> None:
        self.title = title


class Chats:
    """All of them, and the open one."""

    def __init__(self) -> None:
        self.all: dict[str, Chat] = {}
        self.open: Chat | None = None


with persistent_state("chats", Chats) as chats:
    title = st.text_input("Title")
    if st.button("Begin") and title:
        chats.open = chats.all[title] = Chat(title)
    with st.container(key="seen"):
        st.text(json.dumps({name: chat.title for name, chat in sorted(chats.all.items())}))
