"""The images that a reader can look at: a sample of the selection, as every attack left it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from agr.config.cell import Cell
from agr.records.store import Records, image_of
from agr.report.html.contract import Example, TargetPrediction
from agr.report.outcomes import Outcomes
from agr.report.perturbations import RgbArray
from agr.report.rates import budget_title

SAMPLE = 24  # images, of all groups together
COLUMNS = [
    *("position", "image_id", "label", "target", "clean_pred", "clean_conf", "adv_pred"),
    *("adv_conf", "success", "steps_used", "rel_l2", "linf", "cosine"),
]


def examples_of(outcomes: Outcomes) -> list[Example]:
    """Every attack's images among the first of each group's selection, SAMPLE of them in all.

    The selection's order is a seeded one, so that its first images are a sample. Only images that
    were saved.
    """
    groups: dict[str, list[Cell]] = {}
    for place in outcomes.finished_places():
        cell = outcomes.cell(place)
        if Records(cell.folder).part_files("adversarials"):
            groups.setdefault(cell.group_name or cell.source, []).append(cell)
    names = outcomes.titles()
    found: list[Example] = []
    for i, (group, cells) in enumerate(groups.items()):
        mine = SAMPLE // len(groups) + (i < SAMPLE % len(groups))
        clean: dict[str, RgbArray] = {}
        for cell in cells:
            found += _examples(cell, group, mine, clean, names)
    return found


def _examples(
    cell: Cell, group: str, many: int, clean: dict[str, RgbArray], names: Mapping[str, str]
) -> Iterator[Example]:
    """The first images of a cell with what all targets said; `clean` images are shared by id."""
    records = Records(cell.folder)
    positions = set(sorted(records.positions("adversarials"))[:many])
    rows = records.read("rows", COLUMNS)
    rows = rows[rows["position"].isin(positions) & rows["target"].isin(cell.targets)]
    by_position: dict[Any, list[Any]] = {
        p: mine.to_dict("records") for p, mine in rows.groupby("position")
    }
    for saved in chain.from_iterable(records.saved_images(positions)):
        answers = by_position.get(saved["position"])
        if answers is None:
            continue
        first = answers[0]
        yield Example(
            image_id=first["image_id"],
            label=first["label"],
            group=group,
            norm=budget_title(cell),
            attack=names[cell.config.attack.name],
            source=names[cell.source],
            clean=clean.setdefault(first["image_id"], image_of(saved, "clean_pixels")),
            adversarial=image_of(saved),
            facts=_facts(first),
            answers={
                names[row["target"]]: TargetPrediction(*map(row.get, TargetPrediction._fields))
                for row in answers
            },
        )


def _facts(row: dict[str, Any]) -> dict[str, str]:
    steps = row["steps_used"]
    return {
        "steps": "unknown" if steps != steps or steps is None else str(steps),
        "L∞ of v": f"{row['linf']:.0f}",
        "‖v‖₂/‖x‖₂": f"{row['rel_l2']:.4f}",
        "cosine similarity": f"{row['cosine']:.5f}",
    }
