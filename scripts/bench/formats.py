"""Networks of many families in both memory formats: a forward and the gradient of its input.

`memory_format=auto` follows a rule (`agr.models.tuning.preferred_format`), which was set from these
figures. Measured again, they show on which machines it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

from agr.config.compose import expand
from agr.evaluation.determinism import SLOTS
from agr.models.network import load_network
from agr.models.tuning import MEMORY_FORMATS, gradient_seconds, preferred_format, tune
from scripts.bench.full_size import give_statistics
from scripts.bench.options import Options
from scripts.bench.peers import in_precision
from scripts.bench.timing import Contender, Measurement, facts, interleave

AUTO = "taken by memory_format=auto"


def formats(options: Options) -> Iterator[list[Measurement]]:
    """Yield the rows of each network: of timm, with random weights, and of the demo suite."""
    for name in options.families:
        torch.manual_seed(0)
        body = timm.create_model(name).eval()
        give_statistics(body, options.size)
        own: Any = body.default_cfg
        size = options.size or int(own["input_size"][-1])
        yield _measure(name, body, size, options.images, options)
    for name in options.demo_sources:
        config = expand(options.overrides(f"source={name}"))[0].suite.networks[name]
        network = load_network(
            name, config, memory_format="contiguous", precision="fp32", device="cpu"
        )
        batch = min(options.demo_images, SLOTS)
        yield _measure(f"demo {name}", network.body, config.size, batch, options)


def _measure(
    name: str, body: nn.Module, size: int, batch: int, options: Options
) -> list[Measurement]:
    """Time one network in each format, its batch norms folded as in a run."""
    setting = f"{name}, {size} px"
    body = in_precision(body, options.precision).to(options.device)
    dtype = torch.float64 if options.precision == "fp64" else torch.float32
    x = torch.rand(batch, 3, size, size, dtype=dtype, device=options.device)
    contenders = []
    for memory_format, layout in MEMORY_FORMATS.items():
        network = tune(body, x, memory_format)
        work = partial(gradient_seconds, network, x.contiguous(memory_format=layout))
        contenders.append(Contender(memory_format, work, batch, network))
    rows, _ = interleave(
        "formats", setting, contenders, options.rounds, device=options.device, warm=True
    )
    return rows + facts("formats", setting, preferred_format(body), {AUTO: 1.0})
