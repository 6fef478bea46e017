"""The file store on a healthy disk: the places of files, who may read them, and the folders that it trusts."""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import stat
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import time_machine
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st

from persist_session.errors import ConfigurationError, LockTimeoutError, StoreError
from persist_session.stores import FileStore, Stored
from persist_session.stores.layout import is_expired, shards
from support.stores import LATER, NAME, put, set_aside

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "ab" + "c" * 62
V1, V2 = "1" * 16, "2" * 16
FOLDERS = [".", "ab"]


@pytest.fixture
def umask_0() -> Iterator[None]:
    """Set the umask that hides no loose mode."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of the store, not made yet."""
    return tmp_path / "state"


def file_of(root: Path, end: str = "pickle") -> Path:
    """Return the path of the record, or of a file beside it."""
    return root / "ab" / f"{KEY}.{NAME}.{end}"


def put_expired(store: FileStore, key: str = KEY) -> None:
    """Write a first record whose time is over."""
    assert store.write(key, NAME, b"old", version=V1, based_on=None, expires_at=time.time() - 10)


def sweep(store: FileStore) -> int:
    """Remove what has expired by now, and return how much that was."""
    return store.delete_expired(before=LATER)


def files_in(root: Path) -> list[Path]:
    """Return all files but the locks'."""
    return sorted(each for each in root.rglob("*") if each.is_file() and each.parent != root / ".locks")


def refuses_everything(store: FileStore, says: str) -> None:
    """Assert that every method raises a `ConfigurationError` that matches."""
    calls = (
        lambda: store.read(KEY, NAME),
        lambda: put(store, KEY, b"two", V2, V1),
        lambda: store.names(KEY),
        lambda: set_aside(store, KEY, LATER),
        lambda: store.delete(KEY, NAME),
    )
    for call in calls:
        with pytest.raises(ConfigurationError, match=says):
            call()


# --- places


def test_a_record_is_one_file(root: Path) -> None:
    """`<root>/<2 hex>/<visitor key>.<name>.pickle`: version and expiry in a readable line, then the bytes."""
    put(FileStore(root), KEY, b"sealed", V1)
    assert files_in(root) == [file_of(root)]
    assert file_of(root).read_bytes() == b"persist-session 1 1111111111111111 4000000000\nsealed"
    assert len(list((root / ".locks").iterdir())) == 1


def test_a_visitors_files_share_a_shard(root: Path) -> None:
    """One folder for all names, without folders inside: there are 256 at most, however many visitors and names."""
    store = FileStore(root)
    for name in ("cart", "app-state", "a.b"):
        put(store, KEY, b"one", V1, name=name)
    set_aside(store, KEY, LATER, name="a.b")
    names = ["a.b.0.aside", "app-state.pickle", "cart.pickle"]
    assert files_in(root) == [root / "ab" / f"{KEY}.{name}" for name in names]
    assert sorted(each.name for each in root.iterdir()) == [".locks", "ab"]


def test_nothing_is_made_before_writing(root: Path) -> None:
    """Reading, listing, deleting, setting aside and sweeping leave no folder behind."""
    store = FileStore(root)
    assert store.read(KEY, NAME) is None
    assert store.names(KEY) == []
    store.delete(KEY, NAME)
    set_aside(store, KEY, LATER)
    assert store.begin_sweep(every=0.0) is None
    assert sweep(store) == 0
    assert not root.exists()


def test_files_and_folders_are_private(tmp_path: Path, umask_0: None) -> None:
    """Mode 0600 for records and what is set aside, 0700 for all folders that were missing, under any umask."""
    root = tmp_path / "parent" / "state"
    store = FileStore(root)
    put(store, KEY, b"one", V1)
    set_aside(store, KEY, LATER)
    put(store, KEY, b"one", V1)
    with store.lock(KEY, NAME, timeout=0):
        assert store.begin_sweep(every=0.0) == 0.0
    made = list(tmp_path.rglob("*"))
    assert len(files_in(root)) == 2
    assert len(list((root / ".locks").iterdir())) == 4, "write, block, sweep, and when"
    assert {stat.S_IMODE(each.stat().st_mode) for each in made if each.is_file()} == {0o600}
    assert {stat.S_IMODE(each.stat().st_mode) for each in made if each.is_dir()} == {0o700}


