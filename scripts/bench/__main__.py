"""Measure agr beside a bare loop and the field's libraries.

    python -m scripts.bench                                   # everything, about an hour
    python -m scripts.bench --parts limit,peers --network resnet50 --images 8
    python -m scripts.bench --parts stops --demo-sources inc_v3,vgg16

limit     the pipeline beside the bare loop of forwards and gradients
peers     ten steps of I-FGSM and MI-FGSM beside torchattacks, foolbox and ART
many      attacks of many gradients per step, beside a bare loop of as many
formats   channels_last against contiguous, for networks of many families
stops     attacks that stop once an image is fooled, on the demo suite
curve     ASR after every step: one run, or a run per step
row       craft on one network of the demo suite and score six
real      craft on a real network and score three: photographs of the NIPS 2017 set at NIPS17_DIR
growth    with images, targets and slots
startup   seconds until a command answers
records   status, tables and verify on a million made-up rows: seconds and memory

Writes bench.parquet (a row per part, setting, contender and round) and bench.md, and prints it.
The machine should have nothing else to do.
"""

from __future__ import annotations

import shutil
import sys

from agr.jobs.console import guard
from agr.utils.process import keep_freed_memory
from scripts.bench.options import PARTS, Options, read


def main() -> None:
    """Measure the parts that the command line names."""
    options = read(sys.argv[1:], __doc__)
    options.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(options.cells, ignore_errors=True)
    try:
        measure(options)
    finally:
        shutil.rmtree(options.cells, ignore_errors=True)


def measure(options: Options) -> None:
    """Measure the parts of the options; the report is written anew after each."""
    import torch

    from scripts.bench import (
        demo,
        files,
        formats,
        full_size,
        growth,
        many,
        records,
        report,
        row,
        startup,
    )
    from scripts.bench.timing import Measurement, frame_of

    measures = {
        "limit": full_size.measure,  # with "peers", in the same rounds
        "many": many.many,
        "formats": formats.formats,
        "stops": demo.stops,
        "curve": demo.curve,
        "row": row.row,
        "real": row.real,
        "growth": growth.growth,
        "startup": startup.startup,
        "records": records.records,
    }
    wanted = ["limit" if part == "peers" else part for part in PARTS if part in options.parts]
    about, rows, text = files.about(options), list[Measurement](), ""
    for part in dict.fromkeys(wanted):
        torch.set_num_threads(options.threads)
        if part != "limit":  # those are measured in a process as a user of any library has it
            keep_freed_memory()
        for more in measures[part](options):
            rows += more
            frame = frame_of(rows)
            text = report.markdown(frame, about)
            paths = files.write(frame, text, about, options.out)
    print(text)
    print("written:", *paths)


if __name__ == "__main__":
    guard(main, keep_memory=False)
