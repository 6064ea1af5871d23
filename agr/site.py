"""Write a leaderboard as a static site: python -m agr.site ENTRY [ENTRY ...] to=FOLDER [title=…]

ENTRY is a folder of agr.submit, or a folder of such folders. FOLDER gets index.html with every
board, a page and a CSV for each protocol (places by source and at equal cost, differences from the
best on the same images, who led when), and a card for each entry. The pages need no server and no
network; an earlier site in that folder is replaced. For example:

    python -m agr.site leaderboard to=site
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from agr.config.overrides import parse_pairs
from agr.jobs.console import script
from agr.records.claim import CLAIM
from agr.submission.boards import read_entries
from agr.submission.site import INDEX, site
from agr.utils.errors import ConfigError
from agr.utils.files import read_text, write_all
from agr.utils.text import plural, printable

TITLE = "Transfer of adversarial attacks: leaderboard"
FILES = "files.json"  # of a site: the names of the others, which the next one may replace


def main(arguments: Sequence[str]) -> None:
    """Parse the arguments, read the entries, and write the site."""
    given = parse_pairs([word for word in arguments if "=" in word], ("to", "title"))
    folders = [Path(word).expanduser() for word in arguments if "=" not in word]
    if not folders or not given.get("to"):
        raise ConfigError("give folders of entries and to=FOLDER, perhaps title=…")
    to = Path(str(given["to"])).expanduser()
    older = _older(to)
    entries = read_entries([entry for folder in folders for entry in _entries(folder)])
    files = site(entries, str(given.get("title") or TITLE))
    files[FILES] = json.dumps([*files], indent=1)
    write_all({to / name: text.encode() for name, text in files.items()}, older)
    print(printable(f"{plural(len(entries), 'entry', 'entries')}: {to / INDEX}"))


def _entries(folder: Path) -> list[Path]:
    """Return the entries in or below a folder. Raises ConfigError where there is none."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: give entries, as agr submit makes them")
    found = [folder] if (folder / CLAIM).exists() else []
    found = found or sorted(path.parent for path in folder.glob(f"**/{CLAIM}"))
    if not found:
        raise ConfigError(f"{folder} has no entry, which is a folder with a {CLAIM}")
    return found


def _older(to: Path) -> list[Path]:
    """Return the files of an earlier site. Raises ConfigError for a folder with any other file."""
    if not to.exists():
        return []
    if not to.is_dir():
        raise ConfigError(f"to={to} is a file: give the name of a folder")
    try:
        listed = {FILES, *json.loads(read_text(to / FILES))}
    except (OSError, ValueError, TypeError):
        listed = set()
    found = {path.relative_to(to).as_posix(): path for path in to.rglob("*") if not path.is_dir()}
    if foreign := [name for name, path in found.items() if name not in listed or path.is_symlink()]:
        raise ConfigError(
            f"to={to} has {foreign[0]}, which belongs to no site that agr wrote: give the name of "
            "a new folder"
        )
    return [*found.values()]


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]), __doc__)
