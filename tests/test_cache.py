"""The cache of decoded images: it saves decoding, and never yields other pixels."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from agr.config.schema import Data, Geometry, Suite
from agr.data import cache as cache_module
from agr.data.cache import PixelCache
from agr.data.decode import BadImage, Pixels, load_image, stream
from agr.data.entries import Entry, Manifest
from agr.data.manifest import read_manifest
from agr.utils.errors import ConfigError
from tests import standins

GEOMETRY = Geometry(20, 0.875, "bicubic")
ITEMS = standins.photos(9, sizes=[(40, 30), (30, 40)])


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    standins.flat(tmp_path / "val", ITEMS)
    standins.val_txt(tmp_path / "val.txt", ITEMS)
    return read_manifest(Data(root=str(tmp_path)), Suite(name="s", groups={}, networks={}), 1000)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the images that are decoded from now on."""
    names: list[str] = []

    def load(entry: Entry, geometry: Geometry) -> Pixels:
        names.append(entry.image_id)
        return load_image(entry, geometry)

    monkeypatch.setattr(cache_module, "load_image", load)
    return names


def run(manifest: Manifest, cache: PixelCache | None, workers: int = 3) -> dict[str, Pixels]:
    found = {}
    load = cache.load if cache else partial(load_image, geometry=GEOMETRY)
    for entry, pixels in stream(manifest.entries, load, workers):
        assert isinstance(pixels, np.ndarray)
        found[entry.image_id] = pixels
    return found


def same(a: dict[str, Pixels], b: dict[str, Pixels]) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[i], b[i]) for i in a)


def test_the_second_pass_decodes_nothing(
    manifest: Manifest, tmp_path: Path, decoded: list[str]
) -> None:
    plain = run(manifest, None)
    decoded.clear()
    cache = PixelCache(tmp_path / "cache", manifest, GEOMETRY)
    assert same(run(manifest, cache), plain)
    assert sorted(decoded) == [e.image_id for e in manifest.entries]
    decoded.clear()
    again = run(manifest, cache)
    assert decoded == []
    assert same(again, plain)
    assert all(p.dtype == np.uint8 and p.flags.writeable for p in again.values())
    assert same(run(manifest, PixelCache(tmp_path / "cache", manifest, GEOMETRY)), plain)
    assert decoded == []
    (path,) = (tmp_path / "cache").iterdir()
    assert path.stat().st_size == cache.full_size == 9 * (3 * 20 * 20 + 8)


def test_the_first_image_alone_takes_one_row(manifest: Manifest, tmp_path: Path) -> None:
    geometry = Geometry(200)
    cache = PixelCache(tmp_path / "cache", manifest, geometry)
    last = manifest.entries[-1]
    cache.put(last, load_image(last, geometry))
    assert cache.get(manifest.entries[0]) is None
    assert cache.get(last) is not None
    assert cache.used < 3 * cache.full_size / len(manifest.entries)  # the rest is a hole


@pytest.mark.parametrize("where", ["first byte", "last pixel", "check", "zeros", "ones", "other"])
def test_a_corrupted_row_is_decoded_again(
    where: str, manifest: Manifest, tmp_path: Path, decoded: list[str]
) -> None:
    cache = PixelCache(tmp_path / "cache", manifest, GEOMETRY)
    plain = run(manifest, cache)
    content, size = bytearray(cache.path.read_bytes()), 3 * 20 * 20 + 8
    row = slice(4 * size, 5 * size)
    if where == "zeros":  # as after a crash that lost the page
        content[row] = bytes(size)
    elif where == "ones":
        content[row] = b"\xff" * size
    elif where == "other":  # whole, but another image's
        content[row] = content[:size]
    else:
        at = {"first byte": 0, "last pixel": size - 9, "check": size - 8}[where]
        content[row.start + at] ^= 1
    cache.path.write_bytes(content)
    for expected in ([manifest.entries[4].image_id], []):  # what is decoded again is mended
        decoded.clear()
        assert same(run(manifest, cache), plain)
        assert decoded == expected


