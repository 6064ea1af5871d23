"""Every composed attack of conf/attack on a demo network, and one that a user adds."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agr import load_attack
from agr.attacks import Attack
from agr.attacks.ball import row_norm
from agr.attacks.build import build_attack
from agr.attacks.engine import Calls, Crafted, Item, craft
from agr.attacks.idle import idle_parts
from agr.attacks.parts import Pool
from agr.attacks.stop import After
from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.schema import Norm
from agr.data.decode import load_image
from agr.evaluation.crafting import attack_of
from agr.evaluation.inputs import find_images
from agr.evaluation.runner import run_cell
from agr.evaluation.scoring import image_hash, succeeded
from agr.models.sources import Source
from agr.utils.errors import ConfigError
from agr.utils.hashing import draw
from tests.conftest import demo_cell, demo_items, demo_network
from tests.oracles.base import composed

EPS = {"linf": 10.0, "l2": 1500.0}
NAMES = composed()


# Sources of attacks that change or read what VGG16 hasn't, or that take several networks.
SOURCES: dict[str, str] = {
    **dict.fromkeys(("svre", "adaea", "cwa", "smer"), "[vgg16,vgg19]"),
    **dict.fromkeys(("sgm", "linbp", "bpa", "ilpd", "ghost", "dhf"), "res152"),
    **dict.fromkeys(("pna", "tgr", "att"), "vit"),
}


@cache
def cells() -> dict[str, Cell]:
    """Make the cell of each attack with two steps: on VGG16, or on a network that it can take."""
    sources = {name: SOURCES.get(name, "vgg16") for name in NAMES}
    made = {}
    for source in set(sources.values()):
        names = ",".join(name for name in NAMES if sources[name] == source)
        composed = expand([f"attack={names}", f"source={source}", "attack.steps=2"])
        made |= {cell.config.attack.name: cell for cell in composed}
    return made


def cell_in(norm: str, name: str) -> Cell:
    """Return an attack's cell in a norm, which Hydra would need as long again for."""
    cell = cells()[name]
    config = replace(cell.config, norm=Norm(norm, EPS[norm]), eps=EPS[norm])
    config = replace(config, attack=deepcopy(config.attack))
    if norm == "l2" and not isinstance(config.attack.size, str):  # levels: no step of L2
        config.attack.size = "eps/8"
    return Cell(config)


def with_pool(attack: Attack, network: Source, items: list[Item]) -> Attack:
    labels = torch.tensor([i.label for i in items])
    return replace(attack, pool=Pool(network.as_input([i.pixels for i in items]), labels))


def in_ball(made: list[Crafted], cell: Cell) -> bool:
    v = torch.stack([torch.from_numpy(m.image - m.item.pixels.astype(float)) for m in made])
    size = v.abs().amax((1, 2, 3)) if cell.config.norm.name == "linf" else row_norm(v)
    return bool((size <= cell.eps_effective * (1 + 1e-6)).all())


def check_bitwise(cell: Cell, slots: int, n: int, *, watched: bool) -> list[Crafted]:
    """Run `n` images in two orders and a few alone: the same bits, within the ball."""
    attack, network, items = attack_of(cell), demo_network(cell), demo_items(cell, n + 12)
    attack, items = with_pool(attack, network, items), items[:n]
    if attack.targeted:
        items = [item._replace(y=(item.y + 1) % cell.classes) for item in items]

    def results(chosen: list[Item]) -> dict[str, tuple[Any, ...]]:
        made.extend(craft(attack, network, chosen, slots, trace=watched))
        return {m.item.tag: (image_hash(m.image), *m[2:]) for m in made[-len(chosen) :]}

    made: list[Crafted] = []
    reference = results(items)
    shuffled = random.Random(1).sample(items, n)
    assert results(shuffled) == reference
    few = [items[-1], items[0]]
    assert results(few) == {i.tag: reference[i.tag] for i in few}
    assert in_ball(made, cell)
    return made[:n]


FAST = ("pgd", "difgsm", "vnifgsm", "admix", "ssa", "ai_fgtm", "agr+mi")  # all parts, but few times
# Parameters that say how often something is done, of which fewer will do: `in_full` has all.
MANY = ("copies", "samples", "neighbours", "chains", "inner", "rounds", "side")


