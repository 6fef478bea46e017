"""Several processes that work on one record: no change is lost silently, and none of them is in another's way."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from persist_session.errors import LockTimeoutError
from persist_session.keys import derive
from persist_session.records import Home, Kind
from persist_session.stores import FileStore
from persist_session.stores.locks import file_lock
from persist_session.transaction import Options
from persist_session.transaction import Transaction as OwnTransaction
from support.script import ScriptRun

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

CHILD = Path(__file__).parent / "support" / "transactions.py"
PROCESSES = 4
TRANSACTIONS = 40
"""Of each process."""
KILLS = 8


class Transaction(NamedTuple):
    """One that reported success.

    Attributes:
        saw: The field's value on entry.
        wrote: Its value in the record that was written.
        version: That record's.
        based_on: The version of the record in whose place it was written.
        warnings: What the log said meanwhile.
    """

    saw: int
    wrote: int
    version: str
    based_on: str | None
    warnings: list[str]


class Worker:
    """A process of support/transactions.py, which ends with the block."""

    def __init__(self, mode: str, root: Path, field: str, count: int) -> None:
        command = [sys.executable, str(CHILD), mode, str(root), field, str(count)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        with self.process:  # closes the pipes, and waits
            pass

    def hear(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def be_ready(self) -> None:
        """Wait until it is."""
        assert self.hear() == "ready"

    def go(self) -> None:
        """Let it begin."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def rest(self) -> list[Transaction]:
        """All that it reports until it ends."""
        assert self.process.stdout is not None
        return [Transaction(**json.loads(line)) for line in self.process.stdout]

    def all(self) -> list[Transaction]:
        """All that it reports until it ends by itself."""
        reported = self.rest()
        assert self.process.wait() == 0
        return reported

    def all_until_killed(self, seconds: float) -> list[Transaction]:
        """All that it reports, if it is killed so long after its first report."""
        first = Transaction(**json.loads(self.hear()))
        time.sleep(seconds)
        self.process.kill()
        return [first, *self.rest()]


def run_at_once(mode: str, root: Path, fields: list[str]) -> list[list[Transaction]]:
    """What a process for each of these fields reports; they begin at the same moment."""
    with ExitStack() as running:
        workers = [running.enter_context(Worker(mode, root, field, TRANSACTIONS)) for field in fields]
        for worker in workers:
            worker.be_ready()
        for worker in workers:
            worker.go()
        with ThreadPoolExecutor(len(workers)) as pool:
            return list(pool.map(Worker.all, workers))


def home_in(root: Path) -> Home:
    """The one record that all processes work on."""
    return Home(Kind.BROWSER, FileStore(root), derive(["k" * 32]), "a" * 64, "app-state")


def saved_in(root: Path) -> dict[str, int]:
    """What the record holds."""
    home, run = home_in(root), ScriptRun("")
    state: dict[str, int] = OwnTransaction(home, home).begin(run.caller(), Options(max_age=3600, max_bytes=1 << 20))
    return state


def in_order(transactions: list[Transaction]) -> list[Transaction]:
    """The same, each after the one whose record it replaced: no two replaced the same one, and none is left over."""
    following = {each.based_on: each for each in transactions}
    chain: list[Transaction] = []
    version = None
    while version in following:
        chain.append(following.pop(version))
        version = chain[-1].version
    assert len(chain) == len(transactions)
    return chain


def test_each_processs_field_is_kept(tmp_path: Path) -> None:
    """All of it is there, and nobody is warned of anything."""
    fields = [f"field{n}" for n in range(PROCESSES)]
    reports = run_at_once("plain", tmp_path, fields)
    for reported in reports:
        assert [each.saw for each in reported] == list(range(TRANSACTIONS))
        assert [each.warnings for each in reported] == [[]] * TRANSACTIONS
    in_order([each for reported in reports for each in reported])
    assert saved_in(tmp_path) == dict.fromkeys(fields, TRANSACTIONS)


def test_exclusive_counting_loses_nothing(tmp_path: Path) -> None:
    """Each sees what the one before it wrote."""
    reports = run_at_once("exclusive", tmp_path, ["counter"] * PROCESSES)
    chain = in_order([each for reported in reports for each in reported])
    assert [each.saw for each in chain] == list(range(PROCESSES * TRANSACTIONS))
    assert not any(each.warnings for each in chain)
    assert saved_in(tmp_path) == {"counter": PROCESSES * TRANSACTIONS}


def test_lost_counts_were_warned_of(tmp_path: Path) -> None:
    """Whatever the counter lacks in the end can be traced to transactions that undid others, and each of them warned.

    In the order in which the records were written, a transaction without a WARNING added one to what was there.
    """
    reports = run_at_once("plain", tmp_path, ["counter"] * PROCESSES)
    chain = in_order([each for reported in reports for each in reported])
    found = [0, *(each.wrote for each in chain)]  # by each transaction in the moment in which it wrote
    gained = [each.wrote - before for each, before in zip(chain, found, strict=False)]
    assert saved_in(tmp_path) == {"counter": found[-1]}
    lost = [1 - gain for gain in gained]
    assert len(chain) == PROCESSES * TRANSACTIONS
    for each, gain in zip(chain, gained, strict=True):
        assert each.warnings or gain == 1
    assert sum(lost) > 0, "they did not meet: the test proved nothing"
    messages = {message for each in chain for message in each.warnings}
    assert all("State 'app-state': dict[key 1] was changed " in message for message in messages)


