"""The attribute style of older libraries: decorate a class, make one, change it. And a decorated function."""

import streamlit as st

from persist_session import persist


@persist("demo-visits")
class AppState:
    def __init__(self):
        self.count = 0


state = AppState()  # this visitor's object, the same one at every call

with st.container(horizontal=True):
    if st.button("Count", type="primary", icon=":material/add:"):
        state.count += 1
    if st.button("Forget the count", icon=":material/delete:"):
        state.clear_cookie_state()
        st.rerun()
st.metric("Count", state.count, border=True)


@persist("demo-mood", dict)  # on a function: it gets the state first
def ask_for_mood(state):
    st.session_state.mood = state.get("mood")  # the widget shows what is kept
    st.feedback("faces", key="mood", on_change=lambda: state.update(mood=st.session_state.mood))
    if state.get("mood") is not None:
        st.caption(f"{state['mood'] + 1} of 5. Thank you!")


st.write("How do you like it?")
ask_for_mood()
# the script run is over: what changed is saved, once
