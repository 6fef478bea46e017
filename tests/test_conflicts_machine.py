"""Two tabs of one visitor, driven at random: what is there is always what a simple model says."""

from __future__ import annotations

import copy
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import time_machine
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from persist_session import clear_cookie_state, load_state, persistent_state
from persist_session.record import open_sealed
from persist_session.snapshot import restore
from persist_session.view import View
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
        changes: What it did and did not save.
        held: What the app's callbacks hold.
        life: Which one of the visitor's states it is bound to, None while it does not know its browser.
        seen: The version that it saw last.
        has_cookie: Whether its handshake had one.
        is_touched: Whether it had changed something when it came to know its browser.
    """

    tab: Tab
    changes: Changes = field(default_factory=Changes)
    held: AppState | None = None
    life: int | None = None
    seen: int = 0
    has_cookie: bool = False
    is_touched: bool = False

    def lose(self) -> None:
        """Forget the state: it was cleared elsewhere, or has expired."""
        self.life, self.held, self.changes = None, None, Changes()
        self.has_cookie = self.is_touched = False


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
        self.clock = self.stack.enter_context(time_machine.travel(100_000.0, tick=False))
        self.store = CountingStore()
        self.browser = self.stack.enter_context(pretended(self.store, MAX_AGE))
        self.sides = [Side(self.browser.open()) for _ in range(2)]
        self.there: AppState | None = None
        self.expires = self.visited = 0.0
        self.life = self.version = self.value = 0

    def teardown(self) -> None:
        """Go back to the present."""
        self.stack.close()

    # What happens

    @rule(number=sides, acts=acts, raises=st.booleans())
    def visits(self, number: int, acts: list[str], raises: bool) -> None:
        """A run of the script, with one block; and the run that the browser's answer starts, where it was asked."""
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
        knows = self._begin(side)
        self._enter(side, load_state(NAME, AppState), knows=knows)
        clear_cookie_state(NAME)
        side.lose()
        self._replace(None)
        side.life = self.life
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
        values = self.browser.values()
        if self.there is not None and time.time() - self.visited < MAX_AGE / 2:
            assert values, "a visit gives the cookie half of max_age at least"
        if self._is_there() and not values:
            return  # another tab still has what the browser has forgotten
        self.sides[number] = Side(self.browser.open(), has_cookie=bool(values))
        with self._block(number):
            pass

    @rule(share=st.sampled_from([0.3, 0.6, 1.1]))
    def time_passes(self, share: float) -> None:
        """Under and over half of max_age, and over it."""
        self.clock.shift(share * MAX_AGE)

    @rule()
    def is_swept(self) -> None:
        """The store drops what has expired."""
        self.store.delete_expired()

    # What must be there

    @invariant()
    def nothing_else_is_there(self) -> None:
        """One record, with all that was saved and nothing that was not; or none."""
        found = []
        for (_, key), stored in self.store._records.items():
            record = open_sealed(key, stored.data, KEYS)
            if record.expires_at > time.time():
                found.append(restore(record.payload, View((globals(),), AppState), AppState)[0])
                assert record.expires_at == self.expires
        assert found == ([self.there] if self._is_there() else [])

    def _is_there(self) -> bool:
        return self.there is not None and not self._is_over()

    def _is_over(self) -> bool:
        return self.there is not None and self.expires <= time.time()

    def _act(self, side: Side, acts: list[str]) -> None:
        for what in acts:
            self.value += 1
            assert side.held is not None
            side.changes.make(side.held, what, self.value)

    @contextmanager
    def _block(self, number: int, *, raises: bool = False) -> Iterator[Side]:
        """A run with one block; then the run that the browser's answer starts, if the browser was asked."""
        side = self.sides[number]
        knows = self._begin(side)
        with suppress(Boom), persistent_state(NAME, AppState) as state:
            self._enter(side, state, knows=knows)
            yield side
            if raises:
                raise Boom
        if raises:
            if side.changes:
                side.held = None  # of a value that was thrown away, the newer object's stays: not what a callback makes
            side.changes = Changes()
        else:
            self._leave(side)
        if side.tab.is_asking:
            with self._block(number):
                pass

    def _begin(self, side: Side) -> bool:
        """Begin a run; whether it is the first one that knows the browser."""
        knows = side.life is None and (side.tab.is_asking or side.has_cookie)
        side.tab.begin()
        return knows

    def _enter(self, side: Side, state: AppState, *, knows: bool) -> None:
        """What the model makes of a load, which is to give the same."""
        if knows:
            side.is_touched = bool(side.changes)
            if self._is_there():
                assert self.there is not None
                side.changes.come_late_to(self.there)
            else:
                self._replace(None)
            side.life, self.visited = self.life, time.time()
        elif side.life is not None and (side.life != self.life or self._is_over()):
            side.lose()
        elif side.life is not None and side.seen == self.version:
            self.visited = time.time()
        if side.life is not None:
            if self.there is not None and self.expires - time.time() < MAX_AGE / 2:
                self._note_write()
            side.seen = self.version
        side.held = state
        assert state == side.changes.on((side.life is not None and self.there) or AppState())

    def _leave(self, side: Side) -> None:
        """What the model makes of a commit."""
        if side.life is None:
            return
        if side.life != self.life:
            if side.changes:
                side.lose()
        elif side.changes or side.is_touched or self.there is None:
            self.there = side.changes.on(self.there or AppState())
            self._note_write()
            side.changes, side.is_touched, side.seen = Changes(), False, self.version
            assert side.held == self.there

    def _replace(self, state: AppState | None) -> None:
        self.life += 1
        self.version += 1
        self.there = state

    def _note_write(self) -> None:
        self.version += 1
        self.expires = time.time() + MAX_AGE


TestTwoTabs = TwoTabs.TestCase
TestTwoTabs.settings = settings(
    max_examples=100, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck]
)
