"""The same demo, its cookie set by the server: `streamlit run demo/asgi.py`."""

from __future__ import annotations

import streamlit as st
from starlette.middleware import Middleware

from persist_session import CookieMiddleware

app = st.App("app.py", middleware=[Middleware(CookieMiddleware)])
