"""The paper's figures and further ones from records: PNG, PDF, their data and their command."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from agr.config.cell import Cell
from agr.report.figures import draw, series
from agr.report.figures.images import rows_of_images
from agr.report.figures.style import AttackStyle, attack_styles, styled
from agr.report.formats import csv_text
from agr.report.notes import setting_notes
from agr.report.outcomes import Outcomes
from agr.report.unfinished import rest_of
from agr.utils.errors import ConfigError
from agr.utils.files import write_all

# By norm: where the paper shows ASR and cosine similarity against the step.
ASR_FIGURE, COSINE_FIGURE = {"linf": 3, "l2": 5}, {"linf": 4, "l2": 6}
MODELS = 2  # of Figures 4 and 6


def check_finished(outcomes: Outcomes) -> None:
    """Raise ConfigError if no cell is finished."""
    if not series.with_images(outcomes):
        left = outcomes.unfinished()
        way = (
            f"add --run, or run them, as by {rest_of(left[0])}" if left else "all images were lost"
        )
        raise ConfigError(f"no cell is finished: {way}")


@dataclass(frozen=True)
class Drawn:
    """A figure, what is to be seen on it, and its numbers."""

    name: str
    title: str
    caption: str
    figure: Figure
    data: pd.DataFrame


class Drawing:
    """All figures of some cells, and of sweeps over eps of the same attacks."""

    def __init__(self, outcomes: Outcomes, sweeps: Sequence[Cell] = ()):
        """Raises ConfigError if no cell is finished."""
        check_finished(outcomes)
        self.outcomes, self.sweeps = outcomes, list(sweeps)
        self.cells = list(outcomes.cells.values())
        self.names = outcomes.titles()
        self.styles: Mapping[str, AttackStyle] = attack_styles(self.cells, self.names)
        self.norms = list(dict.fromkeys(norm for norm, *_ in outcomes.cells))
        self.steps = series.by_step(outcomes)
        self.matrix = series.matrix(outcomes)
        self.frontier = series.frontier(outcomes)

    def figures(self) -> Iterator[Drawn]:
        """Every figure that the records have numbers for, in the paper's order."""
        with styled():
            for make in (self._pictures, self._by_step, self._matrix, self._over_eps):
                for norm in self.norms:
                    yield from make(norm)
            yield from self._frontier()
            yield from self._distributions()

    def _pictures(self, norm: str) -> Iterator[Drawn]:
        found = rows_of_images(self.outcomes, norm)
        if found is None:
            return
        rows, gain, facts = found
        source = self.names[str(facts["source"].iloc[0])]
        yield Drawn(
            f"figure1-{norm}",
            f"Figure 1, {self.names[norm]}: clean image, perturbation, adversarial image",
            f"One image and what each attack makes of it on {source}, under {self._budget(norm)}; "
            f"below, the class that {source} sees and its confidence. Perturbations are scaled by "
            f"{gain:g} around grey.",
            draw.pictures(rows, gain),
            facts,
        )

    def _by_step(self, norm: str) -> Iterator[Drawn]:
        mine = self.steps[self.steps["norm"] == norm]
        if mine.empty:
            return
        n, bands = f"{int(mine['n'].max())} images", "bands are 95 % intervals"
        yield Drawn(
            f"figure{ASR_FIGURE[norm]}",
            f"Figure {ASR_FIGURE[norm]}: white-box ASR against step, {self._budget(norm)}",
            f"The share of at most {n} of which each iterate fools its source (Wilson {bands}). "
            "Dashed: attacks with a stop.",
            draw.by_step(mine, self.styles, self.names, series.RATE, "white-box ASR, %"),
            mine[[*series.PLACE, "step", "n", *series.RATE]],
        )
        two = self._models(mine)
        yield Drawn(
            f"figure{COSINE_FIGURE[norm]}",
            f"Figure {COSINE_FIGURE[norm]}: cosine similarity of clean image and iterate, "
            f"{self._budget(norm)}",
            f"Means over at most {n} (bootstrap {bands}). A stopped image stays as it is.",
            draw.by_step(two, self.styles, self.names, series.COSINE, "cosine similarity"),
            two[[*series.PLACE, "step", "n", *series.COSINE]],
        )

    def _models(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The first source of each group, two of them, as the paper shows two models."""
        groups = self.cells[0].suite.groups.values()
        there = list(dict.fromkeys(frame["source"]))
        firsts = [next((s for s in g.networks if s in there), None) for g in groups]
        chosen = [s for s in firsts if s] + there
        return frame[frame["source"].isin(list(dict.fromkeys(chosen))[:MODELS])]

    def _matrix(self, norm: str) -> Iterator[Drawn]:
        frame = self.matrix
        mine = frame[frame["norm"] == norm]
        if mine.empty:
            return
        least = mine["clean"].min()
        c = self.cells[0].config
        counted = "" if least == 100 else f" Counted: {COUNTED[c.denominator]}."
        yield Drawn(
            f"transfer-{norm}",
            f"Transfer between networks, {self._budget(norm)}",
            "ASR in percent of every source (row) and target (column); of the source, white-box. "
            f"At least {int(mine['n'].min())} images a square.{counted}",
            draw.matrix(mine, self.styles, self.names),
            mine,
        )

    def _over_eps(self, norm: str) -> Iterator[Drawn]:
        swept = [cell for cell in self.sweeps if cell.config.norm.name == norm]
        lines = {series.line_of(cell) for cell in swept}
        also = [c for c in self.cells if c.config.norm.name == norm and series.line_of(c) in lines]
        mine = series.over_eps([*swept, *also])
        if mine["eps"].nunique() < 2:
            return
        yield Drawn(
            f"eps-{norm}",
            f"ASR against eps, {self.names[norm]}",
            "White-box ASR, and the mean share of black-box targets that an image fools (those of "
            "the source's group, where it has any), over budgets. "
            f"At most {int(mine['n'].max())} images a point; bands are 95 % intervals.",
            draw.over_eps(mine, self.styles, self.names),
            mine,
        )

    def _frontier(self) -> Iterator[Drawn]:
        for size, known in FRONTIERS.items():
            frame = self.frontier[self.frontier[size].notna()].reset_index(drop=True)
            if frame.empty:
                continue
            columns = ["norm", *series.BOARD, *series.ends(size)]
            yield Drawn(
                known.name,
                known.title,
                "Each attack over all its sources: the mean share of its black-box targets that an "
                f"image fools, and the {known.axis}. {known.reading}Hollow: attacks with a stop. "
                "Bars are 95 % intervals.",
                draw.frontier(frame, self.styles, self.names, size, known.axis, **known.limit),
                frame[columns],
            )

    def _distributions(self) -> Iterator[Drawn]:
        steps, sizes = series.steps_needed(self.outcomes), series.norms(self.outcomes)
        if sizes.empty:
            return
        yield Drawn(
            "distributions",
            "Steps that images needed, and how large their perturbations are",
            "Over all sources. Left: of 100 images, how many the source was first fooled by at "
            "which step. Right: quantiles of the relative norm.",
            draw.distributions(steps, sizes, self.styles, self.names),
            pd.concat([steps.assign(of="steps"), sizes.assign(of="norms")]),
        )

    def _budget(self, norm: str) -> str:
        cell = next(c for c in self.cells if c.config.norm.name == norm)
        return f"{self.names[norm]} = {cell.config.eps:g}"


class Frontier(NamedTuple):
    """A size that transfer is drawn against."""

    name: str  # of the figure
    title: str
    axis: str
    limit: dict[str, float]  # of the axis
    reading: str = ""


FRONTIERS = {
    "rel_l2": Frontier(
        "frontier", "Transfer against size of the perturbation", "mean ‖v‖₂/‖x‖₂", {"left": 0}
    ),
    "ssim": Frontier(
        "frontier-ssim", "Transfer against SSIM", "mean SSIM", {"right": 1},
        "At 1 an image looks like its clean one: better attacks stand further up and right. ",
    ),
}  # fmt: skip
COUNTED = {
    "all": "all images, those that the target misclassifies when clean included",
    "target-correct": "the images that the target classifies correctly when clean",
    "all-correct": "the images that all networks classify correctly when clean",
}


def write_figures(drawing: Drawing, folder: Path, command: str) -> list[Path]:
    """Every figure as PNG and PDF, with its data (CSV) and what made it (TXT); their paths.

    Older figures of the folder go.
    """
    notes = [*setting_notes(drawing.cells), *drawing.outcomes.missing()]
    contents = dict[Path, bytes]()
    for each in drawing.figures():
        told = [each.title, each.caption, *notes, f"made by: {command}", f"data: {each.name}.csv"]
        contents |= {
            folder / f"{each.name}.png": encoded(each.figure, "png"),
            folder / f"{each.name}.pdf": encoded(each.figure, "pdf"),
            folder / f"{each.name}.csv": csv_text(each.data).encode(),
            folder / f"{each.name}.txt": ("\n".join(told) + "\n").encode(),
        }
    older = [p for p in folder.glob("*") if p.suffix in (".png", ".pdf", ".csv", ".txt")]
    return write_all(contents, older)


def encoded(figure: Figure, kind: str) -> bytes:
    """A figure as a file's bytes, "png" or "pdf": the same every time."""
    content = io.BytesIO()
    times = {"pdf": {"CreationDate": None}}.get(kind)
    with styled():
        figure.savefig(content, format=kind, metadata=times)
    return content.getvalue()
