"""Check that this machine can do a run, before the run.

python -m agr.check [experiment=paper] [suite=imagenet] [key=value ...]

Takes the overrides of `python -m agr.run -m`; without experiment=… it checks the cells of the
paper's tables, narrowed by the overrides. Each line is "ok", or a "problem" with the way out; the
exit code is 0 if all are ok, else 1. Nothing is attacked and no records are written. For
example:

    python -m agr.check attack=sgm source=res152
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agr.config.compose import compose_cells
from agr.config.overrides import with_experiment
from agr.jobs.console import script
from agr.records.claim import refuse_entry
from agr.utils.text import plural

if TYPE_CHECKING:
    from agr.evaluation.capacity import Line

WIDTH = 110  # of the page, characters


def main(arguments: Sequence[str]) -> bool:
    """Print the page, and return whether all is well."""
    cells, _, left_out = compose_cells(with_experiment(arguments, "experiment=paper"))
    refuse_entry(cells[0].config.outputs)
    sources = ", ".join(dict.fromkeys(c.title(c.source) for c in cells))
    print(
        f"{plural(len(cells), 'cell')} of suite={cells[0].suite.name} on {sources}, "
        f"{plural(cells[0].config.n_images, 'image')} each\n"
    )
    for line in left_out:
        print(f"left out: {line}")
    from agr.evaluation.preflight import lines  # torch, which takes seconds

    good = True
    for found in lines(cells):
        good &= found.fine
        print(_folded(found), flush=True)
    print("\nall is well" if good else "\nnot ready: see the problems above")
    if cells[0].suite.notice:
        print(cells[0].suite.notice)
    return good


def _folded(line: Line) -> str:
    """Format a line; a long one is folded below itself."""
    head = f"{'ok' if line.fine else 'problem':8} {line.about:18} "
    fold = textwrap.TextWrapper(
        WIDTH, subsequent_indent=" " * len(head), break_long_words=False, break_on_hyphens=False
    )
    return fold.fill(head + line.text)


if __name__ == "__main__":
    script(lambda: sys.exit(not main(sys.argv[1:])), __doc__)
