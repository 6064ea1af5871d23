"""What comes from elsewhere can't run code, leave its folder, or be taken for markup."""

from __future__ import annotations

import io
import os
import pickle
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from agr.config.cell import Cell
from agr.config.compose import compose_cells, expand
from agr.config.schema import Data, NetworkConfig, Suite
from agr.data.decode import load_image
from agr.data.manifest import read_manifest
from agr.evaluation.runner import run_cell
from agr.models.network import load_network
from agr.report.numbers import MARKDOWN, TEX
from agr.report.tables import write_tables
from agr.run import main
from agr.utils.errors import ConfigError, one_line
from agr.utils.hub import WEIGHT_SUFFIXES
from tests.conftest import demo_cell
from tests.standins import jpeg, loc_solution, photo, photos

PACKAGE = Path(__file__).parent.parent / "agr"


class Trap:
    """Pickled, it leaves a mark wherever it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


# ---- pickles -------------------------------------------------------------------------------------


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def pickled(trap: Trap) -> bytes:
    return pickle.dumps(trap)


def saved_by_torch(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "epoch": trap}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", WEIGHT_SUFFIXES)
@pytest.mark.parametrize("content", [pickled, saved_by_torch])
def test_weights_never_run_code(
    content: Callable[[Trap], bytes], suffix: str, tmp_path: Path
) -> None:
    trap = Trap(tmp_path / "mark")
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content(trap))
    for width in (None, 0.125):
        config = NetworkConfig(
            architecture="vgg16", weights=str(path), classes=10, width=width, size=64,
            mean=[0.5] * 3, std=[0.5] * 3,
        )  # fmt: skip
        with pytest.raises(ConfigError, match="holds no weights of vgg16"):
            load_network("x", config, memory_format="contiguous", precision="fp32", device="cpu")
    assert not trap.mark.exists()


def test_records_and_labels_never_run_code(tmp_path: Path) -> None:
    """A pickle under every name that a run reads is an error, or made again."""
    trap = Trap(tmp_path / "mark")
    words = ("source=vgg16", "targets=[vgg16]", "n_images=2", "progress=false")
    cell = demo_cell(tmp_path / "o", *words, "save_adversarials=true")
    records = run_cell(cell)
    for path in [p for p in (tmp_path / "o").rglob("*") if p.suffix in (".parquet", ".json")]:
        path.write_bytes(pickle.dumps(trap))
    for read in (records.run, lambda: records.read("rows"), lambda: run_cell(cell)):
        with pytest.raises(ConfigError, match="damaged"):
            read()
    for name in ("val.txt", "LOC_val_solution.csv", "labels.csv", "labels.tar.gz", "meta.mat"):
        (tmp_path / name).write_bytes(pickle.dumps(trap))
        with pytest.raises(ConfigError):
            run_cell(demo_cell(tmp_path / "p", *words, f"data.labels={tmp_path / name}"))
    assert not trap.mark.exists()


def test_pickles_are_loaded_in_two_places_only() -> None:
    """Of this process's own memory (composing), and submitit's of our own jobs."""
    loads = re.compile(r"pickle\.loads?\(|np\.load\(|read_pickle|joblib\.load|weights_only=False")
    found = {
        str(path.relative_to(PACKAGE)): len(loads.findall(path.read_text()))
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: n for name, n in found.items() if n} == {
        "config/composer.py": 1, "jobs/pools.py": 1, "jobs/tasks.py": 1,
    }  # fmt: skip


@pytest.mark.slow
def test_hydras_rerun_which_unpickles_is_refused(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "mark")
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(trap))
    plain = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}  # of other tests
    for flag in ([f"--experimental-rerun={tmp_path / 'config.pickle'}"],
                 ["--experimental-rerun", str(tmp_path / "config.pickle")]):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "agr.run", *flag],
            capture_output=True, text=True, cwd=tmp_path, env=plain,
        )  # fmt: skip
        assert done.returncode == 2
        assert "--experimental-rerun is not for agr: it would load a pickle" in done.stderr
    assert not trap.mark.exists()


# ---- code that a config names --------------------------------------------------------------------

CALLBACK = {"_target_": "os.system", "command": "touch mark"}
CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "a callback": ({"hydra": {"callbacks": {"x": CALLBACK}}}, "hydra.callbacks"),
    "a launcher": ({"hydra": {"launcher": {"_target_": "os.system"}}}, "hydra.launcher"),
    "a sweeper": ({"hydra": {"sweeper": {"_target_": "os.system"}}}, "hydra.sweeper"),
    "a handler of logs": (
        {"hydra": {"job_logging": {"version": 1, "handlers": {"x": {"()": "os.system"}}}}},
        "hydra.job_logging",
    ),
    "a folder of runs": ({"hydra": {"run": {"dir": "/tmp/elsewhere"}}}, "hydra.run.dir"),
    "what is swept": ({"hydra": {"sweeper": {"params": {"allow": "[os]"}}}}, "has allow"),
    "a permission": ({"allow": ["os"]}, "stands in a config file"),
    "a part": ({"attack": {"step": {"_target_": "os.system"}}}, "must name a part"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_from_elsewhere_runs_no_code(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, said = CONFIGS[name]
    (tmp_path / "their" / "experiment").mkdir(parents=True)
    text = "# @package _global_\n" + yaml.safe_dump(content)
    (tmp_path / "their" / "experiment" / "theirs.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["agr", "-m", "--config-dir=their", "experiment=theirs"])
    with pytest.raises(SystemExit) as e:
        main()
    assert e.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert said in err
    assert {p.name for p in tmp_path.iterdir()} == {"their"}


@pytest.mark.parametrize(
    "word",
    [
        "attack.step._target_=os.system",
        "attack.step._target_=agr.run.main",
        "attack.step._target_=agr.attacks.step.torch.hub.load",
        "attack.chain.smooth={_target_:agr.attacks.stages.Smooth,size:{_target_:os.system}}",
        "defenses.jpeg75._target_=subprocess.run",
        "attack.library={_target_:os.system}",
        "+hydra.callbacks={x:{_target_:os.system,command:touch mark}}",
    ],
)
def test_a_target_outside_is_refused(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["agr", word, "targets=[inc_v3/jpeg75]"])
    with pytest.raises(SystemExit) as e:
        main()
    assert e.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "mark").exists()


# ---- files that stay where they belong -----------------------------------------------------------


def tar_of(path: Path, names: list[str], content: bytes) -> None:
    with tarfile.open(path, "w") as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        for name, kind in (("link.JPEG", tarfile.SYMTYPE), ("hard.JPEG", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)


def test_members_of_an_archive_stay_inside(tmp_path: Path) -> None:
    """Nothing is unpacked: a member's name is not a path, and links lead nowhere."""
    place = tmp_path / "in"
    place.mkdir()
    items = photos(3)
    names = [f"../../out/{items[0].name}", f"/{tmp_path}/out/{items[1].name}", items[2].name]
    tar_of(place / "val.tar", names, jpeg(photo((80, 80))))
    loc_solution(place / "LOC_val_solution.csv", items)
    before = {*tmp_path.rglob("*")}
    manifest = read_manifest(
        Data(root=str(place / "val.tar")), Suite(name="s", synsets="imagenet"), 1000
    )
    assert [e.image_id for e in manifest.entries] == [item.image_id for item in items]
    assert {e.path for e in manifest.entries} == {place / "val.tar"}
    for entry in manifest.entries:
        assert load_image(entry, expand([])[0].geometry).shape == (3, 80, 80)
    assert {*tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "a/../../../x.JPEG"])
