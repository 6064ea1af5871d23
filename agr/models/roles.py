"""Roles of modules in timm's networks: residual branches, activations, attention, layers by depth.

Each function returns modules by name, or raises ValueError with the role that a network lacks.
Roles are told by the classes and attributes of timm's code, so that narrow copies, folded batch
norms and loaded weights make no difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from timm.layers import get_same_padding
from timm.layers.pool2d_same import MaxPool2dSame
from torch import Tensor, nn

from agr.models.branches import Modules, branch_ends, check_known, residual, title, unknown_blocks
from agr.utils.text import plural

RELUS = nn.ReLU, nn.ReLU6
HEADS = ("global_pool", "pre_logits", "head_drop", "head", "fc", "classifier")


def residual_branches(network: nn.Module, start: str | float = 0.0) -> Modules:
    """Return the last module of each residual branch from depth `start` on (see `from_depth`)."""
    check_known(network)
    found = {
        f"{name}.{last}": getattr(block, last)
        for name, block in network.named_modules()
        for last in branch_ends(block)
    }
    return from_depth(network, _some(found, network, "residual branch"), start)


def residual_blocks(network: nn.Module, start: str | float = 0.0) -> Modules:
    """Return the blocks that add one residual branch to a shortcut, from depth `start` on.

    Not those of DenseNets, whose layers add nothing, nor of transformers, which add two.
    """
    check_known(network)
    return from_depth(network, _some(residual(network), network, "residual block"), start)


def inner_relus(block: nn.Module) -> Modules:
    """Return the ReLUs inside the branch of a residual block, not that after the addition."""
    (end,) = branch_ends(block)
    acts = [name for name, _ in block.named_children() if name.startswith("act")]
    before = itertools.takewhile(lambda pair: pair[0] != end, block.named_modules())
    # The last activation of the block itself is that after the addition, wherever it is registered.
    return {n: module for n, module in before if isinstance(module, RELUS) and n not in acts[-1:]}


def blocks_with_relus(network: nn.Module, start: str | float = 0.0) -> Modules:
    """Return `residual_blocks`. Raises ValueError if the branch of one has no ReLU inside.

    Those of a squeeze-and-excitation don't count: the branch has other activations then.
    """
    found = residual_blocks(network, start)
    without = [
        name
        for name, block in found.items()
        if all(relu.startswith("se.") for relu in inner_relus(block))
    ]
    if without:
        raise ValueError(
            f"{title(network)} has {plural(len(without), 'residual block')} without a ReLU in the "
            f"branch from start={start} on, such as {without[0]}, and the attack changes those: "
            "take another network"
        )
    return found


def relus(network: nn.Module, start: str | float = 0.0) -> Modules:
    """Return the ReLUs and ReLU6s from depth `start` on, in the order of the modules."""
    found = _of_kind(network, "ReLU", lambda m: isinstance(m, RELUS))
    return from_depth(network, found, start)


def from_depth(network: nn.Module, found: Modules, start: str | float) -> Modules:
    """Return those of the modules `found` that come with a place in the network or after it.

    `start` is the name of a module, or a fraction: the place is then the residual block that so
    many come before, of kinds that aren't known here too, or the one of `found` if the network has
    no blocks. 0 is all of them.
    """
    if start == 0:
        return found
    order = {name: place for place, (name, _) in enumerate(network.named_modules())}
    places = sorted(residual(network) | unknown_blocks(network) or found, key=order.__getitem__)
    if isinstance(start, str):
        if not start or start not in order:
            some = ", ".join(places[:3])
            raise ValueError(
                f"{title(network)} has no module {start}: give a depth from 0 to 1, or a name "
                f"such as {some}"
            )
        first = start
    else:
        first = places[min(int(start * len(places)), len(places) - 1)]
    late = {name: module for name, module in found.items() if order[name] >= order[first]}
    if not late:
        raise ValueError(
            f"{title(network)} has nothing from {first} on that the attack changes: begin earlier"
        )
    return late


def units(network: nn.Module) -> Modules:
    """Return the modules that features go through one after the other: blocks, poolings, others.

    Stages are taken apart, convolutions and norms go with what follows them, and the head is left
    out.
    """

    def walk(parent: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
        for name, child in parent.named_children():
            if name in HEADS:
                return
            if type(child) is nn.Sequential:
                yield from walk(child, f"{prefix}{name}.")
            elif (
                not isinstance(child, nn.Conv2d | nn.Identity) and type(child) is not nn.BatchNorm2d
            ):
                yield f"{prefix}{name}", child

    return _some(dict(walk(network, "")), network, "block")


def max_pools(network: nn.Module) -> Modules:
    """Return the max-poolings of two dimensions."""
    found = _of_kind(network, "max-pool", lambda m: isinstance(m, nn.MaxPool2d))
    for name, pool in found.items():
        if type(pool) not in (nn.MaxPool2d, MaxPool2dSame):
            raise ValueError(
                f"{title(network)} has a max-pool of a kind that isn't known here, {name} "
                f"({type(pool).__name__})"
            )
    return found


def padding_of(pool: nn.MaxPool2d, shape: Sequence[int]) -> tuple[int, int]:
    """Return how many rows and columns a pooling puts before maps (B, C, H, W) of a shape."""
    if not isinstance(pool, MaxPool2dSame):
        pad = pool.padding
        return (pad, pad) if isinstance(pad, int) else pad
    how: Any = pool.kernel_size, pool.stride, pool.dilation  # of pairs, by timm's constructor
    both = [get_same_padding(n, *own) for n, *own in zip(shape[2:], *how, strict=True)]
    return both[0] // 2, both[1] // 2


def attentions(network: nn.Module) -> Modules:
    """Return the attention modules that compute a map, which goes through `attn_drop`."""
    return _of_kind(network, "attention", lambda m: hasattr(m, "attn_drop"))


def attention_maps(network: nn.Module) -> Modules:
    """Return the modules that attention maps go through, after their softmax."""
    return {f"{name}.attn_drop": module.attn_drop for name, module in attentions(network).items()}  # type: ignore[misc]


def weighted_layers(network: nn.Module) -> Modules:
    """Return the convolutions of two dimensions and the linear layers, in the modules' order."""
    kinds = (nn.Conv2d, nn.Linear)
    return _of_kind(network, "convolution or linear layer", lambda m: isinstance(m, kinds))


