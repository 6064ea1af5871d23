"""The benchmark: its arithmetic, its contenders against ours, its verdicts, and every part, small.

Nothing here depends on how long anything takes.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from agr.attacks import Attack, Linf, MeanNormalize, Momentum
from agr.utils.errors import ConfigError
from scripts.bench import __main__ as command
from scripts.bench import (
    demo,
    files,
    formats,
    full_size,
    growth,
    many,
    peers,
    records,
    report,
    row,
    startup,
)
from scripts.bench.options import PARTS, Options, read
from scripts.bench.peers import PEERS, PLAIN, TUNED, Trial
from scripts.bench.targets import of_bound, targets
from scripts.bench.timing import (
    COLUMNS,
    Contender,
    Measurement,
    Results,
    Spread,
    facts,
    frame_of,
    interleave,
)
from tests.conftest import CLASSES, EPS, images, small_model

TINY = (
    *("--rounds", "1", "--images", "2", "--threads", "1"),
    *("--demo-images", "8", "--real-images", "2", "--rows", "500"),
)

# ---- timing --------------------------------------------------------------------------------------


def test_every_contender_runs_once_per_round_in_turn() -> None:
    ran: list[str] = []
    # Read before and after each: the n-th contender takes 1, 2, 3 … seconds.
    ticks: Iterator[float] = (t for n in count(1) for t in (100.0 * n, 100.0 * n + n))
    contenders = [Contender(n, lambda n=n: ran.append(n) or len(ran), 2) for n in "abc"]  # type: ignore[misc]
    rows, last = interleave("part", "setting", contenders, 2, clock=lambda: next(ticks))
    assert ran == ["a", "b", "c", "a", "b", "c"]
    assert [(r.contender, r.round, r.seconds) for r in rows] == [
        ("a", 1, 1), ("b", 1, 2), ("c", 1, 3), ("a", 2, 4), ("b", 2, 5), ("c", 2, 6),
    ]  # fmt: skip
    assert last == {"a": 4, "b": 5, "c": 6}
    assert {(r.part, r.setting, r.images) for r in rows} == {("part", "setting", 2)}
    ran.clear()
    rows, _ = interleave("p", "s", contenders, 1, warm=True)
    assert ran == ["a", "b", "c"] * 2
    assert len(rows) == 3


def test_passes_are_counted_on_the_network_of_the_contender(model: nn.Module, x: Tensor) -> None:
    def work() -> None:
        model(x)
        point = x.clone().requires_grad_()
        torch.autograd.grad(model(point).sum(), point)

    contenders = [Contender("ours", work, len(x), model), Contender("other", work, len(x))]
    rows, _ = interleave("p", "s", contenders, 2)
    assert [(r.forwards, r.backwards) for r in rows] == [(2, 1), (0, 0)] * 2


def test_ratios_are_taken_within_rounds() -> None:
    """A machine that slows down tenfold leaves the ratio alone."""
    rows = [timed("a", r, s) for r, s in ((1, 1.0), (2, 10.0), (3, 2.0))]
    rows += [timed("b", r, s) for r, s in ((1, 2.0), (2, 30.0), (3, 2.0))]
    rows += [timed("c", 1, 2.0, images=4), timed("c", 2, 20.0, images=4), timed("c", 3, 4.0)]
    rows.append(Measurement("p", "s", "a", 0, value=0.5, unit="a fact"))
    results = Results(frame_of(rows))
    assert results.faster("a", "b") == Spread(2.0, 1.0, 3.0)
    assert results.faster("b", "a").median == 0.5
    assert results.faster("a", "c") == Spread(1.0, 1.0, 2.0)  # c deals with twice the images
    assert results.closest("a", ["b", "c", "missing"]) == ("c", Spread(1.0, 1.0, 2.0))
    assert results.closest("a", ["missing"]) is None
    assert Spread(1.234, 1.2, 1.3).text() == "1.23 (1.20–1.30)"  # noqa: RUF001
    assert Spread(2, 2, 2).text(1) == "2.0"


def timed(name: str, number: int, seconds: float, images: int = 2, **more: object) -> Measurement:
    return Measurement("p", "s", name, number, seconds, images)._replace(**more)  # type: ignore[arg-type]


def test_the_bound_by_hand() -> None:
    """Two steps on average: 2 gradients at 1/100 s and a forward at 1/400 s."""
    assert demo.bound(2, forward=400, gradient=100) == pytest.approx(1 / (0.02 + 0.0025))
    rows = [
        timed("agr", 1, 1.0, images=20),
        timed(demo.FORWARD, 1, 1.0, images=400),
        timed(demo.GRADIENT, 1, 1.0, images=100),
        Measurement("p", "s", "agr", 0, value=2.0, unit=demo.STEPS_USED),
    ]
    assert of_bound(Results(frame_of(rows)), "agr").median == pytest.approx(20 * 0.0225)


# ---- peers ---------------------------------------------------------------------------------------


class Exactly(nn.Module):
    """Computes in float64 whatever it gets: ART hands over float32 only."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x.double())
        return logits


