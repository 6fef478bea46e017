"""Two tabs of one visitor, driven at random: what is there is always what a simple model says.

`MACHINE_EXAMPLES=2000 pytest tests/test_conflicts_machine.py` looks longer.
"""

from __future__ import annotations

import copy
import os
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import time_machine
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from persist_session import clear_cookie_state, load_state, persistent_state
from persist_session.objects.classes import View
from persist_session.objects.schema import restore
from persist_session.records import open_sealed
from support.records import KEYS, CountingStore
from support.tabs import AppState, Tab, pretended

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "app-state"
MAX_AGE = 1000.0


@dataclass
class Changes:
    """What a tab did since it last saved."""

    fields: dict[str, int] = field(default_factory=dict)
    items: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.fields or self.items)

    def on(self, state: AppState) -> AppState:
        """The state with these changes."""
        made = copy.deepcopy(state)
        made.items += self.items
        for name, value in self.fields.items():
            setattr(made, name, value)
        return made

    def come_late_to(self, state: AppState) -> None:
        """Give up the changes of what was changed before."""
        self.fields = {name: value for name, value in self.fields.items() if getattr(state, name) == 0}

    def make(self, state: AppState, what: str, value: int) -> None:
        """Change the state, and note it."""
        if what == "append":
            state.items.append(value)
            self.items.append(value)
        else:
            setattr(state, what, value)
            self.fields[what] = value


@dataclass
class Side:
    """A tab, and what the model knows of it.

    Attributes:
        tab: The tab.
        is_known: Whether it knows its browser.
        changes: What it did and did not save in the browser's record.
        held: What the app's callbacks hold.
        life: Which one of the visitor's states it is based on, None for one that no record holds yet.
        runs: The runs since the page was loaded.
        is_touched: Whether what it did before the record was known is still to be written.
        is_to_clear: Whether it cleared the state before it knew its browser.
        expires: The time when what it saved before it knew its browser expires.
    """

    tab: Tab
    is_known: bool = False
    changes: Changes = field(default_factory=Changes)
    held: AppState | None = None
    life: int | None = None
    runs: int = 0
    is_touched: bool = False
    is_to_clear: bool = False
    expires: float = float("inf")

    def lose(self) -> None:
        """Forget the state: it was cleared, or has expired."""
        self.life, self.held, self.changes, self.is_touched = None, None, Changes(), False


class Boom(Exception):  # noqa: N818 (it is what the app raises)
    """The app's own error."""


sides = st.sampled_from([0, 1])
whats = st.sampled_from(["count", "other", "append"])
acts = st.lists(whats, max_size=2)


