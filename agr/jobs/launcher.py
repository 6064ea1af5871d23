"""Launchers of a sweep's jobs, and submitit's executor made from one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from agr.utils.errors import ConfigError, nearest

if TYPE_CHECKING:
    from submitit import AutoExecutor

KINDS = {"SlurmLauncher": "slurm", "LocalLauncher": "local", "BasicLauncher": None}
# Slurm looks at time limits every 30 s, so its signal comes up to 30 s too early; and a job that is
# signalled before Python is up dies of it.
EARLY_SECONDS = 50


class Launcher(NamedTuple):
    """A way to start jobs: the composed `hydra.launcher`."""

    kind: str  # "slurm" or "local"
    params: dict[str, Any]  # the keys of SlurmQueueConf or LocalQueueConf


def of_launcher(override: str) -> bool:
    """True if an override says how jobs are started, and not what they do."""
    return override.lstrip("+~").startswith(("hydra/launcher", "hydra.launcher"))


def check_submitit(arguments: Sequence[str]) -> bool:
    """Return whether a launcher is named. Raises ConfigError if it is ours and lacks submitit."""
    named = [word.lstrip("+") for word in arguments if of_launcher(word) and "hydra/" in word]
    for word in named:
        if word.partition("=")[2] in ("slurm", "local") and find_spec("submitit") is None:
            raise ConfigError(f'{word} needs submitit: pip install "agr-bench[slurm]"')
    return bool(named)


def launcher_of(config: DictConfig) -> Launcher | None:
    """Return the launcher of a composed config, with Hydra's node; None: this process runs all.

    Raises ConfigError for what can't be submitted, also if this machine can't submit to it.
    """
    params: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    name = config.hydra.runtime.choices["hydra/launcher"]
    target = str(params.pop("_target_")).rpartition(".")[2]
    if target not in KINDS:
        raise ConfigError(f"hydra/launcher={name} is not for agr: use slurm or local")
    kind = KINDS[target]
    if kind is None:
        return None
    _check_params(kind, params)
    if kind == "slurm" and not all(map(shutil.which, ("srun", "sbatch", "squeue"))):
        raise ConfigError(
            f"hydra/launcher={name}: there is no srun here: go to a machine of the cluster, or "
            "use hydra/launcher=local"
        )
    return Launcher(kind, params)


def _check_params(kind: str, params: dict[str, Any]) -> None:
    """Raise ConfigError for what can't be submitted."""
    for key in params:
        if key not in _keys(kind):  # it came with a + before it
            close = nearest(key, _keys(kind))
            raise ConfigError(f"hydra.launcher.{key} is not a key of the launcher: {close}")
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


def _keys(kind: str) -> list[str]:
    """Keys of hydra-submitit-launcher's schema: "base" are those that both kinds have."""
    from hydra_plugins.hydra_submitit_launcher import config  # type: ignore[import-untyped]

    names = {"base": "BaseQueueConf", "slurm": "SlurmQueueConf", "local": "LocalQueueConf"}
    return [f.name for f in fields(getattr(config, names[kind])) if f.name != "_target_"]


def executor_of(launcher: Launcher) -> AutoExecutor:
    """Build submitit's executor with the launcher's parameters."""
    import submitit

    given, kind = dict(launcher.params), launcher.kind
    folder, retries = given.pop("submitit_folder"), given.pop("max_num_timeout", None)
    init = {} if retries is None else {f"{kind}_max_num_timeout": retries}
    executor = submitit.AutoExecutor(folder, cluster=kind, **init)
    base = _keys("base")
    named = {key if key in base else f"{kind}_{key}": value for key, value in given.items()}
    executor.update_parameters(**named)
    return executor
