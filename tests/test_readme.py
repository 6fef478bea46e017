"""The examples of README and docs run as they stand."""

from __future__ import annotations

import inspect
import re
import tomllib
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from streamlit.testing.v1 import AppTest

import persist_session
from persist_session import settings
from persist_session.stores import MemoryStore
from support import AppServer, StrippingProxy, Visitor, write_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Visit

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
}
README = PAGES["README.md"]
TEXT = "\n".join(PAGES.values())
SETTINGS = set(inspect.signature(persist_session.configure).parameters)


@dataclass(frozen=True)
class Block:
    """A fenced block, its page, and the heading above it."""

    page: str
    heading: str
    source: str

    def __str__(self) -> str:
        return f"{Path(self.page).stem}-{self.heading.lower().replace(' ', '-')}".replace("persist_session", "first")


def blocks(language: str) -> list[Block]:
    """Return the blocks of one language, in order."""
    return [
        Block(page, _heading_before(text[: found.start()]), found[1])
        for page, text in PAGES.items()
        for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    ]


def _without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def _heading_before(text: str) -> str:
    return str(re.findall(r"^#+ (.*)$", _without_blocks(text), flags=re.MULTILINE)[-1])


def _kind(block: Block) -> str:
    signs = {"st.App(": "server", "\ndef test_": "test", "st.navigation(": "alone", "\nconfigure(": "alone"}
    kinds = [kind for sign, kind in signs.items() if sign in block.source]
    if "import streamlit as st" not in block.source:
        kinds = kinds if kinds[:1] == ["test"] else ["script"]
    return kinds[0] if kinds else "page"


PYTHON = {
    kind: [block for block in blocks("python") if _kind(block) == kind]
    for kind in ("server", "test", "alone", "script", "page")
}

# One server shows all examples that can be pages of one app.
FRAME = """
    from pathlib import Path
    import streamlit as st

    st.navigation([st.Page(path) for path in sorted(Path(__file__).parent.glob("example*.py"))]).run()
"""


@dataclass(frozen=True)
class Examples:
    """A server of all examples, and a proxy before it that strips cookies."""

    server: AppServer
    proxied: str

    def open(self, visit: Visit, block: Block, *, strips: bool = False) -> Visitor:
        """Return a new browser's tab on the page of an example."""
        page = f"example{PYTHON['page'].index(block):02}"
        return visit(self.proxied if strips else self.server.url, page=page, strip_cookies=strips)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examples]:
    """Return all examples, served."""
    folder = tmp_path_factory.mktemp("examples")
    write_app(folder, "import streamlit", "example.py")  # the page at "/"
    for number, block in enumerate(PYTHON["page"]):
        write_app(folder, block.source, f"example{number:02}.py")
    with ExitStack() as stack:
        server = stack.enter_context(AppServer(write_app(folder, FRAME)))
        yield Examples(server, stack.enter_context(StrippingProxy(server.url)).url)


@pytest.fixture
def own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test configure; afterwards all is as before."""
    monkeypatch.setattr(settings, "_configured", {})
    monkeypatch.setattr(settings, "_resolved", {})


# --- the examples


def test_examples_are_found() -> None:
    """The patterns above still find the blocks, so that no later test passes for want of one."""
    assert {kind: len(found) > 0 for kind, found in PYTHON.items()} == dict.fromkeys(PYTHON, True)
    found = [block for language in ("python", "toml", "bash", "text") for block in blocks(language)]
    assert len(found) == TEXT.count("\n```\n")


@pytest.mark.parametrize("block", PYTHON["page"], ids=str)
def test_example_runs_on_a_server(block: Block, examples: Examples, visit: Visit) -> None:
    """An example shows no exception on a first visit, after any of its buttons, and after a reload."""
    tab = examples.open(visit, block)
    for label in [button.label for button in tab.find("button")]:
        tab = tab.click(label)
        assert tab.exceptions() == []
    assert tab.reload().exceptions() == []
    assert "Traceback" not in examples.server.logs()


@pytest.mark.parametrize("block", PYTHON["alone"], ids=str)
def test_example_runs_alone(block: Block, tmp_path: Path, own_settings: None) -> None:
    """An example that configures the process, or has pages of its own, shows no exception, after any button neither."""
    persist_session.configure(store=MemoryStore(), secret_keys=["k" * 32])
    app = AppTest.from_file(str(write_app(tmp_path, block.source)), default_timeout=30).run()
    for number in range(len(app.button)):
        app.button[number].click().run()
    assert not app.exception


@pytest.mark.parametrize("block", PYTHON["test"], ids=str)
def test_example_of_a_test_passes(
    block: Block, tmp_path: Path, own_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An example of a test passes beside the first example as app.py."""
    write_app(tmp_path, PYTHON["page"][0].source)
    namespace = _run(write_app(tmp_path, block.source, "test_app.py"), monkeypatch)
    (test,) = [value for name, value in namespace.items() if name.startswith("test_")]
    test()


