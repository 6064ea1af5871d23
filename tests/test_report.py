"""The report as a whole: its texts from made-up records, and a real one in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.evaluation.provenance import class_names
from agr.records.store import Records
from agr.report import drawn
from agr.report.answers import QUESTIONS
from agr.report.html.contract import HtmlTable
from agr.report.html.gallery import SAMPLE, examples_of
from agr.report.html.render import render
from agr.report.numbers import printed
from agr.report.outcomes import Outcomes
from agr.report.page import build_page, gather
from agr.report.pairwise import (
    best_and_equal,
    differences_frame,
    pair_differences,
    transfer_differences,
)
from agr.report.report import _short_enough, results, tex, write_report
from agr.report.statistics import holm, mcnemar
from agr.utils.errors import ConfigError
from tests.browser import chromium, decoded, opened
from tests.forked import AT_ONCE, run
from tests.madeup import record

N = 16
ROOT = Path(__file__).parent.parent
ATTACKS = ("ifgsm", "mifgsm", "agr")


def cells_of(outputs: Path, *words: str) -> list[Cell]:
    asked = [f"outputs={outputs}", f"n_images={N}", "norm=linf", *words]
    return expand([f"attack={','.join(ATTACKS)}", "source=vgg16,inc_v3", *asked])


def command(script: str) -> str:
    return f"python scripts/{script}.py --run seed=0"


def ones(many: int) -> list[int]:
    return [1] * many + [0] * (N - many)


def fill(cells: list[Cell], counts: dict[str, int], size: int = 12) -> None:
    """Each attack fools as many images of every black-box target, and all of its source."""
    rng = np.random.default_rng(0)
    clean = rng.integers(30, 220, (N, size, size, 3)).astype(np.uint8)
    for i, cell in enumerate(cells):
        own = dict.fromkeys(cell.targets, ones(counts[cell.config.attack.name]))
        pairs = [(c, c + np.uint8(1 + i)) for c in clean]
        facts: dict[str, Any] = {"adv_conf": 0.5, "clean_conf": 0.75, "cosine": 0.99}
        facts |= {"steps_used": 3, "rel_l2": 0.02, "l2": 0.3, "clean_pred": 4, "label": 4}
        facts |= {"source_adv_pred": 1, "first_success_step": 2, "adv_pred": 1}
        steps = [[(0, 1.0), (1, 0.99)]] * N
        record(cell, own | {cell.source: ones(N)}, images=pairs, traces=steps, **facts)


# ---- which attacks differ ------------------------------------------------------------------------


def test_every_two_attacks_of_a_table_by_hand(tmp_path: Path) -> None:
    """14, 4 and 3 of 16: on nested images the differences are 10, 11 and 1 image."""
    cells = cells_of(tmp_path, "source=vgg16")
    fill(cells, {"ifgsm": 4, "mifgsm": 14, "agr": 3})
    compared = pair_differences(Outcomes(cells), "linf")
    assert len(compared) == 3 * 3  # pairs of attacks, targets
    frame = differences_frame(compared)
    on = frame[frame["target"] == "vgg19"].set_index(["left", "right"])
    assert on["only_left"].to_dict() == {
        ("mifgsm", "ifgsm"): 10, ("mifgsm", "agr"): 11, ("ifgsm", "agr"): 1
    }  # fmt: skip
    assert on["only_right"].sum() == 0
    p = [mcnemar(k, 0) for k in (10, 11, 1)] * 2 + [1.0] * 3  # and the source, where all are equal
    assert sorted(frame["p_holm"]) == pytest.approx(sorted(holm(p)))
    best = best_and_equal(compared).set_index("target")
    assert best["best"]["vgg19"] == ["mifgsm"]
    assert best["equal"]["vgg19"] == []
    assert sorted(best["best"]["vgg16"]) == sorted(ATTACKS)  # all fool all
    assert best["equal"]["vgg16"] == []
    assert best["asr"]["vgg19"] == 87.5


def test_what_cannot_be_told_from_the_best_is_named(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "source=vgg16")
    fill(cells, {"ifgsm": 10, "mifgsm": 12, "agr": 0})
    best = best_and_equal(pair_differences(Outcomes(cells), "linf")).set_index("target")
    assert best["equal"]["res152"] == ["ifgsm"]  # two images more are no difference
    assert best["smallest"]["res152"] == 100 * 9 / N  # 2^-8 < 0.05 / 9 tests


def test_mean_transfer_is_compared_image_by_image(tmp_path: Path) -> None:
    """Two sources: 14 of 16 images fool all black-box targets, against 4; paired by source."""
    cells = cells_of(tmp_path)
    fill(cells, {"ifgsm": 4, "mifgsm": 14, "agr": 4})
    first, second, third = transfer_differences(Outcomes(cells), "linf")
    assert (first.left.attack, first.right.attack) == ("mifgsm", "ifgsm")
    assert (first.left_value, first.difference) == pytest.approx((87.5, 62.5))
    assert first.n == N  # images of both sources have the same names here: clusters
    exact = stats.bootstrap(
        (np.repeat([0.0, 100.0], [6, 10]),), np.mean, method="percentile",
        rng=np.random.default_rng(1), n_resamples=20_000,
    ).confidence_interval  # fmt: skip
    assert (first.low, first.high) == pytest.approx((exact.low, exact.high), abs=6.3)
    assert first.p_holm == pytest.approx(3 * first.p)
    assert {second.left.attack, second.right.attack} == {"mifgsm", "agr"}
    assert (third.difference, third.p_holm) == (0, 1)


# ---- the texts -----------------------------------------------------------------------------------


def texts(table: HtmlTable) -> list[list[str]]:
    return [[printed(cell) for cell in row] for row in table.rows]


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    found = cells_of(tmp_path, "paper=true")
    fill(found, {"ifgsm": 4, "mifgsm": 12, "agr": 3})
    return found


def test_the_page_says_everything(cells: list[Cell], tmp_path: Path) -> None:
    found = gather(cells, [], "agr_paper", command)
    shown = build_page(found)
    assert shown.notice == "demo suite: stand-in networks, not the paper's"
    assert dict(shown.summary)["cells"] == "6 of 6 finished"
    assert [t.name for t in shown.tables] == ["table1", "table1-2", "table3"]
    inception = shown.tables[0]
    assert [row[0] for row in inception.rows] == ["Inc-v3"] * 3  # in full, for sorting
    assert printed(inception.rows[0][5]).startswith("28.86 (")  # the paper's, beside ours
    assert printed(inception.rows[1][4]).startswith("75.0 [")
    assert [row[4].bold for row in inception.rows[:2]] == [False, True]  # type: ignore[union-attr]
    claims = {claim.name: claim.verdicts for claim in shown.claims}
    assert claims["AGR transfers best in each pair"]["as printed"] == "contradicted"
    assert claims["AGR transfers best in each pair"]["AGR, plain"] == "contradicted"
    assert claims["AGR transfers best in each pair"]["literal, plain"] == "not run"
    momentum = next(c for c in shown.claims if "MI-FGSM transfers worse" in c.name)
    assert momentum.details is not None
    assert "MI-FGSM against I-FGSM, L∞, VGG16 → VGG19" in {row[1] for row in momentum.details.rows}
    assert {figure.name for figure in shown.figures} >= {"figure1-linf", "figure3", "frontier"}
    charts = {figure.name for figure in shown.figures if figure.plotly}
    assert charts == {"frontier", "figure3", "transfer-linf"}
    assert [answer.title for answer in shown.answers] == list(QUESTIONS.values())
    assert shown.answers[1].text.startswith("L∞ = 10: MI-FGSM transfers best, 75.0 % on average")
    ((_, evidence),) = shown.answers[1].evidence
    assert evidence is shown.further[0]
    board = shown.leaderboards[0]
    assert board.header[:4] == [
        "Attack", "mean transfer ASR % [95 %]", "against the best, points", "significant"
    ]  # fmt: skip
    second = ["I-FGSM", "25.0", "−50.0", "yes"]
    assert [printed(cell).split(" ")[0] for cell in board.rows[1][:4]] == second
    assert [printed(cell) for cell in board.rows[-1][2:4]] == ["", ""]  # no attack
    assert len(shown.cells.rows) == 6
    assert shown.cells.rows[0][-1] == cells[0].command()
    text = render(shown)
    assert "python scripts/make_report.py --run seed=0" in text
    assert len(text.encode()) < 20_000_000


@pytest.mark.slow
def test_figures_of_many_cells_are_drawn_by_another_process(
    cells: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = gather(cells, [], "agr_paper", command).figures
    monkeypatch.setattr(drawn, "MANY", 1)
    monkeypatch.setattr(drawn.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(drawn, "figures_of", None)  # not in this process
    there = gather(cells, [], "agr_paper", command).figures
    assert [(f.name, f.png, f.plotly) for f in there] == [(f.name, f.png, f.plotly) for f in here]


@pytest.mark.slow
def test_classes_of_imagenet_have_names(tmp_path: Path) -> None:
    """timm's first lemma of each class that the rows speak of, and of no other suite's."""
    cells = cells_of(tmp_path, "source=vgg16")
    fill(cells, {"ifgsm": 4, "mifgsm": 12, "agr": 3})
    records = Records(cells[0].folder)
    assert class_names(cells[0], records) == {}
    suite = replace(cells[0].suite, synsets="imagenet")
    cell = replace(cells[0], config=replace(cells[0].config, suite=suite))
    names = class_names(cell, records)
    assert names == {"0": "tench", "1": "goldfish", "4": "hammerhead"}
    records.update_run(lambda run: run.classes.update(names))
    shown = build_page(gather(cells, [], "agr_paper", command))
    assert shown.classes == {0: "tench", 1: "goldfish", 4: "hammerhead"}
    assert '"classes":{"1":"goldfish","4":"hammerhead"}' in render(shown)  # what examples say


def test_the_sample_is_shared_out_among_groups(cells: list[Cell]) -> None:
    """24 images of both groups together: the first twelve of each selection, by every attack."""
    examples = examples_of(Outcomes(cells))
    assert len({(example.group, example.image_id) for example in examples}) == SAMPLE
    assert len(examples) == SAMPLE * len(ATTACKS)
    one = next(
        s for s in examples if (s.attack, s.source, s.image_id) == ("AGR", "VGG16", "image3")
    )
    saved = Outcomes(cells).cells["linf", "vgg16", "agr"]
    index = cells.index(saved)
    assert (one.adversarial.astype(int) - one.clean == 1 + index).all()
    assert one.answers["VGG19"] == (4, 0.75, 1, 0.5, False)
    assert one.answers["VGG16"].success
    same = [s.clean for s in examples if (s.group, s.image_id) == (one.group, one.image_id)]
    assert all(clean is same[0] for clean in same)


@pytest.mark.slow
def test_results_fit_into_a_comment(cells: list[Cell], tmp_path: Path) -> None:
    found = gather(cells, [], "agr_paper", command)
    text = results(found)
    assert len(text) < 65_536
    assert "**demo suite: stand-in networks, not the paper's**" in text
    for part in (
        "Table 1: ASR",
        "Claims of Xiao",
        "Leaderboard: mean",
        "python scripts/make_report.py",
    ):
        assert part.replace("\\`", "`") in text
    assert text.count("<details>") == text.count("</details>") == 7
    # Markdown inside of HTML needs empty lines around it
    assert all(block.startswith("\n\n") for block in re.split("</summary>", text)[1:])


@pytest.mark.slow
def test_titles_are_text_wherever_they_stand(tmp_path: Path) -> None:
    """Markup of HTML, Markdown, LaTeX, matplotlib and Plotly in a title means nothing."""
    title = r"<a href='https://x.example'>a</a> $\foo{$ *b* | ε ﷽"
    found = cells_of(tmp_path)
    cells = [replace(c, config=replace(c.config, attack=replace(c.config.attack, title=title)))
             for c in found]  # fmt: skip
    fill(cells, {"ifgsm": 4, "mifgsm": 12, "agr": 3})
    told = gather(cells, [], "agr_paper", command)
    shown = build_page(told)
    charts = str([figure.plotly for figure in shown.figures])
    assert "<a" not in charts
    assert "&lt;a" in charts
    assert "<a" not in re.sub(r"\\<", "", results(told))
    assert tex(told.tables).isascii()
    # all three have one title: their names tell them apart
    assert {s.attack for s in shown.examples} == {f"{title} ({name})" for name in ATTACKS}
    assert "<a href='https" not in render(shown)


@pytest.mark.slow
def test_targeted_attacks_have_no_leaderboard(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "attack.targeted=true")
    fill(cells, {"ifgsm": 4, "mifgsm": 12, "agr": 3})
    shown = build_page(gather(cells, [], "agr_paper", command))
    assert shown.leaderboards == []
    assert "frontier" not in {figure.name for figure in shown.figures}


@pytest.mark.slow
def test_targets_elsewhere_are_shown_where_they_are_all_there_is(tmp_path: Path) -> None:
    """Cells scored on another group's network, or on a defended one, have their tables."""
    for words in ("targets=[vgg19/jpeg75,vgg16]", "targets=[res152/median2]"):
        cells = cells_of(tmp_path / str(len(words)), words, "source=vgg16")
        fill(cells, {"ifgsm": 4, "mifgsm": 12, "agr": 3})
        shown = build_page(gather(cells, [], "agr_paper", command))
        assert not [note for note in shown.tables[0].notes if note.startswith("missing")]
        assert "25.0 [" in str(texts(shown.tables[0]))
        assert "MI-FGSM" in str(shown.further[-1].rows)
    alone = cells_of(tmp_path / "alone", "targets=[inc_v4]", "source=vgg16")
    fill(alone, {"ifgsm": 4, "mifgsm": 12, "agr": 3})
    assert "25.0 [" in str(texts(build_page(gather(alone, [], "agr_paper", command)).tables[0]))


