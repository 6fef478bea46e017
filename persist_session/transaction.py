"""Load, adopt and commit: the way between the live object and its record. Knows nothing of Streamlit."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from persist_session.errors import StateTooLargeError, StoreError, UnloadableStateError, UnpicklableStateError
from persist_session.live import Live
from persist_session.pickling import Pickled, UnpicklableError, loads
from persist_session.place import Absence, Place, Saved
from persist_session.shape import fill
from persist_session.snapshot import pack, restore
from persist_session.view import UnrestorableError, View

_log = logging.getLogger(__name__)

_CONFLICT_RETRIES = 100


@dataclass(frozen=True, slots=True)
class Options:
    """How one state is kept, as its last load said.

    Attributes:
        max_age: Seconds until a state that nobody visits expires.
        max_bytes: The largest pickle.
    """

    max_age: float
    max_bytes: int
    on_error: Literal["discard", "commit"] = "discard"
    on_unloadable: Literal["raise", "fresh"] = "raise"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for a state: what it sees, what makes a fresh one, and in which run."""

    view: View
    factory: Callable[[], Any]
    run: weakref.ref[Any]


class ClearedError(Exception):
    """The record is gone: another tab cleared it, so a late save must not bring it back."""


def fresh(caller: Caller, name: str) -> Live:
    """A new live object that no record holds."""
    return _live(caller.factory(), caller, name, saved=False)


def draft(data: bytes, caller: Caller, name: str) -> Live:
    """A live object that was made in this tab and never saved, as it was then."""
    return _live(loads(data, caller.view), caller, name, saved=False)


def made(obj: Any, caller: Caller, name: str, old: Live | None) -> Live:
    """A live object that the app puts in the old one's place; what the record holds stays its base."""
    live = _live(obj, caller, name, saved=False)
    if old is not None:
        live.base = old.base
    return live


def load(place: Place, caller: Caller, options: Options) -> tuple[Live | None, Saved]:
    """The live object that the record holds, or None if there is none, and what the next save is based on.

    Raises:
        StoreError: The store failed.
        UnloadableStateError: The record is intact, but can't be loaded, and `on_unloadable` is "raise".
    """
    payload, saved = place.read(options.max_age)
    if isinstance(payload, Absence):
        return None, saved
    live = _restored(payload, saved, place, caller, options)
    return live, Saved() if live is None else saved


def _restored(payload: bytes, saved: Saved, place: Place, caller: Caller, options: Options) -> Live | None:
    try:
        obj, grown = restore(payload, caller.view, caller.factory)
    except UnrestorableError as error:
        if options.on_unloadable == "raise":
            raise UnloadableStateError(
                f"The saved state {place.name!r} can't be loaded: {error}. Its record {place.record_key[:8]} "
                "stays as it is. Bring the class back (under its old name, in the place where it was), or pass "
                'on_unloadable="fresh" to go on with a fresh state.',
                name=place.name,
            ) from error
        _log.warning("The saved state %r can't be loaded (%s): it is set aside.", place.name, error)
        place.set_aside(saved.version or "", options.max_age)
        return None
    if grown:
        fill(obj, grown, caller.factory)  # what the factory raises is the app's own error
    return _live(obj, caller, place.name, saved=True)


def _live(obj: Any, caller: Caller, name: str, *, saved: bool) -> Live:
    try:
        return Live(obj, caller.view, caller.factory, caller.run, saved=saved)
    except UnpicklableError as error:
        raise unpicklable(error, name) from error


def unpicklable(error: UnpicklableError, name: str) -> UnpicklableStateError:
    """The error that the app gets."""
    return UnpicklableStateError(
        f"The state {name!r} can't be saved: {error}. Keep such things out of the state, for example in "
        "st.session_state or st.cache_resource, or give their class a __getstate__.",
        name=name,
    )


def adopt(live: Live, place: Place, caller: Caller, options: Options) -> tuple[Live, Saved]:
    """The record's state, with what the visitor did in a tab that did not know it yet.

    Raises:
        StoreError: The store failed.
        UnloadableStateError: See `load`.
    """
    theirs, saved = load(place, caller, options)
    if theirs is None:
        return live, saved
    if live.is_untouched():
        return theirs, saved
    live.bring_over(caller.view, caller.factory, caller.run)
    # What was done to a fresh state, often by the script's own first lines, is no reason to lose a saved value.
    for field in live.rebase(theirs.obj, theirs_win=True):
        _log.warning(
            "State %r: %s was changed before the saved state was known; the saved value stays.", place.name, field
        )
    return live, saved


def commit(live: Live, place: Place, saved: Saved, options: Options) -> Saved:
    """Saves the live object if it changed, and returns what the next save is based on.

    Raises:
        ClearedError: The record was deleted since it was loaded.
        StoreError: The store failed; the old record is still there.
        StateError: The object can't be saved, or what was saved elsewhere can't be loaded; the record stays as it is.
    """
    for _ in range(_CONFLICT_RETRIES):
        try:
            pickled = live.change()
        except UnpicklableError as error:
            raise unpicklable(error, place.name) from error
        if pickled is None:
            return saved
        _check(pickled, live, place.name, options)
        written = place.write(pack(pickled, live.factory), saved, options.max_age)
        if written is not None:
            live.commit(pickled)
            return written
        saved = _meet_other_save(live, place, saved, options)
    raise StoreError(
        f"The record of state {place.name!r} changed at each of {_CONFLICT_RETRIES} attempts to save it; "
        "find out what writes it all the time."
    )


def _check(pickled: Pickled, live: Live, name: str, options: Options) -> None:
    if len(pickled.data) > options.max_bytes:
        raise StateTooLargeError(
            f"The state {name!r} takes {len(pickled.data)} bytes, more than max_bytes={options.max_bytes}. Keep large "
            "data elsewhere and a reference to it in the state, or configure(max_bytes=...).",
            name=name,
        )
    try:
        again = loads(pickled.data, live.view)
    except UnrestorableError as error:
        raise UnpicklableStateError(
            f"The state {name!r} can be pickled, but not loaded again: {error}. Mend the class that raises this.",
            name=name,
        ) from error
    if type(again) is not type(live.obj):
        raise UnpicklableStateError(
            f"The state {name!r} would come back as another class: the name {type(live.obj).__qualname__} means "
            "something else by now. Give the two classes different names.",
            name=name,
        )


def _meet_other_save(live: Live, place: Place, saved: Saved, options: Options) -> Saved:
    """Brings in what another tab or process saved meanwhile, and returns what the next attempt is based on."""
    payload, found = place.read(options.max_age)
    if payload is Absence.NEVER and saved.version is not None:
        raise ClearedError
    if isinstance(payload, Absence):
        return found
    if saved.lineage not in (None, found.lineage):
        raise ClearedError
    theirs = _restored(payload, found, place, Caller(live.view, live.factory, live.run), options)
    if theirs is None:
        return Saved()
    _warn_of_lost(live.rebase(theirs.obj), place.name)
    return found


def _warn_of_lost(fields: list[str], name: str) -> None:
    for field in fields:
        _log.warning("State %r: %s was changed elsewhere at the same time; the later change was kept.", name, field)
