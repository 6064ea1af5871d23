"""Tuned leaderboards: for each attack the best of as many trials, on images that aren't ranked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple

import pandas as pd

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.jobs.apart import check_apart, check_enough
from agr.jobs.needed import run_first
from agr.jobs.search_space import SearchSpace, load_space
from agr.jobs.trials import (
    SEARCHED,
    Options,
    Setting,
    Trial,
    draw_trials,
    searched,
    setting_of,
    shown,
    trial_words,
    variants_folder,
    word_of,
)
from agr.records.progress import finished
from agr.records.store import Records
from agr.report.frames import selected
from agr.report.hyperparameters import TUNED, whose
from agr.report.transfer import success_shares
from agr.utils.errors import ConfigError


class Result(NamedTuple):
    """A trial's mean transfer, in percent, of n images, one from two sources counted twice."""

    trial: Trial
    transfer: float
    images: int
    n: int


@dataclass
class Ranking:
    """Cells to rank, what to say of their hyperparameters by id, notes, and all trials."""

    cells: list[Cell] = field(default_factory=list)
    tuned: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    trials: pd.DataFrame = field(default_factory=pd.DataFrame)

    def add(self, cell: Cell, title: str, hyperparameters: str) -> None:
        """Add a cell under a title."""
        attack = replace(cell.config.attack, title=title)
        self.cells.append(replace(cell, config=replace(cell.config, attack=attack)))
        self.tuned[cell.id] = hyperparameters


def tuned_ranking(
    options: Options, words: Sequence[str], cells: Sequence[Cell], *, run: bool
) -> Ranking:
    """Tune attacks, and return what to rank.

    Args:
        options: how to tune.
        words: the overrides of the leaderboard.
        cells: its untargeted cells, with their own values.
        run: whether to run what is missing; else ConfigError is raised if it is a trial.

    Raises ConfigError, also where images don't suffice or no target tells of transfer.
    """
    if len(seeds := {cell.config.seed for cell in cells}) > 1:
        raise ConfigError(
            f"tuned=… goes with one seed, and there are {len(seeds)}: which images are tuned on "
            "depends on it, so that one seed's would be ranked under another"
        )
    space = load_space(options.space, cells)
    if all(cell.white_box(target) for cell in cells for target in cell.targets):
        raise ConfigError(
            "tuned=… goes by mean transfer, and all targets are white-box: add others"
        )
    trials = draw_trials(options, space, words, cells)
    missing = [c for t in trials for c in t.cells if not finished(c, Records(c.folder))]
    if missing and not run:
        raise ConfigError(
            f"{len(missing)} of {sum(len(t.cells) for t in trials)} cells of trials are not run: "
            "add --run"
        )
    if missing:
        check_enough(cells, missing)
        run_first(["-m", *trial_words(options, words, cells, (t.word for t in trials))])
    results = [_result(trial) for trial in trials]
    winners = _winners(results)
    ranking = Ranking(notes=_notes(options, space, trials, cells), trials=_frame(results, winners))
    sweeps = []
    for setting in dict.fromkeys(map(setting_of, cells)):
        alike = [cell for cell in cells if setting_of(cell) == setting]
        sweep, about = _ranked(options, alike, winners)
        ranked = expand(sweep)
        for cell in ranked:
            ranking.add(cell, *about[word_of(cell)])
        if any(not finished(cell, Records(cell.folder)) for cell in ranked):
            sweeps.append(sweep)
    if run and sweeps and not missing:  # else they were checked before the trials
        check_enough(cells, [])
    for sweep in sweeps if run else []:
        run_first(["-m", *sweep])
    check_apart(ranking.cells, (cell for trial in trials for cell in trial.cells))
    return ranking


def _result(trial: Trial) -> Result:
    """Return a finished trial's mean transfer, as the leaderboard counts it. Raises ConfigError."""
    shares = []
    for cell in trial.cells:
        frame = selected(cell)
        if frame is None:
            raise ConfigError(f"{cell.name} lacks rows: the same command with --run runs it again")
        shares.append(success_shares(cell, frame, white_box=False))
    counted = pd.concat(shares)
    if counted.empty:
        raise ConfigError(
            f"{trial.word}: denominator={trial.attack.config.denominator} counts none of the "
            "tuning images: give more tuning_images"
        )
    # rounded: the same shares in another order are the same mean
    transfer = round(100 * float(counted.mean()), 9)
    return Result(trial, transfer, counted.index.nunique(), len(counted))


