"""What a tab remembers of each name between its runs."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from persist_session.binding import Binding
from persist_session.cookies import Question
from persist_session.errors import ConfigurationError
from persist_session.host import Run
from persist_session.live import Live
from persist_session.place import Place, Saved
from persist_session.transaction import Options


@dataclass(slots=True)
class Block:
    """The outermost open block of one thread: those inside it get its object and leave the saving to it."""

    obj: Any = field(repr=False)
    run: weakref.ref[Any]
    depth: int = 1


@dataclass(slots=True)
class Held:
    """What a tab holds of one name, from its first load to its clearing.

    Attributes:
        lock: Guards everything below; never held while an element of Streamlit is mounted.
        place: Where the record lies, None until the browser is known.
        live: The live object, None before the first load and after an exception threw it away.
        draft: Pickle of a state that was made here and not saved yet: what comes back after an exception.
        saved: What the next save is based on.
        options: How the last load said that the state is to be kept.
        factory: What the last load said that makes a fresh state.
        run: The newest run that loaded the state.
        blocks: The open blocks, by thread.
        is_save_due: The state was saved by hand before the browser was known.
        is_cleared: The visitor's state was cleared: whoever still holds this must not save it.
        is_successor: It took the place of a cleared one.
        before_clearing: The live object that was cleared here: saving it by hand does not bring it back.
    """

    name: str
    binding: Binding
    lock: threading.RLock = field(default_factory=threading.RLock)
    place: Place | None = None
    live: Live | None = None
    draft: bytes | None = field(default=None, repr=False)
    saved: Saved = field(default_factory=Saved)
    options: Options | None = None
    factory: Callable[[], Any] | None = None
    run: weakref.ref[Any] | None = None
    blocks: dict[int, Block] = field(default_factory=dict)
    is_save_due: bool = False
    is_cleared: bool = False
    is_successor: bool = False
    before_clearing: Live | None = None

    def asked_by(self, factory: Callable[[], Any], run: weakref.ref[Any], options: Options) -> None:
        """Notes who loads the state, and how it is to be kept.

        Raises:
            ConfigurationError: In the same run, another factory made this state.
        """
        if self.factory is not None and self.run == run and _name_of(self.factory) != _name_of(factory):
            raise ConfigurationError(
                f"The state {self.name!r} was loaded with {_name_of(self.factory)} and with {_name_of(factory)} in one "
                "run; give the two states different names."
            )
        self.factory, self.run, self.options = factory, run, options

    def successor(self) -> Held:
        """What takes this one's place once the state is cleared."""
        return Held(
            self.name,
            self.binding.successor(),
            options=self.options,
            factory=self.factory,
            run=self.run,
            is_successor=True,
            before_clearing=self.live or self.before_clearing,
        )


@dataclass(slots=True)
class Tab:
    """One tab: what it holds of each name, and what it asks its browser."""

    question: Question = field(default_factory=Question)
    held: dict[str, Held] = field(default_factory=dict)

    def hold(self, name: str) -> Held:
        """What the tab holds of this name, from now on at least."""
        return self.held.setdefault(name, Held(name, Binding(name)))


def tab_of(run: Run) -> Tab:
    """The tab that the run belongs to."""
    tab = run.memory.setdefault("tab", Tab())
    if not isinstance(tab, Tab):
        # Left by this module as it was before Streamlit evicted it: the browser and the store know the rest.
        tab = run.memory["tab"] = Tab()
    return tab


def _name_of(factory: Any) -> str:
    while isinstance(factory, partial):
        factory = factory.func
    return f"{getattr(factory, '__module__', '')}.{getattr(factory, '__qualname__', type(factory).__qualname__)}"
