"""Settings: `configure` above the environment above the secrets above the default; wrong ones are refused by name."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from persist_session import configure, delete_expired, host
from persist_session import settings as settings_module
from persist_session.browser.cookie import cookie_for
from persist_session.errors import ConfigurationError
from persist_session.keys import derive, remember
from persist_session.settings import (
    DEFAULT_MAX_AGE,
    DEFAULT_MAX_BYTES,
    LONGEST_COOKIE,
    Settings,
    check,
    configured_stores,
    other_app_with,
    resolve,
    resolve_outside,
    seconds,
)
from persist_session.stores import FileStore, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT = "/srv/app/app.py"
DAY = 24 * 3600.0
SECRET = "s" * 32
LONGEST = settings_module._LONGEST
VISITOR = "a" * 64


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start every test with nothing configured, no secrets, and a home of its own."""
    monkeypatch.setattr(settings_module, "_configured", {})
    monkeypatch.setattr(settings_module, "_resolved", {})
    for name in settings_module._CHECKS:
        monkeypatch.delenv(f"PERSIST_SESSION_{name.upper()}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(host, "secrets", nothing)


def nothing() -> dict[str, Any]:
    """No section in the secrets."""
    return {}


def resolved(script: str = SCRIPT, **section: Any) -> Settings:
    """The settings in force, with this section in the secrets."""
    return resolve(script, lambda: section)


def root(settings: Settings) -> Path:
    """The folder of the store."""
    assert isinstance(settings.store, FileStore)
    return settings.store._root


# --- where they come from


def test_defaults_need_nothing(tmp_path: Path) -> None:
    """A key of its own, files in the home folder, 30 days, a lax cookie for 400, and the browser is asked."""
    settings = resolved()
    assert settings.max_age == DEFAULT_MAX_AGE == 30 * DAY
    assert settings.max_bytes == DEFAULT_MAX_BYTES == 16 * 1024 * 1024
    assert (settings.cookie_name, settings.cookie_max_age) == ("persist_session", 400 * DAY)
    assert (settings.same_site, settings.secure, settings.path, settings.ask_browser) == ("lax", None, None, True)
    assert root(settings).parent == tmp_path / ".streamlit" / "persist_session"
    key = tmp_path / ".streamlit" / "persist_session" / "secret_key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


GIVEN: dict[str, tuple[Any, str, Any, Any]] = {
    # name: value by configure, value in the environment, value in the secrets, what these come to
    "max_age": (60, "120", 180.0, (60.0, 120.0, 180.0)),
    "cookie_name": ("one", "two", "three", ("one", "two", "three")),
    "cookie_max_age": (timedelta(days=1), "120", 180.0, (DAY, 120.0, 180.0)),
    "lock_timeout": (timedelta(seconds=5), "2.5", 3, (5.0, 2.5, 3.0)),
    "same_site": ("strict", "none", "lax", ("strict", "none", "lax")),
    "secure": (True, "false", True, (True, False, True)),
    "partitioned": (True, "false", True, (True, False, True)),
    "path": ("/a", "/b", "/c", ("/a", "/b", "/c")),
    "ask_browser": (False, "true", False, (False, True, False)),
    "max_bytes": (10, "20", 30, (10, 20, 30)),
    "secret_keys": (["a" * 32], "b" * 32 + "," + "c" * 32, ["d" * 32], None),
}


@pytest.mark.parametrize("name", GIVEN)
def test_configure_is_above_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that above the secrets, for every setting."""
    by_configure, in_environment, in_secrets, wanted = GIVEN[name]
    wanted = wanted or tuple(derive(keys) for keys in (["a" * 32], ["b" * 32, "c" * 32], ["d" * 32]))
    attribute = "keys" if name == "secret_keys" else name
    got = []
    monkeypatch.setattr(settings_module, "_resolved", {})
    got.append(getattr(resolved(**{name: in_secrets}), attribute))
    monkeypatch.setattr(settings_module, "_resolved", {})
    monkeypatch.setenv(f"PERSIST_SESSION_{name.upper()}", in_environment)
    got.append(getattr(resolved(**{name: in_secrets}), attribute))
    configure(**{name: by_configure})
    got.append(getattr(resolved(**{name: in_secrets}), attribute))
    assert tuple(got[::-1]) == wanted


def test_a_store_may_be_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everywhere; an object is used as it is."""
    assert root(resolved(store=f"file://{tmp_path}/secrets")) == tmp_path / "secrets"
    monkeypatch.setattr(settings_module, "_resolved", {})
    monkeypatch.setenv("PERSIST_SESSION_STORE", f"file://{tmp_path}/environment")
    assert root(resolved()) == tmp_path / "environment"
    store = MemoryStore()
    configure(store=store)
    assert resolved().store is store


@pytest.mark.parametrize("name", settings_module._CHECKS)
@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_is_refused(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As compose files set one whose value was forgotten: it would be no key, or the default one, unsaid."""
    variable = f"PERSIST_SESSION_{name.upper()}"
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigurationError, match=f"{variable} is set, but empty"):
        resolved()


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused when the first state is loaded."""
    monkeypatch.setenv("PERSIST_SESSION_MAX_AGE", "soon")
    with pytest.raises(ConfigurationError, match="max_age"):
        resolved()


@pytest.mark.parametrize("ask", [partial(resolve, SCRIPT), resolve_outside, configured_stores, check])
def test_unknown_secrets_are_refused(ask: Callable[[Any], Any]) -> None:
    """A typing error there would be overlooked; the message lists the known ones."""
    with pytest.raises(ConfigurationError, match=r"'max_agee'.*max_age"):
        ask(lambda: {"max_agee": 1})


def test_unknown_variables_are_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Not refused: others may name variables so."""
    monkeypatch.setenv("PERSIST_SESSION_MAXAGE", "hidden")
    assert resolved().max_age == DEFAULT_MAX_AGE
    (record,) = caplog.records
    assert "PERSIST_SESSION_MAXAGE" in record.getMessage()
    assert "hidden" not in record.getMessage()


def test_an_empty_store_is_a_store() -> None:
    """Though a container that is empty counts as nothing elsewhere."""

    class Empty(MemoryStore):
        def __len__(self) -> int:
            return 0

    store = Empty()
    assert resolved(store=store).store is store
    configure(store=store)
    assert configured_stores(nothing) == [store]


def test_an_impossible_cookie_is_refused() -> None:
    """For other sites' frames, but not for https only."""
    with pytest.raises(ConfigurationError, match="secure=True"):
        resolved(same_site="none", secure=False)
    assert resolved(same_site="none", secure=True).secure


def test_a_partitioned_cookie_is_secure() -> None:
    """No browser takes another one; by default it is so without a word."""
    with pytest.raises(ConfigurationError, match="partitioned=True"):
        resolved(partitioned=True, secure=False)
    assert resolved(partitioned=True).partitioned
    assert resolved("/srv/other.py", partitioned=True, secure=True).partitioned


def test_senseless_pairs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """From wherever they come: one in the environment, the other in the script."""
    monkeypatch.setenv("PERSIST_SESSION_PARTITIONED", "true")
    configure(secure=False)
    with pytest.raises(ConfigurationError, match="partitioned=True"):
        resolved()
    configure(partitioned=False)
    assert resolved().secure is False


@pytest.mark.parametrize("same_site", ["lax", "strict", "none"])
def test_partitioned_says_all(same_site: Any) -> None:
    """One setting does it: SameSite=None and Secure come with it, on a page without https, too."""
    configure(partitioned=True, same_site=same_site)
    cookie = cookie_for("http://localhost:8501/", "/", resolved())
    assert (cookie.same_site, cookie.secure, cookie.partitioned) == ("none", True, True)
    assert cookie.name == "persist_session-8501"


@pytest.mark.parametrize("store", [MemoryStore, object()])
def test_what_is_no_store_is_refused(store: object) -> None:
    """Nor is the class one."""
    with pytest.raises(ConfigurationError, match="store must be a Store"):
        resolved(store=store)


def test_a_failed_attempt_leaves_nothing() -> None:
    """Once the secrets are mended the app works."""
    with pytest.raises(ConfigurationError):
        resolved(max_age="soon")
    assert resolved(max_age=60).max_age == 60.0


# --- once per process


def test_settings_are_made_once() -> None:
    """By all visitors' threads together: keys and stores are not made twice."""
    calls: list[int] = []

    def secrets() -> dict[str, Any]:
        calls.append(1)
        return {}

    barrier = threading.Barrier(8)

    def ask(_: int) -> Settings:
        barrier.wait()
        return resolve(SCRIPT, secrets)

    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(ask, range(8))]
    assert all(settings is found[0] for settings in found)
    assert len(calls) == 1


def test_two_apps_have_two_folders() -> None:
    """Named after the script, and apart also where the name is the same."""
    one, other = root(resolved("/srv/one/app.py")), root(resolved("/srv/other/app.py"))
    assert one != other
    assert one.name.startswith("app-")
    assert root(resolved("/srv/one/app.py")) == one


@pytest.mark.parametrize(
    "script", ["/srv/my app é.py", "/srv/" + "x" * 200 + ".py", "/srv/../srv/a\udcff.py", "relative.py"]
)
def test_any_script_names_a_folder(script: str) -> None:
    """Letters, digits and '_', no longer than a file system takes."""
    name = root(resolved(script)).name
    assert name.isascii()
    assert len(name) <= 64
    assert resolved(script).app == name
    configure(app=name)


def test_the_apps_name_can_be_set() -> None:
    """Apps with one name share their records."""
    configure(app="shop")
    assert root(resolved("/srv/one.py")) == root(resolved("/srv/two.py"))
    assert root(resolved()).name == "shop"


@pytest.mark.parametrize("name", ["secret_keys", "store", "max_age", "same_site"])
def test_to_repeat_a_value_does_nothing(name: str, tmp_path: Path) -> None:
    """`configure` stands at the top of the script, so every run calls it: the same settings stay in force."""
    value: Any = {"secret_keys": [SECRET], "store": f"file://{tmp_path}/state", "max_age": 60, "same_site": "strict"}[
        name
    ]
    configure(**{name: value})
    before = resolved()
    again: Any = {name: list(value) if name == "secret_keys" else value}
    configure(**again)
    assert resolved() is before


def test_another_value_counts_at_once() -> None:
    """What is left out keeps its value."""
    configure(max_age=60, path="/a")
    assert resolved().max_age == 60.0
    configure(max_age=timedelta(hours=1))
    assert (resolved().max_age, resolved().path) == (3600.0, "/a")


def test_a_wrong_value_changes_nothing() -> None:
    """All of a call, or nothing."""
    configure(max_age=60)
    with pytest.raises(ConfigurationError):
        configure(max_age=120, path="wrong")
    assert resolved().max_age == 60.0


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_no_home_is_told(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without HOME, or with a senseless one; with keys and a store it needs none."""

    def homeless() -> Path:
        raise RuntimeError("no home")

    if home is None:
        monkeypatch.setattr(Path, "home", homeless)
    else:
        monkeypatch.setenv("HOME", home)
    with pytest.raises(ConfigurationError, match="PERSIST_SESSION_SECRET_KEYS"):
        resolved()
    with pytest.raises(ConfigurationError, match="set HOME"):
        configured_stores(nothing)
    configure(secret_keys=[SECRET], store=MemoryStore())
    assert resolved().keys == derive([SECRET])


def test_secrets_are_not_shown() -> None:
    """Settings may end up in a traceback."""
    configure(secret_keys=[SECRET])
    assert SECRET not in repr(resolved())


# --- keys and stores


def test_a_shared_store_needs_keys() -> None:
    """Each machine would make a key of its own; the error says how to make one for all."""

    class Shared:
        """A store of nobody's."""

        read = write = delete = version = names = set_aside = lock = begin_sweep = delete_expired = NotImplemented

    with pytest.raises(ConfigurationError, match=r"shared? needs configured secret_keys.*token_hex"):
        resolved(store=Shared())


def test_a_foreign_key_is_refused(tmp_path: Path) -> None:
    """At the first state, or where the `st.App` is made: the store was sealed with other keys (S25)."""
    store = FileStore(tmp_path / "state")
    remember(derive(["o" * 32]), store)
    configure(store=store, secret_keys=[SECRET])
    for refuse in (resolved, lambda: check(nothing)):
        with pytest.raises(ConfigurationError, match="other secret_keys"):
            refuse()
    configure(secret_keys=["o" * 32, SECRET])
    check(nothing)
    assert resolved().store is store


def test_a_lost_key_is_told(tmp_path: Path) -> None:
    """The default one's file is gone while its records are there: no new one opens them (S25)."""
    settings = resolved()
    remember(settings.keys, settings.store)
    (tmp_path / ".streamlit" / "persist_session" / "secret_key").unlink()
    settings_module._resolved.clear()
    with pytest.raises(ConfigurationError, match="other secret_keys"):
        resolved()


def test_a_check_finds_wrong_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the app is known, and so before a page is served."""
    check(nothing)
    with pytest.raises(ConfigurationError, match="max_age"):
        check(lambda: {"max_age": "soon"})
    monkeypatch.setenv("PERSIST_SESSION_PATH", "wrong")
    with pytest.raises(ConfigurationError, match="path"):
        check(nothing)


# --- outside of a run


def test_outside_a_store_is_needed(tmp_path: Path) -> None:
    """Or an app: nobody can tell which is meant."""
    with pytest.raises(ConfigurationError, match="Outside of a Streamlit run"):
        resolve_outside(nothing)
    assert root(resolve_outside(lambda: {"store": f"file://{tmp_path}/state"})) == tmp_path / "state"


def test_outside_an_app_is_enough() -> None:
    """The same folder and key as in the app's own run."""
    configure(app="shop")
    assert root(resolve_outside(nothing)) == root(resolved())
    assert resolve_outside(nothing).keys == resolved().keys


def test_a_sweep_reads_the_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`delete_expired` in a cron job finds the store of secrets.toml; what was expired at the call before goes."""
    store = FileStore(tmp_path / "state")
    write(store)
    monkeypatch.setattr(host, "secrets", lambda: {"store": f"file://{tmp_path}/state"})
    assert (delete_expired(), delete_expired()) == (0, 1)
    assert not store.names(VISITOR)


def test_without_a_store_all_apps_count(tmp_path: Path) -> None:
    """The default folders of this user's apps, and no other file there."""
    assert configured_stores(nothing) == []
    roots = [root(resolved(f"/srv/{name}/app.py")) for name in ("one", "two")]
    for folder in roots:
        folder.mkdir(0o700, exist_ok=True)
    found = configured_stores(nothing)
    assert [store._root for store in found if isinstance(store, FileStore)] == sorted(roots)


def write(store: FileStore, *, expires_at: float = 1000.0) -> None:
    """Write a record of the visitor."""
    assert store.write(VISITOR, "app-state", b"", version="0" * 16, based_on=None, expires_at=expires_at)


def test_a_moved_apps_folder_is_found() -> None:
    """A visitor's records under the app's former path: its name is what the WARNING says (S25)."""
    old, new = resolved("/srv/old/app.py"), resolved("/srv/new/app.py")
    assert other_app_with(VISITOR, new) is None
    assert isinstance(old.store, FileStore)
    write(old.store, expires_at=4e9)
    assert other_app_with(VISITOR, new) == old.app
    assert other_app_with("b" * 64, new) is None
    assert other_app_with(VISITOR, old) is None, "these are its own"


@pytest.mark.skipif(os.name == "nt", reason="access lists are not judged")
def test_a_bad_neighbour_is_passed_by(tmp_path: Path) -> None:
    """A folder that is not to be trusted, or no folder at all, fails no page of another app (S26)."""
    configure(secret_keys=[SECRET])
    settings = resolved()
    assert other_app_with(VISITOR, settings) is None, "not even the parent is there"
    old = resolved("/srv/old/app.py")
    assert isinstance(old.store, FileStore)
    write(old.store, expires_at=4e9)
    root(old).chmod(0o777)
    assert other_app_with(VISITOR, settings) is None


def test_a_configured_store_has_no_neighbours() -> None:
    """Whose folder is named is where it was."""
    old = resolved("/srv/old/app.py")
    assert isinstance(old.store, FileStore)
    write(old.store, expires_at=4e9)
    configure(store=MemoryStore())
    assert other_app_with(VISITOR, resolved("/srv/new/app.py")) is None


# --- wrong values


def each(name: str, *values: Any) -> list[tuple[str, Any]]:
    """The setting with each of the values."""
    return [(name, value) for value in values]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *each("max_age", 0, -1, "soon", True, None.__class__, float("nan"), float("inf"), 10**400),
        ("max_age", timedelta(0)),
        ("max_age", LONGEST + 1),
        *each("cookie_max_age", 0, -1, "soon", True, LONGEST_COOKIE + 1, timedelta(days=401)),
        *each("lock_timeout", 0, -1, "soon", float("nan")),
        *each("cookie_name", "", ".", "a b", "a;b", "a=b", "é", "x" * 65, "__Host-a", "__SECURE-a", []),
        *each("max_bytes", 0, -5, "big", float("nan"), float("inf"), False, [1]),
        *each("same_site", "loose", 5, [], True),
        *each("secure", "perhaps", 2, []),
        *each("partitioned", "perhaps", 2, []),
        *each("ask_browser", "perhaps", 2, []),
        *each("path", "", "app", "/a;b", "/é", "/a\n", 5),
        *each("app", "", ".", "..", "a/b", "x" * 65, "é", "a b", "a\n"),
        *each("secret_keys", [], "", "short", ["short"], [5], 5, [SECRET, None], [SECRET, "x"]),
        *each("store", 5, "", "relative", "redis://host", "file:relative", object(), []),
    ],
)
def test_a_wrong_value_is_named(name: str, value: Any) -> None:
    """Nothing else is ever raised."""
    with pytest.raises(ConfigurationError, match=name):
        configure(**{name: value})


