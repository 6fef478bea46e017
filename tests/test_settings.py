"""Settings: `configure` above the environment above the secrets above the default; wrong ones are refused by name."""

from __future__ import annotations

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from persist_session import configure
from persist_session import settings as settings_module
from persist_session.cookie_policy import policy
from persist_session.errors import ConfigurationError
from persist_session.keys import derive
from persist_session.settings import (
    DEFAULT_MAX_AGE,
    DEFAULT_MAX_BYTES,
    LONGEST_MAX_AGE,
    Settings,
    configured_stores,
    resolve,
    seconds,
)
from persist_session.stores import FileStore, MemoryStore

SCRIPT = "/srv/app/app.py"
DAY = 24 * 3600.0
SECRET = "s" * 32


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start every test with nothing configured, and a home of its own."""
    monkeypatch.setattr(settings_module, "_configured", {})
    monkeypatch.setattr(settings_module, "_resolved", {})
    for name in settings_module._CHECKS:
        monkeypatch.delenv(f"PERSIST_SESSION_{name.upper()}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def resolved(script: str = SCRIPT, **section: Any) -> Settings:
    """Return the settings in force, with this section in the secrets."""
    return resolve(script, lambda: section)


def root(settings: Settings) -> Path:
    """Return the folder of the store."""
    assert isinstance(settings.store, FileStore)
    return settings.store._root


# --- where they come from


def test_defaults_need_nothing(tmp_path: Path) -> None:
    """A key of its own, files in the home folder, 30 days, lax, 16 MiB, and the browser is asked."""
    settings = resolved()
    assert settings.max_age == DEFAULT_MAX_AGE == 30 * DAY
    assert settings.max_bytes == DEFAULT_MAX_BYTES == 16 * 1024 * 1024
    assert (settings.same_site, settings.secure, settings.path, settings.ask_browser) == ("lax", None, None, True)
    assert root(settings).parent == tmp_path / ".streamlit" / "persist_session"
    key = tmp_path / ".streamlit" / "persist_session" / "secret_key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


GIVEN: dict[str, tuple[Any, str, Any, Any]] = {
    # name: value by configure, value in the environment, value in the secrets, what the first two come to
    "max_age": (60, "120", 180.0, (60.0, 120.0, 180.0)),
    "same_site": ("strict", "none", "lax", ("strict", "none", "lax")),
    "secure": (True, "false", True, (True, False, True)),
    "partitioned": (True, "false", True, (True, False, True)),
    "path": ("/a", "/b", "/c", ("/a", "/b", "/c")),
    "ask_browser": (False, "true", False, (False, True, False)),
    "max_bytes": (10, "20", 30, (10, 20, 30)),
    "secret_keys": (["a" * 32], "b" * 32 + "," + "c" * 32, ["d" * 32], None),
}


@pytest.mark.parametrize("name", GIVEN)
def test_configure_is_above_the_environment_above_the_secrets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every setting."""
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


def test_the_store_may_be_an_url_everywhere_and_an_object_in_configure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object is used as it is."""
    assert root(resolved(store=f"file://{tmp_path}/secrets")) == tmp_path / "secrets"
    monkeypatch.setattr(settings_module, "_resolved", {})
    monkeypatch.setenv("PERSIST_SESSION_STORE", f"file://{tmp_path}/environment")
    assert root(resolved()) == tmp_path / "environment"
    store = MemoryStore()
    configure(store=store)
    assert resolved().store is store


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files set them so."""
    monkeypatch.setenv("PERSIST_SESSION_MAX_AGE", "")
    assert resolved().max_age == DEFAULT_MAX_AGE


def test_a_variable_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused when the first state is loaded."""
    monkeypatch.setenv("PERSIST_SESSION_MAX_AGE", "soon")
    with pytest.raises(ConfigurationError, match="max_age"):
        resolved()


def test_an_unknown_name_in_the_secrets_is_refused() -> None:
    """A typing error there would be overlooked; the message lists the known ones."""
    with pytest.raises(ConfigurationError, match=r"'max_agee'.*max_age"):
        resolved(max_agee=1)


def test_an_unknown_name_in_the_environment_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
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
    assert configured_stores() == [store]


def test_a_cookie_that_no_browser_takes_is_refused() -> None:
    """For other sites' frames, but not for https only."""
    with pytest.raises(ConfigurationError, match="secure=True"):
        resolved(same_site="none", secure=False)
    assert resolved(same_site="none", secure=True).secure


def test_a_partitioned_cookie_is_refused_where_it_is_not_to_be_secure() -> None:
    """No browser takes it; by default it is secure without a word."""
    with pytest.raises(ConfigurationError, match="partitioned=True"):
        resolved(partitioned=True, secure=False)
    assert resolved(partitioned=True).partitioned
    assert resolved("/srv/other.py", partitioned=True, secure=True).partitioned


