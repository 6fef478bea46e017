"""The promises of every store: one contract, run against each of them."""

from __future__ import annotations

import contextlib
import hashlib
import re
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
from support.stores import LATER, NAME, count_to_40, put, set_aside

if TYPE_CHECKING:
    from collections.abc import Callable

KEY, SIMILAR, OTHER = "a" * 64, "a" * 63 + "b", "b" * 64
V1, V2, V3 = "1" * 16, "2" * 16, "3" * 16
DAY = 86400.0


class Backend:
    """A store, and a look at what it keeps aside, oldest first, which the protocol doesn't offer."""

    def __init__(self, store: Store, kept: Callable[[str, str], list[bytes]]) -> None:
        self.store = store
        self.kept = kept


def _memory(_: Path) -> Backend:
    store = MemoryStore()
    return Backend(store, lambda key, name: [data for data, _ in store._aside.get((key, name), ())])


def _files(root: Path) -> Backend:
    def kept(key: str, name: str) -> list[bytes]:
        shape = re.compile(re.escape(f"{key}.{name}.") + r"\d\.aside")
        files = [file for file in (root / key[:2]).glob("*.aside") if shape.fullmatch(file.name)]
        return [file.read_bytes().partition(b"\n")[2] for file in sorted(files, reverse=True)]

    return Backend(FileStore(root), kept)


BACKENDS = {"memory": _memory, "files": _files}


