"""The state holds a bound method of itself."""

from collections.abc import Callable

import streamlit as st

from persist_session import persistent_state


class Basket:
    """Things, and what puts one in."""

    def __init__(self) -> None:
        self.things: list[str] = []
        self.handlers: dict[str, Callable[[str], None]] = {"put": self.put}

    def put(self, thing: str) -> None:
        """Put one in."""
        self.things.append(thing)


with persistent_state("basket", Basket) as basket:
    thing = st.text_input("Thing")
    if st.button("Put"):
        basket.handlers["put"](thing)
    with st.container(key="seen"):
        is_own = getattr(basket.handlers["put"], "__self__", None) is basket
        st.text(f"{' '.join(basket.things)} {is_own}")
