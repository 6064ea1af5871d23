"""Write the report: a door to `agr report`."""

from agr.__main__ import main

if __name__ == "__main__":
    main("report")
