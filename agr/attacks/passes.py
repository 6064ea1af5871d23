"""Passes of a source: counted, and replayed as CUDA graphs.

On a GPU small layers take longer to start than to run. `Graphs` records what one gradient pass
starts, and from then on starts all of it at once. Draws, views, stages and steps stay outside: they
make the inputs. On a CPU the same buffers go through the pass itself, so that all but the recording
is tested. No GPU was there: nothing has ever been recorded on one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from agr.attacks.goal import Goal
from agr.attacks.gradient import one_pass
from agr.attacks.parts import Model
from agr.models.defended import DefendedNetwork
from agr.utils.errors import first_line

Pass = Callable[..., tuple[Tensor, ...]]
WARM_UPS = 3  # passes before a recording, in which libraries choose and allocate


@dataclass
class Calls:
    """Forward and backward passes of a network, counted by hooks on the network itself."""

    forwards: int = 0
    backwards: int = 0

    def attach(self, network: torch.nn.Module) -> ExitStack:
        """Start counting, of an ensemble each member; the returned stack's `close()` ends it."""
        handles = ExitStack()
        for member in getattr(network, "members", [network]):
            handles.callback(member.register_forward_hook(self._forward).remove)
        return handles

    def _forward(self, module: torch.nn.Module, args: Any, out: Tensor) -> None:
        self.forwards += 1
        if out.requires_grad and args[0].requires_grad:  # a loss over features leaves `out` alone
            args[0].register_hook(self._backward)

    def _backward(self, gradient: Tensor) -> None:
        self.backwards += 1


class Graphs:
    """The gradient passes of a model, replayed: one recording for each loss and shape."""

    def __init__(self, model: Model, calls: Calls):
        self.model, self.calls = model, calls
        self.known: dict[Hashable, Replay] = {}
        self.pool: Any = None  # of memory, for all: they never run at the same time

    def __call__(
        self,
        goal: Goal,
        image: Tensor,
        own: Tensor,
        y: Tensor,
        share: Tensor | float,
        takes: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return what `one_pass` does."""
        if not isinstance(share, Tensor):
            share = torch.full_like(y, share, dtype=image.dtype)
        inputs = image.detach(), y, share, takes
        shapes = tuple((t.shape, t.stride(), t.dtype) for t in inputs)
        key = goal.loss, goal.targeted, own.shape, shapes
        if key not in self.known:
            like = torch.empty(own.shape, device="meta")  # it is there for its shape
            run = partial(one_pass, self.model, goal, like)
            self.known[key] = Replay(run, inputs, self.calls, self.pool)
            self.pool = self.known[key].pool
        return self.known[key](*inputs)


class Replay:
    """A function of tensors on buffers of its own: recorded on a GPU, called on a CPU."""

    def __init__(self, run: Pass, inputs: tuple[Tensor, ...], calls: Calls, pool: Any):
        self.run, self.calls, self.pool = run, calls, pool
        self.inputs = tuple(t.clone() for t in inputs)
        self.graph: torch.cuda.CUDAGraph | None = None
        before = replace(calls)
        if inputs[0].is_cuda:
            try:
                self._record(inputs[0].device)
            except RuntimeError as e:
                if isinstance(e, torch.OutOfMemoryError):
                    raise
                raise ValueError(
                    f"the source's pass can't be recorded ({first_line(e)}): use graph=false"
                ) from e
        else:
            self.outputs = run(*self.inputs)
        calls.forwards, calls.backwards = before.forwards, before.backwards

    def _record(self, device: torch.device) -> None:
        main, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self.run(*self.inputs)
        main.wait_stream(side)
        self.graph, before = torch.cuda.CUDAGraph(), replace(self.calls)
        # Threads that decode images may use the GPU's memory meanwhile.
        with torch.cuda.graph(self.graph, self.pool, side, "thread_local"):
            self.outputs = self.run(*self.inputs)
        self.pool = self.graph.pool()
        # A replay calls no hook, so that it counts what they counted now.
        self.forwards = self.calls.forwards - before.forwards
        self.backwards = self.calls.backwards - before.backwards

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what the function makes of tensors like the first ones."""
        for own, new in zip(self.inputs, inputs, strict=True):
            own.copy_(new)
        if self.graph:
            self.graph.replay()
            self.calls.forwards += self.forwards
            self.calls.backwards += self.backwards
        else:
            for own, new in zip(self.outputs, self.run(*self.inputs), strict=True):
                own.copy_(new)
        return tuple(t.clone() for t in self.outputs)  # the next replay writes over them


def refusal(attack: Any, members: Sequence[Any]) -> str | None:
    """Return why the gradient passes of an attack can't be replayed, or None if they can."""
    for parts, why in (
        (attack.surrogate, "changes passes of the source from step to step"),
        ([attack.objective], "reads features of the source"),
        ([attack.ensemble], "asks for single members"),
        (
            [v for v in attack.views if getattr(v, "joint", 0)],
            "takes the loss of all copies at once",
        ),
    ):
        for part in filter(None, parts):
            return f"{type(part).__name__} {why}"
    if any(isinstance(member, DefendedNetwork) for member in members):
        return "defenses of the source work on the host"
    return None
