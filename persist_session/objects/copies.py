"""The earlier objects of a state, which a run, a callback or the app may still hold and change."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Iterator
from enum import Enum
from typing import Any

from persist_session.objects.classes import UnrestorableError, View
from persist_session.objects.graph import is_atom
from persist_session.objects.pickling import UnpicklableError, dumps, loads

_log = logging.getLogger(__name__)

_KEPT = 2
"""The newest of the earlier objects are held even if nobody else does: a widget's callback may hold a part of one."""
_OWN_REFERENCES = 2
_KNOWN = 16
"""The number of earlier objects that are listened to, as long as somebody holds them."""


class Earlier:
    """An object that was the live one, which a run, a callback or the app may still hold and change."""

    __slots__ = ("_obj", "_reference", "data", "run")

    def __init__(self, obj: Any, data: bytes, run: weakref.ref[Any]) -> None:
        self._obj = obj
        self.data = data
        self.run = run
        self._reference: weakref.ref[Any] | None
        try:
            self._reference = weakref.ref(obj)
        except TypeError:  # a list, a dict: nothing tells when nobody holds it any more
            self._reference = None

    @property
    def obj(self) -> Any:
        """The object, None where nobody holds it any more."""
        return self._obj if self._reference is None else self._reference()

    def is_held(self) -> bool:
        """Tells whether anybody but this library holds the object, like the app in `st.session_state`."""
        obj = self.obj
        return obj is not None and sys.getrefcount(obj) > _OWN_REFERENCES + (self._obj is not None)

    def let_go(self) -> bool:
        """Holds the object no longer; returns whether it can still be listened to."""
        if self._reference is None:
            # Held here, by the loop that calls this, and by the call itself: whoever else holds it is the app.
            if sys.getrefcount(self._obj) > _OWN_REFERENCES:
                _log.warning(
                    "An older %s of a state is still held, in st.session_state for instance: what is changed in it is "
                    "not saved any more. Load the state in every run, and hold no part of it between runs.",
                    type(self._obj).__qualname__,
                )
            return False
        self._obj = None
        return self._reference() is not None


def is_value(obj: Any) -> bool:
    """Tells whether an object never changes, so that its identity says nothing."""
    return is_atom(obj) or isinstance(obj, (tuple, frozenset, Enum))


class Copies:
    """The earlier objects of one state, as far as they are listened to."""

    def __init__(self) -> None:
        self._all: list[Earlier] = []

    def add(self, obj: Any, data: bytes, run: weakref.ref[Any]) -> None:
        """Listens to an object from now on.

        Args:
            obj: The object.
            data: Its pickle as it is now.
            run: The last run that got it.
        """
        if is_value(obj):
            return  # nobody can change it, and another state may be the very same one
        self._all.append(Earlier(obj, data, run))
        self._all = [each for each in self._all[-_KNOWN:-_KEPT] if each.let_go()] + self._all[-_KEPT:]

    def changes(self, view: View, *, only_running: bool) -> Iterator[tuple[Any, Any]]:
        """Pairs of objects for each copy that was changed: its state before, and its state now.

        Args:
            view: Finds the classes.
            only_running: Look only at those of runs that are not over, and at those that somebody else holds.
        """
        for each in list(self._all):
            if only_running and each.run() is None and not each.is_held():
                continue
            obj = each.obj
            if obj is None:
                continue
            try:
                before, now = each.data, dumps(obj).data
                if now != before:
                    yield loads(before, view), loads(now, view)
                    each.data = now
            except (UnpicklableError, UnrestorableError) as error:
                self.forget(obj)
                _log.error("A change of an older run of this tab is lost: %s", error)

    def hold(self, obj: Any) -> bool:
        """Tells whether an object is one of them."""
        return any(obj is each.obj for each in self._all)

    def objects(self) -> list[Any]:
        """The objects that somebody still holds."""
        return [each.obj for each in self._all if each.obj is not None]

    def forget(self, obj: Any) -> None:
        """Listens to an object no more."""
        self._all = [each for each in self._all if each.obj is not obj]

    def clear(self) -> None:
        """Listens to none any more."""
        self._all = []