@pytest.fixture(params=list(BACKENDS.values()), ids=list(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Return each store in turn, empty."""
    make: Callable[[Path], Backend] = request.param
    return make(tmp_path / "store")


@pytest.fixture
def store(backend: Backend) -> Store:
    """Return each store in turn, empty."""
    return backend.store


def put_until(store: Store, key: str, expires_at: float, *, name: str = NAME) -> None:
    """Write a first record that expires then."""
    assert store.write(key, name, b"one", version=V1, based_on=None, expires_at=expires_at)


def test_the_shape_makes_a_store(store: Store) -> None:
    """Nothing is inherited."""
    assert isinstance(store, Store)


# --- read and write


def test_an_empty_store_has_nothing(store: Store) -> None:
    """Reading a record that was never written gives `None`."""
    assert store.read(KEY, NAME) is None


def test_what_was_written_is_read(store: Store) -> None:
    """The bytes and the version come back."""
    assert put(store, KEY, b"one", V1)
    assert store.read(KEY, NAME) == Stored(b"one", V1)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"persist-session 1 " + b"0" * 16 + b" 0\n", bytes(range(256)), b"x" * 2**21]
)
def test_any_bytes_come_back(store: Store, data: bytes) -> None:
    """A store never looks into the data: empty, large, or like its own format."""
    put(store, KEY, data, V1)
    assert store.read(KEY, NAME) == Stored(data, V1)


def test_the_current_version_can_be_replaced(store: Store) -> None:
    """Compare-and-swap succeeds where nothing happened in between."""
    put(store, KEY, b"one", V1)
    assert put(store, KEY, b"two", V2, V1)
    assert store.read(KEY, NAME) == Stored(b"two", V2)


@pytest.mark.parametrize("based_on", [None, V2, ""])
def test_another_version_is_not_replaced(store: Store, based_on: str | None) -> None:
    """Compare-and-swap fails where the writer didn't see the record that is there."""
    put(store, KEY, b"one", V1)
    assert not put(store, KEY, b"two", V3, based_on)
    assert store.read(KEY, NAME) == Stored(b"one", V1)


@pytest.mark.parametrize("based_on", [V1, ""])
def test_a_late_write_brings_nothing_back(store: Store, based_on: str) -> None:
    """A write that is based on a record fails where none is there."""
    assert not put(store, KEY, b"two", V2, based_on)
    assert store.read(KEY, NAME) is None


def test_records_do_not_meet(store: Store) -> None:
    """Another name or another visitor's key is another record."""
    put(store, KEY, b"one", V1)
    assert put(store, KEY, b"two", V2, name="other")
    assert put(store, OTHER, b"three", V3)
    store.delete(KEY, "other")
    assert store.read(KEY, NAME) == Stored(b"one", V1)
    assert store.read(KEY, "other") is None
    assert store.read(OTHER, NAME) == Stored(b"three", V3)


def test_version_is_what_read_says(store: Store) -> None:
    """None where nothing is, and after every change the version that `read` gives."""
    steps: list[Callable[[], object]] = [
        lambda: None,
        lambda: put(store, KEY, b"one", V1),
        lambda: put(store, KEY, b"two", V2, V1),
        lambda: set_aside(store, KEY, LATER),
        lambda: put(store, KEY, b"three", V3),
        lambda: store.delete(KEY, NAME),
    ]
    seen = []
    for step in steps:
        step()
        found = store.read(KEY, NAME)
        assert store.version(KEY, NAME) == (found.version if found else None)
        seen.append(store.version(KEY, NAME))
    assert seen == [None, V1, V2, None, V3, None]


def test_of_eight_first_writes_one_succeeds(store: Store) -> None:
    """Eight threads that all saw nothing: one creates the record, the others are told."""
    for n in range(5):
        start = threading.Barrier(8)
        key = f"{n:064x}"

        def write(version: str, start: threading.Barrier = start, key: str = key) -> bool:
            start.wait()
            return put(store, key, version.encode(), version)

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(write, [f"{n:016x}" for n in range(8)]))
        assert sum(results) == 1
        winner = f"{results.index(True):016x}"
        assert store.read(key, NAME) == Stored(winner.encode(), winner)


def test_eight_threads_lose_no_update(store: Store) -> None:
    """Each of 8 threads adds 1 five times by compare-and-swap; in the end it is 40."""
    assert count_to_40([store] * 8, KEY) == 40


# --- delete and set aside


def test_a_deleted_record_is_gone(store: Store) -> None:
    """It is not read any more, a late write on it fails, and a fresh one succeeds."""
    put(store, KEY, b"one", V1)
    store.delete(KEY, NAME)
    assert store.read(KEY, NAME) is None
    assert not put(store, KEY, b"late", V2, V1)
    assert put(store, KEY, b"fresh", V3)


def test_deleting_twice_is_fine(store: Store) -> None:
    """So is deleting what never was."""
    store.delete(KEY, NAME)
    put(store, KEY, b"one", V1)
    store.delete(KEY, NAME)
    store.delete(KEY, NAME)
    assert store.read(KEY, NAME) is None


def test_a_record_set_aside_is_kept(backend: Backend) -> None:
    """It is not read any more, its bytes are still there, and a fresh record can be written."""
    put(backend.store, KEY, b"one", V1)
    set_aside(backend.store, KEY, LATER)
    assert backend.store.read(KEY, NAME) is None
    assert backend.kept(KEY, NAME) == [b"one"]
    assert put(backend.store, KEY, b"two", V2)


def test_a_mended_record_stays(backend: Backend) -> None:
    """Setting aside names the version it means: another tab's new record is left where it is."""
    put(backend.store, KEY, b"damaged", V1)
    put(backend.store, KEY, b"mended", V2, V1)
    backend.store.set_aside(KEY, NAME, version=V1, expires_at=LATER)
    assert backend.store.read(KEY, NAME) == Stored(b"mended", V2)
    assert backend.kept(KEY, NAME) == []


def test_setting_nothing_aside_is_fine(backend: Backend) -> None:
    """It neither fails nor pushes out what is kept, on an empty store or after another."""
    set_aside(backend.store, KEY, LATER)
    put(backend.store, KEY, b"one", V1)
    for _ in range(5):
        set_aside(backend.store, KEY, LATER)
    assert backend.kept(KEY, NAME) == [b"one"]


def test_the_last_three_are_kept(backend: Backend) -> None:
    """Damage that repeats doesn't fill the store; the oldest goes first."""
    for n in range(7):
        put(backend.store, KEY, b"%d" % n, V1)
        set_aside(backend.store, KEY, LATER)
    assert backend.kept(KEY, NAME) == [b"4", b"5", b"6"]


def test_delete_erases_what_was_aside(backend: Backend) -> None:
    """A visitor who clears leaves nothing, also where no record is in its place; others keep theirs."""
    for key, name in ((KEY, NAME), (SIMILAR, NAME), (KEY, f"{NAME}.0")):
        put(backend.store, key, b"one", V1, name=name)
        set_aside(backend.store, key, LATER, name=name)
    backend.store.delete(KEY, NAME)
    assert backend.kept(KEY, NAME) == []
    assert backend.kept(SIMILAR, NAME) == [b"one"]
    assert backend.kept(KEY, f"{NAME}.0") == [b"one"]


# --- names


def test_a_new_visitor_has_no_names(store: Store) -> None:
    """An empty store has none, and others' records add none."""
    assert store.names(KEY) == []
    for key in (SIMILAR, OTHER):
        put(store, key, b"one", V1)
    assert store.names(KEY) == []


def test_names_are_the_visitors_and_sorted(store: Store) -> None:
    """Of several visitors, each has its own, whatever the order in which they were written."""
    for name in ("cart", "app-state", "Zoo", "b_2", "cart.old", "7"):
        put(store, KEY, b"one", V1, name=name)
    put(store, SIMILAR, b"one", V1, name="similar")
    assert store.names(KEY) == ["7", "Zoo", "app-state", "b_2", "cart", "cart.old"]
    assert store.names(SIMILAR) == ["similar"]


def test_names_tell_only_of_records(store: Store) -> None:
    """A deleted record and one set aside do not count; one that is written after it does."""
    for name in ("kept", "deleted", "aside", "again"):
        put(store, KEY, b"one", V1, name=name)
    store.delete(KEY, "deleted")
    for name in ("aside", "again"):
        set_aside(store, KEY, LATER, name=name)
    put(store, KEY, b"two", V2, name="again")
    assert store.names(KEY) == ["again", "kept"]


@pytest.mark.parametrize(
    "name", ["a.b", "a.", ".a", "a.0", "a.0.aside", f"a.{'0' * 16}.tmp", "a.pickle", "-", "a" * 64, "." * 63 + "a"]
)
def test_dots_confuse_no_name(backend: Backend, name: str) -> None:
    """A name may end as the store's own files do: it is found, set aside, and gone, and `a` never notices."""
    store = backend.store
    put(store, KEY, b"a", V1, name="a")
    set_aside(store, KEY, LATER, name="a")
    put(store, KEY, b"a", V1, name="a")
    put(store, KEY, b"one", V1, name=name)
    assert store.names(KEY) == sorted(["a", name])
    set_aside(store, KEY, LATER, name=name)
    assert store.names(KEY) == ["a"]
    assert backend.kept(KEY, name) == [b"one"]
    store.delete(KEY, name)
    assert backend.kept(KEY, name) == []
    assert backend.kept(KEY, "a") == [b"a"]
    assert store.read(KEY, "a") == Stored(b"a", V1)


def test_a_visitor_can_be_erased(backend: Backend) -> None:
    """Deleting each name that `names` gives leaves nothing of a visitor, and all of the others."""
    for key in (KEY, SIMILAR):
        for name in ("cart", "app-state"):
            put(backend.store, key, b"one", V1, name=name)
    for name in backend.store.names(KEY):
        backend.store.delete(KEY, name)
    assert backend.store.names(KEY) == []
    assert backend.store.names(SIMILAR) == ["app-state", "cart"]


# --- against a plain dict


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of calls has the outcome that it has on a plain dict."""

    make: Callable[[Path], Backend]
    places = st.tuples(st.sampled_from([KEY, SIMILAR, OTHER]), st.sampled_from(["a", "a.0", "cart"]))
    versions = st.sampled_from([V1, V2, V3])

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.backend = type(self).make(Path(self.folder.name) / "store")
        self.records: dict[tuple[str, str], Stored] = {}
        self.aside: dict[tuple[str, str], list[bytes]] = {}

    @rule(place=places, data=st.binary(max_size=20), version=versions, based_on=st.none() | versions)
    def write(self, place: tuple[str, str], data: bytes, version: str, based_on: str | None) -> None:
        """Write exactly where the dict has `based_on`."""
        found = self.records.get(place)
        expected = (found.version if found else None) == based_on
        assert put(self.backend.store, place[0], data, version, based_on, name=place[1]) == expected
        if expected:
            self.records[place] = Stored(data, version)

    @rule(place=places)
    def set_aside(self, place: tuple[str, str]) -> None:
        """Move to a list of three."""
        set_aside(self.backend.store, place[0], LATER, name=place[1])
        if place in self.records:
            self.aside[place] = [*self.aside.get(place, []), self.records.pop(place).data][-3:]

    @rule(place=places)
    def delete(self, place: tuple[str, str]) -> None:
        """Remove from both."""
        self.backend.store.delete(*place)
        self.records.pop(place, None)
        self.aside.pop(place, None)

    @invariant()
    def agrees(self) -> None:
        """Compare with the dicts."""
        for key in (KEY, SIMILAR, OTHER):
            assert self.backend.store.names(key) == sorted(name for each, name in self.records if each == key)
            for name in ("a", "a.0", "cart"):
                assert self.backend.store.read(key, name) == self.records.get((key, name))
                assert self.backend.kept(key, name) == self.aside.get((key, name), [])

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
TestMemoryMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestFilesMachine.settings = settings(max_examples=10, stateful_step_count=15, deadline=None)


# --- URLs


def test_a_file_url_opens_files(tmp_path: Path) -> None:
    """`file://` and an absolute path, quoted as URLs are, is that folder."""
    folder = tmp_path / "with space%20é#?"
    put(open_store(folder.as_uri()), KEY, b"one", V1)
    assert FileStore(folder).read(KEY, NAME) == Stored(b"one", V1)


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
def test_another_url_is_refused(url: str) -> None:
    """Unknown schemes, relative paths, hosts and extras: the error shows how to write it."""
    with pytest.raises(ConfigurationError, match=r"file:///srv/state"):
        open_store(url)


@given(st.text(max_size=40))
def test_any_text_opens_or_is_refused(url: str) -> None:
    """No URL raises anything else."""
    with contextlib.suppress(ConfigurationError):
        assert isinstance(open_store(url), FileStore)


def test_a_refusal_shows_no_password() -> None:
    """A URL with a password ends up in no log."""
    with pytest.raises(ConfigurationError) as caught:
        open_store("redis://user:hunter2@host/0")
    assert "hunter2" not in str(caught.value)


# --- the lock over a block


def is_free(store: Store, key: str = KEY, name: str = NAME) -> bool:
    """Tell whether another thread gets the record's lock without waiting."""

    def attempt() -> bool:
        with store.lock(key, name, timeout=0):
            return True

    with ThreadPoolExecutor(1) as other:
        try:
            return other.submit(attempt).result()
        except LockTimeoutError:
            return False


def test_a_lock_excludes_another_thread(store: Store) -> None:
    """It holds as long as the block, and no longer."""
    assert is_free(store)
    with store.lock(KEY, NAME, timeout=0):
        assert not is_free(store)
    assert is_free(store)


def test_an_exception_frees_the_lock(store: Store) -> None:
    """It passes through, and the next one does not wait."""
    with pytest.raises(ZeroDivisionError), store.lock(KEY, NAME, timeout=0):
        raise ZeroDivisionError
    assert is_free(store)


def test_a_thread_may_lock_again(store: Store) -> None:
    """The inner block neither waits for the outer one, nor frees what that holds."""
    with store.lock(KEY, NAME, timeout=0):
        with store.lock(KEY, NAME, timeout=0):
            assert not is_free(store)
        assert not is_free(store)
    assert is_free(store)


def test_a_lock_is_waited_for_briefly(store: Store) -> None:
    """The timeout ends in an error with a remedy, and the lock can be had as soon as it is free."""

    def attempt() -> None:
        with store.lock(KEY, NAME, timeout=0.05):
            pytest.fail("two hold one lock")

    with ThreadPoolExecutor(1) as other, store.lock(KEY, NAME, timeout=0):
        waiting = other.submit(attempt)
        with pytest.raises(LockTimeoutError, match="lock_timeout"):
            waiting.result()
    assert is_free(store)


def test_threads_that_wait_lose_nothing(store: Store) -> None:
    """Read, add, write, each in a block of its own: no write meets another version than it read."""
    put(store, KEY, b"0", f"{0:016x}")

    def increment(_: int) -> None:
        for _ in range(5):
            with store.lock(KEY, NAME, timeout=60):
                found = store.read(KEY, NAME)
                assert found is not None
                count = int(found.data) + 1
                assert put(store, KEY, b"%d" % count, f"{count:016x}", found.version)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(increment, range(8)))
    assert store.read(KEY, NAME) == Stored(b"40", f"{40:016x}")


