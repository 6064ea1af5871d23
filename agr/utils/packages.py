"""Files inside installed Python packages, which are found and never imported."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pathlib import Path

from agr.utils.errors import ConfigError

PACKAGE = "package:"


def package_file(name: str, what: str) -> Path:
    """Find a file that an installed package brought with it.

    Args:
        name: "package:DISTRIBUTION/PATH", both as `pip show --files DISTRIBUTION` prints them.
        what: what names the file, for messages.

    Raises ConfigError if the package isn't installed, or has no such file.
    """
    distribution, _, path = name.removeprefix(PACKAGE).partition("/")
    try:
        found = _files(distribution).get(path)
    except (metadata.PackageNotFoundError, ValueError) as e:  # ValueError: an empty name
        raise ConfigError(
            f"{what}: the package {distribution or name} is not installed: pip install "
            f"{distribution or 'DISTRIBUTION'}"
        ) from e
    if not found or not found.is_file():
        raise ConfigError(
            f"{what}: the package {distribution} has no file {path or name}: correct the path, or "
            f"pip install --force-reinstall {distribution}"
        )
    return found


@cache
def _files(distribution: str) -> dict[str, Path]:
    files = metadata.distribution(distribution).files or []
    return {str(file): Path(str(file.locate())) for file in files}
