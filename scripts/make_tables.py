"""Render Tables 1-3 from records: a door to `agr tables`."""

from agr.__main__ import main

if __name__ == "__main__":
    main("tables")