def test_a_lock_hinders_no_write(store: Store) -> None:
    """It is between exclusive blocks: others go by the version."""
    with store.lock(KEY, NAME, timeout=0), ThreadPoolExecutor(1) as other:
        assert other.submit(put, store, KEY, b"one", V1).result()
        assert other.submit(store.read, KEY, NAME).result() == Stored(b"one", V1)


def test_two_records_lock_apart(store: Store) -> None:
    """Of 20 other records hardly any shares its lock with this one: there are many, if a fixed number."""
    with store.lock(KEY, NAME, timeout=0):
        free = [is_free(store, hashlib.sha256(b"%d" % n).hexdigest()) for n in range(10)]
        free += [is_free(store, KEY, f"state-{n}") for n in range(10)]
    assert sum(free) >= 17


def test_memory_keeps_no_free_lock() -> None:
    """A new store has none, one that is held or waited for is one and the same, and it goes when it is free."""
    store = MemoryStore()
    assert len(store._locks) == 0
    for n in range(1000):
        with store.lock(f"{n:064x}", NAME, timeout=0), store.lock(f"{n:064x}", NAME, timeout=0):
            assert len(store._locks) == 1
    assert len(store._locks) == 0


# --- sweeps


def test_one_of_many_may_sweep(store: Store) -> None:
    """One of eight threads that ask again and again gets the turn, and only once."""
    put(store, KEY, b"one", V1)
    start = threading.Barrier(8)

    def ask(_: int) -> int:
        start.wait()
        return sum(store.begin_sweep(every=DAY) is not None for _ in range(5))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 1


