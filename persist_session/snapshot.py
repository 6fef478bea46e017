"""A state's payload in its record: the pickle, and the shapes that its classes had when it was taken."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

from persist_session.pickling import Pickled, loads
from persist_session.shape import changed, shapes
from persist_session.view import Reference, View


def pack(pickled: Pickled, factory: Callable[[], Any]) -> bytes:
    """The payload: two pickles, one after the other."""
    return pickle.dumps(shapes(pickled.references, factory)) + pickled.data


def unpack(payload: bytes) -> tuple[dict[tuple[str, str], str], bytes]:
    """The shapes and the state's pickle. The payload must come from a record whose seal was verified."""
    buffer = io.BytesIO(payload)
    return pickle.load(buffer), buffer.read()


def restore(payload: bytes, view: View, factory: Callable[[], Any]) -> tuple[Any, set[Reference]]:
    """The state, and the names of its classes that gained something since: for `fill`.

    Raises:
        UnrestorableError: A class is gone.
    """
    saved, data = unpack(payload)
    return loads(data, view), changed(saved, view, factory)