@pytest.mark.parametrize(("attack", "library"), [(a, p) for a in PEERS for p in PEERS[a]])
def test_adapters_compute_what_we_do(
    attack: str, library: str, model: nn.Module, x: Tensor, y: Tensor
) -> None:
    chain = (MeanNormalize(), Momentum(1.0)) if attack == "mifgsm" else ()
    trial = Trial(attack, EPS, EPS / 4, 10, (3, 12, 12), CLASSES, batch=4)
    theirs = PEERS[attack][library](Exactly(model), trial)(x, y)
    ours = Attack(Linf(EPS), size=EPS / 4, chain=chain, quantize="off")
    tolerance = 1e-6
    assert (ours(model, x, y) - theirs).abs().max() <= tolerance
    for change in ({"size": EPS / 5}, {"steps": 3}, {"ball": Linf(EPS * 1.1)}):
        other = Attack(**{"ball": Linf(EPS), "size": EPS / 4, "chain": chain, **change})  # type: ignore[arg-type]
        assert (other(model, x, y) - theirs).abs().max() > 1e-4, change
    assert (ours(model, x, (y + 1) % CLASSES) - theirs).abs().max() > 1e-4


def test_missing_libraries_are_skipped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peers.installed("ifgsm") == ["torchattacks", "foolbox", "ART"]
    monkeypatch.setitem(peers.PACKAGES, "foolbox", "no-such-package")
    assert peers.installed("ifgsm") == ["torchattacks", "ART"]
    assert peers.installed("mifgsm", ("torchattacks",)) == ["torchattacks"]
    assert "foolbox not installed" in files.about(read([*TINY, "--parts", "stops"]))["libraries"]


def test_networks_of_peers_are_as_a_user_hands_them_over() -> None:
    network, x = small_model(dtype=torch.float32), images(dtype=torch.float32)
    half = peers.in_precision(network, "bf16")(x)
    assert half.dtype == torch.float32
    assert 0 < (half - network(x)).abs().max() < 1
    assert peers.in_precision(small_model(), "fp64")(x.double()).dtype == torch.float64
    normal = peers.Normalize([0.5, 0, 0], [2, 1, 1])(torch.ones(1, 3, 1, 1))
    assert normal.flatten().tolist() == [0.25, 1, 1]


# ---- whether outputs agree -----------------------------------------------------------------------


def disturbed(x: Tensor, share: float) -> Tensor:
    flat = x.clone().flatten()
    flat[: math.ceil(share * len(flat))] += 0.6 * full_size.ALPHA / 255
    return flat.view(x.shape)


