"""Rank all attacks by mean transfer: a door to `agr leaderboard`."""

from agr.__main__ import main

if __name__ == "__main__":
    main("leaderboard")