@pytest.mark.parametrize(("cut", "whole"), [(0, 0), (1, 0), (3000, 2), (9 * 1208 - 1, 8)])
def test_a_file_that_ends_early_is_filled_again(
    cut: int, whole: int, manifest: Manifest, tmp_path: Path, decoded: list[str]
) -> None:
    cache = PixelCache(tmp_path / "cache", manifest, GEOMETRY)
    plain = run(manifest, cache)
    os.truncate(cache.path, cut)
    decoded.clear()
    assert same(run(manifest, cache), plain)
    assert sorted(decoded) == [e.image_id for e in manifest.entries][whole:]


def test_a_row_that_was_written_by_half_does_not_count(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes that the system makes in pieces, and a crash between two of them."""
    write = os.pwrite
    pieces: list[int] = []

    def piecewise(fd: int, content: bytes, at: int) -> int:
        pieces.append(at)
        if len(pieces) == 4:
            raise OSError(errno.EIO, "Input/output error")
        return write(fd, content[:500], at)

    cache = PixelCache(tmp_path / "cache", manifest, GEOMETRY)
    monkeypatch.setattr(os, "pwrite", piecewise)
    pixels = [load_image(e, GEOMETRY) for e in manifest.entries[:2]]
    for entry, image in zip(manifest.entries, pixels, strict=False):
        cache.put(entry, image)
    assert pieces == [0, 500, 1000, 1208]
    found = cache.get(manifest.entries[0])
    assert found is not None
    assert np.array_equal(found, pixels[0])
    assert cache.get(manifest.entries[1]) is None


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_disk_is_noted_once_and_the_run_goes_on(
    error: int,
    manifest: Manifest,
    tmp_path: Path,
    decoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain, write = run(manifest, None), os.pwrite
    rows: list[int] = []

    def full(fd: int, content: bytes, at: int) -> int:
        if len(rows) == 3:
            raise OSError(error, os.strerror(error))
        rows.append(at)
        return write(fd, content, at)

    cache = PixelCache(tmp_path / "cache", manifest, GEOMETRY)
    monkeypatch.setattr(os, "pwrite", full)
    decoded.clear()
    for _ in range(2):
        assert same(run(manifest, cache), plain)
    assert len(decoded) == 9 + 6  # three rows are there, and used
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert os.strerror(error) in lines[0]
    assert "no longer kept, the run goes on" in lines[0]


def test_threads_that_fail_at_once_note_it_once(
    manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    all_there = threading.Barrier(3)

    def full(fd: int, content: bytes, at: int) -> int:
        all_there.wait(timeout=20)
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = PixelCache(tmp_path / "cache", manifest, GEOMETRY)
    monkeypatch.setattr(os, "pwrite", full)
    images = [(e, load_image(e, GEOMETRY)) for e in manifest.entries[:3]]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda image: cache.put(*image), images))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_disk_that_cannot_be_read_is_as_an_empty_cache(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PixelCache(tmp_path / "cache", manifest, GEOMETRY)
    plain = run(manifest, cache)

    def broken(fd: int, size: int, at: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    assert same(run(manifest, cache), plain)


def test_a_folder_that_cannot_be_made_is_noted(
    manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    cache = PixelCache(tmp_path / "file" / "cache", manifest, GEOMETRY)
    assert same(run(manifest, cache), run(manifest, None))
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert cache.used == 0


def test_a_read_only_cache_is_read(
    manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As root opens files of any mode, a read-only disk is simulated."""
    plain = run(manifest, PixelCache(tmp_path / "cache", manifest, GEOMETRY))
    opened = os.open

    def read_only(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    cache = PixelCache(tmp_path / "cache", manifest, GEOMETRY)
    monkeypatch.undo()
    monkeypatch.setattr(cache_module, "load_image", None)
    assert same(run(manifest, cache), plain)
    (line,) = capsys.readouterr().err.splitlines()
    assert "Read-only file system" in line


def test_no_room_is_said_before_the_run(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry, used = Geometry(299), cache_module.shutil.disk_usage(tmp_path)
    row = 3 * 299 * 299 + 8
    need = len(manifest.entries) * row
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda p: used._replace(free=need - 1))
    with pytest.raises(
        ConfigError,
        match=r"data\.cache=true needs 2\.4 MB in .*, 2\.4 MB are free: .* data\.cache=false",
    ):
        PixelCache(tmp_path / "new" / "cache", manifest, geometry)
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda p: used._replace(free=need))
    cache = PixelCache(tmp_path / "new" / "cache", manifest, geometry)
    cache.put(manifest.entries[0], load_image(manifest.entries[0], geometry))
    # what is there already needs no more room
    free = need - row
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda p: used._replace(free=free))
    PixelCache(tmp_path / "new" / "cache", manifest, geometry)


