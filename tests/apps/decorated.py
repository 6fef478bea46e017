"""The decorator: attributes that stay."""

import streamlit as st

from persist_session import persist


@persist("decorated")
class AppState:
    """A number."""

    def __init__(self) -> None:
        self.count = 0


def add() -> None:
    """Count."""
    AppState().count += 1


state = AppState()
st.button("Add in a callback", on_click=add)
if st.button("Add and rerun"):
    state.count += 1
    st.rerun()
if st.button("Add and stop"):
    state.count += 1
    st.stop()
if st.button("Fail"):
    state.count += 100
    raise ValueError("broken on purpose")
with st.container(key="count"):
    st.text(f"Count {state.count} {AppState() is state}")
