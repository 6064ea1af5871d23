"""Write the report: python scripts/make_report.py [--run] [claims=agr_paper] [key=value ...].

Writes report.html (one file that needs no network), results.md (for a pull request), tables.tex
(a document of its own, or \\input into a paper) and differences.csv: from the cells of
experiment=report and its sweeps over eps, or from those that the overrides mean. With --run,
missing cells are run first. For example:

    python scripts/make_report.py --run n_images=100 norm=linf
"""

from __future__ import annotations

import sys

from agr.jobs.console import script
from agr.jobs.request import parse_request
from agr.report.page import gather
from agr.report.report import write_report


def main() -> None:
    """Read the records and write."""
    request = parse_request(sys.argv[1:], sweeps=True)
    found = gather(request.cells, request.sweeps, request.claims, request.command)
    print("written:", *write_report(found, request.folder("report")))


if __name__ == "__main__":
    script(main, __doc__)
