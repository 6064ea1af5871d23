"""Tuned leaderboards: the split, the search space, the trials, and one whole small run."""

from __future__ import annotations

import json
import subprocess
from itertools import islice, product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import agr.jobs.trials
from agr.config.cell import Cell
from agr.config.compose import expand
from agr.evaluation.images import Images, in_tuning_split
from agr.evaluation.inputs import find_images
from agr.jobs.apart import _check_enough, check_apart
from agr.jobs.search_space import leaves, load_space
from agr.jobs.trials import Options, Trial, draw_trials, parse_options, searched
from agr.jobs.tuned import Result, _winners, tuned_ranking
from agr.records.store import Records
from agr.report.hyperparameters import AS_SHIPPED, whose, whose_note
from agr.utils.errors import ConfigError
from agr.utils.hashing import draw
from tests.conftest import demo_cell
from tests.forked import run
from tests.madeup import record

pytestmark = pytest.mark.xdist_group("tuned")  # one whole run for all of them
BOARD = ("experiment=leaderboard", "n_images=6", "steps=2")


def space_file(folder: Path, text: str) -> str:
    path = folder / "own.yaml"
    path.write_text(text)
    return str(path)


# ---- the split -----------------------------------------------------------------------------------


def test_the_tuning_split_is_the_end_of_the_order(tmp_path: Path) -> None:
    """By hand: the order is that of the draws, and the split begins at three quarters of 2^64."""
    ranked, tuning = demo_cell(tmp_path), demo_cell(tmp_path, "split=tuning")
    manifest = find_images(ranked)
    order = [e.image_id for e in Images(ranked, manifest).order()]
    split = [e.image_id for e in Images(tuning, manifest).order()]
    assert split == order[-len(split) :]
    assert split == [i for i in order if draw(0, i) / 2**64 >= 0.75]
    assert 200 < len(split) < 300
    # other orders of a tuning cell, as Admix's pool has, keep to its split
    assert {e.image_id for e in Images(tuning, manifest).order("pool")} == {*split}
    assert len(Images(ranked, manifest).order("pool")) == 1000


def test_the_split_is_part_of_the_identity(tmp_path: Path) -> None:
    whole, same, tuning = (
        demo_cell(tmp_path, *words) for words in ([], ["split=all"], ["split=tuning"])
    )
    assert whole.id == same.id != tuning.id
    with pytest.raises(ConfigError, match="split=test is unknown"):
        demo_cell(tmp_path, "split=test")


def few(folder: Path, n: int) -> str:
    """The demo's labels of its first images."""
    lines = (Path(demo_cell(folder).config.data.labels or "")).read_text().splitlines()
    labels = folder / "few.csv"
    labels.write_text("\n".join(lines[: n + 1]) + "\n")
    return f"data.labels={labels}"


def test_too_few_images_are_counted(tmp_path: Path) -> None:
    words = [few(tmp_path, 40), "source=vgg16", "targets=[vgg16]", "select=none", "slots=8"]
    ids = [e.image_id for e in find_images(demo_cell(tmp_path, *words)).entries]
    inside = sum(in_tuning_split(0, i) for i in ids)
    outside = len(ids) - inside
    assert len(ids) == 40
    assert inside > 1

    def cells(n: int, m: int) -> tuple[list[Cell], list[Cell]]:
        ranked = demo_cell(tmp_path, *words, f"n_images={n}")
        return [ranked], [demo_cell(tmp_path, *words, f"n_images={m}", "split=tuning")]

    _check_enough(*cells(outside, inside))
    with pytest.raises(
        ConfigError, match=f"has {inside} that can be read: give tuning_images={inside} "
    ):
        _check_enough(*cells(outside, inside + 1))
    with pytest.raises(
        ConfigError, match=f"there are {outside} that can .* give n_images={outside} "
    ):
        _check_enough(*cells(outside + 1, inside))


def test_records_that_share_an_image_are_refused(tmp_path: Path) -> None:
    words = ["targets=[vgg16]", "n_images=2", "source=inc_v3"]
    ranked, tuning = demo_cell(tmp_path, *words), demo_cell(tmp_path, *words, "split=tuning")
    check_apart([ranked], [tuning])  # none is finished
    for cell in (ranked, tuning):
        record(cell, {"vgg16": [1, 0]})
    with pytest.raises(ConfigError, match="2 ranked images were tuned on, such as image0"):
        check_apart([ranked], [tuning])


