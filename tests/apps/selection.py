"""A widget's own value is put into the state; its pickle can't be loaded again."""

from typing import Any

import streamlit as st

from persist_session import persistent_state


class View:
    """What is chosen."""

    def __init__(self) -> None:
        self.rows: Any = None


with persistent_state("view", View) as view:
    st.dataframe({"site": ["north", "south"]}, key="table", on_select="rerun", selection_mode="multi-row")
    if st.button("Keep"):
        view.rows = st.session_state.table.selection
    with st.container(key="seen"):
        st.text(f"rows {view.rows}")
