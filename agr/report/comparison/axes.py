"""The keys that vary over the cells of a sweep, and the layout of a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from agr.config.cell import Cell
from agr.config.schema import Config
from agr.records.claim import entry_at
from agr.report.outcomes import distinct
from agr.report.rates import NORM_TITLES
from agr.utils.errors import ConfigError
from agr.utils.hashing import digest, slug

TARGET = "target"  # not a key of the config: every cell has several
# Beginnings of overrides that say where and how cells are run, which changes no number.
HOW = (
    "experiment=", "outputs=", "data.", "hydra", "--", "-", "slots=", "width=",
    "threads=", "device=", "workers=", "shard=", "progress=", "part_seconds=", "check.", "trace=",
    "save_adversarials=", "wait=", "shards=", "score_steps=", "perceptual=", "lpips=",
)  # fmt: skip
NOT_SHOWN = ("suite=", *HOW)  # in the name of a folder
MOST_LETTERS = 48  # of a folder's name that lists its overrides
POOLED = ("source", "seed")  # keys over which results may be put together


class Axis(NamedTuple):
    """A key, and its values by their titles, in the sweep's order."""

    key: str
    titles: dict[str, str]

    @property
    def numeric(self) -> bool:
        """True if all values are numbers, and their order means something."""
        return self.key != "seed" and all(map(_is_number, self.titles))


def value_of(cell: Cell, key: str) -> str:
    """Return a cell's value of a key, as text: "8" whether eps=8 or eps=8.0 was given."""
    c = cell.config
    known = {"attack": c.attack.name, "source": cell.source, "norm": c.norm.name}
    if key in known:
        return known[key]
    if key == "suite":
        return cell.suite.name
    if key == "targets":
        return "+".join(cell.targets)
    value = getattr(c, key, None)
    if value is None or not isinstance(value, int | float | str):
        value = _words(cell).get(key, "")
    return f"{float(value):g}" if _is_number(str(value)) else str(value)


def axis_of(cells: Sequence[Cell], key: str) -> Axis:
    """Return the axis of a key, whether or not it varies."""
    titles = {value_of(cell, key): _title(cell, key) for cell in cells}
    return Axis(key, distinct(titles) if key in ("attack", "source") else titles)


def varying(cells: Sequence[Cell]) -> dict[str, Axis]:
    """Return the axes of the keys that were given several values, in their order."""
    keys = list(dict.fromkeys(key for cell in cells for key in _words(cell)))
    axes = {key: axis_of(cells, key) for key in keys}
    return {key: axis for key, axis in axes.items() if len(axis.titles) > 1}


def check_success(cells: Sequence[Cell]) -> None:
    """Raise ConfigError where some attacks aim at a label and others don't, by their own rules.

    To reach a label and to leave one are two things; `success`, where it is given, is for both.
    """
    own = {cell.success: cell.config.attack.name for cell in cells if not cell.config.success}
    if len(own) > 1:
        raise ConfigError(
            f"attack={own['targeted']} succeeds where it reaches its target label, and "
            f"attack={own['label']} where it leaves the true one: compare them apart, or add "
            "attack.targeted=true, which aims all of them, or success=label, which asks all of "
            "them for any other label"
        )


def output_folder(cells: Sequence[Cell], overrides: Sequence[str], kind: str) -> Path:
    """Return the folder for what is made of some cells: OUTPUTS/SUITE/KIND/NAME.

    The name is that of the experiment with the overrides that change what is shown, or, where these
    are many, what varies and a hash of them.
    """
    named = [word.partition("=")[2] for word in overrides if word.startswith("experiment=")]
    changes = sorted(word for word in overrides if not word.lstrip("+").startswith(NOT_SHOWN))
    name = slug(",".join([*named[:1], *changes]))
    if len(name) > MOST_LETTERS:
        keys = named[:1] or list(varying(cells)) or ["cells"]
        name = slug("-".join([*(key.rpartition(".")[2] for key in keys[:4]), digest(changes)[:6]]))
    outputs = Path(cells[0].config.outputs)
    if entry := entry_at(outputs):  # in which nothing else belongs
        outputs, name = Path(Config.outputs), f"{entry.name},{name}"
    return outputs / cells[0].suite.name / kind / name


