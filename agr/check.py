"""Whether this machine can do a run, on one page, before the run.

python -m agr.check [experiment=paper] [suite=imagenet] [key=value ...]

The words are those of `python -m agr.run -m`; without experiment=… the cells of the paper's tables
are meant, narrowed by the words. Every line is "ok", or a "problem" with its way out;
the exit code is 0 if all are ok, else 1. Nothing is crafted or recorded, but for how each network
is best computed.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

from agr.config.compose import expand
from agr.config.overrides import with_experiment
from agr.evaluation.preflight import (
    Line,
    _many,
    lines,
)
from agr.jobs.console import script

WIDTH = 110


def main(arguments: Sequence[str]) -> bool:
    """Print the page; whether all is well."""
    asked = with_experiment(arguments, "experiment=paper")
    cells = expand(asked)
    sources = ", ".join(dict.fromkeys(c.title(c.source) for c in cells))
    print(
        f"{_many(len(cells), 'cell')} of suite={cells[0].suite.name} on {sources}, "
        f"{cells[0].config.n_images:,} images each\n"
    )
    good = True
    for line in lines(cells):
        good &= line.fine
        print(_text(line), flush=True)
    print("\nall is well" if good else "\nnot ready: see the problems above")
    if cells[0].suite.notice:
        print(cells[0].suite.notice)
    return good


def _text(line: Line) -> str:
    """The line, folded below itself where it is long."""
    head = f"{'ok' if line.fine else 'problem':8} {line.about:18} "
    fold = textwrap.TextWrapper(
        WIDTH, subsequent_indent=" " * len(head), break_long_words=False, break_on_hyphens=False
    )
    return fold.fill(head + line.said)


# ---- images --------------------------------------------------------------------------------------


# ---- networks ------------------------------------------------------------------------------------


# ---- the machine ---------------------------------------------------------------------------------


def page(arguments: Sequence[str]) -> None:
    """`main` as a command: exit code 1 if there is a problem."""
    if not main(arguments):
        raise SystemExit(1)


if __name__ == "__main__":
    script(lambda: page(sys.argv[1:]), __doc__)