def test_the_size_is_announced(manifest: Manifest, tmp_path: Path) -> None:
    entries = tuple(manifest.entries[0]._replace(image_id=f"{i}") for i in range(50_000))
    cache = PixelCache(tmp_path / "c", Manifest("", tmp_path, entries), Geometry(299))
    assert cache.describe() == (
        f"decoded images are kept: up to 13.4 GB for 50,000 images of 299 px in {tmp_path / 'c'}"
    )
    assert cache.used == 0


def test_caches_of_other_images_and_geometries_are_other_files(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = manifest.entries
    other = Manifest("", tmp_path, (entries[0]._replace(size=1), *entries[1:]))
    same_data = Manifest("elsewhere", tmp_path / "x", entries)
    fields = [Geometry(20), Geometry(20, 0.875), Geometry(20, 0.875, "bicubic", "squash")]

    def name(m: Manifest, g: Geometry) -> str:
        return PixelCache(tmp_path / "cache", m, g).path.name

    first = name(manifest, GEOMETRY)
    assert first == name(same_data, Geometry(20, 0.875, "bicubic"))
    names = {first, name(other, GEOMETRY), *(name(manifest, g) for g in fields)}
    monkeypatch.setattr("PIL.__version__", "1.0")
    names.add(name(manifest, GEOMETRY))
    assert len(names) == 6


def test_bad_images_and_strangers_are_not_kept(manifest: Manifest, tmp_path: Path) -> None:
    cache = PixelCache(tmp_path / "cache", manifest, GEOMETRY)
    entry = manifest.entries[0]
    entry.path.write_bytes(entry.path.read_bytes()[:-100])
    for _ in range(2):
        with pytest.raises(BadImage):
            cache.load(entry)
    stranger = manifest.entries[1]._replace(image_id="stranger")
    assert cache.load(stranger).shape == (3, 20, 20)
    assert cache.get(stranger) is None


def test_two_processes_fill_one_cache(manifest: Manifest, tmp_path: Path) -> None:
    """Both at once, several times over, while a third damages rows; nobody sees wrong pixels."""
    code = """
        import os, sys, zlib
        from pathlib import Path
        from agr.config.schema import Data, Geometry, Suite
        from agr.data.cache import PixelCache
        from agr.data.manifest import read_manifest
        from agr.data.decode import stream
        top = Path(sys.argv[1])
        manifest = read_manifest(Data(root=str(top)), Suite(name="s", groups={}, networks={}), 1000)
        geometry = Geometry(20, 0.875, "bicubic")
        cache = PixelCache(top / "cache", manifest, geometry)
        seen = set()
        for turn in range(60):
            for entry, pixels in stream(manifest.entries, cache.load, 2):
                seen.add((entry.image_id, zlib.crc32(pixels.tobytes())))
            with cache.path.open("r+b") as file:
                file.seek(os.getpid() * turn * 7919 % cache.full_size)
                file.write(bytes(300))
        for image_id, check in sorted(seen):
            print(image_id, check)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    plain = run(manifest, None)
    expected = [f"{name} {zlib.crc32(p.tobytes())}" for name, p in plain.items()]
    for output in outputs:
        assert output.splitlines() == expected


def test_descriptors_are_closed_with_the_cache(manifest: Manifest, tmp_path: Path) -> None:
    cache = PixelCache(tmp_path / "cache", manifest, GEOMETRY)
    descriptor = cache._file
    assert descriptor is not None
    os.fstat(descriptor)
    del cache
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