def test_a_list_of_images_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    """What isn't an image below the root is named, and nothing is written under its name."""
    (tmp_path / "val").mkdir()
    (tmp_path / "val.csv").write_text(f"filename,label\n{name},1\n")
    words = (f"data.root={tmp_path / 'val'}", f"data.labels={tmp_path / 'val.csv'}")
    with pytest.raises(ConfigError):
        run_cell(demo_cell(tmp_path / "o", "source=vgg16", "select=none", *words))


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/b", "..", "x\ny", "\x1b[31m"])
def test_a_name_is_no_path(name: str, tmp_path: Path) -> None:
    """Names become names of folders; those that could lead out of `outputs` are refused."""
    quoted = name.replace("\n", "\\n")
    try:
        cell = demo_cell(tmp_path / "o", f'suite.name="{quoted}"')
    except ConfigError:
        return
    assert cell.folder.resolve().is_relative_to((tmp_path / "o").resolve())
    assert "\n" not in str(cell.folder)


# ---- names in what is written --------------------------------------------------------------------

NASTY = r"a|b\input{/etc/passwd}$x$^~#&%_{}<script>alert(1)</script>`c`*d*[e](http://f)"


def titled(tmp_path: Path) -> Cell:
    """A finished cell whose network, attack and suite have a nasty title."""
    words = ["source=vgg16", "targets=[vgg16]", "n_images=2", "progress=false", "attack=fgsm"]
    cell = demo_cell(tmp_path, *words)
    cell.suite.networks["vgg16"].title = NASTY
    cell.suite.notice = NASTY
    cell.config.attack.title = NASTY
    return cell


def test_names_are_no_markup_in_tables(tmp_path: Path) -> None:
    cell = titled(tmp_path)
    run_cell(cell)
    written = {p.suffix: p.read_text() for p in write_tables([cell], tmp_path / "tables")}
    tex, markdown = written[".tex"], written[".md"]
    for command in (r"\input", "<script", "$x$", "|b"):
        assert command not in tex.replace(r"\$x\$", "")
    assert r"a$|$b\textbackslash{}input\{/etc/passwd\}" in tex
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert len(cells) == 1  # every row has as many columns as the header
    assert not re.search(r"(?<!\\)<script", markdown)
    assert not re.search(r"(?<!\\)\]\(http", markdown)
    frame = pd.read_csv(tmp_path / "tables" / "table1.csv")
    assert (frame["notice"] == NASTY).all()


@pytest.mark.parametrize("sign", list("\\{}$^~#&%_<>|"))
def test_every_sign_of_latex_is_text(sign: str) -> None:
    assert TEX.escape(f"a{sign}b") not in (f"a{sign}b", "ab")
    assert TEX.escape(f"a{sign}b").startswith("a")


def test_every_sign_of_markdown_is_text() -> None:
    assert MARKDOWN.escape("a|b<i>*c*`d`") == r"a\|b\<i>\*c\*\`d\`"
    assert "\n" not in MARKDOWN.escape("a\n| b | c |")


def test_what_is_printed_cannot_steer_a_terminal() -> None:
    assert one_line("a\x1b[2Jb\nc\rd\u202ee") == r"a\x1b[2Jb\nc\rd\u202ee"
    assert len(one_line("x" * 100_000)) < 2000


def test_an_image_whose_name_steers_a_terminal_is_named_harmlessly(
    tmp_path: Path,
) -> None:
    root = tmp_path / "val"
    (root / "n00000000").mkdir(parents=True)
    for i in range(10):
        (root / f"n0000000{i}").mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), (25 * i, 0, 0)).save(root / f"n0000000{i}" / f"{i}.png")
    (root / "n00000000" / "\x1b[31mred.png").write_bytes(b"no image")
    words = ("source=vgg16", "targets=[vgg16]", "select=none", "progress=false", "n_images=20")
    cell = demo_cell(tmp_path / "o", *words, f"data.root={root}", "data.labels=null")
    with pytest.raises(ConfigError) as e:
        run_cell(cell)
    assert "\x1b" not in str(e.value)
    assert r"\x1b[31mred" in str(e.value)


