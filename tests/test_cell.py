"""Whole cells on the demo suite: selection, rows, shards, resuming, new targets, bad images."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import agr.data.decode
import agr.data.index
import agr.evaluation.predictions
from agr.config.cell import Cell
from agr.config.schema import Geometry
from agr.data.decode import BadImage, Pixels, load_image
from agr.data.entries import Entry
from agr.evaluation.crafting import attack_of, items_of
from agr.evaluation.determinism import apply, settle
from agr.evaluation.inputs import check_inputs, check_unchanged, find_images
from agr.evaluation.predictions import Evaluator
from agr.evaluation.provenance import open_evaluator
from agr.evaluation.runner import run_cell
from agr.evaluation.selection import select
from agr.models.network import load_network
from agr.records.part_files import Damaged
from agr.records.progress import finished, todo
from agr.records.run_info import RunInfo
from agr.records.schema import ADVERSARIALS, PERCEPTUAL, ROWS, TRACE
from agr.records.store import Records
from agr.report.notes import closing
from agr.score import saved_cells
from agr.utils.errors import ConfigError
from tests.conftest import assert_same_bits, demo_cell

VGG = ("source=vgg16", "targets=[vgg16,vgg19]", "progress=false")
KEY = ["position", "target"]


def frame_of(records: Records) -> pd.DataFrame:
    return records.read("rows").sort_values(KEY).reset_index(drop=True)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """An undisturbed run of the cell that the tests below disturb."""
    cell = demo_cell(tmp_path_factory.mktemp("reference"), *VGG, "attack=ifgsm_stop")
    return frame_of(run_cell(cell))


def test_rows_say_what_happened(reference: pd.DataFrame, tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG)
    assert list(reference.columns) == ROWS.names
    assert len(reference) == 12 * 2
    assert not reference.duplicated(KEY).any()
    unknown = ["target_label", "first_success_step", "found_linf", "found_l2"]
    required = reference.drop(columns=[*unknown, *PERCEPTUAL])
    assert not required.isna().any().any()
    assert (reference["clean_pred"] == reference["label"]).all()  # select=group
    assert (reference["success"] == (reference["adv_pred"] != reference["label"])).all()
    own = reference[reference["white_box"]]
    assert set(own["target"]) == {"vgg16"}
    assert (own["adv_pred"] == own["source_adv_pred"]).all()
    assert (own["success"] == own["first_success_step"].notna()).all()  # what stopped it is scored
    assert (reference["forwards"] == reference["steps_used"] + 1).all()
    assert (reference["backwards"] == reference["steps_used"]).all()
    assert (reference["linf"] <= 10).all()
    assert reference["linf"].max() > 0
    assert (reference["eps_effective"] == cell.eps_effective).all()


def test_norms_and_hash_are_those_of_the_saved_image(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG, "n_images=3", "norm=l2", "save_adversarials=true")
    records = run_cell(cell)
    rows = records.read("rows").drop_duplicates("image_id").set_index("image_id")
    entries = {e.image_id: e for e in find_images(cell).entries}
    saved = [row for some in records.saved_images(set(range(12))) for row in some]
    assert len(saved) == 3
    assert list(saved[0]) == ADVERSARIALS.names
    for row in saved:
        png = np.asarray(Image.open(records.png_folder / f"{row['image_id']}.png"))
        assert png.tobytes() == row["pixels"]
        stored = rows.loc[row["image_id"]]
        assert hashlib.sha256(row["pixels"]).hexdigest() == stored["adv_sha256"]
        own = load_image(entries[row["image_id"]], cell.geometry).transpose(1, 2, 0)
        assert np.ascontiguousarray(own).tobytes() == row["clean_pixels"]
        clean = own.astype(float)
        adv = png.astype(float)
        v = adv - clean
        assert stored["l2"] == pytest.approx(np.sqrt((v**2).sum()))
        assert stored["l2"] <= cell.eps_effective * (1 + 1e-6)
        assert stored["mean_abs"] == pytest.approx(np.abs(v).mean())
        assert stored["rel_l2"] == pytest.approx(np.sqrt((v**2).sum() / (clean**2).sum()))
        cosine = (adv * clean).sum() / np.sqrt((adv**2).sum() * (clean**2).sum())
        assert stored["cosine"] == pytest.approx(cosine)


@pytest.mark.slow
def test_predictions_are_the_networks_own(tmp_path: Path) -> None:
    """Each row's predictions, made again one image at a time from the saved files."""
    import torch

    cell = demo_cell(
        tmp_path, "source=vgg16", "targets=[vgg19,inc_v3]", "n_images=4", "attack=mifgsm",
        "save_adversarials=true", "progress=false",
    )  # fmt: skip
    records = run_cell(cell)
    rows = records.read("rows")
    entries = {e.image_id: e for e in find_images(cell).entries}
    for row in rows.to_dict("records"):
        config = cell.suite.networks[row["target"]]
        network = load_network(
            row["target"], config, memory_format="contiguous", precision="fp32", device="cpu"
        )
        png = np.asarray(Image.open(records.png_folder / f"{row['image_id']}.png"))
        clean = load_image(entries[row["image_id"]], cell.geometry)
        with torch.no_grad():
            for prefix, image in (("adv", png.transpose(2, 0, 1)), ("clean", clean)):
                x = torch.from_numpy(image.copy())[None].float() / 255
                conf = network(x).softmax(1)[0]
                assert conf.argmax() == row[f"{prefix}_pred"]
                assert float(conf.max()) == pytest.approx(row[f"{prefix}_conf"], abs=1e-4)


