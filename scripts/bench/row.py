"""Rows of a table: crafting on one network and scoring several, of drawn pictures and photographs.

Ours is a cell of a sweep, with the clean predictions of the cell before. The other way is that of
the transfer benchmarks: batches of 32, every image saved as PNG, all loaded again and scored by
plain networks.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from agr.attacks.build import load_attack
from agr.config.cell import Cell
from agr.config.compose import expand
from scripts.bench.demo import (
    ASR_GAP,
    BATCH,
    Bench,
    as_handed_over,
    opened,
    run_quietly,
    to_8bit,
)
from scripts.bench.full_size import Disagreement
from scripts.bench.options import DEMO_SOURCES, EPS, STEPS, Options
from scripts.bench.peers import Run, installed
from scripts.bench.timing import Contender, Measurement, facts, interleave

SIX = f"targets=[{','.join(DEMO_SOURCES)}]"
PNG = ", PNG files, plain networks"
OWN_ROW, THEIR_ROW, NOSTOP_ROW = "agr, run_cell", f"torchattacks{PNG}", f"agr_nostop{PNG}"
REAL_SOURCE = "lite0"
OWN_REAL = {a: f"{a}, run_cell" for a in ("ifgsm", "mifgsm", "agr_nostop", "agr")}
THEIR_REAL = {attack: f"torchattacks {attack}{PNG}" for attack in ("ifgsm", "mifgsm")}
WHITE_BOX, TRANSFER = "white-box ASR", "mean transfer ASR"
FLIPS = 2  # of few images, so many may fall otherwise by rounding
Rates = dict[str, float]  # ASR by target


def row(options: Options) -> Iterator[list[Measurement]]:
    """Time a row of the demo suite: craft on one network, score six.

    No other library has AGR: there our own `agr_nostop` is called plainly.
    """
    for attack in ("agr", "ifgsm"):
        b = opened(options, DEMO_SOURCES[0], options.demo_images, SIX)
        setting = f"{attack}, {DEMO_SOURCES[0]}, {len(b.items)} images, {len(DEMO_SOURCES)} targets"
        run_quietly(_with_attack(b.cell, "fgsm"))  # the cell before it
        works = {OWN_ROW: partial(_own_row, _with_attack(b.cell, attack))}
        networks = _plain_networks(b, options)
        if attack == "agr":
            nostop = load_attack("agr_nostop", eps=EPS, steps=STEPS, quantize="off")
            works[NOSTOP_ROW] = partial(_their_row, partial(nostop, b.plain), b, networks)
        elif installed(attack, ("torchattacks",)):
            run = b.peer("torchattacks", attack, b.plain)
            works[THEIR_ROW] = partial(_their_row, run, b, networks)
        rows, results = _timed("row", setting, works, len(b.items), options)
        for name, rates in results.items():
            values = {f"ASR on {target}": rates[target] for target in DEMO_SOURCES}
            rows += facts("row", setting, name, values)
        if THEIR_ROW in results and options.precision != "bf16":
            _compare(f"row: {setting}", len(b.items), results[OWN_ROW], results[THEIR_ROW])
        yield rows


def real(options: Options) -> Iterator[list[Measurement]]:
    """Time rows of real networks on photographs: craft on one network, score three."""
    n = expand(options.overrides("suite=lite"))[0].config.n_images
    b = opened(options, REAL_SOURCE, min(n, options.real_images), suite="lite")
    setting = f"{REAL_SOURCE}, {len(b.items)} photographs, {len(b.cell.targets)} targets"
    for attack in ("fgsm", "ifgsm_stop"):  # attacks that stop have batches of their own
        run_quietly(_with_attack(b.cell, attack))
    works = {n: partial(_own_row, _with_attack(b.cell, a)) for a, n in OWN_REAL.items()}
    networks = _plain_networks(b, options)
    for attack, name in THEIR_REAL.items():
        if installed(attack, ("torchattacks",)):
            run = b.peer("torchattacks", attack, b.plain)
            works[name] = partial(_their_row, run, b, networks)
    rows, results = _timed("real", setting, works, len(b.items), options)
    for name, rates in results.items():
        rows += facts("real", setting, name, _white_box_and_transfer(rates))
    for attack, name in THEIR_REAL.items():
        if name in results and options.precision != "bf16":
            both = [_white_box_and_transfer(results[n]) for n in (OWN_REAL[attack], name)]
            _compare(f"real: {setting}, {attack}", len(b.items), *both)
    yield rows


def _timed(
    part: str, setting: str, works: Mapping[str, partial[Rates]], n: int, options: Options
) -> tuple[list[Measurement], dict[str, Rates]]:
    """Time rows of `n` images, in turns; also return the rates that each found."""
    contenders = [Contender(name, work, n) for name, work in works.items()]
    return interleave(part, setting, contenders, options.rounds, **options.how)


def _white_box_and_transfer(rates: Rates) -> Rates:
    others = [rate for target, rate in rates.items() if target != REAL_SOURCE]
    return {WHITE_BOX: rates[REAL_SOURCE], TRANSFER: float(np.mean(others))}


def _with_attack(cell: Cell, attack: str) -> Cell:
    """Return the cell with another attack."""
    words = [word for word in cell.overrides if not word.startswith("attack=")]
    return expand([*words, f"attack={attack}"])[0]


def _plain_networks(b: Bench, options: Options) -> dict[str, nn.Module]:
    """Load the targets as a user of torch and timm does."""
    networks = b.cell.suite.networks
    return {name: as_handed_over(name, networks[name], options) for name in b.cell.targets}


def _own_row(cell: Cell) -> Rates:
    """Run a cell anew."""
    shutil.rmtree(cell.folder, ignore_errors=True)
    rows = run_quietly(cell).read("rows", ["target", "success"])
    return {str(name): float(own["success"].mean()) for name, own in rows.groupby("target")}


@torch.no_grad()
def _their_row(run: Run, b: Bench, networks: dict[str, nn.Module]) -> Rates:
    """Read, attack and save batches of images, read all again, and score them."""
    folder = Path(b.cell.config.outputs) / "png"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    pixels = (p for _, p in b.evaluator.images(b.entries))
    names = [f"{i}.png" for i in range(len(b.entries))]
    for start in range(0, len(names), BATCH):
        part = slice(start, start + BATCH)
        x = b.evaluator.source.as_input([next(pixels) for _ in names[part]])
        with torch.enable_grad():
            adversarial = run(x, b.y[part])
        for name, image in zip(names[part], to_8bit(adversarial), strict=True):
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / name)
    wrong = dict.fromkeys(networks, 0)
    for start in range(0, len(names), BATCH):
        part = slice(start, start + BATCH)
        images = [np.asarray(Image.open(folder / n)).transpose(2, 0, 1) for n in names[part]]
        x = b.evaluator.source.as_input(images)
        for name, network in networks.items():
            wrong[name] += int((network(x).argmax(1) != b.y[part]).sum())
    return {name: count / len(names) for name, count in wrong.items()}


def _compare(what: str, images: int, ours: Rates, theirs: Rates) -> None:
    """Raise Disagreement where the two ways give another ASR."""
    for name, rate in ours.items():
        gap = abs(rate - theirs[name])
        if gap > max(ASR_GAP, FLIPS / images):
            raise Disagreement(f"{what}: {name} differs by {gap:.1%}")
