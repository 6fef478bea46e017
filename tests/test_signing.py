"""Session ids and signed cookies: whatever a visitor sends, only what we signed comes back."""

from __future__ import annotations

import re
import string
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from hypothesis import example, given
from hypothesis import strategies as st
from itsdangerous import TimestampSigner

from persist_session.keys import derive
from persist_session.signing import CLOCK_SKEW, new_session_id, record_key, sign, unsign, user_record_keys

OLD, NEW, FOREIGN = "o" * 32, "n" * 32, "f" * 32
KEYS = derive([NEW])
DAY = 86400.0
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

names = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=64)
session_ids = st.text("0123456789abcdef", min_size=32, max_size=32)


def _later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def _signed_at(when: datetime, session_id: str = "a" * 32) -> str:
    with time_machine.travel(when, tick=False):
        return sign("app-state", session_id, KEYS)


def test_session_ids_are_32_hex_characters_and_never_repeat() -> None:
    """A thousand session ids have the right shape and are all different."""
    made = {new_session_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in made)


@given(names, session_ids)
def test_what_was_signed_comes_back(name: str, session_id: str) -> None:
    """Signing and unsigning is a round trip for every name and session id."""
    signed = unsign(name, sign(name, session_id, KEYS), KEYS, DAY)
    assert signed is not None
    assert signed.session_id == session_id


@given(names, session_ids)
def test_a_cookie_needs_no_quoting(name: str, session_id: str) -> None:
    """A signed cookie consists of characters that browsers and Streamlit pass on as they are."""
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", sign(name, session_id, KEYS))


@given(names, names, session_ids)
def test_a_cookie_of_another_name_is_rejected(name: str, other: str, session_id: str) -> None:
    """A cookie is valid under the name that it was signed for, and under no other."""
    accepted = unsign(other, sign(name, session_id, KEYS), KEYS, DAY) is not None
    assert accepted == (name == other)


def test_an_old_key_verifies_and_the_new_one_signs() -> None:
    """After a rotation old cookies stay valid, and new ones no longer need the old key."""
    old, both, new = derive([OLD]), derive([OLD, NEW]), derive([NEW])
    assert unsign("app-state", sign("app-state", "a" * 32, old), both, DAY)
    assert unsign("app-state", sign("app-state", "a" * 32, both), new, DAY)
    assert unsign("app-state", sign("app-state", "a" * 32, both), old, DAY) is None


def test_a_cookie_signed_with_another_key_is_rejected() -> None:
    """Who doesn't have a key can't sign."""
    assert unsign("app-state", sign("app-state", "a" * 32, derive([FOREIGN])), KEYS, DAY) is None


def test_a_cookie_tells_when_it_was_signed() -> None:
    """`signed_at` is the unix time of the signature, in whole seconds."""
    cookie = _signed_at(NOW)
    with time_machine.travel(_later(5), tick=False):
        signed = unsign("app-state", cookie, KEYS, DAY)
    assert signed is not None
    assert signed.signed_at == NOW.timestamp()


@pytest.mark.parametrize(("age", "valid"), [(0, True), (DAY - 1, True), (DAY, True), (DAY + 1, False)])
def test_a_cookie_expires(age: float, valid: bool) -> None:
    """A cookie is valid for `max_age` seconds and not a second longer."""
    cookie = _signed_at(NOW)
    with time_machine.travel(_later(age), tick=False):
        assert (unsign("app-state", cookie, KEYS, DAY) is not None) == valid


@pytest.mark.parametrize(("ahead", "valid"), [(CLOCK_SKEW, True), (CLOCK_SKEW + 1, False)])
def test_a_cookie_from_the_future_is_rejected(ahead: float, valid: bool) -> None:
    """A minute ahead is another server's clock; more would outlive `max_age`."""
    cookie = _signed_at(_later(ahead))
    with time_machine.travel(NOW, tick=False):
        assert (unsign("app-state", cookie, KEYS, DAY) is not None) == valid


def test_a_max_age_that_is_no_number_accepts_nothing() -> None:
    """NaN compares false with everything; a cookie is then expired rather than eternal."""
    assert unsign("app-state", sign("app-state", "a" * 32, KEYS), KEYS, float("nan")) is None


