"""The cookie's name and attributes, and which of several counts."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from persist_session.cookie_policy import (
    CookiePolicy,
    brings_others,
    newest,
    policy,
    values_in_answer,
    values_in_headers,
)
from persist_session.keys import derive
from persist_session.settings import Settings
from persist_session.signing import new_session_id, sign
from persist_session.stores import MemoryStore

KEYS = derive(["k" * 32])
NAME = "app-state"
HOUR = 3600.0


def set_to(**changed: Any) -> Settings:
    """Return the default settings but these."""
    values: dict[str, Any] = {"same_site": "lax", "secure": None, "path": None, "partitioned": False} | changed
    return Settings(
        keys=KEYS, store=MemoryStore(), max_age=HOUR, ask_browser=True, max_bytes=1000, lock_timeout=1.0, **values
    )


def page(url: str, base_path: str = "/", **changed: Any) -> CookiePolicy:
    """Return the policy on a page, with the default settings but these."""
    return policy(NAME, url, base_path, set_to(**changed))


A = CookiePolicy("a", "/", "lax", secure=False)


# --- name and attributes


@pytest.mark.parametrize(
    ("url", "base_path", "settings", "name"),
    [
        ("http://localhost/", "/", {}, "app-state"),
        ("http://localhost:8501/", "/", {}, "app-state-8501"),
        ("http://localhost:8501/page?a=1#b", "/app", {}, "app-state-8501"),
        ("http://[::1]:8501/", "/", {}, "app-state-8501"),
        ("https://example.com/", "/", {}, "__Host-app-state"),
        ("https://example.com:8443/", "/", {}, "__Host-app-state-8443"),
        # as proxies say that name their own port in X-Forwarded-Host; browsers leave it out
        ("https://example.com:443/", "/", {}, "__Host-app-state"),
        ("http://example.com:80/", "/", {}, "app-state"),
        ("http://example.com:443/", "/", {}, "app-state-443"),
        ("https://example.com/app/", "/app", {}, "app-state"),
        ("https://example.com/", "/", {"path": "/app"}, "app-state"),
        ("https://example.com/app/", "/app", {"path": "/"}, "__Host-app-state"),
        ("https://example.com/", "/", {"secure": False}, "app-state"),
        ("http://example.com/", "/", {"secure": True}, "app-state"),
    ],
)
def test_the_name_tells_apps_on_one_host_apart(url: str, base_path: str, settings: dict[str, Any], name: str) -> None:
    """By the port that the browser sees; and no sibling domain can plant one where `__Host-` is possible."""
    assert page(url, base_path, **settings).cookie_name == name


def test_a_host_cookie_has_what_browsers_ask_of_one() -> None:
    """Secure, and the path is `/`: else it were dropped without a word."""
    cookie = page("https://example.com/")
    assert cookie.options(1000.0)["secure"] is True
    assert cookie.options(1000.0)["path"] == "/"


def test_the_attributes_follow_the_page_unless_they_are_set() -> None:
    """Secure on https, the base path, lax."""
    assert (page("http://h/").secure, page("https://h/").secure) == (False, True)
    assert (page("http://h/", secure=True).secure, page("https://h/", secure=False).secure) == (True, False)
    assert (page("http://h/", "/app").path, page("http://h/", "/app", path="/").path) == ("/app", "/")
    assert page("http://h/", same_site="strict").options(0.0)["sameSite"] == "strict"
    assert "secure" not in page("http://h/").options(0.0)


def test_the_expiry_is_a_fixed_date() -> None:
    """In whole seconds and UTC: a relative one would mount a new iframe at every run."""
    options = page("http://h/").options(1_700_000_000.9)
    assert datetime.fromisoformat(options["expires"]) == datetime.fromtimestamp(1_700_000_000, UTC)
    assert options == page("http://h/").options(1_700_000_000.1)


@pytest.mark.parametrize("url", ["http://h:99999/", "http://h:port/", "http://[::1/", "", "nonsense", "//", "\0"])
def test_an_address_that_makes_no_sense_stops_nobody(url: str) -> None:
    """The visitor's browser says what it is."""
    assert page(url).cookie_name == NAME


