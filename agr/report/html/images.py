"""Pictures for the image browser, as many and as good as fit into a number of bytes."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from agr.report.html.contract import Shot
from agr.report.perturbations import factor_of, scaled
from agr.utils.errors import ConfigError

TRIED = 16  # shots that are encoded to estimate the bytes of all
MARGIN = 1.03  # by which an estimate may be too low
BASE64 = 4 / 3
COUNTED = 64  # shots of a norm from which its factor is taken

ImageKey = tuple[str, str]  # group and image id: an image has another geometry in another group


class Step(NamedTuple):
    """Encoding of pictures: WebP of a quality, and the longest side if they are shrunk."""

    quality: int | None  # None: lossless
    side: int | None = None  # None: as they are

    def words(self) -> str:
        """For the page's readers."""
        size = "at their full size" if self.side is None else f"shrunk to {self.side} px"
        how = "without loss" if self.quality is None else f"as WebP of quality {self.quality}"
        return f"{size}, {how}"


# From the best down; each is smaller than the one before.
STEPS = (
    *(Step(None), Step(90), Step(75), Step(60), Step(45)),
    *(Step(60, side) for side in (224, 160, 112, 80, 64)),
    Step(45, 64),
)


class Pictures(NamedTuple):
    """Encoded pictures: WebP as base64, for shots and for their clean images."""

    shots: Sequence[Shot]  # those that are shown
    adversarials: Sequence[str]  # of each shot
    differences: Sequence[str]  # of each shot, scaled around grey
    cleans: dict[ImageKey, str]
    factors: dict[str, int]  # by norm
    step: Step
    images_left_out: int


def key_of(shot: Shot) -> ImageKey:
    """Return the group and id of a shot's clean image."""
    return shot.group, shot.image_id


def factors_of(shots: Sequence[Shot]) -> dict[str, int]:
    """One factor for all shots of a norm, so that attacks can be compared by eye."""
    norms = dict.fromkeys(s.norm for s in shots)
    return {norm: factor_of(_pairs([s for s in shots if s.norm == norm])) for norm in norms}


def _pairs(shots: Sequence[Shot]) -> list[tuple[Any, Any]]:
    return [(shot.clean, shot.adversarial) for shot in _spread(shots, COUNTED)]


def _spread(shots: Sequence[Shot], most: int) -> list[Shot]:
    """At most so many, evenly from all."""
    chosen = np.linspace(0, len(shots) - 1, min(most, len(shots))).round().astype(int)
    return [shots[i] for i in chosen]


def encoded(pixels: np.ndarray[Any, Any], step: Step, shrink: Image.Resampling) -> bytes:
    """A picture as WebP."""
    image = Image.fromarray(pixels)
    longest = max(image.size)
    if step.side is not None and step.side < longest:
        width, height = (max(1, round(n * step.side / longest)) for n in image.size)
        image = image.resize((width, height), shrink)
    out = io.BytesIO()
    if step.quality is None:
        image.save(out, "WEBP", lossless=True, quality=0, method=2)
    else:
        image.save(out, "WEBP", quality=step.quality)
    return out.getvalue()


def photo(pixels: np.ndarray[Any, Any], step: Step) -> bytes:
    """A clean or an adversarial image; shrinking takes means."""
    return encoded(pixels, step, Image.Resampling.BOX)


def change(shot: Shot, factor: int, step: Step) -> bytes:
    """A perturbation; shrinking takes single pixels, since means would hide how strong it is."""
    return encoded(scaled(shot.clean, shot.adversarial, factor), step, Image.Resampling.NEAREST)


def fit(shots: Sequence[Shot], most_bytes: int) -> Pictures:
    """Encode all shots within `most_bytes`: with less quality, then smaller, then fewer images."""
    factors = factors_of(shots)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for step in STEPS:
            if _estimate(shots, factors, step, pool) > most_bytes:
                continue
            pictures = _encode(shots, factors, step, pool)
            if weight(pictures) <= most_bytes:
                return pictures
        return _fewer(shots, factors, most_bytes, pool)


def _fewer(
    shots: Sequence[Shot], factors: dict[str, int], most_bytes: int, pool: ThreadPoolExecutor
) -> Pictures:
    """The first images of each group with all their shots, in the smallest size."""
    images = _images(shots)
    at_least = _estimate(shots, factors, STEPS[-1], pool)
    per_group = max(len(ids) for ids in images.values())
    kept = min(per_group - 1, int(per_group * most_bytes / at_least))
    while kept > 0:
        few = [s for s in shots if s.image_id in images[s.group][:kept]]
        pictures = _encode(few, factors, STEPS[-1], pool)
        if weight(pictures) <= most_bytes:
            out = len({key_of(s) for s in shots}) - len(pictures.cleans)
            return pictures._replace(images_left_out=out)
        kept = min(kept - 1, int(kept * most_bytes / weight(pictures)))
    raise ConfigError(
        f"the page's image browser: {len(shots)} attacked images of {per_group} images are about "
        f"{at_least:,} bytes at their smallest, {STEPS[-1].words()}, and not even one image fits "
        f"into the {max(most_bytes, 0):,} bytes that the rest of the page leaves; give it more "
        "bytes, or fewer attacks, sources or norms"
    )


def _images(shots: Sequence[Shot]) -> dict[str, list[str]]:
    """The image ids of each group, in their order."""
    found: dict[str, dict[str, None]] = {}
    for shot in shots:
        found.setdefault(shot.group, {})[shot.image_id] = None
    return {group: list(ids) for group, ids in found.items()}


def _estimate(
    shots: Sequence[Shot], factors: dict[str, int], step: Step, pool: ThreadPoolExecutor
) -> int:
    """About how many bytes all pictures are, from some of them."""
    some = _spread(shots, TRIED)
    sizes = sum(pool.map(lambda s: _bytes_of(s, factors[s.norm], step), some))
    cleans = sum(pool.map(lambda s: len(photo(s.clean, step)), some))
    images = len({key_of(s) for s in shots})
    per_shot, per_image = sizes / len(some), cleans / len(some)
    return int(MARGIN * BASE64 * (per_shot * len(shots) + per_image * images))


def _bytes_of(shot: Shot, factor: int, step: Step) -> int:
    return len(photo(shot.adversarial, step)) + len(change(shot, factor, step))


def _encode(
    shots: Sequence[Shot], factors: dict[str, int], step: Step, pool: ThreadPoolExecutor
) -> Pictures:
    def all_of(encode: Callable[[Shot], bytes], some: Sequence[Shot]) -> list[str]:
        return [base64.b64encode(data).decode() for data in pool.map(encode, some)]

    one_each = {key_of(s): s for s in reversed(shots)}
    cleans = all_of(lambda s: photo(s.clean, step), list(one_each.values()))
    return Pictures(
        shots=shots,
        adversarials=all_of(lambda s: photo(s.adversarial, step), shots),
        differences=all_of(lambda s: change(s, factors[s.norm], step), shots),
        cleans=dict(zip(one_each, cleans, strict=True)),
        factors=factors,
        step=step,
        images_left_out=0,
    )


def weight(pictures: Pictures) -> int:
    """The bytes of all pictures as the page has them."""
    all_of_them = (*pictures.adversarials, *pictures.differences, *pictures.cleans.values())
    return sum(map(len, all_of_them))