# Of many gradients: with fewer of them in the first test, and two of them in the second with all.
# Then attacks whose kind has another one there: of rules, objectives, strategies and presets.
COSTLY = (
    *("vnifgsm", "emifgsm", "agr+vmi", "admix", "sinifgsm", "si_ni_di_ti", "gra", "pgn", "agr+pgn"),
    *("bsr", "sia", "decowa", "agr+bsr", "ops", "ops_3x3", "ops_5x5", "l2t", "svre", "smer"),
    *("mef", "ncs", "rap", "dem", "mumodig", "anda"),
    *("naa", "bfa", "rpa", "agr+bfa"),  # before the first step
    *("sgm", "linbp", "bpa", "ilpd", "ghost", "pna", "att", "ila", "tap", "cwa", "di_ti_mi"),
    *("targeted/logit", "targeted/logit_margin", "targeted/logit_angle", "targeted/cfm"),
)


@pytest.mark.slow
@pytest.mark.xdist_group("named")  # composed once
@pytest.mark.parametrize(
    ("name", "norm"),
    [
        (name, norm)
        for name in NAMES
        for norm in ("linf", "l2")
        if norm == "linf" or name in FAST or name not in COSTLY
    ],
)
def test_every_attack_on_a_demo_network(name: str, norm: str) -> None:
    cell = cell_in(norm, name)
    assert attack_of(cell).ball.eps * 255 == pytest.approx(cell.eps_effective)
    for node in cell.config.attack.parts().values():
        for key in {*MANY} & {*node}:
            node[key] = 2 + node[key] % 2  # odd numbers may have to be odd
        if "length" in node:  # of L2T's chains, whose copies are a product
            node["length"] = 1
    made = check_bitwise(cell, slots=4, n=6, watched=False)
    changed = [not np.array_equal(m.image, m.item.pixels) for m in made]
    assert all(changed)


FULL_IN_L2 = ("ifgsm", "mifgsm", "pgd", "agr")  # of the others the first test sees L2
OF_MANY = ("vmifgsm", "ssa")  # gradients


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norm"),
    [
        (name, norm)
        for name in NAMES
        for norm in ("linf", "l2")
        if name not in COSTLY and (norm == "linf" or name in FULL_IN_L2)
    ],
)
def test_every_attack_in_full(name: str, norm: str) -> None:
    steps = 2 if name in OF_MANY else 3
    overrides = [f"attack={name}", f"norm={norm}", f"attack.steps={steps}"]
    overrides += [f"source={SOURCES[name]}"] if name in SOURCES else []
    overrides += ["attack.size=eps/8"] if "targeted" in name else []  # levels: no step of L2
    made = check_bitwise(expand(overrides)[0], slots=8, n=10, watched=True)
    assert "targeted" in name or sum(m.first_success_step is not None for m in made) >= 4


@pytest.mark.slow
@pytest.mark.xdist_group("named")
def test_chance_depends_on_the_key_alone() -> None:
    """An image with another key gets another attack, with the same key the same."""
    for name in ("pgd", "difgsm", "vmifgsm", "ssa", "admix"):
        cell = cell_in("linf", name)
        network, items = demo_network(cell), demo_items(cell, 12)
        attack = with_pool(attack_of(cell), network, items)
        twice = [items[0]._replace(tag=i, key=key) for i, key in enumerate([1, 2, 1])]
        images = {m.item.tag: m.image for m in craft(attack, network, twice, 4)}
        assert np.array_equal(images[0], images[2]), name
        assert not np.array_equal(images[0], images[1]), name