@bounded(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.text().map("http://{}".format), st.text().map("https://h:{}/".format)))
def test_any_address_gives_a_name_that_a_cookie_can_have(url: str) -> None:
    """Whatever it holds."""
    name = page(url).cookie_name
    assert name.isascii()
    assert all(letter.isalnum() or letter in "_.-" for letter in name)


# --- which of several counts


def signed(session_id: str, at: float, name: str = NAME) -> str:
    """Return a cookie that was signed then."""
    with time_machine.travel(at, tick=False):
        return sign(name, session_id, KEYS)


def test_the_cookie_that_was_signed_last_counts() -> None:
    """In whichever order the browser sends them."""
    old, new = new_session_id(), new_session_id()
    values = [signed(old, 1000.0), signed(new, 2000.0)]
    with time_machine.travel(2001.0, tick=False):
        for order in (values, values[::-1]):
            found = newest(NAME, order, set_to(), HOUR)
            assert found is not None
            assert found.session_id == new


def test_what_is_not_valid_counts_as_absent(caplog: pytest.LogCaptureFixture) -> None:
    """Forged, of another name, expired; one WARNING without the value, and a valid one beside it still counts."""
    session_id = new_session_id()
    good = signed(session_id, 9000.0)
    bad = [signed(new_session_id(), 9000.0, name="other"), signed(new_session_id(), 1000.0), good[:-1] + "!", "", "é"]
    with time_machine.travel(9001.0, tick=False):
        assert newest(NAME, bad, set_to(), HOUR) is None
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        found = newest(NAME, [*bad, good], set_to(), HOUR)
    assert found is not None
    assert found.session_id == session_id
    assert not any(value in record.message for record in caplog.records for value in [*bad, good] if len(value) > 1)
    assert NAME in caplog.text


def test_no_cookie_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Every first visit has none."""
    assert newest(NAME, [], set_to(), HOUR) is None
    assert newest(NAME, iter([sign(NAME, new_session_id(), KEYS)]), set_to(), HOUR) is not None
    assert not caplog.records


# --- where they stand


@pytest.mark.parametrize(
    ("headers", "values"),
    [
        ([], []),
        ([""], []),
        (["a=1"], ["1"]),
        (["b=1; a=2;a=3"], ["2", "3"]),
        (["a=1", "a=2; b=3"], ["1", "2"]),
        (["ab=1; a=; xa=2; A=3"], [""]),
        (["a=b=c==; a"], ["b=c==", ""]),
        ([" a=1 ;; ;a=2"], ["1", "2"]),
    ],
)
def test_all_values_of_a_name_are_found_in_the_headers(headers: list[str], values: list[str]) -> None:
    """Also those that a dict of cookies would hide."""
    assert values_in_headers(A, headers) == values


@bounded(max_examples=100, deadline=None)
@given(st.lists(st.text()))
def test_any_header_is_read(headers: list[str]) -> None:
    """Nothing that a client sends stops the app."""
    assert all(isinstance(value, str) for value in values_in_headers(A, headers))


def test_of_the_answer_only_strings_count() -> None:
    """The component parses what looks like JSON."""
    assert values_in_answer(A, {"a": "text", "b": "other"}) == ["text"]
    others: list[Any] = [1, None, True, [], {}, 1.5]
    for value in others:
        assert values_in_answer(A, {"a": value}) == []
    assert values_in_answer(A, {}) == []


# --- where the server sets cookies, too


def test_a_script_writes_beside_where_the_servers_cookie_may_be_in_the_way() -> None:
    """Under a name that no state can have, with the same attributes; `__Host-` still stands in front."""
    cookie = page("https://example.com:8443/")
    assert cookie.beside.cookie_name == f"{cookie.cookie_name}~script" == "__Host-app-state-8443~script"
    assert cookie.beside.options(1000.0) == cookie.options(1000.0)


def test_both_cookies_of_a_state_are_found() -> None:
    """In the handshake and in the browser's answer, whichever a script or the server set."""
    assert values_in_headers(A, ["b=0; a~script=1; a=2", "a=3; ab~script=4"]) == ["2", "3", "1"]
    assert values_in_answer(A, {"a~script": "1", "a": "2", "b~script": "3"}) == ["2", "1"]
    assert values_in_answer(A, {"a~script": "1", "a": 2}) == ["1"]


