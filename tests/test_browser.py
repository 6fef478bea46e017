"""What a visitor sees in a real browser: a state that is there again, at once, and nothing of how."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING

import pytest

from support import AppServer, StrippingProxy
from support.browser import (
    cookie_of,
    names_of,
    open_app,
    press,
    record_text,
    recorded_text,
    reload_app,
    run_shown,
    shown,
    visit_first,
    wait_for_cookie,
    wait_for_run,
    wait_idle,
    wait_quiet,
)
from support.server import APPS, SecureServer, self_signed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.browser

DAY = 24 * 3600


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """Return a server of the small apps, whose cookie a script sets."""
    with AppServer(APPS / "app.py", home=tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture
def proxied(server: AppServer, context: BrowserContext) -> Iterator[str]:
    """Return the address of a proxy that strips cookies from handshakes, as some hosts do."""
    with StrippingProxy(server.url) as proxy:
        yield proxy.url
        context.close()


def proxied_name(url: str) -> str:
    """Return what the cookie is called behind the proxy."""
    return f"persist_session-{url.rpartition(':')[2]}-js"


# A first visit, and a reload


def test_a_reload_restores_at_once(server: AppServer, page: Page) -> None:
    """Two clicks of a first visit are the first thing that a reload shows, in one run without any iframe."""
    record_text(page, ".st-key-count")
    record_text(page, "iframe")
    visit_first(page, server)
    assert run_shown(page) == 1, "the browser's answer runs the script no second time"
    press(page, "Add")
    press(page, "Add")
    reload_app(page)
    assert [text for text in recorded_text(page, ".st-key-count") if text] == ["Count 2"]
    press(page, "Add")
    assert shown(page, "count") == "Count 3"
    assert run_shown(page) == 2, "one for the reload, one for the click"
    assert recorded_text(page, "iframe") == [None]


def test_five_names_have_one_cookie(server: AppServer, page: Page) -> None:
    """It lasts 400 days, stays on the site, and holds nothing that a header would quote."""
    visit_first(page, server, "five")
    press(page, "Add")
    assert names_of(page.context) == [server.cookie_name]
    cookie = cookie_of(page.context, server.cookie_name)
    assert abs(cookie["expires"] - time.time() - 400 * DAY) < 120
    assert (cookie["sameSite"], cookie["path"], cookie["domain"]) == ("Lax", "/", "127.0.0.1")
    assert (cookie["secure"], cookie["httpOnly"]) == (False, False)
    reload_app(page)
    assert shown(page, "seen") == "[1, 1, 1, 1, 1]"
    assert cookie_of(page.context, server.cookie_name)["value"] == cookie["value"]


def test_a_stripping_proxy_keeps_the_cookie(proxied: str, page: Page) -> None:
    """Where handshakes come without cookies a reload restores in a second run, and sets no other cookie."""
    open_app(page, proxied)
    cookie = wait_for_cookie(page.context, proxied_name(proxied))
    press(page, "Add")
    press(page, "Add")
    for _ in range(2):
        page.reload()
        page.get_by_text("Count 2").wait_for()
        wait_idle(page)
        assert run_shown(page) == 1, "the second run of the page begins it anew"
        assert cookie_of(page.context, proxied_name(proxied))["value"] == cookie


def test_a_secure_page_has_a_host_cookie(tmp_path: Path, chromium: Browser) -> None:
    """On https a script's cookie is Secure, its name begins with `__Host-`, and a reload restores."""
    with (
        SecureServer(APPS / "app.py", home=tmp_path, options=self_signed(tmp_path)) as secure,
        chromium.new_context(ignore_https_errors=True) as context,
    ):
        page, name = context.new_page(), f"__Host-{secure.cookie_name}"
        open_app(page, secure.url)
        wait_for_cookie(context, name)
        press(page, "Add")
        reload_app(page)
        assert (shown(page, "count"), run_shown(page)) == ("Count 1", 1)
        assert names_of(context) == [name]
        assert cookie_of(context, name)["secure"]


# Wherever the block stands

