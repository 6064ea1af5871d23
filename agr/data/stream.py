"""Files to uint8 images in a geometry, decoded ahead by threads, in order."""

from __future__ import annotations

import hashlib
import io
import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from agr.config import Geometry, first_line
from agr.data.manifest import Entry

Pixels = NDArray[np.uint8]  # (3, H, W)
AHEAD = 64  # decoded images waiting at most: memory doesn't grow with the number of images
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class BadImage(Exception):
    """A file that is missing or cannot be decoded; its text says why, in one line."""


def load_image(entry: Entry, geometry: Geometry) -> Pixels:
    """One image in `geometry`: the pixels that timm's evaluation transform makes, (3, H, W).

    The shorter side goes to floor(size / crop), then the centre is cut out. Raises BadImage.
    """
    try:
        content = entry.path.read_bytes()
        image = Image.open(io.BytesIO(content)).convert("RGB")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as e:
        reason = "missing" if isinstance(e, FileNotFoundError) else first_line(e)
        raise BadImage(f"{entry.path.name}: {reason.replace(f'{entry.path.parent}/', '')}") from e
    if entry.sha256 and hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BadImage(f"{entry.path.name}: its hash is not the manifest's")
    image = _resize(image, math.floor(geometry.size / geometry.crop), geometry.interpolation)
    return np.ascontiguousarray(np.asarray(_crop(image, geometry.size)).transpose(2, 0, 1))


def stream(
    entries: Iterable[Entry], geometry: Geometry, workers: int
) -> Iterator[tuple[Entry, Pixels | BadImage]]:
    """Each entry with its image, or with what is wrong with it, in the order given."""
    entries = iter(entries)

    def load(entry: Entry) -> Pixels | BadImage:
        try:
            return load_image(entry, geometry)
        except BadImage as e:
            return e

    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[Entry, Future[Pixels | BadImage]]] = deque()
        try:
            for entry in islice(entries, AHEAD):
                ahead.append((entry, pool.submit(load, entry)))
            while ahead:
                entry, future = ahead.popleft()
                yield entry, future.result()
                for following in islice(entries, 1):
                    ahead.append((following, pool.submit(load, following)))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _resize(image: Image.Image, shorter: int, interpolation: str) -> Image.Image:
    width, height = image.size
    if min(width, height) == shorter:
        return image
    longer = int(shorter * max(width, height) / min(width, height))
    size = (shorter, longer) if width <= height else (longer, shorter)
    return image.resize(size, RESAMPLING[interpolation])


def _crop(image: Image.Image, size: int) -> Image.Image:
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))
