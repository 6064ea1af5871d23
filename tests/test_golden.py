"""What no refactoring may change: identities of cells, bits of images, tables and error texts.

The golden files are beside this one. `python -m tests.test_golden` writes them again: do that only
where a change is meant, and say so in the commit.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

from agr.attacks import Attack
from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.schema import conf_dir
from agr.evaluation.crafting import attack_of, items_of
from agr.evaluation.inputs import check_inputs
from agr.evaluation.predictions import Evaluator
from agr.evaluation.runner import run_cell
from agr.evaluation.scoring import image_hash
from agr.evaluation.selection import select
from agr.records.store import Records
from agr.report.leaderboard import write_leaderboards
from agr.report.notes import closing
from agr.report.tables import write_tables
from agr.utils.pixels import to_levels
from tests.madeup import record

HERE = Path(__file__).parent / "golden"
TABLES = HERE / "tables"


def read(name: str) -> Any:
    return json.loads((HERE / name).read_text(encoding="utf-8"))


# ---- identities of cells -------------------------------------------------------------------------


WITHIN = {"leaderboard", "paper", "readings", "real"}  # whose cells others have, too


def identities() -> dict[str, dict[str, str]]:
    """The id of every cell of every experiment, by its folder's name."""
    paths = Path(conf_dir(), "experiment").glob("*.yaml")
    names = sorted({path.stem for path in paths} - WITHIN)
    return {
        name: {cell.name.removesuffix(f"-{cell.id}"): cell.id for cell in cells}
        for name in names
        if (cells := expand([f"experiment={name}"]))
    }


@pytest.mark.slow
def test_cells_keep_their_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIPS17_DIR", raising=False)  # with it, a suite has another name
    assert identities() == read("cells.json")


# ---- bits of images ------------------------------------------------------------------------------

HOW = ["n_images=6", "slots=32", "threads=2", "memory_format=channels_last", "progress=false"]
BITS = {
    "agr": ["attack=agr", "source=vgg16", "targets=[vgg16]"],
    "mifgsm in L2": ["attack=mifgsm", "norm=l2", "source=res152", "targets=[res152]"],
    "difgsm": ["attack=difgsm", "source=vgg16", "targets=[vgg16]"],
    "library/ddn": ["attack=library/ddn", "norm=l2", "source=vgg16", "targets=[vgg16]"],
}


def crafted(name: str, outputs: Path) -> tuple[Cell, dict[str, str]]:
    """A small cell and the digest of each of its images, by id."""
    (cell,) = expand([*HOW, *BITS[name], f"outputs={outputs}"])
    rows = run_cell(cell, lambda _: None).read("rows", ["image_id", "adv_sha256"])
    return cell, dict(sorted(zip(rows["image_id"], rows["adv_sha256"], strict=True)))


def identity(cell: Cell) -> dict[str, Any]:
    return dict(json.loads(Records(cell.folder).run_file.read_text())["numeric"])


