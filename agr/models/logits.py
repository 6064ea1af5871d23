"""Predictions from logits."""

from __future__ import annotations

import torch
from torch import Tensor

NO_ANSWER = -1  # the prediction of a model whose logits are not finite


def predict(logits: Tensor) -> Tensor:
    """The class of each row of `logits` (B, classes), or NO_ANSWER: NaN is never an answer."""
    return torch.where(logits.isfinite().all(1), logits.argmax(1), NO_ANSWER)


def is_fooled(pred: Tensor, y: Tensor, *, targeted: bool) -> Tensor:
    """Which rows of `pred` (B,) are an answer other than `y` (B,), or `y` itself when targeted."""
    return pred == y if targeted else (pred != y) & (pred != NO_ANSWER)


def confidence(logits: Tensor) -> Tensor:
    """The softmax probability of the class of each row of `logits` (B, classes)."""
    return logits.float().softmax(1).amax(1)


def joint(logits: Tensor) -> Tensor:
    """The logits (B, classes) that an answer is taken from.

    An ensemble whose losses are averaged gives (B, members, classes): the mean over its members.
    """
    return logits.mean(1) if logits.dim() == 3 else logits
