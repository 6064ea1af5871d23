"""Roles of modules in timm's networks: residual branches, activations, attention, layers by depth.

Each function returns modules by name, or raises ValueError with the role that a network lacks.
Roles are told by the classes and attributes of timm's code, so that narrow copies, folded batch
norms and loaded weights make no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import nn

Modules = dict[str, nn.Module]

# The last module of a block's residual branches, before the shortcut is added: the first of these
# attributes that a block has is one branch's.
BRANCHES: dict[str, tuple[tuple[str, ...], ...]] = {
    "BasicBlock": (("drop_path", "se", "bn2"),),  # ResNet
    "Bottleneck": (("drop_path", "se", "bn3"),),
    "Block35": (("conv2d",),),  # Inception-ResNet-v2, before it is scaled
    "Block17": (("conv2d",),),
    "Block8": (("conv2d",),),
    "DenseLayer": (("conv2",),),  # what is added to the list of features
    "InvertedResidual": (("drop_path",),),  # EfficientNet, MobileNet; with `has_skip` only
    "DepthwiseSeparableConv": (("drop_path",),),
    "EdgeResidual": (("drop_path",),),
    "ConvBnAct": (("drop_path",),),
    "ConvNeXtBlock": (("drop_path",),),
    "Block": (("drop_path1",), ("drop_path2",)),  # ViT, DeiT, PiT, BEiT
    "SwinTransformerBlock": (("drop_path1",), ("drop_path2",)),
    "MixerBlock": (("mlp_tokens",), ("mlp_channels",)),
}


def residual_branches(network: nn.Module) -> Modules:
    """Return the last module of each residual branch."""
    found: Modules = {}
    for name, block in network.named_modules():
        if getattr(block, "has_skip", True) is False:
            continue
        for attributes in BRANCHES.get(type(block).__name__, ()):
            last = next((a for a in attributes if getattr(block, a, None) is not None), None)
            if last is not None:
                found[f"{name}.{last}"] = getattr(block, last)
    return _some(found, network, "residual branch")


def relus(network: nn.Module, start: float = 0.0) -> Modules:
    """Return the ReLUs and ReLU6s from depth `start` on, in the order of the modules."""
    return _of_kind(network, "ReLU", lambda m: isinstance(m, nn.ReLU | nn.ReLU6), start)


def max_pools(network: nn.Module) -> Modules:
    """Return the max-poolings of two dimensions."""
    return _of_kind(network, "max-pool", lambda m: isinstance(m, nn.MaxPool2d))


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
        raise ValueError(
            f"{_title(network)} has several classifiers, of which the attack takes one"
        )
    own = {*head.modules()}
    linear = _of_kind(network, "linear classifier", lambda m: isinstance(m, nn.Linear) and m in own)
    return dict([*linear.items()][-1:])


def children_of(owners: Modules, attribute: str, network: nn.Module) -> Modules:
    """Return the modules that each of `owners` has under a name: the qkv of attentions."""
    lacking = [name for name, owner in owners.items() if not hasattr(owner, attribute)]
    if lacking:
        raise ValueError(f"{_title(network)} has no {attribute} in {', '.join(lacking[:3])}")
    return {f"{name}.{attribute}": getattr(owner, attribute) for name, owner in owners.items()}


def mlps(network: nn.Module) -> Modules:
    """Return the MLPs of transformer blocks."""
    owners = {n: m for n, m in network.named_modules() if hasattr(m, "attn") and hasattr(m, "mlp")}
    return children_of(_some(owners, network, "transformer block"), "mlp", network)


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
        raise ValueError(f"{_title(network)} has no layer {layer}: use one of {known}")
    if not names:
        known = ", ".join(name for name, _ in network.named_children())
        raise ValueError(
            f"{_title(network)} doesn't list its layers, so that {layer:g} is no depth of it: "
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


def _of_kind(
    network: nn.Module, role: str, fits: Callable[[nn.Module], bool], start: float = 0.0
) -> Modules:
    found = {name: module for name, module in network.named_modules() if fits(module)}
    some = list(_some(found, network, role).items())
    return dict(some[int(start * len(some)) :])


def _some(found: Modules, network: nn.Module, role: str) -> Modules:
    if not found:
        raise ValueError(f"{_title(network)} has no {role}, which the attack changes")
    return found


def _has(network: nn.Module, name: str) -> bool:
    return name in dict(network.named_modules()) and name != ""


def _title(network: nn.Module) -> str:
    return f"the network ({type(network).__name__})"
