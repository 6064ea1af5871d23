"""Options of `python -m scripts.bench`. It imports torch only when it reads the words."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from agr.config.schema import CHOICES
from agr.utils.errors import ConfigError, nearest

PARTS = ("limit", "peers", "stops", "curve", "row", "growth", "startup")
DEMO_SOURCES = ("inc_v3", "inc_v4", "ir_v2", "vgg16", "vgg19", "res152")
EPS = 10.0  # 0-255 pixel scale, in every part
STEPS = 10


@dataclass(frozen=True)
class Options:
    """What is measured, and how much of it."""

    parts: tuple[str, ...]
    networks: tuple[str, ...]  # timm's names, for limit and peers
    size: int | None  # pixels; None: each network's own
    device: str
    threads: int
    precision: str
    images: int  # of limit and peers
    rounds: int
    demo_sources: tuple[str, ...]
    demo_images: int
    out: Path

    @property
    def cells(self) -> Path:
        """Where the demo suite's cells stand while they are measured."""
        return self.out / "cells"

    @property
    def how(self) -> dict[str, Any]:
        """Of measurements on the demo suite, which are so short that a first call shows."""
        return {"device": self.device, "warm": self.rounds > 1}

    def words(self, *more: str) -> list[str]:
        """Words of a config that runs as these options say."""
        own = (f"device={self.device}", f"threads={self.threads}", f"precision={self.precision}")
        return [*own, "progress=false", *more]


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, as everywhere here."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; python -m scripts.bench --help lists the options")


def read(words: Sequence[str], text: str | None = None) -> Options:
    """The options of a command line; `text` is what --help begins with.

    Raises ConfigError for what cannot be measured.
    """
    given = _parser(text).parse_args(words)
    parts = _known("--parts", given.parts, PARTS)
    full_size = {"limit", "peers"} & set(parts)
    return Options(
        parts=parts,
        networks=_networks(given.network) if full_size else (),
        size=given.size,
        device=_device(given.device),
        threads=given.threads or _all_threads(),
        precision=given.precision,
        images=given.images,
        rounds=given.rounds,
        demo_sources=_known("--demo-sources", given.demo_sources, DEMO_SOURCES),
        demo_images=given.demo_images,
        out=given.out,
    )


def _parser(text: str | None) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m scripts.bench",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--parts", action="append", help=f"of {', '.join(PARTS)} (default: all)")
    add("--network", action="append", help="timm's names (default: inception_v3,vgg16)")
    add("--size", type=_whole, help="pixels of its images (default: each network's own)")
    add("--images", type=_whole, default=4, help="at full size (default 4)")
    add("--rounds", type=_whole, default=3, help="of every measurement (default 3)")
    add("--demo-sources", action="append", help="networks of the demo suite (default: inc_v3)")
    add("--demo-images", type=_whole, default=800, help="of the demo suite (default 800)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--threads", type=_whole, help="of the CPU (default: all cores)")
    add("--precision", choices=CHOICES["precision"], default="fp32", help="(default fp32)")
    add("--out", type=Path, default=Path("outputs/bench"), help="folder (default outputs/bench)")
    parser.set_defaults(parts=None, network=None, demo_sources=None)
    return parser


def _whole(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number, 1 or more")
    return number


def _listed(given: Sequence[str]) -> tuple[str, ...]:
    """Of words that may each be a list with commas: every name once."""
    return tuple(dict.fromkeys(name for word in given for name in word.split(",") if name))


def _known(option: str, given: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """The names of an option in the order of the known ones; all parts, or one source, if none."""
    if given is None:
        return tuple(known) if option == "--parts" else (known[0],)
    names = _listed(given)
    for name in names:
        if name not in known:
            raise ConfigError(f"{option} {name} is unknown: {nearest(name, known)}")
    return tuple(name for name in known if name in names)


def _networks(given: Sequence[str] | None) -> tuple[str, ...]:
    import timm

    names = _listed(given or ["inception_v3", "vgg16"])
    for name in names:
        if not timm.is_model(name):
            words = nearest(name, timm.list_models(), "timm.list_models() has all names")
            raise ConfigError(f"--network {name} is no name of timm's: {words}")
    return names


def _device(asked: str) -> str:
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError) as e:
        raise ConfigError(f"--device {asked} is not there: use cpu or auto") from e
    return asked


def _all_threads() -> int:
    import torch

    return torch.get_num_threads()
