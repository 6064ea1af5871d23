"""Options of `python -m scripts.bench`; torch is imported only when they are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from agr.config.schema import CHOICES
from agr.utils.errors import ConfigError, nearest

PARTS = (
    "limit",
    "peers",
    "many",
    "formats",
    "stops",
    "curve",
    "row",
    "real",
    "growth",
    "startup",
    "records",
)
DEMO_SOURCES = ("inc_v3", "inc_v4", "ir_v2", "vgg16", "vgg19", "res152")
# of the part "formats": convolutions, wide and depthwise, then attention and mixing
FAMILIES = (
    "inception_v3",
    "inception_v4",
    "inception_resnet_v2",
    "vgg16",
    "vgg19_bn",
    "resnet50",
    "resnet152",
    "densenet121",
    "regnety_016",
    "mobilenetv2_100",
    "efficientnet_lite0",
    "convnext_tiny",
    "vit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mixer_b16_224",
)
EPS = 10.0  # 0-255 pixel scale, in every part
STEPS = 10


@dataclass(frozen=True)
class Options:
    """The parts to measure, and their extent."""

    parts: tuple[str, ...]
    networks: tuple[str, ...]  # timm's names, for limit and peers
    families: tuple[str, ...]  # timm's names, for formats
    size: int | None  # pixels; None: each network's own
    device: str
    threads: int
    precision: str
    images: int  # of limit, peers and formats
    rounds: int
    demo_sources: tuple[str, ...]
    demo_images: int
    real_images: int
    rows: int  # of records
    out: Path

    @property
    def cells(self) -> Path:
        """Folder of the demo suite's cells while they are measured."""
        return self.out / "cells"

    @property
    def how(self) -> dict[str, Any]:
        """Keywords of `interleave` on the demo suite, so quick that a first call would show."""
        return {"device": self.device, "warm": self.rounds > 1}

    def overrides(self, *more: str) -> list[str]:
        """Return the overrides of a config that runs by these options."""
        own = (f"device={self.device}", f"threads={self.threads}", f"precision={self.precision}")
        return [*own, "progress=false", *more]


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ConfigErrors of one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; python -m scripts.bench --help lists the options")


def read(arguments: Sequence[str], text: str | None = None) -> Options:
    """Read the options of a command line; --help begins with `text`.

    Raises ConfigError for what cannot be measured.
    """
    given = vars(_parser(text).parse_args(arguments))
    parts = _known("--parts", given.pop("parts") or PARTS, PARTS)
    names = given.pop("network")
    full_size = {"limit", "peers"} & set(parts)
    checked: dict[str, Any] = {
        "parts": parts,
        "networks": _networks(names or ("inception_v3", "vgg16")) if full_size else (),
        "families": _networks(names or FAMILIES) if "formats" in parts else (),
        "device": _device(given["device"]),
        "threads": given["threads"] or _all_threads(),
        "demo_sources": _known(
            "--demo-sources", given["demo_sources"] or DEMO_SOURCES[:1], DEMO_SOURCES
        ),
    }
    return Options(**given | checked)


def _parser(text: str | None) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m scripts.bench",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--parts", action="append", help=f"of {', '.join(PARTS)} (default: all)")
    add(
        "--network",
        action="append",
        help="timm's names (default: inception_v3,vgg16; for formats more)",
    )
    add("--size", type=_whole, help="pixels of its images (default: each network's own)")
    add("--images", type=_whole, default=4, help="at full size (default 4)")
    add("--rounds", type=_whole, default=3, help="of every measurement (default 3)")
    add("--demo-sources", action="append", help="networks of the demo suite (default: inc_v3)")
    add("--demo-images", type=_whole, default=800, help="of the demo suite (default 800)")
    add("--real-images", type=_whole, default=64, help="of the NIPS 2017 set (default 64)")
    add("--rows", type=_whole, default=1_000_000, help="of made-up records (default 1000000)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--threads", type=_whole, help="of the CPU (default: all cores)")
    add("--precision", choices=CHOICES["precision"], default="fp32", help="(default fp32)")
    add("--out", type=Path, default=Path("outputs/bench"), help="folder (default outputs/bench)")
    return parser


def _whole(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number, 1 or more")
    return number


def _listed(given: Sequence[str]) -> tuple[str, ...]:
    """Return every name once, of arguments that may be lists with commas."""
    return tuple(dict.fromkeys(name for item in given for name in item.split(",") if name))


def _known(option: str, given: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return an option's names in the order of the known ones."""
    names = _listed(given)
    for name in names:
        if name not in known:
            raise ConfigError(f"{option} {name} is unknown: {nearest(name, known)}")
    return tuple(name for name in known if name in names)


def _networks(given: Sequence[str]) -> tuple[str, ...]:
    import timm

    names = _listed(given)
    for name in names:
        if not timm.is_model(name):
            hint = nearest(name, timm.list_models(), "timm.list_models() has all names")
            raise ConfigError(f"--network {name} is not a name of timm's: {hint}")
    return names


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as e:
        raise ConfigError(f"--device {name} is not there: use cpu or auto") from e
    return name


def _all_threads() -> int:
    import torch

    return torch.get_num_threads()
