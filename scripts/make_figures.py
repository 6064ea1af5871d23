"""Draw the figures: a door to `agr figures`."""

from agr.__main__ import main

if __name__ == "__main__":
    main("figures")
