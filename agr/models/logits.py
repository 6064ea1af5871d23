"""Predictions from logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from agr.utils.errors import Refused

NO_ANSWER = -1  # the prediction of a model whose logits are not finite
ABSTAINED = -2  # that of a vote which is too close
# Its logits, but for the class with most votes, which has the logarithm of its share. Finite, since
# a network's own may be infinite, and so far below them that a mean with others is known as well.
ABSTAINING = -(2.0**100)


def logits_of(output: Any) -> Tensor:
    """Return the logits in what a model returned: itself, or its `logits`. Raises Refused."""
    found = output.get("logits") if isinstance(output, Mapping) else output
    found = found if isinstance(found, Tensor) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise Refused(
            f"the model returns a {type(output).__name__}: wrap it so that it returns the logits, "
            "as lambda x: model(x)[0] (with the model in evaluation mode)"
        )
    return found


def predict(logits: Tensor) -> Tensor:
    """Return the class of each row of `logits` (B, classes), NO_ANSWER where not finite.

    ABSTAINED where all but one are ABSTAINING, a vote that is too close, or in a mean with it.
    """
    answers = torch.where(logits.isfinite().all(1), logits.argmax(1), NO_ANSWER)
    return torch.where(_abstaining(logits), ABSTAINED, answers)


def _abstaining(logits: Tensor) -> Tensor:
    """Return the rows, (B,) bool, of `logits` (B, classes) that tell of an abstention."""
    none = logits < ABSTAINING / 1e6
    return logits.isfinite().all(1) & (none.sum(1) >= logits.shape[1] - 1)


def is_fooled(pred: Tensor, y: Tensor, *, targeted: bool) -> Tensor:
    """Return the rows, (B,) bool, whose `pred` (B,) differs from `y` (B,), or is it if targeted.

    NO_ANSWER and ABSTAINED are never fooled.
    """
    return pred == y if targeted else (pred != y) & (pred >= 0)


def confidence(logits: Tensor) -> Tensor:
    """Return the largest softmax probability of each row of `logits` (B, classes).

    Of an abstention it is the share of votes of the class that had most.
    """
    found = logits.float()
    return torch.where(_abstaining(found), found.amax(1).exp(), found.softmax(1).amax(1))


def joint(logits: Tensor) -> Tensor:
    """Return the logits (B, classes) that decide the prediction.

    An ensemble whose losses are averaged gives (B, members, classes): this is the members' mean.
    """
    return logits.mean(1) if logits.dim() == 3 else logits
