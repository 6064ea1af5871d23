"""What several tests use: small models, images, and the demo suite's networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from agr.attacks import Attack
from agr.attacks.draws import key_of
from agr.attacks.engine import Item
from agr.config.cell import Cell
from agr.config.compose import expand
from agr.data.decode import load_image
from agr.evaluation.inputs import find_images
from agr.models.network import load_network
from agr.models.sources import Ensemble, Source
from agr.utils.hashing import draw

EPS = 10 / 255
CLASSES = 5


def small_model(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A smooth convolutional classifier of 12 px images, on which no gradient is zero."""
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, stride=2), nn.Tanh(),
        nn.Flatten(), nn.Linear(200, CLASSES),
    )  # fmt: skip
    with torch.no_grad():
        for p in body.parameters():  # curved enough that normalised momentum differs from plain
            p *= 3
    return body.to(dtype).eval().requires_grad_(False)


def images(n: int = 6, seed: int = 1, size: int = 12, dtype: torch.dtype = torch.float64) -> Tensor:
    """8-bit images with some pixels at the borders 0 and 255."""
    torch.manual_seed(seed)
    levels = torch.randint(-20, 276, (n, 3, size, size)).clamp(0, 255)
    return levels.to(dtype) / 255


@pytest.fixture
def model() -> nn.Module:
    return small_model()


@pytest.fixture
def x() -> Tensor:
    return images()


@pytest.fixture
def y(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).argmax(1)


def assert_same_bits(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Not as pandas compares by default, which allows floating point a difference of 1e-5."""
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def foreign_lock(path: Path, lease: float, pid: int = 7) -> None:
    """A lock that a process of another machine has made."""
    fields = ["filelock/2", f"pid={pid}", "host=elsewhere", "mode=lease", "token=t"]
    path.write_text("".join(f"{line}\n" for line in [*fields, f"duration={lease}"]))
    path.chmod(0o600)


def demo_cell(outputs: Path, *words: str) -> Cell:
    """A cell of the demo suite that is quick to run and writes below `outputs`."""
    return expand(["n_images=12", "slots=8", "threads=1", f"outputs={outputs}", *words])[0]


def demo_items(cell: Cell, n: int) -> list[Item]:
    """The first `n` images of a demo cell, to be attacked away from their labels."""
    return [
        Item(
            e.image_id, load_image(e, cell.geometry), e.label, e.label, key_of(draw(0, e.image_id))
        )
        for e in find_images(cell).entries[:n]
    ]


def demo_network(cell: Cell) -> Source:
    """The source of a demo cell, as its file has it, or its files."""
    how = {"memory_format": "channels_last", "precision": "fp32", "device": "cpu"}
    members = [load_network(name, cell.suite.networks[name], **how) for name in cell.sources]
    return members[0] if len(members) == 1 else Ensemble(members, "logits")


class Several(nn.Module):
    """Networks as one source, by the mean of their logits."""

    def __init__(self, *members: nn.Module):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


def as_source(attack: Attack, model: nn.Module) -> nn.Module:
    """The model, or twice the model for an attack on several networks."""
    return Several(model, model) if attack.ensemble else model


def called(main: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Call a program's main: exit code, stdout, stderr."""
    code = 0
    try:
        main()
    except SystemExit as e:
        code = int(e.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err
