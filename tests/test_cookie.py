"""The cookie: whatever a visitor sends, only what we signed for this path comes back; its name and attributes."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from hypothesis import example, given
from hypothesis import strategies as st
from itsdangerous import TimestampSigner

from persist_session.browser.cookie import Cookie, Found, Signed, brings_others, cookie_for, is_refused, new_visitor_id
from persist_session.keys import derive
from persist_session.settings import Settings
from persist_session.stores import MemoryStore

OLD, NEW, FOREIGN = "o" * 32, "n" * 32, "f" * 32
KEYS = derive([NEW])
DAY = 86400.0
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ID = "a" * 32
A = Cookie("a", "/", "lax", secure=False)
NOBODY: Any = None

visitor_ids = st.text("0123456789abcdef", min_size=32, max_size=32)
paths = st.text("/abc :.-", max_size=8).map("/{}".format)


def later(seconds: float) -> datetime:
    """A moment after NOW."""
    return NOW + timedelta(seconds=seconds)


def signed_at(when: datetime | float, visitor_id: str = ID, cookie: Cookie = A) -> str:
    """A value that was signed then."""
    with time_machine.travel(when, tick=False):
        return cookie.sign(visitor_id, KEYS)


def set_to(**changed: Any) -> Settings:
    """The default settings but these."""
    values: dict[str, Any] = {
        "keys": KEYS,
        "store": MemoryStore(),
        "app": None,
        "max_age": DAY,
        "cookie_name": "persist_session",
        "cookie_max_age": DAY,
        "same_site": "lax",
        "secure": None,
        "path": None,
        "partitioned": False,
        "ask_browser": True,
        "max_bytes": 1000,
        "lock_timeout": 1.0,
    }
    return Settings(**values | changed)


def page(url: str, base_path: str = "/", **changed: Any) -> Cookie:
    """The cookie on a page, with the default settings but these."""
    return cookie_for(url, base_path, set_to(**changed))


# --- signing


def test_visitor_ids_never_repeat() -> None:
    """A thousand visitor ids have 32 hex characters and are all different."""
    made = {new_visitor_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in made)


@given(visitor_ids, paths)
def test_what_was_signed_comes_back(visitor_id: str, path: str) -> None:
    """Signing and unsigning is a round trip, in characters that browsers and Streamlit pass on as they are."""
    cookie = replace(A, path=path)
    value = cookie.sign(visitor_id, KEYS)
    signed = cookie.unsign(value, KEYS, DAY)
    assert signed is not None
    assert signed.visitor_id == visitor_id
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", value)


@given(visitor_ids, paths, paths)
def test_another_paths_cookie_is_rejected(visitor_id: str, path: str, other: str) -> None:
    """An app at `/` and one at `/shop`, with the same keys, never take each other's visitors."""
    value = replace(A, path=path).sign(visitor_id, KEYS)
    assert (replace(A, path=other).unsign(value, KEYS, DAY) is not None) == (path == other)


def test_a_scripts_value_is_the_servers() -> None:
    """One signature is good under both names, on http as on https, in a foreign page and out of it."""
    value = A.sign(ID, KEYS)
    for cookie in (A.script, A.embedded, replace(A, name="__Host-a", secure=True)):
        assert cookie.unsign(value, KEYS, DAY) == A.unsign(value, KEYS, DAY)


def test_signatures_never_change() -> None:
    """Another way to sign in a new release would lose every visitor: this value is fixed."""
    assert signed_at(NOW) == f"{ID}.aVc1pQ.Lc0DlkVw5wUuGz6lPOzMjQwYcuaiPKRFAe8MdZHI14k"


def test_an_old_key_verifies() -> None:
    """After a rotation old cookies stay valid, and new ones no longer need the old key."""
    old, both, new = derive([OLD]), derive([OLD, NEW]), derive([NEW])
    assert A.unsign(A.sign(ID, old), both, DAY)
    assert A.unsign(A.sign(ID, both), new, DAY)
    assert A.unsign(A.sign(ID, both), old, DAY) is None
    assert A.unsign(A.sign(ID, derive([FOREIGN])), both, DAY) is None


@pytest.mark.parametrize(("age", "valid"), [(0, True), (DAY - 1, True), (DAY, True), (DAY + 1, False)])
def test_a_cookie_expires(age: float, valid: bool) -> None:
    """It tells when it was signed, in whole seconds, and is valid for `max_age` seconds and not a second longer."""
    value = signed_at(NOW)
    with time_machine.travel(later(age), tick=False):
        assert A.unsign(value, KEYS, DAY) == (Signed(ID, NOW.timestamp()) if valid else None)


