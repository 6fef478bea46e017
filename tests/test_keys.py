"""Keys: long enough, apart from each other, and a default one that is private and the same for everybody."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persist_session.errors import ConfigurationError, StoreError
from persist_session.keys import check, check_store, derive, load_or_make, remember
from persist_session.stores import FileStore, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from persist_session.stores import Stored

CHILD = Path(__file__).with_name("child.py")
GOOD = "s" * 32
secrets = st.lists(st.text(min_size=32, max_size=80), min_size=1, max_size=4)


@pytest.fixture
def umask_0() -> Iterator[None]:
    """The umask that hides no loose mode."""
    before = os.umask(0)
    yield
    os.umask(before)


@given(secrets)
def test_keys_are_derived_apart(chosen: list[str]) -> None:
    """No purpose shares a key with another, and no key is the secret itself."""
    keys = derive(chosen)
    assert len(keys.cookie) == len(keys.record) == len(keys.fingerprints) == len(chosen)
    raw = {secret.encode("utf-8", "surrogatepass") for secret in chosen}
    assert not set(keys.cookie) & set(keys.record)
    assert not raw & {*keys.cookie, *keys.record}


@given(secrets)
def test_derivation_keeps_the_order(chosen: list[str]) -> None:
    """The same secrets give the same keys, one by one: oldest first."""
    assert derive(chosen) == derive(list(chosen))
    assert derive(chosen).record == tuple(derive([each]).record[0] for each in chosen)
    assert derive(chosen).fingerprints == tuple(derive([each]).fingerprints[0] for each in chosen)


def test_the_derivation_never_changes() -> None:
    """Another derivation in a new release would lose every visitor's state: these bytes are fixed."""
    keys = derive([GOOD])
    assert keys.cookie[0].hex() == "239d79c61f7b9373f440d3143b7a62729748512df13bf760663ab86d9df87ede"
    assert keys.record[0].hex() == "6b1d17fc2e02c2e049ef228869f02c301d7e24013fafc3324ea0d2328b4d8fda"
    assert keys.fingerprints == ("8453b60188b9c30a",)


def test_no_key_is_shown() -> None:
    """Keys may end up in a traceback, and fingerprints in a store; their bytes must not."""
    keys = derive([GOOD])
    shown = repr(keys) + str(keys.fingerprints)
    for each in (*keys.cookie, *keys.record):
        assert repr(each)[2:10] not in shown
        assert each.hex()[:8] not in shown


def test_secrets_may_be_no_utf8() -> None:
    """Surrogates, as `os.environ` gives them for other bytes, are no obstacle."""
    assert derive(["\udcff" * 32]) != derive(["\udcfe" * 32])


@pytest.mark.parametrize("bad", [[], (), GOOD, [""], ["s" * 31], [GOOD, "short"], [b"s" * 32], [None]])
def test_bad_secrets_are_refused(bad: list[str]) -> None:
    """None at all, a bare string, too short or no text: the error says how to make a good one."""
    for refuse in (check, derive):
        with pytest.raises(ConfigurationError, match=r"secret_keys.*token_hex\(32\)"):
            refuse(bad)


def test_a_refusal_repeats_no_secret() -> None:
    """The error names the position of the bad secret, not the secret."""
    with pytest.raises(ConfigurationError, match=r"secret_keys\[1\]") as caught:
        check([GOOD, "hunter2"])
    assert "hunter2" not in str(caught.value)


def test_good_secrets_pass() -> None:
    """Thirty-two characters are enough."""
    check([GOOD, "t" * 32])


def test_the_default_key_is_made_once(tmp_path: Path) -> None:
    """The first call makes a key that passes `check`, every later one returns it."""
    made = load_or_make(tmp_path / "keys")
    check([made])
    assert load_or_make(tmp_path / "keys") == made
    assert load_or_make(tmp_path / "others") != made