@pytest.mark.slow
def test_observing_changes_no_image() -> None:
    """A trace, or a stop that never stops, costs observations and changes nothing else."""
    plain = expand(["attack=difgsm", "source=vgg16", "attack.steps=3"])[0]
    network, items = demo_network(plain), demo_items(plain, 6)
    unwatched, traced, stopped = Calls(), Calls(), Calls()
    attack = attack_of(plain)
    runs = [
        list(craft(attack, network, items, 8, calls=unwatched)),
        list(craft(attack, network, items, 8, trace=True, calls=traced)),
        list(craft(replace(attack, stop=After(99)), network, items, 8, calls=stopped)),
    ]
    for a, b, c in zip(*(sorted(r, key=lambda m: m.item.tag) for r in runs), strict=True):
        assert image_hash(a.image) == image_hash(b.image) == image_hash(c.image)
        assert a.prediction is None  # nobody asked about the last iterate
        assert b.prediction is not None
        assert (a.forwards, a.backwards) == (3, 3)  # one of the two copies each step
        assert (b.forwards, b.backwards) == (3 + 4, 3)
        assert [p.step for p in b.trace] == [0, 1, 2, 3]
    assert unwatched.backwards == traced.backwards == stopped.backwards
    assert unwatched.forwards == unwatched.backwards  # no observation
    assert traced.forwards == stopped.forwards == unwatched.forwards + 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gradients"),
    [("vmifgsm", 21), ("emifgsm", 11), ("admix", 15), ("sifgsm", 5), ("ssa", 20), ("difgsm", 1),
     ("si_ni_di_ti", 5), ("nifgsm", 1), ("tifgsm", 1), ("agr+vmi", 21), ("bsr", 20), ("decowa", 40),
     ("ops_3x3", 10), ("pna", 1), ("tgr", 1), ("att", 1), ("mef", 20), ("rap", 9), ("mumodig", 7),
     ("anda", 25), ("sgm", 1), ("linbp", 1), ("bpa", 1), ("ghost", 1), ("di_ti_mi", 1),
     ("targeted/logit", 1), ("targeted/logit_margin", 1), ("targeted/logit_angle", 1),
     ("targeted/cfm", 1), ("targeted/ftm", 1), ("fia", 1), ("bfa", 1)],
)  # fmt: skip
def test_gradients_are_counted(name: str, gradients: int) -> None:
    """An image's own count is that of hooks on the network if every slot is in use."""
    source = SOURCES.get(name, "vgg16")
    cell = expand([f"attack={name}", f"source={source}", "attack.steps=2", "attack.stop=null"])[0]
    network, items, calls = demo_network(cell), demo_items(cell, 3), Calls()
    attack = with_pool(attack_of(cell), network, demo_items(cell, 20))
    made = list(craft(attack, network, items, 3, calls=calls))
    total = 2 * gradients + attack.once
    assert {m.backwards for m in made} == {total}
    assert {m.forwards for m in made} == {total + (attack.direct)}
    # DI's copies of another size are passes of their own.
    both = 2 if "di" in name or "logit" in name else 1
    assert total <= calls.backwards <= total * both


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "forwards", "gradients"),
    [("svre", 20, 20), ("adaea", 8, 4), ("cwa", 4, 4), ("smer", 24, 8)],
)
def test_passes_of_members_are_counted(name: str, forwards: int, gradients: int) -> None:
    """Hooks count the same for an image alone; together, also members that only some rows take."""
    cell = expand([f"attack={name}", f"source={SOURCES[name]}", "attack.steps=2"])[0]
    network, items, attack = demo_network(cell), demo_items(cell, 3), attack_of(cell)
    for slots in (1, 3):
        calls = Calls()
        made = list(craft(attack, network, items[:slots], slots, calls=calls))
        assert {(m.forwards, m.backwards) for m in made} == {(2 * forwards, 2 * gradients)}
        assert calls.forwards >= 2 * forwards
        assert calls.forwards <= 2 * max(forwards, attack.gradients(2))
        assert slots > 1 or calls == Calls(2 * forwards, 2 * gradients)


@pytest.mark.parametrize("over", ["logits", "losses"])
@pytest.mark.parametrize("name", ["difgsm", "vmifgsm"])
def test_an_ensemble_takes_views_and_samples(name: str, over: str, tmp_path: Path) -> None:
    overrides = [f"attack={name}", "source=[vgg16,vgg19]", f"ensemble={over}", "targets=[res152]"]
    overrides += ["n_images=3", "slots=4", "attack.steps=1"]
    overrides += ["attack.chain.variance.samples=2"] if name == "vmifgsm" else []
    rows = run_cell(demo_cell(tmp_path, *overrides), lambda _: None).read()
    assert set(rows["backwards"]) == {2 * (3 if name == "vmifgsm" else 1)}  # of each member
    assert set(rows["forwards"]) == {2 * (4 if name == "vmifgsm" else 1)}


