"""The public API: all of it is exported, documented and typed, and works without a server."""

from __future__ import annotations

import ast
import importlib
import inspect
import logging
import pkgutil
import pydoc
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import persist_session
from persist_session import (
    ConfigurationError,
    PersistSessionError,
    StateConflictError,
    StateError,
    StateInfo,
    clear_cookie_state,
    errors,
    load_state,
    persistent_state,
    save_state,
    state,
    state_info,
)
from support.records import CountingStore
from support.tabs import pretended

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.tabs import Tab

PACKAGE = Path(persist_session.__file__).parent
FUNCTIONS = [
    "clear_cookie_state",
    "configure",
    "delete_expired",
    "load_state",
    "persist",
    "persistent_state",
    "save_state",
    "state_info",
]
ERRORS = [
    "ConfigurationError",
    "LockTimeoutError",
    "PersistSessionError",
    "StateConflictError",
    "StateError",
    "StateTooLargeError",
    "StoreError",
    "UnloadableStateError",
    "UnpicklableStateError",
]


class AppState:
    """A state."""

    def __init__(self) -> None:
        self.count = 0


@pytest.fixture(autouse=True)
def not_warned() -> None:
    """Start every test as a new process."""
    state._warn_outside.cache_clear()


# --- what is public


def test_all_is_sorted_and_complete() -> None:
    """Whatever the package shows without an underscore, but for its modules."""
    shown = {name for name, value in vars(persist_session).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert [*persist_session.__all__] == sorted(persist_session.__all__)
    assert shown == {*persist_session.__all__}
    assert {*FUNCTIONS, *ERRORS} <= shown


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_callable_is_described(name: str) -> None:
    """Every argument is described, and so is what may be raised."""
    function = getattr(persist_session, name)
    words = inspect.getdoc(function)
    assert words is not None
    assert "Raises:" in words
    assert words.splitlines()[0].endswith((".", ";"))
    arguments = [*inspect.signature(function).parameters]
    described = words.partition("Args:")[2].partition("Raises:")[0]
    if len(arguments) > 1:
        assert [argument for argument in arguments if f"{argument}:" not in described] == []


@pytest.mark.parametrize("name", [name for name in persist_session.__all__ if name not in FUNCTIONS])
def test_a_public_class_is_described(name: str) -> None:
    """And so have its public methods."""
    kind = getattr(persist_session, name)
    assert kind.__doc__
    methods = [value for key, value in vars(kind).items() if key[0] != "_" and inspect.isfunction(value)]
    assert [method.__qualname__ for method in methods if not method.__doc__] == []


def functions(node: ast.AST) -> Iterator[ast.FunctionDef]:
    """Yield the public functions of a module and the public methods of its public classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
            if isinstance(child, ast.FunctionDef):
                yield child
            else:
                yield from functions(child)


def test_every_function_that_raises_says_so() -> None:
    """Of any module: whose own body raises an error of ours names it."""
    ours = {name for name in vars(errors) if name.endswith("Error")}
    silent = []
    for path in PACKAGE.rglob("*.py"):
        for function in functions(ast.parse(path.read_text())):
            raised = {
                error.exc.func.id
                for error in ast.walk(function)
                if isinstance(error, ast.Raise)
                and isinstance(error.exc, ast.Call)
                and isinstance(error.exc.func, ast.Name)
            }
            words = ast.get_docstring(function) or ""
            silent += [f"{path.name}:{function.name}:{name}" for name in raised & ours if name not in words]
    assert silent == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_are_given_by_keyword(name: str) -> None:
    """Options can be added and reordered without breaking an app."""
    parameters = inspect.signature(getattr(persist_session, name)).parameters.values()
    positional = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    assert {*positional} <= {"name", "factory", "state", "store"}


@pytest.mark.parametrize("name", ERRORS)
def test_one_base_catches_all_errors(name: str) -> None:
    """And each has the state's name where it is about one."""
    kind = getattr(persist_session, name)
    assert issubclass(kind, PersistSessionError)
    assert issubclass(kind, Exception)
    if issubclass(kind, StateConflictError):
        assert kind("words", name="x", base=1, mine=2, theirs=3).theirs == 3
    elif issubclass(kind, StateError):
        assert kind("words", name="x").name == "x"


def test_the_package_is_typed_and_explained() -> None:
    """The marker for type checkers, and the glossary."""
    assert (PACKAGE / "py.typed").is_file()
    words = persist_session.__doc__ or ""
    for word in ("state", "name", "visitor id", "cookie", "visitor key", "record", "lineage", "store", "home", "tab"):
        assert f"    {word}: " in words
    for module in pkgutil.walk_packages([str(PACKAGE)], "persist_session."):
        assert importlib.import_module(module.name).__doc__, module.name


def test_importing_the_package_does_nothing(tmp_path: Path) -> None:
    """No folder, no key, no word of ours: an app may be imported by tools."""
    program = "from persist_session import *\nprint(sorted(name for name in dir() if name[0] != '_'))"
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(PACKAGE.parent), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sorted(persist_session.__all__))
    # Streamlit has its own word for whatever is imported without `streamlit run`.
    assert [line for line in done.stderr.splitlines() if "missing ScriptRunContext" not in line] == []
    assert [*tmp_path.iterdir()] == []


# --- outside of a run


