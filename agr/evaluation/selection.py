"""Selection of the images to attack, their order, and the labels of targeted attacks."""

from __future__ import annotations

from typing import NamedTuple

from tqdm import tqdm

from agr.data.entries import Entry
from agr.evaluation.predictions import Evaluator
from agr.models.logits import NO_ANSWER
from agr.utils.errors import ConfigError
from agr.utils.hashing import draw


class Chosen(NamedTuple):
    """An image of the selection."""

    position: int
    entry: Entry
    target_label: int | None

    @property
    def image_id(self) -> str:
        """Id of the image."""
        return self.entry.image_id


class Selection(NamedTuple):
    """The first images of the seeded order that the selecting networks get right."""

    chosen: list[Chosen]
    total: int | None  # how many there are in all, once that is known
    eligible: int  # among those that were looked at
    looked_at: int


def select(evaluator: Evaluator, n: int) -> Selection:
    """Select the first `n` eligible images, fewer if there are not so many.

    The order is a hash of (seed, image id), so the first n stay the same when n grows, and don't
    depend on the other images of the suite. Clean predictions of the selecting networks are known
    afterwards for every chosen image, those of the source and the targets for the shard's own,
    which alone have their target labels; bad files are in `evaluator.images.bad`.
    """
    cell = evaluator.cell
    deciding = cell.selecting or [cell.source]
    entries = evaluator.images.order()
    found: list[Entry] = []
    chunk, start = 4 * evaluator.numeric.width, 0
    hidden = None if cell.config.progress else True  # None: shown on a terminal
    try:
        with tqdm(total=n, unit="img", desc="choosing", disable=hidden, leave=False) as bar:
            while len(found) < n and start < len(entries):
                batch = entries[start : start + chunk]
                evaluator.ensure_clean_predictions(deciding, batch)
                for entry in batch:
                    asked = [evaluator.clean_prediction(name, entry.image_id) for name in deciding]
                    eligible = all(asked)  # else its file is bad
                    if cell.selecting:
                        eligible = all(p is not None and p.pred == entry.label for p in asked)
                    if not (eligible and cell.mine(len(found))):
                        evaluator.images.drop([entry])
                    found += [entry] * eligible
                start += chunk
                bar.update(min(n, len(found)) - bar.n)
        right, looked_at = len(found), min(start, len(entries))
        total = right if start >= len(entries) else None
        evaluator.images.drop(found[n:])
        found = found[:n]
        mine = [e for i, e in enumerate(found) if cell.mine(i)]
        evaluator.ensure_clean_predictions(dict.fromkeys([cell.source, *cell.targets]), mine)
    finally:
        evaluator.clean.save()
    chosen = [
        Chosen(i, e, _target_label(evaluator, e) if cell.mine(i) else None)
        for i, e in enumerate(found)
    ]
    return Selection(chosen, total, right, looked_at)


def _target_label(evaluator: Evaluator, entry: Entry) -> int | None:
    """Return the label that a targeted attack wants, by `attack.target`. Raises ConfigError.

    "file": the manifest's own; "least_likely": the source's least likely class for the clean image
    (Kurakin et al., arXiv:1607.02533, section 2.3), -1, which isn't attacked, if that is the true
    one (which select=none allows); "random": a class other than the true one,
    uniform, by image id. None: the manifest's where it has one, else random.
    """
    attack = evaluator.cell.config.attack
    if not attack.targeted:
        return None
    if attack.target == "least_likely":
        own = evaluator.clean_prediction(evaluator.cell.source, entry.image_id)
        assert own is not None  # it was just asked
        return own.least if own.least != entry.label else NO_ANSWER
    if attack.target != "random" and entry.target is not None:
        return entry.target
    if attack.target == "file":
        raise ConfigError(
            f"attack.target=file: the file of labels has no target for {entry.image_id}: give a "
            "CSV with filename,label,target (data.labels=…), or use random or least_likely"
        )
    classes = evaluator.cell.classes
    shift = draw(evaluator.cell.config.seed, entry.image_id, "target") % (classes - 1)
    return (entry.label + 1 + shift) % classes
