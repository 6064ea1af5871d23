"""Whole attacks on a suite's networks: the ASR of those that stop, and curves of it over steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agr.attacks import Attack
from agr.attacks.build import build_attack, load_attack
from agr.attacks.engine import Crafted, Item, craft
from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.schema import NetworkConfig
from agr.data.entries import Entry
from agr.evaluation.predictions import Evaluator, predict_batched
from agr.evaluation.provenance import open_evaluator
from agr.evaluation.runner import run_cell
from agr.evaluation.selection import select
from agr.models.network import load_network
from agr.models.tuning import tune
from agr.records.store import Records
from agr.utils.pixels import LEVELS
from scripts.bench.full_size import BARE, Disagreement, trial_of
from scripts.bench.options import DEMO_SOURCES, EPS, STEPS, Options
from scripts.bench.peers import PEERS, PLAIN, TUNED, Normalize, Resize, Run, in_precision, installed
from scripts.bench.timing import Contender, Measurement, facts, interleave

STOPPED = ("agr", "ifgsm_stop", "mifgsm_stop")
FORWARD, GRADIENT = f"{BARE}, forward", f"{BARE}, forward and gradient"
BARE_BATCHES = 16  # that a price is measured on
ASR, STEPS_USED, GAP = "white-box ASR", "steps per image", "largest difference of the ASR"
AFTER = "ASR after step "
CURVE = "one run with a trace"
# A curve or a row of another implementation must be ours to within this: rounding flips some.
ASR_GAP = 0.05
BATCH = 32  # of the transfer benchmarks


@dataclass(frozen=True)
class Bench:
    """An opened cell of the demo suite, and the same as a user of another library has it."""

    cell: Cell
    evaluator: Evaluator
    entries: list[Entry]
    items: list[Item[Any]]
    plain: nn.Module  # the source in timm's code, as it comes
    x: Tensor  # the images, (N, 3, H, W) in [0, 1]
    y: Tensor
    slots: int

    def peer(self, library: str, attack: str, network: nn.Module, steps: int = STEPS) -> Run:
        """Return a library's attack on a network, in batches as large as ours."""
        trial = trial_of(attack, self.x, self.cell.classes, self.slots, steps)
        return PEERS[attack][library](network, trial)

    def asr(self, images: Sequence[np.ndarray[Any, Any]]) -> float:
        """Return the share of 8-bit images, in the order of `items`, that the source gets wrong."""
        predictions = predict_batched(self.evaluator.source, images, self.slots)
        wrong = [p.pred != i.y for p, i in zip(predictions, self.items, strict=True)]
        return float(np.mean(wrong))


def opened(options: Options, source: str, n: int, *overrides: str, suite: str = "demo") -> Bench:
    """Open the first `n` images of a cell of a suite with `source`, and its networks."""
    cell = suite_cell(options, f"source={source}", f"n_images={n}", *overrides, suite=suite)
    evaluator = open_evaluator(cell, Records(cell.folder), note=False)
    entries = [c.entry for c in select(evaluator, n).chosen]
    items = [Item(i, p, e.label) for i, (e, p) in enumerate(evaluator.images(entries))]
    evaluator.images.drop(entries)  # `_their_row` is to pay for decoding
    plain = as_handed_over(source, cell.suite.networks[source], options)
    x = evaluator.source.as_input([item.pixels for item in items])
    y = torch.tensor([item.y for item in items], device=options.device)
    return Bench(cell, evaluator, entries, items, plain, x, y, evaluator.numeric.slots)


def suite_cell(
    options: Options, *overrides: str, suite: str = "demo", outputs: Path | None = None
) -> Cell:
    """Compose a cell of a suite with the budget and the steps of every part here."""
    own = (f"suite={suite}", f"eps={EPS}", f"steps={STEPS}", f"outputs={outputs or options.cells}")
    return expand(options.overrides(*own, *overrides))[0]


def run_quietly(cell: Cell) -> Records:
    """Run a cell without its messages."""
    return run_cell(cell, lambda message: None)


def as_handed_over(name: str, config: NetworkConfig, options: Options) -> nn.Module:
    """Load a network of a suite as a user of torch and timm does, resizing and normalising first.

    Contiguous, with the parameters as they come.
    """
    network = load_network(
        name, config, memory_format="contiguous", precision="fp32", device=options.device
    )
    body = deepcopy(network.body)
    resize = Resize(config.size, str(config.resize))
    whole = nn.Sequential(resize, Normalize(config.mean, config.std), body)
    return in_precision(whole.eval().to(options.device).requires_grad_(True), options.precision)


def to_8bit(images: Tensor) -> list[np.ndarray[Any, Any]]:
    """Round images (B, 3, H, W) in [0, 1] to uint8."""
    return list((images * LEVELS).round().to(torch.uint8).cpu().numpy())


# ---- stops ---------------------------------------------------------------------------------------


