"""Counts."""

import streamlit as st

from persist_session import persistent_state


class AppState:
    """A number."""

    def __init__(self) -> None:
        self.count = 0


with persistent_state("counter", AppState) as s:
    if st.button("Add"):
        s.count += 1
    with st.container(key="count"):
        st.text(f"Count {s.count}")
