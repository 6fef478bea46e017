"""Steps that several tests of stores share."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from persist_session.stores import Store

NAME = "app-state"
LATER = 4e9


def put(  # the arguments of a write, in the order in which tests vary them
    store: Store, key: str, data: bytes, version: str, based_on: str | None = None, *, name: str = NAME
) -> bool:
    """Write with an expiry that no test cares about."""
    return store.write(key, name, data, version=version, based_on=based_on, expires_at=LATER)


def set_aside(store: Store, key: str, expires_at: float, *, name: str = NAME) -> None:
    """Set aside the record that is there by now."""
    found = store.read(key, name)
    store.set_aside(key, name, version=found.version if found else "", expires_at=expires_at)


def count_to_40(stores: Sequence[Store], key: str) -> int:
    """Return the number to which 8 threads, each with its own of the stores, have counted in one record."""
    put(stores[0], key, b"0", f"{0:016x}")
    versions = itertools.count(1)

    def increment(store: Store) -> None:
        done = 0
        while done < 5:
            found = store.read(key, NAME)
            assert found is not None
            done += put(store, key, b"%d" % (int(found.data) + 1), f"{next(versions):016x}", found.version)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(increment, stores))
    final = stores[0].read(key, NAME)
    assert final is not None
    return int(final.data)
