"""Claims: the shipped ones on the paper's own tables, and made-up ones on made-up records."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.schema import PACKAGE
from agr.jobs.request import parse_request
from agr.report.claims.judge import Judge, Judgement
from agr.report.claims.page import (
    PAPER,
    claims_markdown,
    comparisons,
    judge_claims,
    reasons,
    write_claims,
)
from agr.report.claims.spec import load_claims
from agr.report.outcomes import Outcomes, Place
from agr.utils.errors import ConfigError
from tests.madeup import record

N = 20
ROOT = Path(__file__).parent.parent
SAID = {"says": "…", "where": "…"}
BETTER = {"left": {"attack": "agr"}, "right": {"attack": "ifgsm"}}


def cells_of(outputs: Path, *words: str) -> list[Cell]:
    asked = [f"outputs={outputs}", f"n_images={N}", "source=vgg16", *words]
    return expand(["attack=ifgsm,mifgsm,agr,agr_nostop", "norm=linf", *asked])


def write(folder: Path, claim: dict[str, Any], **file: Any) -> str:
    """A file of one claim; its path."""
    claim = {"name": "one", "title": "One", "value": "asr"} | SAID | claim
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump({"paper": "A paper", "claims": [claim], **file}))
    return str(path)


def ones(many: int) -> list[int]:
    """Success on the first so many of N images."""
    return [1] * many + [0] * (N - many)


def judged(cells: list[Cell], path: str, **named: str) -> Judgement:
    claims, printed = load_claims(path)
    return Judge(claims, printed, Outcomes(cells)).on_records(claims.claims[0], named)


# ---- the paper's own tables ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def paper() -> dict[str, Judgement]:
    claims, printed = load_claims("agr_paper")
    judge = Judge(claims, printed, Outcomes([]))
    return {claim.name: judge.on_paper(claim) for claim in claims.claims}


def printed_rates() -> pd.DataFrame:
    frame = pd.read_csv(PACKAGE / "assets/paper/asr.csv")
    return frame.pivot(index=["norm", "source", "target"], columns="attack", values="asr_percent")


@pytest.mark.parametrize(
    ("name", "verdict", "against", "of"),
    [
        ("white_box", "supported", 0, 22),  # Res152 under L2 isn't printed
        ("transfer", "contradicted", 1, 44),
        ("similar", "contradicted", 5, 24),
        ("amp", "supported", 0, 4),
        ("momentum", "contradicted", 3, 12),
        ("budgets", "supported", 0, 30),
        ("possible_mean_abs", "contradicted", 4, 6),
        ("possible_mean_abs_sym", "contradicted", 1, 6),
    ],
)
def test_what_the_papers_tables_say_of_its_claims(
    paper: dict[str, Judgement], name: str, verdict: str, against: int, of: int
) -> None:
    assert paper[name].verdict == verdict
    assert len(paper[name].compared) == of
    assert [c.verdict for c in paper[name].compared].count("contradicted") == against


def test_the_counts_are_those_of_the_csv(paper: dict[str, Judgement]) -> None:
    """The same questions asked of the CSV by hand."""
    rates = printed_rates().reset_index()
    black = rates[rates["source"] != rates["target"]]
    worse = black[(black["agr"] <= black["ifgsm"]) | (black["agr"] <= black["mifgsm"])]
    assert list(worse[["source", "target", "norm"]].itertuples(index=False, name=None)) == [
        ("vgg19", "res152", "linf")
    ]
    linf = black[black["norm"] == "linf"]
    assert (linf["mifgsm"] >= linf["ifgsm"]).sum() == 3
    wrong = [c for c in paper["transfer"].compared if c.verdict == "contradicted"]
    assert (wrong[0].left.source, wrong[0].left.target) == ("vgg19", "res152")
    assert wrong[0].difference == pytest.approx(32.49 - 32.53)
    assert (
        "VGG19" not in paper["transfer"].why
    )  # titles are those of the cells, here there are none
    assert "vgg19 → res152" in paper["transfer"].why


def test_what_is_not_printed_is_no_verdict(paper: dict[str, Judgement]) -> None:
    assert paper["cosine"].verdict == "not printed"
    assert paper["possible_rel_l2"].verdict == "not run"  # it depends on how bright images are


def test_bounds_by_hand(paper: dict[str, Judgement]) -> None:
    """Mean |v| is at most eps in L-infinity, and eps / sqrt(values) in L2."""
    most = {c.left.norm: c.right_value for c in paper["possible_mean_abs"].compared}
    assert most == pytest.approx({"linf": 10 / 255, "l2": 1500 / 255 / math.sqrt(3 * 299**2)})
    twice = {c.left.norm: c.right_value for c in paper["possible_mean_abs_sym"].compared}
    assert twice == pytest.approx({norm: 2 * value for norm, value in most.items()})
    assert "on inc_v3: 0.086, at most 0.0784 can be" in paper["possible_mean_abs_sym"].why


@pytest.mark.parametrize(
    ("rms", "verdict"), [(0.3, "supported"), (0.6, "contradicted"), (0.456, "undecided")]
)
def test_the_relative_norm_depends_on_how_bright_images_are(
    tmp_path: Path, rms: float, verdict: str
) -> None:
    """MI-FGSM's 0.086 needs a mean of 10/255 / rms that is as large: rms = 0.456 or less."""
    words = (f"outputs={tmp_path}", f"n_images={N}", "attack=mifgsm", "suite.synsets=imagenet")
    cell = expand([*words, "source=inc_v3"])[0]
    spread = np.linspace(0.98, 1.02, N) * rms
    length = math.sqrt(3 * cell.geometry.size**2)
    columns = {"l2": [255 * 0.04 * length] * N, "rel_l2": list(0.04 / spread)}
    record(cell, {"inc_v3": ones(N)}, **columns)
    claims, printed = load_claims("agr_paper")
    claim = next(c for c in claims.claims if c.name == "possible_rel_l2")
    found = Judge(claims, printed, Outcomes([cell])).on_paper(claim)
    assert found.verdict == verdict
    of_pictures = expand([*words[:3], "source=inc_v3", "eps=9"])[0]
    record(of_pictures, {"inc_v3": ones(N)}, **columns)
    drawn = Judge(claims, printed, Outcomes([of_pictures])).on_paper(claim)
    assert (drawn.verdict, len(drawn.compared)) == ("not run", 0)
    assert "no finished run of a suite with synsets=imagenet" in drawn.why
    claim.synsets = None
    assert Judge(claims, printed, Outcomes([of_pictures])).on_paper(claim).verdict == verdict
    momentum = next(c for c in found.compared if (c.left.attack, c.left.norm) == ("mifgsm", "linf"))
    assert momentum.right_value == pytest.approx(np.mean(10 / 255 / spread))
    assert momentum.n == N


