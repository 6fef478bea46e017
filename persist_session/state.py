"""The public functions: they arrange what the modules below do."""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from persist_session import host
from persist_session import settings as settings_module
from persist_session.cookie_policy import check_name
from persist_session.errors import ConfigurationError, PersistSessionError, StoreError
from persist_session.held import Block, Held
from persist_session.home import Home
from persist_session.live import Caller
from persist_session.place import Saved
from persist_session.tab import tab_of
from persist_session.transaction import ClearedError, OnConflict, Options
from persist_session.view import View

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
OnError = Literal["discard", "commit"]
OnUnloadable = Literal["raise", "fresh"]
MaxAge = float | timedelta | None


@dataclass(frozen=True, slots=True)
class StateInfo:
    """What is kept of a visitor's state; holds no secret.

    Attributes:
        name: The state's name.
        record_key: Names the record in the store and in logs; None until the browser is known.
        size: Bytes of the pickle that was last loaded or saved; None if no record holds the state.
        saved_at: When the record was written; None if there is none.
        expires_at: When the record expires if nobody visits.
        cookie: "asking" until the browser is known, "pending" until a connection brings the cookie (at a reload, as a
            rule), then "seen"; "none" where there is to be none, for a user's state and for one that is not remembered.
    """

    name: str
    record_key: str | None
    size: int | None
    saved_at: datetime | None
    expires_at: datetime | None
    cookie: Literal["asking", "pending", "seen", "none"]


