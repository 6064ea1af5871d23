"""Networks by their name outside a suite, and where their weights are.

A name is a tag of timm ("vit_base_patch16_224.augreg2_in21k_ft_in1k", with or without "timm/"
before it), a hub id ("hf-hub:owner/name" or "owner/name"), or an architecture with a local file
("resnet50:weights/mine.safetensors"; a tag before the colon, "resnet50.tv_in1k:…", gives the file
that tag's preprocessing). What is needed to use it (architecture, size, crop, mean,
standard deviation) comes from timm's registry or from the hub's config.json, so timm is loaded
here, but only for such names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from agr.errors import ConfigError, first_line, nearest
from agr.schema import MODES, RESIZING, NetworkConfig

OF_TIMM = "see timm.list_models()"
HUB = "hub:"  # before owner/name, in NetworkConfig.weights
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # on the hub, the better one first
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")


# ---- what a network is ---------------------------------------------------------------------------


def is_tag(name: str) -> bool:
    """Whether `name` has the form of one of the names above; timm need not know it yet."""
    if "/" in name or ":" in name:
        return True
    import timm

    return timm.is_model(name.partition(".")[0])


def check_architecture(name: str, place: str) -> None:
    """Raise ConfigError unless timm has it; timm would fetch hub:owner/name, or read a folder."""
    import timm

    if not timm.is_model(name):
        raise ConfigError(
            f"{place}: timm has no architecture {name}: {nearest(name, known_to_timm(), OF_TIMM)}"
        )


def known_to_timm() -> list[str]:
    """The architectures of timm, by name."""
    import timm

    names: list[str] = timm.list_models()
    return names


def describe(name: str, place: str) -> dict[str, Any]:
    """The fields of a NetworkConfig for `name`; `place` begins the text of an error.

    Raises ConfigError if timm and the hub don't know it, or if it is no classifier of square
    RGB images.
    """
    head, colon, rest = name.partition(":")
    if head == "hf-hub":
        return _from_hub(rest, place)
    if colon:
        return _from_registry(head, place) | {"title": Path(rest).name, "weights": rest}
    if Path(name).suffix in WEIGHT_SUFFIXES:
        raise ConfigError(f"{place}: say which network of timm it is, TAG:FILE")
    if "/" in name and not name.startswith("timm/"):
        return _from_hub(name, place)
    bare = name.removeprefix("timm/")
    if name.startswith("timm/") and not _registered(bare) and _tags_of(bare):
        try:
            return _from_hub(name, place)  # a tag newer than the timm that is installed
        except NotOnHub:
            pass  # more likely mistyped
    return _from_registry(bare, place)


def _registered(tag: str) -> dict[str, Any] | None:
    """What timm's registry holds of a tag."""
    from timm.models import get_pretrained_cfg

    try:
        found = get_pretrained_cfg(tag, allow_unregistered=False)
    except RuntimeError:
        return None
    return found.to_dict() if found else None


def _from_registry(tag: str, place: str) -> dict[str, Any]:
    import timm

    found = _registered(tag)
    if not found:
        hint = nearest(tag, _tags_of(tag) or known_to_timm(), "see timm.list_pretrained()")
        raise ConfigError(f"{place}: timm {timm.__version__} has no {tag}: {hint}")
    full = found["architecture"] + (f".{found['tag']}" if found.get("tag") else "")
    weights = HUB + found["hf_hub_id"] if found.get("hf_hub_id") else found.get("url") or ""
    return _fields(found, place) | {"title": tag, "tag": full, "weights": weights}


def _tags_of(tag: str) -> list[str]:
    """The tags that timm has of a tag's architecture."""
    from timm.models import list_pretrained

    names: list[str] = list_pretrained(f"{tag.partition('.')[0]}.*")
    return names


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
    arguments = found.get("model_args") or {}
    tag = f"hf-hub:{hub_id}"
    own_fields = {"title": hub_id, "tag": tag, "weights": HUB + hub_id, "arguments": arguments}
    return fields | own_fields


