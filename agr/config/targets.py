"""The `_target_` entries of a config node and the packages behind them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from agr.utils.hashing import digest


def targets_of(node: Any) -> Iterator[str]:
    """Yield every `_target_` of a config node, however deep."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from targets_of(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from targets_of(value)


def package_of(target: str) -> str:
    """Top-level package of a `_target_`."""
    return target.partition(".")[0]


def code_of(package: str) -> str:
    """Hash of a package's Python files, "" if it isn't found; nothing of it is run."""
    spec = PathFinder.find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    roots = [Path(place) for place in spec.submodule_search_locations or []]
    files = [(r, path) for r in roots for path in sorted(r.rglob("*.py"))]
    files = files or [(Path(spec.origin).parent, Path(spec.origin))]
    texts = ((str(p.relative_to(r)), hashlib.sha256(p.read_bytes()).hexdigest()) for r, p in files)
    return digest(list(texts))
