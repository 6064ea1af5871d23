"""YAML files: found by name, read as plain values, their problems said with the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from agr.config.schema import conf_dir
from agr.utils.errors import ConfigError, first_line, nearest


def named_file(key: str, name: str) -> Path:
    """Return the file that key=name means: name.yaml of conf/KEY, or a path. Raises ConfigError."""
    own = Path(conf_dir(), key)
    path = Path(name) if "/" in name or name.endswith((".yaml", ".yml")) else own / f"{name}.yaml"
    if not path.is_file():
        known = [file.stem for file in own.glob("*.yaml")]
        raise ConfigError(
            f"{key}={name}: {path} is not a file: {nearest(name, known)}, or give a file's path"
        )
    return path


def read_yaml(path: Path) -> Any:
    """Read a YAML file, as plain values only. Raises ConfigError with the file and line."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path} is not text in UTF-8 ({first_line(e)}): save it as such") from e
    except yaml.YAMLError as e:
        raise ConfigError(yaml_problem(e, str(path))) from e
    except RecursionError as e:
        raise ConfigError(f"{path} is nested hundreds of levels deep: mend it") from e
    except ValueError as e:  # of a number of 5,000 digits, or a date that no calendar has
        way_out = "a shorter number" if "digits" in str(e) else "another value, text in quotes"
        raise ConfigError(f"{path}: {first_line(e)}: give {way_out}") from e


def yaml_problem(e: yaml.YAMLError, name: str = "") -> str:
    """Text of an error in a YAML file; the error itself knows the name of a file it was given."""
    if isinstance(e, yaml.reader.ReaderError):
        return f"{name or e.name} is not YAML ({e.reason}): mend it"
    mark, problem = getattr(e, "problem_mark", None), getattr(e, "problem", None)
    line = f" line {mark.line + 1}" if mark else ""
    return f"{name or (mark.name if mark else 'a file')}{line}: {problem or first_line(e)}: mend it"
