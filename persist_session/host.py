"""Every seam to Streamlit. The only module that imports it, so that a new release is met in one place."""

# ruff: noqa: SLF001  (what Streamlit keeps to itself is touched here, and nowhere else)

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit import runtime
from streamlit.delta_generator_singletons import context_dg_stack, get_dg_singleton_instance
from streamlit.runtime.scriptrunner.script_runner import ScriptRunner
from streamlit.runtime.scriptrunner_utils.script_requests import RerunData
from streamlit.runtime.scriptrunner_utils.script_run_context import (
    get_script_run_ctx,
    in_cached_function,
)
from streamlit.runtime.state import SCRIPT_RUN_WITHOUT_ERRORS_KEY

from persist_session.errors import ConfigurationError, PersistSessionError

REFUSAL = "x-persist-session-refused"
"""The header of a websocket's handshake by which the middleware tells that its visitor is not to be remembered."""

_MEMORY = "_persist_session_memory"
_TOO_NEW = "Update persist-session, or install an older Streamlit."

_serving: list[str] = []  # the app's main scripts, as far as a middleware serves their pages


@dataclass(frozen=True, slots=True)
class Run:
    """One script run, or one fragment rerun, of one tab."""

    _context: Any

    @property
    def mark(self) -> weakref.ref[Any]:
        """A mark that is equal for all calls of one run, and another for the next; dead once the run is over.

        Each leg of a rerun gets a coordinator of its own (ScriptRunContext.reset), the context itself is used again.
        """
        return weakref.ref(self._context.parallel_coordinator)

    @property
    def script(self) -> str:
        """The path of the app's main script."""
        return str(self._context.main_script_path)

    @property
    def memory(self) -> dict[str, Any]:
        """A dict that lives as long as the tab, and that `st.session_state.clear()` does not reach.

        It hangs on a part of the object behind `st.session_state` that lives as long as that object, but is not among
        its values: it is neither shown nor pickled with them.

        Raises:
            PersistSessionError: This release of Streamlit has no such part.
        """
        memory = _memory_of(self._context)
        if memory is None:
            raise PersistSessionError(
                f"This release of Streamlit is built differently: no memory of the tab was found. {_TOO_NEW}"
            )
        return memory

    @property
    def is_fragment(self) -> bool:
        """Tells whether only fragments run, and not the whole script."""
        return bool(self._context.fragment_ids_this_run)

    def note_errors(self) -> None:
        """Has the end of the run tell of an error in a fragment, too, which Streamlit's own event does not."""
        memory, context = self.memory, self._context
        before = context.on_script_error
        if getattr(before, "notes", False):  # the context is used again in each leg of a rerun
            return

        def note(error: Exception) -> bool | None:
            memory["failed"] = Run(context).mark
            return before(error) if before is not None else None

        note.notes = True  # type: ignore[attr-defined]
        context.on_script_error = note


def _memory_of(context: Any) -> dict[str, Any] | None:
    try:
        attributes = vars(context.session_state._state.query_params)
    except (AttributeError, TypeError):
        return None
    memory: dict[str, Any] = attributes.setdefault(_MEMORY, {})
    return memory


def current_run() -> Run | None:
    """The run that the caller is part of, or None outside of Streamlit."""
    context = get_script_run_ctx(suppress_warning=True)
    return None if context is None else Run(context)


def is_cached() -> bool:
    """Tells whether the caller is inside of a function that `st.cache_data` or `st.cache_resource` caches."""
    return bool(in_cached_function.get())


def is_served() -> bool:
    """Tells whether this process serves Streamlit apps."""
    return runtime.exists()


