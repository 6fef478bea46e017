"""Clicks counted both ways."""

import streamlit as st

from persist_session import persistent_state


def counts() -> dict[str, int]:
    """Return none."""
    return {}


st.session_state.setdefault("plain", 0)
is_clicked = st.button("Add")  # before the block: Streamlit forgets a click whose run did not come to its button
with persistent_state("quick", counts) as kept:
    if is_clicked:
        st.session_state.plain += 1  # first: Streamlit may end the run here, before anything is counted
        kept["count"] = kept.get("count", 0) + 1
    with st.container(key="count"):
        st.text(st.session_state.plain)
    with st.container(key="kept"):
        st.text(kept.get("count", 0))
