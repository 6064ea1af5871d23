"""The cells that a command line means: Hydra's composing, done once for what cells share."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from agr.config.cell import Cell
from agr.config.load import to_cell
from agr.config.messages import explain
from agr.config.overrides import split_shards, without_flags
from agr.config.schema import conf_dir
from agr.config.security import check_hydra, check_params, check_yaml, wrong_yaml
from agr.utils.errors import ConfigError

if TYPE_CHECKING:
    from hydra._internal.config_repository import ConfigRepository
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.object_type import ObjectType
    from hydra.core.override_parser.types import Override
    from hydra.plugins.config_source import ConfigResult

MOST_CELLS = 10_000  # of one sweep


def expand(overrides: Sequence[str]) -> list[Cell]:
    """The cells of a command line: one, or one for each point of its sweep and each shard.

    `overrides` are Hydra's words ("attack=ifgsm,agr", "experiment=paper"). Raises ConfigError.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        with _hydra() as loader:
            given = split_shards(without_flags(overrides))
            parser = OverridesParser.create(_searching(loader, given))
            words = parser.parse_overrides(given)
            _check_groups(loader, words)
            composer = _Composer(loader, words)
            full = composer.whole(composer.plain)
            words += parser.parse_overrides(_swept_by_file(full, words))
            _check_number(words)
            points = BasicSweeper.split_arguments(words, None)[0]
            if not points:
                raise ConfigError(f"{' '.join(given)} means no cell: a sweep over nothing is in it")
            if len(composer.plain) == len(words):  # no sweep: it is composed already
                return [to_cell(_without_hydra(full), points[0])]
            return [to_cell(composer.compose(point), point) for point in points]
    except ConfigError:
        raise
    except Exception as e:
        raise ConfigError(explain(e)) from e


def check_words(overrides: Sequence[str]) -> None:
    """Refuse what `expand` would refuse of how Hydra runs, where no cell is to be run.

    Raises ConfigError.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        with _hydra() as loader:
            given = [word for word in without_flags(overrides) if not word.startswith("-")]
            parser = OverridesParser.create(_searching(loader, given))
            composer = _Composer(loader, parser.parse_overrides(given))
            if composer.foreign:
                composer.whole(composer.plain)
    except ConfigError:
        raise
    except Exception as e:
        raise ConfigError(explain(e)) from e


def _check_groups(loader: ConfigLoader, words: Sequence[Override]) -> None:
    """Raise ConfigError for a word of a group of files that chooses none."""
    for o in words:
        if o.is_delete() or o.is_sweep_override() or isinstance(o.value(), str | list | dict):
            continue
        if loader.repository.group_exists(o.key_or_group):  # type: ignore[attr-defined]
            key = o.key_or_group or "KEY"
            raise ConfigError(f"{o.input_line} chooses no file: write {key}=NAME")


def _swept_by_file(full: DictConfig, words: Sequence[Override]) -> list[str]:
    """What the file of an experiment sweeps over, where no word says otherwise."""
    given = {o.key_or_group for o in words}
    params = full.hydra.sweeper.params or {}
    check_params(list(params))
    return [f"{k}={v}" for k, v in params.items() if k not in given]


def _check_number(words: Sequence[Override]) -> None:
    """Raise ConfigError for a sweep that would take for ever to write down."""
    cells = math.prod(_values(o) for o in words if o.is_sweep_override())
    if cells > MOST_CELLS:
        raise ConfigError(
            f"the sweep has {cells:,.0f} cells, and at most {MOST_CELLS:,} are made at once: "
            "narrow it, or run it in parts"
        )


def _values(override: Override) -> float:
    """How many values a word sweeps over."""
    from hydra.core.override_parser.types import ChoiceSweep, RangeSweep

    sweep = override.value()
    if isinstance(sweep, RangeSweep):
        ends = float(sweep.start or 0), float(sweep.stop or 0)
        return max(0.0, (ends[1] - ends[0]) / float(sweep.step or 1))
    return len(sweep.list) if isinstance(sweep, ChoiceSweep) else 1


def _without_hydra(config: DictConfig) -> DictConfig:
    with open_dict(config):
        del config["hydra"]
    return config


class _Composer:
    """Hydra's `compose` for the many command lines of a sweep.

    Hydra needs 0.1 s to read and merge the files that a command line chooses, and next to nothing
    to set single keys. So what files make is kept, here and no longer, and keys are set in copies.
    """

    def __init__(self, loader: ConfigLoader, words: Sequence[Override]):
        from hydra.core.object_type import ObjectType
        from hydra.core.override_parser.overrides_parser import OverridesParser

        self.plain = [o.input_line for o in words if not o.is_sweep_override() and o.input_line]
        hydra_words = [o.input_line for o in words if o.is_hydra_override() and o.input_line]
        self.about_hydra = [word for word in self.plain if word in hydra_words]
        searched = [word for word in self.plain if word.startswith("hydra.")]
        self.foreign = any(word.startswith("hydra.searchpath=") for word in searched)
        self._groups = set(loader.get_group_options("", ObjectType.GROUP, "config", searched))
        parser = OverridesParser.create(loader)
        self._parsed = cache(lambda word: parser.parse_overrides([word])[0])
        self._merged: dict[tuple[str, ...], bytes] = {}  # pickled, since that copies quickest

    def compose(self, words: Sequence[str]) -> DictConfig:
        """The config of a command line without sweeps."""
        from hydra._internal.config_loader_impl import ConfigLoaderImpl

        files = tuple(word for word in words if self._chooses_files(word))
        if files not in self._merged:
            self._merged[files] = pickle.dumps(_without_hydra(self.whole(files)))
        config: DictConfig = pickle.loads(self._merged[files])
        keys = [self._parsed(word) for word in words if word not in files]
        ConfigLoaderImpl._apply_overrides_to_config(keys, config)
        return config

    def whole(self, words: Sequence[str]) -> DictConfig:
        """The config of some words with its node `hydra`, which is checked. Raises ConfigError."""
        from hydra import compose

        full: DictConfig = compose("config", list(words), return_hydra_config=True)
        check_hydra(_raw(full.hydra), self._said, full.allow or ())
        return full

    @cached_property
    def _said(self) -> dict[str, Any] | None:
        """The node `hydra` as the words say it; None where all files are ours."""
        from hydra import compose

        if not self.foreign:
            return None
        return _raw(compose("config", self.about_hydra, return_hydra_config=True).hydra)

    def _chooses_files(self, word: str) -> bool:
        """Whether a word is about Hydra or a group of files; the others set keys."""
        override = self._parsed(word)
        group = override.key_or_group.partition("/")[0]
        is_group = group in self._groups and not isinstance(override.value(), dict)
        return is_group or override.is_hydra_override()


def _raw(node: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(node, resolve=False)  # type: ignore[return-value]


@contextmanager
def _hydra() -> Iterator[ConfigLoader]:
    """Hydra over our configs, whatever Hydra application this process may be."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    instance = GlobalHydra.instance()
    outer, instance.hydra = instance.hydra, None
    try:
        with warnings.catch_warnings(), initialize_config_dir(conf_dir(), version_base="1.3"):
            # a folder of configs that isn't there
            warnings.filterwarnings("error", "provider=hydra.searchpath", UserWarning)
            loader = instance.config_loader()
            loader.repository = _reading_once(loader.get_search_path())  # type: ignore[attr-defined]
            yield loader
    finally:
        instance.hydra = outer