OPTIONS = Options(False, 4, 2, "standard", ())


def test_several_seeds_are_refused_before_anything_is_run(tmp_path: Path) -> None:
    words = ["attack=mifgsm", "seeds=2", f"outputs={tmp_path}"]
    with pytest.raises(ConfigError, match="goes with one seed, and there are 2"):
        tuned_ranking(OPTIONS, words, expand(words), run=True)


@pytest.mark.slow
def test_budgets_of_gradients_are_settings_of_their_own(tmp_path: Path) -> None:
    words = ["attack=sinifgsm,mifgsm", "gradients=10,70", f"outputs={tmp_path}"]
    cells = expand(words)
    space = load_space(space_file(tmp_path, "chain.momentum.decay: [0.5, 1.0]"), cells)
    trials = draw_trials(OPTIONS, space, words, cells)
    assert {trial.setting for trial in trials} == {("linf", 10.0, 10), ("linf", 10.0, 70)}
    assert {len(trial.cells) for trial in trials} == {1}
    dear = load_space(space_file(tmp_path, "views.scale.copies: [5, 20]"), cells)
    with pytest.raises(ConfigError, match="gradients=10 don't suffice for a step of sinifgsm"):
        draw_trials(OPTIONS, dear, words, cells)


def test_more_settings_than_a_sweep_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agr.jobs.trials, "MOST_VALUES", 5)
    words = ["attack=sinifgsm,mifgsm", f"outputs={tmp_path}"]
    cells = expand(words)
    space = load_space(space_file(tmp_path, "chain.momentum.decay: [0.5, 0.7, 1.0]"), cells)
    with pytest.raises(ConfigError, match="trials=4 of 2 attacks are 6 settings"):
        draw_trials(OPTIONS, space, words, cells)


# ---- the search space ----------------------------------------------------------------------------


def cell_of(attack: str, *words: str) -> Cell:
    return expand([f"attack={attack}", *words])[0]


def test_draws_are_distinct_and_the_first_is_the_authors(tmp_path: Path) -> None:
    text = "size: [even, full]\nchain.momentum.decay: {from: 0.5, to: 2.0, by: 0.5}\n"
    cell = cell_of("mifgsm")
    space = load_space(space_file(tmp_path, text), [cell])
    assert space.values["chain.momentum.decay"] == [0.5, 1.0, 1.5, 2.0]
    own = {"size": "even", "chain.momentum.decay": 1.0}
    every = [dict(zip(own, v, strict=True)) for v in product(*space.values.values())]
    found = [own | dict(values) for values in space.settings(cell, 100)]
    assert found[0] == own
    assert sorted(map(str, found)) == sorted(map(str, every))  # all 8, none twice
    for trials in (2, 3, 5):  # fewer trials are the first of more
        assert space.settings(cell, trials) == space.settings(cell, 8)[:trials]
    other = space.settings(cell_of("mifgsm", "seed=1"), 100)
    assert other != space.settings(cell, 100)
    assert sorted(map(str, other)) == sorted(map(str, space.settings(cell, 100)))


def test_a_space_too_large_to_be_written_down(tmp_path: Path) -> None:
    keys = ("mu1", "mu2", "beta1", "beta2", "scale")
    text = "".join(f"step.{key}: {{from: 0.001, to: 0.9, by: 0.001}}\n" for key in keys)
    cell = cell_of("ai_fgtm")
    found = load_space(space_file(tmp_path, text), [cell]).settings(cell, 50)
    assert len({json.dumps(values) for values in found}) == 50


def test_what_an_attack_tunes() -> None:
    space = load_space("standard", [])
    assert {*space.of(cell_of("mifgsm"))} == {"size", "chain.momentum.decay"}
    assert {*space.of(cell_of("fgsm"))} == set()  # its one step is the budget
    assert space.settings(cell_of("fgsm"), 8) == [{}]
    assert {*space.of(cell_of("library/ddn", "norm=l2"))} == set()
    fixed = cell_of("mifgsm", "attack.chain.momentum.decay=0.5")
    assert {*space.of(fixed)} == {"size"}


