"""PSNR, SSIM and CIEDE2000 against scikit-image, and their columns in the records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from agr.evaluation.perceptual import perceptual_sizes
from agr.evaluation.runner import run_cell
from agr.records.progress import finished
from agr.records.store import Records
from agr.utils.errors import ConfigError
from tests.conftest import demo_cell

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


def test_values_do_not_depend_on_the_batch() -> None:
    x, y = (torch.from_numpy(images) for images in pairs(16))
    alone = [row for i in range(5) for row in perceptual_sizes(x[i : i + 1], y[i : i + 1])]
    assert perceptual_sizes(x, y) == alone


def test_small_images_have_no_ssim() -> None:
    x, y = (torch.from_numpy(images) for images in pairs(10))
    assert [row["ssim"] for row in perceptual_sizes(x, y)] == [None] * 5


def test_rows_have_them_where_they_are_asked_for(tmp_path: Path) -> None:
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
    plain = demo_cell(tmp_path / "b", *words)
    assert run_cell(plain, lambda _: None).read()["psnr"].isna().all()
    again = demo_cell(tmp_path / "b", *words, "perceptual=true")
    with pytest.raises(ConfigError, match="scored without it: use another outputs"):
        finished(again, Records(again.folder))


def test_smallest_perturbations_keep_their_size_before_rounding(tmp_path: Path) -> None:
    words = ("attack=library/fmn_linf", "source=vgg16", "targets=[vgg16]", "n_images=4")
    records = run_cell(demo_cell(tmp_path, *words, "attack.library.chunk=4"), lambda _: None)
    rows = records.read()
    assert (rows["found_linf"] > 0).all()
    assert (rows["found_linf"] <= rows["linf"] + 0.5).all()  # stretched until they fool, if at all
    assert rows["found_l2"].lt(rows["l2"] + 0.5 * (3 * 64 * 64) ** 0.5).all()
