"""The demo's frame: its pages, what to try on each, and the code behind each. Start it with `make demo`."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

STYLE = """
<style>
  .block-container { max-width: 44rem; padding-top: 4rem; }
  .lead { font-size: 1.15rem; line-height: 1.5; opacity: .75; margin: 0 0 .4rem; }
  .reload { font-size: .95rem; margin: 0; }
  .reload a, .reload a:visited { color: #0f766e; font-weight: 600; text-decoration: none; }
  .reload a:hover { text-decoration: underline; }
</style>
"""
# A phone has no F5 key. An empty href is the page's own address, under any base URL path.
RELOAD = '<a href="" target="_self">↻ Reload this page</a> and see what stays.'

TRY = {
    "counter": ("Counter", "exposure_plus_1", "Click, then reload the page: the number stays."),
    "todo": ("To-do list", "checklist", "Add tasks, tick one, reload: the list and the filter stay."),
    "chat": ("Chat", "forum", "Say something, then reload: the conversation goes on. The bot only echoes."),
    "by_hand": ("By hand", "edit_note", "Edit the note. Only what you saved is there after a reload."),
    "decorator": ("Decorator", "alternate_email", "Count and choose a face, then reload: both stay."),
}
LOOK = {
    "what_is_kept": (
        "What is kept",
        "manage_search",
        "What the server keeps for your browser. Clear one, or all.",
    ),
}
PAGES = {**TRY, **LOOK}


def page_of(name: str) -> st.Page:
    """Returns the page of a file in pages_ (a folder named pages would be listed by Streamlit itself)."""
    title, icon, _ = PAGES[name]
    return st.Page(f"pages_/{name}.py", title=title, icon=f":material/{icon}:", default=name == "counter")


st.set_page_config(page_title="persist_session demo", page_icon=":material/bookmark:", layout="centered")
pages = {name: page_of(name) for name in PAGES}
current = st.navigation({"Try it": [pages[name] for name in TRY], "Look inside": [pages[name] for name in LOOK]})
st.sidebar.caption(
    "What you do here is kept for this browser, for 30 days. "
    "Reload the page, close the tab, restart the server: it is still there."
)

(name,) = [name for name, page in pages.items() if page == current]
title, _, lead = PAGES[name]
st.html(STYLE)
st.title(title, anchor=False)
st.html(f'<p class="lead">{lead}</p><p class="reload">{RELOAD}</p>')

current.run()

with st.expander("The code", icon=":material/code:"):
    source = Path(__file__).with_name("pages_") / f"{name}.py"
    st.code(source.read_text(encoding="utf-8"), language="python", wrap_lines=True)
