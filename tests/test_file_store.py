"""The file store on a healthy disk: where files lie, who may read them, and which folders it trusts."""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import time_machine
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st

from persist_session.errors import ConfigurationError, LockTimeoutError, StoreError
from persist_session.stores import FileStore, Stored
from persist_session.stores.layout import is_expired, shards
from support.stores import set_aside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME, KEY = "app-state", "ab" + "c" * 62
V1, V2 = "1" * 16, "2" * 16
LATER = 4e9
FOLDERS = [".", NAME, f"{NAME}/ab"]


@pytest.fixture
def umask_0() -> Iterator[None]:
    """The umask that hides no loose mode."""
    before = os.umask(0)
    yield
    os.umask(before)


def put(
    store: FileStore, data: bytes = b"one", version: str = V1, based_on: str | None = None, name: str = NAME
) -> bool:
    """Write with an expiry that no test cares about."""
    return store.write(name, KEY, data, version=version, based_on=based_on, expires_at=LATER)


def file_of(root: Path) -> Path:
    """Where the record lies."""
    return root / NAME / "ab" / f"{KEY}.pickle"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of the store, not made yet."""
    return tmp_path / "state"


def test_a_record_is_one_file_with_a_readable_first_line(root: Path) -> None:
    """`<root>/<name>/<2 hex>/<record key>.pickle`: version and expiry in a line, then the bytes; beside it, a lock."""
    put(FileStore(root), b"sealed")
    files = [each for each in root.rglob("*") if each.is_file()]
    assert [each for each in files if each.parent != root / ".locks"] == [file_of(root)]
    assert len(files) == 2
    assert file_of(root).read_bytes() == b"persist-session 1 1111111111111111 4000000000\nsealed"


def test_nothing_is_made_before_the_first_write(root: Path) -> None:
    """Reading, deleting and setting aside leave no folder behind."""
    store = FileStore(root)
    store.read(NAME, KEY)
    store.delete(NAME, KEY)
    set_aside(store, KEY, LATER)
    assert not root.exists()


def test_files_and_folders_are_private_under_any_umask(tmp_path: Path, umask_0: None) -> None:
    """Mode 0600 for records and what is set aside, 0700 for all folders that were missing."""
    root = tmp_path / "parent" / "state"
    store = FileStore(root)
    put(store)
    set_aside(store, KEY, LATER)
    put(store)
    with store.lock(NAME, KEY, timeout=0):
        assert store.claim_sweep()
    made = list(tmp_path.rglob("*"))
    files = [each for each in made if each.is_file()]
    assert len([each for each in files if each.parent != root / ".locks"]) == 2
    assert len([each for each in files if each.parent == root / ".locks"]) == 4, "write, block, sweep, and when"
    assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}
    assert {stat.S_IMODE(each.stat().st_mode) for each in made if each.is_dir()} == {0o700}


def test_what_is_set_aside_tells_when_it_expires(root: Path) -> None:
    """The modification time of the file is its expiry."""
    store = FileStore(root)
    put(store)
    set_aside(store, KEY, 3e9)
    assert file_of(root).with_suffix(".0.aside").stat().st_mtime == 3e9


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
)
def test_a_file_with_a_damaged_first_line_can_be_set_aside(root: Path, content: bytes) -> None:
    """It is read as a whole, with no version; set aside, it makes way for a fresh record."""
    store = FileStore(root)
    put(store)
    file_of(root).write_bytes(content)
    assert store.read(NAME, KEY) == Stored(content, "")
    assert not put(store, b"two", V2, None)
    set_aside(store, KEY, LATER)
    assert file_of(root).with_suffix(".0.aside").read_bytes() == content
    assert put(store, b"two", V2, None)


@given(st.text(max_size=80))
def test_no_name_leads_out_of_the_root(name: str) -> None:
    """Any text that is no valid name is refused, before the disk is touched."""
    if not name.isascii() or not name.strip(".") or set(name) & set("/\\\0\n "):
        with pytest.raises(ConfigurationError, match="`name`"):
            FileStore("/nonexistent").read(name, KEY)


@pytest.mark.parametrize("name", [".", "..", "", "a/b", "../x", "a\0", "é", "a" * 65, "a\n"])
def test_a_name_that_is_a_path_is_refused(root: Path, name: str) -> None:
    """Above all `.` and `..`, which have only valid characters."""
    with pytest.raises(ConfigurationError, match="`name`"):
        put(FileStore(root), name=name)
    assert not root.exists()


@pytest.mark.parametrize("key", ["", "../../x", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_a_key_that_is_no_record_key_is_refused(root: Path, key: str) -> None:
    """Only 64 lowercase hex characters become a file name."""
    with pytest.raises(ConfigurationError, match="`key`"):
        FileStore(root).read(NAME, key)


@pytest.mark.parametrize("version", ["", "short", "1" * 15 + "\n", "1" * 17])
def test_a_version_of_another_shape_is_refused(root: Path, version: str) -> None:
    """It would make a first line that can't be read back."""
    with pytest.raises(ConfigurationError, match="`version`"):
        put(FileStore(root), version=version)


