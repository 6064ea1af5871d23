"""Estimates of how long a cell takes on this machine."""

from __future__ import annotations

from agr.config.cell import Cell
from agr.utils.errors import ConfigError

PROBE_SECONDS = 5.0  # per source


def at_most(cell: Cell, missing: int, step: float) -> float:
    """Bound the seconds for `missing` images of a cell, at `step` seconds per image and step.

    Scoring and clean predictions are at most two passes per target, and one for each scored step,
    each no dearer than a step.
    """
    from agr.attacks.build import build_attack

    attack, members = build_attack(cell.config), len(cell.sources)
    steps = attack.once + cell.config.steps * attack.gradients(members) / members
    scored = (2 + len(cell.score_steps)) * len(cell.targets)
    return missing * (steps + 1 + scored) * step


def seconds_per_step(
    cell: Cell, costs: dict[tuple[str, ...], float | ConfigError]
) -> float | ConfigError:
    """Measure the seconds per image of a forward and gradient on the source, or say why not.

    `costs` remembers them for the next cell of the same source.
    """
    from agr.evaluation.predictions import source_and_slots
    from agr.evaluation.profiling import step_seconds

    c = cell.config
    key = (cell.source, c.precision, c.memory_format)
    if key not in costs:
        try:
            network, slots = source_and_slots(cell)
            costs[key] = step_seconds(network, cell.geometry.size, slots, PROBE_SECONDS)
        except ConfigError as e:  # a list of cells needs no weights
            costs[key] = e
    return costs[key]


def duration(seconds: float) -> str:
    """Format seconds: "12 s", "3.4 min"; "-" for none."""
    if not seconds:
        return "-"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
