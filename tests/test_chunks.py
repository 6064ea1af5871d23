"""Attacks of other libraries as cells: chunks, shards, success within eps, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agr import check, plan
from agr.config.cell import Cell
from agr.config.compose import expand
from agr.evaluation.crafting import attack_of
from agr.evaluation.runner import run_cell
from agr.records.progress import finished
from agr.records.run_info import RunInfo
from agr.records.store import Records, image_of
from agr.report.frames import selected
from agr.report.notes import closing
from agr.report.tables import write_tables
from agr.utils.errors import ConfigError
from tests.conftest import assert_same_bits, demo_cell

COLUMNS = ["position", "image_id", "target", "adv_sha256", "adv_pred", "adv_conf", "success", "l2"]


def cell_of(outputs: Path, *words: str) -> Cell:
    return demo_cell(
        outputs, "attack=library/ddn", "source=vgg16", "targets=[vgg16,vgg19]", "steps=12",
        "attack.library.chunk=4", *words,
    )  # fmt: skip


def rows_of(cell: Cell) -> pd.DataFrame:
    rows = run_cell(cell, lambda _: None).read()
    return rows.sort_values(["position", "target"], ignore_index=True)


@pytest.mark.slow
def test_a_cell_shards_and_a_longer_run_are_the_same_chunks(tmp_path: Path) -> None:
    whole = rows_of(cell_of(tmp_path / "a"))
    assert len(whole) == 2 * 12
    shards = [cell_of(tmp_path / "b", f"shard={i}/2") for i in range(2)]
    assert [p for p in range(12) if shards[0].mine(p)] == [0, 1, 2, 3, 8, 9, 10, 11]
    for shard in shards:
        rows_of(shard)
        assert finished(shard, Records(shard.folder))
    assert_same_bits(rows_of(cell_of(tmp_path / "b"))[COLUMNS], whole[COLUMNS])
    rows_of(cell_of(tmp_path / "c", "n_images=6"))  # in the middle of a chunk
    longer = rows_of(cell_of(tmp_path / "c"))
    assert not longer.duplicated(["position", "target"]).any()
    assert_same_bits(longer[COLUMNS], whole[COLUMNS])


@pytest.mark.slow
def test_companions_are_the_same_whatever_the_number_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack to which they matter: a chunk is always whole, with images that aren't recorded."""

    def together(self: Any, task: Any) -> Any:
        return (task.x + 0.4 * (task.x.mean(0) - 0.5).sign()).clamp(0, 1)

    monkeypatch.setattr("agr.attacks.library.Foolbox._run", together)
    whole = rows_of(cell_of(tmp_path / "a", "n_images=8"))
    few = rows_of(cell_of(tmp_path / "b", "n_images=5"))
    assert set(few["position"]) == set(range(5))
    assert (few["l2"] > 0).any()
    assert_same_bits(few[COLUMNS], whole[COLUMNS].iloc[:10])
    grown = rows_of(cell_of(tmp_path / "b", "n_images=8"))
    assert_same_bits(grown[COLUMNS], whole[COLUMNS])


@pytest.mark.slow
def test_success_is_within_eps_and_the_norm_is_what_was_needed(tmp_path: Path) -> None:
    wide, narrow = (rows_of(cell_of(tmp_path / e, f"eps={e}", "norm=l2")) for e in ("1500", "780"))
    needed = narrow["l2"]
    eps = narrow["eps_effective"].iloc[0]
    assert 0 < (needed <= eps).mean() < 1, needed.tolist()
    assert narrow["adv_sha256"].tolist() == wide["adv_sha256"].tolist()  # eps has no say in it
    for rows in (wide, narrow):
        fooled = (rows["adv_pred"] != rows["label"]) & (rows["l2"] > 0)
        inside = rows["l2"] <= rows["eps_effective"]
        assert rows["success"].tolist() == (fooled & inside).tolist()
    own = wide[wide["target"] == "vgg16"]
    assert own["success"].all()  # the 8-bit image fools, not only the one that was found
    assert own["steps_used"].isna().all()
    assert (own["backwards"] >= 12).all()


def test_what_was_needed_is_said(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, "n_images=4")
    rows = rows_of(cell)
    own = rows[rows["target"] == "vgg16"]
    median = f"L2 {own['l2'].median():.1f}"
    assert f"found for {int((own['l2'] > 0).sum())} of 4 images" in closing(cell)
    assert median in closing(cell)
    assert "mean steps" not in closing(cell)
    (page,) = [p for p in write_tables([cell], tmp_path / "tables") if p.name == "table1.md"]
    assert "DDN on VGG16: smallest perturbations, found for" in page.read_text()
    assert median in page.read_text()
    assert selected(cell) is not None


def test_an_unchanged_image_is_no_success(tmp_path: Path) -> None:
    """A wrong image that nobody attacked: by its label alone it would count."""
    cell = cell_of(tmp_path, "select=none", "n_images=40", "steps=1", "targets=[vgg16]")
    rows = rows_of(cell)
    wrong = rows[(rows["source_clean_pred"] != rows["label"])]
    assert len(wrong), "the first forty images hold one that vgg16 has wrong"
    assert (wrong["l2"] == 0).all()
    assert not wrong["success"].any()


