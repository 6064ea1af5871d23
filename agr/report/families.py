"""Families of networks (FAMILIES), whose mean transfer tables show apart."""

from __future__ import annotations

from collections.abc import Sequence

from agr.config.cell import Cell
from agr.config.schema import FAMILIES

TITLES = dict(zip(FAMILIES, ("to CNNs", "to transformers", "to MLPs"), strict=True))


def families_of(cells: Sequence[Cell]) -> list[str]:
    """Return the families of the cells' black-box targets; none unless there are several."""
    found = [family for family in FAMILIES if family in black_box_families(cells).values()]
    return found if len(found) > 1 else []


def family_notes(cells: Sequence[Cell]) -> list[str]:
    """Return the note on the targets of each family, where tables show families."""
    if not (families := families_of(cells)):
        return []
    titles = {t: cell.title(t) for cell in cells for t in cell.targets}
    said = [
        f"{TITLES[family] if family else 'of no known family'}: "
        f"{', '.join(titles[t] for t, own in black_box_families(cells).items() if own == family)}"
        for family in (*families, None)
        if family in black_box_families(cells).values()
    ]
    return [f"mean transfer by the targets' family, {'; '.join(said)}"]


def black_box_families(cells: Sequence[Cell]) -> dict[str, str | None]:
    """Return the family of each target that is a black box to some cell."""
    return {t: cell.family(t) for cell in cells for t in cell.targets if not cell.white_box(t)}
