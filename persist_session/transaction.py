"""Begins, commits, discards and moves a transaction: the way between the live object and its record. No Streamlit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from persist_session.errors import (
    ConfigurationError,
    StateConflictError,
    StateError,
    StateTooLargeError,
    StoreError,
    UnloadableStateError,
    UnpicklableStateError,
)
from persist_session.objects.classes import UnrestorableError, unwrapped
from persist_session.objects.live import Caller, Live
from persist_session.objects.merge import merge
from persist_session.objects.pickling import Pickled, UnpicklableError, dumps, find_unloadable, is_loadable, loads
from persist_session.objects.sameness import same
from persist_session.objects.schema import fill, pack, restore
from persist_session.records import Absence, Home, Kind, Saved

_log = logging.getLogger(__name__)

_RETRIES = 100

OnConflict = Literal["merge", "overwrite", "raise"] | Callable[[Any, Any, Any], Any]


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a state's last load.

    Attributes:
        max_age: Seconds until a state that nobody visits expires.
        max_bytes: The largest pickle.
    """

    max_age: float
    max_bytes: int
    on_error: Literal["discard", "commit"] = "discard"
    on_unloadable: Literal["raise", "fresh"] = "raise"
    on_conflict: OnConflict = "merge"


class _ClearedError(Exception):
    """The record is gone: another tab cleared it, or it has expired. A late save must not bring it back."""


class _MovedError(Exception):
    """Another tab logged in and took the state along: this tab's goes on as its own."""


