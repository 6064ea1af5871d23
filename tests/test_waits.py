"""What the host of a GPU waits for: once in a step of the engine at most, in one function.

No GPU was there: `tests.gpu` says what its stand-in sees.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from agr import load_attack
from agr.attacks import Attack
from agr.attacks.engine import Calls, Crafted, Item, craft
from agr.attacks.host import fetched, known, sent, told
from agr.attacks.parts import Pool
from agr.config.compose import expand
from agr.evaluation.crafting import attack_of
from agr.models.sources import Ensemble, Source
from tests.conftest import demo_items, demo_network, images
from tests.gpu import Gpu
from tests.test_named import MANY
from tests.test_slots import network

# On a toy of 12 px, with as few copies as there can be.
SMALL = (
    *("ifgsm", "mifgsm", "agr", "nifgsm", "difgsm", "admix", "ssa", "vmifgsm", "bsr", "sia"),
    *("ops_3x3", "l2t", "decowa", "pgn", "rap", "dem", "anda", "mumodig", "svre", "smer", "pgd"),
    *("tifgsm", "gra", "emifgsm", "mef", "agr_adagrad", "adam", "targeted/logit"),
)
QUICK = ("ifgsm", "agr", "difgsm", "ops_3x3", "l2t", "svre")
# On a demo network that has what they change or read.
RULED = {"bfa": "vgg16", "sgm": "res152", "tgr": "vit"}


class Steps(Calls):
    """Calls of the network, and what each step of the engine waited for."""

    def __init__(self, gpu: Gpu):
        super().__init__()
        self.gpu, self.waits = gpu, list[list[str]]()

    def attach(self, network: torch.nn.Module) -> ExitStack:
        self.end()
        return super().attach(network)

    def end(self) -> None:
        """End a step."""
        self.waits.append([*self.gpu.waits])
        self.gpu.waits.clear()


def attacked(
    attack: Attack, network: Source, items: list[Item], **options: Any
) -> tuple[list[list[str]], list[Crafted]]:
    """Attack images in four slots as on a GPU, and return the waits of each step."""
    with Gpu() as gpu:
        if isinstance(network, Ensemble):  # it remembers its device
            network = Ensemble([*network.members], network.over)  # type: ignore[arg-type]
        list(craft(attack, network, items[:1], 4))  # tables are copied to a device once
        gpu.waits.clear()
        calls = Steps(gpu)
        made = list(craft(attack, network, items, 4, calls=calls, **options))
        calls.end()
    return calls.waits, sorted(made, key=lambda m: str(m.item.tag))


def small(part: Any) -> Any:
    """The part, with as little to do as it can have."""
    own = {field.name for field in fields(part)}
    fewer = {name: 2 + getattr(part, name) % 2 for name in own.intersection(MANY)}
    chains = {"samples": 1, "length": 1} if "length" in own else {}  # L2T's
    return replace(part, **fewer | chains)


def toy(name: str, norm: str) -> tuple[Attack, Source, list[Item]]:
    """An attack of few steps, a toy that it can take and images."""
    steps, n = (2, 5) if name in ("ops_3x3", "l2t") else (3, 7)  # of many copies
    found = load_attack(name, norm=norm, steps=steps, eps={"linf": 10, "l2": 300}[norm])
    parts = {slot: tuple(map(small, getattr(found, slot))) for slot in ("views", "chain")}
    pool = Pool(images(4), torch.arange(4))
    ensemble = found.ensemble and small(found.ensemble)
    found = replace(found, **parts, ensemble=ensemble, pool=pool)
    source: Source = network()
    if found.ensemble:
        source = Ensemble([network(seed) for seed in range(2)], "logits")
    pixels = (images(n) * 255).round().to(torch.uint8)
    labels = source(pixels / 255.0).argmax(1).tolist()
    items = [Item(i, pixels[i].numpy(), labels[i], labels[i], key=i) for i in range(n)]
    return found, source, items


def at_most_once(waits: list[list[str]]) -> None:
    """Check that each step waited once at most, where it may; at the end there is one more."""
    *waits, last = waits
    if last[-1:] == ["craft"]:
        last.pop()
    waits.append(last)
    assert all(len(step) <= 1 for step in waits), waits
    assert {name for step in waits for name in step} <= {"told", "craft"}, waits


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norm"),
    [
        pytest.param(name, norm, marks=() if name in QUICK else pytest.mark.slow)
        for name in SMALL
        for norm in (("linf", "l2") if name in ("mifgsm", "agr", "pgn", "svre") else ("linf",))
    ],
)
def test_one_wait_in_a_step(name: str, norm: str) -> None:
    attack, source, items = toy(name, norm)
    waits, made = attacked(attack, source, items)
    at_most_once(waits)
    expected = sorted(craft(attack, source, items, 4), key=lambda m: str(m.item.tag))
    assert [m[2:] for m in made] == [m[2:] for m in expected]
    assert all(np.array_equal(m.image, e.image) for m, e in zip(made, expected, strict=True))


@pytest.mark.parametrize("name", RULED)
def test_one_wait_with_rules_and_features(name: str) -> None:
    cell = expand([f"attack={name}", f"source={RULED[name]}", "attack.steps=2"])[0]
    attack = attack_of(cell)
    if name == "bfa":
        attack = replace(attack, objective=small(attack.objective))
    waits, made = attacked(attack, demo_network(cell), demo_items(cell, 5))
    at_most_once(waits)
    assert len(made) == 5


@pytest.mark.parametrize("name", ["agr", "difgsm"])
def test_one_wait_with_traces_and_kept_iterates(name: str) -> None:
    attack, source, items = toy(name, "linf")
    options: dict[str, Any] = {"trace": True, "keep": (1, 2)}
    waits, made = attacked(attack, source, items, **options)
    at_most_once(waits)
    expected = sorted(craft(attack, source, items, 4, **options), key=lambda m: m.item.tag)
    assert [m.trace for m in made] == [m.trace for m in expected]
    assert [[*m.iterates] for m in made] == [[1, 2]] * 7
    for m, e in zip(made, expected, strict=True):
        for a, b in zip(m.iterates.values(), e.iterates.values(), strict=True):
            assert np.array_equal(a.image, b.image)
            assert a[1:] == b[1:]


@pytest.mark.parametrize(
    ("ask", "waits"),
    [
        (lambda x: told(x[:, 0], x[:, 1] > 0), 1),
        (lambda x: x.sum().item(), 1),
        (lambda x: bool((x > 0).any()), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x[[0, 1]], 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x.unique(), 1),
        (lambda x: torch.tensor([1.0, 2.0], device=x.device), 1),
        (lambda x: torch.arange(2).to(x.device), 1),
        (lambda x: known((x > 0).any(), True), 0),
        (lambda x: fetched(x), 0),
        (lambda x: x[sent([0, 1], x.device)], 0),
        (lambda x: torch.where(x > 0, x, 0.0) * torch.arange(3, device=x.device), 0),
    ],
)
def test_what_the_stand_in_sees(ask: Callable[[Tensor], Any], waits: int) -> None:
    x = torch.randn(4, 3)
    with Gpu() as gpu, patch.dict(ask.__globals__, {"__name__": "agr.here"}):
        ask(x)
    assert len(gpu.waits) == waits
    with Gpu(), pytest.raises(AssertionError, match="mixes the host's tensors"):
        x + torch.ones(3)