@pytest.mark.parametrize("ahead", [1, DAY, 40 * 366 * DAY])
def test_a_future_signature_counts_as_now(ahead: float) -> None:
    """A clock that was wrong once, on this or another machine, locks no visitor out (S24)."""
    value = signed_at(later(ahead))
    with time_machine.travel(NOW, tick=False):
        assert A.unsign(value, KEYS, DAY) == Signed(ID, NOW.timestamp())


def test_a_clock_beyond_9999_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A properly signed time that `datetime` can't hold gives no exception."""
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _: 2**40)
    assert A.unsign(A.sign(ID, KEYS), KEYS, DAY) is None


@pytest.mark.parametrize(("age", "aging"), [(DAY / 2, False), (DAY / 2 + 1, True)])
def test_a_cookie_ages(age: float, aging: bool) -> None:
    """After half of `cookie_max_age` it is to be signed anew."""
    with time_machine.travel(later(age), tick=False):
        assert Signed(ID, NOW.timestamp()).is_aging(set_to()) == aging


# --- what is no cookie


def test_an_edited_cookie_means_the_same() -> None:
    """At every place, by every ASCII character: it is rejected, or equals the id that was signed."""
    value = A.sign(ID, KEYS)
    accepted = 0
    for place in range(len(value)):
        for other in map(chr, range(128)):
            signed = A.unsign(value[:place] + other + value[place + 1 :], KEYS, DAY)
            accepted += signed is not None and other != value[place]
            assert signed is None or signed.visitor_id == ID
    assert accepted <= 3  # slack: 43 base64 characters hold 258 bits, a SHA-256 has 256


def test_a_cut_cookie_is_rejected() -> None:
    """No prefix of a cookie is valid, and nothing may follow it."""
    value = A.sign(ID, KEYS)
    assert all(A.unsign(value[:n], KEYS, DAY) is None for n in range(len(value)))
    assert all(A.unsign(value + more, KEYS, DAY) is None for more in ("\n", "=", " ", ".", "A"))


@pytest.mark.parametrize("value", ["z" * 32, "A" * 32, "a" * 31, "a" * 33, "", "a" * 16 + "." + "a" * 15, ID + "h"])
def test_a_signed_non_id_is_rejected(value: str) -> None:
    """Even with a good signature only 32 lowercase hex characters are a visitor id."""
    assert A.unsign(A.sign(value, KEYS), KEYS, DAY) is None


@given(st.one_of(st.text(max_size=200), st.from_regex(r"\A[0-9a-f]{32}\.[A-Za-z0-9_-]{1,8}\.[A-Za-z0-9_-]{43}\Z")))
@example("")
@example("..")
@example("\ud800" * 32)
@example("ａ" * 32 + "." + "a" * 6 + "." + "a" * 43)  # noqa: RUF001 (full-width on purpose)
@example("٣" * 32 + "." + "a" * 6 + "." + "a" * 43)
@example("=" * 4096)
def test_any_text_is_rejected(value: str) -> None:
    """A cookie is the visitor's to choose; no text raises, nor is one of the right shape valid without a signature."""
    assert A.unsign(value, KEYS, DAY) is None


def test_a_visitor_id_is_not_shown() -> None:
    """`Signed` may end up in a log or a traceback; the visitor id must not."""
    signed = A.unsign(A.sign(ID, KEYS), KEYS, DAY)
    assert ID not in repr(signed) + repr(Found(signed, signed))


# --- name and attributes


@pytest.mark.parametrize(
    ("url", "base_path", "settings", "name"),
    [
        ("http://localhost/", "/", {}, "persist_session"),
        ("http://localhost:8501/", "/", {}, "persist_session-8501"),
        ("http://localhost:8501/page?a=1#b", "/app", {}, "persist_session-8501"),
        ("http://[::1]:8501/", "/", {}, "persist_session-8501"),
        ("https://example.com/", "/", {}, "__Host-persist_session"),
        ("https://example.com:8443/", "/", {}, "__Host-persist_session-8443"),
        # as proxies say that name their own port in X-Forwarded-Host; browsers leave it out
        ("https://example.com:443/", "/", {}, "__Host-persist_session"),
        ("http://example.com:80/", "/", {}, "persist_session"),
        ("http://example.com:443/", "/", {}, "persist_session-443"),
        ("https://example.com/app/", "/app", {}, "persist_session"),
        ("https://example.com/", "/", {"path": "/app"}, "persist_session"),
        ("https://example.com/app/", "/app", {"path": "/"}, "__Host-persist_session"),
        ("https://example.com/", "/", {"secure": False}, "persist_session"),
        ("http://example.com/", "/", {"secure": True}, "persist_session"),
        ("https://example.com/", "/", {"cookie_name": "shop"}, "__Host-shop"),
        ("http://localhost:8501/", "/", {"cookie_name": "shop"}, "shop-8501"),
    ],
)
def test_the_name_tells_apps_apart(url: str, base_path: str, settings: dict[str, Any], name: str) -> None:
    """By the port that the browser sees; and no sibling domain can plant one where `__Host-` is possible."""
    cookie = page(url, base_path, **settings)
    assert cookie.name == name
    assert cookie.script == replace(cookie, name=f"{name}-js")
    if name.startswith("__Host-"):  # else browsers drop it without a word
        assert (cookie.path, cookie.secure) == ("/", True)


