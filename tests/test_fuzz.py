"""Whatever a file or a command line has in it: a ConfigError, or what it says; no other error."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agr.compose import expand
from agr.config import stored_cell
from agr.data.manifest import read_manifest
from agr.errors import ConfigError
from agr.records import Records
from agr.schema import Data, Suite, conf_dir
from tests import standins

ITEMS = standins.photos(4, sizes=((16, 12),))
PLAIN = settings(
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@st.composite
def mutated(draw: Callable[[Any], Any], content: bytes) -> bytes:
    """`content` with some bytes changed, cut out, doubled, or put in."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(found)))
        kind = draw(st.sampled_from(["set", "cut", "double", "put", "end"]))
        if kind == "set" and at < len(found):
            found[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del found[at : at + draw(st.integers(1, 600))]
        elif kind == "double":
            found[at:at] = found[at : at + draw(st.integers(1, 600))]
        elif kind == "put":
            found[at:at] = draw(st.binary(max_size=20))
        else:
            del found[at:]
    return bytes(found)


# ---- manifests -----------------------------------------------------------------------------------


def read(root: Path, labels: Path | None = None) -> None:
    """What there is to be known of the images is known, or it is a ConfigError."""
    data = Data(root=str(root), labels=labels and str(labels))
    with suppress(ConfigError):
        for entry in read_manifest(data, Suite(name="s", synsets="imagenet"), 1000).entries:
            assert 0 <= entry.label < 1000
            assert entry.image_id


def fuzz_labels(name: str, content: bytes) -> None:
    """A file of labels beside four images."""
    with TemporaryDirectory() as place:
        root = standins.flat(Path(place) / "val", ITEMS)
        (root / name).write_bytes(content)
        read(root, root / name)


@functools.cache
def bytes_of(write: Callable[[Path], object]) -> bytes:
    with TemporaryDirectory() as place:
        path = Path(place) / "file"
        write(path)
        return path.read_bytes()


def csv(path: Path) -> object:
    return standins.csv_manifest(path, ITEMS)


def solution(path: Path) -> object:
    return standins.loc_solution(path, ITEMS)


def val_txt(path: Path) -> object:
    return standins.val_txt(path, ITEMS)


def tar(path: Path) -> object:
    return standins.tar(path, ITEMS, folders=True)


@PLAIN
@given(st.one_of(mutated(bytes_of(csv)), st.text(max_size=200).map(str.encode)))
def test_any_csv(content: bytes) -> None:
    fuzz_labels("labels.csv", content)


@PLAIN
@given(mutated(bytes_of(solution)))
def test_any_solution(content: bytes) -> None:
    fuzz_labels("LOC_val_solution.csv", content)


@PLAIN
@given(st.one_of(mutated(bytes_of(val_txt)), st.binary(max_size=200)))
def test_any_val_txt(content: bytes) -> None:
    fuzz_labels("val.txt", content)


@PLAIN
@given(st.sampled_from(["ILSVRC2012_validation_ground_truth.txt", "meta.mat"]), st.data())
def test_any_devkit(name: str, data: st.DataObject) -> None:
    with TemporaryDirectory() as place:
        root = standins.flat(Path(place) / "val", ITEMS)
        folder = standins.devkit(root / standins.DEVKIT, ITEMS)
        path = folder / "data" / name
        path.write_bytes(data.draw(mutated(path.read_bytes())))
        read(root)


@PLAIN
@given(mutated(bytes_of(tar)))
def test_any_tar(content: bytes) -> None:
    with TemporaryDirectory() as place:
        (Path(place) / "val.tar").write_bytes(content)
        read(Path(place) / "val.tar")


# ---- configs -------------------------------------------------------------------------------------

KEYS = [
    *("eps", "steps", "n_images", "slots", "source", "targets", "attack", "norm", "suite", "seed"),
    *("shard", "shards", "select", "attack.size", "attack.chain.momentum.decay", "data.root"),
    *("success", "suite.name", "suite.networks.vgg16.mean", "hydra.searchpath", "allow", "+x"),
    *("attack.step", "attack.stop", "defenses.jpeg75.quality", "experiment", "hydra/launcher"),
]
ODD = [
    *("null", "[]", "{}", "[a,b]", "{a:b}", "1,2", "${eps}", "${no}", "${eps:}", "glob(*)"),
    *("range(1,4)", "choice(1,2)", "vgg16", "mifgsm", "true", "''", '"a b"', "~", "../x"),
]
VALUES = st.one_of(
    st.text(max_size=12), st.integers().map(str), st.floats().map(str), st.sampled_from(ODD)
)
WORD = st.one_of(
    st.tuples(st.sampled_from(KEYS), VALUES).map("=".join),
    st.text(max_size=20),
)


@PLAIN
@given(st.lists(WORD, min_size=1, max_size=3))
def test_any_words(words: list[str]) -> None:
    with suppress(ConfigError):
        for cell in expand(words):
            assert cell.folder.resolve().is_relative_to(Path(cell.config.outputs).resolve())


def text_of(group: str, name: str) -> bytes:
    return Path(conf_dir(), group, f"{name}.yaml").read_bytes()


PLACED = {"attack": text_of("attack", "mifgsm"), "suite": text_of("suite", "demo")}
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from([*("name", "title", "defaults", "chain", "step"), "networks", "_target_"])
        | st.text(max_size=6),
        inner,
        max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("group", PLACED)
@settings(PLAIN, max_examples=40)
@given(data=st.data())
def test_any_config_file(group: str, data: st.DataObject) -> None:
    content = data.draw(
        st.one_of(mutated(PLACED[group]), TREES.map(lambda t: yaml.safe_dump(t).encode()))
    )
    with TemporaryDirectory() as place:
        folder = Path(place) / group
        folder.mkdir()
        (folder / "fuzzed.yaml").write_bytes(content)
        with suppress(ConfigError):
            expand([f"hydra.searchpath=[{place}]", f"{group}=fuzzed"])


# ---- records -------------------------------------------------------------------------------------


@functools.cache
def whole() -> tuple[dict[str, bytes], Any, Any]:
    """The files of a small cell, and what they say."""
    with TemporaryDirectory() as place:
        records = Records(Path(place))
        records.update_run(lambda run: run.update(eligible=3, lost=[], config={"n_images": 3}))
        rows = [{"position": i, "image_id": f"i{i}", "target": t} for i in range(3) for t in "ab"]
        records.write_part("0/1", {"rows": rows})
        files = {path.name: path.read_bytes() for path in Path(place).iterdir()}
        return files, records.run(), records.read("rows")


@PLAIN
@given(st.data())
def test_any_run_json(data: st.DataObject) -> None:
    files, run, _ = whole()
    changed = data.draw(st.one_of(mutated(files["run.json"]), st.binary(max_size=50)))
    check(files | {"run.json": changed}, lambda records: records.run() == run)


@PLAIN
@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=4))
def test_any_json(content: Any) -> None:
    files, run, _ = whole()
    for value in (content, {"schema_version": content}, {"schema_version": 3, "digest": content}):
        text = json.dumps(value).encode()
        check(files | {"run.json": text}, lambda records: records.run() == run)


@PLAIN
@given(st.data())
def test_any_part(data: st.DataObject) -> None:
    """What is read is what was written, or nothing."""
    files, _, rows = whole()
    (name,) = [name for name in files if name.startswith("rows-")]
    changed = data.draw(st.one_of(mutated(files[name]), st.binary(max_size=50)))
    check(files | {name: changed}, lambda records: records.read("rows").equals(rows))


def check(files: dict[str, bytes], same: Callable[[Records], bool]) -> None:
    with TemporaryDirectory() as place:
        for name, content in files.items():
            (Path(place) / name).write_bytes(content)
        with suppress(ConfigError):
            assert same(Records(Path(place)))


@PLAIN
@given(st.dictionaries(st.sampled_from(KEYS), st.integers() | st.text(max_size=5), max_size=3))
def test_any_stored_config(stored: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        stored_cell(stored, Path("outputs/demo/cell"))
