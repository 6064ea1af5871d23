"""The leaderboard: its sweep, its numbers from made-up records by hand, its intervals."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from agr import load_attack
from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.schema import conf_dir
from agr.records.schema import PERCEPTUAL, ROWS
from agr.records.store import Records
from agr.report.comparison.axes import output_folder
from agr.report.leaderboard import (
    check_leaderboard,
    leaderboard,
    no_attack,
    write_leaderboards,
)
from agr.report.statistics import bootstrap, wilson
from agr.utils.errors import ConfigError
from tests.forked import run
from tests.madeup import began

SCRIPT = Path(__file__).parent.parent / "scripts" / "make_leaderboard.py"
SIX = ["inc_v3", "inc_v4", "ir_v2", "vgg16", "vgg19", "res152"]
N = 4
THREE = "targets=[inc_v3,inc_v4,vgg16]"


def cells_of(outputs: Path, *words: str) -> list[Cell]:
    return expand(["experiment=leaderboard", f"outputs={outputs}", f"n_images={N}", *words])


def fill(
    cell: Cell,
    successes: dict[str, int],
    sessions: list[tuple[int, float]] | None = None,
    prefix: str = "image",
    **columns: Any,
) -> None:
    """Records of N images of class 0, of which the first few fool each target.

    `columns` are numbers or one per image; those of a target are given as {target: ...}.
    """
    blank: dict[str, Any] = dict.fromkeys(ROWS.names, 0)
    blank |= {"suite": "demo", "cell": cell.id, "attack": cell.config.attack.name}
    blank |= {"attack_hash": "x", "norm": "linf", "source": cell.source, "adv_sha256": "x"}
    blank |= {"target_label": None, "first_success_step": None, "flat": None}
    blank |= dict.fromkeys(PERCEPTUAL)

    def value(column: Any, target: str, p: int) -> Any:
        own = column.get(target, 0) if isinstance(column, dict) else column
        return own[p] if isinstance(own, list) else own

    rows = [
        blank
        | {"target": target, "white_box": target == cell.source, "position": p}
        | {"image_id": f"{prefix}{p}", "success": p < successes.get(target, 0)}
        | {name: value(column, target, p) for name, column in columns.items()}
        for target in cell.targets
        for p in range(N)
    ]
    records = Records(cell.folder)
    records.update_run(lambda run: began(run, cell, sessions or ()))
    records.write_part("0/1", {"rows": rows})


# ---- the sweep -----------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder: an attack, a targeted one, and files that are not attacks of the sweep."""
    folder = tmp_path / "my"
    (folder / "attack" / "library").mkdir(parents=True)
    for name, text in {
        "own": "steps: 2",
        "towards": "targeted: true",
        "_part": "steps: 3",
        "library/outside": "steps: 4",
    }.items():
        head = f"defaults: [/attack/ifgsm@_here_]\nname: {name}\ntitle: {name.title()} 100 %\n"
        (folder / "attack" / f"{name}.yaml").write_text(f"{head}{text}\n")
    return folder


def attacks_of(cells: list[Cell]) -> list[str]:
    return list(dict.fromkeys(c.config.attack.name for c in cells))


def files_of(cells: list[Cell]) -> list[str]:
    return [w.partition("=")[2] for c in cells for w in c.overrides if w.startswith("attack=")]


def ours() -> list[str]:
    names = sorted(p.stem for p in (Path(conf_dir()) / "attack").glob("*.yaml"))
    return [name for name in names if not name.startswith("_")]


def shown(name: str) -> bool:
    """True for an attack of at most 210 gradients that any network can be the source of."""
    attack = load_attack(name)
    cheap = attack.gradients() * attack.steps + attack.once <= 210
    of_some = ("bpa", "dhf", "ghost", "sgm", "att", "pna", "tgr")
    return cheap and not attack.ensemble and name not in of_some


@pytest.mark.slow
def test_every_attack_of_conf_and_of_the_user_joins(own: Path) -> None:
    cells = expand(["experiment=leaderboard", "--config-dir", str(own)])
    files = sorted([*filter(shown, ours()), "own", "towards"])
    assert len(files) >= 13
    assert files_of(cells) == files * 2
    assert [c.source for c in cells] == ["inc_v3"] * len(files) + ["vgg16"] * len(files)
    for cell in cells:
        c = cell.config
        assert (c.norm.name, c.eps, c.n_images, cell.targets) == ("linf", 10, 100, SIX)