@pytest.mark.parametrize(
    ("headers", "is_in"),
    [([], False), (["b=1"], False), (["a~script=1"], False), (["b=1; a="], True), (["b=1", "a=2"], True)],
)
def test_a_cookie_is_there_or_not(headers: list[str], is_in: bool) -> None:
    """Also an empty one, which is to be removed as any other."""
    assert A.is_in(headers) == is_in


@pytest.mark.parametrize(
    ("headers", "brings"),
    [
        ([], False),
        ([""], False),
        (["; ;"], False),
        (["_streamlit_user=1"], False),
        (["_streamlit_user=1; _streamlit_user_1=2", " _streamlit_user_tokens=3"], False),
        (["_streamlit_user=1; a=2"], True),
        (["_streamlit_user=1", "a=2"], True),
        (["_streamlit_xsrf=1"], True),
    ],
)
def test_a_handshake_brings_other_cookies_than_the_login(headers: list[str], brings: bool) -> None:
    """A proxy that keeps cookies back may let that one by."""
    assert brings_others(headers) == brings


def test_the_servers_cookie_lives_as_long_as_the_settings_say() -> None:
    """Whatever the state's own time is, which only a script's cookie follows."""
    for http_only, age, max_age, is_valid in [
        (True, HOUR - 60, 60.0, True),
        (True, HOUR + 60, 24 * HOUR, False),
        (False, 30.0, 60.0, True),
        (False, HOUR - 60, 60.0, False),
        (False, HOUR + 60, 24 * HOUR, True),
    ]:
        with time_machine.travel(10_000.0, tick=False):
            value = sign(NAME, new_session_id(), KEYS, http_only=http_only)
        with time_machine.travel(10_000.0 + age, tick=False):
            assert (newest(NAME, [value], set_to(), max_age) is not None) == is_valid


# --- in a foreign page


@pytest.mark.parametrize("url", ["https://example.com/", "http://localhost:8501/"])
@pytest.mark.parametrize("same_site", ["lax", "strict", "none"])
def test_in_a_foreign_page_it_looks_as_browsers_want_it(url: str, same_site: str) -> None:
    """By the setting or by the request; the name stays, so that page and script agree on it."""
    plain = page(url, same_site=same_site)
    for cookie in (plain.embedded, page(url, same_site=same_site, partitioned=True)):
        assert (cookie.same_site, cookie.secure, cookie.partitioned) == ("none", True, True)
        assert (cookie.cookie_name, cookie.path) == (plain.cookie_name, plain.path)
    assert not plain.partitioned


def test_a_script_sets_a_partitioned_cookie() -> None:
    """The component is told of all three attributes; elsewhere nothing is said of it."""
    options = page("https://example.com/").embedded.options(1000.0)
    assert (options["sameSite"], options["secure"], options["partitioned"]) == ("none", True, True)
    assert "partitioned" not in page("https://example.com/").options(1000.0)


# --- the header


def test_the_header_holds_every_attribute() -> None:
    """In words that browsers know; the age in whole seconds."""
    assert A.header("v", 60.9) == "a=v; Path=/; Max-Age=60; SameSite=Lax; HttpOnly"
    assert page("https://example.com/").header("v", 60) == (
        "__Host-app-state=v; Path=/; Max-Age=60; SameSite=Lax; HttpOnly; Secure"
    )
    assert page("https://example.com/app", "/app").embedded.header("v", 60) == (
        "app-state=v; Path=/app; Max-Age=60; SameSite=None; HttpOnly; Secure; Partitioned"
    )
    assert A.header("", 0) == "a=; Path=/; Max-Age=0; SameSite=Lax; HttpOnly"
