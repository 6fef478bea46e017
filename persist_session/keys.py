"""The keys: check, derive, load and make them.

A secret is a string that the developer configures, or one that is made once and kept in a file. No secret is
used as it is: the keys for cookies and for records are derived from it under labels of their own, so that
nothing made for one purpose is ever valid for the other.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets as random_source
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from persist_session.errors import ConfigurationError
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
        cookie: Keys that sign session ids.
        record: Keys that seal records.
        user: Keys that make a record key of a user's name.
    """

    cookie: tuple[bytes, ...] = field(repr=False)
    record: tuple[bytes, ...] = field(repr=False)
    user: tuple[bytes, ...] = field(repr=False)


def derive(secrets: Sequence[str]) -> Keys:
    """The keys for every purpose, derived from `secrets` (oldest to newest).

    Raises:
        ConfigurationError: `secrets` do not pass `check`.
    """
    check(secrets)
    return Keys(*(_derive_for(purpose, secrets) for purpose in ("cookie", "record", "user")))


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
