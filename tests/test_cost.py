"""Transfer by step, at equal cost and over seeds: what a run keeps, and how it is shown."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from agr import load_attack
from agr.attacks import Pool
from agr.attacks.engine import craft
from agr.config.cell import Cell
from agr.config.compose import compose_cells, expand
from agr.config.cost import gradients_of
from agr.config.schema import conf_dir
from agr.evaluation.replay import recraft
from agr.evaluation.runner import run_cell
from agr.models.sources import Ensemble
from agr.records.audit import check_records
from agr.records.progress import finished
from agr.records.store import Records
from agr.report.comparison.axes import Options
from agr.report.comparison.numbers import Comparison
from agr.report.comparison.sheet import comparison_sheet
from agr.report.comparison.steps import after_steps, by_steps, steps_sheet
from agr.report.formats import markdown
from agr.report.frames import selected
from agr.utils.errors import ConfigError
from agr.utils.files import write_named
from tests.conftest import CLASSES, images
from tests.forked import run as score
from tests.madeup import record
from tests.oracles import network_for, side_for
from tests.test_engine import run, small_items, small_network

ATTACKS = sorted(p.stem for p in Path(conf_dir(), "attack").glob("*.yaml") if p.stem[0] != "_")


def cell_of(outputs: Path, *words: str) -> Cell:
    return expand(["n_images=6", "slots=8", *words, f"outputs={outputs}", "progress=false"])[0]


def run_quietly(cell: Cell) -> Records:
    return run_cell(cell, lambda _: None)


# ---- iterates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mifgsm", "nifgsm", "agr", "agr_float"])
def test_an_iterate_is_the_image_of_an_attack_that_ends_there(name: str) -> None:
    """With a step size that doesn't depend on T."""
    size = [f"attack.size={2.0}"]
    network, items = small_network(), small_items(9)
    whole = run(load_attack(name, overrides=size), network, items, 4, keep=(1, 3, 10))
    for steps in (1, 3, 10):
        short = run(load_attack(name, overrides=size, steps=steps), network, items, 9)
        for a, b in zip(whole, short, strict=True):
            assert np.array_equal(a.iterates[steps].image, b.image)
            assert a.iterates[steps].backwards == b.backwards
    assert all([*m.iterates] == [1, 3, 10] for m in whole)


def test_iterates_change_nothing_else() -> None:
    attack, network, items = load_attack("agr"), small_network(), small_items(9)
    plain, kept = (run(attack, network, items, 4, keep=keep) for keep in ((), (2,)))
    for a, b in zip(plain, kept, strict=True):
        assert np.array_equal(a.image, b.image)
        assert a._replace(image=None, iterates={}) == b._replace(image=None, iterates={})


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Records:
    outputs = tmp_path_factory.mktemp("scored")
    return run_quietly(cell_of(outputs, "attack=agr", "score_steps=[1,2,5,10,40]"))


@pytest.mark.slow
def test_rows_carry_the_step(scored: Records, tmp_path: Path) -> None:
    steps, rows = scored.read("steps"), scored.read()
    assert sorted(steps["step"].unique()) == [1, 2, 5, 10]  # T is 10
    assert len(steps) == 6 * 3 * 4
    both = steps.merge(rows, on=["position", "target"], suffixes=("", "_row"))
    over = both[both["step"] >= both["steps_used"]]
    assert (over["step"] > over["steps_used"]).any()
    for name in ("adv_pred", "adv_conf", "success", "backwards"):
        assert (over[name] == over[f"{name}_row"]).all()
    before = both[both["step"] < both["steps_used"]]
    assert (before["backwards"] == before["step"]).all()
    # The same images as a run that ends after one step of the same size would score.
    size = 10 / sum(i**-0.5 for i in range(1, 11))
    short = cell_of(tmp_path, "attack=agr", "steps=1", f"attack.size={size}")
    one = run_quietly(short).read().set_index(["position", "target"])
    first = steps[steps["step"] == 1].set_index(["position", "target"])
    assert (first["adv_pred"] == one["adv_pred"].loc[first.index]).all()
    assert (first["adv_conf"] == one["adv_conf"].loc[first.index]).all()


@pytest.mark.slow
def test_they_can_be_asked_for_later_and_are_the_same(scored: Records, tmp_path: Path) -> None:
    words = ["attack=agr", "n_images=6"]
    before = run_quietly(cell_of(tmp_path, *words)).read()
    asked = cell_of(tmp_path, *words, "score_steps=[5]")
    assert not finished(asked, Records(asked.folder))
    more = cell_of(tmp_path, *words, "score_steps=[1,2,5,10]", "shard=0/2")
    for cell in (asked, more, replace(more, config=replace(more.config, shard="1/2"))):
        records = run_quietly(cell)
    assert finished(more.whole, records)
    assert records.read().equals(before)
    order = ["position", "target", "step"]
    found, expected = (r.read("steps").sort_values(order) for r in (records, scored))
    assert found.reset_index(drop=True).equals(expected.reset_index(drop=True))
    assert check_records(records).problems == []


