"""The demo suite's images: a small procedural data set of ten classes, in the ILSVRC2012 layout.

Every image is a pure function of (seed, index): any one can be made again alone. An image shows
one warped object on a noisy background, and three things tell its class:

- the object's shape, one of ten signed distance functions;
- the object's texture, on half of the images;
- a faint colour grating over the whole image, a few grey levels high.

The grating stands for the non-robust features of natural images (Ilyas et al. 2019, arXiv
1905.02175): networks share it, so adversarial images transfer between them. Its strength was
chosen so that transfer lies where the paper's does; the demo shows that the pipeline is right,
never that the paper is.

    base_image(seed=1, index=7)          # without the grating: training draws a new one per batch
    image(seed=3, index=7)               # a whole image, as shipped
    write_validation("agr/assets/demo")  # val/n90000001/ILSVRC2012_val_00000001.JPEG, ..., val.csv
"""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.floating[Any]]
Texture = Callable[[Array, Array, float], Array]

SIZE = 80  # px
TRAIN_SEED, TUNING_SEED, VALIDATION_SEED = 1, 2, 3
N_TRAIN, N_VALIDATION = 6000, 1000
JPEG = {"quality": 97, "subsampling": 0}  # 4:4:4: halved colour would blur the coloured gratings
GRATING_AMPLITUDE = (0.010, 0.030)  # range in the validation images, on the [0, 1] scale
GRATING_PERIOD = (7.0, 12.0)  # px at SIZE; random, so that resizing an image says nothing


# --- Class cues: shapes, textures, gratings -------------------------------------------------


def _box(x: Array, y: Array, half_x: float, half_y: float) -> Array:
    return np.maximum(np.abs(x) - half_x, np.abs(y) - half_y)


def _disc(x: Array, y: Array, at: float = 0.0, radius: float = 0.9) -> Array:
    return np.hypot(x - at, y) - np.float32(radius)


def _star(x: Array, y: Array, points: int, inner: float) -> Array:
    """A star's outline, its radius a triangle wave of the angle between `inner` and 1.05."""
    wave = np.abs((np.arctan2(y, x) * points / (2 * np.pi)) % 1 * 2 - 1)
    return np.hypot(x, y) - (inner + (1.05 - inner) * wave)


def _triangle(x: Array, y: Array) -> Array:
    slope = np.float32(np.sqrt(0.75))
    return np.maximum(-y - 0.5, slope * np.abs(x) + 0.5 * y - 0.5)


def _clover(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - (0.62 + 0.4 * np.cos(3 * np.arctan2(y, x)))


# Signed distance, up to scale, from each class's shape in object coordinates, where the object's
# radius is 1; negative inside.
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": _disc,
    "square": lambda x, y: _box(x, y, 0.78, 0.78),
    "triangle": _triangle,
    "star": lambda x, y: _star(x, y, 5, 0.42),
    "plus": lambda x, y: np.minimum(_box(x, y, 1.0, 0.3), _box(x, y, 0.3, 1.0)),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.72) - 0.22,
    "crescent": lambda x, y: np.maximum(_disc(x, y, 0.0, 0.95), -_disc(x, y, 0.5, 0.75)),
    "bar": lambda x, y: _box(x, y, 1.0, 0.36),
    "dumbbell": lambda x, y: np.minimum(
        np.minimum(_disc(x, y, -0.62, 0.42), _disc(x, y, 0.62, 0.42)), _box(x, y, 0.6, 0.14)
    ),
    "clover": _clover,
}

