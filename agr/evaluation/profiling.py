"""Cost of a network on this machine: memory of a gradient and seconds of a step, both measured."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from torch import Tensor

from agr.models.sources import Source, one_draw
from agr.models.tuning import gradient_seconds

# Peak memory over what a forward pass keeps for its gradient: 0.97 to 1.0 on the paper's six
# networks, 1.4 on a ViT.
PEAK = 1.5


def step_seconds(network: Source, size: int, slots: int, budget: float) -> float:
    """Measure the seconds per image of a forward and gradient over `slots` images of `size` px.

    It takes about `budget` seconds: if a step over all slots takes longer, fewer are measured.
    """
    ends = time.monotonic() + budget
    times = [_step(network, size, 1), _step(network, size, 1)]  # the first pays for setting up
    batch = max(1, min(slots, int(budget / 3 / times[1])))
    found = [times[1]] if batch == 1 else [_step(network, size, batch) / batch]
    while time.monotonic() + batch * found[-1] < ends and len(found) < 4:
        found.append(_step(network, size, batch) / batch)
    return min(found)


def step_bytes(network: Source, size: int) -> float:
    """Return the peak bytes per image of a forward and gradient, without the weights."""
    # The difference leaves out what is there once, such as weights that autocast has converted.
    return PEAK * (_kept(network, size, 2) - _kept(network, size, 1))


def _kept(network: Source, size: int, images: int) -> int:
    """Count the bytes that a forward pass over `images` images keeps for its gradient."""
    own = {_place(t) for t in [*network.parameters(), *network.buffers()]}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if _place(tensor) not in own:
            kept[_place(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        # Held, so that no place is used twice. An attack's gradient goes through one draw.
        out = network(random_images(network, size, images), **one_draw(network, images))
        total = sum(kept.values())
        del out
    return total


def free_bytes(device: torch.device) -> int:
    """Return the bytes that a run on `device` could still take: of the GPU, or of this machine."""
    if device.type == "cuda":
        # Torch keeps what it has freed, and takes it again.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError, KeyError):  # a container's limit, where there is one
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # files that were read count as used, and make room when it is needed
        free = min(free, limit - used + int(facts["inactive_file"]))
    return free


def _step(network: Source, size: int, batch: int) -> float:
    draw = one_draw(network, batch)
    return gradient_seconds(lambda x: network(x, **draw), random_images(network, size, batch))


def random_images(network: Source, size: int, batch: int) -> Tensor:
    """Return images (batch, 3, size, size) as a network takes them, for a trial."""
    shape = (batch, 3, size, size)
    x = torch.rand(shape, dtype=network.dtype, device=network.device)
    return x.contiguous(memory_format=network.memory_format).requires_grad_()


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()  # views share it
