"""Stand-ins for ILSVRC2012: photograph-like JPEGs, and every layout that they come in.

    items = photos(20)                           # names, files and classes as in ILSVRC2012
    synset_folders(root / "val", items)          # the same items in any layout
    flat(root, items)
    devkit(root / "ILSVRC2012_devkit_t12", items)

All is a function of seeds. Layouts are written from what their makers document, not with the code
under test.
"""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

Sizes = Sequence[tuple[int, int]]

# (width, height) of most photographs in ILSVRC2012, and some others
SIZES: Sizes = ((500, 375), (500, 333), (375, 500), (500, 500), (640, 427), (320, 240))
DEVKIT = "ILSVRC2012_devkit_t12"


class Item(NamedTuple):
    """An image: its file's name and content, and its class, 0..999 in timm's order."""

    name: str
    content: bytes
    label: int

    @property
    def image_id(self) -> str:
        return self.name.partition(".")[0]


@lru_cache(maxsize=1)
def synsets() -> tuple[str, ...]:
    """ImageNet's synsets in timm's order, read from timm's own file."""
    spec = find_spec("timm")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data" / "_info" / "imagenet_synsets.txt"
    return tuple(path.read_text().split())


def name_of(number: int) -> str:
    """The file name of image `number`, which counts from 1."""
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def photos(n: int, classes: int = 1000, seed: int = 0, sizes: Sizes = SIZES) -> list[Item]:
    """The first `n` images with random classes, all of them different."""
    labels = np.random.default_rng([seed, n]).integers(0, classes, n)
    return [
        Item(name_of(i + 1), jpeg(photo(sizes[i % len(sizes)], seed=seed + i)), int(labels[i]))
        for i in range(n)
    ]


def crowd(n: int, classes: int = 1000, seed: int = 0, distinct: int = 4) -> list[Item]:
    """As `photos`, for numbers like 50,000: few different files of 64 x 48 px."""
    few = [jpeg(photo((64, 48), seed=seed + i)) for i in range(distinct)]
    labels = np.random.default_rng([seed, n]).permutation(np.arange(n) % classes)
    return [Item(name_of(i + 1), few[i % distinct], int(labels[i])) for i in range(n)]


