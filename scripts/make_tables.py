"""Render Tables 1-3 from records: python scripts/make_tables.py [experiment=paper] [key=value ...].

The words are those of the run whose cells are shown: seed=0,1,2 shows means and spreads,
experiment=readings adds AGR's readings and the stopped baselines, denominator=target-correct
counts other images.
"""

import sys
from collections.abc import Sequence

from agr.compose import expand
from agr.naming import slug
from agr.report.tables import write_tables
from agr.run import script, words

# Words that say where and how cells are run, not which ones are shown.
NOT_SHOWN = (
    *("experiment=", "suite=", "outputs=", "data.", "hydra", "--", "-", "slots=", "width="),
    *("threads=", "device=", "workers=", "shard=", "progress=", "part_seconds=", "check."),
    *("trace=", "save_adversarials="),
)


def main() -> None:
    """Write the tables and print the Markdown ones."""
    asked = words(sys.argv[1:], "experiment=paper")
    cells = expand(asked)
    paths = write_tables(cells, cells[0].suite_folder / "tables" / name(asked))
    for path in paths:
        if path.suffix == ".md":
            print(path.read_text(encoding="utf-8"))
    print("written:", *paths)


def name(asked: Sequence[str]) -> str:
    """A folder for each set of tables: the experiment, and the words that change what is shown."""
    experiment = next(word.partition("=")[2] for word in asked if word.startswith("experiment="))
    changes = sorted(word for word in asked if not word.lstrip("+").startswith(NOT_SHOWN))
    return slug(",".join([experiment, *changes]))


if __name__ == "__main__":
    script(main, __doc__)
