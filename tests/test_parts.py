"""The parts of attacks, one by one by hand, and any two together."""

from __future__ import annotations

import importlib
import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import fft, stats
from torch import Tensor, nn
from torch.nn import functional as F

from agr.attacks import loss as losses
from agr.attacks import stop as stops
from agr.attacks.attack import Attack
from agr.attacks.ball import L2, Ball, Linf
from agr.attacks.draws import fold, integers, normal, symmetric, uniform
from agr.attacks.parts import Context, Pool, Seen
from agr.attacks.stages import Enhance, Flatten, Learn, MeanNormalize, Momentum, Smooth, Variance
from agr.attacks.stages.points import around
from agr.attacks.start import Uniform
from agr.attacks.step import AdaGrad, Adam, Overwrite, Plain, RMSProp, Tanh
from agr.attacks.views import Admix, Diverse, Scale, Spectrum
from agr.attacks.views.copies import LEVEL
from agr.attacks.views.spectrum import dct_matrix
from agr.config.instantiate import METHODS
from agr.utils.checks import Checked
from tests.conftest import CLASSES, EPS, as_source, images, small_model
from tests.oracles import VARIANTS, network_for, side_for
from tests.oracles.base import a_pool, composed, ours

# Of VARIANTS the cheap one stands for all.
CHEAP = [name for name in composed() if name not in VARIANTS]
IN_L2 = ("ifgsm", "agr", "vmifgsm", "adam", "bsr", "mef", "rap", "fia", "sgm", "tgr", "svre")
BALLS = {"linf": Linf(EPS), "l2": L2(1.0)}
ALPHA = 1e-4  # of tests of random draws, whose keys are fixed: they don't fail by chance


def a_context(x: Tensor, ball: Ball = BALLS["linf"], **changes: Any) -> Context:
    """A context at the images `x`, ten steps of 0.01."""
    n = len(x)
    given = {"x": x, "x0": x, "image": x, "point": x, "label": torch.zeros(n).long()}
    given |= {"t": torch.zeros(n).long(), "steps": 10, "size": 0.01, "ball": ball}
    given |= {"root": torch.arange(n), "path": (), "grad": None, "pool": None}
    if grad := changes.get("grad"):
        given["slopes"] = lambda points: ((torch.zeros(n), grad(p.point, p.use)) for p in points)
    return Context(**given | changes)


def keys(n: int, *data: int) -> Tensor:
    return fold(torch.arange(n), *data)


def close(a: Tensor, b: Tensor | list[Any], within: float = 1e-12) -> bool:
    b = b if isinstance(b, Tensor) else torch.tensor(b, dtype=a.dtype)
    return a.shape == b.shape and float((a - b).abs().max()) <= within


# ---- draws ---------------------------------------------------------------------------------------


def test_uniform_draws_are_uniform_and_independent() -> None:
    drawn = uniform(keys(64), (4096,), torch.float64)
    assert 0 <= drawn.min() <= drawn.max() < 1
    assert stats.chisquare(torch.histc(drawn, 256, 0, 1).numpy()).pvalue > ALPHA
    assert stats.chisquare(torch.histc(drawn[:, 0], 8, 0, 1).numpy()).pvalue > ALPHA
    # Neighbouring draws of a row, and draws of two rows at the same and at the next place.
    rows = drawn - 0.5
    for a, b in (
        (rows[:, :-1], rows[:, 1:]),
        (rows[:-1], rows[1:]),
        (rows[:-1, 1:], rows[1:, :-1]),
    ):
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 4.5 / math.sqrt(a.numel())
    correlations = np.corrcoef(rows)[np.triu_indices(64, 1)]
    assert np.abs(correlations).max() < 5.5 / math.sqrt(4096)


def test_pairs_of_draws_fill_the_square() -> None:
    drawn = uniform(keys(2, 3), (1 << 18,), torch.float64)
    for a, b in ((drawn[0], drawn[1]), (drawn[0, :-1], drawn[0, 1:])):
        cells = np.histogram2d(a, b, bins=16, range=[[0, 1]] * 2)[0]
        assert stats.chisquare(cells.ravel()).pvalue > ALPHA


@pytest.mark.parametrize("draw", [uniform, symmetric, normal])
def test_draws_are_the_same_in_every_dtype(draw: Callable[..., Tensor]) -> None:
    single, double = (draw(keys(5), (3, 7, 7), t) for t in (torch.float32, torch.float64))
    assert torch.equal(single, double.float())
    if draw is not normal:
        assert torch.equal(single.double(), double)


def test_normal_draws_are_normal() -> None:
    drawn = normal(keys(4), (20_000,), torch.float64)
    assert stats.kstest(drawn.flatten(), "norm").pvalue > ALPHA
    assert close(normal(keys(4), (20_000,), torch.float32).double(), drawn, 1e-6)


def test_symmetric_draws_are_uniform_on_both_sides() -> None:
    drawn = symmetric(keys(4), (20_000,), torch.float64)
    assert stats.kstest(drawn.flatten(), stats.uniform(-1, 2).cdf).pvalue > ALPHA
    assert -1 < drawn.min() < drawn.max() < 1


def test_integers_are_uniform_up_to_both_ends() -> None:
    drawn = integers(keys(30_000), -3, 8)
    counts = torch.bincount(drawn + 3)
    assert len(counts) == 11
    assert stats.chisquare(counts.numpy()).pvalue > ALPHA


