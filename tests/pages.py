"""Pages whose blocks are run as a reader would, from top to bottom."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.forked import AT_ONCE, run

DOCS = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"# ([\w./-]+\.\w+)\n")  # the first line of a block that is a file's content
# The program `agr`, as it is installed.
AS_AGR = """
import sys
sys.orig_argv = [sys.executable, "agr", *sys.argv[1:]]
sys.path[:0] = {!r}
sys.modules.pop("agr.run", None)  # it is to be __main__
"""
WORD = re.compile(r"…|\d+(?:\.\d+)?|-{2,}|[^\W\d]+|[^\w\s…]")
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def blocks(page: Path, language: str) -> list[str]:
    """The page's blocks of a language."""
    return [text for kind, text in _fences(page) if kind == language]


def commands(block: str) -> list[list[str]]:
    """The words of each command of a block of sh."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def globbed(word: str, here: Path) -> Iterator[str]:
    """A word as a shell has it: the files that it may mean, or itself."""
    if "*" not in word:
        yield word
        return
    yield from sorted(str(path.relative_to(here)) for path in here.glob(word))


def follow(page: Path, here: Path) -> Iterator[tuple[str, str]]:
    """Do what a page says, in the folder `here`; yield each output that it shows, and ours.

    A block whose first line is "# PATH" is a file; of others, sh and python are run, and text is
    what they print. The programs of one page share their names.
    """
    names: dict[str, Any] = {}
    said = ""
    for language, text in _fences(page):
        if language == "text":
            yield text, said
        elif named := NAMED.match(text):
            path = here / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.removeprefix(named[0]), encoding="utf-8")
        elif language == "sh":
            said = "".join(_obey(words, here) for words in commands(text))
        elif language == "python":
            said = _executed(text, names, here)
        elif not language.startswith("{"):  # of Sphinx
            raise AssertionError(f"{page.name}: a block of {language!r} is neither file nor code")


def alike(shown: str, found: str) -> bool:
    """Whether an output is the one that a page shows: "…" stands for anything left out.

    Numbers may differ as they do between processors, where a borderline image is fooled or not: by
    8, or a quarter.
    """
    words = WORD.findall(shown)
    pattern = {"…": r".*?"} | {w: r"(\d+(?:\.\d+)?)" for w in words if NUMBER.fullmatch(w)}
    pattern |= {w: "-{2,}" for w in words if w.startswith("--")}
    match = re.search(
        r"\s*".join(pattern.get(word, re.escape(word)) for word in words), found, re.DOTALL
    )
    numbers = [float(word) for word in words if NUMBER.fullmatch(word)]
    return match is not None and all(
        abs(a - float(b)) <= max(8 if a >= 1 else 0, a / 4)
        for a, b in zip(numbers, match.groups(), strict=True)
    )


def _fences(page: Path) -> list[tuple[str, str]]:
    return FENCE.findall(page.read_text(encoding="utf-8"))


def _obey(words: list[str], here: Path) -> str:
    """Run one command in a folder: ours, with variables before it, or another program's."""
    paths = []
    while "=" in words[0]:
        assert words[0].startswith("PYTHONPATH=")
        paths.append(str(here / words.pop(0).partition("=")[2]))
    program, *rest = [each for word in words for each in globbed(word, here)]
    if program != "agr" or "hydra/launcher=local" in rest:
        done = _apart(program, rest, here)
    else:
        patch = AS_AGR.format(paths) + AT_ONCE
        rest = [word for word in rest if not word.startswith("hydra.launcher.")]
        # What a page submits to Slurm it has run before, so that nothing is submitted.
        rest = [word.replace("launcher=slurm", "launcher=local") for word in rest]
        # One thread: tests run beside each other.
        thrifty = ["threads=1"] if rest[0] in ("compare", "claims") or "=" in rest[0] else []
        done = run([*rest, *thrifty], module="agr", cwd=here, patch=patch)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _apart(program: str, words: list[str], here: Path) -> subprocess.CompletedProcess[str]:
    """Start a program from nothing, as jobs need it."""
    start = [program]
    if program == "agr":
        (here / "agr").write_text("from agr.__main__ import main\nmain()\n")  # its name is "agr"
        start = [sys.executable, str(here / "agr")]
    env = os.environ | {"PYTHONPATH": str(DOCS.parent)}
    return subprocess.run([*start, *words], cwd=here, env=env, capture_output=True, text=True)


def _executed(text: str, names: dict[str, Any], here: Path) -> str:
    out = io.StringIO()
    with contextlib.chdir(here), contextlib.redirect_stdout(out):
        exec(text, names)
    return out.getvalue()
