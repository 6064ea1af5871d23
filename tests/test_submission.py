"""Entries of a leaderboard: made from records, and reviewed where they are false or hostile."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import agr.check
import agr.review
import agr.score
import agr.submit
from agr.config.compose import expand
from agr.config.schema import PACKAGE
from agr.evaluation.runner import run_cell
from agr.jobs import session
from agr.jobs.search_space import load_space
from agr.jobs.trials import Options, draw_trials
from agr.records.audit import check_records
from agr.records.claim import CLAIM, Claim, read_claim
from agr.records.folders import cell_folders
from agr.records.places import PLACE, shared_command, texts_of
from agr.records.progress import progress
from agr.records.run_info import RunInfo
from agr.records.store import Records
from agr.report.frames import selected
from agr.submission.checks import FALSE, HOLDS, UNKNOWN, Unknown
from agr.submission.claimed import SAMPLE, Entry, sample_of
from agr.submission.ours import our_attack, our_cell
from agr.submission.portable import _short_names
from agr.submission.reviewing import reviewed
from agr.submission.sample import read_sample
from agr.utils.errors import ConfigError
from agr.utils.hashing import draw
from agr.utils.pixels import write_png
from tests.conftest import assert_same_bits, called, demo_cell
from tests.test_verify import rewrite

VGG = ("source=vgg16", "targets=[vgg16,vgg19]", "n_images=6", "progress=false", "attack=ifgsm")
pytestmark = pytest.mark.xdist_group("submission")  # its cells are run once
FACTS = ["name=Mine", "paper=arXiv:1607.02533", "code=https://example.org/code"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells: one in two shards with its images, one whose images have to be crafted again."""
    outputs = tmp_path_factory.mktemp("outputs")
    for shard in ("0/2", "1/2"):
        run_cell(demo_cell(outputs, *VGG, "save_adversarials=true", "trace=true", f"shard={shard}"))
    run_cell(demo_cell(outputs, *VGG, "norm=l2"))
    return outputs


