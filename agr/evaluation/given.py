"""Adversarial images that another program made: found, checked and measured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from agr.config.cell import Cell
from agr.data.decode import BadImage, Pixels, load_image
from agr.data.entries import Entry
from agr.utils.errors import ConfigError, first_line
from agr.utils.text import printable

NORMS = {"linf": np.inf, "l2": 2}


@dataclass(frozen=True)
class GivenImages:
    """The PNGs of a folder, by their names without the ending, which are the ids of images."""

    folder: Path
    files: dict[str, Path] = field(repr=False)
    sha256: str  # of ids and pixels

    def like(self, image_id: str, clean: Pixels) -> Pixels:
        """Return the adversarial image of a clean one, (3, H, W). Raises ConfigError."""
        if image_id not in self.files:
            raise ConfigError(
                f"images={self.folder} has no {image_id}.png, and the cell attacks that image: add "
                "it, or give fewer n_images"
            )
        pixels = _pixels(self.files[image_id])
        if pixels.shape != clean.shape:
            (_, height, width), side = pixels.shape, clean.shape[-1]
            raise ConfigError(
                f"{self.files[image_id]} is {width} x {height} px, and the cell's images are "
                f"{side} px: give suite.groups.NAME.geometry.size={width} and the crop with which "
                "the clean images reach it"
            )
        return pixels


def images_in(folder: str, sha256: str | None = None) -> GivenImages:
    """Find the adversarial images in a folder.

    Raises ConfigError if there are none, for one that isn't 8-bit RGB, and if they are not those
    of the hash `sha256`.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise ConfigError(f"images={folder} is no folder: give that of the adversarial PNGs")
    files = {path.stem: path for path in sorted(place.glob("*.png"))}
    if not files:
        there = sorted(path.name for path in place.iterdir())
        raise ConfigError(
            f"images={folder} has no PNG: save images without loss, as ID.png; there is "
            f"{', '.join(map(printable, there[:3])) or 'nothing'}"
        )
    digest = hashlib.sha256()
    for image_id, path in files.items():
        digest.update(f"{image_id}\n".encode() + _pixels(path).tobytes())
    if sha256 and sha256 != digest.hexdigest():
        raise ConfigError(
            f"images={folder}: they are not those of sha256 {sha256[:12]}… any more: restore them, "
            "or give them to agr.score again"
        )
    return GivenImages(place, files, digest.hexdigest())


def _pixels(path: Path) -> Pixels:
    """Read an 8-bit RGB PNG as (3, H, W). Raises ConfigError."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            mode = image.mode
            pixels = np.asarray(image)
    except Exception as e:  # decoders raise whatever they like
        raise ConfigError(printable(f"{path} cannot be read: {first_line(e)}")) from e
    if mode != "RGB" or pixels.dtype != np.uint8:
        raise ConfigError(printable(f"{path} is of mode {mode}: save it as 8-bit RGB"))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def sizes(given: GivenImages, cell: Cell, entries: Iterable[Entry]) -> dict[str, float]:
    """Measure how far each image is from its clean one, in the cell's norm, on the 0-255 scale.

    Args:
        given: the adversarial images.
        cell: gives norm and geometry.
        entries: the clean images; of those without an adversarial one nothing is said.

    Raises ConfigError, also if an adversarial image has no clean one.
    """
    by_id = {entry.image_id: entry for entry in entries}
    found = {}
    for image_id in given.files:
        if image_id not in by_id:
            raise ConfigError(
                f"images={given.folder}: {image_id} is none of the clean images: names must be "
                "those of the clean ones, with .png"
            )
        try:
            clean = load_image(by_id[image_id], cell.geometry)
        except BadImage as e:
            raise ConfigError(str(e)) from e
        v = given.like(image_id, clean).astype(float) - clean
        found[image_id] = float(np.linalg.norm(v.ravel(), NORMS[cell.config.norm.name]))
    return found
