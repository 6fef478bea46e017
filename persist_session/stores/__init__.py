"""The places where records lie: files by default.

A store keeps sealed bytes under a visitor key and a state's name, and never looks into them.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from persist_session.errors import ConfigurationError
from persist_session.stores.base import SWEEP_EVERY, Store, Stored
from persist_session.stores.file import FileStore
from persist_session.stores.memory import MemoryStore

__all__ = ["SWEEP_EVERY", "FileStore", "MemoryStore", "Store", "Stored", "open_store"]

_FILE_URL = "Write file:// and an absolute path with no host, for instance file:///srv/state."


def open_store(url: str) -> Store:
    """The store that `url` names; `file:///srv/state` is a `FileStore`.

    Raises:
        ConfigurationError: The scheme is unknown, or it is not the URL of a folder on this machine. The
            message does not repeat the URL: it may carry a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"`store` is not a URL. {_FILE_URL}") from error
    if parts.scheme != "file":
        raise ConfigurationError(f"`store` has the unknown scheme {parts.scheme!r}. {_FILE_URL}")
    path = Path(url2pathname(parts.path))
    if parts.netloc or parts.query or parts.fragment or not path.is_absolute():
        raise ConfigurationError(f"`store` does not name a folder of this machine. {_FILE_URL}")
    return FileStore(path)
