"""Fixtures for all tests; tests/support has what they are made of."""

from __future__ import annotations

import functools
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from playwright.sync_api import sync_playwright

from support import AppServer, Visitor, write_app
from support.browser import find_chromium, launch
from support.server import WITH_MIDDLEWARE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Page

    Serve = Callable[..., AppServer]
    Served = Callable[..., AppServer]
    Visit = Callable[..., Visitor]


# How long an example takes is the machine's affair.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Return a function that starts a server of an app's source; all end with the test.

    Its keywords are those of AppServer.
    """
    with ExitStack() as servers:
        count = 0

        def start(source: str, **options: Any) -> AppServer:
            nonlocal count
            count += 1
            app = write_app(tmp_path / f"app{count}", source)
            return servers.enter_context(AppServer(app, **options))

        yield start


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a function that serves an app's source, one server for all equal calls of a module.

    Its keywords are those of AppServer. `files` are further sources, by their path beside the app. `asgi` is the
    source of an `asgi.py` beside it, which is run then; its app is "app.py".
    """
    with ExitStack() as servers:
        known: dict[str, AppServer] = {}

        def serve_once(
            source: str, *, files: Mapping[str, str] | None = None, asgi: str | None = None, **options: Any
        ) -> AppServer:
            call = repr((source, files, asgi, options))
            if call not in known:
                folder = tmp_path_factory.mktemp("served")
                for name, text in (files or {}).items():
                    write_app(folder, text, name)
                app = write_app(folder, source)
                entry = app if asgi is None else write_app(folder, asgi, "asgi.py")
                known[call] = servers.enter_context(AppServer(entry, **options))
            return known[call]

        yield serve_once


@pytest.fixture(params=["component", "middleware"])
def in_each_mode(request: pytest.FixtureRequest, served: Served) -> Served:
    """Return `served`, for a test that has to hold whether a script or the server sets the cookie."""
    return functools.partial(served, asgi=WITH_MIDDLEWARE) if request.param == "middleware" else served


@pytest.fixture
def visit() -> Iterator[Visit]:
    """Return a function that opens a tab on a server or URL; all are closed with the test.

    Its keywords are those of Visitor.
    """
    with ExitStack() as tabs:

        def open_tab(server: AppServer | str, **options: Any) -> Visitor:
            url = server if isinstance(server, str) else server.url
            return tabs.enter_context(Visitor(url, **options))

        yield open_tab


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Return one headless Chromium for all tests; without one on the machine the test is skipped."""
    if find_chromium() is None:
        pytest.skip("no Chromium: install the package chromium, or name one in the variable CHROMIUM")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """Return a new browser profile: no cookies, no cache."""
    with chromium.new_context() as profile:
        yield profile


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """Return an empty tab of the profile `context`."""
    return context.new_page()


class NoSkips:
    """In continuous integration a skipped test fails the session: what did not run was not tested."""

    def __init__(self) -> None:
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a skipped test; an expected failure is none."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a skipped module."""
        if report.skipped:
            self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        self.skipped.append(f"{report.nodeid}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn success into failure."""
        if self.skipped and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say which tests those were."""
        if self.skipped:
            terminalreporter.section("skipped, which fails the session where CI is set")
            terminalreporter.write_line("\n".join(self.skipped))


def pytest_configure(config: pytest.Config) -> None:
    """Refuse skips where the variable CI says so."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        config.pluginmanager.register(NoSkips())
