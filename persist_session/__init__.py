"""Keeps an object of the app's own class for each visitor of a Streamlit app.

    with persistent_state("app-state", AppState) as s:
        ...

Glossary:
    state: the app's object, any that can be pickled.
    name: names a state and its cookie.
    session id: 128 random bits, one browser's secret index for one name.
    signed cookie: the session id, when it was signed, and the signature.
    record key: a hash of name and session id; what stores, files and logs may see.
    record: what the store keeps under a record key: the sealed pickle, its version, lineage and expiry.
    lineage: a random mark of a record from its creation to its clearing.
    store: where records lie.
    tab: one Streamlit session.
    live object: the state as a tab holds it between runs; its baseline is its own pickle, right after it was loaded.
    transaction: load, block, commit or discard.
"""

from persist_session.decorator import persist
from persist_session.errors import (
    ConfigurationError,
    LockTimeoutError,
    PersistSessionError,
    StateConflictError,
    StateError,
    StateTooLargeError,
    StoreError,
    UnloadableStateError,
    UnpicklableStateError,
)
from persist_session.middleware import CookieMiddleware
from persist_session.settings import configure
from persist_session.state import (
    StateInfo,
    clear_cookie_state,
    load_state,
    persistent_state,
    save_state,
    state_info,
)
from persist_session.stores import FileStore, MemoryStore, Store, Stored
from persist_session.sweep import delete_expired

__all__ = [
    "ConfigurationError",
    "CookieMiddleware",
    "FileStore",
    "LockTimeoutError",
    "MemoryStore",
    "PersistSessionError",
    "StateConflictError",
    "StateError",
    "StateInfo",
    "StateTooLargeError",
    "Store",
    "StoreError",
    "Stored",
    "UnloadableStateError",
    "UnpicklableStateError",
    "clear_cookie_state",
    "configure",
    "delete_expired",
    "load_state",
    "persist",
    "persistent_state",
    "save_state",
    "state_info",
]