# ---- a cell of it --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_cell_with_a_pool_and_views_goes_on_where_it_was(tmp_path: Path) -> None:
    overrides = ["attack=admix", "source=vgg16", "attack.steps=1", "targets=[vgg16]"]
    whole = run_cell(demo_cell(tmp_path / "a", *overrides), lambda _: None).read()
    run_cell(demo_cell(tmp_path / "b", *overrides, "n_images=5"), lambda _: None)
    parts = run_cell(demo_cell(tmp_path / "b", *overrides), lambda _: None).read()
    columns = ["image_id", "adv_sha256", "adv_pred", "backwards"]
    assert parts[columns].values.tolist() == whole[columns].values.tolist()
    assert set(whole["backwards"]) == {15}
    assert whole["first_success_step"].isna().all()  # nobody looked


@pytest.mark.slow
@pytest.mark.xdist_group("named")
@pytest.mark.parametrize("name", NAMES)
def test_idle_parts_are_looked_for_in_every_attack(name: str) -> None:
    side, attack = 64, attack_of(cells()[name])
    assert isinstance(attack, Attack)
    if attack.pool_size:
        pool = torch.rand(attack.pool_size, 3, side, side)
        attack = replace(attack, pool=Pool(pool, torch.arange(attack.pool_size)))
    assert idle_parts(attack, side) == []


def test_a_cell_of_views_that_ask(tmp_path: Path) -> None:
    words = ["attack=decowa", "source=vgg16", "targets=[vgg16]", "n_images=3", "attack.steps=1"]
    words += ["attack.views.warp.copies=2"]
    rows = run_cell(demo_cell(tmp_path, *words), lambda _: None).read()
    assert set(rows["backwards"]) == {4}
    assert rows["adv_sha256"].nunique() == 3


@pytest.mark.slow
def test_what_is_made_once_is_charged_to_rows_that_go_on() -> None:
    """An image that the source has wrong is done before its objective is made, in any order."""
    overrides = ["attack=agr+bfa", "source=vgg16", "attack.steps=2", "attack.objective.rounds=2"]
    cell = expand(overrides)[0]
    network, items = demo_network(cell), demo_items(cell, 12)
    items = [i._replace(y=(i.y + (n % 4 > 0)) % 10) for n, i in enumerate(items)]

    def costs(chosen: list[Item]) -> dict[str, tuple[int, int]]:
        made = craft(attack_of(cell), network, chosen, 4)
        return {m.item.tag: (m.forwards, m.backwards) for m in made}

    found = costs(items)
    assert costs(items[::-1]) == found
    assert (1, 0) in found.values()
    assert len({*found.values()}) > 1


@pytest.mark.slow
def test_a_pool_of_one_class_is_refused(tmp_path: Path) -> None:
    entries = find_images(demo_cell(tmp_path, "source=vgg16")).entries

    def labels(seed: int) -> set[int]:
        order = sorted(entries, key=lambda e: draw(seed, "pool", e.image_id))
        return {e.label for e in order[:2]}

    seed = next(seed for seed in range(100) if len(labels(seed)) == 1)
    overrides = ["attack=admix", "attack.views.admix.pool=2", f"seed={seed}", "n_images=1"]
    with pytest.raises(ConfigError, match=r"attack=admix .* 2 of its pool have one class"):
        run_cell(demo_cell(tmp_path, "source=vgg16", *overrides), lambda _: None)


def test_what_a_view_refuses_in_a_run_is_one_line(tmp_path: Path) -> None:
    order = "attack.views.admix={_target_:agr.attacks.views.Diverse,prob:1.0}"
    mixed = "attack.views.scale={_target_:agr.attacks.views.Admix}"
    cell = demo_cell(tmp_path, "attack=mifgsm", "source=vgg16", order, mixed, "n_images=1")
    with pytest.raises(ConfigError, match=r"attack=mifgsm: Admix .*put it before"):
        run_cell(cell, lambda _: None)


@pytest.mark.slow
def test_a_network_of_one_size_names_the_option(tmp_path: Path) -> None:
    fixed = ["attack=difgsm", "source=vgg16", "suite.networks.vgg16.fixed_size=true"]
    with pytest.raises(ConfigError, match=r"70 px.*64 px only.*attack.views.diverse.back=true"):
        run_cell(demo_cell(tmp_path, *fixed), lambda _: None)
    back = demo_cell(tmp_path, *fixed, "attack.views.diverse.back=true", "attack.steps=1")
    assert len(run_cell(back, lambda _: None).read())


