"""Payloads: what was packed is restored, and an older one gets what its classes gained."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persist_session import snapshot
from persist_session.pickling import dumps
from persist_session.shape import FACTORY, fill
from persist_session.snapshot import pack, unpack
from persist_session.view import UnrestorableError
from support.script import ScriptRun


def restore(payload: bytes, view: Any, factory: Any) -> Any:
    """The state with what its classes gained, as a load makes it."""
    obj, grown = snapshot.restore(payload, view, factory)
    if grown:
        fill(obj, grown, factory)
    return obj


OLD = """
class Item: pass
class State:
    def __init__(self):
        self.items = [Item()]
"""
NEW = OLD + "        self.new = 1\n"


def packed(run: ScriptRun, obj: Any = None) -> bytes:
    """Return the payload of a fresh state, or of another object."""
    return pack(dumps(run.State() if obj is None else obj), run.State)


@settings(max_examples=50, deadline=None)
@given(st.recursive(st.one_of(st.none(), st.integers(), st.text(), st.binary()), st.lists))
def test_what_was_packed_is_restored(value: Any) -> None:
    """Whatever the pickle holds, also bytes that look like another pickle's."""
    run = ScriptRun(OLD)
    assert restore(pack(dumps([value]), list), run.view(), list) == [value]


def test_the_shapes_come_first_and_the_pickle_stays_as_it_was() -> None:
    """The pickle is what baselines are compared with."""
    run = ScriptRun(OLD)
    shapes, data = unpack(packed(run))
    assert set(shapes) == {("__main__", "State"), ("__main__", "Item"), FACTORY}
    assert type(run.load(data)) is run.State


def test_a_state_is_restored_in_the_classes_of_another_run() -> None:
    """With all that is in it."""
    old, new = ScriptRun(OLD), ScriptRun(OLD)
    obj = restore(packed(old), new.view(new.State), new.State)
    assert type(obj) is new.State
    assert type(obj.items[0]) is new.Item


def test_an_older_state_gets_what_its_class_gained() -> None:
    """And keeps what it held."""
    old, new = ScriptRun(OLD), ScriptRun(NEW)
    state = old.State()
    state.items.append(old.Item())
    obj = restore(packed(old, state), new.view(new.State), new.State)
    assert (len(obj.items), obj.new) == (2, 1)


def test_the_factory_is_called_only_where_something_may_be_missing() -> None:
    """A restored state costs no second one."""
    old, new = ScriptRun(OLD), ScriptRun(OLD)
    new.State.made = 0
    payload = packed(old)

    def factory() -> Any:
        raise AssertionError("called")

    payload = pack(dumps(old.State()), factory)
    new = ScriptRun(OLD)
    assert restore(payload, new.view(), factory).items
    newer = ScriptRun(NEW)
    with pytest.raises(AssertionError, match="called"):
        restore(payload, newer.view(), factory)


@pytest.mark.parametrize("source", ["", "class State: pass", "class Item: pass"])
def test_a_class_that_is_gone_is_an_unrestorable_error(source: str) -> None:
    """Whichever of them it is."""
    with pytest.raises(UnrestorableError):
        restore(packed(ScriptRun(OLD)), ScriptRun(source).view(), dict)
