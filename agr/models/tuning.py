"""Tuning of networks: the same logits faster, by folded batch norms and the better memory format.

fast = tune(model, x)  # any classifier of images; `x` is a batch as it will see them
"""

from __future__ import annotations

import copy
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from agr.models.logits import logits_of
from agr.utils.errors import nearest

MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
# Of two formats that are about equal the first is taken, so that noise doesn't choose.
CLEARLY = 0.95
ROUNDS = 3
# Folding is exact but for rounding: in float64 nothing else than rounding may be left.
SAME = 1e-9


class CannotFold(ValueError):
    """A network's batch norms can't be folded; the text says why."""


def tune(model: nn.Module, x: Tensor, memory_format: str = "auto") -> nn.Module:
    """Return a copy of `model` with the same logits, faster: frozen, folded, in another format.

    Args:
        model: a classifier in evaluation mode; (B, 3, H, W) to logits.
        x: a batch as it will see them, on the model's device and in its dtype.
        memory_format: "auto" follows the rule of `preferred_format`; "try" times both formats on
            `x`; or "channels_last" or "contiguous".

    Batch norms that can't be folded stay: a self-check compares the logits in float64. What can't
    be copied comes back itself, as it is. A caller's inference mode or no_grad doesn't matter.
    Raises ValueError for a network, a batch or a format that isn't one.
    """
    if not isinstance(model, nn.Module) or isinstance(model, nn.ModuleList | nn.ModuleDict):
        raise ValueError(f"model is a {type(model).__name__}: tune takes one network, nn.Module")
    if not isinstance(x, Tensor) or x.dim() != 4 or not x.is_floating_point():
        raise ValueError("x is not a batch of images: give a float tensor (B, 3, H, W)")
    if memory_format not in ("auto", "try", *MEMORY_FORMATS):
        way = nearest(memory_format, ["auto", "try", *MEMORY_FORMATS])
        raise ValueError(f"memory_format={memory_format} is unknown: {way}")
    with torch.inference_mode(False), torch.enable_grad():
        return _tuned(model, x.clone(), memory_format)  # the model may change it in place


def _tuned(model: nn.Module, x: Tensor, memory_format: str) -> nn.Module:
    try:
        fast = _copied(model).eval()
        for weight in fast.parameters():  # TorchScript lacks a module's own `requires_grad_`
            weight.requires_grad_(False)
    except Exception:  # locks, open files, parameters still to be made: whatever a model holds
        return model
    with suppress(Exception):  # CannotFold, or whatever one image alone meets in a network
        fast = fold_batch_norms(fast, x[:1], in_place=True)
    if memory_format == "auto":
        memory_format = preferred_format(fast)
    elif memory_format == "try":
        memory_format = faster_format(fast, x)
    return in_format(fast, MEMORY_FORMATS[memory_format])


@torch.no_grad()  # else TorchScript computes a copy's weights from the model's, with a graph
def _copied(model: nn.Module) -> nn.Module:
    """Return a deep copy, also of weights that are computed, as by `weight_norm` and pruning."""
    held = itertools.chain.from_iterable(vars(module).values() for module in model.modules())
    computed = [value for value in held if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})


# ---- memory format -------------------------------------------------------------------------------


def in_format(network: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """Bring the weights of a network into a memory format, and return it.

    Only those of convolutions of images have one: torch's own `to` refuses a network with weights
    of five dimensions.
    """
    for weight in itertools.chain(network.parameters(), network.buffers()):
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=memory_format)
    return network


def preferred_format(network: nn.Module) -> str:
    """Return the memory format of a network by its modules: "channels_last" if it convolves.

    On a CPU, channels_last makes a forward and input gradient 1.03 to 1.5 times as fast if windows
    of convolutions overlap (Inceptions, VGGs, ResNets, DenseNet, RegNet, MobileNet, EfficientNet),
    up to 1.7 times in narrow networks, 0.96 to 1.01 times in ConvNeXt, and 0.95 to 1.09 times in
    networks that only embed patches (ViT, Swin, Mixer). Neither the image size nor the number of
    threads reversed that: docs/performance.md, "Memory formats".
    """
    convolves = any(
        kernel > stride  # else windows don't overlap: patches are embedded
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
        for kernel, stride in zip(layer.kernel_size, layer.stride, strict=True)
    )
    return "channels_last" if convolves else "contiguous"


def faster_format(network: nn.Module, x: Tensor) -> str:
    """Return the memory format in which a forward and gradient of batch `x` takes less time.

    "channels_last" where they are about equal. The network is left in one of them. The answer
    depends on the machine and its load.
    """
    found: dict[str, list[float]] = {name: [] for name in MEMORY_FORMATS}
    for _ in range(1 + ROUNDS):  # in turns: a machine's speed drifts; the first pays for set-up
        for name, format_ in MEMORY_FORMATS.items():
            in_format(network, format_)
            found[name].append(gradient_seconds(network, x.contiguous(memory_format=format_)))
    best = {name: min(seconds[1:]) for name, seconds in found.items()}
    quickest, first = min(best, key=best.__getitem__), next(iter(best))
    return quickest if best[quickest] < CLEARLY * best[first] else first


