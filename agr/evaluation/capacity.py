"""Memory, disk and time that a run will need, against what this machine has."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from agr.config.cell import Cell
from agr.data.cache import PixelCache
from agr.data.entries import Manifest
from agr.evaluation.estimate import at_most, duration
from agr.evaluation.profiling import free_bytes, step_bytes, step_seconds
from agr.models.sources import Source
from agr.records.progress import progress
from agr.records.store import Records
from agr.utils.errors import ConfigError
from agr.utils.text import format_bytes, plural

# Bytes on disk, rounded up from runs on the demo: of a row, an iterate, a clean prediction.
ROW_BYTES, STEP_BYTES, TRACE_BYTES, PREDICTION_BYTES = 100, 40, 40, 50


class Line(NamedTuple):
    """A line of the check: whether all is well, the subject, and the finding."""

    fine: bool
    about: str
    text: str


class Loaded(NamedTuple):
    """A source, loaded, with its slots."""

    cell: Cell  # the first one on it
    network: Source
    slots: int


def check_memory(sources: Sequence[Loaded]) -> Line:
    """Check that the slots fit beside the networks that are loaded by now."""
    needs = [step_bytes(s.network, s.cell.geometry.size) for s in sources]
    worst, need = max(zip(sources, needs, strict=True), key=lambda pair: pair[0].slots * pair[1])
    total, free = worst.slots * need, free_bytes(worst.network.device)
    text = f"{worst.cell.source}, {plural(worst.slots, 'slot')}: about {format_bytes(total)}, "
    text += f"{format_bytes(free)} free"
    if total > free:
        text += f": use slots={max(1, int(free / need))} or fewer"
    return Line(total <= free, "memory", text)


def check_disk(cells: Sequence[Cell], images: Manifest | None) -> Line:
    """Check that records, saved images and the cache of decoded images fit on the disk."""
    c = cells[0].config
    need = sum(record_bytes(cell) for cell in cells)
    parts = [f"records {format_bytes(need)}"]
    if c.data.cache and images:
        for geometry in {repr(cell.geometry): cell.geometry for cell in cells}.values():
            try:
                cache = PixelCache(cells[0].data_folder, images, geometry)
            except ConfigError as e:
                return Line(False, "disk", str(e))
            need += cache.full_size - cache.used
            parts.append(f"cache of {geometry.size} px {format_bytes(cache.full_size)}")
    place = Path(c.outputs)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"{', '.join(parts)}; {format_bytes(free)} free for outputs={c.outputs}"
    if need > free:
        text += ": name another folder, or leave out what is not needed"
    return Line(need <= free, "disk", text)


def record_bytes(cell: Cell) -> float:
    """Return the bytes on disk of a cell's records and saved images."""
    c = cell.config
    image = ROW_BYTES * len(cell.targets) + PREDICTION_BYTES * len(cell.networks)
    image += TRACE_BYTES * (c.steps + 1) * c.trace
    image += STEP_BYTES * len(cell.targets) * len(cell.score_steps)
    saved = 3 * 3 * cell.geometry.size**2  # two in Parquet, a PNG
    return c.n_images * image + cell.saves * saved


def check_time(cells: Sequence[Cell], sources: Sequence[Loaded]) -> Line:
    """Estimate the run time from steps that are tried on every source."""
    seconds = {}
    for cell, network, slots in sources:
        budget = cell.config.check.seconds / len(sources)
        seconds[cell.source] = step_seconds(network, cell.geometry.size, slots, budget)
    total, done, left_out, foreign = 0.0, 0, 0, 0
    for cell in cells:
        missing = progress(cell, Records(cell.folder)).missing
        if not missing:
            done += 1
        elif not cell.composed:
            foreign += 1
        elif cell.source in seconds:
            total += at_most(cell, missing, seconds[cell.source])
        else:
            left_out += 1
    left = len(cells) - done - left_out - foreign
    parts = [f"at most about {duration(total)} for {plural(left, 'cell')} here"] if left else []
    parts += [f"{done} done before"] if done else []
    if foreign:
        others = plural(foreign, "cell")
        parts.append(f"{others} of other libraries' attacks, whose time isn't known")
    if left_out:
        parts.append(f"{plural(left_out, 'cell')} without weights: see above")
    return Line(not left_out, "time", ", ".join(parts))