@pytest.mark.slow
def test_a_users_words_count() -> None:
    words = ["n_images=7", "norm=l2", "source=ir_v2", "targets=[vgg16]", "attack=agr,fgsm"]
    cells = expand(["experiment=leaderboard", *words])
    assert attacks_of(cells) == ["agr", "fgsm"]
    seen = {(c.config.n_images, c.config.norm.name, c.config.eps, c.source) for c in cells}
    assert seen == {(7, "l2", 1500, "ir_v2")}
    assert cells[0].targets == ["vgg16"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["--config-dir={}", "hydra.searchpath=[{}]"])
def test_a_users_attack_joins(form: str, own: Path) -> None:
    cells = expand([form.format(own), "attack=glob([ow*,fg*,_*],exclude=[*_stop,_*])"])
    assert attacks_of(cells) == ["fgsm", "own"]


@pytest.mark.slow
def test_targeted_attacks_are_left_out(own: Path, tmp_path: Path) -> None:
    cells = cells_of(tmp_path, f"--config-dir={own}", "attack=ifgsm,own,towards")
    assert attacks_of(check_leaderboard(cells)) == ["ifgsm", "own"]
    for cell in cells:
        fill(cell, {})
    text = write_leaderboards(cells, tmp_path / "t")[0].read_text()
    assert "- left out, since they are targeted: Towards 100 %\n" in text
    assert text.count("Towards") == 1
    with pytest.raises(ConfigError, match=r"attack\.targeted=true for every attack"):
        check_leaderboard(cells_of(tmp_path, "attack=agr,ifgsm", "attack.targeted=true"))


