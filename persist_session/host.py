"""Every seam to Streamlit. The only module that imports it, so that a new release is met in one place."""

# ruff: noqa: SLF001  (what Streamlit keeps to itself is touched here, and nowhere else)

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.delta_generator_singletons import context_dg_stack, get_dg_singleton_instance
from streamlit.runtime.scriptrunner_utils.script_run_context import ThreadState, get_script_run_ctx
from streamlit.runtime.state import SCRIPT_RUN_WITHOUT_ERRORS_KEY

from persist_session.errors import ConfigurationError, PersistSessionError

_MEMORY = "_persist_session_memory"
_mounting = threading.Lock()


@dataclass(frozen=True, slots=True)
class Run:
    """One script run, or one fragment rerun, of one tab."""

    _context: Any

    @property
    def mark(self) -> weakref.ref[Any]:
        """Equal for all calls of one run, another for the next; dead once the run is over.

        Each leg of a rerun gets a coordinator of its own (ScriptRunContext.reset), the context itself is used again.
        """
        return weakref.ref(self._context.parallel_coordinator)

    @property
    def is_in_callback(self) -> bool:
        """Whether a widget's callback runs, before the script does."""
        return not getattr(self._context, "_has_script_started", True)

    @property
    def script(self) -> str:
        """Path of the app's main script."""
        return str(self._context.main_script_path)

    @property
    def memory(self) -> dict[str, Any]:
        """A dict that lives as long as the tab, and that `st.session_state.clear()` does not reach.

        It hangs on a part of the object behind `st.session_state` that lives as long as that object, but is not among
        its values: it is neither shown nor pickled with them.

        Raises:
            PersistSessionError: This release of Streamlit has no such part.
        """
        try:
            attributes = vars(self._context.session_state._state.query_params)
        except (AttributeError, TypeError) as error:
            raise PersistSessionError(
                "This release of Streamlit is built differently: no memory of the tab was found. "
                "Update streamlit-persist-session, or install an older Streamlit."
            ) from error
        memory: dict[str, Any] = attributes.setdefault(_MEMORY, {})
        return memory


class Once:
    """Tells for each run of a tab whether something is still to be done in it.

    It remembers more than the last run: one that was interrupted goes on for a while, and the two may take turns.
    """

    def __init__(self) -> None:
        self._runs: frozenset[weakref.ref[Any]] = frozenset()
        self._lock = threading.Lock()

    def is_first(self, run: weakref.ref[Any]) -> bool:
        """Whether nobody has asked yet in this run."""
        with self._lock:  # parallel fragments are threads of one run
            is_first = run not in self._runs
            self._runs = frozenset(each for each in self._runs if each() is not None) | {run}
            return is_first


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended.

    Attributes:
        failed: An exception was shown in it.
        drew_all: It was a run of the whole script that no newer one interrupted: no widget of an earlier one is left.
    """

    failed: bool
    drew_all: bool


def current_run() -> Run | None:
    """The run that the caller is part of, or None outside of Streamlit."""
    context = get_script_run_ctx(suppress_warning=True)
    return None if context is None else Run(context)


@dataclass(frozen=True, slots=True)
class Handshake:
    """What the browser sent when it opened the tab's websocket."""

    cookie_headers: tuple[str, ...] = field(repr=False)
    url: str


def handshake() -> Handshake | None:
    """The handshake of the current tab, or None where there is no browser.

    There is none for script health checks, in AppTest, and while the websocket is closed.
    """
    headers = st.context.headers
    host = headers.get("Host")
    if not isinstance(host, str):  # AppTest answers with mocks
        return None
    url = st.context.url
    return Handshake(
        cookie_headers=tuple(headers.get_all("Cookie")),
        url=url if isinstance(url, str) and url else f"http://{host}/",
    )


def base_path() -> str:
    """The server's base URL path, `/` if it has none."""
    configured = str(st.get_option("server.baseUrlPath") or "").strip("/")
    return f"/{configured}" if configured else "/"


def secrets() -> Mapping[str, Any]:
    """The `[persist_session]` section of `st.secrets`, empty if there is none.

    Raises:
        ConfigurationError: It is no section, or the file is broken.
    """
    if not st.secrets.load_if_toml_exists():
        if any(Path(file).is_file() for file in st.get_option("secrets.files")):
            raise ConfigurationError("secrets.toml is there, but can't be read; mend it. Streamlit does not say so.")
        return {}
    section = st.secrets.get("persist_session", {})
    if not isinstance(section, Mapping):
        raise ConfigurationError(
            "persist_session in secrets.toml is no table; write the settings below a line [persist_session]."
        )
    return dict(section)


