"""One tab's memory: its visitor, and for each name its home and its transaction."""

from __future__ import annotations

import functools
import logging
import secrets
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from persist_session import host, keys
from persist_session import settings as settings_module
from persist_session.browser.identity import Identity
from persist_session.errors import ConfigurationError, PersistSessionError, StateConflictError, StoreError
from persist_session.keys import Keys
from persist_session.moving import move
from persist_session.objects.classes import name_of
from persist_session.objects.live import Caller, Live
from persist_session.objects.pickling import UnpicklableError
from persist_session.records import Home, Kind, has_state, user_key, visitor_key
from persist_session.settings import Settings
from persist_session.stores import MemoryStore
from persist_session.sweep import sweep_if_due
from persist_session.transaction import Options, Transaction

_log = logging.getLogger(__name__)

_FORMER = 8
"""The number of objects that were cleared, or are another user's, that a tab knows as such."""

_OWN_KEYS = Keys(cookie=(), record=(secrets.token_bytes(32),))
"""What seals the records in the tabs' own memory."""

_NO_LOCK = ExitStack()

Mark = weakref.ref[Any]
Calls = dict[str, tuple[Any, "Block"]]


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms on which a caller loads a state.

    Attributes:
        factory: Makes a fresh state.
        options: How it is kept.
        user: The user whose state it is; None for the browser's.
        remember: Whether it is to outlive the tab.
    """

    factory: Callable[[], Any]
    options: Options
    user: str | None = field(default=None, repr=False)
    remember: bool = True


@dataclass(slots=True, eq=False)
class Block:
    """One open block.

    Attributes:
        kept: The state.
        transaction: The transaction that the block's end commits.
        live: Its live object when the block was opened.
        obj: The object that the block got.
        run: The run that opened it.
        before: The object's pickle then, where blocks of others were open.
        lock: Holds the record's lock, if the block is exclusive.
        outer: The block of the same name around this one, whose end commits; None for the outermost.
        joined: Whether a block inside has left its changes to the end of this one.
    """

    kept: Kept
    transaction: Transaction
    live: Live
    obj: Any = field(repr=False)
    run: Mark
    before: bytes | None = field(default=None, repr=False)
    lock: ExitStack = field(default_factory=lambda: _NO_LOCK)
    outer: Block | None = None
    joined: bool = False

    @property
    def is_exclusive(self) -> bool:
        """Tells whether the block holds the record's lock."""
        return self.outer.is_exclusive if self.outer is not None else self.lock is not _NO_LOCK

    def leave(self, error: BaseException | None) -> None:
        """Saves what the block changed; or throws it away, if an exception left it.

        Raises:
            PersistSessionError: See `persistent_state`; not where something else is under way already.
        """
        if self.outer is not None:
            self.outer.joined = True
            return
        with self.lock, self.kept.lock:
            self.kept.close(self, error)