# ---- records -------------------------------------------------------------------------------------


def test_two_rates_by_hand(tmp_path: Path) -> None:
    """14 of 20 against 4: the left alone fools 11, the right alone 1; McNemar 2 * 13 / 4096."""
    ifgsm, _, agr, _ = cells_of(tmp_path)
    left, right = ones(14), [0] * 11 + [1] * 3 + [1] + [0] * 5
    record(agr, {"vgg19": left})
    record(ifgsm, {"vgg19": right})
    path = write(tmp_path, {"compare": [{**BETTER, "target": "vgg19"}]})
    found = judged([ifgsm, agr], path)
    (c,) = found.compared
    assert (c.only_left, c.only_right, c.n) == (11, 1, N)
    assert (c.left_value, c.right_value, c.difference) == pytest.approx((70, 20, 50))
    assert c.p == pytest.approx(2 * 13 / 4096)
    assert c.p_holm == c.p  # one comparison
    assert found.verdict == "supported"
    assert "AGR against I-FGSM, L∞, VGG16 → VGG19: 70.0 % and 20.0 %, +50.0 points" in found.why
    assert c.smallest == pytest.approx(100 * 6 / N)
    exact = stats.bootstrap(
        (np.subtract(left, right) * 100.0,), np.mean, method="percentile",
        rng=np.random.default_rng(1), n_resamples=20_000,
    ).confidence_interval  # fmt: skip
    assert (c.low, c.high) == pytest.approx((exact.low, exact.high), abs=5.1)  # steps of 100 / N
    lower = write(tmp_path, {"expect": "lower", "compare": [{**BETTER, "target": "vgg19"}]})
    assert judged([ifgsm, agr], lower).verdict == "contradicted"