@pytest.mark.parametrize("value", ["short secret", ["short secret"], [SECRET, "short secret"]])
def test_a_refused_secret_is_not_shown(value: Any) -> None:
    """The message says how to make a good one."""
    with pytest.raises(ConfigurationError, match=r"secrets\.token_hex") as caught:
        configure(secret_keys=value)
    assert "short secret" not in str(caught.value)


@bounded(max_examples=100)
@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.binary(), st.lists(st.text())))
def test_any_value_is_taken_or_refused(value: Any) -> None:
    """By every setting, and never with another error."""
    for checked in settings_module._CHECKS.values():
        try:
            checked(value)
        except ConfigurationError as error:
            assert str(error)  # noqa: PT017 (a value may also be taken)


@bounded(max_examples=100)
@given(st.floats(0.001, LONGEST))
def test_seconds_come_in_three_forms(value: float) -> None:
    """A number, a text, a timedelta: all the same."""
    assert seconds("max_age", value) == value == seconds("max_age", str(value))
    assert seconds("max_age", timedelta(seconds=value)) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize(("text", "value"), [("1", True), ("On", True), (" yes ", True), ("0", False), ("OFF", False)])
def test_booleans_are_read_freely(text: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """As people write them, in whichever case."""
    monkeypatch.setenv("PERSIST_SESSION_ASK_BROWSER", text)
    assert resolved().ask_browser is value
