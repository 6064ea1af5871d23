"""The field's libraries, called as their documentation says, and the networks they are given.

foolbox' own MI-FGSM is left out: it accumulates signs, which is another attack.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor, nn

Run = Callable[[Tensor, Tensor], Tensor]  # images (B, 3, H, W) in [0, 1], labels (B,) -> images


@dataclass(frozen=True)
class Task:
    """What every library is asked for: an L-infinity attack without a random start."""

    attack: str  # ifgsm | mifgsm (decay 1)
    eps: float  # in units of [0, 1] images, like `alpha`
    alpha: float  # step size
    steps: int
    shape: tuple[int, ...]  # of one image, (3, H, W)
    classes: int
    batch: int = 32  # images at a time, at most
    device: str = "cpu"


def torchattacks(model: nn.Module, task: Task) -> Run:
    """BIM and MIFGSM of torchattacks (Kim, arXiv:2010.01950)."""
    with _old_names():
        import torchattacks as library

    size = {"eps": task.eps, "alpha": task.alpha, "steps": task.steps}
    if task.attack == "ifgsm":
        attack = library.BIM(model, **size)
    else:
        attack = library.MIFGSM(model, **size, decay=1.0)
    return _in_batches(attack, task.batch)


def foolbox(model: nn.Module, task: Task) -> Run:
    """LinfBasicIterativeAttack of foolbox (Rauber et al., JOSS 2020)."""
    with _old_names():
        import foolbox as library

    wrapped = library.PyTorchModel(model, bounds=(0, 1), device=task.device)
    attack = library.attacks.LinfBasicIterativeAttack(
        abs_stepsize=task.alpha, steps=task.steps, random_start=False
    )

    def run(x: Tensor, y: Tensor) -> Tensor:
        clipped: Tensor = attack(wrapped, x, y, epsilons=task.eps)[1]
        return clipped

    return _in_batches(run, task.batch)


def art(model: nn.Module, task: Task) -> Run:
    """BasicIterativeMethod and MomentumIterativeMethod of ART (Nicolae et al., arXiv:1807.01069).

    ART knows arrays of float32 only; a network in float64 gets them converted.
    """
    with _old_names():
        from art.attacks.evasion import BasicIterativeMethod, MomentumIterativeMethod
        from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        _FromFloat32(model),
        loss=nn.CrossEntropyLoss(),
        input_shape=task.shape,
        nb_classes=task.classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if task.device.startswith("cuda") else "cpu",
    )
    size = {"eps": task.eps, "eps_step": task.alpha, "max_iter": task.steps}
    known = {"batch_size": task.batch, "verbose": False}
    if task.attack == "ifgsm":
        attack = BasicIterativeMethod(classifier, **size, **known)
    else:
        attack = MomentumIterativeMethod(classifier, **size, **known, decay=1.0)

    def run(x: Tensor, y: Tensor) -> Tensor:
        made = attack.generate(x=x.float().cpu().numpy(), y=y.cpu().numpy())
        return torch.from_numpy(made).to(x)

    return run


PEERS: dict[str, dict[str, Callable[[nn.Module, Task], Run]]] = {
    "ifgsm": {"torchattacks": torchattacks, "foolbox": foolbox, "ART": art},
    "mifgsm": {"torchattacks": torchattacks, "ART": art},
}
PACKAGES = {
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "ART": "adversarial-robustness-toolbox",
}


def versions() -> dict[str, str | None]:
    """The version of each library by its name here; None where it isn't installed."""
    found: dict[str, str | None] = {}
    for name, package in PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = None
    return found


def installed(attack: str, among: Sequence[str] = tuple(PACKAGES)) -> list[str]:
    """The libraries that are here and have the attack."""
    there = versions()
    return [name for name in PEERS[attack] if name in among and there[name]]


# ---- networks as a user hands them over ----------------------------------------------------------


class Normalize(nn.Module):
    """(x - mean) / std of each channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.mean = nn.Buffer(torch.tensor(mean).view(1, -1, 1, 1))
        self.std = nn.Buffer(torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] as the network wants them."""
        return (x - self.mean) / self.std


class Autocast(nn.Module):
    """A network that computes in bfloat16 where torch thinks it safe."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) in the dtype of `x`."""
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.body(x)
        return logits.to(x.dtype)


def in_precision(model: nn.Module, precision: str) -> nn.Module:
    """The network in "fp32", "fp64" or "bf16"."""
    if precision == "bf16":
        return Autocast(model).eval()
    return model.double() if precision == "fp64" else model


class _FromFloat32(nn.Module):
    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body
        self.dtype = next((p.dtype for p in body.parameters()), torch.float32)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x.to(self.dtype))
        return logits


@contextmanager
def _old_names() -> Iterator[None]:
    """Imports of libraries that themselves import deprecated names of others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _in_batches(run: Run, batch: int) -> Run:
    def whole(x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([run(a, b) for a, b in zip(x.split(batch), y.split(batch), strict=True)])

    return whole
