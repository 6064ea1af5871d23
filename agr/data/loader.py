"""Images decoded ahead by threads, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Protocol

from agr.config.schema import Geometry
from agr.data.decode import BadImage, Pixels, load_image
from agr.data.entries import Entry

AHEAD = 64  # decoded images waiting at most: memory doesn't grow with the number of images


class Cache(Protocol):
    """Decoded images of one geometry, used by several threads."""

    geometry: Geometry

    def get(self, entry: Entry) -> Pixels | None:
        """Return the pixels of an image, (3, H, W), or None if they are not there."""
        ...

    def put(self, entry: Entry, pixels: Pixels) -> None:
        """Keep the pixels of an image."""
        ...


def stream(
    entries: Iterable[Entry], geometry: Geometry, workers: int, cache: Cache | None = None
) -> Iterator[tuple[Entry, Pixels | BadImage]]:
    """Yield each entry with its image, or with the error of its file, in the order given.

    With a `cache`, which must be of the same geometry, what it has is not decoded again.
    """
    if cache and cache.geometry != geometry:
        raise ValueError(f"a cache of {cache.geometry} has no images of {geometry}")
    entries = iter(entries)

    def load(entry: Entry) -> Pixels | BadImage:
        pixels = cache.get(entry) if cache else None
        if pixels is not None:
            return pixels
        try:
            pixels = load_image(entry, geometry)
        except BadImage as e:
            return e
        if cache:
            cache.put(entry, pixels)
        return pixels

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
