"""PSNR, SSIM and CIEDE2000 against scikit-image, their columns in the records, and their means."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.evaluation.perceptual import perceptual_sizes
from agr.evaluation.runner import run_cell
from agr.records.appearance import CLOSE, appearances
from agr.records.progress import finished
from agr.records.store import Records
from agr.report.comparison.axes import Options
from agr.report.comparison.numbers import Comparison
from agr.report.comparison.sheet import comparison_sheet
from agr.report.figures import Drawing
from agr.report.formats import markdown
from agr.report.html.plotly_data import charts_of
from agr.report.leaderboard import leaderboard, leaderboard_sheets
from agr.report.notes import closing
from agr.report.outcomes import Outcomes
from agr.report.tables import table_sheets
from agr.utils.errors import ConfigError
from agr.verify import main
from tests.conftest import demo_cell
from tests.madeup import record
from tests.test_verify import rewrite

Images = NDArray[np.uint8]


def pairs(side: int) -> tuple[Images, Images]:
    """Return noise, noise turned around, greys, smooth colours and equal images, (5, 3, H, W)."""
    rng = np.random.default_rng(side)
    x = rng.integers(0, 256, (5, 3, side, side)).astype(np.uint8)
    x[2] = x[2].mean(0, keepdims=True)
    x[3] = np.linspace(0, 255, 3 * side * side).reshape(3, side, side)
    y = np.clip(x.astype(int) + rng.integers(-16, 17, x.shape), 0, 255).astype(np.uint8)
    y[1], y[4] = 255 - x[1], x[4]
    return x, y


@pytest.mark.parametrize("side", [11, 33, 64])
def test_values_are_scikit_images(side: int) -> None:
    x, y = pairs(side)
    found = perceptual_sizes(torch.from_numpy(x), torch.from_numpy(y))
    for i, row in enumerate(found):
        a, b = x[i].transpose(1, 2, 0), y[i].transpose(1, 2, 0)
        window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        alike = structural_similarity(a, b, data_range=255, channel_axis=2, **window)
        assert row["ssim"] == pytest.approx(alike, abs=1e-4)
        colours = deltaE_ciede2000(rgb2lab(a), rgb2lab(b)).mean()
        assert row["ciede2000"] == pytest.approx(colours, abs=1e-4)
        if i < 4:
            noise = peak_signal_noise_ratio(a, b, data_range=255)
            assert row["psnr"] == pytest.approx(noise, abs=1e-4)
    assert found[4] == {"psnr": None, "ssim": 1.0, "ciede2000": 0.0}
    for i, row in enumerate(found):  # the audit has code of its own
        audited = appearances(x[i].transpose(1, 2, 0), y[i].transpose(1, 2, 0))
        for name, value in row.items():
            expected = np.inf if value is None else value
            assert audited[name] == pytest.approx(expected, abs=CLOSE[name])


def test_values_do_not_depend_on_the_batch() -> None:
    x, y = (torch.from_numpy(images) for images in pairs(16))
    alone = [row for i in range(5) for row in perceptual_sizes(x[i : i + 1], y[i : i + 1])]
    assert perceptual_sizes(x, y) == alone


def test_small_images_have_no_ssim() -> None:
    x, y = (torch.from_numpy(images) for images in pairs(10))
    assert [row["ssim"] for row in perceptual_sizes(x, y)] == [None] * 5


@pytest.mark.slow
def test_rows_have_them_where_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("attack=fgsm", "source=vgg16", "targets=[vgg16,vgg19]", "n_images=4", "slots=4")
    cell = demo_cell(tmp_path / "a", *words, "perceptual=true", "save_adversarials=true")
    records = run_cell(cell, lambda _: None)
    rows, saved = records.read(), records.read("adversarials")
    for row in rows.to_dict("records"):
        of = saved[saved["position"] == row["position"]].iloc[0]
        both = [
            torch.frombuffer(bytearray(of[name]), dtype=torch.uint8)
            .view(of["height"], of["width"], 3)
            .permute(2, 0, 1)[None]
            for name in ("clean_pixels", "pixels")
        ]
        (expected,) = perceptual_sizes(*both)
        assert {name: row[name] for name in expected} == expected
    main([f"outputs={tmp_path / 'a'}", "images=2"])
    assert "2 images crafted and scored again: nothing is wrong" in capsys.readouterr().out
    for name, gap in (("psnr", 0.01), ("ssim", 1e-4), ("ciede2000", 0.01)):
        kept = tmp_path / "forged" / name
        shutil.copytree(tmp_path / "a", kept)
        forged = Records(demo_cell(kept, *words).folder)
        rewrite(forged, "rows", lambda f, name=name, gap=gap: f.assign(**{name: f[name] - gap}))
        with pytest.raises(SystemExit):
            main([f"outputs={kept}"])
        said = capsys.readouterr().out
        assert said.count(f"problem: {name} of ") == 4, said
        assert "isn't that of its saved images" in said
    plain = demo_cell(tmp_path / "b", *words)
    assert run_cell(plain, lambda _: None).read()["psnr"].isna().all()
    again = demo_cell(tmp_path / "b", *words, "perceptual=true")
    with pytest.raises(ConfigError, match="scored without it: use another outputs"):
        finished(again, Records(again.folder))


@pytest.mark.slow
def test_smallest_perturbations_keep_their_size_before_rounding(tmp_path: Path) -> None:
    words = ("attack=library/fmn_linf", "source=vgg16", "targets=[vgg16]", "n_images=4")
    records = run_cell(demo_cell(tmp_path, *words, "attack.library.chunk=4"), lambda _: None)
    rows = records.read()
    assert (rows["found_linf"] > 0).all()
    assert (rows["found_linf"] <= rows["linf"] + 0.5).all()  # stretched until they fool, if at all
    assert rows["found_l2"].lt(rows["l2"] + 0.5 * (3 * 64 * 64) ** 0.5).all()


# ---- means, by hand ------------------------------------------------------------------------------

SIZES = {
    "linf": [0, 10, 10, 10],  # the first image is unchanged
    "psnr": [None, 30.0, 32.0, 34.0],
    "ssim": [1.0, 0.9, 0.8, 0.7],
    "ciede2000": [0.0, 1.0, 2.0, 5.0],
    "lpips": [0.0, 0.1, 0.2, 0.1],
}
MEANS = {"psnr": 32.0, "ssim": 0.85, "ciede2000": 2.0, "lpips": 0.1}


def made_up(outputs: Path, attacks: str, **columns: Any) -> list[Cell]:
    """Cells of I-FGSM with perceptual sizes, and of other attacks without."""
    words = [f"outputs={outputs}", "n_images=4", "source=inc_v3", "targets=[inc_v3,vgg16]"]
    cells = expand([*words, f"attack={attacks}"])
    for cell in cells:
        own = SIZES | columns if cell.config.attack.name == "ifgsm" else {}
        record(cell, {"inc_v3": [1] * 4, "vgg16": [0, 1, 1, 0]}, rel_l2=0.1, **own)
    return cells


def cells_of_row(line: str) -> list[str]:
    return [word.strip() for word in line.strip("|").split("|")]


def row_of(text: str, title: str) -> dict[str, str]:
    """The first row of a Markdown table that has `title`, by its header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    row = next(line for line in lines if title in cells_of_row(line))
    return dict(zip(cells_of_row(lines[0]), cells_of_row(row), strict=True))


