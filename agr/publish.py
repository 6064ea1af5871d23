"""Write finished cells as a data set, in the layout of the Hugging Face Hub.

python -m agr.publish CELL [CELL ...] to=FOLDER repo=OWNER/NAME license=ID [version=1.0.0]

CELL is a folder of records. FOLDER gets data/rows.parquet (all rows of all cells),
data/cells.parquet (a row per cell), README.md (the card) and croissant.json (Croissant 1.1). It
holds no images and no paths of this machine. The licence of the tables is yours to choose, such as
cc-by-4.0. Cells that are unfinished or damaged are refused. Nothing is sent: the command that
uploads is printed. For example:

    python -m agr.publish outputs/demo/*-linf-* to=transfer repo=me/transfer license=cc-by-4.0
"""

from __future__ import annotations

import datetime
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from agr.config.load import stored_cell
from agr.config.overrides import parse_pairs
from agr.jobs.console import script
from agr.records.audit import check_records
from agr.records.progress import progress
from agr.records.store import Records
from agr.report.dataset.card import card
from agr.report.dataset.croissant import croissant
from agr.report.dataset.facts import Request, about_of
from agr.report.dataset.tables import Finished, check_names, write_tables
from agr.utils.errors import ConfigError
from agr.utils.files import naming, whole_folder, write_content, write_json
from agr.utils.text import plural, printable

FORMS = {
    "repo": (r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", "OWNER/NAME, as on the Hub"),
    "license": (r"[A-Za-z0-9][\w.+-]*", "an identifier such as cc-by-4.0, cc0-1.0 or apache-2.0"),
    "version": (r"\d+\.\d+\.\d+", "MAJOR.MINOR.PATCH, such as 1.0.0"),
}


def main(arguments: Sequence[str]) -> None:
    """Parse the arguments, check the cells, and write the folder whole or not at all."""
    to, request, folders = _parse(arguments)
    found = [_finished(folder) for folder in folders]
    by_id = {of.cell.id: of for of in found}
    for of in found:
        if (twin := by_id[of.cell.id]) is not of:
            raise ConfigError(
                f"{of.records.folder} and {twin.records.folder} are the same cell: leave one out"
            )
    with whole_folder(to) as draft:
        with naming(to):
            tables = write_tables(found, draft)
        about = about_of(request, found, tables)
        write_content(draft / "README.md", card(about, tables, found).encode())
        write_json(draft / "croissant.json", croissant(about, tables, draft))
    print(printable(f"{plural(tables[0].rows, 'row')} of {plural(len(found), 'cell')}: {to}"))
    upload = shlex.join(["hf", "upload", request.repo, str(to), ".", "--repo-type", "dataset"])
    print(f"to upload it: {upload}")


def _parse(arguments: Sequence[str]) -> tuple[Path, Request, list[Path]]:
    words = [word for word in arguments if re.match(r"\w+=", word)]
    folders = list(dict.fromkeys(Path(word).resolve() for word in arguments if word not in words))
    given = {"version": "1.0.0"} | parse_pairs(words, ("to", *FORMS))
    if not folders or {*given} != {"to", *FORMS} or given["to"] is None:
        raise ConfigError(
            "give folders of cells, to=FOLDER, repo=OWNER/NAME, license=ID, perhaps version=1.0.0"
        )
    for key, (form, way) in FORMS.items():
        if not re.fullmatch(form, str(given[key]), re.ASCII):
            raise ConfigError(f"{key}={given[key]}: give {way}")
    to = Path(str(given["to"])).expanduser()
    if to.exists() or to.is_symlink():
        raise ConfigError(f"to={to} already exists: give the name of a new folder")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    repo, license, version = (str(given[key]) for key in FORMS)
    return to, Request(repo, license, version, today), folders


def _finished(folder: Path) -> Finished:
    """Read a cell's run.json and check its records. Raises ConfigError unless all is there."""
    records = Records(folder)
    run = records.run()
    if run is None:
        raise ConfigError(f"{folder} has no records: give the folder of a cell")
    report = check_records(records)
    if report.problems:
        raise ConfigError(
            f"{folder} is damaged: {report.problems[0]}: agr verify says more; restore it, or "
            "leave it out"
        )
    cell = stored_cell(run.config, folder)
    state = progress(cell, records)
    if state.missing:
        raise ConfigError(
            f"{folder} is unfinished ({state.word}): agr run goes on with it; or leave it out"
        )
    check_names(found := Finished(cell, records, run))
    return found


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]), __doc__)
