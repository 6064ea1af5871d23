"""Write the report: python scripts/make_report.py [--run] [claims=agr_paper] [key=value ...].

report.html (one file that needs no network), results.md (for a pull request), tables.tex (compiles
alone and inside of a paper) and differences.csv, from the cells of experiment=report and sweeps
over eps, or of the words that are given. With --run the missing ones are run first. For example:

    python scripts/make_report.py --run n_images=100 norm=linf
"""

import sys

from agr.jobs.request import asked_for
from agr.jobs.session import script
from agr.report.report import gather, write_report


def main() -> None:
    """Read the records and write."""
    asked = asked_for(sys.argv[1:], sweeps=True)
    found = gather(asked.cells, asked.sweeps, asked.claims, asked.command)
    print("written:", *write_report(found, asked.folder("report")))


if __name__ == "__main__":
    script(main, __doc__)