class Kept:
    """One state that a tab keeps.

    Attributes:
        name: The state's name.
        lock: Guards everything here; nothing of Streamlit is called while it is held.
        terms: The terms of the last load.
        transaction: The transaction that goes on from run to run.
        wanted: The home that the last load has asked for.
        brought: The homes whose records were brought along, each with the home where to, since the last logout.
    """

    def __init__(self, tab: Tab, name: str, terms: Terms, home: Home) -> None:
        self.name = name
        self.lock = threading.RLock()
        self.terms = terms
        self._tab = tab
        self.transaction = Transaction(home, tab.home(name))
        self.wanted = home
        self.brought: list[tuple[Home, Home]] = []
        self._run: Mark | None = None
        self._open: list[Block] = []
        self._former: list[Any] = []

    def agree(self, terms: Terms, run: Mark) -> None:
        """Takes the terms of another load.

        Raises:
            ConfigurationError: In the same run, another factory made this state.
        """
        if self._run == run and name_of(self.terms.factory) != name_of(terms.factory):
            raise ConfigurationError(
                f"The state {self.name!r} was loaded with {name_of(self.terms.factory)} and with "
                f"{name_of(terms.factory)} in one run; give the two states different names."
            )
        self.terms, self._run = terms, run

    def move(self, home: Home, caller: Caller) -> None:
        """Brings the state to the home that it is to have by now, with what is in it; a user's stays where it is.

        Raises:
            PersistSessionError: See `moving.move`.
        """
        if home != self.wanted:
            move(self.transaction, home, caller, self.terms.options)
        elif home == self.transaction.home:
            self.transaction.home = home  # the same one, by the settings of now
        self.wanted = home

    def leave_user(self, home: Home) -> None:
        """Leaves a user's state where it is, and starts over in another home; blocks that are still open save there.

        Raises:
            PersistSessionError: See `Transaction.commit`.
        """
        try:
            self.transaction.commit(self.terms.options)  # what a callback did since the last run, to whom it was done
        except StoreError:
            raise
        except PersistSessionError:
            self._start_over(home)  # else nobody could log out in this tab any more
            raise
        self._start_over(home)

    def _start_over(self, home: Home) -> None:
        self._forget(self.transaction.live)
        if self.transaction.home.kind is Kind.TAB:
            self.transaction.home.delete()  # it is that user's
        self.transaction, self.wanted, self.brought = Transaction(home, self._tab.home(self.name)), home, []

    def begin(self, caller: Caller) -> Any:
        """The live object; see `Transaction.begin`."""
        obj = self.transaction.begin(caller, self.terms.options)
        if self.transaction.home.kind is not Kind.TAB:
            sweep_if_due(self.transaction.home.store)
        return obj

    def open(self, caller: Caller) -> Block:
        """Opens a block."""
        obj = self.begin(caller)
        live = self.transaction.live
        assert live is not None, "begun"
        before = None
        self._open = [block for block in self._open if block.run() is not None]  # others are never left
        if self._open:
            with suppress(UnpicklableError):  # whoever saves it is told
                before = live.pickled().data
        block = Block(self, self.transaction, live, obj, caller.run, before)
        self._open.append(block)
        return block

    def close(self, block: Block, error: BaseException | None) -> None:
        """Commits or discards what a block did; see `Block.leave`."""
        place = self._open.index(block) if block in self._open else len(self._open)
        earlier, later = self._open[:place], self._open[place + 1 :]
        self._open = [each for each in self._open if each is not block]
        transaction, options = block.transaction, self.terms.options
        if transaction.live is not block.live:
            return  # it was cleared, or thrown away
        if isinstance(error, Exception) and options.on_error == "discard":
            self._discard(block, earlier, later)
            return
        try:
            transaction.commit(options, creates=self._tab.is_visited(block.run))
        except Exception as failure:
            if error is None:
                if not isinstance(failure, StoreError):
                    transaction.live = None  # else every later run of this visitor would meet the same error
                raise
            # What is under way, a stop, a rerun or the app's own error, goes on; the next exit tries again, and raises.
            said = failure if isinstance(failure, PersistSessionError) else type(failure).__name__
            _log.error("The state %r could not be saved: %s. It is tried again.", self.name, said)

    def _discard(self, block: Block, earlier: list[Block], later: list[Block]) -> None:
        """Throws away what a block changed, but nothing that another task's block may have: that is open, too."""
        beside = next((each for each in earlier if each.run == block.run and each.live is block.live), None)
        if beside is not None:
            beside.joined = True  # nobody can tell what of all that was changed since is whose
        elif self._run == block.run:
            since = next((each.before for each in later if each.live is block.live), None)
            block.transaction.discard(block.live, block.before if self._open else None, since)
        else:
            block.live.forget(block.obj)

    def end(self, run: Mark) -> None:
        """Saves what blocks have left to the end of one that is never left, as a generator's may be."""
        with self.lock:
            for block in self._open:
                if block.run == run and block.joined and block.transaction.live is block.live:
                    block.transaction.commit(self.terms.options)

    def save(self, obj: Any, caller: Caller) -> None:
        """Saves the live object, or another one in its place; see `save_state`."""
        if any(former is obj for former in self._former_objects()):
            _log.info("The state %r was cleared, or is another user's: its old object is not saved.", self.name)
            return
        transaction = self.transaction
        if transaction.live is None:
            transaction.begin(caller, self.terms.options)
        if transaction.live is not None and not transaction.live.holds(obj):
            transaction.replace(obj, caller)
        transaction.absorb()
        try:
            transaction.commit(self.terms.options)
        except StateConflictError:
            transaction.live = None  # so that it can be loaded again, and the change repeated
            raise

    def clear(self) -> None:
        """Deletes the record; see `clear_cookie_state`."""
        live = self.transaction.live
        self.transaction.clear(self.wanted)
        self._forget(live)

    def _forget(self, live: Live | None) -> None:
        if live is not None:
            self._former = [*self._former, *map(_weak, live.objects())][-_FORMER:]

    def _former_objects(self) -> Iterator[Any]:
        return (each() if isinstance(each, weakref.ref) else each for each in self._former)

    @contextmanager
    def exclusively(self, timeout: float) -> Iterator[None]:
        """Holds the record's lock over a block.

        Raises:
            LockTimeoutError: Another exclusive block did not end in time.
            StoreError: The store failed.
        """
        with self.transaction.home.lock(timeout):
            yield