def test_another_result_is_an_error_that_names_the_contender() -> None:
    x = torch.full((1, 3, 100, 100), 0.5)
    ours = x + full_size.ALPHA / 255
    fine = {full_size.PIPELINE: ours, "peer": disturbed(ours, 0.019)}
    assert full_size.compare("s", fine, "fp32", x)["peer"] == pytest.approx(0.981, abs=1e-3)
    wrong = {full_size.PIPELINE: ours, "peer": disturbed(ours, 0.021)}
    with pytest.raises(full_size.Disagreement, match=r"s: after one step peer .* 97\.9%"):
        full_size.compare("s", wrong, "fp32", x)
    assert full_size.compare("s", wrong, "bf16", x)["peer"] < full_size.AGREE
    with pytest.raises(full_size.Disagreement, match="most gradients are zero"):
        full_size.compare("s", {full_size.PIPELINE: x, "peer": x}, "fp32", x)


@pytest.mark.parametrize("far", [10.01 / 255, -0.6, 0.6])
def test_a_budget_that_is_left_is_an_error(far: float) -> None:
    x = torch.full((1, 3, 2, 2), 0.5)
    full_size.check_budget("s", {"peer": x + 10 / 255}, x)
    with pytest.raises(full_size.Disagreement, match="peer leaves the budget"):
        full_size.check_budget("s", {"peer": x + far}, x)


# ---- verdicts ------------------------------------------------------------------------------------

SETTING = "inception_v3, 299 px, ifgsm"


