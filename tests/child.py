"""What the fault tests run in processes of their own: `python child.py <program> <arguments>` prints JSON.

These programs fork, so they must stay without threads, and start often, so they must stay small: the
package's `__init__`, which brings Streamlit along, is not run.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import struct
import sys
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

_package = types.ModuleType("persist_session")
_package.__path__ = [str(Path(__file__).parents[1] / "persist_session")]
sys.modules["persist_session"] = _package

from persist_session.errors import PersistSessionError, StoreError  # noqa: E402 (after the stand-in)
from persist_session.keys import derive, load_or_make  # noqa: E402 (after the stand-in)
from persist_session.records import Record, new_mark, open_sealed, seal  # noqa: E402 (after the stand-in)
from persist_session.stores import FileStore  # noqa: E402 (after the stand-in)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME, KEY, KEYS = "app-state", "a" * 64, derive(["k" * 32])
_COUNT = struct.Struct(">Q")


def kill_writers(root: str, kills: str) -> dict[str, int]:
    """Kill writing processes at random moments; then the record must be the last acknowledged or the next."""
    store, tally = FileStore(root), {"kills": 0, "writes": 0, "unacknowledged": 0, "leftovers": 0}
    _write_count(store, 0)
    last = 0
    for _ in range(int(kills)):
        acknowledged = _killed_after(store, last, random.uniform(0, 0.03))
        found = _read_count(store)
        if found not in (acknowledged, acknowledged + 1):
            raise SystemExit(f"acknowledged {acknowledged}, but found {found}")
        tally["kills"] += 1
        tally["writes"] += found - last
        tally["unacknowledged"] += found - acknowledged
        last = found
    tally["leftovers"] = len(list(Path(root).rglob("*.tmp")))
    return tally


def make_keys(folder: str, rounds: str, processes: str) -> list[list[str]]:
    """In each round, that many processes make the default key of a new folder at the same moment."""
    return [list(_made_at_once(Path(folder) / str(n), int(processes))) for n in range(int(rounds))]


def write_with_limit(root: str, limit: str, size: str) -> dict[str, object]:
    """Write a record of `size` bytes where no file may grow beyond `limit` bytes, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    store = FileStore(root)
    found = store.read(KEY, NAME)
    try:
        store.write(
            KEY,
            NAME,
            bytes(int(size)),
            version=new_mark(),
            based_on=found and found.version,
            expires_at=0.0,
        )
    except StoreError as error:
        cause = error.__cause__
        return {"error": str(error), "errno": cause.errno if isinstance(cause, OSError) else None}
    return {"error": None}


def _killed_after(store: FileStore, last: int, seconds: float) -> int:
    """Let a process write for so long, kill it, and return the last write that it acknowledged."""
    receive, send = os.pipe()
    process = _fork(lambda: _write_for_ever(store, last, send))
    os.close(send)
    acknowledgements = os.read(receive, _COUNT.size)  # the first write is done: it is up and running
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    with os.fdopen(receive, "rb") as rest:
        acknowledgements += rest.read()
    if not acknowledgements:
        raise SystemExit("the writer failed by itself")
    return int(_COUNT.unpack(acknowledgements[-_COUNT.size :])[0])


def _write_for_ever(store: FileStore, last: int, send: int) -> None:
    while True:
        last += 1
        _write_count(store, last)
        os.write(send, _COUNT.pack(last))


def _write_count(store: FileStore, count: int) -> None:
    found = store.read(KEY, NAME)
    data = seal(KEY, NAME, Record(_payload(count), new_mark(), "0" * 16, 0.0, 0.0), KEYS)
    if not store.write(KEY, NAME, data, version=new_mark(), based_on=found and found.version, expires_at=0.0):
        raise SystemExit("a writer without rivals lost a compare-and-swap")


def _payload(count: int) -> bytes:
    """Between 20 and 200 KB, different for each count, so that a mix of two records can't go unseen."""
    return _COUNT.pack(count) + hashlib.sha256(_COUNT.pack(count)).digest() * (640 + count % 10 * 640)


def _read_count(store: FileStore) -> int:
    found = store.read(KEY, NAME)
    if found is None or not found.version:
        raise SystemExit("the record is gone or its first line is torn")
    payload = open_sealed(KEY, NAME, found.data, KEYS).payload
    count = int(_COUNT.unpack(payload[: _COUNT.size])[0])
    if payload != _payload(count):
        raise SystemExit("the record is a mix of two")
    return count


def _made_at_once(folder: Path, processes: int) -> Iterator[str]:
    wait, start = os.pipe()
    answers = [_answer_of(folder, wait, start) for _ in range(processes)]
    os.close(wait)
    os.close(start)  # the end of file that all of them wait for
    for answer in answers:
        with os.fdopen(answer, "rb") as file:
            yield file.read().decode()
    for _ in answers:
        os.wait()


def _answer_of(folder: Path, wait: int, start: int) -> int:
    receive, send = os.pipe()

    def make() -> None:
        os.close(start)
        os.read(wait, 1)
        try:
            answer = load_or_make(folder)
        except PersistSessionError as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(send, answer.encode())

    _fork(make)
    os.close(send)
    return receive


def _fork(program: Callable[[], None]) -> int:
    process = os.fork()
    if process == 0:
        _run_and_exit(program)
    return process


def _run_and_exit(program: Callable[[], None]) -> NoReturn:
    try:
        program()
        os._exit(0)
    except BaseException:  # a forked process must never return into its parent's code
        sys.excepthook(*sys.exc_info())
        os._exit(1)


if __name__ == "__main__":
    programs: dict[str, Callable[..., object]] = {
        "kill-writers": kill_writers,
        "make-keys": make_keys,
        "write-with-limit": write_with_limit,
    }
    sys.stdout.write(json.dumps(programs[sys.argv[1]](*sys.argv[2:])))
