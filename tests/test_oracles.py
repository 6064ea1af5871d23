"""Every named attack against the papers and other libraries: see `tests.oracles`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from agr import load_attack
from tests.attacks_page import PAGE, build_page
from tests.conftest import CLASSES
from tests.oracles import ORACLES, UNSEEN, VARIANTS
from tests.oracles.base import L2_EPS, composed, config_of, ours

pytestmark = pytest.mark.xdist_group("oracles")  # the attacks are composed once


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


# The others take longer together than all else that is fast; their parts have tests of their own.
FAST = ("fgsm", "ifgsm", "mifgsm", "agr", "nifgsm", "sifgsm", "tifgsm")


@pytest.mark.parametrize(
    "name",
    [
        n if o.attack in FAST else pytest.param(n, marks=pytest.mark.slow)
        for n, o in ORACLES.items()
    ],
)
def test_agrees_with_oracle_and_only_with_its_parameters(name: str) -> None:
    oracle = ORACLES[name]
    assert oracle.to <= 1e-6
    model, x, y, _ = given = oracle.given()
    theirs = oracle.run(given)
    assert difference(oracle.ours()(model, x, y), theirs) <= oracle.to
    for change in oracle.changes:
        assert difference(oracle.ours(change)(model, x, y), theirs) > 1e-4, change
    assert difference(oracle.ours()(model, x, (y + 1) % CLASSES), theirs) > 1e-4, "labels"


def test_every_named_attack_has_an_oracle_as_it_is() -> None:
    """Every attack is checked once at least without overrides, but for the steps of dear ones."""
    as_it_is = {
        oracle.attack
        for oracle in ORACLES.values()
        if all(override.startswith("steps=") for override in oracle.overrides)
    }
    assert as_it_is == set(composed())


@pytest.mark.parametrize("name", composed())
def test_every_parameter_of_an_attack_is_seen_by_an_oracle(name: str) -> None:
    changes = {
        change.partition("=")[0]
        for oracle in ORACLES.values()
        if oracle.attack == VARIANTS.get(name, name)
        for change in oracle.changes
    }
    missing = {"eps", "steps", "attack.size", *_parameters(config_of(name))}
    assert missing - changes <= set(UNSEEN)


def _parameters(config: Any) -> Iterator[str]:
    """Yield the keys of an attack's parameters, and of parts that have none."""
    nodes = config.attack.parts()
    for slot, node in nodes.items():
        names = [key for key in node if key != "_target_"]
        yield from (f"attack.{slot}.{name}" for name in names)
        if not names and slot != "loss":
            yield f"attack.{slot}"


@pytest.mark.slow
def test_what_is_checked_is_what_users_load() -> None:
    for name in ("si_ni_di_ti", "agr+vmi"):
        assert load_attack(name, eps=10, quantize="off") == ours(name)
    assert load_attack("pgd", norm="l2", eps=L2_EPS, quantize="off") == ours("pgd", "l2")
    overrides = ["attack.chain.momentum.decay=0.5", "attack.step.delta=1e-3", "attack.size=eps/3"]
    mine = load_attack("agr+mi", eps=11, steps=7, overrides=overrides, quantize="off")
    assert mine == ours("agr+mi", "linf", "eps=11", "steps=7", *overrides)


def test_single_steps_agree_in_float32() -> None:
    """A single step has no history in which a sign flipped by rounding could grow."""
    oracle = ORACLES["fgsm linf torchattacks.FGSM"]
    given = oracle.given()
    single = given._replace(model=given.model.float(), x=given.x.float())
    mine = oracle.ours()(single.model, single.x, single.y)
    assert mine.dtype == torch.float32
    assert difference(mine, oracle.run(single)) <= 1e-6


def test_the_page_of_attacks_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == build_page(), "docs/attacks.md is old: make attacks-page"