def test_the_default_key_is_private(tmp_path: Path, umask_0: None) -> None:
    """Mode 0600 in folders of mode 0700 under any umask, and nothing else is left beside it."""
    folder = tmp_path / "parent" / "keys"
    load_or_make(folder)
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_eight_processes_get_one_key(tmp_path: Path) -> None:
    """In 12 rounds of 8 processes that start together, all of a round return one key of 64 characters."""
    done = subprocess.run(
        [sys.executable, str(CHILD), "make-keys", str(tmp_path), "12", "8"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rounds = json.loads(done.stdout)
    assert len(rounds) == 12
    for answers in rounds:
        assert len(answers) == 8
        assert len(set(answers)) == 1, answers
        assert len(answers[0]) == 64, answers


def _link_folder(folder: Path) -> None:
    load_or_make(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


def _link_folder_to_nothing(folder: Path) -> None:
    folder.symlink_to(folder.with_name("elsewhere"))


def _link_file(folder: Path) -> None:
    load_or_make(folder.with_name("elsewhere"))
    folder.mkdir(0o700)
    (folder / "secret_key").symlink_to(folder.with_name("elsewhere") / "secret_key")


def _file_for_folder(folder: Path) -> None:
    folder.write_bytes(b"")


def _pipe_for_file(folder: Path) -> None:
    folder.mkdir(0o700)
    os.mkfifo(folder / "secret_key", 0o600)


def _chmod(mode: int, *, file: bool = False) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        load_or_make(folder)
        (folder / "secret_key" if file else folder).chmod(mode)

    return plant


def _content(content: bytes) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        load_or_make(folder)
        (folder / "secret_key").write_bytes(content)

    return plant


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        pytest.param(_link_folder, "symlink", id="folder is a symlink"),
        pytest.param(_link_folder_to_nothing, "symlink", id="folder is a symlink to nothing"),
        pytest.param(_link_file, "symbolic links", id="file is a symlink"),
        pytest.param(_file_for_folder, "not a folder", id="folder is a file"),
        pytest.param(_pipe_for_file, "regular", id="file is a pipe"),
        pytest.param(_chmod(0o720), "chmod 700", id="folder is group-writable"),
        pytest.param(_chmod(0o702), "chmod 700", id="folder is world-writable"),
        pytest.param(_chmod(0o640, file=True), "chmod 600", id="file is group-readable"),
        pytest.param(_chmod(0o604, file=True), "chmod 600", id="file is world-readable"),
        pytest.param(_chmod(0o602, file=True), "chmod 600", id="file is world-writable"),
        pytest.param(_content(b""), "empty or damaged", id="file is empty"),
        pytest.param(_content(b"a" * 63), "empty or damaged", id="file is short"),
        pytest.param(_content(b"\xff" * 64), "empty or damaged", id="file is no text"),
    ],
)
def test_a_key_others_know_is_refused(tmp_path: Path, plant: Callable[[Path], None], says: str) -> None:
    """A symlink, loose modes, or a damaged file: the error says what is wrong, and no new key replaces it."""
    folder = tmp_path / "keys"
    plant(folder)
    with pytest.raises(ConfigurationError, match=says):
        load_or_make(folder)


@pytest.mark.parametrize("whose", ["folder", "file"])
def test_another_users_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str) -> None:
    """Who owns the folder or the file could have chosen the key."""
    load_or_make(tmp_path / "keys")
    if whose == "folder":
        monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "keys").stat().st_uid + 1)
    else:
        monkeypatch.setattr("persist_session.keys.require_private", lambda _: None)
        monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "keys").stat().st_uid + 1)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        load_or_make(tmp_path / "keys")


def test_a_disk_without_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the key can't be linked into place, the error offers `secret_keys`; nothing is left behind."""

    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(ConfigurationError, match="secret_keys") as caught:
        load_or_make(tmp_path / "keys")
    assert isinstance(caught.value.__cause__, PermissionError)
    assert list((tmp_path / "keys").iterdir()) == []


# --- what a store knows of the keys that sealed it (S25)

OLD, NEW, FOREIGN = "o" * 32, "n" * 32, "f" * 32
RECORD = "0" * 64, "persist_session.keys"


def sealed_with(*orders: list[str]) -> MemoryStore:
    """A store in which processes with these keys have saved."""
    store = MemoryStore()
    for secrets in orders:
        remember(derive(secrets), store)
    return store


def test_a_new_store_takes_any_keys() -> None:
    """Nothing was sealed yet, and a look leaves nothing."""
    store = MemoryStore()
    check_store(derive([GOOD]), store)
    assert store.read(*RECORD) is None


