"""Files of the Hugging Face hub: from its cache, or fetched where they are missing."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from agr.utils.errors import ConfigError, first_line

HUB = "hub:"  # prefix of owner/name in NetworkConfig.weights
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # on the hub, the preferred one first
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt", ".pkl")


class NotOnHub(ConfigError):
    """A file is neither in the hub's cache nor can it be fetched."""

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
    """Return the first of the files `names` in the hub's repository: cached, or fetched now.

    Raises ConfigError; its text begins with `place` and ends with `instead`.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    folder = constants.HF_HUB_CACHE
    try:
        cached = [try_to_load_from_cache(hub_id, name, cache_dir=folder) for name in names]
    except HFValidationError as e:
        raise ConfigError(f"{place}: {hub_id} is not a hub id: write owner/name") from e
    for file in cached:
        if isinstance(file, str) and Path(file).is_file():
            return Path(file)
    if not (reason := _unreachable()):
        for name in names:
            try:
                return Path(hf_hub_download(hub_id, name, cache_dir=folder))
            except LocalEntryNotFoundError as e:
                reason = first_line(e.__cause__ or e)
            except EntryNotFoundError:
                reason = f"it has no {name}"
            except (HfHubHTTPError, OSError) as e:
                reason = first_line(e)
    raise NotOnHub(place, hub_id, names[0], reason, instead)


@lru_cache(maxsize=1)
def _unreachable() -> str:
    """Return why the hub can't be reached, or ""; tried once, since giving up takes long."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "offline: HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception as e:
        return f"{constants.ENDPOINT} cannot be reached: {first_line(e)}"
    return ""
