"""Readers of what comes from elsewhere, given anything: they read it, or say in a line why not.

Whatever else is raised is a bug. Hypothesis makes the input, the same in every run.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.load import stored_cell
from agr.config.overrides import flags_first
from agr.config.schema import PACKAGE, Config, Data, Geometry, Suite
from agr.data.decode import BadImage, load_image
from agr.data.devkit import META, TRUTH, parse_devkit, unpack_devkit
from agr.data.entries import Entry, Manifest
from agr.data.labels import parse_solution, parse_val_txt
from agr.data.manifest import read_manifest
from agr.records.schema import ROWS as COLUMNS
from agr.records.store import Records
from agr.utils.errors import LONGEST_LINE, ConfigError, one_line
from agr.utils.text import LONGEST_ID, UNSHOWN
from tests import standins

pytestmark = pytest.mark.slow

T = TypeVar("T")
CLASSES = 10
HERE = Path("list")
NIPS = "images.csv"


def fuzz(examples: int) -> Callable[[Any], Any]:
    """Settings of a test; it makes its files anew for each example."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def read(reader: Callable[..., T], *given: Any) -> T | None:
    """What a reader makes of it; None where it says in one line that it can't."""
    try:
        return reader(*given)
    except ConfigError as e:
        line = one_line(str(e))
        assert not UNSHOWN.search(line)
        assert 10 < len(line) <= LONGEST_LINE
        return None


# ---- what is given -------------------------------------------------------------------------------

BYTES = st.binary(max_size=12)
PLACES = st.floats(0, 1, exclude_max=True)
CUTS = st.one_of(st.none(), st.integers(0, 40))  # None: as many as are put in
EDITS = st.lists(st.tuples(PLACES, CUTS, BYTES), min_size=1, max_size=4)


def edited(content: bytes, edits: Sequence[tuple[float, int | None, bytes]]) -> bytes:
    """`content`, from which bytes are cut at some places, and into which others are put."""
    for place, cut, put in edits:
        at = int(place * (len(content) + 1))
        content = content[:at] + put + content[at + (len(put) if cut is None else cut) :]
    return content


