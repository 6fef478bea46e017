"""Settings, proxies, other apps, bad cookies and crashes around the app: the state is kept, and nothing else is."""

from __future__ import annotations

import re
import textwrap
import time
import urllib.request
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import time_machine
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.testing.v1 import AppTest

from persist_session.keys import derive
from persist_session.record import open_sealed, seal
from persist_session.signing import new_session_id, sign
from support import Jar, StrippingProxy, Visitor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Served, Visit

    from support import AppServer

SECRET = "the key of the app under test: long enough"
KEYS = derive((SECRET,))
OTHER_KEYS = derive(("the key of quite another app: long enough",))

APP = """
    import time
    from pathlib import Path

    import streamlit as st

    def note():
        with open("session-state", "a") as seen:
            seen.write(repr(dict(st.session_state)) + chr(10))

    note()
    st.write(st.session_state)

    from persist_session import clear_cookie_state, persistent_state, state_info

    class AppState:
        def __init__(self):
            self.count = 0

    def clear():
        clear_cookie_state("app-state")

    st.button("Clear in callback", on_click=clear)
    if st.button("Clear"):
        clear()
    if st.button("Clear twice"):
        clear()
        clear()
    if st.button("Clear around"):
        clear()
        with persistent_state("app-state", AppState) as s:
            s.count += 10
            clear()
    hold = st.button("Hold")
    with persistent_state("app-state", AppState) as s:
        if st.button("Add"):
            s.count += 1
        if hold:
            s.count += 100
            st.text("holding")
            while not Path("go-on").exists():
                time.sleep(0.01)
    if hold:
        Path("hold-is-over").touch()
    if st.button("Clear after"):
        clear()
    if st.button("Forget"):
        st.session_state.clear()
    st.text(f"count={s.count}")
    st.text(f"info={state_info('app-state')}")
    st.write(st.session_state)
    note()
"""

ENVIRONMENT = {"PERSIST_SESSION_SECRET_KEYS": SECRET}


@pytest.fixture
def app(served: Served) -> AppServer:
    """Return the server of APP, with its key known to the test."""
    server = served(APP, env=ENVIRONMENT)
    for name in ("go-on", "hold-is-over"):
        (server.app.parent / name).unlink(missing_ok=True)
    return server


def count(tab: Visitor) -> int:
    """Return the count that is shown."""
    (text,) = [text for text in tab.texts() if text.startswith("count=")]
    return int(text.removeprefix("count="))


def cookie_name(server: AppServer) -> str:
    """Return the name of the state's cookie."""
    return f"app-state-{server.port}"


def session_id(tab: Visitor) -> str:
    """Return the secret part of the tab's cookie."""
    (value,) = tab.jar.values()
    return value.partition(".")[0]


def records(server: AppServer) -> dict[Path, bytes]:
    """Return all records in the default store."""
    return {path: path.read_bytes() for path in server.data_folder.rglob("*.pickle")}


def only_new(server: AppServer, before: dict[Path, bytes]) -> Path:
    """Return the one record that was not there before."""
    (path,) = records(server).keys() - before.keys()
    return path


def assert_no_secret(tab: Visitor, server: AppServer) -> None:
    """Neither the log nor the page nor st.session_state in any run shows the id or anything like a signed cookie."""
    secret = session_id(tab)
    notes = server.app.parent / "session-state"
    assert secret not in server.logs()
    assert [text for text in tab.texts() if secret in text] == []
    assert re.findall(r"[0-9a-f]{32}\.", notes.read_text() + server.logs()) == []


SETTINGS = {
    "plain": {},
    "serializable": {"runner.enforceSerializableSessionState": True},
    "base path": {"server.baseUrlPath": "shop/window"},
    "health check": {"server.scriptHealthCheckEnabled": True},
    "slow reruns": {"runner.fastReruns": False},
}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_a_visit_and_a_reload(served: Served, visit: Visit, options: dict[str, object]) -> None:
    """A first visit takes two runs, a reload one and no iframe; no secret is shown, logged or in st.session_state."""
    server = served(APP, env=ENVIRONMENT, options=options) if options else served(APP, env=ENVIRONMENT)
    tab = visit(server)
    assert tab.runs == 2
    assert count(tab.click("Add").click("Add")) == 2
    assert tab.exceptions() == []
    assert tab.jar.options[cookie_name(server)]["path"] == f"/{server.base_path}"
    with tab.reload() as again:
        assert (again.runs, count(again), again.iframes(), again.exceptions()) == (1, 2, [], [])
        assert_no_secret(again, server)
        assert count(again.click("Add").rerun()) == 3
        assert_no_secret(again, server)


