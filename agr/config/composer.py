"""Hydra's composition of configs: quick for the many points of a sweep, and fenced in."""

from __future__ import annotations

import itertools
import pickle
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from agr.config.distributions import Offered, offers
from agr.config.messages import explained
from agr.config.schema import conf_dir
from agr.config.security import check_hydra
from agr.config.validation import reject_unknown_keys
from agr.config.yaml_files import read_yaml
from agr.utils.errors import ConfigError
from agr.utils.hashing import digest

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.object_type import ObjectType
    from hydra.core.override_parser.types import Override

MOST_KEPT = 500  # compositions of files, of 100 kB


def _fingerprint() -> str:
    """Return a hash of names, sizes and times of our config files: one that has changed shows."""
    files = sorted(Path(conf_dir()).rglob("*.yaml"))
    return digest([[str(p), (s := p.stat()).st_mtime_ns, s.st_size, s.st_ino] for p in files])


def _without_hydra(config: DictConfig) -> DictConfig:
    with open_dict(config):
        del config["hydra"]
    return config


def _with_assets(config: DictConfig) -> DictConfig:
    """Fill in the places of a suite's weights: OmegaConf would parse them again in every cell."""
    written: Any = OmegaConf.to_container(config.suite)
    networks = written["networks"]  # perhaps missing, or the text of an interpolation
    for name, network in networks.items() if isinstance(networks, dict) else ():
        if isinstance(network, dict) and str(network["weights"]).startswith("${agr.assets:"):
            config.suite.networks[name].weights = config.suite.networks[name].weights
    return config


