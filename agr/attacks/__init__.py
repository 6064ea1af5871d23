"""Attacks. `Attack` puts parts together; `agr.attacks.parts` has their contracts."""

from agr.attacks.attack import Attack
from agr.attacks.ball import L2, Linf
from agr.attacks.loss import CrossEntropy
from agr.attacks.parts import Pool
from agr.attacks.stages import MeanNormalize, Momentum
from agr.attacks.step import AdaGrad, Overwrite, Plain
from agr.attacks.stop import OnceFooled

__all__ = [
    "L2",
    "AdaGrad",
    "Attack",
    "CrossEntropy",
    "Linf",
    "MeanNormalize",
    "Momentum",
    "OnceFooled",
    "Overwrite",
    "Plain",
    "Pool",
]
