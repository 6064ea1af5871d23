"""Comparisons of any cells: layout by what varies, numbers by hand, whole runs of the command."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.report.comparison.axes import Layout, Options, layout_of, output_folder, varying
from agr.report.comparison.numbers import Comparison
from agr.report.comparison.page import write_comparison
from agr.report.comparison.paired import Paired, images_to_show, in_short, paired, transfer_pair
from agr.report.comparison.sheet import comparison_sheet
from agr.report.formats import markdown, plain
from agr.report.notes import setting_notes
from agr.report.statistics import mcnemar, over_seeds, wilson
from agr.utils.errors import ConfigError
from tests.forked import run
from tests.madeup import record

N = 40


def cells_of(outputs: Path, *words: str) -> list[Cell]:
    return expand([*words, f"outputs={outputs}", f"n_images={N}"])


def layout(*words: str, **options: str) -> Layout:
    return layout_of(varying(cells_of(Path("x"), *words)), Options(**options))


def ones(n: int, start: int = 0) -> list[int]:
    """N outcomes, of which n are successes, from a position on."""
    return [int(start <= i < start + n) for i in range(N)]


# ---- rows and columns ----------------------------------------------------------------------------

LAYOUTS = {
    "attack=ifgsm,agr": (("attack",), "target", "attack", "ifgsm"),
    "attack=ifgsm,agr source=inc_v3,vgg16": (("source", "attack"), "target", "attack", "ifgsm"),
    "attack=ifgsm,agr eps=2,4": (("attack",), "eps", "attack", "ifgsm"),
    "attack=ifgsm,agr steps=5,10": (("attack",), "steps", "attack", "ifgsm"),
    "eps=2,4,8": (("eps",), "target", "eps", "2"),
    "seed=0,1": (("attack",), "target", "attack", ""),  # one row, of which nothing is compared
    "source=inc_v3,vgg16": (("source",), "target", "source", "inc_v3"),
    "quantize=always,end attack=agr,ifgsm": (("quantize", "attack"), "target", "attack", "agr"),
    "attack=mifgsm attack.chain.momentum.decay=0.5,1": (
        ("attack.chain.momentum.decay",), "target", "attack.chain.momentum.decay", "0.5",
    ),
    "targets=[inc_v4],[ir_v2] attack=ifgsm,agr": (
        ("targets", "attack"), "target", "attack", "ifgsm",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), LAYOUTS.items(), ids=LAYOUTS)
def test_what_varies_decides_rows_columns_and_the_baseline(
    words: str, expected: tuple[object, ...]
) -> None:
    assert layout(*words.split()) == expected


def test_the_user_chooses_rows_columns_and_the_baseline() -> None:
    words = ["attack=ifgsm,agr", "eps=2,4", "source=inc_v3,vgg16"]
    assert layout(*words, columns="attack") == (("source", "eps"), "attack", "attack", "ifgsm")
    chosen = layout(*words, rows="eps,attack", columns="target", against="agr")
    assert chosen == (("eps", "attack"), "target", "attack", "agr")
    assert layout(*words, against="eps=4").key == "eps"
    assert layout(*words, against="AGR").against == "agr"  # by its title


REFUSED = {
    "attack=agr|": "nothing varies",
    "attack=ifgsm,agr eps=2,4|rows=attack": "leaves out eps",
    "attack=ifgsm,agr|rows=momentum": "rows=momentum: what varies is attack",
    "attack=ifgsm,agr|columns=momentum": "columns=momentum",
    "attack=ifgsm,agr|rows=attack columns=attack": "stands in one of them",
    "attack=ifgsm,agr|rows=target": "target in columns",
    "attack=ifgsm,agr|against=mifgsm": "attack is one of ifgsm, agr",
    "attack=ifgsm,agr|against=eps=4": "eps doesn't vary",
}


@pytest.mark.parametrize(("words", "error"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_laid_out_is_refused_with_what_can(words: str, error: str) -> None:
    sweep, _, options = words.partition("|")
    with pytest.raises(ConfigError, match=re.escape(error)):
        layout(*sweep.split(), **dict(word.split("=", 1) for word in options.split()))


def test_how_cells_are_run_is_no_axis() -> None:
    assert [*varying(cells_of(Path("x"), "slots=8,16", "threads=1,2", "eps=2,4"))] == ["eps"]


def test_folders_have_short_names() -> None:
    words = ["attack=ifgsm,mifgsm,agr,agr_nostop,difgsm", "source=inc_v3,vgg16", "eps=2,4,8,16"]
    cells = cells_of(Path("x"), *words)
    name = output_folder(cells, words, "compare").name
    assert re.fullmatch("attack-source-eps-[0-9a-f]{6}", name)
    assert output_folder(cells, [*words, "seed=1"], "compare").name != name
    assert output_folder(cells, ["eps=2,4"], "compare") == Path("x/demo/compare/eps=2,4")


def test_nothing_is_written_into_an_entry(tmp_path: Path) -> None:
    cells = cells_of(tmp_path / "entry" / "records", "eps=2,4")
    inside = tmp_path / "entry" / "records" / "demo" / "tables" / "eps=2,4"
    assert output_folder(cells, ["eps=2,4"], "tables") == inside  # of records that are no entry's
    (tmp_path / "entry").mkdir()
    (tmp_path / "entry" / "claim.json").touch()
    assert output_folder(cells, ["eps=2,4"], "tables") == Path("outputs/demo/tables/entry,eps=2,4")


def test_notes_name_every_value_that_varies() -> None:
    (first, *_) = setting_notes(cells_of(Path("x"), "quantize=end,always", "steps=20,5"))[1:]
    assert first == "40 images at most per cell, select=group, T=5/20, quantize=end/always, seed 0"


# ---- numbers -------------------------------------------------------------------------------------


def two_attacks(outputs: Path, *words: str) -> Comparison:
    """Two attacks with one black-box target: 10 and 18 successes, of which 8 are common."""
    cells = cells_of(outputs, "attack=ifgsm,mifgsm", "targets=[inc_v3,inc_v4]", *words)
    for cell, (n, start) in zip(cells, ((10, 0), (18, 2)), strict=True):
        record(cell, {"inc_v3": ones(N), "inc_v4": ones(n, start)}, backwards=n)
    return Comparison(cells, Options())


def test_one_target_is_compared_by_mcnemars_test(tmp_path: Path) -> None:
    comparison = two_attacks(tmp_path)
    first, second = (e for e in comparison.entries if e.target is None)
    assert (first.value, second.value) == (25.0, 45.0)
    assert first.gap is None  # the baseline
    assert comparison.verdict(first.row) == "the baseline"
    gap = second.gap
    assert gap
    assert (gap.difference, gap.only_left, gap.only_right) == (20.0, 10, 2)
    assert gap.p == second.p_holm == mcnemar(10, 2) == pytest.approx(stats.binomtest(2, 12).pvalue)
    assert comparison.verdict(second.row).startswith("transfers better (+20.0 points [")
    white = next(e for e in comparison.entries if e.target == "inc_v3")
    assert (white.low, white.high) == tuple(100 * x for x in wilson(N, N))


def test_the_table_says_what_was_compared(tmp_path: Path) -> None:
    comparison = two_attacks(tmp_path)
    sheet = comparison_sheet(comparison)
    rates, gaps = sheet.blocks
    assert rates.header == [
        *("attack", "mean transfer", "against I-FGSM", "gradients / image", "Inc-v3", "Inc-v4"),
    ]
    assert gaps.header == [
        "attack",
        *(f"{x}, points" for x in ("mean transfer", "Inc-v3", "Inc-v4")),
    ]
    text = plain(sheet)
    assert "45.0 [" in text
    assert "100.0* [91.2, 100.0]" in text
    assert "in all of it: norm L∞, eps 10, source Inc-v3" in text
    assert "paper" not in text.replace("not the paper's", "")
    assert re.search(r"\| \*\*\+20\.0\*\* \[\+\d", markdown(sheet))
    frame = sheet.frame.set_index(["attack", "target"])
    assert frame.loc[("mifgsm", "inc_v4"), "asr"] == 45.0
    assert frame.loc[("mifgsm", "inc_v4"), "only_this"] == 10
    assert frame.loc[("mifgsm", "mean transfer"), "gradients"] == 18


def test_families_have_means_of_their_own(tmp_path: Path) -> None:
    """CNN inc_v4; transformers ir_v2 and vgg16, of which ifgsm fools 4 and 8, mifgsm 12 and 8."""
    kinds = [f"suite.networks.{name}.family=transformer" for name in ("ir_v2", "vgg16")]
    cells = cells_of(tmp_path, "attack=ifgsm,mifgsm", "targets=[inc_v3,inc_v4,ir_v2,vgg16]", *kinds)
    for cell, n in zip(cells, (4, 12), strict=True):
        record(cell, {"inc_v3": ones(N), "inc_v4": ones(10), "ir_v2": ones(n), "vgg16": ones(8)})
    comparison = Comparison(cells, Options())
    found = {(e.row[0], e.column): e for e in comparison.entries}
    assert found["mifgsm", "to CNNs"].value == 25.0
    assert found["ifgsm", "to transformers"].value == 15.0
    entry = found["mifgsm", "to transformers"]
    assert (entry.value, entry.n) == (25.0, N)
    assert entry.low < 25.0 < entry.high
    assert entry.gap
    assert entry.gap.difference == 10.0
    assert comparison.tests == 1  # of all targets: families are corrected among themselves
    assert found["mifgsm", "mean transfer"].p_holm == found["mifgsm", "mean transfer"].gap.p
    assert entry.p_holm == pytest.approx(2 * entry.gap.p)
    assert comparison.verdict(("mifgsm",)).count("points") == 1
    sheet = comparison_sheet(comparison)
    heads = ["mean transfer", "to CNNs", "to transformers", "against I-FGSM"]
    assert sheet.blocks[0].header[1:5] == heads
    assert "to CNNs: Inc-v4; to transformers: IR-v2, VGG16" in plain(sheet)
    by_eps = cells_of(tmp_path, "attack=ifgsm,mifgsm", "eps=2,4", *kinds)
    assert [*Comparison(by_eps, Options()).columns] == ["2", "4"]


def test_several_targets_are_shares_of_an_image(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "attack=ifgsm,mifgsm")
    for cell, n in zip(cells, (10, 20), strict=True):
        record(cell, {"inc_v3": ones(N), "inc_v4": ones(n), "ir_v2": ones(0)})
    comparison = Comparison(cells, Options())
    mean = [e for e in comparison.entries if e.target is None]
    assert [e.value for e in mean] == [12.5, 25.0]
    assert mean[1].gap
    assert (mean[1].gap.difference, mean[1].gap.only_left) == (12.5, 0)  # no rate of single images
    single = next(e for e in comparison.entries if e.target == "inc_v4" and e.gap)
    assert single.gap
    assert (single.gap.only_left, single.gap.only_right) == (10, 0)


def test_single_targets_and_means_are_two_families_of_tests(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "attack=ifgsm,mifgsm,difgsm", "targets=[inc_v3,inc_v4,ir_v2]")
    for cell, n in zip(cells, (10, 16, 22), strict=True):
        record(cell, {"inc_v3": ones(N), "inc_v4": ones(n), "ir_v2": ones(n)})
    entries = [e for e in Comparison(cells, Options()).entries if e.gap and e.target != "inc_v3"]
    p = {(e.row[0], e.target): (e.gap.p, e.p_holm) for e in entries if e.gap}
    assert p["mifgsm", "inc_v4"][0] == mcnemar(6, 0)
    assert p["mifgsm", "inc_v4"][1] == pytest.approx(4 * mcnemar(6, 0))  # of 6, 2 are larger: 1
    assert p["mifgsm", None][1] == pytest.approx(p["mifgsm", None][0])  # the larger of 2


def test_sources_stand_alone_and_together(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "attack=ifgsm,mifgsm", "source=inc_v3,vgg16")
    for cell in cells:
        n = 4 if cell.config.attack.name == "ifgsm" else 12
        n += 4 * (cell.source == "vgg16")
        record(cell, {target: ones(n) for target in cell.targets})
    comparison = Comparison(cells, Options())
    assert comparison.rows == [
        *(("inc_v3", "ifgsm"), ("inc_v3", "mifgsm"), ("vgg16", "ifgsm"), ("vgg16", "mifgsm")),
        *(("*", "ifgsm"), ("*", "mifgsm")),
    ]
    means = {e.row: e.value for e in comparison.entries if e.target is None}
    assert means["*", "mifgsm"] == (30.0 + 40.0) / 2
    pooled = next(e for e in comparison.entries if e.row == ("*", "mifgsm") and e.gap)
    assert pooled.gap
    assert (pooled.gap.difference, pooled.gap.n) == (20.0, N)  # of images, each once
    heads = [block.header for block in comparison_sheet(comparison).blocks]
    assert [head[-1] for head in heads[:3]] == ["IR-v2", "Res152", "gradients / image"]


def test_a_number_is_the_columns_and_verdicts_are_gathered(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "attack=ifgsm,mifgsm", "eps=2,4,8", "targets=[inc_v4]")
    for cell in cells:
        more = {2: 1, 4: 12, 8: 14}[int(cell.config.eps)]
        record(cell, {"inc_v4": ones(10 + more * (cell.config.attack.name == "mifgsm"))})
    comparison = Comparison(cells, Options())
    rows = comparison_sheet(comparison).blocks[0].rows
    assert [row[0] for row in rows] == ["I-FGSM", "MI-FGSM"]
    assert rows[1][4] == (
        "can't be told apart at n = 40 (about 261 would do) at eps 2; "
        "transfers better at eps 4, eps 8"
    )


def test_seeds_have_a_spread_and_an_interval_of_their_own(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "attack=ifgsm,mifgsm", "seed=0,1,2", "targets=[inc_v4]")
    for cell in cells:
        n = 10 + 2 * cell.config.seed + 8 * (cell.config.attack.name == "mifgsm")
        record(cell, {"inc_v4": ones(n)})
    comparison = Comparison(cells, Options())
    first = comparison.entries[0]
    assert first.value == pytest.approx(30.0)
    assert first.seed_sd == pytest.approx(5.0)  # of 25, 30 and 35
    half = stats.t.ppf(0.975, 2) * 5 / math.sqrt(3)
    assert (first.seed_low, first.seed_high) == pytest.approx((30 - half, 30 + half))
    text = plain(comparison_sheet(comparison))
    assert "30.0 ± 5.0 [" in text
    assert "95 % over 3 seeds" in text
    assert over_seeds([3.0]) == pytest.approx((math.nan,) * 3, nan_ok=True)


def test_an_unfinished_cell_is_a_dash_with_its_command(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "attack=ifgsm,agr", "targets=[inc_v4]")
    record(cells[0], {"inc_v4": ones(3)})
    comparison = Comparison(cells, Options())
    assert comparison.verdict(("agr",)) == ""
    text = plain(comparison_sheet(comparison))
    assert "missing: python -m agr.run attack=agr" in text
    assert "—" in text
    alone = Comparison(
        [cells[1], *cells_of(tmp_path, "attack=mifgsm", "targets=[inc_v4]")], Options()
    )
    paths = write_comparison(alone, tmp_path / "none", "c")  # nothing to draw
    assert {path.suffix for path in paths} == {".md", ".tex", ".csv", ".html"}


def test_attacks_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack/mine.yaml").write_text("defaults: [mifgsm]\nname: ifgsm\n")
    cells = cells_of(tmp_path, f"hydra.searchpath=[{tmp_path}]", "attack=ifgsm,mine", "eps=2,4")
    with pytest.raises(ConfigError, match="name of its own"):
        Comparison(cells, Options())


# ---- words ---------------------------------------------------------------------------------------


def test_words_follow_the_test() -> None:
    better = Paired(50, 44, 6.2, 2.1, 10.4, 200, 20, 4)
    assert in_short(better, 0.001) == "transfers better (+6.2 points [2.1, 10.4])"
    assert in_short(better._replace(difference=-6.2), 0.001).startswith("transfers worse (−6.2")
    assert in_short(Paired(n=100), 1.0) == "can't be told apart at n = 100"
    few = "can't be told apart at n = 5 (too few images to show any difference)"  # 2 / 2^5 > 0.05
    assert in_short(Paired(n=5), 1.0) == few
    assert in_short(Paired(n=6), 1.0) == few.partition(" (")[0].replace("5", "6")
    more = Paired(n=5, difference=20.0, only_left=1)
    assert in_short(more, 1.0).endswith(
        "(too few images to show any difference; about 28 would do)"
    )
    assert in_short(Paired(), 1.0) == "no image in common"


def test_images_that_would_show_a_difference_do_show_it() -> None:
    """Of rates by the test itself; of means, where the interval shrinks with the root of n."""
    found = Paired(30, 25, 5.0, -2.0, 12.0, 40, 5, 3)
    needed = images_to_show(found, 2)
    scale = needed / 40
    assert mcnemar(round(5 * scale), round(3 * scale)) <= 0.05 / 2
    means = found._replace(only_left=0, only_right=0)
    z = 5.0 / ((12.0 + 2.0) / 2 / stats.norm.ppf(0.975))
    expected = 40 * (stats.norm.ppf(1 - 0.025 / 2) / z) ** 2
    assert images_to_show(means, 2) == math.ceil(expected)
    assert images_to_show(means._replace(difference=0.0)) == math.inf


def test_pairs_are_matched_by_image() -> None:
    left = pd.Series([100.0, 0.0, 100.0], index=["a", "b", "c"])
    right = pd.Series([0.0, 0.0], index=["c", "b"])
    found = transfer_pair([left], [right])
    assert (found.n, found.difference, found.only_left) == (2, 50.0, 1)
    back, again = found.exchanged(), transfer_pair([right], [left])
    assert back[:3] == again[:3] == (0.0, 50.0, -50.0)
    assert back[5:] == again[5:]  # draws of a bootstrap come in another order
    assert (back.low, back.high) == (-found.high, -found.low)
    assert str(Paired(1.0, 1.0, 0.0, 0.0, 0.0).exchanged().difference) == "0.0"
    assert transfer_pair([], []) == pytest.approx(Paired(), nan_ok=True)
    twice = transfer_pair([left, left], [right, right])  # from two sources
    assert (twice.n, twice.difference, twice.only_left) == (2, 50.0, 0)
    none = paired(pd.DataFrame({0: [float("nan")], 1: [1.0]}), rates=True, clusters=False)
    assert none.n == 0


# ---- the command ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_runs_what_is_missing_and_writes_every_format(tmp_path: Path) -> None:
    words = ["attack=ifgsm,mifgsm", "eps=4,8", "n_images=4", "slots=4", f"outputs={tmp_path}"]
    done = run(["--run", *words, "against=mifgsm"], module="agr.compare")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("against MI-FGSM") == 1
    assert done.stdout.count("Mean transfer (%) by attack and eps") == 1
    (folder,) = (tmp_path / "demo/compare").iterdir()
    kinds = {path.suffix for path in folder.iterdir()}
    assert kinds == {".md", ".tex", ".csv", ".png", ".pdf", ".html"}
    assert "agr.compare --run attack=ifgsm,mifgsm" in (folder / "compare.html").read_text()
    finished = run(["--run", *words], module="agr.compare").stdout
    assert finished.startswith("4 cells finished before: nothing to run\n")
    again = run(["-m", *words], module="agr.run")
    assert again.stdout.count("95 % interval") == 0  # one table in place of four
    assert "Mean transfer (%) by attack and eps" in again.stdout
    refused = run(["attack=ifgsm"], module="agr.compare")
    assert refused.returncode == 2
    assert "nothing varies" in refused.stderr
