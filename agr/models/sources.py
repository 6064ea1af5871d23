"""Sources of attacks: a network, one behind defenses, or several together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agr.models.defended import DefendedNetwork
from agr.models.network import Network


class Ensemble(nn.Module):
    """Several networks as one source, as in Liu et al. (ICLR 2017, arXiv:1611.02770).

    Averaging is over "logits" (Dong et al., CVPR 2018, arXiv:1710.06081, section 3.4), so that
    the ensemble is a network like any other, or over "losses": then it returns each member's
    logits, (B, members, classes), and the attack averages their losses. In both cases it predicts
    the class of the largest mean logit.
    """

    takes_side = takes_draw = True

    def __init__(self, members: Sequence[Network | DefendedNetwork], over: str):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.over = over
        first = members[0]
        self.dtype, self.memory_format = first.dtype, first.memory_format
        self.device, self.as_input = first.device, first.as_input
        self.is_random = any(getattr(member, "is_random", False) for member in members)
        self.eval()

    def forward(self, x: Tensor, side: int | None = None, draw: Tensor | None = None) -> Tensor:
        """Return logits (B, classes) or (B, members, classes).

        Arguments are as in `DefendedNetwork.forward`; `draw` reaches the defended members.
        """
        keys: dict[bool, list[Tensor]] = {True: [] if draw is None else [draw], False: []}
        each = torch.stack([m(x, side, *keys[hasattr(m, "takes_draw")]) for m in self.members], 1)
        return each if self.over == "losses" else each.mean(1)


Source = Network | DefendedNetwork | Ensemble  # what an attack is crafted on


def bodies_of(model: Any) -> list[nn.Module]:
    """Return the networks, as timm made them, that answer when `model` is asked.

    Raises ValueError where there is none to be seen.
    """
    model = behind(model)
    if members := getattr(model, "members", None):
        return [body for member in members for body in bodies_of(member)]
    if isinstance(model, DefendedNetwork):
        model = model.network
    if isinstance(model, Network):
        return [model.body]
    if not isinstance(model, nn.Module):
        raise ValueError(
            "the attack changes or reads modules of the network, and the model is a "
            f"{type(model).__name__}: give the nn.Module itself"
        )
    return [model]


def behind(model: Any) -> Any:
    """Return what a method or a functools.partial calls, which may be a network."""
    for _ in range(10):
        inner = getattr(model, "func", None) or getattr(model, "__self__", None)
        if isinstance(model, nn.Module) or not callable(inner):
            return model
        model = inner
    return model


def one_draw(network: Source, images: int) -> dict[str, Tensor]:
    """Return the argument with which a network is asked as an attack's gradient asks it.

    That is for one draw of its random defenses, where it has some.
    """
    if not getattr(network, "takes_draw", False):
        return {}
    return {"draw": torch.zeros(images, dtype=torch.int64, device=network.device)}
