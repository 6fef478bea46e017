"""Keeps an object of the app's own class for each visitor of a Streamlit app.

    with persistent_state("app-state", AppState) as s:
        ...

Glossary:
    state: the app's object, any that can be pickled.
    name: names a state.
    visitor: whoever's states lie together: a browser, by its cookie, or a logged-in user.
    visitor id: 128 random bits, a browser's secret, in its cookie.
    cookie: the visitor id, the time when it was signed, and the signature; one for all states.
    visitor key: a hash of the visitor id, or of the user; what stores, files and logs may see.
    record: what a store keeps for one visitor key and name: the sealed pickle, its version, lineage and expiry.
    lineage: a random mark of a record from its creation to its clearing.
    store: where records lie.
    home: where one state lies for one visitor right now: the tab's memory, the browser's record, the user's record.
    tab: one Streamlit session.
    live object: the state as a tab holds it between runs.
    transaction: load, block, commit or discard: an object, the pickle it was based on, the version it was based on.
"""

from persist_session.browser.middleware import CookieMiddleware
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