# Where an element stands, whenever that changed; in a dialog, which comes in gliding, within the dialog.
# A form's button may come late, and moves what is below: only the last place counts. So does what comes into a
# container later than what stands below it.
WATCH = """() => {
    const seen = window.__places = { after: [], below: [] };
    const isFormAbove = /form/.test(location.search);
    const look = () => {
        for (const [name, places] of Object.entries(seen)) {
            const found = document.querySelector(`.st-key-${name}`);
            const box = found?.getBoundingClientRect();
            if (!box?.height) {
                continue;
            }
            const dialog = found.closest('[role="dialog"]');
            const y = Math.round(box.y - (dialog?.getBoundingClientRect().y ?? 0));
            if (name === 'below' && isFormAbove) {
                places.length = 0;
            }
            if (name === 'after' && !places.length) {
                seen.below.length = 0;
            }
            if (places.at(-1) !== y) {
                places.push(y);
            }
        }
    };
    const frame = () => { look(); requestAnimationFrame(frame); };
    new MutationObserver(look).observe(document, { subtree: true, childList: true, attributes: true });
    frame();
}"""


@pytest.mark.parametrize("place", ["main body", "form", "sidebar", "dialog", "parallel fragment"])
def test_the_page_does_not_move(server: AppServer, context: BrowserContext, place: str) -> None:
    """On a first visit no element ever stands elsewhere than on the same page without the library."""
    plain, page = (watched_page(context, server, place, kind) for kind in ("plain", "persistent"))
    wait_for_cookie(context, server.cookie_name)
    wait_idle(page)
    assert places_seen(page) == places_seen(plain)


def watched_page(context: BrowserContext, server: AppServer, place: str, kind: str) -> Page:
    """Return a tab that has been watched since before the app was loaded."""
    page = context.new_page()
    page.add_init_script(f"({WATCH})()")
    open_app(page, f"{server.url}/places?place={place}&kind={kind}")
    page.locator(".st-key-below").wait_for()
    if place == "form":
        page.get_by_role("button", name="Submit").wait_for()
    return page


def places_seen(page: Page) -> dict[str, list[int]]:
    """Return where the elements stood since the page was loaded, the present moment included."""
    page.bring_to_front()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    places: dict[str, list[int]] = page.evaluate("() => window.__places")
    return places


# A visitor who is quick

# Presses the page's button ten times from the first moment on, as fast as a person drums.
DRUM = """() => new Promise((done) => {
    let left = 10;
    const drum = () => {
        const button = [...document.querySelectorAll('button')].find((each) => each.innerText === 'Add');
        if (button) {
            button.click();
            left -= 1;
        }
        left ? setTimeout(drum, 120) : done();
    };
    drum();
})"""


def test_quick_clicks_lose_nothing(server: AppServer, chromium: Browser) -> None:
    """Ten clicks while a first visit's browser is asked: all that the app hears is kept.

    Streamlit forgets a click whose run another click interrupts before it came to the button, with or without a state.
    """
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(f"{server.url}/quick", wait_until="commit")
        page.evaluate(DRUM)
        wait_quiet(page)
        heard = int(shown(page, "count"))
        assert heard > 0
        assert wait_for_cookie(context, server.cookie_name)
        reload_app(page)
        assert shown(page, "kept") == str(heard)


# What people do


def fill(page: Page, label: str, text: str) -> None:
    """Type a text, and leave the field; Streamlit runs the script."""
    number = run_shown(page) + 1
    field = page.get_by_label(label)
    field.fill(text)
    field.press("Enter")
    wait_for_run(page, number)


def two_tabs(page: Page, server: AppServer, path: str) -> tuple[Page, Page]:
    """Return two tabs of a browser that has its cookie."""
    visit_first(page, server, path)
    other = page.context.new_page()
    open_app(other, f"{server.url}/{path}")
    return page, other


def in_front(page: Page) -> Page:
    """Return the tab, before the others: a browser seldom draws a page behind another one."""
    page.bring_to_front()
    return page


def test_a_thank_you_stays(server: AppServer, page: Page) -> None:
    """A state that only a submit meets: its first cookie's run leaves the submit's page as it is."""
    open_app(page, f"{server.url}/survey")
    for answers in ("one", "one two"):
        page.get_by_label("Answer").fill(answers.split()[-1])
        press(page, "Send")
        page.get_by_text("Thank you").wait_for()
        wait_for_cookie(page.context, server.cookie_name)
        wait_idle(page)
        assert page.get_by_text("Thank you").is_visible()
        assert shown(page, "seen") == answers
        reload_app(page)


