"""Plain calls of an attack with models, images and labels as people have them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from agr.attacks import L2, Attack, Linf, Pool
from agr.attacks.build import load_attack
from agr.attacks.engine import Item, craft
from agr.attacks.idle import idle_parts
from agr.attacks.views import Diverse, Scale
from agr.models.tuning import tune
from tests.conftest import CLASSES, EPS, images, small_model

ATTACK = Attack(Linf(EPS), steps=3)


class Norms(nn.Module):
    """A classifier with a batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bn = nn.BatchNorm2d(3, dtype=torch.float64)
        self.drop = nn.Dropout(0.5)
        self.body = small_model()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(self.drop(self.bn(x)))
        return logits


@pytest.mark.parametrize("name", ["", "bn", "drop", "body", "body.0"])
def test_a_part_in_training_mode_is_named(name: str, x: Tensor, y: Tensor) -> None:
    """Else a batch norm's mean would move, or dropout would change every answer."""
    network = Norms()
    network.get_submodule(name).training = True
    with pytest.raises(
        ValueError, match=rf"in training mode \({name or 'itself'}\): call model.ev"
    ):
        ATTACK(network, x, y)
    assert network.bn.running_mean is not None
    assert not network.bn.running_mean.any()


class Both(NamedTuple):
    logits: Tensor
    features: Tensor


WRAPPED: dict[str, Callable[[Tensor], Any]] = {
    "a dict": lambda z: {"loss": None, "logits": z},
    "an object": lambda z: SimpleNamespace(logits=z),
    "a named tuple": lambda z: Both(z, z),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_logits_are_found_in_an_output(kind: str, model: nn.Module, x: Tensor, y: Tensor) -> None:
    found = ATTACK(lambda v: WRAPPED[kind](model(v)), x, y)
    assert torch.equal(found, ATTACK(model, x, y))


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "tuple": (lambda z: (z, z), "returns a tuple: wrap it"),
    "list": (lambda z: [z], "returns a list: wrap it"),
    "dict": (lambda z: {"out": z}, "returns a dict: wrap it"),
    "nothing": (lambda z: None, "returns a NoneType: wrap it"),
    "one logit": (lambda z: z[:, :1], "one number for each image: wrap it"),
    "no classes": (lambda z: z[:, 0], r"makes \(6,\) of .*: it must return logits \(6, classes\)"),
    "a map": (lambda z: z[:, :, None, None], "it must return logits"),
    "another batch": (lambda z: z[:3], "it must return logits"),
    "too few classes": (lambda z: z[:, :2], "y has the label .*, the model knows 0 to 1"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_other_outputs_are_refused(kind: str, model: nn.Module, x: Tensor, y: Tensor) -> None:
    output, words = OUTPUTS[kind]
    y = y.clone()
    y[0] = CLASSES - 1
    with pytest.raises(ValueError, match=words):
        ATTACK(lambda v: output(model(v)), x, y)
    enlarged = replace(ATTACK, views=(Diverse(prob=1, ratio=1.5),))
    with pytest.raises(ValueError, match=words) as error:  # whose size isn't to blame
        enlarged(lambda v: output(model(v[:, :, :12, :12])), x, y)
    assert "copies" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, x, y: (m, x.numpy(), y), "x is a ndarray: give a tensor"),
        (lambda m, x, y: (m, x.tolist(), y), "x is a list: give a tensor"),
        (lambda m, x, y: (m, x, y.numpy()), "y is a ndarray: give int64 labels"),
        (lambda m, x, y: (m, x, y.tolist()), "y is a list: give int64 labels"),
        (lambda m, x, y: ([m, m], x, y), "model is a list: give one network"),
        (lambda m, x, y: (nn.ModuleList([m]), x, y), "model is a ModuleList: give one network"),
        (lambda m, x, y: ("resnet18", x, y), "model is a str: give one network"),
        (lambda m, x, y: (m, x, y + CLASSES), "the model knows 0 to 4"),
    ],
)
def test_what_is_no_model_or_tensor_is_refused(
    call: Callable[..., Any], words: str, model: nn.Module, x: Tensor, y: Tensor
) -> None:
    with pytest.raises(ValueError, match=words):
        ATTACK(*call(model, x, y))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_callers_mode_does_not_matter(
    mode: Callable[[], Any], model: nn.Module, x: Tensor, y: Tensor
) -> None:
    expected = ATTACK(model, x, y)
    with mode():
        assert torch.equal(ATTACK(model, x * 1, y + 0), expected)
        tuned = tune(model, x * 1, "try")
    assert (tuned(x) - model(x)).abs().max() < 1e-9


