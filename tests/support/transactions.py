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
from persist_session.live import Caller  # noqa: E402 (after the stand-in)
from persist_session.place import Place  # noqa: E402 (after the stand-in)
from persist_session.stores import FileStore  # noqa: E402 (after the stand-in)
from persist_session.transaction import Options, catch_up, commit, load, unsaved  # noqa: E402 (after the stand-in)
from persist_session.view import View  # noqa: E402 (after the stand-in)

OPTIONS = Options(max_age=3600, max_bytes=1 << 20)


class _Run:
    """What a run is marked by."""


class _Recording(FileStore):
    """Notes what the last write was based on."""

    based_on: str | None = None

    def write(self, name: str, key: str, data: bytes, **options: Any) -> bool:
        written = super().write(name, key, data, **options)
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
    place = Place(store, derive(["k" * 32]), "app-state", "a" * 64)
    caller = Caller(View((), dict), dict, weakref.ref(run))
    _say("ready")
    sys.stdin.readline()
    live, saved = load(place, caller, OPTIONS)
    live = live or unsaved({}, caller, place.name)
    for _ in range(int(count)):
        if stopped:
            break
        with contextlib.nullcontext() if mode == "plain" else place.lock(60):
            saved = catch_up(live, place, saved, OPTIONS)
            saw = live.obj.get(field, 0)
            live.obj[field] = saw + 1
            if mode == "hold":
                _say("held")
                signal.pause()
            saved = commit(live, place, saved, OPTIONS)
        report = {"saw": saw, "wrote": live.obj[field], "version": saved.version, "based_on": store.based_on}
        _say(json.dumps(report | {"warnings": warned.messages}))
        warned.messages = []


if __name__ == "__main__":
    main(*sys.argv[1:])
