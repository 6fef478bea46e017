"""Five states on one page."""

import streamlit as st

from persist_session import persistent_state


def make() -> dict[str, int]:
    """Return none."""
    return {}


if st.button("Add"):
    for number in range(5):
        with persistent_state(f"five-{number}", make) as mapping:
            mapping["count"] = mapping.get("count", 0) + 1
counts = []
for number in range(5):
    with persistent_state(f"five-{number}", make) as mapping:
        counts.append(mapping.get("count", 0))
with st.container(key="seen"):
    st.text(counts)
