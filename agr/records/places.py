"""Places of a machine in records that others get: they are found, and left out of commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

# Where a path begins in a text: at a root, a home or a drive. "https://a/b" and "vgg16/jpeg" don't.
PLACE = re.compile(r"(?<![^\s\"'=:,;(\[])(/[^\s/]+/|~[\w.-]*/|[A-Za-z]:[\\/](?!/)|\\\\)")
# Words of a command that say where it ran, and how it went about it.
ELSEWHERE = re.compile(
    r"\+*(outputs|data\.\w+|suite\.(root|labels)|lpips|hydra\.\w+|shards?|device|workers|wait"
    r"|resident|progress|part_seconds)="
)
PATH = re.compile(r"(?<![\w.])[~/][^,\]]*")  # in a word, perhaps one of a list


def shared_command(command: str) -> str:
    """Return the command of a run without its environment and without places of files.

    It is empty where the command is none that a shell would read.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    begin = next((i for i, word in enumerate(words) if not re.match(r"\w+=", word)), 0)
    kept = [without_paths(word) for word in words[begin:] if not ELSEWHERE.match(word)]
    return shlex.join(word for word in kept if not PLACE.search(word))


def without_paths(value: Any) -> Any:
    """Return plain data with "PATH" for the paths in its texts."""
    if isinstance(value, str):
        return PATH.sub("PATH", value)
    if isinstance(value, dict):
        return {key: without_paths(inner) for key, inner in value.items()}
    return [*map(without_paths, value)] if isinstance(value, list | tuple) else value


def texts_of(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield (place, text) for all texts of plain data, "config.source", names of keys included."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, list):
        for each in value:
            yield from texts_of(each, place)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield place or key, key
            yield from texts_of(each, f"{place}.{key}" if place else key)
