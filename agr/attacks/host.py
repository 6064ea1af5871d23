"""Traffic between the host and a GPU, where every answer costs a wait.

A GPU works behind the host's back on what it was asked for; who wants a number from it waits until
all of that is done, and then the GPU stands idle. So the engine asks once in a step at most, with
`told`, and what else an attack could ask for is known to the host, not asked, or only sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def told(*columns: Tensor) -> list[list[float]]:
    """Return columns (B,) of numbers or truths: one copy, and the only one that the host awaits."""
    return torch.stack([column.double() for column in columns]).tolist()


def known(answer: Tensor, otherwise: bool) -> bool:
    """Return an answer where it is free; a GPU isn't asked, and the host goes on with `otherwise`.

    It is for what can be left out, if the results are the same either way.
    """
    return bool(answer) if answer.device.type == "cpu" else otherwise


def sent(values: Sequence[Any], device: torch.device) -> Tensor:
    """Return whole numbers as a tensor on the device, to which a copy is on its way."""
    made = torch.tensor(values)
    if device.type == "cuda":  # from pinned memory the host needn't wait for the copy
        made = made.pin_memory()
    return made.to(device, non_blocking=True)


def fetched(made: Tensor) -> Tensor:
    """Return a tensor of the host, into which a copy is on its way: see `mark`."""
    return made.to("cpu", non_blocking=True)  # into pinned memory


def mark(device: torch.device) -> Callable[[], None]:
    """Return what waits until the device has done all that it was asked for so far.

    What it is asked for afterwards goes on meanwhile.
    """
    if device.type != "cuda":
        return lambda: None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event.synchronize