def cases() -> Iterator[tuple[str, list[Measurement], list[Measurement]]]:
    """Name, rows whose figure is just the one asked for, and rows that miss it by 1 %."""

    def speeds(part: str, setting: str, ours: str, other: str, ratio: float) -> list[Measurement]:
        slow = [Measurement(part, setting, other, r, ratio * r, 2) for r in (1, 2, 3)]
        return [Measurement(part, setting, ours, r, 1.0 * r, 2) for r in (1, 2, 3)] + slow

    def both(
        name: str, make: object, limit: float, worse: float = 0.99
    ) -> tuple[str, list[Measurement], list[Measurement]]:
        return name, make(limit), make(limit * worse)  # type: ignore[operator]

    bare, call = full_size.BARE, full_size.CALL
    yield both("limit", lambda r: speeds("limit", SETTING, full_size.PIPELINE, bare, r), 0.95)
    peer = f"foolbox{PLAIN}"
    for network, limit in (("inception_v3", 1.1), ("vgg16.tv_in1k", 1.3), ("resnet50", 1.0)):
        setting = f"{network}, 9 px, ifgsm"
        yield both(network, lambda r, s=setting: speeds("peers", s, call, peer, r), limit)  # type: ignore[misc]
    yield both("tuned", lambda r: speeds("peers", SETTING, call, f"ART{TUNED}", r), 0.97)

    def layouts(ratio: float) -> list[Measurement]:
        rows = speeds("formats", SETTING, "contiguous", "channels_last", ratio)
        return rows + facts("formats", SETTING, "contiguous", {formats.AUTO: 1.0})

    yield both("formats", layouts, 0.95)

    def stopped(ratio: float, of_bound: float, asr: float) -> list[Measurement]:
        setting, peer = "inc_v3, 9 images", f"foolbox ifgsm{PLAIN}"
        rows = facts("stops", setting, peer, {demo.ASR: 1.0})
        for name in demo.STOPPED:
            rows += speeds("stops", setting, name, peer, ratio)
            rows += facts("stops", setting, name, {demo.ASR: asr, demo.STEPS_USED: 1.0})
        for name in (demo.FORWARD, demo.GRADIENT):  # 2 images take half a second for each of both
            rows += [Measurement("stops", setting, name, r, r * of_bound / 2, 2) for r in (1, 2, 3)]
        return list(dict.fromkeys(rows))

    yield "bound", stopped(3.1, 0.75, 1.0), stopped(3.1, 0.74, 1.0)
    yield "fixed", stopped(3.0, 0.8, 1.0), stopped(2.97, 0.8, 1.0)
    yield "same ASR", stopped(3.1, 0.8, 0.99), stopped(3.1, 0.8, 0.98)

    def passes(ratio: float) -> list[Measurement]:
        own = Measurement("curve", "s", demo.CURVE, 1, 1.0, 2, 50, 50)
        return [
            own,
            own._replace(contender="ART, 10 runs", forwards=round(100 * ratio) - 7, backwards=7),
        ]

    yield both("passes", passes, 4.0)
    for attack, limit in (("agr", 2.5), ("ifgsm", 1.1)):
        setting = f"{attack}, inc_v3, 9 images"
        yield both(attack, lambda r, s=setting: speeds("row", s, row.OWN_ROW, "peer", r), limit)  # type: ignore[misc]

    def real(ratio: float, agr: float, asr: float = 1.0) -> list[Measurement]:
        setting, peer = "lite0, 9 photographs, 3 targets", row.THEIR_REAL["ifgsm"]
        rows = [Measurement("real", setting, peer, r, 10.0 * r, 2) for r in (1, 2, 3)]
        for attack, name in row.OWN_REAL.items():
            times = agr if attack == "agr" else ratio
            rows += [Measurement("real", setting, name, r, 10 * r / times, 2) for r in (1, 2, 3)]
            rows += facts("real", setting, name, {row.WHITE_BOX: asr})
        return rows + facts("real", setting, peer, {row.WHITE_BOX: 1.0})

    yield "real", real(1.6, 5.0), real(1.59, 5.0)
    yield "real, agr", real(1.6, 5.0), real(1.6, 4.95)
    yield "real, same ASR", real(1.6, 5.0, 0.99), real(1.6, 5.0, 0.98)

    def grown(slower: float, fatter: float) -> list[Measurement]:
        first = Measurement("growth", growth.IMAGES, "10 images", 1, 1.0, 10, value=100.0)
        more = first._replace(contender="20 images", seconds=2 * slower, images=20)
        return [first, more._replace(value=100.0 + fatter), more._replace(contender="40 images")]

    yield "linear", grown(1.1, 0.0), grown(1.12, 0.0)
    yield "flat", grown(1.0, 50.0), grown(1.0, 50.5)

    def seconds(name: str, s: float) -> list[Measurement]:
        return [Measurement("startup", "s", name, 1, s, 1)]

    def of_records(name: str, s: float) -> list[Measurement]:
        return [Measurement("records", "s", name, 1, s, 1, value=99.0)]

    for name, most in ((records.STATUS, 3.0), (records.TABLES, 10.0)):
        yield both(name, lambda s, n=name: of_records(n, s), most, worse=1.01)  # type: ignore[misc]

    for name, most in ((startup.HELP, 1.2), (startup.FINISHED, 2.0), (startup.TABLES, 2.0)):
        yield both(name, lambda s, n=name: seconds(n, s), most, worse=1.01)  # type: ignore[misc]


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case[0])
def test_a_target_is_reached_at_its_limit_and_not_below(
    case: tuple[str, list[Measurement], list[Measurement]],
) -> None:
    _, good, bad = case
    assert targets(frame_of(good))
    assert all(t.reached for t in targets(frame_of(good)))
    assert any(not t.reached for t in targets(frame_of(bad)))
    assert "**no**" not in report.markdown(frame_of(good), {})
    assert "**no**" in report.markdown(frame_of(bad), {})


def test_the_peer_that_is_closest_decides() -> None:
    rows = [Measurement("peers", SETTING, full_size.CALL, 1, 1.0, 2)]
    for peer, seconds in (("ART", 2.0), ("foolbox", 1.05)):
        rows.append(Measurement("peers", SETTING, peer + PLAIN, 1, seconds, 2))
    (target,) = targets(frame_of(rows))
    assert "foolbox" in target.figure
    assert not target.reached
    assert target.limit == "≥ 1.1"


def test_what_was_not_measured_is_said() -> None:
    text = report.markdown(
        frame_of([Measurement("startup", "s", startup.HELP, 1, 1.0, 1)]), {"device": "x"}
    )
    assert text.count("not measured") == len(PARTS) - 1
    assert "- device: x" in text


