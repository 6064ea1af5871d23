"""Cells from configs: composed now, or stored by an earlier run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agr.config.cell import Cell
from agr.config.cost import set_steps
from agr.config.messages import explained
from agr.config.networks import register_networks, with_networks
from agr.config.purifiers import with_purifiers
from agr.config.schema import CHOICES, Config
from agr.config.security import check_texts
from agr.config.validation import check_cell, check_library_steps
from agr.utils.errors import ConfigError, first_line


def to_cell(config: DictConfig, overrides: Iterable[str] = ()) -> Cell:
    """Check a config, composed from `overrides`, and make it a cell.

    Raises ConfigError, with one line, for whatever a run could not work with, and TooDear where
    `gradients` don't suffice for one step.
    """
    overrides = tuple(overrides)
    # Whose code may run is for the user alone to say.
    if config.allow and not any(word.lstrip("+").startswith("allow=") for word in overrides):
        raise ConfigError(
            f"allow={list(config.allow)} stands in a config file, which can't allow itself to run "
            "code: if you trust it, give the word yourself"
        )
    if OmegaConf.is_missing(config.attack, "name"):
        raise ConfigError(
            "the attack has no name: it is a piece of attacks (a file that begins with _), or a "
            "file that lacks name: and title:"
        )
    if config.allow:
        register_networks(config)
    set_steps(config, overrides)
    check_library_steps(config)
    return _checked(config, overrides)


def _checked(config: DictConfig, overrides: tuple[str, ...] = ()) -> Cell:
    with explained():
        check_texts(config)
        for key, known in CHOICES.items():
            # YAML reads `off` as false, and OmegaConf writes that into a text
            if "off" in known and OmegaConf.select(config, key) == "False":
                OmegaConf.update(config, key, "off")
        written: Any = OmegaConf.to_object(with_networks(with_purifiers(config)))
        cell = Cell(written, overrides)
    check_cell(cell)
    return cell


def stored_cell(stored: Mapping[str, Any], folder: Path, **changes: Any) -> Cell:
    """Return the cell that a run.json in `folder` was written for, from its "config".

    `changes` are keys of the config, of which `networks` and `defenses` are what else there is to
    be known beside the cell's own. None of the code that it allows is run here.
    Raises ConfigError, also if its identity is another one now.
    """
    try:
        config = OmegaConf.merge(OmegaConf.structured(Config), stored)
        for known, names in ((config.suite.networks, "networks"), (config.defenses, "defenses")):
            known.update({k: v for k, v in changes.pop(names, {}).items() if k not in known})
        config.data.update(changes.pop("data", None) or {})
        # run.json holds the last session's
        config.update({"shard": "0/1", "outputs": str(folder.parent.parent)} | changes)
    except (OmegaConfBaseException, ValueError, TypeError, AttributeError) as e:
        raise ConfigError(f"{folder}: its config is not of this program: {first_line(e)}") from e
    assert isinstance(config, DictConfig)
    cell = _checked(config)
    if cell.folder != folder:
        raise ConfigError(
            f"{folder} was made with other networks than suite={cell.suite.name} has now"
            + (f", or with another {' or '.join(config.allow)}" if config.allow else "")
            + ": use what it was made with"
        )
    return cell
