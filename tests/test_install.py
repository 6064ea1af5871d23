"""The wheel, installed into an environment of its own, from a folder that is not a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORDS = ["attack=agr", "norm=linf", "source=inc_v3", "n_images=4", "slots=4", "threads=1"]
# With its dependencies, of which torch alone takes gigabytes, only on request.
FULL = "FULL_INSTALL" in os.environ

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling is not installed"),
]


def call(*command: str | Path, cwd: Path = ROOT) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_does_the_main_job_tables_and_the_report(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip"]
    call(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("agr_bench-*.whl")
    if find_spec("twine"):
        assert "PASSED" in call(sys.executable, "-m", "twine", "check", "--strict", wheel)
    with zipfile.ZipFile(wheel) as file:
        held = {name.split("/")[0] for name in file.namelist()}
    assert len(held) == 2  # agr and its dist-info: nothing else of the checkout

    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    bin_ = tmp_path / "env" / "bin"
    call(
        *pip, "--python", bin_ / "python", "install", "-q", *([] if FULL else ["--no-deps"]), wheel
    )
    if not FULL:
        (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
        ours = [path for path in sys.path if path.endswith("site-packages")]
        (site / "over.pth").write_text("\n".join(ours) + "\n")

    empty = tmp_path / "empty"
    empty.mkdir()
    where = call(bin_ / "python", "-c", "import agr; print(agr.__file__)", cwd=empty)
    assert where.startswith(str(tmp_path / "env"))
    assert "Inc-v3 *" in call(bin_ / "agr", *WORDS, "progress=false", cwd=empty)
    assert "| AGR      | **100.0**" in call(bin_ / "agr", "tables", *WORDS, cwd=empty)
    written = call(bin_ / "agr", "report", "experiment=paper", *WORDS, cwd=empty).split()
    (page,) = (empty / word for word in written if word.endswith("report.html"))
    text = page.read_text(encoding="utf-8")
    assert "agr report --run" in text
    assert "scripts/make_" not in text
    assert "python -m agr" not in text