def test_the_attributes_follow_the_page() -> None:
    """Secure on https, the base path, lax; unless they are set."""
    assert (page("http://h/").secure, page("https://h/").secure) == (False, True)
    assert (page("http://h/", secure=True).secure, page("https://h/", secure=False).secure) == (True, False)
    assert (page("http://h/", "/app").path, page("http://h/", "/app", path="/").path) == ("/app", "/")
    assert (page("http://h/").same_site, page("http://h/", same_site="strict").same_site) == ("lax", "strict")


@pytest.mark.parametrize("url", ["https://example.com/", "http://localhost:8501/"])
@pytest.mark.parametrize("same_site", ["lax", "strict", "none"])
def test_a_foreign_pages_cookie_is_partitioned(url: str, same_site: str) -> None:
    """By the setting or by the request, SameSite=None and Secure come with it; name and path stay."""
    plain = page(url, same_site=same_site)
    for cookie in (plain.embedded, page(url, same_site=same_site, partitioned=True)):
        assert cookie == replace(plain, same_site="none", secure=True, partitioned=True)
    assert not plain.partitioned


@pytest.mark.parametrize("url", ["http://h:99999/", "http://h:port/", "http://[::1/", "", "nonsense", "//", "\0"])
def test_a_senseless_address_stops_nobody(url: str) -> None:
    """The visitor's browser says what it is."""
    cookie = page(url)
    assert cookie.name == "persist_session"
    assert not is_refused(cookie, url)


@given(st.one_of(st.text(), st.text().map("http://{}".format), st.text().map("https://h:{}/".format)))
def test_any_address_gives_a_name(url: str) -> None:
    """Of characters that a cookie's name can have."""
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", page(url).name)


@pytest.mark.parametrize(
    ("url", "settings", "refused"),
    [
        ("http://example.com/", {}, False),
        ("http://example.com/", {"secure": True}, True),
        ("http://example.com/", {"same_site": "none"}, True),
        ("http://example.com/", {"partitioned": True}, True),
        ("https://example.com/", {"partitioned": True}, False),
        ("http://localhost:8501/", {"secure": True}, False),
        ("http://app.localhost:8501/", {"partitioned": True}, False),
        ("http://127.0.0.1:8501/", {"secure": True}, False),
        ("http://[::1]:8501/", {"secure": True}, False),
        ("http://localhost:8501/", {"same_site": "none"}, True),
    ],
)
def test_browsers_refuse_some_without_https(url: str, settings: dict[str, Any], refused: bool) -> None:
    """A secure cookie, but on the own machine, and one for all sites that is not secure anywhere."""
    assert is_refused(page(url, **settings), url) == refused


def test_the_header_holds_every_attribute() -> None:
    """In words that browsers know, with the age in whole seconds; 0 of them remove the cookie."""
    assert A.header("v", 60.9) == "a=v; Path=/; Max-Age=60; SameSite=Lax; HttpOnly"
    assert page("https://example.com/").header("v", 60) == (
        "__Host-persist_session=v; Path=/; Max-Age=60; SameSite=Lax; HttpOnly; Secure"
    )
    assert page("https://example.com/app", "/app").embedded.header("v", 60) == (
        "persist_session=v; Path=/app; Max-Age=60; SameSite=None; HttpOnly; Secure; Partitioned"
    )
    assert A.header("", 0) == "a=; Path=/; Max-Age=0; SameSite=Lax; HttpOnly"


def test_a_scripts_options_never_change() -> None:
    """They expire at a fixed date in whole seconds and UTC: a relative one would mount a new iframe at every run."""
    assert A.options(1_700_000_000.9) == A.options(1_700_000_000.1)
    assert A.options(1_700_000_000.0) == {"path": "/", "expires": "2023-11-14T22:13:20+00:00", "sameSite": "lax"}
    assert page("https://example.com/").embedded.options(0.0) == {
        "path": "/",
        "expires": "1970-01-01T00:00:00+00:00",
        "sameSite": "none",
        "secure": True,
        "partitioned": True,
    }


# --- what a browser has


def test_the_newest_of_several_counts() -> None:
    """In whichever order the browser sends those of its paths and domains."""
    old, new = new_visitor_id(), new_visitor_id()
    values = [f"a={signed_at(1000.0, old)}", f"a={signed_at(2000.0, new)}"]
    with time_machine.travel(2001.0, tick=False):
        for headers in (values, values[::-1], ["; ".join(values)]):
            assert A.found_in_headers(headers, set_to()) == Found(server=Signed(new, 2000.0))


