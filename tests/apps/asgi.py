"""The same, where the server sets the cookie."""

import streamlit as st
from starlette.middleware import Middleware

from persist_session import CookieMiddleware

app = st.App("app.py", middleware=[Middleware(CookieMiddleware)])
