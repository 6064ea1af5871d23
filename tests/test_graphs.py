"""Gradient passes that are replayed: the same bits as without, on a CPU and on a GPU's stand-in.

No GPU was there. On a CPU the pass itself goes through the same buffers, as the graph's twin;
`tests.gpu` records its operators and runs them again, as a CUDA graph does, without any Python.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch

from agr import load_attack
from agr.attacks.engine import Calls, Crafted, craft
from agr.attacks.passes import refusal
from agr.evaluation.runner import run_cell
from agr.models.defended import DefendedNetwork
from agr.models.defenses import BitDepth
from agr.models.sources import Ensemble
from agr.utils.errors import ConfigError
from tests.conftest import assert_same_bits, demo_cell
from tests.gpu import Gpu
from tests.test_slots import Along, Mixed, network
from tests.test_waits import toy

# Gradients at the iterate, through views, at other points, of copies of another size; and what
# asks for losses of its own, which stays outside.
REPLAYED = (
    *("ifgsm", "agr", "nifgsm", "difgsm", "admix", "ssa", "bsr", "ops_3x3", "decowa", "vmifgsm"),
    *("pgn", "rap", "mumodig", "agr_adagrad", "targeted/logit"),
)
QUICK = ("agr", "difgsm", "ssa", "rap", "targeted/logit")
NAMES = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in REPLAYED]


def by_tag(made: list[Crafted]) -> list[Crafted]:
    return sorted(made, key=lambda m: m.item.tag)


def same(made: list[Crafted], expected: list[Crafted]) -> None:
    """Check that results are equal bit by bit."""
    assert [m[2:] for m in made] == [m[2:] for m in expected]
    assert all(np.array_equal(m.image, e.image) for m, e in zip(made, expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_replayed_passes_make_the_same_bits(name: str, members: int) -> None:
    attack, source, items = toy(name, "linf")
    if members > 1:
        source = Ensemble([network(seed) for seed in range(members)], "losses")
    plain, twin, on_gpu, recorded = (Calls() for _ in range(4))
    expected = by_tag(list(craft(attack, source, items, 4, calls=plain)))
    same(by_tag(list(craft(attack, source, items, 4, calls=twin, graph=True))), expected)
    with Gpu() as gpu:
        if isinstance(source, Ensemble):  # it remembers its device
            source = Ensemble([*source.members], source.over)  # type: ignore[arg-type]
        same(by_tag(list(craft(attack, source, items, 4, calls=on_gpu))), expected)
        gpu.waits.clear()
        same(by_tag(list(craft(attack, source, items, 4, calls=recorded, graph=True))), expected)
    assert {*gpu.waits} <= {"told", "craft"}
    # A pass that is replayed always takes its gradient, also of rows that turn out to be done.
    assert twin.forwards == plain.forwards
    assert plain.backwards <= twin.backwards <= twin.forwards
    assert recorded.forwards == on_gpu.forwards
    assert on_gpu.backwards <= recorded.backwards <= recorded.forwards


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("dem", "DiversityEnsemble takes the loss of all copies at once"),
        ("svre", "VarianceReduction asks for single members"),
    ],
)
def test_what_cant_be_replayed_is_refused(name: str, why: str) -> None:
    attack, source, items = toy(name, "linf")
    with pytest.raises(ValueError, match=f"graph=true: {why}: use graph=null or false"):
        list(craft(attack, source, items, 4, graph=True))


def test_other_reasons() -> None:
    attack = load_attack("ifgsm")
    assert refusal(attack, [network()]) is None
    ruled = replace(attack, surrogate=(Mixed(),))
    assert refusal(ruled, []) == "Mixed changes passes of the source from step to step"
    reading = replace(attack, objective=Along())
    assert refusal(reading, []) == "Along reads features of the source"
    defended = DefendedNetwork(network(), [BitDepth(5)])
    assert refusal(attack, [network(), defended]) == "defenses of the source work on the host"


def test_a_pass_that_a_gpu_refuses_is_named() -> None:
    attack, source, items = toy("ifgsm", "linf")
    refused = patch("torch.cuda.graph", side_effect=RuntimeError("not while it is captured"))
    with Gpu(), refused, pytest.raises(ValueError, match=r"recorded \(not while .* graph=false"):
        list(craft(attack, source, items, 4, graph=True))
    full = patch("torch.cuda.graph", side_effect=torch.OutOfMemoryError("out of memory"))
    with Gpu(), full, pytest.raises(torch.OutOfMemoryError):
        list(craft(attack, source, items, 4, graph=True))


WORDS = ("source=vgg16", "targets=[vgg16]", "select=source", "n_images=9", "attack=mifgsm_stop")


def test_a_cell_with_graphs_has_the_same_rows(tmp_path: Path) -> None:
    def rows(name: str, *words: str) -> pd.DataFrame:
        found = run_cell(demo_cell(tmp_path / name, *WORDS, *words), said.append).read("rows")
        return found.sort_values("position").reset_index(drop=True)

    said: list[str] = []
    assert_same_bits(rows("graph", "graph=true"), plain := rows("plain"))
    assert not any("graph" in line for line in said)
    assert_same_bits(rows("auto", "graph=null"), plain)
    assert "graph=null: passes aren't replayed: there is no GPU" in said


def test_a_cell_that_cant_be_replayed_says_so_at_once(tmp_path: Path) -> None:
    words = ("attack=sgm", "source=res152", "targets=[res152]", "graph=true")
    with pytest.raises(ConfigError, match="attack=sgm on res152: graph=true: SkipGradient changes"):
        run_cell(demo_cell(tmp_path, *words), lambda _: None)
