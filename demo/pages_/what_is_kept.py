"""What the server keeps of this visitor, without showing anything that is secret."""

import streamlit as st
from states import KEPT, Kept

from persist_session import StateInfo, clear_cookie_state, load_state, state_info

COOKIE = {
    "seen": ":green-badge[cookie seen]",
    "pending": ":orange-badge[cookie on its way]",
    "asking": ":gray-badge[asking the browser]",
    "none": "",
}


def describe(info: StateInfo) -> str:
    if info.saved_at is None:
        return "Nothing saved yet."
    return (
        f"{info.size:,} bytes · saved {info.saved_at:%d %b %H:%M} UTC · "
        f"expires {info.expires_at:%d %b %Y} · visitor {info.visitor_key[:8]}…"
    )


def card(kept: Kept) -> None:
    if kept.factory:  # its class can be imported, so this page can load it too
        load_state(kept.name, kept.factory)
    info = state_info(kept.name)
    with st.container(border=True, key=f"card-{kept.name}"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{kept.title}** {COOKIE[info.cookie] if info else ''}", width="stretch")
            st.button("Clear", on_click=clear_cookie_state, args=(kept.name,), key=kept.name)
        if info:
            st.caption(describe(info))
        else:
            st.page_link(kept.page, label="Open its page once to see it here", icon=":material/arrow_forward:")


for kept in KEPT:
    card(kept)
st.button("Clear everything", type="primary", icon=":material/delete_forever:", on_click=clear_cookie_state)
