"""Decoded images on disk, so that a second pass over a large data set decodes nothing.

One sparse file for one (data, geometry, decoder), with a row for each image of the manifest: its
pixels and a checksum. A row counts only if its checksum is right, so a crash, a full disk or two
processes at once can cost time but never yield wrong pixels. What the disk refuses is not kept, and
the run goes on.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import weakref
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import PIL
from PIL import features

from agr.config.schema import Geometry
from agr.data.decode import Pixels, load_image
from agr.data.entries import Entry, Manifest
from agr.data.snapshot import look_at
from agr.utils.errors import ConfigError, first_line
from agr.utils.hashing import digest
from agr.utils.text import format_bytes

VERSION = 1
CHECK = 8  # bytes of the checksum
WRITTEN = 1 << 32  # added to checksums: zeros, as a hole of the file has them, are none


class PixelCache:
    """Cache of a manifest's images in one geometry, for several threads and processes.

    Args:
        folder: where the file is or will be made.
        manifest: its fingerprint is part of the file's name. Where it has no hashes of files, an
            image that changes and keeps its size is not noticed.
        geometry: of the images.

    Raises ConfigError if the disk has no room for all rows.
    """

    def __init__(self, folder: Path, manifest: Manifest, geometry: Geometry):
        # other versions of the decoder may make other pixels
        decoder = [PIL.__version__, features.version("jpg"), features.version("libjpeg_turbo")]
        key = digest([VERSION, manifest.fingerprint, asdict(geometry), decoder])
        self.path = folder / f"pixels-{geometry.size}px-{key}.bin"
        self.geometry = geometry
        self._rows = {e.image_id: row for row, e in enumerate(manifest.entries)}
        self._shape = (3, geometry.size, geometry.size)
        self._row_size = 3 * geometry.size**2 + CHECK
        self._check_room()
        self._writable, self._lock = True, threading.Lock()
        self._file = self._open()

    @property
    def full_size(self) -> int:
        """Size in bytes once every image is in."""
        return self._row_size * len(self._rows)

    @property
    def used(self) -> int:
        """Bytes that the file takes on disk."""
        found = look_at(self.path)
        return found.st_blocks * 512 if found else 0

    def describe(self) -> str:
        """Return a line that announces the size of the cache."""
        return (
            f"decoded images are kept: up to {format_bytes(self.full_size)} for "
            f"{len(self._rows):,} images of {self.geometry.size} px in {self.path.parent}"
        )

    def load(self, entry: Entry) -> Pixels:
        """Return the pixels of an image, decoded if they are not there. Raises BadImage."""
        pixels = self.get(entry)
        if pixels is None:
            pixels = load_image(entry, self.geometry)
            self.put(entry, pixels)
        return pixels

    def get(self, entry: Entry) -> Pixels | None:
        """Return the pixels of an image, (3, H, W), or None if they are not there or damaged."""
        row = self._rows.get(entry.image_id)
        if row is None or self._file is None:
            return None
        try:
            content = os.pread(self._file, self._row_size, row * self._row_size)
        except OSError:
            return None
        pixels, check = content[:-CHECK], content[-CHECK:]
        if len(content) != self._row_size or check != _checksum(entry, pixels):
            return None
        return np.frombuffer(pixels, np.uint8).reshape(self._shape).copy()

    def put(self, entry: Entry, pixels: Pixels) -> None:
        """Keep the pixels of an image; does nothing once the disk has refused."""
        row = self._rows.get(entry.image_id)
        if row is None or self._file is None or not self._writable:
            return
        content = pixels.tobytes()
        content += _checksum(entry, content)
        try:
            at = row * self._row_size
            while content:
                written = os.pwrite(self._file, content, at)
                content, at = content[written:], at + written
        except OSError as e:
            self._give_up(e)

    def _check_room(self) -> None:
        above = next(p for p in (self.path.parent, *self.path.absolute().parents) if p.is_dir())
        free = shutil.disk_usage(above).free
        if self.full_size > free + self.used:
            raise ConfigError(
                f"data.cache=true needs {format_bytes(self.full_size)} in {self.path.parent}, "
                f"{format_bytes(free + self.used)} are free: make room, or set data.cache=false"
            )

    def _open(self) -> int | None:
        """Open the file; None if there is none and none can be made."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as e:
            self._give_up(e)
            try:
                file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return None
        weakref.finalize(self, os.close, file)
        return file

    def _give_up(self, e: OSError) -> None:
        """Keep nothing more, and say so the first time."""
        with self._lock:
            first, self._writable = self._writable, False
        if first:
            print(
                f"note: {self.path.parent}: {e.strerror or first_line(e)}; decoded images are no "
                "longer kept, the run goes on",
                file=sys.stderr,
            )


def _checksum(entry: Entry, pixels: bytes) -> bytes:
    """Checksum of an image's pixels and id, in CHECK bytes."""
    value = zlib.crc32(pixels, zlib.crc32(entry.image_id.encode()))
    return (value + WRITTEN).to_bytes(CHECK, "little")
