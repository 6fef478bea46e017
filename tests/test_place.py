"""A record's place: what was written is read, what is damaged is set aside, what has expired is not served."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import time_machine

from persist_session.errors import StoreError
from persist_session.keys import derive
from persist_session.place import Absence, Place, Saved
from persist_session.stores import MemoryStore
from support.records import RECORD_KEY, CountingStore, place

HOUR = 3600.0


def aside(at: Place) -> list[bytes]:
    """Return what the store set aside."""
    assert isinstance(at.store, MemoryStore)
    return [*at.store._aside.get((at.name, at.record_key), ())]


def damage(at: Place, position: int = -1) -> None:
    """Flip a bit of the record."""
    stored = at.store.read(at.name, at.record_key)
    assert stored is not None
    data = bytearray(stored.data)
    data[position] ^= 1
    at.store.write(at.name, at.record_key, bytes(data), version=stored.version, based_on=stored.version, expires_at=4e9)


def test_an_empty_place_has_never_had_a_record() -> None:
    """And the next write is based on nothing."""
    assert place().read(HOUR) == (Absence.NEVER, Saved())


def test_what_was_written_is_read() -> None:
    """Byte by byte, with what the next write is to be based on."""
    at = place()
    with time_machine.travel(1000.0, tick=False):
        saved = at.write(b"payload", Saved(), HOUR)
        assert at.read(HOUR) == (b"payload", saved)
    assert saved is not None
    assert (saved.saved_at, saved.expires_at) == (1000.0, 1000.0 + HOUR)


def test_a_write_that_failed_with_the_record_in_its_place_is_done(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The next one is based on it, and does not meet it as another's; the log says what is not sure."""
    at = place()
    write = at.store.write

    def late(*arguments: Any, **options: Any) -> bool:
        write(*arguments, **options)
        raise StoreError("no answer in time")

    with monkeypatch.context() as patch:
        patch.setattr(at.store, "write", late)
        saved = at.write(b"1", Saved(), HOUR)
    assert saved is not None
    assert at.write(b"2", saved, HOUR) is not None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_write_that_failed_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was there is there."""
    at = place()
    saved = at.write(b"1", Saved(), HOUR)
    assert saved is not None

    def refuse(*_: Any, **__: Any) -> bool:
        raise StoreError("full")

    with monkeypatch.context() as patch:
        patch.setattr(at.store, "write", refuse)
        with pytest.raises(StoreError):
            at.write(b"2", saved, HOUR)
    assert at.read(HOUR) == (b"1", saved)


def test_a_record_keeps_its_lineage_and_changes_its_version() -> None:
    """From its creation to its clearing; a new one has another."""
    at = place()
    first = at.write(b"1", Saved(), HOUR)
    assert first is not None
    second = at.write(b"2", first, HOUR)
    assert second is not None
    assert second.lineage == first.lineage
    assert second.version != first.version
    at.delete()
    third = at.write(b"3", Saved(), HOUR)
    assert third is not None
    assert third.lineage != first.lineage


def test_a_write_based_on_another_record_is_refused() -> None:
    """On none, on an older one, on one that was deleted; what is there stays."""
    at = place()
    first = at.write(b"1", Saved(), HOUR)
    assert first is not None
    second = at.write(b"2", first, HOUR)
    assert at.write(b"late", first, HOUR) is None
    assert at.write(b"late", Saved(), HOUR) is None
    assert at.read(HOUR) == (b"2", second)
    at.delete()
    assert at.write(b"late", first, HOUR) is None
    assert at.read(HOUR) == (Absence.NEVER, Saved())


def test_an_expired_record_is_not_served() -> None:
    """From the moment on that it expires; the next write takes its place under another lineage."""
    at = place()
    with time_machine.travel(1000.0, tick=False):
        old = at.write(b"old", Saved(), HOUR)
    assert old is not None
    with time_machine.travel(1000.0 + HOUR - 1, tick=False):
        assert at.read(HOUR)[0] == b"old"
    with time_machine.travel(1000.0 + HOUR, tick=False):
        payload, found = at.read(HOUR)
        assert (payload, found) == (Absence.EXPIRED, Saved(version=old.version))
        new = at.write(b"new", found, HOUR)
    assert new is not None
    assert new.lineage != old.lineage


@pytest.mark.parametrize("position", [0, 10, 60, -1])
def test_a_damaged_record_is_set_aside(position: int, caplog: pytest.LogCaptureFixture) -> None:
    """The visitor starts fresh, its bytes are kept, one WARNING says so, with the record's first 8 characters only."""
    at = place()
    at.write(b"payload of a visitor", Saved(), HOUR)
    damage(at, position)
    assert at.read(HOUR) == (Absence.BROKEN, Saved())
    assert at.read(HOUR) == (Absence.NEVER, Saved())
    assert len(aside(at)) == 1
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert at.name in record.message
    assert RECORD_KEY[:8] in record.message
    assert RECORD_KEY[:9] not in record.message
    assert "payload" not in record.message
    assert at.write(b"new", Saved(), HOUR) is not None


def test_a_record_of_another_visitor_or_key_is_set_aside() -> None:
    """Its seal does not hold here."""
    at = place()
    at.write(b"payload", Saved(), HOUR)
    assert replace(at, keys=derive(["other" * 10])).read(HOUR)[0] is Absence.BROKEN
    at.write(b"payload", Saved(), HOUR)
    stored = at.store.read(at.name, at.record_key)
    assert stored is not None
    other = replace(at, record_key="b" * 64)
    at.store.write(at.name, "b" * 64, stored.data, version=stored.version, based_on=None, expires_at=4e9)
    assert other.read(HOUR)[0] is Absence.BROKEN
    assert at.read(HOUR)[0] == b"payload"


def test_a_record_written_meanwhile_is_not_set_aside() -> None:
    """Only the version that was found damaged is."""
    at = place()
    saved = at.write(b"good", Saved(), HOUR)
    at.set_aside("0" * 16, HOUR)
    assert at.read(HOUR) == (b"good", saved)


def test_delete_erases_what_was_set_aside_too() -> None:
    """And may be done twice."""
    at = place()
    at.write(b"payload", Saved(), HOUR)
    damage(at)
    at.read(HOUR)
    at.delete()
    at.delete()
    assert aside(at) == []


def test_a_place_shows_no_key() -> None:
    """It may end up in a traceback."""
    keys: Any = place().keys
    assert repr(keys.record[0]) not in repr(place())


def test_reading_and_writing_ask_the_store_once() -> None:
    """Each is a round trip to another machine, some day."""
    store = CountingStore()
    at = place(store)
    at.write(b"1", Saved(), HOUR)
    at.read(HOUR)
    assert (store.writes, store.reads) == (1, 1)