@pytest.mark.slow
def test_every_key_of_the_standard_space_is_an_attacks_and_can_be_built() -> None:
    from agr.attacks.build import build_attack

    cells = expand(["attack=glob(*,exclude=_*)"])
    space = load_space("standard", cells)
    assert {*space.values} == {key for cell in cells for key in space.of(cell)}
    counts = [{"copies", "samples", "pool"} & {*key.split(".")} for key in space.values]
    assert not any(counts)  # what multiplies the gradients
    for name in ("ssa", "admix", "emifgsm", "vmifgsm", "ai_fgtm", "adam", "rmsprop", "pgd", "agr"):
        for values in islice(space.settings(cell_of(name), 6), 1, None):
            build_attack(cell_of(name, *(f"attack.{k}={v}" for k, v in values.items())).config)


WRONG: dict[str, str] = {
    "chain.momentun.decay: [1.0]": "no attack has the key chain.momentun.decay: did you mean",
    "steps: [5, 10]": "steps is not tuned",
    "size: []": r"size: \[\] is not a list of 1 to 1,000",
    "size: full": "size: full is not a list",
    "size: [full, full]": "has a value twice",
    "chain.momentum.decay: [[1]]": "is not a list",
    "chain.momentum.decay: {from: 1, to: 2}": "is not a range",
    "chain.momentum.decay: {from: 1, to: 2, by: 0}": "is not a range",
    "chain.momentum.decay: {from: 2, to: 1, by: 0.5}": "is not a list of 1 to",
    "chain.momentum.decay: {from: 0, to: 1, by: 0.00001}": "is not a list of 1 to",
    "[1, 2]": "has no keys",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_search_space_is_told_in_a_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=WRONG[text]):
        load_space(space_file(tmp_path, text), [cell_of("ifgsm")])


def test_an_unknown_search_space() -> None:
    said = r"tuning=standart: .* is not a file: did you mean standard"
    with pytest.raises(ConfigError, match=said):
        load_space("standart", [])


# ---- words ---------------------------------------------------------------------------------------


