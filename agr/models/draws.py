"""Random numbers that are a function of a key, not of a global generator or of other images.

A key is an int64 per image, (B,). `fold` makes new keys from it for a step, a copy or a use;
`uniform`, `normal` and `integers` draw with a key. Keys are mixed as in SplitMix64 (Steele, Lea and
Flood, OOPSLA 2014). An image's many draws come from a Weyl sequence with an increment and a start
of its own, scrambled by a 32-bit finaliser: 64 bits would take twice the memory, which is what
these draws cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

BITS = 24  # per draw: exact in float32, so that every dtype gets the same numbers


def _signed(value: int, bits: int) -> int:
    """Return the signed number with the same bits: torch has no unsigned arithmetic."""
    return value - (1 << bits) if value >> (bits - 1) else value


SPREAD = 0x9E3779B9
GOLDEN = _signed(0x9E3779B97F4A7C15, 64)
MIX64 = ((30, _signed(0xBF58476D1CE4E5B9, 64)), (27, _signed(0x94D049BB133111EB, 64)))
MIX32 = ((16, 0x7FEB352D), (15, _signed(0x846CA68B, 32)))  # Wellons' "lowbias32"


def key_of(number: int) -> int:
    """Return the signed 64-bit key of an unsigned number, as `agr.utils.hashing.draw` gives."""
    return _signed(number % (1 << 64), 64)


def fold(key: Tensor, *data: int | Tensor) -> Tensor:
    """Return new keys (B,) from `key` (B,) and numbers, each one for all rows or (B,) int64."""
    for value in data:
        spread = _spread(value) if isinstance(value, int) else _mixed64((value + 1) * SPREAD)
        key = _mixed64((key ^ spread) + GOLDEN)
    return key


def uniform(key: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Draw numbers (B, *shape) uniformly from [0, 1): multiples of 2^-24."""
    return _draws(key, shape).to(dtype).mul_(2.0**-BITS)


def symmetric(key: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Draw numbers (B, *shape) uniformly from (-1, 1), symmetric about 0."""
    # One bit less, since the half needs one.
    return (_draws(key, shape) >> 1).to(dtype).add_(0.5).mul_(2.0 ** (2 - BITS)).sub_(1)


def normal(key: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Draw standard normal numbers (B, *shape): the inverse error function of `symmetric` ones."""
    # In float64 everywhere: near 1 the inverse is steep, and float32 would lose its bits.
    return torch.erfinv(symmetric(key, shape, torch.float64)).mul_(math.sqrt(2)).to(dtype)


def integers(key: Tensor, low: int, high: int | Tensor) -> Tensor:
    """Draw integers (B,) uniformly from low, ..., high - 1; `high` is for all rows or (B,)."""
    return low + (uniform(key, (), torch.float64) * (high - low)).long()


def _draws(key: Tensor, shape: Sequence[int]) -> Tensor:
    """Draw numbers (B, *shape) of BITS bits, int32."""
    n = math.prod(shape)
    mixed = _mixed64(key)
    start, increment = _low32(mixed), _low32(mixed >> 32) | 1  # odd: its period is 2^32
    x = _counter(n, key.device) * increment[:, None]
    x += start[:, None]
    for shift, factor in MIX32:
        x ^= (x >> shift) & ((1 << (32 - shift)) - 1)  # >> fills with the sign
        x *= factor
    x ^= (x >> 16) & 0xFFFF
    x >>= 32 - BITS
    x &= (1 << BITS) - 1
    return x.view(len(key), *shape)


@lru_cache(maxsize=8)
def _counter(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, dtype=torch.int32, device=device)


@lru_cache(maxsize=1024)  # steps, copies and uses are the same for all images
def _spread(value: int) -> int:
    return int(_mixed64(torch.tensor((value + 1) * SPREAD)))


def _mixed64(x: Tensor) -> Tensor:
    for shift, factor in MIX64:
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _low32(x: Tensor) -> Tensor:
    return ((x & 0xFFFFFFFF) - ((x & 0x80000000) << 1)).to(torch.int32)
