"""The cells that a command line means: Hydra's composing, done once for what cells share."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, ClassVar, cast

from omegaconf import DictConfig, open_dict

from agr.config import Cell, to_cell
from agr.errors import ConfigError
from agr.schema import conf_dir
from agr.validation import explain

if TYPE_CHECKING:
    from hydra._internal.config_repository import ConfigRepository
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.object_type import ObjectType
    from hydra.plugins.config_source import ConfigResult


def expand(overrides: Sequence[str]) -> list[Cell]:
    """The cells of a command line: one, or one for each point of its sweep.

    `overrides` are Hydra's words ("attack=ifgsm,agr", "experiment=paper"). Raises ConfigError.
    """
    from hydra import compose
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        with _hydra() as loader:
            given_words = without_flags(overrides)
            parser = OverridesParser.create(_searching(loader, given_words))
            words = parser.parse_overrides(given_words)
            plain = [o.input_line for o in words if not o.is_sweep_override() and o.input_line]
            full = compose("config", plain, return_hydra_config=True)
            given = {o.key_or_group for o in words}
            params = full.hydra.sweeper.params or {}
            swept = [f"{k}={v}" for k, v in params.items() if k not in given]
            words += parser.parse_overrides(swept)
            points = BasicSweeper.split_arguments(words, None)[0]
            if len(plain) == len(words):  # no sweep: it is composed already
                with open_dict(full):
                    del full["hydra"]
                return [to_cell(full, points[0])]
            composer = _Composer(loader, [w for w in plain if w.startswith("hydra.")])
            return [to_cell(composer.compose(point), point) for point in points]
    except ConfigError:
        raise
    except Exception as e:
        raise ConfigError(explain(e)) from e


class _Composer:
    """Hydra's `compose` for the many command lines of a sweep.

    Hydra needs 0.1 s to read and merge the files that a command line chooses, and next to nothing
    to set single keys. So what files make is kept, here and no longer, and keys are set in copies.
    """

    def __init__(self, loader: ConfigLoader, hydra_words: list[str]):
        from hydra.core.object_type import ObjectType
        from hydra.core.override_parser.overrides_parser import OverridesParser

        self._groups = set(loader.get_group_options("", ObjectType.GROUP, "config", hydra_words))
        parser = OverridesParser.create(loader)
        self._parsed = cache(lambda word: parser.parse_overrides([word])[0])
        self._merged: dict[tuple[str, ...], bytes] = {}  # pickled, since that copies quickest

    def compose(self, words: Sequence[str]) -> DictConfig:
        """The config of a command line without sweeps."""
        from hydra import compose
        from hydra._internal.config_loader_impl import ConfigLoaderImpl

        files = tuple(word for word in words if self._chooses_files(word))
        if files not in self._merged:
            self._merged[files] = pickle.dumps(compose("config", list(files)))
        config: DictConfig = pickle.loads(self._merged[files])
        keys = [self._parsed(word) for word in words if word not in files]
        ConfigLoaderImpl._apply_overrides_to_config(keys, config)
        return config

    def _chooses_files(self, word: str) -> bool:
        """Whether a word is about Hydra or a group of files; the others set keys."""
        override = self._parsed(word)
        group = override.key_or_group.partition("/")[0]
        is_group = group in self._groups and not isinstance(override.value(), dict)
        return is_group or override.is_hydra_override()


@contextmanager
def _hydra() -> Iterator[ConfigLoader]:
    """Hydra over our configs, whatever Hydra application this process may be."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    instance = GlobalHydra.instance()
    outer, instance.hydra = instance.hydra, None
    try:
        with initialize_config_dir(conf_dir(), version_base="1.3"):
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

    class ReadingOnce(ConfigRepository):
        # of the class, since Hydra works with a deep copy of the repository for each config
        read: ClassVar[dict[tuple[str, ...], bytes]] = {}

        def load_config(self, config_path: str) -> ConfigResult | None:
            key = (config_path, *(source.path for source in self.sources))
            if key not in self.read:
                self.read[key] = pickle.dumps(super().load_config(config_path))
            return pickle.loads(self.read[key])  # whoever gets it changes it

    return ReadingOnce(search_path)


def without_flags(arguments: Sequence[str]) -> list[str]:
    """The words of a command line without -m; --config-dir becomes a word that means the same."""
    words, rest = [], iter(arguments)
    for word in rest:
        flag, _, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            words.append(f"hydra.searchpath=[{value or next(rest, '')}]")
        elif word not in ("-m", "--multirun"):
            words.append(word)
    return words
