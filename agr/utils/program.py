"""The program as it is installed: its version, how it is called, and another one of its name."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

__version__ = "0.1.0"
DISTRIBUTION = "agr-bench"  # on the Python package index, where `agr` is another program
PACKAGE = Path(__file__).resolve().parents[1]
# Our commands as a checkout has them.
COMMAND = re.compile(r"python (?:-m agr[. ]|scripts/make_)(\w+)(?:\.py)?")


def is_agr(words: Sequence[str]) -> bool:
    """Return whether `words`, which follow "python", start the installed program `agr`."""
    return Path("".join(words[:1])).stem == "agr"


def as_called(text: str) -> str:
    """Return a text with our commands as they work here.

    They are those of a checkout, `python -m agr.run` or `python scripts/make_tables.py`, or begin
    with `agr` where there is none, and where that was started: perhaps from another folder.
    """
    installed = (PACKAGE / "conf").is_dir()
    return COMMAND.sub(r"agr \1", text) if installed or is_agr(sys.orig_argv[1:]) else text


def other_program() -> str:
    """Say in a line that a distribution named `agr` is installed beside ours; "" if none is."""
    from importlib import metadata  # a sixth of what `agr --help` takes

    try:
        found = metadata.version("agr")
    except metadata.PackageNotFoundError:
        return ""
    return (
        f"another distribution, agr {found}, is installed here, and what is named agr may be its "
        f"own or ours: pip uninstall agr {DISTRIBUTION}, then install {DISTRIBUTION} again"
    )
