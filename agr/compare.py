"""Compare the cells of any sweep: python -m agr.compare [--run] KEY=VALUE,VALUE … [rows=…] …

One table of what varies: rates with their intervals, mean transfer, gradients, and the difference
from a baseline on the same images. With --run, missing cells are run first. It takes the overrides
of `python -m agr.run -m`, and

    rows=attack,source   keys that are rows (those that vary, but for the columns' and the seed)
    columns=eps          a key, or target (a number that varies, else target)
    against=ifgsm        the baseline: a value, or KEY=VALUE (the first attack)

For example:

    python -m agr.compare --run attack=ifgsm,mifgsm,agr eps=2,4,8,16
    python -m agr.compare --run attack=ifgsm,agr source=inc_v3,vgg16 against=agr
    python -m agr.compare --run attack=mifgsm attack.chain.momentum.decay=0.5,1.0
"""

from __future__ import annotations

import sys

from agr.config.compose import compose_cells
from agr.config.overrides import MULTIRUN, shell_command, split_own, without_flags, without_shards
from agr.jobs.console import script
from agr.jobs.needed import run_missing
from agr.jobs.request import RUN_FLAG
from agr.report.comparison.axes import (
    Options,
    check_success,
    layout_of,
    output_folder,
    varying,
)
from agr.report.comparison.numbers import Comparison
from agr.report.comparison.page import write_comparison
from agr.report.comparison.sheet import comparison_sheet
from agr.report.comparison.steps import by_steps, steps_sheet
from agr.report.formats import plain


def main() -> None:
    """Run what is missing if asked to, print the comparison and write its files."""
    given = [word for word in sys.argv[1:] if word not in (RUN_FLAG, *MULTIRUN)]
    own, overrides = split_own(without_flags(given), Options._fields)
    options = Options(**own)
    whole = without_shards(overrides)
    cells, _, left_out = compose_cells(whole)
    layout_of(varying(cells), options)  # an error shows before anything is run
    check_success(cells)
    if RUN_FLAG in sys.argv[1:]:
        run_missing(["-m", *overrides], cells)
    comparison = Comparison(cells, options, left_out)
    print(plain(comparison_sheet(comparison)))
    if len(steps := by_steps(comparison)):
        print(plain(steps_sheet(steps)))
    said = [f"{k}={v}" for k, v in options._asdict().items() if v]
    command = shell_command("-m", "agr.compare", RUN_FLAG, *whole, *said)
    folder = output_folder(cells, [*whole, *said], "compare")
    print("written:", *write_comparison(comparison, folder, command))


if __name__ == "__main__":
    script(main, __doc__)