@pytest.mark.slow
def test_a_network_without_an_answer_is_shown_as_one(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "source=vgg16")
    fill(cells, {"ifgsm": 4, "mifgsm": 12, "agr": 3})
    examples = examples_of(Outcomes(cells))
    silent = examples[0].answers["VGG19"]._replace(adv_pred=-1, adv_conf=float("nan"))
    examples[0].answers["VGG19"] = silent  # type: ignore[index]
    shown = build_page(gather(cells, [], "agr_paper", command))
    text = render(replace(shown, examples=examples))
    assert "NaN" not in text.partition('id="examples">')[2].partition("</script>")[0]


def test_what_is_too_long_for_a_comment_is_named() -> None:
    text = _short_enough("head", {"a": "x" * 40_000, "b": "y" * 30_000, "c": "z"})
    assert len(text) < 65_536
    assert "Too long for a comment, in report.html: a" in text
    assert "x" * 100 not in text
    assert "y" * 30_000 in text


@pytest.mark.slow
def test_older_files_are_replaced_and_whole(cells: list[Cell], tmp_path: Path) -> None:
    found = gather(cells, [], "agr_paper", command)
    for _ in range(2):
        paths = write_report(found, tmp_path / "report")
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == sorted(p.name for p in paths)
    assert len(pd.read_csv(paths[3])) == 2 * 3 * 3


