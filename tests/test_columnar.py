"""Parquet and Arrow files as people have them, and what lies beside images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from agr.config.schema import Data, Geometry, NetworkConfig, Suite
from agr.data.decode import BadImage, load_image
from agr.data.entries import Manifest
from agr.data.index import LARGE
from agr.data.manifest import read_manifest
from agr.utils.errors import ConfigError
from tests.test_lists import parquet, png


def read(root: Path, classes: int, keep: Path | None = None) -> Manifest:
    network = NetworkConfig(architecture="resnet18", classes=classes)
    suite = Suite(name="s", groups={}, networks={"n": network})
    return read_manifest(Data(root=str(root)), suite, classes, keep)


def pictures(n: int, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return n images of different colours, of sizes that differ, with the names given."""
    named = [*names, *[None] * (n - len(names))]
    return [{"bytes": png(i) + b"x" * i, "path": name} for i, name in enumerate(named)]


LABELLED = {
    "floats, as pandas makes of integers": ([float(i) for i in range(11)], [*range(11)]),
    "numbers as text": ([str(i) for i in range(11)], [*range(11)]),
    "names of classes": ([f"class{i:02d}" for i in range(11)], [*range(11)]),
    "dictionaries": (pa.array([f"c{i:02d}" for i in range(11)]).dictionary_encode(), [*range(11)]),
    "booleans": ([i % 2 == 1 for i in range(11)], [i % 2 for i in range(11)]),
}


@pytest.mark.parametrize(("labels", "expected"), LABELLED.values(), ids=LABELLED)
def test_labels_of_tables_are_numbers_or_names(
    labels: Any, expected: list[int], tmp_path: Path
) -> None:
    parquet(tmp_path / "val.parquet", pa.table({"image": pictures(11), "label": labels}))
    assert [e.label for e in read(tmp_path, classes=11).entries] == expected


@pytest.mark.parametrize(
    "labels", [[[0], [1]], [0.5, 1.0], [None, 1], [{"a": 1}, {"a": 2}], [-1, 0]]
)
def test_labels_that_are_none_are_refused(labels: Any, tmp_path: Path) -> None:
    parquet(tmp_path / "val.parquet", pa.table({"image": pictures(2), "label": labels}))
    with pytest.raises(ConfigError, match=r"row 0 has label .*: give a split"):
        read(tmp_path, classes=2)


def test_rows_of_one_name_have_ids_of_their_own(tmp_path: Path) -> None:
    for names, ids in {
        ("x/a.png", "y/a.png", "b.png"): ["b", "x_a", "y_a"],
        ("image.png",) * 3: ["0_image", "val-000001", "val-000002"],
    }.items():
        parquet(
            tmp_path / "val.parquet",
            pa.table({"image": pictures(3, names), "label": [0, 1, 1]}),
        )
        assert [e.image_id for e in read(tmp_path, classes=2).entries] == ids


def test_a_table_that_changed_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "val.parquet"
    parquet(path, pa.table({"image": pictures(3), "label": [0, 1, 1]}))
    first = read(tmp_path, classes=2)
    parquet(path, pa.table({"image": pictures(4)[1:], "label": [0, 1, 1]}))
    again = read(tmp_path, classes=2)
    assert [e.label for e in first.entries] == [e.label for e in again.entries]
    assert first.fingerprint != again.fingerprint
    with pytest.raises(BadImage, match="changed since it was indexed"):
        load_image(first.entries[0], Geometry(8))


def test_an_index_of_tables_depends_on_the_files(tmp_path: Path) -> None:
    path = tmp_path / "set/val.parquet"
    parquet(path, pa.table({"image": pictures(1) * LARGE, "label": [0, 1] * (LARGE // 2)}))
    os.utime(path, (1, 1))
    os.utime(path.parent, (1, 1))
    kept = tmp_path / "kept"
    assert read(path.parent, classes=2, keep=kept).entries[0].label == 0
    assert list(kept.iterdir())
    parquet(path, pa.table({"image": pictures(1) * LARGE, "label": [1, 0] * (LARGE // 2)}))
    os.utime(path.parent, (1, 1))
    assert read(path.parent, classes=2, keep=kept).entries[0].label == 1


def test_a_list_beside_tables_finds_their_images(tmp_path: Path) -> None:
    names = ("a.png", "b.png")
    parquet(tmp_path / "val.parquet", pa.table({"image": pictures(2, names), "label": [0, 0]}))
    (tmp_path / "labels.csv").write_text("filename,label,target\na.png,1,0\nb.png,0,1\n")
    entries = read(tmp_path, classes=2).entries
    assert [(e.label, e.target, e.row) for e in entries] == [(1, 0, 0), (0, 1, 1)]
    assert load_image(entries[1], Geometry(8)).shape == (3, 8, 8)


@pytest.mark.parametrize("split", ["valid", "dev", "test", "val"])
def test_splits_that_are_not_trained_on_are_taken(split: str, tmp_path: Path) -> None:
    for name in ("train-00000", f"{split}-00000", f"{split}-00001"):
        table = pa.table({"image": pictures(1, (f"{name}.png",)), "label": [0]})
        parquet(tmp_path / f"{name}.parquet", table)
    assert [e.image_id for e in read(tmp_path, classes=2).entries] == [
        f"{split}-00000", f"{split}-00001",
    ]  # fmt: skip


@pytest.mark.parametrize("stray", ["metadata.parquet", "results.csv"])
def test_tables_of_something_else_are_passed_over(stray: str, tmp_path: Path) -> None:
    for i, folder in enumerate(("cat", "dog")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(png(i))
    if stray.endswith("csv"):
        (tmp_path / stray).write_text("image,class,score\ncat/1.png,cat,0.9\n")
    else:
        parquet(tmp_path / stray, pa.table({"loss": [0.1]}))
    assert [e.image_id for e in read(tmp_path, classes=2).entries] == ["cat_1", "dog_1"]


def test_images_of_other_formats_are_said(tmp_path: Path) -> None:
    for i, name in enumerate(("cat/1.png", "cat/2.jfif", "dog/1.ppm", "dog/2.avif", "dog/3.HEIC")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(i))
    found = read(tmp_path, classes=2)
    assert [e.image_id for e in found.entries] == ["2", "cat_1", "dog_1"]
    assert sorted(found.passed_over) == ["1 .avif", "1 .heic"]
    (tmp_path / "only").mkdir()
    (tmp_path / "only/1.avif").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"1 \.avif can't be read: convert"):
        read(tmp_path / "only", classes=2)


def test_only_the_nips_sets_own_names_count_from_one(tmp_path: Path) -> None:
    for name in ("a.png", "b.webp", "c.JPG"):
        (tmp_path / name).write_bytes(png(1))
    (tmp_path / "images.csv").write_text("image_id,true_label\na.png,1\nb.webp,2\n")
    assert [e.label for e in read(tmp_path, classes=5).entries] == [1, 2]
    (tmp_path / "images.csv").write_text("ImageId,TrueLabel\na,1\nb,2\nc,3\n")
    entries = read(tmp_path, classes=5).entries
    assert [(e.label, e.path.name) for e in entries] == [(0, "a.png"), (1, "b.webp"), (2, "c.JPG")]
