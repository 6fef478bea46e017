"""Session ids, and the signed cookie that carries one.

A signed cookie is `<session id>.<timestamp>.<signature>`, all of it in `[A-Za-z0-9_.-]`: browsers and
Streamlit hand it on as it is, without any quoting. Behind the session id stands how the server set the cookie, where no
script did: `h` for HttpOnly, `hp` for one in a foreign page, which is partitioned too.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from itsdangerous import BadSignature, TimestampSigner

if TYPE_CHECKING:
    from persist_session.keys import Keys

CLOCK_SKEW = 60.0
"""Seconds that a signature may lie in the future: the clocks of several servers differ."""

# Looked at before any cryptography. It bounds the length, and closes a gap of lenient base64, which skips
# characters outside its alphabet. 8 characters hold the timestamps of 8 million years, 43 a SHA-256.
_SHAPE = re.compile(r"[0-9a-f]{32}(?:hp?)?\.[A-Za-z0-9_-]{1,8}\.[A-Za-z0-9_-]{43}")
_ID_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Signed:
    """What a valid signed cookie says.

    Attributes:
        session_id: 32 hex characters; secret, so not in the `repr`.
        signed_at: When it was signed, in unix seconds.
        http_only: No script can read, replace or remove it.
        partitioned: It was set in a foreign page, and is kept for that page alone.
    """

    session_id: str = field(repr=False)
    signed_at: float
    http_only: bool = False
    partitioned: bool = False


def new_session_id() -> str:
    """128 random bits as 32 hex characters."""
    return secrets.token_hex(16)


def sign(name: str, session_id: str, keys: Keys, *, http_only: bool = False, partitioned: bool = False) -> str:
    """The signed cookie for `session_id`, valid for the state `name` only, signed with the newest key.

    Args:
        name: The state's name.
        session_id: 32 hex characters.
        keys: The newest one signs.
        http_only: Whether it is set as HttpOnly; what a script sets is not.
        partitioned: Whether an HttpOnly cookie is set as Partitioned.
    """
    mark = ("hp" if partitioned else "h") if http_only else ""
    return _signer(name, keys).sign(session_id + mark).decode("ascii")


def unsign(name: str, value: str, keys: Keys, max_age: float) -> Signed | None:
    """What a cookie says, or `None` if it is not one that we signed for `name` in the last `max_age` seconds.

    Every key verifies. No `value` raises: it comes from the visitor. The last character of a signature has
    bits that mean nothing, so an edited one may still be valid; it then carries the very id that was signed.
    """
    if not _SHAPE.fullmatch(value):
        return None
    try:
        text, signed_at = _signer(name, keys).unsign(value, return_timestamp=True)
    except (BadSignature, ValueError, OverflowError, OSError):
        # The last three: properly signed, but by a clock beyond the year 9999, which `datetime` can't hold.
        return None
    session_id, mark = text[:_ID_LENGTH].decode("ascii"), text[_ID_LENGTH:]
    signed = Signed(session_id, signed_at.timestamp(), http_only=bool(mark), partitioned=mark == b"hp")
    return signed if -CLOCK_SKEW <= time.time() - signed.signed_at <= max_age else None


def record_key(name: str, session_id: str) -> str:
    """The key under which the store keeps the record: 64 hex characters that tell neither argument.

    The length before the name keeps the two apart: no other pair gives the same text.
    """
    return hashlib.sha256(f"{len(name)}:{name}{session_id}".encode()).hexdigest()


def user_record_keys(name: str, user: str, keys: Keys) -> list[str]:
    """The keys under which the store may keep a user's record, the newest last: 64 hex characters each.

    Made with secrets: who reads the store can't find out whose a record is by trying names.
    """
    text = f"{len(name)}:{name}{user}".encode("utf-8", "surrogatepass")
    return [hmac.digest(key, text, hashlib.sha256).hex() for key in keys.user]


def _signer(name: str, keys: Keys) -> TimestampSigner:
    return TimestampSigner(
        keys.cookie,
        salt=f"persist_session cookie {name}",
        key_derivation="hmac",
        digest_method=hashlib.sha256,
    )
