"""A block in whichever container `?place=` names; with `?kind=plain` the same page without the library."""

import secrets
import time
from contextlib import nullcontext

import streamlit as st

from persist_session import persistent_state


class AppState:
    """Told by what its factory drew."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(4)


def block() -> None:
    """Stand above, inside and below the block."""
    kept = persistent_state("places", AppState) if kind == "persistent" else nullcontext(AppState())
    st.text("Above")
    with kept as s:
        st.text("Inside")
        tokens.append(s.token)
    with st.container(key="after"):
        st.text("After")


place, kind = st.query_params["place"], st.query_params["kind"]
tokens: list[str] = []
if place == "main body":
    block()
elif place == "form":
    with st.form("form"):
        block()
        st.form_submit_button("Submit")
elif place == "sidebar":
    with st.sidebar:
        block()
elif place == "dialog":
    st.dialog("Dialog")(block)()
elif place == "parallel fragment":
    st.fragment(block, parallel=True)()
    while not tokens:  # it runs beside the script
        time.sleep(0.01)
with st.container(key="below"):
    st.text("Below")
