"""The demo, as a visitor sees it: what is done on a page is there after a reload."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support import AppServer, StrippingProxy
from support.browser import eventually, wait_idle, wait_quiet
from support.server import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Locator, Page, ViewportSize

PAGES = ("", "todo", "chat", "by_hand", "decorator", "what_is_kept")
PHONE: ViewportSize = {"width": 390, "height": 844}
DESKTOP: ViewportSize = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """Return a server of the demo, with a home folder of its own."""
    with AppServer(REPOSITORY / "demo" / "app.py", home=tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture(scope="module")
def proxied(demo: AppServer) -> Iterator[str]:
    """Return the demo's address behind a proxy that strips cookies: there the saved states come late."""
    with StrippingProxy(demo.url) as proxy:
        yield proxy.url


@pytest.fixture(scope="module")
def asgi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """Return a server of the demo that sets its cookie itself."""
    with AppServer(REPOSITORY / "demo" / "asgi.py", home=tmp_path_factory.mktemp("home")) as server:
        yield server


def test_counter_stays(page: Page, demo: AppServer) -> None:
    """Three clicks, a reload by the page's own link: three."""
    count_and_reload(page, demo.url)


def test_counter_stays_where_the_server_sets(page: Page, asgi: AppServer) -> None:
    """The same with an HttpOnly cookie."""
    count_and_reload(page, asgi.url)
    assert [cookie["httpOnly"] for cookie in page.context.cookies() if cookie["name"].startswith("persist")] == [True]


def test_counter_stays_behind_a_proxy(page: Page, proxied: str) -> None:
    """The same where no connection brings a cookie."""
    count_and_reload(page, proxied)


def count_and_reload(page: Page, address: str) -> None:
    """Count to three, reload, and see three."""
    open_app(page, address)
    for count in ("1", "2", "3"):
        press(page, "Add one")
        expect_metric(page, count)
    page.get_by_role("link", name="Reload this page").click()
    expect_metric(page, "3")
    assert_no_exception(page)


def test_list_and_filter_stay(page: Page, proxied: str) -> None:
    """Tasks that were added, ticked and deleted in callbacks, and the filter, are as they were left."""
    open_app(page, f"{proxied}/todo")
    for text in ("Buy milk", "Water the plants", "Call Ada"):
        page.get_by_label("What is to be done?").fill(text)
        page.keyboard.press("Enter")
        expect_shown(task(page, text))
    task(page, "Buy milk").get_by_text("Buy milk").click()
    wait_idle(page)
    row = page.get_by_test_id("stHorizontalBlock").or_(page.get_by_test_id("stLayoutWrapper"))
    row.filter(has=task(page, "Call Ada")).last.get_by_role("button").click()
    expect_gone(page, task(page, "Call Ada"))
    page.get_by_test_id("stButtonGroup").get_by_text("Open", exact=True).click()
    expect_gone(page, task(page, "Buy milk"))
    wait_idle(page)
    reload(page)
    expect_shown(task(page, "Water the plants"))
    assert task(page, "Buy milk").count() == 0
    page.get_by_test_id("stButtonGroup").get_by_text("All", exact=True).click()
    expect_shown(task(page, "Buy milk"))
    assert page.get_by_role("checkbox", name="Buy milk").is_checked()
    assert not page.get_by_role("checkbox", name="Water the plants").is_checked()
    assert task(page, "Call Ada").count() == 0
    assert_no_exception(page)


def test_conversation_goes_on(page: Page, proxied: str) -> None:
    """What was said and answered is there after a reload, and the next line comes behind it."""
    open_app(page, f"{proxied}/chat")
    say(page, "Hello")
    reload(page)
    expect_shown(message(page, "You said: Hello"))
    say(page, "Still there?")
    assert page.get_by_test_id("stChatMessageContent").all_inner_texts() == [
        "Hello",
        "You said: Hello",
        "Still there?",
        "You said: Still there?",
    ]
    assert_no_exception(page)


def test_only_a_saved_note_stays(page: Page, proxied: str) -> None:
    """A saved title is there after a reload; an edit that was not is gone, and was marked as unsaved."""
    open_app(page, f"{proxied}/by_hand")
    write(page.get_by_role("textbox", name="Title"), "Shopping")
    expect_shown(alert(page, "Not saved yet"))
    press(page, "Save")
    expect_shown(alert(page, "Saved at"))
    write(page.get_by_role("textbox", name="Title"), "Something else")
    expect_shown(alert(page, "Not saved yet"))
    reload(page)
    expect_shown(alert(page, "Saved at"))
    assert page.get_by_role("textbox", name="Title").input_value() == "Shopping"
    assert_no_exception(page)


def test_decorated_states_stay_until_forgotten(page: Page, proxied: str) -> None:
    """Attributes stay until the visitor asks to be forgotten; the function has a state of its own."""
    open_app(page, f"{proxied}/decorator")
    press(page, "Count")
    expect_metric(page, "1")
    press(page, "Count")
    expect_metric(page, "2")
    page.get_by_test_id("stFeedback").get_by_role("radio").or_(
        page.get_by_test_id("stFeedback").get_by_role("button")
    ).nth(4).click()
    expect_shown(page.get_by_text("5 of 5. Thank you!"))
    wait_idle(page)
    reload(page)
    expect_metric(page, "2")
    press(page, "Forget the count")
    expect_metric(page, "0")
    open_app(page, f"{proxied}/decorator")
    expect_metric(page, "0")
    open_app(page, f"{proxied}/what_is_kept")
    expect_shown(card(page, "Decorator, on a function").get_by_text("bytes"))
    assert_no_exception(page)


