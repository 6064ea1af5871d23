"""Memory, disk and time that a run will need, against what this machine has."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agr.config.cell import Cell
from agr.config.schema import Geometry
from agr.data.cache import PixelCache
from agr.data.entries import Manifest
from agr.evaluation.estimate import at_most, duration
from agr.records.progress import progress
from agr.records.store import Records
from agr.utils.errors import ConfigError
from agr.utils.text import format_bytes, plural

if TYPE_CHECKING:
    from agr.records.run_info import NumericIdentity


ROW_BYTES, TRACE_BYTES, ANSWER_BYTES = 100, 40, 50  # on disk, rounded up from runs on the demo


class Line(NamedTuple):
    """A line of the check: fine or not, of what, and what was found."""

    fine: bool
    about: str
    said: str


class Machine(NamedTuple):
    """Device and numeric identity of a check."""

    numeric: NumericIdentity
    device: str


def _memory(sources: Sequence[Cell], machine: Machine) -> Iterator[Line]:
    """Check that the slots fit beside the networks, which are loaded by now."""
    import torch

    from agr.evaluation.predictions import source_of
    from agr.evaluation.profiling import free_bytes, step_bytes

    needs = {}
    for cell in sources:
        network = source_of(cell, machine.numeric, machine.device)
        needs[cell.source] = step_bytes(network, cell.geometry.size), _slots(cell)
    worst = max(needs, key=lambda source: math.prod(needs[source]))
    (need, slots), free = needs[worst], free_bytes(torch.device(machine.device))
    total = slots * need
    said = f"{worst}, {slots} slots: about {format_bytes(total)}, {format_bytes(free)} free"
    way = f": use slots={max(1, int(free / need))} or fewer"
    yield Line(total <= free, "memory", said + (way if total > free else ""))


def _slots(cell: Cell) -> int:
    """Return the slots that a run of the cell has or would have; on a GPU the source decides."""
    from agr.evaluation.determinism import settle

    run = Records(cell.folder).run()
    return settle(cell, run.numeric if run else None, cell.sources).slots


def _disk(cells: Sequence[Cell], images: Manifest | None) -> Iterator[Line]:
    """Check that records, saved images and the cache of decoded images fit on the disk."""
    need = sum(_record_bytes(cell) for cell in cells)
    parts = [f"records {format_bytes(need)}"]
    if cells[0].config.data.cache and images:
        for geometry in _geometries(cells):
            try:
                cache = PixelCache(cells[0].data_folder, images, geometry)
            except ConfigError as e:
                yield Line(False, "disk", str(e))
                return
            need += cache.full_size - cache.used
            parts.append(f"cache of {geometry.size} px {format_bytes(cache.full_size)}")
    place = Path(cells[0].config.outputs)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    said = f"{', '.join(parts)}; {format_bytes(free)} free for outputs={cells[0].config.outputs}"
    way = ": name another folder, or leave out what is not needed"
    yield Line(need <= free, "disk", said + ("" if need <= free else way))


def _record_bytes(cell: Cell) -> float:
    c = cell.config
    image = ROW_BYTES * len(cell.targets) + ANSWER_BYTES * len(cell.networks)
    image += TRACE_BYTES * (c.steps + 1) * c.trace
    saved = 3 * 3 * cell.geometry.size**2  # two in Parquet, a PNG
    return c.n_images * image + cell.saves * saved


def _geometries(cells: Sequence[Cell]) -> list[Geometry]:
    found: list[Geometry] = []
    for cell in cells:
        if cell.geometry not in found:
            found.append(cell.geometry)
    return found


def _time(cells: Sequence[Cell], sources: Sequence[Cell], machine: Machine) -> Iterator[Line]:
    """An estimate of the run time from steps that are tried on every source."""
    from agr.evaluation.predictions import source_of
    from agr.evaluation.profiling import step_seconds

    ticks = {}
    for cell in sources:
        network = source_of(cell, machine.numeric, machine.device)
        budget = cell.config.check.seconds / len(sources)
        ticks[cell.source] = step_seconds(network, cell.geometry.size, _slots(cell), budget)
    total, done, left_out, foreign = 0.0, 0, 0, 0
    for cell in cells:
        _, missing, _ = progress(cell, Records(cell.folder))
        done += not missing
        if missing and cell.library is not None:
            foreign += 1
        elif missing and cell.source in ticks:
            total += at_most(cell, missing, ticks[cell.source])
        else:
            left_out += bool(missing)
    left = len(cells) - done - left_out - foreign
    said = [f"at most about {duration(total)} for {plural(left, 'cell')} here"] if left else []
    said += [f"{done} done before"] if done else []
    if foreign:
        others = plural(foreign, "cell")
        said.append(f"{others} of other libraries' attacks, whose time isn't known")
    if left_out:
        said.append(f"{plural(left_out, 'cell')} without weights: see above")
    yield Line(not left_out, "time", ", ".join(said))
