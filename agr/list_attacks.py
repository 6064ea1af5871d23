"""List the attacks: python -m agr attacks [WORD ...] [--config-dir=FOLDER].

Of each its name, as in attack=NAME, the gradients that its T steps take for an image, its title and
its paper. Gradients are of three sources where an attack needs several; "~" says that they are
drawn, and this is their mean, "-" that another library counts them, "?" that a part of yours does.
WORDs narrow the list to lines that have them all, in any case. --config-dir adds your own attacks,
in FOLDER/attack. Those of other installed distributions stand with its name. For example:

    python -m agr attacks cvpr 2025
    python -m agr attacks targeted/
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import OmegaConf
from tabulate import tabulate

from agr.config.composer import hydra
from agr.config.cost import Cost
from agr.config.distributions import offers
from agr.config.overrides import flags_first, without_flags
from agr.config.schema import conf_dir
from agr.config.yaml_files import read_yaml
from agr.jobs.console import script
from agr.utils.errors import ConfigError

SOURCES = 3  # of an attack that needs several
# A sentence up to its last year in brackets, and the place in the paper after it.
PAPER = re.compile(
    r".*\b(19|20)\d\d\b[^)]*\)"
    r"(, (Algorithm|section|Eqs?\.) \w[\w.-]*\w?( and \w[\w.]*)?( (?=\d)\w+)?)*"
)


def main(arguments: Sequence[str]) -> None:
    """Print the attacks whose lines have all words."""
    given = flags_first(arguments)
    flags, words = (
        [word for word in given if word.startswith("-") is flag] for flag in (True, False)
    )
    if any(not flag.startswith(("--config-dir=", "-cd=")) for flag in flags):
        raise ConfigError(f"{' '.join(flags)}: give words and --config-dir=FOLDER, nothing else")
    tops = {Path(conf_dir()): "", **{o.folder: o.distribution for o in offers()}}
    tops |= {Path(flag.partition("=")[2]): "" for flag in flags}
    found = {
        name: (*heading(path), by) for top, by in tops.items() for name, path in _files(top).items()
    }
    kept = {
        name: texts
        for name, texts in found.items()
        if all(word.casefold() in " ".join((name, *texts)).casefold() for word in words)
    }
    if not kept:
        raise ConfigError(f"{' '.join(words)}: none of the {len(found)} attacks matches")
    costs = _costs([*kept], without_flags(flags))
    others = any(by for *_, by in kept.values())
    header = ["attack", "gradients", "title", "paper", *(["distribution"] if others else [])]
    rows = [[name, costs[name], *texts][: len(header)] for name, texts in kept.items()]
    align = ("left", "right", *["left"] * (len(header) - 2))
    print(tabulate(rows, header, disable_numparse=True, colalign=align))
    print(f"\n{len(kept)} of {len(found)} attacks")


def _files(top: Path) -> dict[str, Path]:
    """Find the files of attacks below a folder of configs; those that begin with _ are pieces."""
    paths = sorted((top / "attack").rglob("[!_]*.yaml"))
    return {path.relative_to(top / "attack").with_suffix("").as_posix(): path for path in paths}


def _costs(names: Sequence[str], searched: Sequence[str]) -> dict[str, str]:
    """Compose the attacks beside each other, which is quicker than as cells, and price them."""
    with hydra():
        beside = [f"+attack@a{i}={name}" for i, name in enumerate(names)]
        found = compose(None, [*searched, *beside])
    return {name: _cost(node) for name, node in zip(names, found.values(), strict=True)}


def _cost(attack: Any) -> str:
    if attack.get("library"):
        return "-"
    config = OmegaConf.create({"attack": attack, "steps": attack.steps})
    node: Any = OmegaConf.to_container(config.attack, resolve=True)
    try:
        cost = Cost.of(node, SOURCES if node["ensemble"] else 1)
    except ConfigError:  # parts of a package that isn't allowed
        return "?"
    return f"{'~' if cost.drawn else ''}{cost.total(attack.steps):,.0f}"


def heading(path: Path) -> tuple[str, str]:
    """Return the title of an attack's file, and the paper that its first comment names."""
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("# @")]
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), None)
    comment = " ".join(line.removeprefix("#").strip() for line in lines[:first])
    sentences = [s for s in re.split(r"(?<! al)(?<!Eq)(?<!Eqs)(?<!\.)\.(?: |$)", comment) if s]
    paper = next((m[0] for m in map(PAPER.match, sentences) if m), None)
    # Without a paper, the first sentence that isn't just an abbreviation.
    plain = next((sentence for sentence in sentences if " " in sentence), comment)
    file = read_yaml(path)
    return str(file.get("title", "")) if isinstance(file, dict) else "", paper or plain


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]), __doc__)
