"""A record's bytes: seal and open them.

Sealed bytes are magic, version, lineage, two times, payload, and an HMAC-SHA256 over all of these and the
record key: a record that is changed, cut short, or moved under another key does not open. Not encrypted.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from persist_session.errors import PersistSessionError

if TYPE_CHECKING:
    from persist_session.keys import Keys

_MAGIC = b"PSR1"
_HEADER = struct.Struct(">4s16s16sdd")
_SEAL_SIZE = hashlib.sha256().digest_size
_MARK = re.compile(r"[0-9a-f]{16}")


class BadSealError(PersistSessionError):
    """The bytes are not a record that we sealed under this record key. Internal: the caller sets it aside."""


@dataclass(frozen=True, slots=True)
class Record:
    """What lies in the store for one state.

    Attributes:
        payload: The pickled state.
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


def new_version() -> str:
    """16 random hex characters for one write."""
    return secrets.token_hex(8)


def new_lineage() -> str:
    """16 random hex characters for a record that is first created."""
    return secrets.token_hex(8)


def seal(key: str, record: Record, keys: Keys) -> bytes:
    """The bytes of `record` for the store, bound to the record key `key`, sealed with the newest key.

    Raises:
        ValueError: `version` or `lineage` is not 16 hex characters; the header would cut them silently.
    """
    header = _HEADER.pack(_MAGIC, _mark(record.version), _mark(record.lineage), record.saved_at, record.expires_at)
    body = header + record.payload
    return body + _seal_of(key, body, keys.record[-1])


def open_sealed(key: str, data: bytes, keys: Keys) -> Record:
    """The record that was sealed under the record key `key`.

    Nothing in `data` is interpreted before its seal was verified; every key verifies.

    Raises:
        BadSealError: The data is cut short, changed, of another record key, or sealed with an unknown key.
    """
    view = memoryview(data)
    body, seal_found = view[:-_SEAL_SIZE], view[-_SEAL_SIZE:]
    if not any(hmac.compare_digest(_seal_of(key, body, k), seal_found) for k in reversed(keys.record)):
        raise BadSealError("The record's seal does not hold. Set the record aside and start with a fresh state.")
    return _unpack(body)


def _unpack(body: memoryview) -> Record:
    magic, version, lineage, saved_at, expires_at = _HEADER.unpack_from(body)
    if magic != _MAGIC:
        raise BadSealError("The record has another version's format. Set it aside, or upgrade persist_session.")
    return Record(bytes(body[_HEADER.size :]), version.decode(), lineage.decode(), saved_at, expires_at)


def _seal_of(key: str, body: bytes | memoryview, secret: bytes) -> bytes:
    # The digest has a fixed length: no other pair of record key and body feeds the same bytes to the HMAC.
    mac = hmac.new(secret, hashlib.sha256(key.encode()).digest(), hashlib.sha256)
    mac.update(body)
    return mac.digest()


def _mark(value: str) -> bytes:
    if not _MARK.fullmatch(value):
        raise ValueError("A version and a lineage have 16 hex characters. Draw them with new_version, new_lineage.")
    return value.encode()
