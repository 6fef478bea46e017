"""Load, catch up and commit: the way between the live object and its record. Knows nothing of Streamlit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from persist_session.errors import (
    ConfigurationError,
    StateConflictError,
    StateTooLargeError,
    StoreError,
    UnloadableStateError,
    UnpicklableStateError,
)
from persist_session.live import Caller, Live
from persist_session.merge import merge
from persist_session.pickling import Pickled, UnpicklableError, loads
from persist_session.place import Absence, Place, Saved
from persist_session.sameness import same
from persist_session.shape import fill
from persist_session.snapshot import pack, restore
from persist_session.view import UnrestorableError

_log = logging.getLogger(__name__)

_CONFLICT_RETRIES = 100

OnConflict = Literal["merge", "overwrite", "raise"] | Callable[[Any, Any, Any], Any]


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
    on_conflict: OnConflict = "merge"


class ClearedError(Exception):
    """The record is gone: another tab cleared it, so a late save must not bring it back."""


def unsaved(obj: Any, caller: Caller, name: str) -> Live:
    """A live object that no record holds.

    Raises:
        UnpicklableStateError: It could not be saved.
    """
    return _live(obj, caller, name, saved=False)


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
                "stays as it is. Bring back what is missing (a class under its old name and in its old place, a member "
                'of an enum, the slots that it had), or pass on_unloadable="fresh" to go on with a fresh state.',
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
        return Live(obj, caller, saved=saved)
    except UnpicklableError as error:
        raise unpicklable(error, name) from error


def unpicklable(error: UnpicklableError, name: str) -> UnpicklableStateError:
    """The error that the app gets."""
    return UnpicklableStateError(
        f"The state {name!r} can't be saved: {error}. Keep such things out of the state, for example in "
        "st.session_state or st.cache_resource, or give their class a __getstate__.",
        name=name,
    )


def commit(
    live: Live, place: Place, saved: Saved, options: Options, note: Callable[[Saved], None] = lambda _: None
) -> Saved:
    """Saves the live object if it changed, and returns what the next save is based on.

    Args:
        live: The live object.
        place: Where the record lies.
        saved: What the tab knows of it.
        options: How the state is kept.
        note: Called with what the next save is based on where this one has caught up, and may still fail.

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
        written = place.write(pack(pickled, live.caller.factory), saved, options.max_age)
        if written is not None:
            live.note_saved(pickled)
            return written
        saved = catch_up(live, place, saved, options, is_entry=False)
        note(saved)
    raise StoreError(
        f"The record of state {place.name!r} changed at each of {_CONFLICT_RETRIES} attempts to save it; "
        "find out what writes it all the time."
    )


def take_over(obj: Any, place: Place, caller: Caller, options: Options) -> None:
    """Saves what an anonymous visitor left as the state of the user that they turned out to be.

    Raises:
        StateConflictError: The user has a state already, and `on_conflict` is "raise".
        PersistSessionError: See `persistent_state`.
    """
    if _is_fresh(obj, caller, place.name):  # who changed nothing does not touch what they saved elsewhere
        live = unsaved(obj, caller, place.name)
    else:
        live = unsaved(caller.factory(), caller, place.name)
        live.replace(obj)
    # As where a record is found only now: of two values of one field, the saved one stays.
    saved = catch_up(live, place, Saved(), options, is_entry=options.on_conflict == "merge")
    commit(live, place, saved, options)


def _is_fresh(obj: Any, caller: Caller, name: str) -> bool:
    """Whether the object differs from a fresh one in nothing but what the factory draws anew each time."""
    fresh, other = caller.factory(), caller.factory()
    before = loads(unsaved(other, caller, name).base, caller.view)
    return same(merge(fresh, other, obj)[0], before)


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


def catch_up(live: Live, place: Place, saved: Saved, options: Options, *, is_entry: bool = True) -> Saved:
    """Brings in what another tab or process saved meanwhile, and returns what the next save is based on.

    Args:
        live: The live object.
        place: Where the record lies.
        saved: What the tab knows of it.
        options: How the state is kept.
        is_entry: Whether a block is entered, not left: a record that is found only then has the better values.

    Raises:
        ClearedError: The record was deleted since it was loaded, or has expired.
        StoreError: The store failed.
        UnloadableStateError: What was saved elsewhere can't be loaded, or not be merged.
        StateConflictError: Both sides changed, and `on_conflict` is "raise".
    """
    payload, found = place.read(options.max_age)
    if payload is Absence.BROKEN:
        live.saved = False
        return replace(found, lineage=saved.lineage)  # the next write heals it; that is no reason to let go elsewhere
    if saved.lineage is not None and (isinstance(payload, Absence) or saved.lineage != found.lineage):
        raise ClearedError
    if isinstance(payload, Absence):
        live.saved = False
        return found
    if found.version == saved.version:
        return saved
    theirs = _restored(payload, found, place, live.caller, options)
    if theirs is None:
        live.saved = False
        return Saved()
    if live.is_untouched():
        live.follow(theirs)
    else:
        try:
            _settle(live, theirs, place.name, options, is_late=is_entry and saved.version is None)
        except (UnpicklableError, UnrestorableError) as error:
            raise UnloadableStateError(
                f"The state {place.name!r} was changed elsewhere at the same time, and the two can't be brought "
                f"together: {error}. Reload the page; what this side changed is not saved.",
                name=place.name,
            ) from error
    return found


def _settle(live: Live, theirs: Live, name: str, options: Options, *, is_late: bool) -> None:
    """Makes one state of two changed ones: as `on_conflict` says, or, if the record is known only now, theirs first.

    What was done to a fresh state, often by the script's own first lines, is no reason to lose a saved value.
    """
    decide = options.on_conflict
    if decide == "merge" or is_late:
        said = (
            "before the saved state was known: the saved value stays"
            if is_late
            else "elsewhere too: the later change stays"
        )
        for field in live.rebase(theirs, theirs_win=is_late):
            _log.warning("State %r: %s was changed %s.", name, field, said)
    elif decide == "overwrite" or same(live.base_object(), theirs.obj):  # the same, though written anew: renewed
        live.settle(live.obj, theirs.base)
    elif decide == "raise":
        raise StateConflictError(
            f"The state {name!r} was changed elsewhere at the same time; this side's change is not saved. Load it "
            'again and repeat the change, or choose another on_conflict than "raise".',
            name=name,
            base=live.base_object(),
            mine=live.obj,
            theirs=theirs.obj,
        )
    else:
        live.settle(_decided(decide(live.base_object(), live.obj, theirs.obj), live.obj, name), theirs.base)


def _decided(obj: Any, mine: Any, name: str) -> Any:
    if obj is None and mine is not None:
        raise ConfigurationError(f"on_conflict of the state {name!r} returned None; return the state that is to be.")
    return obj
