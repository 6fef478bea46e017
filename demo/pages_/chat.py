"""A conversation that outlives the tab. Its classes live in models.py, since another page loads it too."""

import time

import streamlit as st
from models import Conversation, Message

from persist_session import persistent_state


def echo(text: str):
    for word in f"You said: {text}".split():
        yield word + " "
        time.sleep(0.05)


with persistent_state("demo-chat", Conversation) as chat:
    if text := st.chat_input("Say something"):
        chat.messages.append(Message("user", text))
    for message in chat.messages:
        st.chat_message(message.role).write(message.text)
    if chat.messages and chat.messages[-1].role == "user":  # also after a reload cut an answer short
        answer = st.chat_message("assistant").write_stream(echo(chat.messages[-1].text))
        chat.messages.append(Message("assistant", answer))
