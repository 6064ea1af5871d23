"""Whole attacks on the demo suite's networks: stops, curves of ASR over steps, rows of a table."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from agr.attacks import Attack
from agr.attacks.build import build_attack, load_attack
from agr.attacks.engine import Crafted, Item, craft
from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.schema import NetworkConfig
from agr.data.entries import Entry
from agr.evaluation.predictions import Lab, answers
from agr.evaluation.provenance import open_lab
from agr.evaluation.runner import run_cell
from agr.evaluation.selection import select
from agr.models.slim import load_slim
from agr.models.tuning import tune
from agr.models.weights import weights_file
from agr.records.store import Records
from agr.utils.pixels import LEVELS
from scripts.bench.full_size import ALPHA, BARE, PLAIN, TUNED, Disagreement
from scripts.bench.options import DEMO_SOURCES, EPS, STEPS, Options
from scripts.bench.peers import PEERS, Normalize, Run, Task, in_precision, installed
from scripts.bench.timing import Contender, Row, interleave

STOPPED = ("agr", "ifgsm_stop", "mifgsm_stop")
FORWARD, GRADIENT = f"{BARE}, forward", f"{BARE}, forward and gradient"
BARE_BATCHES = 16  # of a price
ASR, STEPS_USED, GAP = "white-box ASR", "steps per image", "largest difference of the ASR"
AFTER = "ASR after step "
CURVE = "one run with a trace"
# A curve or a row of another implementation must be ours to within this: rounding flips some.
ASR_GAP = 0.05
BATCH = 32  # of the transfer benchmarks
SIX = f"targets=[{','.join(DEMO_SOURCES)}]"
OWN_ROW, THEIR_ROW = "agr, run_cell", "torchattacks, PNG files, plain networks"
NOSTOP_ROW = "agr_nostop, PNG files, plain networks"


@dataclass(frozen=True)
class Bench:
    """A cell of the demo suite, opened, and what a user of another library would have instead."""

    cell: Cell
    lab: Lab
    entries: list[Entry]
    items: list[Item]
    plain: nn.Module  # the source in timm's code, as it comes
    x: Tensor  # the images, (N, 3, H, W) in [0, 1]
    y: Tensor
    slots: int

    def task(self, attack: str, steps: int = STEPS) -> Task:
        """What the peers are asked for, in batches as large as ours."""
        shape, size = tuple(self.x.shape[1:]), (EPS / LEVELS, ALPHA / LEVELS)
        classes = self.cell.classes
        return Task(attack, *size, steps, shape, classes, self.slots, self.lab.device)

    def asr(self, images: Sequence[np.ndarray[Any, Any]]) -> float:
        """The share of 8-bit images, in the order of `items`, that the source gets wrong."""
        said = answers(self.lab.source, images, self.slots)
        return float(np.mean([a.pred != i.y for a, i in zip(said, self.items, strict=True)]))


def opened(options: Options, source: str, n: int, *words: str) -> Bench:
    """The first `n` images of a demo cell with `source`, and its networks."""
    cell = demo_cell(options, f"source={source}", f"n_images={n}", *words)
    lab = open_lab(cell, Records(cell.folder), note=False)
    entries = [c.entry for c in select(lab, n).chosen]
    items = [Item(i, p, e.label) for i, (e, p) in enumerate(lab.images(entries))]
    plain = as_handed_over(source, cell.suite.networks[source], options)
    x = lab.source.as_input([item.pixels for item in items])
    y = torch.tensor([item.y for item in items], device=options.device)
    return Bench(cell, lab, entries, items, plain, x, y, lab.numeric.slots)


def demo_cell(options: Options, *words: str, outputs: Path | None = None) -> Cell:
    """A cell of the demo suite with the budget and the steps of every part here."""
    own = ("suite=demo", f"eps={EPS}", f"steps={STEPS}", f"outputs={outputs or options.cells}")
    return expand(options.words(*own, *words))[0]


def as_handed_over(name: str, config: NetworkConfig, options: Options) -> nn.Module:
    """A network of the demo suite as a user of torch and timm has it, its normalisation in front.

    Contiguous, with the parameters as they come.
    """
    path = weights_file(name, config)
    body = load_slim(config.architecture, config.width or 1.0, config.classes, path)
    whole = nn.Sequential(Normalize(config.mean, config.std), body).eval().to(options.device)
    return in_precision(whole.requires_grad_(True), options.precision)


def to_8bit(images: Tensor) -> list[np.ndarray[Any, Any]]:
    """Images (B, 3, H, W) in [0, 1] as uint8, rounded to the nearest level."""
    return list((images * LEVELS).round().to(torch.uint8).cpu().numpy())


# ---- stops ---------------------------------------------------------------------------------------


def stops(options: Options) -> Iterator[list[Row]]:
    """Attacks that stop once an image is fooled, beside libraries that take all their steps.

    And beside the bound: k gradients and k + 1 forwards for an image that needs k steps, at the
    price of full batches.
    """
    for source in options.demo_sources:
        b = opened(options, source, options.demo_images)
        setting = f"{source}, {len(b.items)} images"
        tuned = tune(b.plain, b.x[: b.slots])
        works: dict[str, Callable[[], Any]] = {n: partial(crafted, ours(n), b) for n in STOPPED}
        works |= {n: partial(_run, run, b) for n, run in _peer_runs(b, tuned).items()}
        contenders = [
            Contender(n, w, len(b.items), _networks(n, b, tuned)) for n, w in works.items()
        ]
        contenders += _prices(b)
        rows, made = interleave("stops", setting, contenders, options.rounds, **options.how)
        for name in works:
            images = made[name]
            if name in STOPPED:
                mean = float(np.mean([m.steps_used for m in images]))
                rows.append(Row("stops", setting, name, 0, value=mean, unit=STEPS_USED))
                images = [m.image for m in images]
            rows.append(Row("stops", setting, name, 0, value=b.asr(images), unit=ASR))
        yield rows


def ours(name: str) -> Attack:
    """An attack of ours with the budget and the steps of every part here."""
    return load_attack(name, eps=EPS, steps=STEPS)


def crafted(attack: Attack, b: Bench) -> list[Crafted]:
    """Our results in the order of the images."""
    made = craft(attack, b.lab.source, b.items, b.slots)
    return sorted(made, key=lambda m: m.item.tag)


def _run(run: Run, b: Bench) -> list[np.ndarray[Any, Any]]:
    return to_8bit(run(b.x, b.y))


def _peer_runs(b: Bench, tuned: nn.Module) -> dict[str, Run]:
    return {
        f"{library} {attack}{given}": PEERS[attack][library](network, b.task(attack))
        for given, network in ((PLAIN, b.plain), (TUNED, tuned))
        for attack in ("ifgsm", "mifgsm")
        for library in installed(attack, ("torchattacks", "foolbox"))
    }


def _networks(name: str, b: Bench, tuned: nn.Module) -> tuple[nn.Module, ...]:
    if name in STOPPED:
        return (b.lab.source,)
    return (b.plain if name.endswith(PLAIN) else tuned,)


def _prices(b: Bench) -> list[Contender]:
    """Full batches through the bare network: a forward, and a forward with a gradient."""
    network = b.lab.source
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
    """Images per second that no attack with such a stop can pass.

    Args:
        steps: an image's on average; it costs a gradient each, and one forward more.
        forward: images per second of bare forwards.
        gradient: images per second of bare forwards with their gradients.
    """
    return 1 / (steps / gradient + 1 / forward)


# ---- curve ---------------------------------------------------------------------------------------


def curve(options: Options) -> Iterator[list[Row]]:
    """ASR after every number of steps: one run of ours, and of the peers a run for each."""
    n = min(options.demo_images, BATCH)
    b = opened(options, DEMO_SOURCES[0], n, "attack=ifgsm")
    setting = f"{DEMO_SOURCES[0]}, {len(b.items)} images, {STEPS} steps"
    works = {CURVE: partial(_own_curve, build_attack(b.cell.config), b)}
    for library in installed("ifgsm"):
        works[f"{library}, {STEPS} runs"] = partial(_their_curve, library, b)
    contenders = [
        Contender(n, w, len(b.items), (b.lab.source if n == CURVE else b.plain,))
        for n, w in works.items()
    ]
    rows, made = interleave("curve", setting, contenders, options.rounds, **options.how)
    for name, values in made.items():
        gap = float(np.abs(np.array(values) - made[CURVE]).max())
        if gap > ASR_GAP and options.precision != "bf16":
            raise Disagreement(f"curve: the ASR of {name} differs from ours by {gap:.1%}")
        rows.append(Row("curve", setting, name, 0, value=gap, unit=GAP))
        facts = [(f"{AFTER}{t}", value) for t, value in enumerate(values)]
        rows += [Row("curve", setting, name, 0, value=v, unit=unit) for unit, v in facts]
    yield rows


def _own_curve(attack: Attack, b: Bench) -> list[float]:
    """The share of images that are fooled after 0, 1 … T steps."""
    made = list(craft(attack, b.lab.source, b.items, len(b.items), trace=True))
    return [float(f) for f in np.mean([[p.fooled for p in m.trace] for m in made], 0)]


def _their_curve(library: str, b: Bench) -> list[float]:
    """The same from an attack of each length, and a forward to evaluate it."""

    @torch.no_grad()
    def asr(images: Tensor) -> float:
        wrong = [b.plain(part).argmax(1) for part in images.split(b.slots)]
        return float((torch.cat(wrong) != b.y).double().mean())

    found = [asr(b.x)]
    for steps in range(1, STEPS + 1):
        made = PEERS["ifgsm"][library](b.plain, b.task("ifgsm", steps))(b.x, b.y)
        found.append(asr((made * LEVELS).round() / LEVELS))
    return found


# ---- row -----------------------------------------------------------------------------------------


def row(options: Options) -> Iterator[list[Row]]:
    """A row of a table: craft on one network, score six.

    Ours is a cell of a sweep: clean answers are there from the cell before. The other way is that
    of the transfer benchmarks: batches of 32, every image as PNG, all loaded again and scored by
    plain networks. No other library has AGR: there our own `agr_nostop` is called plainly.
    """
    for attack in ("agr", "ifgsm"):
        yield _row(attack, opened(options, DEMO_SOURCES[0], options.demo_images, SIX), options)


def _row(attack: str, b: Bench, options: Options) -> list[Row]:
    setting = f"{attack}, {DEMO_SOURCES[0]}, {len(b.items)} images, {len(DEMO_SOURCES)} targets"
    own = f"source={b.cell.source}", f"n_images={len(b.items)}", SIX
    run_cell(demo_cell(options, *own, "attack=fgsm"), quiet)  # the cell before it
    works = {OWN_ROW: partial(_own_row, demo_cell(options, *own, f"attack={attack}"))}
    known = b.cell.suite.networks
    networks = {name: as_handed_over(name, known[name], options) for name in DEMO_SOURCES}
    if attack == "agr":
        nostop = load_attack("agr_nostop", eps=EPS, steps=STEPS, quantize="off")
        works[NOSTOP_ROW] = partial(_their_row, partial(nostop, b.plain), b, networks)
    elif installed(attack, ("torchattacks",)):
        run = PEERS[attack]["torchattacks"](b.plain, b.task(attack))
        works[THEIR_ROW] = partial(_their_row, run, b, networks)
    contenders = [Contender(name, work, len(b.items)) for name, work in works.items()]
    rows, made = interleave("row", setting, contenders, options.rounds, **options.how)
    for name, asr in made.items():
        facts = [(f"ASR on {target}", asr[target]) for target in DEMO_SOURCES]
        rows += [Row("row", setting, name, 0, value=v, unit=unit) for unit, v in facts]
    if THEIR_ROW in made and options.precision != "bf16":
        _compare_rows(setting, made[OWN_ROW], made[THEIR_ROW])
    return rows


def quiet(text: str) -> None:
    """What a run has to say isn't shown here."""