# ---- how Hydra runs ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"], ["--info"], ["--hydra-help"]])
def test_hydras_own_flags_run_no_code_of_a_config_file(flags: list[str], tmp_path: Path) -> None:
    """Hydra sets logging up for these, which calls whatever class the config names."""
    handler = {"()": "subprocess.getoutput", "cmd": "touch mark"}
    logging = {"version": 1, "handlers": {"x": handler}, "root": {"handlers": ["x"]}}
    folder = tmp_path / "their" / "experiment"
    folder.mkdir(parents=True)
    text = yaml.safe_dump({"hydra": {"hydra_logging": logging, "job_logging": logging}})
    (folder / "theirs.yaml").write_text(f"# @package _global_\n{text}")
    command = [sys.executable, "-m", "agr.run", *flags, "--config-dir=their", "experiment=theirs"]
    plain = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=plain)
    assert not (tmp_path / "mark").exists()
    assert done.returncode == 2, done.stdout
    assert "stands in a config file" in done.stderr


def test_lines_of_a_shell_for_a_launcher_are_the_users_own(tmp_path: Path) -> None:
    """A cluster runs a launcher's `setup` before each job."""
    (tmp_path / "experiment").mkdir()
    text = yaml.safe_dump({"hydra": {"launcher": {"setup": ["touch mark"]}}})
    (tmp_path / "experiment" / "theirs.yaml").write_text(f"# @package _global_\n{text}")
    overrides = [f"hydra.searchpath=[{tmp_path}]", "hydra/launcher=slurm", "experiment=theirs"]
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.setup stands in a config file"):
        compose_cells(overrides)