def test_tables_show_their_means(tmp_path: Path) -> None:
    cells = made_up(tmp_path, "ifgsm,agr")
    board, _ = leaderboard(cells)
    assert board.set_index("attack").loc["ifgsm", [*MEANS]].to_dict() == pytest.approx(MEANS)
    assert board.set_index("attack").loc["agr", [*MEANS]].isna().all()
    (of_board,) = leaderboard_sheets(cells)
    (of_sizes,) = [sheet for sheet in table_sheets(cells) if sheet.name == "table3"]
    compared = comparison_sheet(Comparison(cells, Options()))
    shown = {"PSNR, dB": "32.00", "SSIM": "0.8500", "CIEDE2000": "2.000", "LPIPS": "0.1000"}
    for sheet in (of_board, of_sizes, compared):
        text = markdown(sheet)
        mine = row_of(text, "I-FGSM")
        assert {title: mine[title] for title in shown} == shown, sheet.name
        assert {row_of(text, "AGR")[title] for title in shown} == {"—"}
        assert "PSNR, SSIM, CIEDE2000, LPIPS: means over images, of PSNR those that" in text
    nothing = row_of(markdown(of_board), "no attack")
    assert [nothing[title] for title in shown] == ["—", "1.0000", "0.000", "0.0000"]
    frame = compared.frame[compared.frame["target"] == "mean transfer"].set_index("attack")
    assert frame.loc["ifgsm", [*MEANS]].to_dict() == pytest.approx(MEANS)
    assert closing(cells[0]).endswith(
        "means over images: PSNR, dB 32.00; SSIM 0.8500; CIEDE2000 2.000; LPIPS 0.1000"
    )