def _own_row(cell: Cell) -> dict[str, float]:
    """ASR by target, of a cell that is run anew."""
    shutil.rmtree(cell.folder, ignore_errors=True)
    rows = run_cell(cell, quiet).read("rows", ["target", "success"])
    return {str(name): float(own["success"].mean()) for name, own in rows.groupby("target")}


def _their_row(run: Run, b: Bench, networks: dict[str, nn.Module]) -> dict[str, float]:
    """ASR by target: batches of images are read, attacked and saved; all are read again, scored."""
    folder = Path(b.cell.config.outputs) / "png"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    pixels = (p for _, p in b.lab.images(b.entries))
    names = [f"{e.image_id}.png" for e in b.entries]
    for start in range(0, len(names), BATCH):
        part = slice(start, start + BATCH)
        x = b.lab.source.as_input([next(pixels) for _ in names[part]])
        for name, image in zip(names[part], to_8bit(run(x, b.y[part])), strict=True):
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / name)
    wrong = dict.fromkeys(networks, 0)
    for start in range(0, len(names), BATCH):
        part = slice(start, start + BATCH)
        images = [np.asarray(Image.open(folder / n)).transpose(2, 0, 1) for n in names[part]]
        x = b.lab.source.as_input(images)
        for name, network in networks.items():
            said = _plain_answers(network, x, b.cell.suite.networks[name].size)
            wrong[name] += int((said != b.y[part]).sum())
    return {name: count / len(names) for name, count in wrong.items()}


@torch.no_grad()
def _plain_answers(network: nn.Module, x: Tensor, size: int) -> Tensor:
    if x.shape[-1] != size:
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
    logits: Tensor = network(x)
    return logits.argmax(1)


def _compare_rows(setting: str, own: dict[str, float], theirs: dict[str, float]) -> None:
    """Raises Disagreement where the two ways give another ASR on some target."""
    for target, asr in own.items():
        gap = abs(asr - theirs[target])
        if gap > ASR_GAP:
            raise Disagreement(f"row: {setting}: the ASR on {target} differs by {gap:.1%}")
