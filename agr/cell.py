"""One cell from its config to its records: select, craft on the source, score on every target."""

from __future__ import annotations

import datetime
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from agr.attacks import Attack
from agr.attacks.draws import key_of
from agr.build import build_attack, build_defenses
from agr.config import Cell
from agr.engine import Calls, Crafted, Item, craft
from agr.errors import ConfigError, first_line
from agr.inputs import check_inputs, check_unchanged
from agr.lab import Lab
from agr.models.defenses import check_order
from agr.naming import draw, undefended
from agr.numeric import Numeric, device_of, settle
from agr.records import Records, image_of
from agr.rows import adversarial_rows, target_rows, trace_rows
from agr.selection import Chosen, select
from agr.todo import Todo, todo

Say = Callable[[str], None]
IMAGES_IN_PART = 256  # at most, of saved ones: memory doesn't grow with their number
BATCHES = 4  # of scoring, at once
PACKAGES = ("agr", "torch", "timm", "numpy", "pillow", "hydra-core", "pandas", "pyarrow")


def run_cell(cell: Cell, say: Say = print, *, crafting: bool = True) -> Records:
    """Do what is missing of `cell`; its records, complete unless images were bad.

    Without `crafting`, only adversarial images that are saved are scored.
    Raises ConfigError for what cannot be run, before a network is loaded.
    """
    records = Records(cell.folder)
    attack = attack_of(cell)
    with records.lock(cell.config.shard):
        while True:
            lab: Lab | None = None
            try:
                lab = open_lab(cell, records, note=crafting)
                return _run(lab, records, attack, say, crafting)
            except RuntimeError as e:
                if not _out_of_memory(e):
                    raise
                reason = first_line(e)
            # Not inside `except`: the traceback holds on to what filled the memory.
            tried = lab.numeric if lab else None
            lab = None
            _narrow(records, tried, reason, say)


def _run(lab: Lab, records: Records, attack: Attack, say: Say, crafting: bool) -> Records:
    """Do what is missing of the lab's cell, once."""
    cell = lab.cell
    say(f"images: {len(lab.manifest.entries):,}, {lab.manifest.layout} in {lab.manifest.place}")
    if lab.cache:
        say(lab.cache.describe())
    for name, tuning in lab.numeric.networks.items():
        if tuning.unfolded_because:
            say(f"{name}: batch norms stay as they are: {tuning.unfolded_because}")
    for name in [cell.source, *cell.targets]:
        lab.network(name)  # a file that holds something else shows before the long work
    selection = select(lab, cell.config.n_images)
    if not selection.chosen:
        raise ConfigError(
            f"no image of {cell.config.data.root} is eligible: select={cell.config.select} "
            f"asks that {' and '.join(cell.selecting) or 'no network'} be right about it; "
            "python -m agr.check shows what each has right, select=none asks nothing"
        )
    i, k = cell.shard
    chosen = [c for c in selection.chosen if c.position % k == i]
    _check_same_images(records, chosen)
    _note(records, lab, eligible=selection.total)
    work = todo(cell, records, {c.position for c in chosen})
    if work.to_score:
        made = _saved(lab, records, [c for c in chosen if c.position in work.to_score])
        _record(lab, records, work, made, total=len(work.to_score))
    if work.to_craft and crafting:
        _craft(lab, records, work, attack, [c for c in chosen if c.position in work.to_craft])
    _note(records, lab, lost={c.position for c in chosen if c.entry.image_id in lab.bad})
    for reason in lab.bad.values():
        say(f"bad image, left out: {reason}")
    return records


def _out_of_memory(e: RuntimeError) -> bool:
    """Whether torch had no memory left, on a GPU or on the CPU."""
    return isinstance(e, torch.OutOfMemoryError) or "can't allocate memory" in str(e)


