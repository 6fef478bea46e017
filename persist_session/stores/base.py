"""The shape of a store. Whoever brings their own imports nothing from here: the shape is enough."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, runtime_checkable

from persist_session.errors import LockTimeoutError

KEPT_ASIDE = 3
"""The number of set-aside records that a store keeps per record; the oldest one goes first."""


SWEEP_EVERY = 24 * 3600.0
"""Seconds from one sweep of a store to the next."""


def lock_timeout(seconds: float) -> LockTimeoutError:
    """The error that a store raises if a lock is not free for so many seconds."""
    return LockTimeoutError(
        f"The lock of this state was not free for {seconds:g} seconds: an exclusive block of another tab, or of an "
        "older run of this one, has it. Make that block shorter, or configure(lock_timeout=...)."
    )


class Stored(NamedTuple):
    """The content of a store for one record.

    Attributes:
        data: The sealed bytes, as they were written.
        version: The version that they were written with; `""` where the store can't tell (a damaged file).
    """

    data: bytes
    version: str


@runtime_checkable
class Store(Protocol):
    """Keeps sealed records by visitor key and state name, and never looks into them.

    A store is used by many threads at once, and may be by many processes. `key` is a visitor key (64 hex
    characters), the same for all of a visitor's records, `name` a valid state name; times are unix seconds. From
    `expires_at` on, a store may drop a record by itself, but need not: callers check the expiry in the sealed bytes.

    Every method raises `StoreError`, with the backend's error as its cause, when the backend fails. None waits for
    ever: a lock that does not come free is a `StoreError`, too.
    """

    def read(self, key: str, name: str) -> Stored | None:
        """The record and its version, or `None` if there is none."""
        ...

    def write(  # noqa: PLR0913 (what compare-and-swap needs, by keyword)
        self, key: str, name: str, data: bytes, *, version: str, based_on: str | None, expires_at: float
    ) -> bool:
        """Write the record if the one there still has the version `based_on`; tell whether it was written.

        Compare-and-swap: `based_on=None` means that nothing is there. After `False`, or an error, the store
        still has the record that it had.
        """
        ...

    def delete(self, key: str, name: str) -> None:
        """Erase the record and whatever was set aside of it; harmless where there is nothing."""
        ...

    def set_aside(self, key: str, name: str, *, version: str, expires_at: float) -> None:
        """Take the record away from `read`, but keep its bytes until `expires_at`.

        Only if it still has this version: another tab may have mended it meanwhile. Harmless where there is none.
        Only the last few are kept. `delete` erases them.
        """
        ...

    def names(self, key: str) -> list[str]:
        """The names under which the visitor has a record, sorted; found without opening one.

        A record that was set aside does not count.
        """
        ...

    def version(self, key: str, name: str) -> str | None:
        """The record's version, `None` if there is none: the one that `read` gives, for less."""
        ...

    def lock(self, key: str, name: str, *, timeout: float) -> AbstractContextManager[None]:
        """Hold the record's lock over a block, against all who share the store; a thread may take it again.

        `read` and `write` do not ask for it. The lock of a process that ends is free.

        Raises `LockTimeoutError` when somebody else held it for `timeout` seconds.
        """
        ...

    def begin_sweep(self, *, every: float) -> float | None:
        """Take the turn to sweep if the sweep before is at least `every` seconds ago, in either direction of the clock.

        Then now is noted as the newest sweep, and the time of the one before is returned, 0 if there was none;
        else `None`. One of many who ask at once gets the turn.
        """
        ...

    def delete_expired(self, *, before: float, pause: float = 0.0) -> int:
        """Remove the records and set-aside ones that had expired both at `before` and now; return their number.

        `before` is what `begin_sweep` returned: so a clock that is wrong once removes nothing. `pause` is how long to
        rest on the way, as a multiple of the time that the work took.
        """
        ...
