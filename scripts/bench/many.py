"""Attacks of many gradients per step, beside a bare loop of as many gradients, and torchattack's.

What an attack adds to its gradients - copies, neighbours, rules - is the ratio of both. Networks
and images are those of `full_size`. torchattack draws other numbers, so that only times are
compared; its attacks are called with the same step and number of copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import timm
import torch
from torch import Tensor

from agr.attacks.build import load_attack
from agr.utils.pixels import LEVELS
from scripts.bench.full_size import BARE, PIPELINE, Setup, bare_loop, prepare, through_engine
from scripts.bench.options import EPS, Options
from scripts.bench.timing import Contender, Measurement, interleave

OF_CNNS = ("tifgsm", "ssa", "bsr", "sia", "pgn", "decowa", "ops_3x3", "mumodig", "bfa", "sgm")
# Attacks by the network that is their source.
ATTACKS = {"resnet50": OF_CNNS, "vit_base_patch16_224": ("tgr",)}
# The others take 10.
STEPS = {"ssa": 1, "bsr": 1, "sia": 1, "pgn": 1, "decowa": 1, "ops_3x3": 2, "mumodig": 2}
PEER = "torchattack"
# Names and arguments of torchattack's, which has no SIA, PGN, OPS.
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "bsr": ("BSR", {"num_scale": 20, "num_block": 2}),
    "decowa": ("DeCoWA", {}),
    "bfa": ("BFA", {"feature_layer_cfg": "layer2.3"}),
    "sgm": ("SGM", {"hook_cfg": "resnet50"}),
    "tgr": ("TGR", {"hook_cfg": "vit_base_patch16_224"}),
}


def many(options: Options) -> Iterator[list[Measurement]]:
    """Yield the rows of each attack."""
    torch.set_num_threads(options.threads)
    for name, attacks in ATTACKS.items():
        own: Any = timm.get_pretrained_cfg(name)
        if options.size and own.fixed_input_size:
            continue
        setup = prepare(name, options)
        for attack in attacks:
            yield _measure(setup, attack, options)


def _measure(setup: Setup, name: str, options: Options) -> list[Measurement]:
    steps = STEPS.get(name, 10)
    attack = load_attack(name, eps=EPS, steps=steps)
    attack = replace(attack, stop=None)
    work = partial(through_engine, attack, setup)
    count = attack.gradients() * steps + attack.once
    bare = partial(bare_loop, setup.source, setup.x, setup.y, count)
    contenders = [
        Contender(BARE, bare, len(setup.x), setup.source),
        Contender(PIPELINE, work, len(setup.x), setup.source),
    ]
    if theirs := torchattack(setup, name, steps):
        contenders.append(Contender(PEER, partial(theirs, setup.x, setup.y), len(setup.x)))
    setting = f"{setup.title}, {name}"
    return interleave("many", setting, contenders, options.rounds, device=options.device)[0]


def torchattack(setup: Setup, name: str, steps: int) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return torchattack's attack of the same name on the network; None where there is none."""
    if name not in THEIRS or find_spec(PEER) is None:
        return None
    title, how = THEIRS[name]
    kind = getattr(import_module(PEER), title, None)
    if kind is None:
        return None
    normalize, body = setup.plain.children()  # as it wants them: apart
    device = torch.device(setup.x.device)
    body = deepcopy(body)  # some put hooks on it, for good
    made: Callable[[Tensor, Tensor], Tensor]
    made = kind(body, normalize, device, eps=EPS / LEVELS, steps=steps, **how)
    return made