def _narrow(records: Records, tried: Numeric | None, reason: str, say: Say) -> None:
    """Halve the slots of a cell whose memory ran out with `tried`; what is recorded stays.

    run.json says how wide it was before: the last bits of the rows from then on may be others.
    Raises ConfigError if there is no half.
    """
    after = tried.halved() if tried else None
    if tried is None or after is None:
        raise ConfigError(f"out of memory with a single image: use another device ({reason})")

    def change(run: dict[str, Any]) -> None:
        now = Numeric.of(run["numeric"])
        if (now.slots, now.width) == (tried.slots, tried.width):  # else another shard was first
            until = {"slots": tried.slots, "width": tried.width}
            run.setdefault("narrowed", []).append(until | {"rows": len(records.read("rows"))})
            run["numeric"] = asdict(after)

    now = records.update_run(change)["numeric"]
    say(f"out of memory with slots={tried.slots}: going on with slots={now['slots']}")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def attack_of(cell: Cell) -> Attack:
    """The attack of a cell, with its budget in effect. Raises ConfigError, also for a defense."""
    for target in cell.targets:
        bare, defenses = undefended(target, cell.config.defenses)
        if defenses:
            parts = build_defenses(cell.config, defenses)
            try:
                check_order(parts, cell.suite.networks[bare].size)
            except ValueError as e:
                raise ConfigError(f"target {target}: {e}") from e
    attack = build_attack(cell.config, cell.eps_scale)
    _check_sizes(cell, attack)
    return attack


def _check_sizes(cell: Cell, attack: Attack) -> None:
    """Raise ConfigError if a view makes images of a size that a source doesn't take."""
    own = cell.geometry.size
    side = attack.side(own)
    for name in cell.sources:
        if side != own and cell.suite.networks[name].fixed_size:
            raise ConfigError(
                f"attack={cell.config.attack.name} makes copies of {side} px, and {name} takes "
                f"{cell.suite.networks[name].size} px only: add attack.views.diverse.back=true, "
                "which resizes them back"
            )


def open_lab(cell: Cell, records: Records, *, note: bool = True) -> Lab:
    """Everything a cell works with, checked and, unless `note` is off, written down.

    Raises ConfigError.
    """
    inputs = check_inputs(cell)

    def begin(run: dict[str, Any]) -> None:
        # Under the lock of run.json: of two processes that begin a cell, the second sees the first.
        check_unchanged(cell, run, inputs)
        run["numeric"] = asdict(settle(cell, run.get("numeric")))
        run |= {"cell": cell.id, "name": cell.name, "attack_hash": cell.attack_hash}
        run |= {"eps_effective": cell.eps_effective}
        manifest = inputs.manifest
        run |= {"data": {"layout": manifest.layout, "fingerprint": manifest.fingerprint}}
        run |= {"weights": run.get("weights", {}) | inputs.weights}
        run |= {"networks": run.get("networks", {}) | inputs.networks}
        if note:
            run |= {"config": asdict(cell.config), "command": cell.command(), "git": git_commit()}
            run["versions"] = {p: version(p) for p in PACKAGES}
            run["versions"]["python"] = platform.python_version()

    numeric = Numeric.of(records.update_run(begin)["numeric"])
    return Lab(cell, numeric, device_of(cell), inputs.manifest)


# ---- adversarial images, new and saved -----------------------------------------------------------


def _craft(
    lab: Lab, records: Records, work: Todo, attack: Attack, chosen: Sequence[Chosen]
) -> None:
    """Craft on the source what is to be crafted, and record it."""
    started, calls = time.monotonic(), Calls()
    items = _items(lab, chosen)
    if attack.pool_size:
        attack = replace(attack, pool=lab.pool(attack.pool_size))
    made = craft(
        attack, lab.source, items, lab.numeric.slots, trace=lab.cell.config.trace, calls=calls
    )
    count = _record(lab, records, work, made, total=len(chosen))
    session = {
        "ended": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "shard": lab.cell.config.shard,
        "images": count,
        "seconds": round(time.monotonic() - started, 3),
        "batch_forwards": calls.forwards,
        "batch_backwards": calls.backwards,
    }
    _note(records, lab, session=session)


def _items(lab: Lab, chosen: Sequence[Chosen]) -> Iterator[Item]:
    """The images to attack, decoded ahead, with the label that the attack works against."""
    by_id = {c.entry.image_id: c for c in chosen}
    for entry, pixels in lab.images(c.entry for c in chosen):
        c = by_id[entry.image_id]
        key = key_of(draw(lab.cell.config.seed, "attack", entry.image_id))
        y = c.target_label
        if y is None:
            own = lab.clean_answer(lab.cell.source, entry.image_id)
            prediction = lab.cell.config.attack.label == "prediction"
            y = own.pred if prediction and own else entry.label
        yield Item(c, pixels, y, entry.label, key)


