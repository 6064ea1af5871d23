"""The demo suite's images and the shipped files: made from seeds, listed, within limits."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

import agr
from agr.config.compose import expand
from agr.models.slim import load_slim
from scripts.demo import images as demo
from scripts.demo.recipes import RECIPES
from scripts.demo.training import accuracy, normalised, stack

ASSETS = Path(agr.__file__).parent / "assets" / "demo"
MEGABYTE = 1e6


def listed(root: Path = ASSETS) -> list[dict[str, str]]:
    with (root / "val.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_an_image_is_a_function_of_seed_and_index() -> None:
    forwards = [demo.image(5, i) for i in range(4)]
    np.random.seed(0)  # global random numbers mean nothing to it
    backwards = [demo.image(5, i) for i in reversed(range(4))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert len({i.tobytes() for i in [*forwards, demo.image(6, 0), demo.image(5, 10)]}) == 6
    assert forwards[0].shape == (demo.SIZE, demo.SIZE, 3)
    assert forwards[0].dtype == np.uint8


def test_the_grating_is_all_that_tells_an_image_from_its_base() -> None:
    for index in range(10):
        whole, base = demo.image(5, index).astype(int), demo.base_image(5, index).astype(int)
        height = np.abs(whole - base).max()
        # 1.22 is the coloured gratings' axis; rounding twice adds one level
        assert 0.010 * 255 - 1 <= height <= 0.030 * 255 * 1.22 + 1


@pytest.mark.parametrize("label", range(10))
def test_grating_has_the_angle_and_colour_of_its_class(label: int) -> None:
    wave = demo.grating(np.array([label]), np.random.default_rng(1), size=80)[0]
    spectrum = np.abs(np.fft.fft2(wave[0], s=(1024, 1024)))
    row, column = np.unravel_index(spectrum[:, :512].argmax(), (1024, 512))
    fy, fx = np.fft.fftfreq(1024)[row], np.fft.fftfreq(1024)[column]
    angle = np.arctan2(fy, fx) % np.pi
    off = abs((angle - label % 5 * np.pi / 5 + np.pi / 2) % np.pi - np.pi / 2)
    assert off < 0.05 + 0.05
    assert 7 * 0.93 < 1 / np.hypot(fx, fy) < 12 * 1.07
    if label < 5:
        assert np.array_equal(wave, np.broadcast_to(wave[0], wave.shape))
    else:
        assert np.array_equal(wave[0], -wave[2])
        assert not wave[1].any()
    low, high = demo.GRATING_AMPLITUDE
    assert low <= np.abs(wave[0]).max() <= high * 1.22


def test_labels_take_turns_and_folders_sort_like_classes() -> None:
    assert [demo.label_of(i) for i in range(12)] == [*range(10), 0, 1]
    synsets = [synset for synset, _ in demo.CLASSES]
    assert synsets == sorted(set(synsets))
    assert len(synsets) == 10


def test_file_numbers_run_through_the_classes_in_no_order() -> None:
    names = demo.validation_names(3, 200)
    numbers = [int(name[-13:-5]) for name in names]
    assert sorted(numbers) == list(range(1, 201))
    assert numbers != sorted(numbers)
    by_number = [name[:9] for name in sorted(names, key=lambda n: n[-13:])]
    assert len(set(by_number[:20])) > 5


def test_written_tree_and_its_list(tmp_path: Path) -> None:
    (tmp_path / "val" / "old").mkdir(parents=True)
    assert demo.write_validation(tmp_path, seed=9, count=20) == tmp_path / "val.csv"
    rows = listed(tmp_path)
    files = {p.relative_to(tmp_path / "val").as_posix() for p in tmp_path.glob("val/*/*")}
    assert len(rows) == 20
    assert {row["filename"] for row in rows} == files
    assert not (tmp_path / "val" / "old").exists()
    index = demo.validation_names(9, 20).index(rows[0]["filename"])
    saved = demo.decode((tmp_path / "val" / rows[0]["filename"]).read_bytes())
    assert np.abs(saved.astype(int) - demo.image(9, index)).mean() < 3


def test_list_agrees_with_the_shipped_files() -> None:
    rows = listed()
    files = {p.relative_to(ASSETS / "val").as_posix() for p in ASSETS.glob("val/*/*")}
    assert len(rows) >= 1000
    assert {row["filename"] for row in rows} == files
    for row in rows:
        content = (ASSETS / "val" / row["filename"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        assert demo.CLASSES[int(row["label"])][0] == row["filename"].partition("/")[0]


def test_shipped_images_are_those_of_the_generator() -> None:
    for index, name in list(enumerate(demo.validation_names()))[::97]:
        # Not the bytes: another libjpeg may round otherwise.
        saved = demo.decode((ASSETS / "val" / name).read_bytes()).astype(int)
        assert np.abs(saved - demo.image(demo.VALIDATION_SEED, index)).mean() < 3


def test_shipped_files_are_small() -> None:
    assert sum(p.stat().st_size for p in ASSETS.rglob("*") if p.is_file()) < 25 * MEGABYTE
    for name in expand(["suite=demo"])[0].suite.groups["modern"].networks:
        assert (ASSETS / "weights" / f"{name}.safetensors").stat().st_size <= 0.8 * MEGABYTE


def test_the_suite_has_the_networks_of_the_recipes() -> None:
    networks = expand(["suite=demo"])[0].suite.networks
    assert list(networks) == list(RECIPES)
    for name, recipe in RECIPES.items():
        own = networks[name]
        assert (own.architecture, own.width, own.size) == (
            recipe.architecture, recipe.width, recipe.size,
        )  # fmt: skip
        assert own.arguments == recipe.arguments
        assert (tuple(own.mean), tuple(own.std)) == recipe.stats


@pytest.mark.parametrize("name", ["inc_v3", "vgg16"])
@pytest.mark.slow
def test_shipped_networks_know_the_shipped_images(name: str) -> None:
    recipe, rows = RECIPES[name], listed()
    images = [demo.decode((ASSETS / "val" / row["filename"]).read_bytes()) for row in rows]
    weights = ASSETS / "weights" / f"{name}.safetensors"
    assert recipe.width is not None
    network = load_slim(recipe.architecture, recipe.width, len(demo.CLASSES), weights)
    data = stack(images, [int(row["label"]) for row in rows], recipe.size)
    assert data.images.shape == (len(rows), 3, recipe.size, recipe.size)
    assert data.images.dtype == torch.uint8
    assert accuracy(normalised(network, recipe), data) >= 0.9
