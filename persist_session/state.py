"""The public functions: they arrange what the modules below do."""

from __future__ import annotations

import functools
import logging
import sys
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from persist_session import host
from persist_session import settings as settings_module
from persist_session.browser.identity import CookieState
from persist_session.errors import ConfigurationError
from persist_session.objects.classes import View
from persist_session.objects.live import Caller
from persist_session.records import Home, Kind, user_key
from persist_session.settings import Settings
from persist_session.stores.layout import is_name
from persist_session.tab import Block, Kept, Tab, Terms, delete_all, tab_of
from persist_session.transaction import OnConflict, Options, Transaction

_log = logging.getLogger(__name__)

T = TypeVar("T")
OnError = Literal["discard", "commit"]
OnUnloadable = Literal["raise", "fresh"]
MaxAge = float | timedelta | None

# The blocks that were opened in this context; those that were left, or are of another run, do not count.
_blocks: ContextVar[tuple[Block, ...]] = ContextVar("persist_session_blocks", default=())


@dataclass(frozen=True, slots=True)
class StateInfo:
    """The facts about a visitor's state; it holds no secret.

    Attributes:
        name: The state's name.
        visitor_key: Names the visitor in the store and in logs; None while the state lies in the tab alone.
        size: Bytes of the pickle that was last loaded or saved; None if no record holds the state.
        saved_at: The time when the record was written; None if there is none.
        expires_at: The time when the record expires if nobody visits.
        cookie: "asking" until the browser is known, "pending" until a connection brings the cookie (at a reload, as a
            rule), then "seen"; "none" where there is to be none, for a user's state and for one that is not remembered.
    """

    name: str
    visitor_key: str | None
    size: int | None
    saved_at: datetime | None
    expires_at: datetime | None
    cookie: CookieState


class persistent_state(Generic[T]):  # noqa: N801  (used like a function, as contextlib's own context managers are)
    """A block that loads the visitor's state on entry and saves it once on exit.

    Within a tab every run gets the same object, or, where the script's own classes were defined anew, a faithful copy
    of it. Leaving the block by its end, `st.rerun`, `st.stop`, `st.switch_page` or a newer click saves; leaving it by
    an exception throws the block's changes away and shows the exception as always. Blocks of one name may nest: the
    outermost saves. Outside of a Streamlit run the block gets a fresh object that is not saved.

    Args:
        name: Names the state: 1 to 64 letters, digits, `_`, `.` or `-`.
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
        self._exclusive = exclusive
        self._max_age = None if max_age is None else settings_module.seconds("max_age", max_age)
        options = Options(0.0, 0, on_error, on_unloadable, on_conflict)
        self._terms = Terms(factory, options, user, remember)
        # A block that is made once, in an imported module, is entered by the threads of all visitors.
        self._entered: list[tuple[int, Block | None]] = []

    def __enter__(self) -> T:
        run = host.current_run()
        if run is None:
            _warn_outside(self._name)
            self._entered.append((id(sys._getframe(1)), None))  # noqa: SLF001 (see _leave)
            return self._terms.factory()  # type: ignore[no-any-return]
        kept, caller, settings = self._enter(run)
        outer = _around(kept, run)
        block = self._join(outer, run) if outer is not None else self._open(kept, caller, settings)
        self._entered.append((id(sys._getframe(1)), block))  # noqa: SLF001 (see _leave)
        _blocks.set((*_still_open(run), block))
        obj: T = block.obj
        return obj

    def _enter(self, run: host.Run) -> tuple[Kept, Caller, Settings]:
        if host.is_cached():
            raise ConfigurationError(
                f"The state {self._name!r} is used in a function that st.cache_data or st.cache_resource caches: what "
                "one visitor's call returns is shown to all. Load the state outside, and pass on what is needed of it."
            )
        settings = settings_module.resolve(run.script, host.secrets)
        caller = _caller(self._terms.factory, run.mark)
        return tab_of(run).enter(run, self._name, self._agreed(settings), settings, caller), caller, settings

    def _agreed(self, settings: Settings) -> Terms:
        max_age = settings.max_age if self._max_age is None else self._max_age
        options = replace(self._terms.options, max_age=max_age, max_bytes=settings.max_bytes)
        return replace(self._terms, options=options)

    def _open(self, kept: Kept, caller: Caller, settings: Settings) -> Block:
        if not self._exclusive:
            with kept.lock:
                return kept.open(caller)
        with ExitStack() as lock:
            lock.enter_context(kept.exclusively(settings.lock_timeout))
            with kept.lock:
                block = kept.open(caller)
            block.lock = lock.pop_all()
            return block

    def _join(self, outer: Block, run: host.Run) -> Block:
        if self._exclusive and not outer.is_exclusive:
            raise ConfigurationError(
                f"A block of the state {self._name!r} with exclusive=True is inside of one without, which has loaded "
                "the state already; put exclusive=True at the outer one."
            )
        return Block(outer.kept, outer.transaction, outer.live, outer.obj, run.mark, outer=outer)

    def load(self) -> T:
        """The object that the block would get, without opening it: what `load_state` returns."""
        run = host.current_run()
        if run is None:
            return self._load_outside()
        kept, caller, _ = self._enter(run)
        outer = _around(kept, run)
        with kept.lock:
            obj: T = outer.obj if outer is not None else kept.begin(caller)
            return obj

    def _load_outside(self) -> T:
        """A user's state, to be read; without a user, a fresh one."""
        terms = self._terms
        if terms.user is None:
            _warn_outside(self._name)
            return terms.factory()  # type: ignore[no-any-return]
        settings = settings_module.resolve_outside(host.secrets)
        home = Home(Kind.USER, settings.store, settings.keys, user_key(terms.user), self._name)
        obj: T = Transaction(home, home).begin(
            _caller(terms.factory, weakref.ref(self)), self._agreed(settings).options
        )
        return obj

    def open_for_run(self, run: host.Run) -> Block:
        """A block that the caller leaves at the end of the run."""
        return self._open(*self._enter(run))

    def go_on(self, run: host.Run, block: Block) -> None:
        """Brings the object of such a block up to date."""
        kept, caller, _ = self._enter(run)
        with kept.lock:
            block.obj = kept.begin(caller)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        block = self._leave(id(sys._getframe(1)))  # noqa: SLF001 (see _leave)
        if block is not None:
            block.leave(error)

    def _leave(self, frame: int) -> Block | None:
        """The block that is left: the last one that this frame has entered, else the last one of this context.

        A `with` enters and leaves in one frame, also where a generator is closed in another thread; an `ExitStack` does
        not, but it leaves in the context where it entered.
        """
        here = _blocks.get()
        entered = list(self._entered)  # at once: other threads may enter and leave meanwhile
        own = [each for each in entered if each[0] == frame] or [each for each in entered if each[1] in here] or entered
        chosen = own[-1]
        self._entered.remove(chosen)
        _blocks.set(tuple(each for each in here if each is not chosen[1]))
        return chosen[1]