def _weak(obj: Any) -> Any:
    try:
        return weakref.ref(obj)
    except TypeError:  # a list, a dict
        return obj


class Tab:
    """One tab.

    Attributes:
        identity: The visitor.
        kept: The states by their names.
        failures: The errors that the end of a run met when it saved, by the states' names: for their next load.
    """

    def __init__(self) -> None:
        self.identity = Identity()
        self.kept: dict[str, Kept] = {}
        self.failures: dict[str, PersistSessionError] = {}
        self._called: dict[Mark, Calls] = {}
        self._store = MemoryStore()
        self._key = secrets.token_hex(32)
        self._first: Mark | None = None
        self._runs = 0
        self._clears: list[str | None] = []
        self._lock = threading.RLock()

    def home(self, name: str) -> Home:
        """The home of a state in the tab's own memory."""
        return Home(Kind.TAB, self._store, _OWN_KEYS, self._key, name)

    def home_of(self, name: str, user: str | None, settings: Settings, *, remember: bool) -> Home:
        """The home that a state is to have by now."""
        if not remember:
            return self.home(name)
        if user is not None:
            return Home(Kind.USER, settings.store, settings.keys, user_key(user), name)
        return self._in_browser(name, settings) or self.home(name)

    def _in_browser(self, name: str, settings: Settings) -> Home | None:
        if self.identity.visitor_id is None:
            return None
        return Home(Kind.BROWSER, settings.store, settings.keys, visitor_key(self.identity.visitor_id), name)

    def is_visited(self, run: Mark) -> bool:
        """Tells whether somebody does something in this tab: its first run is only the page's load."""
        return self._first is not None and self._first != run

    def enter(self, run: host.Run, name: str, terms: Terms, settings: Settings, caller: Caller) -> Kept:
        """The state of this name, in the home that it is to have by now.

        Raises:
            PersistSessionError: See `persistent_state`.
        """
        with self._lock:
            self._first = self._first or run.mark
            self._recognize(settings)
            if terms.remember and terms.user is None:
                self.identity.want(settings)
            home = self.home_of(name, terms.user, settings, remember=terms.remember)
            kept = self._keep(name, terms, settings)
        with kept.lock:
            if kept.terms.user not in (None, terms.user):
                kept.leave_user(home)  # before the new terms: where it fails, the next run tries again
            kept.agree(terms, run.mark)
            self._bring_along(kept, home, caller, settings)
            kept.move(home, caller)
        self._withdraw()
        return kept

    def _withdraw(self) -> bool:
        """Has the cookie removed where no state is to be remembered; tells whether that is to be done now."""
        remembers = [kept.terms.remember for kept in list(self.kept.values())]
        return bool(remembers) and not any(remembers) and self.identity.withdraw()

    def _keep(self, name: str, terms: Terms, settings: Settings) -> Kept:
        kept = self.kept.get(name)
        if kept is None:
            # A record of the browser is brought to a user, and one that is not to be into the tab, as if it had been
            # loaded here before.
            user = None if terms.remember else terms.user
            kept = self.kept[name] = Kept(self, name, terms, self.home_of(name, user, settings, remember=True))
        return kept

    def _bring_along(self, kept: Kept, home: Home, caller: Caller, settings: Settings) -> None:
        """Brings records that this tab has not loaded: a browser's to a user's, and both into the tab after a no."""
        terms = kept.terms
        sources = [] if terms.remember and terms.user is None else [self._in_browser(kept.name, settings)]
        if not terms.remember and terms.user is not None:
            sources.append(self.home_of(kept.name, terms.user, settings, remember=True))
        for source in sources:
            if source is not None and (source, home) not in kept.brought:
                if source != kept.wanted:
                    move(Transaction(source, self.home(kept.name)), home, caller, terms.options)
                kept.brought.append((source, home))

    def _recognize(self, settings: Settings) -> None:
        """Looks who the visitor is; where that is known only now, does what was to be done in the browser's home."""
        was_known = self.identity.visitor_id is not None
        self.identity.look(settings, lambda each: has_state(settings.store, visitor_key(each), settings.keys))
        if self.identity.visitor_id is None:
            return
        if not was_known:
            _look_elsewhere(visitor_key(self.identity.visitor_id), settings)
        self._finish_clearing(settings)

    def _finish_clearing(self, settings: Settings) -> None:
        while self._clears:
            self._clear_in_browser(self._clears[0], settings)
            del self._clears[0]

    def clear(self, name: str, user: str | None, settings: Settings) -> None:
        """Deletes a state; see `clear_cookie_state`."""
        with self._lock:
            self._recognize(settings)
        kept = self.kept.get(name)
        if user is not None and (kept is None or kept.terms.user != user):
            settings.store.delete(user_key(user), name)
            return
        if kept is not None:
            with kept.lock:
                kept.clear()
        if user is None and (kept is None or kept.terms.user is None):
            self._clear_in_browser(name, settings)

    def clear_all(self, user: str | None, settings: Settings) -> None:
        """Deletes all states of the visitor; see `clear_cookie_state`."""
        with self._lock:
            self._recognize(settings)
        all_kept = list(self.kept.values())
        users = {kept.terms.user for kept in all_kept} if user is None else {user}
        for kept in all_kept:
            if kept.terms.user in users:
                with kept.lock:
                    kept.clear()
        for each in users - {None}:
            delete_all(settings, user_key(each or ""))
        if user is None:
            self._clear_in_browser(None, settings)

    def _clear_in_browser(self, name: str | None, settings: Settings) -> None:
        if self.identity.visitor_id is None:
            self._clears.append(name)
        elif name is None:
            delete_all(settings, visitor_key(self.identity.visitor_id))
        else:
            settings.store.delete(visitor_key(self.identity.visitor_id), name)

    # The end of a run

    def end(self, ended: host.Ended) -> None:
        """Does what is left to be done at the end of a run; raises nothing."""
        mark = ended.run.mark
        self._runs += not ended.run.is_fragment
        for name, (_, block) in self._called.pop(mark, {}).items():
            self._leave(name, block, failed=ended.failed)
        for kept in list(self.kept.values()):
            try:
                kept.end(mark)
            except Exception:  # noqa: BLE001 (it would kill the script's thread, and nobody would see why)
                _log.exception("The state %r could not be saved at the end of the run.", kept.name)
        is_known = self._first is not None or self._clears
        try:
            if is_known and not ended.run.is_fragment and self.identity.is_due():
                host.mount_apart(self.talk)
        except Exception:  # noqa: BLE001 (see above)
            _log.exception("The browser could not be asked for its cookie.")

    def _leave(self, name: str, block: Block, *, failed: bool) -> None:
        try:
            block.leave(Exception() if failed else None)
        except PersistSessionError as error:
            _log.error("The state %r could not be saved at the end of the run: %s", name, error)
            self.failures[name] = error
        except Exception as error:  # noqa: BLE001 (see above)
            _log.exception("The state %r could not be saved at the end of the run.", name)
            self.failures[name] = PersistSessionError(f"The state {name!r} could not be saved; see the log.")
            self.failures[name].__cause__ = error

    def calls(self, run: host.Run) -> Calls:
        """The blocks that the end of this run leaves, by the states' names, each with what it was called with."""
        run.note_errors()
        return self._called.setdefault(run.mark, {})

    def talk(self) -> None:
        """Asks the browser, or sends it the cookie: in a fragment of its own, which its answer runs again.

        Raises:
            BaseException: Streamlit's own, where the browser has told a known visitor: the script is to run again.
        """
        run = host.current_run()
        if run is None:
            return
        settings = settings_module.resolve(run.script, host.secrets)
        was_known = self.identity.visitor_id is not None
        is_adopted = self.identity.talk(settings)
        if self.identity.visitor_id is None or was_known:
            return
        key = visitor_key(self.identity.visitor_id)
        try:
            self._finish_clearing(settings)
            # Not by the names that the store has: to list them takes longer, the more visitors there are.
            has_records = is_adopted and any(settings.store.version(key, name) for name in list(self.kept))
        except StoreError as error:
            _log.error("What was done before the browser was known waits for the next run: %s", error)
            return
        self._come_home(settings)
        if self._withdraw():
            self.identity.talk(settings)
        if has_records:
            if self._runs <= 1:
                # Nobody has done anything here yet. What the first run has filled from a fresh state, as a widget's
                # value, would be taken for the visitor's own, and saved over the record's.
                host.forget_session()
            self._first = None  # the run that starts now is still the page's load
            host.rerun(run)

    def _come_home(self, settings: Settings) -> None:
        """Brings all states of the tab to the home that they are to have by now."""
        for kept in list(self.kept.values()):
            terms = kept.terms
            with kept.lock:
                live = kept.transaction.live
                if live is None:
                    continue
                home = self.home_of(kept.name, terms.user, settings, remember=terms.remember)
                try:
                    self._bring_along(kept, home, live.caller, settings)
                    kept.move(home, live.caller)
                except Exception as error:  # noqa: BLE001 (no run of the app is to fail by it; its next load raises)
                    said = error if isinstance(error, PersistSessionError) else type(error).__name__
                    _log.warning("The state %r could not be brought to the browser's record: %s", kept.name, said)


