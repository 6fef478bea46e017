# ruff: noqa: D101, D102, D103 (nobody but mypy reads it)
"""What a type checker must infer of the public API; read by mypy only, see test_typing.py."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypedDict, assert_type

import streamlit as st
from starlette.middleware import Middleware
from starlette.requests import Request

from persist_session import (
    CookieMiddleware,
    MemoryStore,
    StateInfo,
    Store,
    clear_cookie_state,
    configure,
    delete_expired,
    load_state,
    persist,
    persistent_state,
    save_state,
    state_info,
)


class AppState:
    def __init__(self) -> None:
        self.count = 0

    @classmethod
    def create(cls) -> AppState:
        return cls()


@dataclass
class Settings:
    theme: str = "light"


class Words(TypedDict):
    word: str


def make_words() -> Words:
    return {"word": ""}


def make_numbers() -> dict[str, int]:
    return {}


# The block yields what the factory makes.
with persistent_state("x", AppState) as s:
    assert_type(s, AppState)
    assert_type(s.count, int)
with persistent_state("x", Settings, max_age=timedelta(days=1), on_error="commit", on_unloadable="fresh") as settings:
    assert_type(settings, Settings)
with persistent_state("x", make_numbers) as numbers:
    assert_type(numbers, dict[str, int])
with persistent_state("x", make_words) as words:
    assert_type(words, Words)
with persistent_state("x", lambda: Settings("dark")) as dark:
    assert_type(dark, Settings)
with persistent_state("x", functools.partial(Settings, "dark")) as partial:
    assert_type(partial, Settings)
with persistent_state("x", AppState.create) as created:
    assert_type(created, AppState)
with persistent_state("x", list[int]) as listed:
    assert_type(listed, list[int])

# What follows a block is reachable, and a block swallows nothing.


def after_a_block() -> int:
    with persistent_state("x", AppState) as inner:
        return inner.count


# Users, and consent.
with persistent_state("x", AppState, user="me", remember=False) as own:
    assert_type(own, AppState)
assert_type(load_state("x", AppState, user=None, remember=True), AppState)
clear_cookie_state("x", user="me")
clear_cookie_state(user="me")
clear_cookie_state()

# By hand.
loaded = load_state("x", AppState, max_age=60.0)
assert_type(loaded, AppState)
assert_type(load_state("x", make_numbers), dict[str, int])
save_state("x", loaded)
clear_cookie_state("x")

# The decorator leaves a class as it is, and takes the first argument from a function.


@persist("x")
class Kept:
    def __init__(self, count: int = 0) -> None:
        self.count = count


assert_type(Kept(), Kept)
assert_type(Kept(1).count, int)


@persist("x", AppState, on_error="commit")
def add(state: AppState, amount: int, *, twice: bool = False) -> str:
    assert_type(state, AppState)
    return str(state.count + amount * (1 + twice))


assert_type(add(1, twice=True), str)

# Information.
info = state_info("x")
assert_type(info, StateInfo | None)
if info is not None:
    assert_type(info.cookie, Literal["asking", "pending", "seen", "none"])
    assert_type(info.saved_at, datetime | None)
    assert_type(info.size, int | None)
    assert_type(info.visitor_key, str | None)

# Settings, and a store of one's own that imports nothing from us.
store: Store = MemoryStore()
configure(store=store, secret_keys=["k" * 32], max_age=timedelta(days=1), same_site="strict", secure=True)
configure(store="file:///srv/state", max_age=60, path="/", ask_browser=False, max_bytes=1, app="shop")
configure(partitioned=True, cookie_name="shop", cookie_max_age=timedelta(days=90))
assert_type(delete_expired(store), int)
assert_type(delete_expired("file:///srv/state"), int)

# The server.


def remembers(request: Request) -> bool:
    return "consent" in request.cookies


app = st.App("app.py", middleware=[Middleware(CookieMiddleware, remember=remembers)])
