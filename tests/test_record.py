"""Records: what opens is what was sealed, under the same record key, with a known key."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persist_session.keys import derive
from persist_session.record import BadSealError, Record, new_lineage, new_version, open_sealed, seal

OLD, NEW, FOREIGN = "o" * 32, "n" * 32, "f" * 32
KEYS = derive([NEW])
KEY = "a" * 64
RECORD = Record(b"payload", "0123456789abcdef", "fedcba9876543210", 1000.5, 2000.25)

marks = st.text("0123456789abcdef", min_size=16, max_size=16)
times = st.floats(allow_nan=False)
records = st.builds(Record, st.binary(), marks, marks, times, times)


@given(records)
def test_what_was_sealed_comes_back(record: Record) -> None:
    """Sealing and opening is a round trip for every payload, version, lineage and time."""
    assert open_sealed(KEY, seal(KEY, record, KEYS), KEYS) == record


def test_versions_and_lineages_are_16_hex_characters_and_never_repeat() -> None:
    """A thousand of each have the right shape and are all different."""
    made = {draw() for draw in (new_version, new_lineage) for _ in range(1000)}
    assert len(made) == 2000
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in made)


def test_a_record_cut_short_does_not_open() -> None:
    """At every length."""
    data = seal(KEY, RECORD, KEYS)
    for length in range(len(data)):
        with pytest.raises(BadSealError):
            open_sealed(KEY, data[:length], KEYS)


def test_a_record_with_a_flipped_bit_does_not_open() -> None:
    """In every byte, every bit."""
    data = seal(KEY, RECORD, KEYS)
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            with pytest.raises(BadSealError):
                open_sealed(KEY, bytes(flipped), KEYS)


def test_a_record_with_something_behind_it_does_not_open() -> None:
    """The seal covers the end as well."""
    with pytest.raises(BadSealError):
        open_sealed(KEY, seal(KEY, RECORD, KEYS) + b"\0", KEYS)


@given(st.binary(max_size=300))
def test_garbage_does_not_open(data: bytes) -> None:
    """No bytes at all raise anything else."""
    with pytest.raises(BadSealError):
        open_sealed(KEY, data, KEYS)


def test_a_record_does_not_open_under_another_record_key() -> None:
    """Who can write the store can't hand one visitor the state of another."""
    with pytest.raises(BadSealError):
        open_sealed("b" * 64, seal(KEY, RECORD, KEYS), KEYS)


def test_a_record_key_can_not_borrow_bytes_from_the_body() -> None:
    """Record key and body are apart: moving characters from one to the other breaks the seal."""
    data = seal(KEY, RECORD, KEYS)
    with pytest.raises(BadSealError, match="seal does not hold"):
        open_sealed(KEY + data[:1].decode(), data[1:], KEYS)
    with pytest.raises(BadSealError, match="seal does not hold"):
        open_sealed(KEY[:-1], KEY[-1:].encode() + data, KEYS)


def test_a_record_sealed_with_an_unknown_key_does_not_open() -> None:
    """Who doesn't have a key can't seal."""
    with pytest.raises(BadSealError):
        open_sealed(KEY, seal(KEY, RECORD, derive([FOREIGN])), KEYS)


def test_an_old_key_verifies_and_the_new_one_seals() -> None:
    """After a rotation old records still open, and new ones no longer need the old key."""
    old, both, new = derive([OLD]), derive([OLD, NEW]), derive([NEW])
    assert open_sealed(KEY, seal(KEY, RECORD, old), both) == RECORD
    assert open_sealed(KEY, seal(KEY, RECORD, both), new) == RECORD
    with pytest.raises(BadSealError):
        open_sealed(KEY, seal(KEY, RECORD, both), old)


def test_nothing_is_interpreted_before_the_seal_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes with a bad seal never reach the code that reads them."""

    def must_not_run(_: object) -> Record:
        raise AssertionError("read before it was verified")

    monkeypatch.setattr("persist_session.record._unpack", must_not_run)
    with pytest.raises(BadSealError):
        open_sealed(KEY, seal(KEY, RECORD, derive([FOREIGN])), KEYS)


def test_a_record_of_another_format_does_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that a later release sealed with our key is not misread."""
    monkeypatch.setattr("persist_session.record._MAGIC", b"PSR2")
    data = seal(KEY, RECORD, KEYS)
    monkeypatch.undo()
    with pytest.raises(BadSealError, match="format"):
        open_sealed(KEY, data, KEYS)


@pytest.mark.parametrize("bad", ["", "short", "a" * 17, "A" * 16, "é" * 16])
def test_a_version_or_lineage_of_another_shape_is_not_sealed(bad: str) -> None:
    """The header would cut or fill it, and it would come back as something else."""
    for record in (replace(RECORD, version=bad), replace(RECORD, lineage=bad)):
        with pytest.raises(ValueError, match="16 hex"):
            seal(KEY, record, KEYS)


def test_the_payload_is_not_in_the_repr() -> None:
    """A record may end up in a traceback; the state must not."""
    assert "payload" not in repr(RECORD)
