"""Ten-step attacks on full-size networks: the bare loop, the pipeline, the plain call, the peers.

Networks have random weights and images are random: neither decides how long a step takes. All
contenders must compute the same before any is timed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from agr.attacks import Attack
from agr.attacks.build import load_attack
from agr.attacks.engine import Item, craft
from agr.config.compose import expand
from agr.evaluation.determinism import settle
from agr.evaluation.predictions import load_source
from agr.models.sources import Source
from agr.models.tuning import tune
from agr.utils.errors import ConfigError
from agr.utils.pixels import LEVELS
from scripts.bench.options import EPS, STEPS, Options
from scripts.bench.peers import (
    PEERS,
    PLAIN,
    TUNED,
    Normalize,
    Trial,
    in_precision,
    installed,
)
from scripts.bench.timing import Contender, Measurement, facts, interleave, wait

BARE, PIPELINE, CALL, TUNE = "bare loop", "agr, pipeline", "agr, plain call", "agr, tune"
ATTACKS = ("ifgsm", "mifgsm")
ALPHA = EPS / STEPS  # of every attack here, whatever its steps; 0-255 scale
# After one step, outputs may differ where a gradient is so small that rounding decides its sign.
AGREE = 0.98
# Where next to nothing moves, everyone agrees.
MOVED = 0.5
SAME_1, SAME_ALL = "equal pixels, 1 step", f"equal pixels, {STEPS} steps"
ONCE = "s, once"


class Disagreement(ConfigError):
    """A contender computes something else: to compare its time would mean nothing."""


@dataclass(frozen=True)
class Setup:
    """A network in the three forms that contenders get, and the images that are attacked."""

    title: str
    plain: nn.Module  # timm's, with its normalisation in front
    tuned: nn.Module  # agr.models.tuning.tune of it
    source: Source  # as the pipeline loads it
    pixels: NDArray[np.uint8]  # (B, 3, H, W) uint8
    x: Tensor  # the same in [0, 1], on the device
    y: Tensor  # labels that are attacked
    tune_seconds: float


def trial_of(attack: str, x: Tensor, classes: int, batch: int, steps: int = STEPS) -> Trial:
    """Return the trial of libraries with our budget, on images `x` and in our batches."""
    size = EPS / LEVELS, ALPHA / LEVELS
    return Trial(attack, *size, steps, tuple(x.shape[1:]), classes, batch, str(x.device))


def measure(options: Options) -> Iterator[list[Measurement]]:
    """Yield the rows of each network, of the parts "limit" and "peers" as the options say."""
    torch.set_num_threads(options.threads)
    for name in options.networks:
        setup = prepare(name, options)
        rows = [row for attack in ATTACKS for row in _attack(setup, attack, options)]
        if "peers" in options.parts:
            setting = f"{setup.title}, {ATTACKS[0]}"
            rows += facts("peers", setting, TUNE, {ONCE: setup.tune_seconds})
        yield rows


def prepare(name: str, options: Options) -> Setup:
    """Make timm's network `name` with random weights, and random images for it."""
    torch.manual_seed(0)
    body = timm.create_model(name).eval()
    give_statistics(body, options.size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(body.state_dict(), path)
        overrides = options.overrides(
            "suite=imagenet",
            f"source='{name}:{path}'",
            "select=source",
            f"outputs={folder}",
            f"slots={options.images}",
        )
        cell = expand(overrides)[0]
        config = cell.suite.networks[cell.source]
        config.size = options.size or config.size
        source = load_source(cell, settle(cell, None))
    whole = nn.Sequential(Normalize(config.mean, config.std), body).eval().to(options.device)
    plain = in_precision(whole, options.precision)
    shape = (options.images, 3, config.size, config.size)
    pixels = np.random.default_rng(0).integers(0, LEVELS + 1, shape, dtype=np.uint8)
    dtype = torch.float64 if options.precision == "fp64" else torch.float32
    x = torch.from_numpy(pixels).to(options.device).to(dtype) / LEVELS
    wait(options.device)
    started = time.perf_counter()
    tuned = tune(plain, x)
    wait(options.device)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        # The least likely: of its own answer a network with random weights may be so sure that the
        # gradient is zero, and everyone would agree.
        y = tuned(x).argmin(1)
    return Setup(f"{name}, {config.size} px", plain, tuned, source, pixels, x, y, seconds)


@torch.no_grad()
def give_statistics(body: nn.Module, size: int | None) -> None:
    """Give batch norms the statistics of noise, in place, as a trained network has some.

    timm's have the scale 1 or 0 and no statistics: folding them would do nothing, and in a network
    whose branches start at 0 most pixels have no gradient.
    """
    norms = [m for m in body.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    own: Any = body.default_cfg
    size = size or int(own["input_size"][-1])
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(std=0.1)
        norm.momentum = 1.0  # of the next batch alone
    body.train()
    body(torch.randn(2, 3, size, size))
    body.eval()


def _attack(setup: Setup, attack: str, options: Options) -> list[Measurement]:
    """Compare the contenders' outputs for one attack on one network, then time them."""
    setting = f"{setup.title}, {attack}"
    single = {c.name: c.work() for c in _contenders(setup, attack, 1, options)}
    single.pop(BARE, None)
    shares = compare(setting, single, options.precision, setup.x)
    contenders = _contenders(setup, attack, STEPS, options)
    rows, outputs = interleave("peers", setting, contenders, options.rounds, device=options.device)
    outputs.pop(BARE, None)
    check_budget(setting, outputs, setup.x)
    for name, share in shares.items():
        same = same_pixels(outputs[name], outputs[PIPELINE])
        rows += facts("peers", setting, name, {SAME_1: share, SAME_ALL: same})
    own = (BARE, PIPELINE) if "limit" in options.parts else ()
    return [row._replace(part="limit") if row.contender in own else row for row in rows]


def _contenders(setup: Setup, attack: str, steps: int, options: Options) -> list[Contender]:
    """Return the contenders of the parts in the options."""
    size = [f"attack.size={ALPHA}"]
    x, y = setup.x, setup.y
    contenders = []

    def add(name: str, work: Callable[[], Tensor], network: nn.Module) -> None:
        contenders.append(Contender(name, work, len(x), network))

    if "limit" in options.parts:
        add(BARE, partial(bare_loop, setup.source, x, y, steps), setup.source)
    piped = load_attack(attack, eps=EPS, steps=steps, overrides=size)
    add(PIPELINE, partial(through_engine, piped, setup), setup.source)
    if "peers" in options.parts:
        called = load_attack(attack, eps=EPS, steps=steps, overrides=size, quantize="off")
        add(CALL, partial(called, setup.tuned, x, y), setup.tuned)
        trial = trial_of(attack, x, setup.plain(x[:1]).shape[1], len(x), steps)
        for title, network in ((PLAIN, setup.plain), (TUNED, setup.tuned)):
            for library in installed(attack):
                run = PEERS[attack][library](network, trial)
                add(f"{library}{title}", partial(run, x, y), network)
    return contenders


def bare_loop(network: Source, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Take `steps` gradients and one forward more, the least of any attack; return its logits."""
    x = x.contiguous(memory_format=network.memory_format)
    for _ in range(steps):
        point = x.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(network(point), y, reduction="sum"), point)
    with torch.no_grad():
        logits: Tensor = network(x)
    return logits


def through_engine(attack: Attack, setup: Setup) -> Tensor:
    """Return adversarial images (B, 3, H, W) in [0, 1] as the pipeline makes them."""
    labels = setup.y.tolist()
    items = [Item(i, p, labels[i]) for i, p in enumerate(setup.pixels)]
    crafted = sorted(craft(attack, setup.source, items, len(items)), key=lambda c: c.item.tag)
    pixels = torch.from_numpy(np.stack([c.image for c in crafted]))
    return pixels.to(setup.x) / LEVELS


# ---- agreement of the contenders -----------------------------------------------------------------


def same_pixels(a: Tensor, b: Tensor) -> float:
    """Return the share of values of two batches in [0, 1] that agree to within half a step."""
    return float(((a - b).abs() < ALPHA / LEVELS / 2).double().mean())


def compare(
    setting: str, outputs: dict[str, Tensor], precision: str, x: Tensor
) -> dict[str, float]:
    """Return the share of pixels in which each contender's single step equals ours.

    Raises Disagreement below 0.98, or where there is next to no gradient. In bfloat16 the sign of
    a gradient depends on the memory format: there the share is only reported.
    """
    reference = outputs[PIPELINE]
    if same_pixels(reference, x) > 1 - MOVED:
        raise Disagreement(f"{setting}: with random weights most gradients are zero: not timed")
    shares = {name: same_pixels(images, reference) for name, images in outputs.items()}
    for name, share in shares.items():
        if share < AGREE and precision != "bf16":
            raise Disagreement(
                f"{setting}: after one step {name} agrees with ours in {share:.1%} of pixels "
                f"(at least {AGREE:.0%} are asked for): not timed"
            )
    check_budget(setting, outputs, x)
    return shares


def check_budget(setting: str, outputs: dict[str, Tensor], x: Tensor) -> None:
    """Raise Disagreement where images left the ball or [0, 1]."""
    for name, images in outputs.items():
        far = float((images - x).abs().max()) * LEVELS
        low, high = float(images.min()), float(images.max())
        if not (far <= EPS * (1 + 1e-5) and low >= 0 and high <= 1):
            raise Disagreement(
                f"{setting}: {name} leaves the budget of {EPS:g}: {far:.3f}, in [{low}, {high}]"
            )
