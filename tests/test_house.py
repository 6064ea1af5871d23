"""The house itself: imports point downwards, reports need no torch, the repository stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import agr

PACKAGE = Path(agr.__file__).parent
# From the ground up; a module may import what stands in a line above its own, or beside it.
FLOORS = [
    ["agr.errors", "agr.files", "agr.locks", "agr.schema", "agr.signals"],
    ["agr.naming", "agr.explain", "agr.trust", "agr.validation"],
    ["agr.config"],
    ["agr.compose"],
    ["agr.build"],
    ["agr.attacks", "agr.data", "agr.models.pretrained"],
    ["agr.inputs", "agr.records"],
    ["agr.models", "agr.todo"],
    ["agr.probe"],
    ["agr.numeric"],
    ["agr.engine", "agr.precision", "agr.report"],
    ["agr.chunks", "agr.lab"],
    ["agr.selection"],
    ["agr.crafting", "agr.rows"],
    ["agr.cell"],
    ["agr.cluster", "agr.recraft", "agr.run"],
    ["agr.asked", "agr.plan", "agr.score", "agr.status", "agr.verify"],
    ["agr.check"],
    ["agr.bench"],
]

# These start what they need when they need it.
LATE = (
    "agr.run",
    "agr.plan",
    "agr.score",
    "agr.check",
    "agr.naming",
    "agr.validation",
    "agr.build",
    "agr.verify",
    "agr.cluster",
)


def floor(module: str) -> int:
    for i, names in enumerate(FLOORS):
        if any(module == n or module.startswith(f"{n}.") for n in names):
            return i
    raise AssertionError(f"{module} has no floor: add it to FLOORS and docs/design.md")


def imports(path: Path, *, top_level: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from agr import cell` imports a module too
            names = {f"agr.{alias.name}" for alias in node.names}
            found |= names if node.module == "agr" else {node.module}
    return found


def test_imports_point_downwards() -> None:
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        if module == "agr":
            continue
        whole = not module.startswith(LATE)
        for name in imports(path, top_level=not whole):
            if name.startswith("agr."):
                assert floor(name) <= floor(module), f"{module} imports {name}"


def test_reports_and_plans_need_neither_torch_nor_timm() -> None:
    names = ("config", "records", "todo", "run", "plan", "score", "check", "status", "verify")
    modules = ", ".join(["agr", *(f"agr.{name}" for name in names)])
    code = (
        f"import {modules}, agr.asked, agr.report.report, agr.report.leaderboard, sys;"
        "assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_demo_suite_is_light() -> None:
    assert len(list((PACKAGE / "assets" / "demo" / "weights").iterdir())) == 6
    size = sum(p.stat().st_size for p in (PACKAGE / "assets" / "demo").rglob("*") if p.is_file())
    assert 5e6 < size < 25e6