def test_shards_add_up_to_the_whole(reference: pd.DataFrame, tmp_path: Path) -> None:
    for word in ("shard=0/3", "shard=2/3", "shard=1/3"):
        records = run_cell(demo_cell(tmp_path, *VGG, "attack=ifgsm_stop", word))
    assert_same_bits(frame_of(records), reference)


@pytest.mark.slow
def test_a_shard_asks_targets_about_its_own_images_only(tmp_path: Path) -> None:
    run_cell(demo_cell(tmp_path, VGG[0], "targets=[inc_v3]", VGG[2], "shard=1/3"))
    (path,) = (tmp_path / "demo" / "clean").glob("inc_v3-*.parquet")
    assert len(pd.read_parquet(path)) == 12 / 3


def spoil(monkeypatch: pytest.MonkeyPatch, image_id: str) -> None:
    """Have an image's file go bad."""
    real = agr.data.decode.load_image

    def load(entry: Entry, geometry: Geometry) -> Pixels:
        if entry.image_id == image_id:
            raise BadImage(f"{image_id}: no")
        return real(entry, geometry)

    monkeypatch.setattr("agr.evaluation.images.load_image", load)


@pytest.mark.slow
def test_shards_that_choose_other_images_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that is bad for one of them only would stand at two positions, or at none."""
    demo = demo_cell(tmp_path)
    shutil.copytree(str(demo.config.data.root), tmp_path / "val")
    words = (*VGG, "attack=fgsm", f"data.root={tmp_path / 'val'}", "data.labels=null")
    run_cell(demo_cell(tmp_path / "o", *words, "shard=0/2"))
    first = Records(demo_cell(tmp_path / "o", *words).folder).read("rows")["image_id"][0]
    shutil.rmtree(tmp_path / "o" / "demo" / "clean")
    spoil(monkeypatch, first)
    with pytest.raises(ConfigError, match="position 0 of the selection was"):
        run_cell(demo_cell(tmp_path / "o", *words, "shard=1/2"))
    for path in (tmp_path / "o").rglob("rows-*"):
        path.unlink()
    with pytest.raises(ConfigError, match="other images are chosen here than in an earlier run or"):
        run_cell(demo_cell(tmp_path / "o", *words, "shard=1/2"))


@pytest.mark.slow
def test_bad_images_of_all_shards_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*VGG, "attack=fgsm")
    whole = run_cell(demo_cell(tmp_path / "whole", *words)).read("rows")
    bad = whole["image_id"][whole["position"] == 2].iloc[0]
    run_cell(demo_cell(tmp_path, *words, "attack=ifgsm"))  # clean answers are known
    spoil(monkeypatch, bad)
    for shard in ("0/2", "1/2"):
        records = run_cell(demo_cell(tmp_path, *words, f"shard={shard}"))
    assert (records.run() or RunInfo()).bad_images == {bad: f"{bad}: no"}
    said = closing(demo_cell(tmp_path, *words))
    assert f"1 missing or corrupt images left out: {bad}" in said
    assert "no more are eligible" not in said
    monkeypatch.undo()
    run_cell(demo_cell(tmp_path, *words))
    assert (records.run() or RunInfo()).bad_images == {}


def test_clean_answers_are_kept_when_a_run_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the middle of asking: a job shorter than that would never get on."""
    asked: list[str] = []
    real = Evaluator.predict

    def answer(self: Evaluator, name: str, images: Any) -> Any:
        asked.append(name)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return real(self, name, images)

    monkeypatch.setattr(Evaluator, "predict", answer)
    with pytest.raises(KeyboardInterrupt):
        run_cell(demo_cell(tmp_path, *VGG, "n_images=200"))
    monkeypatch.undo()
    kept = {p.name.partition("-")[0]: len(pd.read_parquet(p))
            for p in (tmp_path / "demo" / "clean").glob("*.parquet")}  # fmt: skip
    assert kept == dict.fromkeys(asked[:3], 32)


def test_overlapping_shards_count_once(reference: pd.DataFrame, tmp_path: Path) -> None:
    """Two divisions of the work at once: what both made is the same and counts once."""
    cell = demo_cell(tmp_path, *VGG, "attack=ifgsm_stop", "shard=0/2")
    records = run_cell(cell)
    for path in sorted(records.folder.glob("rows-0of2-*")):
        shutil.copy(path, path.with_name(path.name.replace("0of2", "0of4")))
    run_cell(demo_cell(tmp_path, *VGG, "attack=ifgsm_stop"))
    assert_same_bits(frame_of(records), reference)


def test_targets_count_once(tmp_path: Path) -> None:
    words = (VGG[0], "targets=[vgg16,vgg16,vgg19]", VGG[2], "n_images=3")
    assert len(run_cell(demo_cell(tmp_path, *words)).read("rows")) == 3 * 2


def test_extras_can_be_asked_for_later(tmp_path: Path) -> None:
    """trace and save_adversarials on a finished cell craft once more, and then it is finished."""
    before = frame_of(run_cell(demo_cell(tmp_path, *VGG, "n_images=10")))
    more = demo_cell(tmp_path, *VGG, "n_images=10", "trace=true", "save_adversarials=true")
    records = Records(more.folder)
    assert not finished(more, records)
    run_cell(more)
    assert finished(more, records)
    assert records.positions("adversarials") == records.positions("trace") == set(range(10))
    assert_same_bits(frame_of(records), before)


