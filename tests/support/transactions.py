"""Transactions on one record, in a process of its own: `python transactions.py <root> <field> <count> <mode>`.

After each transaction that reported success, its number goes to stdout; at the end, how many conflicts were warned of.
Mode "own" adds one to a field, "exclusive" does so under the record's lock.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import types
import weakref
from pathlib import Path

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


def place_in(root: str) -> Place:
    """The one record that all processes work on."""
    return Place(FileStore(root), derive(["k" * 32]), "app-state", "a" * 64)


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        sys.stderr.write(record.getMessage() + "\n")


def main(root: str, field: str, count: str, mode: str) -> None:
    """Runs the transactions."""
    warned = _Warnings()
    logging.getLogger("persist_session").addHandler(warned)
    place, run = place_in(root), _Run()
    caller = Caller(View((), dict), dict, weakref.ref(run))
    live, saved = load(place, caller, OPTIONS)
    live = live or unsaved({}, caller, place.name)
    for number in range(1, int(count) + 1):
        with place.lock(60) if mode == "exclusive" else contextlib.nullcontext():
            saved = catch_up(live, place, saved, OPTIONS)
            live.obj[field] = live.obj.get(field, 0) + 1
            saved = commit(live, place, saved, OPTIONS)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
    sys.stdout.write(f"warnings {warned.count}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
