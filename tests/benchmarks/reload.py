"""How long a visitor waits for the restored value after a reload: `python -m tests.benchmarks.reload`.

Apps in one browser, in turn: one without persistence, which shows its value at once, started as a script and as an
`st.App`; this library, with a cookie that a script set, and with one that the server set; and the cookie component used
directly, the way its own documentation does, which has the value in its second run only.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.support import AppServer, write_app
from tests.support.browser import launch

ROUNDS = 25

PLAIN = """
    import streamlit as st
    st.button("count")
    st.markdown("value: 7")
"""
OURS = """
    import streamlit as st
    from persist_session import persistent_state

    class AppState:
        def __init__(self):
            self.count = 0

    with persistent_state("app-state", AppState) as s:
        st.button("count", on_click=lambda: setattr(s, "count", 7))
        st.markdown(f"value: {s.count}")
"""
SERVER = """
    import streamlit as st
    from persist_session import CookieMiddleware
    from starlette.middleware import Middleware

    app = st.App("app.py", middleware=[Middleware(CookieMiddleware, names=["app-state"])])
"""
PLAIN_SERVER = """
    import streamlit as st
    app = st.App("app.py")
"""
COMPONENT = """
    import streamlit as st
    from streamlit_cookies_controller import CookieController

    cookies = CookieController()
    if st.button("count"):
        cookies.set("count", "seven")
    st.markdown("value: 7" if (cookies.getAll() or {}).get("count") == "seven" else "value: 0")
"""


# By name: the script, and what makes the st.App, if it is one. Each is compared with its like without persistence.
APPS = {
    "script without": (PLAIN,),
    "script, cookie set by a script": (OURS,),
    "script, component alone": (COMPONENT,),
    "st.App without": (PLAIN, PLAIN_SERVER),
    "st.App, cookie set by the server": (OURS, SERVER),
}


def serve(folder: Path, script: str, server: str | None = None) -> AppServer:
    """A server of one app."""
    app = write_app(folder, script)
    return AppServer(app if server is None else write_app(folder, server, "asgi.py")).start()


def main() -> None:
    """Prints medians and ratios."""
    folder = Path(tempfile.mkdtemp())
    servers = {name: serve(folder / str(number), *APPS[name]) for number, name in enumerate(APPS)}
    times: dict[str, list[float]] = {name: [] for name in APPS}
    try:
        with sync_playwright() as playwright, launch(playwright) as browser:
            page = browser.new_page()
            for server in servers.values():
                page.goto(server.url)
                page.get_by_role("button", name="count").click()
                page.get_by_text("value: 7").wait_for()
                page.wait_for_timeout(1000)  # the cookie is written
            for _ in range(ROUNDS):
                # What a page leaves behind slows the one after it: so not always the same one.
                for name in random.sample(list(servers), len(servers)):
                    started = time.perf_counter()
                    page.goto(servers[name].url)
                    page.get_by_text("value: 7").wait_for()
                    times[name].append(time.perf_counter() - started)
    finally:
        for server in servers.values():
            server.stop()
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        peer = medians["script without" if name.startswith("script") else "st.App without"]
        print(f"{name:32} median {median * 1000:6.0f} ms   ratio {median / peer:.2f}")


if __name__ == "__main__":
    main()
