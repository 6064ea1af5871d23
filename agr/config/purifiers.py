"""Purifiers by their files: `vgg16/purify:FILE` makes FILE a defense of that name."""

from __future__ import annotations

import copy
import hashlib
from functools import lru_cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from agr.config.networks import undefended
from agr.utils.errors import ConfigError, first_line

PURIFY = "purify:"


def with_purifiers(config: DictConfig) -> DictConfig:
    """Return a config whose defenses have the purifiers that sources and targets name.

    Each has the sha256 of its file, which identifies it. Raises ConfigError for one that can't be
    read.
    """
    source = config.source
    names = [*([source] if isinstance(source, str) else source), *(config.targets or [])]
    found = {}
    for name in filter(lambda name: isinstance(name, str), names):
        for piece in name.split(f"/{PURIFY}")[1:]:
            file = undefended(piece, config.defenses)[0]
            if f"{PURIFY}{file}" not in config.defenses:
                target = "agr.models.defenses.Purify"
                found[f"{PURIFY}{file}"] = {
                    "_target_": target,
                    "file": file,
                    "sha256": _sha256_of(name, file),
                }
    if not found:
        return config
    config = copy.deepcopy(config)
    OmegaConf.set_struct(config.defenses, False)
    config.defenses.update(found)
    return config


def _sha256_of(name: str, file: str) -> str:
    try:
        path = Path(file).expanduser()
        if not path.is_file():
            raise ConfigError(f"{name}: there is no file {path}: correct the path of the purifier")
        return _hash(path, path.stat().st_mtime_ns)
    except (OSError, RuntimeError, ValueError) as e:
        raise ConfigError(f"{name}: {file} can't be read: {first_line(e)}") from e


@lru_cache(maxsize=64)
def _hash(path: Path, changed: int) -> str:
    """Hash a file; `changed`, its time stamp, keeps an old hash from being returned."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
