"""Networks by their name outside a suite.

A name is a tag of timm ("vit_base_patch16_224.augreg2_in21k_ft_in1k", with or without "timm/"
before it), a hub id ("hf-hub:owner/name" or "owner/name"), or an architecture with a local file
("resnet50:weights/mine.safetensors"; a tag before the colon, "resnet50.tv_in1k:…", gives the file
that tag's preprocessing). What is needed to use it (architecture, size, crop, mean,
standard deviation) comes from timm's registry or from the hub's config.json, so timm is loaded
here, but only for such names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg, _registry, get_pretrained_cfg, list_pretrained

from agr.config.schema import MODES, RESIZING
from agr.utils.errors import DEFENSE, ConfigError, bare, first_line, nearest, nearest_network
from agr.utils.hub import HUB, WEIGHT_SUFFIXES, NotOnHub, hub_file

# Families of the modules in which timm keeps its architectures. Modules that mix them (byobnet,
# metaformer, ...) aren't listed, nor are state-space and recurrent networks; of mobilenetv3's, some
# are hybrids.
_MODULES = {
    "cnn": "convmixer convnext cspnet cspnext densenet dla dpn efficientnet fasternet ghostnet "
    "hardcorenas hgnet hrnet inception_next inception_resnet_v2 inception_v3 inception_v4 "
    "mobilenetv3 nasnet nfnet pnasnet rdnet regnet repghost repvit res2net resnest resnet resnetv2 "
    "rexnet selecsls senet sknet starnet tresnet vgg vovnet xception xception_aligned",
    "transformer": "beit cait coat convit crossvit davit deit edgenext efficientformer "
    "efficientformer_v2 eva gcvit hiera levit maxxvit mobilevit mvitv2 naflexvit nest nextvit pit "
    "pvt_v2 swin_transformer swin_transformer_v2 swin_transformer_v2_cr tiny_vit tnt twins "
    "visformer vision_transformer vision_transformer_hybrid vision_transformer_relpos "
    "vision_transformer_sam vitamin volo xcit",
    "mlp": "mlp_mixer",
}
_FAMILIES = {module: family for family, names in _MODULES.items() for module in names.split()}


def family_of(architecture: str) -> str | None:
    """Return the family (FAMILIES) of an architecture, by the module of timm that defines it.

    None where the module holds several families, or isn't timm's.
    """
    if architecture.startswith("mobilenetv4_hybrid"):
        return "transformer"
    package, _, module = timm.model_entrypoint(architecture).__module__.rpartition(".")
    return _FAMILIES.get(module) if package == "timm.models" else None


def is_tag(name: str) -> bool:
    """True if `name` has the form of one of the names above; timm need not know it yet."""
    return "/" in name or ":" in name or timm.is_model(name.partition(".")[0])


def check_architecture(name: str, place: str) -> None:
    """Raise ConfigError unless timm has an architecture: it would fetch hub ids or read folders."""
    if not timm.is_model(name):
        hint = nearest(name, timm.list_models(), "see timm.list_models()")
        raise ConfigError(f"{place}: timm has no architecture {name}: {hint}")


def describe(name: str, place: str) -> dict[str, Any]:
    """Return the fields of a NetworkConfig for `name`; `place` begins the text of an error.

    Raises ConfigError if timm and the hub don't know it, or if it is not a classifier of square
    RGB images.
    """
    head, colon, rest = name.partition(":")
    if head == "hf-hub":
        return _from_hub(rest, place)
    if colon:
        own = "; an architecture of an allowed package goes into a suite (docs/networks.md)"
        found = _from_registry(head, place, own)  # of which the weights are others
        return found | {"title": Path(rest).name, "weights": rest, "license": None}
    if Path(name).suffix in WEIGHT_SUFFIXES:
        raise ConfigError(f"{place}: say which network of timm it is, TAG:FILE")
    if "/" in name and not name.startswith("timm/"):
        return _from_hub(name, place)
    tag = name.removeprefix("timm/")
    if name.startswith("timm/") and not _registered(tag) and _tags_of(tag):
        try:
            return _from_hub(name, place)  # a tag newer than the timm that is installed
        except NotOnHub:
            pass  # more likely mistyped
    return _from_registry(tag, place)


def _registered(tag: str) -> dict[str, Any] | None:
    """Entry of a tag in timm's registry, or None."""
    try:
        found = get_pretrained_cfg(tag, allow_unregistered=False)
    except RuntimeError:
        return None
    return found.to_dict() if found else None


def suggested(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return the way out for a network's name that is unknown; timm's older names are known."""
    old = {bare(k): v for k, v in getattr(_registry, "_deprecated_models", {}).items()}
    for way in (name, name.partition(".")[0]):
        if renamed := old.get(bare(way)):
            return f"it is called {renamed} now"
    every = [*known, *timm.list_pretrained()] if DEFENSE.search(name) else known
    return nearest_network(name, every, otherwise)


def _from_registry(tag: str, place: str, more: str = "") -> dict[str, Any]:
    found = _registered(tag)
    if not found:
        known = _tags_of(tag) or timm.list_models()
        hint = suggested(tag, known, "see timm.list_pretrained()")
        raise ConfigError(f"{place}: timm {timm.__version__} has no {tag}: {hint}{more}")
    full = found["architecture"] + (f".{found['tag']}" if found.get("tag") else "")
    weights = HUB + found["hf_hub_id"] if found.get("hf_hub_id") else found.get("url") or ""
    return _fields(found, place) | {"title": tag, "tag": full, "weights": weights}


def _tags_of(tag: str) -> list[str]:
    """Tags that timm has for a tag's architecture."""
    return list_pretrained(f"{tag.partition('.')[0]}.*")


def _from_hub(hub_id: str, place: str) -> dict[str, Any]:
    path = hub_file(hub_id, ("config.json",), place)
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        own = found | (found.get("pretrained_cfg") or {})
        own["num_classes"] = found.get("num_classes", own.get("num_classes"))
        fields = _fields(own, place)
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ConfigError(
            f"{place}: config.json of {hub_id} describes no network of timm: {first_line(e)}"
        ) from e
    return fields | {
        "title": hub_id,
        "tag": f"hf-hub:{hub_id}",
        "weights": HUB + hub_id,
        "arguments": found.get("model_args") or {},
    }


def _fields(found: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Translate timm's pretrained config into ours, with timm's defaults for what it leaves out."""
    found = asdict(PretrainedCfg()) | {k: v for k, v in found.items() if v is not None}
    architecture = found["architecture"]
    check_architecture(str(architecture), place)
    channels, height, width = found["input_size"]
    if (channels, height) != (3, width):
        raise ConfigError(f"{place}: its input is {channels}x{height}x{width}, not square RGB")
    classes = found["num_classes"]
    if classes < 2:
        raise ConfigError(f"{place}: it has no classes to predict: use a classifier")
    mode, interpolation = found["crop_mode"], found["interpolation"]
    if mode not in MODES or interpolation not in RESIZING:
        raise ConfigError(
            f"{place}: it wants images with crop_mode={mode}, interpolation={interpolation}: use "
            f"a network with {' or '.join(MODES)} and {' or '.join(RESIZING)}"
        )
    return {
        "architecture": architecture,
        "classes": classes,
        "family": family_of(architecture),
        "size": height,
        "fixed_size": bool(found["fixed_input_size"]),
        "resize": interpolation,
        "crop": float(found.get("crop_pct") or 1.0),
        "interpolation": interpolation,
        "mode": mode,
        "mean": [float(v) for v in found["mean"]],
        "std": [float(v) for v in found["std"]],
        "license": found.get("license") and str(found["license"]),
    }
