"""Moves a transaction from one home to another: login, consent, and a browser that becomes known."""

from __future__ import annotations

import logging
from dataclasses import replace

from persist_session.errors import StateConflictError, StateError, StoreError, UnloadableStateError
from persist_session.objects.classes import UnrestorableError
from persist_session.objects.live import Caller, Live
from persist_session.objects.merge import merge
from persist_session.objects.pickling import UnpicklableError, dumps, loads
from persist_session.reconcile import Options, catch_up, restored
from persist_session.records import Absence, Home, Kind, Saved
from persist_session.transaction import Transaction, unpicklable

_log = logging.getLogger(__name__)

_RETRIES = 100


def move(transaction: Transaction, home: Home, caller: Caller, options: Options) -> None:
    """Has a transaction go on in another home, with what it has.

    In the browser's home and a user's, a record that is found is merged over the state that the factory made, so that
    the record's value of a field stays where both have one. Into the tab's memory the record is taken out of its home.

    Raises:
        StateConflictError: Both homes have a state, and `on_conflict` is "raise"; the error holds the one that is
            gone from the old home.
        PersistSessionError: See `Transaction.begin`; the next run tries again.
    """
    if home == transaction.home:
        return
    try:
        _move(transaction, home, caller, options)
    except UnpicklableError as error:
        transaction.live = None
        raise unpicklable(error, home.name) from error
    except UnrestorableError as error:
        transaction.live = None
        _log.info("The state %r is not moved, since it can't be loaded: %s", home.name, error)
        transaction.settle(home)


def _move(transaction: Transaction, home: Home, caller: Caller, options: Options) -> None:
    live = transaction.current(caller, options)
    source, left, origin = transaction.home, transaction.saved, transaction.origin
    is_fresh = live is not None and (live.base == origin or left.saved_at is None)
    is_untouched = live is not None and is_fresh and live.change() is None
    if live is None or (is_untouched and home.kind is not Kind.TAB):
        transaction.settle(home)  # the object becomes the other home's state, at the next load
        return
    moved = live.pickled().data
    base = origin or dumps(caller.fresh()).data
    if home.kind is Kind.TAB:
        source.delete()  # first: if it fails, the next run tries again
    live.rebase(base)
    if home.kind is Kind.TAB:
        transaction.settle(home, origin=base)
        transaction.commit(replace(options, on_conflict="merge"))  # what an exception discards is only what comes now
        return
    transaction.settle(home)
    _arrive(transaction, live, source, left, options)
    _leave(transaction, source, left, moved, options)


def _arrive(transaction: Transaction, live: Live, source: Home, left: Saved, options: Options) -> None:
    """Saves the state in the home where the transaction is now."""
    home = transaction.home
    is_late = home.kind is Kind.BROWSER or options.on_conflict == "merge"
    try:
        if home.version() is not None:
            transaction.saved = catch_up(live, home, transaction.saved, options, is_entry=is_late)
        transaction.commit(options)
    except (StoreError, UnloadableStateError):
        transaction.home, transaction.saved = source, left
        raise  # the next run tries again
    except StateError as error:  # nobody is to meet the same error at every run
        transaction.live = None
        if isinstance(error, StateConflictError):
            source.delete()  # the error holds it
        elif left.version is not None:
            source.set_aside(left.version, options.max_age)
        raise


def _leave(transaction: Transaction, source: Home, left: Saved, moved: bytes, options: Options) -> None:
    """Leaves a mark in the old home; what another tab saved there meanwhile comes along, too."""
    if source.kind is Kind.TAB:
        source.delete()
        return
    for _ in range(_RETRIES):
        if left.version is None or source.leave(left, options.max_age):
            return
        live = transaction.live
        payload, left = source.read(options.max_age)
        if isinstance(payload, Absence) or live is None:
            return
        theirs = restored(payload, left, source, live.caller, options)
        if theirs is None:
            return
        obj, _ = merge(loads(moved, live.caller.view), live.obj, theirs.obj)
        live.settle(obj, live.base)
        moved = theirs.base
        transaction.commit(options)