@pytest.mark.parametrize("target", ["least_likely", "random", "file"])
def test_targets(target: str, tmp_path: Path) -> None:
    overrides = ["attack=ifgsm", "attack.targeted=true", f"attack.target={target}", "source=vgg16"]
    overrides += ["targets=[vgg16]"]
    if target == "file":
        with pytest.raises(ConfigError, match=r"attack.target=file: .* has no target for"):
            run_cell(demo_cell(tmp_path, *overrides), lambda _: None)
        return
    rows = run_cell(demo_cell(tmp_path, *overrides), lambda _: None).read()
    assert (rows["target_label"] != rows["label"]).all()
    if target == "least_likely":
        cell = demo_cell(tmp_path, *overrides)
        network = demo_network(cell)
        by_id = {e.image_id: e for e in find_images(cell).entries}
        pixels = [load_image(by_id[i], cell.geometry) for i in rows["image_id"]]
        least = network(network.as_input(pixels)).argmin(1)
        assert rows["target_label"].tolist() == least.tolist()


# ---- what a user adds ----------------------------------------------------------------------------

PAGE = (Path(__file__).parent.parent / "docs" / "own_attack.md").read_text(encoding="utf-8")


def in_page(language: str, mark: str) -> str:
    """The one block of code of docs/own_attack.md that holds `mark`."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (only,) = [block for block in blocks if mark in block]
    return str(only)


ATTACK, PART = in_page("yaml", "my_parts.Clip"), in_page("python", "class Clip")


def user_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my"
    (folder / "attack").mkdir(parents=True)
    (folder / "attack" / "mine.yaml").write_text(ATTACK)
    (folder / "my_parts.py").write_text(PART)
    return folder


@pytest.mark.slow
def test_an_attack_and_a_part_from_outside_the_package(tmp_path: Path) -> None:
    """As the page shows: one YAML file, one small class, and the command."""
    assert len(ATTACK.splitlines()) <= 15
    assert "--config-dir=my attack=mine 'allow=[my_parts]'" in in_page("sh", "allow=[my_parts]")
    folder = user_folder(tmp_path)
    overrides = [
        f"--config-dir={folder}",
        "attack=mine",
        "allow=[my_parts]",
        "n_images=4",
        "slots=4",
    ]
    overrides += ["threads=1", "source=vgg16", "targets=[vgg16]", f"outputs={tmp_path / 'out'}"]

    path = {"PYTHONPATH": f"{folder}:{Path.cwd()}", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "agr.run", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=path)
    assert done.returncode == 0, done.stderr
    assert "MI, clipped on VGG16" in done.stdout
    assert list((tmp_path / "out" / "demo").glob("mine-linf-10-vgg16-*/rows-*.parquet"))
    with pytest.raises(ConfigError, match=r"_target_=my_parts.Clip.*allow=\[my_parts\]"):
        expand([each for each in overrides if not each.startswith("allow")])


def test_code_of_a_part_from_outside_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another Clip has other numbers: its cell is another, wherever in its package the code is."""
    package = tmp_path / "their_parts"
    package.mkdir()
    (package / "__init__.py").write_text("from their_parts.clip import Clip\n")
    (package / "clip.py").write_text(PART)
    monkeypatch.syspath_prepend(str(tmp_path))
    part = "attack.chain.smooth={_target_:their_parts.Clip,most:2.0}"
    overrides = ["attack=mifgsm", "allow=[their_parts]", part]
    before = expand(overrides)[0].attack_hash
    assert expand(overrides)[0].attack_hash == before
    (package / "clip.py").write_text(PART.replace("self.most *", "2 * self.most *"))
    assert expand(overrides)[0].attack_hash != before
    assert "their_parts" not in sys.modules  # nothing of it was run for that


def test_a_config_file_cannot_allow_itself(tmp_path: Path) -> None:
    text = "# @package _global_\nallow: [shutil]\nattack: {step: {_target_: shutil.copy}}\n"
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "sly.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"allow=\['shutil'\] stands in a config file"):
        expand([f"--config-dir={tmp_path}", "experiment=sly", "attack=ifgsm"])


