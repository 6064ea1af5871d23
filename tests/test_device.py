"""What a GPU would ask for, as far as its logic runs on a CPU: memory, shards, precision."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import agr.evaluation.determinism
import agr.evaluation.predictions
import agr.evaluation.runner
from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.schema import NetworkConfig
from agr.evaluation.determinism import apply, device_of, settle, slots_that_fit
from agr.evaluation.inputs import check_inputs, check_unchanged
from agr.evaluation.profiling import step_bytes
from agr.evaluation.provenance import open_evaluator
from agr.evaluation.runner import run_cell
from agr.models.defended import DefendedNetwork
from agr.models.network import Network
from agr.records.precision import compare, twin
from agr.records.run_info import (
    Narrowing,
    NumericIdentity,
    PrecisionComparison,
    PrecisionRates,
    RunInfo,
)
from agr.records.store import Records
from agr.report.notes import closing
from agr.report.tables import write_tables
from agr.utils.errors import ConfigError
from tests.conftest import demo_cell

VGG = ("source=vgg16", "targets=[vgg16,vgg19]", "select=source")


def rows(records: Records) -> pd.DataFrame:
    return records.read("rows").sort_values(["position", "target"]).reset_index(drop=True)


# ---- memory runs out -----------------------------------------------------------------------------


def small_memory(monkeypatch: pytest.MonkeyPatch, images: int, when: str) -> list[int]:
    """Make forwards over more than `images` images fail, with or without a gradient."""
    real, tried = Network.forward, []

    def forward(self: Network, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad == (when == "craft"):
            tried.append(len(x))
            if len(x) > images:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, x)

    monkeypatch.setattr(Network, "forward", forward)
    return tried


@pytest.mark.parametrize("when", ["craft", "score"])
@pytest.mark.parametrize("words", [(), ("slots=8",)])
@pytest.mark.slow
def test_out_of_memory_halves_the_slots_and_loses_no_image(
    when: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = demo_cell(tmp_path / "small", *VGG, "attack=ifgsm_stop", *words)
    narrow = demo_cell(tmp_path / "narrow", *VGG, "attack=ifgsm_stop", "slots=2", "width=2")
    expected = rows(run_cell(narrow))
    tried = small_memory(monkeypatch, 2, when)
    said: list[str] = []
    records = run_cell(cell, said.append)
    assert [s for s in said if "memory" in s] == [
        "out of memory with slots=8: going on with slots=4",
        "out of memory with slots=4: going on with slots=2",
    ]
    assert (max(tried), tried[-1]) == (8, 2)
    run = json.loads(records.run_file.read_text())
    assert (run["numeric"]["slots"], run["numeric"]["width"]) == (2, 2)
    assert run["narrowed"] == [{"slots": n, "width": n, "rows": 0} for n in (8, 4)]
    pd.testing.assert_frame_equal(rows(records), expected)
    # the same command goes on, though it asks for the slots that didn't fit
    check_unchanged(cell, records.run() or RunInfo(), check_inputs(cell))
    more = demo_cell(tmp_path / "small", *VGG, "attack=ifgsm_stop", *words, "n_images=14")
    assert len(rows(run_cell(more))) == 28
    assert tried[-1] == 2


def test_shards_that_run_out_together_halve_once(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG)
    records = Records(cell.folder)
    tried = open_evaluator(cell, records).numeric
    said: list[str] = []
    for _ in range(3):
        agr.evaluation.runner._narrow(records, tried, "no memory", said.append)
    run = records.run()
    assert run is not None
    assert run.numeric is not None
    assert (run.numeric.slots, run.numeric.width) == (4, 4)
    assert run.narrowed == [Narrowing(slots=8, width=8, rows=0)]
    assert said == ["out of memory with slots=8: going on with slots=4"] * 3


def test_weights_that_autocast_converts_are_not_counted_per_image() -> None:
    config = NetworkConfig(
        architecture="", weights="", classes=1000, size=12, mean=[0.5] * 3, std=[0.5] * 3
    )
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(432, 1000))
    for precision in ("fp32", "bf16"):
        network = Network(body, config, "contiguous", precision)
        assert step_bytes(network, 12) < 432 * 1000  # the weights in bf16 are twice that


@pytest.mark.slow
def test_rows_before_the_memory_ran_out_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = demo_cell(tmp_path, *VGG, "n_images=24", "part_seconds=0")
    real, calls = agr.evaluation.runner.scored, []

    def fails_once(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")
        return real(*args)

    monkeypatch.setattr(agr.evaluation.runner, "scored", fails_once)
    records = run_cell(cell)
    run = json.loads(records.run_file.read_text())
    assert run["narrowed"] == [{"slots": 8, "width": 8, "rows": 16}]
    found = rows(records)
    assert len(found) == 48
    assert not found.duplicated(["position", "target"]).any()
    tables = write_tables([cell], tmp_path)
    assert f"slots were halved in {cell.name}" in tables[0].read_text(encoding="utf-8")


def test_one_slot_too_many_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_memory(monkeypatch, 0, "craft")
    with pytest.raises(ConfigError, match=r"out of memory with a single image.*2\.00 GiB"):
        run_cell(demo_cell(tmp_path, *VGG))


def test_another_error_is_not_taken_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(agr.evaluation.runner, "scored", broken)
    with pytest.raises(RuntimeError, match="something else"):
        run_cell(demo_cell(tmp_path, *VGG))


# ---- what fits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("need", "free", "slots"),
    [(1e8, 100e9, 128), (1e8, 8e9, 32), (1e8, 9.2e9, 64), (1e8, 9.0e9, 32), (1e9, 1e9, 1),
     (9, 1, 1)],
)  # fmt: skip
def test_slots_are_a_power_of_two_that_fits(need: float, free: float, slots: int) -> None:
    assert slots_that_fit(need, free) == slots


class Gpu:
    """Lets the CPU pass for a GPU where memory is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: float):
        monkeypatch.setattr(agr.evaluation.determinism, "device_of", lambda cell: "cuda:0")
        monkeypatch.setattr(agr.evaluation.determinism, "_kind", lambda device: "cuda Test")
        monkeypatch.setattr(agr.evaluation.determinism, "apply", lambda numeric: None)
        monkeypatch.setattr(agr.evaluation.determinism, "free_bytes", lambda device: free)
        monkeypatch.setattr(agr.evaluation.determinism, "step_bytes", self.step_bytes)
        real = agr.evaluation.determinism.load_network
        on_cpu = lambda name, config, **k: real(name, config, **k | {"device": "cpu"})  # noqa: E731
        monkeypatch.setattr(agr.evaluation.determinism, "load_network", on_cpu)
        choose = agr.evaluation.determinism.choose_tuning
        chosen = lambda name, config, **k: choose(name, config, **k | {"device": "cpu"})  # noqa: E731
        monkeypatch.setattr(agr.evaluation.determinism, "choose_tuning", chosen)
        self.asked = 0

    def step_bytes(self, network: Network, size: int) -> float:
        self.asked += 1
        return 1e8


