"""What a tab remembers of each name between its runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from persist_session.binding import Binding
from persist_session.cookies import Question
from persist_session.held import Held
from persist_session.home import Home
from persist_session.host import Run


@dataclass(slots=True)
class Tab:
    """One tab: what it holds of each name, and what it asks its browser."""

    question: Question = field(default_factory=Question)
    held: dict[str, Held] = field(default_factory=dict)

    def hold(self, name: str) -> Held:
        """What the tab holds of this name, from now on at least."""
        return self.held.setdefault(name, Held(Home(name, Binding(name, self.question))))

    def hold_for(self, name: str, user: str | None) -> Held:
        """What the tab holds of this name for a user, or for the browser; what it held for another is let go.

        Raises:
            PersistSessionError: What was done to that can't be saved; see `persistent_state`.
        """
        while True:
            held = self.hold(name)
            with held.lock:
                if self.held[name] is not held:
                    continue  # an overlapping run was faster
                if held.user != user:
                    held = self.held[name] = held.of_user(user)
                return held


def tab_of(run: Run) -> Tab:
    """The tab that the run belongs to."""
    tab = run.memory.setdefault("tab", Tab())
    if not isinstance(tab, Tab):
        # Left by this module as it was before Streamlit evicted it: the browser and the store know the rest.
        tab = run.memory["tab"] = Tab()
    return tab