@pytest.fixture(scope="module")
def made(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the entries "mine" of one cell and "both", and their samples."""
    place = tmp_path_factory.mktemp("made")
    folders = [str(folder) for folder in cell_folders(outputs)]
    for name, cells in {"mine": folders[1:], "both": folders}.items():
        words = [*FACTS, f"to={place / name}", f"sample={place / name}-sample"]
        agr.submit.main([*cells, *words])
    return place


@pytest.fixture
def mine(made: Path, tmp_path: Path) -> Path:
    """A copy of the entry that may be spoilt."""
    return shutil.copytree(made / "mine", tmp_path / "mine")


@pytest.fixture
def sample(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "mine-sample", tmp_path / "sample")


def records_of(entry: Path) -> Records:
    (folder,) = cell_folders(entry / "records")
    return Records(folder)


def edit(entry: Path, change: Callable[[Any], object]) -> None:
    """Change the claim as a text editor would."""
    content = json.loads((entry / CLAIM).read_text())
    change(content)
    (entry / CLAIM).write_text(json.dumps(content))


def found(entry: Path, *, verdict: str = FALSE, **how: Any) -> dict[str, str]:
    """What a review says with a verdict, by what was checked; no image is crafted again."""
    checks = list(reviewed(entry, **{"images": 0} | how))
    assert all(len(str(check).splitlines()) == 1 for check in checks)
    return {
        check.what.partition(" of ifgsm-")[0].partition(" ifgsm-")[0]: check.why
        for check in checks
        if check.verdict == verdict
    }


# ---- what is claimed, by hand --------------------------------------------------------------------


def claimed(**more: Any) -> dict[str, Any]:
    rate = {"target": "a", "white_box": False, "images": 4, "successes": 1, "asr": 25.0}
    rate |= {"low": 4.6, "high": 69.9, "clean": None}
    cost = {"forwards": 11.0, "backwards": 10.0, "steps": 10.0, "seconds": None}
    cell = {"folder": "c", "source": "a", "norm": "linf", "eps": 8.0, "seed": 0, "device": "cpu"}
    cell |= {"rates": [rate], "cost": cost}
    cell["sample"] = [{"image_id": "i", "position": 0, "sha256": "0"}]
    protocol = dict.fromkeys(["data", "select", "split", "success", "denominator"], "x")
    protocol |= {"suite": "demo", "steps": 10, "quantize": "always", "precision": "fp32"}
    attack = {"name": "mine", "title": "Mine", "hash": "0", "yaml": "name: mine\n", "images": None}
    whole = {"name": "Mine", "attack": attack, "protocol": protocol, "cells": [cell]}
    whole |= {"paper": "", "code": "", "by": "", "git": None, "versions": {}, "schema": 1}
    return whole | more


def test_a_claim_is_read(tmp_path: Path) -> None:
    (tmp_path / CLAIM).write_text(json.dumps(claimed()))
    claim: Claim = read_claim(tmp_path)
    assert (claim.name, claim.cells[0].rates[0].asr, claim.cells[0].eps) == ("Mine", 25.0, 8.0)
    assert claim.cells[0].sample[0].image_id == "i"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a claim"),
        ("[]", "it is not a JSON object"),
        ("[" * 100_000, "is not a claim"),
        (json.dumps(claimed(schema=2)), "has schema 2, and this program reads 1: use a version"),
        (json.dumps(claimed(schema=True)), "is not a claim"),
        (json.dumps(claimed(more=1)), "'more' is a key of no claim$"),
        (
            json.dumps(claimed(cells=[claimed()["cells"][0] | {"colour": {"of": 1}}])),
            "'cells'.0.'colour' is a key of no claim$",
        ),
        (json.dumps({k: v for k, v in claimed().items() if k != "by"}), "'by' is missing$"),
        (json.dumps(claimed(name=7)), "7 is not of <class 'str'>"),
        (json.dumps(claimed(name=" ")), "it has no name"),
        (json.dumps(claimed(name="a" * 301)), "name has 301 characters"),
        (json.dumps(claimed(name="a\x1b[2J")), "name has a sign that can't be shown"),
        (json.dumps(claimed(cells=[])), "no cells"),
        (json.dumps(claimed()).replace("25.0", "NaN"), "NaN is not a number"),
        (json.dumps(claimed()).replace("25.0", "-Infinity"), "-Infinity is not a number"),
        (json.dumps(claimed()).replace("25.0", "1e999"), "1e999 is not a number"),
        (json.dumps(claimed()).replace("25.0", "9" * 5000), "is not a claim"),
        (json.dumps(claimed()).replace("25.0", "9" * 400), "is not a claim"),
        (json.dumps(claimed()).replace('"successes": 1', '"successes": 5'), "are not a rate"),
        (
            json.dumps(claimed()).replace('"folder": "c"', '"folder": "../c"'),
            "is not a folder name",
        ),
        (json.dumps(claimed()).replace('"suite": "demo"', '"suite": ".."'), "is not a folder name"),
        (json.dumps(claimed()).replace('"image_id": "i"', '"image_id": "../i"'), "not an id of an"),
        (json.dumps(claimed()).replace('"a"', '"\\ud800"'), "sign that can't be shown"),
        (" " * (1 << 22) + json.dumps(claimed()), "larger than"),
    ],
    ids=lambda text: text.strip()[:20],
)
def test_no_claim(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / CLAIM).write_text(text)
    with pytest.raises(ConfigError, match=reason) as e:
        read_claim(tmp_path)
    assert len(str(e.value).splitlines()) == 1


def test_no_file_but_a_regular_one_is_a_claim(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing"):
        read_claim(tmp_path)
    (tmp_path / "there").write_text(json.dumps(claimed()))
    (tmp_path / CLAIM).symlink_to(tmp_path / "there")
    with pytest.raises(ConfigError, match="it is a link"):
        read_claim(tmp_path)
    (tmp_path / CLAIM).unlink()
    os.mkfifo(tmp_path / CLAIM)
    with pytest.raises(ConfigError, match="not a regular file"):  # and doesn't wait for a writer
        read_claim(tmp_path)


def test_a_sample_is_chosen_by_nobody() -> None:
    cell = expand(["attack=ifgsm", "n_images=50"])[0]
    ids = [f"image{n}" for n in range(50)]
    rows = pd.DataFrame({"image_id": ids, "position": range(50), "adv_sha256": ids})
    chosen = [image.image_id for image in sample_of(cell, rows)]
    assert len(set(chosen)) == SAMPLE == 20
    assert chosen == [i.image_id for i in sample_of(cell, rows[::-1])]
    left = {*ids} - {*chosen}
    last = max(draw(cell.id, "sample", i) for i in chosen)
    assert all(draw(cell.id, "sample", i) > last for i in left)
    other = expand(["attack=ifgsm", "n_images=50", "eps=9"])[0]
    assert chosen != [image.image_id for image in sample_of(other, rows)]


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("/home/me/w.pth", True), ("resnet50:/home/me/w.pth", True), ("~/w.pth", True),
        ("in /data/val", True), (r"C:\w.pth", True), (r"\\host\share", True), ("'/a/b'", True),
        ("https://a.org/b/c", False), ("vgg16/jpeg75", False), ("hub:timm/vgg16.tv_in1k", False),
        ("package:a/b/c.pth", False), ("ASR / clean", False), ("a/b", False), ("1/2", False),
    ],
)  # fmt: skip
def test_places_are_known(text: str, there: bool) -> None:
    assert bool(PLACE.search(text)) is there


def test_commands_and_weights_lose_their_places() -> None:
    command = "NIPS17_DIR='/d s' python -m agr.run attack=agr outputs=o data.root=/x eps=8 a=/b/c"
    assert shared_command(command) == "python -m agr.run attack=agr eps=8 a=PATH"
    assert shared_command("it's") == ""
    weights = ["/a/w.pth", "/b/w.pth", "/a/w.pth", "hub:x/y", "package:x/y.pth"]
    short = {"/a/w.pth": "w.pth", "/b/w.pth": "2/w.pth"}
    assert _short_names(weights) == short | {w: w for w in weights[3:]}


def composed(*words: str) -> Entry:
    return Entry(expand(["attack=ifgsm", "norm=linf", *words])[0], RunInfo(), Records(Path("x")))


def test_attacks_are_ours_by_their_hash() -> None:
    """Nothing of a stranger's attack is built: it is composed anew, or not at all."""
    for words in ([], ["steps=3"], ["source=[vgg16,vgg19]"], ["attack=library/ddn", "norm=l2"]):
        entry = composed(*words)
        assert our_attack(entry, []) == entry.cell.config.attack
        assert our_attack(entry, []) is not entry.cell.config.attack
    with pytest.raises(Unknown, match="has other parts or parameters than agr's"):
        our_attack(composed("attack.size=2"), [])
    for name in ("mine", "../attack/ifgsm", "_base", "a b", "ifgsm.yaml"):
        with pytest.raises(Unknown, match=r"is none of agr's|has other parts|can't be composed"):
            our_attack(composed(f"attack.name='{name}'"), [])


def test_networks_are_ours_or_none() -> None:
    entry = composed("source=vgg16", "targets=[vgg16,vgg19/jpeg75]")
    run = RunInfo(networks={t: entry.cell.network_digest(t) for t in entry.cell.targets})
    entry = entry._replace(run=run)
    ours = our_cell(entry, [], "there")
    assert (ours.id, ours.config.outputs, ours.targets) == (entry.cell.id, "there", [*run.networks])
    run.networks["vgg16"] = "another"
    with pytest.raises(ConfigError, match="vgg16 has another config here"):
        our_cell(entry, [], "there")
    larger = composed("source=vgg16", "suite.networks.vgg16.width=0.25")
    with pytest.raises(ConfigError, match="suite=demo has other networks, defenses or images here"):
        our_cell(larger, [], "there")
    with pytest.raises(Unknown, match="suite='theirs' isn't known here"):
        our_cell(composed("suite.name=theirs"), [], "there")


# ---- from cells to an entry ----------------------------------------------------------------------


@pytest.mark.slow
def test_an_entry_holds_what_was_run(
    outputs: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = read_claim(made / "both")
    assert (claim.name, claim.paper, claim.by) == ("Mine", "arXiv:1607.02533", "")
    assert [cell.norm for cell in claim.cells] == ["l2", "linf"]
    for cell in claim.cells:
        before = Records(outputs / "demo" / cell.folder)
        after = Records(made / "both/records/demo" / cell.folder)
        keys = ["position", "target"]
        rows, packed = (r.read().sort_values(keys, ignore_index=True) for r in (before, after))
        assert_same_bits(packed, rows)
        (part,) = after.part_files("rows")
        assert part.path.stat().st_size < 14_000  # most of it once for any number of rows
        assert check_records(after).problems == check_records(after).notes == []
        for rate in cell.rates:
            mine = rows[rows["target"] == rate.target]
            assert (rate.images, rate.successes) == (6, mine["success"].sum())
            assert rate.asr == round(100 * rate.successes / 6, 4)
        assert {r.target: r.white_box for r in cell.rates} == {"vgg16": True, "vgg19": False}
        assert (cell.cost.backwards, cell.cost.steps) == (10, 10)
        by_id = rows.set_index("image_id")["adv_sha256"].to_dict()
        assert len(cell.sample) == 6
        for image in cell.sample:
            path = made / "both-sample" / cell.folder / f"{image.image_id}.png"
            assert image.sha256 == by_id[image.image_id]
            assert np.asarray(Image.open(path)).shape == (64, 64, 3)
    agr.review.main([str(made / "both"), f"sample={made / 'both-sample'}"])
    out = capsys.readouterr().out
    assert out.endswith("29 checks: 29 right, 0 wrong, 0 can't be checked here\n")
    assert out.count("6 images: the same bits") == 2


@pytest.mark.slow
def test_an_entry_names_no_place_and_nobody(made: Path, outputs: Path) -> None:
    secrets = {str(outputs), str(PACKAGE), str(Path.home()), socket.gethostname()}
    secrets |= {getpass.getuser()} - {"root"}  # which is a key of configs
    texts = []
    for path in sorted((made / "mine").rglob("*")):
        texts.append(str(path.relative_to(made / "mine")))
        if path.is_file():
            texts.append(path.read_bytes().decode("latin-1"))
        if path.suffix == ".json":
            texts += [text for _, text in texts_of(json.loads(path.read_text()))]
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            texts += [str(table.schema), str(pq.read_metadata(path).metadata)]
            strings = [n for n in table.column_names if table[n].type == pa.string()]
            texts += [text for n in strings for text in table[n].unique().to_pylist() if text]
    assert len(texts) > 500
    for secret in secrets:
        assert [text[:200] for text in texts if secret in text] == []
    assert [text[:200] for text in texts if PLACE.search(text) and text.isprintable()] == []


@pytest.mark.slow
def test_commands_work_on_an_entry(mine: Path, tmp_path: Path) -> None:
    cell = demo_cell(mine / "records", *VGG)
    assert progress(cell, Records(cell.folder)).word == "done"
    assert selected(cell) is not None  # as tables read it
    shutil.copytree(mine / "records", tmp_path / "more")
    more = demo_cell(tmp_path / "more", *VGG, "n_images=8")
    run_cell(more)
    assert Records(more.folder).scored() == {t: {*range(8)} for t in ("vgg16", "vgg19")}
    assert check_records(Records(more.folder)).problems == []


@pytest.mark.slow
def test_an_entry_is_of_the_images_asked_for(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Overrides say how many; folders mean the last run. What isn't claimed is left out."""
    cell = demo_cell(shutil.copytree(outputs, tmp_path / "own"), *VGG, "norm=l2")
    run_cell(demo_cell(tmp_path / "own", *VGG, "norm=l2", "n_images=4"))  # of 6: nothing to do
    given = [word for word in VGG if not word.startswith("progress=")]
    words = [*given, "norm=l2", f"outputs={tmp_path / 'own'}", "name=x"]
    agr.submit.main([*words, f"to={tmp_path / 'six'}"])
    assert "its first" not in capsys.readouterr().out
    agr.submit.main([str(cell.folder), "name=x", f"to={tmp_path / 'four'}"])
    assert "its first 4 images are claimed, of 6 with rows" in capsys.readouterr().out
    for entry, n in (("six", 6), ("four", 4)):
        (claimed,) = read_claim(tmp_path / entry).cells
        assert {rate.images for rate in claimed.rates} == {n}
        records = records_of(tmp_path / entry)
        assert records.positions("rows") == {*range(n)}
        assert found(tmp_path / entry) == {}
    (path,) = (tmp_path / "six/records").rglob("*.parquet")  # 8 of its 12 rows are there
    shutil.copy(path, records_of(tmp_path / "four").folder)
    held = found(tmp_path / "four", verdict=HOLDS)["records"]
    assert held == "6 images, 20 rows; the claim is of the first 4"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["mine", "mine/records/../records", "mine/records/demo/new"])
def test_nothing_is_written_into_an_entry(mine: Path, tmp_path: Path, place: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in mine.rglob("*")}
    words = [*VGG, f"outputs={tmp_path / place}"]
    cells = expand(["attack=ifgsm,mifgsm", *words, "norm=linf"])
    clean = Path(__file__).parents[1] / "agr" / "assets" / "demo" / "val.csv"
    given = [f"images={tmp_path}", f"clean={clean}", words[-1]]
    options = Options(both=False, trials=2, images=1, space="standard", words=())
    for work in (
        lambda: run_cell(demo_cell(tmp_path / place, *VGG, "n_images=8")),
        lambda: session.check_all(cells),
        lambda: agr.check.main(words),
        lambda: agr.score.main(given),
        lambda: draw_trials(options, load_space("standard", cells), [], cells),
    ):
        with pytest.raises(ConfigError, match=r"holds an entry's records; .* copy them"):
            work()
    assert {path: path.stat().st_mtime_ns for path in mine.rglob("*")} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["{linf}"], "give name="),
        (["{linf}", "name= "], "give name=… once, with a value"),
        (["{linf}", "name=a", "name=b"], "give name=… once"),
        (["{linf}", f"name={'a' * 301}"], "one line of 300 characters"),
        (["{linf}", "name=a\nb"], "one line"),
        (["name=x"], "give folders of cells, or overrides"),
        (["{linf}", "eps=8", "name=x"], "not both"),
        (["nowhere", "name=x"], "nowhere has no records"),
        (["{linf}", "nmae=x"], r"nmae=x: did you mean name=\?"),
        (["{linf}", "name=x", "smaple={new}"], r"did you mean sample=\?"),
        (["{linf}", "name=x", "to={there}"], "already exists"),
        (["{linf}", "name=x", "sample={there}"], "already exists"),
        (["{linf}", "name=x", "sample={new}/sample", "to={new}"], "lies in the entry"),
        (
            ["{linf}", "{other}", "name=x"],
            "is of one attack, and these are of 2: submit them separately: .*/ifgsm-.*, .*/mifgsm-",
        ),
        (["{linf}", "{seven}", "name=x"], "share their select, and these have group, none"),
        (["{unfinished}", "name=x"], "is not finished"),
        (["{damaged}", "name=x"], "is damaged"),
        (
            ["attack=ifgsm", "source=vgg16", "n_images=99", "outputs={out}", "name=x"],
            "is not finished",
        ),
    ],
)
def test_what_is_no_entry(
    words: list[str],
    reason: str,
    outputs: Path,
    tmp_path: Path,
    spoilt: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    linf = str(demo_cell(outputs, *VGG).folder)
    places = {"linf": linf, "there": "there", "new": "new", "out": str(outputs)} | spoilt
    with pytest.raises(ConfigError, match=reason):
        agr.submit.main([word.format(**places) for word in words])
    assert sorted(tmp_path.iterdir()) == [tmp_path / "there"]  # nothing, not even a draft


@pytest.fixture(scope="module")
def spoilt(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of cells that can't be submitted with the linf one, or at all."""
    others = tmp_path_factory.mktemp("others")
    cells = {
        "other": demo_cell(others, *VGG, "attack=mifgsm"),
        "seven": demo_cell(others, *VGG, "select=none", "norm=l2"),
        "unfinished": demo_cell(others, *VGG, "shard=0/2"),
    }
    for cell in cells.values():
        run_cell(cell)
    damaged = shutil.copytree(outputs, tmp_path_factory.mktemp("damaged"), dirs_exist_ok=True)
    records = Records(demo_cell(damaged, *VGG).folder)
    part = records.part_files("rows")[0].path
    part.write_bytes(part.read_bytes()[:-100])
    folders = {name: str(cell.folder) for name, cell in cells.items()}
    return folders | {"damaged": str(records.folder)}


@pytest.mark.slow
def test_a_network_with_a_path_in_its_name_stays_at_home(outputs: Path, tmp_path: Path) -> None:
    weights = PACKAGE / "assets/demo/weights/vgg16.safetensors"
    copied = shutil.copytree(outputs, tmp_path / "outputs")
    records = Records(demo_cell(copied, *VGG).folder)
    records.update_run(lambda run: run.weights.update({f"vgg16:{weights}": "x"}))
    with pytest.raises(ConfigError, match=r"names a place of this machine, .*: give the network"):
        agr.submit.main([str(records.folder), "name=x", f"to={tmp_path / 'x'}"])
    assert not (tmp_path / "x").exists()


# ---- false and hostile ones ----------------------------------------------------------------------


@pytest.mark.slow
def test_a_false_claim(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each lie has its own line."""

    def lie(claim: Any) -> None:
        cell = claim["cells"][0]
        cell["rates"][1]["asr"] = 99.0
        cell["eps"] = 4.0
        cell["cost"]["backwards"] = 1.0
        cell["sample"].pop()
        claim["attack"]["yaml"] = "name: a\n"
        claim["protocol"]["select"] = "none"
        claim["versions"]["torch"] = "1"

    edit(mine, lie)
    said = found(mine)
    assert {what: why.partition(" is claimed to be")[0] for what, why in said.items()} == {
        "attack": "attack.yaml",
        "protocol": "protocol.select",
        "versions": "versions.torch",
        "cell": "eps",
        "rates": "rates[vgg19].asr",
        "cost": "cost.backwards",
        "choice of the sample": "sample",
    }
    code, out, err = called(lambda: agr.review.main([str(mine), "images=0"]), capsys)
    assert (code, err) == (1, "")
    assert out.count("doesn't hold") == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "what", "reason"),
    [
        (lambda c: c["cells"][0].update(folder="x"), "cells", "have demo/ifgsm-linf"),
        (lambda c: c["cells"][0].update(folder="x"), "records of x", "there is no run.json"),
        (lambda c: c.update(schema=2), "claim", "has schema 2"),
        (lambda c: c["cells"][0]["rates"][1].update(asr=10**400), "claim", "is not a claim"),
        (lambda c: c["cells"][0]["rates"][1].update(asr=float("nan")), "claim", "NaN"),
        (lambda c: c["cells"][0].update(folder="../../etc"), "claim", "is not a folder name"),
    ],
)
def test_a_hostile_claim(
    change: Callable[[Any], object], what: str, reason: str, mine: Path
) -> None:
    edit(mine, change)
    assert reason in found(mine)[what]


def _set(column: str, value: Any) -> Callable[[pd.DataFrame], None]:
    """Change the first row; whoever can write records forges their hashes, too."""

    def change(rows: pd.DataFrame) -> None:
        rows.loc[rows.index[0], column] = value

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set("success", False), "isn't what its predictions say"),
        (_set("cosine", float("nan")), "have a cosine that cannot be"),
        (_set("image_id", "../../etc/passwd"), "have a image_id that cannot be"),
        (lambda rows: rows.iloc[:-1], "have no row"),
    ],
)
def test_false_rows(change: Callable[[pd.DataFrame], Any], reason: str, mine: Path) -> None:
    rewrite(records_of(mine), "rows", change)
    assert reason in found(mine)["records"]


@pytest.mark.slow
def test_answers_that_no_network_gives(mine: Path, sample: Path) -> None:
    """Rows and claim agree with each other, and only the networks tell."""
    linf = records_of(mine)

    def fool(rows: pd.DataFrame) -> None:
        other = (rows["label"] + 1) % 10
        rows["adv_pred"] = other.where(rows["target"] == "vgg19", rows["adv_pred"])
        rows["success"] = rows["adv_pred"] != rows["label"]

    def boast(claim: Any) -> None:
        rate = claim["cells"][0]["rates"][1]
        rate.update(successes=6, asr=100.0, low=60.9666, high=100.0)

    rewrite(linf, "rows", fool)
    edit(mine, boast)
    assert found(mine, sample=sample) == {}
    said = found(mine, sample=sample, images=6)
    assert [*said] == ["scores", "crafting"]
    assert "vgg19 takes" in said["scores"]
    assert "crafted again, adv_pred of" in said["crafting"]


@pytest.mark.slow
def test_an_image_beyond_the_budget(mine: Path, sample: Path) -> None:
    """Its pixels' hash stands in rows and claim, and only the clean image tells."""
    linf = records_of(mine)
    claim = read_claim(mine)
    image = claim.cells[0].sample[0]
    path = sample / claim.cells[0].folder / f"{image.image_id}.png"
    pixels = np.array(Image.open(path))
    pixels[0, 0] = 255 - pixels[0, 0]
    write_png(path, pixels)
    said = found(mine, sample=sample)
    assert said == {"images": f"{image.image_id}.png is another image than the claimed one"}
    sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()

    def forged(rows: pd.DataFrame) -> None:
        rows.loc[rows["image_id"] == image.image_id, "adv_sha256"] = sha256

    rewrite(linf, "rows", forged)
    edit(mine, lambda c: c["cells"][0]["sample"][0].update(sha256=sha256))
    said = found(mine, sample=sample, images=1)
    assert "from its clean image, and 10 is allowed" in said.pop("budget")
    assert {*said} <= {"scores", "crafting"}


@pytest.mark.slow
def test_samples_that_are_none(mine: Path, sample: Path, tmp_path: Path) -> None:
    cell = read_claim(mine).cells[0]
    folder = sample / cell.folder
    first, second = (folder / f"{i.image_id}.png" for i in cell.sample[:2])
    whole = first.read_bytes()

    def said() -> str:
        with pytest.raises(ConfigError) as e:
            read_sample(folder, cell.sample[0], 64)
        return str(e.value)

    first.write_bytes(second.read_bytes())  # swapped
    assert "is another image" in said()
    assert "is another image" in found(mine, sample=sample)["images"]
    first.write_bytes(whole[:500])
    assert "can't be read" in said()
    first.unlink()
    assert "is missing" in said()
    first.symlink_to(second)
    assert "not a regular file" in said()
    first.unlink()
    os.mkfifo(first)
    assert "not a regular file" in said()
    first.unlink()
    first.write_bytes(bytes(200_000))
    assert "it has 200,000 bytes" in said()
    for side, mode in ((64, "L"), (65, "RGB"), (10_000, "1")):  # the last, 12,000 bytes, is a bomb
        Image.new(mode, (side, side)).save(first, "PNG")
        assert "can't be read" in said()
    first.write_bytes(whole)
    assert read_sample(folder, cell.sample[0], 64).shape == (64, 64, 3)
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    assert "not a regular file" in said()


@pytest.mark.slow
def test_folders_that_hold_something_else(mine: Path, tmp_path: Path) -> None:
    def said() -> str:
        everything = list(reviewed(mine, images=0))
        assert len(everything) == 1  # nothing is opened
        assert everything[0].verdict == FALSE
        return everything[0].why

    linf = records_of(mine)
    part = linf.part_files("rows")[0].path
    for place in ("a.py", "records/x.png", "records/demo/x", ".git", "records/.x"):
        (mine / place).write_text("")
        assert "doesn't belong in an entry" in said()
        (mine / place).unlink()
    for place in ("records/demo/x/y", "_png", f"records/demo/{linf.folder.name}/_trace"):
        (mine / place).mkdir(parents=True)
        assert "doesn't belong in an entry" in said()
        shutil.rmtree(mine / place)
    shutil.rmtree(mine / "records/demo/x", ignore_errors=True)
    (mine / "records/elsewhere").symlink_to("/etc")
    assert "doesn't belong" in said()
    (mine / "records/elsewhere").unlink()
    whole = part.read_bytes()
    part.rename(tmp_path / part.name)
    part.symlink_to(tmp_path / part.name)
    assert "doesn't belong" in said()
    part.unlink()
    os.mkfifo(part)
    assert "doesn't belong" in said()
    part.unlink()
    with part.open("wb") as f:
        f.truncate(1 << 40)  # holes
    assert "bytes, 33,554,432 are the most" in said()
    part.write_bytes(whole)
    for n in range(5001):
        (mine / "records" / f"s{n}").mkdir()
    assert "more than 5,000 files" in said()


@pytest.mark.slow
def test_damaged_records(mine: Path) -> None:
    linf = records_of(mine)
    part, run = linf.part_files("rows")[0].path, linf.run_file
    whole, text = part.read_bytes(), run.read_text()
    part.write_bytes(whole[: len(whole) // 2])
    assert "was changed after it was written" in found(mine)["records"]
    part.write_bytes(whole)
    for damaged in ("[" * 100_000, text.replace('"inc_v3"', '"x"')):
        run.write_text(damaged)
        assert "is damaged, or was edited" in found(mine)["records"]
    run.unlink()
    assert "has rows but no run.json" in found(mine)["records"]


@pytest.mark.slow
@pytest.mark.parametrize("allow", [[], ["os"]])
def test_no_code_is_run(
    allow: list[str], mine: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(os, "system", ran.append)
    linf = records_of(mine)

    def change(run: Any) -> None:
        run.config["attack"]["step"] = {"_target_": "os.system", "command": "echo ran"}
        run.config["allow"] = allow

    linf.update_run(change)
    said = found(mine, sample=sample, images=6)
    assert "os.system" in said["records"] or "other networks" in said["records"]
    assert not ran


@pytest.mark.slow
def test_parts_of_others_are_refused_even_with_a_right_hash(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs.py").write_text("from agr.attacks.step import Plain\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["+attack.step._target_=theirs.Plain", "allow=[theirs]"]
    words[0] = words[0].removeprefix("+")
    cell = demo_cell(tmp_path / "o", *VGG, *words)
    run_cell(cell)
    with pytest.raises(ConfigError, match="parts of theirs, whose code nobody"):
        agr.submit.main([str(cell.folder), "name=x", f"to={tmp_path / 'x'}"])


@pytest.mark.slow
def test_what_cannot_be_checked_here(mine: Path, sample: Path) -> None:
    def other(run: RunInfo) -> None:
        assert run.numeric
        run.numeric = replace(run.numeric, torch="1.0")

    records_of(mine).update_run(other)
    words = ["data.root=/nowhere"]
    unknown = found(mine, sample=sample, images=1, words=words, verdict=UNKNOWN)
    assert [*unknown] == ["choice of images", "budget", "crafting"]
    assert "the clean images aren't here" in unknown["budget"]
    unknown = found(mine, sample=sample, images=1, verdict=UNKNOWN)
    assert [*unknown] == ["crafting"]
    assert "was begun with torch=1.0" in unknown["crafting"]
    unknown = found(mine, verdict=UNKNOWN)
    last = ["choice of images", "budget", "scores", "crafting"]
    assert [*unknown] == ["images", "suite", *last]
    assert unknown["suite"] == "images=0 looks at no network"


@pytest.mark.slow
def test_images_that_were_left_out(tmp_path: Path) -> None:
    """The order is that of the seed, and what is passed over must be wrong for some network."""
    cell = demo_cell(tmp_path / "o", *VGG)
    records = run_cell(cell)
    keep = {0, 1, 3, 4, 5}  # that of position 2 was hard to fool

    def change(rows: pd.DataFrame) -> pd.DataFrame:
        kept = rows[rows["position"].isin(keep)].copy()
        kept["position"] = kept["position"].map({p: n for n, p in enumerate(sorted(keep))})
        return kept

    rewrite(records, "rows", change)

    def shorter(run: Any) -> None:
        run.config["n_images"], run.held, run.selected = 5, None, {}
        run.sessions[0].images = 5

    records.update_run(shorter)
    agr.submit.main([str(records.folder), "name=x", f"to={tmp_path / 'x'}"])
    (said,) = found(tmp_path / "x", images=6).items()
    assert said[0] == "choice of images"
    assert "was left out, and every selecting network is right about it" in said[1]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "give one folder"),
        (["a", "b"], "give one folder"),
        (["nowhere"], "nowhere is not a folder"),
        ([".", "images=-1"], "images=-1 is not a number"),
        ([".", "sample=nowhere"], "sample=nowhere is not a folder"),
        ([".", "attack=agr"], "attack is unknown: known: --config-dir, data.labels, "),
        ([".", "samples=x"], r"samples is unknown: did you mean sample\?"),
    ],
)
def test_wrong_words(words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        agr.review.main(words)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["entry/records"], r"entry/records lies in the entry .*/entry: give that"),
        (["entry", "sample=sample/cell"], "holds images itself: give the folder around it"),
    ],
)
def test_folders_that_are_parts_of_others(
    words: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("entry/records", "sample/cell"):
        Path(place).mkdir(parents=True)
    Path("entry", CLAIM).touch()
    Path("sample/cell/a.png").touch()
    with pytest.raises(ConfigError, match=reason):
        agr.review.main(words)


def test_a_review_is_of_one_entry(tmp_path: Path) -> None:
    for name in ("one", "two words"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "claim.json").touch()
    with pytest.raises(
        ConfigError, match=f"holds 2 entries: review one at a time, as {tmp_path}/one"
    ):
        agr.review.main([str(tmp_path)])


def test_overrides_of_a_review_are_read_first(tmp_path: Path) -> None:
    for word in (f"--config-dir={tmp_path}/nowhere", "suite=nowhere"):
        with pytest.raises(ConfigError, match=r"nowhere is (not a folder|unknown)"):
            agr.review.main([str(tmp_path), word])


def test_an_empty_folder_is_no_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = called(lambda: agr.review.main([str(tmp_path)]), capsys)
    assert (code, err) == (1, "")
    assert "doesn't hold           claim: " in out