def test_keys_are_told_apart() -> None:
    made = [keys(100, *data) for data in itertools.product(range(12), repeat=2)]
    made += [keys(100, i) for i in range(12)] + [torch.arange(100)]
    assert len(torch.cat(made).unique()) == 100 * len(made)
    assert torch.equal(keys(7, 2, 5), fold(fold(torch.arange(7), 2), 5))


def test_a_row_s_draws_are_its_own() -> None:
    some = torch.tensor([4, 1, 9])
    assert torch.equal(
        uniform(some, (5,), torch.float64)[1:2], uniform(some[1:2], (5,), torch.float64)
    )


def test_folding_tensors_is_folding_numbers() -> None:
    assert torch.equal(fold(torch.arange(4), torch.full((4,), 3)), fold(torch.arange(4), 3))


# ---- views ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", ["grey", "black"])
def test_scale_by_hand(zero: Any) -> None:
    x = images(2)
    view = Scale(3, zero)
    level = {"grey": 0.5, "black": 0.0}[zero]
    for i in range(3):
        copy = view(x, i, a_context(x))
        assert close(copy.image, level + (x - level) / 2**i)
        assert copy.share == 1 / 3


def test_admix_mixes_in_images_of_other_classes_evenly() -> None:
    n = 4000
    x = images(1).expand(n, -1, -1, -1)
    pool = Pool(images(10, seed=5), torch.arange(10) % CLASSES)
    c = a_context(x, label=torch.full((n,), 2), pool=pool)
    view = Admix(copies=2, eta=0.3)
    partners = []
    for i in range(2):
        partner = view.partner(i, c)
        same = (partner[:, None] == pool.images).flatten(2).all(2)
        assert (same.sum(1) == 1).all()
        partners.append(same.int().argmax(1))
        assert close(view(x, i, c).image, x + 0.3 * (partner - 0.5))
        assert close(replace(view, zero="black")(x, i, c).image, x + 0.3 * partner)
        counts = torch.bincount(partners[-1], minlength=10)
        others = pool.labels != 2
        assert (counts[~others] == 0).all()
        assert stats.chisquare(counts[others].numpy()).pvalue > ALPHA
    assert 0 < int((partners[0] == partners[1]).sum()) < n / 4  # an eighth by chance


def resized_and_padded(
    x: Tensor, size: int, top: int, left: int, canvas: int, view: Diverse
) -> Tensor:
    """Resize and pad one image by torch's own functions."""
    how = {} if view.mode == "nearest" else {"align_corners": False}
    small = F.interpolate(x[None], size=[size, size], mode=view.mode, **how)
    pad = [left, canvas - size - left, top, canvas - size - top]
    made = F.pad(small, pad, value=LEVEL[view.zero])
    if view.back and canvas != x.shape[-1]:
        made = F.interpolate(made, size=x.shape[1:], mode="bilinear", align_corners=False)
    return made[0]


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("zero", ["grey", "black"])
@pytest.mark.parametrize(
    ("ratio", "back"), [(330 / 299, False), (1.1, True), (0.9, False), (0.6, True)]
)
def test_diverse_is_interpolate_and_pad_of_each_image(
    mode: Any, zero: Any, ratio: float, back: bool
) -> None:
    x = images(24, size=40)
    c = a_context(x)
    view = Diverse(1.0, ratio, mode, zero, back)
    other = int(40 * ratio)
    low, canvas = min(40, other), max(40, other)
    size, top, left = view.place(40, c)
    assert low <= size.min() < size.max() < canvas
    for offset in (top, left):
        assert (offset >= 0).all()
        assert (offset < canvas - size).all()
    made = view(x, 0, c).image
    for b in range(len(x)):
        expected = resized_and_padded(x[b], int(size[b]), int(top[b]), int(left[b]), canvas, view)
        assert close(made[b], expected)
    assert made.shape[-1] == (40 if back or ratio < 1 else canvas) == view.side(40)


def test_diverse_draws_places_as_its_authors_do() -> None:
    """Sizes from [299, 330), offsets from [0, 330 - size): all values but the upper ends occur."""
    n = 20_000
    x = torch.zeros(1, 1, 1, 1).expand(n, -1, -1, -1)
    size, top, left = Diverse().place(299, a_context(x))
    counts = torch.bincount(size - 299)
    assert len(counts) == 31
    assert stats.chisquare(counts.numpy()).pvalue > ALPHA
    for offset in (top, left):
        own = offset[size == 310]
        assert stats.chisquare(torch.bincount(own, minlength=20).numpy()).pvalue > ALPHA
        assert (offset[size == 329] == 0).all()
    assert abs(np.corrcoef(top[size == 300], left[size == 300])[0, 1]) < 0.2


def test_diverse_tosses_a_coin_per_image_and_counts_it_once() -> None:
    n = 4000
    x = images(1, size=30).expand(n, -1, -1, -1)
    c = a_context(x)
    view = Diverse(0.7)
    assert view.copies == 2
    first, second = (view(x[:50], i, c._replace(root=c.root[:50])) for i in range(2))
    assert close(first.share + second.share, torch.ones(50).double())
    assert first.image.shape[-1] == 33
    assert second.image.shape[-1] == 30
    assert torch.equal(first.share.bool(), view.coin(c)[:50])
    assert stats.binomtest(int(view.coin(c).sum()), n, 0.7).pvalue > ALPHA
    for prob in (0.0, 1.0):
        sure = Diverse(prob)
        assert sure.copies == 1
        made = sure(x[:50], 0, c._replace(root=c.root[:50]))
        assert (torch.as_tensor(made.share) == 1).all()
        assert made.image.shape[-1] == (33 if prob else 30)
    shrunk = Diverse(0.5, 0.9)
    assert shrunk.copies == 1
    coin, made = shrunk.coin(c)[:50], shrunk(x[:50], 0, c._replace(root=c.root[:50])).image
    assert torch.equal((made == x[:50]).flatten(1).all(1), ~coin)


