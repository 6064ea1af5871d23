"""Adversarial images that another program made: found and checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from agr.data.decode import Pixels
from agr.utils.errors import ConfigError, first_line
from agr.utils.text import printable


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
        raise ConfigError(f"images={folder} is not a folder: give that of the adversarial PNGs")
    files = {path.stem: path for path in sorted(place.glob("*.png"))}
    if not files:
        there = sorted(path.name for path in place.iterdir())
        raise ConfigError(
            f"images={folder} has no PNG: save images without loss, as ID.png; there is "
            f"{', '.join(map(printable, there[:3])) or 'nothing'}"
        )
    digest = hashlib.sha256()
    for image_id, path in files.items():
        digest.update(f"{image_id}\n".encode() + _sha256(path, path.stat().st_mtime_ns))
    if sha256 and sha256 != digest.hexdigest():
        raise ConfigError(
            f"images={folder}: they are not those of sha256 {sha256[:12]}… any more: restore them, "
            "or give them to agr.score again"
        )
    return GivenImages(place, files, digest.hexdigest())


@cache
def _sha256(path: Path, changed: int) -> bytes:
    """Hash an image's pixels; `changed`, its time stamp, keeps an old hash from being returned."""
    return hashlib.sha256(_pixels(path).tobytes()).digest()


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
