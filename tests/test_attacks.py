"""Attacks against closed forms and hand arithmetic; `tests.oracles` has other programs."""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from agr import load_attack
from agr.attacks import L2, AdaGrad, Attack, Linf, MeanNormalize, Momentum, OnceFooled, Overwrite
from agr.attacks.parts import Context, State, Stateless
from agr.attacks.start import Uniform
from agr.attacks.step import step_size
from agr.models.logits import NO_ANSWER, predict
from agr.utils.errors import ConfigError
from tests.conftest import CLASSES, EPS, images, small_model

L2_EPS = 1.0
MI = (MeanNormalize(), Momentum(1.0))
READINGS = ["agr", "agr_nostop", "agr_eps_over_t", "agr_literal", "agr_adagrad", "agr_float"]
NAMES = ["fgsm", "ifgsm", "mifgsm", "fgsm_stop", "ifgsm_stop", "mifgsm_stop", *READINGS]


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


# ---- closed forms --------------------------------------------------------------------------------


class Linear(nn.Module):
    """Two classes with the margin w.x + b: the best attack in a ball has a closed form."""

    def __init__(self, w: Tensor, b: float):
        super().__init__()
        self.w, self.b = nn.Buffer(w), b
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        margin = x.flatten(1) @ self.w + self.b
        return torch.stack([margin, -margin], 1)


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 7, 5)])
def test_linear_model_reaches_the_optimum(batch: int, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    w = torch.randn(math.prod(shape), dtype=torch.float64)
    model = Linear(w, 0.1)
    x = torch.rand(batch, *shape, dtype=torch.float64) * 0.5 + 0.25  # no pixel clips
    y = model(x).argmax(1)
    sign = (y * 2.0 - 1).double().view(-1, 1, 1, 1)
    for ball, unit in ((Linf(0.05), w.sign()), (L2(0.2), w / w.norm())):
        best = x + sign * ball.eps * unit.view(shape)
        for chain in ((), MI):
            adv = Attack(ball, chain=chain, quantize="off")(model, x, y)
            assert difference(adv, best) < 1e-12
        nostop = Attack(ball, step=AdaGrad(), size="decaying", quantize="off")
        assert difference(nostop(model, x, y), best) < 1e-6  # delta costs this much


def test_linear_model_stops_at_the_boundary() -> None:
    """An image 3.5 steps from the boundary stops at the fourth iterate."""
    w = torch.ones(3 * 2 * 2, dtype=torch.float64)
    x = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)
    model = Linear(w, b=-float(x.sum()) + 3.5 * 0.01 * 12)
    stopped = Attack(Linf(0.1), stop=OnceFooled(), quantize="off")
    adv = stopped(model, x, torch.tensor([0]))
    assert torch.allclose(adv, x - 0.04)
    assert torch.allclose(Attack(Linf(0.1), quantize="off")(model, x, torch.tensor([0])), x - 0.1)


# ---- AGR's readings ------------------------------------------------------------------------------


@pytest.mark.parametrize("ball", [Linf(EPS), L2(L2_EPS)])
def test_accumulated_agr_is_ifgsm_on_a_schedule(
    ball: Linf | L2, model: nn.Module, x: Tensor, y: Tensor
) -> None:
    """G counts the steps where no gradient is zero, so step i has the size base/sqrt(i + delta)."""
    base = ball.eps / sum(i**-0.5 for i in range(1, 11))
    point = x.clone()
    for i in range(1, 11):
        moving = point.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(moving), y, reduction="sum")
        (g,) = torch.autograd.grad(loss, moving)
        assert (g != 0).all()
        point = ball.project(point + base / math.sqrt(i + 1e-7) * ball.direction(g), x)
    nostop = Attack(ball, size="decaying", step=AdaGrad(), quantize="off")
    assert difference(nostop(model, x, y), point) <= 1e-12
    assert difference(Attack(ball, step=AdaGrad(), quantize="off")(model, x, y), point) > 1e-4


def test_literal_agr_is_one_full_step_from_the_clean_image(
    model: nn.Module, x: Tensor, y: Tensor
) -> None:
    one = Attack(Linf(EPS), steps=1, size="full", step=Overwrite(), quantize="off")
    fgsm = Attack(Linf(EPS), steps=1, quantize="off")
    assert difference(one(model, x, y), fgsm(model, x, y)) < 1e-8
    two = Attack(Linf(EPS), steps=2, size="full", step=Overwrite(), quantize="off")(model, x, y)
    assert torch.allclose((two - x).abs().amax((1, 2, 3)), torch.tensor(EPS).double(), atol=1e-7)