def gradient_seconds(network: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Seconds of a forward over batch `x` and the gradient with respect to it."""
    point = x.detach().requires_grad_()
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    started = time.perf_counter()
    (g,) = torch.autograd.grad(logits_of(network(point.clone())).sum(), point)
    g.sum().item()  # waits for a GPU
    return time.perf_counter() - started


# ---- batch norms ---------------------------------------------------------------------------------


@torch.no_grad()
def fold_batch_norms(
    network: nn.Module, x: Tensor, *, check: bool = True, in_place: bool = False
) -> nn.Module:
    """Return a copy of `network` with its batch norms folded into the convolutions before them.

    Norms that follow something else stay as they are.

    Args:
        network: any network in evaluation mode.
        x: images (B, 3, H, W), which are run through it to find the convolution before each norm.
        check: compare the logits of `x` before and after, in float64.
        in_place: change `network` itself, and not if this raises.

    Raises CannotFold if there is nothing to fold, or if logits differ by more than rounding.
    """
    if check:
        _check_folding(_copied(network).double(), x.double())
    fast = network if in_place else _copied(network)
    _fold_in_place(fast, x)
    return fast


def _fold_in_place(network: nn.Module, x: Tensor) -> None:
    pairs = _pairs(network, x)
    if not pairs:
        raise CannotFold("no batch norm follows a convolution")
    for name, (convolution, norm) in pairs.items():
        _fold(convolution, norm)
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, _rest(norm))


def _pairs(network: nn.Module, x: Tensor) -> dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Find the convolutions whose output goes, unchanged, into a batch norm, by the norm's name.

    Runs `x` through the network. A convolution or norm that is used more than once has no pair.
    """
    outputs: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}  # by the tensor's id, which is held
    before: dict[nn.Module, nn.Conv2d] = {}
    uses: Counter[nn.Module] = Counter()

    def note_output(layer: nn.Module, _: Any, out: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        uses[layer] += 1
        outputs[id(out)] = layer, out, out._version

    def note_input(norm: nn.Module, args: Sequence[Any]) -> None:
        uses[norm] += 1
        if id(args[0]) in outputs:
            layer, out, version = outputs[id(args[0])]
            if out._version == version:  # else it was changed in place in between
                before[norm] = layer

    with ExitStack() as handles:
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                handles.callback(layer.register_forward_hook(note_output).remove)
            elif isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
                handles.callback(layer.register_forward_pre_hook(note_input).remove)
        network(x)
    norms = Counter(before.values())
    return {
        name: (before[norm], norm)
        for name, norm in network.named_modules()
        if isinstance(norm, nn.BatchNorm2d)
        and norm in before
        and "weight" in before[norm]._parameters  # else it is computed: weight or spectral norm
        and uses[norm] == uses[before[norm]] == norms[before[norm]] == 1
    }


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Give the convolution the norm's scale and shift, in place; computed in float64."""
    own = convolution.weight, convolution.bias, norm.running_mean, norm.running_var
    wide = [t if t is None else t.double() for t in (*own, norm.weight, norm.bias)]
    fused = fuse_conv_bn_weights(*wide[:4], norm.eps, *wide[4:])  # type: ignore[arg-type, call-arg]
    kept = convolution.weight
    convolution.weight, convolution.bias = (
        nn.Parameter(t.to(kept.dtype), requires_grad=kept.requires_grad) for t in fused
    )


def _rest(norm: nn.BatchNorm2d) -> nn.Module:
    """Return the dropout and activation that timm's `BatchNormAct2d` has beside the norm."""
    parts = [getattr(norm, name, nn.Identity()) for name in ("drop", "act")]
    rest = nn.Sequential(*(part for part in parts if not isinstance(part, nn.Identity)))
    return rest.train(norm.training)


def _check_folding(network: nn.Module, x: Tensor) -> None:
    """Fold `network`, which is in float64. Raises CannotFold if that changes its logits."""
    try:
        before = logits_of(network(x.clone()))
        _fold_in_place(network, x)
        after = logits_of(network(x.clone()))
        gap = (after - before).abs().max() / before.abs().max()
    except CannotFold:
        raise
    except Exception as e:  # whatever a network does that asks its norms for more
        raise CannotFold(f"the folded network doesn't run: {e}") from e
    if not gap <= SAME:
        raise CannotFold(f"its logits would differ by {gap:.1e} of the largest")
