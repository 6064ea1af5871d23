"""Craft and score a few recorded images once more, and compare: same bits or a problem."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from agr.attacks.engine import Calls
from agr.config.cell import Cell
from agr.config.load import stored_cell
from agr.data.decode import Pixels
from agr.evaluation.crafting import CraftedImage, attack_of, crafted, whole_chunks
from agr.evaluation.determinism import settle
from agr.evaluation.inputs import check_inputs, check_unchanged
from agr.evaluation.predictions import Evaluator
from agr.evaluation.profiling import free_bytes, step_bytes
from agr.evaluation.provenance import check_library_version
from agr.evaluation.scoring import scored
from agr.evaluation.selection import Chosen, select
from agr.records.agreement import ASKED, OF_A_LOOK, looks
from agr.records.progress import Todo
from agr.records.run_info import RunInfo
from agr.records.schema import KEYS, TABLES
from agr.records.store import Records
from agr.utils.errors import ConfigError, first_line
from agr.utils.text import format_bytes


def recraft(
    records: Records, images: int, seed: int, allow: Sequence[str]
) -> tuple[int, list[str]]:
    """Do random images of a finished cell again; return their number and what differs.

    `images` are drawn by `seed`; all their rows are compared, of every target and scored step, each
    with the slots that it was made with. Nothing that an earlier run kept is used, and nothing is
    written.
    """
    again, problems = 0, list[str]()
    try:
        run = records.run() or RunInfo()
        scored = records.scored()
        if not scored:
            return 0, []
        cell = stored_cell(run.config, records.folder, targets=sorted(scored))
        if foreign := [package for package in cell.foreign if package not in allow]:
            raise ConfigError(
                f"its attack has parts of {', '.join(foreign)}, whose code would be run: "
                f"add allow=[{','.join(foreign)}] if you trust it"
            )
        known = sorted(set().union(*scored.values()))
        drawn = random.Random(seed).sample(known, min(images, len(known)))
        problems += differences(cell, run, records, drawn)
        again = len(drawn)
    except ConfigError as e:
        problems.append(f"not crafted again: {first_line(e)}")
    except Exception as e:  # whoever can write records can have anything crafted
        problems.append(f"not crafted again: {type(e).__name__}: {first_line(e)}")
    return again, problems


def differences(
    cell: Cell, run: RunInfo, records: Records, positions: Collection[int]
) -> Iterator[str]:
    """Craft and score the images at some positions again, and say what differs from the records.

    `cell` has the images, networks and attack that are used. Raises ConfigError where they aren't
    those that `run` speaks of, or this machine gives other bits.
    """
    rows, abouts = _recorded(records)
    steps = records.read("steps")
    for n, about in enumerate(abouts):
        mine = rows[(rows["about"] == n) & rows["position"].isin([*positions])]
        if len(mine):
            before = mine.drop(columns="about").set_index(KEYS["rows"])
            its = steps[steps["position"].isin(mine["position"])].set_index(KEYS["steps"])
            for key, was, found in _differences(cell, run, before, its, about):
                yield f"crafted again, {key} is {found}, recorded is {was}"


def images_again(
    cell: Cell, run: RunInfo, records: Records, positions: Collection[int]
) -> dict[str, Pixels]:
    """Craft the images at some positions again, and return them, (3, H, W), by their ids.

    Raises ConfigError as `differences` does.
    """
    rows, abouts = _recorded(records)
    found: dict[str, Pixels] = {}
    for n, about in enumerate(abouts):
        mine = rows[(rows["about"] == n) & rows["position"].isin([*positions])]
        if len(mine):
            with TemporaryDirectory() as place:
                config = replace(cell.config, outputs=place, progress=False, slots=None, width=None)
                before = mine.set_index(KEYS["rows"])
                _, made = _crafted_again(replace(cell, config=config), run, before, about)
            found |= {m.item.tag.image_id: m.image for m in made}
    return found


def _recorded(records: Records) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return all rows and the slots and widths that they were made with, counted by `about`."""
    abouts: list[dict[str, Any]] = []
    frames = []
    for part in records.part_files("rows"):
        about = part.about()
        if about not in abouts:
            abouts.append(about)
        frame = part.read(TABLES["rows"].names).to_pandas()
        frames.append(frame.assign(about=abouts.index(about)))
    none = TABLES["rows"].empty_table().to_pandas()
    return pd.concat(frames) if frames else none, abouts