# ---- every part, small ---------------------------------------------------------------------------


def in_this_process(options: Options, n: int) -> dict[str, Any]:
    """A new one would spend most of its time on imports."""
    own = ("source=inc_v3", "targets=[inc_v3]", "select=none", "attack=ifgsm", f"n_images={n}")
    return growth.cost_of(demo.suite_cell(options, *own, outputs=options.cells / str(n)))


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One run of every part, with fewer images and commands than a real one."""
    out = tmp_path_factory.mktemp("bench")
    arguments = ["--network", "test_resnet", "--size", "64", "--out", str(out)]
    # Networks as they are: folding them takes longer than all else here.
    quick = ("slots=8", "fold=false")
    overrides_of = Options.overrides
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Options, "overrides", lambda self, *more: overrides_of(self, *quick, *more))
        patch.setattr(demo, "installed", lambda attack, among=(): ["torchattacks"])
        patch.setattr(row, "OWN_REAL", {name: row.OWN_REAL[name] for name in ("ifgsm", "agr")})
        patch.setattr(row, "THEIR_REAL", {"ifgsm": row.THEIR_REAL["ifgsm"]})
        patch.setattr(demo, "BARE_BATCHES", 1)
        patch.setattr(demo, "DEMO_SOURCES", ("inc_v3", "vgg16"))
        patch.setattr(row, "DEMO_SOURCES", ("inc_v3", "vgg16"))
        patch.setattr(row, "SIX", "targets=[inc_v3,vgg16]")
        patch.setattr(growth, "DEMO_SOURCES", ("inc_v3", "vgg16"))
        patch.setattr(growth, "TIMES", (1, 2))
        patch.setattr(growth, "MOST_SLOTS", 2)
        patch.setattr(growth, "_in_new_process", in_this_process)
        patch.setattr(many, "ATTACKS", {"resnet18": ("sgm",)})
        patch.setattr(many, "THEIRS", {})  # torchattack, where it is, warns
        patch.setattr(records, "SWEEP", ("experiment=paper", "source=vgg16"))
        patch.setattr(startup, "FEW", 2)
        patch.setattr(startup, "FINISHED_CELLS", 1)
        patch.setattr(sys, "argv", ["scripts.bench", *TINY, *arguments])
        command.main()
    frame = pd.read_parquet(out / "bench.parquet")
    return SimpleNamespace(out=out, frame=frame, text=(out / "bench.md").read_text())


@pytest.mark.slow
@pytest.mark.xdist_group("bench")
def test_the_parquet_file_has_every_part(measured: SimpleNamespace) -> None:
    frame = measured.frame
    assert list(frame.columns) == COLUMNS
    assert set(frame["part"]) == set(PARTS)
    assert not frame[["part", "setting", "contender", "round"]].isna().any().any()
    timed_rows = frame[frame["seconds"].notna()]
    assert (timed_rows["seconds"] > 0).all()
    assert (timed_rows["images"] > 0).all()
    untimed = frame[frame["seconds"].isna()]
    assert untimed["value"].notna().all()
    assert (untimed["unit"] != "").all()
    about = json.loads(pq.read_schema(measured.out / "bench.parquet").metadata[b"about"])
    assert about["threads"] == "1"


@pytest.mark.slow
@pytest.mark.xdist_group("bench")
def test_full_size_contenders_did_the_same_work(measured: SimpleNamespace) -> None:
    own = measured.frame[measured.frame["setting"] == "test_resnet, 64 px, ifgsm"]
    gradients = own[own["seconds"].notna()].set_index("contender")["backwards"]
    assert len(gradients) == 3 + 2 * 3
    assert (gradients == 10).all()
    forwards = own[own["seconds"].notna()].set_index("contender")["forwards"]
    assert forwards[full_size.BARE] == forwards[full_size.PIPELINE] == 11
    assert (own[own["unit"] == full_size.SAME_1]["value"] >= full_size.AGREE).all()
    assert len(own[own["unit"] == full_size.SAME_ALL]) == 2 + 2 * 3


@pytest.mark.slow
@pytest.mark.xdist_group("bench")
def test_the_curve_is_that_of_separate_runs(measured: SimpleNamespace) -> None:
    own = measured.frame[measured.frame["part"] == "curve"]
    assert (own[own["unit"] == demo.GAP]["value"] <= demo.ASR_GAP).all()
    passes = own[own["round"] == 1].set_index("contender")[["forwards", "backwards"]]
    assert passes.loc[demo.CURVE].tolist() == [11, 10]
    assert passes.loc["torchattacks, 10 runs"].tolist() == [55 + 11, 55]
    curve = own[(own["contender"] == demo.CURVE) & own["unit"].str.startswith(demo.AFTER)]
    assert len(curve) == 11
    assert curve["value"].iloc[0] == 0
    assert curve["value"].iloc[-1] > 0.5


@pytest.mark.slow
@pytest.mark.xdist_group("bench")
def test_rows_of_both_ways_are_scored_alike(measured: SimpleNamespace) -> None:
    own = measured.frame[(measured.frame["part"] == "row") & (measured.frame["round"] == 0)]
    asr = own[own["setting"].str.startswith("ifgsm")].pivot(
        index="unit", columns="contender", values="value"
    )
    assert len(asr) == 2
    assert (asr[row.OWN_ROW] - asr[row.THEIR_ROW]).abs().max() <= demo.ASR_GAP
    assert asr[row.OWN_ROW].max() > 0.5


@pytest.mark.slow
@pytest.mark.xdist_group("bench")
def test_real_networks_are_attacked_on_photographs(measured: SimpleNamespace) -> None:
    own = measured.frame[measured.frame["part"] == "real"]
    assert set(own["setting"]) == {"lite0, 2 photographs, 3 targets"}
    asr = own[own["round"] == 0].pivot(index="unit", columns="contender", values="value")
    assert (asr.loc[row.WHITE_BOX] == 1).all()
    ifgsm, peer = row.OWN_REAL["ifgsm"], row.THEIR_REAL["ifgsm"]
    assert abs(asr[ifgsm] - asr[peer])[row.TRANSFER] <= row.FLIPS / 4


@pytest.mark.slow
@pytest.mark.xdist_group("bench")
def test_stopped_attacks_fool_as_many_with_fewer_steps(measured: SimpleNamespace) -> None:
    own = measured.frame[measured.frame["part"] == "stops"]
    steps = own[own["unit"] == demo.STEPS_USED].set_index("contender")["value"]
    assert set(steps.index) == set(demo.STOPPED)
    assert steps.between(1, 10).all()
    assert own[own["unit"] == demo.ASR].set_index("contender")["value"].between(0.5, 1).all()


@pytest.mark.slow
@pytest.mark.xdist_group("bench")
def test_the_report_has_every_section(measured: SimpleNamespace) -> None:
    text = measured.text
    assert "not measured" not in text
    for what in (
        "device: cpu",
        "torch",
        "torchattacks 3",
        "fp32",
        "ART, tuned network",
        "`tune` took",
    ):
        assert what in text
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(titles) == 11
    assert text.count("| yes") + text.count("| **no**") == len(targets(measured.frame))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--parts", "stop"], "did you mean stops"),
        (["--parts", "stops", "--demo-sources", "vgg"], "did you mean vgg"),
        (["--network", "inceptionv3"], "did you mean inception_v3"),
        (["--rounds", "0"], "0 is not a whole number"),
        (["--precision", "fp8"], "invalid choice"),
        (["--parts", "stops", "--device", "cuda:99"], "--device cuda:99 is not there"),
        (["--colour"], "unrecognized arguments"),
    ],
)
def test_wrong_options_are_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as e:
        read(words)
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_the_command_ends_with_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench", "--parts", "nothing"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --parts nothing is unknown")
    assert len(done.stderr.splitlines()) == 1
