"""Decoding of image files into uint8 images of a geometry, by threads that are a little ahead."""

from __future__ import annotations

import hashlib
import io
import math
import os
import stat
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from agr.config.schema import Geometry
from agr.data import tar
from agr.data.columnar import stored_bytes
from agr.data.entries import Entry
from agr.utils.errors import first_line
from agr.utils.text import printable

Pixels = NDArray[np.uint8]  # (3, H, W)
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Pillow knows more, some of which start other programs (EPS: Ghostscript) whatever the ending says.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
DEEP = ("I", "F")  # modes of 32 bits: conversion to RGB would clip them without a word
# A hostile file of some kilobytes can be gigabytes of pixels. Pillow warns from here on; a
# photograph is not that large.
MOST_PIXELS = 89_478_485
LARGEST = 1 << 28  # bytes of a file
AHEAD = 64  # decoded images waiting at most: memory doesn't grow with the number of images
MOST_RESIZED = 1 << 25  # pixels, 128 MB: at 341 px a side ratio of 288

# Pillow's warnings of a file become a BadImage or don't matter (broken EXIF). Filters are the
# process's, and setting them around each file is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BadImage(Exception):
    """A file that is missing or cannot be decoded; its text says why, in one line."""


class ChangedImage(BadImage):
    """A file that isn't as it was indexed: the index should be made again."""


def load_image(entry: Entry, geometry: Geometry) -> Pixels:
    """Load an image as timm's evaluation transform would: `geometry`'s pixels, (3, H, W).

    The shorter side (mode "squash": each side) goes to floor(size / crop), then the centre is cut
    out. As in timm, the orientation that EXIF gives is not applied. Raises BadImage.
    """
    inside = entry.offset is not None or entry.row is not None
    name = f"{entry.image_id} in {entry.path.name}" if inside else entry.path.name
    try:
        return _decode(_content(entry), geometry)
    except MemoryError:
        raise
    except Exception as e:  # decoders raise whatever they like
        kind = ChangedImage if isinstance(e, ChangedImage) else BadImage
        reason = _reason(e).replace(f"{entry.path.parent}/", "")
        raise kind(printable(f"{name}: {reason}")) from e


def stream(
    entries: Iterable[Entry], load: Callable[[Entry], Pixels], workers: int
) -> Iterator[tuple[Entry, Pixels | BadImage]]:
    """Yield each entry with its image, or with the error of its file, in the order given."""
    entries = iter(entries)

    def attempt(entry: Entry) -> Pixels | BadImage:
        try:
            return load(entry)
        except BadImage as e:
            return e

    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[Entry, Future[Pixels | BadImage]]] = deque()
        try:
            for entry in islice(entries, AHEAD):
                ahead.append((entry, pool.submit(attempt, entry)))
            while ahead:
                entry, future = ahead.popleft()
                yield entry, future.result()
                for following in islice(entries, 1):
                    ahead.append((following, pool.submit(attempt, following)))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


# ---- reading ------------------------------------------------------------------------------------


def _content(entry: Entry) -> bytes:
    """Read an image's file. Raises ChangedImage or ValueError if it is not as it was indexed."""
    if entry.row is not None:
        if entry.size is not None and entry.path.stat().st_size != entry.size:
            raise ChangedImage(f"its file changed since it was indexed ({entry.size:,} bytes then)")
        return stored_bytes(entry.path, entry.row)
    if entry.size is not None and entry.size > LARGEST:
        raise ValueError(f"{entry.size:,} bytes are too many")
    with _opened(entry.path) as file:
        if entry.offset is not None:
            file.seek(entry.offset - tar.BLOCK)
            same = tar.size_at(file.read(tar.BLOCK)) == entry.size
            content = file.read(entry.size or 0) if same else b""
        else:
            content = file.read((LARGEST if entry.size is None else entry.size) + 1)
    if entry.size is not None and len(content) != entry.size:
        raise ChangedImage(f"it changed since it was indexed ({entry.size:,} bytes then)")
    if not content:
        raise ValueError("it is empty")
    if len(content) > LARGEST:
        raise ValueError(f"more than {LARGEST:,} bytes are too many")
    if entry.sha256 and hashlib.sha256(content).hexdigest() != entry.sha256:
        raise ValueError("its hash is not the manifest's")
    return content


def _opened(path: Path) -> BinaryIO:
    """Open a regular file: reading a pipe or a device may never come to an end."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ValueError("it is not a regular file")
    return os.fdopen(file, "rb")


def _reason(e: Exception) -> str:
    if isinstance(e, FileNotFoundError):
        return "it is missing"
    if isinstance(e, UnidentifiedImageError):  # its own text has an address in memory
        return f"it is not an image ({', '.join(FORMATS)}) that can be read"
    if isinstance(e, OSError) and e.strerror:
        return e.strerror
    return first_line(e)


# ---- decoding -----------------------------------------------------------------------------------


def _decode(content: bytes, geometry: Geometry) -> Pixels:
    """Decode a file's content into pixels, (3, H, W). Raises ValueError and decoders' errors."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        if math.prod(opened.size) > MOST_PIXELS:
            raise ValueError(f"{opened.width} x {opened.height} pixels are too many")
        if opened.mode in DEEP:
            raise ValueError(f"it has 32 bits per pixel and channel (mode {opened.mode})")
        opened.load()
        opened.info.pop("transparency", None)  # no part in RGB; left there, Pillow warns of it
        image = opened.convert("RGB")
    size = _resized(image.size, geometry)
    # the width is resized first, so what lies between has the old height
    if size[0] * max(size[1], image.height) > MOST_RESIZED:
        raise ValueError(f"{image.width} x {image.height} pixels are too narrow to be resized")
    if size != image.size:
        image = image.resize(size, RESAMPLING[geometry.interpolation])
    side = geometry.size
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    image = image.crop((left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _resized(size: tuple[int, int], geometry: Geometry) -> tuple[int, int]:
    """Size (width, height) before the crop, as torchvision rounds it."""
    (width, height), shorter = size, math.floor(geometry.size / geometry.crop)
    if geometry.mode == "squash":
        return shorter, shorter
    longer = int(shorter * max(width, height) / min(width, height))
    return (shorter, longer) if width <= height else (longer, shorter)
