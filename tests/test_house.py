"""The house: imports go down, reports need no torch, files stay short, the demo stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import agr

PACKAGE = Path(agr.__file__).parent
# Each room, from the ground up, with the rooms that it may import. Commands import any.
ROOMS = {
    "utils": "",
    "config": "utils",
    "data": "utils config",
    "models": "utils config",
    "records": "utils config",
    "attacks": "utils config models",
    "report": "utils config records",
    "evaluation": "utils config data models records attacks report",
    "submission": "utils config data models records attacks report evaluation",
    "jobs": "utils config data models records attacks report evaluation",
}
COMMANDS = {
    *("run", "check", "plan", "status", "score", "verify", "export", "publish", "compare"),
    *("submit", "review", "site"),
    *("tables", "leaderboard", "figures", "claims", "write_report", "list_attacks", "__main__"),
}
MOST_LINES = 300
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((Path(__file__).parent.parent / "scripts").rglob("*.py"))
# Of docstrings that parse only beside the name they explain: "Whether the median is."
OPENINGS = re.compile(
    r"(What|Whatever|Whether|How|Which|Where|When|Why|Who|Whose|Of|As)\b"
    r"|The (network|model|cell)'s\."
)


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_of(path) for path in FILES}


def imports(path: Path) -> Iterator[str]:
    """All modules of ours that a file imports, in functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inner]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in ("agr", "scripts", "tests"))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_down(path: Path) -> None:
    own = room(module_of(path))
    for name in set(imports(path)):
        assert name in MODULES, f"{module_of(path)} imports {name}"
        other = room(name)
        assert other not in COMMANDS, f"{module_of(path)} imports the command {name}"
        if own in ROOMS:
            assert other in {own, *ROOMS[own].split()}, f"{module_of(path)} imports {name}"


def test_every_module_is_a_command_or_in_a_room() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == COMMANDS | {"__init__"}
    folders = {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    assert folders == {*ROOMS}


def test_modules_import_each_other_in_no_circle() -> None:
    # A package's face hands names on: whoever imports it imports what it hands on.
    below = {module_of(path): {*imports(path)} - {module_of(path)} for path in FILES}
    while free := [name for name, others in below.items() if not others & below.keys()]:
        for name in free:
            del below[name]
    assert not below


@pytest.mark.slow
def test_reports_and_plans_need_neither_torch_nor_timm() -> None:
    commands = ", ".join(f"agr.{name}" for name in sorted(COMMANDS))
    code = (
        f"import {commands}, agr.jobs.request, agr.report.report, agr.report.leaderboard, sys;"
        "assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_fit_in_the_head(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=str)
def test_docstrings_stand_on_their_own(path: Path) -> None:
    """They begin with a verb or a noun phrase, never with a clause about the function's name."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, kinds)]
    texts = [text for node in nodes if (text := ast.get_docstring(node))]
    assert [text.partition("\n")[0] for text in texts if OPENINGS.match(text)] == []


def test_demo_suite_is_light() -> None:
    assert len(list((PACKAGE / "assets" / "demo" / "weights").iterdir())) == 11
    size = sum(p.stat().st_size for p in (PACKAGE / "assets" / "demo").rglob("*") if p.is_file())
    assert 5e6 < size < 25e6
