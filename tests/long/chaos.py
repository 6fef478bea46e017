"""A long run against the truth: `python -m tests.long.chaos [minutes]`, or `make long`.

Visitors with two tabs each click in two processes over one store, while these are killed and stopped; blocks raise, are
interrupted, lie in fragments, threads, generators and callbacks; states are cleared, and visitors log in and out.
Whatever the app had saved without an error, it has written to a file of its own: at the end all of it must be found.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.jar import Jar
from support.server import AppServer, write_app
from support.visitor import Visitor, VisitorError

APP = """
    import json, os, threading, time, uuid
    import streamlit as st
    from streamlit.runtime.scriptrunner import add_script_run_ctx
    from persist_session import clear_cookie_state, load_state, persistent_state, save_state

    class State:
        def __init__(self):
            self.items = []
            self.by_key = {}

    class Note:
        def __init__(self, text, owner):
            self.text, self.owner = text, owner

    def tell(kind, op):
        line = json.dumps([who, kind, op]) + "\\n"
        with open(os.environ["TRUTH"], "a") as file:
            file.write(line)

    who = st.query_params["who"]
    user = who if st.checkbox("Log in") else None

    def change(kind, fails=False, pause=0.0, **options):
        op = uuid.uuid4().hex[:12]
        try:
            with persistent_state("log", State, user=user, **options) as state:
                state.items.append(op)
                state.by_key[op] = Note(op, state)
                for _ in range(int(pause * 50)):
                    st.empty()
                    time.sleep(0.02)
                if fails:
                    raise ValueError("on purpose")
        except Exception:
            if not fails:
                raise
            return
        except BaseException:
            tell(kind, op)
            raise
        tell(kind, op)

    def by_hand():
        op = uuid.uuid4().hex[:12]
        state = load_state("log", State, user=user)
        state.items.append(op)
        state.by_key[op] = Note(op, state)
        save_state("log", state)
        tell("callback", op)

    if st.button("Add"):
        change("add")
    if st.button("Slow"):
        change("slow", pause=0.3)
    if st.button("Fail"):
        change("fail", fails=True)
    if st.button("Exclusive"):
        change("exclusive", exclusive=True)
    if st.button("Rerun"):
        change("rerun")
        st.rerun()
    st.button("Callback", on_click=by_hand)
    if st.button("Thread"):
        thread = threading.Thread(target=change, args=("thread",))
        add_script_run_ctx(thread)
        thread.start()
        thread.join()
    if st.button("Generator"):
        def words():
            op = uuid.uuid4().hex[:12]
            with persistent_state("log", State, user=user) as state:
                state.items.append(op)
                state.by_key[op] = Note(op, state)
                yield "one "
                yield "two "
            tell("generator", op)
        st.write_stream(words())
    if st.button("Clear"):
        with persistent_state("other", State) as other:
            other.items.append(1)
        clear_cookie_state("other")
    @st.fragment
    def part():
        if st.button("Fragment"):
            change("fragment")
    part()
    with persistent_state("log", State, user=user) as state:
        whole = all(note.owner is state and note.text == key for key, note in state.by_key.items())
        st.metric("Items", json.dumps([whole, state.items]))
