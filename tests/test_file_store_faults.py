"""The file store when things go wrong: killed and stopped writers, full and read-only disks, failing calls, rivals."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import time_machine
from filelock import FileLock

import persist_session
from persist_session.errors import StoreError
from persist_session.stores import FileStore, Stored
from support.stores import LATER, NAME, count_to_40, put, set_aside

if TYPE_CHECKING:
    from collections.abc import Iterator

CHILD = Path(__file__).with_name("child.py")
KEY = "a" * 64
V1, V2 = "1" * 16, "2" * 16


def answer_of(*arguments: object) -> Any:
    """Return the answer of a program of child.py."""
    done = subprocess.run(
        [sys.executable, str(CHILD), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def temporary_files(root: Path) -> list[Path]:
    """Return the files that are half-written, or were left so."""
    return list(root.rglob("*.tmp"))


def test_a_killed_writer_tears_no_record(tmp_path: Path) -> None:
    """The record after each of 30 `kill -9` is the last acknowledged or the next; leftovers go in time."""
    tally = answer_of("kill-writers", tmp_path / "state", 30)
    assert tally["kills"] == 30
    assert tally["leftovers"] > 0, "no kill hit a write: the test proved nothing"
    store = FileStore(tmp_path / "state")
    found = store.read(KEY, NAME)
    assert found is not None
    with time_machine.travel(time.time() + 3700):
        store.delete_expired(before=time.time())
    assert temporary_files(tmp_path) == []


STOPPED = """
import os, signal, sys, types
from pathlib import Path

package = types.ModuleType("persist_session")  # without its __init__, which takes long
package.__path__ = [sys.argv[1]]
sys.modules["persist_session"] = package
from persist_session.stores import FileStore

replace = Path.replace

def stop(*paths):
    os.kill(os.getpid(), signal.SIGSTOP)
    return replace(*paths)

Path.replace = stop
key, name = sys.argv[3:]
written = FileStore(sys.argv[2]).write(key, name, b"new", version="2" * 16, based_on="1" * 16, expires_at=4e9)
sys.exit(not written)
"""


@contextlib.contextmanager
def stopped_writer(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that is stopped by SIGSTOP between comparing and renaming the record."""
    package = Path(persist_session.__file__).parent
    with subprocess.Popen([sys.executable, "-c", STOPPED, str(package), str(root), KEY, NAME]) as process:
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            yield process
        finally:
            process.kill()


def test_nobody_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others read while a writing process is stopped, a change raises in time and says so, and a sweep goes on."""
    monkeypatch.setattr("persist_session.stores.file._WRITE_TIMEOUT", 0.05)
    store = FileStore(tmp_path / "state")
    put(store, KEY, b"old", V1)
    for key in ("b" * 64, "c" * 64):
        store.write(key, NAME, b"old", version=V1, based_on=None, expires_at=1.0)
    store.write(KEY, "expired", b"old", version=V1, based_on=None, expires_at=1.0)
    calls = (
        lambda: put(store, KEY, b"mine", "3" * 16, V1),
        lambda: store.delete(KEY, NAME),
        lambda: set_aside(store, KEY, LATER),
        lambda: store.delete_expired(before=time.time()),
    )
    with stopped_writer(tmp_path / "state") as process:
        for call in calls:
            with pytest.raises(StoreError, match=r"stopped while it writes \(by SIGSTOP.*end it\.$"):
                call()
        assert store.read(KEY, NAME) == Stored(b"old", V1)
        assert store.names(KEY) == [NAME, "expired"]
        assert store.names("b" * 64) == store.names("c" * 64) == [], "one shard keeps no other from being swept"
        assert len(temporary_files(tmp_path)) == 1, "the stopped process's own"
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == 0
    assert store.read(KEY, NAME) == Stored(b"new", V2)
    assert put(store, KEY, b"mine", "3" * 16, V2)


def test_nobody_waits_for_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is stopped while it takes its turn holds nobody up for ever, either."""
    monkeypatch.setattr("persist_session.stores.file._WRITE_TIMEOUT", 0.05)
    store = FileStore(tmp_path / "state")
    put(store, KEY, b"old", V1)
    with FileLock(tmp_path / "state" / ".locks" / "sweep.lock"), pytest.raises(StoreError, match="SIGSTOP"):
        store.begin_sweep(every=0.0)
    assert store.begin_sweep(every=0.0) == 0.0


