"""Removes what has expired, in the background, while visitors go on."""

from __future__ import annotations

import logging
import threading
import time

from persist_session import host
from persist_session.errors import PersistSessionError
from persist_session.settings import configured_stores
from persist_session.stores import SWEEP_EVERY, Store, open_store

_log = logging.getLogger(__name__)

# How long the sweeper rests after each folder, as a multiple of the time that it took: most of a core is the visitors'.
_PAUSE = 3.0
_LOOK_EVERY = 3600.0

# The store is there to keep its id its own; it may not be hashable.
_looked_at: dict[int, tuple[Store, float]] = {}
_guard = threading.Lock()


def sweep_if_due(store: Store) -> None:
    """Starts a sweep in a thread of its own where the store's last one was a day ago; returns at once.

    A process looks at most once an hour. A failure is logged: a visitor has no part in it.
    """
    now = time.monotonic()
    with _guard:
        if now - _looked_at.get(id(store), (store, -_LOOK_EVERY))[1] < _LOOK_EVERY:
            return
        _looked_at[id(store)] = store, now
    threading.Thread(target=_sweep, args=(store,), name="persist-session-sweep", daemon=True).start()


def _sweep(store: Store) -> None:
    try:
        before = store.begin_sweep(every=SWEEP_EVERY)
        if before is not None:
            _log.info("Expired states removed: %d", store.delete_expired(before=before, pause=_PAUSE))
    except PersistSessionError as error:
        _log.error("Expired states could not be removed: %s", error)


def delete_expired(store: Store | str | None = None) -> int:
    """Removes the states that had expired at the call before; returns the number of files or records. For a cron job.

    A state goes at the first call after the one that found it expired: so a clock that is wrong once removes nothing.

    Args:
        store: A store or its URL. By default the configured one, else the default stores of all apps of this user.

    Raises:
        ConfigurationError: The store can't be used.
        StoreError: The store failed.
    """
    given = (
        [open_store(store) if isinstance(store, str) else store]
        if store is not None
        else configured_stores(host.secrets)
    )
    return sum(each.delete_expired(before=each.begin_sweep(every=0.0) or 0.0) for each in given)
