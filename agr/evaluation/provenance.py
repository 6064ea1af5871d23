"""The run.json of a cell: what it was begun with, and what must not change."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from timm.data import ImageNetInfo

from agr.attacks.library import DISTRIBUTIONS
from agr.config.cell import Cell
from agr.config.compose import given_by
from agr.evaluation.determinism import settle
from agr.evaluation.inputs import check_inputs, check_unchanged
from agr.evaluation.predictions import Evaluator
from agr.evaluation.selection import Chosen, Selection
from agr.records.held import held_by
from agr.records.run_info import DataInfo, RunInfo, Session
from agr.records.store import Records
from agr.utils.errors import ConfigError
from agr.utils.hashing import digest
from agr.utils.program import __version__

PACKAGES = ("torch", "timm", "numpy", "pillow", "hydra-core", "pandas", "pyarrow")


def open_evaluator(cell: Cell, records: Records, *, note: bool = True) -> Evaluator:
    """Check what a cell works with, note it in run.json and return it.

    Without `note`, config, command and versions in run.json stay as they are. Raises ConfigError.
    """
    inputs = check_inputs(cell)

    def begin(run: RunInfo) -> None:
        # Under the lock of run.json: of two processes that begin a cell, the second sees the first.
        check_unchanged(cell, run, inputs)
        if note:
            check_library_version(cell, run)
        run.numeric = settle(cell, run.numeric)
        run.cell, run.name, run.attack_hash = cell.id, cell.name, cell.attack_hash
        run.eps_effective = cell.eps_effective
        run.data = DataInfo(inputs.manifest.layout, inputs.manifest.fingerprint)
        run.weights |= inputs.weights
        run.networks |= inputs.networks
        run.lpips = inputs.lpips or run.lpips
        if note:
            run.config, run.command, run.git = asdict(cell.config), cell.command(), git_commit()
            run.versions = {"agr": __version__, "python": platform.python_version()}
            run.versions |= {p: version(p) for p in [*PACKAGES, *_library_of(cell)]}
            run.versions |= given_by(cell.overrides)

    numeric = records.update_run(begin).numeric
    assert numeric is not None  # `begin` settled it
    return Evaluator(cell, numeric, inputs.manifest)


def _library_of(cell: Cell) -> list[str]:
    """Name the distribution whose attack the cell runs, if any."""
    part = "" if cell.library is None else str(cell.library["_target_"]).rpartition(".")[2]
    return [DISTRIBUTIONS[part]] if part in DISTRIBUTIONS else []


def check_library_version(cell: Cell, run: RunInfo) -> None:
    """Raise ConfigError if a cell was begun with another version of its attack's library."""
    for name in _library_of(cell):
        before = run.versions.get(name)
        if before not in (None, version(name)):
            raise ConfigError(
                f"{cell.name} was begun with {name} {before}, and {version(name)} is installed: "
                f"pip install {name}=={before}, or use another outputs=… folder"
            )


def check_same_images(records: Records, chosen: Sequence[Chosen]) -> None:
    """Raise ConfigError if a position that has rows is another image now."""
    frame = records.read("rows", ["position", "image_id"]).drop_duplicates()
    before = dict(zip(frame["position"].tolist(), frame["image_id"].tolist(), strict=True))
    for c in chosen:
        if before.get(c.position, c.image_id) != c.image_id:
            raise ConfigError(
                f"{records.folder}: position {c.position} of the selection was "
                f"{before[c.position]} and is now {c.image_id}: an image file was damaged "
                "or repaired since; restore it, or use another outputs=… folder"
            )


def note_run(
    records: Records,
    evaluator: Evaluator,
    *,
    selection: Selection | None = None,
    session: Session | None = None,
    lost: set[int] | None = None,
    idle: Sequence[str] | None = None,
) -> None:
    """Add to run.json; `lost` are positions whose file went bad after they were chosen.

    `idle` are parts of the attack and defenses that changed nothing. With `lost`, at the end of a
    session, also the `class_names`, and what is `held` now.
    """

    names = class_names(evaluator.cell, records) if lost is not None else {}

    def change(run: RunInfo) -> None:
        # Other shards have read others.
        images, before = evaluator.images, run.bad_images.items()
        run.bad_images = {i: why for i, why in before if i not in images.read} | images.bad
        if selection:
            _check_same_selection(run, selection, records.folder)
        if session:
            run.sessions.append(session)
        if lost is not None:
            others = {p for p in run.lost if not evaluator.cell.mine(p)}
            run.lost = sorted(others | lost)
            with suppress(ConfigError):  # of a part that was damaged meanwhile
                run.held = held_by(records)  # under the lock: the last shard sees all parts
        run.classes |= names
        if idle and len(run.sessions) < 2:  # of a later session's few images that says little
            run.idle = sorted({*run.idle, *idle})

    records.update_run(change)


def class_names(cell: Cell, records: Records) -> dict[str, str]:
    """Return the names of the classes that a cell's rows speak of, by class.

    They are timm's, the first of a synset's lemmas; none unless classes are ImageNet's.
    """
    if cell.suite.synsets != "imagenet":
        return {}
    columns = ["label", "clean_pred", "adv_pred", "source_clean_pred", "source_adv_pred"]
    rows = records.read("rows", columns)
    found = sorted({int(c) for name in columns for c in rows[name].dropna().unique() if c >= 0})
    known = ImageNetInfo()
    return {str(c): known.index_to_description(c).partition(",")[0] for c in found}


def _check_same_selection(run: RunInfo, selection: Selection, folder: Path) -> None:
    """Note which images were chosen. Raises ConfigError if a shard or session chose others."""
    ids = [c.image_id for c in selection.chosen]
    for n, before in run.selected.items():
        if int(n) <= len(ids) and digest(ids[: int(n)]) != before:
            raise ConfigError(
                f"{folder}: other images are chosen here than in an earlier run or another shard: "
                "an image file is damaged or was repaired; restore it, or use another outputs=… "
                "folder"
            )
    run.selected[str(len(ids))] = digest(ids)
    if selection.total is not None:
        run.eligible = selection.total


def git_commit() -> str | None:
    """Return the commit of the checkout this package runs from, marked when it has changes."""
    describe = ["describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    command = ["git", "-C", str(Path(__file__).parent), *describe]
    with suppress(OSError, subprocess.SubprocessError):
        output = subprocess.run(command, capture_output=True, check=True, timeout=10).stdout
        return output.decode().strip()
    return None