class persistent_state(Generic[T]):  # noqa: N801  (used like a function, as contextlib's own context managers are)
    """A block that loads the visitor's state on entry and saves it once on exit.

    Within a tab every run gets the same object, or, where the script's own classes were defined anew, a faithful copy
    of it. Leaving the block by its end, `st.rerun`, `st.stop`, `st.switch_page` or a newer click saves; leaving it by
    an exception throws the block's changes away and shows the exception as always. Blocks of one name may nest: the
    outermost saves. Outside of a Streamlit run the block gets a fresh object that is not saved.

    Args:
        name: Names the state and its cookie: 1 to 64 letters, digits, `_`, `.` or `-`.
        factory: Makes a fresh state, usually the state's class.
        max_age: Seconds, or a timedelta, after which a state that nobody visits expires; by default the setting.
        exclusive: Holds a lock of the state over the block, so that no other exclusive block changes it meanwhile;
            waits for it for up to the setting `lock_timeout`.
        on_conflict: What is saved where another tab or process saved since this block loaded. "merge" keeps both sides'
            changes, field by field, and of two changes of one value this block's, with a warning in the log.
            "overwrite" keeps this side's state, "raise" raises. A function of base, mine and theirs returns it.
        on_error: "commit" saves what the block changed even if it is left by an exception.
        on_unloadable: "fresh" serves a fresh state, and keeps the old record aside, where that can't be loaded.
        user: Who is logged in, by what names them among all users; their state is the same on every device. What they
            did before, anonymously, is brought into it as `on_conflict` says, of two values of one field the user's
            own; it is gone then. None, for the browser's state.
        remember: Whether the state is to outlive the tab. Where not, no cookie is set, and record and cookie that are
            there are removed; a user's record, for all their devices.

    Raises:
        ConfigurationError: An argument or setting makes no sense, or the name has another factory in this run.
        UnloadableStateError: The record is intact, but a class in it is gone.
        UnpicklableStateError: The state holds something that can't be saved.
        StateTooLargeError: The state is larger than the setting `max_bytes`.
        StateConflictError: Another tab or process changed it too, and `on_conflict` is "raise".
        LockTimeoutError: Another exclusive block did not end in time.
        StoreError: The store failed; the old record is still there.
    """

    def __init__(  # noqa: PLR0913 (one per option, all optional)
        self,
        name: str,
        factory: Callable[[], T],
        *,
        max_age: MaxAge = None,
        exclusive: bool = False,
        on_conflict: OnConflict = "merge",
        on_error: OnError = "discard",
        on_unloadable: OnUnloadable = "raise",
        user: str | None = None,
        remember: bool = True,
    ) -> None:
        _check_arguments(name, factory, on_error, on_unloadable, on_conflict)
        _check_user(user)
        if not isinstance(remember, bool):
            raise ConfigurationError(f"remember must be True or False, not {type(remember).__name__}.")
        self._name = name
        self._factory = factory
        self._max_age = None if max_age is None else settings_module.seconds("max_age", max_age)
        self._exclusive = exclusive
        self._on_conflict = on_conflict
        self._on_error = on_error
        self._on_unloadable = on_unloadable
        self._user = user
        self._remember = remember
        # A block that is made once, in an imported module, is entered by the threads of all visitors.
        self._open: defaultdict[int, list[Held | None]] = defaultdict(list)

    def __enter__(self) -> T:
        run = host.current_run()
        if run is None:
            _warn_outside(self._name)
            state = self._factory()
            self._open[threading.get_ident()].append(None)
            return state
        held = self._at_home(run, self._open_block)
        self._open[threading.get_ident()].append(held)
        obj: T = held.blocks[threading.get_ident()].obj
        return obj

    def load(self) -> T:
        """What `load_state` returns: the object that the block would get, without opening it."""
        run = host.current_run()
        if run is None:
            _warn_outside(self._name)
            return self._factory()
        obj: T = self._at_home(run, self._load)
        return obj

    def call(self, run: host.Run) -> Any:
        """What a call of a class that persists returns: its first one opens a block that the run's end leaves."""
        return self._at_home(run, self._open_until_end)

    def _open_until_end(self, held: Held, run: host.Run) -> Any:
        with held.lock:
            obj = held.bring(self._caller(run))
            if run.mark not in held.blocks:
                held.blocks[run.mark] = Block(obj, run.mark, held.snapshot())
            held.blocks[run.mark].obj = obj
            return obj

    def _at_home(self, run: host.Run, enter: Callable[[Held, host.Run], R]) -> R:
        """What `enter` returns for what the tab holds; once more, where the state turns out to be cleared elsewhere."""
        held = self._meet(run)
        try:
            return enter(held, run)
        except ClearedError:
            return enter(self._meet(run), run)

    def _open_block(self, held: Held, run: host.Run) -> Held:
        thread = threading.get_ident()
        if (block := held.blocks.get(thread)) is not None:
            if self._exclusive and not block.is_exclusive:
                raise ConfigurationError(
                    f"A block of the state {self._name!r} with exclusive=True is inside of one without, which has "
                    "loaded the state already; put exclusive=True at the outer one."
                )
            block.depth += 1
            return held
        with contextlib.ExitStack() as lock:
            if self._exclusive:
                lock.enter_context(held.exclusively())
            with held.lock:
                obj = held.bring(self._caller(run))
                before = held.snapshot()
                held.blocks[thread] = Block(obj, run.mark, before, lock.pop_all(), self._exclusive)
        return held

    def _load(self, held: Held, run: host.Run) -> Any:
        with held.lock:
            block = held.blocks.get(threading.get_ident())
            return block.obj if block is not None else held.bring(self._caller(run))

    def _caller(self, run: host.Run) -> Caller:
        return Caller(View(host.caller_namespaces(), self._factory), self._factory, run.mark)

    def _meet(self, run: host.Run) -> Held:
        """What the tab holds of the state, bound to the browser as far as it is known."""
        settings = settings_module.resolve(run.script, host.secrets)
        max_age = settings.max_age if self._max_age is None else self._max_age
        tab = tab_of(run)
        held = tab.hold_for(self._name, self._user)
        with held.lock:
            if tab.held[self._name] is not held:
                return self._meet(run)  # an overlapping run cleared the state, or logged in or out
            if held.run != run.mark:
                _watch(run, held)
            held.asked_by(
                self._factory,
                run.mark,
                Options(max_age, settings.max_bytes, self._on_error, self._on_unloadable, self._on_conflict),
                settings,
                remember=self._remember,
            )
            held.binding.bind(settings, max_age, held.is_current)
            held.home.finish_clearing()
            if not held.binding.is_wanted and not held.is_cleared:
                held.settle_in(self._caller(run))  # in the very run in which the browser is told to forget the cookie
        if not run.is_in_callback:  # a newer click would end the callback there; the script comes right after it
            # May raise Streamlit's own exceptions: so it comes before anything is opened, and outside of the lock.
            held.binding.talk(settings, max_age, run.mark, held.is_gone)
        return held

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        held = self._open[threading.get_ident()].pop()
        if not self._open[threading.get_ident()]:
            del self._open[threading.get_ident()]
        if held is None:
            return
        block = held.blocks[threading.get_ident()]
        block.depth -= 1
        if not block.depth:
            with block.exclusively, held.lock:
                del held.blocks[threading.get_ident()]
                held.leave(block, error)


