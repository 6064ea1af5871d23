"""Residual blocks of timm's networks: told by their classes, with the branches that they add."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from agr.utils.text import plural

Modules = dict[str, nn.Module]

# The last module of a block's residual branches, before the shortcut is added: the first of these
# attributes that a block has is one branch's.
BRANCHES: dict[str, tuple[tuple[str, ...], ...]] = {
    "BasicBlock": (("drop_path", "se", "bn2"),),  # ResNet
    "Bottleneck": (("drop_path", "se", "bn3"),),
    "PreActBasic": (("drop_path",),),  # ResNet-v2
    "PreActBottleneck": (("drop_path",),),
    "SelectiveKernelBasic": (("drop_path", "se", "conv2"),),
    "SelectiveKernelBottleneck": (("drop_path", "se", "conv3"),),
    "ResNestBottleneck": (("bn3",),),
    "BottleneckBlock": (("drop_path",),),  # GENet, MobileViT, CSPNet
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
    "SwinTransformerV2Block": (("drop_path1",), ("drop_path2",)),
    "EvaBlock": (("drop_path1",), ("drop_path2",)),
    "MixerBlock": (("mlp_tokens",), ("mlp_channels",)),
}
# What residual blocks have and other modules don't, whatever their class, or how timm calls them;
# stages that have some of it hold the blocks.
SIGNS = ("drop_path", "drop_path1", "downsample", "shortcut", "skip", "has_skip")
SUFFIXES = ("Block", "Bottleneck", "Bottle2neck", "Residual")
PLAIN = ("SelecSlsBlock",)  # concatenates


def branch_ends(block: nn.Module) -> list[str]:
    """Return the attributes that are the last modules of a block's residual branches; or none."""
    if not _adds(block):
        return []
    kinds = BRANCHES.get(type(block).__name__, ())
    ends = (
        next((a for a in names if getattr(block, a, None) is not None), None) for names in kinds
    )
    return [end for end in ends if end is not None]


def opens_stage(name: str, block: nn.Module) -> bool:
    """Return whether a residual block is the first of a ResNet's stage."""
    return hasattr(block, "downsample") and name.rpartition(".")[2] == "0"


def residual(network: nn.Module) -> Modules:
    """Return the blocks that add one branch to a shortcut."""
    return {
        name: block
        for name, block in network.named_modules()
        if len(branch_ends(block)) == 1 and type(block).__name__ != "DenseLayer"
    }


def unknown_blocks(network: nn.Module) -> Modules:
    """Return the blocks that seem to be residual ones, of kinds that aren't in BRANCHES."""
    named = dict(network.named_modules())
    known = [n for n, m in named.items() if branch_ends(m) or not _adds(m)]
    seeming = {
        name: module
        for name, module in named.items()
        if name
        and _seems_residual(module)
        and not any(f"{name}.".startswith(f"{block}.") for block in known)
    }
    holders = {parent for name in (*known, *seeming) for parent in _parents(name)}
    return {name: module for name, module in seeming.items() if name not in holders}


def _seems_residual(module: nn.Module) -> bool:
    kind = type(module)
    if kind.__name__ in PLAIN:
        return False
    named = kind.__module__.startswith("timm.") and kind.__name__.endswith(SUFFIXES)
    return named or any(hasattr(module, sign) for sign in SIGNS)


def _parents(name: str) -> Iterator[str]:
    """Yield the names of the modules that a module is in."""
    while name := name.rpartition(".")[0]:
        yield name


def _adds(block: nn.Module) -> bool:
    """Return False for a block whose own attributes say that it has no shortcut.

    Of timm's, those with `shortcut` None are meant: only Aligned Xception's have one all the same,
    and those networks are refused for their other blocks.
    """
    said = (getattr(block, name, True) for name in ("has_skip", "residual"))
    return False not in said and getattr(block, "shortcut", 0) is not None


def check_known(network: nn.Module) -> None:
    """Raise ValueError for blocks whose branches can't be told: a rule would leave them out."""
    if unknown := unknown_blocks(network):
        kinds = ", ".join({type(block).__name__: None for block in unknown.values()})
        raise ValueError(
            f"{title(network)} has {plural(len(unknown), 'block')} whose residual branches aren't "
            f"known here ({kinds}, such as {next(iter(unknown))}): the attack would leave them "
            "out, so take another network"
        )


def title(network: nn.Module) -> str:
    """Return how a message calls a network."""
    return f"the network ({type(network).__name__})"
