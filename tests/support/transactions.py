"""Transactions on one record, in a process of its own: `python transactions.py <mode> <root> <field> <count>`.

It says "ready", waits for a line, and then adds one to a field, `count` times. After each transaction that reported
success it prints what that was, as JSON. SIGTERM ends it after the transaction that is under way.

Mode "plain" does no more than that, "exclusive" does it under the record's lock; "hold" takes the lock inside of a
transaction, says so, and holds it until it is killed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
import types
import weakref
from pathlib import Path
from typing import Any

# The package's own `__init__` would bring Streamlit along, which takes a second to import.
_package = types.ModuleType("persist_session")
_package.__path__ = [str(Path(__file__).parents[2] / "persist_session")]
sys.modules["persist_session"] = _package

from persist_session.keys import derive  # noqa: E402 (after the stand-in)
from persist_session.objects.classes import View  # noqa: E402 (after the stand-in)
from persist_session.objects.live import Caller  # noqa: E402 (after the stand-in)
from persist_session.records import Home, Kind  # noqa: E402 (after the stand-in)
from persist_session.stores import FileStore  # noqa: E402 (after the stand-in)
from persist_session.transaction import Options, Transaction  # noqa: E402 (after the stand-in)

OPTIONS = Options(max_age=3600, max_bytes=1 << 20)


class _Run:
    """What a run is marked by."""


class _Recording(FileStore):
    """Notes what the last write was based on."""

    based_on: str | None = None

    def write(self, key: str, name: str, data: bytes, **options: Any) -> bool:
        written = super().write(key, name, data, **options)
        if written:
            self.based_on = options["based_on"]
        return written


class _Warnings(logging.Handler):
    """Keeps what was warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _say(line: str) -> None:
    # In one call: whoever is killed has said a whole line, or nothing.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(mode: str, root: str, field: str, count: str) -> None:
    """Runs the transactions."""
    warned, stopped = _Warnings(), list[int]()
    logging.getLogger("persist_session").addHandler(warned)
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    store, run = _Recording(root), _Run()
    home = Home(Kind.BROWSER, store, derive(["k" * 32]), "a" * 64, "app-state")
    caller = Caller(View((), dict), dict, weakref.ref(run))
    transaction = Transaction(home, home)
    _say("ready")
    sys.stdin.readline()
    for _ in range(int(count)):
        if stopped:
            break
        with contextlib.nullcontext() if mode == "plain" else home.lock(60):
            state = transaction.begin(caller, OPTIONS)
            saw = state.get(field, 0)
            state[field] = saw + 1
            if mode == "hold":
                _say("held")
                signal.pause()
            transaction.commit(OPTIONS)
        version = transaction.saved.version
        report = {"saw": saw, "wrote": state[field], "version": version, "based_on": store.based_on}
        _say(json.dumps(report | {"warnings": warned.messages}))
        warned.messages = []


if __name__ == "__main__":
    main(*sys.argv[1:])
