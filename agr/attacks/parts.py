"""Parts of an attack: their contracts, and the data that they and an attack get.

conf/attack has the known attacks, docs/attacks.md lists them by their parts.

Parts are frozen dataclasses. What changes during a run is a `State`: a dict of tensors whose
every leaf has one row per image, so that the engine can put any image into any row. Randomness
comes from a key per row (`agr.attacks.draws`), so that no image depends on the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from agr.attacks.ball import Ball, per_image
from agr.attacks.draws import fold
from agr.models.logits import logits_of
from agr.utils.pixels import is_8bit

ROUNDING = 1e-6  # of images that should lie in [0, 1]
# Images (B, 3, H, W) in [0, 1] -> logits (B, classes), or (B, members, classes): see `joint`.
Model = Callable[..., Tensor]
State = dict[str, Any]  # str -> Tensor (B, ...) | State
# Clean images (B, 3, H, W), ball, key (B,) -> the first iterates, which `Attack` projects.
Start = Callable[[Tensor, Ball, Tensor], Tensor]
# Logits (B, classes), labels (B,) -> losses (B,), which an attack climbs, or descends if targeted.
Loss = Callable[[Tensor, Tensor], Tensor]


def leafwise(f: Callable[[Tensor, Tensor], Tensor], new: State, old: State) -> State:
    """Combine two states of one form, leaf by leaf, with ``f(new, old)``."""
    return {
        k: leafwise(f, v, old[k]) if isinstance(v, dict) else f(v, old[k]) for k, v in new.items()
    }


def choose(rows: Tensor, new: State, old: State) -> State:
    """Take `new` in the rows (B,) that are True and `old` elsewhere, leaf by leaf."""

    def pick(a: Tensor, b: Tensor) -> Tensor:  # of the clean image and the labels: no copy
        return a if a is b else torch.where(per_image(rows, a), a, b)

    return leafwise(pick, new, old)


class Pool(NamedTuple):
    """A fixed set of images that views may mix in."""

    images: Tensor  # (K, 3, H, W) in [0, 1]
    labels: Tensor  # (K,) int64: their true classes


class Context(NamedTuple):
    """Data that a view, a stage or a step may use; B rows, one image each."""

    x: Tensor  # iterate, (B, 3, H, W) in [0, 1]
    x0: Tensor  # clean image, like x
    image: Tensor  # the iterate as the model sees it: rounded to 8 bits, if the attack rounds
    point: Tensor  # where the gradient was taken: `image`, unless a stage looks ahead
    label: Tensor  # true class, (B,) int64
    t: Tensor  # steps already taken by each row, (B,) int64
    steps: int  # T
    size: float  # step size, in [0, 1] units of the ball's norm
    ball: Ball
    root: Tensor  # random key of each image, (B,) int64
    path: tuple[int | Tensor, ...]  # numbers that it is folded with: step, use, …
    grad: Callable[[Tensor, int], Tensor]  # (point, use) -> gradient there, through the views
    pool: Pool | None

    @property
    def key(self) -> Tensor:
        """Random key of (image, step, use), (B,) int64; made on demand, since few parts need it."""
        return fold(self.root, *self.path)

    def at(self, *use: int) -> Context:
        """Return the same context with another key, for one more use."""
        return self._replace(path=(*self.path, *use))


class Copy(NamedTuple):
    """One copy of the images, as a view makes it."""

    image: Tensor  # (B, 3, h, w), differentiable in what it was made from
    share: Tensor | float  # (B,) or one for all: weight of its gradient; 1 over all copies
    draw: Tensor | None = None  # (B,) int64: keys with which a random defense draws for it


class Seen(NamedTuple):
    """Data that a stop may use: the model's logits for the iterate."""

    logits: Tensor  # (B, classes)
    fooled: Tensor  # (B,) bool: not the label, or the target label when targeted
    y: Tensor  # (B,) int64: label, or target label when targeted
    t: Tensor  # (B,) int64: steps taken
    targeted: bool


class Observation(NamedTuple):
    """One forward pass over the iterates: predictions, and the rows that go on."""

    pred: Tensor  # (B,) int64, NO_ANSWER where logits are not finite
    conf: Tensor  # (B,): softmax probability of that class
    fooled: Tensor  # (B,) bool
    image: Tensor  # (B, 3, H, W): the images the model saw
    more: Tensor  # (B,) bool: rows that were alive and go on


