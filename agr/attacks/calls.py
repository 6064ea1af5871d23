"""Checks of what an attack is called with: a model, images, labels and a pool."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agr.attacks.parts import Model, Pool
from agr.models.logits import logits_of
from agr.models.sources import behind
from agr.utils.errors import Refused
from agr.utils.pixels import is_8bit

ROUNDING = 1e-6  # of images that should lie in [0, 1]


def check_images(model: Model, x: Tensor, *, on_grid: bool = False, least_bytes: int = 2) -> None:
    """Raise ValueError unless the model is in eval mode and `x` (B, 3, H, W) are images in [0, 1].

    With `on_grid` they must be 8-bit, k/255. `least_bytes` is per floating-point number.
    """
    if not callable(model) or isinstance(model, nn.ModuleList | nn.ModuleDict):
        raise ValueError(f"model is a {type(model).__name__}: give one network, or a function")
    network = behind(model)
    modules = network.named_modules() if isinstance(network, nn.Module) else ()
    if training := next((name or "itself" for name, part in modules if part.training), None):
        raise ValueError(f"the model is in training mode ({training}): call model.eval() first")
    if isinstance(network, nn.Module) and any(p.is_inference() for p in network.parameters()):
        raise ValueError(
            "the model was made in inference mode, which no gradient goes through: "
            "agr.tune(model, x) makes a copy that can be attacked"
        )
    if not isinstance(x, Tensor):
        raise ValueError(f"x is a {type(x).__name__}: give a tensor, as torch.from_numpy(x)")
    if x.dim() != 4 or not x.is_floating_point() or x.element_size() < least_bytes:
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}: give float images (B, 3, H, W)")
    if x.numel() and not (x.min() >= -ROUNDING and x.max() <= 1 + ROUNDING):
        raise ValueError(f"x spans [{x.min():.3g}, {x.max():.3g}]: give images in [0, 1]")
    if on_grid and x.numel() and not is_8bit(x):
        raise ValueError('x is not on the 8-bit grid k/255: round it, or use quantize="off"')


def check_labels(x: Tensor, y: Tensor, lowest: int = 0) -> None:
    """Raise ValueError unless `y` holds an int64 label for each image of `x`, `lowest` or above."""
    if not isinstance(y, Tensor):
        raise ValueError(f"y is a {type(y).__name__}: give int64 labels, as torch.tensor(y)")
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise ValueError(f"y is {y.dtype} {tuple(y.shape)}: give int64 labels ({len(x)},)")
    if len(y) and int(y.min()) < lowest:
        raise ValueError(
            f"y has the label {int(y.min())}: give classes from 0 on, and leave out images of none"
        )


def usable(value: Any) -> Any:
    """Return a tensor that gradients can be taken through, though it is made in inference mode."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


class CheckedModel:
    """A model whose output is looked at when it is first called.

    Raises Refused then unless that is logits, of two classes or more and of every label in `y`.
    """

    def __init__(self, model: Model, y: Tensor | None):
        self.func, self._y, self._checked = model, y, False  # `behind` looks for `func`
        self.takes_side = getattr(model, "takes_side", False)
        self.takes_draw = getattr(model, "takes_draw", False)

    def __call__(self, *inputs: Any, **keys: Tensor) -> Tensor:
        """Return the logits of the model, for a copy of the images: it may change them in place."""
        images, *side = inputs
        logits = logits_of(self.func(images.clone(), *side, **keys))
        if images.requires_grad and not logits.requires_grad:
            raise Refused(
                "the model gives no gradient: it works under no_grad or inference_mode, or leaves "
                "torch (NumPy, detach); attack one that doesn't"
            )
        if not self._checked:
            self._check(logits, inputs[0])
            self._checked = True
        return logits

    def _check(self, logits: Tensor, x: Tensor) -> None:
        columns = logits.dim() == 3 and logits.shape[2] == 1 < logits.shape[1]
        if logits.dim() not in (2, 3) or len(logits) != len(x) or columns:
            raise Refused(
                f"the model makes {tuple(logits.shape)} of {tuple(x.shape)}: it must return "
                f"logits ({len(x)}, classes)"
            )
        classes = logits.shape[-1]
        if classes < 2:
            raise Refused(
                "the model returns one number for each image: wrap it so that it returns logits "
                "of two classes, as torch.cat([-z, z], 1) / 2"
            )
        if self._y is not None and len(self._y) and int(self._y.max()) >= classes:
            raise Refused(
                f"y has the label {int(self._y.max())}, the model knows 0 to {classes - 1}"
            )


def check_pool(pool: Pool | None, size: int, x: Tensor, classes: int) -> None:
    """Raise ValueError unless the pool has images like `x`, of several classes, if it is needed.

    `size` is the number of images that parts need, of which the first `classes` have several.
    """
    if pool is None and size:
        raise ValueError(
            "the attack mixes in other images: "
            "dataclasses.replace(attack, pool=Pool(images, labels))"
        )
    if pool is None:
        return
    if not isinstance(pool, Pool):
        raise ValueError(f"pool is a {type(pool).__name__}: give a Pool(images, labels)")
    try:
        check_images(usable, pool.images)
        check_labels(pool.images, pool.labels)
    except ValueError as e:
        raise ValueError(f"pool: {e}") from e
    if pool.images.dtype != x.dtype:
        raise ValueError(f"pool: its images are {pool.images.dtype}, and x is {x.dtype}: convert")
    if classes and len(pool.labels[:classes].unique()) < 2:
        raise ValueError(
            f"the first {classes} images of the pool have one class: give images of several"
        )
    if pool.images.shape[1:] != x.shape[1:]:
        shapes = f"{tuple(pool.images.shape[1:])} and {tuple(x.shape[1:])}"
        raise ValueError(f"images of the pool and x have different shapes: {shapes}")
