"""What a library can't touch: the model behind its face, and the state of the process."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from agr.models.logits import joint


class Face(nn.Module):
    """What a library sees of a model: it can neither move it nor change its mode or hooks."""

    def __init__(self, model: nn.Module, like: Tensor):
        super().__init__()
        self.behind: tuple[nn.Module, ...] = (model,)  # in a tuple it is no submodule
        self.dtype = like.dtype
        # where torchattacks looks for the device
        self.where = nn.Parameter(torch.empty(0, device=like.device), requires_grad=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, H, W) in [0, 1], of any floating-point dtype."""
        return joint(self.behind[0](x.to(self.dtype)))

    def let_go(self) -> None:
        """Forget the model, since libraries may keep this."""
        self.behind = ()


@contextmanager
def isolated(seed: int, device: torch.device) -> Iterator[None]:
    """Seeded, with gradients, without warnings, and as if it had never been."""
    seed %= 2**32
    of_random, of_numpy = random.getstate(), np.random.get_state()
    handlers = list(logging.root.handlers)  # logging.info, as foolbox calls it, adds one
    gpus = [device.index] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(gpus))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(torch.enable_grad())
        if gpus:
            stack.enter_context(torch.cuda.device(device))  # ART takes the current one
            torch.cuda.manual_seed(seed)
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(of_random)
            np.random.set_state(of_numpy)
            logging.root.handlers[:] = handlers
