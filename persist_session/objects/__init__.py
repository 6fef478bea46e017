"""The way of an object to bytes and back, and of two changed copies to one. Pure: no Streamlit, no stores."""
