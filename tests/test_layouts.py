"""Every layout of ILSVRC2012 gives the same images; hostile and broken ones are refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agr.config.schema import Data, Geometry, NetworkConfig, Suite
from agr.data import index as index_module
from agr.data import labels as labels_module
from agr.data import manifest as manifest_module
from agr.data import tar
from agr.data.decode import BadImage, load_image
from agr.data.entries import Manifest
from agr.data.manifest import check_labels, read_manifest
from agr.utils.errors import ConfigError
from tests import standins
from tests.standins import DEVKIT, Item

SIDE = 24  # px
KAGGLE = "ILSVRC/Data/CLS-LOC/val"
TAR = "ILSVRC2012_img_val.tar"
SOLUTION = "LOC_val_solution.csv"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"

Places = tuple[Path, Path | None]  # data.root and data.labels
Build = Callable[[Path, Sequence[Item]], Places]
Step = Callable[[Path, Sequence[Item]], object]


def some_items(n: int = 12, seed: int = 0) -> list[Item]:
    """Small images; every file has another size."""
    items = standins.photos(n, seed=seed, sizes=[(SIDE, SIDE)])
    return [item._replace(content=item.content + bytes(i)) for i, item in enumerate(items)]


ITEMS = some_items()


def suite(synsets: str | None = "imagenet", classes: int = 1000) -> Suite:
    network = NetworkConfig(
        architecture="", weights="", size=8, mean=[0.5] * 3, std=[0.5] * 3, classes=classes
    )
    return Suite(name="s", synsets=synsets, groups={}, networks={"a": network})


def read(
    root: Path,
    labels: Path | None = None,
    synsets: str | None = "imagenet",
    classes: int = 1000,
    keep: Path | None = None,
) -> Manifest:
    data = Data(root=str(root), labels=str(labels) if labels else None)
    return read_manifest(data, suite(synsets), classes, keep)


# ---- every layout -------------------------------------------------------------------------------


def devkit_beside(root: Path, items: Sequence[Item]) -> Path:
    standins.devkit(root / DEVKIT, items)
    return root


def packed_devkit(path: Path, items: Sequence[Item]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return standins.pack_devkit(path, standins.devkit(path.parent / "loose", items))


def synset_words(path: Path, items: Sequence[Item]) -> Path:
    """A val.txt of synsets, with folders, without endings, with empty lines and spaces."""
    above = ("val/", "C:\\val\\", "")
    lines = [
        f"{above[n % 3]}{i.image_id}\t{standins.synsets()[i.label]}  \r\n\n"
        for n, i in enumerate(items)
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "".join(lines).encode())
    return path


def csv_above(path: Path, items: Sequence[Item]) -> Path:
    return standins.csv_manifest(path, items, "a/")


def named_classes(items: Sequence[Item]) -> list[Item]:
    """File names as in the copy of Hugging Face."""
    return [i._replace(name=f"{i.image_id}_{standins.synsets()[i.label]}.JPEG") for i in items]


def layouts() -> dict[str, tuple[str, Build]]:
    """What each layout is called, and how it is built below a folder."""
    s = standins

    def build(*steps: Step, root: str = "", labels: str = "") -> Build:
        def run(top: Path, items: Sequence[Item]) -> Places:
            for step in steps:
                step(top, items)
            return top / root, top / labels if labels else None

        return run

    def folders(at: str) -> Step:
        return lambda top, items: s.synset_folders(top / at, items)

    def flat(at: str) -> Step:
        return lambda top, items: s.flat(top / at, items)

    def packed(at: str = TAR, **how: Any) -> Step:
        return lambda top, items: s.tar(top / at, items, **how)

    def beside(write: Step, at: str) -> Step:
        return lambda top, items: write(top / at, items)

    devkit, truth = "the devkit's ground truth", f"{DEVKIT}/data/{TRUTH}"
    loose = beside(s.devkit, DEVKIT)
    gz = beside(packed_devkit, f"{DEVKIT}.tar.gz")
    loc, val = beside(s.loc_solution, SOLUTION), beside(s.val_txt, "val.txt")
    kaggle = beside(s.loc_solution, f"{KAGGLE}/../../../../{SOLUTION}")
    return {
        "folders": ("synset folders", build(folders(""))),
        "folders in val": ("synset folders", build(folders("val"))),
        "folders as at Kaggle": ("synset folders", build(folders(KAGGLE))),
        "folders in CLS-LOC": ("synset folders", build(folders(KAGGLE), root="ILSVRC/Data")),
        "folders with labels": (
            "synset folders with other.txt",
            build(folders(""), beside(s.val_txt, "other.txt"), labels="other.txt"),
        ),
        "kaggle": (f"flat files with {SOLUTION}", build(flat(KAGGLE), kaggle)),
        "kaggle, from inside": (
            f"flat files with {SOLUTION}",
            build(flat(KAGGLE), kaggle, root=KAGGLE),
        ),
        "kaggle, side by side": (f"flat files with {SOLUTION}", build(flat(""), loc)),
        "solution by name": (
            "flat files with LOC_val_solution.csv",
            build(flat("a"), beside(s.loc_solution, "b.csv"), root="a", labels="b.csv"),
        ),
        "val.txt": ("flat files with val.txt", build(flat("val"), val)),
        "val.txt, level above": ("flat files with val.txt", build(flat("imgs"), val, root="imgs")),
        "val.txt of synsets": (
            "flat files with val.txt",
            build(flat("images"), beside(synset_words, "images/val.txt")),
        ),
        "devkit": (f"flat files with {devkit}", build(flat("val"), loose)),
        "devkit, flat": (f"flat files with {devkit}", build(flat(""), loose)),
        "packed devkit": (f"flat files with {devkit}", build(flat("ILSVRC2012_img_val"), gz)),
        "devkit by folder": (
            f"flat files with {devkit}",
            build(flat("a"), beside(s.devkit, "b"), root="a", labels="b"),
        ),
        "devkit by data folder": (
            f"flat files with {devkit}",
            build(flat("a"), beside(s.devkit, "b"), root="a", labels="b/data"),
        ),
        "devkit by file": (f"flat files with {devkit}", build(flat(""), loose, labels=truth)),
        "devkit by archive": (
            f"flat files with {devkit}",
            build(flat("a"), beside(packed_devkit, "b/k.tgz"), root="a", labels="b/k.tgz"),
        ),
        "classes in names": (
            "flat files with synsets in their names",
            build(lambda top, items: s.flat(top / "val", named_classes(items))),
        ),
        "tar": (f"{TAR} with val.txt", build(packed(), val, root=TAR)),
        "tar in a folder": (f"{TAR} with {SOLUTION}", build(packed(), loc)),
        "tar and devkit": (f"{TAR} with {devkit}", build(packed(), gz)),
        "tar in val": (f"{TAR} with {devkit}", build(packed(f"val/{TAR}"), loose)),
        "tar, any name": (
            "v.tar with l.txt",
            build(packed("v.tar"), beside(s.val_txt, "l.txt"), root="v.tar", labels="l.txt"),
        ),
        "tar of folders": (
            "v.tar with synset folders",
            build(packed("v.tar", folders=True, above="./val/"), root="v.tar"),
        ),
        "tar of names": (
            "v.tar with synsets in their names",
            build(lambda top, items: s.tar(top / "v.tar", named_classes(items)), root="v.tar"),
        ),
        "tar with long names": (
            "v.tar with val.txt",
            build(packed("v.tar", above="x" * 99 + "/" + "ü" * 99 + "/"), val, root="v.tar"),
        ),
        "csv": (
            "csv",
            build(flat("a"), beside(csv_above, "l.csv"), root="l.csv"),
        ),
        "csv as labels": (
            "csv",
            build(flat("a"), beside(s.csv_manifest, "l.csv"), root="a", labels="l.csv"),
        ),
        "csv of a tar": (
            "csv",
            build(packed(), beside(s.csv_manifest, "l.csv"), root=TAR, labels="l.csv"),
        ),
    }  # fmt: skip


LAYOUTS = layouts()


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_images(name: str, tmp_path: Path) -> None:
    layout, build = LAYOUTS[name]
    root, labels = build(tmp_path, ITEMS)
    manifest = read(root, labels)
    assert manifest.layout == layout
    assert manifest.place.exists()
    found = [(e.image_id[:23], e.label) for e in manifest.entries]
    assert found == [(item.image_id, item.label) for item in ITEMS]
    pairs = list(zip(manifest.entries, ITEMS, strict=True))
    text = "\n".join(f"{e.image_id},{item.label},{len(item.content)}" for e, item in pairs)
    assert manifest.fingerprint == hashlib.sha256(text.encode()).hexdigest()  # of no layout
    for entry, item in pairs:
        assert entry.size == len(item.content)
        pixels = np.asarray(Image.open(io.BytesIO(item.content))).transpose(2, 0, 1)
        assert np.array_equal(load_image(entry, Geometry(SIDE)), pixels)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG"])
@pytest.mark.parametrize("root", ["", "images", "images.csv", "elsewhere"])
def test_nips_2017_counts_from_one(root: str, suffix: str, tmp_path: Path) -> None:
    standins.nips_csv(tmp_path, ITEMS, suffix)
    labels = None
    if root == "elsewhere":
        (tmp_path / "images").rename(tmp_path / root)
        labels = tmp_path / "images.csv"
    manifest = read(tmp_path / root, labels, synsets="imagenet")
    assert manifest.layout == "NIPS 2017 csv"
    assert [(e.image_id, e.label, e.target) for e in manifest.entries] == [
        (item.image_id, item.label, standins.target_of(item)) for item in ITEMS
    ]
    for entry in manifest.entries:
        assert load_image(entry, Geometry(64)).shape == (3, 64, 64)


@pytest.mark.parametrize("label", ["0", "x", "", "1001"])
def test_nips_labels_that_cannot_be_are_refused(label: str, tmp_path: Path) -> None:
    path = standins.nips_csv(tmp_path, ITEMS[:1]) / "images.csv"
    old = f",{ITEMS[0].label + 1},{standins.target_of(ITEMS[0]) + 1},"
    path.write_text(path.read_text().replace(old, f",{label},5,"))
    with pytest.raises(ConfigError, match=r"images\.csv"):
        read(tmp_path)


def test_a_csv_gives_targets(tmp_path: Path) -> None:
    standins.flat(tmp_path, ITEMS[:2])
    a, b = (item.name for item in ITEMS[:2])
    path = tmp_path / "l.csv"
    path.write_text(f"filename,label,target\n{a},n01443537,n01440764\n{b},4,\n")
    assert [(e.label, e.target) for e in read(tmp_path, path).entries] == [(1, 0), (4, None)]


# ---- classes ------------------------------------------------------------------------------------


def test_the_class_order_is_timms() -> None:
    from timm.data import ImageNetInfo

    expected = ImageNetInfo("imagenet-1k").label_names()
    assert list(labels_module.imagenet_synsets()) == expected


def test_ilsvrc_ids_are_not_the_order_of_the_classes(tmp_path: Path) -> None:
    """Two ids by hand: what counts is the synset that meta.mat gives to an id."""
    standins.flat(tmp_path / "val", ITEMS[:2])
    devkit = standins.devkit(tmp_path / DEVKIT, ITEMS)
    ids = standins.ilsvrc_ids()
    assert ids != sorted(ids)
    (devkit / "data" / TRUTH).write_text(f"{ids[999]}\n{ids[0]}\n")
    assert [e.label for e in read(tmp_path).entries] == [999, 0]


def test_groups_of_classes_have_no_id(tmp_path: Path) -> None:
    standins.flat(tmp_path / "val", ITEMS[:2])
    devkit = standins.devkit(tmp_path / DEVKIT, ITEMS)
    (devkit / "data" / TRUTH).write_text("1\n1001\n")
    with pytest.raises(ConfigError, match=r"line 2: '1001' is not an ILSVRC id"):
        read(tmp_path)


def test_missing_folders_shift_no_class_of_imagenet(tmp_path: Path) -> None:
    (tmp_path / "n01443537").mkdir()
    (tmp_path / "n01443537" / "a.JPEG").write_bytes(b"")
    assert [e.label for e in read(tmp_path).entries] == [1]
    with pytest.raises(ConfigError, match="1 synsets, the networks know 1000"):
        read(tmp_path, synsets=None)
    assert [e.label for e in read(tmp_path, synsets=None, classes=1).entries] == [0]


def test_without_an_order_sorted_synsets_are_classes_in_any_layout(tmp_path: Path) -> None:
    items = [item._replace(label=100 * (i % 3)) for i, item in enumerate(ITEMS)]
    standins.flat(tmp_path / "val", items)
    standins.loc_solution(tmp_path / SOLUTION, items)
    found = read(tmp_path, synsets=None, classes=3).entries
    assert [e.label for e in found] == [i % 3 for i in range(len(items))]


def strange_folder(root: Path) -> None:
    standins.synset_folders(root, ITEMS)
    (root / "n99999999").mkdir()


def flat_with(text: str, name: str = "val.txt") -> Callable[[Path], None]:
    def build(root: Path) -> None:
        standins.flat(root / "val", ITEMS[:2])
        (root / name).write_text(text)

    return build


A, B = (item.image_id for item in ITEMS[:2])
SHORT_OF_ONE = "\n".join(f"{item.image_id} 1" for item in ITEMS[3:])


def short_labels(root: Path) -> None:
    standins.flat(root / "val", ITEMS)
    (root / "val.txt").write_text(SHORT_OF_ONE)


def gone_meta(root: Path) -> None:
    devkit_beside(standins.flat(root, ITEMS), ITEMS)
    (root / DEVKIT / "data" / "meta.mat").unlink()


def broken_meta(root: Path) -> None:
    devkit_beside(standins.flat(root, ITEMS), ITEMS)
    (root / DEVKIT / "data" / "meta.mat").write_bytes(b"MATLAB 5.0" * 50)


def cut_devkit(root: Path) -> None:
    standins.flat(root, ITEMS)
    path = packed_devkit(root / "x" / f"{DEVKIT}.tar.gz", ITEMS)
    (root / f"{DEVKIT}.tar.gz").write_bytes(path.read_bytes()[:-1000])


def twins(root: Path) -> None:
    standins.synset_folders(root, ITEMS)
    (root / "n01440764").mkdir(exist_ok=True)
    for name in ("a.JPEG", "a.png"):
        (root / "n01440764" / name).write_bytes(b"")


def backslash(root: Path) -> None:
    (root / "n01440764").mkdir(parents=True)
    (root / "n01440764" / "a\\..\\b.JPEG").write_bytes(b"")


def compressed(root: Path) -> None:
    path = standins.tar(root / "x.tar", ITEMS)
    (root / f"{TAR}").write_bytes(gzip.compress(path.read_bytes()))


def strange_things(root: Path) -> None:
    root.mkdir()
    for name in ("notes.txt", f"{TAR}.gz", ".hidden", "train.tar"):
        (root / name).write_text("")
    (root / "train").mkdir()


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "unknown folder": (strange_folder, r"n99999999 is not a class of ImageNet-1k \(1 such of 1"),
    "1-based": (flat_with(f"{A} 1\n{B} 1000"), "label 1000, .* 0 to 999: the labels seem to count"),
    "too large": (flat_with(f"{A} 1\n{B} 1001"), "label 1001, the networks know 0 to 999$"),
    "unknown synset": (
        flat_with(f"{A} n00000001\n{B} 3"),
        "n00000001 is not a class of ImageNet-1k",
    ),
    "no number": (flat_with(f"{A} 1\n{B} cat"), rf"val\.txt line 2: '{B}', label 'cat'"),
    "negative": (flat_with(f"{A} -1\n{B} 1"), r"val\.txt line 1"),
    "one word": (flat_with(f"{A}\n{B} 1"), r"val\.txt line 1"),
    "twice": (flat_with(f"{A} 1\n{A}.JPEG 2"), rf"val\.txt line 2 names {A} a second time"),
    "bytes": (flat_with("", "x"), "no labels: put LOC_val_solution.csv, val.txt or"),
    "no columns": (flat_with("a,b\n", SOLUTION), "has not the columns ImageId,PredictionString"),
    "no synset": (flat_with(f"ImageId,PredictionString\n{A},", SOLUTION), "line 2"),
    "unlabelled": (
        short_labels,
        rf"no label for {A} \(3 such of 12 images in .*\): give the right file",
    ),
    "no meta.mat": (gone_meta, "no labels"),
    "broken meta.mat": (broken_meta, r"meta\.mat cannot be read"),
    "cut devkit": (cut_devkit, rf"{DEVKIT}\.tar\.gz is cut off: copy it again"),
    "twins": (twins, "names n01440764_a twice"),
    "a path as a name": (backslash, "needs another name"),
    "compressed tar": (compressed, r"\.tar is compressed \(gzip\): unpack it"),
    "nothing": (lambda root: root.mkdir(), "looked for synset folders .* there is nothing"),
    "nothing known": (
        strange_things,
        r"there is train/, ILSVRC2012_img_val\.tar\.gz, notes\.txt, train\.tar; if ILSVRC2012_img",
    ),
    "only text": (
        lambda root: (root / "n01440764").mkdir(parents=True),
        "there is no image in",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    build, words = REFUSED[kind]
    root = tmp_path / "data"
    build(root)
    with pytest.raises(ConfigError, match=words) as caught:
        read(root)
    assert "\n" not in str(caught.value)
    assert "data" in str(caught.value)


def test_wrong_labels_are_refused(tmp_path: Path) -> None:
    standins.flat(tmp_path / "val", ITEMS)
    gone_meta(tmp_path / "kit")
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "a.tar").write_bytes(b"x" * 600)
    standins.csv_manifest(tmp_path / "l.csv", ITEMS)
    for name, words in {
        "gone.txt": "is not there",
        f"kit/{DEVKIT}": r"there is no meta\.mat in",
        "val": f"there is no {TRUTH} in",
        "a.bin": "is not a text file",
        "a.tar": "is damaged at byte 0: copy it again",
    }.items():
        with pytest.raises(ConfigError, match=words):
            read(tmp_path, tmp_path / name)
    with pytest.raises(ConfigError, match=r"has its own labels: set data\.labels=null"):
        read(tmp_path / "l.csv", tmp_path / "l.csv")
    standins.tar(tmp_path / TAR, ITEMS[1:])
    with pytest.raises(ConfigError, match=rf"l\.csv: {ITEMS[0].name} is not in .*\(1 such\)"):
        read(tmp_path / TAR, tmp_path / "l.csv")


def test_home_folders_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    standins.flat(tmp_path / "imagenet", ITEMS)
    standins.val_txt(tmp_path / "l.txt", ITEMS)
    assert len(read(Path("~/imagenet"), Path("~/l.txt")).entries) == len(ITEMS)


def test_relative_places_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standins.flat(tmp_path / "ILSVRC/Data/CLS-LOC/val", ITEMS)
    standins.loc_solution(tmp_path / SOLUTION, ITEMS)
    for folder, root in [("", "ILSVRC"), ("ILSVRC/Data/CLS-LOC/val", "."), ("ILSVRC", "Data")]:
        monkeypatch.chdir(tmp_path / folder)
        assert len(read(Path(root)).entries) == len(ITEMS)


def test_the_precedence_of_layouts(tmp_path: Path) -> None:
    """The one that comes first wins wherever it stands."""
    standins.tar(tmp_path / TAR, ITEMS)
    standins.val_txt(tmp_path / "val.txt", ITEMS)
    assert read(tmp_path).layout == f"{TAR} with val.txt"
    standins.flat(tmp_path / "images", ITEMS)
    (tmp_path / "logo.png").write_bytes(b"")
    assert read(tmp_path).layout == "flat files with val.txt"
    standins.loc_solution(tmp_path / SOLUTION, ITEMS)
    assert read(tmp_path).layout == f"flat files with {SOLUTION}"
    standins.synset_folders(tmp_path / "imagenet" / "val", ITEMS)
    assert read(tmp_path).layout == "synset folders"
    standins.csv_manifest(tmp_path / "l.csv", ITEMS, "images/")
    assert read(tmp_path, tmp_path / "l.csv").layout == "csv"


def test_classes_in_some_names_only_are_no_labels(tmp_path: Path) -> None:
    standins.flat(tmp_path / "val", [*named_classes(ITEMS[:1]), *ITEMS[1:]])
    (tmp_path / "val.txt").write_text(
        "".join(f"{p.name} 3\n" for p in (tmp_path / "val").iterdir())
    )
    manifest = read(tmp_path)
    assert manifest.layout == "flat files with val.txt"
    assert {e.label for e in manifest.entries} == {3}


def test_odd_things_beside_the_images_are_passed_over(tmp_path: Path) -> None:
    root = standins.synset_folders(tmp_path / "val", ITEMS)
    folder = next(root.iterdir())
    (folder / "._ILSVRC2012_val_00000077.JPEG").write_bytes(b"")
    (folder / "folder.JPEG").mkdir()
    (folder / "checksums.txt").write_text("")
    (folder / "circle").symlink_to(folder / "circle")
    os.mkfifo(folder / "pipe.JPEG")
    assert len(read(tmp_path).entries) == len(ITEMS)


def test_a_link_that_leads_nowhere_is_a_bad_image_later(tmp_path: Path) -> None:
    root = standins.synset_folders(tmp_path / "val", ITEMS)
    (root / "n01440764").mkdir(exist_ok=True)
    (root / "n01440764" / "a.JPEG").symlink_to(tmp_path / "gone")
    entry = read(tmp_path).entries[-1]
    assert (entry.image_id, entry.size) == ("a", None)
    with pytest.raises(BadImage, match=r"a\.JPEG: it is missing"):
        load_image(entry, Geometry(8))


def test_indexing_needs_neither_torch_nor_timm_nor_scipy(tmp_path: Path) -> None:
    standins.synset_folders(tmp_path, ITEMS)
    code = (
        "import sys; from agr.config.schema import Data, Suite;"
        "from agr.data import cache, manifest;"
        "suite = Suite(name='s', synsets='imagenet', groups={}, networks={});"
        f"assert manifest.read_manifest(Data(root={str(tmp_path)!r}), suite, 1000).entries;"
        "assert not {'torch', 'timm', 'torchvision', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- tars ---------------------------------------------------------------------------------------


def walk(content: bytes) -> list[tar.Member]:
    return list(tar.members(lambda at, size: content[at : at + size], len(content)))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("seed", range(5))
def test_members_are_those_that_tarfile_finds(form: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    kinds = [tarfile.REGTYPE] * 6 + [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]
    with tarfile.open(fileobj=buffer, mode="w", format=form, pax_headers={"comment": "x"}) as file:
        for i in range(40):
            length = int(rng.integers(1, 60 if form == tarfile.USTAR_FORMAT else 300))
            info = tarfile.TarInfo("ä"[: rng.integers(2)] + "n" * length + f"/{i}.JPEG")
            info.type = kinds[rng.integers(len(kinds))]
            info.linkname = "../" * 60 + "etc/passwd" if form != tarfile.USTAR_FORMAT else "x"
            info.mtime = float(rng.uniform(0, 1e9))
            content = rng.bytes(int(rng.integers(0, 2000))) if info.isreg() else b""
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    content = buffer.getvalue()
    mine = {m.name: content[m.offset : m.offset + m.size] for m in walk(content)}
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as file:
        packed = {m.name: file.extractfile(m) for m in file if m.isreg()}
        theirs = {name: member.read() for name, member in packed.items() if member}
    assert len(theirs) > 10
    assert mine == theirs


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info.tobuf(tarfile.GNU_FORMAT)


def negative_size(name: str) -> bytes:
    """A header whose size is -512, as base-256 numbers can be; its checksum is right."""
    block = bytearray(header(name))
    block[124:136] = (-512).to_bytes(12, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


IMAGE = ITEMS[0].content.ljust(-(-len(ITEMS[0].content) // 512) * 512, b"\0")
GOOD = header(ITEMS[0].name, size=len(ITEMS[0].content)) + IMAGE
END = bytes(1024)


def pax(*records: bytes) -> bytes:
    content = b"".join(records)
    return header("pax", tarfile.XHDTYPE, size=len(content)) + content.ljust(512, b"\0")


def hostile_tar(path: Path, *blocks: bytes) -> Path:
    path.write_bytes(b"".join(blocks) + END)
    standins.val_txt(path.parent / "val.txt", [ITEMS[0], ITEMS[0]._replace(name="x.JPEG")])
    return path


@pytest.mark.parametrize(
    "block",
    [
        header("x.JPEG", tarfile.SYMTYPE, link="/etc/passwd"),
        header("x.JPEG", tarfile.SYMTYPE, size=5120, link="/etc/passwd"),
        header("x.JPEG", tarfile.LNKTYPE, link="../../../etc/passwd"),
        header("x.JPEG", tarfile.CHRTYPE),
        header("x.JPEG", tarfile.BLKTYPE),
        header("x.JPEG", tarfile.FIFOTYPE),
        header("x.JPEG", tarfile.DIRTYPE),
        header(".JPEG"),
        header("../.hidden.JPEG"),
        header("/etc/passwd"),
    ],
)
def test_hostile_members_of_a_tar_are_no_images(block: bytes, tmp_path: Path) -> None:
    manifest = read(hostile_tar(tmp_path / "v.tar", block, GOOD))
    assert [e.image_id for e in manifest.entries] == [ITEMS[0].image_id]
    assert load_image(manifest.entries[0], Geometry(SIDE)).shape == (3, SIDE, SIDE)


@pytest.mark.parametrize("name", ["../../../x.JPEG", "/x.JPEG", "/etc/../x.JPEG", "a/../../x.JPEG"])
def test_paths_in_a_tar_lead_nowhere(name: str, tmp_path: Path) -> None:
    """Only the last part of a name is looked at: the image is in the tar and nowhere else."""
    content = header(name, size=len(ITEMS[0].content)) + IMAGE
    manifest = read(hostile_tar(tmp_path / "v.tar", content, GOOD))
    strange = manifest.entries[-1]
    assert (strange.image_id, strange.path) == ("x", tmp_path / "v.tar")
    assert load_image(strange, Geometry(SIDE)).shape == (3, SIDE, SIDE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.tar", "val.txt"]


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ((GOOD, GOOD), "names ILSVRC2012_val_00000001 twice"),
        ((GOOD, header("a/" + GOOD[:28].decode(), size=0)), "twice"),
        ((GOOD, header("x.JPEG", size=1 << 40)), "is cut off: 'x.JPEG' ends at byte 1,099,"),
        ((GOOD, negative_size("x.JPEG")), "is damaged at byte"),
        ((negative_size("x.JPEG"),), "is damaged at byte 0"),
        ((GOOD, header("x\x1b[2J.JPEG")), r"needs another name"),
        ((GOOD, header("a\\..\\x.JPEG")), r"needs another name"),
        ((GOOD, header("x.JPEG", tarfile.GNUTYPE_SPARSE)), "sparse"),
        ((GOOD, header("x", tarfile.GNUTYPE_LONGNAME, size=1 << 21), bytes(1 << 21)), "a name of"),
        ((GOOD, pax(b"39 path=a/ILSVRC2012_val_00000001.JPEG\n"), header("x.JPEG")), "1 twice"),
        ((GOOD, pax(b"0 path=x\n"), header("x.JPEG")), "is damaged at byte"),
        ((GOOD, pax(b"8 path=x\n"), header("x.JPEG")), "is damaged at byte"),
        ((GOOD, pax(b"99 path=x\n"), header("x.JPEG")), "is damaged at byte"),
        ((GOOD, pax(b"\0" * 9), header("x.JPEG")), "is damaged at byte"),
        ((GOOD, pax(b"9 size=9\n"), header("x.JPEG")), "has a pax header of b'size'"),
        ((GOOD, pax(b"22 GNU.sparse.major=1\n"), header("x.JPEG")), "has a pax header of b'GNU"),
    ],
)  # fmt: skip
def test_broken_tars_are_refused(blocks: tuple[bytes, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read(hostile_tar(tmp_path / "v.tar", *blocks))
    assert "v.tar" in str(caught.value)


def test_a_tar_that_is_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    path = standins.tar(tmp_path / TAR, ITEMS[:4])
    standins.val_txt(tmp_path / "val.txt", ITEMS)
    content = path.read_bytes()
    end = walk(content)[-1]
    for cut in range(0, end.offset + end.size + 1, 97):
        path.write_bytes(content[:cut])
        with pytest.raises(ConfigError, match=rf"{TAR} (is cut off|is damaged)"):
            read(tmp_path)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = standins.tar(tmp_path / TAR, ITEMS[:4])
    standins.val_txt(tmp_path / "val.txt", ITEMS)
    content = bytearray(path.read_bytes())
    at = walk(bytes(content))[2].offset - 512
    content[at + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{TAR} is damaged at byte {at:,}: copy it again"):
        read(tmp_path)


def test_a_tar_that_changed_since_it_was_indexed_gives_no_wrong_pixels(tmp_path: Path) -> None:
    path = standins.tar(tmp_path / TAR, ITEMS)
    standins.val_txt(tmp_path / "val.txt", ITEMS)
    entries = read(tmp_path).entries
    standins.tar(path, ITEMS[::-1])
    bad = 0
    for entry, item in zip(entries, ITEMS, strict=True):
        try:
            pixels = load_image(entry, Geometry(SIDE))
        except BadImage as e:
            bad += str(e).startswith(f"{entry.image_id} in {TAR}: ")
        else:
            expected = np.asarray(Image.open(io.BytesIO(item.content))).transpose(2, 0, 1)
            assert np.array_equal(pixels, expected)
    assert bad >= len(ITEMS) - 1
    path.unlink()
    with pytest.raises(BadImage, match=f"in {TAR}: it is missing"):
        load_image(entries[0], Geometry(SIDE))


@pytest.mark.parametrize(
    ("start", "how"),
    [(b"\x1f\x8b", "gzip"), (b"BZh9", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"(\xb5/\xfd", "zstd")],
)
def test_compressed_tars_are_refused_with_the_way_out(
    start: bytes, how: str, tmp_path: Path
) -> None:
    path = tmp_path / "val.tar.x"
    path.write_bytes(start + bytes(1000))
    with pytest.raises(ConfigError, match=rf"val\.tar\.x is compressed \({how}\): unpack it"):
        read(path)
    path.write_bytes(b"PK" + bytes(1000))
    with pytest.raises(
        ConfigError, match=r"val\.tar\.x is not a tar; images are read in place from"
    ):
        read(path)


# ---- the kept index -----------------------------------------------------------------------------


class Count:
    """Counts how often an index is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.made = 0
        make = manifest_module._index

        def counted(*args: Any) -> Manifest:
            self.made += 1
            return make(*args)

        monkeypatch.setattr(manifest_module, "_index", counted)
        monkeypatch.setattr(index_module, "LARGE", 1)

    def of(self, work: Callable[[], object]) -> int:
        before = self.made
        work()
        return self.made - before


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Count:
    return Count(monkeypatch)


