"""Tables from made-up records, checked by hand arithmetic."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.schema import PACKAGE
from agr.records.schema import PERCEPTUAL, ROWS
from agr.records.store import Records
from agr.report.notes import closing
from agr.report.rates import rates_and_sizes
from agr.report.statistics import wilson
from agr.report.tables import write_tables
from agr.utils.errors import ConfigError
from tests.madeup import began

N = 8


def cells_of(outputs: Path, *words: str) -> list[Cell]:
    return expand(["experiment=paper", "paper=true", f"outputs={outputs}", f"n_images={N}", *words])


def fill(cell: Cell, successes: dict[str, int], n: int = N, **columns: Any) -> None:
    """Records of `n` images, of which the first few fool each target."""
    c = cell.config
    blank: dict[str, Any] = dict.fromkeys(ROWS.names, 0) | dict.fromkeys(PERCEPTUAL)
    blank |= {"suite": "demo", "cell": cell.id, "attack": c.attack.name, "attack_hash": "x",
              "norm": c.norm.name, "source": cell.source, "target_label": None,
              "first_success_step": None, "adv_sha256": "x", "flat": None}  # fmt: skip
    rows = [
        blank
        | {"target": target, "white_box": target == cell.source, "position": p}
        | {"image_id": f"image{p}", "success": p < successes.get(target, 0)}
        | {k: v[p] if isinstance(v, list) else v for k, v in columns.items()}
        for target in cell.targets
        for p in range(n)
    ]
    records = Records(cell.folder)
    records.update_run(lambda run: began(run, cell))
    records.write_part("0/1", {"rows": rows})


@pytest.mark.slow
def test_rates_by_hand(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "norm=linf", "source=inc_v3")
    fill(cells[0], {"inc_v3": 8, "inc_v4": 2, "ir_v2": 1})
    frame = rates_and_sizes(cells)[0].set_index(["attack", "target"])
    row = frame.loc[("ifgsm", "inc_v4")]
    assert row["asr"] == 25.0
    assert (row["n"], row["successes"]) == (8, 2)
    assert (row["low"], row["high"]) == pytest.approx([100 * v for v in wilson(2, 8)])
    assert row["paper"] == 28.86
    assert row["difference"] == pytest.approx(25 - 28.86)
    assert frame.loc[("ifgsm", "inc_v3"), "white_box"]
    assert frame.loc["agr"]["asr"].isna().all()
    assert frame.loc[("agr", "ir_v2"), "command"] == (
        f"python -m agr.run experiment=paper paper=True outputs={tmp_path} n_images=8 norm=linf "
        "source=inc_v3 attack=agr"
    )


def test_paper_values_are_those_of_the_text() -> None:
    """The package's copy of the paper's tables, against cells read off its text."""
    asr = pd.read_csv(PACKAGE / "assets/paper/asr.csv").set_index(
        ["norm", "source", "attack", "target"]
    )["asr_percent"]
    assert len(asr) == 108
    assert asr[("linf", "res152", "agr", "res152")] == 99.41
    assert asr[("l2", "vgg16", "mifgsm", "vgg19")] == 65.47
    assert asr[("l2", "inc_v3", "agr", "ir_v2")] == 63.01
    assert asr.isna().sum() == 9  # the Res152 block of Table 2
    assert set(asr[asr.isna()].index.get_level_values("source")) == {"res152"}


def test_denominators_by_hand(tmp_path: Path) -> None:
    """Eight images, label 0. The source errs on 0; inc_v4 errs on 0, 1; ir_v2 on 2."""
    cell = cells_of(tmp_path, "norm=linf", "source=inc_v3", "attack=agr")[0]
    rows = []
    wrong = {"inc_v3": {0}, "inc_v4": {0, 1}, "ir_v2": {2}}
    for target, errs in wrong.items():
        blank: dict[str, Any] = dict.fromkeys(ROWS.names, 0) | dict.fromkeys(PERCEPTUAL)
        texts = ("suite", "cell", "attack", "attack_hash", "norm", "source", "adv_sha256")
        blank |= dict.fromkeys(texts, "x")
        rows += [
            blank
            | {"target": target, "white_box": target == "inc_v3", "position": p}
            | {"image_id": f"i{p}", "clean_pred": int(p in errs), "success": p < 4, "flat": None}
            | {"source_clean_pred": int(p in wrong["inc_v3"])}
            for p in range(N)
        ]
    records = Records(cell.folder)
    records.update_run(lambda run: None)
    records.write_part("0/1", {"rows": rows})
    expected = {  # successes are positions 0-3
        "all": {"inc_v3": (8, 4), "inc_v4": (8, 4), "ir_v2": (8, 4)},
        "target-correct": {"inc_v3": (7, 3), "inc_v4": (6, 2), "ir_v2": (7, 3)},
        "all-correct": {"inc_v3": (5, 1), "inc_v4": (5, 1), "ir_v2": (5, 1)},
    }
    for denominator, counts in expected.items():
        words = ("norm=linf", "source=inc_v3", "attack=agr", f"denominator={denominator}")
        frame = rates_and_sizes(cells_of(tmp_path, *words))[0].set_index("target")
        assert {t: tuple(frame.loc[t, ["n", "successes"]]) for t in wrong} == counts


UNLIKE = [
    *("eps=8", "steps=5", "attack.targeted=true", "select=source", "quantize=end", "suite=demo"),
    *("attack.chain.momentum.decay=0.5", "suite.networks.inc_v3.classes=1001", "paper=false"),
]


@pytest.mark.parametrize("word", ["", *UNLIKE, "suite=demo paper=true"])
def test_the_papers_values_stand_only_beside_its_setting(word: str, tmp_path: Path) -> None:
    given = ["suite=imagenet", *word.split()]
    words = [w for w in given if w != "suite=imagenet" or "suite=demo" not in given]
    own = ["norm=linf", "source=inc_v3", "attack=mifgsm", f"outputs={tmp_path}", f"n_images={N}"]
    (cell,) = expand([*own, *words])
    fill(cell, {"inc_v3": 5})
    shown = word not in UNLIKE
    frame = rates_and_sizes([cell])[0]
    assert frame["asr"].notna().all()
    assert frame["paper"].notna().any() == shown
    write_tables([cell], tmp_path)
    for name in ("table1", "table3"):
        text = (tmp_path / f"{name}.md").read_text()
        assert text.startswith("**Table ") == shown
        assert ("paper (diff.)" in text) == shown
        assert ("suite demo, unlike the paper" in text) == ("paper=true" in word)


@pytest.mark.parametrize(
    "word", ["eps=8", "seed=1", "steps=5", "attack.chain.momentum.decay=0.5", "select=none"]
)
def test_other_cells_are_never_mixed_in(word: str, tmp_path: Path) -> None:
    plain = ("norm=linf", "source=inc_v3", "attack=mifgsm")
    (cell,) = cells_of(tmp_path, *plain, word)
    fill(cell, {"inc_v3": 5})
    assert rates_and_sizes(cells_of(tmp_path, *plain))[0]["asr"].isna().all()
    assert rates_and_sizes(cells_of(tmp_path, *plain, word))[0]["asr"].notna().all()


def test_unfinished_cells_are_not_shown(tmp_path: Path) -> None:
    words = ("norm=linf", "source=inc_v3", "attack=agr")
    (cell,) = cells_of(tmp_path, *words)
    fill(cell, {"inc_v3": 5}, n=N - 1)
    assert rates_and_sizes([cell])[0]["asr"].isna().all()
    assert closing(cell) == "no finished images yet"
    # ... unless there are no more images
    Records(cell.folder).update_run(lambda run: setattr(run, "eligible", N - 1))
    assert rates_and_sizes([cell])[0]["asr"].notna().all()


def test_only_the_asked_images_count(tmp_path: Path) -> None:
    """A cell that went further is shown at the table's n_images, as the other cells are."""
    words = ("norm=linf", "source=inc_v3", "attack=agr")
    (cell,) = cells_of(tmp_path, *words)
    fill(cell, {"inc_v3": 4}, n=20)
    row = rates_and_sizes([cell])[0].set_index("target").loc["inc_v3"]
    assert (row["n"], row["successes"]) == (8, 4)


