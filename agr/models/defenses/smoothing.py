"""Randomized smoothing: the vote of a network on noisy copies of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from scipy.special import bdtr
from torch import Tensor

from agr.models.draws import fold, key_of, normal
from agr.models.logits import ABSTAINING, NO_ANSWER, predict
from agr.utils.checks import Checked, number, whole

NO_VOTE = 1e-30  # the share of a class without votes, whose logarithm must be finite


@dataclass(frozen=True)
class Smoothing(Checked):
    """The class that most of `draws` noisy copies get, or no class if the vote is too close.

    PREDICT of Cohen, Rosenfeld and Kolter (ICML 2019, arXiv:1902.02918, section 3.2.1): copies
    have noise N(0, sigma^2) on every value of an image in [0, 1] at the network's own size. With
    n_A votes for the first class and n_B for the second, the answer is an abstention unless
    BinomPValue(n_A, n_A + n_B, 1/2) <= `alpha`. A copy whose logits aren't finite leaves the image
    without an answer. The authors train their networks on noise; this takes any.

    The noise is a hash of (seed, key, draw), so an image's answer depends on nothing else.
    """

    random: ClassVar[bool] = True
    replaces: ClassVar[str] = "answer"

    sigma: float = number(0.25, 1e-6, 1000)
    draws: int = whole(100, 1, 100_000)
    alpha: float = number(0.001, 0, 1)
    seed: int = whole(0, 0, 2**31 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if p_value(self.draws, 0) > self.alpha:
            need = math.ceil(1 - math.log2(self.alpha)) if self.alpha else "more"
            raise ValueError(
                f"draws={self.draws} always abstain at alpha={self.alpha:g}: give {need} or more"
            )

    def fits(self, size: int) -> None:
        """Suit any network."""

    def draw(self, x: Tensor, keys: Sequence[int], size: int, n: int) -> Tensor:
        """Return noisy copy `n` of every image, (B, 3, H, W): not clamped, as by the authors."""
        key = fold(torch.tensor([*map(key_of, keys)], device=x.device), self.seed, n)
        return x + normal(key, x.shape[1:], x.dtype).mul_(self.sigma)

    def joined(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the logarithm of each class's share of the votes, (B, classes).

        An abstention keeps the winner's share alone, the others are ABSTAINING.
        """
        draws = torch.stack([predict(each) for each in logits], 1)  # (B, draws)
        votes = torch.zeros_like(logits[0]).scatter_add_(
            1, draws.clamp_min(0), torch.ones_like(draws, dtype=logits[0].dtype)
        )
        shares = (votes / draws.shape[1]).clamp_min(NO_VOTE).log()
        first, second = votes.topk(2, 1).values.unbind(1)
        close = [
            p_value(int(a), int(b)) > self.alpha
            for a, b in zip(first.tolist(), second.tolist(), strict=True)
        ]
        rows = torch.tensor(close, device=shares.device)
        others = torch.ones_like(shares, dtype=torch.bool).scatter_(
            1, votes.argmax(1, keepdim=True), False
        )
        shares = torch.where(rows[:, None] & others, ABSTAINING, shares)
        silent = (draws == NO_ANSWER).any(1, keepdim=True)
        return torch.where(silent, torch.nan, shares)


@lru_cache(maxsize=4096)
def p_value(a: int, b: int) -> float:
    """Return the two-sided p-value of a binomial test of `a` against `b` for the chance 1/2."""
    return min(1.0, 2 * float(bdtr(min(a, b), a + b, 0.5)))