def _watch(run: host.Run, held: Held) -> None:
    mark = run.mark

    def end(how: host.Ended) -> None:
        if how.drew_all:
            held.ended(mark)

    with contextlib.suppress(PersistSessionError):  # a release that does not tell: objects are held for longer
        host.at_end_of_run(run, end)


def end_of_run(run: host.Run, mark: weakref.ref[Any], name: str, *, failed: bool) -> None:
    """Saves what the run changed, as the end of a block would; or throws it away, if the run showed an exception.

    Args:
        run: Any run of the tab.
        mark: The run that is over.
        name: The state's.
        failed: Whether it showed an exception.

    Raises:
        PersistSessionError: See `persistent_state`.
    """
    held = tab_of(run).held.get(name)
    if held is None:
        return
    with held.lock:
        block = held.blocks.pop(mark, None)
        if block is not None:
            held.leave(block, Exception() if failed else None)


def load_state(  # noqa: PLR0913 (see persistent_state)
    name: str,
    factory: Callable[[], T],
    *,
    max_age: MaxAge = None,
    on_conflict: OnConflict = "merge",
    on_error: OnError = "discard",
    on_unloadable: OnUnloadable = "raise",
    user: str | None = None,
    remember: bool = True,
) -> T:
    """The visitor's state, to be saved by hand with `save_state`: the object that a block would get.

    What is changed and not saved stays in the tab until the page is reloaded.

    Args:
        name: See `persistent_state`.
        factory: See `persistent_state`.
        max_age: See `persistent_state`.
        on_conflict: See `persistent_state`.
        on_error: Kept for blocks of this name; loading alone has nothing to throw away.
        on_unloadable: See `persistent_state`.
        user: See `persistent_state`.
        remember: See `persistent_state`.

    Raises:
        ConfigurationError: See `persistent_state`.
        UnloadableStateError: See `persistent_state`.
        UnpicklableStateError: See `persistent_state`.
        StateConflictError: See `persistent_state`.
        StoreError: The store failed.
    """
    return persistent_state(
        name,
        factory,
        max_age=max_age,
        on_conflict=on_conflict,
        on_error=on_error,
        on_unloadable=on_unloadable,
        user=user,
        remember=remember,
    ).load()


def save_state(name: str, state: object) -> None:
    """Saves the state as the end of a block would, with the options of its last load.

    Before the browser is known it is noted, and done in the run that its answer starts.

    Args:
        name: The name that the state was loaded by.
        state: The loaded object; another one takes its place.

    Raises:
        ConfigurationError: This tab never loaded the name.
        UnpicklableStateError: See `persistent_state`.
        StateTooLargeError: See `persistent_state`.
        StateConflictError: See `persistent_state`.
        StoreError: The store failed; the old record is still there.
    """
    check_name(name)
    run = host.current_run()
    if run is None:
        _warn_outside(name)
        return
    held = tab_of(run).held.get(name)
    if held is None or held.factory is None:
        raise ConfigurationError(f"The state {name!r} was never loaded in this tab; call load_state before save_state.")
    with held.lock, contextlib.suppress(ClearedError):
        held.save(state, Caller(View(host.caller_namespaces(), held.factory), held.factory, run.mark))


