# ruff: noqa: D101, D103 (nobody but mypy reads it)
"""What a type checker must refuse; read by mypy only, see test_typing.py.

In mypy's strict mode an error that is ignored without being there is an error.
"""

from __future__ import annotations

from starlette.middleware import Middleware

from persist_session import CookieMiddleware, configure, persist, persistent_state


class AppState:
    count = 0


persistent_state("x", AppState())  # type: ignore[arg-type]
persistent_state(5, AppState)  # type: ignore[arg-type]
persistent_state("x", AppState, on_error="ignore")  # type: ignore[arg-type]
persistent_state("x", AppState, exclusive="yes")  # type: ignore[arg-type]
persistent_state("x", AppState, on_conflict="mine")  # type: ignore[arg-type]
persistent_state("x", AppState, user=5)  # type: ignore[arg-type]
persistent_state("x")  # type: ignore[call-arg]
configure(["k" * 32])  # type: ignore[call-arg]
configure(same_site="loose")  # type: ignore[arg-type]
configure(store=5)  # type: ignore[arg-type]
Middleware(CookieMiddleware, names=["x"])  # type: ignore[call-arg]
Middleware(CookieMiddleware, remember=True)  # type: ignore[arg-type]

with persistent_state("x", AppState) as s:
    s.cuont = 1  # type: ignore[attr-defined]


@persist("x", AppState)
def add(state: AppState, amount: int) -> int:
    return state.count + amount


add(1, 2)  # type: ignore[call-arg]
add("1")  # type: ignore[arg-type]


@persist("x", AppState)  # type: ignore[arg-type]
def other(state: int) -> int:
    return state