def test_slots_of_a_gpu_are_chosen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch, 8e9)
    words = [*VGG, f"outputs={tmp_path}", "threads=1"]
    first = settle(expand(words)[0], None)
    assert (first.slots, first.width) == (32, 32)
    monkeypatch.setattr(
        agr.evaluation.determinism, "free_bytes", lambda device: 100e9
    )  # less was free before
    assert settle(expand([*words, "attack=fgsm"])[0], None) == first
    assert gpu.asked == 1
    both = settle(expand([*words, "source=[vgg16,vgg19]"])[0], None)  # an ensemble needs more
    assert (both.slots, gpu.asked) == (128, 3)
    assert settle(expand([*words, "slots=5"])[0], None).slots == 5


def test_each_shard_has_its_own_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def device(*words: str) -> str:
        return device_of(expand([f"outputs={tmp_path}", *words])[0])

    assert device() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device(f"shard={i}/4") for i in range(4)] == ["cuda:0", "cuda:1"] * 2
    assert device("device=cpu", "shard=1/2") == "cpu"


def test_deterministic_algorithms_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *a, **k: asked.append((a, k)))
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    plain = NumericIdentity(8, 8, "fp32", torch.get_num_threads(), "cpu AVX2", torch.__version__)
    apply(plain)
    assert not asked
    apply(replace(plain, device="cuda Test"))
    assert asked == [((True,), {"warn_only": True})]
    assert not torch.backends.cudnn.allow_tf32
    apply(replace(plain, device="cuda Test", precision="tf32"))
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32
    apply(plain)
    assert not torch.backends.cudnn.allow_tf32


# ---- targets one at a time -----------------------------------------------------------------------


