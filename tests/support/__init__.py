"""Real servers, visitors, proxies and browsers for the tests.

server    a real `streamlit run` of a small app
visitor   what a browser tab does, without a browser: protocol, widgets, the cookies component
tree      the elements that are on a visitor's page
jar       a visitor's cookies
proxy     reverse proxies: one strips cookies from the websocket handshake, one loses its connections
browser   Chromium through Playwright
"""

from __future__ import annotations

from .jar import Jar
from .proxy import CuttableProxy, StrippingProxy
from .server import AppServer, write_app
from .visitor import Visitor, VisitorError

__all__ = ["AppServer", "CuttableProxy", "Jar", "StrippingProxy", "Visitor", "VisitorError", "write_app"]