class Composer:
    """Hydra's `compose` for the many points of a sweep.

    Hydra needs 0.2 s to read and merge the files that a command line chooses, and next to nothing
    to set single keys. So what files make is kept, and keys are set in copies: as long as our files
    are as they were, or, where others' folders are searched too, for this composer.
    """

    _of_ours: ClassVar[dict[tuple[Any, ...], bytes]] = {}
    _first: ClassVar[dict[tuple[str, ...], Sequence[str]]] = {}  # files, by those but the attack's
    _our_groups: ClassVar[dict[str, set[str]]] = {}

    def __init__(self, loader: ConfigLoader, overrides: Sequence[str]):
        from hydra.core.object_type import ObjectType
        from hydra.core.override_parser.overrides_parser import OverridesParser

        self._searched = [word for word in overrides if word.startswith("hydra.searchpath=")]
        self.foreign = bool(self._searched or offers())
        self._loader = loader
        self._by_user: dict[tuple[str, ...], Any] = {}  # Hydra's node, by the user's words for it
        self._parser = OverridesParser.create(cast("ConfigLoader", self))
        self._parse_one = cache(lambda word: self._parser.parse_overrides([word])[0])
        self._merged, groups = ({}, {}) if self.foreign else (self._of_ours, self._our_groups)
        self._files = "" if self.foreign else _fingerprint()
        if self._files not in groups:
            groups[self._files] = set(self.get_group_options("", ObjectType.GROUP))
        self._groups = groups[self._files]
        self.parsed = self.parse(overrides)
        for o in self.parsed:
            if o.is_delete() or o.is_sweep_override() or isinstance(o.value(), str | list | dict):
                continue
            group = o.key_or_group
            if not group or group in self._groups or group.startswith("hydra/"):
                way = "linf or l2" if group == "norm" else "NAME"
                raise ConfigError(f"{o.input_line} chooses no file: write {group or 'KEY'}={way}")
        self.plain = [o.input_line or "" for o in self.parsed if not o.is_sweep_override()]

    def get_group_options(self, group: str, results_filter: ObjectType) -> list[str]:
        """Options of a group, as the parser asks for glob(…): Hydra forgets the user's folders."""
        return self._loader.get_group_options(group, results_filter, "config", self._searched)

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Parse overrides; a glob among them is not yet expanded."""
        return self._parser.parse_overrides(list(overrides))

    def compose(self, overrides: Sequence[str], *, whole: bool = False) -> DictConfig:
        """Compose one point of the sweep; Hydra's node is in the `whole` config only."""
        parsed = [self._parse_one(word) for word in overrides]
        files = [word for word, o in zip(overrides, parsed, strict=True) if self._chooses(o)]
        config = self._composed_files(files, whole=whole)
        keys = [o for o in parsed if not self._chooses(o)]
        try:
            if any(o.is_add() or o.is_force_add() or o.is_delete() or o.package for o in keys):
                raise OmegaConfBaseException
            for o in keys:
                OmegaConf.update(config, o.key_or_group, o.value(), merge=True)
        except OmegaConfBaseException:  # more than setting keys, or wrong: Hydra says what
            config = self.compose_whole(overrides)
            return config if whole else _without_hydra(config)
        return config

    def _composed_files(self, files: Sequence[str], *, whole: bool) -> DictConfig:
        """Return what files make, with Hydra's node or without. Kept pickled: quickest to copy."""
        key = (self._files, whole, *files)
        if key not in self._merged:
            if len(self._merged) >= MOST_KEPT:
                self._merged.clear()
            config = None if whole or self.foreign else self._with_another_attack(files)
            if config is None:
                config = self.compose_whole(files)
                self._merged[self._files, True, *files] = pickle.dumps(config)
                config = _without_hydra(config)
                if not self.foreign:  # others' texts are checked as they were written
                    config = _with_assets(config)
            self._merged[self._files, False, *files] = pickle.dumps(config)
        kept: DictConfig = self._copy(key)
        return kept

    def _with_another_attack(self, files: Sequence[str]) -> DictConfig | None:
        """Return what files make, from what they made with an attack before.

        An attack's files alone are read in a third of the time. None where there was none before,
        and where its files do more than set `attack`: then Hydra has to compose all of it.
        """
        chosen = [word for word in files if word.startswith("attack=")]
        others = [word for word in files if word not in chosen]
        if len(chosen) != 1 or any(w.lstrip("+~").startswith("attack") for w in others):
            return None
        before = self._first.get((self._files, *others))
        if before is None or (self._files, False, *before) not in self._merged:
            self._first[self._files, *others] = files
            return None
        usual = [word for word in before if word not in others]
        one, other = self._attack_alone(chosen), self._attack_alone(usual)
        if not one or not other or one[1] != other[1]:
            return None
        config = self._composed_files(before, whole=False)
        if OmegaConf.to_container(config.attack) != OmegaConf.to_container(other[0]):
            return None
        config.attack = one[0]
        return config

    def _attack_alone(self, chosen: Sequence[str]) -> tuple[DictConfig, Any] | None:
        """Return an attack's node, and the rest without other groups. None where that fails."""
        key = (self._files, "alone", *chosen)
        if key not in self._merged:
            try:
                config = self.compose_whole([*chosen, "~suite", "~norm", "~defense"])
            except Exception:  # Hydra says what when it composes all of it
                return None
            with open_dict(_without_hydra(config)):
                attack = config.pop("attack")
            attack._set_parent(None)
            self._merged[key] = pickle.dumps((attack, OmegaConf.to_container(config)))
        alone: tuple[DictConfig, Any] = self._copy(key)
        return alone

    def _copy(self, key: tuple[Any, ...]) -> Any:
        return pickle.loads(self._merged[key])

    def compose_whole(self, overrides: Sequence[str]) -> DictConfig:
        """Compose overrides by Hydra alone, with its node, which is checked."""
        from hydra import compose

        try:
            config: DictConfig = compose("config", list(overrides), return_hydra_config=True)
        except (ValueError, RecursionError):  # of a file that it doesn't name, perhaps
            self._read_all()
            raise
        reject_unknown_keys(config)
        if self.foreign:
            own = [word for word in overrides if self._parse_one(word).is_hydra_override()]
            if (*own,) not in self._by_user:  # the same for all files of a sweep
                by_user = compose("config", own, return_hydra_config=True)
                self._by_user[(*own,)] = OmegaConf.to_container(by_user.hydra)
            check_hydra(OmegaConf.to_container(config.hydra), self._by_user[(*own,)])
        return config

    def _read_all(self) -> None:
        """Read all config files of others' folders. Raises ConfigError for the first bad one."""
        folders: Any = [self._parse_one(word).value() for word in self._searched]
        folders.append([str(offer.folder) for offer in offers()])
        for folder in itertools.chain(*folders):
            for path in sorted(Path(folder.removeprefix("file://")).rglob("*.yaml")):
                read_yaml(path)

    def _chooses(self, override: Override) -> bool:
        """True if an override chooses files or is about Hydra; the others set keys."""
        group = override.key_or_group.partition("/")[0]
        is_group = group in self._groups and not isinstance(override.value(), dict)
        return is_group or override.is_hydra_override()


@contextmanager
def hydra() -> Iterator[ConfigLoader]:
    """Initialise Hydra over our configs, whatever Hydra application this process may be.

    What it or OmegaConf raises inside becomes a ConfigError of one line.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins

    offers()  # an error of theirs shows as ours
    Plugins.instance().register(Offered)
    instance = GlobalHydra.instance()
    outer, instance.hydra = instance.hydra, None
    try:
        with (
            explained(),
            warnings.catch_warnings(),
            initialize_config_dir(conf_dir(), version_base="1.3"),
        ):
            # a folder of configs that isn't there
            warnings.filterwarnings("error", "provider=hydra.searchpath", UserWarning)
            yield instance.config_loader()
    finally:
        instance.hydra = outer
