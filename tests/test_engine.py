"""The engine: a result never depends on companions, and its cost is what theory says."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agr import load_attack
from agr.attacks import Attack, Linf, OnceFooled
from agr.attacks.engine import Calls, Crafted, Item, craft
from agr.attacks.parts import Seen
from agr.config.compose import expand
from agr.config.schema import NetworkConfig
from agr.evaluation.predictions import predict_batched
from agr.evaluation.scoring import image_hash
from agr.models.network import Network
from tests.conftest import CLASSES, EPS, demo_items, demo_network, images, small_model

SLOTS = 8
DEMO_SLOTS = 16  # with fewer, last bits of one network's logits depend on the row (docs/design.md)


def small_network(seed: int = 0) -> Network:
    config = NetworkConfig(
        architecture="", weights="", classes=CLASSES, size=12, mean=[0.5] * 3, std=[0.5] * 3
    )
    body = small_model(seed, torch.float32)
    return Network(body, config, memory_format="contiguous", precision="fp64")


def small_items(n: int) -> list[Item]:
    network, x = small_network(), images(n)
    y = network(x).argmax(1).tolist()
    pixels = (x * 255).round().to(torch.uint8).numpy()
    return [Item(i, p, label) for i, (p, label) in enumerate(zip(pixels, y, strict=True))]


def run(attack: Attack, network: Network, items: list[Item], slots: int, **k: Any) -> list[Crafted]:
    made = list(craft(attack, network, items, slots, **k))
    return sorted(made, key=lambda m: m.item.tag)


@pytest.mark.parametrize("name", ["ifgsm", "mifgsm", "agr", "mifgsm_stop", "agr_literal"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("slots", [1, 5, 30])
def test_engine_equals_the_plain_call(name: str, norm: str, slots: int) -> None:
    attack, network, items = load_attack(name, norm=norm), small_network(), small_items(13)
    made = run(attack, network, items, slots)
    x = torch.from_numpy(np.stack([i.pixels for i in items])).double() / 255
    adv = attack(network, x, torch.tensor([i.y for i in items]))
    expected = (adv * 255).round().to(torch.uint8).numpy()
    assert [m.item.tag for m in made] == list(range(13))
    assert all(np.array_equal(m.image, e) for m, e in zip(made, expected, strict=True))


def test_costs_are_those_of_theory() -> None:
    network, items = small_network(), small_items(20)
    for steps in (1, 4, 10):
        calls = Calls()
        made = run(Attack(Linf(EPS), steps=steps), network, items, 20, calls=calls)
        assert {(m.steps_used, m.forwards, m.backwards) for m in made} == {
            (steps, steps + 1, steps)
        }
        # All images start and end together: the batch itself made no more passes than an image.
        assert (calls.forwards, calls.backwards) == (steps + 1, steps)


def test_costs_of_a_stopped_attack() -> None:
    network, items = small_network(), small_items(40)
    calls = Calls()
    made = run(Attack(Linf(EPS), stop=OnceFooled()), network, items, SLOTS, calls=calls)
    assert len({m.steps_used for m in made}) > 1
    for m in made:
        assert (m.forwards, m.backwards) == (m.steps_used + 1, m.steps_used)
        assert m.first_success_step in (m.steps_used, None)
        assert m.first_success_step is not None or m.steps_used == 10
    rows = sum(m.forwards for m in made)
    assert rows / SLOTS <= calls.forwards < 1.5 * rows / SLOTS  # refilled: hardly an empty slot


def test_already_fooled_images_cost_one_forward() -> None:
    items = [item._replace(y=(item.y + 1) % CLASSES) for item in small_items(5)]
    for m in run(Attack(Linf(EPS), stop=OnceFooled()), small_network(), items, 3):
        assert (m.steps_used, m.first_success_step, m.forwards, m.backwards) == (0, 0, 1, 0)
        assert np.array_equal(m.image, m.item.pixels)


@dataclass(frozen=True)
class Counting(OnceFooled):
    """A stop with a state: it stops at the second look, and would notice one that is repeated."""

    def init(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"looks": torch.zeros(len(x))}

    def update(self, seen: Seen, s: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        return s["looks"] >= 2, {"looks": s["looks"] + 1}


def test_no_gradient_is_made_for_rows_that_are_about_to_be_done() -> None:
    """Every image stops at its first step: once that is known, a look alone goes before."""
    network, items = small_network(), small_items(80)
    attack = Attack(Linf(60 / 255), steps=10, size=60 / 255, stop=OnceFooled())
    calls = Calls()
    made = run(attack, network, items, SLOTS, calls=calls)
    steps = [m.steps_used for m in made]
    assert steps.count(1) > 70
    for m in made:
        assert (m.forwards, m.backwards) == (m.steps_used + 1, m.steps_used)
    # Ten batches of eight: a gradient each, where ticks alone would take two. Some for stragglers.
    assert calls.backwards < 16
    assert sum(steps) / SLOTS <= calls.backwards < calls.forwards - 5
    x = torch.from_numpy(np.stack([i.pixels for i in items])).double() / 255
    adv = attack(network, x, torch.tensor([i.y for i in items]))
    assert all(
        np.array_equal(m.image, e)
        for m, e in zip(made, (adv * 255).round().to(torch.uint8).numpy(), strict=True)
    )


def test_a_look_alone_is_not_counted_twice() -> None:
    network, items = small_network(), small_items(40)
    attack, calls = Attack(Linf(EPS), stop=Counting()), Calls()
    made = run(attack, network, items, SLOTS, trace=True, calls=calls)
    assert calls.forwards > calls.backwards  # there were looks
    for m in made:
        assert (m.steps_used, m.forwards, m.backwards) == (2, 3, 2)
        assert [p.step for p in m.trace] == [0, 1, 2]


def test_plain_call_makes_no_forward_that_nobody_asks_for() -> None:
    model, x = small_model(), images(5)
    y = model(x).argmax(1)
    calls = Calls()
    with calls.attach(model):
        Attack(Linf(EPS), steps=7)(model, x, y)
    assert (calls.forwards, calls.backwards) == (7, 7)


def test_passes_of_others_are_not_counted() -> None:
    """The caller may use the network between two results."""
    network, items = small_network(), small_items(6)
    calls = Calls()
    for _ in craft(Attack(Linf(EPS), steps=3), network, items, 2, calls=calls):
        network(torch.rand(2, 3, 12, 12).double())
    assert (calls.forwards, calls.backwards) == (12, 9)


def test_trace_shows_every_iterate() -> None:
    network, items = small_network(), small_items(6)
    attack = Attack(Linf(EPS))
    for m in run(attack, network, items, 4, trace=True):
        assert [p.step for p in m.trace] == list(range(11))
        assert m.trace[0][1:] == (False, 0.0, pytest.approx(1))
        v = m.image.astype(float) - m.item.pixels
        assert m.trace[-1].l2 == pytest.approx(np.linalg.norm(v) / 255, rel=1e-12)
        fooled = [p.step for p in m.trace if p.fooled]
        assert m.first_success_step == (fooled[0] if fooled else None)
        for p in m.trace[1:]:  # the same as a shorter run with the same step size
            short = Attack(Linf(EPS), steps=p.step, size=EPS / 10)
            (again,) = run(short, network, [m.item], 4)
            l2 = np.linalg.norm(again.image.astype(float) - m.item.pixels) / 255
            assert p.l2 == pytest.approx(l2, rel=1e-12)


def test_one_broken_image_is_alone_in_it() -> None:
    """A network answers NaN to one image: that one is never fooled, the others don't notice."""
    items = small_items(9)
    mark = items[4].pixels

    class Breaks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_model(0, torch.float32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.inner(x)
            clean = (torch.from_numpy(mark).to(x) / 255 - 0.5) / 0.5
            near = (x - clean).flatten(1).abs().amax(1) < 0.2
            return torch.where(near[:, None], torch.nan, logits)

    sound = small_network()
    broken = Network(Breaks(), sound.config, memory_format="contiguous", precision="fp64")
    attack = Attack(Linf(EPS), stop=OnceFooled())
    for a, b in zip(run(attack, broken, items, 4), run(attack, sound, items, 4), strict=True):
        if a.item.tag == 4:
            assert a.first_success_step is None
            assert np.array_equal(a.image, a.item.pixels)
        else:
            assert np.array_equal(a.image, b.image)


# ---- bitwise, on the demo suite's networks -------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("source", ["inc_v3", "vgg16"])
@pytest.mark.parametrize(("name", "norm"), [("agr", "linf"), ("mifgsm", "l2")])
def test_results_are_bitwise_independent_of_order_and_companions(
    source: str, name: str, norm: str
) -> None:
    cell = expand([f"source={source}", f"norm={norm}"])[0]
    attack = load_attack(name, norm=norm, eps=cell.eps_effective, steps=4)
    network, items = demo_network(cell), demo_items(cell, 20)

    def results(chosen: list[Item]) -> dict[str, tuple[Any, ...]]:
        made = craft(attack, network, chosen, DEMO_SLOTS)
        return {m.item.tag: (image_hash(m.image), *m[2:]) for m in made}

    reference = results(items)
    shuffled = items.copy()
    random.Random(0).shuffle(shuffled)
    assert results(shuffled) == reference  # any order
    few = items[:3]  # fewer images than slots
    assert results(few) == {i.tag: reference[i.tag] for i in few}
    for companions in (items[10:17], items[3:10]):  # two sets of companions
        found = results([*companions, *few])
        assert all(found[i.tag] == reference[i.tag] for i in few)


@pytest.mark.parametrize("source", ["inc_v3", "vgg16", "res152"])
@pytest.mark.parametrize("name", ["agr", "ifgsm"])
@pytest.mark.slow
def test_the_last_look_is_the_answer_that_scoring_would_give(source: str, name: str) -> None:
    """Bitwise: with a gradient or without, beside whatever companions."""
    cell = expand([f"source={source}"])[0]
    network, items = demo_network(cell), demo_items(cell, 40)
    made = list(craft(load_attack(name, steps=4), network, items, DEMO_SLOTS))
    scored = predict_batched(network, [m.image for m in made], DEMO_SLOTS)
    assert [m.prediction for m in made] == [(a.pred, a.conf) for a in scored]


def test_no_answer_where_the_source_saw_another_image() -> None:
    attack = load_attack("ifgsm", quantize="end")
    assert {m.prediction for m in run(attack, small_network(), small_items(3), 3)} == {None}


def test_another_network_gives_other_images(tmp_path: Path) -> None:
    """The hashes compared above can differ at all."""
    cells = [expand([f"source={s}"])[0] for s in ("vgg16", "vgg19")]
    attack = load_attack("ifgsm", steps=1)
    items = demo_items(cells[0], 4)
    hashes = [
        {image_hash(m.image) for m in craft(attack, demo_network(c), items, DEMO_SLOTS)}
        for c in cells
    ]
    assert not hashes[0] & hashes[1]
