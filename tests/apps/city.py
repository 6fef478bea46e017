"""A widget is filled from the state once a tab, and the state from the widget in every run."""

from typing import Any

import streamlit as st

from persist_session import persistent_state


def preferences() -> dict[str, Any]:
    """Return none."""
    return {}


with persistent_state("preferences", preferences) as chosen:
    if "city" not in st.session_state:
        st.session_state.city = chosen.get("city", "")
    st.text_input("City", key="city")
    chosen["city"] = st.session_state.city
    with st.container(key="seen"):
        st.text(f"City: {chosen['city']}")