@pytest.mark.parametrize("view", [Diverse(1.0), Admix(2), Spectrum(2)])
def test_draws_are_per_image_and_key(view: Any) -> None:
    x = images(1, size=30).expand(6, -1, -1, -1)
    c = a_context(x, pool=a_pool(30))
    key = torch.tensor([1, 2, 3, 4, 5, 1])
    made, again = (view(x, 0, c._replace(root=key)).image for _ in range(2))
    assert torch.equal(made, again)
    assert torch.equal(made[0], made[5])
    assert (
        len({tuple(row.flatten().tolist()) for row in made[:5]}) >= 3
    )  # of two keys the same can be drawn
    other = view(x, 0, c._replace(root=key).at(1)).image
    assert not torch.equal(made, other)


def test_spectrum_without_noise_and_mask_is_the_identity() -> None:
    x = images(3)
    for zero, through in itertools.product(("grey", "black"), (False, True)):
        view = Spectrum(2, rho=0.0, sigma=0.0, through=through, zero=zero)  # type: ignore[arg-type]
        assert close(view(x, 0, a_context(x)).image, x)


@pytest.mark.parametrize("zero", ["grey", "black"])
def test_spectrum_is_scipys_dct(zero: Any) -> None:
    x, view = images(2), Spectrum(3, zero=zero)
    c = a_context(x)
    dct = dct_matrix(12, torch.float64, torch.device("cpu"))
    assert close(dct @ dct.T, torch.eye(12).double())
    for i in range(3):
        spectrum = fft.dctn(
            (x + view.noise(x, i, c) - LEVEL[zero]).numpy(), axes=(2, 3), norm="ortho"
        )
        masked = spectrum * view.mask(x, i, c).numpy()
        expected = fft.idctn(masked, axes=(2, 3), norm="ortho") + LEVEL[zero]
        assert close(view(x, i, c).image, torch.from_numpy(expected))


def test_spectrum_draws_noise_of_sigma_and_masks_of_rho() -> None:
    x = images(8, size=40)
    c = a_context(x)
    view = Spectrum()
    noise, mask = view.noise(x, 0, c), view.mask(x, 0, c)
    assert stats.kstest(noise.flatten(), stats.norm(0, 16 / 255).cdf).pvalue > ALPHA
    assert stats.kstest(mask.flatten(), stats.uniform(0.5, 1).cdf).pvalue > ALPHA
    assert abs(np.corrcoef(noise.flatten(), mask.flatten())[0, 1]) < 0.03
    assert not torch.equal(noise, view.noise(x, 1, c))


def test_spectrum_passes_the_gradient_or_goes_through() -> None:
    x, weights = images(2).requires_grad_(), images(2, seed=8)
    for through in (False, True):
        view = Spectrum(2, through=through)
        copy = view(x, 0, a_context(x.detach())).image
        (g,) = torch.autograd.grad((copy * weights).sum(), x)
        assert close(g, weights) != through