def test_a_clock_beyond_the_year_9999_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A properly signed time that `datetime` can't hold gives no exception."""
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _: 2**40)
    cookie = sign("app-state", "a" * 32, KEYS)
    assert unsign("app-state", cookie, KEYS, DAY) is None


def test_an_edited_cookie_is_rejected_or_means_the_same() -> None:
    """At every place, by every ASCII character: what is accepted equals the id that was signed."""
    cookie = sign("app-state", "a" * 32, KEYS)
    accepted = 0
    for place in range(len(cookie)):
        for other in map(chr, range(128)):
            signed = unsign("app-state", cookie[:place] + other + cookie[place + 1 :], KEYS, DAY)
            accepted += signed is not None and other != cookie[place]
            assert signed is None or signed.session_id == "a" * 32
    assert accepted <= 3  # slack: 43 base64 characters hold 258 bits, a SHA-256 has 256


def test_a_truncated_or_extended_cookie_is_rejected() -> None:
    """No prefix of a cookie is valid, and nothing may follow it."""
    cookie = sign("app-state", "a" * 32, KEYS)
    assert all(unsign("app-state", cookie[:n], KEYS, DAY) is None for n in range(len(cookie)))
    assert all(unsign("app-state", cookie + more, KEYS, DAY) is None for more in ("\n", "=", " ", ".", "A"))


@pytest.mark.parametrize(
    "value",
    [
        "z" * 32,
        "A" * 32,
        "a" * 31,
        "a" * 33,
        "",
        "a" * 16 + "." + "a" * 15,
        *("a" * 32 + mark for mark in ("p", "ph", "hh")),
    ],
)
def test_a_signed_value_that_is_no_session_id_is_rejected(value: str) -> None:
    """Even with a good signature only 32 lowercase hex characters are a session id."""
    assert unsign("app-state", sign("app-state", value, KEYS), KEYS, DAY) is None


@given(st.text(max_size=600))
@example("")
@example("..")
@example("\ud800" * 32)
@example("ａ" * 32 + "." + "a" * 6 + "." + "a" * 43)  # noqa: RUF001 (full-width on purpose)
@example("٣" * 32 + "." + "a" * 6 + "." + "a" * 43)
def test_any_text_is_rejected_without_an_exception(value: str) -> None:
    """A cookie is the visitor's to choose; no text at all raises."""
    assert unsign("app-state", value, KEYS, DAY) is None


@given(st.from_regex(r"\A[0-9a-f]{32}\.[A-Za-z0-9_-]{1,8}\.[A-Za-z0-9_-]{43}\Z"))
def test_a_forgery_of_the_right_shape_is_rejected(value: str) -> None:
    """Text that looks like a cookie is still none without a signature."""
    assert unsign("app-state", value, KEYS, DAY) is None


@pytest.mark.parametrize("filler", ["a", ".", "=", "\x00", "é"])
def test_four_kilobytes_of_garbage_are_rejected(filler: str) -> None:
    """As much as a browser would send in one cookie is no problem, before or after a good one neither."""
    cookie = sign("app-state", "a" * 32, KEYS)
    garbage = filler * 4096
    for value in (garbage, cookie + garbage, garbage + cookie):
        assert unsign("app-state", value, KEYS, DAY) is None


def test_the_session_id_is_not_in_the_repr() -> None:
    """`Signed` may end up in a log or a traceback; the session id must not."""
    assert "a" * 32 not in repr(unsign("app-state", sign("app-state", "a" * 32, KEYS), KEYS, DAY))