def test_a_relative_root_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing the working directory later doesn't move the records."""
    monkeypatch.chdir(tmp_path)
    store = FileStore("state")
    put(store)
    monkeypatch.chdir("/")
    assert store.read(NAME, KEY) == Stored(b"one", V1)


@pytest.mark.parametrize("where", FOLDERS)
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_strict_store_refuses_folders_that_others_can_write(root: Path, where: str, mode: int) -> None:
    """The root, or a folder in it: nothing is read, written, set aside or deleted there."""
    store = FileStore(root, strict=True)
    put(store)
    (root / where).chmod(mode)
    refuses_everything(store, "chmod 700")
    (root / where).chmod(0o700)
    assert store.read(NAME, KEY) == Stored(b"one", V1)


@pytest.mark.parametrize("where", FOLDERS)
def test_a_strict_store_refuses_a_symlink_in_place_of_a_folder(root: Path, tmp_path: Path, where: str) -> None:
    """The root, or a folder in it, even where the link leads to a good folder."""
    store = FileStore(root, strict=True)
    put(store)
    (root / where).rename(tmp_path / "elsewhere")
    (root / where).symlink_to(tmp_path / "elsewhere")
    refuses_everything(store, "symlink")


def test_a_strict_store_refuses_a_symlink_to_nothing(root: Path, tmp_path: Path) -> None:
    """Nothing is made at the other end."""
    root.symlink_to(tmp_path / "elsewhere")
    refuses_everything(FileStore(root, strict=True), "symlink")
    assert not (tmp_path / "elsewhere").exists()