def _searching(loader: ConfigLoader, words: Sequence[str]) -> ConfigLoader:
    """`loader` as glob(...) asks it: Hydra's own looks for files without the words' folders."""
    paths = [word for word in words if word.startswith("hydra.searchpath=")]

    class Searching:
        def get_group_options(self, group: str, results_filter: ObjectType) -> list[str]:
            return loader.get_group_options(group, results_filter, "config", paths)

    return cast("ConfigLoader", Searching())


def _reading_once(search_path: ConfigSearchPath) -> ConfigRepository:
    """Hydra's repository of config files, which reads and parses each of them once."""
    from hydra._internal.config_repository import ConfigRepository
    from hydra.core.object_type import ObjectType

    class ReadingOnce(ConfigRepository):
        # of the class, since Hydra works with a deep copy of the repository for each config
        read: ClassVar[dict[tuple[str, ...], bytes]] = {}

        def load_config(self, config_path: str) -> ConfigResult | None:
            key = (config_path, *(source.path for source in self.sources))
            if key not in self.read:
                file = self._foreign_file(config_path)
                if file:
                    check_yaml(file)
                with _naming(file):
                    self.read[key] = pickle.dumps(super().load_config(config_path))
            return pickle.loads(self.read[key])  # whoever gets it changes it

        def _foreign_file(self, config_path: str) -> Path | None:
            source = self._find_object_source(config_path, ObjectType.CONFIG)
            if source is None or source.scheme() != "file" or source.path == conf_dir():
                return None
            return Path(source.path) / source._normalize_file_name(config_path)

    return ReadingOnce(search_path)


@contextmanager
def _naming(file: Path | None) -> Iterator[None]:
    """Say which file it is that Hydra can't make sense of."""
    try:
        yield
    except Exception as e:
        if file is None or isinstance(e, RecursionError):
            raise
        if isinstance(e, yaml.YAMLError):
            raise wrong_yaml(file, e) from e
        raise ConfigError(f"{file}: {explain(e)}") from e
