"""Records that are checked again: each fault is found, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from agr.config.compose import expand
from agr.evaluation.runner import run_cell
from agr.records.agreement import abstaining
from agr.records.audit import check_records
from agr.records.part_files import PartFile
from agr.records.progress import Wanted, finished, progress
from agr.records.schema import ROWS, TABLES
from agr.records.store import Records, _digest
from agr.score import saved_cells
from agr.utils.errors import ConfigError
from agr.utils.files import write_named
from agr.verify import main
from tests.conftest import demo_cell

VGG = ("source=vgg16", "targets=[vgg16,vgg19]", "progress=false")
EXTRAS = ("attack=ifgsm_stop", "trace=true", "save_adversarials=true")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("whole")
    run_cell(demo_cell(outputs, *VGG, *EXTRAS, "shard=0/2"))
    run_cell(demo_cell(outputs, *VGG, *EXTRAS, "shard=1/2"))
    return outputs


@pytest.fixture
def records(whole: Path, tmp_path: Path) -> Records:
    """A copy that may be spoilt."""
    shutil.copytree(whole, tmp_path / "outputs")
    return Records(demo_cell(tmp_path / "outputs", *VGG, *EXTRAS).folder)


def rewrite(records: Records, kind: str, change: Callable[[pd.DataFrame], Any]) -> PartFile:
    """Change the rows of the first part of a kind and write it as if it had been so."""
    part = records.part_files(kind)[0]
    table = pq.read_table(part.path)
    frame = table.to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get)
    frame = frame if (changed := change(frame)) is None else changed
    replace_part(records, part, pa.Table.from_pandas(frame, TABLES[kind], preserve_index=False))
    return part


def replace_part(
    records: Records, part: PartFile, table: pa.Table, metadata: dict[bytes, bytes] | None = None
) -> None:
    buffer = pa.BufferOutputStream()
    metadata = metadata or pq.read_schema(part.path).metadata
    pq.write_table(table.replace_schema_metadata(metadata), buffer)
    part.path.unlink()
    stem = part.path.stem.rpartition("-")[0]
    write_named(part.path.parent, stem, ".parquet", buffer.getvalue().to_pybytes())


def test_nothing_is_wrong(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([f"outputs={whole}"])
    out = capsys.readouterr().out
    rows = Records(demo_cell(whole, *VGG, *EXTRAS).folder).read("rows")
    rates = 100 * rows.groupby("target")["success"].mean()
    assert (
        f"12 images, 6 parts; ASR % vgg16 {rates['vgg16']:.1f}, vgg19 {rates['vgg19']:.1f}" in out
    )
    assert out.endswith("1 cell, 6 part files, 24 rows: nothing is wrong\n")


def assign(**values: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A change of single values, of the first row."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        for name, value in values.items():
            old = frame.at[0, name]
            frame.loc[0, name] = value(old) if callable(value) else value
        return frame

    return change


SPOILT: dict[str, tuple[str, Callable[[pd.DataFrame], Any], str]] = {
    "a row is missing": ("rows", lambda f: f.iloc[1:], "1 of 12 images have no row for vgg16"),
    "a row is there twice": (
        "rows",
        lambda f: pd.concat([f, f.iloc[:1].assign(adv_conf=0.25)]),
        "two different rows for position 0, target vgg16",
    ),
    "success was changed": ("rows", assign(success=lambda s: not s), "isn't what its predictions"),
    "a prediction was changed": (
        "rows",
        assign(adv_pred=lambda p: p, success=False),
        "on vgg16 isn't what its predictions say",
    ),
    "another cell's row": ("rows", assign(cell="abc"), "1 rows have another cell than"),
    "another attack's row": ("rows", assign(attack_hash="abc"), "1 rows have another attack_hash"),
    "another budget": ("rows", assign(eps=9.0), "1 rows have another eps than 10"),
    "too large": ("rows", lambda f: f.assign(linf=12.75), "linf is 12.75 of 10 allowed"),
    "too many steps": ("rows", lambda f: f.assign(steps_used=11), "took more than 10 steps"),
    "rows that disagree": (
        "rows", assign(adv_sha256="0"), "the rows of position 0 have different adv_sha256",
    ),
    "one image at two positions": (
        "rows",
        lambda f: f.assign(image_id=f["image_id"].iloc[0]),
        "an image stands at two positions",
    ),
    "not a white box": ("rows", assign(white_box=False), "1 rows are wrong about white_box"),
    "a step of a trace": ("trace", lambda f: f.iloc[1:], "the trace of position"),
    "a trace of nothing": (
        "trace", lambda f: f.assign(position=77), "position 77 has a trace and no row",
    ),
    "another image": (
        "adversarials", assign(pixels=bytes(64 * 64 * 3)), "is not the one that was scored",
    ),
    "another clean image": (
        "adversarials", assign(clean_pixels=bytes(64 * 64 * 3)), "isn't that of its saved images",
    ),
    # Of tables that don't tell the same.
    **{
        f"a saved image's {name}": (
            "adversarials", assign(**{name: value}), f"position 0 has another {name} than its rows",
        )
        for name, value in [
            ("image_id", "zzz"), ("label", 3), ("adv_sha256", "0"), ("steps_used", 9),
            ("forwards", 10**9), ("backwards", 0), ("first_success_step", pd.NA), ("flat", True),
            ("target_label", 5),
        ]
    },
    **{
        f"a saved image of {height} x {width} px": (
            "adversarials",
            lambda f, height=height, width=width: f.assign(height=height, width=width),
            "6 saved images are not of 64 x 64 px",
        )
        for height, width in [(16, 256), (1, 4096), (256, 16), (32, 32)]
    },
    "a saved image twice": (
        "adversarials", lambda f: pd.concat([f, f[:1]]), "of one part have position 0 twice",
    ),
    "a row twice": (
        "rows", lambda f: pd.concat([f, f[:1]]), "of one part have position 0, target vgg16 twice",
    ),
    "a step twice": (
        "trace", lambda f: pd.concat([f, f[-1:]]), "the trace of one part have position",
    ),
    "a trace of another image": (
        "trace", assign(image_id="zzz"), "the trace of position 0 has another image_id",
    ),
    "a trace upside down": (
        "trace", lambda f: f.assign(fooled=~f["fooled"]), "another first_success_step than its",
    ),
    "a trace that was fooled early": (
        "trace", lambda f: f.assign(fooled=True), "has another first_success_step than its rows",
    ),
    "a trace's last l2": (
        "trace", lambda f: f.assign(l2=f["l2"] * 1.01), "has another l2 at its last step",
    ),
    "a trace's last cosine": (
        "trace", lambda f: f.assign(cosine=f["cosine"] * 0.99), "another cosine at its last step",
    ),
    "a trace's first l2": (
        "trace", lambda f: f.assign(l2=f["l2"] + (f["step"] == 0)), "doesn't begin at its image",
    ),
    "the source's own answer": (
        "rows",
        lambda f: f.assign(adv_conf=f["adv_conf"].where(~f["white_box"], 0.25)),
        "6 rows of vgg16 have another adv_conf than source_adv_conf",
    ),
    "a success after the last step": (
        "rows", lambda f: f.assign(first_success_step=9), "has a first_success_step after its last",
    ),
    "a success that is left out": (
        "rows",
        lambda f: f.assign(first_success_step=pd.NA),
        "position 0 has other steps_used than its stop allows",
    ),
    "steps after a stop": (
        "rows", lambda f: f.assign(steps_used=10), "has other steps_used than its stop allows",
    ),
    "an image's column": (
        "rows", assign(source_clean_conf=0.25), "position 0 have different source_clean_conf",
    ),
    **{
        f"no {name}": (
            "rows", lambda f, name=name: f.assign(**{name: None}), f"12 rows have no {name}",
        )
        for name in ("steps_used", "forwards", "backwards", "flat")
    },
    "a target_label of no target": (
        "rows", lambda f: f.assign(target_label=1), "12 rows have a target_label",
    ),
    "an unknown target": (
        "rows", lambda f: f.assign(target="x\x1b[2J"), "have the target x\\x1b[2J, and run.json",
    ),
    "rows without end": (
        "rows", lambda f: pd.concat([f] * 1000), "has 12,000 rows, 2 for an image are the most",
    ),
    "steps without end": (
        "trace", lambda f: pd.concat([f] * 1000), "000 rows, 11 for an image are the most",
    ),
    "saved images without end": (
        "adversarials", lambda f: pd.concat([f] * 100), "has 600 rows, 1 for an image are the most",
    ),
    "a long text": (
        "rows", lambda f: f.assign(attack="a" * 10**6), "bytes of values, more than rows can have",
    ),
    "many pixels": (
        "adversarials", assign(pixels=bytes(10**7)), "values, more than adversarials can have",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SPOILT)
def test_what_is_wrong_is_found(
    name: str, records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, change, words = SPOILT[name]
    rewrite(records, kind, change)
    with pytest.raises(SystemExit) as e:
        main([f"outputs={records.folder.parent.parent}"])
    assert e.value.code == 1
    out = capsys.readouterr().out
    problems = [line for line in out.splitlines() if line.startswith("  problem: ")]
    assert any(words in line for line in problems), out
    assert out.endswith(": 1 cell is wrong\n")


# Values that no run writes, under hashes that are right.
FORGED: dict[str, tuple[str, Callable[[pd.DataFrame], Any]]] = {
    **{
        f"{name} {value}": ("rows", assign(**{name: value}))
        for name, value in [
            ("linf", np.nan), ("linf", -0.01), ("linf", 256.0), ("l2", np.inf), ("mean_abs", 300.0),
            ("cosine", np.inf), ("cosine", 1.1), ("rel_l2", np.nan), ("eps", np.nan),
            ("clean_conf", 7.0), ("adv_conf", -0.5), ("adv_pred", -3), ("clean_pred", 10),
            ("label", -1), ("label", 10), ("position", -1), ("position", 10**6), ("forwards", -1),
            ("steps_used", -3), ("seed", pd.NA), ("label", pd.NA), ("adv_pred", pd.NA),
            ("image_id", None), ("target", None), ("adv_sha256", None),
            ("image_id", "../../etc/passwd"), ("image_id", "/etc/passwd"), ("image_id", "a/b"),
            ("image_id", "\x1b[2J"), ("image_id", ""), ("image_id", "a" * 300),
        ]
    },
    "success is unknown": ("rows", lambda f: f.assign(success=[None, *f["success"][1:]])),
    "a trace's cosine": ("trace", assign(cosine=np.nan)),
    "a trace's step": ("trace", assign(step=-1)),
    "a saved image's id": ("adversarials", assign(image_id="../x")),
    "a saved image's height": ("adversarials", assign(height=-1)),
    "a saved image's size": ("adversarials", assign(width=63)),
    "a saved image without pixels": ("adversarials", assign(pixels=None)),
    "a saved image that is cut": ("adversarials", assign(pixels=lambda p: p[:-1])),
    "an abstention where nobody votes": ("rows", assign(adv_pred=-2, success=False)),
    "a measure of a saved image": ("rows", lambda f: f.assign(mean_abs=f["mean_abs"] * 1.01)),
    "a cosine of a saved image": ("rows", lambda f: f.assign(cosine=f["cosine"] - 1e-6)),
}  # fmt: skip


def test_abstentions_behind_defenses() -> None:
    """A vote may abstain, and so may what this config doesn't know: an earlier session's."""
    (cell,) = expand(["source=vgg16"])
    names = ["vgg16", "vgg16/smooth025", "vgg16/jpeg75", "vgg16/own"]
    rows = pd.DataFrame({"target": names, "clean_pred": 1, "adv_pred": -2})
    assert [*abstaining(cell, rows)] == [
        f"1 rows of {name} abstain, which it never does" for name in ("vgg16", "vgg16/jpeg75")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORGED)
def test_forged_values_are_a_problem_and_no_traceback(
    name: str, records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, change = FORGED[name]
    rewrite(records, kind, change)
    with pytest.raises(SystemExit) as e:
        main([f"outputs={records.folder.parent.parent}", "images=1"])
    assert e.value.code == 1
    out = capsys.readouterr().out
    assert "  problem: " in out
    assert "\x1b" not in out
    assert "cannot be checked" not in out
    values = name.split()[0] in ROWS.names and "beyond" not in out and "have the class" not in out
    if values:
        with pytest.raises(ConfigError, match="that cannot be"):
            records.read()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [11, 150_000_000, 2**31 - 1])
def test_steps_without_end_cost_no_memory(steps: int, records: Records) -> None:
    rewrite(records, "rows", assign(steps_used=steps))
    tracemalloc.start()
    problems = check_records(records).problems
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "an image took more than 10 steps" in problems
    assert peak < 100e6


def test_a_pipe_in_place_of_a_png_is_not_waited_for(records: Records) -> None:
    path = next((records.png_folder).iterdir())
    path.unlink()
    os.mkfifo(path)
    (problem,) = check_records(records).problems
    assert problem == f"_png/{path.name} is not the image that was scored"


def test_a_huge_number_of_images_costs_no_memory(records: Records) -> None:
    """As an edited run.json asks for: positions are counted, not written down."""
    cell = demo_cell(records.folder.parent.parent, *VGG, *EXTRAS, "n_images=1000000000")
    wanted = Wanted(cell, records.run())
    assert len(wanted) == 10**9
    assert 10**9 - 1 in wanted
    assert 10**9 not in wanted
    found = progress(cell, records)
    assert found.word == f"{10**9 - 12} of {10**9} left"
    assert not finished(cell, records)


@pytest.mark.parametrize("shard", ["0/1", "0/3", "2/3", "4/5"])
@pytest.mark.parametrize("n", [0, 1, 12, 400, 401])
@pytest.mark.parametrize("more", [(), ("attack=library/ddn", "norm=l2", "attack.library.chunk=7")])
def test_wanted_positions_are_counted(
    shard: str, n: int, more: tuple[str, ...], tmp_path: Path
) -> None:
    cell = demo_cell(tmp_path, *VGG, *more, f"shard={shard}", f"n_images={max(n, 1)}")
    wanted = Wanted(cell, None)
    wanted.n = n
    assert len(wanted) == sum(map(cell.mine, range(n))) == len(wanted.of(range(-5, n + 5)))


def test_what_was_stopped_is_a_note(tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG, *EXTRAS, "shard=0/2")
    report = check_records(run_cell(cell))
    assert report.problems == []
    assert (
        "unfinished: 6 of 12 images have no row for vgg16; the same command goes on" in report.notes
    )


def test_a_run_that_was_killed_before_its_first_part_is_a_note(
    records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in records.folder.rglob("*.parquet"):
        path.unlink()
    records.update_run(lambda run: run.sessions.clear())
    main([f"outputs={records.folder.parent.parent}", "images=1"])
    out = capsys.readouterr().out
    assert "note: unfinished: 12 of 12 images have no row for vgg16" in out
    assert out.endswith("1 cell, 0 part files, 0 rows, 0 images crafted and scored again: "
                        "nothing is wrong\n")  # fmt: skip


def test_a_later_session_may_ask_for_fewer_images(records: Records) -> None:
    records.update_run(lambda run: run.config.update(n_images=3))
    assert check_records(records).problems == []


def test_an_attack_that_looks_for_a_trace_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its later session knows steps of first success, and paid for them; the first one doesn't."""
    words = (*VGG, "attack=nifgsm", "n_images=2", "steps=3")
    run_cell(demo_cell(tmp_path, *words))
    more = ("targets=[vgg16,res152]", "trace=true", "save_adversarials=true")
    run_cell(demo_cell(tmp_path, *words, *more))
    main([f"outputs={tmp_path}", "images=2"])
    assert "nothing is wrong" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("attack=ifgsm", "quantize=off", "save_adversarials=false", "norm=l2"),
        ("attack=mifgsm", "quantize=end"),
        ("attack=pgd",),
        ("attack=ifgsm", "attack.label=prediction", "select=none"),
        ("attack=ifgsm", "attack.targeted=true", "attack.target=least_likely", "select=none"),
        ("attack=agr", "source=[vgg16,vgg19]", "ensemble=losses", "width=4"),
    ],
)
def test_tables_of_any_attack_agree(words: tuple[str, ...], tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, *VGG, *EXTRAS, *words, "n_images=3", "steps=3")
    assert check_records(run_cell(cell)).problems == []