def test_a_killed_process_harms_nobody(tmp_path: Path) -> None:
    """Killed again and again, it goes on from the last transaction it reported, or the one after; nobody else notices.

    All that was reported is there, nothing is torn (a WARNING would say so), and no lock is left behind.
    """
    rivals = [f"field{n}" for n in range(PROCESSES - 1)]
    with ExitStack() as running, ThreadPoolExecutor(len(rivals)) as pool:
        workers = [running.enter_context(Worker("plain", tmp_path, field, 10**6)) for field in rivals]
        for worker in workers:
            worker.be_ready()
            worker.go()
        reports = [pool.submit(worker.all) for worker in workers]
        try:
            lives = list(lives_of_a_victim(tmp_path))
        finally:
            for worker in workers:
                worker.process.terminate()
        others = {field: report.result() for field, report in zip(rivals, reports, strict=True)}
    last = 0
    for reported in lives:
        assert reported[0].saw in (last, last + 1), "the kill came after the commit, and before the report"
        first, last = reported[0].saw, reported[-1].wrote
        assert [each.saw for each in reported] == list(range(first, last))
    for reported in others.values():
        assert [each.saw for each in reported] == list(range(len(reported)))
    assert not any(each.warnings for reported in [*lives, *others.values()] for each in reported)
    assert saved_in(tmp_path) == {"victim": last} | {field: len(each) for field, each in others.items() if each}
    assert list(tmp_path.rglob("*.tmp")), "no kill hit a write: the test proved nothing"
    assert stuck_locks(tmp_path) == []


def lives_of_a_victim(root: Path) -> Iterator[list[Transaction]]:
    """What a process reported each time that it was killed, and at last before it ended by itself."""
    for _ in range(KILLS):
        with Worker("plain", root, "victim", 10**6) as victim:
            victim.be_ready()
            victim.go()
            yield victim.all_until_killed(random.uniform(0, 0.2))
    with Worker("plain", root, "victim", 3) as survivor:
        survivor.be_ready()
        survivor.go()
        yield survivor.all()


def stuck_locks(root: Path) -> list[Path]:
    """The lock files that can't be locked at once."""
    stuck = []
    for path in (root / ".locks").glob("*.lock"):
        try:
            with file_lock(path, 0):
                pass
        except LockTimeoutError:
            stuck.append(path)
    return stuck


def test_a_killed_processs_lock_is_free(tmp_path: Path) -> None:
    """Until then it is held; and what the block had changed is not in the record."""
    run_one(tmp_path, "counter")
    home = home_in(tmp_path)
    with Worker("hold", tmp_path, "counter", 1) as holder:
        holder.be_ready()
        holder.go()
        assert holder.hear() == "held"
        with pytest.raises(LockTimeoutError), home.lock(0):
            pytest.fail("two processes hold one lock")
        holder.process.kill()
        holder.process.wait()
        with home.lock(0):
            assert saved_in(tmp_path) == {"counter": 1}
    run_one(tmp_path, "counter")
    assert stuck_locks(tmp_path) == []


def run_one(root: Path, field: str) -> None:
    """One exclusive transaction, in a process of its own."""
    with Worker("exclusive", root, field, 1) as worker:
        worker.be_ready()
        worker.go()
        assert len(worker.all()) == 1


FORKED = """
import os, sys, threading, types
package = types.ModuleType("persist_session")
package.__path__ = [sys.argv[1]]
sys.modules["persist_session"] = package
from persist_session.errors import LockTimeoutError
from persist_session.stores import FileStore

store, key = FileStore(sys.argv[2]), "a" * 64

def write(version, based_on):
    assert store.write(key, "app-state", b"one", version=version * 16, based_on=based_on, expires_at=4e9)

def in_a_fork(program):
    process = os.fork()
    if process == 0:
        try:
            program()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    assert os.waitpid(process, 0)[1] == 0

def try_the_held_lock():
    write("2", "1" * 16)
    try:
        with store.lock(key, "app-state", timeout=0):
            os._exit(2)
    except LockTimeoutError:
        pass

def take_the_lock():
    with store.lock(key, "app-state", timeout=0):
        write("3", "2" * 16)

write("1", None)
with store.lock(key, "app-state", timeout=0):
    in_a_fork(try_the_held_lock)
    in_a_fork(lambda: None)
    assert os.path.exists(sys.argv[2])
in_a_fork(take_the_lock)
with store.lock(key, "app-state", timeout=0):
    write("4", "3" * 16)
"""


def test_a_forked_process_has_own_locks(tmp_path: Path) -> None:
    """It waits for its parent's lock as any other process does, and writes as any other does."""
    package = Path(__file__).parents[1] / "persist_session"
    command = [sys.executable, "-c", FORKED, str(package), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert FileStore(tmp_path).version("a" * 64, "app-state") == "4" * 16