def test_holm_is_over_all_comparisons_of_a_claim(tmp_path: Path) -> None:
    """Two comparisons with p = 1/32: each alone is sure, both together aren't."""
    ifgsm, _, agr, _ = cells_of(tmp_path)
    record(agr, {"vgg19": ones(6), "res152": ones(6), "vgg16": ones(N)})
    record(ifgsm, {"vgg19": ones(0), "res152": ones(0), "vgg16": ones(N)})
    alone = judged([ifgsm, agr], write(tmp_path, {"compare": [{**BETTER, "target": "vgg19"}]}))
    both = judged([ifgsm, agr], write(tmp_path, {"compare": [{**BETTER, "pairs": "black-box"}]}))
    assert alone.compared[0].p_holm == pytest.approx(1 / 32)
    assert alone.verdict == "supported"
    assert [c.p_holm for c in both.compared] == pytest.approx([1 / 16, 1 / 16])
    assert both.verdict == "undecided"
    # 7 of 20 images, since 2^-6 < 0.05 / 2; and 6 of 20 are 7 of 22, rounded
    assert "can't show a difference below 35.0 points; about 22 would show this one" in both.why
    white = judged([ifgsm, agr], write(tmp_path, {"compare": [{**BETTER, "pairs": "white-box"}]}))
    assert [(c.left.target, c.p, c.difference) for c in white.compared] == [("vgg16", 1, 0)]
    assert white.verdict == "undecided"


def test_one_counterexample_is_enough(tmp_path: Path) -> None:
    ifgsm, _, agr, _ = cells_of(tmp_path)
    record(agr, {"vgg19": ones(N), "res152": ones(0), "vgg16": ones(N)})
    record(ifgsm, {"vgg19": ones(0), "res152": ones(N), "vgg16": ones(N)})
    found = judged([ifgsm, agr], write(tmp_path, {"compare": [{**BETTER, "pairs": "black-box"}]}))
    assert [c.verdict for c in found.compared] == ["supported", "contradicted"]
    assert found.verdict == "contradicted"
    assert "VGG16 → Res152" in found.why  # the one that speaks against it


def test_readings_play_the_papers_attacks(tmp_path: Path) -> None:
    """The same claim for two readings: `agr` transfers worse than I-FGSM, `agr_nostop` better."""
    cells = cells_of(tmp_path)
    counts = {"ifgsm": 10, "mifgsm": 10, "agr": 0, "agr_nostop": N}
    for cell in cells:
        record(cell, {"vgg19": ones(counts[cell.config.attack.name])})
    readings = {"AGR": {"with": {"agr": "agr"}, "without": {"agr": "agr_nostop"}}}
    claim = {"compare": [{**BETTER, "target": "vgg19"}]}
    path = write(tmp_path, claim, readings=readings)
    verdicts = judge_claims(Outcomes(cells), path)
    assert verdicts.columns == [PAPER, "with", "without"]
    ((_, found),) = verdicts.claims
    assert [found[c].verdict for c in verdicts.columns] == [
        "not printed", "contradicted", "supported"
    ]  # fmt: skip
    frame = comparisons(verdicts)
    assert frame["left_attack"].tolist() == ["agr", "agr_nostop"]
    assert frame["difference"].tolist() == [-50, 50]


