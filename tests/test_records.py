"""Records: what opens is what was sealed here; what was written is read, and what has expired is not served."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from persist_session.errors import StoreError
from persist_session.keys import derive
from persist_session.records import (
    Absence,
    BadSealError,
    Home,
    Kind,
    Record,
    Saved,
    is_following,
    new_mark,
    open_sealed,
    seal,
    user_key,
    visitor_key,
)
from persist_session.stores import MemoryStore
from support.records import KEYS, VISITOR, CountingStore, home

if TYPE_CHECKING:
    from collections.abc import Callable

    from persist_session.keys import Keys

OLD, NEW, FOREIGN = derive(["o" * 32]), derive(["n" * 32]), derive(["f" * 32])
BOTH = derive(["o" * 32, "n" * 32])
KEY, NAME = "a" * 64, "app-state"
RECORD = Record(b"payload", "0123456789abcdef", "fedcba9876543210", 1000.5, 2000.25)
HOUR = 3600.0

marks = st.text("0123456789abcdef", min_size=16, max_size=16)
times = st.floats(allow_nan=False)
records = st.builds(Record, st.binary(), marks, marks, times, times)


def opens(data: bytes, keys: Keys = NEW, key: str = KEY, name: str = NAME) -> bool:
    """Whether bytes open; what raises anything else fails the test."""
    try:
        open_sealed(key, name, data, keys)
    except BadSealError:
        return False
    return True


# --- visitor keys


@given(st.text("0123456789abcdef", min_size=32, max_size=32))
def test_a_visitor_key_hides_the_id(visitor_id: str) -> None:
    """It has the form of a SHA-256, and is not the key of a user who is called as the id is."""
    key = visitor_key(visitor_id)
    assert re.fullmatch("[0-9a-f]{64}", key)
    assert visitor_id not in key
    assert key not in (user_key(visitor_id), user_key(f"browser:{visitor_id}"))


@given(st.text(), st.text())
def test_two_users_have_two_keys(one: str, other: str) -> None:
    """Whatever their names hold, also what is no Unicode text."""
    assert re.fullmatch("[0-9a-f]{64}", user_key(one))
    assert (user_key(one) == user_key(other)) == (one == other)
    assert user_key("\ud800") != user_key("\ud801")


def test_keys_of_visitors_never_change() -> None:
    """Another way to make them in a new release would lose every state; no secret key is part of them."""
    assert visitor_key("a" * 32) == "a5a93bb71256a2de1c7852d4775ca8b3c573b897b24e9f3ba8e7f494174c83d4"
    assert user_key("ann") == "b7b15a392649eaf59c97b8faa340708235b8b867f5687599db78003ec12ca43d"


# --- seals


@given(records)
def test_what_was_sealed_comes_back(record: Record) -> None:
    """Sealing and opening is a round trip for every payload, version, lineage and time."""
    assert open_sealed(KEY, NAME, seal(KEY, NAME, record, KEYS), KEYS) == record


def test_marks_never_repeat() -> None:
    """A thousand have 16 hex characters each and are all different."""
    made = {new_mark() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in made)


def test_an_edited_record_does_not_open() -> None:
    """Cut short at any length, with any bit flipped, or with something behind it."""
    data = seal(KEY, NAME, RECORD, NEW)
    assert opens(data)
    assert not any(opens(data[:length]) for length in range(len(data)))
    assert not opens(data + b"\0")
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            assert not opens(bytes(flipped))


@given(st.binary(max_size=300))
def test_garbage_does_not_open(data: bytes) -> None:
    """No bytes at all raise anything else."""
    assert not opens(data)


def test_a_moved_record_does_not_open() -> None:
    """Who can write the store can hand nobody the state of another visitor or name."""
    data = seal(KEY, NAME, RECORD, NEW)
    assert not opens(data, key="b" * 64)
    assert not opens(data, name="other")
    assert not opens(data, key=f"{KEY} {NAME}", name="")
    assert not opens(data[1:], name=NAME + data[:1].decode())
    assert not opens(NAME[-1:].encode() + data, name=NAME[:-1])


def test_an_old_key_opens() -> None:
    """After a rotation old records still open, and new ones no longer need the old key; a foreign key opens none."""
    assert opens(seal(KEY, NAME, RECORD, OLD), BOTH)
    assert opens(seal(KEY, NAME, RECORD, BOTH), NEW)
    assert not opens(seal(KEY, NAME, RECORD, BOTH), OLD)
    assert not opens(seal(KEY, NAME, RECORD, FOREIGN), BOTH)


def test_nothing_is_read_before_the_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes with a bad seal never reach the code that reads them."""
    data = seal(KEY, NAME, RECORD, FOREIGN)
    monkeypatch.setattr("persist_session.records._HEADER", None)
    assert not opens(data)