def near(content: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(EDITS.map(lambda edits: edited(content, edits)), st.binary(max_size=300))


NAMES = st.one_of(
    st.sampled_from(
        [
            "a.JPEG",
            "b.png",
            "../a.png",
            "/etc/passwd",
            "..",
            "\x1b.png",
            ".",
            "",
            "x/a.JPEG",
            "\x1b",
        ]
    ),
    st.text(max_size=8),
)
WORDS = st.one_of(
    st.integers(-3, 12).map(str),
    st.sampled_from(["n01440764", "n99999999", "٣", "1.5", "9" * 5000, "nan", ""]),
    st.text(max_size=5),
)
HEADERS = [
    "filename,label",
    "filename,label,target,sha256",
    "ImageId,TrueLabel,TargetClass",
    "label",
]
FIELDS = st.one_of(st.tuples(NAMES, WORDS), st.lists(st.one_of(NAMES, WORDS), max_size=5))
ROWS = st.lists(FIELDS.map(",".join), max_size=3)
CSV = st.tuples(st.sampled_from([*HEADERS, "\ufefffilename,label"]), ROWS)
FILES = ["a.JPEG", "b.png", "c.png", "\x1b.png", "x/d.JPEG", f"{'n' * 201}.png"]  # these are there
NEAT_ROWS = st.lists(st.tuples(st.sampled_from(FILES), st.integers(-1, 11)), min_size=1, max_size=2)
NEAT = NEAT_ROWS.map(lambda rows: "\n".join(["filename,label", *(f"{n},{k}" for n, k in rows)]))
CSV_TEXT = st.one_of(
    st.tuples(CSV, st.sampled_from("\n\r\t")).map(lambda t: t[1].join([t[0][0], *t[0][1]])),
    st.text(max_size=60),
)


# ---- manifests -----------------------------------------------------------------------------------


def suite(synsets: str | None = None) -> Suite:
    return Suite(name="s", synsets=synsets, groups={}, networks={})


def sound(manifest: Manifest | None, synsets: str | None) -> None:
    """What a run relies on: names of files that lead nowhere, and classes that there are."""
    for e in manifest.entries if manifest else ():
        assert e.image_id.isprintable()
        assert "/" not in e.image_id
        assert not e.image_id.startswith(".")
        assert 0 < len(e.image_id.encode()) <= LONGEST_ID
        assert 0 <= e.label < (1000 if synsets else CLASSES)
        assert e.target != e.label


def manifest_of(root: Path, labels: Path | None, synsets: str | None) -> Manifest | None:
    data = Data(root=str(root), labels=str(labels) if labels else None)
    return read(read_manifest, data, suite(synsets), 1000 if synsets else CLASSES)


@fuzz(150)
@given(
    text=CSV_TEXT,
    name=st.sampled_from(["list.csv", NIPS]),
    synsets=st.sampled_from([None, "imagenet"]),
)
def test_lists_of_images(text: str, name: str, synsets: str | None, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogatepass")
    (tmp_path / "a.JPEG").touch()
    root = tmp_path if name == NIPS else tmp_path / name
    sound(manifest_of(root, None, synsets), synsets)


@fuzz(100)
@given(text=NEAT)
def test_lists_that_are_nearly_right(text: str, tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list.csv").write_text(text)
    sound(manifest_of(tmp_path / "list.csv", None, None), None)


@fuzz(80)
@given(content=near(b'filename,label,target\na.JPEG,0,1\n"b,c.JPEG",3,\n'))
def test_bytes_of_a_list_of_images(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    sound(manifest_of(tmp_path / "list.csv", None, None), None)


@fuzz(150)
@given(text=st.one_of(CSV_TEXT, st.lists(st.tuples(NAMES, WORDS).map(" ".join)).map("\n".join)))
def test_labels_in_lines(text: str) -> None:
    for parse in (parse_val_txt, parse_solution):
        words = read(parse, text, HERE)
        assert all(map(str.isascii, (words or {}).values()))


@fuzz(60)
@given(rows=st.lists(st.tuples(NAMES, WORDS), max_size=4), quote=st.booleans())
def test_solutions(rows: list[tuple[str, str]], quote: bool) -> None:
    mark = '"' if quote else ""
    lines = [f"{mark}{name}{mark},{word} 1 2 3 4" for name, word in rows]
    read(parse_solution, "\n".join(["ImageId,PredictionString", *lines]), HERE)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The devkit's meta.mat and ground truth, and both of them packed."""
    folder = standins.devkit(tmp_path_factory.mktemp("kit"), standins.photos(3, sizes=[(8, 8)]))
    packed = standins.pack_devkit(folder / "kit.tar.gz", folder / "data").read_bytes()
    return {n: (folder / "data" / n).read_bytes() for n in (TRUTH, META)} | {"packed": packed}


@fuzz(40)
@given(edits=EDITS, of_meta=st.booleans())
def test_the_ground_truth(edits: Any, of_meta: bool, kit: dict[str, bytes]) -> None:
    truth, meta = kit[TRUTH], kit[META]
    meta, truth = (edited(meta[:3000], edits), truth) if of_meta else (meta, edited(truth, edits))
    read(parse_devkit, truth.decode("latin-1"), meta, HERE)


@fuzz(60)
@given(edits=EDITS, inside=st.booleans())
def test_a_packed_devkit(edits: Any, inside: bool, kit: dict[str, bytes]) -> None:
    content = edited(gzip.decompress(kit["packed"])[:4000] if inside else kit["packed"], edits)
    read(unpack_devkit, gzip.compress(content) if inside else content, HERE)


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    items = [
        item._replace(content=b"x" * 700) for item in standins.photos(3, CLASSES, sizes=[(8, 8)])
    ]
    return standins.tar(
        tmp_path_factory.mktemp("tar") / "a.tar", items, above="y" * 110 + "/"
    ).read_bytes()


def resealed(content: bytes) -> bytes:
    """A tar whose headers' checksums are right again, so that what they claim is believed."""
    blocks = [content[i : i + 512] for i in range(0, len(content), 512)]
    for i, block in enumerate(blocks):
        if block[257:262] == b"ustar" and len(block) == 512:
            bare = block[:148] + b" " * 8 + block[156:]
            blocks[i] = bare[:148] + b"%06o\0 " % sum(bare) + bare[156:]
    return b"".join(blocks)


CLAIMS = [b"\x80\x7f", b"\xff" * 12, b"-1\0", b"77777777777\0", b"00000000000\0", b"5", b"L", b"x"]
IN_HEADERS = st.tuples(st.integers(0, 6), st.sampled_from([0, 100, 124, 156, 157, 345]))


@fuzz(300)
@given(edits=EDITS, claims=st.lists(st.tuples(IN_HEADERS, st.sampled_from(CLAIMS)), max_size=3))
def test_tars(edits: Any, claims: Any, tar: bytes, tmp_path: Path) -> None:
    """Members lie inside, whatever their headers say."""
    content = bytearray(edited(tar, edits[: len(edits) * (not claims)]))
    for (block, at), claim in claims:
        content[512 * block + at : 512 * block + at + len(claim)] = claim
    content = resealed(bytes(content))
    (tmp_path / "a.tar").write_bytes(content)
    names = "".join(f"{standins.name_of(i + 1)} {i}\n" for i in range(3))
    (tmp_path / "l.txt").write_text(names)
    manifest = manifest_of(tmp_path / "a.tar", tmp_path / "l.txt", None)
    sound(manifest, None)
    for e in manifest.entries if manifest else ():
        assert e.path == tmp_path / "a.tar"
        assert 512 <= (e.offset or 0) <= (e.offset or 0) + (e.size or 0) <= len(content)


@fuzz(120)
@given(edits=EDITS, kind=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP"]))
def test_images(edits: Any, kind: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    standins.photo((24, 18)).save(buffer, kind)
    (tmp_path / "a").write_bytes(edited(buffer.getvalue(), edits))
    try:
        pixels = load_image(Entry("a", tmp_path / "a", 0), Geometry(16))
    except BadImage as e:
        said = str(e)
    else:
        said = "fine"
        assert (pixels.shape, pixels.dtype) == ((3, 16, 16), "uint8")
    assert not UNSHOWN.search(said)


# ---- configs -------------------------------------------------------------------------------------

KEYS = ["eps", "steps", "n_images", "seed", "shard", "source", "targets", "attack", "norm", "suite"]
KEYS += ["allow", "outputs", "device", "data.root", "suite.name", "suite.networks", "attack.step"]
KEYS += ["attack.size", "attack.chain.momentum", "defenses", "hydra.callbacks", "hydra.run.dir"]
KEYS += ["hydra/launcher", "suite.groups.inception.geometry.size", "suite.networks.vgg16.mean"]
VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        [
            "null",
            "",
            "true",
            "[a,b]",
            "{a:b}",
            "[[1]]",
            "${eps}",
            "${nope}",
            "${oc.env:NO}",
            "../x",
            "1,2",
            "range(0,3)",
            "glob(*)",
            "choice(1,2)",
            "'a\nb'",
            "\x1b",
            "???",
            "agr",
            "l2",
            "demo",
            "{_target_: os.system}",
            "vgg16",
            "[vgg16]",
            "1/2",
            "eps/3",
        ]
    ),
    st.text(max_size=6),
)
WORD = st.one_of(
    st.tuples(st.sampled_from(["", "+", "++", "~"]), st.sampled_from(KEYS), VALUES).map(
        lambda t: f"{t[0]}{t[1]}={t[2]}"
    ),
    st.text(max_size=8),
)


def cells(words: Sequence[str]) -> list[Cell] | None:
    found = read(expand, words)
    for cell in found or ():
        assert isinstance(cell.config, Config)
        assert cell.folder.parent == Path(cell.config.outputs) / cell.suite.name
        assert cell.folder.resolve().is_relative_to(Path(cell.config.outputs).resolve())
        assert 0 <= cell.shard[0] < cell.shard[1]
    return found


@example(given_words=["suite.name=../x"])
@example(given_words=["suite.name=/x", "outputs=y"])
@fuzz(90)
@given(given_words=st.lists(WORD, min_size=1, max_size=3))
def test_words(given_words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a command line: cells, or one line. Names of networks are looked up without a hub."""
    monkeypatch.setattr("agr.utils.hub._unreachable", lambda: "not in tests")
    cells(given_words)


FLAGS = st.sampled_from(
    ["-m", "--cfg", "job", "--info", "-cd", "--config-dir=/", "-r", "--help", "a=1"]
)


@fuzz(100)
@given(arguments=st.lists(st.one_of(FLAGS, st.text(max_size=5)), max_size=5))
def test_flags(arguments: list[str]) -> None:
    """Flags come first, and no word gets lost."""
    ordered = read(flags_first, arguments)
    if ordered is not None:
        flags = [word.startswith("-") for word in ordered]
        assert flags == sorted(flags, reverse=True)
        assert [w for w in ordered if "=1" in w] == [w for w in arguments if "=1" in w]


ATTACK = b"""defaults: [_base]
name: own
title: "Own"
steps: 4
size: eps/4
chain: {momentum: {_target_: agr.attacks.stages.Momentum, decay: 1.0}}
step: {_target_: agr.attacks.step.Plain}
start: &a null
stop: *a
"""
SUITE = f"""name: own
root: {PACKAGE}/assets/demo/val
groups:
  a: {{networks: [vgg16], geometry: {{size: 64, crop: 0.9}}}}
networks:
  vgg16: {{architecture: vgg16, width: 0.125, classes: 10, size: 64, mean: [0.5, 0.5, 0.5],
    std: [0.5, 0.5, 0.5], weights: x.safetensors}}
""".encode()
SNIPPETS = st.sampled_from(
    [
        b"&a ",
        b"*a",
        b"${",
        b"!!python/object:os ",
        b"{",
        b"]",
        b"- ",
        b": ",
        b"\n",
        b"\t",
        b"#",
        b"'",
        b"/../../",
        b"# @package _global_\n",
        b"null",
        b"???",
        b"\xff",
        b"\x00",
        b"<<: *a",
        b"hydra: {verbose: 1}\n",
    ]
)
YAML_EDITS = st.lists(
    st.tuples(PLACES, st.integers(0, 20), SNIPPETS | BYTES), min_size=1, max_size=3
)


@fuzz(120)
@given(edits=YAML_EDITS, group=st.sampled_from(["attack", "suite", "experiment"]))
def test_files_of_configs(edits: Any, group: str, tmp_path: Path) -> None:
    (tmp_path / group).mkdir(exist_ok=True)
    content = edited(SUITE if group == "suite" else ATTACK, edits)
    (tmp_path / group / "own.yaml").write_bytes(content)
    cells([f"hydra.searchpath=[{tmp_path}]", f"{group}=own"])


# ---- records -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """A folder of records with two rows."""
    records = Records(tmp_path_factory.mktemp("records") / "cell")
    records.update_run(
        lambda run: vars(run).update(name="x", config={"eps": 10.0, "allow": []}, lost=[1, 2])
    )
    row: dict[str, Any] = dict.fromkeys(COLUMNS.names, 0)
    texts = ("suite", "cell", "attack", "attack_hash", "norm", "source", "target", "adv_sha256")
    row |= dict.fromkeys(texts, "x") | {"image_id": "a", "success": True, "white_box": True}
    row |= {"l2": 0.5, "flat": None}
    records.write_part("0/1", {"rows": [row | {"position": i} for i in range(2)]})
    return records


def swapped(path: Path, content: bytes, check: Callable[[], None]) -> None:
    """Run `check` while a file has another content."""
    before = path.read_bytes()
    try:
        path.write_bytes(content)
        check()
    finally:
        path.write_bytes(before)


@fuzz(150)
@given(edits=EDITS)
def test_run_json(edits: Any, written: Records) -> None:
    """It says what was written, or that it is damaged: never something else."""
    whole = written.run()
    assert whole

    def check() -> None:
        found = read(written.run)
        assert found is None or found == whole

    swapped(written.run_file, edited(written.run_file.read_bytes(), edits), check)


@fuzz(60)
@given(
    change=st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists), key=st.text()
)
def test_run_json_of_another_shape(change: Any, key: str, written: Records) -> None:
    """What is JSON and wasn't written by us is refused."""
    whole = written.run()
    run = json.loads(written.run_file.read_text())
    for content in (change, run | {key: change}, run | {"schema_version": change}):
        text = json.dumps(content)

        def check() -> None:
            found = read(written.run)
            assert found is None or found == whole

        swapped(written.run_file, text.encode(), check)


@fuzz(120)
@given(edits=EDITS)
def test_parts(edits: Any, written: Records) -> None:
    whole = written.read("rows")
    (path,) = written.folder.glob("rows-*.parquet")

    def check() -> None:
        found = read(written.read, "rows")
        if found is not None:
            pd.testing.assert_frame_equal(found, whole)

    swapped(path, edited(path.read_bytes(), edits), check)


@fuzz(60)
@given(
    stored=st.dictionaries(
        st.sampled_from([*KEYS, *vars(Config())]), VALUES | st.integers(), max_size=3
    )
)
def test_configs_in_run_json(stored: dict[str, Any]) -> None:
    assert read(stored_cell, stored, Path("outputs/demo/cell")) is None  # it lacks a suite


# ---- that all of this reads what is whole --------------------------------------------------------


def test_what_is_whole_is_read(
    kit: dict[str, bytes], tar: bytes, written: Records, tmp_path: Path
) -> None:
    assert len(read(parse_devkit, kit[TRUTH].decode(), kit[META], HERE) or {}) == 3
    assert set(read(unpack_devkit, kit["packed"], HERE) or {}) == {TRUTH, META}
    (tmp_path / "a.tar").write_bytes(tar)
    (tmp_path / "l.txt").write_text("".join(f"{standins.name_of(i + 1)} {i}\n" for i in range(3)))
    manifest = manifest_of(tmp_path / "a.tar", tmp_path / "l.txt", None)
    assert manifest
    assert len(manifest.entries) == 3
    for group, content in (("attack", ATTACK), ("suite", SUITE)):
        (tmp_path / group).mkdir()
        (tmp_path / group / "own.yaml").write_bytes(content)
    words = [f"hydra.searchpath=[{tmp_path}]", "suite=own", "attack=own", "seed=1,2"]
    assert len(cells(words) or []) == 2
    assert len(read(written.read, "rows")) == 2
