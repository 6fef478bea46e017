"""A note that is saved when the visitor says so: load_state and save_state, in a callback too."""

from datetime import UTC, datetime

import streamlit as st
from models import Notebook

from persist_session import load_state, save_state, state_info

note = load_state("demo-note", Notebook)
if state_info("demo-note").cookie == "asking":
    st.stop()  # the browser's answer is on its way: widgets drawn now would not show the saved note


def save() -> None:
    note.title, note.text = st.session_state.title, st.session_state.text
    note.written_at = datetime.now(UTC)
    save_state("demo-note", note)


title = st.text_input("Title", note.title, key="title")
text = st.text_area("Note", note.text, key="text", height=180)

unsaved = (title, text) != (note.title, note.text)
st.button("Save", type="primary", icon=":material/save:", on_click=save)
if unsaved:
    st.warning("Not saved yet: a reload brings the last saved note back.", icon=":material/edit:")
elif note.written_at:
    st.success(f"Saved at {note.written_at:%H:%M:%S} UTC.", icon=":material/check:")
