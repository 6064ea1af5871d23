"""The numeric identity: whatever decides the last bits of a cell's numbers.

It is chosen once, kept in the cell's run.json, used again on resume and by every shard, and never
mixed: another machine or setting is refused, with the way out. Only memory_format=try depends on a
clock. Its trial, and the number of slots that fit into a GPU's free memory, are decided once for
all cells of an outputs folder, in tuning.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from agr.attacks.build import build_attack
from agr.config.cell import Cell
from agr.config.schema import Tuning
from agr.evaluation.inputs import find_images, refuse
from agr.evaluation.profiling import free_bytes, step_bytes
from agr.models.defended import DefendedNetwork, defenses_of
from agr.models.network import Network, choose_tuning, load_network
from agr.models.tuning import MEMORY_FORMATS
from agr.models.weights import check_weights
from agr.records.run_info import NumericIdentity
from agr.utils.errors import ConfigError
from agr.utils.files import read_text, write_json
from agr.utils.hashing import digest
from agr.utils.locks import locked
from agr.utils.process import INTEL, cpu_vendor
from agr.utils.text import plural

SLOTS = 32
# At a size of its own, a network is about as fast with 8 images at a time. Where most images need a
# step or two, fewer slots wait for the last ones: 64 images of 240 px took 0.6 of the time.
FEW_SLOTS, LARGE_SIDE = 8, 160
MOST_SLOTS = 128  # more images at a time don't make a GPU faster
ALWAYS = 256  # at a time may be asked for, however few images there are
MOST_OF_MEMORY = 0.7  # the rest is for targets and what an estimate misses
# Read before any cell sets its own number of threads.
ALL_THREADS = torch.get_num_threads()


def apply(numeric: NumericIdentity) -> None:
    """Set this process to the identity's threads and precision, and torch to determinism."""
    torch.set_num_threads(numeric.threads)
    torch.backends.cuda.matmul.allow_tf32 = numeric.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = numeric.precision == "tf32"
    torch.backends.cudnn.benchmark = False  # it would choose other algorithms every time
    torch.backends.cudnn.deterministic = True
    if numeric.device.startswith("cuda"):
        # A warning names an operation that has no deterministic form: better than to stop.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def device_of(cell: Cell) -> str:
    """Return torch's name of the cell's device; of several GPUs each shard has its own.

    Raises ConfigError if it is not there.
    """
    device = cell.config.device
    if device == "auto":
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return f"cuda:{cell.shard[0] % gpus}" if gpus else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:
        raise ConfigError(f"device={device} is not there: use device=cpu or device=auto") from e
    return device


def settle(
    cell: Cell, stored: NumericIdentity | None, names: Iterable[str] | None = None
) -> NumericIdentity:
    """Apply and return the identity to run `cell` with: the stored one, or one from the config.

    It covers the networks `names`, else all of the cell's. `stored` is what run.json has.
    Raises ConfigError if the config or this machine differs from what is stored, or a network
    can't be loaded.
    """
    c = cell.config
    if c.precision == "tf32" and device_of(cell) == "cpu":
        raise ConfigError("precision=tf32 is of GPUs, and this runs on the CPU: use fp32 or bf16")
    # A run that begins; the fp32 twin of another has few images, and all else as the other.
    if stored is None and names is None and Path(c.outputs).name != "fp32":
        _check_places(cell)
    requested = NumericIdentity(
        # What is stored goes first: it is less than what the config says where memory ran out.
        slots=stored.slots if stored and stored.slots else c.slots or 0,
        width=stored.width if stored and stored.width else c.width or 0,
        precision=c.precision,
        threads=c.threads or (stored.threads if stored else ALL_THREADS),
        device=_kind(device_of(cell)),
        torch=torch.__version__,
    )
    before = stored or requested
    for key, value in vars(requested).items():
        if key != "networks" and getattr(before, key) != value:
            refuse(cell, key, getattr(before, key), value)
    apply(requested)
    networks = dict(before.networks)
    for name in cell.networks if names is None else names:
        if name not in networks:
            networks[name] = _tuning(cell, name, requested)
    slots = requested.slots or _slots(cell, replace(requested, networks=networks))
    return replace(requested, slots=slots, width=requested.width or slots, networks=networks)


def _check_places(cell: Cell) -> None:
    """Raise ConfigError for batches with places that no image of the cell can take."""
    c = cell.config
    asked = {"slots": c.slots or 0, "width": c.width or 0, "attack.library.chunk": cell.chunk}
    if max(asked.values()) <= ALWAYS:
        return
    images = min(c.n_images, len(find_images(cell).entries))
    most = max(ALWAYS, images)
    for key, n in asked.items():
        if n > most:
            raise ConfigError(
                f"{key}={n} is more than {plural(images, 'image')} can fill, and empty places cost "
                f"memory: use {key}={most} or fewer"
            )