@pytest.mark.parametrize("block", PYTHON["script"], ids=str)
def test_example_of_a_script_ends(
    block: Block, tmp_path: Path, own_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An example for a cron job runs outside of an app."""
    monkeypatch.setenv("HOME", str(tmp_path))
    _run(write_app(tmp_path, block.source.replace("/srv/state", f"{tmp_path}/state"), "script.py"), monkeypatch)


def _run(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the globals of a script that was run in its folder."""
    monkeypatch.chdir(path.parent)
    namespace: dict[str, Any] = {"__name__": "example", "__file__": str(path)}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    return namespace


# --- and do what the text says


def test_first_example_survives_a_reload(examples: Examples, visit: Visit) -> None:
    """The ten lines at the top show their number in the first run after a reload."""
    tab = examples.open(visit, PYTHON["page"][0]).click("Increment").click("Increment").reload()
    assert (tab.metric("Count"), tab.runs) == ("2", 1)


@pytest.mark.parametrize("strips", [False, True], ids=["direct", "stripped"])
@pytest.mark.parametrize(
    ("label", "heading"), [("City", "Keep what a widget shows"), ("Text", "Load and save by hand")]
)
def test_field_loses_no_edit(label: str, heading: str, strips: bool, examples: Examples, visit: Visit) -> None:
    """A field with a kept value takes one edit after another, and shows the last one after reloads."""
    tab = examples.open(visit, _page_under(heading), strips=strips)
    for text in ("Rome", "Oslo", "Lima"):
        tab.set_text_input(label, text)
        for button in tab.find("button"):
            tab = tab.click(button.label)
    for _ in range(2):
        tab = tab.reload().rerun()
        assert _shown_in(tab, label) == "Lima"


def test_field_follows_another_tab(examples: Examples, visit: Visit) -> None:
    """A tab whose widget still has the old value shows the new one at its next run, and saves nothing over it."""
    tab = examples.open(visit, _page_under("Keep what a widget shows")).set_text_input("City", "Oslo")
    other = tab.new_tab().set_text_input("City", "Rome")
    assert _shown_in(tab.rerun(), "City") == "Rome"
    assert _shown_in(other.reload(), "City") == "Rome"


def test_fragment_counts_each_vote(examples: Examples, visit: Visit) -> None:
    """Callbacks of a fragment change the state, also where a reload brings it late."""
    tab = examples.open(visit, _page_under("Change it in callbacks and fragments"), strips=True)
    for count in (1, 2):
        tab = tab.click("Yes").reload()
        assert f'"Yes":{count}' in str(tab.texts()).replace(" ", "")


def test_consent_is_asked_before_it_is_kept(examples: Examples, visit: Visit) -> None:
    """The basket outlives a reload from the moment on when the visitor agreed, and no longer when they took it back."""
    tab = examples.open(visit, _page_under("Ask before you remember")).click("Add a lamp")
    assert _lamps(tab := tab.reload()) == 0
    assert _lamps(tab := tab.click("Add a lamp").set_widget(tab.find("checkbox")[0], True).reload()) == 1
    assert _lamps(tab := tab.set_widget(tab.find("checkbox")[0], False)) == 1
    assert _lamps(tab.reload()) == 0


def test_forgetting_deletes_the_notes(examples: Examples, visit: Visit) -> None:
    """Either button does."""
    tab = examples.open(visit, _page_under("Forget"))
    for label in ("Forget my notes", "Forget me"):
        tab = tab.click("Note").reload()
        assert "a note" in str(tab.texts())
        tab = tab.click(label).reload()
        assert "a note" not in str(tab.texts())


def test_renamed_class_loads_under_its_old_name(tmp_path: Path, own_settings: None) -> None:
    """A state saved under the old class name loads where the old name still stands, and only there."""
    persist_session.configure(store=MemoryStore(), secret_keys=["k" * 32])
    renamed = _page_under("Rename a class").source.replace(", Preferences)", ', Preferences, user="ada")')
    line_of_old_name = "Prefs = Preferences  # saved states still ask for it\n"
    assert line_of_old_name in renamed
    old = renamed.replace(line_of_old_name, "").replace("Preferences", "Prefs")
    saves = old.replace("st.write(preferences.colour)", 'preferences.colour = "plum"')

    def visited(source: str) -> AppTest:
        return AppTest.from_file(str(write_app(tmp_path, source)), default_timeout=30).run()

    assert not visited(saves).exception
    assert "UnloadableStateError" in str(visited(renamed.replace(line_of_old_name, "")).exception[0])
    assert visited(renamed).markdown[0].value == "plum"


@pytest.mark.parametrize("block", {block.source: block for block in PYTHON["server"]}.values(), ids=str)
def test_example_of_a_server_sets_the_cookie(block: Block, tmp_path: Path, visit: Visit) -> None:
    """The page brings who has agreed the cookie, HttpOnly; who has not gets it only where nobody is asked."""
    write_app(tmp_path, PYTHON["page"][0].source)
    with AppServer(write_app(tmp_path, block.source, "asgi.py")) as server:
        cookie = f"persist_session-{server.port}"
        assert _cookies_of_a_page(server, "banner=yes") == [cookie]
        assert _cookies_of_a_page(server, "banner=no") == ([] if "remember=" in block.source else [cookie])
        tab = visit(server, fetch_page=True, jar={"banner": "yes"}).click("Increment").reload()
        assert (tab.metric("Count"), tab.runs, tab.exceptions(), tab.iframes()) == ("1", 1, [], [])


def _cookies_of_a_page(server: AppServer, cookie: str) -> list[str]:
    """Return the names of the HttpOnly cookies, but for Streamlit's own, that a page brings who sends this one."""
    request = urllib.request.Request(server.url, headers={"Cookie": cookie})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as page:
        found = [value for value in page.headers.get_all("Set-Cookie") or [] if "HttpOnly" in value]
    return [value.partition("=")[0] for value in found if not value.startswith("_streamlit")]


def _page_under(heading: str) -> Block:
    return next(block for block in PYTHON["page"] if block.heading == heading)


def _shown_in(tab: Visitor, label: str) -> str:
    (element,) = [each for kind in ("text_input", "text_area") for each in tab.find(kind) if each.label == label]
    return str(element.proto.value if element.proto.set_value else element.proto.default)


def _lamps(tab: Visitor) -> int:
    return str(tab.texts()).count("lamp")


# --- what the text names


def test_readme_is_short() -> None:
    """It has 1,500 words at most, code included."""
    assert len(README.split()) <= 1500


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_example_of_secrets_names_settings(block: Block) -> None:
    """Every key in an example of secrets.toml is a setting, and every secret key is long enough."""
    section = tomllib.loads(block.source)["persist_session"]
    assert set(section) <= SETTINGS
    assert all(len(key) >= 32 for key in section["secret_keys"])


def test_every_variable_is_a_setting() -> None:
    """Every environment variable that is named belongs to a setting."""
    named = set(re.findall(r"PERSIST_SESSION_([A-Z_]+)", TEXT))
    assert named
    assert {name.lower() for name in named} <= SETTINGS


def test_tables_are_complete() -> None:
    """The tables have every setting, every option and every method of a store, and no other."""
    options = set(inspect.signature(persist_session.persistent_state).parameters) - {"name", "factory"}
    methods = {name for name, value in vars(persist_session.Store).items() if name[0] != "_" and callable(value)}
    assert _table("docs/settings.md", "| setting |") == SETTINGS
    assert _table("README.md", "| option |") == options
    assert _table("docs/stores.md", "| method |") == methods


def _table(page: str, head: str) -> set[str]:
    table = PAGES[page][PAGES[page].index(head) :].split("\n\n")[0]
    return set(re.findall(r"^\| `(\w+)", table, flags=re.MULTILINE))


def test_every_make_target_exists() -> None:
    """Every `make` command that is named is a target of the Makefile."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`make (\w+)`", TEXT))
    assert named
    assert named <= set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    """Pictures, files and headings that are linked to exist."""
    for target in re.findall(r"\]\(([^)]+)\)", _without_blocks(PAGES[page])):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            file = (REPOSITORY / page).parent / path if path else REPOSITORY / page
            assert file.is_file(), target
            assert not anchor or anchor in _anchors(file), target


def _anchors(file: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", _without_blocks(file.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_error_exists() -> None:
    """Every error that is named is exported, and every exported one is named."""
    exported = {name for name in persist_session.__all__ if name.endswith("Error")}
    assert set(re.findall(r"`(\w+Error)`", TEXT)) == exported
