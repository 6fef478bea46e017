"""The errors: as few types as callers can tell apart."""

from __future__ import annotations


class PersistSessionError(Exception):
    """Base of every error that this library raises."""


class ConfigurationError(PersistSessionError):
    """The developer's mistake: a wrong argument, setting, key or folder."""


class StateError(PersistSessionError):
    """Something is wrong with one state.

    Attributes:
        name: The name of the state.
    """

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


class UnpicklableStateError(StateError):
    """The state holds something that can't be saved and loaded again."""


class UnloadableStateError(StateError):
    """The saved record is intact, but can't be loaded: a class is gone or renamed."""


class StateTooLargeError(StateError):
    """The pickled state is larger than the setting `max_bytes`."""


class StoreError(PersistSessionError):
    """The store failed; the backend's own error is the `__cause__`."""


class StateConflictError(StateError):
    """Another tab or process changed the state at the same time, and `on_conflict` is "raise".

    Attributes:
        base: The state that both sides started from.
        mine: This side's state; it is not saved.
        theirs: The saved state.
    """

    def __init__(self, message: str, *, name: str, base: object, mine: object, theirs: object) -> None:
        super().__init__(message, name=name)
        self.base = base
        self.mine = mine
        self.theirs = theirs


class LockTimeoutError(PersistSessionError):
    """Another block held the lock of an exclusive state for longer than the setting `lock_timeout`."""
