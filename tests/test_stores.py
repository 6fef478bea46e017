"""What every store promises: one contract, run against each of them."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import time_machine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from persist_session.errors import ConfigurationError, LockTimeoutError
from persist_session.stores import FileStore, MemoryStore, Store, Stored, open_store
from support.stores import set_aside

if TYPE_CHECKING:
    from collections.abc import Callable

NAME, KEY = "app-state", "a" * 64
V1, V2, V3 = "1" * 16, "2" * 16, "3" * 16
LATER = 4e9


class Backend:
    """A store, and a look at what it keeps aside, which the protocol doesn't offer."""

    def __init__(self, store: Store, kept: Callable[[str, str], list[bytes]]) -> None:
        self.store = store
        self.kept = kept


def _memory(_: Path) -> Backend:
    store = MemoryStore()
    return Backend(store, lambda name, key: [data for data, _ in store._aside.get((name, key), ())])


def _files(root: Path) -> Backend:
    def kept(name: str, key: str) -> list[bytes]:
        files = sorted((root / name / key[:2]).glob(f"{key}.*.aside"), reverse=True)
        return [file.read_bytes().partition(b"\n")[2] for file in files]

    return Backend(FileStore(root), kept)


BACKENDS = {"memory": _memory, "files": _files}


@pytest.fixture(params=list(BACKENDS.values()), ids=list(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Each store in turn, empty."""
    make: Callable[[Path], Backend] = request.param
    return make(tmp_path / "store")


@pytest.fixture
def store(backend: Backend) -> Store:
    """Each store in turn, empty."""
    return backend.store


def put(store: Store, data: bytes, version: str, based_on: str | None, *, name: str = NAME, key: str = KEY) -> bool:
    """Write with an expiry that no test cares about."""
    return store.write(name, key, data, version=version, based_on=based_on, expires_at=LATER)


def test_a_store_is_a_store(store: Store) -> None:
    """The shape alone makes it one."""
    assert isinstance(store, Store)


def test_an_empty_store_has_nothing(store: Store) -> None:
    """Reading what was never written gives `None`."""
    assert store.read(NAME, KEY) is None


def test_what_was_written_is_read(store: Store) -> None:
    """The bytes and the version come back."""
    assert put(store, b"one", V1, None)
    assert store.read(NAME, KEY) == Stored(b"one", V1)


def test_a_write_on_the_current_version_replaces_the_record(store: Store) -> None:
    """Compare-and-swap succeeds where nothing happened in between."""
    put(store, b"one", V1, None)
    assert put(store, b"two", V2, V1)
    assert store.read(NAME, KEY) == Stored(b"two", V2)


@pytest.mark.parametrize("based_on", [None, V2, ""])
def test_a_write_on_another_version_changes_nothing(store: Store, based_on: str | None) -> None:
    """Compare-and-swap fails where the writer didn't see the record that is there."""
    put(store, b"one", V1, None)
    assert not put(store, b"two", V3, based_on)
    assert store.read(NAME, KEY) == Stored(b"one", V1)


@pytest.mark.parametrize("based_on", [V1, ""])
def test_a_write_on_a_record_that_is_not_there_changes_nothing(store: Store, based_on: str) -> None:
    """A record that was cleared doesn't come back by a late write."""
    assert not put(store, b"two", V2, based_on)
    assert store.read(NAME, KEY) is None


def test_records_do_not_meet(store: Store) -> None:
    """Another name or another key is another record."""
    put(store, b"one", V1, None)
    assert put(store, b"two", V2, None, name="other")
    assert put(store, b"three", V3, None, key="b" * 64)
    store.delete("other", KEY)
    assert store.read(NAME, KEY) == Stored(b"one", V1)
    assert store.read("other", KEY) is None
    assert store.read(NAME, "b" * 64) == Stored(b"three", V3)


def test_a_deleted_record_is_gone(store: Store) -> None:
    """It is not read any more, a late write on it fails, and a fresh one succeeds."""
    put(store, b"one", V1, None)
    store.delete(NAME, KEY)
    assert store.read(NAME, KEY) is None
    assert not put(store, b"late", V2, V1)
    assert put(store, b"fresh", V3, None)


def test_deleting_twice_is_fine(store: Store) -> None:
    """So is deleting what never was."""
    store.delete(NAME, KEY)
    put(store, b"one", V1, None)
    store.delete(NAME, KEY)
    store.delete(NAME, KEY)
    assert store.read(NAME, KEY) is None


def test_a_record_set_aside_is_gone_but_kept(backend: Backend) -> None:
    """It is not read any more, its bytes are still there, and a fresh record can be written."""
    put(backend.store, b"one", V1, None)
    set_aside(backend.store, KEY, LATER)
    assert backend.store.read(NAME, KEY) is None
    assert backend.kept(NAME, KEY) == [b"one"]
    assert put(backend.store, b"two", V2, None)


def test_setting_nothing_aside_is_fine(backend: Backend) -> None:
    """It neither fails nor pushes out what is kept, on an empty store or after another."""
    set_aside(backend.store, KEY, LATER)
    put(backend.store, b"one", V1, None)
    for _ in range(5):
        set_aside(backend.store, KEY, LATER)
    assert backend.kept(NAME, KEY) == [b"one"]


def test_only_the_last_three_are_kept_aside(backend: Backend) -> None:
    """Damage that repeats doesn't fill the store; the oldest goes first."""
    for n in range(7):
        put(backend.store, b"%d" % n, V1, None)
        set_aside(backend.store, KEY, LATER)
    assert backend.kept(NAME, KEY) == [b"4", b"5", b"6"]


def test_delete_erases_what_was_set_aside(backend: Backend) -> None:
    """A visitor who clears leaves nothing; other records keep theirs."""
    for key in (KEY, "a" * 63 + "b"):
        put(backend.store, b"one", V1, None, key=key)
        set_aside(backend.store, key, LATER)
    backend.store.delete(NAME, KEY)
    assert backend.kept(NAME, KEY) == []
    assert backend.kept(NAME, "a" * 63 + "b") == [b"one"]


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"persist-session 1 " + b"0" * 16 + b" 0\n", bytes(range(256)), b"x" * 2**21]
)
def test_any_bytes_come_back_as_they_were(store: Store, data: bytes) -> None:
    """A store never looks into the data: empty, large, or like its own format."""
    put(store, data, V1, None)
    assert store.read(NAME, KEY) == Stored(data, V1)