class Transaction:
    """One state in one home: the object, its base, and the version it is based on.

    Attributes:
        home: The place of the record.
        live: The live object; None before the first load, and after it was cleared or thrown away.
        saved: The record that the object is based on.
    """

    def __init__(self, home: Home, own: Home) -> None:
        self.home = home
        self.live: Live | None = None
        self.saved = Saved()
        self._own = own
        self._origin: bytes | None = None

    def begin(self, caller: Caller, options: Options) -> Any:
        """The live object, loaded if it has to be, in the classes that the caller sees.

        Raises:
            UnloadableStateError: A class of it is gone.
            UnpicklableStateError: A fresh state could not be saved.
            StateConflictError: Both sides changed it, and `on_conflict` is "raise".
            StoreError: The store failed; the next run tries again.
        """
        for _ in range(_RETRIES):
            try:
                return self._begin(caller, options)
            except _ClearedError:
                self._let_go()
            except _MovedError:
                self._stay_behind()
            except UnpicklableError as error:
                self.live = None
                raise _unpicklable(error, self.home.name) from error
            except UnrestorableError as error:
                live, self.live = self.live, None
                raise _stuck(live, self.home.name, error) from error
            except StoreError:
                raise
            except Exception:
                self.live = None  # else every later run met the same error
                raise
        raise _restless(self.home)

    def _begin(self, caller: Caller, options: Options) -> Any:
        if self.live is None:
            self.live = self._load(caller, options) or self._fresh(caller)
        self.live.bring_over(caller)
        if self.home.version() != self.saved.version:
            self._catch_up(self.live, options)
        if self.saved.is_expired:
            raise _ClearedError
        if self.saved.is_aging(options.max_age):
            self.saved = self.home.renew(self.saved, options.max_age)
        return self.live.obj

    def _load(self, caller: Caller, options: Options) -> Live | None:
        payload, self.saved = self.home.read(options.max_age)
        if isinstance(payload, Absence):
            return None
        live = _restored(payload, self.saved, self.home, caller, options)
        if live is None:
            self.saved = Saved()
        elif self._origin is not None:
            live.rebase(self._origin)
        return live

    def _fresh(self, caller: Caller) -> Live:
        obj = caller.factory()
        if not isinstance(unwrapped(caller.factory), type):
            # What a function hands out may be shared, like a dict of defaults: one visitor's object is never another's.
            obj = loads(dumps(obj).data, caller.view)
        live = Live(obj, caller)
        self._origin = live.base if self.home.kind is Kind.TAB else None
        return live

    def _let_go(self) -> None:
        _log.info("The state %r was cleared elsewhere, or has expired: this tab's is not saved.", self.home.name)
        self.live, self.saved, self._origin = None, Saved(), None

    def _stay_behind(self) -> None:
        """Goes on in the tab: another tab of the browser has logged in, and taken the record along."""
        self.home, self.saved = self._own, Saved()
        if self.live is not None:
            self._origin = self.live.base

    def commit(self, options: Options, *, creates: bool = True) -> None:
        """Saves the live object if it changed.

        Args:
            options: How the state is kept.
            creates: Whether a fresh state that nobody has touched is written, too.

        Raises:
            StoreError: The store failed; the old record is still there.
            StateError: The object can't be saved, or the record's can't be loaded; the record stays as it is.
        """
        for _ in range(_RETRIES):
            if self.live is None:
                return
            try:
                if self._commit(self.live, options, creates=creates):
                    return
            except _ClearedError:
                self._let_go()
            except _MovedError:
                self._stay_behind()
            except UnpicklableError as error:
                raise _unpicklable(error, self.home.name) from error
        raise _restless(self.home)

    def _commit(self, live: Live, options: Options, *, creates: bool) -> bool:
        """Tries to save once; returns False where the record was changed meanwhile, which is merged in now."""
        pickled = live.change()
        if pickled is None:
            if self.saved.saved_at is not None or not creates or self.home.kind is Kind.TAB:
                return True
            pickled = live.pickled()
        _check(pickled, live, self.home.name, options)
        written = self.home.write(pack(pickled, live.caller.factory), self.saved, options.max_age)
        if written is None:
            self._catch_up(live, options, is_entry=False)
            return False
        live.note_saved(pickled)
        self.saved = written
        return True

    def discard(self, live: Live, before: bytes | None, since: bytes | None = None) -> None:
        """Throws away what a block changed.

        A callback of a widget that is still on the page holds the object that is thrown away: what it does to it is no
        part of the error. Nor is what an older run did, that has not left its block yet.

        Args:
            live: The live object of the block.
            before: The pickle to go back to, None for what was last loaded or saved.
            since: The pickle at the moment when a block was opened that is still open, as that of another task: what
                came then may be that one's, so it stays.
        """
        if live is not self.live:
            return
        try:
            if since is None:
                live.go_back(before or live.base)
            else:
                live.take_back(before or live.base, since)
        except (UnpicklableError, UnrestorableError):
            self.live = None

    def replace(self, obj: Any, caller: Caller) -> None:
        """Puts a copy of another object in the live one's place.

        Raises:
            UnpicklableStateError: It can't be saved, or not be loaded again.
        """
        assert self.live is not None, "begun"
        try:
            self.live.bring_over(caller)
            self.live.replace(obj)
        except UnpicklableError as error:
            raise _unpicklable(error, self.home.name) from error
        except UnrestorableError as error:
            raise _unloadable(obj, self.home.name, self.live, error) from error

    def absorb(self) -> None:
        """Merges in the changes of earlier objects: in a callback, no entry of this run has heard them."""
        if self.live is not None:
            self.live.absorb()

    def clear(self, home: Home) -> None:
        """Deletes the record; the next load starts fresh, in this home.

        Raises:
            StoreError: The store failed; nothing is cleared.
        """
        self.home.delete()
        if home != self.home:
            home.delete()
        self.home, self.live, self.saved, self._origin = home, None, Saved(), None

    # Moving

    def move(self, home: Home, caller: Caller, options: Options) -> None:
        """Goes on in another home, with what is here.

        Raises:
            StateConflictError: Both homes have a state, and `on_conflict` is "raise"; the error holds the one that is
                gone from here.
            PersistSessionError: See `begin`; the next run tries again.
        """
        if home == self.home:
            return
        try:
            self._move(home, caller, options)
        except UnpicklableError as error:
            self.live = None
            raise _unpicklable(error, self.home.name) from error
        except UnrestorableError as error:
            self.live = None
            _log.info("The state %r is not moved, since it can't be loaded: %s", self.home.name, error)
            self.home, self.saved, self._origin = home, Saved(), None

    def _move(self, home: Home, caller: Caller, options: Options) -> None:
        live = self._current(caller, options)
        source, left = self.home, self.saved
        if live is None or (live.change() is None and self._origin == live.base and home.kind is not Kind.TAB):
            # Nothing was done here: the object becomes what the other home has, at the next load.
            self.home, self.saved, self._origin = home, Saved(), None
            return
        moved = live.pickled().data
        live.rebase(self._origin or dumps(caller.factory()).data)
        self.home, self.saved = home, Saved()
        if home.kind is Kind.TAB:
            self._origin = live.base
            source.delete()
            return
        self._origin = None
        self._arrive(live, source, left, options)
        self._leave(source, left, moved, options)

    def _current(self, caller: Caller, options: Options) -> Live | None:
        """The live object as this home has it by now, loaded if it has to be; None if there is none."""
        try:
            if self.live is None:
                self.live = self._load(caller, options)
            elif self.home.version() != self.saved.version:
                self._catch_up(self.live, options)
        except _ClearedError:
            self._let_go()
        except _MovedError:
            self._stay_behind()
        if self.saved.is_expired:
            self._let_go()
        return self.live

    def _arrive(self, live: Live, source: Home, left: Saved, options: Options) -> None:
        is_late = self.home.kind is Kind.BROWSER or options.on_conflict == "merge"
        try:
            if self.home.version() is not None:
                self._catch_up(live, options, is_entry=is_late)
            self.commit(options)
        except (StoreError, UnloadableStateError):
            self.home, self.saved = source, left
            raise  # the next run tries again
        except StateError as error:  # nobody is to meet the same error at every run
            self.live = None
            if isinstance(error, StateConflictError):
                source.delete()  # the error holds it
            elif left.version is not None:
                source.set_aside(left.version, options.max_age)
            raise

    def _leave(self, source: Home, left: Saved, moved: bytes, options: Options) -> None:
        """Leaves a mark in the old home; what another tab saved there meanwhile comes along, too."""
        if source.kind is Kind.TAB:
            source.delete()
            return
        while left.version is not None and not source.leave(left, options.max_age):
            live = self.live
            payload, left = source.read(options.max_age)
            if isinstance(payload, Absence) or live is None:
                return
            theirs = _restored(payload, left, source, live.caller, options)
            if theirs is None:
                return
            obj, _ = merge(loads(moved, live.caller.view), live.obj, theirs.obj)
            live.settle(obj, live.base)
            moved = theirs.base
            self.commit(options)

    # Catching up

    def _catch_up(self, live: Live, options: Options, *, is_entry: bool = True) -> None:
        """Merges in what another tab or process saved meanwhile.

        Args:
            live: The live object.
            options: How the state is kept.
            is_entry: Whether a block is entered, not left: a record that is found only then has the better values.

        Raises:
            _ClearedError: The record was deleted since it was loaded, or has expired.
            _MovedError: The state was moved to a user.
            StoreError: The store failed.
            UnloadableStateError: The record can't be loaded, or not be merged.
            StateConflictError: Both sides changed, and `on_conflict` is "raise".
        """
        payload, found = self.home.read(options.max_age)
        if payload is Absence.BROKEN:
            # The next write heals it; that is no reason to let go elsewhere.
            self.saved = replace(found, lineage=self.saved.lineage)
            return
        if payload is Absence.MOVED and self.saved.lineage == found.lineage:
            raise _MovedError
        if self.saved.lineage is not None and (isinstance(payload, Absence) or self.saved.lineage != found.lineage):
            raise _ClearedError
        if isinstance(payload, Absence):
            self.saved = Saved(version=found.version)
            return
        if found.version == self.saved.version:
            return
        theirs = _restored(payload, found, self.home, live.caller, options)
        if theirs is None:
            self.saved = Saved()
            return
        is_late = is_entry and self.saved.version is None
        if live.change() is None:
            live.follow(theirs)
        else:
            self._settle(live, theirs, options, is_late=is_late)
        self.saved = found

    def _settle(self, live: Live, theirs: Live, options: Options, *, is_late: bool) -> None:
        """Makes one state of two changed ones: as `on_conflict` says; if the record is known only now, theirs first.

        What was done to a fresh state, often by the script's own first lines, is no reason to lose a saved value.
        """
        name = self.home.name
        decide = options.on_conflict
        try:
            if decide == "merge" or is_late:
                said = (
                    "before the saved state was known: the saved value stays"
                    if is_late
                    else "elsewhere too: the later change stays"
                )
                for field in live.merge(theirs, theirs_win=is_late):
                    _log.warning("State %r: %s was changed %s.", name, field, said)
            elif decide == "overwrite" or same(live.base_object(), theirs.obj):  # the same, though renewed
                live.settle(live.obj, theirs.base)
            elif decide == "raise":
                raise _conflict(name, live, theirs)
            else:
                live.settle(_decided(decide(live.base_object(), live.obj, theirs.obj), live.obj, name), theirs.base)
        except (UnpicklableError, UnrestorableError) as error:
            raise UnloadableStateError(
                f"The state {name!r} was changed elsewhere at the same time, and the two can't be merged: {error}. "
                "Reload the page; this side's change is not saved.",
                name=name,
            ) from error


