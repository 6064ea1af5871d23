"""Attacks of other libraries: called as documented, checked before and after, failures visible."""

from __future__ import annotations

import csv
import dataclasses
import logging
import random
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

from agr.attacks import Attack, library
from agr.attacks.ball import L2, Ball, Linf, row_norm
from agr.attacks.library import DISTRIBUTIONS, Art, Foolbox, Library, Torchattacks, Universal
from agr.attacks.library.adapter import LibraryCall
from agr.attacks.library.batches import on_grid
from agr.attacks.library.sources import ALONE, LEAST
from agr.config.schema import PACKAGE, conf_dir
from agr.evaluation import determinism as numeric
from agr.models.logits import joint, predict
from agr.utils.pixels import is_8bit
from scripts.bench import peers
from tests.conftest import CLASSES, EPS, demo_cell, images, small_model

NAMES = ["cw_l2", "ddn", "deepfool", "fmn_linf", "jsma", "universal"]
SMALLEST = [name for name in NAMES if name != "universal"]
FEW = {"cw_l2": 30, "ddn": 30, "deepfool": 20, "fmn_linf": 30, "universal": 2}  # steps
BALL = Linf(EPS)
PGD = Foolbox("LinfProjectedGradientDescentAttack", {"steps": 3})  # starts at a random point


def config(name: str, steps: int | None = None) -> dict[str, Any]:
    """Return the `attack` node of a named config, as Hydra would resolve it."""
    node = OmegaConf.load(Path(conf_dir()) / "attack" / "library" / f"{name}.yaml")
    root = OmegaConf.create({"attack": node, "steps": steps or "${attack.steps}"})
    resolved = OmegaConf.to_container(root, resolve=True)
    assert isinstance(resolved, dict)
    return dict(resolved["attack"])


def part(name: str, steps: int | None = None) -> Any:
    attack = instantiate(config(name, steps or FEW.get(name))["library"], _convert_="all")
    if name == "cw_l2":
        attack.arguments["binary_search_steps"] = 5
    if name == "universal":
        attack.arguments["attacker_params"]["max_iter"] = 3
        return replace(attack, fit_images=8)
    return attack


def run(
    attack: Library, model: nn.Module, x: Tensor, y: Tensor, ball: Ball = BALL, **how: Any
) -> Tensor:
    how = {"targeted": False, "classes": CLASSES, "seed": 0, "fit": None} | how
    if attack.fit_images and how["fit"] is None:
        how["fit"] = images(attack.fit_images, seed=7, dtype=x.dtype)
    return attack(model, x, y, ball, **how)