FORGED: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "answer": (lambda f: f.assign(adv_pred=(f["adv_pred"] + 1) % 10), "another adv_pred"),
    "success": (lambda f: f.assign(success=~f["success"]), "isn't what its predictions say"),
    "cost": (lambda f: f.assign(backwards=f["backwards"][::-1].to_numpy()), "backwards|add up"),
    "step": (lambda f: f.assign(step=f["step"] + 7), "beyond 10"),
    "label": (lambda f: f.assign(label=(f["label"] + 1) % 10), "another label"),
    "target": (lambda f: f.assign(target="vgg16"), "no row of its target"),
    "clean": (lambda f: f.assign(clean_pred=0), "another clean_pred"),
}


def forge(records: Records, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Change the table of iterates, under a hash that is right."""
    (part,) = records.part_files("steps")
    table = pq.read_table(part.path)
    changed = change(table.to_pandas())
    forged = pa.Table.from_pandas(changed, table.schema, preserve_index=False)
    part.path.unlink()
    sink = pa.BufferOutputStream()
    pq.write_table(forged, sink)
    stem = part.path.name.rpartition("-")[0]
    write_named(part.path.parent, stem, ".parquet", sink.getvalue().to_pybytes())


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORGED)
def test_forged_iterates_are_found(kind: str, scored: Records, tmp_path: Path) -> None:
    cell = cell_of(tmp_path, "attack=agr")
    shutil.copytree(scored.folder, cell.folder)
    records = Records(cell.folder)
    assert check_records(records).problems == []
    forge(records, FORGED[kind][0])
    assert re.search(FORGED[kind][1], " ".join(check_records(records).problems))


REFUSED = {
    "score_steps=[0,1]": "different numbers from 1 to 10",
    "score_steps=[2,2]": "different numbers",
    "score_steps=[]": "different numbers",
    "score_steps=[11]": "the attack takes 10 steps",
    f"steps=60 score_steps=[{','.join(map(str, range(1, 52)))}]": "at most 50 are scored",
    "attack=library/fmn_linf score_steps=[1]": "another program's",
    "gradients=70 steps=5": "follow from the gradients",
    "gradients=70 attack.steps=5": "follow from the gradients",
    "attack=library/fmn_linf gradients=70": "another program takes it",
    "attack=vmifgsm gradients=20": "takes 21 gradients for one step",
    "gradients=0": "takes 1 gradients for one step",
    "seeds=0": "not a number of seeds",
    "seeds=2 seed=1": "give one",
    "seeds=2,3": "not a number of seeds",
    "seeds=2 seeds=3": "not a number of seeds",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_is_said(words: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[words]):
        expand(words.split())


def test_attacks_of_one_step_have_no_later_iterates() -> None:
    """In a sweep, they keep the others from nothing."""
    cells = expand(["attack=fgsm,ifgsm", "gradients=10", "score_steps=[2,5]"])
    assert [cell.score_steps for cell in cells] == [[], [2, 5]]


def test_iterates_are_made_again(scored: Records, tmp_path: Path) -> None:
    """A forged one that agrees with itself is found by crafting once more, and by nothing else."""
    assert recraft(scored, 6, 0, ()) == (6, [])
    cell = cell_of(tmp_path, "attack=agr")
    shutil.copytree(scored.folder, cell.folder)
    records = Records(cell.folder)

    def lied(frame: pd.DataFrame) -> pd.DataFrame:
        first = (frame["step"] == 1) & (frame["target"] == "ir_v2")
        return frame.assign(adv_conf=frame["adv_conf"].mask(first, 0.125))

    forge(records, lied)
    early = records.read("steps").query("step == 1 and target == 'ir_v2'")
    rows = records.read().query("target == 'ir_v2'").set_index("position")
    assert (rows.loc[early["position"], "steps_used"] > 1).any()
    again, problems = recraft(records, 6, 0, ())
    assert again == 6
    assert problems
    assert all("on ir_v2, step 1 is" in problem for problem in problems)


@pytest.mark.slow
def test_new_targets_are_scored_from_saved_images(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, "attack=mifgsm", "save_adversarials=true", "score_steps=[2]")
    run_quietly(cell)
    done = score(["targets=[vgg16]", str(cell.folder)], module="agr.score")
    assert done.returncode == 0, done.stderr
    rows = Records(cell.folder).read()
    assert (rows["target"] == "vgg16").sum() == 6


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_a_budget_of_gradients_is_used_and_kept(name: str) -> None:
    """Counted by the engine, for every attack that there is: within a step of the budget."""
    if any(hasattr(stage, "charged") for stage in load_attack(name).chain):
        with pytest.raises(ConfigError, match="is drawn, 86 on average: give steps"):
            expand([f"attack={name}", "gradients=100"])
        return
    budget = 250 if name == "ops" else 100  # of which a step takes 201
    several = ["source=[inc_v3,inc_v4]"] if load_attack(name).ensemble else []
    cell = expand([f"attack={name}", f"gradients={budget}", *several])[0]
    single = load_attack(name).steps == 1
    attack = replace(load_attack(name, steps=cell.config.steps), stop=None)
    if size := attack.pool_size:
        attack = replace(attack, pool=Pool(images(size), torch.arange(size) % CLASSES))
    network, items = small_network(), small_items(2)
    layers = nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    network.body = nn.Sequential(*layers, nn.Linear(8, CLASSES)).double()  # takes any size
    if attack.surrogate or attack.objective:
        network.body, side = network_for(name), side_for(name)
        network.config = replace(network.config, size=side)
        items = [item._replace(pixels=np.resize(item.pixels, (3, side, side))) for item in items]
    source = Ensemble([network, network], "logits") if attack.ensemble else network
    made = list(craft(attack, source, items, 2))
    spent = {m.backwards for m in made}
    assert len(spent) == 1
    if single:
        assert cell.config.steps == 1
    else:
        most = gradients_of(attack.views, attack.chain, attack.ensemble, 2)
        assert 0 <= budget - spent.pop() < most


def test_an_ensemble_pays_for_every_member() -> None:
    one, two = (
        expand(["attack=mifgsm", "gradients=10", f"source={s}"])[0].config.steps
        for s in ("inc_v3", "[inc_v3,inc_v4]")
    )
    assert (one, two) == (10, 5)


def test_the_same_cell_by_steps_and_by_gradients() -> None:
    by_gradients, by_steps = (expand(["attack=mifgsm", w])[0] for w in ("gradients=7", "steps=7"))
    assert by_gradients.id == by_steps.id


def test_what_is_too_dear_is_left_out_and_shown(tmp_path: Path) -> None:
    cells, _, left_out = compose_cells(
        ["attack=ifgsm,vmifgsm", "gradients=10,42", f"outputs={tmp_path}", "n_images=4"]
    )
    assert [(c.config.attack.name, c.config.steps) for c in cells] == [
        ("ifgsm", 10), ("ifgsm", 42), ("vmifgsm", 2),
    ]  # fmt: skip
    (line,) = left_out
    for cell in cells:
        record(cell, {"inc_v3": [1] * 4, "inc_v4": [1, 0, 0, 0], "ir_v2": [1, 1, 0, 0]})
    text = markdown(comparison_sheet(Comparison(cells, Options(), left_out)))
    (row,) = [each for each in text.splitlines() if each.startswith("| VMI-FGSM | —")]
    assert "37.5" in row
    assert line.replace("_", r"\_") in text.replace("\\_", r"\_")


# ---- seeds ---------------------------------------------------------------------------------------


def test_seeds_are_short_for_a_sweep() -> None:
    cells = expand(["attack=agr,ifgsm", "seeds=3"])
    assert [c.config.seed for c in cells] == [0, 1, 2, 0, 1, 2]
    assert "seed=2" in cells[2].command()
    with pytest.raises(ConfigError, match="put -m first"):
        compose_cells(["seeds=3"], multirun=False)


# ---- the table and the figure --------------------------------------------------------------------


def iterates(cell: Cell, successes: dict[int, dict[str, list[int]]], spent: dict[int, int]) -> None:
    """Records whose scored iterates have these outcomes, by step and target."""
    last = max(successes)
    record(cell, successes[last], backwards=spent[last])
    blank = {"label": 0, "clean_pred": 0, "source_clean_pred": 0, "adv_pred": 1, "adv_conf": 0.5}
    steps = [
        blank | {"position": p, "image_id": f"image{p}", "target_label": None, "target": target}
        | {"step": step, "backwards": spent[step], "success": bool(hit)}
        for step, by_target in successes.items()
        for target, hits in by_target.items()
        for p, hit in enumerate(hits)
    ]  # fmt: skip
    Records(cell.folder).write_part("0/1", {"steps": steps, "rows": []})


def test_transfer_by_step_by_hand(tmp_path: Path) -> None:
    cells = expand(["attack=mifgsm,agr", f"outputs={tmp_path}", "n_images=4", "score_steps=[1,10]"])
    white, none, some = [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]
    for cell, at_one in zip(cells, (none, some), strict=True):
        first = {"inc_v3": white, "inc_v4": at_one, "ir_v2": none}
        last = {"inc_v3": white, "inc_v4": some, "ir_v2": white}
        iterates(cell, {1: first, 10: last}, {1: 1, 10: 8})
    comparison = Comparison(cells, Options())
    frame = by_steps(comparison)
    told = frame[["line", "step", "spent", "transfer"]].to_numpy().tolist()
    assert told == [
        ["MI-FGSM", 1, 1, 0.0],
        ["MI-FGSM", 10, 8, 75.0],
        ["AGR", 1, 1, 25.0],
        ["AGR", 10, 8, 75.0],
    ]
    text = markdown(steps_sheet(frame))
    assert "| AGR | 25.0 [0.0, 50.0] | 75.0 [50.0, 100.0] |" in " ".join(text.split())
    one = selected(cells[0])
    assert one is not None
    fewer = one[one["position"] < 2]
    assert after_steps([(cells[0], fewer)])["transfer"].tolist() == [0.0, 100.0]
    more = pd.concat([one, one.assign(position=one["position"] + 4)])  # that no step was scored of
    assert after_steps([(cells[0], more)]).empty