class TwoTabs(RuleBasedStateMachine):
    """Two tabs against a model: one state, and for each tab what it changed and has not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.clock = self.stack.enter_context(time_machine.travel(1.7e9, tick=False))
        self.store = CountingStore()
        self.browser = self.stack.enter_context(pretended(self.store, MAX_AGE))
        self.sides = [Side(self.browser.open()) for _ in range(2)]
        self.there: AppState | None = None
        self.expires = 0.0
        self.life = self.value = 0

    def teardown(self) -> None:
        """Go back to the present."""
        self.stack.close()

    # What happens

    @rule(number=sides, acts=acts, raises=st.booleans())
    def visits(self, number: int, acts: list[str], raises: bool) -> None:
        """A run of the script, with one block."""
        with self._block(number, raises=raises) as side:
            self._act(side, acts)

    @rule(number=sides, acts=acts, others=acts, raises=st.booleans())
    def meet(self, number: int, acts: list[str], others: list[str], raises: bool) -> None:
        """The other tab saves while the block of this one is open."""
        with self._block(number, raises=raises) as side:
            self._act(side, acts[:1])
            with self._block(1 - number) as other:
                self._act(other, others)
            self._act(side, acts[1:])

    @rule(number=sides, acts=acts, others=acts)
    def is_cleared_under_way(self, number: int, acts: list[str], others: list[str]) -> None:
        """The other tab clears while the block of this one is open."""
        with self._block(number) as side:
            self._act(side, acts[:1])
            self.clears(1 - number, others)
            self._act(side, acts[1:])

    @rule(number=sides, acts=acts)
    def clears(self, number: int, acts: list[str]) -> None:
        """The visitor clears the state, and goes on."""
        side = self.sides[number]
        self._begin(side)
        self._enter(side, load_state(NAME, AppState))
        clear_cookie_state(NAME)
        side.lose()
        if side.is_known:
            self.there = None
        else:
            side.is_to_clear = True
        with self._block(number):
            self._act(side, acts)

    @rule(number=sides, what=whats)
    def calls_back(self, number: int, what: str) -> None:
        """A callback changes the object of the tab's last run."""
        side = self.sides[number]
        if side.held is not None:
            self._act(side, [what])

    @rule(number=sides)
    def reloads(self, number: int) -> None:
        """The page is loaded anew; what was not saved is gone."""
        is_known = bool(self.browser.values())
        assert is_known or not self._is_there()
        self.sides[number] = Side(self.browser.open(), is_known)
        with self._block(number):
            pass

    @rule(share=st.sampled_from([0.3, 0.6, 1.1]))
    def time_passes(self, share: float) -> None:
        """Under and over half of max_age, and over it."""
        self.clock.shift(share * MAX_AGE)

    @rule()
    def is_swept(self) -> None:
        """The store drops what has expired."""
        self.store.delete_expired(before=time.time())

    # What must be there

    @invariant()
    def nothing_else_is_there(self) -> None:
        """One record, with all that was saved and nothing that was not; or none."""
        found = []
        for (key, name), stored in self.store._records.items():
            if name == NAME:
                record = open_sealed(key, name, stored.data, KEYS)
                if record.expires_at > time.time():
                    found.append(restore(record.payload, View((globals(),), AppState), AppState)[0])
                    assert record.expires_at == self.expires
        assert found == ([self.there] if self._is_there() else [])

    def _is_there(self) -> bool:
        return self.there is not None and self.expires > time.time()

    def _act(self, side: Side, acts: list[str]) -> None:
        for what in acts:
            self.value += 1
            assert side.held is not None
            side.changes.make(side.held, what, self.value)

    @contextmanager
    def _block(self, number: int, *, raises: bool = False) -> Iterator[Side]:
        """A run with one block."""
        side = self.sides[number]
        self._begin(side)
        with suppress(Boom), persistent_state(NAME, AppState) as state:
            self._enter(side, state)
            yield side
            if raises:
                raise Boom
        if raises:
            if side.changes or not side.is_known:
                side.held = None  # of a value that was thrown away, the newer object's stays: not what a callback makes
            side.changes, side.is_touched = Changes(), False
        else:
            self._leave(side)

    def _begin(self, side: Side) -> None:
        """End the last run, let the browser answer, if it was asked, and begin a run."""
        side.tab.end()
        if side.tab.is_asking:
            is_adopted = bool(self.browser.values())
            side.tab.answer()
            self._arrive(side, is_adopted=is_adopted)
        side.tab.begin()
        side.runs += 1

    def _arrive(self, side: Side, *, is_adopted: bool) -> None:
        """What the model makes of a browser that becomes known: what was done is brought to its record."""
        side.is_known = True
        if side.expires <= time.time():
            side.lose()
        if side.is_to_clear:
            self.there, side.is_to_clear = None, False
        if side.changes:
            if self._is_there():
                assert self.there is not None
                side.changes.come_late_to(self.there)
            self._write(side)
        if is_adopted and any(name == NAME for _, name in self.store._records):
            side.runs = 0  # the page is loaded once more

    def _enter(self, side: Side, state: AppState) -> None:
        """What the model makes of a load, which is to give the same."""
        if side.life is not None and (side.life != self.life or not self._is_there()):
            side.lose()
        if side.is_known and self._is_there():
            assert self.there is not None
            if side.life is None:
                side.is_touched = bool(side.changes)
                side.changes.come_late_to(self.there)
                side.life = self.life
            if self.expires - time.time() < MAX_AGE / 2:
                self.expires = time.time() + MAX_AGE
        side.held = state
        assert state == side.changes.on((side.life is not None and self.there) or AppState())

    def _leave(self, side: Side) -> None:
        """What the model makes of a commit."""
        if not side.is_known:
            if side.changes:
                side.expires = time.time() + MAX_AGE
            return
        is_based = side.life is not None
        if is_based and (side.life != self.life or not self._is_there()):
            if side.changes or side.is_touched:
                side.lose()
        elif side.changes or side.is_touched:
            self._write(side)
        elif not is_based and side.runs > 1:
            if self._is_there():
                side.life = self.life
            else:
                self._write(side)

    def _write(self, side: Side) -> None:
        if not self._is_there():
            self.there = None
            self.life += 1
        self.there = side.changes.on(self.there or AppState())
        self.expires = time.time() + MAX_AGE
        side.changes, side.is_touched, side.life = Changes(), False, self.life
        if side.held is not None:
            assert side.held == self.there


EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "200"))
"""A few thousand find more, and take minutes."""

TestTwoTabs = TwoTabs.TestCase
TestTwoTabs.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck]
)