def in_a_plain_loop(cell: Cell) -> dict[str, str]:
    """The same images from a plain call of the attack on one padded batch."""
    run = Records(cell.folder).run()
    assert run is not None
    assert run.numeric is not None
    numeric = run.numeric
    evaluator = Evaluator(cell, numeric, check_inputs(cell).manifest)
    attack, size = attack_of(cell), cell.chunk if cell.library else numeric.slots
    n = -(-cell.config.n_images // cell.chunk) * cell.chunk
    items = list(items_of(evaluator, select(evaluator, n).chosen))
    x = evaluator.source.as_input([item.pixels for item in items])
    y = torch.tensor([item.y for item in items])
    if isinstance(attack, Attack):
        lacking = size - len(items)
        x = torch.cat([x, x.new_zeros(lacking, *x.shape[1:])])
        y = torch.cat([y, y.new_zeros(lacking)])
        key = torch.tensor([item.key for item in items] + [0] * lacking)
        made = attack(evaluator.source, x.contiguous(memory_format=torch.channels_last), y, key)
    else:
        from agr.utils.hashing import draw

        made = attack(evaluator.source, x, y, draw(cell.config.seed, "chunk", 0))
    pixels = to_levels(made).to(torch.uint8).contiguous().numpy()
    found = {item.tag.entry.image_id: image_hash(p) for item, p in zip(items, pixels, strict=False)}
    mine = {item.tag.entry.image_id for item in items[: cell.config.n_images]}
    return dict(sorted((name, digest) for name, digest in found.items() if name in mine))


@pytest.mark.slow
@pytest.mark.parametrize("name", BITS)
def test_images_keep_their_bits(name: str, tmp_path: Path) -> None:
    """As stored where the numeric identity is this machine's, and as a plain loop everywhere."""
    cell, found = crafted(name, tmp_path)
    stored = read("bits.json")[name]
    if identity(cell) == stored["numeric"]:
        assert found == stored["images"]
    assert found == in_a_plain_loop(cell)


# ---- tables --------------------------------------------------------------------------------------

N = 40


def made_up(outputs: str) -> list[Cell]:
    """The paper's cells with records of runs that never were; two cells are left out."""
    cells = expand(["experiment=paper", "paper=true", f"n_images={N}", f"outputs={outputs}"])
    for cell in cells[:-2]:
        c = cell.config
        rng = np.random.default_rng(list(f"{c.attack.name} {c.norm.name} {cell.source}".encode()))
        hits = {
            t: rng.random(N) < (0.97 if cell.white_box(t) else rng.random()) for t in cell.targets
        }
        sizes = {
            k: (LEVELS.get(k, 1) * rng.uniform(low, high, N).round(6)).tolist()
            for k, (low, high) in SIZES.items()
        }
        steps = rng.integers(1, 11, N).tolist()
        record(
            cell, {t: v.astype(int).tolist() for t, v in hits.items()},
            label=1, clean_pred=1, adv_pred=2, source_clean_pred=1, source_adv_pred=2,
            steps_used=steps, backwards=steps, **sizes,
        )  # fmt: skip
    return cells


SIZES = {"linf": (0.02, 0.04), "l2": (1, 5), "mean_abs": (0.01, 0.03), "rel_l2": (0.01, 0.09),
         "cosine": (0.99, 1)}  # fmt: skip
LEVELS = dict.fromkeys(["linf", "l2", "mean_abs"], 255)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def tables(folder: Path) -> dict[str, str]:
    """Tables 1-3 and a leaderboard in all formats, and the table that ends a run."""
    with inside(folder):
        cells = made_up("outputs")
        paths = [*write_tables(cells, Path("tables")), *write_leaderboards(cells, Path("boards"))]
        found = {path.name: path.read_text(encoding="utf-8") for path in paths}
        return found | {"closing.txt": closing(cells[0]) + "\n"}


@pytest.mark.slow
def test_tables_keep_every_byte(tmp_path: Path) -> None:
    found = tables(tmp_path)
    assert found == {path.name: path.read_text(encoding="utf-8") for path in TABLES.iterdir()}


# ---- error texts ---------------------------------------------------------------------------------

WRONG = [
    *("attack=agrr", "norm=l1", "source=inc_v5", "targets=[vgg16,vgg91]", "epss=3", "+epss=3"),
    *("attack.chain.momentun.decay=3", "eps=-1", "eps=abc", "eps=0.03", "eps=256", "steps=1.5"),
    *("shard=3/3", "select=al", "success=targeted", "attack.size=fast", "attack.step.direction=up"),
    *("attack.step._target_=os.system", "suite.root=/nowhere", "ensemble=mean", "eps=2,4"),
    *("source=[inc_v3,inc_v3]", "source=vgg16/jpeg75", "targets=[vgg16/jpg75]"),
    *("targets=[vgg16/randpad/jpeg75]", "suite.networks.inc_v4.weights=/nowhere", "eps=["),
    *("experiment=papr", "suite.networks.inc_v3.mean=[0.5]", "shards=0", "norm=null"),
]  # fmt: skip


def error_of(words: Sequence[str], capture: Callable[[], str]) -> str:
    """What the command says of its words on stderr."""
    from agr.run import main

    before, sys.argv = sys.argv, ["agr", *words]
    full = os.environ.pop("HYDRA_FULL_ERROR", None)
    try:
        with pytest.raises(SystemExit, match="2"):
            main()
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if full:
            os.environ["HYDRA_FULL_ERROR"] = full
    return capture()


@pytest.mark.parametrize("word", WRONG)
def test_errors_keep_their_words(
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert error_of([word], lambda: capsys.readouterr().err) == read("errors.json")[word]


# ---- writing them --------------------------------------------------------------------------------


def main() -> None:
    """Write the golden files."""
    import contextlib
    import io

    def write(name: str, value: Any) -> None:
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        (HERE / name).write_text(text, encoding="utf-8")

    TABLES.mkdir(parents=True, exist_ok=True)
    write("cells.json", identities())
    with TemporaryDirectory() as place:
        bits = {}
        for name in BITS:
            cell, images = crafted(name, Path(place, "bits"))
            bits[name] = {"numeric": identity(cell), "images": images}
        write("bits.json", bits)
        for name, text in tables(Path(place)).items():
            (TABLES / name).write_text(text, encoding="utf-8")
        errors = {}
        with inside(Path(place)):
            for word in WRONG:
                with contextlib.redirect_stderr(io.StringIO()) as said:
                    error_of([word], lambda: said.getvalue())
                errors[word] = said.getvalue()
        write("errors.json", errors)


if __name__ == "__main__":
    main()