# ---- stages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["gaussian", "uniform", "linear"])
@pytest.mark.parametrize("size", [1, 3, 7, 15])
def test_smooth_is_a_convolution_with_a_kernel_of_sum_one(shape: Any, size: int) -> None:
    line = torch.tensor(Smooth(size, shape).line(), dtype=torch.float64)
    assert line.sum() == pytest.approx(1)
    assert len(line) == size
    k = size // 2
    raw = {
        "gaussian": stats.norm.pdf(np.linspace(-3, 3, size)) if size > 1 else np.ones(1),
        "uniform": np.ones(size),
        "linear": np.array([k + 1 - abs(i) for i in range(-k, k + 1)]),
    }[shape]
    assert close(line, torch.from_numpy(raw / raw.sum()))
    g = torch.randn(2, 3, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel = torch.outer(line, line).expand(3, 1, -1, -1)
    made, _ = Smooth(size, shape).update(g, {}, a_context(g))
    assert close(made, F.conv2d(g, kernel, padding="same", groups=3))


@pytest.mark.parametrize("ball", BALLS.values(), ids=BALLS)
def test_neighbours_and_points_ahead_scale_with_the_norm(ball: Ball) -> None:
    """Per-pixel bounds are eps and size in L-infinity, over sqrt(d) in L2."""
    x = images(4, size=20)
    unit = 1.0 if isinstance(ball, Linf) else math.sqrt(3 * 20 * 20)
    image = (x * 255).round() / 255 + 1e-3
    c = a_context(x, ball, image=image)
    near = (around(c, 1.5, 1) - image) * unit / (1.5 * ball.eps)
    assert stats.kstest(near.flatten(), stats.uniform(-1, 2).cdf).pvalue > ALPHA
    m = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    ahead = Momentum(0.8, look_ahead=True).point({"m": m}, c)
    assert close(ahead, image + 0.01 / unit * 0.8 * m)


def test_variance_by_hand() -> None:
    """v starts at 0; g + v goes on; v becomes the mean at the neighbours minus g."""
    x = images(2)
    values = {0: 3.0, 1: 6.0}
    c = a_context(x, grad=lambda point, use: torch.full_like(point, values[use]))
    stage = Variance(2)
    s = stage.init(x)
    out, s = stage.update(torch.full_like(x, 2.0), s, c)
    assert close(out, torch.full_like(x, 2.0))
    out, s = stage.update(torch.full_like(x, 1.0), s, c)
    assert close(out, torch.full_like(x, 1.0 + 4.5 - 2.0))
    assert close(s["v"], torch.full_like(x, 4.5 - 1.0))
    assert stage.extra == 2


@pytest.mark.parametrize("ball", BALLS.values(), ids=BALLS)
def test_enhance_by_hand(ball: Ball) -> None:
    x = images(2)
    unit = 1.0 if isinstance(ball, Linf) else math.sqrt(3 * 12 * 12)
    last = torch.where(x > 0.5, 1.5, -0.5).double()
    points: list[Tensor] = []

    def grad(point: Tensor, use: int) -> Tensor:
        points.append(point)
        return 2 * point

    stage = Enhance(5, reach=4.0)
    out, s = stage.update(2 * x, {"last": last}, a_context(x, ball, grad=grad))
    places = [-4, -2, 2, 4]
    for point, place in zip(points, places, strict=True):
        assert close(point, x + place * 0.01 / unit * last)
    assert close(out, 2 * x)
    assert close(s["last"], 2 * x / (2 * x).mean((1, 2, 3), keepdim=True))
    assert stage.extra == 4


def test_normalising_leaves_what_cannot_be_normalised_at_nought() -> None:
    g = torch.tensor([[1.0, -3.0], [0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]]).view(4, 1, 1, 2)
    out, _ = MeanNormalize().update(g, {}, a_context(g))
    assert close(out.flatten(1), [[0.5, -1.5], [0, 0], [0, 0], [0, 0]])


def test_two_look_aheads_are_refused() -> None:
    with pytest.raises(ValueError, match="both look ahead"):
        Attack(Linf(EPS), chain=(Momentum(1.0, True), Momentum(0.5, True)))
    Attack(Linf(EPS), chain=(Momentum(1.0, True), Momentum(0.5)))


# ---- steps: two rows at different t, two steps each, pixel by pixel ------------------------------

GRADIENTS = [[[3.0, -1.0], [0.5, 0.5]], [[-2.0, 2.0], [1.0, -3.0]]]  # [step][row][pixel]
T0 = [0, 4]


def walked(step: Any, ball: Ball) -> Tensor:
    """Return the changes (step, row, pixel) of a step on GRADIENTS; rows begin at T0."""
    x = torch.full((2, 1, 1, 2), 0.5, dtype=torch.float64)
    s = step.init(x)
    changes = []
    for i, g in enumerate(GRADIENTS):
        c = a_context(x, ball, t=torch.tensor(T0) + i)
        new, s = step.update(torch.tensor(g, dtype=torch.float64).view(2, 1, 1, 2), s, c)
        changes.append((new - x).flatten(1))
    return torch.stack(changes)


def by_hand(pixel: Callable[..., tuple[float, Any]], ball: Ball, of: str) -> Tensor:
    """Compute the same by `pixel(u, v, memory, n)`: u is squared, v the numerator, n the step."""
    memory: Any = [[None, None], [None, None]]
    changes = torch.zeros(2, 2, 2, dtype=torch.float64)
    for i, b, p in itertools.product(range(2), repeat=3):
        g = GRADIENTS[i][b]
        sign = [math.copysign(1, each) for each in g]
        if of == "gradient":
            mean = sum(map(abs, g)) / 2
            u = [each / mean for each in g]
            v = u if isinstance(ball, Linf) else [each / math.sqrt(2) for each in u]
        else:
            u, v = sign, sign if isinstance(ball, Linf) else [each / math.hypot(*g) for each in g]
        change, memory[b][p] = pixel(u[p], v[p], memory[b][p], T0[b] + i + 1)
        changes[i, b, p] = 0.01 * change
    return changes


@pytest.mark.parametrize("ball", BALLS.values(), ids=BALLS)
@pytest.mark.parametrize("of", ["sign", "gradient"])
def test_adaptive_steps_by_hand(ball: Ball, of: Any) -> None:
    def adagrad(u: float, v: float, G: float | None, n: int) -> tuple[float, float]:
        G = (G or 0) + u * u
        return v / (2 * math.sqrt(G + 0.1)), G

    def rmsprop(u: float, v: float, G: float | None, n: int) -> tuple[float, float]:
        G = 0.8 * (G or 0) + 0.2 * u * u
        return v / math.sqrt(G + 0.1), G

    def adam(u: float, v: float, s: Any, n: int) -> tuple[float, Any]:
        m, w = s or (0, 0)
        m, w = 0.7 * m + 0.3 * v, 0.9 * w + 0.1 * u * u
        return (m / (1 - 0.7**n)) / (math.sqrt(w / (1 - 0.9**n)) + 0.1), (m, w)

    steps = [
        (AdaGrad(of, phi=2.0, delta=0.1), adagrad),
        (RMSProp(of, rho=0.8, delta=0.1), rmsprop),
        (Adam(of, beta1=0.7, beta2=0.9, delta=0.1), adam),
    ]
    for step, pixel in steps:
        assert close(walked(step, ball), by_hand(pixel, ball, of))


@pytest.mark.parametrize("ball", BALLS.values(), ids=BALLS)
def test_tanh_step_by_hand(ball: Ball) -> None:
    def growth(n: int) -> float:
        return (1 - 0.8**n) / math.sqrt(1 - 0.95**n)

    mean = sum(growth(n) for n in range(1, 11)) / 10
    expected = torch.zeros(2, 2, 2, dtype=torch.float64)
    for b, p in itertools.product(range(2), repeat=2):
        m = v = 0.0
        for i in range(2):
            g = GRADIENTS[i][b][p]
            m, v = m + 1.2 * g, v + 1.7 * g * g
            unit = 1.0 if isinstance(ball, Linf) else math.sqrt(2)
            size = 0.01 / unit * growth(T0[b] + i + 1) / mean
            expected[i, b, p] = size * math.tanh(1.1 * m / (math.sqrt(v) + 0.1))
    step = Tanh(mu1=1.2, mu2=1.7, beta1=0.8, beta2=0.95, scale=1.1, delta=0.1)
    assert close(walked(step, ball), expected)


def test_plain_and_overwrite_by_hand() -> None:
    signs = torch.tensor(GRADIENTS, dtype=torch.float64).sign()
    assert close(walked(Plain(), BALLS["linf"]), 0.01 * signs)
    assert close(walked(Plain("sign"), BALLS["l2"]), 0.01 * signs / math.sqrt(2))
    g = torch.tensor(GRADIENTS, dtype=torch.float64)
    assert close(walked(Plain(), BALLS["l2"]), 0.01 * g / g.norm(dim=2, keepdim=True))
    overwritten = 0.01 * signs / (2 * math.sqrt(1.1))
    assert close(walked(Overwrite(phi=2.0, delta=0.1), BALLS["linf"]), overwritten)


# ---- starts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [1.0, 0.5])
def test_starts_are_uniform_in_volume(radius: float) -> None:
    n, shape = 3000, (3, 2, 2)
    x0 = torch.full((n, *shape), 0.5, dtype=torch.float64)
    start = Uniform(radius)
    v = (start(x0, Linf(0.1), keys(n)) - x0) / (0.1 * radius)
    assert v.abs().max() <= 1
    assert stats.kstest(v.flatten(), stats.uniform(-1, 2).cdf).pvalue > ALPHA
    v = (start(x0, L2(0.1), keys(n)) - x0).flatten(1) / (0.1 * radius)
    length = v.norm(dim=1)
    assert length.max() <= 1 + 1e-9
    assert stats.kstest(length**12, "uniform").pvalue > ALPHA
    # A coordinate of a uniform point of the unit ball in d dimensions: t^2 is Beta(1/2, (d+1)/2).
    assert stats.kstest(v[:, 5] ** 2, stats.beta(0.5, 6.5).cdf).pvalue > ALPHA
    assert v.mean(0).abs().max() < 0.03


# ---- stops ---------------------------------------------------------------------------------------


def seen(fooled: list[bool], t: int = 0, by: float = 1.0, targeted: bool = False) -> Seen:
    """Rows of label 0 with a difference of `by` between class 1 and class 0."""
    n = len(fooled)
    logits = torch.tensor([[0.0, by, -9.0]]).expand(n, -1)
    y = torch.full((n,), 1 if targeted else 0)
    return Seen(logits, torch.tensor(fooled), y, torch.full((n,), t), targeted)


def stopped(stop: Any, iterates: list[Seen]) -> list[list[bool]]:
    s = stop.init(torch.zeros(len(iterates[0].fooled), 3, 1, 1))
    rows = []
    for iterate in iterates:
        done, s = stop.update(iterate, s)
        rows.append(done.tolist())
    return rows


def test_stops_by_hand() -> None:
    iterates = [seen(f, t) for t, f in enumerate([[True, False], [True, True], [False, True]])]
    assert stopped(stops.OnceFooled(), iterates) == [[True, False], [True, True], [False, True]]
    twice = stopped(stops.FooledInARow(2), iterates)
    assert twice == [[False, False], [True, False], [False, True]]
    assert stopped(stops.FooledInARow(1), iterates) == stopped(stops.OnceFooled(), iterates)
    assert stopped(stops.After(2), iterates) == [[False] * 2, [False] * 2, [True] * 2]
    both = stops.AnyOf([stops.After(2), stops.FooledInARow(2)])
    assert stopped(both, iterates) == [[False, False], [True, False], [True, True]]
    nested = stops.AnyOf((both, stops.OnceFooled()))
    assert stopped(nested, iterates) == [[True, False], [True, True], [True, True]]


@pytest.mark.parametrize("targeted", [False, True])
def test_margin_stops_at_its_margin(targeted: bool) -> None:
    for by, enough in ((0.5, False), (1.0, True), (1.5, True)):
        iterate = seen([True, False], by=by, targeted=targeted)
        assert stopped(stops.Margin(1.0), [iterate]) == [[enough, False]]


def test_stops_end_attacks_when_they_say(model: nn.Module) -> None:
    x = images(8)
    y = model(x).argmax(1)
    free = [
        Attack(Linf(EPS), steps=t, size=EPS / 10, quantize="off")(model, x, y) for t in range(1, 11)
    ]
    iterates = [x, *free]
    logits = [model(each) for each in iterates]
    margins = torch.stack([losses.margin(z, y) for z in logits])
    fooled = torch.stack([z.argmax(1) != y for z in logits])
    wanted = {
        stops.After(3): lambda t, b: t >= 3,
        stops.After(0): lambda t, b: True,
        stops.Margin(1.0): lambda t, b: fooled[t, b] and margins[t, b] >= 1,
        stops.FooledInARow(3): lambda t, b: t >= 2 and fooled[t - 2 : t + 1, b].all(),
        stops.AnyOf((stops.After(6), stops.FooledInARow(2))): lambda t, b: (
            t >= 6 or (t >= 1 and fooled[t - 1 : t + 1, b].all())
        ),
    }
    for stop, done in wanted.items():
        adv = Attack(Linf(EPS), stop=stop, quantize="off")(model, x, y)  # type: ignore[arg-type]
        for b in range(8):
            last = next((t for t in range(10) if done(t, b)), 10)
            assert close(adv[b], iterates[last][b]), (stop, b)


# ---- losses --------------------------------------------------------------------------------------


def test_losses_against_loops() -> None:
    torch.manual_seed(0)
    z, y = torch.randn(7, 6, dtype=torch.float64) * 3, torch.randint(0, 6, (7,))
    for b in range(7):
        own = float(z[b, y[b]])
        best = max(float(z[b, j]) for j in range(6) if j != int(y[b]))
        log_sum = math.log(sum(math.exp(float(each)) for each in z[b]))
        assert float(losses.Margin()(z, y)[b]) == pytest.approx(best - own)
        assert float(losses.Logit()(z, y)[b]) == pytest.approx(-own)
        assert float(losses.CrossEntropy()(z, y)[b]) == pytest.approx(log_sum - own)


# ---- bad parameters ------------------------------------------------------------------------------

WRONG: list[tuple[Callable[..., Any], str, list[Any]]] = [
    (Scale, "copies", [0, -1, 2.5, True]),
    (Scale, "zero", ["white", 0.5]),
    (Admix, "copies", [0]),
    (Admix, "eta", [-0.1, math.nan, "0.2"]),
    (Admix, "zero", ["white"]),
    (Admix, "pool", [1, 2.5]),
    (Diverse, "prob", [-0.1, 1.1, math.nan]),
    (Diverse, "ratio", [0, -1, 5, math.inf]),
    (Diverse, "mode", ["bicubic"]),
    (Diverse, "zero", ["white"]),
    (Diverse, "back", [1, "yes"]),
    (Spectrum, "copies", [0]),
    (Spectrum, "rho", [-0.1]),
    (Spectrum, "sigma", [-1, math.inf]),
    (Spectrum, "through", ["no"]),
    (Spectrum, "zero", ["white"]),
    (Momentum, "decay", [-1, math.nan]),
    (Momentum, "look_ahead", [1]),
    (Smooth, "size", [4, 0, 3.0]),
    (Smooth, "shape", ["round"]),
    (Smooth, "reach", [-1]),
    (Variance, "samples", [0]),
    (Variance, "beta", [-1]),
    (Enhance, "samples", [0, 4]),
    (Enhance, "reach", [-1]),
    (Plain, "direction", ["up"]),
    (AdaGrad, "of", ["value"]),
    (AdaGrad, "direction", ["up"]),
    (AdaGrad, "phi", [0, -1]),
    (AdaGrad, "delta", [-1, 0]),
    (RMSProp, "rho", [-0.1, 1]),
    (RMSProp, "delta", [-1, 0]),
    (Adam, "beta1", [1, -0.1]),
    (Adam, "beta2", [1, -0.1]),
    (Adam, "delta", [-1, 0]),
    (Tanh, "mu1", [0, -1]),
    (Tanh, "mu2", [0]),
    (Tanh, "beta1", [1]),
    (Tanh, "beta2", [1]),
    (Tanh, "scale", [0]),
    (Tanh, "delta", [0]),
    (Overwrite, "direction", ["up"]),
    (Overwrite, "phi", [0]),
    (Overwrite, "delta", [-1, 0]),
    (Uniform, "radius", [-0.1, 1.1]),
    (stops.FooledInARow, "times", [0]),
    (stops.After, "n", [-1, 1.5]),
    (stops.Margin, "by", [-1]),
    (stops.AnyOf, "stops", [[], None]),
    (lambda **given: Attack(Linf(EPS), **given), "steps", [0, -1]),
    (lambda **given: Attack(Linf(EPS), **given), "quantize", ["never"]),
    (lambda size: Attack(Linf(EPS), size=size), "size", ["evn", 0, -1, math.nan, math.inf]),
    (Linf, "eps", [-1, math.nan, math.inf]),
]  # fmt: skip


@pytest.mark.parametrize(("view", "most"), [(Scale, 64), (Admix, 10_000), (Spectrum, 10_000)])
def test_copies_that_are_too_many_are_named(view: Callable[..., Any], most: int) -> None:
    assert view(copies=most).copies == most
    for copies in (most + 1, 1_000_000):
        with pytest.raises(ValueError, match=f"copies={copies} cannot be: .* 1 to {most}$"):
            view(copies=copies)


def parts_below(kind: type[Checked]) -> Iterator[type[Checked]]:
    for part in kind.__subclasses__():
        yield from (part, *parts_below(part))


for home in [*(f"attacks.{module}" for module in METHODS), "models.defenses"]:
    importlib.import_module(f"agr.{home}")
PARTS = sorted({part for part in parts_below(Checked) if is_dataclass(part)}, key=str)
COUNTS = [
    (part, own.name, own.metadata)
    for part in PARTS
    for own in fields(part)
    if "whole number" in own.metadata.get("otherwise", "") and own.name != "seed"
]


@pytest.mark.parametrize(("part", "name", "told"), COUNTS, ids=lambda p: getattr(p, "__name__", p))
def test_every_whole_number_has_a_largest(part: type, name: str, told: dict[str, Any]) -> None:
    """A number that would never end, or fill the memory, is refused as it is read."""
    assert re.fullmatch(r"cannot be: give a whole number, \d+ to \d+", told["otherwise"])
    assert not told["fits"](10**9)
    assert not told["fits"](10**30)


def test_counts_of_parts_are_found() -> None:
    assert {name for _, name, _ in COUNTS} >= {"times", "rounds", "largest", "fit_images", "draws"}
    with pytest.raises(ValueError, match=f"samples={10**30} cannot be: .* 1 to 1000$"):
        Flatten(samples=10**30)
    with pytest.raises(ValueError, match=r"eta=10+ cannot be: give a number, 0 or more$"):
        Admix(eta=10**400)  # more than a float holds


def test_the_last_copy_of_scale_is_finite() -> None:
    x = torch.rand(1, 3, 4, 4)
    assert Scale(64)(x, 63, a_context(x)).image.isfinite().all()


@pytest.mark.parametrize(("part", "name", "values"), WRONG)
def test_bad_parameters_are_named(part: Callable[..., Any], name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError) as error:
            part(**{name: value})
        assert f"{name}={value}" in str(error.value)


# ---- what is not a number ------------------------------------------------------------------------


class Around(nn.Module):
    """A module around a model, with the model's layers."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        listed: Any = getattr(model, "feature_info", ())
        self.feature_info = [{"module": f"model.{entry['module']}"} for entry in listed]


class Flat(Around):
    """A model without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) * torch.zeros(1, CLASSES).to(x)  # type: ignore[no-any-return]