def clear_cookie_state(name: str, *, user: str | None = None) -> None:
    """Deletes the visitor's state for good; the next load starts fresh under a new id. Safe to call twice.

    No block that is still open, and no older run, brings the state back. Before the browser is known nothing can be
    found: then the record is deleted by the next load, in the run that the browser's answer starts.
    An HttpOnly cookie is replaced by a hidden request of the page; where that does not reach this process, by the next
    page load, if nothing was saved since.

    Args:
        name: The name of the state, whether this tab has loaded it or not.
        user: Whose state it is; by default that of whom the tab loaded it for last, else the browser's.

    Raises:
        ConfigurationError: The name makes no sense.
        StoreError: The store failed; nothing is cleared.
    """
    check_name(name)
    _check_user(user)
    run = host.current_run()
    if run is None:
        _warn_outside(name)
        return
    tab, settings = tab_of(run), settings_module.resolve(run.script, host.secrets)
    held = tab.hold(name)
    max_age = held.options.max_age if held.options else settings.max_age
    if user not in (None, held.user):
        Home(name, held.binding, user, settings=settings).clear(None, Saved())
        return
    with held.lock:
        if held.is_cleared:
            return  # another run was faster
        held.binding.bind(settings, max_age)
        successor = tab.held[name] = held.clear(settings, max_age)
    successor.binding.talk(settings, max_age, run.mark, successor.is_gone)
    with successor.lock, contextlib.suppress(StoreError):  # the next load tries it again
        successor.home.finish_clearing()  # now, where the browser has told only now


def state_info(name: str) -> StateInfo | None:
    """What is kept of the visitor's state, or None if this tab has not loaded it. Holds no secret.

    Raises:
        ConfigurationError: The name makes no sense.
    """
    check_name(name)
    run = host.current_run()
    held = tab_of(run).held.get(name) if run is not None else None
    if held is None:
        return None
    with held.lock:
        binding, saved = held.binding, held.saved
        return StateInfo(
            name=name,
            record_key=held.record_key,
            size=held.live.size if held.live is not None and saved.saved_at is not None else None,
            saved_at=_time(saved.saved_at),
            expires_at=_time(saved.expires_at),
            cookie="none"
            if not binding.is_wanted
            else "asking"
            if binding.session_id is None
            else "pending"
            if binding.is_pending
            else "seen",
        )


def _time(unix: float | None) -> datetime | None:
    return None if unix is None else datetime.fromtimestamp(unix, UTC)


def _check_user(user: object) -> None:
    if user is not None and (not isinstance(user, str) or not user):
        raise ConfigurationError(
            "user must be a text that names one user among all, for instance f'{st.user.iss}|{st.user.sub}', or None "
            f"where nobody is logged in, not {'an empty one' if user == '' else type(user).__name__}."
        )


def _check_arguments(
    name: object, factory: object, on_error: object, on_unloadable: object, on_conflict: object
) -> None:
    check_name(name)
    if not callable(factory):
        raise ConfigurationError(
            f"factory must be callable, usually the state's class itself, not a {type(factory).__name__}; "
            "for a ready-made value pass a lambda that makes it."
        )
    if on_error not in ("discard", "commit"):
        raise ConfigurationError(f"on_error must be 'discard' or 'commit', not {on_error!r}.")
    if on_conflict not in ("merge", "overwrite", "raise") and not callable(on_conflict):
        raise ConfigurationError(
            "on_conflict must be 'merge', 'overwrite', 'raise' or a function of base, mine and theirs, "
            f"not {on_conflict!r}."
        )
    if on_unloadable not in ("raise", "fresh"):
        raise ConfigurationError(f"on_unloadable must be 'raise' or 'fresh', not {on_unloadable!r}.")


_warned: set[str] = set()


def _warn_outside(name: str) -> None:
    if name not in _warned:
        _warned.add(name)
        _log.warning(
            "State %r is used outside of a Streamlit run: it is not saved. Start the app by `streamlit run`.",
            name,
        )
