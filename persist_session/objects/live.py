"""The live object: the state as a tab holds it between runs."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from persist_session.objects.classes import UnrestorableError, View
from persist_session.objects.graft import become
from persist_session.objects.merge import merge
from persist_session.objects.pickling import Pickled, UnpicklableError, dumps, loads
from persist_session.objects.sameness import same
from persist_session.objects.schema import FACTORY, changed, fill, shapes

_log = logging.getLogger(__name__)

_KEPT = 2
"""The newest of the earlier objects are held even if nobody else does: a widget's callback may hold a part of one."""
_KNOWN = 16
"""The number of earlier objects that are listened to, as long as somebody holds them."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller that asks for a state: what it sees, what makes a fresh state, and the run."""

    view: View
    factory: Callable[[], Any]
    run: weakref.ref[Any]


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


_OWN_REFERENCES = 2


class Live:
    """The state as a tab holds it between runs.

    Attributes:
        obj: The object that the app gets.
        base: The pickle of the state that was last loaded or saved.
        caller: The last caller that got the object.
    """

    def __init__(self, obj: Any, caller: Caller) -> None:
        self.obj = obj
        self.caller = caller
        # An object's own pickle right after it was loaded: pickles of equal objects differ from load to load.
        self._seen = dumps(obj)
        self.base = self._seen.data
        self._clean: bytes | None = self.base
        self._shapes = shapes(self._seen.references, caller.factory)
        self._earlier: list[Earlier] = []
        self._holders: list[weakref.ref[Any]] = [caller.run]

    @property
    def size(self) -> int:
        """The number of bytes of the pickle that was last loaded or saved."""
        return len(self.base)

    def holds(self, obj: Any) -> bool:
        """Tells whether an object is the live one, or was."""
        return obj is self.obj or any(obj is earlier.obj for earlier in self._earlier)

    def change(self) -> Pickled | None:
        """The object's pickle if it was changed since it was loaded, made or saved; else None.

        Raises:
            UnpicklableError: Part of the object can't be pickled.
        """
        self.absorb(only_running=True)
        now = self._dump()
        return None if self._is_clean(now.data) else now

    def _is_clean(self, now: bytes) -> bool:
        return now == self._clean or (self._clean is not None and self._is_restless(now))

    def _is_restless(self, now: bytes) -> bool:
        """Tells whether pickling itself changes the pickle, as that of a figure, and nothing else has changed.

        The second pickle of the base tells: it is taken only where the object's own has changed.
        """
        try:
            again = self.base_object()
            dumps(again)
            is_same = dumps(again).data == now
        except (UnpicklableError, UnrestorableError):
            return False
        if is_same:
            self._clean = now
        return is_same

    def pickled(self) -> Pickled:
        """The object's pickle as it is now.

        Raises:
            UnpicklableError: Part of the object can't be pickled.
        """
        return self._dump()

    def note_saved(self, pickled: Pickled) -> None:
        """Takes a pickle as the one that was saved."""
        self._clean = self.base = pickled.data

    def go_back(self, data: bytes) -> None:
        """Makes a new object of an old pickle; changes of the present one from now on are merged in.

        Raises:
            UnpicklableError: Part of the object can't be pickled.
            UnrestorableError: A class is gone.
        """
        self._part_with(self._dump().data)
        self.obj = loads(data, self.caller.view)
        now = self._dump().data
        self._clean = now if data == self.base else None

    def take_back(self, before: bytes, since: bytes) -> None:
        """Undoes what came from one pickle to a later one; what came then stays.

        Raises:
            UnpicklableError: Part of the object can't be pickled.
            UnrestorableError: A class is gone.
        """
        view = self.caller.view
        obj, _ = merge(loads(since, view), self.obj, loads(before, view))
        self.settle(obj, self.base)

    def base_object(self) -> Any:
        """The state that was last loaded or saved, as an object of its own."""
        return loads(self.base, self.caller.view)

    def rebase(self, base: bytes) -> None:
        """Takes another pickle as the state that all changes were made to."""
        if base != self.base:
            self.base, self._clean = base, None

    def follow(self, theirs: Live) -> None:
        """Makes an untouched object exactly what the record holds by now; the same object, where that can be.

        Args:
            theirs: The record's state, made of the classes of the view.
        """
        is_shared = any(run != self.caller.run for run in self._holders)
        if is_shared:  # an older run goes on with parts of the object, so each part stays where it is
            before = loads(self._clean or self.base, self.caller.view)
            obj, _ = merge(before, self.obj, theirs.obj, theirs_win=True)
        else:
            obj = become(self.obj, theirs.obj)
        if obj is not self.obj:
            self._part_with(self._dump().data)
        self.obj, self.base = obj, theirs.base
        self._clean = self._dump().data
        # The older run may have changed it meanwhile. Not compared with `theirs`, of which it has parts by now.
        if is_shared and not same(self.obj, loads(theirs.base, self.caller.view)):
            self._clean = None

    def merge(self, theirs: Live, *, theirs_win: bool = False) -> list[str]:
        """Merges the record's changes into the object, and returns the fields that both sides changed.

        Args:
            theirs: The record's state, made of the classes of the view.
            theirs_win: Whether their change stays where both changed one value; else the own one does.
        """
        obj, lost = merge(self.base_object(), self.obj, theirs.obj, theirs_win=theirs_win)
        self.settle(obj, theirs.base)
        return lost

    def settle(self, obj: Any, base: bytes) -> None:
        """Puts the result of a conflict in the object's place; changes of the old one are merged in all the same.

        Args:
            obj: Made of the classes of the view.
            base: The pickle of the record's state.
        """
        if obj is not self.obj:
            self._part_with(self._dump().data)
        self.base = base
        self._put(obj)

    def replace(self, obj: Any) -> None:
        """Puts a copy of an object of the app's in this one's place; changes of the old one are not merged in any more.

        Args:
            obj: Made of the classes of the view.

        Raises:
            UnpicklableError: Part of the object can't be pickled.
            UnrestorableError: It can't be made again of its pickle.
        """
        self._put(loads(dumps(obj).data, self.caller.view))
        self._earlier = []

    def _put(self, obj: Any) -> None:
        self._seen = dumps(obj)
        self.obj, self._clean = obj, None
        self._shapes = shapes(self._seen.references, self.caller.factory)

    def bring_over(self, caller: Caller) -> None:
        """Makes the object one of the classes that this run sees.

        Classes of the main script are others in every run. Where only the object's own class is such a one, the object
        stays the same; else a round trip makes a new one, with all that was changed until now.

        Raises:
            UnpicklableError: Part of the object can't be pickled.
            UnrestorableError: A class is gone.
        """
        self.absorb()
        if not caller.view.is_like(self.caller.view):
            self._adapt(caller.view, caller.factory)
        self.caller = caller
        self._holders = [run for run in self._holders if run() is not None and run != caller.run] + [caller.run]

    def _adapt(self, view: View, factory: Callable[[], Any]) -> None:
        own = type(self.obj)
        name = (own.__module__, own.__qualname__)
        anew = view.defined_anew(self.caller.view)
        # What a callback put into the object since its last pickle may be of any class that the run before saw.
        data = self._dump().data if anew else None
        # A run that is not over yet may put more of them in.
        must_part = not anew <= {name} and self.caller.run() is not None
        if view.sees(self._seen.references) and not must_part:
            return
        others = {other: target for other, target in self._seen.references.items() if other != name}
        # A module that was loaded anew has other classes throughout.
        is_enough = name[0] == "__main__" and self._seen.is_root_alone and view.sees(others) and not must_part
        if not (is_enough and _set_class(self.obj, view.find(*name))):
            self._round_trip(data or self._dump().data, view)
        self._grow(view, factory)

    def _round_trip(self, before: bytes, view: View) -> None:
        is_clean = self._is_clean(before)
        self._part_with(before)
        self.obj = loads(before, view)
        self._clean = self._dump().data if is_clean else None

    def _part_with(self, data: bytes) -> None:
        self._earlier.append(Earlier(self.obj, data, self.caller.run))
        self._earlier = [each for each in self._earlier[-_KNOWN:-_KEPT] if each.let_go()] + self._earlier[-_KEPT:]

    def _grow(self, view: View, factory: Callable[[], Any]) -> None:
        known = self._seen.references.keys() | {FACTORY}
        grown = changed({name: old for name, old in self._shapes.items() if name in known}, view, factory)
        if grown:
            fill(self.obj, grown, factory)
        self._shapes = shapes({name: view.find(*name) for name in self._seen.references}, factory)

    def _dump(self) -> Pickled:
        self._seen = dumps(self.obj)
        return self._seen

    def absorb(self, *, only_running: bool = False) -> None:
        """Merges in the changes of objects that were the live one.

        A run that has not noticed yet that it is over still works on its own object, and so does the callback of a
        widget that an interrupted run did not draw again. Where both changed one value, the newer object wins.

        Args:
            only_running: Look only at those of runs that are not over. Callbacks come before a run, so its entry has
                heard them.
        """
        for earlier in list(self._earlier):
            obj = earlier.obj
            if obj is None or (only_running and earlier.run() is None):
                continue
            try:
                now = dumps(obj).data
                if now != earlier.data:
                    theirs, base = loads(now, self.caller.view), loads(earlier.data, self.caller.view)
                    self.obj, lost = merge(base, self.obj, theirs)
                    self._clean, earlier.data = None, now
                    _warn_of_lost(lost)
            except (UnpicklableError, UnrestorableError) as error:
                self._earlier.remove(earlier)
                _log.error("A change of an older run of this tab is lost: %s", error)

    def forget(self, obj: Any) -> None:
        """Drops the changes of an older run on its object since it was the live one."""
        self._earlier = [earlier for earlier in self._earlier if earlier.obj is not obj]


def _warn_of_lost(paths: list[str]) -> None:
    for path in paths:
        _log.warning("%s was changed by two runs of one tab at once: the newer run's change was kept.", path)


def _set_class(obj: Any, kind: type) -> bool:
    if type(obj) is kind:
        return True
    try:
        object.__setattr__(obj, "__class__", kind)
    except TypeError:  # another layout: it takes a round trip
        return False
    return True
