"""The numbers of a comparison of any cells, by what varies over them.

Against a baseline, differences are of the same images: by McNemar's exact test where an image has
one outcome, else by a bootstrap that draws an image with all its outcomes, with Holm's correction.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from agr.config.cell import Cell
from agr.report.comparison.axes import TARGET, Options, axis_of, layout_of, value_of, varying
from agr.report.comparison.paired import Paired, in_short, transfer_pair
from agr.report.families import TITLES, families_of
from agr.report.frames import counted_rows, selected
from agr.report.rates import APPEARANCE, NAN, perceptual_means
from agr.report.statistics import effective_number, holm, wilson
from agr.report.transfer import mean_rates, spread_over_seeds, success_shares
from agr.utils.errors import ConfigError

Row = tuple[str, ...]
MEAN = "mean transfer"  # the column beside the targets
ALL = "*"  # in place of a source: all of them


@dataclass
class Entry:
    """One number of the table: some cells seen as one, in percent and points."""

    row: Row  # values of the layout's rows
    column: str  # a value of the layout's column, MEAN, or a family's title
    target: str | None  # that it is about; None: a mean transfer
    family: str | None  # of the targets of a mean; None: of all families
    cells: Sequence[Cell]
    value: float = NAN
    low: float = NAN
    high: float = NAN
    n: int = 0  # images
    gradients: float = NAN  # per image
    sizes: dict[str, float] = field(default_factory=dict)  # perceptual ones, means over images
    seed_sd: float = NAN  # of the means of single seeds
    seed_low: float = NAN  # of an interval over seeds
    seed_high: float = NAN
    gap: Paired | None = None  # from the baseline; None where it is one, or isn't run
    p_holm: float = NAN

    @property
    def of_all(self) -> bool:
        """True if it is the mean transfer to all targets."""
        return self.target is None and self.family is None


class Comparison:
    """The numbers of some cells, laid out by what varies."""

    def __init__(self, cells: Sequence[Cell], options: Options, left_out: Sequence[str] = ()):
        """Lay out the cells; `left_out` says why points of the sweep are none.

        Raises ConfigError where nothing varies, or for options that don't fit what does.
        """
        self.left_out = left_out
        self.cells = list({(str(c.folder), repr(c.config)): c for c in cells}.values())
        axes = varying(self.cells)
        self.layout = layout_of(axes, options)
        for key in (*self.layout.rows, self.layout.column):
            if key != TARGET:
                axes.setdefault(key, axis_of(self.cells, key))
        self.axes = axes
        self._by_values = {self._values(cell): cell for cell in self.cells}
        if len(self._by_values) < len(self.cells):
            raise ConfigError(
                f"two cells have the same {', '.join(axes)}, so that a table can't tell them "
                "apart: give each attack a name of its own"
            )
        self._frames = {id(cell): selected(cell) for cell in self.cells}

    def frame_of(self, cell: Cell) -> pd.DataFrame | None:
        """Return the rows of a cell, if it is finished."""
        return self._frames[id(cell)]

    # ---- places ----------------------------------------------------------------------------------

    def _values(self, cell: Cell) -> Row:
        return tuple(value_of(cell, key) for key in self.axes)

    def titles_of(self, cell: Cell, keys: Sequence[str]) -> Row:
        """Return the titles of a cell's values."""
        axes = (self.axes.get(key) or axis_of(self.cells, key) for key in keys)
        return tuple(axis.titles[value_of(cell, axis.key)] for axis in axes)

    @cached_property
    def rows(self) -> list[Row]:
        """The rows' values, in the order of their axes; after the sources, all of them as one."""
        keys = self.layout.rows
        there = {tuple(value_of(cell, key) for key in keys) for cell in self.cells}
        rows = [r for r in itertools.product(*(self.axes[k].titles for k in keys)) if r in there]
        if "source" not in keys or len(keys) < 2 or len(self.axes["source"].titles) < 2:
            return rows
        place = keys.index("source")
        pooled = [(*row[:place], ALL, *row[place + 1 :]) for row in rows]
        return [*rows, *dict.fromkeys(pooled)]

    @cached_property
    def columns(self) -> dict[str, str]:
        """The columns' values, with their titles."""
        key = self.layout.column
        if key != TARGET:
            return {value: f"{key} {title}" for value, title in self.axes[key].titles.items()}
        targets = {t: cell.title(t) for cell in self.cells for t in cell.targets}
        return {column: column for column in (MEAN, *self.families)} | targets

    @cached_property
    def families(self) -> dict[str, str]:
        """The columns of a family's targets, beside that of all of them: title to family."""
        if self.layout.column != TARGET:
            return {}
        return {TITLES[family]: family for family in families_of(self.cells)}

    def _place(self, row: Row, column: str) -> Entry:
        """The entry of a row and column, with its cells and no numbers yet."""
        by_target = self.layout.column == TARGET
        wanted = {k: v for k, v in zip(self.layout.rows, row, strict=True) if v != ALL}
        wanted |= {} if by_target else {self.layout.column: column}
        cells = [c for c in self.cells if all(value_of(c, k) == v for k, v in wanted.items())]
        family = self.families.get(column)
        target = column if by_target and column != MEAN and not family else None
        if target is not None:  # which may be white-box to some of all sources
            cells = [c for c in cells if target in c.targets and ALL not in row]
        return Entry(row, column, target, family, cells)

    # ---- numbers ---------------------------------------------------------------------------------

    @cached_property
    def entries(self) -> list[Entry]:
        """All numbers of the table, row by row."""
        entries = [self._place(row, column) for row in self.rows for column in self.columns]
        for entry in entries:
            known = [(cell, self.frame_of(cell)) for cell in entry.cells]
            finished = [(cell, frame) for cell, frame in known if frame is not None]
            if finished and len(finished) == len(known):
                self._measure(entry, finished)
                entry.gap = self._gap(entry)
        # Corrected apart: the means of all targets, those of families, and single targets.
        for kind in ((True, True), (True, False), (False, False)):
            tested = [e for e in entries if e.gap and (e.target is None, e.of_all) == kind]
            for entry, p in zip(tested, holm([e.gap.p for e in tested if e.gap]), strict=True):
                entry.p_holm = p
        return entries

    def _measure(self, entry: Entry, finished: Sequence[tuple[Cell, pd.DataFrame]]) -> None:
        """Fill in an entry's rate, its interval and its cost."""
        images = pd.concat([frame.drop_duplicates("image_id") for _, frame in finished])
        entry.gradients = float(images["backwards"].mean())
        entry.sizes = perceptual_means([frame for _, frame in finished])
        if entry.target is None:
            rates = mean_rates(finished, entry.family)
            entry.value, entry.n = rates["transfer"], int(rates["images"])
            entry.low, entry.high = rates["transfer_low"], rates["transfer_high"]
            entry.seed_sd, entry.seed_low, entry.seed_high = spread_over_seeds(finished)
            return
        target = entry.target
        rows = pd.concat([counted_rows(f, target, c.config.denominator) for c, f in finished])
        if len(rows):
            share, n = float(rows["success"].mean()), effective_number(rows["image_id"])
            low, high = wilson(share * n, n)
            entry.value, entry.low, entry.high = 100 * share, 100 * low, 100 * high
            entry.n = rows["image_id"].nunique()

    def _gap(self, entry: Entry) -> Paired | None:
        """Compare an entry with the baseline, on the same images."""
        pairs = [(cell, self._baseline(cell)) for cell in entry.cells]
        if any(base is None or base is cell for cell, base in pairs):
            return None
        left = [self._outcomes(cell, entry) for cell, _ in pairs]
        right = [self._outcomes(base, entry) for _, base in pairs]
        if any(outcomes is None for outcomes in (*left, *right)):
            return None
        return transfer_pair(
            [x for x in left if x is not None], [x for x in right if x is not None]
        )

    def _baseline(self, cell: Cell) -> Cell | None:
        """The cell with the baseline's value, and everything else alike."""
        values = dict(zip(self.axes, self._values(cell), strict=True))
        values[self.layout.key] = self.layout.against
        return self._by_values.get(tuple(values.values()))

    def _outcomes(self, cell: Cell | None, entry: Entry) -> pd.Series[float] | None:
        """The outcomes of a cell's images that `entry` is about, percent by image id.

        None without such a run.
        """
        target, frame = entry.target, self.frame_of(cell) if cell else None
        if cell is None or frame is None or (target is not None and target not in cell.targets):
            return None
        if target is None:
            return 100 * success_shares(cell, frame, white_box=False, family=entry.family)
        rows = counted_rows(frame, target, cell.config.denominator)
        return 100 * rows["success"].astype(float).set_axis(rows["image_id"])

    @cached_property
    def sizes(self) -> list[str]:
        """Perceptual sizes that the records of some entry have."""
        return [
            name for name in APPEARANCE if any(pd.notna(e.sizes.get(name)) for e in self.entries)
        ]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All numbers, a row per entry: its keys, the rate, gradients and the paired difference."""
        rows = []
        for e in self.entries:
            keys = dict(zip(self.layout.rows, e.row, strict=True))
            gap = e.gap or Paired()
            rows.append(
                {key: "all" if value == ALL else value for key, value in keys.items()}
                | {self.layout.column: e.column, "asr": e.value, "low": e.low, "high": e.high}
                | {"n": e.n, "gradients": e.gradients}
                | {"difference": gap.difference, "difference_low": gap.low}
                | {"difference_high": gap.high, "paired_n": gap.n, "p": gap.p, "p_holm": e.p_holm}
                | {"only_this": gap.only_left, "only_baseline": gap.only_right}
                | {name: e.sizes.get(name, NAN) for name in self.sizes}
            )
        return pd.DataFrame(rows)

    # ---- in words ------------------------------------------------------------------------------

    @property
    def baseline(self) -> str:
        """Title of what the others are compared with; "" where nothing can be."""
        axis = self.axes[self.layout.key]
        title = axis.titles.get(self.layout.against, "")
        named = title if axis.key in ("attack", "source") else f"{axis.key} {title}"
        return named if len(axis.titles) > 1 else ""

    def labels(self, row: Row) -> list[str]:
        """Return a row's values by their titles."""
        return [
            f"all {len(self.axes[key].titles)}" if value == ALL else self.axes[key].titles[value]
            for key, value in zip(self.layout.rows, row, strict=True)
        ]

    @property
    def leading(self) -> int:
        """Number of columns with mean transfer, which stand first."""
        return 1 + len(self.families) if self.layout.column == TARGET else len(self.columns)

    @property
    def seeds(self) -> int:
        """Number of seeds whose results are put together; 0 where each stands alone."""
        shown = (*self.layout.rows, self.layout.column)
        return len(self.axes["seed"].titles) if "seed" in self.axes and "seed" not in shown else 0

    @cached_property
    def tests(self) -> int:
        """Number of comparisons of mean transfer that the correction is over."""
        return max(1, sum(e.of_all and e.gap is not None for e in self.entries))

    def verdict(self, row: Row) -> str:
        """Say in words how a row's mean transfer differs from the baseline; "" if it isn't run."""
        cells = [cell for e in self.entries if e.row == row for cell in e.cells]
        if self.baseline and all(self._baseline(cell) is cell for cell in cells):
            return "the baseline"
        by_word: dict[str, list[tuple[str, str]]] = {}
        for e in self.entries:
            if e.row == row and e.of_all and e.gap:
                said = in_short(e.gap, e.p_holm, self.tests)
                word = said.partition(" (")[0].partition(" at n")[0]
                by_word.setdefault(word, []).append((self.columns[e.column], said))
        if self.layout.column == TARGET:
            return "".join(said for found in by_word.values() for _, said in found)
        return "; ".join(
            f"{word} at {', '.join(title for title, _ in found)}"
            if len(found) > 1
            else f"{found[0][1]} at {found[0][0]}"
            for word, found in by_word.items()
        )