def _slots(cell: Cell, numeric: NumericIdentity) -> int:
    """Return the slots that fit into a GPU's memory; on a CPU more than SLOTS gain nothing."""
    device = device_of(cell)
    if device == "cpu" and cell.config.attack.stop and cell.geometry.size >= LARGE_SIDE:
        return FEW_SLOTS
    if not device.startswith("cuda") or not set(cell.bare_sources) <= set(numeric.networks):
        return SLOTS

    def choose() -> int:
        sources = [load(cell, name, numeric, device) for name in cell.sources]
        need = sum(step_bytes(network, cell.geometry.size) for network in sources)
        return slots_that_fit(need, free_bytes(torch.device(device)))

    key = ["slots", numeric.of_predictions(cell.bare_sources), cell.sources, cell.geometry.size]
    return int(_once(cell, digest(key), choose, range(1, MOST_SLOTS + 1)))


def slots_that_fit(need: float, free: float) -> int:
    """Return how many slots of `need` bytes fit into `free` bytes, at most MOST_SLOTS.

    A power of two, so that a little more or less free memory changes nothing.
    """
    fit = min(MOST_SLOTS, max(1.0, MOST_OF_MEMORY * free / need))
    return 1 << int(math.log2(fit))


def load(cell: Cell, name: str, numeric: NumericIdentity, device: str) -> Network | DefendedNetwork:
    """Load a network of the cell, with its defenses. Raises ConfigError."""
    network = load_bare(cell, cell.bare(name), numeric, device)
    defenses = defenses_of(cell).get(name)
    return DefendedNetwork(network, defenses) if defenses else network


def load_bare(cell: Cell, name: str, numeric: NumericIdentity, device: str) -> Network:
    """Load a network of the suite, without defenses. Raises ConfigError."""
    tuning = numeric.networks[name]
    return load_network(
        name,
        cell.suite.networks[name],
        memory_format=tuning.memory_format,
        folded=tuning.folded,
        precision=numeric.precision,
        device=device,
    )


# One process runs the cells of a whole sweep: a tuning is chosen once.
_tunings: dict[tuple[str, str], Tuning] = {}


def _unfolded(cell: Cell) -> bool:
    """Return whether the attack needs batch norms of its source apart from convolutions."""
    rules = build_attack(cell.config).surrogate if cell.composed else ()
    return any(getattr(rule, "unfolded", False) for rule in rules)


def _tuning(cell: Cell, name: str, numeric: NumericIdentity) -> Tuning:
    """Return the tuning of a network: by rule, or by a trial once per outputs folder."""
    c, config = cell.config, cell.suite.networks[name]
    fold = c.fold and not (name in cell.bare_sources and _unfolded(cell))
    choose = partial(
        choose_tuning, name, config, fold=fold, precision=c.precision, device=device_of(cell)
    )
    network = [cell.network_digest(name), check_weights(name, config)]
    machine = [numeric.threads, numeric.device, numeric.torch]
    key = digest([network, fold, c.precision, machine])
    memory_format = c.memory_format
    if memory_format == "try":  # two trials could end differently: the first one counts
        timed = partial(choose, memory_format="try")
        memory_format = _once(cell, key, lambda: timed().memory_format, tuple(MEMORY_FORMATS))
    if (key, memory_format) not in _tunings:
        _tunings[key, memory_format] = choose(memory_format=memory_format)
    return _tunings[key, memory_format]


Choice = TypeVar("Choice", str, int)


def _once(
    cell: Cell, key: str, choose: Callable[[], Choice], allowed: Collection[Choice]
) -> Choice:
    """Return what `choose` returned first for `key`, kept beside the records of the suite.

    What is kept but is none of `allowed` is chosen again.
    """
    path = cell.suite_folder / "tuning.json"
    choices = _read(path)
    if choices.get(key) in allowed:
        return choices[key]
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path.with_name(".tuning.lock")))
        except OSError:  # a check of the machine says elsewhere that it can't be written
            return choose()
        choices = _read(path)  # another process may have chosen before us
        if choices.get(key) not in allowed:
            choices[key] = choose()
            write_json(path, choices)
        return choices[key]


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(read_text(path)))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}  # none yet; a damaged one is made again


def _kind(device: str) -> str:
    """Return the type of a device with the GPU's name, or the CPU's instruction set and vendor.

    Libraries choose their code by both. An Intel's name is left out, as records always had it.
    """
    if device.startswith("cuda"):
        return f"cuda {torch.cuda.get_device_name(device)}"
    kind, vendor = f"{device} {torch.backends.cpu.get_cpu_capability()}", cpu_vendor()
    return kind if vendor in ("", INTEL) else f"{kind} {vendor}"
