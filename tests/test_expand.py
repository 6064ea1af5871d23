"""The cells of a command line, against Hydra composing each of them on its own."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.load import to_cell
from agr.config.schema import conf_dir
from agr.utils.errors import ConfigError

OWN_ATTACK = """
defaults: [_base]
name: own
title: Own
size: decaying
chain:
  momentum: {{_target_: agr.attacks.stages.Momentum, decay: {decay}}}
"""


def one_by_one(cells: list[Cell]) -> list[Cell]:
    """The cells of the same words, each composed by Hydra from the files."""
    plain = []
    for cell in cells:
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            plain.append(to_cell(compose("config", list(cell.overrides)), cell.overrides))
    return plain


def same(cells: list[Cell]) -> None:
    plain = one_by_one(cells)
    assert [c.id for c in cells] == [c.id for c in plain]
    assert cells == plain  # configs and words


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of a user's own configs: an attack, and a group that this package doesn't know."""
    for group, name, text in (
        ("attack", "own", OWN_ATTACK.format(decay=0.7)),
        ("budget", "small", "# @package _global_\neps: 2\nsteps: 3\n"),
        ("budget", "large", "# @package _global_\neps: 20\ntargets: [vgg16]\n"),
    ):
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.mark.slow
def test_the_cells_of_an_experiment() -> None:
    cells = expand(["experiment=readings", "n_images=7", "outputs=elsewhere", "seed=1"])
    same(cells[::11])  # every norm, source and attack; all of them would take long
    assert len({c.id for c in cells}) == 120
    attacks = dict.fromkeys(c.config.attack.name for c in cells)
    networks = ("inc_v3", "inc_v4", "ir_v2", "vgg16", "vgg19", "res152")
    points = [(c.config.norm.name, c.source, c.config.attack.name) for c in cells]
    assert points == list(product(("linf", "l2"), networks, attacks))
    assert {(c.config.n_images, c.config.outputs, c.config.seed) for c in cells} == {
        (7, "elsewhere", 1)
    }


@pytest.mark.slow
def test_attacks_that_are_read_alone() -> None:
    """Of a sweep's attacks but the first only the own files are read; of wrong ones nothing."""
    with pytest.raises(ConfigError, match="attack=agrr is unknown"):
        expand(["attack=agrr", "seed=3"])
    same(expand(["attack=agr,bsr,targeted/logit,agr/bsr", "norm=l2,linf", "seed=3"]))
    (one,) = expand(["attack=bsr", "attack.step=null", "attack.views.shuffle.angle=0.1"])
    (other,) = expand(["attack=bsr"])
    assert other.config.attack.step is not None
    assert one.id != other.id


@pytest.mark.parametrize(
    "words",
    [
        ["attack=own,agr", "norm=linf,l2", "eps=2,4"],
        ["attack=agr,own", "steps=3", "attack.steps=4,5", "steps=6"],  # the later word counts
        ["attack=own", "attack.chain.momentum.decay=0.1,0.2"],
        ["+budget=small,large", "norm=l2"],  # a group of the user's, added
        ["attack.title=First", "attack={title: Mine},{title: Yours}"],  # keys, not files
        ["attack=own,mifgsm", "++attack.chain.momentum.decay=0.3", "source=[vgg16,vgg19],inc_v4"],
        ["seed=range(0,3)", "~defenses.jpeg75", "data={root: x}"],
        ["seed=1"],
        [],
    ],
)
@pytest.mark.slow
def test_the_cells_of_a_users_sweep(own: Path, words: list[str]) -> None:
    cells = expand(["--config-dir", str(own), "-m", *words])
    assert all(f"hydra.searchpath=[{own}]" in c.overrides for c in cells)
    same(cells)
    if len(cells) > 1:
        assert len({str(c.config) for c in cells}) == len(cells)


@pytest.mark.slow
def test_a_wrong_word_is_told_as_without_a_sweep() -> None:
    for word in ("epss=1", "+attack.foo=1", "steps=abc", "attack.chain.momentun.decay=3"):
        with pytest.raises(ConfigError) as one:
            expand([word])
        with pytest.raises(ConfigError) as many:
            expand([word, "seed=1,2", "norm=l2,linf"])
        assert str(many.value) == str(one.value)


@pytest.mark.slow
def test_a_file_that_was_changed_is_read_again(own: Path) -> None:
    words = [f"hydra.searchpath=[{own}]", "attack=own,agr"]
    before = expand(words)
    (own / "attack" / "own.yaml").write_text(OWN_ATTACK.format(decay=0.9))
    after = expand(words)
    assert [c.config.attack.chain["momentum"]["decay"] for c in (before[0], after[0])] == [0.7, 0.9]
    assert before[0].id != after[0].id
    assert before[1] == after[1]
    same(after)


def test_cells_share_nothing() -> None:
    first, second = expand(["seed=1,2"])
    first.config.suite.networks["vgg16"].arguments["a"] = 1
    first.config.attack.chain["momentum"] = {}
    assert second.config.suite.networks["vgg16"].arguments == {}
    assert second.config.attack.chain["momentum"] is None
