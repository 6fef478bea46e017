"""The folders of a file store: made where they are missing, and judged at every use."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from persist_session.stores.durable import make_folder
from persist_session.stores.layout import folders
from persist_session.stores.trust import is_group_writable, require_not_world_writable, require_private

_log = logging.getLogger(__name__)


class Folders:
    """The folders below one root.

    Args:
        root: The outermost one.
        strict: See `FileStore`.
    """

    def __init__(self, root: Path, *, strict: bool) -> None:
        self._root = root
        self._strict = strict
        self._not_warned = threading.Lock()

    def make(self, path: Path) -> None:
        """Makes the folders that lead to a file, with mode 0700; each is judged before anything is made in it.

        Raises:
            ConfigurationError: One is not to be trusted.
            OSError: One can't be made.
        """
        for folder in folders(self._root, path):
            make_folder(folder)
            self._judge(folder)

    def judge(self, path: Path) -> None:
        """Returns if the folders that lead to a file are to be trusted.

        Raises:
            ConfigurationError: One is not.
            FileNotFoundError: One is not there.
        """
        for folder in folders(self._root, path):
            self._judge(folder)

    def are_there(self, path: Path) -> bool:
        """Tells whether the folders that lead to a file are there.

        Raises:
            ConfigurationError: One is not to be trusted.
        """
        try:
            self.judge(path)
        except FileNotFoundError:
            return False
        return True

    def _judge(self, folder: Path) -> None:
        # At every use: it is cheap, and modes change.
        if self._strict:
            require_private(folder)
            return
        require_not_world_writable(folder)
        # A lock that is never released says "first" to exactly one thread.
        if is_group_writable(folder) and self._not_warned.acquire(blocking=False):
            _log.warning("The group of the folder %s can write it. If that is not meant: chmod g-w", folder)