def test_another_format_does_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that another release sealed with our key is not misread."""
    with monkeypatch.context() as patch:
        patch.setattr("persist_session.records._MAGIC", b"PSR9")
        data = seal(KEY, NAME, RECORD, NEW)
    assert not opens(data)


@pytest.mark.parametrize("bad", ["", "short", "a" * 17, "A" * 16, "é" * 16])
def test_a_wrong_mark_is_not_sealed(bad: str) -> None:
    """The header would cut or fill it, and it would come back as something else."""
    for record in (replace(RECORD, version=bad), replace(RECORD, lineage=bad)):
        with pytest.raises(ValueError, match="16 hex"):
            seal(KEY, NAME, record, KEYS)


def test_no_payload_or_key_is_shown() -> None:
    """A record or a home may end up in a traceback."""
    assert "payload" not in repr(RECORD)
    assert repr(KEYS.record[0]) not in repr(home())


# --- a home's record


def aside(at: Home) -> list[bytes]:
    """What the store set aside."""
    assert isinstance(at.store, MemoryStore)
    return [*at.store._aside.get((at.key, at.name), ())]


def damage(at: Home, position: int = -1) -> None:
    """Flip a bit of the record."""
    stored = at.store.read(at.key, at.name)
    assert stored is not None
    data = bytearray(stored.data)
    data[position] ^= 1
    at.store.write(at.key, at.name, bytes(data), version=stored.version, based_on=stored.version, expires_at=4e9)


def written(at: Home, payload: bytes = b"payload", based_on: Saved | None = None) -> Saved:
    """Write, which must not be refused."""
    saved = at.write(payload, Saved() if based_on is None else based_on, HOUR)
    assert saved is not None
    return saved


def broken(failure: Exception, before: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A store's method that does its work, or not, and fails."""

    def fail(*arguments: Any, **options: Any) -> Any:
        if before is not None:
            before(*arguments, **options)
        raise failure

    return fail


def test_an_empty_home_has_no_record() -> None:
    """And the next write is based on nothing."""
    assert home().read(HOUR) == (Absence.NEVER, Saved())
    assert home().version() is None


def test_what_was_written_is_read() -> None:
    """Byte by byte, with what the next write is to be based on; each asks the store once."""
    at = home()
    assert isinstance(at.store, CountingStore)
    with time_machine.travel(1000.0, tick=False):
        saved = written(at)
        assert at.read(HOUR) == (b"payload", saved)
    assert (saved.saved_at, saved.expires_at) == (1000.0, 1000.0 + HOUR)
    assert (at.store.writes, at.store.reads) == (1, 1)
    assert at.version() == saved.version


