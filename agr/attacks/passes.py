"""Passes of a source: counted."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
