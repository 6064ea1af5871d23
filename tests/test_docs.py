"""The docs: pages that run, pages made from the code, links, the notebook and the workflows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.make_reference import CLASSES, PAGES, keys
from tests.pages import DOCS, alike, follow

ROOT = DOCS.parent
# Pages that are followed from top to bottom; those of one line share a folder.
FOLLOWED = [
    ["start.md", "reference/python.md"],
    *([f"tutorials/{path.name}"] for path in sorted((DOCS / "tutorials").glob("*.md"))),
]
OUTSIDE = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "outputs/README.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
# But for the one that reviews entries, which has tests of its own.
WORKFLOWS = [*(ROOT / ".github" / "workflows" / f"{n}.yml" for n in ("docs", "release", "tests"))]
NOTEBOOK = DOCS / "notebook.ipynb"


@pytest.mark.slow
@pytest.mark.parametrize("pages", FOLLOWED, ids=lambda pages: Path(pages[0]).stem)
def test_a_page_does_what_it_says(pages: list[str], tmp_path: Path) -> None:
    shown = 0
    for page in pages:
        for text, found in follow(DOCS / page, tmp_path):
            assert alike(text, found), f"{page} shows\n{text}\nand here it is\n{found}"
            shown += 1
        for name in re.findall(r"!\[.*?\]\((\S+)\)", (DOCS / page).read_text(encoding="utf-8")):
            assert (tmp_path / name).stat().st_size > 1000, f"{page} makes no {name}"
    assert shown


@pytest.mark.parametrize(
    ("shown", "found", "same"),
    [
        ("ASR 60.0 %", "ASR  66.0 %\n", True),
        ("ASR 60.0 %", "ASR  80.0 %\n", False),
        ("norm 0.0572", "norm 0.0590", True),
        ("norm 0.0572", "norm 0.0800", False),
        ("a … z", "a\nb\nz", True),
        ("a … z", "b z", False),
        ("--- ------\nMI 1", "----- ---\nMI 1", True),
        ("transfers better", "transfers worse", False),
    ],
)
def test_outputs_are_compared(shown: str, found: str, same: bool) -> None:
    assert alike(shown, found) is same


@pytest.mark.parametrize("name", PAGES)
def test_a_page_from_the_code_is_current(name: str) -> None:
    page = DOCS / "reference" / f"{name}.md"
    assert page.read_text(encoding="utf-8") == PAGES[name](), "make reference writes it again"


@pytest.mark.parametrize("kind", CLASSES)
def test_every_key_is_explained(kind: type) -> None:
    listed = {name: meaning for name, _, _, meaning in keys(kind)}
    assert [*listed] == [*kind.__dataclass_fields__]  # type: ignore[attr-defined]
    assert all(listed.values()), listed


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub and Sphinx make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    heads = re.findall(r"^#+ (.+)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", OUTSIDE)
def test_links_of_pages_outside_of_docs(name: str) -> None:
    """Those in docs/ are checked by Sphinx."""
    page = ROOT / name
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if path.startswith(("http:", "https:")):
            continue
        there = page.parent / path if path else page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


@pytest.mark.slow
@pytest.mark.skipif(find_spec("sphinx") is None, reason="Sphinx is not installed")
@pytest.mark.parametrize(
    ("links", "broken"),
    [
        ("[a page](index.md), [a heading](index.md#more)", []),
        (
            "[a page](no_page.md), [a heading](index.md#no-heading), ![a picture](none.png)",
            ["no_page.md", "no-heading", "none.png"],
        ),
    ],
)
def test_broken_links_stop_the_build(links: str, broken: list[str], tmp_path: Path) -> None:
    shutil.copy(DOCS / "conf.py", tmp_path)
    (tmp_path / "index.md").write_text(f"# Pages\n\n## More\n\n{links}\n")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", tmp_path, tmp_path / "built"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert bool(done.returncode) is bool(broken), done.stderr
    assert done.stderr.count("WARNING") == len(broken)
    assert all(name in done.stderr for name in broken)


# ---- the notebook --------------------------------------------------------------------------------


def cells(kind: str = "code") -> list[dict[str, Any]]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_the_notebook_holds_no_outputs_and_installs_in_one_cell() -> None:
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells())
    (install,) = (cell for cell in cells() if "install" in cell["metadata"].get("tags", ()))
    assert "".join(install["source"]) == "%pip install --quiet agr_bench-*.whl"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("nbclient") is None, reason="nbclient is not installed")
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the cell that installs: that a wheel can be is seen in test_install."""
    program = tmp_path / "bin" / "agr"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom agr.__main__ import main\nmain()\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # tests run beside each other
    there = tmp_path / "notebook"
    there.mkdir()
    run = [sys.executable, "-c", EXECUTE, str(NOTEBOOK), str(there)]
    done = subprocess.run(run, cwd=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    executed = json.loads((there / "executed.ipynb").read_text(encoding="utf-8"))
    outputs = ["".join(map(_text, cell.get("outputs", ()))) for cell in executed["cells"]]
    said = "\n".join(outputs)
    assert "Inc-v3 *" in said
    assert "transfers better" in said
    assert "largest change: 8 levels" in said
    pictures = [out for cell in executed["cells"] for out in cell.get("outputs", ())]
    assert sum("image/png" in out.get("data", ()) for out in pictures) == 2


EXECUTE = """
import sys
import nbclient
import nbformat

notebook = nbformat.read(sys.argv[1], 4)
notebook.cells = [c for c in notebook.cells if "install" not in c.metadata.get("tags", ())]
nbclient.NotebookClient(notebook, timeout=300).execute()
nbformat.write(notebook, sys.argv[2] + "/executed.ipynb")
"""


def _text(output: dict[str, Any]) -> str:
    """What an output of a cell says."""
    said = output.get("text") or output.get("data", {}).get("text/plain", "")
    return "".join(said)


# ---- workflows -----------------------------------------------------------------------------------


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_what_is_there(path: Path) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE)
    for step in steps(path):
        assert ("uses" in step) is not ("run" in step), step
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v1)", step["uses"])
            continue
        program, *words = step["run"].split()
        assert program in ("make", "test", ".ci/run"), step
        assert program != "make" or set(words) <= {*targets}, step
        assert program != ".ci/run" or os.access(ROOT / program, os.X_OK)


def test_each_workflow_does_its_job() -> None:
    found = {path.stem: steps(path) for path in WORKFLOWS}
    commands = {name: {step.get("run") for step in some} for name, some in found.items()}
    assert ".ci/run" in commands["tests"]
    assert "make docs" in commands["docs"]
    assert "make wheel" in commands["release"]
    (upload,) = (step for step in found["docs"] if "upload-pages" in step.get("uses", ""))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"-b html docs {upload['with']['path']}\n" in makefile
    # Nothing is published with a password: the index trusts the workflow itself.
    (publish,) = (step for step in found["release"] if "pypi-publish" in step.get("uses", ""))
    assert "with" not in publish


def test_ci_builds_the_docs() -> None:
    assert 'timed "docs" make docs' in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