def test_what_is_aside_tells_its_expiry(root: Path) -> None:
    """The modification time of the file is when it expires."""
    store = FileStore(root)
    put(store, KEY, b"one", V1)
    set_aside(store, KEY, 3e9)
    assert file_of(root, "0.aside").stat().st_mtime == 3e9


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"persist-session 1 1111111111111111 4000000000",
        b"persist-session 2 1111111111111111 4000000000\nsealed",
        b"persist-session 1 111111111111111g 4000000000\nsealed",
        b"\x00" * 100,
        b"x" * 100_000,
    ],
    ids=["empty", "cut short", "another format", "no version", "zeros", "long"],
)
def test_a_damaged_file_can_be_aside(root: Path, content: bytes) -> None:
    """A file whose first line is damaged is read as a whole, with no version; set aside, it makes way."""
    store = FileStore(root)
    put(store, KEY, b"one", V1)
    file_of(root).write_bytes(content)
    assert store.read(KEY, NAME) == Stored(content, "")
    assert store.names(KEY) == [NAME]
    assert not put(store, KEY, b"two", V2)
    set_aside(store, KEY, LATER)
    assert file_of(root, "0.aside").read_bytes() == content
    assert put(store, KEY, b"two", V2)


def test_names_open_no_record(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One listing of one folder finds them, also where a record could not be read."""
    store = FileStore(root)
    for name in ("cart", "app-state"):
        put(store, KEY, b"one", V1, name=name)
    scandir, listed = os.scandir, list[Path]()

    def listing(folder: Path) -> Any:
        listed.append(folder)
        return scandir(folder)

    def failing(*_: object) -> int:
        pytest.fail("a file was opened")

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", listing)
        patch.setattr(os, "open", failing)
        patch.setattr("builtins.open", failing)
        assert store.names(KEY) == ["app-state", "cart"]
    assert listed == [root / "ab"]


def test_strangers_are_no_names(root: Path) -> None:
    """Temporary files, and files that somebody else put into the folder, are none of a visitor's."""
    store = FileStore(root)
    put(store, KEY, b"one", V1)
    for end in (f"cart.{'0' * 16}.tmp", "pickle", "not a name.pickle", "cart.pickle.bak", f"{'a' * 65}.pickle"):
        (root / "ab" / f"{KEY}.{end}").touch()
    assert store.names(KEY) == [NAME]


# --- arguments


@given(st.text(max_size=80))
def test_no_name_leads_out(name: str) -> None:
    """Any text that is no valid name is refused, before the disk is touched."""
    if not name.isascii() or not name.strip(".") or set(name) & set("/\\\0\n "):
        with pytest.raises(ConfigurationError, match="`name`"):
            FileStore("/nonexistent").read(KEY, name)


@pytest.mark.parametrize("name", [".", "..", "." * 64, "", "a/b", "../x", "a\0", "é", "a" * 65, "a\n"])
def test_a_path_is_no_name(root: Path, name: str) -> None:
    """Paths are refused before anything is made, above all `.` and `..`, which have only valid characters."""
    with pytest.raises(ConfigurationError, match="`name`"):
        put(FileStore(root), KEY, b"one", V1, name=name)
    assert not root.exists()


@pytest.mark.parametrize("key", ["", "../../x", "A" * 64, "a" * 63, "a" * 64 + "\n", NAME])
def test_only_a_visitor_key_will_do(root: Path, key: str) -> None:
    """64 lowercase hex characters become a file name, and nothing else."""
    store = FileStore(root)
    for call in (lambda: store.read(key, NAME), lambda: store.names(key)):
        with pytest.raises(ConfigurationError, match="`key`"):
            call()


@pytest.mark.parametrize("version", ["", "short", "1" * 15 + "\n", "1" * 17])
def test_another_versions_shape_is_refused(root: Path, version: str) -> None:
    """A version that is not 16 hex characters would make a first line that can't be read back."""
    with pytest.raises(ConfigurationError, match="`version`"):
        put(FileStore(root), KEY, b"one", version)


def test_a_relative_root_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing the working directory later doesn't move the records."""
    monkeypatch.chdir(tmp_path)
    store = FileStore("state")
    put(store, KEY, b"one", V1)
    monkeypatch.chdir("/")
    assert store.read(KEY, NAME) == Stored(b"one", V1)


def test_the_repr_names_the_folder() -> None:
    """A developer prints the settings."""
    assert repr(FileStore("/srv/state", strict=True)) == "FileStore('/srv/state', strict=True)"


# --- trust


@pytest.mark.parametrize("where", FOLDERS)
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_strict_refuses_folders_others_write(root: Path, where: str, mode: int) -> None:
    """The root, or a folder in it: nothing is read, written, listed, set aside or deleted there."""
    store = FileStore(root, strict=True)
    put(store, KEY, b"one", V1)
    (root / where).chmod(mode)
    refuses_everything(store, f"chmod 700 {(root / where)}$")
    (root / where).chmod(0o700)
    assert store.read(KEY, NAME) == Stored(b"one", V1)


@pytest.mark.parametrize("where", FOLDERS)
def test_strict_refuses_a_symlinked_folder(root: Path, tmp_path: Path, where: str) -> None:
    """The root, or a folder in it, even where the link leads to a good folder."""
    store = FileStore(root, strict=True)
    put(store, KEY, b"one", V1)
    (root / where).rename(tmp_path / "elsewhere")
    (root / where).symlink_to(tmp_path / "elsewhere")
    refuses_everything(store, "symlink")


def test_strict_refuses_a_dangling_symlink(root: Path, tmp_path: Path) -> None:
    """Nothing is made at the other end."""
    root.symlink_to(tmp_path / "elsewhere")
    refuses_everything(FileStore(root, strict=True), "symlink")
    assert not (tmp_path / "elsewhere").exists()


def test_strict_refuses_another_users_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could change it at any time."""
    store = FileStore(root, strict=True)
    put(store, KEY, b"one", V1)
    monkeypatch.setattr(os, "geteuid", lambda: root.stat().st_uid + 1)
    refuses_everything(store, "another user")


@pytest.mark.parametrize("strict", [True, False])
def test_a_file_is_no_root(root: Path, strict: bool) -> None:
    """Somebody's file is left alone."""
    root.write_bytes(b"mine")
    refuses_everything(FileStore(root, strict=strict), "not a folder")
    assert root.read_bytes() == b"mine"


@pytest.mark.parametrize("where", FOLDERS)
def test_a_world_writable_folder_is_refused(root: Path, where: str) -> None:
    """A configured store is not strict about the group, but about the world."""
    store = FileStore(root)
    put(store, KEY, b"one", V1)
    (root / where).chmod(0o777)
    refuses_everything(store, f"chmod o-w {(root / where)}$")


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("mode", [0o1777, 0o777], ids=["sticky", "named by TMPDIR"])
def test_nobody_is_to_close_tmp(root: Path, monkeypatch: pytest.MonkeyPatch, mode: int, strict: bool) -> None:
    """The remedy for a folder of everybody's temporary files is another folder, not a chmod that breaks the machine."""
    root.mkdir()
    root.chmod(mode)
    if not mode & stat.S_ISVTX:
        monkeypatch.setattr(tempfile, "tempdir", str(root))
    store = FileStore(root, strict=strict)
    refuses_everything(store, "choose another folder")
    with pytest.raises(ConfigurationError) as caught:
        store.read(KEY, NAME)
    assert "chmod" not in str(caught.value)


def test_a_group_writable_folder_warns_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A Kubernetes volume: it works, with one WARNING however many folders, calls and threads."""
    root.mkdir()
    root.chmod(0o2770)
    store = FileStore(root)
    with caplog.at_level(logging.WARNING, "persist_session"):
        put(store, KEY, b"one", V1)
        (root / "ab").chmod(0o770)
        threads = [threading.Thread(target=store.read, args=(KEY, NAME)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(root) in caplog.text


def test_a_configured_symlink_is_followed(root: Path, tmp_path: Path) -> None:
    """A configured root may be a link to a volume: the one who configures it decides where it leads."""
    (tmp_path / "volume").mkdir(0o700)
    root.symlink_to(tmp_path / "volume")
    put(FileStore(root), KEY, b"one", V1)
    assert FileStore(tmp_path / "volume").read(KEY, NAME) == Stored(b"one", V1)


@pytest.mark.parametrize("strict", [True, False])
def test_a_symlinked_record_is_not_followed(root: Path, tmp_path: Path, strict: bool) -> None:
    """It is neither read nor written through; deleting removes the link, and leaves its target."""
    store = FileStore(root, strict=strict)
    put(store, KEY, b"one", V1)
    target = tmp_path / "target"
    file_of(root).rename(target)
    file_of(root).symlink_to(target)
    with pytest.raises(StoreError):
        store.read(KEY, NAME)
    with pytest.raises(StoreError):
        put(store, KEY, b"two", V2, V1)
    store.delete(KEY, NAME)
    assert not os.path.lexists(file_of(root))
    assert target.read_bytes().endswith(b"\none")


def test_a_pipe_is_no_record(root: Path) -> None:
    """Reading neither waits for somebody to write into the pipe, nor crashes on a folder in its place."""
    store = FileStore(root)
    put(store, KEY, b"one", V1)
    file_of(root).unlink()
    os.mkfifo(file_of(root))
    with pytest.raises(StoreError, match=r"(?i)not a regular file"):
        store.read(KEY, NAME)
    file_of(root).unlink()
    file_of(root).mkdir()
    with pytest.raises(StoreError):
        store.read(KEY, NAME)


# --- locks


def test_the_number_of_locks_is_fixed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that are written, locked and deleted leave a fixed number of locks beside them, all empty."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power will fail
    monkeypatch.setattr("persist_session.stores.file._BLOCK_LOCKS", 16)  # of 1024: fewer records tell as much
    store = FileStore(root)
    keys = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(200)]
    for key in keys:
        with store.lock(key, NAME, timeout=0):
            assert put(store, key, b"one", V1)
    locks = sorted((root / ".locks").iterdir())
    assert len([each for each in locks if each.name.startswith("write-")]) <= 64
    assert len([each for each in locks if each.name.startswith("block-")]) == 16
    assert len(locks) <= 64 + 16
    assert {each.stat().st_size for each in locks} == {0}
    assert len(files_in(root)) == len(keys)
    for key in keys[:20]:
        store.delete(key, NAME)
    assert sorted((root / ".locks").iterdir()) == locks


def test_stores_of_one_folder_share_locks(root: Path) -> None:
    """A second store waits for the first one, and does not sweep again, as in two processes."""
    one, other = FileStore(root), FileStore(root)
    put(one, KEY, b"one", V1)
    with one.lock(KEY, NAME, timeout=0), ThreadPoolExecutor(1) as thread, pytest.raises(LockTimeoutError):
        thread.submit(other.lock(KEY, NAME, timeout=0).__enter__).result()
    assert one.begin_sweep(every=60.0) is not None
    assert other.begin_sweep(every=60.0) is None


def test_other_processes_see_the_lock(root: Path) -> None:
    """The outermost block holds it: no end of an inner one frees it, and no exception leaves it behind."""
    store = FileStore(root)
    with store.lock(KEY, NAME, timeout=0):
        with store.lock(KEY, NAME, timeout=0):
            assert is_locked(root)
        assert is_locked(root)
    assert not is_locked(root)
    with pytest.raises(ZeroDivisionError), store.lock(KEY, NAME, timeout=0):
        raise ZeroDivisionError
    assert not is_locked(root)


def is_locked(root: Path) -> bool:
    """Tell whether another process could not lock the one file of a lock."""
    [path] = (root / ".locks").iterdir()
    try:
        with FileLock(path, timeout=0):  # opened anew, as another process would
            return False
    except Timeout:
        return True


# --- sweeps


def test_a_sweep_removes_killed_writers_files(root: Path) -> None:
    """They go after an hour, of any visitor; a younger file may be in use, and a stranger's is left alone."""
    put(FileStore(root), KEY, b"one", V1)
    old, young = file_of(root, f"{'0' * 16}.tmp"), file_of(root, f"{'1' * 16}.tmp")
    others, stranger = root / "ab" / f"ab{'f' * 62}.a.b.{'2' * 16}.tmp", root / "ab" / "notes.tmp"
    for file, age in ((old, 3700), (others, 3700), (young, 3500), (stranger, 10**6)):
        file.write_bytes(b"half")
        moment = time.time() - age
        os.utime(file, (moment, moment))
    assert FileStore(root).delete_expired(before=time.time() - 200) == 0, "not yet old at the sweep before"
    assert sweep(FileStore(root)) == 2
    assert files_in(root) == sorted([file_of(root), young, stranger])


def test_one_wrong_clock_ends_no_write(root: Path) -> None:
    """Temporary files are in use for much longer than a moment in which it is 40 days later."""
    put(FileStore(root), KEY, b"one", V1)
    file_of(root, f"{'0' * 16}.tmp").write_bytes(b"half")
    with time_machine.travel(time.time() + 40 * 86400):
        assert FileStore(root).delete_expired(before=time.time() - 40 * 86400) == 0
    assert len(files_in(root)) == 2


def test_strangers_do_not_end_a_sweep(root: Path) -> None:
    """A symlink in a record's place stays; a folder that can't be trusted is told of when all others are swept."""
    store = FileStore(root)
    for number in range(3):
        put_expired(store, f"{number:02x}" + "0" * 62)
    refused, *others = shards(root)
    link = others[0] / f"{others[0].name}{'f' * 62}.{NAME}.pickle"
    link.symlink_to("/nowhere")
    refused.chmod(0o777)
    with pytest.raises(ConfigurationError):
        sweep(store)
    assert {*root.rglob("*.pickle")} == {link, *refused.iterdir()}
    assert link.is_symlink()


@pytest.mark.parametrize(
    "content", [b"", b"persist-session 1 1111111111111111 0", b"x" * 200], ids=["empty", "cut", "long"]
)
def test_a_sweep_keeps_damaged_records(root: Path, content: bytes) -> None:
    """Their expiry can't be told: the visitor who reads one is to find it damaged, and it is then set aside."""
    store = FileStore(root)
    put(store, KEY, b"one", V1)
    file_of(root).write_bytes(content)
    assert sweep(store) == 0
    assert store.read(KEY, NAME) == Stored(content, "")


def test_a_sweep_looks_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that is renewed between look and removal stays, since the second look is under the lock."""
    store = FileStore(root)
    put_expired(store)
    looked: list[Path] = []

    def renew_after_the_first_look(path: Path, now: float) -> bool:
        expired = is_expired(path, now)
        if not looked:
            put(store, KEY, b"new", V2, V1)
        looked.append(path)
        return expired

    monkeypatch.setattr("persist_session.stores.file.is_expired", renew_after_the_first_look)
    assert sweep(store) == 0
    assert store.read(KEY, NAME) == Stored(b"new", V2)


def test_a_record_may_vanish_meanwhile(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A visitor cleared it after the folder was listed, or another process was faster: that is no error."""
    store = FileStore(root)
    put_expired(store)

    def cleared_before(path: Path, now: float) -> bool:
        store.delete(KEY, NAME)
        return is_expired(path, now)

    monkeypatch.setattr("persist_session.stores.file.is_expired", cleared_before)
    assert sweep(store) == 0


def test_a_sweep_rests_after_each_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It rests `pause` times as long as the folder took."""
    store = FileStore(root)
    for key in (KEY, "f" * 64):
        put(store, key, b"one", V1)
    rests: list[float] = []
    seconds = itertools.count()
    clock = SimpleNamespace(time=time.time, thread_time=lambda: float(next(seconds)), sleep=rests.append)
    monkeypatch.setattr("persist_session.stores.file.time", clock)
    store.delete_expired(before=LATER, pause=3)
    assert rests == [3.0, 3.0]


@pytest.mark.parametrize("where", FOLDERS)
def test_no_sweep_where_others_write(root: Path, where: str) -> None:
    """A sweep refuses a folder whose writers could lead it to files that are none of its business."""
    store = FileStore(root, strict=True)
    put_expired(store)
    (root / where).chmod(0o777)
    with pytest.raises(ConfigurationError, match="chmod"):
        sweep(store)
    assert file_of(root).exists()


def test_a_failing_sweep_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `StoreError` with the backend's as its cause, whoever asked for it."""

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    store = FileStore(root)
    put_expired(store)
    monkeypatch.setattr(Path, "unlink", failing)
    monkeypatch.setattr(Path, "touch", failing)
    for call in (lambda: sweep(store), lambda: store.begin_sweep(every=0.0)):
        with pytest.raises(StoreError, match="sweep") as caught:
            call()
        assert isinstance(caught.value.__cause__, OSError)