def test_the_first_images_can_be_kept_alone(tmp_path: Path) -> None:
    """save_adversarials=3 keeps the first three of the selection, and is then finished."""
    some = demo_cell(tmp_path, *VGG, "n_images=8", "save_adversarials=3")
    records = run_cell(some)
    assert records.positions("adversarials") == {0, 1, 2}
    assert finished(some, records)
    assert finished(demo_cell(tmp_path, *VGG, "n_images=8", "save_adversarials=2"), records)
    more = demo_cell(tmp_path, *VGG, "n_images=8", "save_adversarials=5")
    assert not finished(more, records)
    assert run_cell(more).positions("adversarials") == set(range(5))
    with pytest.raises(ConfigError, match="save_adversarials=-1 is not a number of images"):
        demo_cell(tmp_path, *VGG, "save_adversarials=-1")


@pytest.mark.slow
def test_scoring_reaches_all_that_is_saved(tmp_path: Path) -> None:
    """Whatever the last session's shard and n_images were; and run.json keeps telling of it."""
    for word in ("shard=0/2", "shard=1/2"):
        cell = demo_cell(tmp_path, *VGG, "n_images=6", "save_adversarials=true", word)
        records = run_cell(cell)
    run_cell(demo_cell(tmp_path, *VGG, "n_images=7", "shard=0/7"))
    before = json.loads(records.run_file.read_text())
    (scoring,) = saved_cells(str(tmp_path), ["res152"])
    run_cell(scoring, crafting=False)
    assert records.scored()["res152"] == set(range(6))
    after = json.loads(records.run_file.read_text())
    assert (after["config"], after["command"]) == (before["config"], before["command"])


def test_a_longer_run_adds_to_a_shorter_one(reference: pd.DataFrame, tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG, "attack=ifgsm_stop", "n_images=5")
    first = frame_of(run_cell(cell))
    assert len(first) == 5 * 2
    longer = demo_cell(tmp_path, *VGG, "attack=ifgsm_stop")
    assert longer.folder == cell.folder
    assert not finished(longer, Records(cell.folder))
    records = run_cell(longer)
    assert_same_bits(frame_of(records), reference)
    sessions = json.loads(records.run_file.read_text())["sessions"]
    assert [s["images"] for s in sessions] == [5, 7]
    assert finished(longer, records)
    assert finished(cell, records)