def test_a_strict_store_refuses_folders_of_another_user(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their owner could change them at any time."""
    store = FileStore(root, strict=True)
    put(store)
    monkeypatch.setattr(os, "geteuid", lambda: root.stat().st_uid + 1)
    refuses_everything(store, "another user")


@pytest.mark.parametrize("strict", [True, False])
def test_a_file_in_place_of_the_root_is_refused(root: Path, strict: bool) -> None:
    """Somebody's file is left alone."""
    root.write_bytes(b"mine")
    refuses_everything(FileStore(root, strict=strict), "not a folder")
    assert root.read_bytes() == b"mine"


@pytest.mark.parametrize("where", FOLDERS)
def test_a_configured_folder_that_everybody_can_write_is_refused(root: Path, where: str) -> None:
    """Not strict about the group, but about the world."""
    store = FileStore(root)
    put(store)
    (root / where).chmod(0o777)
    refuses_everything(store, "chmod o-w")


def test_a_configured_folder_that_its_group_can_write_warns_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A Kubernetes volume: it works, with one WARNING however many folders, calls and threads."""
    root.mkdir()
    root.chmod(0o2770)
    store = FileStore(root)
    with caplog.at_level(logging.WARNING, "persist_session"):
        put(store)
        (root / NAME).chmod(0o770)
        threads = [threading.Thread(target=store.read, args=(NAME, KEY)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(root) in caplog.text


def test_a_configured_folder_may_be_a_symlink(root: Path, tmp_path: Path) -> None:
    """Who configures a folder decides where it leads."""
    (tmp_path / "volume").mkdir(0o700)
    root.symlink_to(tmp_path / "volume")
    put(FileStore(root))
    assert FileStore(tmp_path / "volume").read(NAME, KEY) == Stored(b"one", V1)


@pytest.mark.parametrize("strict", [True, False])
def test_a_symlink_in_place_of_a_record_is_not_followed(root: Path, tmp_path: Path, strict: bool) -> None:
    """It is neither read nor written through; deleting removes the link, not what it leads to."""
    store = FileStore(root, strict=strict)
    put(store)
    target = tmp_path / "target"
    file_of(root).rename(target)
    file_of(root).symlink_to(target)
    with pytest.raises(StoreError):
        store.read(NAME, KEY)
    with pytest.raises(StoreError):
        put(store, b"two", V2, V1)
    store.delete(NAME, KEY)
    assert not os.path.lexists(file_of(root))
    assert target.read_bytes().endswith(b"\none")


def test_a_pipe_or_folder_in_place_of_a_record_is_an_error(root: Path) -> None:
    """Reading neither waits for somebody to write into the pipe, nor crashes on the folder."""
    store = FileStore(root)
    put(store)
    file_of(root).unlink()
    os.mkfifo(file_of(root))
    with pytest.raises(StoreError, match=r"(?i)not a regular file"):
        store.read(NAME, KEY)
    file_of(root).unlink()
    file_of(root).mkdir()
    with pytest.raises(StoreError):
        store.read(NAME, KEY)


def test_stale_temporary_files_are_removed_by_a_sweep(root: Path) -> None:
    """Left by killed writers of any record: gone after an hour; younger ones may be in use and stay."""
    put(FileStore(root))
    folder = file_of(root).parent
    old, young = folder / f"{KEY}.{'0' * 16}.tmp", folder / f"{'f' * 64}.{'1' * 16}.tmp"
    for file, age in ((old, 3700), (young, 3500)):
        file.write_bytes(b"half")
        moment = file.stat().st_mtime - age
        os.utime(file, (moment, moment))
    assert FileStore(root).delete_expired() == 1
    assert not old.exists()
    assert young.exists()


def test_what_is_no_record_does_not_end_a_sweep(root: Path) -> None:
    """A symlink in a record's place stays, and a folder that can't be read is told of when all others are swept."""
    store = FileStore(root)
    keys = [f"{number:02x}" + "0" * 62 for number in range(3)]
    for key in keys:
        assert store.write(NAME, key, b"one", version=V1, based_on=None, expires_at=1.0)
    refused, *others = shards(root)
    link = others[0] / f"{others[0].name}{'f' * 62}.pickle"
    link.symlink_to("/nowhere")
    refused.chmod(0o777)
    with pytest.raises(ConfigurationError):
        store.delete_expired()
    assert {*root.rglob("*.pickle")} == {link, *refused.iterdir()}
    assert link.is_symlink()


def test_the_repr_names_the_folder() -> None:
    """For the developer who prints the settings."""
    assert repr(FileStore("/srv/state", strict=True)) == "FileStore('/srv/state', strict=True)"


# --- locks


def test_three_thousand_records_share_a_fixed_number_of_locks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are written, locked and deleted: beside the records lie at most 64 and 1024 files, all empty."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power will fail
    store = FileStore(root)
    keys = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(3000)]
    for key in keys:
        with store.lock(NAME, key, timeout=0):
            assert store.write(NAME, key, b"one", version=V1, based_on=None, expires_at=LATER)
    locks = list((root / ".locks").iterdir())
    assert len([each for each in locks if each.name.startswith("write-")]) <= 64
    assert len(locks) <= 64 + 1024
    assert {each.stat().st_size for each in locks} == {0}
    assert len([each for each in (root / NAME).rglob("*") if each.is_file()]) == len(keys)
    for key in keys[:100]:
        store.delete(NAME, key)
    assert {*(root / ".locks").iterdir()} == {*locks}


def test_two_stores_of_one_folder_share_locks_and_turns(root: Path) -> None:
    """As two processes would: the second one waits, and does not sweep again."""
    one, other = FileStore(root), FileStore(root)
    put(one)
    with one.lock(NAME, KEY, timeout=0), ThreadPoolExecutor(1) as thread, pytest.raises(LockTimeoutError):
        thread.submit(other.lock(NAME, KEY, timeout=0).__enter__).result()
    assert one.claim_sweep()
    assert not other.claim_sweep()


def test_other_processes_see_a_lock_for_as_long_as_the_outermost_block(root: Path) -> None:
    """It is the system's: neither the end of an inner block frees it, nor does an exception leave it behind."""
    store = FileStore(root)
    with store.lock(NAME, KEY, timeout=0):
        with store.lock(NAME, KEY, timeout=0):
            assert held_by_this_process(root)
        assert held_by_this_process(root)
    assert not held_by_this_process(root)
    with pytest.raises(ZeroDivisionError), store.lock(NAME, KEY, timeout=0):
        raise ZeroDivisionError
    assert not held_by_this_process(root)


def held_by_this_process(root: Path) -> bool:
    """Whether another process could not lock the one file of a lock."""
    [path] = (root / ".locks").iterdir()
    try:
        with FileLock(path, timeout=0):  # opened anew, as another process would
            return False
    except Timeout:
        return True


# --- sweeps


def test_nothing_is_made_to_sweep_a_folder_that_is_not_there(root: Path) -> None:
    """There is no turn to take, and nothing to remove."""
    assert not FileStore(root).claim_sweep()
    assert FileStore(root).delete_expired() == 0
    assert not root.exists()


def test_a_clock_that_was_wrong_once_does_not_end_the_sweeps(root: Path) -> None:
    """The last sweep was in 2099, says the mark: the next one comes all the same."""
    store = FileStore(root)
    put(store)
    with time_machine.travel(LATER):
        assert store.claim_sweep()
    assert store.claim_sweep()
    assert not store.claim_sweep()


def test_a_sweep_removes_what_killed_writers_left(root: Path) -> None:
    """An hour later; a younger file may be in use, and a stranger's is left alone."""
    put(FileStore(root))
    folder = file_of(root).parent
    old, young = folder / f"{KEY}.{'0' * 16}.tmp", folder / f"{KEY}.{'1' * 16}.tmp"
    stranger = folder / "notes.tmp"
    for file, age in ((old, 3700), (young, 3500), (stranger, 10**6)):
        file.write_bytes(b"half")
        moment = time.time() - age
        os.utime(file, (moment, moment))
    assert FileStore(root).delete_expired() == 1
    assert sorted(folder.iterdir()) == sorted([file_of(root), young, stranger])


@pytest.mark.parametrize("content", [b"", b"persist-session 1 1111111111111111 0", b"x" * 200])
def test_a_sweep_keeps_a_damaged_record(root: Path, content: bytes) -> None:
    """Its expiry can't be told: the visitor who reads it is to find it damaged, and it is then set aside."""
    store = FileStore(root)
    put(store)
    file_of(root).write_bytes(content)
    assert store.delete_expired() == 0
    assert store.read(NAME, KEY) == Stored(content, "")


def test_a_record_that_is_renewed_between_look_and_removal_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep looks again under the lock."""
    store = FileStore(root)
    store.write(NAME, KEY, b"old", version=V1, based_on=None, expires_at=time.time() - 10)
    looked: list[Path] = []

    def renew_after_the_first_look(path: Path) -> bool:
        expired = is_expired(path)
        if not looked:
            put(store, b"new", V2, V1)
        looked.append(path)
        return expired

    monkeypatch.setattr("persist_session.stores.file.is_expired", renew_after_the_first_look)
    assert store.delete_expired() == 0
    assert store.read(NAME, KEY) == Stored(b"new", V2)


def test_a_record_that_goes_during_the_sweep_is_no_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A visitor cleared it after the folder was listed, or another process was faster."""
    store = FileStore(root)
    store.write(NAME, KEY, b"old", version=V1, based_on=None, expires_at=time.time() - 10)

    def cleared_before(path: Path) -> bool:
        store.delete(NAME, KEY)
        return is_expired(path)

    monkeypatch.setattr("persist_session.stores.file.is_expired", cleared_before)
    assert store.delete_expired() == 0


def test_a_sweep_rests_after_each_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For `pause` times as long as the folder took."""
    store = FileStore(root)
    for key in (KEY, "f" * 64):
        store.write(NAME, key, b"one", version=V1, based_on=None, expires_at=LATER)
    rests: list[float] = []
    seconds = itertools.count()
    clock = SimpleNamespace(time=time.time, thread_time=lambda: float(next(seconds)), sleep=rests.append)
    monkeypatch.setattr("persist_session.stores.file.time", clock)
    store.delete_expired(pause=3)
    assert rests == [3.0, 3.0]


@pytest.mark.parametrize("where", FOLDERS)
def test_a_strict_store_does_not_sweep_what_others_can_write(root: Path, where: str) -> None:
    """They could lead it to files that are none of its business."""
    store = FileStore(root, strict=True)
    store.write(NAME, KEY, b"old", version=V1, based_on=None, expires_at=time.time() - 10)
    (root / where).chmod(0o777)
    with pytest.raises(ConfigurationError, match="chmod"):
        store.delete_expired()
    assert file_of(root).exists()


def test_a_sweep_that_fails_is_a_store_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the backend's as its cause, whoever asked for it."""

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    store = FileStore(root)
    store.write(NAME, KEY, b"old", version=V1, based_on=None, expires_at=time.time() - 10)
    monkeypatch.setattr("pathlib.Path.unlink", failing)
    monkeypatch.setattr("pathlib.Path.touch", failing)
    for call in (store.delete_expired, store.claim_sweep):
        with pytest.raises(StoreError, match="sweep") as caught:
            call()
        assert isinstance(caught.value.__cause__, OSError)


def refuses_everything(store: FileStore, says: str) -> None:
    """Assert that every method raises a `ConfigurationError` that matches."""
    with pytest.raises(ConfigurationError, match=says):
        store.read(NAME, KEY)
    with pytest.raises(ConfigurationError, match=says):
        put(store, b"two", V2, V1)
    with pytest.raises(ConfigurationError, match=says):
        set_aside(store, KEY, LATER)
    with pytest.raises(ConfigurationError, match=says):
        store.delete(NAME, KEY)
