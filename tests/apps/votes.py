"""The state is met in callbacks only."""

import streamlit as st

from persist_session import load_state, save_state


def vote() -> None:
    """Count one."""
    votes = load_state("votes", list)
    votes.append(1)
    save_state("votes", votes)


def count() -> None:
    """Have the number shown."""
    st.session_state.shown = len(load_state("votes", list))


st.button("Vote", on_click=vote)
st.button("How many?", on_click=count)
with st.container(key="seen"):
    st.text(st.session_state.get("shown"))
