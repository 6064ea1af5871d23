"""The card of a data set: README.md, as the Hugging Face Hub reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from agr.records.places import shared_command
from agr.report.dataset.croissant import About
from agr.report.dataset.facts import licences
from agr.report.dataset.tables import Finished, Written
from agr.report.formats import bullets, pipe_table
from agr.report.numbers import MARKDOWN
from agr.report.page import provenance
from agr.utils.text import plural

# The Hub's classes of size, by the rows that are fewer.
SIZES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
    100_000_000: "10M<n<100M",
    1_000_000_000: "100M<n<1B",
}
SPLIT = "test"  # nothing here is to train on
MOST_COMMANDS = 50


def card(about: About, tables: Sequence[Written], of: Sequence[Finished]) -> str:
    """Return README.md of a data set of some cells."""
    rows = tables[0].rows
    front = {
        "license": about.license.lower(),
        "pretty_name": about.title,
        "tags": list(about.keywords),
        "task_categories": ["image-classification"],
        "size_categories": [next((size for n, size in SIZES.items() if rows < n), "n>1B")],
        "configs": [_config(table, default=table is tables[0]) for table in tables],
    }
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {MARKDOWN.escape(about.title)}",
        MARKDOWN.escape(about.description),
        _loading(about, tables),
        *(_columns(table) for table in tables),
        "## How it was made",
        bullets([f"{term}: {text}" for term, text in provenance([run for _, _, run in of])]),
        _commands(of),
        "## Limits",
        bullets([*about.rai["dataLimitations"], *about.rai["dataBiases"]]),
        "No adversarial or clean image is part of the data set.",
        "## Uses",
        bullets(list(about.rai["dataUseCases"])),
        "## Personal information",
        bullets(list(about.rai["personalSensitiveInformation"])),
        "## Licences",
        f"The tables: {about.license}. What they were computed from:",
        bullets(licences(of)),
        "## Citation",
        "Please cite the paper of each attack that you use, and agr:",
        f"```bibtex\n{about.citation}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _config(table: Written, *, default: bool) -> dict[str, Any]:
    files = [{"split": SPLIT, "path": table.path}]
    found: dict[str, Any] = {"config_name": table.name, "data_files": files}
    return found | ({"default": True} if default else {})


def _loading(about: About, tables: Sequence[Written]) -> str:
    said = [f"`{t.path}`: {t.about} {plural(t.rows, 'row')}." for t in tables]
    code = "\n".join(
        [
            "```python",
            "import pandas as pd",
            "",
            f'rows = pd.read_parquet("hf://datasets/{about.repo}/{tables[0].path}")',
            'rows.groupby(["attack", "norm", "eps", "source", "target"])["success"].mean()',
            "```",
        ]
    )
    return "\n".join(f"- {line}" for line in said) + f"\n\n{code}"


def _columns(table: Written) -> str:
    """Return the columns of a table, with types, units and meanings."""
    lines = [
        [f.name, str(f.type), f.metadata[b"unit"].decode(), f.metadata[b"meaning"].decode()]
        for f in table.schema
    ]
    listed = pipe_table(["column", "type", "unit", "meaning"], lines)
    return f"## Columns of `{table.name}`\n\n{listed}"


def _commands(of: Sequence[Finished]) -> str:
    """Return the commands of the cells, without places of files."""
    commands = list(dict.fromkeys(shared_command(run.command) for _, _, run in of))
    more = len(commands) - MOST_COMMANDS
    rest = [f"# and {more} more: column command of cells"] if more > 0 else []
    return "\n".join(["```sh", *commands[:MOST_COMMANDS], *rest, "```"])