@pytest.mark.parametrize("size", [(16, 256), (32, 32)])
def test_saved_images_of_another_size_are_refused(size: tuple[int, int], records: Records) -> None:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        few = {
            name: frame[name].str.slice(0, 3 * size[0] * size[1])
            for name in frame
            if "pixels" in name
        }
        return frame.assign(height=size[0], width=size[1], **few)

    rewrite(records, "adversarials", change)
    with pytest.raises(ConfigError, match=f"{size[1]} x {size[0]} px, and the cell's are 64 px"):
        list(records.saved_images(set(range(12))))


def forge(records: Records, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change run.json and give it the digest of its new content."""
    content = json.loads(records.run_file.read_text())
    content.pop("digest")
    change(content)
    records.run_file.write_text(json.dumps(content | {"digest": _digest(content)}))


def nested(levels: int) -> list[Any]:
    return [nested(levels - 1)] if levels else []


FORGED_RUNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{
        f"{place}={value!r:.30}": lambda run, place=place, value=value: put(run, place, value)
        for place, value in [
            ("config.suite.groups", "${oc.env:HOME}"),
            ("config.suite.groups.inception", "${suite}"),
            ("config.suite.notice", "${oc.env:HOME}"),
            ("config.attack.stop._target_", "x${oc.env:HOME}"),
            ("config.suite.groups.inception.networks", [[]]),
            ("config.suite.groups.inception", None),
            ("config.suite.networks.vgg16.mean", [0.5, [], 0.5]),
            ("config.suite.networks.vgg16", 3),
            ("config.suite", nested(400)),
            ("config.attack.step", nested(400)),
            ("config.experiment", nested(200)),
            ("config.source", {"a": 1}),
            ("config.targets", "vgg16"),
            ("config.eps", "ten"),
            ("config.norm", []),
            ("config.seed", True),
            ("schema_version", "9" * 100_000),
            ("numeric.threads", 0), ("numeric.threads", 100_000), ("numeric.threads", True),
            ("numeric.slots", 0), ("numeric.slots", 10**7), ("numeric.slots", 1.5),
            ("numeric.width", -3), ("numeric.networks", 3), ("numeric.networks", {}),
            ("numeric.networks.vgg16.memory_format", "x"), ("numeric.precision", "x"),
            ("numeric", None), ("narrowed", [{"slots": 0, "width": 1, "rows": 1}]),
            ("selected", {"x": ""}), ("eligible", 3), ("eligible", -1),
        ]
    },
}  # fmt: skip


def put(content: dict[str, Any], place: str, value: Any) -> None:
    *above, last = place.split(".")
    for key in above:
        content = content[key]
    content[last] = value


@pytest.mark.parametrize("name", FORGED_RUNS)
def test_forged_runs_are_a_problem_and_no_traceback(
    name: str, records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(records, FORGED_RUNS[name])
    with suppress(SystemExit):
        main([f"outputs={records.folder.parent.parent}", "images=1"])
    out = capsys.readouterr().out
    if name not in ("numeric=None", "numeric.networks={}"):  # what it is can be found again
        assert "  problem: " in out
    assert "cell, " in out
    assert max(map(len, out.splitlines())) < 2000
    if name.startswith("config."):
        assert os.environ["HOME"] not in out.replace(str(records.folder), "")
        with pytest.raises(ConfigError):
            saved_cells(records.folder.parent.parent, ["res152"])


@pytest.mark.parametrize(
    "about",
    [{"foo": 1}, {"slots": "a", "width": 1}, {"slots": 1.5}, {"width": -3}, {"slots": 0}, [], None,
     {"slots": 10**7, "width": 10**7}, {"networks": 3}, {"threads": 0}, {"slots": True}, "ab"],
    ids=str,
)  # fmt: skip
def test_forged_slots_are_a_problem(about: Any, records: Records) -> None:
    for kind in ("rows", "trace"):
        part = records.part_files(kind)[0]
        table = pq.read_table(part.path)
        replace_part(records, part, table, {b"agr": json.dumps(about).encode()})
    problems = check_records(records).problems
    assert len(problems) == 2
    said = "which are not slots and a width: restore it"
    assert all(said in problem for problem in problems)


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("can't start new thread"), KeyError("x"), OSError(5, "x")]
)
def test_whatever_ends_the_crafting_again_is_a_problem(
    error: Exception,
    records: Records,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("agr.evaluation.replay.settle", fail)
    outputs = records.folder.parent.parent
    shutil.copytree(outputs / "demo", outputs / "more" / "demo")
    with pytest.raises(SystemExit):
        main([f"outputs={outputs}", "images=1"])
    out = capsys.readouterr().out
    assert out.count(f"problem: not crafted again: {type(error).__name__}") == 2


def test_slots_that_would_fill_the_memory_are_a_problem(
    records: Records, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("agr.evaluation.replay.free_bytes", lambda device: 10**6)
    with pytest.raises(SystemExit):
        main([f"outputs={records.folder.parent.parent}", "images=1"])
    assert "problem: not crafted again: 8 images at once take about" in capsys.readouterr().out


def test_files_that_are_wrong_are_found(records: Records) -> None:
    cases: dict[str, Callable[[Path], Any]] = {
        "was changed after it was written": lambda path: path.write_bytes(
            path.read_bytes() + b"\0"
        ),
        "12 images have no row": lambda path: path.unlink(),
    }
    for words, spoil in cases.items():
        spoil(records.part_files("rows")[0].path)
        assert any(words in problem for problem in check_records(records).problems)


def test_other_columns_are_found(records: Records) -> None:
    part = records.part_files("rows")[0]
    table = pq.read_table(part.path)
    replace_part(records, part, table.drop_columns(["cosine"]))
    (problem,) = check_records(records).problems
    assert "has other columns than rows have" in problem


def test_a_damaged_run_json_is_found(records: Records) -> None:
    records.run_file.write_text(records.run_file.read_text().replace("400", "40"))
    (problem,) = check_records(records).problems
    assert "is damaged, or was edited" in problem
    records.run_file.unlink()
    (problem,) = check_records(records).problems
    assert "has rows but no run.json" in problem


def test_a_folder_of_another_name_is_found(records: Records) -> None:
    other = records.folder.rename(records.folder.with_name("agr-linf-10-vgg16-0123456789"))
    (problem,) = check_records(Records(other)).problems
    assert "was made with other networks" in problem


def test_a_png_that_was_changed_is_found(records: Records) -> None:
    path = next((records.png_folder).iterdir())
    pixels = np.asarray(Image.open(path)).copy()
    pixels[3, 4, 1] ^= 1
    Image.fromarray(pixels).save(path)
    (problem,) = check_records(records).problems
    assert problem == f"_png/{path.name} is not the image that was scored"
    path.unlink()  # an export may be thrown away
    assert check_records(records).problems == []


def test_what_a_kill_left_is_a_note(records: Records) -> None:
    part = records.part_files("trace")[0]
    shutil.copy(part.path, part.path.with_name(part.path.name.replace("-00000-", "-00009-")))
    report = check_records(records)
    assert report.problems == []
    assert "has no rows and doesn't count: a killed run left it" in report.notes[0]


def test_rows_of_overlapping_shards_are_a_note(records: Records) -> None:
    for path in records.folder.glob("rows-0of2-*"):
        shutil.copy(path, path.with_name(path.name.replace("0of2", "0of4")))
    report = check_records(records)
    assert report.problems == []
    assert "rows stand in two parts, alike" in report.notes[0]


# ---- crafted again -------------------------------------------------------------------------------


def test_images_crafted_again_are_the_same(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path for path in whole.rglob("*"))
    main([f"outputs={whole}", "images=5"])
    out = capsys.readouterr().out
    assert "5 crafted again" in out
    assert "5 images crafted and scored again: nothing is wrong" in out
    assert sorted(path for path in whole.rglob("*")) == before


@pytest.mark.slow
def test_targets_of_all_sessions_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for targets in ("[vgg16]", "[vgg16,vgg19]", "[res152]"):
        records = run_cell(demo_cell(tmp_path, *VGG, f"targets={targets}", "n_images=3"))
    main([f"outputs={tmp_path}", "images=3"])
    assert "3 images crafted and scored again: nothing is wrong" in capsys.readouterr().out
    part = records.part_files("rows")[1]
    assert pq.read_table(part.path)["target"].to_pylist() == ["vgg19"] * 3
    frame = pq.read_table(part.path).to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get)
    frame.loc[0, "adv_conf"] = 0.25
    replace_part(records, part, pa.Table.from_pandas(frame, TABLES["rows"], preserve_index=False))
    with pytest.raises(SystemExit):
        main([f"outputs={tmp_path}", "images=3"])
    assert "problem: crafted again, adv_conf of ILSVRC2012_val_" in capsys.readouterr().out


def test_an_image_that_there_is_not_is_found(
    records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in [*records.folder.glob("_*/*-*.parquet")]:
        path.unlink()
    for _ in range(3):
        rewrite(records, "rows", lambda f: f.assign(image_id="a" + f["image_id"]))
    with pytest.raises(SystemExit):
        main([f"outputs={records.folder.parent.parent}", "images=12"])
    assert "is none of the images: restore the record" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("attack=admix", "n_images=4"),
        ("attack=mifgsm", "attack.targeted=true", "attack.target=least_likely"),
        ("attack=ifgsm", "attack.label=prediction", "select=none", "norm=l2"),
        ("attack=library/ddn", "norm=l2", "attack.library.chunk=4", "n_images=10"),
    ],
)
def test_any_attack_can_be_crafted_again(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cell(demo_cell(tmp_path, *VGG, *words))
    main([f"outputs={tmp_path}", "images=3", "seed=1"])
    assert "3 images crafted and scored again: nothing is wrong" in capsys.readouterr().out


def test_an_image_that_comes_out_otherwise_is_found(
    records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows that agree with each other and with their predictions, and were never crafted."""
    for path in records.folder.glob("_adversarials/*"):
        path.unlink()
    for part in [*records.part_files("rows")]:
        frame = pq.read_table(part.path).to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get)
        frame["l2"] = frame["l2"] * (1 + 1e-15)
        table = pa.Table.from_pandas(frame, TABLES["rows"], preserve_index=False)
        replace_part(records, part, table)
    with pytest.raises(SystemExit):
        main([f"outputs={records.folder.parent.parent}", "images=12"])
    assert "crafted again, l2 of ILSVRC2012_val" in capsys.readouterr().out