def test_means_are_compared_image_by_image(tmp_path: Path) -> None:
    """A small difference on the same images shows, however much images differ from each other."""
    ifgsm, _, agr, _ = cells_of(tmp_path)
    base = np.linspace(0.01, 0.1, N)
    record(agr, {"vgg16": ones(N)}, rel_l2=list(base - 0.001), mean_abs=list(255 * base / 2))
    record(ifgsm, {"vgg16": ones(N)}, rel_l2=list(base), mean_abs=list(255 * base / 2))
    claim = {"value": "rel_l2", "expect": "lower", "compare": [BETTER]}
    found = judged([ifgsm, agr], write(tmp_path, claim))
    (c,) = found.compared
    assert c.difference == pytest.approx(-0.001)
    assert (c.low, c.high) == pytest.approx((-0.001, -0.001))
    assert found.verdict == "supported"
    sizes = write(tmp_path, claim | {"value": "size"}, values={"size": ["rel_l2", "mean_abs_sym"]})
    both = judged([ifgsm, agr], sizes)
    assert [(c.measure, c.verdict) for c in both.compared] == [
        ("rel_l2", "supported"), ("mean_abs_sym", "undecided")
    ]  # fmt: skip
    assert both.compared[1].left_value == pytest.approx(base.mean())  # twice mean |v|
    assert both.verdict == "undecided"


def test_only_images_that_both_have_are_compared(tmp_path: Path) -> None:
    """A denominator may count other images on each side: those of one side don't count."""
    cells = cells_of(tmp_path, "denominator=target-correct")
    ifgsm, agr = cells[0], cells[2]
    record(agr, {"vgg19": ones(N)}, clean_pred=[1] * 5 + [0] * 15)
    record(ifgsm, {"vgg19": ones(0)}, clean_pred=[0] * 15 + [1] * 5)
    path = write(tmp_path, {"compare": [{**BETTER, "target": "vgg19"}]})
    (c,) = judged([ifgsm, agr], path).compared
    assert (c.n, c.only_left) == (10, 10)


def test_targets_and_norms_can_be_the_sides(tmp_path: Path) -> None:
    cells = expand([
        "attack=ifgsm", "norm=linf,l2", "source=vgg16", f"outputs={tmp_path}", f"n_images={N}"
    ])  # fmt: skip
    record(cells[0], {"vgg16": ones(N), "vgg19": ones(8), "res152": ones(1)})
    record(cells[1], {"vgg16": ones(N), "vgg19": ones(N), "res152": ones(N)})
    sides = {"left": {"target": "vgg19"}, "right": {"target": "res152"}, "norm": "linf"}
    found = judged(cells, write(tmp_path, {"compare": [sides]}))
    assert [(c.left_value, c.right_value) for c in found.compared] == [(40, 5)]
    assert "→ VGG19 against → Res152, L∞, I-FGSM, on VGG16" in found.why
    norms = {"left": {"norm": "l2"}, "right": {"norm": "linf"}, "pairs": "black-box"}
    found = judged(cells, write(tmp_path, {"compare": [norms]}))
    assert [(c.left.target, c.difference) for c in found.compared] == [
        ("vgg19", 60), ("res152", 95)
    ]  # fmt: skip


def test_what_is_not_run_is_said(tmp_path: Path) -> None:
    ifgsm, mifgsm, agr, _ = cells_of(tmp_path)
    path = write(tmp_path, {"compare": [BETTER | {"right": {"attack": ["ifgsm", "mifgsm"]}}]})
    assert judged([ifgsm, mifgsm, agr], path).verdict == "not run"
    record(agr, {"vgg19": ones(N), "res152": ones(N), "vgg16": ones(N)})
    record(ifgsm, {"vgg19": ones(0)})
    found = judged([ifgsm, mifgsm, agr], path)
    assert found.verdict == "incomplete"  # all that is run supports it
    assert "of 3 comparisons 3 supported; not run: 3 of 6 comparisons; AGR against" in found.why
    text = claims_markdown(judge_claims(Outcomes([ifgsm, mifgsm, agr]), path), [])
    assert "missing: python -m agr.run" not in text  # the notes are the caller's
    two = judge_claims(Outcomes([agr, mifgsm]), path)
    text = write_claims([agr, mifgsm], two, tmp_path / "out")[0].read_text()
    assert "- missing: python -m agr.run" in text
    assert text.count("- missing:") == 1
    assert "attack=mifgsm" in text


def test_what_a_library_does_not_say_is_not_compared(tmp_path: Path) -> None:
    """An attack of another library has no steps: nothing follows, in whichever direction."""
    ifgsm, _, agr, _ = cells_of(tmp_path)
    record(agr, {"vgg16": ones(N)}, steps_used=3)
    record(ifgsm, {"vgg16": ones(N)}, steps_used=None)
    found = judged([ifgsm, agr], write(tmp_path, {"value": "steps_used", "compare": [BETTER]}))
    assert (found.verdict, found.why) == ("not run", "no image that both sides count")