def test_a_range_over_columns(tmp_path: Path) -> None:
    words = [f"outputs={tmp_path}", "n_images=4", "source=inc_v3", "targets=[inc_v3,vgg16]"]
    cells = expand([*words, "attack=ifgsm,agr", "eps=2,4"])
    for cell in cells:
        record(cell, {"vgg16": [1] * 4}, linf=2, ssim=1 - cell.config.eps / 100)
    text = markdown(comparison_sheet(Comparison(cells, Options())))
    assert row_of(text, "I-FGSM")["SSIM"] == "0.9600 to 0.9800"


def test_means_are_of_all_images_or_not_shown(tmp_path: Path) -> None:
    """Of a cell with an image that lacks a value no mean is told; other columns stay."""
    cells = made_up(tmp_path / "a", "ifgsm", lpips=[0.0, 0.1, None, 0.1], psnr=None)
    board, _ = leaderboard(cells)
    assert [name for name in MEANS if name in board] == ["ssim", "ciede2000"]
    assert {"SSIM", "LPIPS"} & {*leaderboard_sheets(cells)[0].blocks[0].header} == {"SSIM"}
    (bare,) = made_up(tmp_path / "b", "agr")
    assert "means over images: P" not in closing(bare)
    for sheet in (*table_sheets([bare]), *leaderboard_sheets([bare])):
        assert "SSIM" not in markdown(sheet)


def test_the_frontier_of_transfer_against_ssim(tmp_path: Path) -> None:
    """One attack of two has SSIM; without any there is no such figure and no such chart."""
    drawing = Drawing(Outcomes(made_up(tmp_path / "a", "ifgsm,agr")))
    drawn = {each.name: each for each in drawing.figures()}
    data = drawn["frontier-ssim"].data
    assert data["attack"].tolist() == ["ifgsm"]
    assert (data["ssim"][0], data["transfer"][0]) == (pytest.approx(0.85), 50)
    assert data["ssim_low"][0] < 0.85 < data["ssim_high"][0]
    (panel,) = drawn["frontier-ssim"].figure.axes
    assert panel.get_xlim()[1] == 1
    ((x, y),) = (line.get_xydata()[0] for line in panel.lines if line.get_marker() == "o")
    assert (x, y) == (pytest.approx(0.85), 50)
    assert {*drawn["frontier"].data["attack"]} == {"ifgsm", "agr"}
    assert "ssim" not in drawn["frontier"].data
    (trace,) = charts_of(drawing)["frontier-ssim"]["data"]
    assert (trace["x"], trace["y"]) == ([pytest.approx(0.85)], [50])
    bare = Drawing(Outcomes(made_up(tmp_path / "b", "agr")))
    assert "frontier-ssim" not in {each.name for each in bare.figures()}
    assert "frontier-ssim" not in charts_of(bare)
