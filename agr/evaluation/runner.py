"""One cell from its config to its records: select, craft on the source, score on every target."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from tqdm import tqdm

from agr.attacks import Attack
from agr.attacks.engine import Calls
from agr.attacks.idle import idle_parts
from agr.config.cell import Cell
from agr.config.networks import undefended
from agr.evaluation.crafting import AnyAttack, CraftedImage, crafted, found_by, prepare, saved
from agr.evaluation.predictions import Evaluator
from agr.evaluation.provenance import check_same_images, note_run, open_evaluator
from agr.evaluation.scoring import adversarial_rows, scored, trace_rows
from agr.evaluation.selection import Chosen, select
from agr.models.defended import DefendedNetwork, defenses_of
from agr.records.claim import refuse_entry
from agr.records.progress import Todo, todo
from agr.records.run_info import Narrowing, NumericIdentity, RunInfo, Session
from agr.records.store import Records
from agr.utils.errors import ConfigError, first_line
from agr.utils.program import as_called
from agr.utils.signals import unbroken

Say = Callable[[str], None]
IMAGES_IN_PART = 256  # at most, of saved ones: memory doesn't grow with their number
BATCHES = 4  # of scoring, at once


def run_cell(
    cell: Cell, say: Say = print, *, crafting: bool = True, attack: AnyAttack | None = None
) -> Records:
    """Do what is missing of `cell` and return its records, complete unless images were bad.

    Without `crafting`, only adversarial images that are saved are scored. An `attack` that is given
    was prepared before (`prepare`).
    Raises ConfigError for what cannot be run, before a network is loaded, and Busy if another
    process runs the cell's shard (with `wait` it is waited for).
    """
    refuse_entry(cell.config.outputs)
    records = Records(cell.folder)
    if not crafting:
        defenses_of(cell)  # as `prepare` does
    elif attack is None:
        attack = prepare(cell)
    with records.lock(cell.config.shard, wait=cell.config.wait):
        for line in records.mend(cell.config.shard):
            say(line)
        while True:
            evaluator: Evaluator | None = None
            try:
                evaluator = open_evaluator(cell, records, note=crafting)
                return _run(evaluator, records, attack, say)
            except (RuntimeError, MemoryError) as e:
                known = isinstance(e, torch.OutOfMemoryError | MemoryError)
                if not known and "can't allocate memory" not in str(e):
                    raise
                reason = first_line(e)
            # Not inside `except`: the traceback holds on to what filled the memory.
            if cell.library is not None:
                raise ConfigError(
                    f"out of memory with {cell.chunk} images at once: give a smaller "
                    f"attack.library.chunk ({reason})"
                )
            tried = evaluator.numeric if evaluator else None
            evaluator = None
            _narrow(records, tried, reason, say)


def _run(evaluator: Evaluator, records: Records, attack: AnyAttack | None, say: Say) -> Records:
    """Do what is missing of a cell, once; without an attack, score what is saved."""
    cell = evaluator.cell
    images = evaluator.images.manifest
    say(f"images: {len(images.entries):,}, {images.layout} in {images.place}")
    if images.unread:
        say(f"note: columns of {images.place.name} that weren't read: {', '.join(images.unread)}")
    if images.passed_over:
        say(f"note: left out, since they can't be read: {', '.join(images.passed_over)} files")
    if evaluator.images.cache:
        say(evaluator.images.cache.describe())
    for name, tuning in evaluator.numeric.networks.items():
        if tuning.unfolded_because:
            say(f"{name}: batch norms stay as they are: {tuning.unfolded_because}")
    for name in [cell.source, *cell.targets]:
        evaluator.network(name)  # a file that holds something else shows before the long work
    _ = evaluator.lpips  # likewise
    for line in found_by(cell, attack, evaluator.source):
        say(line)
    # Of a library's attack the last chunk is crafted as a whole, with images that aren't recorded.
    n = cell.config.n_images
    selection = select(evaluator, -(-n // cell.chunk) * cell.chunk)
    for name, (bad, known) in evaluator.clean.nonfinite_counts().items():
        title = cell.title(name)
        say(f"{title} ({name}): no finite answer (NaN) to {bad:,} of {known:,} clean images")
    if not selection.chosen:
        records.drop_run()  # nothing was made: with what is mended the cell begins anew
        raise ConfigError(_none_eligible(evaluator))
    if cell.selecting and 2 * selection.eligible < selection.looked_at:
        say(
            f"note: {' and '.join(map(cell.title, cell.selecting))} are right about "
            f"{selection.eligible:,} of the first {selection.looked_at:,} images: are the labels "
            "in another order, or of other classes?"
        )
    attacked = [c for c in selection.chosen if c.position < n]
    chosen = [c for c in attacked if cell.mine(c.position)]
    check_same_images(records, attacked)
    note_run(records, evaluator, selection=selection)
    work = todo(cell, records, {c.position for c in chosen})
    if work.to_score:
        made = saved(evaluator, records, [c for c in chosen if c.position in work.to_score])
        _record(evaluator, records, work, made, total=len(work.to_score))
    idle = _idle(cell, attack) if isinstance(attack, Attack) else []
    if work.to_craft and attack:
        _craft(evaluator, records, work, attack, selection.chosen)
    lost = {c.position for c in chosen if c.image_id in evaluator.images.bad}
    for name in defenses_of(cell):
        defended = evaluator.network(name)
        if isinstance(defended, DefendedNetwork) and defended.images:
            _, defenses = undefended(name, cell.config.defenses)
            named = zip(defenses, defended.changed, strict=False)
            idle += [f"defense {defense} of {name}" for defense, n in named if not n]
    note_run(records, evaluator, lost=lost, idle=idle)
    for reason in evaluator.images.bad.values():
        say(f"bad image, left out: {reason}")
    return records


def _none_eligible(evaluator: Evaluator) -> str:
    cell = evaluator.cell
    n = len(evaluator.images.manifest.entries)
    if len(evaluator.images.bad) == n:
        first = next(iter(evaluator.images.bad.values()))
        return (
            f"no image of {cell.config.data.root} can be read ({n:,} tried; {first}): restore "
            "them, or give others as data.root"
        )
    counts = evaluator.clean.nonfinite_counts().items()
    broken = [name for name, (nonfinite, known) in counts if nonfinite == known]
    if broken:
        return (
            f"no image is eligible: {' and '.join(broken)} never gave a finite answer (NaN): its "
            "weights or its precision are not what it needs; give other weights, or precision=fp32"
        )
    return (
        f"no image of {cell.config.data.root} is eligible: select={cell.config.select} asks that "
        f"{' and '.join(cell.selecting) or 'no network'} be right about it; "
        f"{as_called('python -m agr.check')} shows what each has right, select=none asks nothing"
    )


def _narrow(records: Records, tried: NumericIdentity | None, reason: str, say: Say) -> None:
    """Halve the slots of a cell whose memory ran out with `tried`; what is recorded stays.

    run.json says how wide it was before: the last bits of the rows from then on may be others.
    Raises ConfigError if there is no half.
    """
    if tried is None:
        raise ConfigError(
            "out of memory before the first image: use another device, fewer targets, or "
            f"resident=false ({reason})"
        )
    after = tried.halved()
    if after is None:
        raise ConfigError(f"out of memory with a single image: use another device ({reason})")

    def change(run: RunInfo) -> None:
        now = run.numeric
        # else another shard was first
        if now and (now.slots, now.width) == (tried.slots, tried.width):
            run.narrowed.append(Narrowing(tried.slots, tried.width, len(records.read("rows"))))
            run.numeric = after

    now = records.update_run(change).numeric or after
    say(f"out of memory with slots={tried.slots}: going on with slots={now.slots}")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _craft(
    evaluator: Evaluator, records: Records, work: Todo, attack: AnyAttack, selected: list[Chosen]
) -> None:
    """Craft on the source what is to be crafted, and record it."""
    started, crafting, calls = time.monotonic(), 0.0, Calls()

    def timed() -> Iterator[CraftedImage]:
        nonlocal crafting
        resumed = time.monotonic()
        for m in crafted(evaluator, attack, selected, work.to_craft, calls):
            crafting += time.monotonic() - resumed
            yield m
            resumed = time.monotonic()
        crafting += time.monotonic() - resumed

    count = _record(evaluator, records, work, timed(), total=len(work.to_craft))
    session = Session(
        ended=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        shard=evaluator.cell.config.shard,
        images=count,
        seconds=round(time.monotonic() - started, 3),
        crafting_seconds=round(crafting, 3),
        batch_forwards=calls.forwards,
        batch_backwards=calls.backwards,
    )
    note_run(records, evaluator, session=session)


def _idle(cell: Cell, attack: Attack) -> list[str]:
    try:
        return [str(part) for part in idle_parts(attack, cell.geometry.size)]
    except ValueError as e:
        raise ConfigError(f"attack={cell.config.attack.name}: {e}") from e


def _record(
    evaluator: Evaluator, records: Records, work: Todo, made: Iterator[CraftedImage], *, total: int
) -> int:
    """Score what is made, write it in parts, also when interrupted, and count the images."""
    c, writer = evaluator.cell.config, _PartWriter(records, evaluator)
    count, fooled = 0, 0
    shown = next((t for t in evaluator.cell.targets if work.rows[t]), evaluator.cell.source)
    title = f"{c.attack.name} {c.norm.name} {evaluator.cell.source}"
    with tqdm(
        total=total, unit="img", desc=title, disable=not c.progress or None, leave=False
    ) as bar:
        try:
            for batch in _batches(made, evaluator.numeric.width, c.part_seconds):
                found = scored(evaluator, work, batch)
                adversarials = adversarial_rows(work, batch, records.png_folder)
                writer.add(**found, trace=trace_rows(work, batch), adversarials=adversarials)
                count += len(batch)
                fooled += sum(row["success"] for row in found["rows"] if row["target"] == shown)
                bar.set_postfix_str(f"ASR on {shown} {fooled / count:.1%}", refresh=False)
                bar.update(len(batch))
        finally:
            writer.flush()
    return count


def _batches(
    made: Iterator[CraftedImage], width: int, seconds: float
) -> Iterator[list[CraftedImage]]:
    """Yield images to be scored together: many, so that few places of scoring batches stay empty.

    But no image waits for longer than about `seconds`.
    """
    batch: list[CraftedImage] = []
    last = time.monotonic()
    for m in made:
        batch.append(m)
        late = time.monotonic() - last > seconds
        if len(batch) % width == 0 and (late or len(batch) == BATCHES * width):
            yield batch
            batch, last = [], time.monotonic()
    if batch:
        yield batch


class _PartWriter:
    """Writer of part files: rows reach the disk every so often, and with `flush`."""

    def __init__(self, records: Records, evaluator: Evaluator):
        c, numeric = evaluator.cell.config, evaluator.numeric
        self.records, self.shard, self.seconds = records, c.shard, c.part_seconds
        # What decides the last bits and can change in the middle of a cell: memory ran out.
        self.about = {"slots": numeric.slots, "width": numeric.width}
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.last = time.monotonic()

    def add(self, **tables: Iterable[dict[str, Any]]) -> None:
        for kind, rows in tables.items():
            self.tables.setdefault(kind, []).extend(rows)
        full = len(self.tables.get("adversarials", ())) >= IMAGES_IN_PART
        if full or time.monotonic() - self.last > self.seconds:
            self.flush()

    def flush(self) -> None:
        with unbroken():  # else a stop between the two lines would have it written once more
            if any(self.tables.values()):
                self.records.write_part(self.shard, self.tables, self.about)
            self.tables, self.last = {}, time.monotonic()