def _conflict(name: str, live: Live, theirs: Live) -> StateConflictError:
    return StateConflictError(
        f"The state {name!r} was changed elsewhere at the same time; this side's change is not saved. Load it "
        'again and repeat the change, or choose another on_conflict than "raise".',
        name=name,
        base=live.base_object(),
        mine=live.obj,
        theirs=theirs.obj,
    )


def _decided(obj: Any, mine: Any, name: str) -> Any:
    if obj is None and mine is not None:
        raise ConfigurationError(f"on_conflict of the state {name!r} returned None; return the state that is to be.")
    return obj


def _restored(payload: bytes, saved: Saved, home: Home, caller: Caller, options: Options) -> Live | None:
    try:
        obj, grown = restore(payload, caller.view, caller.factory)
    except UnrestorableError as error:
        if options.on_unloadable == "raise":
            raise UnloadableStateError(
                f"The saved state {home.name!r} can't be loaded: {error}. Its record {home.key[:8]} stays as it is. "
                "Bring back what is missing (a class under its old name and in its old place, a member of an enum, the "
                'slots that it had), or pass on_unloadable="fresh" to go on with a fresh state.',
                name=home.name,
            ) from error
        _log.warning("The saved state %r can't be loaded (%s): it is set aside.", home.name, error)
        home.set_aside(saved.version or "", options.max_age)
        return None
    if grown:
        fill(obj, grown, caller.factory)  # what the factory raises is the app's own error
    return Live(obj, caller)