def test_a_place_that_is_not_there_is_no_verdict(tmp_path: Path) -> None:
    ifgsm, _, agr, _ = cells_of(tmp_path)
    for cell in (ifgsm, agr):
        record(cell, {"vgg16": ones(N)}, clean_pred=1)
    typing = {"left": {"attack": "agr", "target": "vgg19"}, "right": {"target": "inc_v9"}}
    found = judged([ifgsm, agr], write(tmp_path, {"compare": [typing]}))
    assert (found.verdict, found.why) == ("not run", "not run: target inc_v9")
    nobody = {"left": {"attack": "agrr", "source": "vgg61"}, "right": {"attack": "ifgsm"}}
    found = judged([ifgsm, agr], write(tmp_path, {"compare": [nobody]}))
    assert (found.verdict, found.why) == ("not run", "not run: source vgg61, attack agrr")


def test_a_reading_that_is_not_run_has_no_verdict_of_its_own(tmp_path: Path) -> None:
    """A claim about all of the paper's attacks isn't judged by those that happen to be there."""
    ifgsm, _, agr, _ = cells_of(tmp_path)
    for cell in (ifgsm, agr):
        record(cell, {"vgg19": ones(N), "res152": ones(0)})
    sides = {"left": {"target": "vgg19"}, "right": {"target": "res152"}}
    path = write(tmp_path, {"compare": [sides | {"attack": ["new", "ifgsm"]}]})
    assert judged([ifgsm, agr], path, new="agr").verdict == "supported"
    found = judged([ifgsm, agr], path, new="agr_nostop")
    assert found.verdict == "incomplete"
    assert "of 1 comparison 1 supported; not run: attack agr_nostop" in found.why


def test_targets_that_are_named_need_not_be_of_the_group(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "targets=[vgg16,vgg19,vgg19/jpeg75,inc_v3]")
    ifgsm, agr = cells[0], cells[2]
    record(agr, dict.fromkeys(agr.targets, ones(N)))
    record(ifgsm, dict.fromkeys(ifgsm.targets, ones(0)))
    named = BETTER | {"target": ["vgg19/jpeg75", "inc_v3"]}
    found = judged([ifgsm, agr], write(tmp_path, {"compare": [named]}))
    assert [c.left.target for c in found.compared] == ["vgg19/jpeg75", "inc_v3"]
    found = judged([ifgsm, agr], write(tmp_path, {"compare": [BETTER | {"pairs": "black-box"}]}))
    assert [c.left.target for c in found.compared] == ["vgg19"]


def test_nothing_is_compared_with_itself_or_twice(tmp_path: Path) -> None:
    ifgsm, _, agr, _ = cells_of(tmp_path)
    record(agr, {"vgg19": ones(N)})
    record(ifgsm, {"vgg19": ones(0)})
    both = BETTER | {"right": {"attack": ["agr", "ifgsm"]}, "target": "vgg19"}
    found = judged([ifgsm, agr], write(tmp_path, {"compare": [both, both]}))
    assert [c.right.attack for c in found.compared] == ["ifgsm"]
    assert found.verdict == "supported"


def test_a_file_of_claims_reads_no_environment(tmp_path: Path) -> None:
    path = Path(write(tmp_path, {"compare": [BETTER], "says": "${oc.env:HOME}"}))
    claims, _ = load_claims(str(path))
    assert claims.claims[0].says == "${oc.env:HOME}"


@pytest.mark.slow
def test_what_is_wrong_is_said_before_anything_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr("agr.jobs.needed.run_first", ran.append)
    words = ["--run", f"outputs={tmp_path}", "n_images=2", "norm=linf", "source=vgg16"]
    with pytest.raises(ConfigError, match="claims=nonsense"):
        parse_request([*words, "claims=nonsense"])
    with pytest.raises(ConfigError, match="is there twice"):
        parse_request([*words, "seed=0,1"])
    assert ran == []
    asked = parse_request([*words, "attack=agr,ifgsm"], sweeps=True)
    assert [w[0] for w in ran] == ["experiment=report", "experiment=eps_linf"]
    assert len(asked.cells) == 2
    assert {c.config.eps for c in asked.sweeps} == {1, 2, 4, 10, 16}
    assert f"outputs={tmp_path}" in asked.command("make_report")
    divided = parse_request([*words, "attack=agr", "shards=3"])
    assert "shards=3" in ran[-1]  # the work is divided, what is shown is not
    assert [cell.config.shard for cell in divided.cells] == ["0/1"]
    assert "shards" not in str(divided.folder("report"))