def test_options() -> None:
    options, rest = parse_options(["attack=agr", "tuned=both", "trials=3"])
    assert rest == ["attack=agr"]
    assert options == Options(True, 3, 50, "standard", ("tuned=both", "trials=3"))
    assert parse_options(["tuned=false", "eps=3"]) == (None, ["eps=3"])


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("tuned=maybe", "tuned=maybe is unknown: give true, both"),
        ("tuned=true trials=0", "trials=0 cannot be: give a whole number from 2 to 1,000"),
        ("tuned=true trials=1", "trials=1 cannot be"),
        ("tuned=true trials=many", "trials=many cannot be"),
        ("tuned=true tuning_images=0", "tuning_images=0 cannot be"),
        ("trials=8", "trials=8 tunes nothing by itself: add tuned=true"),
        ("tuned=true split=tuning", "split=tuning and tuned=true"),
    ],
)
def test_wrong_options_are_told_in_a_line(words: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        parse_options(words.split())


def test_a_users_folder_stays_searched() -> None:
    assert searched(["eps=3"], Path("o")) == "hydra.searchpath=[o]"
    assert searched(["hydra.searchpath=[a]"], Path("o")) == "hydra.searchpath=[a,o]"


def test_whose() -> None:
    cells = expand(["attack=ifgsm,mifgsm", "attack.size=full", "attack.label=prediction"])
    assert [whose(cell) for cell in cells] == [
        "the authors', changed by the user: attack.size=full"
    ] * 2
    assert whose(cell_of("agr")) == "the authors'"
    authors = "the authors'"
    assert whose_note({"A": authors, "B": authors}) == f"hyperparameters: {authors}{AS_SHIPPED}"
    assert (
        whose_note({"A": authors, "B": "x", "C": authors})
        == "hyperparameters: the authors' but for these; x: B"
    )
    assert whose_note({"A": "x", "B": "y", "C": "x"}) == "hyperparameters: x: A, C; y: B"
    assert "as the column says" in whose_note({"A": authors, "A, tuned": "tuned: size=full"})


def board(outputs: Path, *words: str) -> tuple[list[str], list[Cell]]:
    given = [*BOARD, f"outputs={outputs}", *words]
    return given, expand(given)


def options(**changes: Any) -> Options:
    return Options(False, 3, 4, "standard", ())._replace(**changes)


def test_what_tells_of_no_transfer_is_refused(tmp_path: Path) -> None:
    for words, match in {
        ("attack=ifgsm", "source=vgg16", "targets=[vgg16]"): "all targets are white-box",
        ("attack=fgsm", "steps=1"): "no attack of the leaderboard has a key",
        ("attack=mifgsm", "source=vgg16"): "3 of 3 cells of trials are not run: add --run",
    }.items():
        with pytest.raises(ConfigError, match=match):
            tuned_ranking(options(), *board(tmp_path, *words), run=False)


# ---- winners -------------------------------------------------------------------------------------


def test_the_best_trial_wins_and_of_equals_the_first() -> None:
    cell = cell_of("mifgsm")

    def best(*transfers: float) -> int:
        trials = [Trial(cell, ("linf", 10.0), i, {}, "", []) for i in range(1, len(transfers) + 1)]
        results = [Result(t, r, 4, 4) for t, r in zip(trials, transfers, strict=True)]
        (winner,) = _winners(results).values()
        return winner.number

    assert [best(25, 50, 50), best(50, 50, 25), best(0, 0, 1), best(3)] == [2, 1, 3, 1]


@pytest.mark.slow
def test_a_winner_that_is_the_authors_is_one_cell(tmp_path: Path) -> None:
    """Of made-up records: all trials fool vgg16 with 2 of 4 images."""
    given, cells = board(tmp_path, "attack=mifgsm", "source=inc_v3", "targets=[inc_v3,vgg16]")
    for trial in draw_trials(options(), load_space("standard", cells), given, cells):
        for cell in trial.cells:
            record(cell, {"vgg16": [1, 1, 0, 0]}, label=1, clean_pred=1)
    ranking = tuned_ranking(options(both=True), given, cells, run=False)
    assert list(ranking.trials["transfer"]) == [50, 50, 50]
    assert list(ranking.trials["best"]) == [True, False, False]
    (cell,) = ranking.cells
    assert (cell.id, cell.config.attack.title) == (cells[0].id, "MI-FGSM")
    assert ranking.tuned == {cell.id: "tuned: the authors' were best"}


# ---- a whole run ---------------------------------------------------------------------------------


def script(*words: str) -> subprocess.CompletedProcess[str]:
    return run(["leaderboard", *words], module="agr")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Two attacks from two groups, three trials at most, on four images, ranked on six."""
    outputs = tmp_path_factory.mktemp("whole")
    text = "size: [even, full]\nchain.momentum.decay: [0.5, 1.0, 2.0]\n"
    words = [
        f"outputs={outputs}", "n_images=6", "steps=2", "slots=8", "threads=1", "progress=false",
        "attack=ifgsm,mifgsm", "source=inc_v3,vgg16", "targets=[inc_v3,vgg16]", "tuned=both",
        "trials=3", "tuning_images=4", f"tuning={space_file(outputs, text)}",
    ]  # fmt: skip
    done = script("--run", *words)
    assert done.returncode == 0, done.stderr
    return outputs, words


def config_of(folder: Path) -> dict[str, Any]:
    run = Records(folder).run()
    assert run is not None
    return dict(run.config)


def rows_of(outputs: Path, split: str) -> pd.DataFrame:
    """The rows of all cells of a split, with their cell's folder, attack and n."""
    frames = []
    for folder in outputs.glob("demo/*-linf-10-*"):
        if config_of(folder)["split"] == split:
            frames.append(Records(folder).read("rows").assign(folder=folder.name))
    return pd.concat(frames, ignore_index=True)


@pytest.mark.slow
def test_tuned_images_are_never_ranked(whole: tuple[Path, list[str]]) -> None:
    outputs, _ = whole
    ranked, tuning = rows_of(outputs, "all"), rows_of(outputs, "tuning")
    assert not {*ranked["image_id"]} & {*tuning["image_id"]}
    assert all(
        draw(0, i) < 3 * 2**62 <= draw(0, j) for i in ranked["image_id"] for j in tuning["image_id"]
    )
    for frame, n in ((ranked, 6), (tuning, 4)):  # all attacks had the same
        assert (frame.groupby("folder")["image_id"].nunique() == n).all()
        assert (frame.groupby("source")["image_id"].nunique() == n).all()


@pytest.mark.slow
def test_winners_are_the_argmax_of_the_records(whole: tuple[Path, list[str]]) -> None:
    """By pandas alone: of images a black-box target has right, the share that fools it."""
    outputs, _ = whole
    (file,) = outputs.glob("demo/tables/*/tuning.csv")
    table = pd.read_csv(file)
    tuning = rows_of(outputs, "tuning")
    counted = tuning[~tuning["white_box"] & (tuning["clean_pred"] == tuning["label"])]
    means = 100 * counted.groupby("attack")["success"].mean()  # one such target for each source
    counts = counted.groupby("attack")["success"].size()
    assert table.set_index("name")["transfer"].to_dict() == pytest.approx(means.to_dict())
    assert table.set_index("name")["n"].to_dict() == counts.to_dict()
    assert list(table["attack"]) == ["ifgsm"] * 2 + ["mifgsm"] * 3
    assert list(table[table["trial"] == 1]["name"]) == ["ifgsm", "mifgsm"]
    assert table["name"].is_unique
    for _, of_attack in table.groupby("attack"):
        best = of_attack[of_attack["best"]]
        assert list(best.index) == [of_attack["transfer"].idxmax()]
    (page,) = outputs.glob("demo/tables/*/leaderboard-linf-10.csv")
    shown = pd.read_csv(page)
    assert {*shown["attack"]} == {"ifgsm", "mifgsm", "none", *table[table["best"]]["name"]}
    ranked = rows_of(outputs, "all")
    assert {*ranked["attack"]} == {*shown["attack"]} - {"none"}  # no loser was ranked
    text = page.with_suffix(".md").read_text()
    assert "tuned: 3 trials on 4 images disjoint from those ranked" in text
    assert "all settings there are, fewer than the trials: I-FGSM (2)" in text
    for row in table[table["best"] & (table["trial"] > 1)].to_dict("records"):
        title = {"ifgsm": "I-FGSM", "mifgsm": "MI-FGSM"}[row["attack"]]
        assert f"| {title}, tuned " in text
        values = json.loads(row["values"])
        assert "tuned: " + ", ".join(f"{k}={v}" for k, v in values.items()) in text


@pytest.mark.slow
def test_values_of_a_trial_are_those_that_ran(whole: tuple[Path, list[str]]) -> None:
    outputs, _ = whole
    (file,) = outputs.glob("demo/tables/*/tuning.csv")
    for _, trial in pd.read_csv(file).iterrows():
        for folder in outputs.glob(f"demo/{trial['name']}-linf-10-*"):
            attack = config_of(folder)["attack"]
            own = leaves(cell_of(trial["attack"], "steps=2"))
            flat = {key: attack[key] if "." not in key else _inside(attack, key) for key in own}
            assert flat == own | json.loads(trial["values"])


def _inside(node: Any, key: str) -> Any:
    for name in key.split("."):
        node = node[name]
    return node


@pytest.mark.slow
def test_the_same_command_runs_nothing_again(whole: tuple[Path, list[str]]) -> None:
    """After the loss of one trial, only that one; then none."""
    outputs, words = whole
    lost = sorted(outputs.glob("demo/mifgsm_*-linf-10-vgg16-*"))
    lost = [folder for folder in lost if config_of(folder)["split"] == "tuning"]
    (page,) = outputs.glob("demo/tables/*/leaderboard-linf-10.md")
    before = page.read_text()
    for part in lost[0].rglob("*.parquet"):
        part.unlink()
    times = {p: p.stat().st_mtime_ns for p in outputs.glob("demo/*/**/*.parquet")}
    done = script("--run", *words)
    assert done.returncode == 0, done.stderr
    assert list(lost[0].rglob("*.parquet"))
    assert times == {p: p.stat().st_mtime_ns for p in times}
    assert done.stdout.count("finished before: nothing to run") == 2 * 5 - 1
    assert page.read_text() in done.stdout
    assert [w for w in before.splitlines() if "tuned" in w] == [
        w for w in page.read_text().splitlines() if "tuned" in w
    ]
    again = script(*words)  # without --run
    assert "finished before" not in again.stdout
    assert page.read_text() in again.stdout
    alone = script("--run", *[w.replace("tuned=both", "tuned=true") for w in words])
    assert alone.returncode == 0, alone.stderr
    assert "finished before" not in alone.stdout + alone.stderr  # no process of its own is begun
    assert "| MI-FGSM  " not in alone.stdout
    assert "| MI-FGSM, tuned " in alone.stdout


@pytest.mark.slow
def test_errors_end_the_script_in_a_line(tmp_path: Path) -> None:
    words = [few(tmp_path, 20), "source=vgg16", "select=none", "n_images=20", "tuning_images=1"]
    words += [f"outputs={tmp_path}", "attack=mifgsm", "tuned=true"]
    done = script("--run", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: n_images=20: outside the tuning split"), done.stderr
    assert not list(tmp_path.glob("demo/mifgsm*"))  # before anything was attacked
