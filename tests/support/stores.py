"""What several tests of stores do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from persist_session.stores import Store

NAME = "app-state"


def set_aside(store: Store, key: str, expires_at: float) -> None:
    """Set aside whatever record is there by now."""
    found = store.read(NAME, key)
    store.set_aside(NAME, key, version=found.version if found else "", expires_at=expires_at)
