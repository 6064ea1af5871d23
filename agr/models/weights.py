"""Weight files: finding that of a network, and checking its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from agr.config.schema import NetworkConfig
from agr.utils.errors import ConfigError, first_line
from agr.utils.hub import HUB, WEIGHT_FILES, WEIGHT_SUFFIXES, hub_file
from agr.utils.packages import PACKAGE, package_file


def check_weights(name: str, config: NetworkConfig) -> str:
    """Return the sha256 of a network's weight file.

    Raises ConfigError if the file is missing, or has another hash than the suite says.
    """
    path = weights_file(name, config)
    digest = _sha256(path, path.stat().st_mtime_ns)
    if config.sha256 and digest != config.sha256:
        raise ConfigError(
            f"network {name}: {path} has sha256 {digest[:12]}…, the suite says "
            f"{config.sha256[:12]}…: restore the file, or correct the suite if the new one is meant"
        )
    return digest


@lru_cache(maxsize=64)
def _sha256(path: Path, changed: int) -> str:
    """Hash a file; `changed`, its time stamp, keeps an old hash from being returned."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def weights_file(name: str, config: NetworkConfig) -> Path:
    """Return the weight file of a network: a local one, a package's, or the hub's, which is
    fetched if it isn't cached.

    Raises ConfigError with what is missing and where to put it.
    """
    weights, what = config.weights, f"network {name}"
    if weights.startswith(HUB):
        own = f"suite.networks.{name}.weights=FILE"
        if config.title in (name, name.removeprefix("timm/")):  # no suite has it
            own = f"{config.tag}:FILE in place of {name}"
        hub_id = weights.removeprefix(HUB)
        return hub_file(hub_id, WEIGHT_FILES, what, f"; or name a file: {own}")
    if "://" in weights or not weights:
        raise ConfigError(
            f"network {name}: its weights are not on the hub: fetch {weights or 'them'} and write "
            f"{config.tag or config.architecture}:path/to/file in place of {name}"
        )
    return _given_file(weights, what)


def _given_file(weights: str, what: str) -> Path:
    """Return a weight file of this machine, or of an installed package. Raises ConfigError."""
    if weights.startswith(PACKAGE):
        return package_file(weights, what)
    try:
        path = Path(weights).expanduser()
    except RuntimeError as e:  # ~someone who is not known here
        raise ConfigError(f"{what}: {weights} has no home folder: {first_line(e)}") from e
    if not path.is_file():
        raise ConfigError(f"{what}: there is no weight file {path}: correct the path")
    if path.suffix not in WEIGHT_SUFFIXES:
        raise ConfigError(
            f"{what}: {path} is not a weight file: known endings are {', '.join(WEIGHT_SUFFIXES)}"
        )
    return path


def lpips_files(given: str | Sequence[str] | None) -> list[Path]:
    """Return the weight files that `lpips` names. Raises ConfigError for one that is missing."""
    names = [given] if isinstance(given, str) else given or []
    return [_given_file(name, "lpips") for name in names]


def check_lpips(given: str | Sequence[str] | None) -> list[str]:
    """Return the sorted sha256 of the files that `lpips` names. Raises ConfigError."""
    return sorted(_sha256(path, path.stat().st_mtime_ns) for path in lpips_files(given))
