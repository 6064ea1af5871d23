"""The five sentences of a report, from records whose numbers are worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.report.answers import QUESTIONS, answers, listed
from agr.report.claims.page import judge_claims
from agr.report.outcomes import Outcomes
from agr.report.pairwise import transfer_differences
from tests.madeup import record

N = 32


def cells_of(outputs: Path, *words: str, attacks: str = "ifgsm,mifgsm,agr") -> list[Cell]:
    asked = [f"outputs={outputs}", f"n_images={N}", "norm=linf", f"attack={attacks}"]
    return expand([*asked, "source=vgg16", *words])


def fill(cell: Cell, black: int, white: int = N, spent: int = 10) -> None:
    """So many images fool every black-box target, and the source, at `spent` gradients each."""
    hits = {t: [1] * black + [0] * (N - black) for t in cell.targets}
    hits[cell.source] = [1] * white + [0] * (N - white)
    record(cell, hits, backwards=[spent] * N, steps_used=[spent] * N, clean_pred=0, label=0)


def said(cells: list[Cell]) -> dict[str, str]:
    outcomes = Outcomes(cells)
    transfers = {"linf": transfer_differences(outcomes, "linf")}
    found = answers(outcomes, transfers, judge_claims(outcomes, "agr_paper"))
    assert found.keys() == QUESTIONS.keys()
    assert not any("nan" in text for text in found.values())
    return found


def test_the_best_are_named_with_their_numbers(tmp_path: Path) -> None:
    """24, 16 and 15 of 32; AGR spends 4 gradients, and MI-FGSM alone fools the source less."""
    cells = cells_of(tmp_path)
    for cell, black, white, spent in zip(
        cells, (16, 24, 15), (32, 31, 32), (10, 10, 4), strict=True
    ):
        fill(cell, black, white, spent)
    found = said(cells)
    assert found["white-box"].startswith(
        "L∞ = 10: I-FGSM and AGR succeed most often on their source, with 100.0 % [89.3, 100.0] of"
    )
    assert found["transfer"].startswith("L∞ = 10: MI-FGSM transfers best, 75.0 % on average, 25.0")
    assert "more than the next, I-FGSM (p = 0.0" in found["transfer"]
    assert "all 3 attacks spend at most 10 gradients per image (what I-FGSM" in found["cost"]
    assert found["cost"].endswith("MI-FGSM transfers best, 75.0 % with 10.")
    assert "1 of 3 pairs" in found["apart"]  # I-FGSM and AGR: one image
    assert found["apart"].endswith("the best is MI-FGSM: every other is worse.")


def test_at_equal_cost_the_dear_attacks_are_left_out(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    for cell, black, spent in zip(cells, (8, 24, 12), (10, 60, 4), strict=True):
        fill(cell, black, spent=spent)
    cost = said(cells)["cost"]
    assert "of the 2 attacks that spend at most 10 gradients per image (what I-FGSM spends)" in cost
    assert "AGR transfers best, 37.5 % with 4; MI-FGSM gets 75.0 % with 60." in cost


def test_where_every_attack_stops_the_cost_is_that_of_all_steps(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, attacks="ifgsm_stop,mifgsm_stop")
    for cell, spent in zip(cells, (3, 12), strict=True):
        fill(cell, spent, spent=spent)
    cost = said(cells)["cost"]
    assert "one attack spends at most 10 gradients per image (one for each of T steps)" in cost
    assert "I-FGSM, stopped transfers best, 9.4 % with 3; MI-FGSM, stopped gets 37.5 %" in cost


def test_attacks_that_are_all_alike_have_no_winner(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    for cell in cells:
        fill(cell, 8)
    found = said(cells)
    assert "all 3 attacks succeed on their source with 100.0 %" in found["white-box"]
    assert found["transfer"] == "L∞ = 10: all 3 attacks have a mean transfer of 25.0 %."
    assert "I-FGSM, MI-FGSM and AGR transfer best, 25.0 % with 10" in found["cost"]
    assert "3 of 3 pairs of attacks can't be told apart" in found["apart"]
    assert "MI-FGSM and AGR can't be told from it" in found["apart"]


def test_one_attack_is_not_compared(tmp_path: Path) -> None:
    (cell,) = cells_of(tmp_path, attacks="agr")
    fill(cell, 8)
    found = said([cell])
    assert "AGR, the only attack, succeeds on its own source with 100.0 %" in found["white-box"]
    assert found["transfer"] == "L∞ = 10: AGR alone was run; its mean transfer is 25.0 %."
    assert "no two attacks" in found["cost"]
    assert "no two attacks" in found["apart"]


def test_unfinished_attacks_are_named_and_left_out(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "source=vgg16,vgg19")
    for cell in cells:
        if (cell.config.attack.name, cell.source) != ("mifgsm", "vgg19"):
            fill(cell, 24 if cell.config.attack.name == "mifgsm" else 8)
    found = said(cells)
    assert found["white-box"].endswith("in none of these sentences: MI-FGSM (L∞ = 10).")
    assert all("MI-FGSM" not in found[key] for key in ("transfer", "cost", "apart"))
    assert "1 of 1 pair" in found["apart"]


@pytest.mark.parametrize(
    ("words", "key", "part"),
    [
        ("targets=[vgg16]", "transfer", "no attack is finished that was scored on a black-box"),
        ("targets=[vgg19]", "white-box", "no source is among the targets"),
        ("attack.targeted=true", "transfer", "all 3 attacks have a mean transfer of 25.0 %"),
    ],
)
def test_what_was_not_asked_is_said(words: str, key: str, part: str, tmp_path: Path) -> None:
    cells = cells_of(tmp_path, words)
    for cell in cells:
        fill(cell, 8)
    assert part in said(cells)[key]


def test_claims_are_counted_over_readings(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    for cell in cells:
        fill(cell, 8)
    assert said(cells)["claims"].startswith(
        "Of 11 claims, the paper's own numbers support 3 and contradict 5. Of the "
    )


def test_titles_are_listed_in_words() -> None:
    names: list[Any] = [listed(list(titles)) for titles in ("", "A", "AB", "ABCD", "ABCDE")]
    assert names == ["", "A", "A and B", "A, B, C and D", "A, B, C and 2 others"]
    assert listed(["A", "B, no stop", "C"]) == "A; B, no stop and C"
