"""The live object: the state as a tab holds it between runs."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from persist_session.graft import become
from persist_session.merge import merge
from persist_session.pickling import Pickled, UnpicklableError, dumps, loads
from persist_session.sameness import same
from persist_session.shape import FACTORY, changed, fill, shapes
from persist_session.view import UnrestorableError, View

_log = logging.getLogger(__name__)

_MOST_EARLIER = 32
"""How many runs of one tab may interrupt each other before the oldest is heard no more."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for a state: what it sees, what makes a fresh one, and in which run."""

    view: View
    factory: Callable[[], Any]
    run: weakref.ref[Any]


@dataclass(slots=True, eq=False)
class Earlier:
    """An object that was the live one, which a run or a callback may still hold and change."""

    obj: Any = field(repr=False)
    data: bytes = field(repr=False)
    run: weakref.ref[Any]


class Live:
    """The state as a tab holds it between runs.

    Attributes:
        obj: The object that the app gets.
        base: The pickle of what was last loaded or saved.
        caller: Who got the object last.
        saved: Whether a record holds what was last loaded or saved.
        is_touched: Whether the object was changed since, whatever the baseline says: each copy takes it anew.
    """

    def __init__(self, obj: Any, caller: Caller, *, saved: bool) -> None:
        self.obj = obj
        self.caller = caller
        self.saved = saved
        # An object's own pickle right after it was loaded: pickles of equal objects differ from load to load.
        baseline = dumps(obj)
        self._baseline = self.base = baseline.data
        self._references = baseline.references
        self._is_root_alone = baseline.is_root_alone
        self._shapes = shapes(baseline.references, caller.factory)
        self.is_touched = False
        self._earlier: list[Earlier] = []
        self._holders: list[weakref.ref[Any]] = [caller.run]

    @property
    def size(self) -> int:
        """Bytes of the pickle that was last loaded or saved."""
        return len(self.base)

    def holds(self, obj: Any) -> bool:
        """Whether this object is the live one, or was."""
        return obj is self.obj or any(obj is earlier.obj for earlier in self._earlier)

    def change(self) -> Pickled | None:
        """The object's pickle if a save is due, else None.

        Raises:
            UnpicklableError: Part of the object can't be pickled.
        """
        self.absorb(only_running=True)
        now = self._dump()
        return None if self.saved and not self.is_touched and now.data == self._baseline else now

    def is_untouched(self) -> bool:
        """Whether the object is as it was when it was last loaded, made or saved."""
        self.absorb()
        return not self.is_touched and self._dump().data == self._baseline

    def note_saved(self, pickled: Pickled) -> None:
        """Takes note that this pickle was saved."""
        self._baseline = self.base = pickled.data
        self.saved, self.is_touched = True, False

    def pickled(self) -> bytes:
        """The object's pickle as it is now.

        Raises:
            UnpicklableError: Part of the object can't be pickled.
        """
        return self._dump().data

    def go_back(self, data: bytes) -> None:
        """Makes a new object of an old pickle; what is done to the present one from now on is brought in.

        Args:
            data: What `pickled` gave.

        Raises:
            UnpicklableError: Part of the object can't be pickled.
            UnrestorableError: A class is gone.
        """
        self._part_with(self._dump().data)
        self.obj, self.is_touched = loads(data, self.caller.view), data != self.base
        self._baseline = self._dump().data

    def base_object(self) -> Any:
        """What was last loaded or saved, as an object of its own."""
        return loads(self.base, self.caller.view)

    def follow(self, theirs: Live) -> None:
        """Makes an untouched object exactly what the record holds by now; the same object, where that can be.

        Args:
            theirs: What the record holds, made of the classes of the view.
        """
        is_shared = any(run != self.caller.run for run in self._holders)
        if is_shared:  # an older run goes on with parts of the object, so each part stays where it is
            obj, _ = merge(loads(self._baseline, self.caller.view), self.obj, theirs.obj, theirs_win=True)
        else:
            obj = become(self.obj, theirs.obj)
        if obj is not self.obj:
            self._part_with(self._dump().data)
        self.obj, self.base, self.saved = obj, theirs.base, True
        self._baseline = self._dump().data
        # The older run may have changed it meanwhile. Not compared with `theirs`, of which it has parts by now.
        self.is_touched = is_shared and not same(self.obj, loads(theirs.base, self.caller.view))

    def rebase(self, theirs: Live, *, theirs_win: bool = False) -> list[str]:
        """Brings in what the record holds by now, and returns the fields that both sides changed.

        Args:
            theirs: What the record holds, made of the classes of the view.
            theirs_win: Whether their change stays where both changed one value; else the own one does.
        """
        obj, lost = merge(self.base_object(), self.obj, theirs.obj, theirs_win=theirs_win)
        self.settle(obj, theirs.base)
        return lost

    def settle(self, obj: Any, base: bytes) -> None:
        """Puts what a conflict came to in the object's place; whoever still holds the old one is heard all the same.

        Args:
            obj: Made of the classes of the view.
            base: The pickle of what the record holds.
        """
        if obj is not self.obj:
            self._part_with(self._dump().data)
        self.base, self.saved = base, True
        self._put(obj)

    def replace(self, obj: Any) -> None:
        """Puts an object of the app's in this one's place; whoever holds the old one is heard no more.

        Args:
            obj: Made of the classes of the view.

        Raises:
            UnpicklableError: Part of the object can't be pickled.
        """
        self._put(obj)
        self._earlier = []

    def _put(self, obj: Any) -> None:
        pickled = self._note(dumps(obj))
        self.obj, self.is_touched = obj, True
        self._shapes = shapes(pickled.references, self.caller.factory)

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
        if view.sees(self._references) and not must_part:
            return
        others = {other: target for other, target in self._references.items() if other != name}
        # A module that was loaded anew has other classes throughout.
        is_enough = name[0] == "__main__" and self._is_root_alone and view.sees(others) and not must_part
        if not (is_enough and _set_class(self.obj, view.find(*name))):
            self._round_trip(data or self._dump().data, view)
        self._grow(view, factory)

    def _round_trip(self, before: bytes, view: View) -> None:
        self.is_touched |= before != self._baseline
        self._part_with(before)
        self.obj = loads(before, view)
        self._baseline = self._dump().data

    def _part_with(self, data: bytes) -> None:
        self._earlier = [*self._earlier[1 - _MOST_EARLIER :], Earlier(self.obj, data, self.caller.run)]

    def forget_before(self, run: weakref.ref[Any]) -> None:
        """Drops what runs before this one had: none of their widgets is left on the page.

        A run that was interrupted has not drawn all of its widgets: those of the run before it stay, with callbacks
        that hold the object of that run.
        """
        self._earlier = [earlier for earlier in self._earlier if earlier.run == run or earlier.run() is not None]

    def _grow(self, view: View, factory: Callable[[], Any]) -> None:
        known = self._references.keys() | {FACTORY}
        grown = changed({name: old for name, old in self._shapes.items() if name in known}, view, factory)
        if grown:
            fill(self.obj, grown, factory)
        self._shapes = shapes({name: view.find(*name) for name in self._references}, factory)

    def _dump(self) -> Pickled:
        return self._note(dumps(self.obj))

    def _note(self, pickled: Pickled) -> Pickled:
        self._references, self._is_root_alone = pickled.references, pickled.is_root_alone
        return pickled

    def absorb(self, *, only_running: bool = False) -> None:
        """Brings in what was changed meanwhile on objects that were the live one.

        A run that has not noticed yet that it is over still works on its own object, and so does the callback of a
        widget that an interrupted run did not draw again. Where both changed one value, the newer object wins.

        Args:
            only_running: Look only at those of runs that are not over. Callbacks come before a run, so its entry has
                heard them.
        """
        for earlier in list(self._earlier):
            if only_running and earlier.run() is None:
                continue
            try:
                now = dumps(earlier.obj).data
                if now != earlier.data:
                    theirs, base = loads(now, self.caller.view), loads(earlier.data, self.caller.view)
                    self.obj, lost = merge(base, self.obj, theirs)
                    self.is_touched, earlier.data = True, now
                    _warn_of_lost(lost)
            except (UnpicklableError, UnrestorableError) as error:
                self._earlier.remove(earlier)
                _log.error("What an older run of this tab changed is lost: %s", error)

    def forget(self, obj: Any) -> None:
        """Drops what an older run changed on its object since it was the live one."""
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
