"""The workflow that reviews submitted entries: its script, run on a repository of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

GITHUB = Path(__file__).parents[1] / ".github"
WORKFLOW = (GITHUB / "workflows" / "review.yml").read_text(encoding="utf-8")


def review(tmp_path: Path) -> tuple[int, list[str], str]:
    """Run the script where a stub stands for agr: exit code, folders that it reviewed, output."""
    (step,) = (s for s in yaml.safe_load(WORKFLOW)["jobs"]["review"]["steps"] if "shell" in s)
    stub = tmp_path / "bin" / "agr"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\necho "$2" >> "$LOG"\ncase "$2" in *false*) exit 1;; esac\n')
    stub.chmod(0o755)
    log = tmp_path / "log"
    log.touch()
    env = os.environ | {"PATH": f"{stub.parent}:{os.environ['PATH']}", "LOG": str(log)}
    command = ["bash", "-c", step["run"]]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    return done.returncode, log.read_text().splitlines(), done.stdout + done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository "submitted", with an entry, where `merge` commits what a pull request brings."""
    place = tmp_path / "submitted"
    (place / "leaderboard" / "old").mkdir(parents=True)
    (place / "leaderboard" / "old" / "claim.json").write_text("{}")
    git(place, "init", "--quiet")
    merge(place)
    return place


def git(place: Path, *words: str) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, "-C", str(place), *words], check=True)


def merge(place: Path) -> None:
    git(place, "add", "--all")
    git(place, "commit", "--quiet", "--message=x")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "reviewed", "code"),
    [
        (["new/claim.json", "new/records/demo/x/y", "README.md"], ["new"], 0),
        (["old/claim.json", "a b/claim.json"], ["a b", "old"], 0),
        (["false/claim.json", "right/claim.json"], ["false", "right"], 1),
        (["$(touch pwned)/claim.json", "-x/y"], ["$(touch pwned)", "-x"], 0),
    ],
)
def test_changed_entries_are_reviewed(
    files: list[str], reviewed: list[str], code: int, repository: Path, tmp_path: Path
) -> None:
    for name in files:
        path = repository / "leaderboard" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("new")
    merge(repository)
    found = review(tmp_path)
    assert found[:2] == (code, [f"./submitted/leaderboard/{name}" for name in reviewed])
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.slow
def test_entries_that_are_taken_away_need_no_review(repository: Path, tmp_path: Path) -> None:
    shutil.rmtree(repository / "leaderboard" / "old")
    (repository / "other").touch()
    merge(repository)
    code, reviewed, out = review(tmp_path)
    assert (code, reviewed) == (0, [])
    assert "taken away: submitted/leaderboard/old" in out


@pytest.mark.slow
def test_a_link_for_a_leaderboard_fails(repository: Path, tmp_path: Path) -> None:
    shutil.rmtree(repository / "leaderboard")
    (repository / "leaderboard").symlink_to("/etc")
    merge(repository)
    assert review(tmp_path)[0] == 1


def test_the_workflow_can_only_read() -> None:
    workflow = yaml.safe_load(WORKFLOW)
    triggers = workflow[True]  # YAML's "on"
    assert [*triggers] == ["pull_request"]  # never pull_request_target, which has secrets
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets" not in WORKFLOW.replace("${{ github.event.pull_request.base.sha }}", "")
    assert WORKFLOW.count("${{") == 1  # nothing of a pull request gets into a script
    checkouts = [s["with"] for s in workflow["jobs"]["review"]["steps"] if "checkout" in str(s)]
    assert [c["persist-credentials"] for c in checkouts] == [False, False]


@pytest.mark.parametrize("path", sorted(GITHUB.glob("ISSUE_TEMPLATE/*.yml")), ids=lambda p: p.stem)
def test_forms_are_forms(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem != "config":
        assert {"name", "description", "body"} <= {*form}
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert len({field["id"] for field in fields}) == len(fields) > 0
        assert all(field["attributes"]["label"] for field in fields)