def delete_all(settings: Settings, key: str) -> None:
    """Deletes all records of a visitor key.

    Raises:
        StoreError: The store failed.
    """
    for name in settings.store.names(key):
        settings.store.delete(key, name)


@functools.lru_cache(maxsize=1)  # once
def _warn_of_other_app(other: str, own: str) -> None:
    _log.warning(
        "A visitor's cookie is valid, but this app has no record of theirs, and the app %r of this user has: was it "
        "moved or renamed? configure(app=%r) or configure(store=...) brings the records back; this one's app is %r.",
        other,
        other,
        own,
    )


def _look_elsewhere(key: str, settings: Settings) -> None:
    # Only where nothing was ever written here: to list a visitor's names takes longer, the more visitors there are.
    if settings.app is None or keys.is_used(settings.store) or _warn_of_other_app.cache_info().currsize:
        return
    other = settings_module.other_app_with(key, settings)
    if other is not None:
        _warn_of_other_app(other, settings.app)


def tab_of(run: host.Run) -> Tab:
    """The tab that the run belongs to."""
    tab = run.memory.get("tab")
    if not isinstance(tab, Tab):
        # Left by this module as it was before Streamlit evicted it: the browser and the store know the rest.
        tab = run.memory["tab"] = Tab()
        host.hear_ends(run, tab.end)
    return tab
