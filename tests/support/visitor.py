"""What a browser tab does, without a browser: Streamlit's protocol, its widgets, the cookies component.

    with Visitor(server.url) as tab:          # connects, and waits until the first run has ended
        tab.click("Increment")                # by label or key; waits until the app is idle again
        assert tab.metric("Count") == "1"
        assert tab.reload().metric("Count") == "1"

A tab is idle when every run that it asked for has started, none is under way, and every component on the page
has done its work; so a wait includes the runs that `st.rerun` and the component's answers cause.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from .jar import Jar
from .tree import Element, Tree
from .tree import Origin as Where

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from websockets.sync.client import ClientConnection

COOKIES_COMPONENT = "streamlit_cookies_controller.cookie_controller.cookie_controller"

# How often a tab looks whether a component is due or another tab changed a cookie, in seconds.
_TICK = 0.02
_OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class VisitorError(AssertionError):
    """The page is not what the test expects, or the server did not answer as a server should."""


@dataclass(frozen=True)
class Iframe:
    """A component instance on the page."""

    element: Element

    @property
    def id(self) -> str:
        """The component's widget id."""
        return self.element.id

    @property
    def name(self) -> str:
        """The registered name of the component."""
        return str(self.element.proto.component_name)

    @property
    def args(self) -> dict[str, Any]:
        """The arguments that the app gave."""
        args: dict[str, Any] = json.loads(self.element.proto.json_args)
        return args

    @property
    def work(self) -> tuple[str, str]:
        """What is done once: these arguments for this id."""
        return self.id, str(self.element.proto.json_args)


