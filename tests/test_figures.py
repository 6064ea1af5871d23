"""Figures: their numbers from made-up records by hand, their files, and a real run's pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.report.figures import Drawing, encoded, series, write_figures
from agr.report.figures.images import rows_of_images
from agr.report.figures.style import COLOURS, SETTINGS, attack_styles
from agr.report.outcomes import Outcomes
from agr.report.perturbations import common_factor, scaled
from agr.report.statistics import wilson
from agr.utils.errors import ConfigError
from tests.madeup import record

N = 4
ROOT = Path(__file__).parent.parent


def cells_of(outputs: Path, *words: str) -> list[Cell]:
    asked = [f"outputs={outputs}", f"n_images={N}", "norm=linf", *words]
    return expand(asked)


def test_a_trace_goes_on_as_it_stopped(tmp_path: Path) -> None:
    """Images that stop after one or two steps stay fooled, at the cosine where they stopped."""
    (cell,) = cells_of(tmp_path, "source=vgg16", "steps=3", "trace=true")
    traces = [
        [(0, 1.0), (1, 0.9)],
        [(0, 1.0), (0, 0.8), (1, 0.7)],
        [(0, 1.0), (0, 0.8), (0, 0.7), (0, 0.6)],
        [(0, 1.0), (0, 0.8), (1, 0.7), (0, 0.6)],  # fooled on the way, and not at the end
    ]
    record(cell, {"vgg16": [1, 1, 0, 0]}, traces=traces)
    frame = series.by_step(Outcomes([cell]))
    assert frame["step"].tolist() == [0, 1, 2, 3]
    assert frame["asr"].tolist() == [0, 25, 75, 50]
    assert frame["cosine"].tolist() == pytest.approx([1, 0.825, 0.75, (0.9 + 0.7 + 0.6 + 0.6) / 4])
    assert frame["low"][1] == pytest.approx(100 * wilson(1, 4)[0])
    assert (frame["cosine_low"] <= frame["cosine"]).all()
    assert frame["cosine_low"][0] == frame["cosine_high"][0] == 1


def test_cells_without_a_trace_have_no_steps(tmp_path: Path) -> None:
    (cell,) = cells_of(tmp_path, "source=vgg16")
    record(cell, {"vgg16": [1] * N})
    assert series.by_step(Outcomes([cell])).empty
    names = {each.name for each in Drawing(Outcomes([cell])).figures()}
    assert names == {"transfer-linf", "frontier", "distributions"}


def test_the_matrix_has_every_source_and_target(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "source=vgg16,inc_v3", "targets=[vgg16,inc_v3]", "attack=ifgsm")
    record(cells[0], {"vgg16": [1] * 4, "inc_v3": [1, 0, 0, 0]})
    record(cells[1], {"vgg16": [1, 1, 0, 0], "inc_v3": [1] * 4})
    frame = series.matrix(Outcomes(cells)).set_index(["source", "target"])
    assert frame["asr"].to_dict() == {
        ("vgg16", "vgg16"): 100, ("vgg16", "inc_v3"): 25,
        ("inc_v3", "vgg16"): 50, ("inc_v3", "inc_v3"): 100,
    }  # fmt: skip
    assert frame["white_box"].tolist() == [True, False, False, True]


def test_transfer_and_size_of_an_attack(tmp_path: Path) -> None:
    """Two sources: an image fools none, half or all of its source's two black-box targets."""
    cells = cells_of(tmp_path, "source=vgg16,vgg19", "attack=ifgsm")
    sizes = [[0.1, 0.2, 0.3, 0.4], [0.2, 0.2, 0.2, 0.2]]
    for cell, rel in zip(cells, sizes, strict=True):
        others = {t: [1, 0, 0, 0] for t in cell.targets} | {"res152": [1, 1, 0, 0]}
        record(cell, others | {cell.source: [1] * 4}, rel_l2=rel)
    frame = series.frontier(Outcomes(cells))
    assert frame["transfer"].tolist() == pytest.approx([100 * 1.5 / 4])
    assert frame["rel_l2"].tolist() == pytest.approx([(0.25 + 0.2) / 2])
    assert frame["rel_l2_low"][0] < 0.225 < frame["rel_l2_high"][0]


def test_over_eps_only_the_group_counts(tmp_path: Path) -> None:
    """A cell of a sweep has its group as targets, the report's own has more: they compare."""
    swept = cells_of(tmp_path, "source=vgg16", "attack=ifgsm", "eps=1,2")
    (own,) = cells_of(tmp_path, "source=vgg16", "attack=ifgsm", "eps=10",
                      "targets=[vgg16,vgg19,inc_v3]")  # fmt: skip
    record(swept[0], {"vgg16": [1, 0, 0, 0], "vgg19": [0] * 4, "res152": [0] * 4})
    record(own, {"vgg16": [1] * 4, "vgg19": [1, 1, 0, 0], "inc_v3": [0] * 4})
    frame = series.over_eps([*swept, own])
    assert frame["eps"].tolist() == [1, 10]  # eps=2 isn't run
    assert frame["white_box"].tolist() == [25, 100]
    assert frame["transfer"].tolist() == [0, 50]


