"""The keys: checks, derives, loads and makes them.

A secret is a string that the developer configures, or one that is made once and kept in a file. No secret is
used as it is: the keys for cookies and for records are derived from it under labels of their own, so that
nothing made for one purpose is ever valid for the other.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets as random_source
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from persist_session.errors import ConfigurationError, StoreError
from persist_session.stores import Store
from persist_session.stores.durable import make_folder, open_regular, sync_folder, written_aside
from persist_session.stores.trust import require_private, require_private_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MIN_CHARACTERS = 32
HOW_TO_MAKE_ONE = 'Make one with: python -c "import secrets; print(secrets.token_hex(32))"'

_FILE_NAME = "secret_key"
_FILE_CONTENT = re.compile(rb"([0-9a-f]{64})\n?")


@dataclass(frozen=True, slots=True)
class Keys:
    """The derived keys, one tuple per purpose, each from oldest to newest.

    The last one signs or seals, all of them verify: this is how secrets are rotated.

    Attributes:
        cookie: Keys that sign visitor ids.
        record: Keys that seal records.
    """

    cookie: tuple[bytes, ...] = field(repr=False)
    record: tuple[bytes, ...] = field(repr=False)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """16 hex characters for each key, by which a store remembers it; they tell nothing of the key."""
        return tuple(hashlib.sha256(b"fingerprint" + key).hexdigest()[:16] for key in self.record)


def derive(secrets: Sequence[str]) -> Keys:
    """The keys for every purpose, derived from `secrets` (oldest to newest).

    Raises:
        ConfigurationError: `secrets` do not pass `check`.
    """
    check(secrets)
    return Keys(*(_derive_for(purpose, secrets) for purpose in ("cookie", "record")))


def check(secrets: Sequence[str]) -> None:
    """Nothing, if `secrets` is a sequence of at least one string and each is long enough.

    Raises:
        ConfigurationError: It is not; the message names the position, never the secret.
    """
    if isinstance(secrets, str) or not secrets:
        raise ConfigurationError(
            f"`secret_keys` must be a list of at least one string, oldest to newest. {HOW_TO_MAKE_ONE}"
        )
    for position, secret in enumerate(secrets):
        if not _is_long_enough(secret):
            raise ConfigurationError(
                f"`secret_keys[{position}]` must be a string of at least {MIN_CHARACTERS} characters. {HOW_TO_MAKE_ONE}"
            )


def load_or_make(folder: Path) -> str:
    """The secret kept in `folder`, made there if there is none yet (64 hex characters).

    Processes that start at the same time all get the same secret.

    Raises:
        ConfigurationError: The folder or the file is a symlink, belongs to another user or is open to others,
            the file does not hold a whole secret, or the disk refuses.
    """
    path = folder / _FILE_NAME
    try:
        make_folder(folder)
        require_private(folder)
        if not os.path.lexists(path):
            _make(path)
        return _load(path)
    except OSError as error:
        raise ConfigurationError(
            f"The secret key {path} can't be read or made ({error.strerror}). Make {folder} a folder that "
            "the user who runs the app can write, or configure `secret_keys`."
        ) from error


def _is_long_enough(secret: object) -> bool:
    return isinstance(secret, str) and len(secret) >= MIN_CHARACTERS


def _derive_for(purpose: str, secrets: Sequence[str]) -> tuple[bytes, ...]:
    label = f"persist_session 1 {purpose}".encode()
    # surrogatepass: an environment variable that is not UTF-8 arrives with surrogates, and is a good secret.
    return tuple(hmac.digest(s.encode("utf-8", "surrogatepass"), label, hashlib.sha256) for s in secrets)


def _make(path: Path) -> None:
    secret = random_source.token_hex(32).encode() + b"\n"
    # Written aside and linked: creating `path` itself with O_EXCL and then writing it lets a second process
    # read an empty secret in between. Unlike a rename, a link never replaces the secret of a faster process.
    with written_aside(path, secret) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return  # another process was faster: its secret is the one
    sync_folder(path.parent)


def _load(path: Path) -> str:
    with open_regular(path) as file:
        require_private_file(path, os.fstat(file.fileno()))
        content = _FILE_CONTENT.fullmatch(file.read())
    if content is None:
        raise ConfigurationError(
            f"The secret key file {path} is empty or damaged. Restore it from a backup, or delete it: "
            "then a new one is made, and the saved states are lost."
        )
    return content[1].decode()


_RECORD = "0" * 64, "persist_session.keys"
"""The key and name under which a store keeps the fingerprints of the keys that sealed its records."""
_FOR_EVER = 32503680000.0  # the year 3000
_MOST_RIVALS = 100
"""The number of processes that may be faster, one after the other; more than that is a store that does not work."""

_remembered: dict[int, tuple[Store, str]] = {}  # holds the store, so that its id stays its own; it may not be hashable


def check_store(keys: Keys, store: Store) -> None:
    """Returns if the store was sealed with one of the keys, or with none yet.

    Raises:
        ConfigurationError: It was sealed with others: every visitor would get a new cookie, and a fresh state.
        StoreError: The store failed.
    """
    known = _known_to(store)[0]
    if known and known.isdisjoint(keys.fingerprints):
        raise ConfigurationError(
            "The store was sealed with other secret_keys than this process has: no visitor's state could be opened. "
            "Set the keys that it was sealed with (PERSIST_SESSION_SECRET_KEYS, or the file secret_key in "
            "~/.streamlit/persist_session), a new one behind them; or choose another store, to begin anew."
        )


def is_used(store: Store) -> bool:
    """Tells whether a record was ever written to the store.

    Raises:
        StoreError: The store failed.
    """
    return store.version(*_RECORD) is not None


def remember(keys: Keys, store: Store) -> None:
    """Has the store remember the newest key; asks it once in this process.

    Raises:
        StoreError: The store failed, or keeps nothing.
    """
    newest = keys.fingerprints[-1]
    if _remembered.get(id(store)) == (store, newest):
        return
    for _ in range(_MOST_RIVALS):
        known, version = _known_to(store)
        if newest in known:
            _remembered[id(store)] = store, newest
            return
        content = json.dumps(sorted(known | {newest})).encode()
        new = random_source.token_hex(8)
        store.write(*_RECORD, content, version=new, based_on=version, expires_at=_FOR_EVER)
    raise StoreError("The store does not keep what is written to it: look whether its writes are seen by its reads.")


def _known_to(store: Store) -> tuple[set[str], str | None]:
    stored = store.read(*_RECORD)
    if stored is None:
        return set(), None
    try:
        known = json.loads(stored.data)
    except ValueError:  # damaged: it is written anew
        known = None
    is_whole = isinstance(known, list) and all(isinstance(each, str) for each in known)
    return set(known if is_whole else ()), stored.version
