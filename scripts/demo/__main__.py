"""Make the demo suite again, from seeds: its validation images and its networks.

    python -m scripts.demo                              # everything, into agr/assets/demo
    python -m scripts.demo --images-only
    python -m scripts.demo --only inc_v3 vgg16 --out /tmp/demo

One network takes 5 to 15 minutes on one core, all of them about two hours. With the default of one
thread the files come out bit by bit the same on the same kind of machine, whichever networks are
asked for. Another number of threads, kind of machine or version of torch gives other weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scripts.demo.recipes import RECIPES

ASSETS = Path(__file__).resolve().parents[2] / "agr" / "assets" / "demo"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        "python -m scripts.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder to write into")
    parser.add_argument("--only", nargs="+", choices=RECIPES, help="train these, make no images")
    parser.add_argument("--images-only", action="store_true", help="train nothing")
    parser.add_argument("--seed", type=int, default=0, help="of the networks (default 0)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    return parser.parse_args()


def main() -> None:
    """Write the files, and print each with its SHA-256."""
    options = arguments()
    if not options.only:
        from scripts.demo.images import write_validation

        print(write_validation(options.out), flush=True)
    if options.images_only:
        return
    import torch

    from scripts.demo.training import save, train

    torch.set_num_threads(options.threads)
    for name in options.only or RECIPES:
        path = options.out / "weights" / f"{name}.safetensors"
        print(f"{save(train(name, options.seed), path)}  {path}", flush=True)


if __name__ == "__main__":
    main()