def test_an_interrupted_run_goes_on(
    reference: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while scoring the second batch: the first is kept, and nothing is done twice."""
    import agr.evaluation.runner

    calls = []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    real = agr.evaluation.runner.scored
    monkeypatch.setattr(agr.evaluation.runner, "scored", interrupted)
    cell = demo_cell(tmp_path, *VGG, "attack=ifgsm_stop", "part_seconds=0")
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell)
    assert len(Records(cell.folder).positions("rows")) == 8
    records = run_cell(cell)
    assert_same_bits(frame_of(records), reference)
    assert json.loads(records.run_file.read_text())["sessions"][-1]["images"] == 4


def test_a_trace_without_rows_is_not_counted(tmp_path: Path) -> None:
    """What a kill between two files of one part leaves is made again, once."""
    cell = demo_cell(tmp_path, *VGG, "n_images=3", "trace=true")
    records = run_cell(cell)
    before = records.read("trace")
    next(records.folder.glob("rows-*.parquet")).unlink()
    assert records.read("trace").empty
    assert not finished(cell, records)
    run_cell(cell)
    after = records.read("trace")
    assert_same_bits(after, before)
    assert list(after.columns) == TRACE.names


@pytest.mark.slow
def test_trace_agrees_with_rows(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG, "n_images=4", "attack=mifgsm", "trace=true")
    records = run_cell(cell)
    rows = records.read("rows").drop_duplicates("image_id").set_index("image_id")
    trace = records.read("trace")
    assert len(trace) == 4 * 11
    last = trace[trace["step"] == 10].set_index("image_id")
    assert np.allclose(last["l2"], rows.loc[last.index, "l2"], rtol=1e-6)
    assert np.allclose(last["cosine"], rows.loc[last.index, "cosine"], rtol=1e-9)
    first = trace[trace["fooled"]].groupby("image_id")["step"].min()
    assert first.to_dict() == rows["first_success_step"].dropna().astype(int).to_dict()


@pytest.mark.slow
def test_new_targets_are_scored_from_saved_images(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG, "save_adversarials=true", "n_images=5")
    before = frame_of(run_cell(cell))
    (scoring,) = saved_cells(str(tmp_path), ["res152", "inc_v3"])
    assert scoring.folder == cell.folder
    records = run_cell(scoring, crafting=False)
    after = frame_of(records)
    assert len(after) == 5 * 4
    old = after[after["target"].isin(cell.targets)].reset_index(drop=True)
    assert_same_bits(old, before)
    # ... and are what crafting and scoring at once would have given
    whole = demo_cell(
        tmp_path / "other", "source=vgg16", "targets=[vgg16,vgg19,res152,inc_v3]", "n_images=5",
        "progress=false",
    )  # fmt: skip
    assert_same_bits(frame_of(run_cell(whole)), after)
    sessions = json.loads(records.run_file.read_text())["sessions"]
    assert len(sessions) == 1  # nothing was crafted again


def test_new_targets_without_saved_images_are_crafted_again(tmp_path: Path) -> None:
    run_cell(demo_cell(tmp_path, *VGG, "n_images=3"))
    words = (VGG[0], "targets=[vgg16,res152]", VGG[2], "n_images=3")
    after = frame_of(run_cell(demo_cell(tmp_path, *words)))
    assert sorted(after["target"].unique()) == ["res152", "vgg16", "vgg19"]
    assert not after.duplicated(KEY).any()
    assert after.groupby("position")["adv_sha256"].nunique().eq(1).all()


def test_bad_images_are_named_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = demo_cell(tmp_path, *VGG)
    images = tmp_path / "val"
    shutil.copytree(demo.suite.root, images)
    order = select(open_evaluator(demo, Records(demo.folder)), 12).chosen
    damaged, gone = order[2].entry, order[5].entry
    damaged_path = images / damaged.path.relative_to(demo.suite.root)
    damaged_path.write_bytes(damaged_path.read_bytes()[:200])
    (images / gone.path.relative_to(demo.suite.root)).unlink()
    cell = demo_cell(tmp_path / "o", *VGG, f"suite.root={images}", "n_images=10")
    records = run_cell(cell)
    out = capsys.readouterr().out
    assert f"{damaged.image_id}.JPEG" in out
    assert f"{gone.image_id}.JPEG: it is missing" in out
    assert set(json.loads(records.run_file.read_text())["bad_images"]) == {
        damaged.image_id, gone.image_id,
    }  # fmt: skip
    rows = frame_of(records)
    assert rows["image_id"].nunique() == 10
    expected = [c.entry.image_id for c in order if c.entry not in (damaged, gone)]
    assert rows.drop_duplicates("position")["image_id"].tolist() == expected


def test_an_image_lost_in_mid_run_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was chosen, and its file is gone when it is to be crafted."""
    import agr.evaluation.crafting

    cell = demo_cell(tmp_path, *VGG, "n_images=4")
    real = agr.evaluation.crafting.items_of

    def without_first(evaluator, chosen):
        evaluator.images.bad[chosen[0].entry.image_id] = "gone"
        return real(evaluator, chosen[1:])

    monkeypatch.setattr(agr.evaluation.crafting, "items_of", without_first)
    records = run_cell(cell)
    assert records.positions("rows") == {1, 2, 3}
    assert not finished(cell, records)
    assert json.loads(records.run_file.read_text())["lost"] == [0]
    monkeypatch.undo()
    run_cell(cell)
    assert finished(cell, records)
    run = json.loads(records.run_file.read_text())
    assert (run["lost"], run["bad_images"]) == ([], {})


# ---- selection -----------------------------------------------------------------------------------


def chosen_ids(cell: Cell) -> list[str]:
    evaluator = open_evaluator(cell, Records(cell.folder))
    return [c.entry.image_id for c in select(evaluator, cell.config.n_images).chosen]


@pytest.mark.slow
def test_selection_is_seeded_and_its_beginning_stable(tmp_path: Path) -> None:
    ten = chosen_ids(demo_cell(tmp_path, *VGG, "n_images=10"))
    assert chosen_ids(demo_cell(tmp_path, *VGG, "n_images=60"))[:10] == ten
    assert chosen_ids(demo_cell(tmp_path / "b", *VGG, "n_images=10")) == ten
    other = chosen_ids(demo_cell(tmp_path, *VGG, "n_images=10", "seed=1"))
    assert set(other) != set(ten)


@pytest.mark.slow
def test_selecting_networks_are_right_about_every_image(tmp_path: Path) -> None:
    words = {"none": [], "source": ["vgg16"], "group": ["vgg16", "vgg19", "res152"]}
    sizes = {}
    for word, names in words.items():
        cell = demo_cell(tmp_path, *VGG, "n_images=10000", f"select={word}")
        evaluator = open_evaluator(cell, Records(cell.folder))
        selection = select(evaluator, 10_000)
        sizes[word] = selection.total
        for c in selection.chosen:
            for name in names:
                answer = evaluator.clean_prediction(name, c.entry.image_id)
                assert answer is not None
                assert answer.pred == c.entry.label
    assert sizes["none"] == len(find_images(cell).entries)
    assert sizes["group"] < sizes["source"] < sizes["none"]


# ---- what is attacked, what counts ---------------------------------------------------------------


def test_targeted_attacks_go_for_their_label(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG, "attack=mifgsm", "attack.targeted=true", "eps=20")
    rows = frame_of(run_cell(cell))
    assert (rows["target_label"] != rows["label"]).all()
    assert rows["target_label"].nunique() > 2
    assert (rows["success"] == (rows["adv_pred"] == rows["target_label"])).all()
    assert rows[rows["white_box"]]["success"].mean() > 0.5


@pytest.mark.slow
def test_own_prediction_can_be_attacked(tmp_path: Path) -> None:
    """On images that the source errs on, label=prediction moves away from the error."""
    shared = (*VGG, "attack=agr", "select=none", "n_images=150", "success=changed")
    truth = frame_of(run_cell(demo_cell(tmp_path, *shared)))
    own = frame_of(run_cell(demo_cell(tmp_path, *shared, "attack.label=prediction")))
    assert truth["cell"].iloc[0] != own["cell"].iloc[0]
    wrong = truth["source_clean_pred"] != truth["label"]
    assert wrong.any()
    assert (truth[wrong]["steps_used"] == 0).all()  # fooled already
    assert (own[wrong]["steps_used"] > 0).all()
    assert (own["success"] == (own["adv_pred"] != own["clean_pred"])).all()
    assert truth[~wrong]["adv_sha256"].tolist() == own[~wrong]["adv_sha256"].tolist()


# ---- what is known is not asked again ------------------------------------------------------------


@pytest.mark.slow
def test_unchanged_images_keep_their_clean_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that the source has wrong is left as it is: nothing is scored for it."""
    import agr.evaluation.predictions

    words = (*VGG, "attack=ifgsm_stop", "select=none", "n_images=120", "slots=16", "steps=2")
    cell = demo_cell(tmp_path / "a", *words)
    asked: list[int] = []
    real = agr.evaluation.predictions.Evaluator.predict

    def answer(self: Any, name: str, images: Any) -> Any:
        asked.append(len(images) if name == "vgg19" else 0)
        return real(self, name, images)

    monkeypatch.setattr(agr.evaluation.predictions.Evaluator, "predict", answer)
    frame = run_cell(cell).read("rows")
    mine = frame[frame.target == "vgg19"]
    unchanged = mine[mine.linf == 0]
    assert len(unchanged) > 0
    assert (unchanged.adv_pred == unchanged.clean_pred).all()
    assert (unchanged.adv_conf == unchanged.clean_conf).all()
    assert sum(asked) == 120 + 120 - len(unchanged)  # all when clean, the changed ones after
    # ... which is what the networks say when they are asked
    monkeypatch.setattr("agr.evaluation.scoring.np.array_equal", lambda a, b: False)
    again = run_cell(demo_cell(tmp_path / "b", *words)).read("rows")
    assert_same_bits(again, frame)


def test_the_source_is_asked_again_only_at_another_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import agr.evaluation.predictions

    real, asked = agr.evaluation.predictions.Evaluator.predict, []

    def answer(self: Any, name: str, images: Any) -> Any:
        asked.append((name, len(images)))
        return real(self, name, images)

    monkeypatch.setattr(agr.evaluation.predictions.Evaluator, "predict", answer)
    words = (*VGG, "n_images=8", "slots=16")
    frame = run_cell(demo_cell(tmp_path / "a", *words)).read("rows")
    assert [n for name, n in asked if name == "vgg16"][1:] == [0]
    asked.clear()
    other = run_cell(demo_cell(tmp_path / "b", *words, "width=8")).read("rows")
    assert [n for name, n in asked if name == "vgg16"][1:] == [8]
    assert (other.adv_pred == frame.adv_pred).all()


# ---- never mixed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("slots=4", "slots"),
        ("width=4", "width"),
        ("precision=fp64", "precision"),
        ("memory_format=contiguous", "memory_format"),
        ("threads=2", "threads"),
    ],
)
@pytest.mark.slow
def test_another_numeric_identity_is_refused(word: str, key: str, tmp_path: Path) -> None:
    run_cell(demo_cell(tmp_path, *VGG, "n_images=2"))
    other = demo_cell(tmp_path, *VGG, "n_images=4", word)
    with pytest.raises(ConfigError, match=f"begun with {key}="):
        run_cell(other)
    # ... while leaving it open takes the stored one
    left = Cell(replace(other.config, slots=None, width=None, threads=None, precision="fp32",
                        memory_format="channels_last"))  # fmt: skip
    run_cell(left)


def test_a_finished_cell_is_compared_too(tmp_path: Path) -> None:
    """Nothing is run, yet a knob that differs from the stored identity is not passed over."""
    cell = demo_cell(tmp_path, *VGG, "n_images=2")
    run = run_cell(cell).run() or RunInfo()
    check_unchanged(cell, run, check_inputs(cell))
    for word in ("slots=4", "precision=fp64", "memory_format=contiguous", "threads=2"):
        other = demo_cell(tmp_path, *VGG, "n_images=2", word)
        with pytest.raises(ConfigError, match="begun with"):
            check_unchanged(other, run, check_inputs(other))


def test_threads_of_one_cell_do_not_leak_into_the_next(tmp_path: Path) -> None:
    import torch

    from agr.evaluation.determinism import ALL_THREADS, settle

    apply(settle(demo_cell(tmp_path, *VGG), None))
    assert torch.get_num_threads() == 1
    free = demo_cell(tmp_path, *VGG, "seed=1")
    assert settle(Cell(replace(free.config, threads=None)), None).threads == ALL_THREADS


def test_nothing_eligible_is_an_error(tmp_path: Path) -> None:
    demo = demo_cell(tmp_path)
    right = [e for e in find_images(demo).entries if e.label == 0][:20]
    lines = [f"{e.path.relative_to(str(demo.config.data.root))},1" for e in right]
    (tmp_path / "wrong.csv").write_text("\n".join(["filename,label", *lines]))
    with pytest.raises(ConfigError, match=r"no image of .* is eligible: select=group"):
        run_cell(demo_cell(tmp_path, *VGG, f"data.labels={tmp_path / 'wrong.csv'}"))


@pytest.mark.slow
def test_a_network_that_gives_nan_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = "suite.networks.vgg19.std=[1e-40,1e-40,1e-40]"
    with pytest.raises(ConfigError, match="vgg19 never gave a finite answer"):
        run_cell(demo_cell(tmp_path, *VGG, broken))
    run_cell(demo_cell(tmp_path, *VGG, broken, "select=source", "n_images=4"))
    assert "VGG19 (vgg19): no finite answer (NaN) to 1,000 of 1,000" in capsys.readouterr().out


def test_l2_step_sizes_are_scaled_like_the_budget(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG, "norm=l2", "attack.size=150")
    attack = attack_of(cell)
    assert attack.size * 10 == pytest.approx(attack.ball.eps)
    assert attack_of(demo_cell(tmp_path, *VGG, "attack.size=1")).size == pytest.approx(1 / 255)


def test_other_images_under_the_same_names_are_noticed(tmp_path: Path) -> None:
    """Without hashes in a manifest, sizes of files tell."""
    demo = demo_cell(tmp_path, *VGG)
    root = tmp_path / "val"
    shutil.copytree(demo.suite.root, root)
    words = (*VGG, "n_images=2", f"suite.root={root}", "suite.labels=null")
    run_cell(demo_cell(tmp_path, *words))
    path = next(root.glob("*/*"))
    Image.open(path).rotate(90).save(path, quality=50)
    with pytest.raises(ConfigError, match="the images or their labels changed"):
        run_cell(demo_cell(tmp_path, *words, "n_images=4"))


def test_another_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = demo_cell(tmp_path, *VGG, "n_images=2")
    run_cell(cell)
    monkeypatch.setattr("torch.__version__", "2.6.0")
    with pytest.raises(ConfigError, match="begun with torch="):
        run_cell(demo_cell(tmp_path, *VGG, "n_images=4"))


def test_other_weights_are_refused(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG, "n_images=2")
    path = tmp_path / "vgg16.safetensors"
    shutil.copy(cell.suite.networks["vgg16"].weights, path)
    with path.open("r+b") as f:
        f.seek(-1, 2)
        f.write(b"\x01")
    here = f"suite.networks.vgg16.weights={path}"
    with pytest.raises(ConfigError, match=r"network vgg16: .* has sha256"):
        run_cell(demo_cell(tmp_path, *VGG, "n_images=2", here))


def test_weights_that_changed_since_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.safetensors"
    shutil.copy(demo_cell(tmp_path).suite.networks["vgg16"].weights, path)
    words = (f"suite.networks.vgg16.weights={path}", "suite.networks.vgg16.sha256=null")
    run_cell(demo_cell(tmp_path, *VGG, "n_images=2", *words))
    with path.open("r+b") as f:
        f.seek(-1, 2)
        f.write(b"\x01")
    with pytest.raises(ConfigError, match="weights of vgg16 changed"):
        run_cell(demo_cell(tmp_path, *VGG, "n_images=4", *words))


def test_two_writers_of_one_shard_are_kept_apart(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG, "n_images=2")
    records = Records(cell.folder)
    with (
        records.lock("0/1"),
        pytest.raises(ConfigError, match=f"is being run: process {os.getpid()} on"),
        Records(cell.folder).lock("0/1"),
    ):
        pass
    with records.lock("0/3"), Records(cell.folder).lock("1/3"):
        pass


def test_damaged_parts_are_named(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG, "n_images=2")
    records = run_cell(cell)
    (path,) = records.folder.glob("rows-*")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(Damaged, match=f"{path.name} is damaged: run the cell again"):
        records.read("rows")
    assert not finished(cell, records)
    (clean, *_) = tmp_path.glob("demo/clean/*.parquet")
    clean.write_bytes(b"PAR1")  # a damaged cache is made again
    run_cell(cell)
    assert finished(cell, records)


def test_older_and_damaged_records_are_refused(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG, "n_images=2")
    (cell.folder / "_about").mkdir(parents=True)
    for text, words in (('{"schema_version": 0}', "schema 0"), ("{", "damaged"), ("[]", "damaged")):
        (cell.folder / "_about/run.json").write_text(text)
        with pytest.raises(ConfigError, match=words):
            run_cell(cell)
    (cell.folder / "_about/run.json").rename(cell.folder / "run.json")
    with pytest.raises(ConfigError, match=r"is of an earlier version, .*: use another outputs="):
        run_cell(cell)


def test_identity_counts_what_decides_the_numbers_only(tmp_path: Path) -> None:
    base = demo_cell(tmp_path)
    same = ("targets=[vgg19]", "n_images=7", "slots=2", "workers=1", "trace=true", "shard=1/2",
            "denominator=all-correct", "device=cpu", "progress=false")  # fmt: skip
    for word in same:
        assert demo_cell(tmp_path, word).id == base.id, word
    other = ("eps=9", "steps=9", "seed=1", "select=none", "quantize=end", "source=inc_v4",
             "norm=l2", "attack=ifgsm", "attack.step.phi=2", "success=changed",
             "attack.label=prediction", "suite.groups.inception.geometry.size=76")  # fmt: skip
    assert len({demo_cell(tmp_path, word).id for word in other} | {base.id}) == len(other) + 1


def test_todo_counts_missing_pieces(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG)
    work = todo(cell, Records(cell.folder), {0, 1})
    assert work.rows == {"vgg16": {0, 1}, "vgg19": {0, 1}}
    assert (work.to_craft, work.to_score) == ({0, 1}, set())


# ---- defended targets ----------------------------------------------------------------------------


@pytest.mark.slow
def test_defended_targets_stand_beside_their_networks(tmp_path: Path) -> None:
    words = (*VGG, "attack=mifgsm", "targets=[vgg16,vgg16/median2,vgg16/bits5/median2]")
    cell = demo_cell(tmp_path, *words)
    assert cell.networks == ["vgg16", "vgg19", "res152"]
    rows = run_cell(cell).read("rows").sort_values(["target", "position"])
    by_target = dict(list(rows.groupby("target")))
    assert set(by_target) == set(cell.targets)
    assert by_target["vgg16"]["white_box"].all()
    assert not by_target["vgg16/median2"]["white_box"].any()
    plain, defended = by_target["vgg16"], by_target["vgg16/median2"]
    assert plain["adv_sha256"].tolist() == defended["adv_sha256"].tolist()
    assert plain["adv_conf"].tolist() != defended["adv_conf"].tolist()
    assert plain["clean_conf"].tolist() != defended["clean_conf"].tolist()
    assert "VGG16/median2" in closing(cell)
    files = {p.name.partition("-")[0] for p in (tmp_path / "demo" / "clean").glob("*.parquet")}
    assert {"vgg16", "vgg16_median2", "vgg16_bits5_median2"} <= files


@pytest.mark.slow
def test_a_defense_that_changed_is_not_mixed_with_its_old_rows(tmp_path: Path) -> None:
    words = (*VGG, "targets=[vgg16/jpeg75]", "n_images=2")
    run_cell(demo_cell(tmp_path, *words))
    run_cell(demo_cell(tmp_path, *words, "n_images=3"))
    with pytest.raises(ConfigError, match="the config of vgg16/jpeg75 changed"):
        run_cell(demo_cell(tmp_path, *words, "n_images=4", "defenses.jpeg75.quality=50"))
    source = (*VGG, "targets=[vgg19]", "select=source", "n_images=2")
    run_cell(demo_cell(tmp_path, *source))
    with pytest.raises(ConfigError, match="the config of vgg19 changed"):
        run_cell(demo_cell(tmp_path, *source, "suite.networks.vgg19.mean=[0.4,0.4,0.4]"))


def test_padding_that_is_not_last_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="target vgg16/randpad/jpeg75: "):
        run_cell(demo_cell(tmp_path, *VGG, "targets=[vgg16/randpad/jpeg75]", "n_images=2"))


# ---- target labels of the manifest ---------------------------------------------------------------


def test_a_manifests_targets_are_what_a_targeted_attack_wants(tmp_path: Path) -> None:
    demo = demo_cell(tmp_path)
    entries = find_images(demo).entries
    lines = [f"{e.path.relative_to(str(demo.config.data.root))},{e.label},{(e.label + 3) % 10}"
             for e in entries]  # fmt: skip
    path = tmp_path / "val.csv"
    path.write_text("\n".join(["filename,label,target", *lines]))
    words = (*VGG, "attack.targeted=true", f"data.labels={path}", "n_images=8")
    rows = run_cell(demo_cell(tmp_path, *words)).read("rows")
    assert (rows["target_label"] == (rows["label"] + 3) % 10).all()
    assert rows[rows["target"] == "vgg16"]["success"].any()


# ---- the cache of decoded images -----------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every image that is decoded, by its id."""
    found: list[str] = []
    real = agr.data.decode.load_image

    def load(entry: Entry, geometry: Geometry) -> Pixels:
        found.append(entry.image_id)
        return real(entry, geometry)

    for user in ("agr.evaluation.images", "agr.data.cache"):
        monkeypatch.setattr(f"{user}.load_image", load)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["fgsm", "admix", "library/universal"])