def test_equal_reasons_are_said_once() -> None:
    same = Judgement("undecided", "because")
    assert reasons({"a": same, "b": same, "c": Judgement("supported", "it is")}) == [
        "a / b: undecided. because", "c: supported. it is"
    ]  # fmt: skip


def test_two_cells_at_one_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="agr linf on vgg16 is there twice: give one eps, seed"):
        Outcomes(cells_of(tmp_path, "eps=4,8")[4:6] + cells_of(tmp_path, "eps=8"))


def test_places_are_those_of_the_sources_group(tmp_path: Path) -> None:
    cell = cells_of(tmp_path, "targets=[vgg19,inc_v3]")[0]
    assert Outcomes([cell]).places() == [Place("linf", "vgg16", "ifgsm", "vgg19")]
    assert Outcomes([cell]).places("none") == [Place("linf", "vgg16", "ifgsm", "")]


# ---- files of claims -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "file", "words"),
    [
        ({"expct": "higher"}, {}, "expct is not a key of a file of claims"),
        ({"compare": [BETTER], "expect": "more"}, {}, "expect: more"),
        ({"compare": [BETTER], "value": "asrr"}, {}, "asrr is not measured: did you mean asr"),
        ({}, {}, "give either compare: or possible:"),
        ({"compare": [BETTER], "possible": "rel_l2"}, {}, "give either compare: or possible:"),
        ({"possible": "rel"}, {}, "possible: rel"),
        ({"synsets": "mine", "compare": [BETTER]}, {}, "synsets: mine: give imagenet"),
        ({"possible": "rel_l2"}, {}, "value: asr is none of printed"),
        ({"compare": [BETTER | {"left": {"atack": "agr"}}]}, {}, "atack is not a part of a place"),
        ({"compare": [BETTER | {"right": {}}]}, {}, "right: name what differs"),
        (
            {"compare": [BETTER | {"right": {"attack": "agr"}}]},
            {},
            "right: name what differs from the left side",
        ),
        ({"compare": [BETTER | {"pairs": "white"}]}, {}, "pairs: white"),
        (
            {"compare": [BETTER | {"pairs": "white-box"}], "value": "rel_l2"},
            {},
            "rel_l2 is measured of an image, whatever the target",
        ),
        (
            {"compare": [BETTER]},
            {"readings": {"a": {"x": {"new": "agr"}}}},
            "readings: a: new is not an attack of these claims",
        ),
        ({"compare": [BETTER]}, {"readings": {"a": {}}}, "readings: a: name at least one"),
        (
            {"compare": [BETTER]},
            {"readings": {"a": {"as printed": {}}}},
            "name at least one, and none 'as printed'",
        ),
        ({"compare": ["agr"]}, {}, "claims"),
        (
            {"compare": [BETTER]},
            {"printed": {"asr": {"file": "none.csv", "column": "x"}}},
            r"none.csv is not a file: put it there, as .*none.csv",
        ),
        (
            {"compare": [BETTER]},
            {"printed": {"asr": {"file": "paper/asr.csv", "column": "rate"}}},
            "paper/asr.csv lacks rate",
        ),
        (
            {"possible": "mean_abs", "value": "amp", "eps": {"linf": 10}},
            {"printed": {"amp": {"file": "paper/amp.csv", "column": "amp"}}},
            "eps: says nothing of l2",
        ),
        (
            {"possible": "mean_abs", "value": "amp", "eps": {"linf": 10, "l2": -1}},
            {"printed": {"amp": {"file": "paper/amp.csv", "column": "amp"}}},
            "give numbers above 0",
        ),
    ],
)
def test_wrong_files_are_named(
    tmp_path: Path, claim: dict[str, Any], file: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as e:
        load_claims(write(tmp_path, claim, **file))
    assert "claims.yaml" in str(e.value)


def test_two_claims_need_two_names(tmp_path: Path) -> None:
    path = Path(write(tmp_path, {"compare": [BETTER]}))
    told = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(told | {"claims": told["claims"] * 2}))
    with pytest.raises(ConfigError, match="two claims have the name one"):
        load_claims(str(path))