def wrong(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return predict(joint(model(x))) != y


class Deaf(nn.Module):
    """Always class 0, with a gradient that is 0."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.eye(CLASSES, dtype=x.dtype)[0]
        return logits + 0 * x.flatten(1).sum(1, keepdim=True)


@dataclass(frozen=True)
class Fake(Art):
    """A library that returns whatever `made` does."""

    attack: str = "Fake"
    made: Callable[[LibraryCall], Tensor] = lambda call: call.x

    def check(self, *_: Any, **__: Any) -> None: ...

    def _run(self, call: LibraryCall) -> Tensor:
        return self.made(call)


# ---- the named ones ------------------------------------------------------------------------------


def test_all_configs_are_tested() -> None:
    files = (Path(conf_dir()) / "attack" / "library").iterdir()
    assert sorted(f.stem for f in files) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_config_is_complete_and_its_steps_reach_the_library(name: str) -> None:
    text = (Path(conf_dir()) / "attack" / "library" / f"{name}.yaml").read_text()
    assert text.startswith("# @package attack\n# ")
    node = config(name)
    assert node["name"] == f"library/{name}"
    assert node["title"]
    moved = config(name, steps=node["steps"] + 1)
    assert (moved["library"] != node["library"]) == (name != "jsma")
    part(name).check(BALL, targeted=False, classes=10, shape=(3, 80, 80))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SMALLEST)
def test_smallest_perturbations_fool_or_are_none(name: str, dtype: torch.dtype) -> None:
    model, x = small_model(dtype=dtype), images(dtype=dtype)
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % CLASSES  # the model is wrong about it already
    y[1] = -1  # and this is not a label
    made = run(part(name), model, x, y)
    assert made.dtype == dtype
    assert made.min() >= 0
    assert made.max() <= 1
    moved = (made != x).flatten(1).any(1)
    assert not moved[:2].any()
    assert moved[2:].float().mean() >= 0.75
    assert wrong(model, made, y)[moved].all()


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_cannot_be_fooled_gives_clean_images(name: str) -> None:
    x = images()
    made = run(part(name), Deaf().eval(), x, torch.zeros(len(x), dtype=torch.int64))
    assert torch.equal(made, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bits(name: str, model: nn.Module) -> None:
    x = images()
    y = model(x).argmax(1)
    other = small_model()  # equal, so that no kept universal perturbation is met again
    assert torch.equal(run(part(name), model, x, y), run(part(name), other, x, y))


@pytest.mark.parametrize("name", ["cw_l2", "ddn", "fmn_linf", "jsma"])
def test_targeted(name: str, model: nn.Module, x: Tensor, y: Tensor) -> None:
    wanted = (y + 1) % CLASSES
    made = run(part(name), model, x, wanted, targeted=True)
    moved = (made != x).flatten(1).any(1)
    assert moved.any()
    assert not wrong(model, made, wanted)[moved].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_on_a_network_of_the_demo(name: str, tmp_path: Path) -> None:
    cell = demo_cell(tmp_path, "source=vgg16")
    settled = numeric.settle(cell, None, ["vgg16"])
    model = numeric.load(cell, "vgg16", settled, "cpu")
    folder = PACKAGE / "assets" / "demo"
    rows = list(csv.DictReader((folder / "val.csv").read_text().splitlines()))[:40]
    pixels = [np.asarray(Image.open(folder / "val" / r["filename"]).convert("RGB")) for r in rows]
    whole = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    x = (nn.functional.interpolate(whole, (64, 64), mode="area") * 255).round() / 255
    y = torch.tensor([int(r["label"]) for r in rows])
    right = ~wrong(model, x, y)
    x, y = x[right], y[right]
    attack = part(name, steps={"cw_l2": 50, "universal": 1}.get(name))
    if attack.fit_images:
        attack = replace(attack, fit_images=20)
    made = run(attack, model, x[:4], y[:4], classes=10, fit=x[4:24])
    moved = (made != x[:4]).flatten(1).any(1)
    assert moved.sum() >= 3
    if not attack.budget:
        assert wrong(model, made, y[:4])[moved].all()


# ---- against the libraries -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "attack",
    [
        Foolbox(
            "LinfBasicIterativeAttack", {"abs_stepsize": EPS / 5, "steps": 5, "random_start": False}
        ),
        Torchattacks("BIM", {"alpha": EPS / 5, "steps": 5}),
        Art("BasicIterativeMethod", {"eps_step": EPS / 5, "max_iter": 5}),
    ],
)
def test_ifgsm_is_the_librarys_and_our_own(attack: Any, model: nn.Module, x: Tensor) -> None:
    y = model(x).argmax(1)
    made = run(attack, model, x, y)
    trial = peers.Trial("ifgsm", EPS, EPS / 5, 5, tuple(x.shape[1:]), CLASSES)
    names = {Foolbox: peers.foolbox, Torchattacks: peers.torchattacks, Art: peers.art}
    direct = names[type(attack)](model, trial)(x, y)
    torch.testing.assert_close(made, direct, rtol=0, atol=1e-7)
    if not isinstance(attack, Art):  # which rounds to float32, and signs may differ
        own = Attack(BALL, steps=5, quantize="off")(model, x, y)
        torch.testing.assert_close(made, own, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_cw_is_foolbox(model: nn.Module, x: Tensor, y: Tensor) -> None:
    import foolbox

    attack = part("cw_l2")
    made = run(attack, model, x, y)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    direct = foolbox.attacks.L2CarliniWagnerAttack(**attack.arguments)(
        wrapped, x, foolbox.Misclassification(y), epsilons=None
    )[0]
    assert torch.equal(made, direct)


@pytest.mark.slow
def test_smallest_perturbations_of_a_linear_model_reach_its_plane() -> None:
    torch.manual_seed(0)
    body = nn.Linear(3 * 8 * 8, 2).double().requires_grad_(False)
    model = nn.Sequential(nn.Flatten(), body).eval()
    x = 0.5 + 0.1 * torch.rand(4, 3, 8, 8, dtype=torch.float64)
    y = model(x).argmax(1)
    w = body.weight[0] - body.weight[1]
    gap = (model(x) @ torch.tensor([1.0, -1.0], dtype=torch.float64)).abs()
    for name, steps, norm, least in [
        ("deepfool", 20, row_norm, gap / w.norm()),
        ("ddn", 100, row_norm, gap / w.norm()),
        ("cw_l2", 100, row_norm, gap / w.norm()),
        ("fmn_linf", 100, lambda v: v.abs().flatten(1).amax(1), gap / w.abs().sum()),
    ]:
        made = run(part(name, steps), model, x, y, classes=2)
        size = norm(made - x)
        assert (size >= least * (1 - 1e-9)).all(), name
        assert (size <= least * 1.1).all(), name


def test_budgets_in_l2(model: nn.Module, x: Tensor, y: Tensor) -> None:
    ball = L2(0.3)
    for attack in (
        Foolbox("L2ProjectedGradientDescentAttack", {"steps": 5}),
        Torchattacks("PGDL2", {"steps": 5, "alpha": 0.1}),
        Art("ProjectedGradientDescent", {"eps_step": 0.1, "max_iter": 5}),
    ):
        size = row_norm(run(attack, model, x, y, ball) - x)
        assert (size <= 0.3 + 1e-9).all()
        assert (size > 0.2).all()


# ---- isolation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [False, True])
def test_seeds_are_put_back(failing: bool, model: nn.Module, x: Tensor, y: Tensor) -> None:
    def broken(call: LibraryCall) -> Tensor:
        torch.rand(1), np.random.rand(), random.random()
        logging.info("adds a handler where there is none")
        raise torch.OutOfMemoryError("the caller's business")

    def states() -> list[Any]:
        kept = torch.get_rng_state().tolist(), np.random.get_state(), random.getstate()
        return [repr(kept), list(logging.root.handlers), torch.is_grad_enabled()]

    before = states()
    if failing:
        with pytest.raises(torch.OutOfMemoryError):
            run(Fake(made=broken), model, x, y)
    else:
        run(PGD, model, x, y)
        run(part("deepfool"), model, x, y)
    assert states() == before


def test_seed_decides_random_starts(model: nn.Module, x: Tensor, y: Tensor) -> None:
    first = run(PGD, model, x, y)
    torch.manual_seed(9)
    assert torch.equal(run(PGD, model, x, y), first)
    assert not torch.equal(run(PGD, model, x, y, seed=1), first)
    with torch.no_grad():  # whatever the caller's mode
        assert torch.equal(run(PGD, model, x, y), first)


@pytest.mark.parametrize("attack", [PGD, part("ddn")])
def test_each_chunk_is_by_itself(attack: Any, model: nn.Module, x: Tensor, y: Tensor) -> None:
    attack = replace(attack, chunk=3)
    parts = [run(attack, model, x[:3], y[:3]), run(attack, model, x[3:], y[3:])]
    assert torch.equal(run(attack, model, x, y), torch.cat(parts))


@pytest.mark.parametrize(
    "attack", [PGD, Torchattacks("PGD", {"steps": 2}), Art("DeepFool", budget=False)]
)
def test_the_model_is_left_alone(attack: Any, model: nn.Module, x: Tensor, y: Tensor) -> None:
    seen: list[int] = []
    hook = model.register_forward_hook(lambda *_: seen.append(1))
    run(attack, model, x, y)
    counted = len(seen)
    assert counted >= 2
    model(x)
    assert len(seen) == counted + 1
    assert not any(m.training for m in model.modules())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    hook.remove()


def test_an_ensemble_answers_with_its_mean(x: Tensor) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList([small_model(0), small_model(3)])

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([m(x) for m in self.members], 1)

    model = Two().eval()
    y = predict(joint(model(x)))
    made = run(part("ddn"), model, x, y)
    assert wrong(model, made, y).all()


# ---- faults --------------------------------------------------------------------------------------


def test_a_broken_budget_is_an_error(model: nn.Module, x: Tensor, y: Tensor) -> None:
    grey = torch.full_like(x, 0.5)
    loose = Fake(made=lambda call: call.x + 2 * EPS)
    with pytest.raises(ValueError, match=r"ART's Fake left its budget: Linf 0.0784\d* > eps 0.039"):
        run(loose, model, grey, y)
    with pytest.raises(ValueError, match="left its budget: L2"):
        run(loose, model, grey, y, L2(0.5))
    with pytest.raises(ValueError, match=r"left \[0, 1\] by 0.0784"):
        run(loose, model, torch.ones_like(x), y)
    with pytest.raises(ValueError, match=r"made \(1, 3, 12, 12\) of images"):
        run(Fake(made=lambda call: call.x[:1]), model, x, y)
    near = run(Fake(made=lambda call: call.x + EPS + 1e-7), model, grey, y)
    assert (near - grey).abs().max() <= EPS + 1e-16
    made = run(replace(loose, budget=False), model, grey, model(grey).argmax(1))
    assert made.shape == x.shape  # without a budget any size will do


def test_failures_come_back_clean(model: nn.Module, x: Tensor, y: Tensor) -> None:
    def made(call: LibraryCall) -> Tensor:
        found = call.x + 1e-3 * call.x.lt(0.5)
        found[0], found[1, 0, 0, 0], found[2, 0, 0, 0] = 0, torch.nan, torch.inf
        return found

    for budget in (True, False):
        found = run(Fake(made=made, budget=budget), model, x, y)
        assert torch.equal(found[:3], x[:3])
        assert torch.equal(found[3:], x[3:]) != budget  # the model is not fooled


def test_no_budget_is_no_attack(model: nn.Module, x: Tensor, y: Tensor) -> None:
    assert torch.equal(run(PGD, model, x, y, Linf(0)), x)
    assert torch.equal(run(part("universal"), model, x, y, Linf(0)), x)


CANNOT: list[tuple[Any, Ball, bool, str]] = [
    (Foolbox("LinfMomentumIterativeFastGradientMethod"), BALL, False, "signs of .*attack=mifgsm"),
    (Foolbox("MIFGSM"), BALL, False, "accumulates signs of gradients, which is not MI-FGSM"),
    (Foolbox("L2FMNAttack", budget=False), BALL, False, "never projects .*use DDNAttack"),
    (Foolbox("L2DeepFoolAttack", budget=False), BALL, True, "nearest other class"),
    (Foolbox("L2PGD"), BALL, False, "foolbox' L2PGD is an attack in L2: .*budget in linf"),
    (PGD, L2(1), False, "is an attack in Linf: it can't keep a budget in l2"),
    (Foolbox("GenAttack", budget=False), BALL, False, "library.budget=true"),
    (Foolbox("GaussianBlurAttack"), BALL, False, "has no norm of its own"),
    (
        Foolbox("BoundaryAttack", {"init_attack": 3}),
        BALL,
        False,
        "BoundaryAttack can't be made",
    ),
    (Foolbox("HopSkipJumpAttack"), BALL, False, "HopSkipJumpAttack is an attack in L2"),
    (Foolbox("DDNAttak", budget=False), BALL, False, "DDNAttak is not in foolbox.*DDNAttack"),
    (Foolbox("DDNAttack", {"step": 3}, budget=False), BALL, False, "has no step: .*steps"),
    (Foolbox("LinfPGD", {"steps": "a"}, chunk=4), BALL, False, "foolbox' LinfPGD"),
    (Art("DeepFool", {"nb_grads": 3}, budget=False), BALL, False, "nb_grads=3 of 5 .*nb_grads=5"),
    (Art("SaliencyMapMethod", budget=False), BALL, False, "target=runner_up"),
    (Art("DeepFool", budget=False), BALL, True, "has no targeted form"),
    (Art("DeepFool"), BALL, False, "takes no eps"),
    (Art("UniversalPerturbation"), BALL, False, "use library.Universal"),
    (Art("FastGradientMethod", {"eps": 1}), BALL, False, "eps is set by the run"),
    (Art("ProjectedGradient"), BALL, False, "did you mean ProjectedGradientDescent"),
    (Torchattacks("JSMA", budget=False), BALL, False, "JSMA only goes to a wanted class"),
    (Torchattacks("CW", budget=False), BALL, False, "never moves .*L2CarliniWagnerAttack"),
    (Torchattacks("DeepFool"), BALL, False, "takes no eps: set attack.library.budget=false"),
    (Torchattacks("BIMM"), BALL, False, "did you mean BIM"),
    (Universal(), BALL, True, "no targeted form"),
    (Universal({"attacker": "deepfol"}), BALL, False, "did you mean deepfool"),
    (Universal({"attacker_params": {"nb_grads": 2}}), BALL, False, "deepfool is wrong with nb_gr"),
    (Universal({"max_iters": 2}), BALL, False, "did you mean max_iter"),
    (Universal({"eps": 2}), BALL, False, "eps is set by the run"),
    (Universal({"delta": 2}), BALL, False, r"must be in the range \[0, 1\]"),
]


@pytest.mark.parametrize(("attack", "ball", "targeted", "why"), CANNOT)
def test_refused(
    attack: Any, ball: Ball, targeted: bool, why: str, model: nn.Module, x: Tensor, y: Tensor
) -> None:
    with pytest.raises(ValueError, match=why) as error:
        run(attack, model, x, y, ball, targeted=targeted)
    assert "\n" not in str(error.value)


def test_what_would_not_end_is_refused() -> None:
    how = {"targeted": True, "classes": 1000, "shape": (3, 224, 224)}
    with pytest.raises(ValueError, match=r"pair of values .* here 725 GB .*SaliencyMapMethod"):
        Torchattacks("JSMA", budget=False).check(BALL, **how)
    with pytest.raises(ValueError, match="images have 150,528 values, and most_values=20,000"):
        part("jsma").check(BALL, **how)
    Torchattacks("JSMA", budget=False).check(BALL, **how | {"shape": (3, 48, 48)})
    with pytest.raises(ValueError, match="target=nearest is unknown"):
        Foolbox("DDNAttack", target="nearest")


@pytest.mark.parametrize("size", [2.5, 0, True])
def test_sizes_are_whole_numbers(size: Any) -> None:
    for kind in (Foolbox, Art, Torchattacks):
        with pytest.raises(ValueError, match=f"chunk={size} cannot be: give a whole number"):
            kind("DDNAttack", chunk=size)
    for name in ("chunk", "fit_images"):
        with pytest.raises(ValueError, match=f"{name}={size} cannot be: give a whole number"):
            Universal(**{name: size})


@pytest.mark.parametrize(
    ("attack", "module", "way_out"),
    [
        (part("ddn"), "foolbox", "foolbox"),
        (part("jsma"), "art.attacks.evasion", "adversarial-robustness-toolbox"),
        (part("universal"), "art.attacks.evasion", "adversarial-robustness-toolbox"),
        (Torchattacks("BIM"), "torchattacks", "--no-deps torchattacks"),
    ],
)
def test_a_missing_library(
    attack: Any, module: str, way_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    title = module.partition(".")[0]
    with pytest.raises(ValueError, match=rf"^{title} can't be .*: pip install {way_out}\\>=\d"):
        attack.check(BALL, targeted=False, classes=CLASSES)


def test_where_the_libraries_come_from() -> None:
    kinds = {name: vars(library)[name] for name in library.__all__ if name != "Library"}
    parts = [name for name, kind in kinds.items() if dataclasses.is_dataclass(kind)]
    assert sorted(parts) == sorted(DISTRIBUTIONS)
    for name in parts:
        assert vars(library)[name].__module__.startswith("agr.attacks.library.")
        assert version(DISTRIBUTIONS[name])  # is installed under this name
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]["libraries"]
    assert sorted(f"{name}>={LEAST[name]}" for name in LEAST.keys() - ALONE) == sorted(optional)


def test_wrong_inputs(model: nn.Module, x: Tensor, y: Tensor) -> None:
    ddn = part("ddn")
    with pytest.raises(ValueError, match="training mode"):
        run(ddn, small_model().train(), x, y)
    with pytest.raises(ValueError, match=r"x spans"):
        run(ddn, model, x * 255, y)
    with pytest.raises(ValueError, match=r"give int64 labels \(6,\)"):
        run(ddn, model, x, y[:2])
    with pytest.raises(ValueError, match=r"labels below classes=5"):
        run(ddn, model, x, y + 5)
    with pytest.raises(ValueError, match="classes=7, but the model has 5 logits"):
        run(ddn, model, x, y, classes=7)
    assert run(ddn, model, x[:0], y[:0]).shape == (0, 3, 12, 12)


# ---- the universal one ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("ball", [Linf(0.1), L2(1.0)])
def test_one_perturbation_for_all(ball: Ball, model: nn.Module) -> None:
    def grey(n: int, seed: int) -> Tensor:
        return 0.3 + 0.4 * images(n, seed)  # far from 0 and 1, where it would be cut off

    attack = replace(part("universal"), fit_images=12, chunk=4)
    x, fit = grey(10, 1), grey(12, 2)
    y = model(x).argmax(1)
    made = run(attack, model, x, y, ball, fit=fit)
    v = made - x
    assert v.abs().max() > 0.01
    torch.testing.assert_close(v, v[:1].expand_as(v), rtol=0, atol=1e-12)
    assert ball.project(made, x).sub(made).abs().max() < 1e-12
    # It is that of the images it was fitted on, whatever is attacked, and is fitted once.
    seen: list[int] = []
    hook = model.register_forward_hook(lambda *_: seen.append(1))
    other = run(attack, model, grey(3, 5), y[:3], ball, fit=fit) - grey(3, 5)
    hook.remove()
    assert not seen
    torch.testing.assert_close(other, v[:3], rtol=0, atol=1e-12)
    again = run(attack, model, x, y, ball, fit=grey(12, 3)) - x
    assert (again - v).abs().max() > 1e-3


def test_a_universal_perturbation_needs_images(model: nn.Module, x: Tensor, y: Tensor) -> None:
    for fit in (None, images(3, size=8)):
        with pytest.raises(ValueError, match="give fit, 8 like x"):
            part("universal")(model, x, y, BALL, targeted=False, classes=5, seed=0, fit=fit)


# ---- 8-bit images --------------------------------------------------------------------------------


def test_what_was_found_still_fools_as_an_8_bit_image(model: nn.Module) -> None:
    x = images(12)
    y = model(x).argmax(1)
    found = run(part("ddn"), model, x, y)
    found[0] = x[0]
    made = on_grid(model, x, found, y, targeted=False)
    assert is_8bit(made)
    assert torch.equal(made[0], x[0])
    assert wrong(model, made[1:], y[1:]).all()
    assert (row_norm(made - x) < 3 * row_norm(found - x) + 0.1).all()
    zeros = torch.zeros_like(y)
    assert torch.equal(on_grid(Deaf(), x, found, zeros, targeted=False), x)
