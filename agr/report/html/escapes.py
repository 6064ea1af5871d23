"""Escaping of texts, data and programs for the page."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from markupsafe import Markup

from agr.utils.errors import ConfigError

# What could end a script element or open a comment in it; JSON has these signs in strings only.
IN_JSON = {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"}
SIGNS = re.compile("[<>&\u2028\u2029]")


def compact(value: Any) -> str:
    """JSON for a script element: nothing in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return SIGNS.sub(lambda sign: IN_JSON[sign[0]], text)


def size(text: str) -> int:
    """Bytes of a text in a file."""
    return len(text.encode("utf-8", "replace"))


@cache
def packed(package: str, path: str) -> Markup:
    """A package's program as gzip in base64: a third of its size, without signs of HTML."""
    content = gzip.compress(shipped(package, path).encode(), mtime=0)
    return Markup(base64.b64encode(content).decode())


def shipped(package: str, path: str) -> str:
    """A text file that an installed package brings along."""
    try:
        return (files(package) / path).read_text(encoding="utf-8")
    except (ModuleNotFoundError, FileNotFoundError) as e:
        raise ConfigError(
            f"the page needs {path} of the package {package}, which isn't there ({e}): "
            f"pip install --upgrade {package}"
        ) from e


def own(name: str) -> Markup:
    """A file beside this one; it is part of the program, so it isn't escaped."""
    return Markup((files("agr.report.html") / name).read_text(encoding="utf-8"))


def digest(script: str) -> str:
    """Return the name of a script that may run, as a content security policy has it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def json_value(value: Any) -> Any:
    """Return a value as JSON has it: arrays as lists, and null for what is not finite."""
    if isinstance(value, Mapping):
        return {str(k): json_value(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return json_value(value.tolist())
    if isinstance(value, list | tuple):
        return [json_value(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def data_block(value: Any) -> Markup:
    """JSON of a `json_value` as the content of a script element."""
    return Markup(compact(json_value(value)))


def data_url(png: bytes) -> str:
    """A picture as an address."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def anchor(name: str, taken: Mapping[str, Any]) -> str:
    """A name as an id that nothing else has."""
    base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "part"
    base = base if base[0].isalpha() else f"n{base}"
    i, found = 1, base
    while found in taken:
        i += 1
        found = f"{base}-{i}"
    return found