def test_of_eight_first_writes_at_once_one_succeeds(store: Store) -> None:
    """Eight threads that all saw nothing: one creates the record, the others are told."""
    for n in range(10):
        start = threading.Barrier(8)
        key = f"{n:064x}"

        def write(version: str, start: threading.Barrier = start, key: str = key) -> bool:
            start.wait()
            return put(store, version.encode(), version, None, key=key)

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(write, [f"{n:016x}" for n in range(8)]))
        assert sum(results) == 1
        winner = f"{results.index(True):016x}"
        assert store.read(NAME, key) == Stored(winner.encode(), winner)


def test_eight_threads_lose_no_update(store: Store) -> None:
    """Each of 8 threads adds 1 ten times by compare-and-swap; in the end it is 80."""
    assert count_to_80([store] * 8) == 80


def count_to_80(stores: list[Store]) -> int:
    """What 8 threads, each with its own of `stores`, have counted to in one record."""
    put(stores[0], b"0", f"{0:016x}", None)
    versions = itertools.count(1)

    def increment(store: Store) -> None:
        done = 0
        while done < 10:
            found = store.read(NAME, KEY)
            assert found is not None
            done += put(store, b"%d" % (int(found.data) + 1), f"{next(versions):016x}", found.version)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(increment, stores))
    final = stores[0].read(NAME, KEY)
    assert final is not None
    return int(final.data)


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of calls has the outcome that it has on a plain dict."""

    make: Callable[[Path], Backend]
    keys = st.sampled_from(["a" * 64, "a" * 63 + "b", "c" * 64])
    versions = st.sampled_from([V1, V2, V3])

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.backend = type(self).make(Path(self.folder.name) / "store")
        self.records: dict[str, Stored] = {}
        self.aside: dict[str, list[bytes]] = {}

    @rule(key=keys, data=st.binary(max_size=20), version=versions, based_on=st.none() | versions)
    def write(self, key: str, data: bytes, version: str, based_on: str | None) -> None:
        """Written exactly where the dict has `based_on`."""
        found = self.records.get(key)
        expected = (found.version if found else None) == based_on
        assert put(self.backend.store, data, version, based_on, key=key) == expected
        if expected:
            self.records[key] = Stored(data, version)

    @rule(key=keys)
    def set_aside(self, key: str) -> None:
        """Moved to a list of three."""
        set_aside(self.backend.store, key, LATER)
        if key in self.records:
            self.aside[key] = [*self.aside.get(key, []), self.records.pop(key).data][-3:]

    @rule(key=keys)
    def delete(self, key: str) -> None:
        """Removed from both."""
        self.backend.store.delete(NAME, key)
        self.records.pop(key, None)
        self.aside.pop(key, None)

    @invariant()
    def agrees(self) -> None:
        """The store has what the dicts have."""
        for key in ("a" * 64, "a" * 63 + "b", "c" * 64):
            assert self.backend.store.read(NAME, key) == self.records.get(key)
            assert self.backend.kept(NAME, key) == self.aside.get(key, [])

    def teardown(self) -> None:
        """Remove the folder."""
        self.folder.cleanup()


class MemoryMachine(StoreMachine):
    """The memory store against a dict."""

    make = staticmethod(_memory)


class FilesMachine(StoreMachine):
    """The file store against a dict."""

    make = staticmethod(_files)


TestMemoryMachine = MemoryMachine.TestCase
TestFilesMachine = FilesMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestFilesMachine.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    """A folder whose path needs quoting in a URL."""
    folder = tmp_path / "with space%20é#?"
    folder.mkdir()
    return folder


def test_a_file_url_opens_a_file_store(opened: Path) -> None:
    """`file://` and an absolute path, quoted as URLs are, is that folder."""
    put(open_store(opened.as_uri()), b"one", V1, None)
    assert FileStore(opened).read(NAME, KEY) == Stored(b"one", V1)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/srv/state",
        "file:",
        "file://",
        "file:srv/state",
        "file://srv/state",
        "file://localhost/srv/state",
        "file:///srv/state?mode=700",
        "file:///srv/state#part",
        "file://[srv/state",
        "redis://localhost",
        "memory:",
    ],
)
def test_another_url_is_refused_with_a_remedy(url: str) -> None:
    """Unknown schemes, relative paths, hosts and extras: the error shows how to write it."""
    with pytest.raises(ConfigurationError, match=r"file:///srv/state"):
        open_store(url)


@given(st.text(max_size=40))
def test_any_text_is_a_store_or_refused(url: str) -> None:
    """No URL raises anything else."""
    with contextlib.suppress(ConfigurationError):
        assert isinstance(open_store(url), FileStore)


def test_a_refusal_does_not_repeat_a_password() -> None:
    """A URL with a password ends up in no log."""
    with pytest.raises(ConfigurationError) as caught:
        open_store("redis://user:hunter2@host/0")
    assert "hunter2" not in str(caught.value)


def test_a_record_that_was_mended_meanwhile_is_not_set_aside(backend: Backend) -> None:
    """Setting aside names the version it means: another tab's new record stays."""
    backend.store.write(NAME, KEY, b"damaged", version="a" * 16, based_on=None, expires_at=LATER)
    backend.store.write(NAME, KEY, b"mended", version="b" * 16, based_on="a" * 16, expires_at=LATER)
    backend.store.set_aside(NAME, KEY, version="a" * 16, expires_at=LATER)
    found = backend.store.read(NAME, KEY)
    assert found is not None
    assert found.data == b"mended"