def mounted(folder: Path) -> bool:
    """Tell whether a tmpfs of 1 MiB could be mounted at `folder`: it takes root, and a willing container."""
    folder.mkdir()
    if os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(folder)]
    with contextlib.suppress(FileNotFoundError):  # no mount command
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path | None]:
    """Return a real disk of 1 MiB, or `None` where none can be mounted."""
    folder = tmp_path / "disk"
    is_mounted = mounted(folder)
    yield folder if is_mounted else None
    if is_mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(disk: Path | None, tmp_path: Path) -> None:
    """A write that finds no room raises, the old record stays, and a smaller write succeeds again."""
    if disk is None:  # the same promise, by the limit on file sizes
        too_large_for_the_limit(tmp_path / "state")
        return
    store = FileStore(disk)
    put(store, KEY, b"old" * 100_000, V1)
    with pytest.raises(StoreError, match="room") as caught:
        put(store, KEY, b"new" * 300_000, V2, V1)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert store.read(KEY, NAME) == Stored(b"old" * 100_000, V1)
    assert temporary_files(disk) == []
    assert put(store, KEY, b"small", V2, V1)


def test_a_full_disk_can_be_cleared(disk: Path | None, tmp_path: Path) -> None:
    """Neither setting aside nor deleting needs room, so a visitor with a damaged record is not stuck."""
    root = disk or tmp_path / "state"
    store = FileStore(root)
    put(store, KEY, b"old", V1)
    if disk:
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
    set_aside(store, KEY, LATER)
    assert store.read(KEY, NAME) is None
    store.delete(KEY, NAME)
    assert not [each for each in (root / KEY[:2]).rglob("*") if each.is_file()]


def test_a_file_limit_loses_nothing(tmp_path: Path) -> None:
    """RLIMIT_FSIZE cuts a write in the middle, as a full disk does: the write raises, the old record stays."""
    too_large_for_the_limit(tmp_path / "state")


def too_large_for_the_limit(root: Path) -> None:
    """Assert that a process that can't write 1 MB raises and leaves the old record."""
    put(FileStore(root), KEY, b"old", V1)
    answer = answer_of("write-with-limit", root, 65536, 1_000_000)
    assert answer["errno"] == errno.EFBIG
    assert "room" in answer["error"]
    assert FileStore(root).read(KEY, NAME) == Stored(b"old", V1)
    assert temporary_files(root) == []


@pytest.fixture
def read_only(disk: Path | None, tmp_path: Path) -> Iterator[Path]:
    """Return a folder with a record, not to be written any more: by the mount for root, by its mode for others."""
    root = disk or tmp_path / "state"
    put(FileStore(root), KEY, b"old", V1)
    folder = root / "aa"
    if disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    elif os.geteuid() != 0:
        folder.chmod(0o500)
    else:
        pytest.skip("modes do not bind root, and this container does not let it mount")
    yield root
    if not disk:
        folder.chmod(0o700)


def test_a_read_only_disk_is_read(read_only: Path) -> None:
    """Writing, setting aside and deleting raise; reading and listing work."""
    store = FileStore(read_only)
    with pytest.raises(StoreError) as caught:
        put(store, KEY, b"new", V2, V1)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno in (errno.EROFS, errno.EACCES)
    with pytest.raises(StoreError):
        set_aside(store, KEY, LATER)
    with pytest.raises(StoreError):
        store.delete(KEY, NAME)
    assert store.read(KEY, NAME) == Stored(b"old", V1)
    assert store.names(KEY) == [NAME]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("step", ["create", "fsync", "rename"])
def test_a_failing_step_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int) -> None:
    """A step up to the rename that fails, however it does, is a `StoreError`: the old record stays, nothing is left."""
    store = FileStore(tmp_path / "state")
    put(store, KEY, b"old", V1)
    with monkeypatch.context() as broken:
        break_step(broken, step, code)
        with pytest.raises(StoreError, match="Check that") as caught:
            put(store, KEY, b"new", V2, V1)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == code
    assert store.read(KEY, NAME) == Stored(b"old", V1)
    assert temporary_files(tmp_path) == []