@pytest.mark.parametrize(
    "word",
    [
        "attack.title='${oc.env:SECRET}'",
        "attack.name='x${oc.env:SECRET}'",
        "suite.notice='${oc.env:SECRET,none}'",
        "suite.name='${oc.env:SECRET}'",
        "suite.networks.vgg16.title='${oc.env:SECRET}'",
    ],
)
def test_no_table_shows_the_environment(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    with pytest.raises(ConfigError, match="may not show the environment") as e:
        expand([word])
    assert "hunter2" not in str(e.value)
    assert expand(["outputs='${oc.env:SECRET}'"])[0].config.outputs == "hunter2"


SECRETS = {
    "a computed name of a resolver": "notice: by ${oc.${oc.decode:env}:SECRET}",
    "another key": "root: ${oc.env:SECRET}\nnotice: by ${suite.root}",
    "a longer way": "root: ${oc.env:SECRET}\nlabels: ${suite.root}\nname: ${data.labels}",
    "a selected key": 'networks: {vgg16: {title: "${oc.select:suite.root}"}}',
    "a whole network": "networks: {mine: \"${oc.decode:'{title: ${oc.env:SECRET}}'}\"}",
    "all networks": "networks: ${oc.decode:${oc.env:SECRET}}",
    "a group": "groups: {all: \"${oc.decode:'{networks: [${oc.env:SECRET}]}'}\"}",
    "whether it is set, and what": "name: ${agr.if_env:SECRET,${oc.env:SECRET},none}",
}


@pytest.mark.parametrize("case", SECRETS)
def test_no_text_of_a_file_leads_to_the_environment(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "their.yaml").write_text(f"defaults: [demo]\n{SECRETS[case]}\n")
    with pytest.raises(ConfigError, match="may not show the environment: write it out") as e:
        expand([f"hydra.searchpath=[{tmp_path}]", "suite=their"])
    assert "hunter2" not in str(e.value)


@pytest.mark.parametrize(
    "params",
    [
        "{suite.notice: '${oc.env:SECRET}'}",
        "{suite.root: '${oc.env:SECRET}', ++suite.networks.vgg16: '{title: ${suite.root}}'}",
        "{attack.title: 'x,${oc.select:outputs}'}",
        "{defenses: '{${oc.env:SECRET}: {}}'}",
        "\"${oc.decode:'{suite.notice: ${oc.env:SECRET}}'}\"",
        "'${oc.create:${oc.decode:${oc.env:SECRET}}}'",
    ],
)
def test_no_sweep_of_a_file_leads_to_the_environment(
    params: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    (tmp_path / "experiment").mkdir()
    text = f"# @package _global_\nhydra: {{mode: MULTIRUN, sweeper: {{params: {params}}}}}\n"
    (tmp_path / "experiment" / "theirs.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"sweeper\.params .*write it out") as e:
        expand([f"hydra.searchpath=[{tmp_path}]", "experiment=theirs"])
    assert "hunter2" not in str(e.value)