class OneBad(Around):
    """NaN for the first image, or for all."""

    def __init__(self, model: nn.Module, images: int | None = 1):
        super().__init__(model)
        self.images = images

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        bad = slice(None, self.images)
        return torch.cat([logits[bad] * math.nan, logits[len(logits[bad]) :]])


def subject(name: str) -> tuple[nn.Module, int]:
    """A small classifier that an attack can take, and the side of its images."""
    attack = ours(name)
    special = attack.surrogate or attack.objective
    return (network_for(name), side_for(name)) if special else (Pattern().eval(), 12)


@pytest.mark.filterwarnings("ignore:.* logits are not finite", "ignore:.* came back unchanged")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*every gradient was zero:UserWarning")
@pytest.mark.parametrize(
    ("name", "norm"), [*((name, "linf") for name in CHEAP), *((name, "l2") for name in IN_L2)]
)
def test_gradients_of_nought_or_nan_leave_finite_images(name: str, norm: str) -> None:
    model, side = subject(name)
    attack = replace(ours(name, norm, "steps=2"), pool=a_pool(side))
    x, y = images(3, size=side), torch.zeros(3).long()
    for broken in (Flat(model).eval(), OneBad(model, None).eval()):
        adv = attack(as_source(attack, broken), x, y)
        if attack.start:
            start = attack.ball.project(attack.start(x, attack.ball, keys(3, 0)), x)
            assert torch.equal(adv, start)
        else:
            assert torch.equal(adv, x)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* logits are not finite", "ignore:.* came back unchanged")