@pytest.mark.slow
def test_the_order_of_slots_and_empty_parameters_count() -> None:
    smooth, enhance = (
        "{_target_:agr.attacks.stages.Smooth}",
        "{_target_:agr.attacks.stages.Enhance}",
    )
    one = expand(["attack=ifgsm", f"++attack.chain.a={smooth}", f"++attack.chain.b={enhance}"])[0]
    other = expand(["attack=ifgsm", f"++attack.chain.b={enhance}", f"++attack.chain.a={smooth}"])[0]
    assert build_attack(one.config) != build_attack(other.config)
    assert one.attack_hash != other.attack_hash
    plain = expand(["attack=ifgsm"])[0]
    assert expand(["attack=ifgsm", "++attack.chain.c=null"])[0].attack_hash == plain.attack_hash
    empty = expand(["attack=ifgsm", "++attack.step.most=null"])[0]
    assert empty.attack_hash != plain.attack_hash


def test_no_answer_is_no_success() -> None:
    assert not succeeded("targeted", 3, -1, {"adv_pred": -1})
    assert succeeded("targeted", 3, 4, {"adv_pred": 4})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+attack.step.phi._target_=os.getcwd"], r"_target_=os.getcwd.*allow=\[os\]"),
        (["attack.loss={_target_:torch.nn.CrossEntropyLoss}"], r"allow=\[torch\]"),
        (
            [
                "attack=ifgsm",
                "attack.stop={_target_:agr.attacks.stop.AnyOf,stops:[{_target_:os.system}]}",
            ],
            "os.sys",
        ),
        (
            ["attack.stop={_target_:agr.attacks.stop.Margin,by:1}"],
            r"replaces another with \+\+",
        ),
        (["attack.loss=3"], "attack.loss=3 names no part"),
        (["attack.step=Adm"], r"names no part: write 'attack.step=\{_target_:.*did you mean Adam"),
        (["attack.step={_target_:agr.attacks.step.Adm}"], "part of agr.attacks.step: did you mean"),
        (
            ["++attack.step={_target_:nowhere.Part}", "allow=[nowhere]"],
            "attack.step: .*No module named 'nowhere'.*is its folder on PYTHONPATH",
        ),
        (
            ["attack=ifgsm", "attack.chain.momentum.decay=1"],
            "if it is empty, give a part as a whole",
        ),
        (["attack=_di"], "the attack has no name: it is a piece"),
        (["attack.step=null"], "attack.step=None names no part"),
        (["++attack.stop={_target_:agr.attacks.stop.Margin,by:-1}"], "by=-1 cannot be"),
        (["attack.chain.momentum={_target_:agr.attacks.stages.Smooth,size:4}"], "size=4 has no"),
        (["attack=nifgsm", "attack.chain.smooth=${attack.chain.momentum}"], "both look ahead"),
        (["attack=difgsm", "attack.views.diverse.prob=1.5"], "prob=1.5 cannot be"),
        (["++attack.stop={_target_:agr.attacks.stop.AnyOf,stops:[3]}"], "3 is not a stop"),
        (
            ["attack.step={_target_:agr.attacks.step.Tensor}"],
            "it must name a part of agr.attacks.s",
        ),
        (["attack=ifgsm", "attack.chain=[1]"], r"attack.chain doesn't take this"),
        (
            ["attack=ifgsm", "allow={my:parts}"],
            r"allow doesn't take this: a list is written allow",
        ),
        (["attack=ifgsm", "attack.size=eps/0"], "attack.size=eps/0 is not a step size"),
        (["attack=ifgsm", "attack.target=random"], "attack.target=random.*attack.targeted=true"),
        (["allow=[argparse]", "attack.step={_target_:argparse.Namespace}"], "has no init and no"),
    ],
)
def test_what_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as e:
        build_attack(expand(overrides)[0].config)
    assert "\n" not in str(e.value)


def test_python_users_images_may_be_larger_than_the_demos() -> None:
    assert load_attack("ifgsm", norm="l2", eps=50_000).ball.eps == pytest.approx(50_000 / 255)
    with pytest.raises(ConfigError, match="eps=300 is beyond the linf bound 255"):
        load_attack("ifgsm", eps=300)
    with pytest.raises(ConfigError, match="eps=-1"):
        load_attack("ifgsm", norm="l2", eps=-1)


def test_step_sizes_as_fractions() -> None:
    assert load_attack("pgd").size == "eps/4"
    x = torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    w = torch.ones(48, dtype=torch.float64)

    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.flatten(1) @ w, -(x.flatten(1) @ w)], 1)

    attack = load_attack("ifgsm", eps=8, steps=1, overrides=["attack.size=eps/4"], quantize="off")
    adv = attack(model, x, torch.tensor([0]))
    assert torch.allclose(adv, x - 2 / 255)
