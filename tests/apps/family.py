"""A tree whose nodes know their parents, which two tabs let grow."""

import streamlit as st

from persist_session import persistent_state, state_info


class Person:
    """Somebody with children."""

    def __init__(self, parent: "Person | None" = None) -> None:
        self.parent = parent
        self.children: dict[int, Person] = {}


with persistent_state("family", Person) as eldest:
    if st.button("Have a child"):
        eldest.children[len(eldest.children)] = Person(eldest)
    are_own = all(child.parent is eldest for child in eldest.children.values())
    with st.container(key="seen"):
        st.text(f"{len(eldest.children)} {are_own}")
info = state_info("family")
with st.container(key="size"):
    st.text(info.size if info else None)