def test_record_is_shown_and_cleared(page: Page, proxied: str) -> None:
    """A record is described, without its cookie, and gone after a click."""
    open_app(page, f"{proxied}/chat")
    say(page, "Hello")
    page.get_by_role("link", name="What is kept").click()
    expect_shown(card(page, "Chat").get_by_text("bytes"))
    expect_shown(card(page, "Counter").get_by_text("Open its page"))
    text = page.locator("body").inner_text()
    values = [cookie["value"] for cookie in page.context.cookies() if cookie["name"].startswith("persist_session")]
    assert values
    assert not [value for value in values if value in text or value.split(".")[0] in text]
    card(page, "Chat").get_by_role("button", name="Clear").click()
    expect_shown(card(page, "Chat").get_by_text("Nothing saved yet"))
    assert_no_exception(page)


def test_everything_is_cleared_at_once(page: Page, demo: AppServer) -> None:
    """The last button of the last page clears states that this tab has not opened, too."""
    open_app(page, demo.url)
    press(page, "Add one")
    expect_metric(page, "1")
    open_app(page, f"{demo.url}/what_is_kept")
    press(page, "Clear everything")
    # A page that is left within milliseconds of a click takes the click with it, in any Streamlit app.
    wait_quiet(page)
    open_app(page, demo.url)
    expect_metric(page, "0")


@pytest.mark.parametrize("path", PAGES)
def test_page_fits_and_shows_its_code(page: Page, demo: AppServer, path: str) -> None:
    """Every page fits both screens, shows no exception, and has its code, title and reload link."""
    page.goto(f"{demo.url}/{path}")
    unfold(page, "The code", page.get_by_test_id("stCode").get_by_text("persist_session").first)
    main = page.get_by_test_id("stMainBlockContainer")
    for size in (DESKTOP, PHONE):
        page.set_viewport_size(size)
        eventually(page, lambda: page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0)
        eventually(page, lambda: main.evaluate("element => element.scrollWidth - element.clientWidth") <= 0)
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("link", name="Reload this page").count() == 1
    assert_no_exception(page)


def open_app(page: Page, url: str) -> None:
    """Open a page and wait until it stays quiet."""
    page.goto(url)
    wait_quiet(page)


def press(page: Page, label: str) -> None:
    """Press a button of the page, not of the menu."""
    page.get_by_test_id("stMainBlockContainer").get_by_role("button").filter(has_text=label).first.click()
    wait_idle(page)


def say(page: Page, text: str) -> None:
    """Send a line to the bot and wait for its answer."""
    page.get_by_placeholder("Say something").fill(text)
    page.keyboard.press("Enter")
    expect_shown(message(page, f"You said: {text}"))
    wait_idle(page)


def unfold(page: Page, title: str, content: Locator) -> None:
    """Open an expander and see what is in it; open it again, where a late run of the page closed it."""
    details = page.locator("details").filter(has_text=title)

    def is_seen() -> bool:
        if details.get_attribute("open") is None:
            details.get_by_text(title, exact=True).click()
        return content.is_visible()

    eventually(page, is_seen)


def write(field: Locator, text: str) -> None:
    """Type into a field and leave it."""
    field.fill(text)
    field.press("Tab")


def message(page: Page, text: str) -> Locator:
    """Return the chat message with this text."""
    return page.get_by_test_id("stChatMessageContent").filter(has_text=text)


def alert(page: Page, text: str) -> Locator:
    """Return the coloured box with this text; the page shows its own code too, which has the text as well."""
    return page.get_by_test_id("stAlert").filter(has_text=text)


def task(page: Page, text: str) -> Locator:
    """Return the check box of a task."""
    return page.get_by_test_id("stCheckbox").filter(has_text=text)


def card(page: Page, title: str) -> Locator:
    """Return the card of a state on the last page."""
    return (
        page.get_by_test_id("stMainBlockContainer")
        .locator("[class*=st-key-card]")
        .filter(has=page.get_by_text(title, exact=True))
    )


def reload(page: Page) -> None:
    """Reload the page; the test then waits for something that was saved."""
    page.reload()


def expect_shown(found: Locator) -> None:
    """Wait until it is there; while a page is drawn anew, for a moment it may be there twice."""
    found.first.wait_for(state="visible")


def expect_gone(page: Page, found: Locator) -> None:
    """Wait until it is not there any more."""
    eventually(page, lambda: found.count() == 0)


def expect_metric(page: Page, value: str) -> None:
    """Wait until the metric shows this value."""
    expect_shown(page.get_by_test_id("stMetricValue").filter(has_text=value))
    wait_idle(page)  # it is drawn before it is saved


def assert_no_exception(page: Page) -> None:
    """Fail with the exceptions that the page shows."""
    assert page.get_by_test_id("stException").all_inner_texts() == []