def _check(pickled: Pickled, live: Live, name: str, options: Options) -> None:
    if len(pickled.data) > options.max_bytes:
        raise StateTooLargeError(
            f"The state {name!r} takes {len(pickled.data)} bytes, more than max_bytes={options.max_bytes}. Keep large "
            "data elsewhere and a reference to it in the state, or configure(max_bytes=...).",
            name=name,
        )
    try:
        again = loads(pickled.data, live.caller.view)
    except UnrestorableError as error:
        raise _unloadable(live.obj, name, live, error) from error
    if type(again) is not type(live.obj):
        raise UnpicklableStateError(
            f"The state {name!r} would come back as another class: the name {type(live.obj).__qualname__} means "
            "something else by now. Give the two classes different names.",
            name=name,
        )


def _stuck(live: Live | None, name: str, error: UnrestorableError) -> StateError:
    """The error of a live object of which no copy could be made for the run."""
    if live is not None and not is_loadable(live.obj, live.caller.view):
        return _unloadable(live.obj, name, live, error)
    return UnloadableStateError(
        f"The state {name!r} can't go on in this run: {error}. Define the class before the state is loaded.", name=name
    )


def _unloadable(obj: Any, name: str, live: Live, error: UnrestorableError) -> UnpicklableStateError:
    path, kind = find_unloadable(obj, live.caller.view)
    return UnpicklableStateError(
        f"The state {name!r} can be pickled, but not loaded again: {path}, a {kind}, can't be ({error}). Keep a plain "
        "copy of it instead: dict(...), list(...), str(error), or give its class a __reduce__.",
        name=name,
    )


def _unpicklable(error: UnpicklableError, name: str) -> UnpicklableStateError:
    return UnpicklableStateError(
        f"The state {name!r} can't be saved: {error}. Keep such things out of the state, for example in "
        "st.session_state or st.cache_resource, or give their class a __getstate__.",
        name=name,
    )


def _restless(home: Home) -> StoreError:
    return StoreError(
        f"The record of state {home.name!r} changed at each of {_RETRIES} attempts to save it; find out what writes it "
        "all the time."
    )
