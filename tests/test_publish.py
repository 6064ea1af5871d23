"""A data set of finished cells: what is in it, what isn't, and what other programs read from it."""

from __future__ import annotations

import getpass
import json
import logging
import os
import re
import shutil
import socket
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard

from agr.config.cell import Cell
from agr.evaluation.runner import run_cell
from agr.publish import main
from agr.records.places import shared_command
from agr.records.schema import ROWS
from agr.records.store import Records
from agr.report.dataset.facts import CITATION
from agr.report.dataset.tables import CELLS
from agr.utils.errors import ConfigError
from tests.conftest import demo_cell

ROOT = Path(__file__).parent.parent
SAID = ["repo=me/transfer", "license=CC-BY-4.0"]


@pytest.mark.parametrize(
    ("command", "shared"),
    [
        (
            "NIPS17_DIR=/data/nips python -m agr.run suite=lite attack=agr/mifgsm outputs=/scratch",
            "python -m agr.run suite=lite attack=agr/mifgsm",
        ),
        ("agr run data.root=/x 'data.labels=/a b' eps=4 device=cuda:1", "agr run eps=4"),
        (
            "agr run 'targets=[vgg16,vgg16/jpeg75,vgg16/purify:/home/me/p.pt]' lpips=[a,b]",
            "agr run 'targets=[vgg16,vgg16/jpeg75,vgg16/purify:PATH]'",
        ),
        (
            "agr run source=resnet50:~/mine.pt 'hydra.searchpath=[my]'",
            "agr run source=resnet50:PATH",
        ),
        ("agr run targets=[a,/b,~/c]", "agr run 'targets=[a,PATH,PATH]'"),
    ],
)
def test_commands_are_shared_without_places(command: str, shared: str) -> None:
    assert shared_command(command) == shared


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cell"], "give folders of cells, to=FOLDER"),
        (["cell", "to=d", "repo=me/x"], "give folders of cells"),
        (["to=d", *SAID], "give folders of cells"),
        (["cell", "to=d", *SAID, "name=x"], "name= is unknown"),
        (["cell", "to=d", "repo=x", SAID[1]], "repo=x: give OWNER/NAME"),
        (["cell", "to=d", "repo=../x", SAID[1]], "repo=../x: give OWNER/NAME"),
        (["cell", "to=d", SAID[0], "license=CC BY"], "license=CC BY: give an identifier"),
        (["cell", "to=d", *SAID, "version=1"], "version=1: give MAJOR.MINOR.PATCH"),
        (["cell", "to=there", *SAID], "to=there already exists"),
        (["cell", "to=dangling", *SAID], "to=dangling already exists"),
        (["cell", "to=d", *SAID], "cell has no records"),
    ],
)
def test_wrong_words_write_nothing(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(os.listdir())
    with pytest.raises(ConfigError, match=re.escape(said)):
        main(words)
    assert sorted(os.listdir()) == before


def test_the_citation_is_the_readmes() -> None:
    assert CITATION in (ROOT / "README.md").read_text()


# ---- of real cells -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    """A stopped attack under L2, and one whose success can't be said to come at a step."""
    outputs = tmp_path_factory.mktemp("o") / "outputs"
    words = ["source=vgg16", "targets=[vgg16,vgg19]", "n_images=4", "progress=false"]
    found = [
        demo_cell(outputs, "attack=agr", "norm=l2", "save_adversarials=true", *words),
        demo_cell(outputs, "attack=difgsm", "norm=linf", "eps=4", *words),
    ]
    for cell in found:
        run_cell(cell)
    return found


@pytest.fixture(scope="module")
def dataset(cells: list[Cell], tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("d") / "my data"
    main([*(str(cell.folder) for cell in cells), f"to={to}", *SAID])
    return to


@pytest.mark.slow
def test_the_parquet_holds_all_rows_typed(cells: list[Cell], dataset: Path) -> None:
    assert sorted(p.relative_to(dataset).as_posix() for p in dataset.rglob("*")) == [
        "README.md", "croissant.json", "data", "data/cells.parquet", "data/rows.parquet"
    ]  # fmt: skip
    schema = pq.read_schema(dataset / "data/rows.parquet")
    assert schema.remove_metadata().equals(ROWS.remove_metadata())
    assert schema.field("eps").metadata == {
        b"meaning": b"budget as configured",
        b"unit": b"levels (0-255)",
    }
    keys = ["cell", "position", "target"]
    found = pd.read_parquet(dataset / "data/rows.parquet").set_index(keys).sort_index()
    assert found.index.is_unique
    folders = pd.concat([pd.read_parquet(cell.folder) for cell in cells])
    pd.testing.assert_frame_equal(found, folders.set_index(keys).sort_index(), check_exact=True)
    assert len(found) == 2 * 4 * 2
    listed = pd.read_parquet(dataset / "data/cells.parquet").set_index("cell")
    assert listed.loc[cells[0].id, ["attack", "norm", "source", "images"]].tolist() == [
        "agr", "l2", "vgg16", 4
    ]  # fmt: skip
    assert listed.loc[cells[0].id, "targets"] == "vgg16,vgg19"
    parameters = json.loads(listed.loc[cells[1].id, "parameters"])
    assert parameters["views.diverse"]["_target_"] == "agr.attacks.views.Diverse"
    assert listed.loc[cells[1].id, "eps"] == 4
    assert {*listed.columns, "cell"} == {*CELLS.names}


@pytest.mark.slow
def test_croissant_is_valid_and_its_records_are_the_rows(
    dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's own
        import mlcroissant as mlc

        with caplog.at_level(logging.INFO):
            found = mlc.Dataset(jsonld=str(dataset / "croissant.json"))
        issues = found.metadata.ctx.issues
        assert (list(issues.errors), list(issues.warnings)) == ([], [])
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
        records = {name: [*found.records(name)] for name in ("rows", "cells")}
    about = found.metadata
    assert str(about.ctx.conforms_to.value) == "http://mlcommons.org/croissant/1.1"
    assert about.url == "https://huggingface.co/datasets/me/transfer"
    rai = ("data_collection", "data_biases", "data_limitations", "data_use_cases")
    assert all(getattr(about, name) for name in (*rai, "personal_sensitive_information"))
    for name, listed in records.items():
        table = pq.read_table(dataset / f"data/{name}.parquet").to_pylist()
        plain = [
            {
                k.removeprefix(f"{name}/"): v.decode() if isinstance(v, bytes) else v
                for k, v in row.items()
            }
            for row in listed
        ]
        assert plain == table


@pytest.mark.slow
def test_the_hub_reads_the_card(dataset: Path) -> None:
    card = DatasetCard.load(dataset / "README.md")
    about: dict[str, Any] = card.data.to_dict()
    assert about["license"] == "cc-by-4.0"
    assert about["size_categories"] == ["n<1K"]
    paths = [c["data_files"][0]["path"] for c in about["configs"]]
    assert all((dataset / path).is_file() for path in paths)
    assert [c.get("default", False) for c in about["configs"]] == [True, False]
    for name in (*ROWS.names, *CELLS.names):
        assert f"\n| {name} " in card.text
    assert "## Limits\n\n- demo suite: stand-in networks, not the paper's\n" in card.text
    assert "images of suite demo: Apache-2.0" in card.text
    assert re.search(
        r"L2 budgets are scaled to the images' size: 1500 is 321\.\d at 64 px", card.text
    )
    (yaml_text,) = re.findall(r"\A---\n(.*?)---\n", (dataset / "README.md").read_text(), re.DOTALL)
    assert yaml.safe_load(yaml_text)["pretty_name"] == "Transfer of adversarial attacks, suite demo"


@pytest.mark.slow
def test_nothing_tells_of_the_machine(cells: list[Cell], dataset: Path) -> None:
    texts = [path.read_text() for path in dataset.glob("*.*")]
    for path in dataset.glob("data/*.parquet"):
        table = pq.read_table(path)
        texts += [json.dumps(table.to_pylist()), str(table.schema)]
        texts.append(str(pq.read_metadata(path).metadata))
    outputs = cells[0].suite_folder.parent
    secret = {
        str(outputs),
        str(outputs.parent),
        str(ROOT),
        str(dataset.parent),
        str(Path.home()) + "/",
    }
    secret |= {socket.gethostname(), f"/{getpass.getuser()}/", f"{os.sep}tmp{os.sep}"}
    assert [word for word in secret for text in texts if word in text] == []
    assert "outputs=" not in "".join(texts)
    assert "pixels" not in pq.read_schema(dataset / "data/rows.parquet").names


@pytest.mark.slow
def test_it_ends_with_the_command_that_uploads(
    cells: list[Cell], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(cells[0].folder), f"to={tmp_path / 'a b'}", *SAID])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("8 rows of 1 cell: ")
    assert said[1:] == [
        f"to upload it: hf upload me/transfer '{tmp_path / 'a b'}' . --repo-type dataset"
    ]


def refused(folders: list[Path], tmp_path: Path, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        main([*map(str, folders), f"to={tmp_path / 'd'}", *SAID])
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(("d", ".d"))]


@pytest.mark.slow
def test_what_is_not_whole_is_refused(
    cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = {}
    for name in ("unfinished", "broken", "twin"):
        copies[name] = tmp_path / name / "demo" / cells[1].folder.name
        shutil.copytree(cells[1].folder, copies[name])
    Records(copies["unfinished"]).update_run(lambda run: run.config.update(n_images=9))
    refused([copies["unfinished"]], tmp_path, r"is unfinished \(5 of 9 left\)")
    (part,) = copies["broken"].glob("rows-*.parquet")
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    refused(
        [cells[0].folder, copies["broken"]],
        tmp_path,
        "is damaged: .* was changed after it was written",
    )
    refused([cells[1].folder, copies["twin"]], tmp_path, "are the same cell: leave one out")

    def named(run: Any) -> None:
        run.networks["resnet50:/home/me/mine.pt"] = "x"

    Records(copies["twin"]).update_run(named)
    refused([copies["twin"]], tmp_path, "names a file of this machine")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agr.publish.write_json", full)
    with pytest.raises(OSError, match="No space"):
        main([str(cells[0].folder), f"to={tmp_path / 'd'}", *SAID])
    assert {p.name for p in tmp_path.iterdir()} == {*copies}  # nothing half-written
