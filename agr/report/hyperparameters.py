"""The owner of the hyperparameters that an attack ran with: its authors, or the user."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agr.config.cell import Cell
from agr.config.schema import conf_dir

AUTHORS = "the authors'"
AS_SHIPPED = " (conf/attack as shipped; of attacks without a paper, this project's)"
TUNED = "tuned: "  # before what was found
# Overrides of an attack that are no hyperparameters.
SETTINGS = tuple(f"attack.{key}=" for key in ("targeted", "target", "label", "quantize", "title"))


def whose(cell: Cell) -> str:
    """Say whose hyperparameters a cell's attack has: the authors', its file's, and what changed."""
    attack = cell.config.attack
    if attack.images:
        return "unknown: images of another program"
    words = [w.partition("=")[2] for w in cell.overrides if w.startswith("attack=")]
    ours = all(Path(conf_dir(), "attack", f"{word}.yaml").is_file() for word in words)
    owner = AUTHORS if ours else "its own file's"
    if ours and any(word.startswith("field/") for word in words):
        owner = "as surveys run them"
    changed = [w for w in cell.attack_overrides if not w.lstrip("+~").startswith(SETTINGS)]
    return owner + (f", changed by the user: {' '.join(changed)}" if changed else "")


def whose_note(kinds: Mapping[str, str]) -> str:
    """Return a leaderboard's note, from what `whose` or a tuning says of each attack by its title.

    Where some are tuned a column has it.
    """
    if any(kind.startswith(TUNED) for kind in kinds.values()):
        return "hyperparameters: as the column says; the authors' are those of conf/attack"
    titles: dict[str, list[str]] = {}
    for title, kind in kinds.items():
        titles.setdefault(kind, []).append(title)
    if len(titles) == 1:
        (kind,) = titles
        return f"hyperparameters: {kind}{AS_SHIPPED * (kind == AUTHORS)}"
    others = [f"{kind}: {', '.join(of)}" for kind, of in titles.items() if kind != AUTHORS]
    rest = ["the authors' but for these"] if AUTHORS in titles else []
    return f"hyperparameters: {'; '.join([*rest, *others])}"
