"""The numeric identity: whatever decides the last bits of a cell's numbers.

It is chosen once, kept in the cell's run.json, used again on resume and by every shard, and never
mixed: another machine or setting is refused, with the way out. No choice depends on a clock, but
for memory_format=try. That trial, and the number of slots that fit into a GPU's free memory, are
made once for all cells of an outputs folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from agr.config.cell import Cell
from agr.evaluation.inputs import refuse
from agr.evaluation.profiling import free_bytes, step_bytes
from agr.models.network import Network, choose_tuning, load_network
from agr.models.tuning import MEMORY_FORMATS, Tuning
from agr.models.weights import check_weights
from agr.utils.errors import ConfigError
from agr.utils.files import read_text, write_json
from agr.utils.hashing import digest
from agr.utils.locks import locked

SLOTS = 32
MOST_OF_MEMORY = 0.7  # the rest is for targets and what an estimate misses
# Read before any cell sets its own number of threads.
ALL_THREADS = torch.get_num_threads()


@dataclass(frozen=True)
class Numeric:
    """Within one such identity an image's result is bitwise the same, whatever else differs."""

    slots: int
    width: int
    precision: str
    threads: int
    device: str  # kind of device, with the instruction set or the GPU's name
    torch: str
    networks: dict[str, Tuning] = field(default_factory=dict)

    @staticmethod
    def of(stored: dict[str, Any]) -> Numeric:
        """The identity that `asdict` made `stored` from."""
        networks = {name: Tuning(**tuning) for name, tuning in stored["networks"].items()}
        return Numeric(**stored | {"networks": networks})

    def of_answers(self, names: Iterable[str]) -> dict[str, Any]:
        """What of it decides the answers of the networks `names`."""
        plain = {k: v for k, v in vars(self).items() if k not in ("slots", "networks")}
        own = {name: self.networks[name] for name in names}
        return plain | {"networks": [[t.memory_format, t.folded] for t in own.values()]}

    def apply(self) -> None:
        """Set the process to it."""
        torch.set_num_threads(self.threads)
        torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
        torch.backends.cudnn.benchmark = False  # it would choose other algorithms every time
        torch.backends.cudnn.deterministic = True
        if self.device.startswith("cuda"):
            # A warning names an operation that has no deterministic form: better than to stop.
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def halved(self) -> Numeric | None:
        """The same with half the slots and half the width; None where there is no half."""
        if self.slots == self.width == 1:
            return None
        return replace(self, slots=max(1, self.slots // 2), width=max(1, self.width // 2))


def device_of(cell: Cell) -> str:
    """The torch device that the config asks for; of several GPUs each shard has its own.

    Raises ConfigError if it is not there.
    """
    asked = cell.config.device
    if asked == "auto":
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return f"cuda:{cell.shard[0] % gpus}" if gpus else "cpu"
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError) as e:
        raise ConfigError(f"device={asked} is not there: use device=cpu or device=auto") from e
    return asked


def settle(
    cell: Cell, stored: dict[str, Any] | None, names: Iterable[str] | None = None
) -> Numeric:
    """The identity to run `cell` with: the stored one, or a new one from the config; applied.

    `names` are the networks that it is to cover; None: all of the cell's.
    Raises ConfigError where the config or this machine differs from what is stored, or a network
    can't be loaded.
    """
    c = cell.config
    if c.precision == "tf32" and device_of(cell) == "cpu":
        raise ConfigError("precision=tf32 is of GPUs, and this runs on the CPU: use fp32 or bf16")
    asked = Numeric(
        # What is stored goes first: it is less than what is asked for where memory ran out.
        slots=(stored or {}).get("slots") or c.slots or 0,
        width=(stored or {}).get("width") or c.width or 0,
        precision=c.precision,
        threads=c.threads or (stored or {}).get("threads") or ALL_THREADS,
        device=_kind(device_of(cell)),
        torch=torch.__version__,
    )
    before = Numeric.of(stored) if stored else asked
    for key, value in vars(asked).items():
        if key != "networks" and getattr(before, key) != value:
            refuse(cell, key, getattr(before, key), value)
    asked.apply()
    networks = dict(before.networks)
    for name in cell.networks if names is None else names:
        if name not in networks:
            networks[name] = _tuning(cell, name, asked)
    slots = asked.slots or _slots(cell, replace(asked, networks=networks))
    return replace(asked, slots=slots, width=asked.width or slots, networks=networks)


def _slots(cell: Cell, numeric: Numeric) -> int:
    """As many slots as fit beside each other on a GPU; on a CPU more of them gain nothing."""
    device = device_of(cell)
    if not device.startswith("cuda") or not set(cell.sources) <= set(numeric.networks):
        return SLOTS

    def choose() -> dict[str, Any]:
        need = 0.0
        for name in cell.sources:
            network = load(cell, name, numeric, device)
            need += step_bytes(network, cell.geometry.size)
        return {"slots": slots_that_fit(need, free_bytes(torch.device(device)))}

    key = [numeric.of_answers(cell.sources), cell.sources, cell.geometry.size]
    return int(_once(cell, digest(["slots", *key]), choose, _are_slots)["slots"])


def slots_that_fit(need: float, free: float) -> int:
    """A power of two, so that a little more or less free memory changes nothing; 128 at most.

    `need` is bytes per slot, `free` bytes. More than 128 images at a time don't make a GPU faster.
    """
    return 1 << max(0, min(7, int(math.log2(max(1.0, MOST_OF_MEMORY * free / need)))))


def load(cell: Cell, name: str, numeric: Numeric, device: str) -> Network:
    """A network of the suite, without defenses. Raises ConfigError."""
    tuning = numeric.networks[name]
    return load_network(
        name,
        cell.suite.networks[name],
        memory_format=tuning.memory_format,
        folded=tuning.folded,
        precision=numeric.precision,
        device=device,
    )


_tunings: dict[str, Tuning] = {}  # of this process: a sweep has many cells and few networks


def _tuning(cell: Cell, name: str, numeric: Numeric) -> Tuning:
    """Return the tuning of a network: by rule, or by a trial once per outputs folder."""
    c, config = cell.config, cell.suite.networks[name]
    asked = [c.memory_format, c.fold, c.precision]
    machine = [numeric.threads, numeric.device, numeric.torch]
    key = digest([[cell.network_digest(name), check_weights(name, config)], asked, machine])

    def choose() -> Tuning:
        return choose_tuning(
            name,
            config,
            memory_format=c.memory_format,
            fold=c.fold,
            precision=c.precision,
            device=device_of(cell),
        )

    if c.memory_format == "try":  # two trials could end differently: the first one counts
        return Tuning(**_once(cell, key, lambda: asdict(choose()), _is_tuning))
    if key not in _tunings:
        _tunings[key] = choose()
    return _tunings[key]


def _once(
    cell: Cell, key: str, choose: Callable[[], dict[str, Any]], fits: Callable[[Any], bool]
) -> dict[str, Any]:
    """What `choose` gave the first time, kept beside the records of the suite.

    What is kept and doesn't look as it should (`fits`) is chosen again.
    """
    path = cell.suite_folder / "tuning.json"
    kept = _known(path)
    if fits(kept.get(key)):
        return dict(kept[key])
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path.with_name(".tuning.lock")))
        except OSError:  # a check of the machine says elsewhere that it can't be written
            return choose()
        known = _known(path)  # who came before us may have tried it
        if not fits(known.get(key)):
            known[key] = choose()
            write_json(path, known)
        return dict(known[key])


def _known(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(read_text(path)))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}  # none yet; a damaged one is made again


def _is_tuning(kept: Any) -> bool:
    return (
        isinstance(kept, dict)
        and {f.name for f in fields(Tuning)} == {*kept}
        and str(kept["memory_format"]) in MEMORY_FORMATS
        and isinstance(kept["folded"], bool)
        and isinstance(kept["unfolded_because"], str)
    )


def _are_slots(kept: Any) -> bool:
    return isinstance(kept, dict) and [*kept] == ["slots"] and kept["slots"] in range(1, 129)


def _kind(device: str) -> str:
    if device.startswith("cuda"):
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device} {torch.backends.cpu.get_cpu_capability()}"