def test_steps_needed_and_quantiles(tmp_path: Path) -> None:
    (cell,) = cells_of(tmp_path, "source=vgg16")
    columns = {"first_success_step": [1, 3, 3, None], "source_adv_pred": [1, 1, 1, 0]}
    record(cell, {"vgg16": [1, 1, 1, 0]}, rel_l2=[0.1, 0.2, 0.3, 0.4], **columns)
    steps = series.steps_needed(Outcomes([cell]))
    assert dict(zip(steps["step"], steps["share"], strict=True)) == {-1: 25, 1: 25, 3: 50}
    assert series.norms(Outcomes([cell]))["q50"].tolist() == pytest.approx([0.25])


def test_one_silent_image_or_one_at_the_start_hides_nothing(tmp_path: Path) -> None:
    """An image without an answer was never fooled; one may be fooled before any step."""
    (cell,) = cells_of(tmp_path, "source=vgg16")
    columns = {"first_success_step": [0, 2, 2, None], "source_adv_pred": [1, 1, 1, -1]}
    record(cell, {"vgg16": [1, 1, 1, 0]}, rel_l2=0.1, **columns)
    steps = series.steps_needed(Outcomes([cell]))
    assert dict(zip(steps["step"], steps["share"], strict=True)) == {-1: 25, 0: 25, 2: 50}
    drawn = {each.name: each for each in Drawing(Outcomes([cell])).figures()}
    left = drawn["distributions"].figure.axes[0]
    shown = [text.get_text() for text in left.texts]
    assert sum(map(int, shown)) == 100


def test_images_that_are_all_alike_are_drawn(tmp_path: Path) -> None:
    """A third of the targets of each of ten images: the mean lies beside its own interval."""
    cells = expand([f"outputs={tmp_path}", "n_images=10", "attack=ifgsm", "source=vgg16",
                    "targets=[vgg16,vgg19,res152,inc_v3]"])  # fmt: skip
    own = {"vgg16": [1] * 10, "vgg19": [1] * 10, "res152": [0] * 10, "inc_v3": [0] * 10}
    record(cells[0], own, rel_l2=0.1 / 3)
    names = [each.name for each in Drawing(Outcomes(cells)).figures()]
    assert "frontier" in names


def test_nobody_looked_is_not_never(tmp_path: Path) -> None:
    """A null step of a fooled image says that no iterate was looked at."""
    (cell,) = cells_of(tmp_path, "source=vgg16")
    record(cell, {"vgg16": [1] * N}, source_adv_pred=1)
    assert series.steps_needed(Outcomes([cell])).empty


# ---- how they look -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stop_changes_the_line_and_not_the_colour(tmp_path: Path) -> None:
    names = "attack=ifgsm,ifgsm_stop,mifgsm,mifgsm_stop,agr,agr_nostop,agr_literal"
    cells = cells_of(tmp_path, names)
    found = attack_styles(cells, Outcomes(cells).titles())
    assert found["ifgsm"].colour == found["ifgsm_stop"].colour
    assert found["agr"].colour == found["agr_nostop"].colour
    kinds = ("ifgsm", "mifgsm", "agr", "agr_literal")
    assert len({found[a].colour for a in kinds}) == len({found[a].marker for a in kinds}) == 4
    assert [found[a].stopped for a in ("ifgsm", "ifgsm_stop", "agr", "agr_nostop")] == [
        False, True, True, False
    ]  # fmt: skip
    assert found["ifgsm_stop"].line()["linestyle"] == "--"
    assert found["ifgsm_stop"].point()["markerfacecolor"] == "white"


def test_first_colours_can_be_told_apart_without_red_and_green() -> None:
    """As a deuteranope sees them (Machado et al., 2009, severity 1)."""
    sees = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    seen = [sees @ np.array(to_rgb(colour)) for colour in COLOURS[:7]]
    for i, a in enumerate(seen):
        for b in seen[i + 1 :]:
            assert np.abs(a - b).max() > 0.08
    assert SETTINGS["pdf.fonttype"] == 42


def test_perturbations_are_scaled_around_grey() -> None:
    clean = np.full((20, 20, 3), 100, np.uint8)
    adversarial = clean.copy()
    adversarial[0, 0] = 110, 90, 100
    assert scaled(clean, adversarial, 10)[0, 0].tolist() == [228, 28, 128]
    assert common_factor([(clean, clean + np.uint8(10))]) == 10  # 20 would leave what can be shown
    assert common_factor([(clean, clean + np.uint8(1)), (clean, clean + np.uint8(2))]) == 50
    assert common_factor([(clean, clean + np.uint8(150))]) == 1
    assert common_factor([(clean, clean)]) == 1
    few = (clean + np.uint8(1)).astype(np.uint8)
    few[0, 0] = 0  # three values of 1,200 may be cut off
    assert common_factor([(clean, few)]) == 100


