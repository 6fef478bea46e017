"""What a tab holds of one name: brings the state into a run, and saves what the run made of it."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from persist_session.binding import Binding
from persist_session.errors import ConfigurationError, PersistSessionError, StateError, UnloadableStateError
from persist_session.live import Live
from persist_session.pickling import UnpicklableError
from persist_session.place import Place, Saved
from persist_session.settings import Settings
from persist_session.signing import record_key
from persist_session.transaction import (
    Caller,
    ClearedError,
    Options,
    adopt,
    commit,
    draft,
    fresh,
    load,
    made,
    unpicklable,
)
from persist_session.view import UnrestorableError, name_of

_log = logging.getLogger(__name__)


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
        settings: The settings in force when the state was last loaded.
        options: How the last load said that the state is to be kept.
        factory: What the last load said that makes a fresh state.
        run: The newest run that loaded the state.
        place: Where the record lies, None until the browser is known.
        live: The live object, None before the first load and after an exception threw it away.
        draft: Pickle of a state that was made here and not saved yet: what comes back after an exception.
        saved: What the next save is based on.
        blocks: The open blocks, by thread.
        is_save_due: The state was saved by hand before the browser was known.
        is_cleared: The visitor's state was cleared: whoever still holds this must not save it.
        is_successor: It took the place of a cleared one.
        before_clearing: The live object that was cleared here: saving it by hand does not bring it back.
    """

    name: str
    binding: Binding
    lock: threading.RLock = field(default_factory=threading.RLock)
    settings: Settings | None = None
    options: Options | None = None
    factory: Callable[[], Any] | None = None
    run: weakref.ref[Any] | None = None
    place: Place | None = None
    live: Live | None = None
    draft: bytes | None = field(default=None, repr=False)
    saved: Saved = field(default_factory=Saved)
    blocks: dict[int, Block] = field(default_factory=dict)
    is_save_due: bool = False
    is_cleared: bool = False
    is_successor: bool = False
    before_clearing: Live | None = None

    def asked_by(self, factory: Callable[[], Any], run: weakref.ref[Any], options: Options, settings: Settings) -> None:
        """Notes who loads the state, and how it is to be kept.

        Raises:
            ConfigurationError: In the same run, another factory made this state.
        """
        if self.factory is not None and self.run == run and name_of(self.factory) != name_of(factory):
            raise ConfigurationError(
                f"The state {self.name!r} was loaded with {name_of(self.factory)} and with {name_of(factory)} in one "
                "run; give the two states different names."
            )
        self.factory, self.run, self.options, self.settings = factory, run, options, settings

    def bring(self, caller: Caller) -> Any:
        """The live object, loaded if it has to be, in the classes that the caller sees.

        Raises:
            UnloadableStateError: A class of it is gone.
            PersistSessionError: See `persistent_state`.
        """
        assert self.options is not None, "noted by asked_by"
        self._finish_clearing()
        place = self._find_place()
        try:
            if self.live is not None and self.place is None and place is not None:
                self.live, self.saved = adopt(self.live, place, caller, self.options)
            # Noted only now: where the store failed, the next run adopts again.
            self.place = place
            if self.live is None:
                self.live = self._first(caller, self.options)
            self.live.bring_over(caller.view, caller.factory, caller.run)
        except UnpicklableError as error:
            self.live = None
            raise unpicklable(error, self.name) from error
        except UnrestorableError as error:
            self.live = None
            raise UnloadableStateError(
                f"The state {self.name!r} can't go on in this run: {error}. Define the class before the state is "
                "loaded.",
                name=self.name,
            ) from error
        if self.is_save_due and self.place is not None:
            self.commit()  # after it there may be no live object: another tab cleared the state
            return self.bring(caller)
        return self.live.obj

    def _first(self, caller: Caller, options: Options) -> Live:
        if self.place is not None:
            live, self.saved = load(self.place, caller, options)
            if live is not None:
                return live
        if self.draft is not None:
            try:
                return draft(self.draft, caller, self.name)
            except UnrestorableError as error:
                _log.info("The state %r was never saved and starts fresh: %s", self.name, error)
        live = fresh(caller, self.name)
        self.draft = live.base
        return live

    def _find_place(self) -> Place | None:
        if self.place is not None or self.binding.session_id is None:
            return self.place
        return self._place_of(self.binding.session_id)

    def _place_of(self, session_id: str) -> Place:
        assert self.settings is not None, "noted by asked_by"
        return Place(self.settings.store, self.settings.keys, self.name, record_key(self.name, session_id))

    def _finish_clearing(self) -> None:
        if self.binding.cleared is not None:
            self._place_of(self.binding.cleared).delete()
            self.binding.cleared = None

    def leave(self, block: Block, error: BaseException | None) -> None:
        """Saves what the block changed; or throws it away, if an exception left it.

        Raises:
            PersistSessionError: See `persistent_state`; not where something else is under way already.
        """
        assert self.options is not None, "noted by asked_by"
        if self.is_cleared or self.live is None:
            return
        if isinstance(error, Exception) and self.options.on_error == "discard":
            if self.run == block.run:
                self.live = None
            else:
                self.live.forget(block.obj)
            return
        try:
            self.commit()
        except PersistSessionError as failure:
            if error is None:
                if isinstance(failure, StateError):
                    self.live = None  # else every later run of this visitor would meet the same error
                raise
            # What is under way, a stop, a rerun or the app's own error, goes on; the next exit tries again, and raises.
            _log.error("The state %r could not be saved: %s. It is tried again.", self.name, failure)

    def commit(self) -> None:
        """Saves the live object if it changed and the browser is known.

        Raises:
            PersistSessionError: See `persistent_state`.
        """
        if self.is_cleared or self.place is None or self.live is None or self.options is None:
            return
        # Whoever saves is told what went wrong: no later load meets the same error.
        self.is_save_due = False
        try:
            self.saved = commit(self.live, self.place, self.saved, self.options)
        except ClearedError:
            _log.info("The state %r was cleared elsewhere: this tab's is not saved.", self.name)
            self.live, self.saved = None, Saved()
        self.draft = None

    def save(self, obj: Any, caller: Caller) -> None:
        """Saves the live object, or another one in its place; once the browser is known.

        Raises:
            PersistSessionError: See `persistent_state`.
        """
        if self.before_clearing is not None and self.before_clearing.holds(obj):
            _log.info("The state %r was cleared: its old object is not saved.", self.name)
            return
        if self.live is None or not self.live.holds(obj):
            self.live = made(obj, caller, self.name, self.live)
        if self.is_successor and self.saved.version is None:
            self.place = self._find_place()  # a new id, under which nothing can lie yet
        self.is_save_due = True
        self.commit()

    def clear(self, settings: Settings, max_age: float) -> Held:
        """Deletes the record, and returns what takes this one's place.

        Raises:
            StoreError: The store failed; nothing is cleared.
        """
        self.settings = settings
        self._finish_clearing()
        self.place = self._find_place()
        if self.place is not None:
            self.place.delete()
        self.is_cleared = True
        binding = self.binding.successor()
        if self.place is not None:
            binding.issue(settings, max_age)
        return Held(
            self.name,
            binding,
            settings=settings,
            options=self.options,
            factory=self.factory,
            run=self.run,
            is_successor=True,
            before_clearing=self.live or self.before_clearing,
        )
