"""What a run pays for its state, against pickle.dumps of it: `python -m tests.benchmarks.runs`.

The app measures itself: a block that changes nothing, a block that changes one thing, one durable file write of the
same size, and 100 changes in a block. What the number of records in the store costs: see `records`.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

from tests.support import AppServer, Visitor, write_app

RUNS = 30

MODELS = """
    from dataclasses import dataclass, field

    @dataclass
    class Item:
        number: int
        text: str

    @dataclass
    class AppState:
        count: int = 0
        items: list[Item] = field(default_factory=lambda: [Item(n, f"text {n}") for n in range(SIZE)])
"""
APP = """
    import json, os, pickle, tempfile, time
    from pathlib import Path
    import streamlit as st
    from persist_session import persistent_state
    {classes}

    def timed(work):
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    def block(changes):
        with persistent_state("app-state", AppState) as s:
            for _ in range(changes):
                s.count += 1

    def durable_write(data):
        folder = Path.home()
        with open(folder / "probe.tmp", "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(folder / "probe.tmp", folder / "probe")
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    block(0)  # shows the state to this run's classes
    figures = dict(unchanged=timed(lambda: block(0)), one=timed(lambda: block(1)), hundred=timed(lambda: block(100)))
    with persistent_state("app-state", AppState) as s:
        {dump}
    figures["write"] = timed(lambda: durable_write(bytes(200_000)))
    st.text(json.dumps(figures))
"""
# pickle.dumps itself can't pickle a class of the script while others visit: its copy in a module stands for it.
VARIANTS = {
    "classes of a module": ("from models import AppState", 'figures["dumps"] = timed(lambda: pickle.dumps(s))'),
    "classes of the script": (
        MODELS.replace("SIZE", "5000").strip(),
        'import models; twin = models.AppState(); figures["dumps"] = timed(lambda: pickle.dumps(twin))',
    ),
}


def measure(tab: Visitor) -> dict[str, float]:
    """Medians over many runs of one tab."""
    rows = []
    for _ in range(RUNS):
        tab.rerun()
        rows.append(json.loads(next(text for text in tab.texts() if text.startswith("{"))))
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def show(title: str, figures: dict[str, float]) -> None:
    """One line of ratios."""
    dumps, write = figures["dumps"], figures["write"]
    print(
        f"{title:32} unchanged run / pickle.dumps {figures['unchanged'] / dumps:5.2f}   "
        f"changed run - unchanged / durable write {(figures['one'] - figures['unchanged']) / write:5.2f}   "
        f"100 changes / 1 change {figures['hundred'] / figures['one']:5.2f}   "
        f"(pickle.dumps {dumps * 1000:.2f} ms)"
    )


def main() -> None:
    """Prints ratios."""
    folder = Path(tempfile.mkdtemp())
    for title, (classes, dump) in VARIANTS.items():
        app = write_app(folder / title.split()[-1], APP.format(classes=classes, dump=dump))
        write_app(app.parent, MODELS.replace("SIZE", "5000"), "models.py")
        with AppServer(app) as server:
            show(title, measure(Visitor(server.url)))


if __name__ == "__main__":
    main()
