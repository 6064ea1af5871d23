"""Protection from the libraries: of the model, and of the state of the process."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from agr.models.logits import joint


class Face(nn.Module):
    """The model as a library sees it, which can neither move it nor change its mode or hooks."""

    def __init__(self, model: nn.Module, like: Tensor):
        super().__init__()
        self.behind: tuple[nn.Module, ...] = (model,)  # in a tuple it is not a submodule
        self.dtype = like.dtype
        # where torchattacks looks for the device
        self.where = nn.Parameter(torch.empty(0, device=like.device), requires_grad=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, 3, H, W) in [0, 1], of any float dtype."""
        return joint(self.behind[0](x.to(self.dtype)))

    def let_go(self) -> None:
        """Drop the model, since libraries may keep this object."""
        self.behind = ()


@contextmanager
def isolated(seed: int, device: torch.device) -> Iterator[None]:
    """Seed all generators, enable gradients and silence warnings; restore everything at the end."""
    seed %= 2**32
    random_state, numpy_state = random.getstate(), np.random.get_state()
    handlers = list(logging.root.handlers)  # logging.info, as foolbox calls it, adds one
    gpus = [device.index] if device.type == "cuda" else []
    current = torch.cuda.device(device) if gpus else nullcontext()  # ART takes the current one
    with torch.random.fork_rng(gpus), warnings.catch_warnings(), torch.enable_grad(), current:
        if gpus:
            torch.cuda.manual_seed(seed)
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(random_state)
            np.random.set_state(numpy_state)
            logging.root.handlers[:] = handlers
