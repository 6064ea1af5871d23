"""Judge a paper's claims: a door to `agr claims`."""

from agr.__main__ import main

if __name__ == "__main__":
    main("claims")
