"""What a tab holds of one name: brings the state into a run, and saves what the run made of it."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from persist_session import relay
from persist_session.binding import Binding
from persist_session.errors import (
    ConfigurationError,
    PersistSessionError,
    StateConflictError,
    StoreError,
    UnloadableStateError,
)
from persist_session.home import Home
from persist_session.live import Caller, Live
from persist_session.pickling import UnpicklableError, loads
from persist_session.place import Place, Saved
from persist_session.settings import Settings
from persist_session.sweep import sweep_if_due
from persist_session.transaction import ClearedError, Options, catch_up, commit, load, unpicklable, unsaved
from persist_session.view import UnrestorableError, name_of

_log = logging.getLogger(__name__)

_MOST_BEFORE = 8
"""How many states that a tab held before are known as such."""


@dataclass(slots=True)
class Block:
    """The outermost open block of one thread: those inside it get its object and leave the saving to it.

    Or what a class that persists opens by its first call in a run, and the run's end leaves.

    Attributes:
        obj: What the block got.
        run: The run that opened it.
        before: The object's pickle before that, where blocks of other runs were open, or no record held it yet.
        exclusively: Holds the record's lock, if the block is exclusive and the browser known.
        is_exclusive: Whether it was to be.
        depth: How many blocks are in one another.
    """

    obj: Any = field(repr=False)
    run: weakref.ref[Any]
    before: bytes | None = field(default=None, repr=False)
    exclusively: ExitStack = field(default_factory=ExitStack)
    is_exclusive: bool = False
    depth: int = 1


@dataclass(slots=True)
class Held:
    """What a tab holds of one name, from its first load to its clearing.

    Attributes:
        home: Where its record lies, or is to lie.
        remember: Whether it is to outlive the tab.
        lock: Guards everything below; this library mounts no element of Streamlit while it holds it.
        options: How the last load said that the state is to be kept.
        factory: What the last load said that makes a fresh state.
        run: The newest run that loaded the state.
        place: Where the record was found, None until the browser is known.
        live: The live object, None before the first load and after an exception threw it away.
        draft: Pickles of a state that no record holds yet: as the factory made it, and as it comes back after an
            exception.
        saved: What the next save is based on.
        blocks: The open blocks, by thread; those that end with a run, by the run.
        is_save_due: The state was saved by hand before the browser was known.
        is_cleared: The visitor's state was cleared: whoever still holds this must not save it.
        before: Live objects that were cleared here, or are another user's: saving one by hand does not bring it back.
    """

    home: Home
    remember: bool = True
    lock: threading.RLock = field(default_factory=threading.RLock)
    options: Options | None = None
    factory: Callable[[], Any] | None = None
    run: weakref.ref[Any] | None = None
    place: Place | None = None
    live: Live | None = None
    draft: tuple[bytes, bytes] | None = field(default=None, repr=False)
    saved: Saved = field(default_factory=Saved)
    blocks: dict[int | weakref.ref[Any], Block] = field(default_factory=dict)
    is_save_due: bool = False
    is_cleared: bool = False
    before: tuple[Live, ...] = ()

    @property
    def name(self) -> str:
        """The state's name."""
        return self.home.name

    @property
    def binding(self) -> Binding:
        """The tab's session id."""
        return self.home.binding

    @property
    def user(self) -> str | None:
        """Whose state it is; None: whoever has the browser's cookie."""
        return self.home.user

    @property
    def record_key(self) -> str | None:
        """Names the record, None where there is none, or is to be none."""
        return self.home.record_key if self.remember else None

    def asked_by(
        self,
        factory: Callable[[], Any],
        run: weakref.ref[Any],
        options: Options,
        settings: Settings,
        *,
        remember: bool = True,
    ) -> None:
        """Notes who loads the state, and how it is to be kept.

        Raises:
            ConfigurationError: In the same run, another factory made this state.
        """
        if self.factory is not None and self.run == run and name_of(self.factory) != name_of(factory):
            raise ConfigurationError(
                f"The state {self.name!r} was loaded with {name_of(self.factory)} and with {name_of(factory)} in one "
                "run; give the two states different names."
            )
        self.factory, self.run, self.options, self.remember = factory, run, options, remember
        self.home.settings, self.home.max_age = settings, options.max_age
        self.binding.want(is_wanted=remember and self.user is None)

    def of_user(self, user: str | None) -> Held:
        """What takes this one's place when the visitor logs in or out.

        Raises:
            PersistSessionError: See `persistent_state`.
        """
        try:
            self.commit()  # what a callback did since the last run, to whom it was done
        except StoreError:
            raise
        except Exception:
            self.live = None  # else nobody could log in or out in this tab any more
            raise
        # Of a login that failed so far, what was to be taken over is the visitor's again.
        left_behind = self.home.inherited
        if self.user is None and self.place is None and self.draft is not None and self.draft[0] != self.draft[1]:
            left_behind = self.draft
        return Held(
            replace(self.home, user=user, inherited=left_behind if user is not None else None),
            draft=left_behind if user is None else None,
            before=self._left(),
        )

    def _left(self) -> tuple[Live, ...]:
        return (*self.before, self.live)[-_MOST_BEFORE:] if self.live is not None else self.before

    def bring(self, caller: Caller) -> Any:
        """The live object, loaded if it has to be, in the classes that the caller sees.

        Raises:
            ClearedError: The state was cleared elsewhere, or has expired: it is let go. Bind again.
            UnloadableStateError: A class of it is gone.
            PersistSessionError: See `persistent_state`.
        """
        assert self.options is not None, "noted by asked_by"
        if self.is_cleared:
            raise ClearedError
        self.settle_in(caller)
        try:
            if self.live is None:
                self.live = self._first(caller, self.options)
            self.live.bring_over(caller)
            if self.place is not None:
                self._refresh(self.live, self.place, self.options)
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
        except ClearedError:
            self.let_go()
            raise
        except StoreError:
            raise  # the next run tries again
        except Exception:
            self.live = None  # as what an exception in the block leaves: else every later run met the same error
            raise
        if self.is_save_due and self.place is not None:
            self.commit()  # after it there may be no live object: another tab cleared the state
            return self.bring(caller)
        return self.live.obj

    def settle_in(self, caller: Caller) -> None:
        """Finds the place of the record, when what is elsewhere has been brought there or deleted.

        Raises:
            PersistSessionError: See `persistent_state`.
        """
        assert self.options is not None, "noted by asked_by"
        self.home.finish_clearing()
        self.home.take_over(caller, self.options)
        if self.remember and self._is_elsewhere():
            self._leave(caller, self.options)
        self.home.merge_left(caller, self.options)
        if not self.remember:
            self._forget(caller, self.options)
        self.place = self._find_place()

    def _forget(self, caller: Caller, options: Options) -> None:
        """Removes the record and the cookie; what they held goes on in the tab."""
        self._withdraw(self.home.find(), caller, options)
        self.home.drop_cookie()

    def _is_elsewhere(self) -> bool:
        """Whether the browser is known to have another HttpOnly cookie by now than when the state was found."""
        if self.place is None or self.user is not None:
            return False
        place = self.home.in_browser()
        return place is not None and place.record_key != self.place.record_key

    def _leave(self, caller: Caller, options: Options) -> None:
        """Leaves a place that the browser does not know any more; what was done there since goes on in the tab."""
        assert self.place is not None, "it is elsewhere than the browser"
        if self.saved.version is not None and self.place.version() is None:
            self.live = self.draft = None  # it was cleared
        self._withdraw(self.place, caller, options)

    def _withdraw(self, place: Place | None, caller: Caller, options: Options) -> None:
        if place is not None and place.version() is not None:
            self._keep_in_tab(place, caller, options)
            place.delete()
            self.is_save_due = self.remember and self.live is not None
        if self.live is not None:
            self.live.saved = False
        self.place, self.saved = None, Saved()

    def _keep_in_tab(self, place: Place, caller: Caller, options: Options) -> None:
        """Has the tab hold what the record holds, as if all of it had been done here to a fresh state."""
        try:
            if self.live is not None:
                self.saved = catch_up(self.live, place, self.saved, options)
        except ClearedError:
            self.live = self.draft = None
        live = self.live or load(place, caller, options)[0]
        if live is None:
            return
        fresh = unsaved(caller.factory(), caller, self.name).base
        try:
            live.settle(live.obj, fresh)
        except UnpicklableError as error:
            self.live = None
            raise unpicklable(error, self.name) from error
        self.live, self.draft = live, (fresh, self._pickled(live))

    def is_current(self) -> bool:
        """Whether the record is as this tab saw it last: neither written nor cleared elsewhere since, nor expired."""
        return self.place is None or (self.place.version() == self.saved.version and not self.saved.is_expired)

    def is_gone(self) -> bool:
        """Whether the record that this tab saw last was cleared elsewhere."""
        return self.place is not None and self.saved.version is not None and self.place.version() is None

    def _first(self, caller: Caller, options: Options) -> Live:
        if self.place is not None:
            live, found = load(self.place, caller, options)
            if live is None and self.saved.version is not None and found.version is None:
                raise ClearedError
            self.saved = found
            if live is not None:
                return live
        if self.draft is not None:
            base, data = self.draft
            try:
                live = unsaved(loads(data, caller.view), caller, self.name)
                live.base, live.is_touched = base, data != base
                return live
            except UnrestorableError as error:
                _log.info("The state %r was never saved and starts fresh: %s", self.name, error)
        live = unsaved(caller.factory(), caller, self.name)
        self.draft = live.base, live.base
        return live

    def _refresh(self, live: Live, place: Place, options: Options) -> None:
        """Brings in what another tab or process saved, and renews a record whose time is half over."""
        sweep_if_due(place.store)
        if place.version() != self.saved.version:
            self.saved = catch_up(live, place, self.saved, options)
        if self.saved.is_expired:
            raise ClearedError
        if self.saved.is_aging(options.max_age):
            self.saved = place.renew(self.saved, options.max_age)

    def _pickled(self, live: Live) -> bytes:
        try:
            return live.pickled()
        except UnpicklableError as error:
            raise unpicklable(error, self.name) from error

    def _is_untouched(self, live: Live) -> bool:
        try:
            return live.is_untouched()
        except UnpicklableError as error:
            raise unpicklable(error, self.name) from error

    def snapshot(self) -> bytes | None:
        """What an exception in the block that begins takes the state back to; None: to what was last saved."""
        try:
            return self.live.pickled() if self.live is not None and self._has_unsaved else None
        except UnpicklableError:
            return None  # whoever saves it is told

    @property
    def _has_unsaved(self) -> bool:
        """Whether an older run's block is still open, or no record holds what was done until now."""
        return bool(self.blocks) or self.draft is not None

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Holds the record's lock over a block; nothing, where the browser is not known, so that there is no record.

        Raises:
            LockTimeoutError: Another exclusive block did not end in time.
            StoreError: The store failed.
        """
        assert self.home.settings is not None, "noted by asked_by"
        place = self.home.find() or self.place if self.remember else None
        with place.lock(self.home.settings.lock_timeout) if place is not None else nullcontext():
            yield

    def let_go(self) -> None:
        """Forgets the state and the place of its record: it was cleared elsewhere, or has expired."""
        _log.info("The state %r was cleared elsewhere, or has expired: this tab's is not saved.", self.name)
        # Not where others logged in and out since.
        if self.user is None and self.home.in_browser() in (None, self.place):
            self.binding.outdate(is_expired=self.saved.is_expired)
        self.place, self.live, self.draft, self.saved, self.is_save_due = None, None, None, Saved(), False

    def _find_place(self) -> Place | None:
        return self.place if self.place is not None or not self.remember else self.home.find()

    def leave(self, block: Block, error: BaseException | None) -> None:
        """Saves what the block changed; or throws it away, if an exception left it.

        Raises:
            PersistSessionError: See `persistent_state`; not where something else is under way already.
        """
        assert self.options is not None, "noted by asked_by"
        if self.is_cleared or self.live is None:
            return
        if isinstance(error, Exception) and self.options.on_error == "discard":
            self._discard(self.live, block)
            return
        try:
            self.commit()
        except Exception as failure:
            if error is None:
                if not isinstance(failure, StoreError):
                    self.live = None  # else every later run of this visitor would meet the same error
                raise
            # What is under way, a stop, a rerun or the app's own error, goes on; the next exit tries again, and raises.
            said = failure if isinstance(failure, PersistSessionError) else type(failure).__name__
            _log.error("The state %r could not be saved: %s. It is tried again.", self.name, said)

    def _discard(self, live: Live, block: Block) -> None:
        if self.run != block.run:
            live.forget(block.obj)
            return
        # A callback of a widget that is still on the page holds the object that is thrown away: what it does to it is
        # no part of the error. Nor is what an older run did, that has not left its block yet.
        before = block.before if self._has_unsaved else None
        draft = self.draft[1] if self.draft is not None and self.saved.version is None else None
        self.live = None
        with suppress(UnpicklableError, UnrestorableError):
            live.go_back(before or draft or live.base)
            self.live = live

    def ended(self, run: weakref.ref[Any]) -> None:
        """Takes note that this run drew all of its widgets."""
        with self.lock:
            if self.live is not None:
                self.live.forget_before(run)

    def commit(self) -> None:
        """Saves the live object if it changed and the browser is known.

        Raises:
            PersistSessionError: See `persistent_state`.
        """
        if self.is_cleared or self.live is None or self.options is None:
            return
        # Of a state that was cleared: what is saved before the server has replaced the id would keep it.
        self.binding.listen(waits=self.place is not None and self._is_retired(self.place) and self._is_due(self.live))
        if self._is_elsewhere():  # since this run began: what is saved at its place would be lost
            self._leave(self.live.caller, self.options)
            self.place = self._find_place()
            if self.live is None:
                return
        if self.place is None or self._is_put_off(self.place, self.live):
            self.draft = self.live.base, self._pickled(self.live)
            return
        # Whoever saves is told what went wrong: no later load meets the same error.
        self.is_save_due = False
        try:
            self._commit(self.live, self.place, self.options)
        except ClearedError:
            self.let_go()
        self.draft = None

    def _commit(self, live: Live, place: Place, options: Options) -> None:
        try:
            self.saved = commit(live, place, self.saved, options, self._note)
        except ClearedError:
            moved = self.home.find() if self.user is not None else None
            if moved is None or moved.version() is None:
                raise
            # A process whose newest key is another one had moved the record; its lineage tells whether it is the same.
            self.place, self.saved = moved, commit(live, moved, self.saved, options, self._note)

    def _is_put_off(self, place: Place, live: Live) -> bool:
        """Whether a fresh state is not saved before it is changed.

        As long as nothing lies under the id of an HttpOnly cookie that was cleared, the server replaces it.
        """
        return self._is_retired(place) and not self._is_due(live)

    def _is_retired(self, place: Place) -> bool:
        is_fresh = self.user is None and self.saved.version is None
        return is_fresh and relay.retired.get(place.record_key) is not None

    def _is_due(self, live: Live) -> bool:
        return self.is_save_due or not self._is_untouched(live)

    def _note(self, saved: Saved) -> None:
        self.saved = saved

    def save(self, obj: Any, caller: Caller) -> None:
        """Saves the live object, or another one in its place; once the browser is known.

        Raises:
            ClearedError: See `bring`.
            PersistSessionError: See `persistent_state`.
        """
        if any(live.holds(obj) for live in self.before):
            _log.info("The state %r was cleared, or is another user's: its old object is not saved.", self.name)
            return
        if self.live is None:
            self.bring(caller)
        assert self.live is not None, "brought"
        try:
            if not self.live.holds(obj):
                self.live.bring_over(caller)
                self.live.replace(obj)
        except UnpicklableError as error:
            raise unpicklable(error, self.name) from error
        if self.place is None and self.binding.is_pending:
            self.place = self._find_place()  # a new id, under which nothing can lie yet
        self.live.absorb()  # in a callback, no entry of this run has heard what was done to an earlier object
        self.is_save_due = True
        try:
            self.commit()
        except StateConflictError:
            self.live = None  # so that it can be loaded again, and the change repeated
            raise

    def clear(self, settings: Settings, max_age: float) -> Held:
        """Deletes the record, and returns what takes this one's place.

        Raises:
            StoreError: The store failed; nothing is cleared.
        """
        self.home.settings, self.home.max_age = settings, max_age
        if self.place is not None and (self._is_elsewhere() or self.binding.session_id is None):
            self.place.delete()  # what the browser has by now is cleared, too, as soon as that is known
            self.place = None
        binding = self.home.clear(self.place or self.home.in_browser(), self.saved)
        self.is_cleared = True
        return Held(
            replace(self.home, binding=binding, inherited=None),
            remember=self.remember,
            options=self.options,
            factory=self.factory,
            run=self.run,
            before=self._left(),
        )
