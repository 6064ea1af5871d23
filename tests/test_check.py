"""The page before a long run: which lines are ok, which are problems, and their ways out."""

from __future__ import annotations

import csv
import runpy
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import binom

import agr.check
from agr.config.compose import expand
from agr.config.schema import NetworkConfig
from agr.data.entries import Entry, Manifest
from agr.evaluation import preflight, profiling
from agr.evaluation.estimate import at_most
from agr.evaluation.profiling import PEAK, step_bytes, step_seconds
from agr.report.statistics import clopper_pearson
from tests.conftest import demo_cell

VGG = ("source=vgg16", "targets=[vgg16]", "select=source", "norm=linf", "attack=agr", "slots=8")
QUICK = (*VGG, "threads=1", "check.images=100", "check.seconds=0.2")


def page(
    outputs: Path, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[dict[str, str], dict[str, str]]:
    """What agr.check says: the lines that are ok, and the problems, by what they are about."""
    good = agr.check.main([*QUICK, f"outputs={outputs}", *words])
    found: dict[str, dict[str, str]] = {"ok": {}, "problem": {}}
    state, about = "ok", ""
    for line in capsys.readouterr().out.splitlines()[2:]:
        if not line:
            break
        if not line.startswith(" "):
            state, about = line[:8].strip(), line[9:28].strip()
        text = found[state].get(about, "")
        found[state][about] = f"{text} {line[28:].strip()}".strip()
    assert good == (not found["problem"])
    return found["ok"], found["problem"]


def test_the_demo_suite_is_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine, wrong = page(tmp_path, capsys)
    assert wrong == {}
    assert "csv" in fine["images"]
    assert fine["complete"] == "1,000 images in 10 classes"
    assert "100 images of each class" in fine["labels"]
    assert "agrees on 1,000" in fine["labels"]
    assert "sha256 7fe386d00c57" in fine["weights vgg16"]
    assert "1 threads" in fine["device"]
    assert "of 100 images" in fine["top-1 vgg16"]
    assert "published 98.3" in fine["top-1 vgg16"]
    assert "for 1 cell here" in fine["time"]
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(("word", "code"), [("check.images=20", 0), ("suite.images=2000", 1)])
def test_the_exit_code_tells(
    word: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["agr.check", *QUICK, f"outputs={tmp_path}", word])
    with pytest.raises(SystemExit) as e, pytest.warns(RuntimeWarning, match="agr.check"):
        runpy.run_module("agr.check", run_name="__main__")
    assert e.value.code == code


def test_rules_that_the_network_passes_by_are_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("attack=sgm", "source=res50", "targets=[res50]")
    fine, wrong = page(tmp_path, capsys, *words)
    assert "sgm on res50: SkipGradient changes 12 modules (" in fine["attack"]
    assert not wrong
    fine, wrong = page(tmp_path, capsys, "attack=sgm", "source=[res50,dense121]", "targets=[res50]")
    assert "of network 2" in fine["attack"]
    assert not wrong
    blocks = "timm.models.resnet.Bottleneck.forward"  # as of a network that skips its branches
    monkeypatch.setattr(blocks, lambda block, x: block.downsample(x) if block.downsample else x)
    _, wrong = page(tmp_path, capsys, *words)
    assert "attack=sgm on res50: the network never called layer1.1.bn3" in wrong["attack"]


def test_missing_images_leave_the_rest_of_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine, wrong = page(tmp_path, capsys, "data.root=/nowhere")
    assert set(wrong) == {"images"}
    assert "data.root=/nowhere is not there" in wrong["images"]
    assert {"weights vgg16", "memory", "disk", "time"} <= set(fine)


def labels(path: Path, change: int) -> Path:
    """The demo's labels, each shifted by `change` classes."""
    with Path(str(demo_cell(path).config.data.labels)).open() as f:
        rows = [(r["filename"], (int(r["label"]) + change) % 10) for r in csv.DictReader(f)]
    (path / "labels.csv").write_text("filename,label\n" + "".join(f"{a},{b}\n" for a, b in rows))
    return path / "labels.csv"


def test_labels_in_another_order_are_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Balanced and complete, and all the same wrong: the folders and the accuracy tell."""
    _, wrong = page(tmp_path, capsys, f"data.labels={labels(tmp_path, 1)}")
    assert set(wrong) == {"labels", "top-1 vgg16"}
    assert "1,000 of 1,000 differ" in wrong["labels"]
    assert "labels in another order" in wrong["top-1 vgg16"]
    _, wrong = page(tmp_path, capsys, f"data.labels={labels(tmp_path, 0)}")
    assert wrong == {}


def test_files_that_cannot_be_decoded_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = demo_cell(tmp_path)
    shutil.copytree(str(cell.config.data.root), tmp_path / "val")
    for i, path in enumerate(sorted((tmp_path / "val").rglob("*.JPEG"))):
        if i % 2:
            path.write_bytes(path.read_bytes()[:200])
    words = [f"data.root={tmp_path / 'val'}", f"data.labels={labels(tmp_path, 0)}"]
    fine, wrong = page(tmp_path, capsys, *words)
    assert set(wrong) == {"files"}
    bad = int(wrong["files"].split()[0])
    assert 30 < bad < 70
    assert f"of {100 - bad} images" in fine["top-1 vgg16"]


def test_weights_that_are_missing_or_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = "suite.networks.vgg16.weights"
    _, wrong = page(tmp_path, capsys, f"{one}=/nowhere/w.safetensors")
    assert set(wrong) == {"weights vgg16", "memory, time"}
    said = "there is no weight file /nowhere/w.safetensors: correct the path"
    assert wrong["weights vgg16"] == said
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    words = [f"{one}={tmp_path}/w.safetensors", "suite.networks.vgg16.sha256=null"]
    _, wrong = page(tmp_path, capsys, *words)
    assert set(wrong) == {"weights vgg16", "memory, time"}
    assert "holds no weights of vgg16" in wrong["weights vgg16"]


def test_too_many_slots_and_a_full_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr("agr.evaluation.capacity.shutil.disk_usage", lambda path: usage(10, 0, 10))
    monkeypatch.setattr("agr.evaluation.capacity.free_bytes", lambda device: 50_000_000)
    fine, wrong = page(tmp_path, capsys, "slots=4000", "width=8")
    assert set(wrong) == {"memory", "disk"}
    slots = int(wrong["memory"].partition("use slots=")[2].split()[0])
    assert 1 <= slots < 4000
    fine, _ = page(tmp_path, capsys, f"slots={slots}", "width=8")
    assert "memory" in fine


def test_published_accuracy_is_met_within_its_sampling_error() -> None:
    """An end of the interval is the rate at which 0.05 % of samples are as far away, or farther."""
    low, high = clopper_pearson(390, 500, 0.999)
    assert binom.sf(389, 500, low) == pytest.approx(0.0005)
    assert binom.cdf(390, 500, high) == pytest.approx(0.0005)

    def fine(published: float | None, right: int = 390, whole: bool = True) -> bool:
        config = NetworkConfig(classes=1000, top1=published)
        return preflight._accuracy("n", config, right, 500, whole=whole).fine

    assert fine(100 * low + 0.01)
    assert fine(100 * high - 0.01)
    assert not fine(100 * low - 0.01)
    assert not fine(100 * high + 0.01)
    assert fine(None)  # nothing is published: it must be better than chance, 0.1 %
    assert not fine(None, right=0)
    assert not fine(None, right=1)
    assert fine(None, right=20)
    assert fine(30.0, whole=False)  # easier images than the published value is of
    assert fine(99.0, whole=False)
    assert not fine(78.0, right=1, whole=False)


@pytest.mark.parametrize(
    ("right", "n", "published", "fine"),
    [
        (8, 10, 98.3, True),  # as few or fewer: 1.2 % of all samples
        (6, 10, 98.3, False),  # 0.002 %
        (491, 500, 99.5, True),  # 0.11 %
        (490, 500, 99.5, False),  # 0.026 %, where 0.05 % is the limit on either side
        (10, 10, 60.0, True),  # as many: 0.6 %
        (500, 500, 99.99, True),
        (0, 10, 50.0, True),  # 0.098 %
        (0, 11, 50.0, False),  # 0.049 %
        (0, 0, 50.0, False),
    ],
)
def test_few_images_near_100_percent_are_judged_exactly(
    right: int, n: int, published: float, fine: bool
) -> None:
    config = NetworkConfig(classes=10, top1=published)
    assert preflight._accuracy("n", config, right, n, whole=True).fine is fine


@pytest.mark.parametrize("n", [1, 2, 3, 500])
def test_networks_that_are_always_right_are_no_problem(n: int) -> None:
    config = NetworkConfig(classes=10)
    assert preflight._accuracy("n", config, n, n, whole=False).fine


@pytest.mark.parametrize(
    ("words", "n", "compared"),
    [
        (["suite=imagenet"], 50_000, True),
        (["suite=imagenet", "suite.images=240"], 240, False),
        (["suite=imagenet", "suite.images=240", "suite.synsets=null"], 240, False),
        (["suite=imagenet", "suite.synsets=null"], 50_000, False),
        (["suite=imagenet"], 49_999, False),
        (["suite=demo"], 1000, False),
    ],
)
def test_published_accuracies_are_of_ilsvrc2012_as_a_whole(
    words: list[str], n: int, compared: bool, tmp_path: Path
) -> None:
    cell = expand([*words, f"data.root={tmp_path}"])[0]
    whole = preflight._whole(cell, Manifest("flat", tmp_path, entries({0: n}), None))
    line = preflight._accuracy("n", NetworkConfig(classes=1000, top1=74.8), 429, 500, whole=whole)
    assert line.fine is not compared  # 85.8 % of easier images
    assert (
        "published 74.8 is compared on all of ILSVRC2012's val only" in line.text
    ) is not compared


def test_networks_are_compared_where_no_published_accuracy_is_of_these_images() -> None:
    """By hand: a and b agree on 3 of 4 images, c with each of them on none."""

    def line(*answers: list[int], labels: str = "0123") -> preflight.Line:
        named = zip("abc", answers, strict=False)
        pairs = {n: {str(i): (p, int(labels[i])) for i, p in enumerate(a)} for n, a in named}
        return preflight._agreement(pairs)

    right, nearly = [0, 1, 2, 3], [0, 1, 2, 9]
    assert line(right, nearly).fine
    assert "for 75.0 % of the images" in line(right, nearly).text
    odd = line(right, nearly, [7, 7, 7, 7])
    assert not odd.fine
    assert "c only for 0.0 %" in odd.text
    shifted = line(right, nearly, labels="1230")
    assert not shifted.fine
    assert "labels for at most 0.0 %: labels in another order" in shifted.text


def test_memory_of_a_step_by_hand() -> None:
    class Twice(torch.nn.Module):
        """Keeps its input once: 4 bytes a value."""

        dtype, memory_format = torch.float32, torch.contiguous_format
        device = torch.device("cpu")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * x).flatten(1)

    assert step_bytes(Twice(), 10) == PEAK * 4 * 3 * 10 * 10


def test_seconds_of_a_step_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    now, batches = [0.0], []

    def step(network: object, size: int, batch: int) -> float:
        batches.append(batch)
        now[0] += batch / 64
        return batch / 64

    monkeypatch.setattr(profiling, "_step", step)
    monkeypatch.setattr(profiling, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for budget, measured in ((9.0, [1, 1, 4, 4, 4, 4]), (0.2, [1, 1, 4, 4]), (0.0, [1, 1])):
        batches.clear()
        assert step_seconds(None, 10, 4, budget) == 1 / 64  # type: ignore[arg-type]
        assert batches == measured


def test_the_estimate_is_arithmetic(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, "source=vgg16", "steps=10", "targets=[vgg16,vgg19]")
    assert at_most(cell, 100, 0.5) == 100 * (10 + 1 + 4) * 0.5


def test_saved_images_and_the_cache_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine, _ = page(tmp_path, capsys, "data.cache=true", "save_adversarials=true")
    assert f"cache of 64 px {1000 * (3 * 64 * 64 + 8) / 1e6:.1f} MB" in fine["disk"]
    cell = expand([*QUICK, "save_adversarials=true"])[0]
    plain = expand([*QUICK])[0]
    extra = agr.evaluation.capacity.record_bytes(cell) - agr.evaluation.capacity.record_bytes(plain)
    assert extra == 400 * 3 * 3 * 64 * 64  # clean and adversarial, and a PNG
    some = expand([*QUICK, "save_adversarials=24"])[0]
    assert (
        agr.evaluation.capacity.record_bytes(some) - agr.evaluation.capacity.record_bytes(plain)
        == 24 * extra / 400
    )


def entries(counts: dict[int, int]) -> tuple[Entry, ...]:
    return tuple(
        Entry(f"{label}-{i}", Path("x"), label) for label, n in counts.items() for i in range(n)
    )


@pytest.mark.parametrize(
    ("counts", "fine"),
    [
        (dict.fromkeys(range(1000), 50), True),
        (dict.fromkeys(range(1000), 50) | {3: 49, 4: 51}, False),
        (dict.fromkeys(range(500), 100), False),
        ({0: 50_000}, False),
        ({0: 3, 1: 4}, True),  # a part
        ({0: 7}, False),
    ],
)
def test_labels_of_ilsvrc_are_even(counts: dict[int, int], fine: bool, tmp_path: Path) -> None:
    cell = expand(["suite=imagenet", f"data.root={tmp_path}"])[0]
    manifest = Manifest("flat", tmp_path, entries(counts), None)
    lines = list(preflight._labels(cell, manifest))
    assert [line.fine for line in lines] == [fine]


def test_labels_that_cannot_be_read_are_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = demo_cell(tmp_path)
    shutil.copytree(str(cell.config.data.root), tmp_path / "val")
    (tmp_path / "val" / "val.txt").write_text("nothing to see")
    words = [f"data.root={tmp_path / 'val'}", f"data.labels={labels(tmp_path, 0)}"]
    _, wrong = page(tmp_path, capsys, *words)
    assert set(wrong) == {"labels"}
    assert "mend or remove it" in wrong["labels"]


def test_no_image_is_no_accuracy() -> None:
    config = NetworkConfig(classes=10, top1=98.0)
    assert not preflight._accuracy("n", config, 0, 0, whole=True).fine