def test_a_date_that_no_calendar_has_is_named(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text("paper: 2020-13-45\n")
    with pytest.raises(ConfigError, match=r"claims\.yaml: month .* text in quotes"):
        load_claims(str(path))


def test_an_unknown_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"claims=agr_papr: .* did you mean agr_paper"):
        load_claims("agr_papr")


def test_printed_tables_stand_beside_the_file(tmp_path: Path) -> None:
    """A paper of one's own: its tables are CSVs beside its claims."""
    rows = "norm,source,attack,target,rate\nlinf,a,agr,b,30\nlinf,a,ifgsm,b,20\nlinf,a,agr,a,\n"
    (tmp_path / "mine.csv").write_text(rows)
    printed = {"asr": {"file": "mine.csv", "column": "rate"}}
    claims, tables = load_claims(write(tmp_path, {"compare": [BETTER]}, printed=printed))
    found = Judge(claims, tables, Outcomes([])).on_paper(claims.claims[0])
    assert (found.verdict, len(found.compared)) == ("supported", 1)
    (tmp_path / "mine.csv").write_text(rows.replace("30", "20"))
    claims, tables = load_claims(str(tmp_path / "claims.yaml"))
    assert Judge(claims, tables, Outcomes([])).on_paper(claims.claims[0]).verdict == "undecided"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("linf,a,agr,b,44.2%", "row 0: 44.2% is not a number: write 44.2, or nothing"),
        ("Linf,a,agr,b,44.2", "norm Linf: did you mean linf"),
        ("linf,a,agr,b,44.2\nlinf,a,agr,b,50", "linf a agr b is there twice: leave one"),
    ],
)
def test_wrong_printed_tables_are_named(tmp_path: Path, rows: str, words: str) -> None:
    (tmp_path / "mine.csv").write_text(f"norm,source,attack,target,rate\n{rows}\n")
    printed = {"asr": {"file": "mine.csv", "column": "rate"}}
    with pytest.raises(ConfigError, match=words):
        load_claims(write(tmp_path, {"compare": [BETTER]}, printed=printed))


def test_attacks_that_the_table_does_not_have_are_said(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("norm,source,attack,target,rate\nlinf,a,I-FGSM,b,4\n")
    printed = {"asr": {"file": "mine.csv", "column": "rate"}}
    claims, tables = load_claims(write(tmp_path, {"compare": [BETTER]}, printed=printed))
    found = Judge(claims, tables, Outcomes([])).on_paper(claims.claims[0])
    assert found.why == "the printed table, of I-FGSM, has nothing to compare"


@pytest.mark.slow
def test_the_script_writes_a_page_without_torch(tmp_path: Path) -> None:
    ifgsm, _, agr, _ = cells_of(tmp_path)
    record(agr, {"vgg19": ones(N)})
    record(ifgsm, {"vgg19": ones(0)})
    path = write(tmp_path, {"title": "A | B", "compare": [{**BETTER, "target": "vgg19"}]})
    code = (
        "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__');"
        "assert not {'torch', 'timm', 'matplotlib'} & set(sys.modules)"
    )
    words = ["attack=ifgsm,agr", "norm=linf", "source=vgg16", f"n_images={N}"]
    words += ["targets=[vgg16,vgg19,res152]"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "scripts" / "make_claims.py"), f"claims={path}",
         *words, f"outputs={tmp_path}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert r"| A \| B" in done.stdout
    assert "as named: supported. of 1 comparison 1 supported" in done.stdout
    (csv,) = tmp_path.glob("demo/claims/*/claims.csv")
    assert pd.read_csv(csv)["p_holm"].tolist() == pytest.approx([2 * 0.5**N])
