"""Configs of other distributions: found by name, their code run only if allowed, errors named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agr.config import distributions
from agr.config.compose import expand, given_by
from agr.config.distributions import offers
from agr.list_attacks import main
from agr.utils.errors import ConfigError

ATTACK = """\
# @package attack
# Clipped MI-FGSM. Doe: Clipping (2026).
defaults: [/attack/mifgsm@_here_]
name: extra/clipped
title: MI-FGSM, clipped
chain:
  smooth:
    _target_: agr_extra.parts.Clip
    most: 2.0
"""
SUITE = """\
defaults: [demo]
name: small
n_images: 3
"""
DEFENSE = """\
# @package defenses
jpeg30: { _target_: agr.models.defenses.Jpeg, quality: 30 }
"""
PART = """\
from dataclasses import dataclass
from pathlib import Path

from agr.attacks.parts import Stateless

Path(__file__).with_name("imported").touch()


@dataclass(frozen=True)
class Clip(Stateless):
    most: float

    def update(self, g, s, c):
        bound = self.most * g.abs().mean((1, 2, 3), keepdim=True)
        return g.clamp(-bound, bound), s
"""


def install(
    site: Path, name: str = "agr-extra", value: str = "agr_extra:conf", version: str = "1.2"
) -> Path:
    """Lay out what pip would: metadata of a distribution that offers a folder of configs."""
    about = site / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (about / "entry_points.txt").write_text(f"[agr.configs]\nany = {value}\n")
    return about


def package(site: Path, files: dict[str, str], name: str = "agr_extra") -> Path:
    for path, text in {"__init__.py": "", **files}.items():
        file = site / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return site / name


CONFIGS = {
    "conf/attack/extra/clipped.yaml": ATTACK,
    "conf/suite/small.yaml": SUITE,
    "conf/defense/small.yaml": DEFENSE,
    "parts.py": PART,
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_configs_are_found_by_name_and_nothing_of_the_package_runs(site: Path) -> None:
    about, top = install(site), package(site, CONFIGS | {"__init__.py": "raise SystemExit"})
    assert [tuple(offer) for offer in offers()] == [("agr-extra", "1.2", top / "conf")]
    words = ["suite=small", "defense=small", "targets=[vgg16/jpeg30]", "source=vgg16"]
    (cell,) = expand(words)
    assert (cell.suite.name, cell.config.n_images) == ("small", 3)
    assert cell.config.defenses["jpeg30"]["quality"] == 30
    assert given_by(cell.overrides) == {"agr-extra": "1.2"}
    assert given_by(["attack=agr", "norm=l2"]) == {}  # nothing of theirs is in it
    own = site.parent / "my/attack/own.yaml"  # of the user's folder, made of theirs
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [/attack/extra/clipped@_here_]\nname: own\nchain: {smooth: null}\n")
    (made,) = expand(["attack=own", f"--config-dir={site.parent / 'my'}"])
    assert made.config.attack.title == "MI-FGSM, clipped"
    assert given_by(made.overrides) == {"agr-extra": "1.2"}
    with pytest.raises(ConfigError, match=r"or allow=\[agr_extra\] its package"):
        expand(["attack=extra/clipped"])
    with pytest.raises(ConfigError, match="attack=clipped is unknown: did you mean extra/clipped"):
        expand(["attack=clipped"])
    (about / "entry_points.txt").write_text("[console_scripts]\n")
    distributions._offers.cache_clear()
    with pytest.raises(ConfigError, match="defense=small is unknown"):
        expand(words)


def test_the_code_of_an_allowed_package_is_in_the_identity(site: Path) -> None:
    top, words = package(site, CONFIGS), ["attack=extra/clipped", "allow=[agr_extra]"]
    install(site)
    before = expand(words)[0].attack_hash
    (top / "parts.py").write_text(PART + "\n# another\n")
    (after,) = expand(words)
    assert given_by(after.overrides) == {"agr-extra": "1.2"}
    assert before != after.attack_hash
    assert not (top / "imported").exists()


def test_their_files_say_nothing_of_hydra(site: Path) -> None:
    experiment = "# @package _global_\nhydra: { job: { chdir: true } }\n"
    package(site, CONFIGS | {"conf/experiment/bad.yaml": experiment})
    install(site)
    with pytest.raises(ConfigError, match=r"hydra\.job\.chdir stands in a config file"):
        expand(["experiment=bad"])


def test_attacks_are_listed_with_the_distribution(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package(site, CONFIGS)
    install(site)
    main(["mi-fgsm"])
    listed = capsys.readouterr().out
    assert "paper" in listed.splitlines()[0]
    assert "distribution" in listed.splitlines()[0]
    (line,) = [line for line in listed.splitlines() if line.startswith("extra/clipped")]
    assert line.split()[1] == "?"
    assert line.endswith("agr-extra")
    (own,) = [line for line in listed.splitlines() if line.startswith("mifgsm ")]
    assert not own.rstrip().endswith("agr-extra")
    main(["agr-extra"])
    assert "\n1 of " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("agr_extra:conf", "there is no package agr_extra"),
        ("agr_extra.deeper:conf", "there is no package agr_extra.deeper"),
        ("agr_whole:cond", "agr_whole has no folder cond"),
        ("agr_whole:empty", "there are no .yaml files in"),
        ("agr_whole:../secret", "is not a package:folder"),
        ("agr_whole:", "is not a package:folder"),
        ("json.decoder:conf", "there is no package json.decoder"),
    ],
)
def test_a_broken_entry_point_names_the_distribution_and_the_way_out(
    value: str, why: str, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(site, {"conf/norm/l1.yaml": "name: l2\neps: 1", "empty/x.txt": ""}, "agr_whole")
    install(site, value=value)
    with pytest.raises(ConfigError) as e:
        expand(["attack=agr"])
    assert str(e.value).startswith("the configs of the distribution agr-extra: ")
    assert why in str(e.value)
    assert str(e.value).endswith("go on without them: AGR_WITHOUT=agr-extra")
    monkeypatch.setenv("AGR_WITHOUT", "other, Agr_Extra")
    assert offers() == ()
    assert expand(["attack=agr"])


def test_files_that_nobody_can_parse_name_the_distribution(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = install(site)
    (about / "entry_points.txt").write_bytes(b"[agr.configs]\nx = \xff\n")
    with pytest.raises(ConfigError, match=r"distribution agr-extra: .* can't be read"):
        offers()
    monkeypatch.setenv("AGR_WITHOUT", "agr-extra")
    assert offers() == ()


@pytest.mark.parametrize(
    ("file", "other", "said"),
    [
        ("conf/attack/extra/clipped.yaml", "agr-other", "distribution agr-other: agr-extra gives"),
        ("conf/attack/agr.yaml", "", "distribution agr-extra: agr-bench gives attack/agr.yaml"),
    ],
)
def test_a_name_that_two_distributions_give_is_refused(
    file: str, other: str, said: str, site: Path
) -> None:
    package(site, CONFIGS | {file: ATTACK})
    install(site)
    if other:
        package(site, {file: ATTACK}, "agr_other")
        install(site, other, "agr_other:conf")
    with pytest.raises(ConfigError, match=said):
        expand(["attack=agr"])


def test_a_distribution_that_is_there_twice_counts_once(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(site, CONFIGS)
    install(site)
    install(tmp_path / "behind", "Agr.Extra", version="0.9")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "behind")])
    assert [offer.version for offer in offers()] == ["1.2"]


def test_without_any_nothing_is_parsed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def parsed(_: object) -> None:
        raise AssertionError

    install(tmp_path)
    (tmp_path / "agr_extra-1.2.dist-info" / "entry_points.txt").write_text("[pytest11]\nx = y\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(distributions.Distribution, "at", parsed)
    assert offers() == ()


@pytest.mark.slow
def test_a_whole_cell_of_another_distribution(tmp_path: Path) -> None:
    site = tmp_path / "site"
    top = package(site, CONFIGS)
    install(site)
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = ["attack=extra/clipped", "suite=small", "source=vgg16", "targets=[vgg16]"]
    how = ["slots=4", "threads=1", "progress=false", f"outputs={tmp_path / 'o'}"]

    def called(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "agr", "run", *words, *how, *more],
            capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths},
        )  # fmt: skip

    refused = called()
    assert refused.returncode == 2
    assert "allow=[agr_extra]" in refused.stderr
    assert not (top / "imported").exists()
    done = called("allow=[agr_extra]")
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "o" / "small").glob("extra_clipped-*/_about/run.json")
    written = json.loads(run.read_text())
    assert written["versions"]["agr-extra"] == "1.2"
    assert written["config"]["attack"]["chain"]["smooth"]["_target_"] == "agr_extra.parts.Clip"
    assert sum(session["images"] for session in written["sessions"]) == 3
