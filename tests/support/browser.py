"""Chromium through Playwright, and what tests ask of a page."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
import time
from typing import TYPE_CHECKING, Any, Literal

from playwright.sync_api import TimeoutError as BrowserTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser, BrowserContext, Page, Playwright

    from .server import AppServer

# A guest in the test: no sandbox (tests may run as root in a container), no traffic of its own.
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_NAMES = ("chromium", "chromium-browser", "google-chrome")

# Not the event "load": that waits for hidden requests, too, and some tests hold these.
_LOADED: Literal["domcontentloaded"] = "domcontentloaded"

# Streamlit names the state of the script, and of the connection, on the root of the app.
_IDLE = """() => {
    const app = document.querySelector('[data-testid="stApp"]');
    return app !== null
        && app.getAttribute('data-test-script-state') === 'notRunning'
        && app.getAttribute('data-test-connection-state') === 'CONNECTED';
}"""

# By the number of looks as well: where the browser has little time, so has what it is still to load. A component is a
# part of the frontend that is loaded first, then an iframe, which then starts another run.
_QUIET = """() => {
    const app = document.querySelector('[data-testid="stApp"]');
    const loads = document.querySelector('[data-testid="stSkeleton"]') !== null
        || [...document.querySelectorAll('iframe')].some((frame) => frame.contentDocument?.readyState !== 'complete');
    const idle = app?.getAttribute('data-test-script-state') === 'notRunning'
        && app?.getAttribute('data-test-connection-state') === 'CONNECTED';
    if (!idle || loads || window.__quietSince === undefined) {
        window.__quietSince = performance.now();
        window.__looks = 0;
    }
    window.__looks += 1;
    return window.__looks > 40 && performance.now() - window.__quietSince > 1000;
}"""

# A frame is the finest step that a person can see; a MutationObserver adds what stood between two frames.
_RECORDER = """(selector) => {
    const seen = window.__recorded ??= {};
    const texts = seen[selector] ??= [];
    const look = () => {
        const found = document.querySelector(selector);
        const text = found === null ? null : found.innerText;
        if (texts.length === 0 || texts[texts.length - 1].text !== text) {
            texts.push({ at: performance.now(), text });
        }
    };
    const frame = () => { look(); requestAnimationFrame(frame); };
    new MutationObserver(look).observe(document, { subtree: true, childList: true, characterData: true });
    frame();
}"""


def find_chromium() -> str | None:
    """Return the path of the browser: the variable CHROMIUM, or the first one on PATH; None without one."""
    configured = os.environ.get("CHROMIUM")
    return configured or next(filter(None, map(shutil.which, _NAMES)), None)


def launch(playwright: Playwright) -> Browser:
    """Return a running headless Chromium.

    Raises:
        RuntimeError: There is none on this machine.
    """
    path = find_chromium()
    if path is None:
        raise RuntimeError("No Chromium; install the package chromium, or name one in the variable CHROMIUM.")
    return playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))


def wait_idle(page: Page, timeout: float = 30) -> None:
    """Return as soon as the page is connected and no script runs; `timeout` in seconds."""
    # By the clock: a browser seldom draws a page that stands behind another one.
    page.wait_for_function(_IDLE, timeout=timeout * 1000, polling=20)


def wait_quiet(page: Page) -> None:
    """Return when the page has been idle for a second: the browser's answer, if it was asked, has come.

    A test has to wait for it behind a proxy that strips cookies: there the answer of a known visitor starts the script
    again, and Streamlit forgets a click whose run is interrupted before it came to the button.
    """
    page.evaluate("() => { delete window.__quietSince; }")
    page.wait_for_function(_QUIET, polling=20)


def open_app(page: Page, url: str, timeout: float = 30) -> None:
    """Open the app and return when it is idle."""
    page.goto(url, wait_until=_LOADED)
    wait_idle(page, timeout)


def wait_for_cookie(context: BrowserContext, name: str, value: str | None = None, timeout: float = 30) -> str:
    """Return the value of a cookie as soon as the browser has it (with `value`: has it with that value).

    Raises:
        TimeoutError: It was not there in time.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = [cookie["value"] for cookie in context.cookies() if cookie["name"] == name]
        if found and value in (None, found[0]):
            return found[0]
        # Playwright has no event for a cookie; its own wait keeps the browser's messages flowing.
        context.pages[0].wait_for_timeout(20)
    raise TimeoutError(f"The browser has no cookie {name!r} of the value that was waited for.")