@pytest.mark.parametrize("by", [-3e-8, -9e-7])
def test_a_pixel_just_outside_is_rounding(
    by: float, model: nn.Module, x: Tensor, y: Tensor
) -> None:
    near = x.clone()
    near[0, 0, 0, 0], near[1, 0, 0, 0] = by, 1 - by
    exact = near.clamp(0, 1)
    assert torch.equal(ATTACK(model, near, y), ATTACK(model, exact, y))
    near[0, 0, 0, 0] = -1e-3
    with pytest.raises(ValueError, match=r"x spans \[-0.001, 1\]"):
        ATTACK(model, near, y)


# ---- nothing happened ----------------------------------------------------------------------------


def test_zero_gradients_are_said(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Of two of six images: their answer doesn't depend on their pixels."""

    def dead(v: Tensor) -> Tensor:
        rows = torch.tensor([0, 0, 1, 1, 1, 1], dtype=v.dtype)[:, None]
        return rows * model(v) + (1 - rows) * torch.arange(CLASSES, dtype=v.dtype)

    with pytest.warns(UserWarning, match=r"^2 of 6 images: every gradient was zero"):
        ATTACK(dead, x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ATTACK(model, x, y)


def test_the_engine_tells_which_images_had_no_gradient() -> None:
    class Dead(nn.Module):
        dtype, memory_format, device = torch.float64, torch.contiguous_format, torch.device("cpu")
        body = small_model()

        def as_input(self, pixels: Any) -> Tensor:
            return torch.stack([torch.from_numpy(p) for p in pixels]).double() / 255

        def forward(self, v: Tensor) -> Tensor:
            bright = (v.detach().mean((1, 2, 3)) > 0.5).double()[:, None]
            logits: Tensor = bright * self.body(v)
            return logits

    x = (images(8) * 255).round().to(torch.uint8)
    x[:3] //= 4
    items = [Item(i, p.numpy(), 0) for i, p in enumerate(x)]
    bright = images(8).new_tensor([p.double().mean() / 255 > 0.5 for p in x]).bool().tolist()
    made = craft(ATTACK, Dead().eval(), items, 3)
    flat = [c.flat for c in sorted(made, key=lambda c: c.item.tag)]
    assert flat == [not one for one in bright]
    assert 3 <= sum(map(bool, flat)) < 8


def test_views_that_change_nothing_are_found() -> None:
    none, all_of_them = Diverse(prob=0.0), Diverse()
    assert idle_parts(Attack(Linf(EPS), views=(none,))) == [none]
    assert idle_parts(Attack(Linf(EPS), views=(all_of_them,))) == []
    assert idle_parts(Attack(Linf(EPS), views=(Scale(copies=1), all_of_them))) == [Scale(copies=1)]


# ---- budgets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [1500.0, 300.0, 77.7, 12.0, 1204.0637, 3.0])
def test_sums_of_squares_stay_within_the_budget(eps: float) -> None:
    """Whole numbers: the sum is at most floor(eps^2), and not one more."""
    torch.manual_seed(0)
    x0 = torch.randint(0, 256, (64, 3, 40, 40)).float() / 255
    ball = L2(eps / 255)
    v = torch.randn(64, 3, 40, 40)
    v = v / v.flatten(1).norm(dim=1)[:, None, None, None] * ball.eps
    for scale in (0.999, 1.0, 1.5):
        found = ball.round(ball.project(x0 + scale * v, x0), x0)
        sums = ((found - x0) * 255).round().double().square().sum((1, 2, 3))
        assert sums.max() <= int(eps**2 * (1 + 1e-12))


def test_a_row_that_is_whole_already_is_moved_back_too() -> None:
    """Rounding `v` leaves it as it is, and its sum is one above floor(eps^2) = 2,250,000."""
    v = torch.zeros(1, 3, 100, 250, dtype=torch.float64)
    v.view(-1)[:22_500] = 10.0
    v.view(-1)[22_500] = 1.0
    ball = L2(1500 / 255)
    assert v.square().sum() == 2_250_001
    assert ball.fit(v.clone()).square().sum() <= 2_250_000
    v.view(-1)[22_500] = 0.0
    assert torch.equal(ball.fit(v.clone()), v)


# ---- models and input as people have them --------------------------------------------------------


@pytest.mark.parametrize("name", ["mifgsm", "tifgsm", "ssa", "agr"])
def test_a_model_may_change_its_input_in_place(name: str) -> None:
    model, x = small_model(), images(3)

    def in_place(v: Tensor) -> Tensor:
        v -= 0.5
        v /= 0.25
        logits: Tensor = model(v)
        return logits

    def pure(v: Tensor) -> Tensor:
        logits: Tensor = model((v - 0.5) / 0.25)
        return logits

    attack, before = load_attack(name, eps=8), x.clone()
    assert torch.equal(attack(in_place, x), attack(pure, x))
    assert torch.equal(x, before)


def test_tune_leaves_its_input_alone() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_model()

        def forward(self, v: Tensor) -> Tensor:
            logits: Tensor = self.inner(v.sub_(0.5))
            return logits

    x = images(3)
    before = x.clone()
    for memory_format in ("auto", "try"):
        tune(InPlace().eval(), x, memory_format)
    assert torch.equal(x, before)


@pytest.mark.parametrize("memory_format", ["auto", "try"])
def test_tune_takes_what_attacks_take(memory_format: str) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_model()

        def forward(self, v: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(v)}

    x = images(3)
    network = Wrapped().eval()
    tuned = tune(network, x, memory_format)
    assert torch.allclose(tuned(x)["logits"], network(x)["logits"])


WRONG_TUNES: list[tuple[Any, Any, str, str]] = [
    (small_model(), images(1), "chanels_last", "did you mean channels_last"),
    ([small_model()], images(1), "auto", "model is a list: tune takes one network"),
    (lambda v: v, images(1), "auto", "model is a function"),
    ("resnet18", images(1), "auto", "model is a str"),
    (nn.ModuleList([small_model()]), images(1), "auto", "model is a ModuleList"),
    (small_model(), images(1).numpy(), "auto", "x is not a batch of images"),
]


@pytest.mark.parametrize(("model", "x", "memory_format", "error"), WRONG_TUNES)
def test_what_tune_cannot_take_is_named(model: Any, x: Any, memory_format: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        tune(model, x, memory_format)


def test_a_network_behind_a_method_or_partial_is_looked_at() -> None:
    model, x = small_model().train(), images(2)
    for behind in (model.forward, functools.partial(model), functools.partial(model.forward)):
        with pytest.raises(ValueError, match="in training mode"):
            load_attack("fgsm")(behind, x)


def test_labels_below_zero_are_refused() -> None:
    model, x = small_model(), images(2)
    for y in ([-100, 0], [-1, -1]):
        with pytest.raises(ValueError, match=f"y has the label {min(y)}"):
            load_attack("fgsm")(model, x, torch.tensor(y))


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("labelled", [True, False])
def test_logits_that_are_not_finite_are_said(labelled: bool) -> None:
    model, x = small_model(), images(3)

    def partly(v: Tensor) -> Tensor:
        return model(v) * torch.tensor([[1.0], [float("nan")], [1.0]])

    y = model(x).argmax(1) if labelled else None
    with pytest.warns(UserWarning, match="1 of 3 images: the model's logits are not finite"):
        load_attack("ifgsm")(partly, x, y)


def test_a_model_without_gradients_is_refused() -> None:
    model, x = small_model(), images(2)

    def cut(v: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(v)
            return logits

    for given in (cut, lambda v: model(v).detach()):
        with pytest.raises(ValueError, match="the model gives no gradient"):
            load_attack("fgsm")(given, x)
    with torch.inference_mode():
        made = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 5)).eval().to(x.dtype)
    with pytest.raises(ValueError, match=r"made in inference mode, .* agr\.tune"):
        load_attack("fgsm")(made, x)
    assert load_attack("fgsm")(tune(made, x), x).shape == x.shape


POOLS: list[tuple[Callable[[Tensor], Any], str]] = [
    (lambda x: Pool(255 * x, torch.arange(len(x)) % 2), "pool: x spans"),
    (lambda x: Pool(x * float("nan"), torch.arange(len(x)) % 2), "pool: x spans"),
    (lambda x: Pool(x, torch.arange(9) % 2), r"pool: y is torch\.int64 \(9,\)"),
    (lambda x: x.numpy(), "pool is a ndarray"),
    (lambda x: (x, None), "pool is a tuple"),
]


@pytest.mark.parametrize(("pool", "error"), POOLS)
def test_pools_are_checked_as_images_are(pool: Callable[[Tensor], Any], error: str) -> None:
    x = images(4)
    attack = replace(load_attack("admix"), pool=pool(x))
    with pytest.raises(ValueError, match=error):
        attack(small_model(), x)


@pytest.mark.parametrize("eps", [7.999999995, 7.9999995, 0.9999995, 1.999999986])
def test_a_budget_just_below_a_level_is_below_it(eps: float) -> None:
    v = torch.full((1, 3, 2, 2), 20.0)
    assert Linf(eps / 255).fit(v).max() == int(eps)
    assert Linf(round(eps) / 255).fit(torch.full_like(v, 20.0)).max() == round(eps)
