"""The images of a cell: the seeded order, decoded pixels, and files that are bad."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from agr.config.cell import Cell
from agr.data.cache import PixelCache
from agr.data.decode import BadImage, ChangedImage, Pixels, load_image, stream
from agr.data.entries import Entry, Manifest
from agr.data.index import forget
from agr.utils.hashing import draw

TUNING = 3 << 62  # of 64 bits: draws from here on, a quarter, belong to the tuning split
MEMORY = 1 << 29  # bytes of decoded images that are kept: 2,000 of 299 px


def in_tuning_split(seed: int, image_id: str) -> bool:
    """True if an image is in the tuning split of a seed."""
    return draw(seed, image_id) >= TUNING


class Images:
    """The images of a cell, in its geometry.

    Selection and crafting need the same pixels. Those of images to be attacked are kept in between,
    so that each is decoded once; of a selection larger than MEMORY the rest is decoded again.
    """

    def __init__(self, cell: Cell, manifest: Manifest):
        self.cell, self.manifest = cell, manifest
        self.bad: dict[str, str] = {}  # image id -> what is wrong with its file
        self.read: set[str] = set()  # ids of those whose files were fine
        self.cache: PixelCache | None = None
        if cell.config.data.cache:
            self.cache = PixelCache(cell.data_folder, manifest, cell.geometry)
        self._kept: dict[str, Pixels] = {}

    def __call__(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Pixels]]:
        """Yield entries with their pixels, decoded ahead; leave bad files out and note them."""
        for entry, pixels in stream(entries, self._load, self.cell.config.workers):
            if isinstance(pixels, ChangedImage):
                forget(self.cell.data_folder)
            if isinstance(pixels, BadImage):
                self.bad[entry.image_id] = str(pixels)
            else:
                self.read.add(entry.image_id)
                yield entry, pixels

    def order(self, *use: str) -> list[Entry]:
        """Return the images of the split in the selection's seeded order, or in one of a `use`.

        The tuning split is the last quarter of the selection's order, by the same draws: whether an
        image is in it depends on nothing but the seed and its id.
        """
        seed, everything = self.cell.config.seed, self.cell.config.split == "all"
        kept = (e for e in self.manifest.entries if everything or in_tuning_split(seed, e.image_id))
        return sorted(kept, key=lambda e: draw(seed, *use, e.image_id))

    def drop(self, entries: Iterable[Entry]) -> None:
        """Forget the pixels of images that won't be needed again."""
        for entry in entries:
            self._kept.pop(entry.image_id, None)

    def _load(self, entry: Entry) -> Pixels:
        """Return an image's pixels: those in memory, those in the cache, or else decoded."""
        pixels = self._kept.get(entry.image_id)
        if pixels is None:
            load = (
                self.cache.load if self.cache else partial(load_image, geometry=self.cell.geometry)
            )
            pixels = load(entry)
            if (len(self._kept) + 1) * pixels.nbytes <= MEMORY:
                self._kept[entry.image_id] = pixels
        return pixels