def caller_namespaces() -> tuple[dict[str, Any], ...]:
    """The globals of whoever called this library, and of the nearest script around that.

    In a callback or a fragment that is the `__main__` of an earlier run, which is in `sys.modules` no longer.
    """
    found: list[dict[str, Any]] = []
    frame = sys._getframe(1)
    while frame is not None:
        namespace = frame.f_globals
        module = namespace.get("__name__") or ""
        if module.partition(".")[0] not in (__package__, "contextlib"):
            if not found or module == "__main__":
                found.append(namespace)
            if module == "__main__":
                break
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(found)


def mount(element: Callable[[], Any]) -> Any:
    """What the element returns, mounted where it takes no room and surely runs, wherever the block stands.

    Inside a form it could not answer before the form is submitted; in a closed popover it would wait to be opened.
    So it goes to Streamlit's container for events (`stEvent` in the frontend's AppView.tsx): that is never displayed,
    and what lies in it runs all the same. A style that hides the element comes too late: for the 0.1 s until a page
    that has shown no HTML before can apply one, the element's placeholder moves what is below it by 104 px.
    """
    stack = context_dg_stack.get()
    token = context_dg_stack.set((*stack[:1], get_dg_singleton_instance().event_dg))
    try:
        # A parallel fragment is not to write to containers that other threads write to. All that could be lost is this
        # element's place in one run, to an event of the app's own in the same moment; the next run mounts it again.
        with _mounting, ThreadState.scoped(is_parallel_worker=False):
            return element()
    finally:
        context_dg_stack.reset(token)


def fetch(path: str) -> None:
    """Has the browser ask the server for a path of the app, cookies and all; the visitor sees nothing of it.

    Relative to the page, as are Streamlit's own files: which path the app has in the browser, a proxy may decide.
    """
    mount(lambda: st.html(f'<img src="{escape(path.lstrip("/"))}" alt="">'))


def forget_widget(key: str) -> None:
    """Takes a widget's value out of `st.session_state`."""
    with contextlib.suppress(KeyError):
        del st.session_state[key]


def widget_value(key: str) -> Any:
    """A widget's value in `st.session_state`, or None."""
    return st.session_state.get(key)


def at_end_of_run(run: Run, end: Callable[[Ended], None]) -> None:
    """Calls `end` once when the run is over, with how it ended, before the browser can hear of it.

    Whoever reloads the page as soon as it is idle is to find what the run has saved. A receiver of the signal would be
    called after Streamlit's own, or in any order: so this stands before the signal.

    Args:
        run: The current run.
        end: Must not raise: an exception there would kill the script's thread unseen.

    Raises:
        PersistSessionError: This release of Streamlit does not tell when a run ends.
    """
    waiting: dict[weakref.ref[Any], list[Callable[[Ended], None]]] = run.memory.setdefault("waiting", {})
    mark, context = run.mark, run._context
    if mark in waiting:
        waiting[mark].append(end)
        return
    try:
        signal, requests = context._enqueue.__self__.on_event, context.script_requests
        send = signal.send
    except AttributeError as error:
        raise PersistSessionError(
            "This release of Streamlit does not tell when a script run ends, which @persist on a class needs; "
            "use `with persistent_state(...)` instead."
        ) from error
    before, failed = context.on_script_error, []

    def note(error: Exception) -> bool | None:
        # The event at the end of a fragment's rerun does not tell that the fragment raised.
        failed.append(True)
        return before(error) if before is not None else None

    def end_and_send(sender: Any, *, event: Any, **details: Any) -> Any:
        if "STOPPED" in event.name or event.name == "SHUTDOWN":
            signal.send = send
            context.on_script_error = before
            how = Ended(
                failed=bool(failed) or not _ended_well(context),
                drew_all=event.name == "SCRIPT_STOPPED_WITH_SUCCESS" and requests._state.name != "STOP",
            )
            for each in waiting.pop(mark):
                each(how)
        return send(sender, event=event, **details)

    waiting[mark] = [end]
    context.on_script_error = note
    signal.send = end_and_send


def _ended_well(context: Any) -> bool:
    try:
        return bool(context.session_state[SCRIPT_RUN_WITHOUT_ERRORS_KEY])
    except KeyError:
        return True