def stops(options: Options) -> Iterator[list[Measurement]]:
    """Time attacks that stop once an image is fooled, beside libraries that take all their steps.

    And beside the bound: k gradients and k + 1 forwards for an image that needs k steps, at the
    price of full batches.
    """
    for source in options.demo_sources:
        b = opened(options, source, options.demo_images)
        setting, n = f"{source}, {len(b.items)} images", len(b.items)
        contenders = [
            Contender(name, partial(crafted, ours(name), b), n, b.evaluator.source)
            for name in STOPPED
        ]
        for title, network in ((PLAIN, b.plain), (TUNED, tune(b.plain, b.x[: b.slots]))):
            for attack in ("ifgsm", "mifgsm"):
                for library in installed(attack, ("torchattacks", "foolbox")):
                    work = partial(_run, b.peer(library, attack, network), b)
                    contenders.append(Contender(f"{library} {attack}{title}", work, n, network))
        timed = [*contenders, *_prices(b)]
        rows, results = interleave("stops", setting, timed, options.rounds, **options.how)
        for c in contenders:
            images = results[c.name]
            if c.name in STOPPED:
                steps = float(np.mean([result.steps_used for result in images]))
                rows += facts("stops", setting, c.name, {STEPS_USED: steps})
                images = [result.image for result in images]
            rows += facts("stops", setting, c.name, {ASR: b.asr(images)})
        yield rows


def ours(name: str) -> Attack:
    """Load an attack of ours with the budget and the steps of every part here."""
    return load_attack(name, eps=EPS, steps=STEPS)


def crafted(attack: Attack, b: Bench) -> list[Crafted[Any]]:
    """Return our results in the order of the images."""
    results = craft(attack, b.evaluator.source, b.items, b.slots)
    return sorted(results, key=lambda result: result.item.tag)


def _run(run: Run, b: Bench) -> list[np.ndarray[Any, Any]]:
    return to_8bit(run(b.x, b.y))


def _prices(b: Bench) -> list[Contender]:
    """Time full batches through the bare network: a forward, and a forward with a gradient."""
    network = b.evaluator.source
    batch = b.x[torch.arange(b.slots, device=b.x.device) % len(b.x)]
    batch = batch.contiguous(memory_format=network.memory_format)
    y = b.y[torch.arange(b.slots, device=b.y.device) % len(b.y)]

    @torch.no_grad()
    def forward() -> None:
        for _ in range(BARE_BATCHES):
            network(batch)

    def gradient() -> None:
        for _ in range(BARE_BATCHES):
            point = batch.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(network(point), y, reduction="sum"), point)

    n = b.slots * BARE_BATCHES
    return [Contender(FORWARD, forward, n), Contender(GRADIENT, gradient, n)]


def bound(steps: float, forward: float, gradient: float) -> float:
    """Upper bound on the speed of an attack that stops once an image is fooled, images per second.

    Args:
        steps: mean number of steps; each costs a gradient, and the last image one forward more.
        forward: images per second of bare forwards.
        gradient: images per second of bare forwards with their gradients.
    """
    return 1 / (steps / gradient + 1 / forward)


# ---- curve ---------------------------------------------------------------------------------------


def curve(options: Options) -> Iterator[list[Measurement]]:
    """Measure the ASR after every step: ours in one run, the peers' in a run per step."""
    b = opened(options, DEMO_SOURCES[0], min(options.demo_images, BATCH), "attack=ifgsm")
    n = len(b.items)
    setting = f"{DEMO_SOURCES[0]}, {n} images, {STEPS} steps"
    own = partial(_own_curve, build_attack(b.cell.config), b)
    contenders = [Contender(CURVE, own, n, b.evaluator.source)]
    for library in installed("ifgsm"):
        work = partial(_their_curve, library, b)
        contenders.append(Contender(f"{library}, {STEPS} runs", work, n, b.plain))
    rows, curves = interleave("curve", setting, contenders, options.rounds, **options.how)
    for name, values in curves.items():
        gap = float(np.abs(np.array(values) - curves[CURVE]).max())
        if gap > ASR_GAP and options.precision != "bf16":
            raise Disagreement(f"curve: the ASR of {name} differs from ours by {gap:.1%}")
        after = {f"{AFTER}{t}": value for t, value in enumerate(values)}
        rows += facts("curve", setting, name, {GAP: gap} | after)
    yield rows


def _own_curve(attack: Attack, b: Bench) -> list[float]:
    """Return the share of images that are fooled after 0, 1 … T steps."""
    results = craft(attack, b.evaluator.source, b.items, len(b.items), trace=True)
    fooled = [[point.fooled for point in result.trace] for result in results]
    return [float(share) for share in np.mean(fooled, axis=0)]


def _their_curve(library: str, b: Bench) -> list[float]:
    """Return the same from an attack of each length, and a forward to evaluate it."""

    @torch.no_grad()
    def asr(images: Tensor) -> float:
        predicted = torch.cat([b.plain(part).argmax(1) for part in images.split(b.slots)])
        return float((predicted != b.y).double().mean())

    shares = [asr(b.x)]
    for steps in range(1, STEPS + 1):
        adversarial = b.peer(library, "ifgsm", b.plain, steps)(b.x, b.y)
        shares.append(asr((adversarial * LEVELS).round() / LEVELS))
    return shares
