"""Merges a record's changes into a live object: what another tab or process saved since it was loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from persist_session.errors import ConfigurationError, StateConflictError, UnloadableStateError
from persist_session.objects.classes import UnrestorableError
from persist_session.objects.live import Caller, Live
from persist_session.objects.pickling import UnpicklableError
from persist_session.objects.sameness import same
from persist_session.objects.schema import fill, restore
from persist_session.records import Absence, Home, Saved, is_following

_log = logging.getLogger(__name__)

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


class ClearedError(Exception):
    """The record is gone: another tab cleared it, or it has expired. A late save must not bring it back."""


class MovedError(Exception):
    """Another tab logged in and took the state along: this tab's goes on as its own."""


def catch_up(live: Live, home: Home, saved: Saved, options: Options, *, is_entry: bool = True) -> Saved:
    """Merges in the changes that were saved meanwhile, and returns what the next save is based on.

    Args:
        live: The live object.
        home: The place of the record.
        saved: The record that the object is based on.
        options: How the state is kept.
        is_entry: Whether a block is entered, not left: a record that is found only then has the better values.

    Raises:
        ClearedError: The record was deleted since it was loaded, or has expired.
        MovedError: The state was moved to a user.
        StoreError: The store failed.
        UnloadableStateError: The record can't be loaded, or not be merged.
        StateConflictError: Both sides changed, and `on_conflict` is "raise".
    """
    payload, found = home.read(options.max_age)
    if payload is Absence.BROKEN:
        return replace(found, lineage=saved.lineage)  # the next write heals it; that is no reason to let go elsewhere
    if is_following(found.lineage, saved.lineage):
        raise MovedError
    if saved.lineage is not None and (isinstance(payload, Absence) or saved.lineage != found.lineage):
        raise ClearedError
    if isinstance(payload, Absence):
        return found
    if found.version == saved.version:
        return saved
    theirs = restored(payload, found, home, live.caller, options)
    if theirs is None:
        return Saved()
    if live.change() is None:
        live.follow(theirs)
    else:
        _settle(live, theirs, home.name, options, is_late=is_entry and saved.version is None)
    return found


def restored(payload: bytes, saved: Saved, home: Home, caller: Caller, options: Options) -> Live | None:
    """A live object of a record's payload; None where it can't be loaded, and a fresh state is to be served.

    Raises:
        UnloadableStateError: It can't be loaded, and `on_unloadable` is "raise".
    """
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
        fill(obj, grown, caller.fresh)  # what the factory raises is the app's own error
    return Live(obj, caller)


def _settle(live: Live, theirs: Live, name: str, options: Options, *, is_late: bool) -> None:
    """Makes one state of two changed ones: as `on_conflict` says; if the record is known only now, theirs first.

    What was done to a fresh state, often by the script's own first lines, is no reason to lose a saved value.
    """
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
