"""A real `streamlit run` of a small app."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# What `streamlit run` gets beside an `app.py`, for the server to set the cookie.
WITH_MIDDLEWARE = """
    import streamlit as st
    from persist_session import CookieMiddleware
    from starlette.middleware import Middleware

    app = st.App("app.py", middleware=[Middleware(CookieMiddleware)])
"""

REPOSITORY = Path(__file__).resolve().parents[2]
APPS = REPOSITORY / "tests" / "apps"

# What this process was configured with must not configure the app under test.
_NOT_INHERITED = ("STREAMLIT_", "PERSIST_SESSION_")

# A proxy of the machine must not stand between a test and 127.0.0.1.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def write_app(folder: Path, source: str, name: str = "app.py") -> Path:
    """Return the path of `source`, dedented and written to `folder/name` (folders are made)."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source).lstrip("\n"), encoding="utf-8")
    return path


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class AppServer:
    """A `streamlit run` process of its own, at one port for its whole life.

    As a context manager it is started on entry and stopped on exit. `start` after `kill` or `stop` brings it
    back at the same address, with the same home folder: a restart as a visitor sees it.

    Args:
        app: The script to run; its folder is the working directory.
        options: Streamlit's configuration, by its dotted names: `{"server.baseUrlPath": "shop"}`.
        env: Environment variables on top of this process's own.
        home: The home folder of the process (default: a folder of its own beside the app, made here).
        file_watcher: `server.fileWatcherType`; "poll" or "auto" where a test edits the app while it runs.
        port: The port (default: a free one).
    """

    def __init__(
        self,
        app: Path,
        *,
        options: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        home: Path | None = None,
        file_watcher: str = "none",
        port: int | None = None,
        start_timeout: float = 60,
    ) -> None:
        self.app = app
        self.port = port or free_port()
        self.home = home or Path(tempfile.mkdtemp(prefix="home-", dir=app.parent))
        self.log_path = self.home / "server.log"
        self._options = {
            "server.port": self.port,
            "server.address": "127.0.0.1",
            "server.headless": True,
            "server.fileWatcherType": file_watcher,
            "browser.gatherUsageStats": False,
            **(options or {}),
        }
        self._env = dict(env or {})
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_path(self) -> str:
        """The base URL path without slashes at its ends, "" where there is none."""
        return str(self._options.get("server.baseUrlPath", "")).strip("/")

    @property
    def url(self) -> str:
        """The app's address, without a slash at its end."""
        base = f"http://127.0.0.1:{self.port}"
        return f"{base}/{self.base_path}" if self.base_path else base

    @property
    def cookie_name(self) -> str:
        """What the cookie is called: the server's where an `st.App` is run, else a script's."""
        return f"persist_session-{self.port}" + ("-js" if self.app.name == "app.py" else "")

    @property
    def data_folder(self) -> Path:
        """Where the library keeps keys and records by default: below the process's own home folder."""
        return self.home / ".streamlit" / "persist_session"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    def logs(self) -> str:
        """Return everything that the process has written to stdout and stderr, over all starts."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def start(self) -> Self:
        """Return self once the server answers its health check.

        Raises:
            RuntimeError: The process ended, or did not answer in time; the message carries its log.
        """
        if self._process is not None:
            raise RuntimeError("The server is running already; stop or kill it first.")
        command = [sys.executable, "-m", *self._command()]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.app.parent, env=self._environment(), stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_healthy()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, timeout: float = 20) -> None:
        """End the process as a deploy does: SIGTERM, and SIGKILL if that is not enough."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the process at once, as a crash does (SIGKILL)."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None

    def restart(self) -> Self:
        """Return self after a stop and a start."""
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _command(self) -> list[str]:
        """Return the module that serves the app, and its arguments."""
        options = [f"--{name}={_as_option(value)}" for name, value in self._options.items()]
        return ["streamlit", "run", self.app.name, *options]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("The server is not running; start it first.")
        return self._process

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
        paths = [str(REPOSITORY), inherited.get("PYTHONPATH", "")]
        return {
            **inherited,
            "HOME": str(self.home),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONUNBUFFERED": "1",
            **self._env,
        }

    def _wait_until_healthy(self) -> None:
        process, deadline = self._running(), time.monotonic() + self._start_timeout
        while not _is_healthy(f"{self.url}/_stcore/health"):
            try:
                code = process.wait(timeout=0.05)
            except subprocess.TimeoutExpired:
                if time.monotonic() < deadline:
                    continue
                raise RuntimeError(f"The server did not answer in time. Its log:\n{self.logs()}") from None
            raise RuntimeError(f"The server ended with code {code}. Its log:\n{self.logs()}")


def _as_option(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_healthy(url: str) -> bool:
    try:
        with _open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


class UvicornServer(AppServer):
    """A server that is started by uvicorn, as any ASGI app; `app` makes the `st.App`."""

    def __init__(self, app: Path, *, workers: int = 1, **options: Any) -> None:
        super().__init__(app, **options)
        self._workers = workers

    def _command(self) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        return ["uvicorn", f"{self.app.stem}:app", *where, "--workers", str(self._workers)]


class SecureServer(AppServer):
    """A server that speaks https itself."""

    @property
    def url(self) -> str:
        """The app's address."""
        return super().url.replace("http://", "https://")

    def _wait_until_healthy(self) -> None:
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting)
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.build_opener(*handlers).open(f"{self.url}/_stcore/health", timeout=5).close()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert time.monotonic() < deadline, self.logs()
                time.sleep(0.05)


def self_signed(folder: Path) -> dict[str, str]:
    """Return Streamlit's options for https with a certificate that is made for this test."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return {"server.sslCertFile": str(certificate), "server.sslKeyFile": str(key)}


@contextmanager
def embedding(url: str) -> Iterator[str]:
    """Yield the address of a page at 127.0.0.1 that shows another one in an iframe."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f'<!doctype html><iframe src="{url}" width="900" height="600"></iframe>'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()