def visit_first(page: Page, server: AppServer, path: str = "") -> str:
    """Open the app and return the value of the cookie as soon as the browser has it and the app is idle."""
    open_app(page, f"{server.url}/{path}")
    value = wait_for_cookie(page.context, server.cookie_name)
    wait_idle(page)
    return value


def names_of(context: BrowserContext) -> list[str]:
    """Return the names of all cookies of ours that the browser has."""
    return sorted(cookie["name"] for cookie in context.cookies() if "persist_session" in cookie["name"])


def cookie_of(context: BrowserContext, name: str) -> dict[str, Any]:
    """Return the one cookie of this name, with its attributes."""
    (cookie,) = [cookie for cookie in context.cookies() if cookie["name"] == name]
    return dict(cookie)


def eventually(page: Page, condition: Callable[[], object], timeout: float = 20) -> None:
    """Return as soon as the condition is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        page.wait_for_timeout(20)


def count_iframes(page: Page) -> int:
    """Return how many iframes stand in the page, seen or not."""
    return page.locator("iframe").count()


def record_text(page: Page, selector: str) -> None:
    """Record, from the next load of the page on, everything that the first match of a CSS selector shows.

    Call it before `page.goto`; read with `recorded_text`.
    """
    page.add_init_script(f"({_RECORDER})({json.dumps(selector)})")


def recorded_text(page: Page, selector: str) -> list[str | None]:
    """Return the texts shown since the page was loaded, in order; None: there was no such element."""
    return [moment["text"] for moment in recorded(page, selector)]


def recorded(page: Page, selector: str) -> list[dict[str, Any]]:
    """Return the same with its time: `at` is in milliseconds since the navigation started."""
    read = "(selector) => window.__recorded?.[selector] ?? []"
    moments: list[dict[str, Any]] = page.evaluate(read, selector)
    return moments


# Shows in every run, before anything else, which run of the tab it is.
_NUMBER = """\
import streamlit as st

st.session_state.number = st.session_state.get("number", 0) + 1
with st.container(key="run"):
    st.text(st.session_state.number)
"""


def numbered(source: str) -> str:
    """Return the app's source, dedented, such that the functions below can tell its runs apart."""
    return _NUMBER + textwrap.dedent(source)


def run_shown(page: Page) -> int:
    """Return which run of the tab is on the page: 1 for the first."""
    return int(shown(page, "run"))


def reload_app(page: Page) -> None:
    """Reload the page and return when the app is idle."""
    page.reload(wait_until=_LOADED)
    page.locator(".st-key-run").wait_for()
    wait_idle(page)


def press(page: Page, label: str, *, runs: int = 1) -> None:
    """Press the app's button of this label and return when the run that it asks for is over.

    Args:
        page: A tab that shows a `numbered` app.
        label: The button's.
        runs: How many runs it asks for: 2 where the script calls `st.rerun`.
    """
    number = run_shown(page) + runs
    page.get_by_role("button", name=label, exact=True).click()
    wait_for_run(page, number)


def wait_for_run(page: Page, number: int) -> None:
    """Return when this run of the tab, or a later one, is over.

    Right after a click the page still says that no script runs, and of a short run it never says otherwise.

    Raises:
        AssertionError: It did not come; the message says what the page shows instead.
    """
    try:
        page.wait_for_function(
            "(number) => Number(document.querySelector('.st-key-run')?.innerText) >= number", arg=number, polling=20
        )
        wait_idle(page)
    except BrowserTimeoutError as error:
        shows = page.get_by_test_id("stApp").inner_text()
        raise AssertionError(f"Run {number} did not come, or not to its end. The page shows: {shows}") from error


def shown(page: Page, key: str) -> str:
    """Return the text of the app's container of this key."""
    return page.locator(f".st-key-{key}").inner_text()