def test_a_sweep_tells_the_one_before(store: Store) -> None:
    """The first one 0, the next one a day later the first one's time, and none earlier than that."""
    put(store, KEY, b"one", V1)
    turns = []
    for hours in (0, 1, 23, 25, 26, 48, 50):
        with time_machine.travel(1e9 + hours * 3600, tick=False):
            turns.append(store.begin_sweep(every=DAY))
    assert turns == [0.0, None, None, 1e9, None, None, 1e9 + 25 * 3600]


def test_a_sweep_can_be_asked_for(store: Store) -> None:
    """With `every=0` it is always the caller's turn, and noted as the newest sweep for all others."""
    put(store, KEY, b"one", V1)
    with time_machine.travel(1e9, tick=False):
        assert store.begin_sweep(every=DAY) == 0.0
        assert store.begin_sweep(every=0.0) == 1e9
    with time_machine.travel(1e9 + 20 * 3600, tick=False):
        assert store.begin_sweep(every=0.0) == 1e9
    with time_machine.travel(1e9 + 30 * 3600, tick=False):
        assert store.begin_sweep(every=DAY) is None


def test_a_sweep_from_2099_delays_none(store: Store) -> None:
    """A mark that lies in the future by more than a day is as good as an old one."""
    put(store, KEY, b"one", V1)
    with time_machine.travel(LATER, tick=False):
        assert store.begin_sweep(every=DAY) == 0.0
    assert store.begin_sweep(every=DAY) == LATER
    assert store.begin_sweep(every=DAY) is None