# Value in [-1, 1] of each class's texture in object coordinates; f is its frequency in radians
# per object radius.
TEXTURES: tuple[Texture, ...] = (
    lambda x, y, f: np.sin(f * x),  # stripes
    lambda x, y, f: np.sign(np.sin(0.6 * f * x) * np.sin(0.6 * f * y)),  # checks
    lambda x, y, f: np.where(np.sin(f * x) * np.sin(f * y) > 0.45, 1.0, -0.4),  # dots
    lambda x, y, f: np.sin(1.2 * f * np.hypot(x, y)),  # rings
    lambda x, y, f: np.sin(8 * np.arctan2(y, x)),  # spokes
    lambda x, y, f: np.sin(f * x + 2.5 * np.sin(0.5 * f * y)),  # waves
    lambda x, y, f: np.maximum(np.cos(f * x), np.cos(f * y)) ** 5,  # lattice
    lambda x, y, f: np.sign(np.sin(f * x + 1.5 * np.abs((y * f / 4) % 2 - 1) * 2)),  # zigzag
    lambda x, y, f: np.tanh(3 * y),  # two halves
    lambda x, y, f: np.sin(0.35 * f * x + 7 * np.hypot(x, y) + np.arctan2(y, x)),  # spiral
)

# (synset, name) of each class, in the order of the indices. WordNet has no offset from n90000000
# on, so no folder can be taken for a class of ImageNet.
CLASSES = tuple((f"n9{number:07d}", name) for number, name in enumerate(SHAPES, start=1))


def grating(
    labels: NDArray[np.integer],
    rng: np.random.Generator,
    size: int = SIZE,
    amplitude: tuple[float, float] = GRATING_AMPLITUDE,
) -> Array:
    """Faint colour gratings that tell the class, one per label.

    Class k has the orientation (k mod 5) * 36 degrees, within 0.05 rad, and the colour axis grey
    (k < 5) or red against blue. Phase, period and amplitude are random.

    Args:
        labels: classes, (B,), each in 0..9.
        rng: source of the random numbers; it is advanced.
        size: side of the image in px; the period scales with it.
        amplitude: range of the amplitude, on the [0, 1] scale.

    Returns:
        The gratings, to be added to images, (B, 3, size, size), centred on zero.
    """
    n = len(labels)
    angle = (labels % 5) * (np.pi / 5) + rng.uniform(-0.05, 0.05, n)
    period = rng.uniform(*GRATING_PERIOD, n) * size / SIZE
    phase, height = rng.uniform(0, 2 * np.pi, n), rng.uniform(*amplitude, n)
    pixels = np.arange(size, dtype=np.float32)
    kx, ky = (2 * np.pi / period * f(angle) for f in (np.cos, np.sin))
    across = (kx[:, None] * pixels + phase[:, None]).astype(np.float32)[:, None, :]
    down = (ky[:, None] * pixels).astype(np.float32)[:, :, None]
    axes = np.array([[1, 1, 1], [1.22, 0, -1.22]])[labels // 5] * height[:, None]
    wave: Array = axes.astype(np.float32)[:, :, None, None] * np.cos(across + down)[:, None]
    return wave


# --- The scene ------------------------------------------------------------------------------


class _Pose(NamedTuple):
    """Object coordinates of every pixel."""

    x: Array  # (SIZE, SIZE)
    y: Array
    radius: float  # of the object, px


def _random_axis(rng: np.random.Generator) -> Array:
    """A random colour direction, (3,), of unit length."""
    axis = rng.standard_normal(3).astype(np.float32)
    unit: Array = axis / np.linalg.norm(axis)
    return unit


def _noise_field(rng: np.random.Generator, channels: int, slope: float) -> Array:
    """Gaussian 1/f**slope noise, (SIZE, SIZE, channels), of zero mean and unit deviation."""
    white = np.fft.rfft2(rng.standard_normal((SIZE, SIZE, channels)), axes=(0, 1))
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None, :])
    frequency[0, 0] = np.inf  # no mean
    shaped = white * (frequency**-slope)[:, :, None]
    field = np.fft.irfft2(shaped, s=(SIZE, SIZE), axes=(0, 1)).astype(np.float32)
    unit: Array = field / field.std(axis=(0, 1))
    return unit


