"""Where a visitor's record lies: under the browser's session id, or under the keys of a logged-in user."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from persist_session import relay
from persist_session.binding import Binding
from persist_session.errors import StateConflictError, StoreError, UnloadableStateError
from persist_session.live import Caller
from persist_session.pickling import loads
from persist_session.place import Place, Saved
from persist_session.settings import Settings
from persist_session.signing import record_key, user_record_keys
from persist_session.transaction import Options, load, take_over
from persist_session.view import UnrestorableError

_log = logging.getLogger(__name__)

_MOST_UNWANTED = 20
"""How many records of other visitors, who are not to be remembered, one run deletes at most."""


@dataclass(slots=True)
class Home:
    """Where the record of one name lies for one visitor, and how what lies elsewhere is brought there.

    Attributes:
        user: Whose record it is; None: that of whoever has the browser's cookie.
        inherited: Pickles of what the visitor did before they became this user, where no record holds it: as the
            factory made it, and as they left it.
        settings: The settings in force when the state was last loaded or cleared; None before.
        max_age: Seconds until the state expires, as that said.
    """

    name: str
    binding: Binding
    user: str | None = field(default=None, repr=False)
    inherited: tuple[bytes, bytes] | None = field(default=None, repr=False)
    settings: Settings | None = None
    max_age: float = 0.0

    def find(self) -> Place | None:
        """Where the record lies, or is to lie; None until the browser is known.

        Raises:
            StoreError: The store failed.
        """
        return self.in_browser() if self.user is None else self._of_user(self.user)

    def in_browser(self) -> Place | None:
        """Where the record of the browser's session id lies, whoever is logged in; None until the browser is known."""
        # Read once: the runs of two users may overlap, who share the binding, and one may let go of the id.
        session_id = self.binding.session_id
        return self._at(record_key(self.name, session_id)) if session_id is not None else None

    @property
    def record_key(self) -> str | None:
        """Names the record, None where there is none yet."""
        if self.settings is None:
            return None
        place = self.in_browser() if self.user is None else self._places_of_user(self.user)[-1]
        return place.record_key if place is not None else None

    def _of_user(self, user: str) -> Place:
        *older, newest = self._places_of_user(user)
        if newest.version() is None:  # a key came since it was saved, or nothing was
            for place in reversed(older):
                newest.move_from(place, self.max_age)
        return newest

    def _places_of_user(self, user: str) -> list[Place]:
        assert self.settings is not None, "noted by whoever loads or clears"
        return [self._at(key) for key in user_record_keys(self.name, user, self.settings.keys)]

    def _at(self, key: str) -> Place:
        assert self.settings is not None, "noted by whoever loads or clears"
        return Place(self.settings.store, self.settings.keys, self.name, key)

    # Login

    def take_over(self, caller: Caller, options: Options) -> None:
        """Brings what the visitor did before they logged in into their state; it is gone from where it was.

        Raises:
            StateConflictError: They have a state, and `on_conflict` is "raise"; it holds what is gone.
            PersistSessionError: See `persistent_state`.
        """
        if self.user is None:
            return
        if self.inherited is not None:
            self._take_over_inherited(self.inherited[1], self._of_user(self.user), caller, options)
            self.inherited = None
        place = self.in_browser()
        if place is None:
            return
        for each in (self.left(), place):
            if each is not None:
                self._move(each, self._of_user(self.user), caller, options)
        self._bring_along()
        self.drop_cookie()

    def _move(self, place: Place, target: Place, caller: Caller, options: Options) -> None:
        assert self.settings is not None, "the places are made with them"
        if place.version() is not None:
            with place.lock(self.settings.lock_timeout):  # two tabs may come at once
                _move(place, target, caller, options)

    def _take_over_inherited(self, data: bytes, target: Place, caller: Caller, options: Options) -> None:
        try:
            take_over(loads(data, caller.view), target, caller, options)
        except UnrestorableError as error:
            _log.info("The state %r was never saved and starts fresh: %s", self.name, error)
        except (StoreError, UnloadableStateError):
            raise  # to be tried again
        except Exception:
            self.inherited = None  # nobody is to meet the same error at every run
            raise

    def left(self) -> Place | None:
        """Where the record of a script's own cookie lies, whose state belongs to the server's by now."""
        return self._at(record_key(self.name, self.binding.left)) if self.binding.left is not None else None

    def merge_left(self, caller: Caller, options: Options) -> None:
        """Brings what lies there into the browser's state; of two values of one field, the one in that stays.

        Raises:
            PersistSessionError: See `persistent_state`.
        """
        left, place = self.left(), self.in_browser()
        if left is None or place is None or self.user is not None:
            return
        self._move(left, place, caller, replace(options, on_conflict="merge"))
        self._bring_along()

    def _bring_along(self) -> None:
        """Notes that nothing lies there any more."""
        place = self.left()
        if place is not None:
            relay.replaced.put(place.record_key, relay.Heard(None))
            self.binding.left = None

    # Leaving

    def clear(self, place: Place | None, saved: Saved) -> Binding:
        """Deletes the record, and returns the binding to go on with.

        Args:
            place: Where the tab has the browser's record, None where it has none, and for a user.
            saved: What the tab knows of it.

        Raises:
            StoreError: The store failed; nothing is cleared.
        """
        self.finish_clearing()
        if self.user is None:
            self._clear_left()
        if self.user is not None:
            for each in self._places_of_user(self.user):
                each.delete()
            return self.binding
        if place is not None and saved.version is not None and place.version() is None:
            self.binding.outdate()  # cleared elsewhere: what is there now lies under an id that the browser knows
            return self.binding.successor()
        binding = self.binding.successor()
        if place is not None:
            place.delete()
            if binding.is_http_only:
                _retire(place, binding)
            else:
                assert self.settings is not None, "the place is made with them"
                binding.issue(self.settings, self.max_age)
        return binding

    def finish_clearing(self) -> None:
        """Deletes what was cleared before anybody knew where it lies, or by a middleware, which does not know.

        Raises:
            StoreError: The store failed; it is tried again.
        """
        if self.binding.cleared is not None:
            place = self._at(record_key(self.name, self.binding.cleared))
            place.delete()
            self._clear_left()
            _retire(place, self.binding)
            self.binding.cleared = None
        unwanted = relay.unwanted(self.name)
        for key in (key for _ in range(_MOST_UNWANTED) for key in unwanted.take(1)):
            try:
                self._at(key).delete()
            except StoreError as error:  # no reason to fail another visitor's run
                _log.error("The record %s of state %r is to be deleted, and is not yet: %s", key[:8], self.name, error)
                unwanted.put(key, note=True)
                return

    def _clear_left(self) -> None:
        left = self.left()
        if left is not None:
            left.delete()
            self._bring_along()

    def drop_cookie(self) -> None:
        """Lets go of the browser's session id, under which nothing lies any more."""
        place = self.in_browser()
        if place is not None:
            self.binding.drop()
            _retire(place, self.binding)


def _retire(place: Place, binding: Binding) -> None:
    """Has the server give the browser a new id, where only that can, if nothing lies under this one then."""
    if binding.is_http_only:
        binding.replace_by_server()  # first: a page that is loaded from now on is loaded after it
        relay.retired.put(place.record_key, lambda: place.version() is None)


def _move(place: Place, target: Place, caller: Caller, options: Options) -> None:
    live, found = load(place, caller, options)
    while live is not None:
        try:
            take_over(live.obj, target, caller, options)
        except (StoreError, UnloadableStateError):
            raise  # to be tried again
        except StateConflictError:
            place.delete()  # the error holds it
            raise
        except Exception:
            place.set_aside(found.version or "", options.max_age)  # the user is not to meet the same error for ever
            raise
        # Only what was read: what another tab saved meanwhile is next.
        place.set_aside(found.version or "", options.max_age)
        live, found = load(place, caller, options)
    place.delete()