@pytest.mark.filterwarnings("ignore:.*every gradient was zero:UserWarning")
@pytest.mark.parametrize(
    ("name", "norm"), [*((name, "linf") for name in CHEAP), *((name, "l2") for name in IN_L2)]
)
def test_nan_of_one_image_stays_there(name: str, norm: str) -> None:
    model, side = subject(name)
    attack = replace(ours(name, norm, "steps=2"), pool=a_pool(side))
    x = images(3, size=side)
    y = model(x).argmax(1)
    bad, good = (attack(as_source(attack, m), x, y) for m in (OneBad(model).eval(), model))
    assert torch.equal(bad[1:], good[1:])
    assert bad.isfinite().all()


# ---- any two together ----------------------------------------------------------------------------


class Pattern(nn.Module):
    """A small classifier of images of any size that sees where a pixel is."""

    feature_info = ({"module": "seen"},)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.seen = nn.Identity()
        self.weights = nn.Buffer(torch.randn(6, CLASSES, dtype=torch.float64) * 40)

    def forward(self, x: Tensor) -> Tensor:
        wave = torch.sin(torch.linspace(0.5, 9, x.shape[-1], dtype=x.dtype))
        places = wave[:, None] + wave.flip(0).cos()
        features = torch.cat(
            [(torch.tanh(4 * x - 2) * places).mean((2, 3)), (x * x).mean((2, 3))], 1
        )
        return self.seen(features) @ self.weights  # type: ignore[no-any-return]