def _cover(distance: Array) -> Array:
    """Coverage of each pixel by a shape, (SIZE, SIZE, 1), from its distance in px."""
    return np.clip(0.5 - distance, 0, 1).astype(np.float32)[:, :, None]


def _pixels() -> tuple[Array, Array]:
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    return x, y


def _pose(rng: np.random.Generator) -> _Pose:
    """A random place, size, rotation and stretch, with an outline warped by 1/f noise."""
    x, y = _pixels()
    radius = float(rng.uniform(0.30, 0.42)) * SIZE
    centre_x, centre_y = SIZE / 2 + rng.uniform(-0.07, 0.07, 2) * SIZE
    angle, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.82, 1.22)
    warp = _noise_field(rng, 2, 1.9) * rng.uniform(0.015, 0.05)
    u, v = (x - centre_x) / radius, (y - centre_y) / radius
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    across = (cos * u + sin * v) * np.float32(stretch) + warp[:, :, 0]
    along = (cos * v - sin * u) / np.float32(stretch) + warp[:, :, 1]
    return _Pose(across.astype(np.float32), along.astype(np.float32), radius)


def _background(rng: np.random.Generator) -> Array:
    """A random colour with 1/f noise, and at most one line and one blob, (SIZE, SIZE, 3)."""
    scene = rng.uniform(0.25, 0.75, 3).astype(np.float32)
    noise = _noise_field(rng, 4, 1.2)
    scene = scene + noise[:, :, :1] * rng.uniform(0.02, 0.07) + noise[:, :, 1:] * 0.02
    x, y = _pixels()
    if rng.random() < 0.5:  # line
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5) * SIZE
        across = (x - SIZE / 2) * np.cos(angle) + (y - SIZE / 2) * np.sin(angle) - offset
        scene = _paint(scene, _cover(np.abs(across) - rng.uniform(0.7, 2.0)), rng)
    if rng.random() < 0.5:  # blob
        centre_x, centre_y = rng.uniform(0, SIZE, 2)
        distance = np.hypot(x - centre_x, y - centre_y) - rng.uniform(4, 10)
        scene = _paint(scene, _cover(distance), rng)
    return scene


def _paint(scene: Array, cover: Array, rng: np.random.Generator) -> Array:
    """Shift the covered pixels' colour by a little, in a random direction."""
    shift = _random_axis(rng) * np.float32(rng.uniform(0.10, 0.25))
    painted: Array = scene + cover * shift
    return painted


def _object(scene: Array, label: int, rng: np.random.Generator) -> Array:
    """Put the class's shape into the scene: on half of the images with the class's texture."""
    pose = _pose(rng)
    shape = SHAPES[CLASSES[label][1]]
    cover = _cover(shape(pose.x, pose.y) * pose.radius)
    colour = scene.mean(axis=(0, 1)) + _random_axis(rng) * rng.uniform(0.12, 0.40)
    grain = _noise_field(rng, 1, 1.0) * rng.uniform(0.01, 0.04)
    contrast, frequency = rng.uniform(0.10, 0.28), rng.uniform(7.0, 11.0)
    textured = rng.random() < 0.5
    texture = TEXTURES[label](pose.x, pose.y, frequency)[:, :, None] * contrast * textured
    paint = colour + grain + texture * (0.6 + 0.4 * _random_axis(rng))
    placed: Array = scene * (1 - cover) + cover * paint.astype(np.float32)
    return placed


def _occlude(scene: Array, rng: np.random.Generator) -> Array:
    """Lay a bar of random colour over the rim of the object, on a quarter of the images."""
    if rng.random() >= 0.25:
        return scene
    x, y = _pixels()
    angle, width = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.07) * SIZE
    across = (x - SIZE / 2) * np.cos(angle) + (y - SIZE / 2) * np.sin(angle)
    cover = _cover(np.abs(across - rng.uniform(0.12, 0.30) * SIZE) - width)
    colour = rng.uniform(0.15, 0.85, 3).astype(np.float32)
    hidden: Array = scene * (1 - cover) + cover * colour
    return hidden


