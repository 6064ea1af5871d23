"""Manifests, decoding, streaming and the choice of images."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import textwrap
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agr.config.schema import Data, Geometry, Suite
from agr.data import csv_lists
from agr.data.decode import BadImage, Pixels, load_image, stream
from agr.data.entries import Entry, Manifest
from agr.data.manifest import read_manifest
from agr.utils.errors import ConfigError
from agr.utils.hashing import draw
from tests import standins

Make = Callable[[Path], object]
LOAD = partial(load_image, geometry=Geometry(8))


def photo(size: tuple[int, int] = (37, 29), mode: str = "RGB", seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def tree(root: Path, n: int = 6) -> Path:
    """An ILSVRC2012-like tree: three synsets, whose folders are not made in their sorted order."""
    for i in range(n):
        folder = root / f"n0000000{(2 * i) % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        photo(seed=i).save(folder / f"ILSVRC2012_val_{i:08d}.JPEG", "JPEG")
    (root / "README.txt").write_text("not an image")
    return root


def suite(synsets: str | None = None) -> Suite:
    return Suite(name="s", synsets=synsets, groups={}, networks={})


def read(root: Path, labels: Path | None = None, classes: int = 3) -> Manifest:
    data = Data(root=str(root), labels=str(labels) if labels else None)
    return read_manifest(data, suite(), classes)


def timms(path: Path, geometry: Geometry) -> Pixels:
    """What timm feeds a network for this file, before it is normalised."""
    from timm.data import create_transform

    transform = create_transform(
        (3, geometry.size, geometry.size),
        interpolation=geometry.interpolation,
        crop_pct=geometry.crop,
        crop_mode=geometry.mode,
        normalize=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow on transparency and EXIF
        with Image.open(path) as image:
            return np.asarray(transform(image.convert("RGB")))


# ---- pixels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", [1.0, 0.875, 0.9])
@pytest.mark.parametrize("shape", [(37, 29), (29, 37), (50, 33), (16, 16), (18, 18), (20, 90)])
def test_pixels_equal_timms_transform(
    mode: str, interpolation: str, crop: float, shape: tuple[int, int], tmp_path: Path
) -> None:
    path, geometry = tmp_path / "a.png", Geometry(16, crop, interpolation, mode)
    photo(shape).save(path)
    mine = load_image(Entry("a", path, 0), geometry)
    assert mine.dtype == np.uint8
    assert mine.flags.writeable
    assert np.array_equal(mine, timms(path, geometry))


@pytest.mark.parametrize(("size", "crop"), [(299, 0.875), (224, 0.875), (299, 1.0)])
@pytest.mark.parametrize("mode", ["center", "squash"])
def test_pixels_of_photographs_equal_timms(
    size: int, crop: float, mode: str, tmp_path: Path
) -> None:
    for item in standins.photos(6):
        path, geometry = tmp_path / item.name, Geometry(size, crop, "bicubic", mode)
        path.write_bytes(item.content)
        assert np.array_equal(load_image(Entry("a", path, 0), geometry), timms(path, geometry))


def test_squash_keeps_what_center_cuts_off(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = Image.new("RGB", (90, 30), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 15, 30))
    image.save(path)
    center = load_image(Entry("a", path, 0), Geometry(30, mode="center"))
    squash = load_image(Entry("a", path, 0), Geometry(30, mode="squash"))
    assert center[0].max() == 0
    assert squash[0, :, :4].min() == 255
    assert squash[0, :, 8:].max() == 0


def exif_rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    photo((40, 30)).save(path, "JPEG", exif=exif)


def palette(**options: Any) -> Make:
    return lambda path: photo(mode="P").save(path, "PNG", **options)


def sixteen_bits(path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (29, 37), dtype=np.uint16)
    Image.fromarray(levels).save(path, "PNG")


FILES: dict[str, tuple[str, Make]] = {
    "grey": ("L", lambda path: photo(mode="L").save(path, "JPEG")),
    "cmyk": ("CMYK", lambda path: photo(mode="CMYK").save(path, "JPEG")),
    "palette": ("P", palette()),
    "palette, one transparent": ("P", palette(transparency=3)),
    "palette, half transparent": ("P", palette(transparency=bytes(range(200)))),
    "grey, one transparent": ("L", lambda p: photo(mode="L").save(p, "PNG", transparency=7)),
    "rgb, one transparent": (
        "RGB",
        lambda path: photo().save(path, "PNG", transparency=(1, 2, 3)),
    ),
    "one bit": ("1", lambda path: photo(mode="1").save(path, "PNG")),
    "grey and alpha": ("LA", lambda path: photo(mode="LA").save(path, "PNG")),
    "alpha": ("RGBA", lambda path: photo(mode="RGBA").save(path, "PNG")),
    "sixteen bits": ("I;16", sixteen_bits),
    "exif": ("RGB", exif_rotated),
    "a png named JPEG": ("RGB", lambda path: photo().save(path, "PNG")),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_all_kinds_are_what_timm_sees(kind: str, tmp_path: Path) -> None:
    mode, make = FILES[kind]
    path, geometry = tmp_path / "a.JPEG", Geometry(16, 0.9, "bicubic")
    make(path)
    with Image.open(path) as image:
        assert image.mode == mode  # the file is of the kind that its test is about
    assert np.array_equal(load_image(Entry("a", path, 0), geometry), timms(path, geometry))


def test_exif_does_not_turn_images(tmp_path: Path) -> None:
    path = tmp_path / "a.JPEG"
    exif_rotated(path)
    with Image.open(path) as image:
        assert image.getexif()[0x0112] == 6
        stored = np.asarray(image).transpose(2, 0, 1)
    assert np.array_equal(load_image(Entry("a", path, 0), Geometry(30)), stored[:, :, 5:35])


# ---- bad files ----------------------------------------------------------------------------------


def png_of_nothing(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels and holds none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def whole_jpeg() -> bytes:
    return standins.jpeg(photo())


BAD: dict[str, tuple[bytes, str]] = {
    "truncated": (whole_jpeg()[:-200], "truncated"),
    "headless": (whole_jpeg()[:300], "Truncated"),
    "empty": (b"", "it is empty"),
    "text": (b"<html>404</html>", "it is not an image"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "it is not an image"),
    "bomb": (png_of_nothing(20_000, 20_000), "pixels"),
    "large": (png_of_nothing(10_000, 9_000), "pixels"),
    "hollow": (png_of_nothing(30, 20), ""),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named(kind: str, tmp_path: Path) -> None:
    content, reason = BAD[kind]
    path = tmp_path / f"{kind}.JPEG"
    path.write_bytes(content)
    with pytest.raises(BadImage) as caught:
        load_image(Entry(kind, path, 0), Geometry(8))
    text = str(caught.value)
    assert text.startswith(f"{kind}.JPEG: ")
    assert reason in text
    assert str(tmp_path) not in text
    assert "0x" not in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("shape", "mode", "fits"),
    [
        ((1, 20_000), "center", False),
        ((20_000, 1), "center", False),
        ((1, 20_000), "squash", True),
        ((1, 200_000), "squash", False),  # 1 GB between the two passes
        ((200_000, 1), "squash", True),
        ((20, 2000), "center", True),
    ],
)
def test_absurd_shapes_do_not_fill_the_memory(
    shape: tuple[int, int], mode: str, fits: bool, tmp_path: Path
) -> None:
    path, geometry = tmp_path / "a.png", Geometry(299, 0.875, "bilinear", mode)
    Image.new("RGB", shape, (1, 2, 3)).save(path)
    if fits:
        assert np.array_equal(load_image(Entry("a", path, 0), geometry), timms(path, geometry))
    else:
        with pytest.raises(BadImage, match="too narrow"):
            load_image(Entry("a", path, 0), geometry)


def entry_whose_decoder_raises(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Entry:
    photo().save(tmp_path / "a.png")

    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    return Entry("a", tmp_path / "a.png", 0)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_is_no_fault_of_the_file_is_not_blamed_on_it(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_whose_decoder_raises(error, tmp_path, monkeypatch)
    with pytest.raises(error):
        load_image(entry, Geometry(8))


@pytest.mark.parametrize("error", [RuntimeError, AttributeError, IndexError, RecursionError])
def test_whatever_a_decoder_raises_is_a_bad_image(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_whose_decoder_raises(error, tmp_path, monkeypatch)
    with pytest.raises(BadImage, match=f"a.png: {error.__name__}"):
        load_image(entry, Geometry(8))


def test_pillows_warnings_do_not_reach_the_user(tmp_path: Path) -> None:
    """In a process of its own, since pytest makes errors of warnings."""
    content = whole_jpeg()
    # an IFD of three entries that ends in its first
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHH", 8, 3, 0x0128, 3)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (tmp_path / "exif.JPEG").write_bytes(content[:2] + segment + content[2:])
    (tmp_path / "large.JPEG").write_bytes(png_of_nothing(10_000, 9_000))
    palette(transparency=bytes(range(200)))(tmp_path / "palette.JPEG")
    with pytest.raises(UserWarning, match="EXIF"), Image.open(tmp_path / "exif.JPEG") as image:
        image.getexif()
    code = """
        import sys
        from functools import partial
        from pathlib import Path
        from agr.config.schema import Geometry
        from agr.data.manifest import Entry
        from agr.data.decode import BadImage, load_image, stream
        paths = sorted(Path(sys.argv[1]).iterdir())
        load = partial(load_image, geometry=Geometry(8))
        found = stream([Entry(p.stem, p, 0) for p in paths], load, 2)
        for entry, what in found:
            print(what if isinstance(what, BadImage) else f"{entry.path.name}: {what.shape}")
    """
    run = subprocess.run(
        [sys.executable, "-W", "default", "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines() == [
        "exif.JPEG: (3, 8, 8)",
        "large.JPEG: 10000 x 9000 pixels are too many",
        "palette.JPEG: (3, 8, 8)",
    ]
    assert run.stderr == ""


def test_a_file_whose_hash_differs_is_bad(tmp_path: Path) -> None:
    photo().save(tmp_path / "a.png")
    with pytest.raises(BadImage, match="hash"):
        load_image(Entry("a", tmp_path / "a.png", 0, sha256="0" * 64), Geometry(8))


@pytest.mark.parametrize("change", [-1, 1, 1000])
def test_a_file_of_another_size_than_indexed_is_bad(change: int, tmp_path: Path) -> None:
    path = tmp_path / "a.JPEG"
    path.write_bytes(whole_jpeg())
    size = path.stat().st_size
    load_image(Entry("a", path, 0, size=size), Geometry(8))
    with pytest.raises(BadImage, match=r"a\.JPEG: it changed since it was indexed \([\d,]+ bytes"):
        load_image(Entry("a", path, 0, size=size + change), Geometry(8))


# ---- the stream ---------------------------------------------------------------------------------


def test_bad_files_do_not_stop_the_others(tmp_path: Path) -> None:
    entries = [Entry(name, tmp_path / f"{name}.JPEG", 0) for name in ["good", *BAD, "gone", "end"]]
    for e in entries:
        if e.image_id != "gone":
            e.path.write_bytes(BAD[e.image_id][0] if e.image_id in BAD else whole_jpeg())
    found = {e.image_id: what for e, what in stream(entries, LOAD, workers=3)}
    assert list(found) == [e.image_id for e in entries]
    assert [i for i, what in found.items() if isinstance(what, np.ndarray)] == ["good", "end"]
    assert str(found["gone"]) == "gone.JPEG: it is missing"


def test_streaming_keeps_order_and_reads_only_a_little_ahead(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    photo().save(path)
    asked: list[int] = []

    def entries() -> Iterator[Entry]:
        for i in range(500):
            asked.append(i)
            yield Entry(str(i), path, i)

    for count, (entry, _) in enumerate(stream(entries(), LOAD, workers=2)):
        assert entry.label == count
        assert len(asked) <= count + 66


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_memory_does_not_grow_with_the_number_of_images(
    cached: bool, packed: bool, tmp_path: Path
) -> None:
    """18,000 images of 48 px, 124 MB if they were kept, may not take 40 MB."""
    items = standins.crowd(20)
    if packed:
        root = standins.tar(tmp_path / "val.tar", items)
    else:
        root = standins.flat(tmp_path / "val", items)
    standins.val_txt(tmp_path / "val.txt", items)
    code = """
        import sys
        from functools import partial
        from pathlib import Path
        from agr.config.schema import Data, Geometry, Suite
        from agr.data.cache import PixelCache
        from agr.data.manifest import Manifest, read_manifest
        from agr.data.decode import load_image, stream

        def peak():  # MB; ru_maxrss would begin with the parent's
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(l.split()[1]) for l in lines if l.startswith("VmHWM")) / 1024

        root, cached = sys.argv[1], sys.argv[2] == "True"
        suite = Suite(name="s", groups={}, networks={})
        few = read_manifest(Data(root=root), suite, 1000).entries
        entries = tuple(few[i % 20]._replace(image_id=f"{i:05d}") for i in range(20_000))
        geometry, manifest = Geometry(48), Manifest("", Path(root), entries)
        cache = PixelCache(Path(root).parent / "cache", manifest, geometry) if cached else None
        load = cache.load if cache else partial(load_image, geometry=geometry)
        for _ in range(2 if cached else 1):
            for n, (entry, pixels) in enumerate(stream(entries, load, 2), 1):
                assert pixels.shape == (3, 48, 48)
                if n in (2000, 20_000):
                    print(peak())
    """
    arguments = [str(root), str(cached)]
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    peaks = [float(line) for line in run.stdout.split()]
    assert len(peaks) == (4 if cached else 2)
    assert peaks[-1] - peaks[0] < 40, peaks


# ---- manifests ----------------------------------------------------------------------------------


def test_synset_folders_are_classes_in_sorted_order(tmp_path: Path) -> None:
    manifest = read(tree(tmp_path))
    assert manifest.layout == "synset folders"
    assert manifest.place == tmp_path
    assert [(e.image_id[-1], e.label) for e in manifest.entries] == [
        ("0", 0), ("1", 2), ("2", 1), ("3", 0), ("4", 2), ("5", 1),
    ]  # fmt: skip
    assert all(e.size == e.path.stat().st_size for e in manifest.entries)


def test_an_empty_synset_folder_is_a_class_too(tmp_path: Path) -> None:
    (tree(tmp_path) / "n00000000a").mkdir()
    (tmp_path / "n00000001").rename(tmp_path / "n00000009")
    (tmp_path / "n00000001").mkdir()
    assert {e.label for e in read(tmp_path, classes=4).entries} == {0, 2, 3}


def test_csv_gives_the_same_images_in_any_order(tmp_path: Path) -> None:
    folders = read(tree(tmp_path))
    lines = [f"{e.path.relative_to(tmp_path)},{e.label}" for e in reversed(folders.entries)]
    path = tmp_path / "val.csv"
    path.write_text("\n".join(["filename,label", *lines]))
    listed = read(tmp_path, path)
    assert (listed.layout, listed.place) == ("csv", path)
    assert listed.entries == folders.entries
    assert listed.fingerprint == folders.fingerprint
    assert read(path).entries == folders.entries


def test_the_fingerprint_is_of_ids_labels_targets_and_contents() -> None:
    """The text that is hashed is part of what runs are compared by: it may not change."""

    def fingerprint(**change: Any) -> str:
        entries = (Entry("a", Path("x"), 1, "f" * 64, 5), Entry("b", Path("y"), 2, None, 7))
        return Manifest("", Path(), (entries[0], entries[1]._replace(**change))).fingerprint

    expected = hashlib.sha256(f"a,1,{'f' * 64}\nb,2,7".encode()).hexdigest()
    assert fingerprint() == expected
    assert fingerprint(path=Path("z"), offset=512) == expected
    other: list[dict[str, Any]]
    other = [{"image_id": "c"}, {"label": 3}, {"sha256": "0" * 64}, {"size": 8}, {"target": 0}]
    assert len({expected, *(fingerprint(**change) for change in other)}) == 6
    assert fingerprint(size=None) == hashlib.sha256(f"a,1,{'f' * 64}\nb,2,-1".encode()).hexdigest()


def test_hashes_in_a_csv_save_looking_at_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []

    def look_at(path: Path) -> os.stat_result:
        looked.append(path)
        return path.stat()

    monkeypatch.setattr(csv_lists, "look_at", look_at)
    (tmp_path / "a.png").write_bytes(b"")
    rows = "".join(f"{n}.png,1,{'0' * 64}\n" for n in "abcdef")
    (tmp_path / "val.csv").write_text(f"filename,label,sha256\n{rows}")
    assert len(read(tmp_path, tmp_path / "val.csv").entries) == 6
    assert looked == [tmp_path / "a.png"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("filename\na.png", "no column label"),
        ("filename,label\na.png,cat", "line 2: 'a.png', label 'cat'"),
        ("filename,label\na.png,-1", "line 2"),
        ("filename,label\na.png", "line 2"),
        ("label,filename\n3", "line 2"),
        ("filename,label\na.png,3", "a has label 3, the networks know 0 to 2: the labels seem"),
        ("filename,label\na.png,3\nb.png,0", "a has label 3, the networks know 0 to 2$"),
        ("filename,label\na.png,4\nb.png,1", "a has label 4, the networks know 0 to 2$"),
        ("filename,label\na.png,1\na.jpg,1", "names a twice"),
        ("filename,label\na.png,1\nb/../../..,1", "image '..' needs another name"),
        ("filename,label\nb/.png,1", "image '.png' needs another name"),
        ('filename,label\n"a\x07b.png",1', "needs another name"),
        (f"filename,label\n{'a' * 250}.png,1", "longer than 200"),
        ("filename,label,sha256\na.png,1,ff", "not a sha256"),
        ("filename,label,target\na.png,1,1", "the target of a is its own label"),
        ("filename,label,target\na.png,1,7", "targets.*a has label 7"),
        ("filename,label,target\na.png,1,x", "line 2: 'a.png', label '1', target 'x'"),
        ("filename,label\nc.png,1\nd.png,1", r"none of its 2 images is there, as .*c\.png"),
        ("filename,label", "names no image"),
        ("", "no column filename"),
    ],
)
def test_wrong_manifests_are_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    path = tmp_path / "val.csv"
    path.write_text(text)
    for where in [(tmp_path, path), (path, None)]:
        with pytest.raises(ConfigError, match=words):
            read(*where)


def test_wrong_roots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.root=… or the environment variable IMAGENET_DIR"):
        read_manifest(Data(), suite(), 3)
    with pytest.raises(ConfigError, match=r"data\.root=…"):
        read_manifest(Data(root=""), suite(), 3)
    with pytest.raises(ConfigError, match=r"data\.root=.*gone is not there"):
        read(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"gone\.csv cannot be read"):
        read(tmp_path / "gone.csv")
    with pytest.raises(ConfigError, match=r"data\.labels=.*gone\.csv is not there"):
        read(tree(tmp_path / "tree"), tmp_path / "gone.csv")
    with pytest.raises(ConfigError, match="3 synsets, the networks know 2 classes"):
        read(tmp_path / "tree", classes=2)
    with pytest.raises(ConfigError, match=r"suite\.synsets=wordnet is unknown"):
        read_manifest(Data(root=str(tmp_path / "tree")), suite("wordnet"), 3)


def test_draws_are_uniform_and_functions_of_their_key() -> None:
    values = [draw(0, f"image{i}") / 2**64 for i in range(4000)]
    assert values == [draw(0, f"image{i}") / 2**64 for i in range(4000)]
    assert abs(np.mean(values) - 0.5) < 0.02
    assert abs(np.std(values) - 12**-0.5) < 0.01
    assert draw(1, "image0") != draw(0, "image0")
