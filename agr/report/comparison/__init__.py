"""Any cells side by side: a table of what varies, with differences from a baseline."""