def photo(size: tuple[int, int] = (500, 375), seed: int = 0) -> Image.Image:
    """Smooth random content of (width, height) with about the spectrum of a photograph, 1/f."""
    rng = np.random.default_rng(seed)
    levels = np.zeros((size[1], size[0], 3), np.float32)
    cells = 2
    while cells < max(size):
        grain = rng.standard_normal((cells, cells, 3)).astype(np.float32) * 0.5 + 0.5
        small = Image.fromarray((np.clip(grain, 0, 1) * 255).astype(np.uint8))
        octave = np.asarray(small.resize(size, Image.Resampling.BILINEAR), np.float32) - 127
        levels += octave / cells**0.3
        cells *= 3
    return Image.fromarray(np.clip(levels + rng.uniform(80, 170, 3), 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


# ---- images -------------------------------------------------------------------------------------


def synset_folders(root: Path, items: Sequence[Item], names: Sequence[str] | None = None) -> Path:
    """`root`/n01440764/ILSVRC2012_val_00000293.JPEG …; `names` are the synsets of the classes."""
    names = names or synsets()
    for item in items:
        folder = root / names[item.label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / item.name).write_bytes(item.content)
    return root


def flat(root: Path, items: Sequence[Item]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for item in items:
        (root / item.name).write_bytes(item.content)
    return root


def tar(path: Path, items: Sequence[Item], folders: bool = False, above: str = "") -> Path:
    """An uncompressed tar, flat as ILSVRC2012_img_val.tar is, or with synset folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as file:
        for item in items:
            folder = f"{synsets()[item.label]}/" if folders else ""
            info = tarfile.TarInfo(f"{above}{folder}{item.name}")
            info.size = len(item.content)
            file.addfile(info, io.BytesIO(item.content))
    return path


# ---- labels -------------------------------------------------------------------------------------


def loc_solution(path: Path, items: Sequence[Item]) -> Path:
    """Kaggle's file: every object of an image with its box, all of them of the image's class."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageId", "PredictionString"])
        for i, item in enumerate(items):
            box = f"{synsets()[item.label]} {i} 1 {i + 90} 272 "
            writer.writerow([item.image_id, box * (1 + i % 3)])
    return path


def val_txt(path: Path, items: Sequence[Item]) -> Path:
    path.write_text("".join(f"{item.name} {item.label}\n" for item in items))
    return path


def devkit(folder: Path, items: Sequence[Item], seed: int = 0) -> Path:
    """`folder`/data with meta.mat and the ground truth; `items` must be the images 1, 2, 3 …

    As in the real one, ILSVRC's ids are not the order of the synsets, synsets above the classes
    have ids from 1001 on, and meta.mat is an array of structs, (1860, 1).
    """
    (folder / "data").mkdir(parents=True, exist_ok=True)
    ids = ilsvrc_ids(seed)
    lines = []
    for i, item in enumerate(items, 1):
        assert item.name == name_of(i)
        lines.append(f"{ids[item.label]}\n")
    (folder / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(lines))
    (folder / "data" / "meta.mat").write_bytes(_meta(seed))
    return folder


@lru_cache(maxsize=4)
def _meta(seed: int) -> bytes:
    from scipy.io import savemat

    by_id = dict(zip(ilsvrc_ids(seed), synsets(), strict=True))
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O")]
    kinds += [("num_children", "O"), ("children", "O"), ("wordnet_height", "O")]
    table = np.empty((1860, 1), np.dtype([*kinds, ("num_train_images", "O")]))
    for number in range(1, 1861):
        leaf = number <= 1000
        name = by_id[number] if leaf else f"n{90000000 + number}"
        below = np.zeros((1, 0)) if leaf else np.array([[number - 1000.0, number - 999.0]])
        words, gloss = f"word {number}, synonym", "what it means; a 'quote'"
        row = (float(number), name, words, gloss, float(below.size), below, 0.0, 1300.0)
        table[number - 1, 0] = row
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": table})
    return buffer.getvalue()


def ilsvrc_ids(seed: int = 0) -> list[int]:
    """ILSVRC's id, 1..1000, of each class of timm's order: a permutation."""
    return [int(i) + 1 for i in np.random.default_rng([seed, 12]).permutation(1000)]


def pack_devkit(path: Path, folder: Path) -> Path:
    """ILSVRC2012_devkit_t12.tar.gz of a devkit's folder."""
    with tarfile.open(path, "w:gz") as file:
        file.add(folder, DEVKIT)
    return path


# ---- CSVs of images -----------------------------------------------------------------------------


def csv_manifest(path: Path, items: Sequence[Item], folder: str = "") -> Path:
    """filename,label; the names below `folder`."""
    rows = [f"{folder}{item.name},{item.label}\n" for item in items]
    path.write_text("filename,label\n" + "".join(rows))
    return path


def nips_csv(root: Path, items: Sequence[Item], suffix: str = ".png") -> Path:
    """The NIPS 2017 data set: `root`/images.csv, classes from 1 on, and `root`/images/<id>.png."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    header = "ImageId,URL,x1,y1,x2,y2,TrueLabel,TargetClass,OriginalLandingURL,License,Author"
    lines = [f"{header},AuthorProfileURL"]
    for item in items:
        lines.append(
            f"{item.image_id},https://example.org/{item.image_id},0.0,0.1,0.9,1.0,{item.label + 1},"
            f'{target_of(item) + 1},https://example.org,CC,"Doe, Jane",https://example.org'
        )
        path = root / "images" / f"{item.image_id}{suffix}"
        Image.open(io.BytesIO(item.content)).resize((64, 64)).save(path)
    (root / "images.csv").write_text("\n".join(lines) + "\n")
    return root


def target_of(item: Item) -> int:
    """The class, 0..999, that a targeted attack on an item of `nips_csv` wants."""
    return (item.label + 7) % 1000