# ---- winners -------------------------------------------------------------------------------------


def _winners(results: Sequence[Result]) -> dict[tuple[Setting, str], Trial]:
    """Return the best trial by setting and attack; of equals the first."""
    best: dict[tuple[Setting, str], Result] = {}
    for result in results:
        place = (result.trial.setting, word_of(result.trial.attack))
        if place not in best or result.transfer > best[place].transfer:
            best[place] = result
    return {place: result.trial for place, result in best.items()}


def _ranked(
    options: Options, cells: Sequence[Cell], winners: Mapping[tuple[Setting, str], Trial]
) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """Return the sweep that is ranked under one setting, given by its untuned `cells`.

    Returns:
        Its overrides, and the title and hyperparameters of what stands behind attack=.
    """
    about = {}
    for cell in cells:
        title, word, own = cell.config.attack.title, word_of(cell), whose(cell)
        trial = winners.get((setting_of(cell), word))
        if trial is None:
            about[word] = title, f"{own}: nothing to tune"
        elif not trial.values:
            about[word] = title if options.both else f"{title}, tuned", f"{TUNED}{own} were best"
        else:
            about[trial.word] = f"{title}, tuned", f"{TUNED}{shown(trial.values)}"
            if options.both:
                about[word] = title, own
    kept = dict.fromkeys(word for cell in cells for word in cell.overrides)
    values: dict[str, list[str]] = {}  # of keys; of all but the source there is one
    for key, _, value in (
        w.partition("=") for w in kept if not w.startswith(("attack=", SEARCHED))
    ):
        values.setdefault(key, []).append(value)
    words = [f"{key}={','.join(of_key)}" for key, of_key in values.items()]
    folder = searched(kept, variants_folder(cells[0]))
    return [*words, folder, f"attack={','.join(about)}"], about


# ---- what is said of it --------------------------------------------------------------------------


def _frame(results: Sequence[Result], winners: Mapping[tuple[Setting, str], Trial]) -> pd.DataFrame:
    """Return a row per trial: its setting, attack, values, transfer and counts, and if it won."""
    rows = []
    for trial, transfer, images, n in results:
        norm, eps, gradients = trial.setting
        attack = trial.attack.config.attack.name
        best = winners[trial.setting, word_of(trial.attack)].number == trial.number
        values = json.dumps(trial.values)
        name = trial.cells[0].config.attack.name
        row = (norm, eps, gradients, attack, trial.number, name, values, transfer, images, n, best)
        rows.append(row)
    names = ("norm", "eps", "gradients", "attack", "trial", "name", "values", "transfer")
    return pd.DataFrame(rows, columns=[*names, "images", "n", "best"])


def _notes(
    options: Options, space: SearchSpace, trials: Sequence[Trial], cells: Sequence[Cell]
) -> list[str]:
    counts: dict[str, int] = {}
    for trial in trials:
        counts[trial.attack.config.attack.title] = trial.number
    tuned = sorted(set(chain.from_iterable(space.of(trial.attack) for trial in trials)))
    notes = [
        f"tuned: {options.trials} trials on {options.images} images disjoint from those ranked "
        "(split=tuning), the same for all attacks; the best mean transfer over all sources wins, "
        "of equals the first; trial 1 has the attack's own values; tuning.csv has all trials",
        f"tuned were, of {space.place.name}: {', '.join(tuned)}; not T, eps, norm or rounding",
    ]
    if fewer := [f"{title} ({n})" for title, n in counts.items() if n < options.trials]:
        notes.append(f"all settings there are, fewer than the trials: {', '.join(fewer)}")
    titles = dict.fromkeys(cell.config.attack.title for cell in cells)
    if idle := [title for title in titles if title not in counts]:
        notes.append(f"nothing to tune, and ranked with its own values: {', '.join(idle)}")
    return notes
