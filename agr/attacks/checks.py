"""Checks of what an attack is called with, shared by composed attacks and other libraries'."""

from __future__ import annotations

import torch
from torch import Tensor

from agr.attacks.parts import Model, Pool
from agr.utils.pixels import is_8bit


def check_images(model: Model, x: Tensor, *, on_grid: bool = False, least_bytes: int = 2) -> None:
    """Raise ValueError unless the model is in eval mode and `x` (B, 3, H, W) are images in [0, 1].

    With `on_grid` they must be 8-bit, k/255. `least_bytes` is per floating-point number.
    """
    if getattr(model, "training", False):
        raise ValueError("the model is in training mode: call model.eval() first")
    if x.dim() != 4 or not x.is_floating_point() or x.element_size() < least_bytes:
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}: give float images (B, 3, H, W)")
    if x.numel() and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"x spans [{x.min():.3g}, {x.max():.3g}]: give images in [0, 1]")
    if on_grid and x.numel() and not is_8bit(x):
        raise ValueError('x is not on the 8-bit grid k/255: round it, or use quantize="off"')


def check_labels(x: Tensor, y: Tensor) -> None:
    """Raise ValueError unless `y` holds an int64 label for each image of `x`."""
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise ValueError(f"y is {y.dtype} {tuple(y.shape)}: give int64 labels ({len(x)},)")


def check_pool(pool: Pool | None, size: int, x: Tensor) -> None:
    """Raise ValueError unless the pool has images like `x`, of several classes, if it is needed.

    `size` is the number of images that the views need.
    """
    if pool is None and size:
        raise ValueError(
            "a view mixes in other images: dataclasses.replace(attack, pool=Pool(images, labels))"
        )
    if pool is None:
        return
    if len(pool.labels.unique()) < 2:
        raise ValueError("the images of the pool have one class: give images of several")
    if pool.images.shape[1:] != x.shape[1:]:
        shapes = f"{tuple(pool.images.shape[1:])} and {tuple(x.shape[1:])}"
        raise ValueError(f"images of the pool and x have different shapes: {shapes}")
