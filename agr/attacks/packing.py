"""Copies of the last images, put together into one pass of the source.

When no new images come most slots are empty, and the passes of an attack with many gradients per
step would be padding for the most part. Their free rows take further copies of the images that are
left: the shape of a pass stays the same, and so do an image's bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agr.attacks.parts import Context

MOST = 4  # copies in a pass: until then all are held, with what made them
# Goal, images (B, 3, h, w), images that they are copies of, labels, shares, rows that have one ->
# logits, losses (B,), gradient at the images.
Run = Callable[..., tuple[Tensor, ...]]


class Made(NamedTuple):
    """One copy of a point, made by the views."""

    leaf: Tensor  # the point
    image: Tensor  # made of it
    share: Tensor | float
    takes: Tensor  # (B,) bool: rows that have a share
    draw: Tensor | None
    own: Context  # of the draws of rules


def packed(
    run: Run, goal: Any, group: Sequence[Made], y: Tensor, rows: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the losses (B,) of each copy by its share, and their gradient at its leaf.

    Only `rows`, so few that those of all copies fit into one pass, get some; others are 0.
    """
    for _, alike in groupby(group, lambda copy: (copy.image.shape, copy.image.stride())):
        yield from _one_pass(run, goal, [*alike], y, rows)


def _one_pass(
    run: Run, goal: Any, group: Sequence[Made], y: Tensor, rows: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    first, n = group[0].image.detach(), len(rows)
    image, labels = first.clone(), y.clone()  # free rows keep something that is an image
    share, takes = torch.zeros_like(y, dtype=first.dtype), torch.zeros_like(y, dtype=torch.bool)
    places = [slice(i * n, (i + 1) * n) for i in range(len(group))]
    for copy, place in zip(group, places, strict=True):
        image[place], labels[place] = copy.image.detach()[rows], y[rows]
        share[place] = copy.share[rows] if isinstance(copy.share, Tensor) else copy.share
        takes[place] = copy.takes[rows]
    _, losses, g = run(goal, image, group[0].leaf, labels, share, takes)
    for copy, place in zip(group, places, strict=True):
        value, own = torch.zeros_like(losses), torch.zeros_like(copy.image)
        value[rows], own[rows] = losses[place], g[place]
        if copy.image is not copy.leaf:
            (own,) = torch.autograd.grad(copy.image, copy.leaf, own)
        yield value, own
