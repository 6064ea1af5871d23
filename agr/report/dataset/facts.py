"""Sentences of a data set's card and Croissant file, from the configs and run.json of its cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from agr.config.cell import Cell
from agr.report.dataset.croissant import About
from agr.report.dataset.tables import Finished, Written
from agr.utils.files import same_place
from agr.utils.program import __version__
from agr.utils.text import plural

# The README's, without the paper that the project began with.
CITATION = f"""\
@misc{{agr,
  author  = {{{{the agr authors}}}},
  title   = {{{{agr: a reproducible benchmark of transferable adversarial attacks}}}},
  version = {{{__version__}}}
}}"""
TAGS = ("adversarial-examples", "adversarial-attacks", "transferability", "robustness", "benchmark")
SELECTED = {
    "group": "every network of the source's group classifies correctly",
    "source": "the source classifies correctly",
    "none": "were drawn, whether networks classify them correctly or not",
}
USES = [
    "compare how attacks transfer between these networks, image by image: rates with intervals, "
    "paired tests, other denominators",
    "not for training, nor for judging networks' accuracy: images were chosen by what networks "
    "have right",
]
PERSONAL = [
    "none was collected: rows hold names of image files (image_id), classes, and numbers about "
    "perturbations and predictions; no image is part of the data set",
    "file names are as they were given: whether they identify people is not known to the program",
]


class Request(NamedTuple):
    """Words of the user about a data set."""

    repo: str
    license: str
    version: str
    date: str


def about_of(request: Request, of: Sequence[Finished], tables: Sequence[Written]) -> About:
    """Return what is said of a data set of some cells."""
    cells = [each.cell for each in of]
    suites = _listed(cell.suite.name for cell in cells)
    attacks = dict.fromkeys(cell.config.attack.title for cell in cells)
    rows = tables[0].rows
    ended = sorted(s.ended[:10] for each in of for s in each.run.sessions)
    description = (
        f"Outcomes of adversarial attacks on image classifiers, image by image: "
        f"{plural(rows, 'row')} of {plural(len(cells), 'cell')} of suite {suites}. A cell is one "
        "attack with one budget on one source network; a row is one attacked image and one "
        f"network that was scored on it. Attacks: {'; '.join(attacks)}."
    )
    machines = _listed(run.numeric.device for _, _, run in of if run.numeric)
    rai: dict[str, str | Sequence[str]] = {
        "dataCollection": (
            "Computed by the program agr: adversarial images were crafted on the source network "
            f"and scored on every target. Networks: {_listed(_titles(cells))}. "
            f"Images: {_images(of)}. Machines: {machines}."
        ),
        "dataCollectionType": ["Software Collection"],
        "dataBiases": biases(cells),
        "dataLimitations": limits(of),
        "personalSensitiveInformation": PERSONAL,
        "dataUseCases": USES,
    }
    if ended:
        rai["dataCollectionTimeframe"] = [ended[0], ended[-1]]
    title = f"Transfer of adversarial attacks, suite {suites}"
    return About(*request, title, description, TAGS, CITATION, rai)


def biases(cells: Sequence[Cell]) -> list[str]:
    """Return which images and networks are there, and which therefore aren't."""
    chosen = dict.fromkeys(cell.config.select for cell in cells)
    families = {cell.family(name) or "unknown" for cell in cells for name in cell.targets}
    return [
        *(
            f"attacked images are those that {SELECTED[select]} (select={select})"
            for select in chosen
        ),
        f"networks are of these families: {_listed(families)}",
    ]


def limits(of: Sequence[Finished]) -> list[str]:
    """Return what the numbers don't show."""
    cells = [each.cell for each in of]
    notices = dict.fromkeys(cell.suite.notice for cell in cells if cell.suite.notice)
    counts = sorted({cell.config.n_images for cell in cells})
    lines = [*notices, f"at most {_listed(f'{n:,}' for n in counts)} images per cell"]
    lines.append(f"seeds: {_listed(str(cell.config.seed) for cell in cells)}")
    quantized = _listed(cell.config.quantize for cell in cells)
    lines.append(f"quantize={quantized}: when iterates are rounded to 8 bits")
    scaled = {
        f"{c.config.eps:g} is {c.eps_effective:.1f} at {c.geometry.size} px"
        for c in cells
        if c.eps_scale != 1
    }
    if scaled:
        lines.append(f"L2 budgets are scaled to the images' size: {_listed(scaled)}")
    if bad := {image for each in of for image in each.run.bad_images}:
        lines.append(f"missing or corrupt images were left out: {len(bad):,}")
    if lost := sum(len(each.run.lost) for each in of):
        lines.append(f"files that went bad after they were chosen, in all cells: {lost:,}")
    if narrowed := [each.cell.id for each in of if each.run.narrowed]:
        lines.append(f"memory ran out and batches were halved in cells {_listed(narrowed)}")
    return lines


def licences(of: Sequence[Finished]) -> list[str]:
    """Return the licences of the images and weights behind the rows, as their suites state them."""
    found = []
    for cell, _, _ in of:
        own = same_place(cell.config.data.root, cell.suite.root)
        data = (cell.suite.data_license if own else None) or "not stated"
        found.append(f"images of suite {cell.suite.name}: {data}")
        for name in cell.networks:
            stated = cell.suite.networks[name].license or "not stated"
            found.append(f"weights of {cell.title(name)}: {stated}")
    return sorted({*found})


def _titles(cells: Iterable[Cell]) -> set[str]:
    return {cell.title(name) for cell in cells for name in (*cell.sources, *cell.targets)}


def _images(of: Sequence[Finished]) -> str:
    found = {
        f"suite {cell.suite.name}, {run.data.layout}, fingerprint {run.data.fingerprint}"
        for cell, _, run in of
        if run.data
    }
    return _listed(found)


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(sorted({*texts})) or "not recorded"
