"""The README's examples run as they stand."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import persist_session
from support import AppServer, StrippingProxy, write_app

if TYPE_CHECKING:
    from conftest import Serve, Visit

    from support import Visitor

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Block:
    """A fenced block of the README and the heading above it."""

    heading: str
    line: int
    source: str

    def __str__(self) -> str:
        return f"{self.heading.lower().replace(' ', '-')}-line-{self.line}"


def blocks(language: str) -> list[Block]:
    """Return the README's blocks of one language, in order."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [
        Block(_heading_before(block.start()), README.count("\n", 0, block.start()) + 1, block[1]) for block in found
    ]


def _heading_before(position: int) -> str:
    outside_blocks = re.sub(r"^```.*?^```$", "", README[:position], flags=re.MULTILINE | re.DOTALL)
    return str(re.findall(r"^#+ (.*)$", outside_blocks, flags=re.MULTILINE)[-1])


def _is_test(block: Block) -> bool:
    return "\ndef test_" in block.source


def _is_server(block: Block) -> bool:
    return "st.App(" in block.source


SERVERS = [block for block in blocks("python") if _is_server(block)]
APPS = [block for block in blocks("python") if not _is_test(block) and not _is_server(block)]
TESTS = [block for block in blocks("python") if _is_test(block)]
SETTINGS = set(inspect.signature(persist_session.configure).parameters)


def test_the_readme_has_examples() -> None:
    """The patterns above still find the blocks, so that no later test passes for want of one."""
    assert len(APPS) > 10
    assert TESTS
    assert blocks("toml")
    assert blocks("bash")
    assert SERVERS
    assert len(SERVERS) + len(APPS) + len(TESTS) + len(blocks("toml")) + len(blocks("bash")) == README.count("\n```\n")


@pytest.mark.parametrize("block", APPS, ids=str)
def test_an_example_runs(block: Block, serve: Serve, visit: Visit) -> None:
    """An example shows no exception on a first visit, after any of its buttons, and after a reload."""
    server = serve(block.source)
    tab = visit(server)
    assert tab.exceptions() == []
    for label in [button.label for button in tab.find("button")]:
        tab = tab.click(label)
        assert tab.exceptions() == []
    assert tab.reload().exceptions() == []
    assert "Traceback" not in server.logs()


@pytest.mark.parametrize("block", SERVERS, ids=str)
def test_an_example_of_a_server_sets_the_cookies(block: Block, tmp_path: Path, visit: Visit) -> None:
    """Of all states that it names, for who has agreed: with an example as app.py the page brings them HttpOnly."""
    names = re.findall(r'names=\["([a-z-]+)"\]', block.source)
    assert names
    example = next(app for app in APPS if all(f'"{name}"' in app.source for name in names))
    write_app(tmp_path, example.source)
    with AppServer(write_app(tmp_path, block.source, "asgi.py")) as server:
        assert _cookies_of_a_page(server, "banner=yes") == {f"{name}-{server.port}" for name in names}
        tab = visit(server, fetch_page=True)
        assert (tab.exceptions(), tab.iframes()) == ([], [])
        assert "Traceback" not in server.logs()


def test_an_example_of_a_server_asks_for_consent(tmp_path: Path) -> None:
    """Who has not agreed gets the cookie of the state that holds their answer, and no other."""
    (block,) = [block for block in SERVERS if "remember=" in block.source]
    write_app(tmp_path, _app_under("Ask before you remember").source)
    with AppServer(write_app(tmp_path, block.source, "asgi.py")) as server:
        assert _cookies_of_a_page(server, "banner=no") == {f"consent-{server.port}"}


def _cookies_of_a_page(server: AppServer, cookie: str) -> set[str]:
    """Return the names of the HttpOnly cookies, but for Streamlit's own, that a page brings who sends this one."""
    request = urllib.request.Request(server.url, headers={"Cookie": cookie})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as page:
        found = [value for value in page.headers.get_all("Set-Cookie") if "HttpOnly" in value]
    return {value.partition("=")[0] for value in found if not value.startswith("_streamlit")}


def test_the_first_example_counts_and_survives_a_reload(serve: Serve, visit: Visit) -> None:
    """The ten lines at the top do what the text below them says."""
    tab = visit(serve(APPS[0].source))
    tab.click("Increment").click("Increment")
    reloaded = tab.reload()
    assert reloaded.metric("Count") == "2"
    assert reloaded.runs == 1