def test_a_failed_write_may_be_done(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """With the record in its place the next one is based on it; the log says what is not sure."""
    at = home()
    written(replace(at, name="other"))
    with monkeypatch.context() as patch:
        patch.setattr(at.store, "write", broken(StoreError("no answer in time"), at.store.write))
        saved = written(at)
    written(at, b"2", saved)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_write_that_failed_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was there is there."""
    at = home()
    saved = written(at, b"1")
    with monkeypatch.context() as patch:
        patch.setattr(at.store, "write", broken(StoreError("full")))
        with pytest.raises(StoreError):
            at.write(b"2", saved, HOUR)
    assert at.read(HOUR) == (b"1", saved)


def test_a_record_keeps_its_lineage() -> None:
    """From its creation to its clearing, while its version changes; a new one has another."""
    at = home()
    first = written(at, b"1")
    second = written(at, b"2", first)
    assert second.lineage == first.lineage
    assert second.version != first.version
    at.delete()
    assert written(at, b"3").lineage != first.lineage


def test_a_late_write_is_refused() -> None:
    """Based on none, on an older version, on one that was deleted; what is there stays."""
    at = home()
    first = written(at, b"1")
    second = written(at, b"2", first)
    assert at.write(b"late", first, HOUR) is None
    assert at.write(b"late", Saved(), HOUR) is None
    assert at.read(HOUR) == (b"2", second)
    at.delete()
    assert at.write(b"late", first, HOUR) is None
    assert at.read(HOUR) == (Absence.NEVER, Saved())


def test_an_expired_record_is_not_served() -> None:
    """From the moment on that it expires; the next write takes its place under another lineage."""
    at = home()
    with time_machine.travel(1000.0, tick=False):
        old = written(at, b"old")
    with time_machine.travel(1000.0 + HOUR - 1, tick=False):
        assert at.read(HOUR)[0] == b"old"
        assert not old.is_expired
    with time_machine.travel(1000.0 + HOUR, tick=False):
        assert at.read(HOUR) == (Absence.EXPIRED, Saved(version=old.version))
        assert old.is_expired
        assert written(at, b"new", Saved(version=old.version)).lineage != old.lineage


def test_a_move_leaves_a_mark() -> None:
    """It is no state, but tells another tab that nothing was cleared; only this version is replaced (S23)."""
    at = home()
    first = written(at)
    second = written(at, b"newer", first)
    assert not at.leave(first, HOUR)
    assert at.leave(second, HOUR)
    absence, found = at.read(HOUR)
    assert absence is Absence.MOVED
    assert is_following(found.lineage, first.lineage)
    assert (is_following(first.lineage, first.lineage), found.saved_at) == (False, None)
    assert at.read(HOUR)[0] is Absence.MOVED
    assert written(at, b"own", found).lineage == found.lineage
    assert at.read(HOUR)[0] == b"own"


# --- renewal


@pytest.mark.parametrize(("age", "aging"), [(HOUR / 2, False), (HOUR / 2 + 1, True)])
def test_a_record_ages(age: float, aging: bool) -> None:
    """After half of its time a visit is a reason to renew it; what no record holds does not age."""
    with time_machine.travel(1000.0, tick=False):
        saved = written(home())
    with time_machine.travel(1000.0 + age, tick=False):
        assert saved.is_aging(HOUR) == aging
        assert not Saved().is_aging(HOUR)
        assert not Saved().is_expired


def test_a_renewal_gives_the_whole_time() -> None:
    """The payload and the lineage stay, and the next save is based on it."""
    at = home()
    with time_machine.travel(1000.0, tick=False):
        saved = written(at)
    with time_machine.travel(1000.0 + HOUR - 1, tick=False):
        renewed = at.renew(saved, HOUR)
        assert (renewed.lineage, renewed.expires_at) == (saved.lineage, 1000.0 + 2 * HOUR - 1)
        assert at.read(HOUR) == (b"payload", renewed)
        written(at, b"2", renewed)


def test_a_late_renewal_does_nothing() -> None:
    """Somebody wrote, or cleared, meanwhile: the next entry sees it."""
    at = home()
    first = written(at)
    second = written(at, b"2", first)
    assert at.renew(first, HOUR) == first
    assert at.read(HOUR) == (b"2", second)
    at.delete()
    assert at.renew(second, HOUR) == second
    assert at.read(HOUR)[0] is Absence.NEVER


@pytest.mark.parametrize("method", ["read", "write"])
def test_a_failed_renewal_is_logged(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It fails no page (S26): the record is as it was, and the next run tries again."""
    at = home()
    saved = written(at)
    with monkeypatch.context() as patch:
        patch.setattr(at.store, method, broken(StoreError("full")))
        assert at.renew(saved, HOUR) == saved
    assert at.read(HOUR) == (b"payload", saved)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


# --- damage


@pytest.mark.parametrize("position", [0, 10, 60, -1])
def test_a_damaged_record_is_set_aside(position: int, caplog: pytest.LogCaptureFixture) -> None:
    """The visitor starts fresh, its bytes are kept, one WARNING says so with the key's first 8 characters only."""
    at = home()
    written(at, b"payload of a visitor")
    damage(at, position)
    assert at.read(HOUR) == (Absence.BROKEN, Saved())
    assert at.read(HOUR) == (Absence.NEVER, Saved())
    assert len(aside(at)) == 1
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert NAME in record.message
    assert VISITOR[:8] in record.message
    assert VISITOR[:9] not in record.message
    assert "payload" not in record.message
    written(at, b"new")


def test_a_foreign_record_is_set_aside() -> None:
    """Sealed with another key, or put there from another visitor's place; that one's stays."""
    at = home()
    written(at)
    assert replace(at, keys=FOREIGN).read(HOUR)[0] is Absence.BROKEN
    written(at)
    stored = at.store.read(at.key, at.name)
    assert stored is not None
    other = replace(at, key="b" * 64)
    at.store.write(other.key, at.name, stored.data, version=stored.version, based_on=None, expires_at=4e9)
    assert other.read(HOUR)[0] is Absence.BROKEN
    assert at.read(HOUR)[0] == b"payload"


def test_a_newer_record_stays() -> None:
    """Only the version that was found damaged is."""
    at = home()
    saved = written(at)
    at.set_aside("0" * 16, HOUR)
    assert at.read(HOUR) == (b"payload", saved)


def test_delete_erases_what_was_aside() -> None:
    """And may be done twice."""
    at = home()
    written(at)
    damage(at)
    at.read(HOUR)
    at.delete()
    at.delete()
    assert aside(at) == []


# --- what the store knows of the keys


@pytest.mark.parametrize("kind", Kind)
def test_a_store_remembers_its_keys(kind: Kind) -> None:
    """Of whatever is kept in it, but not a tab's own memory, which no other process opens (S25)."""
    at = replace(home(), kind=kind)
    written(at)
    assert bool(at.store.names("0" * 64)) == (kind is not Kind.TAB)