def break_step(broken: pytest.MonkeyPatch, step: str, code: int) -> None:
    """Let one step of a write fail from now on."""
    real_open = os.open

    def failing(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    def failing_to_create(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            failing()
        return real_open(path, flags, mode)

    if step == "create":
        broken.setattr(os, "open", failing_to_create)
    elif step == "fsync":
        broken.setattr(os, "fsync", failing)
    else:
        broken.setattr(Path, "replace", failing)


def test_an_interrupted_write_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop of the run or Ctrl-C, which is no error, passes through, and leaves nothing half-written."""

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    store = FileStore(tmp_path / "state")
    put(store, KEY, b"old", V1)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            put(store, KEY, b"new", V2, V1)
    assert store.read(KEY, NAME) == Stored(b"old", V1)
    assert temporary_files(tmp_path) == []


def test_a_write_survives_a_power_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is on the disk before it is renamed, its name right after: folders that were made as well."""
    steps: list[str] = []
    real_fsync, real_replace, real_mkdir = os.fsync, Path.replace, Path.mkdir

    def named(descriptor: int) -> str:
        return Path(f"/dev/fd/{descriptor}").resolve().relative_to(tmp_path).as_posix()

    def fsync(descriptor: int) -> None:
        steps.append("sync " + named(descriptor))
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> Path:
        steps.append("rename")
        return real_replace(source, target)

    def mkdir(folder: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if not folder.exists():  # the library of locks asks for a folder that is there
            steps.append("make " + folder.relative_to(tmp_path).as_posix())
        real_mkdir(folder, mode, parents, exist_ok)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    put(FileStore(tmp_path / "state"), KEY, b"old", V1)
    file = next(index for index, step in enumerate(steps) if step.endswith(".tmp"))
    assert steps[:file] == [
        "make state",
        "sync .",
        "make state/aa",
        "sync state",
    ]
    assert steps[file + 1 :] == ["make state/.locks", "sync state", "rename", "sync state/aa"]


@pytest.mark.parametrize("method", ["delete", "set_aside"])
def test_a_removal_survives_a_power_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """A record that was cleared does not come back: the folder is brought to the disk after the change."""
    store = FileStore(tmp_path / "state")
    put(store, KEY, b"old", V1)
    left: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda _: left.append(len(list(tmp_path.rglob("*.pickle")))))
    if method == "delete":
        store.delete(KEY, NAME)
    else:
        set_aside(store, KEY, LATER)
    assert left == [0]


@pytest.mark.parametrize(("code", "harmless"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_folders_without_fsync_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, harmless: bool
) -> None:
    """Some file systems know none: the error "not supported" is accepted for a folder; a failing disk is not."""
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        if Path(f"/dev/fd/{descriptor}").is_dir():
            raise OSError(code, os.strerror(code))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store = FileStore(tmp_path / "state")
    if harmless:
        assert put(store, KEY, b"old", V1)
        return
    with pytest.raises(StoreError):
        put(store, KEY, b"old", V1)


def test_two_writes_share_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that starts while another is under way has a temporary file of its own, and the slower one is told."""
    store = FileStore(tmp_path / "state")
    put(store, KEY, b"old", V1)
    real_fsync = os.fsync
    outcome: list[bool] = []

    def write_in_between(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", real_fsync)
        outcome.append(put(store, KEY, b"rival", V2, V1))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", write_in_between)
    assert not put(store, KEY, b"new", "3" * 16, V1)
    assert outcome == [True]
    assert store.read(KEY, NAME) == Stored(b"rival", V2)
    assert temporary_files(tmp_path) == []


@pytest.mark.parametrize("shared", [True, False], ids=["one store", "a store each"])
def test_a_slow_rename_loses_no_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    """8 threads count to 40 over a wide gap between compare and rename, with a store each, too."""
    real_replace = Path.replace

    def slow_replace(source: Path, target: Path) -> Path:
        time.sleep(0.002)  # the gap in which an update would get lost
        return real_replace(source, target)

    monkeypatch.setattr(Path, "replace", slow_replace)
    one = FileStore(tmp_path)
    assert count_to_40([one if shared else FileStore(tmp_path) for _ in range(8)], KEY) == 40