def _light(scene: Array, rng: np.random.Generator) -> Array:
    """A lighting gradient, a gamma, and camera noise."""
    x, y = _pixels()
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.25)
    ramp = ((x / SIZE - 0.5) * np.cos(angle) + (y / SIZE - 0.5) * np.sin(angle))[:, :, None]
    lit = np.clip(scene * (1 + strength * ramp), 0.02, 0.98) ** rng.uniform(0.8, 1.25)
    noise = rng.standard_normal(scene.shape).astype(np.float32) * rng.uniform(0.0, 0.02)
    return np.clip(lit + noise, 0, 1).astype(np.float32)


def _scene(seed: int, index: int) -> tuple[Array, np.random.Generator]:
    """Return the image without its grating, and the generator for its grating."""
    rng = np.random.default_rng([seed, index])
    scene = _object(_background(rng), label_of(index), rng)
    return _light(_occlude(scene, rng), rng), rng


def label_of(index: int) -> int:
    """Class of image `index`: the classes take turns, so any run of ten is balanced."""
    return index % len(CLASSES)


def _to_bytes(scene: Array) -> NDArray[np.uint8]:
    return np.rint(np.clip(scene, 0, 1) * 255).astype(np.uint8)


def base_image(seed: int, index: int) -> NDArray[np.uint8]:
    """Image `index` of the set `seed` without its grating: (SIZE, SIZE, 3), RGB.

    A pure function of its arguments: no image depends on any other.
    """
    return _to_bytes(_scene(seed, index)[0])


def image(seed: int, index: int) -> NDArray[np.uint8]:
    """Image `index` of the set `seed`, of class `label_of(index)`: (SIZE, SIZE, 3), RGB.

    A pure function of its arguments: no image depends on any other.
    """
    scene, rng = _scene(seed, index)
    faint = grating(np.array([label_of(index)]), rng)[0].transpose(1, 2, 0)
    return _to_bytes(scene + faint)


# --- The files ------------------------------------------------------------------------------


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Encode an image (H, W, 3) as JPEG, as the demo ships it."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **JPEG)
    return buffer.getvalue()


def decode(content: bytes) -> NDArray[np.uint8]:
    """Decode an image file into pixels, (H, W, 3), RGB."""
    return np.asarray(Image.open(BytesIO(content)).convert("RGB"))


def validation_names(seed: int = VALIDATION_SEED, count: int = N_VALIDATION) -> list[str]:
    """File names of images 0..count-1, relative to the `val` folder: "<synset>/<file>".

    As in ILSVRC2012, the numbers in the names run through all classes in no order, so sorting by
    name mixes the classes.
    """
    numbers = np.random.default_rng([seed, count]).permutation(count) + 1
    return [
        f"{CLASSES[label_of(index)][0]}/ILSVRC2012_val_{number:08d}.JPEG"
        for index, number in enumerate(numbers)
    ]


def write_validation(
    root: str | Path, seed: int = VALIDATION_SEED, count: int = N_VALIDATION
) -> Path:
    """Write the validation images and their list: `root`/val/<synset>/*.JPEG and `root`/val.csv.

    A `val` folder that is there already is replaced. The list has the columns filename (relative
    to `val`), label and sha256, in the order of the file numbers.

    Returns:
        The path of the list.
    """
    root = Path(root)
    shutil.rmtree(root / "val", ignore_errors=True)
    rows = []
    for index, name in enumerate(validation_names(seed, count)):
        content, path = encode(image(seed, index)), root / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        rows.append((name, label_of(index), hashlib.sha256(content).hexdigest()))
    rows.sort(key=lambda row: row[0].rpartition("/")[2])
    with (root / "val.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("filename", "label", "sha256"), *rows])
    return root / "val.csv"
