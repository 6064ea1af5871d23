"""Words to make: one that would do nothing stops it, before anything is run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
# What make tells a make that it starts, as `make test` does: words, flags and how deep it stands.
TOLD = {"MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS"}
BARE = {name: value for name, value in os.environ.items() if name not in TOLD}

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """Have make print what it would run."""
    command = ["make", "--dry-run", "--always-make", *words]
    return subprocess.run(command, cwd=TOP, env=BARE, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["tables", "norm=linf"], "make tables reads no norm=…, only EXPERIMENT SUITE ARGS"),
        (["claims", "eps=4"], 'reads no eps=…, .* ARGS="norm=linf n_images=50"'),
        (["demo", "SUITE=lite"], "make demo reads no SUITE=…, only ARGS"),
        (["real", "EXPERIMENT=paper"], "make real reads no EXPERIMENT=…"),
        (["tables", "CLAIMS=mine.yaml"], "make tables reads no CLAIMS=…"),
        (["leaderboard", "EXPERIMENT=paper"], "make leaderboard reads no EXPERIMENT=…"),
        (["plan", "SUIT=lite"], "make plan reads no SUIT=…"),
        (["plan", "args=seed=1"], "make plan reads no args=…"),
        (["tables", "report", "CLAIMS=mine.yaml"], "make tables reads no CLAIMS=…"),
        (["check", "ARGS=agr"], "make check reads no ARGS=…: overrides"),
        (["status", "HF_HOME=/x"], "environment variables before make"),
        (["tables", "ARGS=seed=1", "n_images"], "no target n_images: .* into quotes"),
        (["tables", "IMAGENET_DIR=/x"], "suite demo reads no IMAGENET_DIR: add SUITE=imagenet"),
        (["ready", "NIPS17_DIR=/x"], "suite demo reads no NIPS17_DIR: add SUITE=lite"),
        (["plan", "SUITE=lite", "IMAGENET_DIR=/x"], "suite lite reads no IMAGENET_DIR"),
        (["tables", "ARGS=seed=1", "ARGS=n_images=5"], "ARGS=… is there twice, .* put all into"),
        (["plan", "SUITE=lite", "SUITE=demo"], "SUITE=… is there twice"),
        (["table"], "no target table: `make help` lists them"),
    ],
)
def test_a_word_that_would_do_nothing_stops_make(words: list[str], error: str) -> None:
    done = make(*words)
    assert done.returncode == 2
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert re.search(error, line), line


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["tables", "ARGS=seed=1 n_images=5"], "agr.run experiment=paper suite=demo seed=1 n_"),
        (["plan", "EXPERIMENT=readings", "SUITE=lite"], "experiment=readings suite=lite"),
        (["tables", "IMAGENET_DIR=/x", "SUITE=imagenet"], "suite=imagenet"),
        (["tables", "IMAGENET_DIR=/x", "ARGS=suite=imagenet"], "suite=imagenet"),
        (["tables", "NIPS17_DIR=/x", "SUITE=mine"], "suite=mine"),
        (["real", "NIPS17_DIR=/x"], "agr.run experiment=real suite=lite"),
        (["report", "CLAIMS=a.yaml", "SUITE=lite"], "--run claims=a.yaml suite=lite"),
        (["demo", "PYTHON=python3.12"], "agr.run attack=agr norm=linf source=inc_v3"),
        (["test", "ARGS=-k lite"], '-m "not slow" -k lite'),
        (["verify", "ARGS=images=3"], "agr.verify images=3"),
        (["status", "check"], "ruff"),
    ],
)
def test_words_reach_the_command(words: list[str], command: str) -> None:
    done = make(*words)
    assert done.returncode == 0, done.stderr
    assert command in done.stdout


def test_every_target_has_a_line_of_help() -> None:
    text = (TOP / "Makefile").read_text()
    listed = text.partition("TARGETS := ")[2].partition("\n.PHONY")[0].replace("\\\n", "").split()
    done = subprocess.run(["make"], cwd=TOP, env=BARE, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == listed