def test_only_what_expired_goes(store: Store) -> None:
    """It is counted, under each name; a record that has time left stays."""
    now = time.time()
    for n, seconds in enumerate((-3600, -2, 3600, DAY)):
        for name in (NAME, "other"):
            put_until(store, f"{n:064x}", now + seconds, name=name)
    assert store.delete_expired(before=now) == 4
    for name in (NAME, "other"):
        assert [n for n in range(4) if store.read(f"{n:064x}", name)] == [2, 3]
    assert store.delete_expired(before=now) == 0
    with time_machine.travel(now + 2 * DAY):
        assert store.delete_expired(before=now + 2 * DAY) == 4


@pytest.mark.parametrize(("before", "now"), [(-10.0, 10.0), (10.0, -10.0), (-10.0, -10.0)])
def test_what_expired_at_one_time_stays(backend: Backend, before: float, now: float) -> None:
    """A record, or one set aside, has to be expired at the sweep before and at this one."""
    put_until(backend.store, KEY, 1e9)
    put(backend.store, OTHER, b"aside", V1)
    set_aside(backend.store, OTHER, 1e9)
    with time_machine.travel(1e9 + now, tick=False):
        assert backend.store.delete_expired(before=1e9 + before) == 0
    assert backend.store.read(KEY, NAME) == Stored(b"one", V1)
    assert backend.kept(OTHER, NAME) == [b"aside"]
    with time_machine.travel(1e9 + 10, tick=False):
        assert backend.store.delete_expired(before=1e9 + 10) == 2
    assert backend.kept(OTHER, NAME) == []