@pytest.mark.slow
def test_code_of_ones_own_is_run_again_where_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text("from agr.attacks.stages import MeanNormalize as Same\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = (*VGG, "n_images=2", "attack=ifgsm", "allow=[mine]")
    run_cell(demo_cell(tmp_path / "a", *words))
    main([f"outputs={tmp_path / 'a'}", "images=1"])  # none of it is in the attack
    run_cell(demo_cell(tmp_path / "b", *words, "attack.chain.smooth={_target_:mine.Same}"))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([f"outputs={tmp_path / 'b'}", "images=1"])
    assert "has parts of mine, whose code would be run: add allow=[mine]" in capsys.readouterr().out
    main([f"outputs={tmp_path / 'b'}", "images=1", "allow=[mine]"])
    assert "1 image crafted and scored again: nothing is wrong" in capsys.readouterr().out


def test_another_machine_cannot_craft_again(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.__version__", "2.6.0")
    with pytest.raises(SystemExit):
        main([f"outputs={whole}", "images=1"])
    assert "problem: not crafted again: " in (out := capsys.readouterr().out)
    assert "was begun with torch=" in out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["outputs=/nowhere"], "outputs=/nowhere is not a folder"),
        (["outputs=conf"], r"outputs=conf cells=\*: there are no records"),
        (["image=3"], r"image= is unknown: did you mean images\?"),
        (["images=many"], "images=many is not a whole number"),
        (["images=-1"], "images=-1 is not a whole number"),
        (["allow=my_parts"], "allow=my_parts is not a list"),
    ],
)
def test_wrong_words_for_verify(words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        main(words)