KINDS: dict[str, list[Any]] = {  # in the order of the slots in conf/attack/_base.yaml
    "start": [Uniform()],
    "views": [Admix(2, pool=10), Scale(2), Spectrum(2), Diverse(ratio=1.5)],
    "chain": [
        *(Enhance(3), Variance(2), Smooth(3), MeanNormalize()),
        *(Momentum(0.9), Momentum(0.9, look_ahead=True)),
    ],
    "step": [
        *(Plain(), AdaGrad(), AdaGrad("gradient"), RMSProp(), Adam("gradient"), Tanh()),
        Overwrite(),
    ],
    "stop": [stops.OnceFooled(), stops.FooledInARow(2), stops.Margin(1.0), stops.After(1)],
}
ALL = [(kind, part) for kind, parts in KINDS.items() for part in parts]


def together(ball: Ball, *parts: tuple[str, Any]) -> Attack | None:
    """Build an attack with these parts; None if they exclude each other."""
    made: dict[str, Any] = {}
    for kind, part in parts:
        if kind in ("views", "chain"):
            made[kind] = (*made.get(kind, ()), part)
        elif kind == "stop" and kind in made:
            made[kind] = stops.AnyOf([made[kind], part])
        elif kind in made:
            return None
        else:
            made[kind] = part
    if sum(getattr(part, "look_ahead", False) for part in made.get("chain", ())) > 1:
        return None
    side = Pool(images(10, seed=9, size=6), torch.arange(10) % CLASSES)
    return Attack(ball, steps=2, size="eps/2", quantize="off", pool=side, **made)


