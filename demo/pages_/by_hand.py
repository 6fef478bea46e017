"""A note that is saved when the visitor says so: load_state and save_state."""

from datetime import UTC, datetime

import streamlit as st
from models import Notebook

from persist_session import load_state, save_state

note = load_state("demo-note", Notebook)

title = st.text_input("Title", note.title)  # no key: the fields are drawn anew when another note was saved
text = st.text_area("Note", note.text, height=180)

if st.button("Save", type="primary", icon=":material/save:"):
    note.title, note.text, note.written_at = title, text, datetime.now(UTC)
    save_state("demo-note", note)
    st.rerun()
if (title, text) != (note.title, note.text):
    st.warning("Not saved yet: a reload brings the last saved note back.", icon=":material/edit:")
elif note.written_at:
    st.success(f"Saved at {note.written_at:%H:%M:%S} UTC.", icon=":material/check:")
