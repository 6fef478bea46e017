"""One record: seals, opens, reads and writes it in a store.

Sealed bytes are magic, version, lineage, two times, payload, and an HMAC-SHA256 over all of these, the visitor key and
the name: a record that is changed, cut short, or moved to another visitor or name does not open. Not encrypted.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import re
import secrets
import struct
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum

from persist_session.errors import StoreError
from persist_session.keys import Keys, remember
from persist_session.stores import Store

_log = logging.getLogger(__name__)

_MAGIC = b"PSR2"
_HEADER = struct.Struct(">4s16s16sdd")
_SEAL_SIZE = hashlib.sha256().digest_size
_MARK = re.compile(r"[0-9a-f]{16}")


class BadSealError(Exception):
    """The bytes are not a record that was sealed for this visitor key and name."""


class Absence(Enum):
    """The reason why there is no record to load."""

    NEVER = "nothing is there"
    EXPIRED = "the record has expired"
    BROKEN = "the record has been set aside"
    MOVED = "the state has been moved to a user"


class Kind(Enum):
    """The kinds of homes."""

    TAB = "the tab's own memory"
    BROWSER = "the browser's record"
    USER = "a logged-in user's record"


@dataclass(frozen=True, slots=True)
class Record:
    """The content of a record.

    Attributes:
        payload: The pickled state; empty where the state was moved to another home.
        version: 16 hex characters, drawn for every write.
        lineage: 16 hex characters, drawn when the record is first created.
        saved_at: Unix seconds.
        expires_at: Unix seconds.
    """

    payload: bytes = field(repr=False)
    version: str
    lineage: str
    saved_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Saved:
    """The record that an object is based on, as far as a tab knows it.

    Attributes:
        version: Names the bytes in the store, None if there are none.
        lineage: Names the record from its creation to its clearing.
        saved_at: Unix seconds; None if no record holds the state.
        expires_at: Unix seconds.
    """

    version: str | None = None
    lineage: str | None = None
    saved_at: float | None = None
    expires_at: float | None = None

    @property
    def is_expired(self) -> bool:
        """Tells whether the record's time is over, so that it is not served any more."""
        return self.expires_at is not None and self.expires_at <= time.time()

    def is_aging(self, max_age: float) -> bool:
        """Tells whether half of the record's time is over, so that a visit is a reason to renew it."""
        return self.expires_at is not None and self.expires_at - time.time() < max_age / 2