def test_a_state_met_in_callbacks_stays(server: AppServer, page: Page) -> None:
    """Callbacks that load and save, from the first click of a first visit on."""
    open_app(page, f"{server.url}/votes")
    press(page, "Vote")
    wait_for_cookie(page.context, server.cookie_name)
    for button in ("Vote", "Vote", "How many?"):
        press(page, button)
    assert shown(page, "seen") == "3"
    reload_app(page)
    press(page, "How many?")
    assert shown(page, "seen") == "3"


def test_an_object_referred_to_twice(server: AppServer, page: Page) -> None:
    """What two tabs add under one reference keeps its own content, also where a tab only looked meanwhile."""
    one, other = two_tabs(page, server, "chats")
    for tab, title in ((one, "apples"), (other, "boats"), (one, "cars")):
        fill(in_front(tab), "Title", title)
        press(tab, "Begin")
    reload_app(one)
    assert json.loads(shown(one, "seen")) == {title: title for title in ("apples", "boats", "cars")}


def test_a_bound_method_stays_its_owners(server: AppServer, page: Page) -> None:
    """What two tabs did through a method of the state's own, in the state, is all there."""
    one, other = two_tabs(page, server, "basket")
    for tab, thing in ((one, "a1"), (other, "b1"), (one, "a2"), (one, "a3")):
        fill(in_front(tab), "Thing", thing)
        press(tab, "Put")
    reload_app(one)
    fill(one, "Thing", "a4")
    press(one, "Put")
    assert shown(one, "seen") == "a1 b1 a2 a3 a4 True"


def test_a_tree_does_not_grow_by_itself(server: AppServer, page: Page) -> None:
    """Two tabs in turns: each child costs the same few bytes, and knows its one parent."""
    one, other = two_tabs(page, server, "family")
    sizes = []
    for number in range(8):
        tab = in_front((one, other)[number % 2])
        press(tab, "Have a child")
        assert shown(tab, "seen") == f"{number + 1} True"
        sizes.append(int(shown(tab, "size")))
    growth = [after - before for before, after in itertools.pairwise(sizes[2:])]
    assert max(growth) <= min(growth) + 8


def test_a_part_held_elsewhere_is_heard(server: AppServer, page: Page) -> None:
    """An object in `st.session_state` that changes a part of the state: all three changes are kept."""
    visit_first(page, server, "checkout")
    for _ in range(3):
        press(page, "Buy")
    reload_app(page)
    assert shown(page, "seen") == "3 True"


def test_a_widget_filled_from_the_state(proxied: str, page: Page) -> None:
    """Behind a proxy that strips cookies the first run fills it too early; the saved value stays the visitor's."""
    open_app(page, f"{proxied}/city")
    wait_for_cookie(page.context, proxied_name(proxied))
    fill(page, "City", "Bonn")
    for _ in range(2):
        page.reload()
        page.get_by_text("City: Bonn").wait_for()
        wait_idle(page)
        assert shown(page, "seen") == "City: Bonn"


def test_what_does_not_load_again_is_named(server: AppServer, page: Page) -> None:
    """The error says where in the state it lies, of which class it is, and what to do; the next run goes on."""
    visit_first(page, server, "selection")
    press(page, "Keep")
    said = page.get_by_test_id("stException").inner_text()
    assert [
        word for word in ("UnpicklableStateError", "View.rows", "DataframeSelectionState", "dict(") if word not in said
    ] == []
    page.keyboard.press("r")
    page.get_by_text("rows None").wait_for()
    wait_idle(page)
    assert page.get_by_test_id("stException").count() == 0


def test_a_decorated_class_keeps_its_attributes(server: AppServer, page: Page) -> None:
    """Changed in a callback, before a rerun and before a stop: kept; what an exception ends is thrown away."""
    visit_first(page, server, "decorated")
    press(page, "Add in a callback")
    press(page, "Add and rerun", runs=2)
    press(page, "Fail")
    assert "broken on purpose" in page.get_by_test_id("stException").inner_text()
    press(page, "Add and stop")
    reload_app(page)
    assert shown(page, "count") == "Count 3 True"
    assert run_shown(page) == 1