@given(st.tuples(names, session_ids), st.tuples(names, session_ids))
@example(("ab", "c" * 32), ("a", "b" + "c" * 32))
@example(("1", "1:" + "c" * 32), ("11", ":" + "c" * 32))
def test_record_keys_are_unambiguous(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Two pairs of name and session id have one record key only if they are equal."""
    assert (record_key(*one) == record_key(*other)) == (one == other)


def test_a_record_key_is_64_hex_characters_without_the_session_id() -> None:
    """A record key may be seen: it has the form of a SHA-256 and doesn't show what it was made of."""
    key = record_key("app-state", "a" * 32)
    assert re.fullmatch("[0-9a-f]{64}", key)
    assert "a" * 32 not in key


# --- how the server set it

MARKS = [
    ({}, "", (False, False)),
    ({"http_only": True}, "h", (True, False)),
    ({"http_only": True, "partitioned": True}, "hp", (True, True)),
    ({"partitioned": True}, "", (False, False)),
]


@pytest.mark.parametrize(("marks", "text", "read"), MARKS)
def test_a_cookie_says_how_the_server_set_it(marks: dict[str, bool], text: str, read: tuple[bool, bool]) -> None:
    """Scripts learn so that they can't replace it; what a script sets says nothing, as before there were marks."""
    cookie = sign("app-state", "a" * 32, KEYS, **marks)
    assert cookie.partition(".")[0] == "a" * 32 + text
    signed = unsign("app-state", cookie, KEYS, DAY)
    assert signed is not None
    assert (signed.http_only, signed.partitioned) == read
    assert signed.session_id == "a" * 32


@pytest.mark.parametrize("before", ["", "h", "hp"])
@pytest.mark.parametrize("after", ["", "h", "hp", "p", "ph", "hh", "hpp", "H", "x"])
def test_marks_are_signed(before: str, after: str) -> None:
    """Without the key nobody adds or removes one; nor is one good that we do not know."""
    marks = {"http_only": "h" in before, "partitioned": "p" in before}
    head, *tail = sign("app-state", "a" * 32, KEYS, **marks).split(".")
    assert head == "a" * 32 + before
    edited = ".".join(["a" * 32 + after, *tail])
    assert (unsign("app-state", edited, KEYS, DAY) is not None) == (before == after)


def test_a_marked_cookie_is_edited_in_vain() -> None:
    """At every place, by every ASCII character: what is accepted equals what was signed."""
    cookie = sign("app-state", "a" * 32, KEYS, http_only=True, partitioned=True)
    for place in range(len(cookie)):
        for other in map(chr, range(128)):
            signed = unsign("app-state", cookie[:place] + other + cookie[place + 1 :], KEYS, DAY)
            assert signed is None or (signed.session_id, signed.http_only, signed.partitioned) == ("a" * 32, True, True)


# --- users

users = st.text(min_size=1, max_size=40)


@given(names, users)
def test_a_users_record_key_is_64_hex_characters_that_show_nobody(name: str, user: str) -> None:
    """One for each key, whatever the user's name holds; always the same."""
    keys = derive([OLD, NEW])
    found = user_record_keys(name, user, keys)
    assert len(found) == len(set(found)) == 2
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in found)
    assert found == user_record_keys(name, user, keys)


@given(st.tuples(names, users), st.tuples(names, users))
@example(("ab", "c"), ("a", "bc"))
@example(("1", "1:c"), ("11", ":c"))
@example(("a", "\ud800"), ("a", "\ud801"))
def test_a_users_record_keys_are_unambiguous(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Two pairs of name and user share one only if they are equal."""
    assert (user_record_keys(*one, KEYS) == user_record_keys(*other, KEYS)) == (one == other)


def test_a_users_record_key_needs_the_key() -> None:
    """Who reads the store can't try names; nor is it the key of an anonymous visitor's record of the same text."""
    mine, foreign = user_record_keys("cart", "ann", KEYS), user_record_keys("cart", "ann", derive([FOREIGN]))
    assert mine != foreign
    assert user_record_keys("cart", "a" * 32, KEYS) != [record_key("cart", "a" * 32)]


def test_the_newest_key_makes_the_last_of_a_users_record_keys() -> None:
    """After a rotation it is the one to save under; the others are where an older record may lie."""
    old, new = user_record_keys("cart", "ann", derive([OLD])), user_record_keys("cart", "ann", derive([NEW]))
    assert user_record_keys("cart", "ann", derive([OLD, NEW])) == [*old, *new]


def test_a_users_record_key_never_changes() -> None:
    """Another way to make it in a new release would lose every user's state."""
    (key,) = user_record_keys("cart", "ann", derive(["s" * 32]))
    assert key == "e030751fdb327dd5f62e10ad3c080d023248a2a06b6cf3e2c9f1b6310cfecfa3"