def test_an_image_is_decoded_once_per_cell(tmp_path: Path, decoded: list[str], attack: str) -> None:
    """Also where an attack looks at other images too: a pool to mix in, images to fit on."""
    words = ("n_images=4", "attack.library.fit_images=4") if "/" in attack else ("n_images=12",)
    cell = demo_cell(tmp_path, *VGG, f"attack={attack}", *words, "targets=[vgg16,inc_v3]")
    attacked = {*run_cell(cell).read("rows")["image_id"]}
    assert {image: decoded.count(image) for image in attacked} == dict.fromkeys(attacked, 1)
    if attack == "fgsm":
        assert len(decoded) == len(set(decoded))


def test_a_shard_keeps_the_pixels_of_its_own_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = demo_cell(tmp_path, *VGG, "shard=1/3")
    evaluator = open_evaluator(cell, Records(cell.folder))
    own = {c.entry.image_id for c in select(evaluator, 12).chosen if cell.mine(c.position)}
    assert len(own) == 12 / 3
    assert {*evaluator.images._kept} == own
    list(items_of(evaluator, [c for c in select(evaluator, 12).chosen if cell.mine(c.position)]))
    assert not evaluator.images._kept  # what was crafted isn't needed again


@pytest.mark.slow
def test_memory_for_decoded_images_has_its_bound(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*VGG, "attack=fgsm")
    plain = run_cell(demo_cell(tmp_path / "once", *words)).read("rows")
    once = len(decoded)
    decoded.clear()
    monkeypatch.setattr(agr.evaluation.images, "MEMORY", 3 * 3 * 64 * 64)
    twice = run_cell(demo_cell(tmp_path / "twice", *words)).read("rows")
    assert len(decoded) == once + 12 - 3
    assert twice["adv_sha256"].tolist() == plain["adv_sha256"].tolist()