@pytest.mark.slow
@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("first", range(len(ALL)), ids=[str(part) for _, part in ALL])
def test_any_two_parts_make_an_attack(first: int, norm: str) -> None:
    """Any parts: in the ball, and an image's result doesn't depend on the others."""
    ball, model = BALLS[norm], Pattern().eval()
    x, key = images(3, size=6), torch.tensor([5, 9, 2])
    y = model(x).argmax(1)
    for other in ALL[first:]:
        attack = together(ball, ALL[first], other)
        if attack is None:
            continue
        adv = attack(model, x, y, key)
        v = (adv - x).flatten(1)
        length = v.abs().amax(1) if norm == "linf" else v.norm(dim=1)
        assert length.max() <= ball.eps * (1 + 1e-9), attack
        assert 0 <= adv.min() <= adv.max() <= 1, attack
        moves = not (isinstance(attack.stop, stops.Margin | stops.OnceFooled | stops.AnyOf))
        assert not moves or (length > 0).all(), attack
        alone = attack(model, x[1:2], y[1:2], key[1:2])
        assert close(adv[1:2], alone, 1e-9), attack


# ---- pools and broken rows -----------------------------------------------------------------------


def test_a_pool_of_one_class_and_a_wrong_order_are_refused() -> None:
    model, x = small_model(), images(4)
    pool = Pool(images(3, seed=2), torch.tensor([1, 1, 1]))
    with pytest.raises(ValueError, match="one class"):
        Attack(Linf(EPS), views=(Admix(pool=3),), pool=pool)(model, x)
    late = Attack(
        Linf(EPS),
        views=(Admix(pool=2), Admix(pool=3)),
        pool=pool._replace(labels=torch.tensor([1, 1, 2])),
    )
    with pytest.raises(ValueError, match="the first 2 images of the pool have one class"):
        late(model, x)
    mixed = pool._replace(labels=torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="Admix of 13 px: put it before"):
        Attack(Linf(EPS), views=(Diverse(prob=1.0), Admix(pool=3)), pool=mixed)(model, x)


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [{"views": (Admix(2, pool=4),)}, {"chain": (Learn(samples=9, length=1, pool=4),)}],
    ids=["views", "chain"],
)
def test_a_part_takes_no_more_of_the_pool_than_its_own(parts: dict[str, Any]) -> None:
    """Another part may need a larger pool; what this one draws doesn't change."""
    model, x = Pattern().eval(), images(4, size=6)
    attack = Attack(Linf(EPS), steps=3, **parts)
    larger = Pool(images(10, seed=9, size=6), torch.arange(10) % CLASSES)
    own, beside, none = (
        replace(attack, pool=pool)(model, x, model(x).argmax(1))
        for pool in (larger.first(4), larger, larger.first(3))
    )
    assert torch.equal(own, beside)
    assert not torch.equal(own, none)  # the pool matters


def test_partners_of_a_targeted_attack_are_not_of_the_true_class() -> None:
    """The plain call takes the model's own predictions for the true classes."""
    model, x = small_model(), images(4)
    true = model(x).argmax(1)
    pool = Pool(images(8, seed=2), torch.arange(8) % CLASSES)
    attack = Attack(Linf(EPS), steps=2, targeted=True, views=(Admix(pool=8),), pool=pool)
    wanted = (true + 1) % CLASSES
    s = attack.begin(x, wanted, label=true)
    for _ in range(2):
        _, s = attack.tick(model, s)
    assert torch.equal(attack(model, x, wanted), attack.final(s))


@pytest.mark.filterwarnings("ignore:.* logits are not finite", "ignore:.* came back unchanged")
def test_a_copy_that_an_image_does_not_share_in_never_reaches_it() -> None:
    """The copy of 44 px breaks the model; images that stay as they are aren't affected."""

    def model(x: Tensor) -> Tensor:
        logits = x.mean((2, 3)) @ torch.eye(3, CLASSES, dtype=x.dtype)
        return logits * torch.nan if x.shape[-1] == 44 else logits

    x, y = images(8, size=40), torch.zeros(8, dtype=torch.int64)
    view = Diverse(prob=0.5)
    attack = Attack(Linf(EPS), steps=1, views=(view,), quantize="off")
    moved = (attack(model, x, y) != x).flatten(1).any(1)
    assert 0 < moved.sum() < 8
