"""A number: the whole library in one with-block. The class lives in this page file."""

import streamlit as st

from persist_session import persistent_state


class Counter:
    def __init__(self):
        self.count = 0


with persistent_state("demo-counter", Counter) as s:  # loads on entry
    if st.button("Add one", type="primary", icon=":material/add:"):
        s.count += 1
    st.metric("Count", s.count, border=True)
# the block is over: what changed is saved, once
