"""Manifests, decoding and the choice of images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agr.config import ConfigError, Geometry, Group, NetworkConfig, Suite
from agr.data.manifest import Entry, read_manifest
from agr.data.stream import BadImage, load_image, stream
from agr.selection import draw


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


def suite(root: Path, manifest: str | None = None) -> Suite:
    geometry = Geometry(size=8)
    network = NetworkConfig(architecture="", weights="", size=8, mean=[0.5] * 3, std=[0.5] * 3)
    groups = {"g": Group(networks=["a"], geometry=geometry)}
    return Suite("s", None, str(root), manifest, 4, None, groups, {"a": network})


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", [1.0, 0.875])
@pytest.mark.parametrize("shape", [(37, 29), (29, 37), (50, 33), (16, 16), (20, 90)])
def test_pixels_equal_timms_transform(
    interpolation: str, crop: float, shape: tuple[int, int], tmp_path: Path
) -> None:
    from timm.data import create_transform

    path = tmp_path / "a.png"
    photo(shape).save(path)
    config = {"interpolation": interpolation, "crop_pct": crop, "normalize": False}
    transform = create_transform((3, 16, 16), **config)
    expected = np.asarray(transform(Image.open(path).convert("RGB")))
    mine = load_image(Entry("a", path, 0), Geometry(16, crop, interpolation))
    assert mine.dtype == np.uint8
    assert np.array_equal(mine, expected)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1"])
def test_other_modes_are_decoded_as_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    photo(mode=mode).save(path)
    expected = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)[:, :29, 4:33]
    assert np.array_equal(load_image(Entry("a", path, 0), Geometry(29)), expected)


def test_bad_files_are_named_and_the_others_go_on(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    photo().save(buffer, "JPEG")
    contents = {
        "good": buffer.getvalue(),
        "cut": buffer.getvalue()[:300],
        "empty": b"",
        "text": b"x",
    }
    entries = [Entry(name, tmp_path / f"{name}.JPEG", 0) for name in [*contents, "gone"]]
    for e in entries[:-1]:
        e.path.write_bytes(contents[e.image_id])
    found = {e.image_id: what for e, what in stream(entries, Geometry(8), workers=3)}
    assert list(found) == ["good", "cut", "empty", "text", "gone"]
    assert isinstance(found.pop("good"), np.ndarray)
    for name, what in found.items():
        assert isinstance(what, BadImage)
        assert f"{name}.JPEG" in str(what)
        assert str(tmp_path) not in str(what)
    assert "missing" in str(found["gone"])


def test_a_file_whose_hash_differs_is_bad(tmp_path: Path) -> None:
    photo().save(tmp_path / "a.png")
    with pytest.raises(BadImage, match="hash"):
        load_image(Entry("a", tmp_path / "a.png", 0, sha256="0" * 64), Geometry(8))


def test_streaming_keeps_order_and_reads_only_a_little_ahead(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    photo().save(path)
    asked: list[int] = []

    def entries():
        for i in range(500):
            asked.append(i)
            yield Entry(str(i), path, i)

    for count, (entry, _) in enumerate(stream(entries(), Geometry(8), workers=2)):
        assert entry.label == count
        assert len(asked) <= count + 66


def test_synset_folders_are_classes_in_sorted_order(tmp_path: Path) -> None:
    manifest = read_manifest(suite(tree(tmp_path)), classes=3)
    assert manifest.layout == "synset folders"
    assert [(e.image_id[-1], e.label) for e in manifest.entries] == [
        ("0", 0), ("1", 2), ("2", 1), ("3", 0), ("4", 2), ("5", 1),
    ]  # fmt: skip


def test_csv_gives_the_same_images_in_any_order(tmp_path: Path) -> None:
    folders = read_manifest(suite(tree(tmp_path)), classes=3)
    lines = [f"{e.path.relative_to(tmp_path)},{e.label}" for e in reversed(folders.entries)]
    path = tmp_path / "val.csv"
    path.write_text("\n".join(["filename,label", *lines]))
    listed = read_manifest(suite(tmp_path, str(path)), classes=3)
    assert listed.entries == folders.entries
    assert listed.fingerprint == folders.fingerprint
    path.write_text(path.read_text().replace(",2", ",1"))
    assert read_manifest(suite(tmp_path, str(path)), 3).fingerprint != folders.fingerprint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("filename\na.png", "no column label"),
        ("filename,label\na.png,cat", "line 2: 'a.png', label 'cat'"),
        ("filename,label\na.png,-1", "line 2"),
        ("filename,label\na.png", "line 2"),
        ("label,filename\n3", "line 2"),
        ("filename,label\na.png,3", "know 0 to 2"),
        ("filename,label\na.png,1\nb/a.png,1", "twice"),
        ("filename,label", "names no image"),
        ("", "no column filename"),
    ],
)
def test_wrong_manifests_are_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "val.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_manifest(suite(tmp_path, str(path)), classes=3)


def test_wrong_roots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        read_manifest(suite(tmp_path / "gone"), classes=3)
    with pytest.raises(ConfigError, match="no synset folders"):
        read_manifest(suite(tmp_path), classes=3)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_manifest(suite(tmp_path, str(tmp_path / "gone.csv")), classes=3)
    with pytest.raises(ConfigError, match="3 synset folders, the networks know 2"):
        read_manifest(suite(tree(tmp_path)), classes=2)


def test_draws_are_uniform_and_functions_of_their_key() -> None:
    values = [draw(0, f"image{i}") / 2**64 for i in range(4000)]
    assert values == [draw(0, f"image{i}") / 2**64 for i in range(4000)]
    assert abs(np.mean(values) - 0.5) < 0.02
    assert abs(np.std(values) - 12**-0.5) < 0.01
    assert draw(1, "image0") != draw(0, "image0")