def test_a_first_visit_in_one_run_where_the_browser_is_not_asked(served: Served, visit: Visit) -> None:
    """With ask_browser off, the first run sets the cookie already."""
    server = served(APP, env={**ENVIRONMENT, "PERSIST_SESSION_ASK_BROWSER": "false"})
    tab = visit(server)
    assert (tab.runs, tab.iframes("getAll")) == (1, [])
    assert count(tab.click("Add")) == 1
    with tab.reload() as again:
        assert (again.runs, count(again), again.iframes()) == (1, 1, [])


@pytest.mark.parametrize("is_first_visit", [True, False])
def test_clearing_streamlits_own_memory_keeps_state_and_id(
    app: AppServer, visit: Visit, *, is_first_visit: bool
) -> None:
    """st.session_state.clear() and the menu's "Clear cache" never mint another id, and the state stays."""
    tab = visit(app).click("Add")
    if not is_first_visit:
        tab = tab.reload()
    jar, there = dict(tab.jar), set(records(app))
    for _ in range(3):
        assert count(tab.click("Forget").click("Add").click("Forget").rerun()) > 1
        message = BackMsg()
        message.clear_cache = True
        tab._send(message)
    assert count(tab.rerun()) == 4
    assert tab.exceptions() == []
    assert (dict(tab.jar), set(records(app))) == (jar, there)
    with tab.reload() as again:
        assert count(again) == 4


def test_who_is_no_browser_leaves_nothing(served: Served, visit: Visit) -> None:
    """A script health check, a crawler that reads the page, and a client without components write no record."""
    server = served(APP, env=ENVIRONMENT, options={"server.scriptHealthCheckEnabled": True})
    before = records(server)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for path in ("_stcore/script-health-check", "", "_stcore/health"):
        with opener.open(f"{server.url}/{path}", timeout=30) as answer:
            assert answer.status == 200
    tab = visit(server, components=False)
    assert count(tab.click("Add").click("Add")) == 2
    assert tab.exceptions() == []
    tab.close()
    assert records(server) == before


@pytest.mark.parametrize("through", ["proxy", "strip_cookies"])
def test_behind_a_proxy_that_strips_cookies_a_reload_restores(app: AppServer, visit: Visit, through: str) -> None:
    """Where handshakes carry no cookie the browser's answer restores in two runs, and the good cookie stays."""
    with StrippingProxy(app.url) as proxy:
        tab = visit(proxy.url) if through == "proxy" else visit(app, strip_cookies=True)
        tab.click("Add").click("Add")
        jar = dict(tab.jar)
        for _ in range(3):
            tab = tab.reload()
            assert (tab.runs, count(tab), tab.exceptions()) == (2, 2, [])
            assert count(tab.rerun()) == 2
            assert dict(tab.jar) == jar
            # The answer carries all cookies: not even the script's first line may find the signed one.
            assert_no_secret(tab, app)
        assert all(method == "getAll" for method, _ in tab.cookie_calls)
        tab.close()


def test_two_apps_on_one_host_do_not_disturb_each_other(served: Served, app: AppServer, visit: Visit) -> None:
    """Two ports, one state name, two keys, one browser: each app keeps its own cookie and state."""
    other = served(APP, env={})
    tab = visit(app).click("Add")
    with visit(other, jar=tab.jar).click("Add").click("Add") as second:
        jar = dict(tab.jar)
        assert {cookie_name(app), cookie_name(other)} <= jar.keys()
        with tab.new_tab() as one, second.new_tab() as two:
            assert (one.runs, count(one), two.runs, count(two)) == (1, 1, 1, 2)
        assert dict(tab.jar) == jar
    assert "forged" not in other.logs()


def tampered(value: str) -> str:
    """Return the cookie with one character of its id changed."""
    return ("0" if value[0] != "0" else "1") + value[1:]


def expired(value: str) -> str:
    """Return a cookie for the same id, signed 31 days ago."""
    with time_machine.travel(time.time() - timedelta(days=31).total_seconds()):
        return sign("app-state", value.partition(".")[0], KEYS)