def _caller(factory: Callable[[], Any], mark: weakref.ref[Any]) -> Caller:
    return Caller(View(host.caller_namespaces(), factory), factory, mark)


def _still_open(run: host.Run) -> tuple[Block, ...]:
    return tuple(block for block in _blocks.get() if block.run == run.mark)


def _around(kept: Kept, run: host.Run) -> Block | None:
    """The open block of this state around the caller, if its object is still the live one."""
    for block in reversed(_still_open(run)):
        if block.kept is kept and block.transaction is kept.transaction and block.live is kept.transaction.live:
            return block.outer or block
    return None


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

    Args:
        name: The name that the state was loaded by.
        state: The loaded object; a copy of another one takes its place.

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
    kept = tab_of(run).kept.get(name)
    if kept is None:
        raise ConfigurationError(f"The state {name!r} was never loaded in this tab; call load_state before save_state.")
    with kept.lock:
        kept.save(state, _caller(kept.terms.factory, run.mark))


def clear_cookie_state(name: str | None = None, *, user: str | None = None) -> None:
    """Deletes the visitor's state for good; the next load starts fresh. Safe to call twice.

    No block that is still open, no older run and no other tab brings the state back. The cookie stays: it is worth
    nothing without a record. Before the browser is known nothing can be found: then it is done as soon as it is.

    Args:
        name: The name of the state, whether this tab has loaded it or not; None for all of the visitor's states.
        user: The user whose state it is; by default the one that the tab loaded it for last, else the browser's. With a
            user it works outside of a Streamlit run, too, where the store is configured.

    Raises:
        ConfigurationError: The name makes no sense; or it is called outside of a run, and no store is configured.
        StoreError: The store failed; nothing is cleared.
    """
    if name is not None:
        check_name(name)
    _check_user(user)
    run = host.current_run()
    if run is not None:
        _clear(tab_of(run), name, user, settings_module.resolve(run.script, host.secrets))
    elif user is None:
        _warn_outside(name or "")
    else:
        settings = settings_module.resolve_outside(host.secrets)
        if name is None:
            delete_all(settings, user_key(user))
        else:
            settings.store.delete(user_key(user), name)


def _clear(tab: Tab, name: str | None, user: str | None, settings: Settings) -> None:
    if name is None:
        tab.clear_all(user, settings)
    else:
        tab.clear(name, user, settings)


def state_info(name: str) -> StateInfo | None:
    """The facts about the visitor's state, or None if this tab has not loaded it. They hold no secret.

    Raises:
        ConfigurationError: The name makes no sense.
    """
    check_name(name)
    run = host.current_run()
    tab = tab_of(run) if run is not None else None
    kept = tab.kept.get(name) if tab is not None else None
    if tab is None or kept is None:
        return None
    with kept.lock:
        transaction = kept.transaction
        live, saved, home = transaction.live, transaction.saved, transaction.home
        is_stored = home.kind is not Kind.TAB and saved.saved_at is not None
        return StateInfo(
            name=name,
            visitor_key=home.key if home.kind is not Kind.TAB else None,
            size=live.size if live is not None and is_stored else None,
            saved_at=_time(saved.saved_at) if is_stored else None,
            expires_at=_time(saved.expires_at) if is_stored else None,
            cookie=tab.identity.cookie if kept.terms.remember and kept.terms.user is None else "none",
        )


def _time(unix: float | None) -> datetime | None:
    return None if unix is None else datetime.fromtimestamp(unix, UTC)


def check_name(name: object) -> None:
    """Returns for a name that a state can have.

    Raises:
        ConfigurationError: It can't.
    """
    if not is_name(name):
        raise ConfigurationError(
            f"name must be 1 to 64 letters, digits, '_', '.' or '-', and not only dots, such as \"app-state\"; it is "
            f"{name!r}."
        )


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


@functools.lru_cache(maxsize=1024)  # once for each name
def _warn_outside(name: str) -> None:
    if host.is_served():
        _log.warning(
            "State %r is used in a thread that does not belong to a run: it is not saved. Give the thread the run's "
            "context: streamlit.runtime.scriptrunner.add_script_run_ctx(thread).",
            name,
        )
    else:
        _log.warning(
            "State %r is used outside of a Streamlit run: it is not saved. Start the app by `streamlit run`.", name
        )