@dataclass(frozen=True, slots=True)
class Home:
    """The place of one state for one visitor: a record in a store, and the keys that open it."""

    kind: Kind
    store: Store = field(compare=False)
    keys: Keys = field(compare=False)
    key: str
    name: str

    def version(self) -> str | None:
        """The version of the record as it is now, None if there is none.

        Raises:
            StoreError: The store failed.
        """
        return self.store.version(self.key, self.name)

    def lock(self, timeout: float) -> AbstractContextManager[None]:
        """Holds the record's lock over a block.

        Raises:
            LockTimeoutError: Another block held it for `timeout` seconds.
            StoreError: The store failed.
        """
        return self.store.lock(self.key, self.name, timeout=timeout)

    def read(self, max_age: float) -> tuple[bytes | Absence, Saved]:
        """The payload, or why there is none, and what the next write is to be based on.

        A record whose seal does not hold is set aside, so that the visitor goes on with a fresh state.

        Raises:
            StoreError: The store failed.
        """
        stored = self.store.read(self.key, self.name)
        if stored is None:
            return Absence.NEVER, Saved()
        try:
            record = open_sealed(self.key, self.name, stored.data, self.keys)
        except BadSealError:
            _log.warning(
                "The record %s of state %r is damaged, or sealed with a key that is not among secret_keys: it is set "
                "aside and the visitor gets a fresh state.",
                self.key[:8],
                self.name,
            )
            self.set_aside(stored.version, max_age)
            return Absence.BROKEN, Saved()
        if record.expires_at <= time.time():
            return Absence.EXPIRED, Saved(version=stored.version)
        if not record.payload:
            return Absence.MOVED, Saved(stored.version, _following(record.lineage))
        return record.payload, Saved(stored.version, record.lineage, record.saved_at, record.expires_at)

    def write(self, payload: bytes, based_on: Saved, max_age: float, *, lineage: str | None = None) -> Saved | None:
        """Writes the record; returns None if it is no longer the one that this save is based on.

        Raises:
            StoreError: The store failed; the old record is still there.
        """
        now = time.time()
        record = Record(payload, new_mark(), lineage or based_on.lineage or new_mark(), now, now + max_age)
        if self.kind is not Kind.TAB:
            remember(self.keys, self.store)
        try:
            written = self.store.write(
                self.key,
                self.name,
                seal(self.key, self.name, record, self.keys),
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

        A renewal that fails fails no page: it is logged, and the next run tries again.
        """
        try:
            payload, found = self.read(max_age)
            if isinstance(payload, Absence) or found.version != saved.version:
                return saved  # somebody was faster: the next entry sees it
            return self.write(payload, found, max_age) or saved
        except StoreError as error:
            _log.error("The record of state %r could not be renewed: %s", self.name, error)
            return saved

    def leave(self, saved: Saved, max_age: float) -> bool:
        """Puts a mark in the record's place that the state was moved; only if it still has this version.

        Who still has the state in an open tab is told by it that nothing was cleared.

        Raises:
            StoreError: The store failed; the record is still there.
        """
        return self.write(b"", saved, max_age) is not None

    def set_aside(self, version: str, max_age: float) -> None:
        """Takes the record out of use, if it still has this version, and keeps its bytes for `max_age` seconds."""
        self.store.set_aside(self.key, self.name, version=version, expires_at=time.time() + max_age)

    def delete(self) -> None:
        """Deletes the record and what was set aside of it."""
        self.store.delete(self.key, self.name)


def has_state(store: Store, key: str, keys: Keys) -> bool:
    """Tells whether a store has any state for a visitor key; a mark that one was moved is none.

    Raises:
        StoreError: The store failed.
    """
    for name in store.names(key):
        stored = store.read(key, name)
        with contextlib.suppress(BadSealError):
            if stored is not None and open_sealed(key, name, stored.data, keys).payload:
                return True
    return False


def visitor_key(visitor_id: str) -> str:
    """The key under which stores keep a browser's records: 64 hex characters that do not tell the id."""
    return hashlib.sha256(f"browser:{visitor_id}".encode()).hexdigest()


def user_key(user: str) -> str:
    """The key under which stores keep a user's records: 64 hex characters.

    It depends on no secret key, so a change of keys never moves a record.
    """
    return hashlib.sha256(b"user:" + user.encode("utf-8", "surrogatepass")).hexdigest()


_FAMILY = 12
"""The characters of a lineage that stay where a state was moved; the others count how often."""


def _following(lineage: str) -> str:
    """The lineage of what comes in the place of a state that was moved."""
    return f"{lineage[:_FAMILY]}{(int(lineage[_FAMILY:], 16) + 1) % 0x10000:04x}"


def is_following(lineage: str | None, before: str | None) -> bool:
    """Tells whether a lineage began where a state was moved, and not where it was cleared."""
    both = lineage is not None and before is not None and lineage != before
    return both and (lineage or "")[:_FAMILY] == (before or "")[:_FAMILY]


def new_mark() -> str:
    """16 random hex characters: a version, for one write, or a lineage, for a new record."""
    return secrets.token_hex(8)


def seal(key: str, name: str, record: Record, keys: Keys) -> bytes:
    """The bytes of a record for the store, bound to the visitor key and the name, sealed with the newest key.

    Raises:
        ValueError: `version` or `lineage` is not 16 hex characters; the header would cut them silently.
    """
    marks = [record.version, record.lineage]
    if not all(map(_MARK.fullmatch, marks)):
        raise ValueError("A version and a lineage have 16 hex characters. Draw them with new_mark.")
    body = _HEADER.pack(_MAGIC, *(mark.encode() for mark in marks), record.saved_at, record.expires_at) + record.payload
    return body + _seal_of(key, name, body, keys.record[-1])


def open_sealed(key: str, name: str, data: bytes, keys: Keys) -> Record:
    """The record that was sealed for the visitor key and the name.

    Nothing in `data` is interpreted before its seal was verified; every key verifies.

    Raises:
        BadSealError: The data is cut short, changed, of another visitor or name, or sealed with an unknown key.
    """
    view = memoryview(data)
    body, seal_found = view[:-_SEAL_SIZE], view[-_SEAL_SIZE:]
    if not any(hmac.compare_digest(_seal_of(key, name, body, k), seal_found) for k in reversed(keys.record)):
        raise BadSealError
    magic, version, lineage, saved_at, expires_at = _HEADER.unpack_from(body)
    if magic != _MAGIC:
        raise BadSealError
    return Record(bytes(body[_HEADER.size :]), version.decode(), lineage.decode(), saved_at, expires_at)


def _seal_of(key: str, name: str, body: bytes | memoryview, secret: bytes) -> bytes:
    # The digest has a fixed length: no other key, name and body feed the same bytes to the HMAC.
    mac = hmac.new(secret, hashlib.sha256(f"{key} {name}".encode()).digest(), hashlib.sha256)
    mac.update(body)
    return mac.digest()
