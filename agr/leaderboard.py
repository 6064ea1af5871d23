"""Rank all attacks by mean transfer: python scripts/make_leaderboard.py [--run] [key=value ...].

Shows the cells of experiment=leaderboard: every untargeted attack of conf/attack, and of attack/ in
your own folder (--config-dir=my). With --run, missing cells are run first. For example:

    python scripts/make_leaderboard.py --run n_images=20 norm=l2 attack=ifgsm,agr
    python scripts/make_leaderboard.py --run tuned=both trials=8 tuning_images=50
    python scripts/make_leaderboard.py published=transferattack

tuned=true ranks each attack with the best of equally many settings, tried on other images;
tuned=both ranks the authors' beside them. tuning=FILE is a search space of your own.
published=NAME puts the places that others print (a file of conf/published, or a path) beside ours.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from agr.config.cell import Cell
from agr.config.compose import compose_cells
from agr.config.overrides import with_experiment, without_flags
from agr.jobs.console import script
from agr.jobs.needed import run_missing
from agr.jobs.request import RUN_FLAG
from agr.jobs.trials import parse_options
from agr.jobs.tuned import Ranking, tuned_ranking
from agr.report.comparison.axes import output_folder
from agr.report.formats import csv_text, write_texts
from agr.report.leaderboard import check_leaderboard, write_leaderboards
from agr.report.published import split_published


def main() -> None:
    """Run what is missing if asked to, write the leaderboards and print the Markdown ones."""
    running = RUN_FLAG in sys.argv[1:]
    theirs, words = split_published([word for word in sys.argv[1:] if word != RUN_FLAG])
    options, given = parse_options(words)
    asked = without_flags(with_experiment(given, "experiment=leaderboard"))
    named = any(word.startswith("denominator=") for word in asked)
    counted = [] if named else ["denominator=target-correct"]  # clean errors are no transfer
    cells, _, left_out = compose_cells([*asked, *counted])
    untargeted = check_leaderboard(cells)
    folder = output_folder(cells, [*asked, *(options.words if options else ())], "tables")
    ranking = Ranking(cells)
    if options:
        ranking = tuned_ranking(options, [*asked, *counted], untargeted, run=running)
        ranking.cells += [cell for cell in cells if cell.config.attack.targeted]  # to be named
    elif running:
        run(asked, untargeted)
    notes = [*ranking.notes, *(f"left out: {line}" for line in left_out)]
    paths = write_leaderboards(ranking.cells, folder, ranking.tuned, notes, theirs)
    if options:
        paths += write_texts({"tuning.csv": csv_text(ranking.trials)}, folder)
    for path in paths:
        if path.suffix == ".md":
            print(path.read_text(encoding="utf-8"))
    print("written:", *paths)


def run(asked: Sequence[str], cells: Sequence[Cell]) -> None:
    """Run the sweep `asked` with the attacks of `cells`.

    Attacks are named one by one: not the targeted ones, and those that Hydra's own glob, which
    doesn't look into hydra.searchpath, would miss.
    """
    attacks = dict.fromkeys(
        word.partition("=")[2] for c in cells for word in c.overrides if word.startswith("attack=")
    )
    rest = [word for word in asked if not word.startswith("attack=")]
    run_missing([*rest, f"attack={','.join(attacks)}"], cells)


if __name__ == "__main__":
    script(main, __doc__)