BAD: dict[str, Callable[[str], str]] = {
    "tampered": tampered,
    "signature gone": lambda value: value.rpartition(".")[0],
    "expired": expired,
    "for another name": lambda value: sign("other-state", value.partition(".")[0], KEYS),
    "by another key": lambda value: sign("app-state", value.partition(".")[0], OTHER_KEYS),
    "upper case": str.upper,
    "not hex": lambda _: sign("app-state", "../../../../../../etc/passwd-none", KEYS),
    "garbage of 4 KB": lambda _: "garbage" * 585,
    "unicode": lambda _: "%C3%A4%F0%9F%8D%AA",
    "raw bytes": lambda _: "\xe4\xf6\xfc",
    "empty": lambda _: "",
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_cookie_counts_as_absent(app: AppServer, visit: Visit, bad: str) -> None:
    """The visitor gets a fresh state under a new id; no error, no file touched, nothing of the value in the log."""
    owner = visit(app).click("Add")
    value = BAD[bad](owner.jar[cookie_name(app)])
    before = records(app)
    tab = visit(app, jar={cookie_name(app): value})
    assert (count(tab), tab.exceptions()) == (0, [])
    assert tab.jar[cookie_name(app)] != value
    assert count(tab.click("Add")) == 1
    assert {path: data for path, data in records(app).items() if path in before} == before
    assert not value or value not in app.logs()
    start = value.partition(".")[0].lower()
    assert not start or start not in app.logs().lower()
    with owner.reload() as again:
        assert count(again) == 1


def test_every_changed_byte_of_a_cookie_is_noticed(app: AppServer, visit: Visit) -> None:
    """Whichever character is another one, the cookie is no longer valid (the last one's slack bits aside)."""
    owner = visit(app).click("Add")
    name, value = cookie_name(app), owner.jar[cookie_name(app)]
    changed = [value[:at] + ("A" if letter != "A" else "B") + value[at + 1 :] for at, letter in enumerate(value[:-1])]
    for start in range(0, len(changed), 30):
        header = "; ".join(f"{name}={each}" for each in changed[start : start + 30])
        tab = visit(app, headers={"Cookie": header}, components=False)
        assert (count(tab), tab.exceptions()) == (0, [])


def test_of_several_cookies_the_newest_valid_one_counts(app: AppServer, visit: Visit) -> None:
    """A browser may send one of each path and domain: forged ones and older ones do not hide the visitor's own."""
    owner = visit(app).click("Add")
    name, value = cookie_name(app), owner.jar[cookie_name(app)]
    with time_machine.travel(time.time() - 3600):
        older = sign("app-state", new_session_id(), KEYS)
    orders = [[older, value, tampered(value)], [tampered(value), value, older], [value, "", older]]
    for order in orders:
        tab = visit(app, headers={"Cookie": "; ".join(f"{name}={each}" for each in order)})
        assert (tab.runs, count(tab), tab.exceptions()) == (1, 1, [])


def split(path: Path) -> tuple[bytes, bytes]:
    """Return a record file's first line and its sealed bytes."""
    line, _, sealed = path.read_bytes().partition(b"\n")
    return line + b"\n", sealed


def truncate(path: Path, _: Path) -> None:
    """Cut the file short."""
    path.write_bytes(path.read_bytes()[:-40])


def truncate_all(path: Path, _: Path) -> None:
    """Leave nothing of it."""
    path.write_bytes(b"")


def flip(path: Path, _: Path) -> None:
    """Turn one bit."""
    data = bytearray(path.read_bytes())
    data[-60] ^= 1
    path.write_bytes(data)


def swap(path: Path, other: Path) -> None:
    """Put another visitor's record in its place."""
    path.write_bytes(other.read_bytes())


def reseal(path: Path, _: Path) -> None:
    """Seal it with a key that the app does not know."""
    line, sealed = split(path)
    path.write_bytes(line + seal(path.stem, open_sealed(path.stem, sealed, KEYS), OTHER_KEYS))


@pytest.mark.parametrize("damage", [truncate, truncate_all, flip, swap, reseal])
def test_a_damaged_record_is_set_aside(app: AppServer, visit: Visit, damage: Callable[[Path, Path], None]) -> None:
    """One warning, a fresh state that is kept from then on, the bytes aside, and other visitors' records alone."""
    before = records(app)
    other = visit(app).click("Add")
    theirs = only_new(app, before)
    before = records(app)
    tab = visit(app).click("Add").click("Add")
    mine = only_new(app, before)
    tab.close()
    damage(mine, theirs)
    broken = mine.read_bytes()
    warnings = app.logs().count("is damaged")
    with tab.new_tab() as again:
        assert (again.runs, count(again), again.exceptions()) == (1, 0, [])
        assert count(again.rerun().click("Add")) == 1
        assert count(again.reload()) == 1
    assert app.logs().count("is damaged") == warnings + 1
    assert [path.read_bytes() for path in mine.parent.glob(f"{mine.stem}*.aside")] == [broken]
    assert count(other.reload()) == 1


def test_a_killed_server_restores_after_its_start(serve: Callable[..., AppServer], visit: Visit) -> None:
    """SIGKILL right after a click: a reload, and a tab that stayed open, find everything."""
    server = serve(APP)
    tab = visit(server).click("Add").click("Add")
    server.kill()
    server.start()
    with tab.new_tab() as again:
        assert (again.runs, count(again), again.iframes()) == (1, 2, [])
    tab.disconnect()
    tab.connect(rerun=True)
    assert count(tab.wait_run()) == 2
    assert count(tab.click("Add")) == 3


@pytest.mark.parametrize("button", ["Clear", "Clear in callback", "Clear twice", "Clear after"])
@pytest.mark.parametrize("is_first_visit", [True, False])
def test_clearing_deletes_the_record_and_retires_the_id(
    app: AppServer, visit: Visit, button: str, *, is_first_visit: bool
) -> None:
    """The old record is gone, the state is fresh, and the browser gets another id that is kept from then on."""
    before = records(app)
    tab = visit(app).click("Add")
    old_record, old_id, old_jar = only_new(app, before), session_id(tab), dict(tab.jar)
    if not is_first_visit:
        tab = tab.reload()
    tab.click(button).rerun()
    assert (count(tab), tab.exceptions()) == (0, [])
    assert not old_record.exists()
    assert session_id(tab) != old_id
    assert count(tab.click("Add")) == 1
    with tab.reload() as again:
        assert (again.runs, count(again)) == (1, 1)
        assert count(again.click(button).click("Add").click(button).rerun()) == 0
    assert not old_record.exists()
    with visit(app, jar=old_jar) as replayed:
        assert count(replayed) == 0


def test_a_late_save_does_not_bring_a_cleared_state_back(app: AppServer, visit: Visit) -> None:
    """A run that is still in its block when the state is cleared saves nothing when it ends."""
    before = records(app)
    tab = visit(app).click("Add")
    old_record = only_new(app, before)
    tab.click("Hold", wait=False).wait_until(lambda tab: "holding" in tab.texts())
    tab.click("Clear").click("Add")
    folder = app.app.parent
    (folder / "go-on").touch()
    deadline = time.monotonic() + 60
    while not (folder / "hold-is-over").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (count(tab.rerun()), tab.exceptions()) == (1, [])
    assert not old_record.exists()
    with tab.reload() as again:
        assert (again.runs, count(again)) == (1, 1)


def test_clearing_inside_a_block_that_was_never_saved(app: AppServer, visit: Visit) -> None:
    """The end of the block writes nothing: one record is left, that of the id that the browser has."""
    before = records(app)
    tab = visit(app).click("Add").click("Clear around").click("Add")
    assert (count(tab), tab.exceptions()) == (1, [])
    only_new(app, before)
    with tab.reload() as again:
        assert (again.runs, count(again)) == (1, 1)


def test_two_tabs_of_one_browser_see_one_state(app: AppServer, visit: Visit) -> None:
    """A second tab adopts the cookie of the first."""
    tab = visit(app, jar=Jar()).click("Add")
    with tab.new_tab() as second:
        assert (second.runs, count(second)) == (1, 1)
        assert session_id(second) == session_id(tab)


IN_APP_TEST = """
    import streamlit as st
    from persist_session import clear_cookie_state, persistent_state, state_info

    with persistent_state("app-test-state", dict) as s:
        if st.button("Add"):
            s["count"] = s.get("count", 0) + 1
        st.text(f"count={s.get('count', 0)}")
    if st.button("Clear"):
        clear_cookie_state("app-test-state")
    info = state_info("app-test-state")
    st.text(f"cookie={info.cookie if info else None}")
"""


@pytest.mark.filterwarnings("default")
def test_streamlits_own_app_test_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In AppTest there is no browser: the state is kept within the test, and nothing is written."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PERSIST_SESSION_SECRET_KEYS", SECRET)

    test = AppTest.from_string(textwrap.dedent(IN_APP_TEST), default_timeout=60).run()
    for wanted in (1, 2, 3):
        test.button[0].click().run()
        assert not test.exception
        assert [text.value for text in test.text] == [f"count={wanted}", "cookie=asking"]
    test.button[1].click().run()
    assert test.run().text[0].value == "count=0"
    assert list(tmp_path.rglob("*")) == []
