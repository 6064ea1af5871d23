"""The words of a sweep that say how it is run, and submitit's executor made from them."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from agr.config.messages import explain
from agr.config.overrides import split_shards, without_flags
from agr.config.schema import conf_dir
from agr.utils.errors import ConfigError, nearest

if TYPE_CHECKING:
    from submitit import AutoExecutor

# Slurm looks at time limits every 30 s, so its signal comes up to 30 s too early; and a job that is
# signalled before Python is up dies of it.
EARLY_SECONDS = 50


def of_launcher(word: str) -> bool:
    """Whether a word says how jobs are started, and not what they do."""
    return word.lstrip("+~").startswith(("hydra/launcher", "hydra.launcher"))


class Launcher(NamedTuple):
    """How jobs are started: the composed `hydra.launcher`."""

    kind: str  # "slurm" or "local"
    params: dict[str, Any]  # the keys of SlurmQueueConf or LocalQueueConf


def launcher_of(words: Sequence[str]) -> Launcher | None:
    """The launcher that the words of a command line name, checked.

    None where they name none, or one that Hydra is to call (joblib). Raises ConfigError, also if
    this machine can't submit to it.
    """
    given = [w.lstrip("+") for w in without_flags(words)]
    name = next((w.partition("=")[2] for w in given if w.startswith("hydra/launcher=")), None)
    if name is None:
        return None
    if name in ("slurm", "local") and find_spec("submitit") is None:
        raise ConfigError(f'hydra/launcher={name} needs submitit: pip install "agr[slurm]"')
    params = _composed(words)
    kinds = {"SlurmLauncher": "slurm", "LocalLauncher": "local"}
    kind = kinds.get(params.pop("_target_").rpartition(".")[2])
    if kind is None:
        return None
    _check_params(kind, params)
    if kind == "slurm" and not all(map(shutil.which, ("srun", "sbatch", "squeue"))):
        raise ConfigError(
            f"hydra/launcher={name}: there is no srun here: go to a machine of the cluster, or "
            "use hydra/launcher=local"
        )
    return Launcher(kind, params)


def _composed(words: Sequence[str]) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    plain = _without_sweeps(words)
    try:
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            full = compose("config", plain, return_hydra_config=True)
        return dict(OmegaConf.to_container(full.hydra.launcher, resolve=True))  # type: ignore[arg-type]
    except Exception as e:
        raise _explained(e) from e


def _explained(e: Exception) -> ConfigError:
    """One line for what Hydra raised; it names what launchers and their keys there are."""
    group, _, name = str(getattr(e, "missing_cfg_file", "")).rpartition("/")
    if group == "hydra/launcher":
        known = [k for k in getattr(e, "options", None) or [] if not k.startswith("submitit_")]
        return ConfigError(f"hydra/launcher={name} is unknown: {nearest(name, known)}")
    cause = e.__cause__ or e
    key = str(getattr(cause, "full_key", ""))
    if key.startswith("hydra.launcher.") and "not in" in str(cause):
        return _unknown(key.rpartition(".")[2], "slurm")
    return ConfigError(explain(e))


def _without_sweeps(words: Sequence[str]) -> list[str]:
    """The words that don't sweep. Raises ConfigError if those of the launcher do."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(split_shards(without_flags(words)))
    except HydraException as e:
        raise ConfigError(explain(e)) from e
    for word in (o.input_line or "" for o in parsed if o.is_sweep_override()):
        key, _, value = word.partition("=")
        if of_launcher(word):
            quoted = shlex.quote(f"{key}='{value}'")
            raise ConfigError(
                f"{word} is a sweep, and one launcher starts all jobs: give one value; quote it "
                f"if the comma belongs to it, {quoted}"
            )
    return [o.input_line for o in parsed if o.input_line and not o.is_sweep_override()]


def _check_params(kind: str, params: dict[str, Any]) -> None:
    """Raise ConfigError for what can't be submitted."""
    for key in params:
        if key not in _keys(kind):  # it came with a + before it
            raise _unknown(key, kind)
    for key in ("nodes", "tasks_per_node"):
        if params[key] != 1:
            raise ConfigError(
                f"hydra.launcher.{key}={params[key]}: a job is one process: give 1, and shards=K "
                "for more jobs"
            )
    limit, delay = 60 * params["timeout_min"], params.get("signal_delay_s", 30)
    if limit < delay + EARLY_SECONDS:
        raise ConfigError(
            f"hydra.launcher.timeout_min={params['timeout_min']} is too short for signal_delay_s="
            f"{delay}: a job is told to stop so many seconds before its end, give or take "
            f"{EARLY_SECONDS}; give a larger timeout_min, or a smaller signal_delay_s"
        )


def _unknown(key: str, kind: str) -> ConfigError:
    close = nearest(key, _keys(kind))
    return ConfigError(f"hydra.launcher.{key} is no key of the launcher: {close}")


def _keys(kind: str) -> list[str]:
    """The keys of hydra-submitit-launcher's schema: "base" are those that both kinds have."""
    from hydra_plugins.hydra_submitit_launcher import config  # type: ignore[import-untyped]

    names = {"base": "BaseQueueConf", "slurm": "SlurmQueueConf", "local": "LocalQueueConf"}
    return [f.name for f in fields(getattr(config, names[kind])) if f.name != "_target_"]


def executor_of(launcher: Launcher) -> AutoExecutor:
    """submitit's executor with the launcher's parameters."""
    import submitit

    given, kind = dict(launcher.params), launcher.kind
    folder, retries = given.pop("submitit_folder"), given.pop("max_num_timeout", None)
    init = {} if retries is None else {f"{kind}_max_num_timeout": retries}
    executor = submitit.AutoExecutor(folder, cluster=kind, **init)
    base = _keys("base")
    named = {key if key in base else f"{kind}_{key}": value for key, value in given.items()}
    executor.update_parameters(**named)
    return executor
