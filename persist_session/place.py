"""The place of one state's record: reads, heals and writes it, in whichever store."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum

from persist_session.errors import StoreError
from persist_session.keys import Keys
from persist_session.record import BadSealError, Record, new_lineage, new_version, open_sealed, seal
from persist_session.stores import Store

_log = logging.getLogger(__name__)


class Absence(Enum):
    """Why there is no record to load."""

    NEVER = "nothing is there"
    EXPIRED = "what is there has expired"
    BROKEN = "what was there has been set aside"


@dataclass(frozen=True, slots=True)
class Saved:
    """What a tab knows of the record that its live object is based on.

    Attributes:
        version: Names the bytes in the store, None if there are none.
        lineage: Names the record from its creation to its clearing.
        saved_at: Unix time in seconds.
        expires_at: Unix time in seconds.
    """

    version: str | None = None
    lineage: str | None = None
    saved_at: float | None = None
    expires_at: float | None = None

    @property
    def is_expired(self) -> bool:
        """Whether its time is over, so that it is not served any more."""
        return self.expires_at is not None and self.expires_at <= time.time()

    def is_aging(self, max_age: float) -> bool:
        """Whether half of its time is over, so that a visit is a reason to renew it."""
        return self.expires_at is not None and self.expires_at - time.time() < max_age / 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where one state's record lies, and what opens it."""

    store: Store
    keys: Keys
    name: str
    record_key: str

    def version(self) -> str | None:
        """The version of the record as it is now, None if there is none.

        Raises:
            StoreError: The store failed.
        """
        return self.store.version(self.name, self.record_key)

    def lock(self, timeout: float) -> AbstractContextManager[None]:
        """Holds the record's lock over a block.

        Raises:
            LockTimeoutError: Another block held it for `timeout` seconds.
            StoreError: The store failed.
        """
        return self.store.lock(self.name, self.record_key, timeout=timeout)

    def read(self, max_age: float) -> tuple[bytes | Absence, Saved]:
        """The payload, or why there is none, and what the next write is to be based on.

        A record whose seal does not hold is set aside, so that the visitor goes on with a fresh state.

        Raises:
            StoreError: The store failed.
        """
        stored = self.store.read(self.name, self.record_key)
        if stored is None:
            return Absence.NEVER, Saved()
        try:
            record = open_sealed(self.record_key, stored.data, self.keys)
        except BadSealError:
            _log.warning(
                "The record %s of state %r is damaged, or sealed with a key that is not among secret_keys: it is set "
                "aside and the visitor gets a fresh state.",
                self.record_key[:8],
                self.name,
            )
            self.set_aside(stored.version, max_age)
            return Absence.BROKEN, Saved()
        if record.expires_at <= time.time():
            return Absence.EXPIRED, Saved(version=stored.version)
        return record.payload, Saved(stored.version, record.lineage, record.saved_at, record.expires_at)

    def write(self, payload: bytes, based_on: Saved, max_age: float) -> Saved | None:
        """What was saved, or None if the record is no longer the one that this save is based on.

        Raises:
            StoreError: The store failed; the old record is still there.
        """
        now = time.time()
        record = Record(payload, new_version(), based_on.lineage or new_lineage(), now, now + max_age)
        try:
            written = self.store.write(
                self.name,
                self.record_key,
                seal(self.record_key, record, self.keys),
                version=record.version,
                based_on=based_on.version,
                expires_at=record.expires_at,
            )
        except StoreError as error:
            # It may have failed with the record in its place: tried again, this save would meet itself as another's.
            if self.version() != record.version:
                raise
            written = True
            _log.error("State %r was saved, but may be lost if the machine fails now: %s", self.name, error)
        return Saved(record.version, record.lineage, record.saved_at, record.expires_at) if written else None

    def renew(self, saved: Saved, max_age: float) -> Saved:
        """Gives the record its whole time again, and returns what the next save is based on.

        Raises:
            StoreError: The store failed; the old record is still there.
        """
        payload, found = self.read(max_age)
        if isinstance(payload, Absence) or found.version != saved.version:
            return saved  # somebody was faster: the next entry sees it
        return self.write(payload, found, max_age) or saved

    def move_from(self, other: Place, max_age: float) -> None:
        """Takes over what lies at another place, where nothing lies at this one; it stays the same record.

        Raises:
            StoreError: The store failed; the record is at one of the places at least.
        """
        payload, found = other.read(max_age)
        if not isinstance(payload, Absence):
            self.write(payload, Saved(lineage=found.lineage), max_age)  # if somebody was faster, it was with the same
            other.delete()

    def set_aside(self, version: str, max_age: float) -> None:
        """Takes the record out of use, if it still has this version, and keeps its bytes for `max_age` seconds."""
        self.store.set_aside(self.name, self.record_key, version=version, expires_at=time.time() + max_age)

    def delete(self) -> None:
        """Deletes the record and what was set aside of it."""
        self.store.delete(self.name, self.record_key)