# --- version


def test_version_is_what_read_says(store: Store) -> None:
    """None where nothing is, and after every change the version that `read` gives."""
    steps: list[Callable[[], object]] = [
        lambda: None,
        lambda: put(store, b"one", V1, None),
        lambda: put(store, b"two", V2, V1),
        lambda: set_aside(store, KEY, LATER),
        lambda: put(store, b"three", V3, None),
        lambda: store.delete(NAME, KEY),
    ]
    seen = []
    for step in steps:
        step()
        found = store.read(NAME, KEY)
        assert store.version(NAME, KEY) == (found.version if found else None)
        seen.append(store.version(NAME, KEY))
    assert seen == [None, V1, V2, None, V3, None]


# --- the lock over a block


def lock_is_free(store: Store, name: str = NAME, key: str = KEY) -> bool:
    """Whether another thread gets the record's lock without waiting."""

    def attempt() -> bool:
        with store.lock(name, key, timeout=0):
            return True

    with ThreadPoolExecutor(1) as other:
        try:
            return other.submit(attempt).result()
        except LockTimeoutError:
            return False


def test_a_lock_excludes_another_thread(store: Store) -> None:
    """As long as the block, and no longer."""
    assert lock_is_free(store)
    with store.lock(NAME, KEY, timeout=0):
        assert not lock_is_free(store)
    assert lock_is_free(store)


def test_an_exception_frees_the_lock(store: Store) -> None:
    """It passes through, and the next one does not wait."""
    with pytest.raises(ZeroDivisionError), store.lock(NAME, KEY, timeout=0):
        raise ZeroDivisionError
    assert lock_is_free(store)


def test_a_thread_may_take_its_lock_again(store: Store) -> None:
    """The inner block neither waits for the outer one, nor frees what that holds."""
    with store.lock(NAME, KEY, timeout=0):
        with store.lock(NAME, KEY, timeout=0):
            assert not lock_is_free(store)
        assert not lock_is_free(store)
    assert lock_is_free(store)


def test_a_lock_that_does_not_come_free_is_an_error_with_a_remedy(store: Store) -> None:
    """After the timeout, and the lock can be had as soon as it is free."""

    def attempt() -> None:
        with store.lock(NAME, KEY, timeout=0.05):
            pytest.fail("two hold one lock")

    with ThreadPoolExecutor(1) as other, store.lock(NAME, KEY, timeout=0):
        waiting = other.submit(attempt)
        with pytest.raises(LockTimeoutError, match="lock_timeout"):
            waiting.result()
    assert lock_is_free(store)


