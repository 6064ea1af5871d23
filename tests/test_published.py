"""Published rankings: their files, a leaderboard beside them, and the correlation, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from agr.config.compose import expand
from agr.config.schema import conf_dir
from agr.report.leaderboard import write_leaderboards
from agr.report.published import Published, load_published, spearman, split_published
from agr.utils.errors import ConfigError
from tests.test_leaderboard import cells_of, fill

TARGETS = "targets=[inc_v3,vgg16]"


def board(tmp_path: Path, published: Published) -> tuple[list[list[str]], str]:
    """Rows and notes of a leaderboard with 4, 3, 2 and 1 of 4 images fooled, beside `published`."""
    attacks = ["mifgsm", "ifgsm", "fgsm", "pgd"]
    cells = cells_of(tmp_path, f"attack={','.join(attacks)}", "source=inc_v3", TARGETS)
    by_name = {cell.config.attack.name: cell for cell in cells}
    for fooled, name in zip((4, 3, 2, 1), attacks, strict=True):
        fill(by_name[name], {"vgg16": fooled})
    paths = write_leaderboards(cells, tmp_path / "t", None, (), {"theirs": published})
    assert [p.name for p in paths][3:] == [
        f"leaderboard-linf-10-theirs.{s}" for s in ("md", "tex", "csv")
    ]
    text = paths[3].read_text()
    rows = [
        [word.strip() for word in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    return rows[1:], " ".join(text.split())


def test_places_and_correlation_by_hand(tmp_path: Path) -> None:
    theirs = Published(
        "A survey",
        "its setting",
        {"a": "cnn", "b": "cnn", "c": "transformer"},
        {"mifgsm": [30, 50, 90], "ifgsm": [10, 30, 80], "fgsm": [60, 80, 0], "ssa": [1, 1, 1]},
    )
    rows, notes = board(tmp_path, theirs)
    assert [row[1:] for row in rows] == [
        ["mifgsm", "100.0", "1", "40.0", "2", "+1"],
        ["ifgsm", "75.0", "2", "20.0", "3", "+1"],
        ["fgsm", "50.0", "3", "70.0", "1", "−2"],
    ]
    # Ranks (1, 2, 3) and (2, 3, 1): 1 - 6 * (1 + 1 + 4) / (3 * 8) = -0.5; of 3 pairs 1 agrees.
    assert "correlation of the two: Spearman's −0.50 [" in notes.replace("-0.50", "−0.50")
    assert "Kendall's -0.33, 3 attacks" in notes
    # Over all targets 56.7, 40, 46.7: ranks (1, 3, 2), 1 - 6 * 2 / 24 = 0.5.
    assert "with the means over all its targets: Spearman's 0.50 [" in notes
    assert "means over a, b" in notes
    assert "ranked here only: PGD" in notes
    assert "published only: ssa" in notes


def test_two_attacks_have_no_correlation(tmp_path: Path) -> None:
    theirs = Published("A", "B", {"a": "cnn"}, {"mifgsm": [3], "ifgsm": [2]})
    rows, notes = board(tmp_path, theirs)
    assert len(rows) == 2
    assert "2 attacks are too few" in notes


def test_the_correlation_is_scipys() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 9, 30).astype(float)  # with ties
    y = x + rng.normal(0, 3, 30)
    rho, low, high = spearman(x, y)
    assert rho == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert low < rho < high
    # Fisher's interval is about as wide.
    half = 1.96 * math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    assert high - low == pytest.approx(
        math.tanh(math.atanh(rho) + half) - math.tanh(math.atanh(rho) - half), rel=0.4
    )
    assert math.isnan(spearman(np.ones(4), np.arange(4.0))[0])


def test_shipped_files_name_attacks_that_there_are() -> None:
    for path in Path(conf_dir(), "published").glob("*.yaml"):
        published = load_published(path.stem)
        names = {p.stem for p in Path(conf_dir(), "attack").glob("*.yaml")}
        names |= {f"field/{p.stem}" for p in Path(conf_dir(), "attack", "field").glob("*.yaml")}
        assert {*published.attacks} <= names
        suite = expand(["suite=transfer2026", "source=resnet50"])[0].suite
        assert {t: suite.networks[t].family for t in published.targets} == published.targets


WRONG = {
    "[1]": "write exactly the keys",
    "{title: a, setting: b, targets: {x: cnn}}": "write exactly the keys",
    "{title: a, setting: b, targets: {x: cat}, attacks: {}}": "with its family, one of cnn",
    "{title: a, setting: b, targets: [x], attacks: {}}": "with its family",
    "{title: a, setting: b, targets: {x: cnn}, attacks: [fgsm]}": "with its list of rates",
    "{title: a, setting: b, targets: {x: cnn}, attacks: {fgsm: 1}}": "attacks.fgsm=1: write",
    "{title: a, setting: b, targets: {x: cnn}, attacks: {fgsm: [101]}}": "from 0 to 100",
    "{title: a, setting: b, targets: {x: cnn}, attacks: {fgsm: [.nan]}}": "from 0 to 100",
    "{title: a, setting: b, targets: {x: cnn}, attacks: {fgsm: [true]}}": "from 0 to 100",
    "{title: a, setting: b, targets: {x: cnn, y: mlp}, attacks: {fgsm: [1]}}": "of the 2 targets",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_told_in_a_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "their.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=WRONG[text]):
        split_published([f"published={path}"])


def test_words() -> None:
    found, rest = split_published(["attack=fgsm", "published=transferattack"])
    assert [*found] == ["transferattack"]
    assert rest == ["attack=fgsm"]
    with pytest.raises(ConfigError, match="did you mean transferattack"):
        split_published(["published=transferatack"])