"""

CLICKS = ["Add"] * 8 + ["Slow", "Fail", "Exclusive", "Rerun", "Callback", "Callback", "Thread", "Generator", "Clear"]
ADDRESS = "http://app.localhost"


class Run:
    """One long run: two servers, some visitors, and the truth."""

    def __init__(self, folder: Path, seconds: float) -> None:
        app = write_app(folder, APP)
        self.truth = folder / "truth"
        self.truth.touch()
        env = {"TRUTH": str(self.truth), "PERSIST_SESSION_STORE": f"file://{folder}/store"}
        home = folder / "home"
        home.mkdir()
        self.servers = [AppServer(app, env=env, home=home) for _ in range(2)]
        self.until = time.monotonic() + seconds
        self.clicks = 0
        self.failures: list[str] = []
        self.found: dict[str, set[str]] = defaultdict(set)

    def visit(self, who: str) -> None:
        """Clicks in two tabs until the time is over, then reads what is kept."""
        chosen, jar = random.Random(who), Jar()
        tabs: list[Visitor] = []
        while time.monotonic() < self.until:
            try:
                tabs = tabs or [self._open(who, jar, chosen) for _ in range(2)]
                tab = chosen.choice(tabs)
                if chosen.random() < 0.03:
                    tabs = [each for each in tabs if each is not tab] + [self._open(who, jar, chosen)]
                    tab.close()
                elif chosen.random() < 0.03:
                    self._log(tabs, is_in=chosen.random() < 0.5)
                else:
                    tab.click(chosen.choice([*CLICKS, "Fragment"]), wait=chosen.random() < 0.7)
                self.clicks += 1
            except (OSError, VisitorError, TimeoutError):  # the process was killed, or the click came too early
                for each in tabs:
                    each.close()
                tabs = []
                time.sleep(0.2)
            except Exception as error:
                if time.monotonic() < self.until and "Connection" not in type(error).__name__:
                    self.failures.append(f"{who}: {type(error).__name__}")
                tabs = []
        for each in tabs:
            each.close()
        self._read(who, jar)

    def _log(self, tabs: list[Visitor], *, is_in: bool) -> None:
        """Logs the visitor in or out in both tabs: one that does not follow goes on with a state of its own."""
        for tab in tabs:
            tab.wait_run()
        for tab in tabs:
            tab.set_checkbox("Log in", is_in)

    def _open(self, who: str, jar: Jar, chosen: random.Random) -> Visitor:
        server = chosen.choice(self.servers)
        tab = Visitor(server.url, jar=jar, address=ADDRESS, query=f"who={who}", timeout=20)
        # Of two tabs of a first visit that open in one moment, each may set a cookie: that is known.
        return tab.wait_until(lambda _: jar)

    def _read(self, who: str, jar: Jar) -> None:
        for logged_in in (False, True):
            with Visitor(self.servers[0].url, jar=jar, address=ADDRESS, query=f"who={who}", timeout=60) as tab:
                if logged_in:
                    tab.set_checkbox("Log in", True)
                whole, items = json.loads(tab.metric("Items"))
                if not whole:
                    self.failures.append(f"{who}: the graph is not whole")
                self.found[who] |= set(items)

    def disturb(self) -> None:
        """Kills one process and stops the other now and then, until the time is over."""
        while time.monotonic() < self.until - 30:
            time.sleep(20)
            if random.random() < 0.5:
                self.servers[1].kill()
                self.servers[1].start()
            else:
                os.kill(self.servers[1].pid, signal.SIGSTOP)
                time.sleep(2)
                os.kill(self.servers[1].pid, signal.SIGCONT)

    def lost(self) -> list[Any]:
        """The saved changes that are not found again."""
        lines = [json.loads(line) for line in self.truth.read_text().splitlines()]
        return [line for line in lines if line[2] not in self.found[line[0]]]


def main(minutes: float = 10.0, visitors: int = 6) -> int:
    """Runs it, and prints the figures."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), minutes * 60)
        for server in run.servers:
            server.start()
        threads = [threading.Thread(target=run.visit, args=(f"visitor{number}",)) for number in range(visitors)]
        threads.append(threading.Thread(target=run.disturb))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lost = run.lost()
        logged = "".join(server.log_path.read_text(errors="replace") for server in run.servers[:1])
        tracebacks = logged.count("Traceback") - logged.count("on purpose")
        for server in run.servers:
            server.stop()
        total = len(run.truth.read_text().splitlines())
        print(f"{run.clicks} clicks, {total} changes saved, {len(lost)} lost, {len(run.failures)} failures")
        print(Counter(line[0] for line in lost))
        print(*lost[:10], *run.failures[:10], sep="\n")
        print(f"tracebacks in the log that nobody meant: {tracebacks}")
        if lost or run.failures:
            print(logged[-4000:])
        return int(bool(lost or run.failures))


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:2])))
