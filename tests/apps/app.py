"""Small apps, one a page, for what a visitor sees in a browser. Above all of them stands which run of the tab it is."""

import streamlit as st

PAGES = (
    "counter",
    "basket",
    "chats",
    "checkout",
    "city",
    "decorated",
    "family",
    "five",
    "places",
    "plain",
    "quick",
    "selection",
    "survey",
    "votes",
)

st.session_state.number = st.session_state.get("number", 0) + 1
with st.container(key="run"):
    st.text(st.session_state.number)
pages = [st.Page(f"{name}.py", default=name == "counter") for name in PAGES]
st.navigation(pages, position="hidden").run()
