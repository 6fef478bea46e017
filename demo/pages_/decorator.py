"""The attribute style of older libraries: decorate a class, make one, change it. And a decorated function."""

import streamlit as st

from persist_session import persist, state_info


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
    if state_info("demo-mood").cookie == "asking":
        return  # the browser's answer is on its way: a widget drawn now would not show the saved mood
    mood = st.feedback("faces", key="mood", default=state.get("mood"))
    if mood is not None:
        state["mood"] = mood
        st.caption(f"{mood + 1} of 5. Thank you!")


st.write("How do you like it?")
ask_for_mood()
# the script run is over: what changed is saved, once
