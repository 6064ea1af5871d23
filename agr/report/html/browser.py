"""Data of the image browser's script: each name once, and everything else by its number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from agr.report.html.contract import Example
from agr.report.html.escapes import compact, size
from agr.report.html.images import Pictures, fit, key_of


class Names:
    """Texts, and their numbers in order of first use."""

    def __init__(self) -> None:
        self.known: dict[Any, int] = {}

    def number(self, name: Any) -> int:
        """The number of a name."""
        return self.known.setdefault(name, len(self.known))


class Index:
    """All names of some examples."""

    def __init__(self) -> None:
        self.groups, self.images, self.norms = Names(), Names(), Names()
        self.attacks, self.sources, self.networks, self.facts = Names(), Names(), Names(), Names()


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
    index = Index()
    rows = [
        [*_names(index, s), *_pair(pictures, i), *_told(index, s)] for i, s in enumerate(examples)
    ]
    labels = {key_of(s): s.label for s in examples}
    return {
        "examples": rows,
        "images": [
            [index.groups.number(g), i, labels[g, i], pictures.cleans[g, i] if pictures else ""]
            for g, i in index.images.known
        ],
        "sources": [[index.groups.number(g), name] for g, name in index.sources.known],
        "norms": [[n, pictures.factors[n] if pictures else 1] for n in index.norms.known],
        "groups": list(index.groups.known),
        "attacks": list(index.attacks.known),
        "networks": list(index.networks.known),
        "facts": list(index.facts.known),
        "classes": {str(c): name for c, name in classes.items() if c in _classes(examples)},
        "words": _words(pictures) if pictures else "",
    }


def _names(index: Index, example: Example) -> list[int]:
    index.groups.number(example.group)
    return [
        index.sources.number((example.group, example.source)),
        index.images.number(key_of(example)),
        index.norms.number(example.norm),
        index.attacks.number(example.attack),
    ]


def _pair(pictures: Pictures | None, i: int) -> list[str]:
    return [pictures.differences[i], pictures.adversarials[i]] if pictures else ["", ""]


def _told(index: Index, example: Example) -> list[Any]:
    """Return the predictions of each target, and the facts."""
    answers = [
        [
            *(index.networks.number(name), a.clean_pred, _confidence(a.clean_conf)),
            *(a.adv_pred, _confidence(a.adv_conf), int(a.success)),
        ]
        for name, a in example.answers.items()
    ]
    return [answers, [[index.facts.number(name), text] for name, text in example.facts.items()]]


def _confidence(value: float) -> float | None:
    """Rounded; None for what is no number, as a network that gave no finite answer has it."""
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