def test_pixels_without_gradient_do_not_move_under_adagrad(x: Tensor) -> None:
    """G stays 0 where the gradient is 0; dividing by sqrt(delta) must not move those pixels."""
    w = torch.zeros(3 * 12 * 12, dtype=torch.float64)
    w[::2] = 1
    x = x * 0.5 + 0.25
    adv = Attack(Linf(EPS), step=AdaGrad(), size="decaying", quantize="off")(
        Linear(w, 0.0), x, torch.zeros(len(x), dtype=torch.int64)
    )
    moved = (adv - x).flatten(1)
    assert (moved[:, 1::2] == 0).all()
    assert (moved[:, ::2] != 0).all()


def test_step_sizes_by_hand() -> None:
    assert step_size("even", 10.0, 4) == 2.5
    assert step_size("full", 10.0, 4) == 10.0
    assert step_size("decaying", 10.0, 2) == pytest.approx(10 / (1 + 1 / math.sqrt(2)))
    assert step_size(0.3, 10.0, 4) == 0.3
    for wrong in ("evn", 0.0, -1.0):
        with pytest.raises(ValueError, match="step_size"):
            step_size(wrong, 10.0, 4)


def test_momentum_by_hand() -> None:
    """g/mean|g|, then m <- decay m + that: two steps on a gradient that turns."""
    c: Any = None
    g1 = torch.tensor([[[[1.0, -3.0]]]])
    g2 = torch.tensor([[[[-2.0, 2.0]]]])
    stage, normal = Momentum(0.5), MeanNormalize()
    s = stage.init(g1)
    m, s = stage.update(normal.update(g1, {}, c)[0], s, c)
    assert m.flatten().tolist() == [0.5, -1.5]
    m, s = stage.update(normal.update(g2, {}, c)[0], s, c)
    assert m.flatten().tolist() == [-0.75, 0.25]


# ---- invariants of every named attack ------------------------------------------------------------


@functools.cache
def loaded(name: str, norm: str) -> Attack:
    return load_attack(name, norm=norm)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* came back unchanged")
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    eps=st.floats(0, 40),
    targeted=st.booleans(),
    quantize=st.sampled_from(["always", "end", "off"]),
)
def test_named_attacks_keep_the_budget(
    name: str, norm: str, seed: int, eps: float, targeted: bool, quantize: Any
) -> None:
    """Any model, images, budget and goal: within the ball, within [0, 1], on the 8-bit grid."""
    model, x = small_model(seed), images(3, seed=seed + 1)
    eps = eps if norm == "linf" else eps * 20
    plain = loaded(name, norm)
    ball = type(plain.ball)(eps / 255)
    attack = replace(plain, ball=ball, targeted=targeted, quantize=quantize)
    y = (model(x).argmax(1) + targeted) % CLASSES
    adv = attack(model, x, y)
    v = (adv - x) * 255
    size = v.abs().max() if norm == "linf" else v.flatten(1).norm(dim=1).max()
    assert size <= eps * (1 + 1e-6) + 1e-9
    assert adv.min() >= 0
    assert adv.max() <= 1
    if quantize != "off":
        assert difference(adv * 255, (adv * 255).round()) < 1e-9


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", NAMES)
def test_named_attacks_do_something(name: str, norm: str) -> None:
    """Each moves towards its goal: the loss of the label rises, that of a target falls."""
    model, x = small_model(), images()
    y = model(x).argmax(1)
    for targeted, aim in ((False, y), (True, (y + 1) % CLASSES)):
        adv = replace(loaded(name, norm), targeted=targeted)(model, x, aim)
        before, after = (nn.functional.cross_entropy(model(z), aim) for z in (x, adv))
        assert (after < before) if targeted else (after > before)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("quantize", ["always", "end", "off"])
def test_stops_leave_what_is_fooled_alone(targeted: bool, quantize: Any) -> None:
    """A stopped attack's image is its first successful iterate."""
    model, x = small_model(3), images(20, seed=4)
    y = model(x).argmax(1)
    aim = (y + 1) % CLASSES if targeted else y
    shared: dict[str, Any] = {"ball": Linf(EPS), "targeted": targeted, "quantize": quantize}
    stopped = Attack(**shared, stop=OnceFooled())(model, x, aim)
    first = x.clone()
    open_rows = torch.ones(len(x), dtype=torch.bool)
    for t in range(11):
        attack = Attack(**shared, steps=max(t, 1), size=EPS / 10)
        iterate = attack(model, x, aim) if t else x
        first = torch.where(open_rows.view(-1, 1, 1, 1), iterate, first)
        if quantize == "end":  # judged before rounding
            judged = Attack(**shared | {"quantize": "off"}, steps=max(t, 1), size=EPS / 10)
            iterate = judged(model, x, aim) if t else x
        pred = model(iterate).argmax(1)
        open_rows &= ~((pred == aim) if targeted else (pred != aim))
    assert not open_rows.all()
    assert torch.equal(stopped, first)


