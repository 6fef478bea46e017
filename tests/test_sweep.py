"""Sweeps: what expired goes by itself, once a day and in the background, and by hand for who asks."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import time_machine

import persist_session
from persist_session import FileStore, MemoryStore, StoreError, configure, delete_expired, settings, sweep
from persist_session.stores import SWEEP_EVERY
from persist_session.sweep import sweep_if_due
from support.stores import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Serve, Visit

KEY = "a" * 64
DEADLINE = 60.0


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Configure nothing, forget all sweeps, and empty the home folder."""
    monkeypatch.setattr(settings, "_configured", {})
    monkeypatch.setattr(settings, "_resolved", {})
    monkeypatch.setattr(sweep, "_looked_at", {})
    monkeypatch.delenv("PERSIST_SESSION_STORE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(autouse=True)
def sweepers_end() -> Iterator[None]:
    """Wait for the threads of a test, so that none outlives it."""
    yield
    wait_for_sweepers()


def sweepers() -> list[threading.Thread]:
    """Return the background threads that are at it."""
    return [thread for thread in threading.enumerate() if thread.name == "persist-session-sweep"]


def wait_for_sweepers() -> None:
    """Wait until there is none."""
    for thread in sweepers():
        thread.join(DEADLINE)
    assert sweepers() == []


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def put_expired(store: FileStore | MemoryStore, key: str = KEY) -> None:
    """Write a record whose time is over, and sweep once: the next sweep will find it so for the second time."""
    assert store.write(key, NAME, b"old", version="1" * 16, based_on=None, expires_at=time.time() - 10)
    store.begin_sweep(every=0.0)


def is_there(store: FileStore | MemoryStore) -> bool:
    """Tell whether the record is."""
    return store.version(KEY, NAME) is not None


def failing(**_: object) -> int:
    """Stand in for a method of a store whose backend fails."""
    raise StoreError("the disk is on fire; put it out")


class Watched(MemoryStore):
    """A store that counts the sweeps, and holds each until it is told to go on.

    Attributes:
        asked: The `every` of each time that somebody asked whether a sweep is due.
        sweeps: The threads that swept, since when, and how long they were to rest.
        may_go_on: Is to be set before a sweep ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []
        self.sweeps: list[tuple[threading.Thread, float, float]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def begin_sweep(self, *, every: float) -> float | None:
        """Count, and answer."""
        self.asked.append(every)
        return super().begin_sweep(every=every)

    def delete_expired(self, *, before: float, pause: float = 0.0) -> int:
        """Note who sweeps, and wait."""
        self.sweeps.append((threading.current_thread(), before, pause))
        assert self.may_go_on.wait(DEADLINE)
        return super().delete_expired(before=before, pause=pause)


# --- in the background


def test_a_due_sweep_has_its_thread(caplog: pytest.LogCaptureFixture) -> None:
    """A daemon, so that a server can end, which rests between folders; the number that it removed is logged."""
    store = Watched()
    with time_machine.travel(time.time() - 2 * SWEEP_EVERY, tick=False):
        put_expired(store)
        before = time.time()
    with caplog.at_level(logging.INFO, "persist_session"):
        sweep_if_due(store)
        wait_for_sweepers()
    [(thread, since, pause)] = store.sweeps
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert since == before
    assert pause > 0
    assert not is_there(store)
    assert [record.getMessage() for record in caplog.records] == ["Expired states removed: 1"]


def test_many_visitors_make_one_sweep() -> None:
    """Eight threads at the same moment, fifty times each, while the sweep goes on and after."""
    store = Watched()
    store.may_go_on.clear()
    start = threading.Barrier(8)

    def come(_: int) -> None:
        start.wait()
        for _ in range(50):
            sweep_if_due(store)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come, range(8)))
    until(lambda: len(store.sweeps) == 1)
    assert len(sweepers()) == 1
    store.may_go_on.set()
    wait_for_sweepers()
    sweep_if_due(store)
    assert sweepers() == []
    assert (store.asked, len(store.sweeps)) == ([SWEEP_EVERY], 1)


def test_the_store_is_asked_hourly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load does not ask by itself, since that takes a look at the disk; and the store may well say no."""
    store = Watched()
    now = time.monotonic()
    for hours, asked in ((0.0, 1), (0.9, 1), (1.1, 2), (2.0, 2), (2.2, 3)):
        with monkeypatch.context() as travel:
            travel.setattr(sweep, "time", SimpleNamespace(monotonic=lambda: now + hours * 3600))  # noqa: B023 (at once)
            sweep_if_due(store)
        wait_for_sweepers()
        assert len(store.asked) == asked
    assert len(store.sweeps) == 1


def test_each_store_has_its_turn() -> None:
    """An app that was configured anew has two."""
    one, other = Watched(), Watched()
    for store in (one, other):
        sweep_if_due(store)
    wait_for_sweepers()
    assert (len(one.sweeps), len(other.sweeps)) == (1, 1)


@pytest.mark.parametrize("method", ["begin_sweep", "delete_expired"])
def test_a_failing_sweep_is_logged(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An ERROR, since nobody is there to catch it; and a visitor has no part in it."""
    store = MemoryStore()
    monkeypatch.setattr(store, method, failing)
    sweep_if_due(store)
    wait_for_sweepers()
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "the disk is on fire" in record.getMessage()


APP = """
import streamlit as st
from persist_session import MemoryStore, configure, persistent_state

class Slow(MemoryStore):
    def delete_expired(self, *, before, pause=0.0):
        import threading, time
        while not hasattr(st, "test_sweep_may_end"):
            time.sleep(0.01)
        st.test_swept_in = threading.current_thread().name
        return 0

@st.cache_resource
def store():
    return Slow()

configure(store=store(), ask_browser=False)

with persistent_state("app-state", dict) as state:
    state["count"] = state.get("count", 0) + 1
    st.text(f"count {state['count']}")
if st.button("End the sweep"):
    st.test_sweep_may_end = True
st.text(f"swept in {getattr(st, 'test_swept_in', 'no thread yet')}")
"""


def test_no_visitor_waits_for_the_sweep(serve: Serve, visit: Visit) -> None:
    """Its first load starts one that takes as long as it likes: page after page comes while it is under way."""
    server = serve(APP)
    tab = visit(server)
    assert tab.texts() == ["count 1", "swept in no thread yet"]
    for count in (2, 3):
        tab.rerun()
        assert tab.texts() == [f"count {count}", "swept in no thread yet"]
    tab.click("End the sweep")

    def swept() -> bool:
        tab.rerun()
        return "swept in persist-session-sweep" in tab.texts()

    until(swept)


# --- by hand


def test_a_given_store_is_swept() -> None:
    """It is swept as often as asked, whenever the sweep before was; the number that was removed comes back."""
    store = MemoryStore()
    for n in range(3):
        put_expired(store, f"{n:064x}")
    assert delete_expired(store) == 3
    put_expired(store)
    assert delete_expired(store) == 1
    assert delete_expired(store) == 0


@pytest.mark.parametrize("files", [True, False], ids=["files", "memory"])
def test_a_state_goes_at_second_call(tmp_path: Path, files: bool) -> None:
    """The first one finds it expired; so one clock that is 40 days ahead removes nothing that is still needed."""
    store = FileStore(tmp_path / "state") if files else MemoryStore()
    now = time.time()
    assert store.write(KEY, NAME, b"one", version="1" * 16, based_on=None, expires_at=now + 30 * 86400)
    left = []
    for days in (0, 40, 0, 29, 31, 32):
        with time_machine.travel(now + days * 86400):
            left.append((delete_expired(store), is_there(store)))
    assert left == [(0, True)] * 5 + [(1, False)]


def test_a_store_has_a_url(tmp_path: Path) -> None:
    """A cron job knows no more."""
    put_expired(FileStore(tmp_path / "state"))
    assert delete_expired((tmp_path / "state").as_uri()) == 1
    assert not is_there(FileStore(tmp_path / "state"))


def test_a_given_store_comes_first() -> None:
    """The configured one is left alone."""
    given, configured = MemoryStore(), MemoryStore()
    put_expired(given)
    put_expired(configured)
    configure(store=configured)
    assert delete_expired(given) == 1
    assert is_there(configured)


def test_the_configured_store_is_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The one given to `configure` comes before the environment's; the default stores are left alone then."""
    in_code, in_environment = MemoryStore(), FileStore(tmp_path / "state")
    default = FileStore(tmp_path / "home/.streamlit/persist_session/app-12345678", strict=True)
    for store in (in_code, in_environment, default):
        put_expired(store)
    monkeypatch.setenv("PERSIST_SESSION_STORE", (tmp_path / "state").as_uri())
    assert delete_expired() == 1
    assert not is_there(in_environment)
    put_expired(in_environment)
    configure(store=in_code)
    assert delete_expired() == 1
    assert not is_there(in_code)
    assert is_there(in_environment)
    assert is_there(default)


def test_the_default_is_all_apps(tmp_path: Path) -> None:
    """A cron job can't know what the apps are called; the key that lies beside them is no store."""
    home = tmp_path / "home" / ".streamlit" / "persist_session"
    stores = [FileStore(home / app, strict=True) for app in ("app-12345678", "other-87654321")]
    for store in stores:
        put_expired(store)
    (home / "secret_key").write_text("k" * 32)
    assert delete_expired() == 2
    assert not any(is_there(store) for store in stores)
    assert (home / "secret_key").read_text() == "k" * 32


def test_without_stores_nothing_is_made(tmp_path: Path) -> None:
    """There is nothing to remove, either."""
    assert delete_expired() == 0
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("method", ["begin_sweep", "delete_expired"])
def test_who_asks_hears_of_failure(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cron job tells by it that something is wrong."""
    store = MemoryStore()
    monkeypatch.setattr(store, method, failing)
    with pytest.raises(StoreError, match="on fire"):
        delete_expired(store)


def test_another_url_is_refused() -> None:
    """A path is no URL, as everywhere else."""
    with pytest.raises(persist_session.ConfigurationError, match="file:///srv/state"):
        delete_expired("/srv/state")


def test_a_cron_job_needs_no_run(tmp_path: Path) -> None:
    """One line of Python, in a process of its own."""
    put_expired(FileStore(tmp_path / "state"))
    line = f"import persist_session; print(persist_session.delete_expired({(tmp_path / 'state').as_uri()!r}))"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
