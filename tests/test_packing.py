"""Copies of the last images share passes: fewer of them, and not a bit is another."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from agr import load_attack
from agr.attacks import gradient
from agr.attacks.engine import Calls, Crafted
from agr.attacks.goal import Goal
from agr.attacks.gradient import Taker
from agr.attacks.loss import CrossEntropy
from agr.models.sources import Ensemble, Source
from tests.test_engine import run, small_items, small_network

SLOTS, STEPS = 8, 2
# Gradients of each step that stand alone, and those that share passes.
MANY = {
    "sinifgsm": (0, 5), "bsr": (0, 20), "sia": (0, 20), "ssa": (0, 20), "decowa": (20, 20),
    "vmifgsm": (1, 20), "emifgsm": (1, 10), "gra": (1, 20), "mef": (0, 20), "mumodig": (0, 7),
    "anda": (0, 25), "si_ni_di_ti": (0, 5),
}  # fmt: skip


def crafted(
    name: str, n: int, *words: str, source: Source | None = None, graph: bool = False
) -> tuple[list[Crafted], Calls]:
    calls, source = Calls(), source or small_network()
    attack = load_attack(name, steps=STEPS, overrides=words)
    return run(attack, source, small_items(n), SLOTS, calls=calls, graph=graph), calls


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("n", [1, 3, 5])
def test_bits_and_costs_are_the_same_and_passes_fewer(
    name: str, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["attack.views.diverse.back=true"] if name == "si_ni_di_ti" else []
    made, calls = crafted(name, n, *words)
    monkeypatch.setattr(gradient, "MOST", 1)
    alone, before = crafted(name, n, *words)
    for one, other in zip(made, alone, strict=True):
        assert np.array_equal(one.image, other.image)
        assert (one.forwards, one.backwards) == (other.forwards, other.backwards)
        assert one.prediction == other.prediction
    own, shared = MANY[name]
    assert before.backwards == STEPS * (own + shared)
    room = {1: 4, 3: 2, 5: 1}[n]  # eight slots, and four copies at most
    assert calls.backwards == STEPS * (own + math.ceil(shared / room))


def test_two_rounds_of_a_step_share_passes_each(monkeypatch: pytest.MonkeyPatch) -> None:
    made, calls = crafted("pgn", 1)
    monkeypatch.setattr(gradient, "MOST", 1)
    alone, before = crafted("pgn", 1)
    assert np.array_equal(made[0].image, alone[0].image)
    assert (calls.backwards, before.backwards) == (STEPS * 10, STEPS * 40)


@pytest.mark.parametrize("words", [["targeted=true"], ["quantize=off"]])
def test_targeted_attacks_and_floats_share_passes_too(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"attack.{word}" if word.startswith("targeted") else word for word in words]
    made, calls = crafted("bsr", 1, *words)
    monkeypatch.setattr(gradient, "MOST", 1)
    alone, before = crafted("bsr", 1, *words)
    assert np.array_equal(made[0].image, alone[0].image)
    assert calls.backwards < before.backwards


def test_passes_of_an_ensemble_and_those_that_are_replayed_are_shared() -> None:
    both = Ensemble([small_network(), small_network(1)], "losses")
    with_source, calls = crafted("bsr", 1, source=both)
    assert calls.backwards == 2 * STEPS * 5
    plain, _ = crafted("bsr", 1)
    assert not np.array_equal(with_source[0].image, plain[0].image)
    replayed, calls = crafted("bsr", 1, graph=True)
    assert np.array_equal(replayed[0].image, plain[0].image)
    assert calls.backwards == STEPS * 5


def test_what_reads_or_draws_by_rows_takes_one_copy_at_a_time() -> None:
    """Features, rules and random defenses know rows as images: others' copies would be theirs."""
    goal = Goal(CrossEntropy(), None, (), False)
    source: Any = SimpleNamespace(rules=(), is_random=False, graphs=None)
    eight, few = torch.zeros(8, dtype=torch.int64), torch.tensor([5])
    taker = Taker(goal, source, {}, eight, eight == 0, eight, eight, few=few)
    assert taker._room() == 4
    assert taker._replace(few=torch.tensor([1, 2, 7]))._room() == 2
    for other in (
        taker._replace(few=None),
        taker._replace(goal=goal._replace(objective=cast(Any, object()))),
        taker._replace(goal=goal._replace(views=cast(Any, (SimpleNamespace(joint=True),)))),
        taker._replace(source=SimpleNamespace(rules=(1,), is_random=False)),
        taker._replace(source=SimpleNamespace(rules=(), is_random=True)),
    ):
        assert other._room() == 1