@pytest.mark.slow
def test_the_second_cell_of_a_sweep_decodes_nothing(
    tmp_path: Path, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*VGG, "data.cache=true", "workers=2")
    plain = run_cell(demo_cell(tmp_path / "plain", *VGG, "attack=mifgsm")).read("rows")
    decoded.clear()
    run_cell(demo_cell(tmp_path, *words, "attack=fgsm"))
    assert len(decoded) == len(set(decoded)) > 0  # selecting and crafting need it once
    decoded.clear()
    cached = run_cell(demo_cell(tmp_path, *words, "attack=mifgsm")).read("rows")
    assert decoded == []
    assert cached["adv_sha256"].tolist() == plain["adv_sha256"].tolist()
    assert "of 64 px" in capsys.readouterr().out


def test_a_target_that_was_wrong_anyway_shows(tmp_path: Path) -> None:
    """Its rate counts images that it had wrong when clean: the closing table says how many."""
    cell = demo_cell(tmp_path, *VGG, "select=none", "n_images=12", "data.labels=null")
    config = replace(cell.config, n_images=12)
    rows = run_cell(Cell(config)).read("rows")
    right = rows[rows["target"] == "vgg19"]
    share = 100 * (right["clean_pred"] == right["label"]).mean()
    (line,) = [text for text in closing(cell).splitlines() if text.startswith("VGG19")]
    assert line.split()[-2:] == [f"{share:.1f}", "12"]