def _differences(
    cell: Cell,
    run: RunInfo,
    before: pd.DataFrame,
    steps: pd.DataFrame,
    about: dict[str, Any],
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (what, recorded, now) of each value that differs in rows made with `about`.

    `before` and `steps` are recorded rows by their keys.
    """
    targets = list(dict.fromkeys(target for _, target in before.index))
    with TemporaryDirectory() as place:
        config = replace(
            cell.config, outputs=place, progress=False, targets=targets, slots=None, width=None,
            score_steps=sorted({step for *_, step in steps.index}) or None,
        )  # fmt: skip
        made = _made_again(replace(cell, config=config), run, before, steps, about)
    for kind, recorded in (("rows", before), ("steps", steps)):
        now = pd.DataFrame(made[kind], columns=TABLES[kind].names).set_index(KEYS[kind])
        compared = [name for name in recorded.columns if looks(cell) or name not in OF_A_LOOK]
        for key in recorded.index:
            for name in compared:
                was: Any = recorded.at[key, name]
                found: Any = now.at[key, name] if key in now.index else None
                unknown = pd.isna(was) + pd.isna(found)
                if was != found and unknown < (1 if name in ASKED else 2):
                    image: Any = recorded.at[key, "image_id"]
                    at = "".join(f", step {step}" for step in key[2:])
                    yield f"{name} of {image} on {key[1]}{at}", was, found


def _made_again(
    cell: Cell,
    run: RunInfo,
    before: pd.DataFrame,
    steps: pd.DataFrame,
    about: dict[str, Any],
) -> dict[str, list[dict[str, Any]]]:
    """Make the rows, and those of scored steps, once more. Raises ConfigError."""
    evaluator, made = _crafted_again(cell, run, before, about)
    positions = {position for position, _ in before.index}
    at: dict[tuple[str, int], set[int]] = {}
    for position, target, step in steps.index:
        at.setdefault((target, step), set()).add(position)
    work = Todo(dict.fromkeys(cell.targets, positions), set(), set(), at, positions, set())
    return scored(evaluator, work, made)


def _crafted_again(
    cell: Cell, run: RunInfo, before: pd.DataFrame, about: dict[str, Any]
) -> tuple[Evaluator, list[CraftedImage]]:
    """Craft the images of some rows, all made with `about`, once more. Raises ConfigError."""
    positions = {position for position, _ in before.index}
    inputs = check_inputs(cell)
    check_unchanged(cell, run, inputs)
    check_library_version(cell, run)
    stored = run.numeric and replace(run.numeric, **about)
    evaluator = Evaluator(cell, settle(cell, stored), inputs.manifest)
    _check_memory(evaluator)
    selected = _selected(evaluator, before, positions)
    entries = [c.entry for c in whole_chunks(cell, selected, positions)]
    evaluator.ensure_clean_predictions(dict.fromkeys([cell.source, *cell.targets]), entries)
    made = crafted(evaluator, attack_of(cell), selected, positions, Calls())
    return evaluator, list(made)


def _check_memory(evaluator: Evaluator) -> None:
    """Raise ConfigError where the recorded slots would fill the memory, which ends the process."""
    numeric, source = evaluator.numeric, evaluator.source
    most = max(numeric.slots, numeric.width)
    need = most * step_bytes(source, evaluator.cell.geometry.size)
    if need > (free := free_bytes(source.device)):
        raise ConfigError(
            f"{most} images at once take about {format_bytes(need)}, and {format_bytes(free)} are "
            "free: use a machine that has more"
        )


def _selected(evaluator: Evaluator, before: pd.DataFrame, positions: set[int]) -> Sequence[Chosen]:
    """Return the recorded images; of a library's attack, in whole chunks, the selection anew."""
    if evaluator.cell.library is not None:
        n = -(-(max(positions) + 1) // evaluator.cell.chunk) * evaluator.cell.chunk
        return select(evaluator, n).chosen
    entries = {e.image_id: e for e in evaluator.images.manifest.entries}
    images = before.reset_index().drop_duplicates("position")
    found = []
    for row in images.to_dict("records"):
        if row["image_id"] not in entries:
            raise ConfigError(f"{row['image_id']} is none of the images: restore the record")
        wanted = None if pd.isna(row["target_label"]) else int(row["target_label"])
        found.append(Chosen(int(row["position"]), entries[row["image_id"]], wanted))
    return found
