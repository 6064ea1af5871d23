"""The images of a claim's sample: PNGs that travel beside an entry, never in it.

They lie at FOLDER/CELL/ID.png. What counts is the hash of their pixels.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agr.records.claim import SampleImage
from agr.records.store import image_of
from agr.submission.claimed import Entry
from agr.utils.errors import ConfigError, first_line
from agr.utils.pixels import digest_of, write_png

Pixels = NDArray[np.uint8]  # (H, W, 3)
SPARE = 1 << 16  # bytes of a PNG beside its pixels


def sample_images(entry: Entry, sample: Sequence[SampleImage]) -> dict[str, Pixels]:
    """Return the sample of a cell by image id: saved images, or ones that are crafted again.

    Raises ConfigError where neither can be had, or they aren't those that were scored.
    """
    cell, run, records = entry
    if cell.config.quantize == "off":
        raise ConfigError(
            f"{records.folder}: quantize=off makes images that no PNG can hold: leave sample=… out"
        )
    positions = {image.position for image in sample}
    found: dict[str, Pixels] = {}
    if positions <= records.positions("adversarials"):
        for rows in records.saved_images(positions):
            found |= {row["image_id"]: image_of(row) for row in rows}
    else:
        from agr.evaluation.replay import images_again  # torch and timm

        made = images_again(cell, run, records, positions)
        found = {i: np.ascontiguousarray(image.transpose(1, 2, 0)) for i, image in made.items()}
    for image in sample:
        if image.image_id not in found or digest_of(found[image.image_id]) != image.sha256:
            raise ConfigError(
                f"{records.folder}: {image.image_id} is another image than the one that was "
                "scored: run the cell with save_adversarials=true, or leave sample=… out"
            )
    return found


def write_sample(folder: Path, images: Mapping[str, Pixels]) -> None:
    """Write the images of a cell as ID.png into a new folder."""
    folder.mkdir(parents=True)
    for image_id, pixels in images.items():
        write_png(folder / f"{image_id}.png", pixels)


def read_sample(folder: Path, image: SampleImage, side: int) -> Pixels:
    """Read an image of a stranger's sample. Raises ConfigError for one that isn't the claimed one.

    A link, a pipe, and a file that is too large or of another size than `side` are not opened.
    """
    path = folder / f"{image.image_id}.png"
    try:
        if folder.is_symlink() or not stat.S_ISREG((found := path.lstat()).st_mode):
            raise ValueError("it is not a regular file")
        if found.st_size > 3 * side**2 + SPARE:
            raise ValueError(f"it has {found.st_size:,} bytes")
        pixels = _decoded(path, side)
    except FileNotFoundError as e:
        raise ConfigError(f"{image.image_id}.png is missing") from e
    except Exception as e:  # decoders raise whatever they like
        raise ConfigError(f"{image.image_id}.png can't be read: {first_line(e)}") from e
    if digest_of(pixels) != image.sha256:
        raise ConfigError(f"{image.image_id}.png is another image than the claimed one")
    return pixels


def _decoded(path: Path, side: int) -> Pixels:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a size that would fill the memory
        with Image.open(path, formats=("PNG",)) as image:
            if image.size != (side, side) or image.mode != "RGB":
                raise ValueError(f"it is of {image.size} px and mode {image.mode}, not {side}, RGB")
            return np.asarray(image)
