"""How long a visitor waits for the restored value after a reload: `python -m tests.benchmarks.reload`.

Three apps in one browser, in turn: one without persistence, which shows its value at once; this library; and the cookie
component used directly, the way its own documentation does, which has the value in its second run only.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.support import AppServer, write_app
from tests.support.browser import launch

ROUNDS = 15

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
COMPONENT = """
    import streamlit as st
    from streamlit_cookies_controller import CookieController

    cookies = CookieController()
    if st.button("count"):
        cookies.set("count", "seven")
    st.markdown("value: 7" if (cookies.getAll() or {}).get("count") == "seven" else "value: 0")
"""


def main() -> None:
    """Prints medians and ratios."""
    folder = Path(tempfile.mkdtemp())
    apps = {"without persistence": PLAIN, "persist_session": OURS, "cookie component": COMPONENT}
    servers = {name: AppServer(write_app(folder / name.split()[0], source)).start() for name, source in apps.items()}
    times: dict[str, list[float]] = {name: [] for name in apps}
    try:
        with sync_playwright() as playwright, launch(playwright) as browser:
            page = browser.new_page()
            for server in servers.values():
                page.goto(server.url)
                page.get_by_role("button", name="count").click()
                page.get_by_text("value: 7").wait_for()
                page.wait_for_timeout(1000)  # the cookie is written
            for _ in range(ROUNDS):
                for name, server in servers.items():
                    started = time.perf_counter()
                    page.goto(server.url)
                    page.get_by_text("value: 7").wait_for()
                    times[name].append(time.perf_counter() - started)
    finally:
        for server in servers.values():
            server.stop()
    limit = statistics.median(times["without persistence"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:22} median {median * 1000:6.0f} ms   ratio {median / limit:.2f}")


if __name__ == "__main__":
    main()