def test_targets_come_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*VGG, "targets=[vgg16,vgg19,res152/bits5]", "attack=fgsm", "n_images=4")
    together = rows(run_cell(demo_cell(tmp_path / "together", *words)))
    moves: list[str] = []
    real = torch.nn.Module.to

    def to(self: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        if isinstance(self, DefendedNetwork):
            moves.append(args[0])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    alone = rows(run_cell(demo_cell(tmp_path / "alone", *words, "resident=false")))
    pd.testing.assert_frame_equal(alone, together)
    # there and back, for the clean answers and for the adversarial images
    assert moves == ["cpu"] * 4


@pytest.mark.parametrize(("free", "fits"), [(1e9, True), (1e6, False)])
def test_targets_stay_where_they_fit(
    free: float, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = demo_cell(tmp_path, *VGG)
    evaluator = open_evaluator(cell, Records(cell.folder))
    assert evaluator.resident  # on the CPU always
    del evaluator.resident
    assert evaluator.source.device.type == "cpu"
    evaluator.device = "cuda:0"
    monkeypatch.setattr(agr.evaluation.predictions, "free_bytes", lambda device: free)
    assert evaluator.resident is fits


# ---- lower precision -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_lower_precision_is_compared_with_fp32(tmp_path: Path) -> None:
    words = (*VGG, "attack=ifgsm", "eps=1", "n_images=12")
    cell = demo_cell(tmp_path, *words, "precision=bf16", "fp32_images=8", "shard=0/1")
    exact = twin(cell)
    assert exact is not None
    assert (exact.config.precision, exact.config.n_images) == ("fp32", 8)
    assert exact.folder.is_relative_to(tmp_path / "demo" / "fp32")
    found = compare_runs(cell, exact)
    assert found.images == 8
    low = rows(Records(cell.folder)).query("position < 8").groupby("target")["success"].mean()
    plain = demo_cell(tmp_path / "plain", *words, "n_images=8")
    high = rows(run_cell(plain)).groupby("target")["success"].mean()
    for target in ("vgg16", "vgg19"):
        told = found.targets[target]
        assert told.asr == pytest.approx(100 * low[target])
        assert told.asr_fp32 == pytest.approx(100 * high[target])
    vgg19 = f"VGG19 {100 * (low['vgg19'] - high['vgg19']):+.1f} ("
    assert "bf16 against fp32 on 8 images" in closing(cell)
    assert vgg19 in closing(cell)
    tables = write_tables([cell], tmp_path)[0].read_text(encoding="utf-8")
    assert "precision=bf16: on 8 images of a cell, ASR is at most " in tables


@pytest.mark.slow
def test_every_shard_compares_its_share(tmp_path: Path) -> None:
    counts = []
    for shard in ("0/2", "1/2"):
        words = ("attack=fgsm", "precision=bf16", "fp32_images=6", f"shard={shard}")
        cell = demo_cell(tmp_path, *VGG, *words)
        exact = twin(cell)
        assert exact is not None
        counts.append(compare_runs(cell, exact).images)
    assert counts == [3, 6]


def compare_runs(cell: Cell, exact: Cell) -> PrecisionComparison:
    run_cell(cell)
    run_cell(exact)
    return compare(cell, exact)


def test_the_comparison_by_hand(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG, "precision=bf16")
    exact = twin(cell)
    assert exact is not None
    for one, success in ((cell, [1, 1, 0, 1]), (exact, [1, 0, 1, 0, 1])):
        table = [
            {"position": i, "image_id": str(i), "target": "vgg16", "success": bool(s)}
            for i, s in enumerate(success)
        ]
        Records(one.folder).update_run(lambda run: None)
        Records(one.folder).write_part("0/1", {"rows": table})
    found = compare(cell, exact)
    assert found == PrecisionComparison(4, {"vgg16": PrecisionRates(75.0, 50.0, 25.0)})
    assert (Records(cell.folder).run() or RunInfo()).against_fp32 == found


@pytest.mark.parametrize(
    "words", [("precision=fp32",), ("precision=bf16", "fp32_images=0"), ("precision=fp64",)],
)  # fmt: skip
def test_nothing_to_compare(words: tuple[str, ...], tmp_path: Path) -> None:
    assert twin(demo_cell(tmp_path, *VGG, *words)) is None


def test_tf32_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision=tf32 is of GPUs"):
        run_cell(demo_cell(tmp_path, *VGG, "precision=tf32"))