def test_both_cookies_are_found() -> None:
    """The server's and a script's, in any header, among others whose names begin or end alike."""
    value, other = signed_at(1000.0), signed_at(1000.0, "b" * 32)
    headers = [f"xa=1; ab=2; a={value};A=3", f" ;; b-js=4; a-js={other}"]
    with time_machine.travel(1001.0, tick=False):
        assert A.found_in_headers(headers, set_to()) == Found(Signed(ID, 1000.0), Signed("b" * 32, 1000.0))


def test_a_host_cookie_is_read_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Where the page allows it, one without the prefix, which a sibling domain can plant, counts as absent."""
    cookie = page("https://example.com/")
    planted = cookie.sign(new_visitor_id(), KEYS)
    headers = [f"persist_session={planted}; persist_session-js={planted}"]
    assert cookie.found_in_headers(headers, set_to()) == Found()
    assert not caplog.records


def test_an_invalid_cookie_counts_as_absent(caplog: pytest.LogCaptureFixture) -> None:
    """Forged, of another path, expired; one WARNING without the value, and a valid one beside it still counts."""
    good = signed_at(90_000.0)
    bad = [
        signed_at(90_000.0, new_visitor_id(), replace(A, path="/b")),
        signed_at(1000.0, new_visitor_id()),
        good[:-1] + "!",
        "",
        "é",
    ]
    with time_machine.travel(90_001.0, tick=False):
        assert A.found_in_headers([f"a={value}" for value in bad], set_to()) == Found()
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        found = A.found_in_headers([f"a={value}" for value in [*bad, good]], set_to())
    assert found.server == Signed(ID, 90_000.0)
    assert not any(value in record.message for record in caplog.records for value in [*bad, good] if len(value) > 1)


def test_no_cookie_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Every first visit has none."""
    for headers in ([], [""], ["other=1"], [f"a={A.sign(ID, KEYS)}"]):
        A.found_in_headers(headers, set_to())
    A.found_in_answer({}, set_to())
    A.found_in_answer({"a-js": A.sign(ID, KEYS)}, set_to())
    assert not caplog.records


@given(st.lists(st.text()))
def test_any_header_is_read(headers: list[str]) -> None:
    """Nothing that a client sends stops the app."""
    assert A.found_in_headers(headers, set_to()) == Found()


@pytest.mark.parametrize("value", [1, None, True, [], {}, 1.5, "", "text"])
def test_an_answer_may_hold_anything(value: Any) -> None:
    """The component parses what looks like JSON: only a string that was signed counts."""
    assert A.found_in_answer({"a-js": value}, set_to()) == Found()


def test_an_answer_has_a_scripts_cookie() -> None:
    """The server's, which no script sees, is not taken from it: so a planted one counts nothing."""
    value = signed_at(1000.0)
    with time_machine.travel(1001.0, tick=False):
        assert A.found_in_answer({"a": value, "b-js": value}, set_to()) == Found()
        assert A.found_in_answer({"a": "x", "a-js": value}, set_to()) == Found(script=Signed(ID, 1000.0))


@pytest.mark.parametrize(
    ("with_records", "leader"), [("", "server"), ("s", "server"), ("j", "script"), ("sj", "server")]
)
def test_the_servers_cookie_leads(with_records: str, leader: str) -> None:
    """Where the two ids differ, unless only the script's has a record: a planted one changes nobody's (S20)."""
    found = Found(Signed("s" * 32, 1000.0), Signed("j" * 32, 2000.0))
    assert found.leading(lambda visitor_id: visitor_id[0] in with_records) is getattr(found, leader)


def test_one_id_asks_no_store() -> None:
    """The store is asked only where two ids differ."""
    server, script = Signed(ID, 1000.0), Signed(ID, 2000.0)
    assert Found(server, script).leading(NOBODY) is server
    assert Found(server).leading(NOBODY) is server
    assert Found(script=script).leading(NOBODY) is script
    assert Found().leading(NOBODY) is None


@pytest.mark.parametrize(
    ("headers", "brings"),
    [
        ([], False),
        (["", "; ;"], False),
        (["_streamlit_user=1; _streamlit_user_1=2", " _streamlit_user_tokens=3"], False),
        (["_streamlit_user=1; a=2"], True),
        (["_streamlit_user=1", "a=2"], True),
        (["_streamlit_xsrf=1"], True),
    ],
)
def test_a_login_cookie_proves_nothing(headers: list[str], brings: bool) -> None:
    """A proxy that keeps cookies back may let Streamlit's login by; any other one shows that cookies arrive."""
    assert brings_others(headers) == brings
