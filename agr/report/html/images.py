"""Pictures for the image browser, as many and as good as fit into a number of bytes."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from agr.report.html.contract import Example
from agr.report.perturbations import common_factor, scaled
from agr.utils.errors import ConfigError

TRIED = 16  # examples that are encoded to estimate the bytes of all
MARGIN = 1.03  # by which an estimate may be too low
BASE64 = 4 / 3
COUNTED = 64  # examples of a norm from which its factor is taken

ImageKey = tuple[str, str]  # group and image id: an image has another geometry in another group


class Encoding(NamedTuple):
    """Encoding of pictures: WebP of a quality, and the longest side if they are shrunk."""

    quality: int | None  # None: lossless
    side: int | None = None  # None: as they are

    def words(self) -> str:
        """For the page's readers."""
        size = "at their full size" if self.side is None else f"shrunk to {self.side} px"
        how = "without loss" if self.quality is None else f"as WebP of quality {self.quality}"
        return f"{size}, {how}"


# From the best down; each is smaller than the one before.
ENCODINGS = (
    *(Encoding(None), Encoding(90), Encoding(75), Encoding(60), Encoding(45)),
    *(Encoding(60, side) for side in (224, 160, 112, 80, 64)),
    Encoding(45, 64),
)


class Pictures(NamedTuple):
    """Encoded pictures: WebP as base64, for examples and for their clean images."""

    examples: Sequence[Example]  # those that are shown
    adversarials: Sequence[str]  # of each example
    differences: Sequence[str]  # of each example, scaled around grey
    cleans: dict[ImageKey, str]
    factors: dict[str, int]  # by norm
    encoding: Encoding
    images_left_out: int


def key_of(example: Example) -> ImageKey:
    """Return the group and id of a example's clean image."""
    return example.group, example.image_id


def factors_of(examples: Sequence[Example]) -> dict[str, int]:
    """One factor for all examples of a norm, so that attacks can be compared by eye."""
    factors = {}
    for norm in dict.fromkeys(s.norm for s in examples):
        some = _spread([s for s in examples if s.norm == norm], COUNTED)
        factors[norm] = common_factor((s.clean, s.adversarial) for s in some)
    return factors


def _spread(examples: Sequence[Example], most: int) -> list[Example]:
    """At most so many, evenly from all."""
    chosen = np.linspace(0, len(examples) - 1, min(most, len(examples))).round().astype(int)
    return [examples[i] for i in chosen]


def encoded(pixels: np.ndarray[Any, Any], encoding: Encoding, shrink: Image.Resampling) -> bytes:
    """A picture as WebP."""
    image = Image.fromarray(pixels)
    longest = max(image.size)
    if encoding.side is not None and encoding.side < longest:
        width, height = (max(1, round(n * encoding.side / longest)) for n in image.size)
        image = image.resize((width, height), shrink)
    out = io.BytesIO()
    if encoding.quality is None:
        image.save(out, "WEBP", lossless=True, quality=0, method=2)
    else:
        image.save(out, "WEBP", quality=encoding.quality)
    return out.getvalue()


def _encoders(
    factors: dict[str, int], encoding: Encoding
) -> tuple[Callable[[Example], bytes], ...]:
    """Return encoders of adversarial image, perturbation and clean image.

    Shrinking takes means, of a perturbation single pixels: means would hide how strong it is.
    """
    box, nearest = Image.Resampling.BOX, Image.Resampling.NEAREST
    return (
        lambda s: encoded(s.adversarial, encoding, box),
        lambda s: encoded(scaled(s.clean, s.adversarial, factors[s.norm]), encoding, nearest),
        lambda s: encoded(s.clean, encoding, box),
    )


def fit(examples: Sequence[Example], most_bytes: int) -> Pictures:
    """Encode all examples within `most_bytes`: of less quality, then smaller, then fewer."""
    factors = factors_of(examples)
    for encoding in ENCODINGS:
        if _estimate(examples, factors, encoding) > most_bytes:
            continue
        pictures = _encode(examples, factors, encoding)
        if weight(pictures) <= most_bytes:
            return pictures
    return _fewer(examples, factors, most_bytes)


def _fewer(examples: Sequence[Example], factors: dict[str, int], most_bytes: int) -> Pictures:
    """The first images of each group with all their examples, in the smallest size."""
    images: dict[str, list[str]] = {}
    for group, image_id in dict.fromkeys(map(key_of, examples)):
        images.setdefault(group, []).append(image_id)
    at_least = _estimate(examples, factors, ENCODINGS[-1])
    per_group = max(map(len, images.values()))
    kept = min(per_group - 1, int(per_group * most_bytes / at_least))
    while kept > 0:
        few = [s for s in examples if s.image_id in images[s.group][:kept]]
        pictures = _encode(few, factors, ENCODINGS[-1])
        if weight(pictures) <= most_bytes:
            out = len({key_of(s) for s in examples}) - len(pictures.cleans)
            return pictures._replace(images_left_out=out)
        kept = min(kept - 1, int(kept * most_bytes / weight(pictures)))
    raise ConfigError(
        f"the page's image browser: {len(examples)} attacked images of {per_group} images are "
        f"about {at_least:,} bytes at their smallest, {ENCODINGS[-1].words()}, and not even one "
        f"image fits into the {max(most_bytes, 0):,} bytes that the rest of the page leaves; "
        "give it more bytes, or fewer attacks, sources or norms"
    )


def _in_threads(encode: Callable[[Example], bytes], some: Iterable[Example]) -> list[bytes]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(encode, some))


def _estimate(examples: Sequence[Example], factors: dict[str, int], encoding: Encoding) -> int:
    """About how many bytes all pictures are, from some of them."""
    some = _spread(examples, TRIED)
    adversarials, differences, cleans = (
        sum(map(len, _in_threads(encode, some))) / len(some)
        for encode in _encoders(factors, encoding)
    )
    images = len({key_of(s) for s in examples})
    return int(MARGIN * BASE64 * ((adversarials + differences) * len(examples) + cleans * images))


def _encode(examples: Sequence[Example], factors: dict[str, int], encoding: Encoding) -> Pictures:
    one_each = {key_of(s): s for s in reversed(examples)}
    adversarials, differences, cleans = (
        [base64.b64encode(data).decode() for data in _in_threads(encode, some)]
        for encode, some in zip(
            _encoders(factors, encoding), (examples, examples, one_each.values()), strict=True
        )
    )
    cleans_by_key = dict(zip(one_each, cleans, strict=True))
    return Pictures(examples, adversarials, differences, cleans_by_key, factors, encoding, 0)


def weight(pictures: Pictures) -> int:
    """The bytes of all pictures as the page has them."""
    all_of_them = (*pictures.adversarials, *pictures.differences, *pictures.cleans.values())
    return sum(map(len, all_of_them))
