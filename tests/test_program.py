"""The program `agr`: its commands, their help and completion, and how it names itself."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import agr.list_attacks
from agr.__main__ import COMMANDS, main
from agr.config.overrides import shell_command
from agr.utils.errors import ConfigError
from agr.utils.program import other_program
from tests.conftest import called

ROOT = Path(__file__).parent.parent
SCREEN = 45  # lines


def call(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run the program in this process: exit code, stdout, stderr without the note."""
    monkeypatch.setattr(sys, "argv", ["agr", *words])
    monkeypatch.setattr("agr.__main__.other_program", lambda: "")
    return called(main, capsys)


@pytest.mark.parametrize(
    ("words", "module", "rest"),
    [
        (["run", "attack=agr"], "agr.run", ["attack=agr"]),
        (["attack=agr", "norm=l2"], "agr.run", ["attack=agr", "norm=l2"]),
        (["-m", "eps=2,4"], "agr.run", ["-m", "eps=2,4"]),
        (["--cfg", "job"], "agr.run", ["--cfg", "job"]),
        (["verify", "images=3"], "agr.verify", ["images=3"]),
        (["report", "--help"], "agr.write_report", ["--help"]),
        (["attacks", "bsr"], "agr.list_attacks", ["bsr"]),
    ],
)
def test_words_reach_their_command(
    words: list[str],
    module: str,
    rest: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started = []
    monkeypatch.setattr(runpy, "run_module", lambda name, **_: started.append((name, sys.argv[1:])))
    assert call(words, monkeypatch, capsys) == (0, "", "")
    assert started == [(module, rest)]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["leaderbord"], "leaderbord is not a command: did you mean leaderboard?"),
        (["attack", "mifgsm"], "attack is not a command: write attack=mifgsm"),
        (["source"], "source is not a command: write source=NAME"),
        (["xyzzy"], "xyzzy is not a command: known: attacks, check, "),
        (["completion", "tcsh"], "agr completion tcsh: give one of bash, fish, zsh"),
        (["completion"], "agr completion: give one of bash"),
    ],
)
def test_wrong_words(
    words: list[str],
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = call(words, monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {error}")


def test_the_list_of_commands_and_the_version_need_no_hydra() -> None:
    code = (
        "import sys\nfrom agr.__main__ import main\n"
        "for words in ([], ['--help'], ['--version'], ['run', '--version']):\n"
        "    sys.argv[1:] = words\n    main()\n"
        "assert not {'torch', 'hydra', 'pandas'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.findall(r"^  (\w+) ", done.stdout, re.MULTILINE) == [*COMMANDS] * 2
    assert done.stdout.endswith(f"\nagr-bench {agr.__version__}" * 2 + "\n")


def test_every_command_has_a_screen_of_help_with_an_example() -> None:
    code = (
        "import sys\nsys.orig_argv = ['python', '/bin/agr']\nfrom agr.__main__ import main\n"
        "for name in sys.argv[1:]:\n"
        "    sys.argv[1:] = [name, '--help']\n    print('=====', flush=True)\n    main()\n"
    )
    names = sorted(COMMANDS, key="run".__eq__)  # Hydra, of which a process has one, comes last
    command = [sys.executable, "-c", code, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    helps = done.stdout.split("=====\n")[1:]
    for name, text in zip(names, helps, strict=True):
        assert re.search(rf"^ *.*\bagr {name}( .*)?$", text, re.MULTILINE), name
        assert "python" not in text, name
        assert len(text.splitlines()) <= SCREEN, name


@pytest.mark.parametrize("name", ["tables", "leaderboard", "figures", "claims", "report"])
def test_scripts_are_doors(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []
    run_module = runpy.run_path
    monkeypatch.setattr(runpy, "run_module", lambda name, **_: started.append((name, sys.argv[1:])))
    monkeypatch.setattr(sys, "argv", ["x", "--run", "seed=1"])
    run_module(str(ROOT / f"scripts/make_{name}.py"), run_name="__main__")
    module = {"report": "write_report"}.get(name, name)
    assert started == [(f"agr.{module}", ["--run", "seed=1"])]


@pytest.mark.parametrize(
    ("words", "checkout", "installed"),
    [
        (["-m", "agr.compare", "eps=2"], "python -m agr.compare eps=2", "agr compare eps=2"),
        (["scripts/make_report.py", "--run"], "python scripts/make_report.py --run",
         "agr report --run"),
        (["-m", "agr", "attacks"], "python -m agr attacks", "agr attacks"),
        (["/venv/bin/agr", "run", "a=b c"], "agr run 'a=b c'", "agr run 'a=b c'"),
        (["mine.py", "x"], "python mine.py x", "python mine.py x"),
    ],
)  # fmt: skip
def test_commands_to_copy_work_where_they_are_printed(
    words: list[str], checkout: str, installed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert shell_command(*words) == checkout
    with monkeypatch.context() as patch:
        patch.setattr(sys, "orig_argv", ["python", "/venv/bin/agr", "run"])
        assert shell_command(*words) == installed
    (tmp_path / "conf").mkdir()  # as in a wheel
    monkeypatch.setattr("agr.utils.program.PACKAGE", tmp_path)
    assert shell_command(*words) == installed


def test_another_program_of_our_name_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert other_program() == ""
    ours, theirs = tmp_path / "agr_bench-1.dist-info", tmp_path / "agr-9.8.dist-info"
    for folder, name in ((ours, "agr-bench"), (theirs, "agr")):
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.8\n")
        assert bool(other_program()) is (name == "agr")
    assert other_program().startswith("another distribution, agr 9.8, is installed here")
    command = [sys.executable, "-m", "agr", "--version"]
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | paths)
    assert done.stdout == f"agr-bench {agr.__version__}\n"
    assert done.stderr.startswith("note: another distribution, agr 9.8, ")


@pytest.mark.slow
def test_bash_completes_commands_and_configs(tmp_path: Path) -> None:
    program = tmp_path / "agr"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m agr "$@"\n')
    program.chmod(0o755)
    lines = ["agr lea", "agr compare norm=li", "agr verify norm=li"]
    asked = "".join(
        f'COMP_LINE="{line}" COMP_POINT={len(line)} COMP_CWORD={line.count(" ")}\n'
        'COMPREPLY=(); hydra_bash_completion; echo "${COMPREPLY[@]}"\n'
        for line in lines
    )
    script = f'PATH={tmp_path}:$PATH; eval "$(agr completion bash)"; {asked}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["leaderboard", "norm=linf", ""]
    ours, hydras = (
        subprocess.run([program, *words], capture_output=True, text=True, check=True).stdout
        for words in (["completion", "bash"], ["--shell-completion", "install=bash"])
    )
    assert ours == hydras
    assert ours.endswith("-F hydra_bash_completion agr\n")


def test_attacks_are_listed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "attack").mkdir()
    mine = "# Mine. Me: My attack (CVPR 2031), section 2. As it was.\ndefaults: [vmifgsm]\n"
    (tmp_path / "attack" / "mine.yaml").write_text(mine + "name: mine\ntitle: Mine\nsteps: 3\n")
    agr.list_attacks.main(["cvpr", f"--config-dir={tmp_path}"])
    out = capsys.readouterr().out
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line}
    assert lines["mine"] == "63 Mine Me: My attack (CVPR 2031), section 2"
    assert lines["vmifgsm"].startswith("210 VMI-FGSM Wang and He: ")
    assert lines["ops"].startswith("2,010 ")  # 10 steps of 201
    assert lines["l2t"].startswith("~")
    assert lines["library/deepfool"].startswith("- DeepFool")
    assert "pgd" not in lines
    with pytest.raises(ConfigError, match="cvpr nobody: none of the 102 attacks matches"):
        agr.list_attacks.main(["cvpr", "nobody"])
    with pytest.raises(ConfigError, match="-m: give words"):
        agr.list_attacks.main(["-m"])


def test_the_lowest_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    at_run_time = {*extras} - {"docs", "dev"}
    assert at_run_time == {"lite", "libraries", "slurm"}
    named = [*project["dependencies"], *extras["lite"], *extras["libraries"], *extras["slurm"]]
    lowest = {re.sub(r"[>=]=([\w.]+).*", r"==\1", word) for word in named}
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    assert {line for line in lines if not line.startswith("#")} == lowest