@pytest.mark.parametrize("words", ["steps=5,10", "quantize=always,end"])
def test_several_cells_of_one_attack_are_refused(words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one cell for agr linf 10 on inc_v3"):
        check_leaderboard(cells_of(tmp_path, "attack=agr", words))


def test_a_leaderboard_for_each_budget_of_gradients(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "attack=ifgsm,mifgsm", "gradients=10,20")
    for cell in cells:
        fill(cell, {})
    paths = write_leaderboards(cells, tmp_path / "t")
    assert [p.stem for p in paths if p.suffix == ".md"] == [
        "leaderboard-linf-10-10-gradients", "leaderboard-linf-10-20-gradients",
    ]  # fmt: skip
    assert "at most 20 gradients per image" in paths[-1].with_suffix(".md").read_text()


def test_seeds_by_hand(tmp_path: Path) -> None:
    """Means of 25 and 75 %: their deviation is 35.4, and Student's interval is all there is."""
    cells = cells_of(tmp_path, "attack=agr", THREE, "source=inc_v3", "seeds=2")
    for cell, hits in zip(cells, (N // 4, 3 * N // 4), strict=True):
        fill(cell, dict.fromkeys(("inc_v4", "vgg16"), hits))
    board, _ = leaderboard(cells)
    (row,) = board.to_dict("records")
    assert (row["transfer"], row["n"], row["images"]) == (50, 2 * N, N)
    assert row["seed_sd"] == pytest.approx(50 / 2**0.5)
    assert (row["seed_low"], row["seed_high"]) == (
        0,
        100,
    )  # 50 ± 12.7 · 25, cut
    text = " ".join(write_leaderboards(cells, tmp_path / "t")[0].read_text().split())
    assert "50.0 ± 35.4 [" in text
    assert "| [0.0, 100.0] |" in text


def test_an_abstention_is_no_clean_error(tmp_path: Path) -> None:
    """Of four images one is wrong, one abstained from, and one without an answer: 25 %."""
    (cell,) = cells_of(tmp_path, "attack=agr", THREE, "source=inc_v3")
    predictions = {"inc_v3": [0] * 4, "inc_v4": [5, -2, -1, 0], "vgg16": [5, -2, -1, 0]}
    fill(cell, {}, clean_pred=predictions)
    assert no_attack([cell])["transfer"] == 25


# ---- numbers -------------------------------------------------------------------------------------


def only_row(cells: list[Cell]) -> pd.Series[Any]:
    board, _ = leaderboard(cells)
    assert len(board) == 1
    return board.iloc[0]


def two(outputs: Path, *words: str) -> list[Cell]:
    """The cells of agr from two sources, each with two black-box targets of three."""
    return cells_of(outputs, "attack=agr", THREE, *words)


def test_a_row_by_hand(tmp_path: Path) -> None:
    """Shares of the black-box targets: 1, 1/2, 1/2, 0 from inc_v3; 1/2, 1/2, 0, 0 from vgg16."""
    cells = two(tmp_path)
    fill(
        cells[0], {"inc_v3": 4, "inc_v4": 1, "vgg16": 3}, [(4, 1.0), (4, 3.0)],
        backwards=[2, 4, 6, 8], linf=[5, 5, 10, 10], rel_l2=[0.1, 0.2, 0.3, 0.4],
    )  # fmt: skip
    fill(
        cells[1], {"inc_v3": 0, "inc_v4": 2, "vgg16": 3}, [(2, 1.0)],
        backwards=1, linf=2, rel_l2=0.05,
    )  # fmt: skip
    row = only_row(cells)
    assert (row["attack"], row["title"], row["sources"]) == ("agr", "AGR", "inc_v3,vgg16")
    assert (row["norm"], row["eps"], row["images"], row["n"]) == ("linf", 10, 4, 8)
    assert row["transfer"] == pytest.approx(100 * 3 / 8)
    assert row["white_box"] == pytest.approx(100 * 7 / 8)
    assert row["gradients"] == pytest.approx((20 + 4) / 8)
    assert row["linf"] == pytest.approx((30 + 8) / 8)
    assert row["rel_l2"] == pytest.approx((1.0 + 0.2) / 8)
    assert row["images_per_second"] == pytest.approx(10 / 5)
    # two results on each of four images: as four images, not as eight
    low, high = wilson(3.5, 4)
    assert (row["white_box_low"], row["white_box_high"]) == pytest.approx((100 * low, 100 * high))
    low, high, _ = bootstrap([0.75, 0.5, 0.25, 0], range(4))
    assert (row["transfer_low"], row["transfer_high"]) == pytest.approx((100 * low, 100 * high))
    assert low < 0.375 < high


def test_different_images_of_two_sources_are_not_one(tmp_path: Path) -> None:
    cells = two(tmp_path)
    for cell, prefix in zip(cells, ("a", "b"), strict=True):
        fill(cell, {"inc_v4": 2, cell.source: 3}, prefix=prefix)
    row = only_row(cells)
    assert (row["images"], row["n"]) == (8, 8)
    low, high, _ = bootstrap([0.5, 0.5, 0, 0] * 2, range(8))
    assert (row["transfer_low"], row["transfer_high"]) == pytest.approx((100 * low, 100 * high))
    assert row["white_box_low"] == pytest.approx(100 * wilson(6, 8)[0])


def test_denominators_by_hand(tmp_path: Path) -> None:
    """inc_v4 errs on image 0, and vgg16 on 0 and 1, when clean. Successes: image 0 to 2, of both.

    target-correct leaves inc_v4 images 1-3 (two fooled), vgg16 images 2, 3 (one fooled): image 0
    counts for nobody, 1: 1/1, 2: 2/2, 3: 0/2.
    """
    expected = {"all": (4, 75.0), "target-correct": (3, 100 * 2 / 3), "all-correct": (2, 50.0)}
    for denominator, (n, transfer) in expected.items():
        cells = two(tmp_path / denominator, "source=inc_v3", f"denominator={denominator}")
        wrong = {"inc_v4": [1, 0, 0, 0], "vgg16": [1, 1, 0, 0]}
        fill(cells[0], {"inc_v4": 3, "vgg16": 3}, clean_pred=wrong, backwards=[8, 2, 2, 2])
        row = only_row(cells)
        assert (row["n"], row["transfer"]) == (n, pytest.approx(transfer))
        assert row["gradients"] == pytest.approx(3.5)  # of all images, whoever counts them
        text = write_leaderboards(cells, tmp_path)[0].read_text()
        assert ("below 100 %: Inc-v4 75.0 %, VGG16 50.0 %" in text) == (denominator == "all")


KINDS = ["suite.networks.vgg16.family=transformer", "suite.networks.vgg19.family=transformer"]


def test_families_stand_apart_by_hand(tmp_path: Path) -> None:
    """From inc_v3, CNNs inc_v4 and transformers vgg16, vgg19; from vgg16, inc_v3, inc_v4, vgg19.

    Shares of CNNs 1, 0, 0, 0 and 1, 1/2, 0, 0; of transformers 1, 1/2, 1/2, 0 and 0, 0, 0, 0.
    """
    targets = "targets=[inc_v3,inc_v4,vgg16,vgg19]"
    cells = cells_of(tmp_path, "attack=agr", targets, *KINDS)
    fill(cells[0], {"inc_v3": 4, "inc_v4": 1, "vgg16": 3, "vgg19": 1})
    fill(cells[1], {"inc_v3": 1, "inc_v4": 2, "vgg16": 4})
    row = only_row(cells)
    assert row["transfer_cnn"] == pytest.approx(100 * (1 + 1.5) / 8)
    assert row["transfer_transformer"] == pytest.approx(100 * 2 / 8)
    assert row["transfer"] == pytest.approx(100 * (5 / 3 + 3 / 3) / 8)
    low, high, _ = bootstrap([0.5, 0.25, 0.25, 0], range(4))
    ends = row["transfer_transformer_low"], row["transfer_transformer_high"]
    assert ends == pytest.approx((100 * low, 100 * high))
    assert "transfer_mlp" not in row
    path = write_leaderboards(cells, tmp_path / "t")[0]
    header = next(line for line in path.read_text().splitlines() if line.startswith("|"))
    heads = [word.strip() for word in header.strip("|").split("|")]
    first, second = heads.index("to CNNs % [95 %]"), heads.index("to transformers % [95 %]")
    assert (first, second) == (4, 5)
    shown, floor = body(path)
    assert shown[first].startswith("31.2 [")  # 31.25
    assert shown[second] == f"25.0 [{100 * low:.1f}, {100 * high:.1f}]"
    assert floor[first].startswith("0.0 [")
    note = "to CNNs: Inc-v4, Inc-v3; to transformers: VGG16, VGG19"
    assert note in path.read_text()


@pytest.mark.parametrize("words", [[], KINDS[:1], ["suite.networks.inc_v4.family=null"]])
def test_one_family_of_black_boxes_has_no_column(words: list[str], tmp_path: Path) -> None:
    """The white-box target's family counts for nothing, nor does an unknown one."""
    cells = cells_of(tmp_path, "attack=agr", "source=vgg16", THREE, *words)
    fill(cells[0], {"inc_v4": 1})
    assert not [name for name in only_row(cells).index if name.startswith("transfer_cnn")]
    assert "to CNNs" not in write_leaderboards(cells, tmp_path / "t")[0].read_text()


def test_a_leaderboard_without_white_box_targets(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "attack=agr", "source=inc_v3", "targets=[vgg16]")
    fill(cells[0], {"vgg16": 4})
    row = only_row(cells)
    assert math.isnan(row["white_box"])
    assert row["transfer"] == 100
    cells = cells_of(tmp_path / "own", "attack=agr", "source=inc_v3", "targets=[inc_v3]")
    fill(cells[0], {"inc_v3": 2})
    row = only_row(cells)
    assert math.isnan(row["transfer"])
    assert row["white_box"] == 50


def test_speed_is_unknown_without_sessions(tmp_path: Path) -> None:
    cells = two(tmp_path)
    fill(cells[0], {}, [(4, 1.0)])
    fill(cells[1], {})
    assert math.isnan(only_row(cells)["images_per_second"])
    assert only_row(cells[:1])["images_per_second"] == 4


# ---- the page ------------------------------------------------------------------------------------


def body(path: Path) -> list[list[str]]:
    """The rows of a Markdown table, without its header."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    return [[word.strip() for word in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.slow
def test_the_page(tmp_path: Path) -> None:
    """Sorted by mean transfer; a cell that isn't finished empties its attack's row."""
    cells = cells_of(tmp_path, "attack=agr,fgsm,ifgsm,mifgsm", THREE)
    fooled = {"agr": 1, "fgsm": 3, "ifgsm": 2, "mifgsm": 4}
    for cell in cells:
        name = cell.config.attack.name
        if (name, cell.source) != ("mifgsm", "vgg16"):
            own = dict.fromkeys(cell.targets, fooled[name]) | {cell.source: 4}
            fill(cell, own, [(4, 1.0)], backwards=2, linf=10, rel_l2=0.05)
    paths = write_leaderboards(cells, tmp_path / "t")
    assert [p.name for p in paths] == [f"leaderboard-linf-10.{s}" for s in ("md", "tex", "csv")]
    low, high = (100 * v for v in bootstrap([1, 1, 1, 0], range(4))[:2])
    rows = body(paths[0])
    assert [row[0] for row in rows] == ["FGSM", "I-FGSM", "AGR", "MI-FGSM", "no attack"]
    assert rows[0] == [
        "FGSM", "fgsm", "100.0", f"75.0 [{low:.1f}, {high:.1f}]", "2.00", "4.0", "10.00", "0.0500",
        "8",
    ]  # fmt: skip
    assert rows[3] == ["MI-FGSM", "mifgsm", *["—"] * 6, "0"]
    text = paths[0].read_text()
    lines = [line for line in text.splitlines() if line.startswith("- missing: ")]
    words = f"outputs={tmp_path} n_images=4 attack=mifgsm '{THREE}' source=vgg16"
    assert lines == [f"- missing: python -m agr.run experiment=leaderboard {words}"]
    for note in (
        "**Leaderboard: mean transfer of 4 attacks, L∞ = 10**",
        "demo suite: stand-in networks, not the paper's",
        "4 images at most per cell, select=group, T=1/10, quantize=always, seed 0",
        "crafted on Inc-v3, VGG16; targets Inc-v3, Inc-v4, VGG16; "
        "denominator=target-correct, success=label",
    ):
        assert note in text
    assert "no width" not in text
    table = pd.read_csv(paths[2])
    assert list(table["attack"]) == ["fgsm", "ifgsm", "agr", "mifgsm", "none"]
    assert list(table["run"]) == [True, True, True, False, True]
    assert table["white_box_low"][0] == pytest.approx(100 * wilson(4, 4)[0])


def test_an_interval_without_width_is_named(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "attack=agr,fgsm", "source=inc_v3", THREE)
    fill(cells[0], {"inc_v4": 0})
    fill(cells[1], {"inc_v4": 2})
    text = write_leaderboards(cells, tmp_path / "t")[0].read_text()
    assert "all images came out alike, which leaves the interval no width: AGR\n" in text


@pytest.mark.slow
def test_a_page_for_every_norm_and_budget(tmp_path: Path) -> None:
    words = ("attack=agr", "source=inc_v3", "targets=[vgg16]", "norm=linf,l2", "eps=2,2.5")
    cells = cells_of(tmp_path, *words)
    for i, cell in enumerate(cells):
        fill(cell, {"vgg16": i})
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "leaderboard-linf-99.md").write_text("of an earlier run")
    pages = {p.name: p for p in write_leaderboards(cells, folder) if p.suffix == ".md"}
    assert {p.name for p in folder.glob("*.md")} == set(pages)
    assert {name: body(p)[0][3].split()[0] for name, p in pages.items()} == {
        "leaderboard-linf-2.md": "0.0",
        "leaderboard-linf-2.5.md": "25.0",
        "leaderboard-l2-2.md": "50.0",
        "leaderboard-l2-2.5.md": "75.0",
    }


@pytest.mark.slow
def test_the_latex_page(own: Path, tmp_path: Path) -> None:
    cells = cells_of(tmp_path, f"--config-dir={own}", "attack=own,fgsm_stop", "source=inc_v3")
    for cell in cells:
        fill(cell, {"vgg16": 2})
    tex = write_leaderboards(cells, tmp_path / "t")[1].read_text()
    rows = tex.split(r"\toprule")[1].split(r"\bottomrule")[0]
    assert {line.count("&") for line in rows.splitlines() if "&" in line} == {8}
    assert r"Own 100 \% & own & 0.0 & " in rows
    assert r"& fgsm\_stop &" in rows


def script(*words: str) -> subprocess.CompletedProcess[str]:
    return run(words, module="scripts.make_leaderboard")


@pytest.mark.slow
def test_the_script_needs_no_torch(tmp_path: Path) -> None:
    words = ["attack=agr", "source=inc_v3", "targets=[vgg16]", f"n_images={N}"]
    (cell,) = expand(["experiment=leaderboard", f"outputs={tmp_path}", *words])
    fill(cell, {"vgg16": 3})
    code = (
        "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__');"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(SCRIPT), f"outputs={tmp_path}", *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "| AGR | agr | — | 75.0 [" in re.sub(" +", " ", done.stdout)
    folder = output_folder([cell], ["experiment=leaderboard", *words], "tables")
    assert (folder / "leaderboard-linf-10.tex").exists()
    assert re.fullmatch("leaderboard-[0-9a-f]{6}", folder.name)


@pytest.mark.slow
def test_what_a_user_did_wrong_is_told_in_a_line() -> None:
    done = script("steps=1,2", "attack=agr", "--run")
    assert done.returncode == 2
    assert done.stderr.startswith("error: a leaderboard holds one cell for agr linf 10 on inc_v3")
    assert done.stderr.count("\n") == 1
    assert "--run" in script("--help").stdout


@pytest.mark.slow
def test_a_whole_run(own: Path, tmp_path: Path) -> None:
    """--run fills what is missing, a user's attack included, and the page shows what was run."""
    words = [
        f"outputs={tmp_path}", "n_images=6", "slots=8", "threads=1", "progress=false",
        "attack=own,fgsm,towards", "--config-dir", str(own),
    ]  # fmt: skip
    before = script(*words)
    assert before.returncode == 0
    assert before.stdout.count("missing: python -m agr.run") == 2
    done = script("--run", *words)
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("demo/tables/*/leaderboard-linf-10.md")
    rows = {row[1]: row for row in body(page)}
    assert set(rows) == {"own", "fgsm", "none"}
    assert [rows[name][4] for name in ("own", "fgsm")] == ["2.00", "1.00"]
    assert {row[8] for row in rows.values()} == {"12"}
    assert [rows[name][6] for name in ("own", "fgsm", "none")] == ["10.00", "10.00", "0.00"]
    assert all(float(rows[name][5]) > 0 for name in ("own", "fgsm"))
    assert "missing" not in page.read_text()
    assert not list(tmp_path.glob("demo/towards-*"))
    for source in ("inc_v3", "vgg16"):
        (folder,) = tmp_path.glob(f"demo/fgsm-linf-10-{source}-*")
        scored = Records(folder).read("rows")
        assert set(scored["target"]) == set(SIX)
    again = script(*words)
    assert page.read_text() in again.stdout


@pytest.mark.slow
def test_a_run_that_fails_ends_it(tmp_path: Path) -> None:
    words = [f"outputs={tmp_path}", f"data.root={tmp_path / 'none'}", "attack=fgsm"]
    done = script("--run", *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.glob("demo/tables/*"))


@pytest.mark.parametrize(("denominator", "transfer"), [("target-correct", 100 / 3), ("all", 50)])
def test_clean_errors_are_a_row_of_their_own(
    denominator: str, transfer: float, tmp_path: Path
) -> None:
    """Inc-v4 errs on one of 4 clean images and is fooled by that and another one."""
    words = ("source=inc_v3", "attack=agr", "targets=[inc_v3,inc_v4]", f"denominator={denominator}")
    (cell,) = cells_of(tmp_path, *words)
    wrong = {"inc_v4": [9, 0, 0, 0]}
    fill(cell, {"inc_v4": 2}, clean_pred=wrong)
    floor = no_attack([cell])
    assert (floor["title"], floor["transfer"], floor["white_box"]) == ("no attack", 25.0, 0.0)
    assert (floor["n"], floor["gradients"]) == (4, 0)
    board, _ = leaderboard([cell])
    assert board.iloc[0]["transfer"] == pytest.approx(transfer)
    text = write_leaderboards([cell], tmp_path / "t")[0].read_text()
    assert re.search(r"\| no attack +\| none +\| 0\.0 +\| 25\.0 \[", text)
    assert "mean transfer of 1 attacks" in text  # no attack isn't one