def classifier(network: nn.Module) -> Modules:
    """Return the linear layer that makes the logits: timm's classifier, or the last one."""
    head = getattr(network, "get_classifier", lambda: network)()
    if not isinstance(head, nn.Module):
        raise ValueError(f"{title(network)} has several classifiers, of which the attack takes one")
    own = {*head.modules()}
    linear = _of_kind(network, "linear classifier", lambda m: isinstance(m, nn.Linear) and m in own)
    return dict([*linear.items()][-1:])


def children_of(owners: Modules, attribute: str, network: nn.Module) -> Modules:
    """Return the modules that each of `owners` has under a name: the qkv of attentions."""
    lacking = [n for n, owner in owners.items() if getattr(owner, attribute, None) is None]
    if lacking:
        some = ", ".join(f"{name} ({type(owners[name]).__name__})" for name in lacking[:3])
        raise ValueError(f"{title(network)} has no {attribute} in {some}")
    return {f"{name}.{attribute}": getattr(owner, attribute) for name, owner in owners.items()}


def projections(network: nn.Module) -> Modules:
    """Return what makes the queries, keys and values of attentions: their qkv, or their q, k, v."""
    joined, apart = attentions(network), Modules()
    for name, owner in [*joined.items()]:
        if all(isinstance(getattr(owner, one, None), nn.Module) for one in "qkv"):
            apart[name] = joined.pop(name)
    found = children_of(joined, "qkv", network)
    for one in "qkv":
        found |= children_of(apart, one, network)
    return found


def mlps(network: nn.Module) -> Modules:
    """Return the MLPs of transformer blocks."""
    return children_of(blocks(network), "mlp", network)


def blocks(network: nn.Module) -> Modules:
    """Return the transformer blocks: modules with an attention and an MLP."""

    def fits(module: nn.Module) -> bool:
        return all(getattr(module, name, None) is not None for name in ("attn", "mlp"))

    return _of_kind(network, "transformer block", fits)


def channels_at(module: nn.Module, value: Tensor) -> int:
    """Return the dimension of channels in what a module of a transformer returns.

    That is the last one, but for maps (B, channels, H, W) of modules with convolutions.
    """
    convolves = any(isinstance(inner, nn.Conv2d) for inner in module.modules())
    return 1 if convolves and value.dim() == 4 else value.dim() - 1


def layers(network: nn.Module) -> list[str]:
    """Return the names of a network's layers, from image to logits, as timm lists them."""
    info = getattr(network, "feature_info", None)
    listed = info if isinstance(info, Sequence) else getattr(info, "info", None)
    names = [entry["module"] for entry in listed or () if isinstance(entry, dict)]
    return [name for name in dict.fromkeys(names) if _has(network, name)]


def layer_of(network: nn.Module, layer: str | float) -> tuple[str, nn.Module]:
    """Return a layer, with its name: by the name of a module, or by its depth from 0 to 1.

    Depth 0 is the first of `layers` and 1 the last; between two of them it is the nearer one, or
    the deeper one half way.
    """
    names = layers(network)
    if isinstance(layer, str):
        if _has(network, layer):
            return layer, network.get_submodule(layer)
        known = ", ".join(names) or ", ".join(name for name, _ in network.named_children())
        raise ValueError(f"{title(network)} has no layer {layer}: use one of {known}")
    if not names:
        known = ", ".join(name for name, _ in network.named_children())
        raise ValueError(
            f"{title(network)} doesn't list its layers, so that {layer:g} is not a depth of it: "
            f"give a layer's name, such as {known}"
        )
    name = names[int(layer * (len(names) - 1) + 0.5)]
    return name, network.get_submodule(name)


def fused_attentions(network: nn.Module) -> list[nn.Module]:
    """Return the attention modules that can skip computing a map."""
    return [module for module in network.modules() if getattr(module, "fused_attn", False)]


@contextmanager
def unfused(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let attention modules compute their maps while this lasts.

    Fused attention skips the modules around the map, so that a rule on them would do nothing.
    """
    with ExitStack() as undo:
        for module in modules:
            undo.callback(setattr, module, "fused_attn", module.fused_attn)
            module.fused_attn = False  # type: ignore[assignment]
        yield


def _of_kind(network: nn.Module, role: str, fits: Callable[[nn.Module], bool]) -> Modules:
    found = {name: module for name, module in network.named_modules() if fits(module)}
    return _some(found, network, role)


def _some(found: Modules, network: nn.Module, role: str) -> Modules:
    if not found:
        raise ValueError(
            f"{title(network)} has no {role}, which the attack changes: take another network"
        )
    return found


def _has(network: nn.Module, name: str) -> bool:
    return name in dict(network.named_modules()) and name != ""
