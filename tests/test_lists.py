"""Folders, lists and tables of images as people have them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from agr.config.schema import Data, Geometry, NetworkConfig, Suite
from agr.data.decode import load_image
from agr.data.entries import Manifest
from agr.data.manifest import read_manifest
from agr.utils.errors import ConfigError

SIDE = 8
COLOURS = {"a": 10, "b": 60, "c": 110, "d": 160}


def png(value: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE, 3), value, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def read(root: Path, classes: int = 2, labels: Path | None = None, **more: str) -> Manifest:
    network = NetworkConfig(architecture="resnet18", classes=classes)
    suite = Suite(name="s", groups={}, networks={"n": network}, **more)  # type: ignore[arg-type]
    data = Data(root=str(root), labels=str(labels) if labels else None)
    return read_manifest(data, suite, classes)


def labels_of(manifest: Manifest) -> dict[str, int]:
    return {e.image_id: e.label for e in manifest.entries}


def check_pixels(manifest: Manifest, values: dict[str, int]) -> None:
    for entry in manifest.entries:
        assert (load_image(entry, Geometry(SIDE)) == values[entry.image_id]).all()


# ---- lists ---------------------------------------------------------------------------------------

FOUR = {"a": 0, "b": 1, "c": 0, "d": 1}
LISTS = {
    "blanks and capitals": "Filename , LABEL\na.png, 0\nb.png ,1\nc.png,0\nd.png,1\n",
    "semicolons": "label;filename\n0;a.png\n1;b.png\n0;c.png\n1;d.png\n",
    "tabs": "file_name\tclass\na.png\t0\nb.png\t1\nc.png\t0\nd.png\t1\n",
    "whole numbers": "image,label\na.png,0.0\nb.png,1.0\nc.png,0\nd.png,1.00\n",
    "backslashes": "path,class_id\n.\\a.png,0\n.\\b.png,1\nc.png,0\nd.png,1\n",
    "empty lines": "filename,label\n\na.png,0\nb.png,1\n\nc.png,0\nd.png,1\n\n",
    "a byte order mark": "\ufefffilename,label\na.png,0\nb.png,1\nc.png,0\nd.png,1\n",
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("place", ["beside", "in images/", "as root", "as labels"])
def test_lists_are_read_as_they_come(name: str, place: str, tmp_path: Path) -> None:
    folder = tmp_path / "images" if place == "in images/" else tmp_path
    for letter, value in COLOURS.items():
        put(folder / f"{letter}.png", png(value))
    listed = tmp_path / ("labels.csv" if place == "in images/" else "list.tsv")
    listed.write_text(LISTS[name], encoding="utf-8")
    root = listed if place == "as root" else tmp_path
    manifest = read(root, labels=listed if place == "as labels" else None)
    assert labels_of(manifest) == FOUR
    check_pixels(manifest, COLOURS)


@pytest.mark.parametrize(
    "column", ["target", "Targeted_Label", "TargetClass", " target label ", "target-class"]
)
def test_targets_are_found_under_the_names_of_the_field(column: str, tmp_path: Path) -> None:
    for letter in "ab":
        put(tmp_path / f"{letter}.png", png(COLOURS[letter]))
    text = f"filename,label,{column},author\na.png,0,1,me\nb.png,1,,you\n"
    (tmp_path / "labels.csv").write_text(text)
    manifest = read(tmp_path)
    assert [e.target for e in manifest.entries] == [1, None]
    assert manifest.unread == ("author",)


def test_two_columns_of_one_meaning_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "a.png", png(1))
    (tmp_path / "l.csv").write_text("filename,label,target,TargetClass\na.png,0,1,1\n")
    with pytest.raises(ConfigError, match="two columns for the target, target and TargetClass"):
        read(tmp_path / "l.csv")


def test_several_lists_are_refused_unless_one_has_the_usual_name(tmp_path: Path) -> None:
    put(tmp_path / "a.png", png(1))
    for name in ("x.csv", "y.csv"):
        (tmp_path / name).write_text("filename,label\na.png,1\n")
    with pytest.raises(ConfigError, match=r"several lists of images, x\.csv, y\.csv: give one"):
        read(tmp_path)
    (tmp_path / "labels.csv").write_text("filename,label\na.png,0\n")
    assert labels_of(read(tmp_path)) == {"a": 0}


def test_files_of_one_name_keep_their_folders(tmp_path: Path) -> None:
    names = ["x/1.png", "y/1.png", "y/2.png"]
    for i, name in enumerate(names):
        put(tmp_path / name, png(50 * i))
    rows = "\n".join(f"{name},{i % 2}" for i, name in enumerate(names))
    (tmp_path / "l.csv").write_text(f"filename,label\n{rows}\n")
    manifest = read(tmp_path / "l.csv")
    assert labels_of(manifest) == {"x_1": 0, "y_1": 1, "2": 0}
    check_pixels(manifest, {"x_1": 0, "y_1": 50, "2": 100})


@pytest.mark.parametrize(
    "text",
    [
        "a.png,0\nb.png,1\nc.png,0\nd.png,1",
        "a.png;0\nb.png ; 1\n c.png;0 \nd.png;1",
        "a 0\nb 1\n\nc 0\nd\t1.0\n",
        "x\\a.png 0\nx\\b.png 1\nx\\c.png 0\nx\\d.png 1",
    ],
)
def test_plain_lists_of_labels(text: str, tmp_path: Path) -> None:
    for letter, value in COLOURS.items():
        put(tmp_path / f"{letter}.png", png(value))
    (tmp_path / "mine.txt").write_text(text)
    assert labels_of(read(tmp_path, labels=tmp_path / "mine.txt")) == FOUR


# ---- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("above", ["", "val/", "validation/"])
def test_folders_of_any_name_are_classes(above: str, tmp_path: Path) -> None:
    for i, name in enumerate(["Zebra", "cat", "dog house"]):
        put(tmp_path / f"{above}{name}" / "1.png", png(40 * i))
        put(tmp_path / f"{above}{name}" / f"only {name}.webp", png(40 * i, "WEBP"))
    (tmp_path / "readme.txt").write_text("hello")
    manifest = read(tmp_path, classes=3)
    assert manifest.layout == "class folders"
    found = labels_of(manifest)
    assert found == {
        "Zebra_1": 0, "cat_1": 1, "dog house_1": 2,
        "only Zebra": 0, "only cat": 1, "only dog house": 2,
    }  # fmt: skip
    check_pixels(manifest, {name: 40 * label for name, label in found.items()})
    with pytest.raises(ConfigError, match="there are 3 class names, the networks know 4 classes"):
        read(tmp_path, classes=4)


def test_folders_that_are_numbers_are_the_classes(tmp_path: Path) -> None:
    for label in (0, 2, 10):  # by name, 10 would come before 2
        put(tmp_path / f"{label}" / f"i{label}.bmp", png(label, "BMP"))
    assert labels_of(read(tmp_path, classes=11)) == {"i0": 0, "i2": 2, "i10": 10}
    assert labels_of(read(tmp_path, classes=11, synsets="imagenet"))["i10"] == 10


def test_class_folders_of_other_names_are_none_of_imagenet(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        put(tmp_path / name / f"{name}.png", png(1))
    with pytest.raises(ConfigError, match="cat is not a class of ImageNet-1k"):
        read(tmp_path, synsets="imagenet", classes=1000)


def test_a_stray_picture_beside_class_folders_is_left_out(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        put(tmp_path / name / f"{name}.tif", png(1, "TIFF"))
    put(tmp_path / "sheet.png", png(2))
    assert labels_of(read(tmp_path)) == {"cat": 0, "dog": 1}


def test_tiny_imagenet(tmp_path: Path) -> None:
    boxes = "0\t0\t62\t63"
    lines = [f"val_{i}.JPEG\t{'n0000000' + '12'[i % 2]}\t{boxes}" for i in range(4)]
    for i in range(4):
        put(tmp_path / "val" / "images" / f"val_{i}.JPEG", png(i))
        put(tmp_path / "train" / f"n0000000{1 + i % 2}" / "images" / f"t{i}.JPEG", png(i))
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines))
    for root in (tmp_path, tmp_path / "val", tmp_path / "val" / "images"):
        assert labels_of(read(root)) == {"val_0": 0, "val_1": 1, "val_2": 0, "val_3": 1}
    assert labels_of(read(tmp_path / "train")) == {"t0": 0, "t1": 1, "t2": 0, "t3": 1}


# ---- tables --------------------------------------------------------------------------------------


def table(names: bool = True) -> pa.Table:
    rows = [(letter, png(value), FOUR[letter]) for letter, value in COLOURS.items()]
    images = [
        {"bytes": content, "path": f"{letter}.JPEG"} if names else content
        for letter, content, _ in rows
    ]
    return pa.table({"image": images, "label": [label for *_, label in rows]})


def parquet(path: Path, content: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path, row_group_size=3)


def arrow(path: Path, content: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_stream(str(path), content.schema) as writer:
        writer.write_table(content, max_chunksize=3)


@pytest.mark.parametrize(("ending", "write"), [(".parquet", parquet), (".arrow", arrow)])
@pytest.mark.parametrize("names", [True, False])
def test_tables_of_hugging_face(
    ending: str, write: Callable[[Path, pa.Table], None], names: bool, tmp_path: Path
) -> None:
    write(tmp_path / "data" / f"train-00000-of-00001{ending}", table().slice(0, 1))
    first = tmp_path / "data" / f"validation-00000-of-00002{ending}"
    write(first, table(names).slice(0, 2))
    write(tmp_path / "data" / f"validation-00001-of-00002{ending}", table(names).slice(2, 2))
    manifest = read(tmp_path)
    assert [e.label for e in manifest.entries] == [0, 1, 0, 1]
    values = dict(zip([e.image_id for e in manifest.entries], COLOURS.values(), strict=True))
    assert not names or list(values) == list(COLOURS)
    check_pixels(manifest, values)
    assert len(read(first).entries) == 2


def test_tables_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "val.parquet").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"val\.parquet cannot be read"):
        read(tmp_path / "bad")
    parquet(tmp_path / "other" / "x.parquet", pa.table({"text": ["a"], "label": [0]}))
    with pytest.raises(ConfigError, match=r"has no column image \(text, label\)"):
        read(tmp_path / "other")
    for split in ("extra", "train"):
        parquet(tmp_path / "splits" / f"{split}-0.parquet", table())
    with pytest.raises(ConfigError, match="has the splits '', 'train', and none of validation"):
        read(tmp_path / "splits")
    hidden = table().set_column(1, "label", pa.array([-1] * 4))
    parquet(tmp_path / "hidden" / "t.parquet", hidden)
    with pytest.raises(ConfigError, match="row 0 has label -1: give a split whose labels"):
        read(tmp_path / "hidden")


def test_thirty_two_bits_are_not_clipped(tmp_path: Path) -> None:
    deep = np.linspace(0, 60_000, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.int32)
    for name in ("cat", "dog"):
        put(tmp_path / name / f"{name}.png", png(1))
    Image.fromarray(deep).save(tmp_path / "dog" / "deep.tif")
    entry = next(e for e in read(tmp_path).entries if e.path.suffix == ".tif")
    with pytest.raises(Exception, match=r"deep\.tif: it has 32 bits per pixel and channel"):
        load_image(entry, Geometry(SIDE))
