"""Judge a paper's claims: python scripts/make_claims.py [--run] [claims=agr_paper] [key=value ...].

`claims` names a file of conf/claims, or is a path (docs/claims.md). Each claim is judged on the
paper's printed tables, and on the cells of experiment=report or those that the overrides mean. With
--run, missing cells are run first. For example:

    python scripts/make_claims.py --run n_images=100 norm=linf
"""

from __future__ import annotations

import sys

from agr.jobs.console import script
from agr.jobs.request import parse_request
from agr.report.claims.page import judge_claims, write_claims
from agr.report.outcomes import Outcomes


def main() -> None:
    """Write the page of claims and print it."""
    request = parse_request(sys.argv[1:])
    verdicts = judge_claims(Outcomes(request.cells), request.claims)
    paths = write_claims(request.cells, verdicts, request.folder("claims"))
    print(paths[0].read_text(encoding="utf-8"))
    print("written:", *paths)


if __name__ == "__main__":
    script(main, __doc__)