def test_outside_the_state_is_plain(caplog: pytest.LogCaptureFixture) -> None:
    """A fresh one for every block, nothing is saved, and ONE warning for the name says so and what to do."""
    for _ in range(3):
        with persistent_state("x", AppState) as one, persistent_state("x", AppState) as other:
            assert type(one) is AppState
            assert one is not other
            assert one.count == 0
            one.count += 1
    assert load_state("x", AppState).count == 0
    save_state("x", AppState())
    clear_cookie_state("x")
    clear_cookie_state("x")
    assert state_info("x") is None
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "'x'" in record.message
    assert "streamlit run" in record.message


def test_another_name_has_its_own_warning(caplog: pytest.LogCaptureFixture) -> None:
    """It is another state."""
    load_state("x", AppState)
    load_state("y", AppState)
    load_state("x", AppState)
    assert len(caplog.records) == 2


def test_outside_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with persistent_state("x", AppState):
        pass
    save_state("x", AppState())
    clear_cookie_state("x")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("error", [ValueError("own"), KeyboardInterrupt(), SystemExit(1)])
def test_a_block_swallows_nothing(error: BaseException) -> None:
    """What leaves it goes on."""
    with pytest.raises(type(error)) as caught, persistent_state("x", AppState):
        raise error
    assert caught.value is error


def test_one_block_is_used_again() -> None:
    """One object that an imported module made, for all who enter it."""
    block = persistent_state("x", AppState)
    with block as one, block as other:
        assert one is not other
    with block as again:
        assert again.count == 0


def test_a_factory_that_fails_is_not_hidden() -> None:
    """Its own error is raised."""

    def fail() -> AppState:
        raise RuntimeError("own")

    with pytest.raises(RuntimeError, match="own"), persistent_state("x", fail):
        pass
    with pytest.raises(RuntimeError, match="own"):
        load_state("x", fail)


# --- wrong arguments


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a/b", "../a", "x" * 65, "é", "a;b", "a=b", "a\n", ".", "..", None, 5, b"a", AppState]
)
def test_an_impossible_name_is_refused(name: Any) -> None:
    """By every function, also outside of a run."""
    uses: list[Any] = [
        lambda: persistent_state(name, AppState),
        lambda: load_state(name, AppState),
        lambda: save_state(name, AppState()),
        lambda: state_info(name),
        lambda: persist_session.persist(name),
    ]
    if name is not None:  # that means all
        uses.append(lambda: clear_cookie_state(name))
    for use in uses:
        with pytest.raises(ConfigurationError, match=r"name must be 1 to 64"):
            use()


@pytest.mark.parametrize("name", ["a", "x" * 64, "app-state", "A.b_C-9", "0"])
def test_names_that_are_fine(name: str) -> None:
    """Letters, digits, `_`, `.` and `-`."""
    with persistent_state(name, AppState) as made:
        assert made.count == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"factory": AppState()}, "factory must be callable"),
        ({"factory": None}, "factory must be callable"),
        ({"factory": {}}, "factory must be callable.*lambda"),
        ({"max_age": 0}, "max_age"),
        ({"max_age": -1}, "max_age"),
        ({"max_age": "soon"}, "max_age"),
        ({"max_age": True}, "max_age"),
        ({"max_age": 101 * 366 * 24 * 3600}, "max_age"),
        ({"on_error": "ignore"}, "on_error must be"),
        ({"on_error": None}, "on_error must be"),
        ({"on_unloadable": "discard"}, "on_unloadable must be"),
        ({"on_conflict": "win"}, "on_conflict must be"),
        ({"user": ""}, "user must be"),
        ({"user": 5}, "user must be"),
        ({"remember": "yes"}, "remember must be"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], named: str) -> None:
    """At once: before the first visitor comes."""
    arguments: dict[str, Any] = {"name": "x", "factory": AppState} | options
    with pytest.raises(ConfigurationError, match=named):
        persistent_state(**arguments)
    with pytest.raises(ConfigurationError, match=named):
        load_state(**arguments)


@pytest.fixture
def tab() -> Iterator[Tab]:
    """Return a tab of a pretended browser, in a run."""
    with pretended(CountingStore()) as browser:
        tab = browser.open()
        tab.begin()
        yield tab


class OtherState:
    """Another state."""


def test_one_name_has_one_factory(tab: Tab) -> None:
    """In one run, beside and inside of each other; the error names both."""
    with persistent_state("x", AppState), pytest.raises(ConfigurationError, match=r"AppState.*OtherState"):
        load_state("x", OtherState)
    with pytest.raises(ConfigurationError, match=r"AppState.*OtherState"), persistent_state("x", OtherState):
        pass


def test_what_was_never_loaded_is_not_saved(tab: Tab) -> None:
    """The error says what to call first."""
    with pytest.raises(ConfigurationError, match=r"'never-loaded'.*load_state"):
        save_state("never-loaded", {})


# --- what is shown


def test_the_information_holds_no_secret() -> None:
    """Its fields are these: no visitor id, no cookie, no content."""
    fields = {"name", "visitor_key", "size", "saved_at", "expires_at", "cookie"}
    assert {*StateInfo.__dataclass_fields__} == fields


@pytest.mark.parametrize("name", [*FUNCTIONS, "StateInfo", "MemoryStore", "FileStore"])
def test_help_works(name: str) -> None:
    """In a notebook, an editor, or `st.help`."""
    assert name in pydoc.render_doc(getattr(persist_session, name))
