"""The owner of the hyperparameters that an attack ran with: its authors, or the user."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agr.config.cell import Cell
from agr.config.schema import conf_dir

AUTHORS = "the authors'"
# Overrides of an attack that are no hyperparameters.
SETTINGS = tuple(f"attack.{key}=" for key in ("targeted", "target", "label", "quantize", "title"))


def whose(cell: Cell) -> str:
    """Say whose hyperparameters a cell's attack has: the authors', its file's, and what changed."""
    attack = cell.config.attack
    if attack.images:
        return "unknown: images of another program"
    words = [w.partition("=")[2] for w in cell.overrides if w.startswith("attack=")]
    ours = all(Path(conf_dir(), "attack", f"{word}.yaml").is_file() for word in words)
    changed = [w for w in cell.attack_overrides if not w.lstrip("+~").startswith(SETTINGS)]
    return (AUTHORS if ours else "its own file's") + (
        f", changed by the user: {' '.join(changed)}" if changed else ""
    )


def whose_note(texts: Iterable[str]) -> str:
    """Return the note of a leaderboard whose attacks have hyperparameters of these kinds."""
    kinds = list(dict.fromkeys(texts))
    if len(kinds) > 1:
        return "hyperparameters: as the column says; the authors' are those of conf/attack"
    return f"hyperparameters: {kinds[0]}" + (
        " (conf/attack as shipped)" if kinds[0] == AUTHORS else ""
    )