class Visitor:
    """One browser tab on an app.

    Args:
        url: Where to connect: the server, or a proxy before it.
        jar: The browser's cookies; pass one jar to several visitors for several tabs of a browser.
        address: What the address bar shows, where it differs from `url` ("https://app.example.com").
        page: The path of a page below the address ("" is the main page).
        query: The query string, without "?".
        strip_cookies: Connect without cookies, as behind a proxy that strips them; the component sees all.
        components: False for a client that runs no components (a crawler, a script).
        component_delay: How long an iframe takes to load, in seconds; one that is gone by then never ran.
        reanswers: Let a mounted `getAll` answer again whenever a cookie changes. The component 0.0.4 answers
            once in Chromium; a browser or version that answers again must do no harm.
        headers: Request headers on top.
        fetch_page: Ask for the page by HTTP first and keep the cookies that its answer sets.
        connect: False leaves the connection to an explicit `connect()`.
        timeout: How long any wait may take, in seconds.

    Attributes:
        jar: The cookies.
        runs: How many runs have started, of the script and of fragments.
        full_runs: How many of them were runs of the whole script.
        fragment_runs: How many of them were runs of fragments.
        finished: How runs ended, counted by ScriptFinishedStatus ("FINISHED_SUCCESSFULLY", ...). Streamlit
            reports no end of a run that another one interrupted.
        cookie_calls: What the cookies component was told to do and did: (method, name) in order.
        session_id: Streamlit's id of the tab ("" before the first run).
        pages: Page script hashes by their URL path.
    """

    def __init__(
        self,
        url: str,
        *,
        jar: Jar | dict[str, str] | None = None,
        address: str | None = None,
        page: str = "",
        query: str = "",
        strip_cookies: bool = False,
        components: bool = True,
        component_delay: float = 0.0,
        reanswers: bool = False,
        headers: dict[str, str] | None = None,
        fetch_page: bool = False,
        connect: bool = True,
        timeout: float = 30.0,
    ) -> None:
        self.jar = jar if isinstance(jar, Jar) else Jar(jar or {})
        self.runs = self.full_runs = self.fragment_runs = 0
        self.finished: Counter[str] = Counter()
        self.cookie_calls: list[tuple[str, str]] = []
        self.session_id = ""
        self.pages: dict[str, str] = {}
        self.page = page
        self.timeout = timeout
        self._url = url.rstrip("/")
        self._options: dict[str, Any] = {
            "address": address,
            "query": query,
            "strip_cookies": strip_cookies,
            "components": components,
            "component_delay": component_delay,
            "reanswers": reanswers,
            "headers": headers,
            "fetch_page": fetch_page,
            "timeout": timeout,
        }
        self._address = (address or url).rstrip("/")
        self._changed = threading.Condition(threading.RLock())
        self._socket: ClientConnection | None = None
        self._connection = ExitStack()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._tree = Tree()
        self._widgets: dict[str, WidgetState] = {}
        self._page_hash = ""
        self._main_hash = ""
        self._run = Where("", "", "")
        self._fragments_this_run: list[str] = []
        self._compile_error = ""
        self._running = False
        self._awaiting = False
        self._run_on_save = False
        self._marks_sent = self._marks_seen = 0
        self._inside_mark = False
        self._done: set[tuple[str, str]] = set()
        self._due: dict[tuple[str, str], float] = {}
        self._answers: dict[str, str] = {}
        if connect:
            self.connect()
            self.wait_run()

    # The connection

    def connect(self, *, rerun: bool | None = None) -> Self:
        """Open the websocket and, as a browser does, ask for a run on a new page; return self at once.

        Args:
            rerun: True or False decides about the run; None is what a browser does after a lost
                connection: it asks for a run only if one was under way.

        Raises:
            VisitorError: There is a connection already.
        """
        if self._socket is not None:
            raise VisitorError("This tab is connected already; disconnect it first.")
        if self._options["fetch_page"] and not self.session_id:
            self._fetch_page()
        wants_run = not self.session_id or self._running or self._awaiting if rerun is None else rerun
        self._running = self._awaiting = False
        self._marks_sent = self._marks_seen = 0
        self._inside_mark = False
        self._failure = None
        self._socket = self._open_socket()
        self._thread = threading.Thread(target=self._listen, args=(self._socket,), daemon=True)
        if wants_run:
            self._send_rerun([])
        self._thread.start()
        return self

    def disconnect(self) -> None:
        """Lose the connection but keep the tab: page, widgets and Streamlit's session id stay."""
        with self._changed:
            self._socket = None
        self._connection.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self.timeout)

    def reconnect(self, *, rerun: bool | None = None) -> Self:
        """Return self, connected anew with the same session id and a new handshake, and idle."""
        self.disconnect()
        self.connect(rerun=rerun)
        return self.wait_run()

    def close(self) -> None:
        """Close the tab."""
        self.disconnect()

    def reload(self) -> Visitor:
        """Return the tab after a reload: another session, the same cookies. This one is closed."""
        self.close()
        return self.new_tab()

    def new_tab(self, **changes: Any) -> Visitor:
        """Return another tab of the same browser, made like this one except for `changes`."""
        options = {**self._options, "jar": self.jar, "page": self.page, **changes}
        return Visitor(self._url, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # What is on the page

    def elements(self) -> list[Element]:
        """Return all elements on the page in document order."""
        with self._changed:
            return self._tree.elements()

    def find(self, element_type: str) -> list[Element]:
        """Return the elements of a type, by its name in Element.proto ("markdown", "chat_input", ...)."""
        return [element for element in self.elements() if element.type == element_type]

    def texts(self) -> list[str]:
        """Return what the text-like elements show (write, markdown, text, caption, headings, code, json)."""
        kinds = ("markdown", "text", "heading", "code", "json", "html")
        return [element.text for element in self.elements() if element.type in kinds]

    def alerts(self) -> list[str]:
        """Return the texts of error, warning, info and success boxes."""
        return [element.text for element in self.find("alert")]

    def metric(self, label: str) -> str:
        """Return the value of a metric.

        Raises:
            VisitorError: There is not exactly one such metric; the message says what is on the page.
        """
        return self._one([element for element in self.find("metric") if element.label == label], label).text

    def exceptions(self) -> list[str]:
        """Return "Type: message" of every exception on the page, and a compile error's message."""
        shown = [f"{element.proto.type}: {element.proto.message}" for element in self.find("exception")]
        return shown + ([self._compile_error] if self._compile_error else [])

    def iframes(self, method: str | None = None) -> list[Iframe]:
        """Return the components on the page; with `method`, those of the cookies component that do it."""
        mounted = [Iframe(element) for element in self.find("component_instance")]
        if method is None:
            return mounted
        return [iframe for iframe in mounted if _method(iframe) == method]

    # What a visitor does

    def rerun(self, *, wait: bool = True) -> Self:
        """Return self after a run that no widget asked for (the key R)."""
        return self._act([], "", wait=wait)

    def click(self, name: str, *, wait: bool = True) -> Self:
        """Press the button of that label or key; return self when idle, or at once with `wait=False`."""
        button = self._widget(name, "button", "download_button")
        pressed = WidgetState(id=button.id, trigger_value=True)
        return self._act([pressed], button.origin.fragment_id, wait=wait)

    def set_text_input(self, name: str, value: str, *, wait: bool = True) -> Self:
        """Type into the text input or area of that label or key, and leave it."""
        return self.set_widget(self._widget(name, "text_input", "text_area"), value, wait=wait)

    def set_checkbox(self, name: str, value: bool, *, wait: bool = True) -> Self:
        """Tick or clear the checkbox or toggle of that label or key."""
        return self.set_widget(self._widget(name, "checkbox"), value, wait=wait)

    def chat_input(self, text: str, name: str | None = None, *, wait: bool = True) -> Self:
        """Send `text` by the page's chat input (or by the one of that key or placeholder)."""
        inputs = [e for e in self.find("chat_input") if name in (None, e.key, e.proto.placeholder)]
        chat = self._one(inputs, name or "a chat input")
        state = WidgetState(id=chat.id)
        state.chat_input_value.data = text
        return self._act([state], chat.origin.fragment_id, wait=wait)

    def set_widget(self, widget: Element | str, value: object, *, field: str | None = None, wait: bool = True) -> Self:
        """Set any widget, given as an element or by its id.

        Args:
            widget: The element, or a widget id.
            value: A bool, int, float, str, bytes or list of one of int, float, str.
            field: The field of WidgetState to fill ("json_value", ...; default: by the value's type).
            wait: Wait until the app is idle again.

        A widget inside a form waits for the form's submit button, so nothing runs before.
        """
        widget_id = widget if isinstance(widget, str) else widget.id
        element = next((element for element in self.elements() if element.id == widget_id), None)
        state = WidgetState(id=widget_id)
        _fill(state, field or _field_of(value), value)
        with self._changed:
            self._widgets[widget_id] = state
        if element is not None and getattr(element.proto, "form_id", None):
            return self
        return self._act([], element.origin.fragment_id if element is not None else "", wait=wait)

    def goto(self, page: str, *, wait: bool = True) -> Self:
        """Follow the navigation to a page, by its URL path ("" is the default page)."""
        with self._changed:
            if page not in self.pages:
                raise VisitorError(f"There is no page {page!r}; there are {sorted(self.pages)}.")
            self.page, self._page_hash = page, self.pages[page]
        return self._act([], "", wait=wait)

    def stop_script(self) -> Self:
        """Press Stop while a script runs; return self when the app is idle."""
        message = BackMsg()
        message.stop_script = True
        with self._changed:
            self._send(message)
        return self.wait_run()

    # Waiting

    def wait_run(self, timeout: float | None = None) -> Self:
        """Return self as soon as the tab is idle.

        Raises:
            VisitorError: It was not in time, or the connection broke.
        """
        return self._wait(self._is_idle, timeout, "the app to be idle")

    def wait_until(self, condition: Callable[[Visitor], object], timeout: float | None = None) -> Self:
        """Return self as soon as `condition(self)` is true; it is asked after every message.

        Raises:
            VisitorError: It was not in time, or the connection broke.
        """
        return self._wait(lambda: bool(condition(self)), timeout, "a condition")

    def wait_running(self, timeout: float | None = None) -> Self:
        """Return self as soon as the run that was asked for last is under way (or over already)."""
        return self._wait(lambda: not self._awaiting, timeout, "a run to start")

    def _wait(self, condition: Callable[[], bool], timeout: float | None, what: str) -> Self:
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        with self._changed:
            while not condition():
                if self._failure is not None:
                    raise VisitorError(f"While waiting for {what}: {self._failure}") from self._failure
                if self._socket is None:
                    raise VisitorError(f"While waiting for {what}: the tab is not connected.")
                if time.monotonic() >= deadline:
                    raise VisitorError(f"Waited too long for {what}. {self._describe()}")
                self._changed.wait(deadline - time.monotonic())
        return self

    def _is_idle(self) -> bool:
        return not (self._awaiting or self._running or self._due)

    # Sending

    def _act(self, triggers: Sequence[WidgetState], fragment_id: str, *, wait: bool) -> Self:
        with self._changed:
            self._send_rerun(triggers, fragment_id)
        return self.wait_run() if wait else self

    def _send_rerun(self, triggers: Sequence[WidgetState], fragment_id: str = "") -> None:
        with self._changed:
            if self._running or self._awaiting:
                self._send_mark()
            message = BackMsg()
            state = message.rerun_script
            state.query_string = self._options["query"]
            state.widget_states.widgets.extend([*self._widgets.values(), *triggers])
            state.page_script_hash = self._page_hash
            state.page_name = "" if self._page_hash else self.page
            state.fragment_id = fragment_id
            state.context_info.timezone = "UTC"
            state.context_info.locale = "en-US"
            state.context_info.url = f"{self._address}/{self.page}"
            self._send(message)
            self._awaiting = True

    def _send_mark(self) -> None:
        """Mark this place in the server's answers.

        A run that starts after the answer to a mark was asked for after the mark; without one, nothing tells
        the start of the new run from the start of an older one. The one question whose answer Streamlit never
        drops from its queue is the "run on save" flag, so it is turned over and back.
        """
        for value in (not self._run_on_save, self._run_on_save):
            message = BackMsg()
            message.set_run_on_save = value
            self._send(message)
        self._marks_sent += 1

    def _send(self, message: BackMsg) -> None:
        if self._socket is None:
            raise VisitorError("The tab is not connected.")
        self._socket.send(message.SerializeToString())

    def _open_socket(self) -> ClientConnection:
        where, shown = urlsplit(self._url), urlsplit(self._address)
        headers = dict(self._options["headers"] or {})
        if self.jar and not self._options["strip_cookies"]:
            headers["Cookie"] = self.jar.header()
        # The place of a subprotocol carries tokens: the XSRF token, then the session to come back to.
        tokens = [self.jar.get("_streamlit_xsrf", "PLACEHOLDER_AUTH_TOKEN"), self.session_id]
        connection = connect(
            f"ws://{shown.netloc}{where.path}/_stcore/stream",
            sock=socket.create_connection((where.hostname, where.port), timeout=self.timeout),
            origin=Origin(f"{shown.scheme}://{shown.netloc}"),
            subprotocols=[Subprotocol(token) for token in ("streamlit", *tokens) if token],
            additional_headers=headers,
            max_size=None,
            open_timeout=self.timeout,
            # A server that is busy or dead must not hold up the tab that leaves it.
            close_timeout=1,
        )
        return self._connection.enter_context(connection)

    def _fetch_page(self) -> None:
        request = urllib.request.Request(f"{self._url}/{self.page}", headers=self._options["headers"] or {})
        request.add_header("Host", urlsplit(self._address).netloc)
        if self.jar:
            request.add_header("Cookie", self.jar.header())
        with _OPEN(request, timeout=self.timeout) as response:
            for header in response.headers.get_all("Set-Cookie") or []:
                self.jar.store_response(header)

    # Listening

    def _listen(self, connection: ClientConnection) -> None:
        try:
            while self._socket is connection:
                self._listen_once(connection)
        except ConnectionClosed as error:
            self._end(connection, None if self._socket is not connection else error)
        except Exception as error:
            # Whatever goes wrong on this thread must reach the test that waits.
            self._end(connection, error)

    def _end(self, connection: ClientConnection, failure: Exception | None) -> None:
        with self._changed:
            if self._socket is connection:
                self._socket = None
            self._failure = failure or self._failure
            self._changed.notify_all()

    def _listen_once(self, connection: ClientConnection) -> None:
        try:
            data = connection.recv(timeout=_TICK)
        except TimeoutError:
            data = b""
        with self._changed:
            if self._socket is not connection:
                return
            if data:
                self._handle(ForwardMsg.FromString(bytes(data)))  # type: ignore[arg-type]  # always binary
            self._run_components()
            self._changed.notify_all()

    def _handle(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if kind == "delta":
            self._handle_delta(message)
        elif kind == "new_session":
            self._handle_new_session(message)
        elif kind == "script_finished":
            self._handle_finished(ForwardMsg.ScriptFinishedStatus.Name(message.script_finished))
        elif kind == "session_status_changed":
            self._see_mark(message.session_status_changed.run_on_save)
        elif kind == "navigation":
            self._learn_pages(message.navigation.app_pages)
            self._enter_page(message.navigation.page_script_hash)
        elif kind == "session_event" and message.session_event.HasField("script_compilation_exception"):
            error = message.session_event.script_compilation_exception
            self._compile_error = f"{error.type}: {error.message}"
        elif kind == "ref_hash":
            raise VisitorError("The server referred to a message that this visitor never said it keeps.")

    def _see_mark(self, flag: bool) -> None:
        # A run that starts or ends between the two halves of a mark repeats the turned flag.
        self._marks_seen += flag != self._run_on_save and not self._inside_mark
        self._inside_mark = flag != self._run_on_save

    def _handle_new_session(self, message: ForwardMsg) -> None:
        session = message.new_session
        self.session_id = session.initialize.session_id
        if self._marks_sent == 0:
            # Before the first mark the flag is the configured one.
            self._run_on_save = session.initialize.session_status.run_on_save
        if self._marks_seen == self._marks_sent:
            self._awaiting = False
        self._running = True
        self._compile_error = ""
        run_id, self._fragments_this_run = _run_identity(message)
        self._run = Where(run_id, "", session.page_script_hash)
        self._main_hash = session.main_script_hash
        self.runs += 1
        self.fragment_runs += bool(self._fragments_this_run)
        self.full_runs += not self._fragments_this_run
        self._learn_pages(session.app_pages)
        self._enter_page(session.page_script_hash)

    def _learn_pages(self, pages: Any) -> None:
        if pages:
            named = {"" if page.is_default else page.url_pathname: page for page in pages}
            self.pages = {path: page.page_script_hash for path, page in named.items()}

    def _enter_page(self, page_hash: str) -> None:
        if self._page_hash and page_hash != self._page_hash:
            self._tree.clear_page(self._main_hash)
        self._page_hash = page_hash

    def _handle_delta(self, message: ForwardMsg) -> None:
        metadata = message.metadata
        origin = Where(self._run.run_id, message.delta.fragment_id, metadata.active_script_hash)
        self._tree.apply(list(metadata.delta_path), message.delta, origin)
        if message.delta.HasField("new_element"):
            self._adopt_value(message.delta.new_element)

    def _adopt_value(self, element: Any) -> None:
        """Do what a widget does whose value the script set (by `st.session_state`)."""
        proto = getattr(element, element.WhichOneof("type"))
        if getattr(proto, "set_value", False) and proto.id in self._widgets:
            field = self._widgets[proto.id].WhichOneof("value")
            _fill(self._widgets[proto.id], str(field), proto.value)

    def _handle_finished(self, status: str) -> None:
        self.finished[status] += 1
        if status == "FINISHED_EARLY_FOR_RERUN":
            # Another run follows at once; until its start the app counts as running.
            return
        self._running = False
        if status in ("FINISHED_SUCCESSFULLY", "FINISHED_FRAGMENT_RUN_SUCCESSFULLY"):
            self._tree.clear_stale(self._run.run_id, self._fragments_this_run)
            known = {element.id for element in self._tree.elements()} | self._tree.block_ids()
            self._widgets = {key: state for key, state in self._widgets.items() if key in known}

    # The cookies component

    def _run_components(self) -> None:
        """Do what the iframes on the page do: each once for its arguments, as long as it stays mounted."""
        if not self._options["components"]:
            return
        mounted = {iframe.work: iframe for iframe in self.iframes() if iframe.name == COOKIES_COMPONENT}
        self._forget_unmounted(set(mounted))
        now = time.monotonic()
        for work in mounted.keys() - self._done - self._due.keys():
            self._due[work] = now + self._options["component_delay"]
        for work in [work for work, due in self._due.items() if due <= now]:
            del self._due[work]
            self._done.add(work)
            self._load(mounted[work])
        if self._options["reanswers"]:
            for iframe in (mounted[work] for work in self._done if _method(mounted[work]) == "getAll"):
                self._answer(iframe)

    def _load(self, iframe: Iframe) -> None:
        if _method(iframe) == "getAll":
            self._answer(iframe)
        else:
            self._change_cookie(iframe.args)

    def _forget_unmounted(self, mounted: set[tuple[str, str]]) -> None:
        self._done &= mounted
        self._due = {work: due for work, due in self._due.items() if work in mounted}
        ids = {component_id for component_id, _ in mounted}
        self._answers = {key: answer for key, answer in self._answers.items() if key in ids}

    def _change_cookie(self, args: dict[str, Any]) -> None:
        method, name = args["method"], args["name"]
        if method == "set":
            self.jar.set_by_script(name, args["value"], args.get("options") or {})
        elif method == "remove":
            self.jar.remove_by_script(name)
        else:
            raise VisitorError(f"The cookies component was asked for {method!r}.")
        self.cookie_calls.append((method, name))

    def _answer(self, iframe: Iframe) -> None:
        answer = json.dumps(self.jar.seen_by_scripts())
        if self._answers.get(iframe.id) == answer:
            return
        self._answers[iframe.id] = answer
        self._widgets[iframe.id] = WidgetState(id=iframe.id, json_value=answer)
        self.cookie_calls.append(("getAll", ""))
        self._send_rerun([], iframe.element.origin.fragment_id)

    # Looking things up

    def _widget(self, name: str, *types: str) -> Element:
        candidates = [element for element in self.elements() if element.type in types]
        return self._one([element for element in candidates if name in (element.label, element.key)], name)

    def _one(self, found: Sequence[Element], name: str) -> Element:
        if len(found) != 1:
            raise VisitorError(f"Expected {name!r} once, found it {len(found)} times. {self._describe()}")
        return found[0]

    def _describe(self) -> str:
        shown = [f"{e.type} {e.label or e.text!r}" for e in self.elements()]
        ends, due = dict(self.finished), len(self._due)
        state = f"awaiting a run: {self._awaiting}, running: {self._running}, components due: {due}"
        return f"Runs: {self.runs} ({ends}); {state}. On the page: {shown}. {self.exceptions()}"


def _method(iframe: Iframe) -> str | None:
    return iframe.args.get("method") if iframe.name == COOKIES_COMPONENT else None


def _run_identity(message: ForwardMsg) -> tuple[str, list[str]]:
    """Return the run's id and the fragments it runs; newer Streamlit carries them in the metadata."""
    session: Any = message.new_session
    if hasattr(session, "script_run_id"):
        return session.script_run_id, list(session.fragment_ids_this_run)
    run: Any = message.metadata.run  # type: ignore[attr-defined,unused-ignore]  # by the Streamlit installed
    return run.script_run_id, list(run.fragment_ids)


def _field_of(value: object) -> str:
    sample = value[0] if isinstance(value, list) and value else value
    # bool before int: True is an int as well.
    names = {bool: "bool", int: "int", float: "double", str: "string", bytes: "bytes", list: "string"}
    name = next(name for kind, name in names.items() if isinstance(sample, kind))
    return f"{name}_array_value" if isinstance(value, list) else f"{name}_value"


def _fill(state: WidgetState, field: str, value: Any) -> None:
    if field.endswith("_array_value"):
        getattr(state, field).data[:] = value
    else:
        setattr(state, field, value)
