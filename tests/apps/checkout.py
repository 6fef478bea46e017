"""A part of the state is held by an object in `st.session_state`, which changes it in later runs."""

import streamlit as st

from persist_session import persistent_state


class Shop:
    """What is bought."""

    def __init__(self) -> None:
        self.cart: list[str] = []


class Checkout:
    """Works on a shop."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop


with persistent_state("shop", Shop) as shop:
    if "checkout" not in st.session_state:
        st.session_state.checkout = Checkout(shop)
    if st.button("Buy"):
        st.session_state.checkout.shop.cart.append("lamp")
    with st.container(key="seen"):
        st.text(f"{len(shop.cart)} {st.session_state.checkout.shop is shop}")
