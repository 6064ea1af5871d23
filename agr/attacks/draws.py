"""Random numbers of an attack: those of `agr.models.draws`, and the uses that its keys have."""

from __future__ import annotations

from agr.models.draws import fold, integers, key_of, normal, symmetric, uniform

__all__ = [
    "GRADIENT",
    "OWN",
    "START",
    "STEPS",
    "fold",
    "integers",
    "key_of",
    "normal",
    "symmetric",
    "uniform",
]

# Uses of a key, to fold it with: an attack's start or its steps; a stage's own draws or those of a
# gradient that it takes.
START, STEPS = 0, 1
OWN, GRADIENT = 0, 1