# The end of a run


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a run.

    Attributes:
        run: The run.
        failed: Whether an exception was shown in it.
    """

    run: Run
    failed: bool


def hear_ends(run: Run, end: Callable[[Ended], None]) -> None:
    """Calls `end` at the end of each run of this tab from now on, before its browser can hear of the end.

    Whoever reloads the page as soon as it is idle is to find what the run has saved; and what is mounted there is part
    of the run. One wrapper around Streamlit's own method hears it, for all tabs.

    Args:
        run: Any run of the tab.
        end: Must not raise: an exception there would kill the script's thread unseen.

    Raises:
        PersistSessionError: This release of Streamlit does not tell when a run ends.
    """
    _wrap_ends()
    run.memory["end"] = end


def _wrap_ends() -> None:
    finished = getattr(ScriptRunner, "_on_script_finished", None)
    if finished is None:
        raise PersistSessionError(
            f"This release of Streamlit is built differently: it does not tell when a run ends. {_TOO_NEW}"
        )
    if getattr(finished, "tells", False):
        return

    def tell(runner: Any, context: Any, *rest: Any, **named: Any) -> Any:
        memory = _memory_of(context)
        if memory is not None and "end" in memory:
            run = Run(context)
            memory["end"](Ended(run, memory.get("failed") == run.mark or not _ended_well(context)))
        return finished(runner, context, *rest, **named)

    # Noted at the function, not here: where Streamlit evicts this module and it is imported anew, it wraps once.
    tell.tells = True  # type: ignore[attr-defined]
    ScriptRunner._on_script_finished = tell  # type: ignore[assignment,method-assign]


def _ended_well(context: Any) -> bool:
    try:
        return bool(context.session_state[SCRIPT_RUN_WITHOUT_ERRORS_KEY])
    except KeyError:
        return True


def mount_apart(draw: Callable[[], None]) -> None:
    """Has a function mount elements in a fragment of its own, where they take no room and surely run.

    What they answer reruns the fragment, and not the script: nothing on the page goes, and no click is interrupted. In
    Streamlit's container for events (`stEvent` in the frontend's AppView.tsx) nothing is ever displayed, and all the
    same it runs. A style that hides an element comes too late: its placeholder moves what is below it for 0.1 s.

    Args:
        draw: Called now, and again in each rerun of the fragment.
    """
    stack = context_dg_stack.get()
    token = context_dg_stack.set((*stack[:1], get_dg_singleton_instance().event_dg))
    try:
        st.fragment(draw)()
    finally:
        context_dg_stack.reset(token)


def rerun(run: Run) -> None:
    """Starts the whole script again: at once from within a fragment's rerun, else when the run is over.

    Raises:
        BaseException: Streamlit's own, which ends a fragment's rerun.
    """
    if run.is_fragment:
        st.rerun()
    context = run._context
    context.script_requests.request_rerun(
        RerunData(query_string=context.query_string, page_script_hash=context.page_script_hash)
    )


def forget_session() -> None:
    """Empties `st.session_state`, as it is when a page is loaded."""
    st.session_state.clear()


def forget_widget(key: str) -> None:
    """Takes a widget's value out of `st.session_state`."""
    with contextlib.suppress(KeyError):
        del st.session_state[key]


def widget_value(key: str) -> Any:
    """The widget's value in `st.session_state`, or None."""
    return st.session_state.get(key)


# The connection


@dataclass(frozen=True, slots=True)
class Handshake:
    """The request by which the browser opened the tab's websocket.

    Attributes:
        cookie_headers: The Cookie headers.
        url: The address of the page.
        is_refused: Whether the middleware is told not to remember the visitor.
    """

    cookie_headers: tuple[str, ...] = field(repr=False)
    url: str
    is_refused: bool = False


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
        is_refused=headers.get(REFUSAL) is not None,
    )


def pages_bring_cookies() -> bool:
    """Tells whether a middleware of this process sets the cookie with the pages."""
    return bool(_serving)


def serve_pages() -> None:
    """Notes that a middleware of this process sets the cookie with the pages."""
    _serving.append("middleware")


def main_script() -> str:
    """The path of the main script of the app that this process serves, empty where there is none."""
    if not runtime.exists():
        return ""
    return str(getattr(runtime.get_instance(), "_main_script_path", ""))


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


# The caller


def caller_namespaces() -> tuple[dict[str, Any], ...]:
    """The globals of the code that called this library, and of the nearest script around that.

    In a callback or a fragment that is the `__main__` of an earlier run, which is in `sys.modules` no longer.
    """
    found: list[dict[str, Any]] = []
    for namespace in _namespaces_above():
        module = namespace.get("__name__") or ""
        if module.partition(".")[0] not in (__package__, "contextlib"):
            if not found or module == "__main__":
                found.append(namespace)
            if module == "__main__":
                break
    return tuple(found)


def _namespaces_above() -> Iterator[dict[str, Any]]:
    frame: Any = sys._getframe(2)
    while frame is not None:
        yield frame.f_globals
        frame = frame.f_back
