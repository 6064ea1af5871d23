"""Score adversarial images without crafting them: saved ones, or those of another program.

python -m agr.score 'targets=[res152]' [CELL ...] [outputs=outputs] [data.root=where/they/moved]
                    [lpips=[FILE,FILE]]
python -m agr.score 'targets=[res152]' suite=demo attack=agr norm=linf [key=value ...]
python -m agr.score images=FOLDER clean=DATA name=theirs suite=lite source=lite0 norm=linf [eps=10]

The first two add targets to cells that were run with save_adversarials=true: those of the folders
named, all below `outputs`, or those that overrides mean. The third makes a cell of the PNGs in
FOLDER, named as the clean images in DATA: a folder or CSV, as for data.root. Budgets are measured,
and larger ones than eps refused; without eps it is the largest measured.
"""

from __future__ import annotations

import math
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.load import stored_cell
from agr.config.overrides import parse_pairs, quoted, split_own, without_flags
from agr.config.schema import Config
from agr.jobs.console import script
from agr.jobs.session import check_all, greet, run
from agr.records.claim import refuse_entry
from agr.records.folders import cell_folders
from agr.records.run_info import RunInfo
from agr.records.schema import within
from agr.records.store import Records
from agr.utils.errors import ConfigError
from agr.utils.files import write_content
from agr.utils.hashing import slug
from agr.utils.pixels import LEVELS
from agr.utils.program import as_called

if TYPE_CHECKING:
    from agr.evaluation.given import GivenImages

HELP = as_called("python -m agr.score --help has the three ways")


def main(arguments: Sequence[str]) -> None:
    """Parse the arguments, score, and show each cell's table."""
    if any(word.startswith(("images=", "clean=")) for word in arguments):
        cell = given_cell(arguments)
        run(cell, *check_all([cell]))
        return
    overrides = [word for word in arguments if "=" in word]
    folders = [Path(word) for word in arguments if "=" not in word]
    given = parse_pairs(overrides)
    if not given.get("targets"):
        raise ConfigError(f"give targets=[name,...]: {HELP}")
    targets = given["targets"] if isinstance(given["targets"], list) else [given["targets"]]
    outputs = Path(str(given.get("outputs", "outputs")))
    if composed := set(given) - {"outputs", "targets", "data", "lpips"}:
        if folders:
            named = " ".join(sorted(composed))
            raise ConfigError(f"give folders of cells or overrides ({named}), not both: {HELP}")
        mine = [word for word in overrides if not word.startswith("targets=")]
        folders = [cell.folder for cell in expand(mine)]
    lpips = {k: v for k, v in given.items() if k == "lpips"}
    cells = saved_cells(outputs, targets, given.get("data"), folders, **lpips)

    from agr.evaluation.runner import run_cell
    from agr.report.notes import closing

    for cell in _able(cells):
        greet(cell, f"{cell.name}\n")
        run_cell(cell, crafting=False)
        print(f"\n{closing(cell)}\ndenominator={cell.config.denominator}\nrecords: {cell.folder}")


def saved_cells(
    outputs: str | Path,
    targets: list[str],
    moved: dict[str, Any] | None = None,
    folders: Sequence[Path] = (),
    **changes: Any,
) -> list[Cell]:
    """Find cells with saved adversarial images, and give them `targets`.

    Networks and defenses are the cell's own, and beyond them those of today's configs, so that a
    target can be newer than the cell; targets may also be any of timm's tags.

    Args:
        outputs: root of the records.
        targets: names of networks.
        moved: keys of `data` whose values have changed since the cells were run.
        folders: of the cells; all below `outputs` if there are none.
        changes: other keys of the config, of files that have moved as well.

    Raises ConfigError if there is no such cell, or if a target is unknown.
    """
    if not folders and not Path(outputs).is_dir():
        raise ConfigError(f"outputs={outputs} is not a folder: give the root of the records")
    cells = []
    for folder in folders or cell_folders(Path(outputs)):
        records = Records(folder)
        saved = records.positions("adversarials")
        if not saved and not folders:
            continue
        if not saved:
            raise ConfigError(
                f"{folder} has no saved adversarial images: run it with save_adversarials=true"
            )
        stored = (records.run() or RunInfo()).config
        if "name" not in stored.get("suite", {}):
            raise ConfigError(f"{folder} has no config of a cell: restore its run.json")
        now = _current(stored["suite"]["name"])
        cell = stored_cell(
            stored,
            folder,
            networks=now.suite.networks if now else {},
            defenses=now.defenses if now else {},
            data=moved,
            targets=targets,
            n_images=max(saved) + 1,  # scoring is for all that is saved
            **changes,
        )
        alone = replace(cell.config, save_adversarials=False, trace=False, score_steps=None)
        cells.append(Cell(alone))
    if not cells:
        raise ConfigError(
            f"outputs={outputs} has no saved adversarial images below SUITE/CELL: give the root of "
            "the records, of a run with save_adversarials=true"
        )
    return cells


def _current(suite: str) -> Config | None:
    """Today's config of a suite, or None where only a user's folder has it."""
    try:
        return expand([f"suite={suite}"])[0].config
    except ConfigError:  # a suite of --config-dir: the cell's own copy of it serves
        return None