@pytest.mark.slow
def test_a_universal_perturbation_is_one_and_fitted_on_others(tmp_path: Path) -> None:
    words = ["attack=library/universal", "attack.library.fit_images=6", "attack.library.chunk=4"]
    words += ["source=vgg16", "targets=[vgg16]", "steps=1", "save_adversarials=true", "n_images=6"]
    cell = demo_cell(tmp_path, *words)
    records = run_cell(cell, lambda _: None)
    from agr.data.decode import load_image
    from agr.evaluation.inputs import find_images

    clean = {e.image_id: load_image(e, cell.geometry) for e in find_images(cell).entries}
    saved = [row for batch in records.saved_images(set(range(6))) for row in batch]
    v = [image_of(r).transpose(2, 0, 1).astype(int) - clean[r["image_id"]] for r in saved]
    x = [clean[r["image_id"]].astype(int) for r in saved]
    free = np.all([(a > 10) & (a < 245) for a in x], axis=0)  # where nothing clips
    assert free.sum() > 1000
    assert np.abs(v[0][free]).max() == 10
    # The sum of image and perturbation is rounded: near a half, floats may decide either way.
    different = np.array([other[free] - v[0][free] for other in v])
    assert np.abs(different).max() <= 1
    assert (different != 0).mean() < 1e-3
    assert (records.read()["linf"] <= 10).all()
    many = demo_cell(tmp_path, *words, "attack.library.fit_images=996")
    with pytest.raises(ConfigError, match=r"fit_images=996.*too few to fit on others"):
        run_cell(many, lambda _: None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trace=true"], "trace=true: attack=library/ddn .* shows no steps"),
        (["attack.step={_target_:agr.attacks.step.Plain}"], "attack.step has no effect"),
        (["++attack.chain.a={_target_:agr.attacks.stages.MeanNormalize}"], "attack.chain.a has no"),
        (["attack.size=full"], "attack.size has no effect"),
        (["attack=library/jsma", "steps=7"], "steps=7 reaches nothing of attack=library/jsma"),
        (
            ["attack.library.attack=DDNAtack"],
            "DDNAtack is not in foolbox.*did you mean DDN",
        ),
        (["++attack.library.arguments.gama=1"], "DDNAttack has no gama: did you mean gamma"),
        (["attack=library/jsma", "suite.groups.vgg_resnet.geometry.size=224"], "150,528 values"),
        (["attack.library._target_=foolbox.attacks.DDNAttack"], r"allow=\[foolbox\]"),
        (["attack.library.arguments.steps=7"], r"steps=100 reaches nothing .*where the library"),
        (["attack.library.chunk=2.5"], "attack.library.chunk=2.5 cannot be"),
        (["attack.library.chunk=0"], "attack.library.chunk=0 cannot be"),
        (["attack.library.chunk=70000"], "chunk=70000 cannot be: give a number from 1 to 65536"),
        (["attack=library/universal", "attack.library.fit_images=4.5"], "fit_images=4.5 cannot be"),
        (["attack.library=3"], "attack.library=3 names no part"),
        (
            ["++attack.library.module=os", "attack.library._target_=agr.attacks.library._imported"],
            r"it must name a part of agr.attacks.library",
        ),
        (["attack=library/dnn"], "attack=library/dnn is unknown: did you mean library/ddn"),
    ],
)
def test_what_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as e:
        attack_of(expand(["attack=library/ddn", "source=vgg16", *words])[0])
    assert "\n" not in str(e.value)


def test_a_shard_without_a_chunk_is_told(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, "n_images=4", "shard=1/2")
    run_cell(cell, lambda _: None)
    assert closing(cell).startswith("shard=1/2 has none of the 4 images: they are attacked 4 at a")


def test_a_foreign_library_part_must_be_one(tmp_path: Path) -> None:
    words = ["attack=ifgsm", "attack.library={_target_:argparse.Namespace}", "allow=[argparse]"]
    with pytest.raises(
        ConfigError, match=r"attack.library: Namespace has no __call__ and no check"
    ):
        attack_of(expand([*words, "attack.step=null", "attack.loss=null", "steps=1"])[0])


def test_plans_and_checks_say_that_the_time_is_not_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["attack=library/ddn", "source=vgg16", "norm=linf", "n_images=4", f"outputs={tmp_path}"]
    plan.main(words)
    assert "?: what an attack of another library costs isn't known" in capsys.readouterr().out
    check.main([*words, "check.images=10", "check.seconds=0"])
    assert "1 cell of other libraries' attacks, whose time isn't known" in capsys.readouterr().out


def test_a_library_that_does_wrong_ends_the_run_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, task: Any) -> Any:
        raise ValueError("no luck")

    monkeypatch.setattr("agr.attacks.library.Foolbox._run", broken)
    with pytest.raises(ConfigError, match=r"attack=library/ddn: foolbox' DDNAttack: no luck"):
        run_cell(cell_of(tmp_path), lambda _: None)


def test_another_version_of_the_library_is_refused(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, "n_images=4", "steps=2")
    records = run_cell(cell, lambda _: None)
    assert (records.run() or RunInfo()).versions["foolbox"]
    records.update_run(lambda run: run.versions.update(foolbox="3.0"))
    with pytest.raises(ConfigError, match=r"begun with foolbox 3.0, .* pip install foolbox==3.0"):
        run_cell(cell_of(tmp_path, "n_images=5", "steps=2"), lambda _: None)


def test_out_of_memory_names_the_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(self: Any, task: Any) -> Any:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("agr.attacks.library.Foolbox._run", greedy)
    with pytest.raises(ConfigError, match=r"4 images at once: give a smaller attack.library.chunk"):
        run_cell(cell_of(tmp_path), lambda _: None)