def _words(cell: Cell) -> dict[str, str]:
    """The overrides that a cell was composed from, by key."""
    shown = (word for word in cell.overrides if not word.lstrip("+").startswith(HOW))
    pairs = (word.lstrip("+~").partition("=") for word in shown)
    return {key: value for key, _, value in pairs}


def _title(cell: Cell, key: str) -> str:
    if key == "attack":
        return cell.config.attack.title
    if key == "source":
        return cell.title(cell.source)
    if key == "targets":
        return " + ".join(map(cell.title, cell.targets))
    value = value_of(cell, key)
    return NORM_TITLES.get(value, value) if key == "norm" else value


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


class Layout(NamedTuple):
    """Rows and columns of a comparison's table, and the baseline."""

    rows: tuple[str, ...]  # keys
    column: str  # a key, or TARGET
    key: str  # whose values are compared
    against: str  # the value that is the baseline


class Options(NamedTuple):
    """A user's choice of layout; None leaves it to what varies."""

    rows: str | None = None
    columns: str | None = None
    against: str | None = None


def layout_of(axes: dict[str, Axis], options: Options) -> Layout:
    """Choose rows and columns by what varies, and as the user says. Raises ConfigError."""
    if not axes:
        raise ConfigError(
            "nothing varies, so there is nothing to compare: give a key several values, as in "
            "attack=ifgsm,mifgsm,agr or eps=2,4,8"
        )
    rest = [key for key in axes if key != "seed"]
    column = options.columns or TARGET
    if options.columns is None and not options.rows:
        numbers = [key for key in rest if axes[key].numeric]
        column = numbers[0] if numbers and len(rest) > 1 else TARGET
    rows = options.rows.strip("[]").split(",") if options.rows else []
    # Sources stand together, and what is compared side by side.
    order = sorted(rest, key=lambda key: (key != "source", key == "attack"))
    rows = [key.strip() for key in rows] or [key for key in order if key != column] or ["attack"]
    for option, key in [("columns", column), *(("rows", key) for key in rows)]:
        if key not in axes and key not in ("attack", "source", "norm", "eps", "steps", TARGET):
            raise ConfigError(f"{option}={key}: what varies is {', '.join(axes)}; choose of these")
    if TARGET in rows or column in rows or len({*rows}) < len(rows):
        raise ConfigError(
            f"rows={','.join(rows)} columns={column}: a key stands in one of them, once, and "
            "target in columns"
        )
    hidden = [key for key in axes if key not in (*rows, column, *POOLED)]
    if hidden:
        raise ConfigError(
            f"rows={','.join(rows)} columns={column} leaves out {', '.join(hidden)}, which varies: "
            "give it one value, or put it into rows or columns"
        )
    there = [key for key in (*rows, column) if key in axes]
    key, against = _compared(axes, there or rows, options.against)
    return Layout(tuple(rows), column, key, against)


def _compared(axes: dict[str, Axis], there: Sequence[str], against: str | None) -> tuple[str, str]:
    """Return the key that is compared, and its baseline value. Raises ConfigError."""
    first = "attack" if "attack" in there else next(
        (key for key in there if key not in POOLED), there[0]
    )  # fmt: skip
    if against is None:
        return first, next(iter(axes[first].titles)) if first in axes else ""
    named, equals, value = against.partition("=")
    key, value = (named, value) if equals else (first, named)
    if key not in there:
        raise ConfigError(f"against={against}: {key} doesn't vary; what does: {', '.join(there)}")
    by_title = {title: value for value, title in axes[key].titles.items()}
    value = by_title.get(value, value)
    if value not in axes[key].titles:
        known = ", ".join(axes[key].titles)
        raise ConfigError(f"against={against}: {key} is one of {known}")
    return key, value