def test_eight_threads_that_wait_for_the_lock_lose_no_update(store: Store) -> None:
    """Read, add, write, each in a block of its own: no write meets another version than it read."""
    put(store, b"0", f"{0:016x}", None)

    def increment(_: int) -> None:
        for _ in range(10):
            with store.lock(NAME, KEY, timeout=60):
                found = store.read(NAME, KEY)
                assert found is not None
                count = int(found.data) + 1
                assert put(store, b"%d" % count, f"{count:016x}", found.version)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(increment, range(8)))
    assert store.read(NAME, KEY) == Stored(b"80", f"{80:016x}")


def test_a_lock_keeps_nobody_from_reading_and_writing(store: Store) -> None:
    """It is between exclusive blocks: others go by the version."""
    with store.lock(NAME, KEY, timeout=0), ThreadPoolExecutor(1) as other:
        assert other.submit(put, store, b"one", V1, None).result()
        assert other.submit(store.read, NAME, KEY).result() == Stored(b"one", V1)


def test_two_records_do_not_wait_for_each_other(store: Store) -> None:
    """Unless they share one of the fixed number of locks, which of 20 others hardly any does."""
    with store.lock(NAME, KEY, timeout=0):
        free = [lock_is_free(store, key=hashlib.sha256(b"%d" % n).hexdigest()) for n in range(20)]
    assert sum(free) >= 17


# --- sweeps


def test_one_of_many_gets_the_turn_to_sweep(store: Store) -> None:
    """Of eight threads that ask again and again, one and only once."""
    put(store, b"one", V1, None)
    start = threading.Barrier(8)

    def ask(_: int) -> int:
        start.wait()
        return sum(store.claim_sweep() for _ in range(5))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 1


def test_the_next_turn_to_sweep_is_a_day_later(store: Store) -> None:
    """Not after 23 hours; after 25, and then not again."""
    put(store, b"one", V1, None)
    now = time.time()
    turns = []
    for hours in (0, 1, 23, 25, 26, 48, 50):
        with time_machine.travel(now + hours * 3600, tick=False):
            turns.append(store.claim_sweep())
    assert turns == [True, False, False, True, False, False, True]


def test_only_what_expired_is_removed(store: Store) -> None:
    """And counted; a record that has time left stays."""
    now = time.time()
    for n, seconds in enumerate((-3600, -2, 3600, 86400)):
        store.write(NAME, f"{n:064x}", b"one", version=V1, based_on=None, expires_at=now + seconds)
        store.write("other", f"{n:064x}", b"one", version=V1, based_on=None, expires_at=now + seconds)
    assert store.delete_expired() == 4
    for name in (NAME, "other"):
        assert [n for n in range(4) if store.read(name, f"{n:064x}")] == [2, 3]
    assert store.delete_expired() == 0
    with time_machine.travel(now + 2 * 86400):
        assert store.delete_expired() == 4


def test_a_sweep_of_an_empty_store_is_fine(store: Store) -> None:
    """There is nothing to remove."""
    assert store.delete_expired() == 0


def test_what_was_set_aside_expires(backend: Backend) -> None:
    """Each copy at its own time; what is still kept stays in its order."""
    now = time.time()
    for n, days in enumerate((3, 1, 2)):
        put(backend.store, b"%d" % n, V1, None)
        set_aside(backend.store, KEY, now + days * 86400)
    put(backend.store, b"now", V2, None)
    left = []
    for hours in (0, 25, 49, 73):
        with time_machine.travel(now + hours * 3600):
            left.append((backend.store.delete_expired(), backend.kept(NAME, KEY)))
    assert left == [(0, [b"0", b"1", b"2"]), (1, [b"0", b"2"]), (1, [b"0"]), (1, [])]
    assert backend.store.read(NAME, KEY) == Stored(b"now", V2)


def test_a_visit_during_the_sweep_keeps_the_record(store: Store) -> None:
    """Whoever renewed an expired record while a sweep went on has it; who came too late was told."""
    keys = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(100)]
    for key in keys:
        store.write(NAME, key, b"old", version=V1, based_on=None, expires_at=time.time() - 10)
    start = threading.Barrier(2)

    def sweep() -> int:
        start.wait()
        return store.delete_expired()

    with ThreadPoolExecutor(1) as other:
        removed = other.submit(sweep)
        start.wait()
        renewed = {key: put(store, b"new", V2, V1, key=key) for key in keys}
    assert removed.result() + sum(renewed.values()) == len(keys)
    for key in keys:
        assert store.read(NAME, key) == (Stored(b"new", V2) if renewed[key] else None)
