"""Predictions from logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

NO_ANSWER = -1  # the prediction of a model whose logits are not finite


def logits_of(output: Any) -> Tensor:
    """Return the logits in what a model returned: itself, or its `logits`. Raises ValueError."""
    found = output.get("logits") if isinstance(output, Mapping) else output
    found = found if isinstance(found, Tensor) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise ValueError(
            f"the model returns a {type(output).__name__}: wrap it so that it returns the logits, "
            "as lambda x: model(x)[0] (with the model in evaluation mode)"
        )
    return found


def predict(logits: Tensor) -> Tensor:
    """Return the class of each row of `logits` (B, classes), NO_ANSWER where not finite."""
    return torch.where(logits.isfinite().all(1), logits.argmax(1), NO_ANSWER)


def is_fooled(pred: Tensor, y: Tensor, *, targeted: bool) -> Tensor:
    """Return the rows, (B,) bool, whose `pred` (B,) differs from `y` (B,), or is it if targeted.

    NO_ANSWER is never fooled.
    """
    return pred == y if targeted else (pred != y) & (pred != NO_ANSWER)


def confidence(logits: Tensor) -> Tensor:
    """Return the largest softmax probability of each row of `logits` (B, classes)."""
    return logits.float().softmax(1).amax(1)


def joint(logits: Tensor) -> Tensor:
    """Return the logits (B, classes) that decide the prediction.

    An ensemble whose losses are averaged gives (B, members, classes): this is the members' mean.
    """
    return logits.mean(1) if logits.dim() == 3 else logits
