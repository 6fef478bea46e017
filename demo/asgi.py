"""The same demo, its cookies set by the server: `streamlit run demo/asgi.py`."""

from __future__ import annotations

import streamlit as st
from starlette.middleware import Middleware
from states import KEPT

from persist_session import CookieMiddleware

app = st.App("app.py", middleware=[Middleware(CookieMiddleware, names=[kept.name for kept in KEPT])])
