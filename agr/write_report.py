"""Write the report: python scripts/make_report.py [--run] [claims=agr_paper] [key=value ...].

Writes report.html (one file that needs no network), results.md (for a pull request), tables.tex
(a document of its own, or \\input into a paper) and differences.csv: from the cells of
experiment=report and its sweeps over eps, or from those that the overrides mean. With --run,
missing cells are run first. With checklist=true, also a paper's reproducibility checklist, answered
from the records: on the page, and as checklist.md. For example:

    python scripts/make_report.py --run n_images=100 norm=linf
    python scripts/make_report.py checklist=true
"""

from __future__ import annotations

import sys
from dataclasses import replace

from agr.jobs.console import script
from agr.jobs.request import parse_request
from agr.report.checklist import checklist
from agr.report.page import gather
from agr.report.report import write_report
from agr.utils.errors import ConfigError

CHECKLIST = "checklist=true"


def main() -> None:
    """Read the records and write."""
    asked = [word for word in sys.argv[1:] if word.startswith("checklist=")]
    if not {*asked} <= {CHECKLIST, "checklist=false"}:
        raise ConfigError(f"{' '.join(asked)}: give true or false")
    request = parse_request([word for word in sys.argv[1:] if word not in asked], sweeps=True)
    wanted = CHECKLIST in asked

    def command(script: str) -> str:
        more = f" {CHECKLIST}" if wanted and script == "make_report" else ""
        return request.command(script) + more

    found = gather(request.cells, request.sweeps, request.claims, command)
    if wanted:
        made_by = command("make_report")
        answers = checklist(found.outcomes, found.verdicts, made_by, request.sweeps)
        found = replace(found, checklist=answers)
    print("written:", *write_report(found, request.folder("report")))


if __name__ == "__main__":
    script(main, __doc__)