def test_labels_in_a_csv_count_for_a_known_layout(tmp_path: Path) -> None:
    """A CSV of bare file names beside synset folders: found by their ids."""
    demo = demo_cell(tmp_path)
    entries = find_images(demo).entries
    path = tmp_path / "labels.csv"
    path.write_text("filename,label\n" + "".join(f"{e.path.name},{e.label}\n" for e in entries))
    found = find_images(demo_cell(tmp_path, f"data.labels={path}")).entries
    assert [(e.path, e.label) for e in found] == [(e.path, e.label) for e in entries]


# ---- clean answers that are kept -----------------------------------------------------------------


def evaluator_of(cell: Cell) -> Evaluator:
    return Evaluator(cell, settle(cell, None), find_images(cell))


@pytest.mark.slow
def test_clean_answers_are_kept_apart_by_all_that_decides_them(tmp_path: Path) -> None:
    """Another weight file, config, defense, geometry or list of images has its own answers."""
    demo = demo_cell(tmp_path)
    copy = tmp_path / "vgg16.safetensors"
    tensors = load_file(demo.suite.networks["vgg16"].weights)
    save_file({k: v * 1.01 for k, v in tensors.items()}, copy)
    entries = find_images(demo).entries
    part = tmp_path / "part.csv"
    lines = [f"{e.path.relative_to(str(demo.config.data.root))},{e.label}" for e in entries[:9]]
    part.write_text("\n".join(["filename,label", *lines]))
    one = "suite.networks.vgg16"
    changes: list[list[str]] = [
        [],
        [f"{one}.weights={copy}", f"{one}.sha256=null"],
        [f"{one}.mean=[0.4,0.4,0.4]"],
        ["suite.groups.vgg_resnet.geometry.size=72"],
        [f"data.labels={part}"],
        ["slots=16"],
    ]
    words = ("source=vgg16", "targets=[vgg16,vgg16/jpeg75]")
    files = []
    for change in changes:
        files.append(evaluator_of(demo_cell(tmp_path, *words, *change)).clean.stem("vgg16"))
    assert len(set(files)) == len(changes)
    evaluator = evaluator_of(demo_cell(tmp_path, *words))
    other = evaluator_of(demo_cell(tmp_path, *words, "defenses.jpeg75.quality=50"))
    names = [
        evaluator.clean.stem("vgg16"),
        evaluator.clean.stem("vgg16/jpeg75"),
        other.clean.stem("vgg16/jpeg75"),
    ]
    assert len(set(names)) == 3