@pytest.fixture(params=["in memory", "on disk"])
def forget(request: pytest.FixtureRequest) -> Callable[[], None]:
    """As a new process would, or not."""
    return index_module._known.clear if request.param == "on disk" else lambda: None


def age(root: Path) -> None:
    """Make all below `root` look as if it had last been changed at one moment long ago."""
    for path in [root, *root.rglob("*")]:
        os.utime(path, (1.5e9, 1.5e9), follow_symlinks=False)


KEPT = [
    "csv",
    "csv of a tar",
    "folders",
    "folders in val",
    "kaggle",
    "devkit",
    "packed devkit",
    "tar",
    "tar of folders",
]


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_index_is_the_same(
    name: str, tmp_path: Path, count: Count, forget: Callable[[], None]
) -> None:
    root, labels = LAYOUTS[name][1](tmp_path / "data", ITEMS)
    age(tmp_path)
    first = read(root, labels, keep=tmp_path / "keep")
    forget()
    again = read(root, labels, keep=tmp_path / "keep")
    assert count.made == 1
    assert again == first
    assert again.fingerprint == first.fingerprint
    assert read(root, labels) == first
    assert count.made == 2


def test_fresh_trees_are_not_kept_and_small_ones_only_in_memory(
    tmp_path: Path, count: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = standins.synset_folders(tmp_path / "val", ITEMS)
    keep = tmp_path / "keep"
    for _ in range(2):  # changed a moment ago: a further change could have the same time
        assert count.of(lambda: read(root, keep=keep)) == 1
    age(tmp_path)
    monkeypatch.setattr(index_module, "LARGE", len(ITEMS) + 1)
    for made in (1, 0):
        assert count.of(lambda: read(root, keep=keep)) == made
    index_module._known.clear()
    assert count.of(lambda: read(root, keep=keep)) == 1
    index_module.forget(keep)
    assert count.of(lambda: read(root, keep=keep)) == 1
    assert not keep.exists()


def longer_tar(root: Path) -> None:
    """Its time stays, as copying programs can have it."""
    os.truncate(root / "v.tar", 1 << 20)
    age(root)


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a new image": ("folders in val", lambda r: next(r.glob("val/*")).joinpath("x.JPEG").touch()),
    "an image less": ("folders in val", lambda r: next(r.glob("val/*/*")).unlink()),
    "a new folder": ("folders in val", lambda r: (r / "val" / "n01440764x").mkdir()),
    "a preferred level": ("folders in val", lambda r: standins.synset_folders(r, ITEMS[:1])),
    "a level before": ("folders as at Kaggle", lambda r: standins.synset_folders(r / "val", ITEMS)),
    "other labels": ("val.txt", lambda r: standins.val_txt(r / "val.txt", ITEMS[::-1])),
    "better labels": ("val.txt", lambda r: standins.loc_solution(r / SOLUTION, ITEMS)),
    "nearer labels": ("val.txt", lambda r: standins.val_txt(r / "val" / "val.txt", ITEMS)),
    "another truth": ("devkit", lambda r: (r / DEVKIT / "data" / TRUTH).write_text("1\n" * 12)),
    "another meta": ("devkit", lambda r: (standins.devkit(r / DEVKIT, ITEMS, 5))),
    "another devkit": ("packed devkit", lambda r: packed_devkit(r / f"{DEVKIT}.tar.gz", ITEMS)),
    "another tar": ("tar of folders", lambda r: standins.tar(r / "v.tar", ITEMS, folders=True)),
    "a longer tar": ("tar of folders", longer_tar),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_an_index_is_made_again_when_what_it_is_of_changed(
    change: str, tmp_path: Path, count: Count, forget: Callable[[], None]
) -> None:
    name, work = CHANGES[change]
    root, labels = LAYOUTS[name][1](tmp_path / "data", ITEMS)
    age(tmp_path)
    keep = tmp_path / "keep"
    assert count.of(lambda: read(root, labels, keep=keep)) == 1
    forget()
    assert count.of(lambda: read(root, labels, keep=keep)) == 0
    work(tmp_path / "data")
    forget()
    assert count.of(lambda: read(root, labels, keep=keep)) == 1
    kept = read(root, labels, keep=keep)
    assert kept == read(root, labels)


def test_an_index_is_of_one_root_order_and_number_of_classes(tmp_path: Path, count: Count) -> None:
    keep, link = tmp_path / "keep", tmp_path / "link"
    two = [ITEMS[0], ITEMS[1]]
    for name, items in [("a", two), ("b", [i._replace(content=b"") for i in two])]:
        standins.synset_folders(tmp_path / name, items)
    link.symlink_to(tmp_path / "a")
    age(tmp_path)
    assert read(link, keep=keep) != read(tmp_path / "a", keep=keep)  # paths as they were given
    assert {e.label for e in read(link, synsets=None, classes=2, keep=keep).entries} == {0, 1}
    with pytest.raises(ConfigError, match="know 0 to 1"):
        read(link, classes=2, keep=keep)
    assert {e.label for e in read(link, keep=keep).entries} == {i.label for i in two}
    link.unlink()
    link.symlink_to(tmp_path / "b")
    age(tmp_path)
    assert {e.size for e in read(link, keep=keep).entries} == {0}
    with pytest.raises(ConfigError, match="know 0 to 0"):
        read(link, classes=1, keep=keep)


@pytest.mark.slow
def test_a_damaged_index_is_made_again(tmp_path: Path, count: Count) -> None:
    root = standins.synset_folders(tmp_path / "val", ITEMS)
    keep = tmp_path / "keep"
    age(tmp_path)
    first = read(root, keep=keep)
    (path,) = keep.iterdir()
    whole = path.read_bytes()
    damaged = [b"", b"x" * 100, whole[:-1], whole[: len(whole) // 2]]
    for at in range(0, len(whole), 41):
        damaged.append(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
    for content in damaged:
        path.write_bytes(content)
        index_module._known.clear()
        assert read(root, keep=keep) == first
    assert [p.name for p in keep.iterdir()] == [path.name]
    (root / "n01440764").mkdir()
    assert read(root, keep=keep) == first
    for folder in (root, root / "n01440764"):
        os.utime(folder, (1.6e9, 1.6e9))
    assert read(root, keep=keep) == first
    assert [p.name == path.name for p in keep.iterdir()] == [False]  # no older one is left over


def test_an_index_that_cannot_be_kept_is_no_error(
    tmp_path: Path, count: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = standins.synset_folders(tmp_path / "val", ITEMS)
    age(tmp_path)
    (tmp_path / "file").write_text("")
    assert len(read(root, keep=tmp_path / "file" / "keep").entries) == len(ITEMS)
    index_module._known.clear()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert len(read(root, keep=tmp_path / "keep").entries) == len(ITEMS)
    assert list((tmp_path / "keep").iterdir()) == []


# ---- other sources of labels --------------------------------------------------------------------


def compare(root: Path, labels: Path | None = None) -> list[str]:
    data = Data(root=str(root), labels=str(labels) if labels else None)
    found = check_labels(data, suite(), read_manifest(data, suite(), 1000))
    said = []
    for source, compared, differing, example in found:
        if differing:
            said.append(f"{source}: {differing} of {compared} differ, {example}")
        else:
            said.append(f"{source}: {example or f'agrees on {compared} images'}")
    return [line.replace(str(root), "") for line in said]


def test_other_sources_of_labels_are_compared(tmp_path: Path) -> None:
    standins.synset_folders(tmp_path / "val", ITEMS)
    assert compare(tmp_path) == []
    standins.loc_solution(tmp_path / SOLUTION, ITEMS)
    wrong = [i._replace(label=(i.label + (i in ITEMS[2:4])) % 1000) for i in ITEMS[1:]]
    standins.val_txt(tmp_path / "val.txt", wrong)
    devkit_beside(tmp_path, ITEMS)
    (tmp_path / f"{DEVKIT}.tar.gz").write_bytes(b"nothing")
    item = ITEMS[2]
    assert compare(tmp_path) == [
        f"{SOLUTION} (/{SOLUTION}): agrees on 12 images",
        f"val.txt (/val.txt): 2 of 11 differ, {item.image_id} is {wrong[1].label} there, "
        f"{item.label} here",
        f"the devkit's ground truth (/{DEVKIT}/data/{TRUTH}): agrees on 12 images",
        f"the devkit's ground truth (/{DEVKIT}.tar.gz): /{DEVKIT}.tar.gz is cut off at byte 7, "
        "before its end mark: copy it again",
    ]


def test_folders_are_compared_where_labels_come_from_a_file(tmp_path: Path) -> None:
    standins.synset_folders(tmp_path / "val", ITEMS)
    path = tmp_path / "l.csv"
    lines = [f"{standins.synsets()[i.label]}/{i.name},{i.label}" for i in ITEMS[:-1]]
    lines.append(f"{standins.synsets()[ITEMS[-1].label]}/{ITEMS[-1].name},0")
    path.write_text("\n".join(["filename,label", *lines]))
    last = ITEMS[-1]
    assert compare(tmp_path / "val", path)[0].endswith(
        f": 1 of 12 differ, {last.image_id} is {last.label} there, 0 here"
    )


def test_two_pairs_of_orders_differ() -> None:
    """What the tests above compare with is not an identity."""
    a, b = standins.ilsvrc_ids(0), standins.ilsvrc_ids(5)
    assert a != b
    assert all(sorted(ids) == list(range(1, 1001)) for ids in (a, b))
    assert len({i.label for i in ITEMS}) == len(ITEMS)
    pairs = itertools.combinations(ITEMS, 2)
    assert all(x.content != y.content for x, y in pairs)


def test_a_stray_picture_beside_a_tar_is_no_data_set(tmp_path: Path) -> None:
    items = standins.photos(2)
    standins.tar(tmp_path / "ILSVRC2012_img_val.tar", items)
    standins.loc_solution(tmp_path / "LOC_val_solution.csv", items)
    Image.new("RGB", (8, 8)).save(tmp_path / "screenshot.png")
    manifest = read_manifest(Data(str(tmp_path)), suite(), 1000)
    assert manifest.layout.startswith("ILSVRC2012_img_val.tar")
    assert [e.label for e in manifest.entries] == [i.label for i in items]


def test_what_a_csv_says_is_kept(tmp_path: Path, count: Count, forget: Callable[[], None]) -> None:
    """Hashes and targets too."""
    standins.flat(tmp_path / "a", ITEMS)
    lines = [
        f"a/{i.name},{i.label},{(i.label + 1) % 1000},{hashlib.sha256(i.content).hexdigest()}"
        for i in ITEMS
    ]
    path = tmp_path / "l.csv"
    path.write_text("\n".join(["filename,label,target,sha256", *lines]))
    age(tmp_path)
    first = read(path, keep=tmp_path / "keep")
    forget()
    again = read(path, keep=tmp_path / "keep")
    assert count.made == 1
    assert again == first
    assert [e.target for e in again.entries] == [(i.label + 1) % 1000 for i in ITEMS]


def test_one_name_in_two_folders_is_refused_where_only_ids_count(tmp_path: Path) -> None:
    """A CSV of names beside a layout must not get another file's pixels."""
    a, b = ITEMS[0], ITEMS[1]._replace(name=ITEMS[0].name)
    for synset, item in (("n01440764", a), ("n01443537", b)):
        folder = tmp_path / "val" / synset
        folder.mkdir(parents=True)
        (folder / item.name).write_bytes(item.content)
    labels = tmp_path / "l.csv"
    labels.write_text(f"filename,label\n{a.name},0\n")
    with pytest.raises(ConfigError):
        read(tmp_path / "val", labels)
    (tmp_path / "val" / "n01443537" / b.name).unlink()
    assert read(tmp_path / "val", labels).entries[0].path.parent.name == "n01440764"
    labels.write_text(f"filename,label\nn01443537/{a.name},0\n")
    with pytest.raises(ConfigError):
        read(tmp_path / "val", labels)


def test_classes_are_in_timms_order_whatever_comes_first(tmp_path: Path) -> None:
    """Without a list of synsets: their own sorted order, not that of appearance."""
    order = standins.synsets()
    items = [ITEMS[i]._replace(label=label) for i, label in enumerate((7, 2, 5))]
    standins.flat(tmp_path, items)
    lines = "".join(f"{i.name} {order[i.label]}\n" for i in items)
    (tmp_path / "val.txt").write_text(lines)
    own = read(tmp_path, synsets=None, classes=3)
    assert [e.label for e in own.entries] == [2, 0, 1]
    assert [e.label for e in read(tmp_path).entries] == [7, 2, 5]
