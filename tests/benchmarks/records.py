"""The cost of many records in the store for a run, and of a sweep: `python -m tests.benchmarks.records`.

Two servers of one app, whose visitors take turns: one with 100 records in its store, one with RECORDS of them (default
1,000,000; they take 4 KiB each of the disk while it runs). Half of them have expired. Then the server of the many
starts again, and its visitor goes on while the store is swept, and after. The other server's visitor goes on as well:
what else the machine does meanwhile slows both.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from persist_session.keys import derive
from persist_session.objects.pickling import dumps
from persist_session.objects.schema import pack
from persist_session.records import Record, new_mark, seal
from persist_session.stores import SWEEP_EVERY, FileStore
from persist_session.stores.layout import files, first_line, locks_folder, record_path, shards
from tests.support import AppServer, Visitor, write_app

RECORDS = int(os.environ.get("RECORDS", "1000000"))
FEW = 100
RUNS = 200
SHARDS = 256
SECRET = "k" * 32
NAME = "app-state"
RESTS = 0.1
"""Seconds between two runs of the visitor."""

APP = """
    import json, threading, time
    import streamlit as st
    from persist_session import persistent_state

    class AppState:
        def __init__(self):
            self.count = 0
            self.messages = [f"message {n}" for n in range(20)]

    def block(changes):
        started = time.perf_counter()
        with persistent_state("app-state", AppState) as s:
            s.count += changes
        return time.perf_counter() - started

    block(0)  # shows the state to this run's classes
    figures = {"unchanged": block(0), "changed": block(1)}
    figures["sweeping"] = any(thread.name == "persist-session-sweep" for thread in threading.enumerate())
    st.text(json.dumps(figures))
"""
Row = dict[str, Any]


def fill_shard(root: Path, shard: int, records: int) -> None:
    """Puts other visitors' records into one folder of the store; every other one has expired."""
    keys, payload, now = derive([SECRET]), pack(dumps({"messages": ["message"] * 20}), dict), time.time()
    (root / f"{shard:02x}").mkdir(mode=0o700, parents=True)
    for number in range(records):
        key = f"{shard:02x}{secrets.token_hex(31)}"
        expires_at = now - 2 * SWEEP_EVERY if number % 2 else now + 30 * 24 * 3600
        record = Record(payload, new_mark(), new_mark(), expires_at - 30 * 24 * 3600, expires_at)
        with record_path(root, key, NAME).open("xb") as file:
            file.write(first_line(record.version, expires_at) + seal(key, NAME, record, keys))


def fill(root: Path, records: int) -> None:
    """Puts other visitors' records into a store, spread over its folders, and brings them to the disk."""
    counts = [records // SHARDS + (shard < records % SHARDS) for shard in range(SHARDS)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(fill_shard, [root] * SHARDS, range(SHARDS), counts))
    locks_folder(root).mkdir(mode=0o700)
    swept(root, ago=0.0)  # no sweep before we want one
    os.sync()


def swept(root: Path, ago: float) -> None:
    """Notes that the last sweep was so many seconds ago."""
    mark, moment = locks_folder(root) / "swept", time.time() - ago
    mark.touch(mode=0o600)
    os.utime(mark, (moment, moment))


def count(root: Path) -> int:
    """Counts the records in the store."""
    return sum(1 for folder in shards(root) for _ in files(folder))


def serve(folder: Path, store: Path) -> AppServer:
    """Starts a server of the app, with this store."""
    environment = {"PERSIST_SESSION_STORE": store.as_uri(), "PERSIST_SESSION_SECRET_KEYS": SECRET}
    return AppServer(write_app(folder, APP), env=environment)


def come_back(server: AppServer) -> Visitor:
    """Returns a visitor whose browser has the cookie."""
    return Visitor(server.url).rerun().reload()


def one_run(tab: Visitor) -> Row:
    """Reruns the tab, and returns the app's figures of that run."""
    tab.rerun()
    row: Row = json.loads(next(text for text in tab.texts() if text.startswith("{")))
    return row


def show(title: str, rows: list[Row], peers: list[Row]) -> None:
    """Prints a line of ratios: of the medians, and of the times that nineteen in twenty runs keep below."""
    for kind in ("unchanged", "changed"):
        one, other = ([row[kind] for row in each] for each in (rows, peers))
        high, peer_high = (statistics.quantiles(each, n=20)[-1] for each in (one, other))
        median, peer_median = statistics.median(one), statistics.median(other)
        print(
            f"{title:36} {kind:10} median {median / peer_median:5.2f}   95 % {high / peer_high:5.2f}   "
            f"(median {median * 1000:.2f} ms against {peer_median * 1000:.2f} ms, {len(one)} runs)",
            flush=True,
        )


def compare(folder: Path, few: Path, many: Path) -> None:
    """Prints the cost of a run with many records, against one with few."""
    with serve(folder / "few", few) as one, serve(folder / "many", many) as other:
        tabs = [come_back(server) for server in (one, other)]
        rows: tuple[list[Row], list[Row]] = [], []
        for _ in range(RUNS):
            for tab, taken in zip(tabs, rows, strict=True):
                taken.append(one_run(tab))
    show(f"{RECORDS} records / {FEW} records", rows[1], rows[0])
    times = [statistics.median(timed_names(root) for _ in range(RUNS)) for root in (few, many)]
    print(
        f"{'names() of a visitor':47} median {times[1] / times[0]:5.2f}   ({times[1] * 1000:.2f} ms against "
        f"{times[0] * 1000:.2f} ms: one listing of a shard)",
        flush=True,
    )


def timed_names(root: Path) -> float:
    """Returns the seconds that it takes to find a visitor's names."""
    store, key = FileStore(root), next(files(root / "00")).name[:64]
    started = time.perf_counter()
    store.names(key)
    return time.perf_counter() - started


def sweep(folder: Path, few: Path, many: Path) -> None:
    """Prints the cost of a run during a sweep, against one after it and one elsewhere, and how the sweep went."""
    before = count(many)
    swept(many, ago=SWEEP_EVERY + 60)
    with serve(folder / "elsewhere", few) as other, serve(folder / "sweep", many) as server:
        peer, tab = come_back(other), come_back(server)
        started = time.monotonic()
        during, elsewhere, after = [], [], []
        while (row := one_run(tab))["sweeping"]:
            during.append(row)
            elsewhere.append(one_run(peer))
            time.sleep(RESTS)
        took = time.monotonic() - started
        left = count(many)
        for _ in range(RUNS):
            after.append(one_run(tab))
            time.sleep(RESTS)
    print(f"the sweep finished after {took:.0f} s: removed {before - left + 1} of {before + 1}, {left} are left")
    if len(during) > 1:
        show("during the sweep / after it", during, after)
        show("during the sweep / elsewhere then", during, elsewhere)
    else:
        print("it was over before the visitor came back: take more RECORDS")


def main() -> None:
    """Prints ratios."""
    folder = Path(tempfile.mkdtemp())
    try:
        few, many = folder / "store-few", folder / "store-many"
        started = time.monotonic()
        fill(few, FEW)
        fill(many, RECORDS)
        print(f"{RECORDS} records made in {time.monotonic() - started:.0f} s", flush=True)
        compare(folder, few, many)
        sweep(folder, few, many)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
