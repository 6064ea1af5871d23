"""Write adversarial images as other programs read them: PNGs and a labels.csv.

python -m agr.export CELL [CELL ...] to=FOLDER [clean=true]

CELL is a folder of records of a run with save_adversarials=true. FOLDER gets ID.png of each saved
image and labels.csv (filename,label,targeted_label), of several cells in a folder each; with
clean=true also clean/, the same of the clean images. The pixels are those that were scored.
For example:

    python -m agr.export outputs/demo/agr-linf-10-inc_v3-* to=images clean=true
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from agr.config.overrides import parse_pairs
from agr.jobs.console import script
from agr.records.store import Records, image_of
from agr.report.formats import FORMULA
from agr.utils.errors import ConfigError
from agr.utils.files import write_content
from agr.utils.pixels import write_png
from agr.utils.text import plural, printable

COLUMNS = ["filename", "label", "targeted_label"]


def main(arguments: Sequence[str]) -> None:
    """Parse the arguments and write the images of each cell."""
    given = parse_pairs([word for word in arguments if "=" in word], ("to", "clean"))
    folders = [Path(word) for word in arguments if "=" not in word]
    if not folders or not given.get("to"):
        raise ConfigError("give folders of cells and to=FOLDER, perhaps clean=true")
    if type(given.get("clean", False)) is not bool:
        raise ConfigError(f"clean={given['clean']}: give true or false")
    to = Path(str(given["to"])).expanduser()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"to={to} already exists: give the name of a new folder")
    cells = {folder.resolve(): Records(folder) for folder in folders}
    places = {folder: to if len(cells) == 1 else to / folder.name for folder in cells}
    for folder, place in places.items():
        if twin := next((f for f in places if f != folder and places[f] == place), None):
            raise ConfigError(
                f"{folder} and {twin} would both be written to {place}: export them one at a time, "
                "each with its own to=FOLDER"
            )
    for folder, records in cells.items():
        if records.run() is None:
            raise ConfigError(f"{folder} has no records: give the folder of a cell")
        if not records.positions("adversarials"):
            raise ConfigError(
                f"{folder} has no saved images: run it again with save_adversarials=true"
            )
        names = map(file_name, records.read("adversarials", ["image_id"])["image_id"])
        if formula := next(filter(FORMULA.match, names), None):
            raise ConfigError(
                f"{folder}: {formula} would be a formula in labels.csv, which has to name files as "
                "they are: give the image another name, and run it again"
            )
    for folder, records in cells.items():
        n = export(records, places[folder], clean=bool(given.get("clean")))
        print(printable(f"{plural(n, 'image')} of {records.folder}: {places[folder]}"))


def file_name(image_id: str) -> str:
    """Return the name of an image's file."""
    return f"{image_id}.png"


def export(records: Records, to: Path, *, clean: bool = False) -> int:
    """Write the saved images of a cell below `to`, with their labels, and count them."""
    kinds = {"pixels": to} | ({"clean_pixels": to / "clean"} if clean else {})
    labels: list[tuple[str, Any, Any]] = []
    for folder in kinds.values():
        folder.mkdir(parents=True, exist_ok=True)
    for rows in records.saved_images(records.positions("adversarials")):
        for row in rows:
            name = file_name(row["image_id"])
            target = "" if row["target_label"] is None else row["target_label"]
            labels.append((name, row["label"], target))
            for column, folder in kinds.items():
                write_png(folder / name, image_of(row, column))
    listed = pd.DataFrame(sorted(labels), columns=COLUMNS).to_csv(index=False)
    for folder in kinds.values():
        write_content(folder / "labels.csv", listed.encode())
    return len(labels)


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]), __doc__)
