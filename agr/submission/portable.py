"""Records that go on a journey: a cell's rows in one file, and a run.json that names no place."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, fields
from itertools import accumulate
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agr.records.held import held_by
from agr.records.part_files import PartFile, once, write_part_file
from agr.records.places import PLACE, shared_command, texts_of
from agr.records.progress import Wanted
from agr.records.run_info import RunInfo
from agr.records.schema import TABLES
from agr.records.store import Records
from agr.submission.claimed import Entry
from agr.utils.errors import ConfigError
from agr.utils.hub import HUB
from agr.utils.packages import PACKAGE

# A cell of 100 images and 3 targets takes 22 KB with these and without the columns' descriptions,
# else 32 KB.
SMALL = {"compression_level": 19, "write_statistics": False}
UNREAD = "its file could not be read"


def pack(entry: Entry, to: Path) -> Records:
    """Write a cell's rows and run.json below an empty folder `to`, as others can have them.

    Rows of the entry's images stay whole, and are in one file for each number of slots that they
    were made with. Traces, scored steps and saved images stay behind. Raises ConfigError for
    records that are damaged, or that name a place of this machine.
    """
    cell, run, records = entry
    packed, told = Records(to), without_places(run, cell.targets)
    told.config["n_images"] = n = cell.config.n_images
    # As far as sessions say it: whoever crafted the images that aren't claimed left no time.
    made = accumulate((session.images for session in run.sessions), initial=0)
    told.sessions = [s for s, before in zip(told.sessions, made, strict=False) if before < n]
    for place, text in texts_of(asdict(told)):
        if PLACE.search(text):
            raise ConfigError(
                f"{records.folder}: {place} names a place of this machine, {text!r:.100}: give the "
                "network or defense a name in a suite of your own, and run the cell with that"
            )

    def describe(new: RunInfo) -> None:
        for each in fields(RunInfo):
            setattr(new, each.name, getattr(told, each.name))

    packed.update_run(describe)
    for number, (about, table) in enumerate(_merged(entry)):
        write_part_file(PartFile(to, "rows", "0of1", number), table, about, **SMALL)
    packed.update_run(lambda new: setattr(new, "held", held_by(packed)))
    return packed


def _merged(entry: Entry) -> Iterator[tuple[dict[str, int], pa.Table]]:
    """Yield the rows of an entry's images once, by what their parts were made with."""
    parts, schema = entry.records.part_files("rows"), TABLES["rows"]
    abouts = [part.about() for part in parts]
    numbers = [abouts.index(about) for about in abouts]  # of the first that is the same
    tables = [part.read(schema.names) for part in parts]
    tables = [
        table.append_column("about", pa.repeat(n, len(table)))
        for table, n in zip(tables, numbers, strict=True)
    ]
    rows = once(pa.concat_tables(tables), "rows")
    rows = rows.filter(pc.less(rows["position"], Wanted(entry.cell, entry.run).n))
    plain = pa.schema([field.remove_metadata() for field in schema])
    for n in sorted({*numbers}):
        mine = rows.filter(pc.equal(rows["about"], n)).drop_columns("about").cast(plain)
        yield abouts[n], mine.sort_by([("target", "ascending"), ("position", "ascending")])


def without_places(run: RunInfo, targets: list[str]) -> RunInfo:
    """Return run.json's content without paths of this machine, and with the scored `targets`.

    Files are named without their folders: a cell's identity takes weights by name and hash, and
    images by their hash. What can't be known elsewhere is left empty.
    """
    told = copy.deepcopy(run)
    told.held, told.command = None, shared_command(run.command)
    told.bad_images = dict.fromkeys(run.bad_images, UNREAD)
    config = told.config
    config |= {"outputs": "outputs", "shard": "0/1", "targets": targets, "experiment": None}
    config |= {"trace": False, "score_steps": None, "save_adversarials": False}
    config["data"] = {"root": None, "labels": None, "cache": False}
    suite = config["suite"]
    suite |= {"root": None, "labels": None}
    short = _short_names([network["weights"] for network in suite["networks"].values()])
    for network in suite["networks"].values():
        network["weights"] = short[network["weights"]]
    config["defenses"] = _without_folders(config["defenses"])
    if isinstance(given := config["lpips"], str | list):
        config["lpips"] = [PurePath(n).name for n in ([given] if isinstance(given, str) else given)]
    if images := config["attack"].get("images"):
        images["folder"] = "images"
    return told


def _short_names(weights: list[str]) -> dict[str, str]:
    """Return the names of weight files without their folders; different files have different ones.

    What the hub or an installed package has is named as it was.
    """
    short: dict[str, str] = {}
    for each in weights:
        if each not in short and (each.startswith((HUB, PACKAGE)) or "://" in each):
            short[each] = each
        elif each not in short:
            name = PurePath(each).name
            again = sum(PurePath(other).name == name for other in short)
            short[each] = f"{again + 1}/{name}" if again else name
    return short


def _without_folders(node: Any) -> Any:
    """Return the config of defenses, their files without folders."""
    if isinstance(node, dict):
        name = {"file": PurePath(node["file"]).name} if isinstance(node.get("file"), str) else {}
        return {key: _without_folders(value) for key, value in node.items()} | name
    return [*map(_without_folders, node)] if isinstance(node, list) else node
