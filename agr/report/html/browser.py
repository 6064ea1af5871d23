"""Data of the image browser's script: each name once, and everything else by its number."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from agr.report.html.contract import Example
from agr.report.html.escapes import compact, size
from agr.report.html.images import Pictures, fit, key_of

KINDS = ("groups", "images", "norms", "attacks", "sources", "networks", "facts")


def browser(
    examples: Sequence[Example], classes: Mapping[int, str], most_bytes: int
) -> dict[str, Any]:
    """The browser's data as at most `most_bytes` of JSON: pictures take what texts leave."""
    texts = data(examples, None, classes)
    pictures = fit(examples, most_bytes - size(compact(texts)))
    return data(pictures.examples, pictures, classes)


def data(
    examples: Sequence[Example], pictures: Pictures | None, classes: Mapping[int, str]
) -> dict[str, Any]:
    """The browser's data; without pictures to see how long the rest is."""
    # Of each kind, names and their numbers in order of first use.
    index: dict[str, dict[Any, int]] = {kind: defaultdict(count().__next__) for kind in KINDS}
    rows = []
    for i, s in enumerate(examples):
        pair = [pictures.differences[i], pictures.adversarials[i]] if pictures else ["", ""]
        names = [index["sources"][s.group, s.source], index["images"][key_of(s)]]
        names += [index["norms"][s.norm], index["attacks"][s.attack]]
        facts = [[index["facts"][name], text] for name, text in s.facts.items()]
        rows.append([*names, *pair, _answers(s, index["networks"]), facts])
    labels = {key_of(s): s.label for s in examples}
    return {
        "examples": rows,
        "images": [
            [index["groups"][g], i, labels[g, i], pictures.cleans[g, i] if pictures else ""]
            for g, i in index["images"]
        ],
        "sources": [[index["groups"][g], name] for g, name in index["sources"]],
        "norms": [[n, pictures.factors[n] if pictures else 1] for n in index["norms"]],
        **{kind: list(index[kind]) for kind in ("groups", "attacks", "networks", "facts")},
        "classes": {str(c): name for c, name in classes.items() if c in _classes(examples)},
        "words": _words(pictures) if pictures else "",
    }


def _answers(example: Example, networks: dict[str, int]) -> list[list[Any]]:
    """Return the predictions of each target."""
    return [
        [
            *(networks[name], a.clean_pred, _confidence(a.clean_conf)),
            *(a.adv_pred, _confidence(a.adv_conf), int(a.success)),
        ]
        for name, a in example.answers.items()
    ]


def _confidence(value: float) -> float | None:
    """Rounded; None for what is not a number, as a network that gave no finite answer has it."""
    return round(float(value), 4) if math.isfinite(value) else None


def _classes(examples: Sequence[Example]) -> set[int]:
    """The classes that examples speak of, so that a thousand names needn't be sent."""
    said = {c for s in examples for a in s.answers.values() for c in (a.clean_pred, a.adv_pred)}
    return said | {s.label for s in examples}


def _words(pictures: Pictures) -> str:
    """Describe the quality of the pictures."""
    shown = f"Pictures are shown {pictures.encoding.words()}"
    if pictures.encoding != (None, None):
        shown += "; the records hold the exact ones"
    if pictures.images_left_out:
        shown += f". Images of the sample left out to save space: {pictures.images_left_out}"
    return f"{shown}. Perturbations are made from the exact 8-bit images."
