"""Draw the figures: python scripts/make_figures.py [--run] [key=value ...].

Writes Figures 1 and 3 to 6 of the paper, and further ones, as PNG and PDF with their data and
command beside them: from the cells of experiment=report and its sweeps over eps, or from those that
the overrides mean. With --run, missing cells are run first. For example:

    python scripts/make_figures.py --run attack=ifgsm,mifgsm,agr norm=linf source=inc_v3
"""

from __future__ import annotations

import sys

from agr.jobs.console import script
from agr.jobs.request import parse_request
from agr.report.figures import Drawing, write_figures
from agr.report.outcomes import Outcomes


def main() -> None:
    """Draw and write."""
    request = parse_request(sys.argv[1:], sweeps=True)
    drawing = Drawing(Outcomes(request.cells), request.sweeps)
    paths = write_figures(drawing, request.folder("figures"), request.command("make_figures"))
    for path in paths:
        if path.suffix == ".txt":
            print(path.read_text(encoding="utf-8"))
    print("written:", *(path for path in paths if path.suffix != ".txt"))


if __name__ == "__main__":
    script(main, __doc__)
