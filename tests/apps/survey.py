"""The state is met in a branch that only the run of a submit takes."""

import streamlit as st

from persist_session import persistent_state

with st.form("survey"):
    answer = st.text_input("Answer")
    is_sent = st.form_submit_button("Send")
if is_sent:
    with persistent_state("answers", list) as answers:
        answers.append(answer)
    st.text("Thank you")
    with st.container(key="seen"):
        st.text(" ".join(answers))
