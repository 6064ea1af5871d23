"""Attacks of the field's libraries, called as documented, and the networks they are given.

foolbox's own MI-FGSM is left out: it accumulates signs, which is another attack.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Run = Callable[[Tensor, Tensor], Tensor]  # images (B, 3, H, W) in [0, 1], labels (B,) -> images


@dataclass(frozen=True)
class Trial:
    """An L-infinity attack without a random start, for any library."""

    attack: str  # ifgsm | mifgsm (decay 1)
    eps: float  # in units of [0, 1] images, like `alpha`
    alpha: float  # step size
    steps: int
    shape: tuple[int, ...]  # of one image, (3, H, W)
    classes: int
    batch: int = 32  # images at a time, at most
    device: str = "cpu"


def torchattacks(model: nn.Module, trial: Trial) -> Run:
    """BIM and MIFGSM of torchattacks (Kim, arXiv:2010.01950)."""
    with _old_names():
        import torchattacks as library

    size = {"eps": trial.eps, "alpha": trial.alpha, "steps": trial.steps}
    if trial.attack == "ifgsm":
        attack = library.BIM(model, **size)
    else:
        attack = library.MIFGSM(model, **size, decay=1.0)
    return _in_batches(attack, trial.batch)


def foolbox(model: nn.Module, trial: Trial) -> Run:
    """LinfBasicIterativeAttack of foolbox (Rauber et al., JOSS 2020)."""
    with _old_names():
        import foolbox as library

    wrapped = library.PyTorchModel(model, bounds=(0, 1), device=trial.device)
    attack = library.attacks.LinfBasicIterativeAttack(
        abs_stepsize=trial.alpha, steps=trial.steps, random_start=False
    )

    def run(x: Tensor, y: Tensor) -> Tensor:
        clipped: Tensor = attack(wrapped, x, y, epsilons=trial.eps)[1]
        return clipped

    return _in_batches(run, trial.batch)


def art(model: nn.Module, trial: Trial) -> Run:
    """BasicIterativeMethod and MomentumIterativeMethod of ART (Nicolae et al., arXiv:1807.01069).

    ART knows arrays of float32 only; a network in float64 gets them converted.
    """
    with _old_names():
        from art.attacks.evasion import BasicIterativeMethod, MomentumIterativeMethod
        from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        _FromFloat32(model),
        loss=nn.CrossEntropyLoss(),
        input_shape=trial.shape,
        nb_classes=trial.classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if trial.device.startswith("cuda") else "cpu",
    )
    size = {"eps": trial.eps, "eps_step": trial.alpha, "max_iter": trial.steps}
    options = {"batch_size": trial.batch, "verbose": False}
    if trial.attack == "ifgsm":
        attack = BasicIterativeMethod(classifier, **size, **options)
    else:
        attack = MomentumIterativeMethod(classifier, **size, **options, decay=1.0)

    def run(x: Tensor, y: Tensor) -> Tensor:
        adversarial = attack.generate(x=x.float().cpu().numpy(), y=y.cpu().numpy())
        return torch.from_numpy(adversarial).to(x)

    return run


PEERS: dict[str, dict[str, Callable[[nn.Module, Trial], Run]]] = {
    "ifgsm": {"torchattacks": torchattacks, "foolbox": foolbox, "ART": art},
    "mifgsm": {"torchattacks": torchattacks, "ART": art},
}
PACKAGES = {
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "ART": "adversarial-robustness-toolbox",
}
PLAIN, TUNED = ", plain network", ", tuned network"  # the network that a peer was given


def library_version(name: str) -> str | None:
    """Return the version of a library; None where it isn't installed."""
    try:
        return version(PACKAGES[name])
    except PackageNotFoundError:
        return None


def installed(attack: str, among: Sequence[str] = tuple(PACKAGES)) -> list[str]:
    """Return the installed libraries that have the attack."""
    return [name for name in PEERS[attack] if name in among and library_version(name)]


# ---- networks as users of a library have them ----------------------------------------------------


class Normalize(nn.Module):
    """(x - mean) / std of each channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.mean = nn.Buffer(torch.tensor(mean).view(1, -1, 1, 1))
        self.std = nn.Buffer(torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise images (B, C, H, W) in [0, 1]."""
        return (x - self.mean) / self.std


class Resize(nn.Module):
    """Resizing to a network's size, where images have another."""

    def __init__(self, size: int, mode: str):
        super().__init__()
        self.size, self.mode = size, mode

    def forward(self, x: Tensor) -> Tensor:
        """Resize images (B, C, H, W)."""
        if x.shape[-1] == self.size:
            return x
        return F.interpolate(x, (self.size, self.size), mode=self.mode, antialias=True)


class Autocast(nn.Module):
    """A network under torch's automatic mixed precision, in bfloat16."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) in the dtype of `x`."""
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.body(x)
        return logits.to(x.dtype)


def in_precision(model: nn.Module, precision: str) -> nn.Module:
    """Return the network in "fp32", "fp64" or "bf16"."""
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
    """Silence warnings of libraries that import deprecated names of others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _in_batches(run: Run, batch: int) -> Run:
    def whole(x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([run(a, b) for a, b in zip(x.split(batch), y.split(batch), strict=True)])

    return whole