def test_what_makes_no_sense_together_is_refused_from_wherever_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in the environment, the other in the script."""
    monkeypatch.setenv("PERSIST_SESSION_PARTITIONED", "true")
    configure(secure=False)
    with pytest.raises(ConfigurationError, match="partitioned=True"):
        resolved()
    configure(partitioned=False)
    assert resolved().secure is False


@pytest.mark.parametrize("same_site", ["lax", "strict", "none"])
def test_partitioned_says_all_that_a_foreign_page_asks_for(same_site: Any) -> None:
    """One setting does it: SameSite=None and Secure come with it, on a page without https, too."""
    configure(partitioned=True, same_site=same_site)
    cookie = policy("app-state", "http://localhost:8501/", "/", resolved())
    assert (cookie.same_site, cookie.secure, cookie.partitioned) == ("none", True, True)
    assert cookie.cookie_name == "app-state-8501"


@pytest.mark.parametrize("store", [MemoryStore, object()])
def test_what_is_no_store_is_refused(store: object) -> None:
    """The class is none, either."""
    with pytest.raises(ConfigurationError, match="store must be a Store"):
        resolved(store=store)


def test_nothing_is_kept_of_a_failed_attempt() -> None:
    """Once the secrets are mended the app works."""
    with pytest.raises(ConfigurationError):
        resolved(max_age="soon")
    assert resolved(max_age=60).max_age == 60.0


# --- once per process


def test_settings_are_made_once_for_an_app() -> None:
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


def test_two_apps_of_one_process_have_two_folders() -> None:
    """Named after the script, and apart also where the name is the same."""
    one, other = root(resolved("/srv/one/app.py")), root(resolved("/srv/other/app.py"))
    assert one != other
    assert one.name.startswith("app-")
    assert root(resolved("/srv/one/app.py")) == one


@pytest.mark.parametrize(
    "script", ["/srv/my app é.py", "/srv/" + "x" * 200 + ".py", "/srv/../srv/a\udcff.py", "relative.py"]
)
def test_any_script_path_gives_a_name_for_a_folder(script: str) -> None:
    """Letters, digits and '_', no longer than a file system takes."""
    name = root(resolved(script)).name
    assert name.isascii()
    assert len(name) <= 64
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


def test_another_value_is_in_force_at_once() -> None:
    """What is left out keeps its value."""
    configure(max_age=60, path="/a")
    assert resolved().max_age == 60.0
    configure(max_age=timedelta(hours=1))
    assert (resolved().max_age, resolved().path) == (3600.0, "/a")


def test_one_wrong_value_leaves_all_as_they_were() -> None:
    """All of a call, or nothing."""
    configure(max_age=60)
    with pytest.raises(ConfigurationError):
        configure(max_age=120, path="wrong")
    assert resolved().max_age == 60.0


def test_no_home_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without HOME; with keys and a store it needs none."""

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigurationError, match="PERSIST_SESSION_SECRET_KEYS"):
        resolved()
    configure(secret_keys=[SECRET], store=MemoryStore())
    assert resolved().keys == derive([SECRET])


def test_secrets_are_not_shown() -> None:
    """Settings may end up in a traceback."""
    configure(secret_keys=[SECRET])
    assert SECRET not in repr(resolved())


# --- wrong values


def each(name: str, *values: Any) -> list[tuple[str, Any]]:
    """Return the setting with each of the values."""
    return [(name, value) for value in values]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *each("max_age", 0, -1, "soon", True, None.__class__, float("nan"), float("inf"), 10**400),
        ("max_age", timedelta(0)),
        ("max_age", LONGEST_MAX_AGE + 1),
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
def test_a_wrong_value_is_refused_by_its_name(name: str, value: Any) -> None:
    """Nothing else is ever raised."""
    with pytest.raises(ConfigurationError, match=name):
        configure(**{name: value})


@pytest.mark.parametrize("value", ["short secret", ["short secret"], [SECRET, "short secret"]])
def test_a_secret_that_is_refused_is_not_shown(value: Any) -> None:
    """The message says how to make a good one."""
    with pytest.raises(ConfigurationError, match=r"secrets\.token_hex") as caught:
        configure(secret_keys=value)
    assert "short secret" not in str(caught.value)


@bounded(max_examples=100, deadline=None)
@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.binary(), st.lists(st.text())))
def test_any_value_is_taken_or_refused(value: Any) -> None:
    """By every setting, and never with another error."""
    for check in settings_module._CHECKS.values():
        try:
            check(value)
        except ConfigurationError as error:
            assert str(error)  # noqa: PT017 (a value may also be taken)


@bounded(max_examples=100, deadline=None)
@given(st.floats(0.001, LONGEST_MAX_AGE))
def test_seconds_are_taken_as_number_text_and_timedelta(value: float) -> None:
    """All the same."""
    assert seconds("max_age", value) == value == seconds("max_age", str(value))
    assert seconds("max_age", timedelta(seconds=value)) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize(("text", "value"), [("1", True), ("On", True), (" yes ", True), ("0", False), ("OFF", False)])
def test_booleans_are_read_as_people_write_them(text: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whichever case."""
    monkeypatch.setenv("PERSIST_SESSION_ASK_BROWSER", text)
    assert resolved().ask_browser is value
