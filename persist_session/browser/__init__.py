"""The visitor as the browser shows them: by one signed cookie."""
