"""The public functions together, in a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Served, Visit

APP = """
    import streamlit as st
    from persist_session import (
        StateTooLargeError, clear_cookie_state, configure, load_state, persistent_state, save_state, state_info
    )

    configure(max_bytes=2000)
    with persistent_state("numbers", dict) as numbers:
        numbers.setdefault("n", 0)
        if st.button("count"):
            numbers["n"] += 1
    notes = load_state("notes", list)
    if st.button("too much"):
        try:
            save_state("notes", ["x" * 5000])
        except StateTooLargeError:
            st.text("refused")
    if st.button("note"):
        notes.append("note")
        save_state("notes", notes)
    if st.button("start over"):
        clear_cookie_state("notes")
        save_state("notes", ["first"])
    st.text(f"n={numbers['n']} notes={len(load_state('notes', list))}")
"""


def test_what_the_script_sets_up_does_not_beat_the_saved_state(served: Served, visit: Visit) -> None:
    """Where the handshake is stripped, the first run fills a fresh state; the saved values win once they are known."""
    tab = visit(served(APP))
    tab.click("count").click("count")
    again = visit(served(APP), jar=tab.jar, strip_cookies=True)
    assert again.texts()[-1] == "n=2 notes=0"
    assert again.reload().texts()[-1] == "n=2 notes=0"


def test_a_refused_save_by_hand_leaves_no_trace(served: Served, visit: Visit) -> None:
    """The app that catches the error goes on, in later runs too."""
    tab = visit(served(APP))
    tab.click("note").click("too much")
    assert "refused" in tab.texts()
    assert not tab.rerun().exceptions()
    assert tab.reload().texts()[-1] == "n=0 notes=1"


def test_what_is_saved_right_after_clearing_stays(served: Served, visit: Visit) -> None:
    """It is the first of the new id, and found after a reload."""
    tab = visit(served(APP))
    tab.click("note").click("note").click("start over")
    assert not tab.exceptions()
    assert tab.reload().texts()[-1] == "n=0 notes=1"


def test_a_save_by_hand_before_the_browser_is_known_waits(served: Served, visit: Visit) -> None:
    """A client that never answers gets its runs as always; what it saved by hand stays in its tab."""
    tab = visit(served(APP), components=False)
    tab.click("note").click("note")
    assert not tab.exceptions()
    assert tab.texts()[-1] == "n=0 notes=2"


SECRETS = """
    from persist_session import load_state

    load_state("x", dict)
"""


def test_secrets_that_are_no_table_are_refused(served: Served, visit: Visit) -> None:
    """The message says what to write instead, and quotes nothing of them."""
    tab = visit(served(SECRETS, files={".streamlit/secrets.toml": 'persist_session = "hidden"'}))
    (shown,) = tab.exceptions()
    assert "write the settings below a line [persist_session]" in shown
    assert "hidden" not in shown


def test_secrets_that_can_not_be_read_are_refused(served: Served, visit: Visit) -> None:
    """Streamlit passes over them in silence, and with them over keys and store."""
    tab = visit(served(SECRETS, files={".streamlit/secrets.toml": "[persist_session\nmax_age = 5"}))
    (shown,) = tab.exceptions()
    assert "secrets.toml is there, but can't be read" in shown
