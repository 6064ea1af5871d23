"""Make our own entries: python scripts/make_entries.py FOLDER [FOLDER ...] to=leaderboard

FOLDER holds the cells of a suite, as outputs/demo does. Each attack that has finished cells there
becomes the entry to/SUITE-ATTACK, with the paper that its YAML names; an entry of before is
replaced. Cells that aren't finished are left out, by name. For example:

    python scripts/make_entries.py outputs/real-leaderboard/lite-nips17 to=leaderboard
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from agr import submit
from agr.config.overrides import parse_pairs
from agr.config.schema import conf_dir
from agr.jobs.console import script
from agr.list_attacks import heading
from agr.records.folders import cell_folders
from agr.records.store import Records
from agr.submission.claimed import entry_of
from agr.utils.errors import ConfigError, first_line
from agr.utils.files import DRAFT
from agr.utils.hashing import slug

YEAR = re.compile(r"\b(19|20)\d\d\b")  # that a paper is named with


def main(arguments: Sequence[str]) -> None:
    """Parse the arguments and make an entry of each attack."""
    given = parse_pairs([word for word in arguments if "=" in word], ("to",))
    folders = [Path(word) for word in arguments if "=" not in word]
    if not folders or not given:
        raise ConfigError("give folders of a suite's cells and to=FOLDER")
    attacks: dict[tuple[str, str], list[Path]] = {}
    for place in (cell for folder in folders for cell in cell_folders(folder, "*")):
        try:
            cell = entry_of(Records(place)).cell
        except ConfigError as e:
            print(f"left out: {first_line(e)}")
            continue
        attacks.setdefault((cell.suite.name, cell.config.attack.name), []).append(place)
    for (suite, attack), cells in sorted(attacks.items()):
        name = slug(f"{suite}-{attack}".replace("/", "-"))
        _replace(Path(str(given["to"]), name), attack, cells)


def _replace(to: Path, attack: str, cells: Sequence[Path]) -> None:
    """Make the entry of an attack's cells in place of the one that was there."""
    file = Path(conf_dir(), "attack", f"{attack}.yaml")
    paper = heading(file)[1] if file.exists() else ""
    facts = [f"paper={paper}"] if YEAR.search(paper) else []
    before = to.with_name(f".{to.name}{DRAFT}")
    if to.exists():
        to.rename(before)
    try:
        submit.main([*map(str, cells), f"name={attack}", "by=agr", f"to={to}", *facts])
    except BaseException:
        if before.exists():
            before.rename(to)
        raise
    shutil.rmtree(before, ignore_errors=True)


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]), __doc__)
