"""Clicks counted without the library."""

import streamlit as st

st.session_state.setdefault("plain", 0)
if st.button("Add"):
    st.session_state.plain += 1
with st.container(key="count"):
    st.text(st.session_state.plain)