def test_a_kept_widget_takes_one_edit_after_another(serve: Serve, visit: Visit) -> None:
    """A widget that gets its value from the state, with a key, loses no edit."""
    tab = visit(serve(_app_under("Keep what a widget shows").source))
    for city in ("Rome", "Oslo", "Lima"):
        tab.set_text_input("City", city)
        assert _shown_first(tab.new_tab(), "City") == city


def test_a_kept_widget_follows_another_tab(serve: Serve, visit: Visit) -> None:
    """A tab whose widget still has the old value shows the new one at its next run, and saves nothing over it."""
    tab = visit(serve(_app_under("Keep what a widget shows").source)).set_text_input("City", "Oslo")
    other = tab.new_tab().set_text_input("City", "Rome")
    tab.rerun()
    assert _shown_first(tab, "City") == "Rome"
    assert _shown_first(other.new_tab(), "City") == "Rome"


def test_a_kept_widget_is_not_overwritten_behind_a_proxy(serve: Serve, visit: Visit) -> None:
    """Where each page load asks the browser, the widget of a reloaded page has the saved value, and keeps it."""
    with StrippingProxy(serve(_app_under("Keep what a widget shows").source).url) as proxy:
        tab = visit(proxy.url, strip_cookies=True).set_text_input("City", "Rome")
        for _ in range(2):
            tab = tab.reload()
            assert _shown_first(tab, "City") == "Rome"
            tab.rerun()


def test_a_renamed_class_with_its_old_name_loads(serve: Serve, visit: Visit) -> None:
    """A state saved under the old class name loads where the old name still stands, and only there."""
    renamed = _app_under("Rename a class, add an attribute").source
    line_of_old_name = "Prefs = Preferences  # saved states still ask for it\n"
    assert line_of_old_name in renamed
    old = renamed.replace(line_of_old_name, "").replace("Preferences", "Prefs")
    server = serve(old.replace("st.write(preferences.colour)", 'preferences.colour = "plum"'))
    tab = visit(server)

    server.app.write_text(renamed.replace(line_of_old_name, ""), encoding="utf-8")
    server.restart()
    assert "UnloadableStateError" in "".join(visit(server, jar=tab.jar).exceptions())

    server.app.write_text(renamed, encoding="utf-8")
    server.restart()
    assert visit(server, jar=tab.jar).texts() == ["plum"]


@pytest.mark.parametrize("block", TESTS, ids=str)
def test_an_example_of_a_test_passes(block: Block, tmp_path: Path) -> None:
    """An example of a test passes in a pytest of its own, beside the first example as app.py."""
    (tmp_path / "app.py").write_text(APPS[0].source, encoding="utf-8")
    (tmp_path / "test_app.py").write_text(block.source, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        "test_app.py",
    ]
    run = subprocess.run(
        command, cwd=tmp_path, env=_environment(tmp_path), capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_an_example_of_secrets_names_settings(block: Block) -> None:
    """Every key in an example of secrets.toml is a setting, and every secret key is long enough."""
    section = tomllib.loads(block.source)["persist_session"]
    assert set(section) <= SETTINGS
    assert all(len(key) >= 32 for key in section["secret_keys"])


def test_every_variable_is_a_setting() -> None:
    """Every environment variable that the README names belongs to a setting."""
    named = set(re.findall(r"PERSIST_SESSION_([A-Z_]+)", README))
    assert named
    assert {name.lower() for name in named} <= SETTINGS


def test_the_table_of_settings_is_complete() -> None:
    """The README's table has every setting, and no other."""
    table = README[README.index("| setting |") :].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)) == SETTINGS


def test_every_make_target_exists() -> None:
    """Every `make` command that the README shows is a target of the Makefile."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    named = {target for block in blocks("bash") for target in re.findall(r"^make (\w+)", block.source, re.MULTILINE)}
    assert named
    assert named <= set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))


def test_every_link_into_the_repository_leads_somewhere() -> None:
    """Pictures, files and headings that the README links to exist."""
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    headings = re.findall(r"^#+ (.*)$", README, flags=re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert [t for t in targets if t not in anchors and not (REPOSITORY / t).is_file()] == []


def test_every_public_name_in_the_text_exists() -> None:
    """What the README imports or raises is exported."""
    named = set(re.findall(r"`(\w+Error)`", README))
    assert named <= set(persist_session.__all__)


def _app_under(heading: str) -> Block:
    return next(block for block in APPS if block.heading == heading)


def _shown_first(tab: Visitor, label: str) -> str:
    (element,) = [element for element in tab.find("text_input") if element.label == label]
    return str(element.proto.value if element.proto.set_value else element.proto.default)


def _environment(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)}