def _fields(found: Mapping[str, Any], place: str) -> dict[str, Any]:
    """From timm's pretrained config to ours, with timm's defaults for what it leaves out."""
    from timm.models import PretrainedCfg

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
        "size": height,
        "fixed_size": bool(found["fixed_input_size"]),
        "resize": interpolation,
        "crop": float(found.get("crop_pct") or 1.0),
        "interpolation": interpolation,
        "mode": mode,
        "mean": [float(v) for v in found["mean"]],
        "std": [float(v) for v in found["std"]],
    }


# ---- where its weights are -----------------------------------------------------------------------


def weights_file(name: str, config: NetworkConfig) -> Path:
    """The weight file of a network: a local one, or the hub's, fetched where it isn't cached yet.

    Raises ConfigError, which says what is missing and where to put it.
    """
    weights = config.weights
    if weights.startswith(HUB):
        own = f"suite.networks.{name}.weights=FILE"
        if config.title in (name, name.removeprefix("timm/")):  # no suite has it
            own = f"{config.tag}:FILE in place of {name}"
        hub_id = weights.removeprefix(HUB)
        return hub_file(hub_id, WEIGHT_FILES, f"network {name}", f"; or name a file: {own}")
    if "://" in weights or not weights:
        raise ConfigError(
            f"network {name}: its weights are not on the hub: fetch {weights or 'them'} and write "
            f"{config.tag or config.architecture}:path/to/file in place of {name}"
        )
    path = _expanded(weights, name)
    if not path.is_file():
        raise ConfigError(f"network {name}: there is no weight file {path}: correct the path")
    if path.suffix not in WEIGHT_SUFFIXES:
        raise ConfigError(
            f"network {name}: {path} is no weight file: known endings are "
            f"{', '.join(WEIGHT_SUFFIXES)}"
        )
    return path


def _expanded(weights: str, name: str) -> Path:
    try:
        return Path(weights).expanduser()
    except RuntimeError as e:  # ~someone who is not known here
        raise ConfigError(f"network {name}: {weights} has no home folder: {first_line(e)}") from e


class NotOnHub(ConfigError):
    """A file that is neither in the hub's cache nor to be had from here."""

    def __init__(self, place: str, hub_id: str, name: str, reason: str, instead: str):
        from huggingface_hub.constants import HF_HUB_CACHE

        self.hub_id, self.cache, self.reason = hub_id, HF_HUB_CACHE, reason
        copy = f"models--{hub_id.replace('/', '--')}"
        super().__init__(
            f"{place}: {name} of {hub_id} is not in the hub cache {HF_HUB_CACHE} and can't be "
            f"fetched ({reason}): run `hf download {hub_id} {WEIGHT_FILES[0]} config.json` where "
            f"it can be, and copy {copy} from that cache into this one{instead}"
        )


def hub_file(hub_id: str, names: tuple[str, ...], place: str, instead: str = "") -> Path:
    """The first of the files `names` that the hub's repository has: cached, or fetched now.

    Raises ConfigError; its text begins with `place` and ends with `instead`.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = constants.HF_HUB_CACHE
    try:
        cached = [try_to_load_from_cache(hub_id, name, cache_dir=folder) for name in names]
    except HFValidationError as e:
        raise ConfigError(f"{place}: {hub_id} is no hub id: write owner/name") from e
    for found in cached:
        if isinstance(found, str) and Path(found).is_file():
            return Path(found)
    reason = _unreachable()
    for name in names if not reason else ():
        found_now, reason = _download(hub_id, name)
        if found_now:
            return found_now
    raise NotOnHub(place, hub_id, names[0], reason, instead)


def _download(hub_id: str, name: str) -> tuple[Path | None, str]:
    """Fetch a file: its path, or None and why not."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(hub_id, name, cache_dir=constants.HF_HUB_CACHE)), ""
    except LocalEntryNotFoundError as e:
        return None, first_line(e.__cause__ or e)
    except EntryNotFoundError:
        return None, f"it has no {name}"
    except (HfHubHTTPError, OSError) as e:
        return None, first_line(e)


@lru_cache(maxsize=1)
def _unreachable() -> str:
    """Why the hub can't be reached from here, or nothing: asked once, it takes long to give up."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "offline: HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception as e:
        return f"{constants.ENDPOINT} cannot be reached: {first_line(e)}"
    return ""