def _able(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that can be scored, and name the others. Raises ConfigError if none can."""
    from agr.evaluation.inputs import check_inputs

    able, errors = [], []
    for cell in cells:
        try:
            check_inputs(cell)
            able.append(cell)
        except ConfigError as e:
            errors.append(e)
            print(f"left out: {cell.name}: {e}")
    if errors and not able:
        raise errors[0]
    return able


# ---- images of another program -------------------------------------------------------------------


def given_cell(arguments: Sequence[str]) -> Cell:
    """Make a cell of another program's images, and an attack by which other commands find it.

    The attack is a file of configs, OUTPUTS/given/attack/NAME.yaml. Raises ConfigError.
    """
    own: dict[str, str] = {"name": "given", "title": "", "outputs": "outputs"}
    given, rest = split_own(arguments, ("images", "clean", *own))
    own |= given
    if not {"images", "clean"} <= {*own}:
        raise ConfigError(f"give both images=FOLDER and clean=DATA: {HELP}")
    if slug(own["name"]) != own["name"]:
        raise ConfigError(f"name={own['name']}: give letters, digits, - and _")
    refuse_entry(own["outputs"])

    from agr.evaluation.given import images_in

    images, folder = images_in(own["images"]), Path(own["outputs"], "given")
    attack = {
        "defaults": ["_given"],
        "name": own["name"],
        "title": own["title"] or own["name"],
        "images": {"folder": str(images.folder.resolve()), "sha256": images.sha256},
    }
    place, content = folder / "attack" / f"{own['name']}.yaml", OmegaConf.to_yaml(attack).encode()
    _check_free(place, own["name"], images)
    words = [f"attack={own['name']}", f"outputs={quoted(own['outputs'])}"]
    words += [*_clean(own["clean"]), *rest]
    if not any(word.startswith("n_images=") for word in rest):
        words.append(f"n_images={len(images.files)}")
    with tempfile.TemporaryDirectory() as draft:  # until all is checked
        Path(draft, "attack").mkdir()
        Path(draft, "attack", place.name).write_bytes(content)
        asked = any(word.startswith("eps=") for word in rest)
        zero = [] if asked else ["eps=0"]  # the suite's own may be too large for the geometry
        (cell,) = expand(without_flags([f"--config-dir={draft}", *words, *zero]))
        if not cell.config.attack.images:
            raise ConfigError(f"name={own['name']} is one of our attacks: give another name=")
        measured = _sizes(images, cell)
        norm, largest = cell.config.norm.name, max(measured, key=lambda i: measured[i])
        enough = _exact(_budget(measured[largest], cell))
        if not asked:
            words.append(f"eps={enough}")
            (cell,) = expand(without_flags([f"--config-dir={draft}", *words]))
    beyond = [i for i in measured if not within(measured[i], cell.eps_effective, "always")]
    if beyond:
        raise ConfigError(
            f"images={own['images']}: {len(beyond)} of {len(measured)} are farther than "
            f"eps={_exact(cell.config.eps)} from their clean image, {largest} the farthest, "
            f"{norm} {measured[largest]:.2f}: give a larger eps ({enough} at least), or leave "
            "it out"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    write_content(place, content)
    words.insert(0, f"--config-dir={folder}")
    (cell,) = expand(without_flags(words))
    print(f"measured: {norm} at most {measured[largest]:.2f} (0-255 scale), {len(measured)} images")
    print(f"attack={own['name']} is {place}: beside others, as {shlex.join(words[:2])} …")
    return cell


def _check_free(place: Path, name: str, images: GivenImages) -> None:
    """Raise ConfigError if rows below outputs are of other images of this name."""
    if not place.is_file() or images.sha256 in place.read_text(errors="replace"):
        return
    for folder in cell_folders(place.parents[2]):
        ours = folder.name.startswith((f"{name}-linf-", f"{name}-l2-"))
        if ours and Records(folder).positions("rows"):
            raise ConfigError(
                f"name={name}: {place} is of other images than {images.folder} has now: give "
                "another name=, or another outputs="
            )


def _budget(size: float, cell: Cell) -> float:
    """Return the smallest eps, in hundredths, that allows `size`; none is beyond the norm's bound.

    `size` is on the 0-255 scale, eps before the suite's rescaling.
    """
    eps = size / cell.eps_scale * (1 - 1e-13)  # less than `within` tolerates
    bound = LEVELS * (math.sqrt(3) * cell.geometry.size if cell.config.norm.name == "l2" else 1)
    rounded = math.ceil(100 * eps) / 100
    return rounded if rounded * cell.eps_scale <= bound else eps


def _exact(eps: float) -> str:
    """Write a budget with all its digits: 8 or 50636.84, where :g would round."""
    return repr(eps).removesuffix(".0")


def _sizes(given: GivenImages, cell: Cell) -> dict[str, float]:
    """Measure how far each image is from its clean one, in the cell's norm, on the 0-255 scale.

    Raises ConfigError, also if an adversarial image has no clean one.
    """
    from agr.data.decode import BadImage, load_image
    from agr.evaluation.inputs import find_images
    from agr.evaluation.scoring import norms

    by_id = {entry.image_id: entry for entry in find_images(cell).entries}
    found = {}
    for image_id in given.files:
        if image_id not in by_id:
            raise ConfigError(
                f"images={given.folder}: {image_id} is none of the clean images: names must be "
                "those of the clean ones, with .png"
            )
        try:
            clean = load_image(by_id[image_id], cell.geometry)
        except BadImage as e:
            raise ConfigError(str(e)) from e
        found[image_id] = norms(clean, given.like(image_id, clean))[cell.config.norm.name]
    return found


def _clean(place: str) -> list[str]:
    """Return the overrides for the clean images: the list in their folder, if there is one."""
    listed = Path(place, "labels.csv")
    if listed.is_file():
        return [f"data.root={quoted(str(listed))}", "data.labels=null"]
    return [f"data.root={quoted(place)}"]


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]), __doc__)
