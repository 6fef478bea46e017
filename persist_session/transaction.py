"""Begins, commits and discards a transaction: the way between the live object and its record. No Streamlit."""

from __future__ import annotations

import logging
from typing import Any

from persist_session.errors import (
    StateError,
    StateTooLargeError,
    StoreError,
    UnloadableStateError,
    UnpicklableStateError,
)
from persist_session.objects.classes import UnrestorableError
from persist_session.objects.live import Caller, Live
from persist_session.objects.pickling import Pickled, UnpicklableError, find_unloadable, is_loadable, loads
from persist_session.objects.schema import pack
from persist_session.reconcile import ClearedError, MovedError, OnConflict, Options, catch_up, restored
from persist_session.records import Absence, Home, Kind, Saved

__all__ = ["OnConflict", "Options", "Transaction", "unpicklable"]

_log = logging.getLogger(__name__)

_RETRIES = 100


class Transaction:
    """One state in one home: the object, its base, and the version it is based on.

    Attributes:
        home: The place of the record.
        live: The live object; None before the first load, and after it was cleared or thrown away.
        saved: The record that the object is based on.
        origin: The pickle that a state in the tab's memory began with; None elsewhere.
    """

    def __init__(self, home: Home, own: Home) -> None:
        self.home = home
        self.live: Live | None = None
        self.saved = Saved()
        self._own = own
        self.origin: bytes | None = None

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
            except ClearedError:
                self._let_go()
            except MovedError:
                self._stay_behind()
            except UnpicklableError as error:
                self.live = None
                raise unpicklable(error, self.home.name) from error
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
            self.saved = catch_up(self.live, self.home, self.saved, options)
        if self.saved.is_expired:
            raise ClearedError
        if self.saved.is_aging(options.max_age):
            self.saved = self.home.renew(self.saved, options.max_age)
        return self.live.obj

    def _load(self, caller: Caller, options: Options) -> Live | None:
        payload, self.saved = self.home.read(options.max_age)
        if isinstance(payload, Absence):
            return None
        live = restored(payload, self.saved, self.home, caller, options)
        if live is None:
            self.saved = Saved()
        elif self.origin is not None:
            live.rebase(self.origin)
        return live

    def _fresh(self, caller: Caller) -> Live:
        live = Live(caller.fresh(), caller)
        self.origin = live.base if self.home.kind is Kind.TAB else None
        return live

    def _let_go(self) -> None:
        _log.info("The state %r was cleared elsewhere, or has expired: this tab's is not saved.", self.home.name)
        self.live, self.saved, self.origin = None, Saved(), None

    def _stay_behind(self) -> None:
        """Goes on in the tab: another tab of the browser has logged in, and taken the record along."""
        _log.warning(
            "The state %r was taken along by a login in another tab. It goes on in this tab alone, and is gone with a "
            "reload, unless the visitor logs in here, too: let all tabs of a browser log in together.",
            self.home.name,
        )
        self.home, self.saved = self._own, Saved()
        if self.live is not None:
            self.origin = self.live.base

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
            except ClearedError:
                self._let_go()
            except MovedError:
                self._stay_behind()
            except UnpicklableError as error:
                raise unpicklable(error, self.home.name) from error
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
            self.saved = catch_up(live, self.home, self.saved, options, is_entry=False)
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
            raise unpicklable(error, self.home.name) from error
        except UnrestorableError as error:
            raise _unloadable(obj, self.home.name, self.live, error) from error

    def absorb(self) -> None:
        """Merges in the changes of earlier objects: in a callback, no entry of this run has heard them."""
        if self.live is not None:
            self.live.absorb()

    def current(self, caller: Caller, options: Options) -> Live | None:
        """The live object as the record has it by now, loaded if it has to be; None if there is none.

        Raises:
            PersistSessionError: See `begin`.
        """
        try:
            if self.live is None:
                self.live = self._load(caller, options)
            elif self.home.version() != self.saved.version:
                self.saved = catch_up(self.live, self.home, self.saved, options)
        except ClearedError:
            self._let_go()
        except MovedError:
            self._stay_behind()
        if self.saved.is_expired:
            self._let_go()
        return self.live

    def settle(self, home: Home, *, origin: bytes | None = None) -> None:
        """Goes on in a home of which nothing is known yet."""
        self.home, self.saved, self.origin = home, Saved(), origin

    def clear(self, home: Home) -> None:
        """Deletes the record; the next load starts fresh, in this home.

        Raises:
            StoreError: The store failed; nothing is cleared.
        """
        self.home.delete()
        if home != self.home:
            home.delete()
        self.live = None
        self.settle(home)


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


def unpicklable(error: UnpicklableError, name: str) -> UnpicklableStateError:
    """The error that the app gets for an object that can't be pickled."""
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