@pytest.mark.filterwarnings("ignore:.* logits are not finite", "ignore:.* came back unchanged")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_zero_and_nan_gradients_move_nothing(name: str, norm: str, x: Tensor) -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum((1, 2, 3), keepdim=False)[:, None] * torch.zeros(1, CLASSES).to(x)

    class Broken(Flat):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + float("nan")

    y = torch.zeros(len(x), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "6 of 6 images: every gradient was zero")
        for model in (Flat().eval(), Broken().eval()):
            adv = loaded(name, norm)(model, x, y)
            assert torch.equal(adv, x)


@pytest.mark.filterwarnings("ignore:.* logits are not finite", "ignore:.* came back unchanged")
def test_one_bad_row_leaves_the_others_alone(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """NaN gradients of one image must not reach another, nor stay in its momentum."""

    class OneBad(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = model(x)
            return torch.cat([logits[:1] * float("nan"), logits[1:]])

    for chain in ((), MI):
        attack = Attack(Linf(EPS), chain=chain)
        assert torch.equal(attack(OneBad().eval(), x, y)[1:], attack(model, x, y)[1:])


@pytest.mark.filterwarnings("ignore:.* logits are not finite", "ignore:.* came back unchanged")
def test_images_without_an_answer_stay_as_they_are(model: nn.Module, x: Tensor) -> None:
    """NO_ANSWER as the clean prediction is not a label to move away from."""

    class Silent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = model(x)
            return torch.cat([logits[:1] * float("nan"), logits[1:]])

    adv = Attack(Linf(EPS))(Silent().eval(), x)
    assert torch.equal(adv[:1], x[:1])
    assert torch.equal(adv[1:], Attack(Linf(EPS))(model, x)[1:])
    started = Attack(Linf(EPS), start=Uniform())(Silent().eval(), x)
    assert torch.equal(started[:1], x[:1])
    assert not torch.equal(started[1:], x[1:])


@pytest.mark.filterwarnings("ignore:.* logits are not finite", "ignore:.* came back unchanged")
def test_iterates_that_are_not_finite_do_not_leave_the_ball(
    model: nn.Module, x: Tensor, y: Tensor
) -> None:
    class Wild(Stateless):
        def update(self, g: Tensor, s: State, c: Context) -> tuple[Tensor, State]:
            return torch.where(g > 0, torch.nan, torch.inf * g), s

    for ball in (Linf(EPS), L2(L2_EPS)):
        assert torch.equal(Attack(ball, step=Wild())(model, x, y), x)


def test_logits_that_are_not_finite_are_no_answer() -> None:
    logits = torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [float("inf"), 0.0]])
    assert predict(logits).tolist() == [1, NO_ANSWER, NO_ANSWER]


# ---- the call ------------------------------------------------------------------------------------


def test_labels_default_to_the_models_own_predictions(model: nn.Module, x: Tensor) -> None:
    attack = Attack(Linf(EPS))
    assert torch.equal(attack(model, x), attack(model, x, model(x).argmax(1)))


def test_a_plain_function_is_a_model(model: nn.Module, x: Tensor, y: Tensor) -> None:
    attack = Attack(Linf(EPS))
    assert torch.equal(attack(lambda z: model(z), x, y), attack(model, x, y))


def test_no_weight_gets_a_gradient(x: Tensor, y: Tensor) -> None:
    model = small_model().requires_grad_(True)
    Attack(Linf(EPS))(model, x, y)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": images() * 2}, "in \\[0, 1\\]"),
        ({"x": images() * 0.999}, "8-bit grid"),
        ({"x": images()[0]}, "float images"),
        ({"y": torch.zeros(6)}, "int64"),
        ({"y": torch.zeros(5, dtype=torch.int64)}, "int64"),
        ({"model": small_model().train()}, "training mode"),
        ({"attack": Attack(Linf(EPS), targeted=True), "y": None}, "targeted attack needs y"),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    change: dict[str, Any], message: str, model: nn.Module, x: Tensor, y: Tensor
) -> None:
    given = {"attack": Attack(Linf(EPS)), "model": model, "x": x, "y": y} | change
    with pytest.raises(ValueError, match=message):
        given["attack"](given["model"], given["x"], given["y"])


def test_load_attack_takes_overrides_and_refuses_wrong_ones() -> None:
    attack = load_attack("mifgsm", eps=4, steps=5, overrides=["attack.chain.momentum.decay=0.5"])
    assert attack == Attack(Linf(4 / 255), steps=5, chain=(MeanNormalize(), Momentum(0.5)))
    assert load_attack("ifgsm", norm="l2", eps=100).ball == L2(100 / 255)
    for overrides in (["attack.chain.momentum.dekay=1"], ["+attack.chain.momentum.foo=1"]):
        with pytest.raises(ConfigError):
            load_attack("mifgsm", overrides=overrides)
    with pytest.raises(ConfigError, match="did you mean"):
        load_attack("mifgms")
    with pytest.raises(ConfigError, match=r"agr\.attacks"):
        load_attack("ifgsm", overrides=["attack.step._target_=os.system"])