@pytest.mark.slow
def test_a_repaired_file_makes_the_index_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that is kept holds sizes; a file mended in place must not stay bad for ever."""
    import agr.data.manifest

    monkeypatch.setattr(agr.data.index, "LARGE", 1)
    demo = demo_cell(tmp_path)
    shutil.copytree(str(demo.config.data.root), tmp_path / "val")
    cell = demo_cell(tmp_path, *VGG, f"data.root={tmp_path / 'val'}", "data.labels=null")
    path = sorted((tmp_path / "val").rglob("*.JPEG"))[0]
    content = path.read_bytes()
    path.write_bytes(content[:100])
    past = time.time() - 60
    for p in [*(tmp_path / "val").iterdir(), tmp_path / "val"]:
        os.utime(p, (past, past))
    assert min(e.size for e in find_images(cell).entries) == 100
    assert list(cell.data_folder.glob("index-*"))
    path.write_bytes(content)
    evaluator = open_evaluator(cell, Records(cell.folder))
    list(evaluator.images(find_images(cell).entries))
    assert "changed since it was indexed" in evaluator.images.bad[path.stem]
    assert min(e.size for e in find_images(cell).entries) > 100


def test_scoring_uses_the_cells_own_networks(tmp_path: Path) -> None:
    """A weight file given on the command line goes on to count, for source and new targets."""
    demo = demo_cell(tmp_path)
    copy = tmp_path / "mine.safetensors"
    shutil.copy(demo.suite.networks["vgg16"].weights, copy)
    word = f"suite.networks.vgg16.weights={copy}"
    cell = demo_cell(tmp_path, *VGG, "save_adversarials=true", "n_images=2", word)
    run_cell(cell)
    (again,) = saved_cells(str(tmp_path), ["res152", "vgg16/median2"])
    assert again.folder == cell.folder
    assert again.suite.networks["vgg16"].weights == str(copy)
    run_cell(again, crafting=False)
    assert set(Records(cell.folder).scored()) >= {"res152", "vgg16/median2"}