class View(Protocol):
    """Copies of an image, whose gradients are averaged by their shares.

    Copies are made one at a time and have one shape, so memory doesn't grow with their number.
    """

    @property
    def copies(self) -> int:
        """Number of copies."""
        ...

    def __call__(self, x: Tensor, i: int, c: Context) -> Copy:
        """Make copy `i` of the images `x` (B, 3, H, W). `c.key` is the same for all copies."""
        ...


class Stage(Protocol):
    """A transformation of the gradient before the step: normalising, momentum, smoothing.

    A stage whose attribute `look_ahead` is true also has `point(s, c)`, which returns the point
    where the gradient is taken; an attack has at most one of these. A stage that calls `c.grad` has
    an attribute `extra`, the number of its calls in a step.
    """

    def init(self, x: Tensor) -> State: ...

    def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]: ...


class Step(Stage, Protocol):
    """A rule that moves the iterate; `Attack` projects what `update` returns."""


class Stop(Protocol):
    """A rule that ends rows before their T steps are over."""

    def init(self, x: Tensor) -> State: ...

    def update(self, seen: Seen, s: State) -> tuple[Tensor, State]: ...


class Stateless:
    """A part without a state."""

    def init(self, x: Tensor) -> State:
        return {}


def check_images(model: Model, x: Tensor, *, on_grid: bool = False, least_bytes: int = 2) -> None:
    """Raise ValueError unless the model is in eval mode and `x` (B, 3, H, W) are images in [0, 1].

    With `on_grid` they must be 8-bit, k/255. `least_bytes` is per floating-point number.
    """
    if not callable(model) or isinstance(model, nn.ModuleList | nn.ModuleDict):
        raise ValueError(f"model is a {type(model).__name__}: give one network, or a function")
    network = _behind(model)
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


def _behind(model: Any) -> Any:
    """Return what a method or a functools.partial calls, which may be a network."""
    for _ in range(10):
        inner = getattr(model, "func", None) or getattr(model, "__self__", None)
        if isinstance(model, nn.Module) or not callable(inner):
            return model
        model = inner
    return model


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

    Raises ValueError then unless that is logits, of two classes or more and of every label in `y`.
    """

    def __init__(self, model: Model, y: Tensor | None):
        self._model, self._y, self._checked = model, y, False
        self.takes_side = getattr(model, "takes_side", False)
        self.takes_draw = getattr(model, "takes_draw", False)

    def __call__(self, *inputs: Any, **keys: Tensor) -> Tensor:
        """Return the logits of the model, for a copy of the images: it may change them in place."""
        images, *side = inputs
        logits = logits_of(self._model(images.clone(), *side, **keys))
        if images.requires_grad and not logits.requires_grad:
            raise ValueError(
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
            raise ValueError(
                f"the model makes {tuple(logits.shape)} of {tuple(x.shape)}: it must return "
                f"logits ({len(x)}, classes)"
            )
        classes = logits.shape[-1]
        if classes < 2:
            raise ValueError(
                "the model returns one number for each image: wrap it so that it returns logits "
                "of two classes, as torch.cat([-z, z], 1) / 2"
            )
        if self._y is not None and len(self._y) and int(self._y.max()) >= classes:
            raise ValueError(
                f"y has the label {int(self._y.max())}, the model knows 0 to {classes - 1}"
            )


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
    if not isinstance(pool, Pool):
        raise ValueError(f"pool is a {type(pool).__name__}: give a Pool(images, labels)")
    try:
        check_images(usable, pool.images)
        check_labels(pool.images, pool.labels)
    except ValueError as e:
        raise ValueError(f"pool: {e}") from e
    if len(pool.labels.unique()) < 2:
        raise ValueError("the images of the pool have one class: give images of several")
    if pool.images.shape[1:] != x.shape[1:]:
        shapes = f"{tuple(pool.images.shape[1:])} and {tuple(x.shape[1:])}"
        raise ValueError(f"images of the pool and x have different shapes: {shapes}")