def test_several_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is there twice: give one eps, seed"):
        gather(cells_of(tmp_path, "seed=0,1"), [], "agr_paper", command)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs LaTeX (Debian's texlive)")
def test_latex_compiles_alone_and_inside_of_a_paper(cells: list[Cell], tmp_path: Path) -> None:
    text = tex(gather(cells, [], "agr_paper", command).tables)
    assert text.isascii()
    (tmp_path / "tables.tex").write_text(text)
    paper = r"""\documentclass{article}\usepackage{booktabs,graphicx}
\begin{document}Before. \input{tables.tex} After.\end{document}"""
    (tmp_path / "paper.tex").write_text(paper)
    for name in ("tables", "paper"):
        words = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", f"{name}.tex"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        assert "Overfull" not in done.stdout
        assert (tmp_path / f"{name}.pdf").stat().st_size > 10_000


# ---- a whole one ---------------------------------------------------------------------------------

WORDS = ["n_images=3", "norm=linf", "source=vgg16,vgg19", "attack=ifgsm,agr", "progress=false"]


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_a_real_report_shows_the_images_of_its_records(tmp_path: Path) -> None:
    """From nothing to a page: what the browser shows are the very images that were scored."""
    words = [*WORDS, "targets=[vgg16,vgg19]", f"outputs={tmp_path}", "slots=8", "threads=1"]
    done = run(["--run", *words], module="scripts.make_report", patch=AT_ONCE)
    assert done.returncode == 0, done.stdout + done.stderr
    (html,) = tmp_path.glob("demo/report/*/report.html")
    runs = [Records(path.parents[1]).run() for path in tmp_path.glob("demo/*/_about/run.json")]
    assert len(runs) == 2 * 2 * 5  # eps 10, and four others
    assert all(run and run.config["targets"] == ["vgg16", "vgg19"] for run in runs)
    with chromium() as browser, opened(browser, html) as tab:
        for source in ("VGG16", "VGG19"):
            for attack in ("I-FGSM", "AGR"):
                tab.locator("#pick-source").select_option(label=source)
                tab.locator("#pick-attack").select_option(label=attack)
                shown = decoded(tab.locator("#adversarial").get_attribute("src"))
                image = tab.locator("#pick-image option:checked").text_content().partition(":")[0]
                assert np.array_equal(shown, saved_image(tmp_path, attack, source, image))
        assert tab.locator("#table1").count() or tab.locator("table").count() > 5
    figures = list(html.parent.parent.parent.glob("report/*/results.md"))
    assert "VGG16" in figures[0].read_text()


def saved_image(outputs: Path, attack: str, source: str, image: str) -> np.ndarray[Any, Any]:
    name = {"I-FGSM": "ifgsm", "AGR": "agr"}[attack]
    (path,) = outputs.glob(f"demo/{name}-linf-10-{source.lower()}-*/_png/{image.strip()}.png")
    with Image.open(path) as picture:
        return np.asarray(picture)