def _saved(lab: Lab, records: Records, chosen: Sequence[Chosen]) -> Iterator[Crafted]:
    """Adversarial images that an earlier run saved, as if they had just been crafted."""
    by_position = {c.position: c for c in chosen}
    for rows in records.saved_images(set(by_position)):
        entries = [by_position[row["position"]].entry for row in rows]
        clean = {entry.image_id: pixels for entry, pixels in lab.images(entries)}
        for row in rows:
            if row["image_id"] in clean:
                c = by_position[row["position"]]
                item = Item(c, clean[row["image_id"]], c.entry.label)
                image = image_of(row).transpose(2, 0, 1)
                cost = row["forwards"], row["backwards"]
                yield Crafted(item, image, row["steps_used"], row["first_success_step"], *cost, ())


def _record(lab: Lab, records: Records, work: Todo, made: Iterator[Crafted], *, total: int) -> int:
    """Score what is made and write it in parts, also when interrupted; how many images."""
    parts = _Parts(records, lab.cell.config.shard, lab.cell.config.part_seconds)
    count, fooled = 0, 0
    shown = next((t for t in lab.cell.targets if work.rows[t]), lab.cell.source)
    with _bar(lab.cell, total) as bar, parts:
        for batch in _batches(made, lab.numeric.width, lab.cell.config.part_seconds):
            rows = target_rows(lab, work, batch)
            adversarials = adversarial_rows(work, batch, records.folder)
            parts.add(rows=rows, trace=trace_rows(work, batch), adversarials=adversarials)
            count += len(batch)
            fooled += sum(row["success"] for row in rows if row["target"] == shown)
            bar.set_postfix_str(f"ASR on {shown} {fooled / count:.1%}", refresh=False)
            bar.update(len(batch))
    return count


def _batches(made: Iterator[Crafted], width: int, seconds: float) -> Iterator[list[Crafted]]:
    """Images to be scored together: many, so that few places of scoring batches stay empty.

    But no image waits for longer than about `seconds`.
    """
    batch: list[Crafted] = []
    last = time.monotonic()
    for m in made:
        batch.append(m)
        late = time.monotonic() - last > seconds
        if len(batch) % width == 0 and (late or len(batch) == BATCHES * width):
            yield batch
            batch, last = [], time.monotonic()
    if batch:
        yield batch


def _bar(cell: Cell, total: int) -> tqdm[Any]:
    c = cell.config
    title = f"{c.attack.name} {c.norm.name} {cell.source}"
    return tqdm(total=total, unit="img", desc=title, disable=not c.progress, leave=False)


class _Parts:
    """Rows on their way to disk: written every so often, and on leaving, however that comes."""

    def __init__(self, records: Records, shard: str, seconds: float):
        self.records, self.shard, self.seconds = records, shard, seconds
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.last = time.monotonic()

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()

    def add(self, **tables: Iterable[dict[str, Any]]) -> None:
        for kind, rows in tables.items():
            self.tables.setdefault(kind, []).extend(rows)
        full = len(self.tables.get("adversarials", ())) >= IMAGES_IN_PART
        if full or time.monotonic() - self.last > self.seconds:
            self.flush()

    def flush(self) -> None:
        if self.tables.get("rows") or self.tables.get("adversarials") or self.tables.get("trace"):
            self.records.write_part(self.shard, self.tables)
        self.tables, self.last = {}, time.monotonic()


# ---- run.json ------------------------------------------------------------------------------------


def _check_same_images(records: Records, chosen: Sequence[Chosen]) -> None:
    """The positions that have rows must still be the same images."""
    frame = records.read("rows", ["position", "image_id"]).drop_duplicates()
    before = dict(zip(frame["position"].tolist(), frame["image_id"].tolist(), strict=True))
    for c in chosen:
        if before.get(c.position, c.entry.image_id) != c.entry.image_id:
            raise ConfigError(
                f"{records.folder}: position {c.position} of the selection was "
                f"{before[c.position]} and is now {c.entry.image_id}: an image file was damaged "
                "or repaired since; restore it, or use another outputs=… folder"
            )


def _note(
    records: Records,
    lab: Lab,
    *,
    eligible: int | None = None,
    session: dict[str, Any] | None = None,
    lost: set[int] | None = None,
) -> None:
    """Add to run.json; `lost` are positions whose file went bad after they were chosen."""

    def change(run: dict[str, Any]) -> None:
        run["bad_images"] = lab.bad
        if eligible is not None:
            run["eligible"] = eligible
        if session:
            run.setdefault("sessions", []).append(session)
        if lost is not None:
            i, k = lab.cell.shard
            others = {p for p in run.get("lost", []) if p % k != i}
            run["lost"] = sorted(others | lost)

    records.update_run(change)


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, marked when it has changes."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [*words, "--exclude=*", "--abbrev=40"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        return done.stdout.strip()
    return None