def test_pictures_are_of_the_saved_images(tmp_path: Path) -> None:
    """Of the first position that all attacks have; titles, texts and gain are those of its rows."""
    cells = cells_of(tmp_path, "source=vgg16", "attack=ifgsm,agr", "save_adversarials=true")
    rng = np.random.default_rng(0)
    clean = rng.integers(20, 230, (N, 6, 6, 3)).astype(np.uint8)
    for cell, size in zip(cells, (10, 2), strict=True):
        pairs = [(c, (c + size).astype(np.uint8)) for c in clean]
        facts = {"source_clean_pred": 3, "source_clean_conf": 0.975, "source_adv_pred": 7}
        facts |= {"source_adv_conf": 0.5, "steps_used": size // 2, "rel_l2": 0.034}
        record(cell, {"vgg16": [1] * N}, images=pairs, **facts)
    found = rows_of_images(Outcomes(cells), "linf")
    assert found is not None
    rows, gain, facts = found
    assert gain == 10
    assert [title for title, _, _ in rows] == ["I-FGSM", "AGR"]
    for (_, images, texts), size in zip(rows, (10, 2), strict=True):
        assert np.array_equal(images[0], clean[0])
        assert np.array_equal(images[2], clean[0] + size)
        assert (images[1] == 128 + 10 * size).all()
        taken = f"{size // 2} step{'s' if size > 2 else ''}"
        assert texts == ["class 3, 98%", f"{taken}, 3.4 % of the image", "class 7, 50%"]
    assert facts["image_id"].tolist() == ["image0", "image0"]
    assert rows_of_images(Outcomes(cells), "l2") is None


# ---- files ---------------------------------------------------------------------------------------


@pytest.fixture
def drawing(tmp_path: Path) -> Drawing:
    """Two attacks on two sources with traces and images, and a sweep over eps."""
    words = ("source=vgg16,inc_v3", "attack=ifgsm,agr", "steps=2", "trace=true")
    cells = cells_of(tmp_path, *words, "save_adversarials=true")
    sweeps = cells_of(tmp_path, *words, "eps=2,4")
    clean = np.full((8, 8, 3), 90, np.uint8)
    steps = [[(0, 1.0), (0, 0.99), (1, 0.98)]] * N
    facts = {"source_adv_pred": 1, "first_success_step": 2, "steps_used": 2, "rel_l2": 0.02}
    for cell in [*cells, *sweeps]:
        own = {t: [1, 0, 0, 0] for t in cell.targets} | {cell.source: [1] * N}
        record(cell, own, traces=steps, images=[(clean, clean + 5)] * N, **facts)
    return Drawing(Outcomes(cells), sweeps)


@pytest.mark.slow
def test_each_figure_has_its_data_and_command_beside_it(drawing: Drawing, tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "figure9.png").write_bytes(b"of an older run")
    paths = write_figures(drawing, folder, "python scripts/make_figures.py --run seed=3")
    names = ["figure1-linf", "figure3", "figure4", "transfer-linf", "eps-linf", "frontier"]
    names += ["distributions"]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert [p.stem for p in paths[::4]] == names
    for name in names:
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 200
        assert len(pd.read_csv(folder / f"{name}.csv"))
        said = (folder / f"{name}.txt").read_text()
        assert "made by: python scripts/make_figures.py --run seed=3" in said
        assert f"data: {name}.csv" in said
        assert "demo suite: stand-in networks, not the paper's" in said
    steps = pd.read_csv(folder / "figure3.csv")
    assert steps[steps["source"] == "vgg16"]["asr"].tolist() == [0, 0, 100] * 2


@pytest.mark.slow
def test_figures_are_the_same_every_time(drawing: Drawing) -> None:
    def files() -> list[bytes]:
        some = [each for each in drawing.figures() if each.name in ("figure3", "frontier")]
        return [encoded(each.figure, kind) for each in some for kind in ("png", "pdf")]

    assert files() == files()


def test_nothing_finished_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no cell is finished: add --run, or run them"):
        Drawing(Outcomes(cells_of(tmp_path, "source=vgg16")))


@pytest.mark.slow
def test_the_script_draws_without_torch(drawing: Drawing, tmp_path: Path) -> None:
    code = (
        "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__');"
        "assert not {'torch', 'timm', 'plotly', 'pyplot'} & set(sys.modules)"
    )
    words = ["source=vgg16", "attack=ifgsm,agr", "steps=2", "norm=linf", f"n_images={N}"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "scripts" / "make_figures.py"), *words,
         "targets=[vgg16,vgg19,res152]", f"outputs={tmp_path}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Figure 3: white-box ASR against step, L∞ = 10" in done.stdout
    assert len(list(tmp_path.glob("demo/figures/*/figure3.*"))) == 4
