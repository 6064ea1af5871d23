"""The numeric identity: whatever decides the last bits of a cell's numbers.

It is chosen once, kept in the cell's run.json, used again on resume and by every shard, and never
mixed: another machine or setting is refused, with the way out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from agr.config import Cell
from agr.errors import ConfigError
from agr.inputs import refuse

SLOTS = 32
# Read before any cell sets its own number of threads.
ALL_THREADS = torch.get_num_threads()


@dataclass(frozen=True)
class Numeric:
    """Within one such identity an image's result is bitwise the same, whatever else differs."""

    slots: int
    width: int
    memory_format: str
    precision: str
    threads: int
    device: str  # kind of device, with the instruction set or the GPU's name
    torch: str

    def apply(self) -> None:
        """Set the process to it."""
        torch.set_num_threads(self.threads)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True


def device_of(cell: Cell) -> str:
    """The torch device that the config asks for. Raises ConfigError if it is not there."""
    asked = cell.config.device
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError) as e:
        raise ConfigError(f"device={asked} is not there: use device=cpu or device=auto") from e
    return asked


def settle(cell: Cell, stored: dict[str, Any] | None) -> Numeric:
    """The identity to run `cell` with: the stored one, or a new one from the config.

    Raises ConfigError where the config or this machine differs from what is stored.
    """
    c = cell.config
    slots = c.slots or (stored or {}).get("slots") or SLOTS
    asked = Numeric(
        slots=slots,
        width=c.width or (stored or {}).get("width") or slots,
        memory_format=c.memory_format,
        precision=c.precision,
        threads=c.threads or (stored or {}).get("threads") or ALL_THREADS,
        device=_kind(device_of(cell)),
        torch=torch.__version__,
    )
    for key, value in asdict(asked).items():
        if stored and stored.get(key) != value:
            refuse(cell, key, stored.get(key), value)
    return asked


def _kind(device: str) -> str:
    if device.startswith("cuda"):
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device} {torch.backends.cpu.get_cpu_capability()}"
