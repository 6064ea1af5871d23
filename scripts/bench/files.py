"""The files of a measurement, and the facts that its figures depend on."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import agr
from scripts.bench import peers
from scripts.bench.options import Options


def about(options: Options) -> dict[str, str]:
    """Return the facts that figures depend on, by title."""
    from agr.evaluation.provenance import git_commit

    device = options.device
    if device.startswith("cuda"):
        device += f" {torch.cuda.get_device_name(device)}"
    else:
        device += f" {torch.backends.cpu.get_cpu_capability()}"
    versions = [f"agr {agr.__version__}"]
    versions += [f"{name} {version(name)}" for name in ("torch", "timm", "numpy")]
    libraries = [
        f"{name} {peers.library_version(name) or 'not installed: skipped'}"
        for name in peers.PACKAGES
    ]
    facts = {
        "device": device,
        "threads": str(options.threads),
        "precision": options.precision,
        "rounds": str(options.rounds),
        "parts": ", ".join(options.parts),
        "versions": ", ".join([*versions, f"Python {platform.python_version()}"]),
        "libraries": ", ".join(libraries),
    }
    return facts | ({"commit": commit} if (commit := git_commit()) else {})


def write(frame: pd.DataFrame, text: str, about: dict[str, str], folder: Path) -> list[Path]:
    """Write `bench.parquet` and `bench.md` into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    parquet, report = folder / "bench.parquet", folder / "bench.md"
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table.replace_schema_metadata({"about": json.dumps(about)}), parquet)
    report.write_text(text, encoding="utf-8")
    return [parquet, report]