@pytest.mark.parametrize("kind", [MemoryStore, FileStore])
def test_a_foreign_store_is_refused(kind: type, tmp_path: Path) -> None:
    """It says what to set instead of giving every visitor a new cookie, and names no key."""
    store = kind() if kind is MemoryStore else FileStore(tmp_path / "state")
    remember(derive([OLD]), store)
    with pytest.raises(ConfigurationError, match=r"other secret_keys.*PERSIST_SESSION_SECRET_KEYS") as caught:
        check_store(derive([FOREIGN]), store)
    assert not any(mark in str(caught.value) for mark in (*derive([FOREIGN, OLD]).fingerprints, OLD, FOREIGN))
    check_store(derive([OLD]), store)


@pytest.mark.parametrize(
    ("sealed", "mine"),
    [
        ([[OLD]], [OLD, NEW]),
        ([[OLD]], [NEW, OLD]),
        ([[OLD], [OLD, NEW]], [OLD]),
        ([[OLD], [OLD, NEW]], [NEW]),
        ([[OLD, NEW]], [NEW, OLD]),
        ([[OLD], [OLD, NEW]], [NEW, FOREIGN]),
    ],
)
def test_rotated_keys_are_known(sealed: list[list[str]], mine: list[str]) -> None:
    """One of them is enough, in whichever order; so the machines of one app may be updated one after the other."""
    check_store(derive(mine), sealed_with(*sealed))


def test_only_the_newest_key_seals() -> None:
    """A key that was only there to verify is not remembered: nothing in the store needs it."""
    with pytest.raises(ConfigurationError):
        check_store(derive([OLD]), sealed_with([OLD, NEW]))


def test_to_remember_asks_once() -> None:
    """Of the same keys and store the store is asked once in a process, of others again."""
    asked = []

    class Asked(MemoryStore):
        def read(self, key: str, name: str) -> Stored | None:
            asked.append(name)
            return super().read(key, name)

    one, other = Asked(), Asked()
    remember(derive([OLD]), one)
    first = len(asked)
    remember(derive([OLD]), one)
    assert len(asked) == first > 0
    remember(derive([OLD, NEW]), one)
    remember(derive([OLD]), other)
    assert len(asked) == 3 * first


@pytest.mark.parametrize("content", [b"", b"\xff", b"[", b"5", b"null", b'"words"', b"[1]", b"[[]]", b'{"a": 1}'])
def test_a_damaged_record_heals(content: bytes) -> None:
    """Fingerprints that can't be read stop nobody, and are written anew with the next save."""
    store = MemoryStore()
    store.write(*RECORD, content, version="0" * 16, based_on=None, expires_at=4e9)
    check_store(derive([GOOD]), store)
    remember(derive([GOOD]), store)
    with pytest.raises(ConfigurationError):
        check_store(derive([FOREIGN]), store)
    check_store(derive([GOOD]), store)


def test_a_damaged_file_heals(tmp_path: Path) -> None:
    """Also where its first line, which holds the version, is damaged."""
    store = FileStore(tmp_path)
    store.write(*RECORD, b"[]", version="0" * 16, based_on=None, expires_at=4e9)
    (file,) = tmp_path.glob("00/*.pickle")
    file.write_bytes(b"\xff\xfe\n\n[")
    remember(derive([GOOD]), store)
    with pytest.raises(ConfigurationError):
        check_store(derive([FOREIGN]), store)


def test_a_store_must_keep_fingerprints() -> None:
    """One that keeps nothing, or is read before it has what was written, is told so and not asked for ever (S26)."""

    class Forgetful(MemoryStore):
        def write(self, key: str, name: str, data: bytes, **options: Any) -> bool:
            return True

    with pytest.raises(StoreError, match="does not keep"):
        remember(derive([GOOD]), Forgetful())


def test_two_processes_remember_both() -> None:
    """One that was faster is no obstacle: what it wrote is kept."""

    class Raced(MemoryStore):
        races = 3

        def write(self, key: str, name: str, data: bytes, **options: Any) -> bool:
            if self.races:
                self.races -= 1
                remember(derive([str(self.races) * 32]), self)
            return super().write(key, name, data, **options)

    store = Raced()
    remember(derive([GOOD]), store)
    for secret in ("0" * 32, "1" * 32, "2" * 32, GOOD):
        check_store(derive([secret]), store)