def sweep(store: Store, at: float) -> int | None:
    """Return how much a sweep at this time removed, None if it was not its turn."""
    with time_machine.travel(at, tick=False):
        before = store.begin_sweep(every=DAY)
        return None if before is None else store.delete_expired(before=before)


def test_one_wrong_clock_removes_nothing(backend: Backend) -> None:
    """All stays while it is 40 days later for a moment; two proper sweeps later only the expired record is gone."""
    store, start = backend.store, 1e9
    put_until(store, KEY, start + 30 * DAY)
    put_until(store, OTHER, start + DAY)
    put(store, SIMILAR, b"aside", V1)
    set_aside(store, SIMILAR, start + 30 * DAY)
    assert sweep(store, start) == 0
    assert sweep(store, start + 40 * DAY) == 0
    assert sweep(store, start + 3600) == 0
    for key in (KEY, OTHER):
        assert store.read(key, NAME) == Stored(b"one", V1)
    assert sweep(store, start + 2 * DAY) == 0, "found expired for the first time"
    assert sweep(store, start + 3 * DAY + 1) == 1
    assert store.read(OTHER, NAME) is None
    assert store.read(KEY, NAME) == Stored(b"one", V1)
    assert backend.kept(SIMILAR, NAME) == [b"aside"]


def test_an_empty_store_can_be_swept(store: Store) -> None:
    """There is nothing to remove."""
    assert store.delete_expired(before=time.time()) == 0


def test_what_was_aside_expires(backend: Backend) -> None:
    """Each copy at its own time; what is still kept stays in its order."""
    now = time.time()
    for n, days in enumerate((3, 1, 2)):
        put(backend.store, KEY, b"%d" % n, V1)
        set_aside(backend.store, KEY, now + days * DAY)
    put(backend.store, KEY, b"now", V2)
    left = []
    for hours in (0, 25, 49, 73):
        with time_machine.travel(now + hours * 3600):
            left.append((backend.store.delete_expired(before=LATER), backend.kept(KEY, NAME)))
    assert left == [(0, [b"0", b"1", b"2"]), (1, [b"0", b"2"]), (1, [b"0"]), (1, [])]
    assert backend.store.read(KEY, NAME) == Stored(b"now", V2)


def test_a_visit_during_the_sweep_counts(store: Store) -> None:
    """A visitor who renewed an expired record while a sweep went on has it; one who came too late was told."""
    keys = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(50)]
    for key in keys:
        put_until(store, key, time.time() - 10)
    start = threading.Barrier(2)

    def sweep() -> int:
        start.wait()
        return store.delete_expired(before=time.time())

    with ThreadPoolExecutor(1) as other:
        removed = other.submit(sweep)
        start.wait()
        renewed = {key: put(store, key, b"new", V2, V1) for key in keys}
    assert removed.result() + sum(renewed.values()) == len(keys)
    for key in keys:
        assert store.read(key, NAME) == (Stored(b"new", V2) if renewed[key] else None)