def test_several_values_of_one_cell_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a table holds one cell"):
        rates_and_sizes(cells_of(tmp_path, "source=inc_v3", "norm=linf", "eps=4,8"))[0]


def test_sizes_by_hand(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "source=inc_v3", "attack=agr")
    values = [0.01 * p for p in range(N)]
    fill(cells[0], {}, rel_l2=values, mean_abs=[255 * v / 2 for v in values])
    row = rates_and_sizes(cells)[1].set_index("norm").loc["linf"]
    assert row["rel_l2"] == pytest.approx(0.035)
    assert row["mean_abs"] == pytest.approx(0.0175)
    assert row["mean_abs_sym"] == pytest.approx(0.035)
    assert row["paper"] == 0.016
    assert pd.isna(rates_and_sizes(cells)[1].set_index("norm").loc["l2", "rel_l2"])


def test_rendered_tables(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    counts = {"ifgsm": 6, "mifgsm": 5, "agr": 6}
    for cell in cells:
        if cell.source in ("inc_v3", "vgg16") and cell.config.norm.name == "linf":
            own = dict.fromkeys(cell.targets, counts[cell.config.attack.name])
            fill(cell, own | {cell.source: 8})
    paths = write_tables(cells, tmp_path / "tables")
    assert [p.name for p in paths] == [
        f"table{i}.{suffix}" for i in (1, 2, 3) for suffix in ("md", "tex", "csv")
    ]
    text = (tmp_path / "tables/table1.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header = [w.strip() for w in lines[0].strip("|").split("|")]
    assert header == [
        "Source", "Attack", "Inc-v3", "paper (diff.)", "Inc-v4", "paper (diff.)", "IR-v2",
        "paper (diff.)",
    ]  # fmt: skip
    first = [w.strip() for w in lines[2].strip("|").split("|")]
    assert first == [
        "Inc-v3", "I-FGSM", r"**100.0**\* [67.6, 100.0]", "96.41 (+3.6)",
        "**75.0** [40.9, 92.9]", "28.86 (+46.1)", "**75.0** [40.9, 92.9]", "27.25 (+47.8)",
    ]  # fmt: skip
    second = [w.strip() for w in lines[3].strip("|").split("|")]
    assert second[4] == "62.5 [30.6, 86.3]"  # not the best of its column: not bold
    assert lines[5].split("|")[3].strip() == "—"  # Inc-v4 was not run
    assert "demo suite: stand-in networks, not the paper's" in text
    assert "missing: python -m agr.run experiment=paper paper=True outputs=" in text
    assert len(lines) == 2 * (2 + 9)
    for path in paths[::3]:  # every row of a Markdown table has its header's number of columns
        for block in path.read_text().split("\n\n"):
            rows = [line for line in block.splitlines() if line.startswith("|")]
            assert len({row.count("|") for row in rows}) <= 1
    table2 = (tmp_path / "tables/table2.md").read_text()
    assert table2.count("— ") > 50
    assert "1500 → 321.1" in table2
    table = pd.read_csv(tmp_path / "tables/table1.csv")
    assert len(table) == 54
    tex = (tmp_path / "tables/table1.tex").read_text()
    for part in (r"\toprule", r"\textbf{100.0}$^{*}$", r"\bottomrule", r"95 \% Wilson"):
        assert part in tex
    assert "%" not in re.sub(r"\\%|^%.*$", "", tex, flags=re.M)
    body = tex.split(r"\toprule")[1].split(r"\bottomrule")[0]
    assert {line.count("&") for line in body.splitlines() if "&" in line} == {7}


def test_seeds_come_as_mean_and_spread(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "norm=linf", "source=inc_v3", "seed=0,1,2")
    for cell in cells:
        fill(cell, {"inc_v4": 2 + 2 * cell.config.seed}, rel_l2=0.1 * cell.config.seed)
    write_tables(cells, tmp_path / "tables")
    text = (tmp_path / "tables/table1.md").read_text()
    assert "**50.0** ± 25.0" in text  # 25, 50, 75
    assert "mean ± standard deviation over seeds [0, 1, 2]" in text
    assert "0.1000 ± 0.1000" in (tmp_path / "tables/table3.md").read_text()


@pytest.mark.slow
def test_readings_come_as_further_rows(tmp_path: Path) -> None:
    words = [f"outputs={tmp_path}", f"n_images={N}", "norm=linf", "source=inc_v3"]
    cells = expand(["experiment=readings", "paper=true", *words])
    for cell in cells:
        fill(cell, {"inc_v4": 1})
    write_tables(cells, tmp_path / "tables")
    text = (tmp_path / "tables/table1.md").read_text()
    titles = ("I-FGSM, stopped", "MI-FGSM, stopped", "AGR, no stop", "AGR, eps/T", "AGR, literal")
    assert all(f"| {title} " in text for title in titles)
    assert "12.5 [2.2, 47.1] | —" in text.replace("**", "").replace("  ", " ")  # not in the paper


@pytest.mark.slow
def test_the_script_needs_no_torch(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "norm=linf", "source=vgg16")
    fill(cells[2], {"vgg16": 7})
    code = (
        "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__');"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    script = Path(__file__).parent.parent / "scripts" / "make_tables.py"
    words = [f"outputs={tmp_path}", f"n_images={N}", "norm=linf", "source=vgg16"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(script), *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "87.5" in done.stdout
    # other words, another folder: what was made before stays
    name = f"paper,n_images={N},norm=linf,source=vgg16"
    assert (tmp_path / "demo" / "tables" / name / "table1.tex").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs LaTeX (Debian's texlive)")
def test_latex_compiles(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    for cell in cells[:4]:
        fill(cell, {cell.source: 8})
    write_tables(cells, tmp_path)
    inputs = "".join(rf"\input{{table{i}}}" for i in (1, 2, 3))
    start, end = r"\documentclass{article}\usepackage{booktabs,graphicx}", r"\end{document}"
    text = rf"{start}\begin{{document}}{inputs}{end}"
    (tmp_path / "all.tex").write_text(text)
    words = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "all.tex"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
