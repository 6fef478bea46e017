"""The live object: the state as a tab holds it between runs."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from persist_session.objects.classes import UnrestorableError, View, makes_anew
from persist_session.objects.copies import Copies, is_value
from persist_session.objects.graft import become
from persist_session.objects.merge import merge
from persist_session.objects.pickling import Pickled, UnpicklableError, dumps, loads
from persist_session.objects.sameness import same
from persist_session.objects.schema import FACTORY, changed, fill, shapes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller that asks for a state: what it sees, what makes a fresh state, and the run."""

    view: View
    factory: Callable[[], Any]
    run: weakref.ref[Any]

    def fresh(self) -> Any:
        """A fresh state of the visitor's own: a copy, where the factory may hand out a shared object."""
        obj = self.factory()
        return obj if makes_anew(self.factory) else loads(dumps(obj).data, self.view)


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
        self._copies = Copies()
        self._holders: list[weakref.ref[Any]] = [caller.run]

    @property
    def size(self) -> int:
        """The number of bytes of the pickle that was last loaded or saved."""
        return len(self.base)

    def objects(self) -> list[Any]:
        """The object, and those that were it, as far as their identity says something."""
        return [obj for obj in (self.obj, *self._copies.objects()) if not is_value(obj)]

    def holds(self, obj: Any) -> bool:
        """Tells whether an object is the live one, or was."""
        return obj is self.obj or self._copies.hold(obj)

    def change(self) -> Pickled | None:
        """The object's pickle if it was changed since it was loaded, made or saved; else None.

        Raises:
            UnpicklableError: Part of the object can't be pickled.
        """
        self.absorb(only_running=True)
        now = self.pickled()
        return None if self._is_clean(now.data) else now

    def _is_clean(self, now: bytes) -> bool:
        return now == self._clean or (self._clean is not None and self._seen.ran_code and self._is_restless(now))

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
        self._seen = dumps(self.obj)
        return self._seen

    def note_saved(self, pickled: Pickled) -> None:
        """Takes a pickle as the one that was saved."""
        self._clean = self.base = pickled.data

    def go_back(self, data: bytes) -> None:
        """Makes a new object of an old pickle; changes of the present one from now on are merged in.

        Raises:
            UnpicklableError: Part of the object can't be pickled.
            UnrestorableError: A class is gone.
        """
        self._copies.add(self.obj, self.pickled().data, self.caller.run)
        self.obj = loads(data, self.caller.view)
        now = self.pickled().data
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
            self._copies.add(self.obj, self.pickled().data, self.caller.run)
        self.obj, self.base = obj, theirs.base
        self._clean = self.pickled().data
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
            self._copies.add(self.obj, self.pickled().data, self.caller.run)
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
        self._copies.clear()

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
        data = self.pickled().data if anew else None
        # A run that is not over yet may put more of them in.
        must_part = not anew <= {name} and self.caller.run() is not None
        if view.sees(self._seen.references) and not must_part:
            return
        others = {other: target for other, target in self._seen.references.items() if other != name}
        # A module that was loaded anew has other classes throughout.
        is_enough = name[0] == "__main__" and self._seen.is_root_alone and view.sees(others) and not must_part
        if not (is_enough and _set_class(self.obj, view.find(*name))):
            self._round_trip(data or self.pickled().data, view)
        self._grow(view, factory)

    def _round_trip(self, before: bytes, view: View) -> None:
        is_clean = self._is_clean(before)
        self._copies.add(self.obj, before, self.caller.run)
        self.obj = loads(before, view)
        self._clean = self.pickled().data if is_clean else None

    def _grow(self, view: View, factory: Callable[[], Any]) -> None:
        known = self._seen.references.keys() | {FACTORY}
        grown = changed({name: old for name, old in self._shapes.items() if name in known}, view, factory)
        if grown:
            fill(self.obj, grown, Caller(view, factory, self.caller.run).fresh)
        self._shapes = shapes({name: view.find(*name) for name in self._seen.references}, factory)

    def absorb(self, *, only_running: bool = False) -> None:
        """Merges in the changes of objects that were the live one.

        A run that has not noticed yet that it is over still works on its own object, and so does the callback of a
        widget that an interrupted run did not draw again. Where both changed one value, the newer object wins.

        Args:
            only_running: Look only at those of runs that are not over, and at those that the app holds. Callbacks come
                before a run, so its entry has heard them.
        """
        for base, theirs in self._copies.changes(self.caller.view, only_running=only_running):
            self.obj, lost = merge(base, self.obj, theirs)
            self._clean = None
            for path in lost:
                _log.warning("%s was changed by two runs of one tab at once: the newer run's change was kept.", path)

    def forget(self, obj: Any) -> None:
        """Drops the changes of an older run on its object since it was the live one."""
        self._copies.forget(obj)


def _set_class(obj: Any, kind: type) -> bool:
    if type(obj) is kind:
        return True
    try:
        object.__setattr__(obj, "__class__", kind)
    except TypeError:  # another layout: it takes a round trip
        return False
    return True
