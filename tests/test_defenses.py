"""Defenses against hand arithmetic, scipy and Pillow; and a network behind them."""

from __future__ import annotations

import re
from collections import Counter
from io import BytesIO
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from agr.config.schema import NetworkConfig, conf_dir
from agr.evaluation.scoring import image_hash
from agr.models.defended import DefendedNetwork, content_keys
from agr.models.defenses import (
    BitDepth,
    Defense,
    Deflection,
    Ending,
    Jpeg,
    Median,
    RandomResizePad,
    Smoothing,
    mean_logits,
)
from agr.models.logits import NO_ANSWER, predict
from agr.models.network import Network
from tests.conftest import CLASSES, images

SIZE = 12
PAD = RandomResizePad(ratio=1.5)  # a canvas of 18 for a network of 12


class Mean(nn.Module):
    """A linear layer on the mean colour, for images of any size, which it notes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(3, CLASSES)
        self.linear.weight.data *= 30
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(x.shape[-1])
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def network(body: nn.Module | None = None, precision: str = "fp64", **changes: Any) -> Network:
    config = {"size": SIZE, "mean": [0.5] * 3, "std": [0.25] * 3, "classes": CLASSES, **changes}
    config = {"architecture": "small", "weights": "none"} | config
    return Network(body or Mean(), NetworkConfig(**config), "contiguous", precision)


def apply(defense: Defense | RandomResizePad, x: Tensor, size: int = SIZE) -> Tensor:
    if isinstance(defense, RandomResizePad):
        return defense.draw(x, content_keys(x), size, 0)
    return defense(x, content_keys(x), size)


# ---- bit depth ----------------------------------------------------------------------------------


def test_bit_depth_by_hand() -> None:
    x = torch.tensor([0, 0.16, 0.17, 0.49, 0.51, 0.84, 1], dtype=torch.float64)
    x = x.view(1, 1, 1, -1).expand(1, 3, 1, -1)
    thirds = torch.tensor([0, 0, 1, 1, 2, 3, 3], dtype=torch.float64) / 3
    assert torch.equal(apply(BitDepth(2), x)[0, 0, 0], thirds)
    assert apply(BitDepth(1), x)[0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("bits", [1, 3, 5, 8])
def test_bit_depth_of_all_levels(bits: int) -> None:
    x = (torch.arange(256) / 255).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    squeezed = apply(BitDepth(bits), x)
    assert len(squeezed.unique()) == 2**bits
    assert float((squeezed - x).abs().max()) <= 0.5 / (2**bits - 1) + 1e-7
    assert torch.equal(apply(BitDepth(bits), squeezed), squeezed)
    assert torch.equal(squeezed, x) == (bits == 8)


# ---- median -------------------------------------------------------------------------------------


def test_median_by_hand() -> None:
    x = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=torch.float64) / 10
    x = x.expand(1, 3, 3, 3)
    # the window of 2 looks up and left; of 1 2 4 5 the third is taken, at the corner of 1 1 1 1
    expected = torch.tensor([[1, 2, 3], [4, 4, 5], [7, 7, 8]], dtype=torch.float64) / 10
    assert torch.equal(apply(Median(2), x)[0, 1], expected)
    assert float(apply(Median(3), x)[0, 0, 1, 1]) == 0.5


@pytest.mark.parametrize("window", [2, 3, 4, 5, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_median_is_scipys(window: int, dtype: torch.dtype) -> None:
    torch.manual_seed(window)
    shapes = [(2, 3, 13, 10), (1, 3, 3, 7)]  # the second smaller than most windows
    many_ties = [torch.randint(0, 4, s).to(dtype) / 255 for s in shapes]
    for x in [*many_ties, *(torch.rand(s, dtype=dtype) for s in shapes)]:
        oracle = ndimage.median_filter(x.numpy(), size=(1, 1, window, window), mode="reflect")
        assert np.array_equal(apply(Median(window), x).numpy(), oracle)
        other = ndimage.median_filter(x.numpy(), size=(1, 1, window, window), mode="mirror")
        assert not np.array_equal(other, oracle)


# ---- JPEG ---------------------------------------------------------------------------------------


def pillow(x: Tensor, **options: Any) -> Tensor:
    """Return images after Pillow's round trip, one by one."""
    out = []
    for image in x:
        pixels = np.rint(image.numpy().astype(np.float64) * 255).astype(np.uint8)
        file = BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(file, format="jpeg", **options)
        decoded = np.asarray(Image.open(BytesIO(file.getvalue())).convert("RGB"))
        out.append(torch.from_numpy(decoded.transpose(2, 0, 1).copy()))
    return torch.stack(out).to(x.dtype) / 255


@pytest.mark.parametrize("quality", [1, 50, 75, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_jpeg_is_pillows(quality: int, dtype: torch.dtype) -> None:
    x = images(3, size=19, dtype=dtype)
    y = apply(Jpeg(quality), x)
    assert y.dtype == dtype
    assert torch.equal(y, pillow(x, quality=quality))
    assert not torch.equal(y, pillow(x, quality=quality, subsampling=0))
    for noise in (0.4, -0.4):  # a float image is rounded, not cut off
        assert torch.equal(apply(Jpeg(quality), (x + noise / 255).clamp(0, 1)), y)


def test_jpeg_of_quality_100_is_close() -> None:
    ramp = torch.linspace(0, 1, 24).view(1, 1, 1, -1).expand(2, 3, 24, 24)
    errors = [float((apply(Jpeg(q), ramp) - ramp).abs().max()) * 255 for q in (100, 10)]
    assert errors[0] < 2.5 < 5 < errors[1]


# ---- random resizing and padding ----------------------------------------------------------------


@pytest.mark.parametrize("received", [12, 16, 9])
@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_padding_by_hand(received: int, fill: float) -> None:
    x = images(5, size=received).clamp_min(1 / 255)
    defense = RandomResizePad(ratio=1.5, fill=fill)
    keys = content_keys(x)
    out = defense.draw(x, keys, SIZE, 0)
    assert out.shape == (5, 3, 18, 18)
    for image, key, padded in zip(x, keys, out, strict=True):
        r, top, left = defense.place(key, SIZE, 0)
        expected = torch.full((3, 18, 18), fill, dtype=x.dtype)
        for i in range(r):
            for j in range(r):
                expected[:, top + i, left + j] = image[:, i * received // r, j * received // r]
        assert torch.equal(padded, expected)


def test_resizing_is_torchs_nearest() -> None:
    x = images(1, size=12)
    for key in range(40):
        r, top, left = PAD.place(key, SIZE, 0)
        inside = PAD.draw(x, [key], SIZE, 0)[:, :, top : top + r, left : left + r]
        assert torch.equal(inside, F.interpolate(x, (r, r), mode="nearest"))


def test_papers_numbers() -> None:
    defense = RandomResizePad()
    assert defense.canvas(299) == 331
    places = [defense.place(key, 299, 0) for key in range(2000)]
    assert {r for r, _, _ in places} == set(range(299, 331))
    assert (defense.ratio, defense.draws, defense.fill) == (331 / 299, 1, 0.5)
    assert [defense.canvas(size) for size in (64, 80, 224)] == [71, 89, 248]


def test_draws_are_uniform() -> None:
    n = 24_000
    places = [PAD.place(key, SIZE, 0) for key in range(n)]
    sizes = Counter(r for r, _, _ in places)
    assert sorted(sizes) == list(range(12, 18))
    assert all(abs(count - n / 6) < 5 * (n / 6) ** 0.5 for count in sizes.values())
    corners = Counter((top, left) for r, top, left in places if r == 12)
    assert sorted(corners) == [(i, j) for i in range(7) for j in range(7)]  # ends included
    mean = sizes[12] / 49
    assert all(abs(count - mean) < 5 * mean**0.5 for count in corners.values())


def test_draws_depend_on_seed_key_and_number_only() -> None:
    def places(keys: range, draw: int = 0, seed: int = 0) -> NDArray[Any]:
        defense = RandomResizePad(ratio=1.5, seed=seed)
        return np.array([defense.place(key, SIZE, draw) for key in keys])

    keys = range(400)
    first = places(keys)
    assert np.array_equal(first, places(keys))
    for others in (places(range(400, 800)), places(keys, draw=1), places(keys, seed=1)):
        alike = first[:, 0] == others[:, 0]
        assert alike.mean() < 0.3  # by chance 1/6
        assert (first == others)[alike, 1:].mean(0).max() < 0.5  # rows and columns: about 0.27
    x = images()
    state = torch.get_rng_state()
    apply(PAD, x)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("defense", [BitDepth(3), Median(2), Jpeg(50), PAD, Deflection(20_000)])
def test_image_does_not_feel_its_batch(defense: Defense | RandomResizePad) -> None:
    x = images(6)
    together = apply(defense, x)
    assert torch.equal(apply(defense, x.flip(0)), together.flip(0))
    for i in range(len(x)):
        assert torch.equal(apply(defense, x[i : i + 1])[0], together[i])


# ---- keys ---------------------------------------------------------------------------------------


def test_key_of_8bit_image_is_its_hash_whatever_the_dtype() -> None:
    x = images(4, dtype=torch.float32)
    pixels = (x * 255).round().to(torch.uint8).numpy()
    keys = content_keys(x)
    assert keys == [int(image_hash(p)[:16], 16) for p in pixels]
    assert keys == content_keys(x.double())
    assert keys == content_keys(x.to(memory_format=torch.channels_last))
    assert len(set(keys)) == 4
    x[0, 0, 0, 0] = 1 - x[0, 0, 0, 0]
    changed = content_keys(x)
    assert changed[0] != keys[0]
    assert changed[1:] == keys[1:]


def test_key_of_float_image_sees_every_bit() -> None:
    x = images(2, dtype=torch.float32) * 0.98 + 0.01
    keys = content_keys(x)
    assert keys == [int(image_hash(image)[:16], 16) for image in x.numpy()]
    y = x.clone()
    y[0, 2, 5, 5] = torch.nextafter(y[0, 2, 5, 5], torch.tensor(1.0))
    assert content_keys(y)[0] != keys[0]
    assert content_keys(y)[1] == keys[1]


# ---- the mean answer ----------------------------------------------------------------------------


def test_mean_logits_by_hand() -> None:
    first = torch.tensor([[log(0.9), log(0.1)]], dtype=torch.float64) + 7  # a shift is nothing
    second = torch.tensor([[log(0.3), log(0.7)]], dtype=torch.float64)
    expected = torch.tensor([[log(0.6), log(0.4)]], dtype=torch.float64)
    assert torch.allclose(mean_logits([first, second]), expected, rtol=0, atol=1e-12)
    assert mean_logits([first]) is first


def test_tiny_probabilities_stay_finite() -> None:
    sure = torch.tensor([[1e4, 0.0]])
    assert mean_logits([sure, sure]).tolist() == [[0, -1e4]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_bad_draw_is_no_answer(bad: float) -> None:
    fine, broken = torch.zeros(2, 3), torch.zeros(2, 3)
    broken[1, 2] = bad
    for draws in ([broken, fine], [fine, broken], [broken]):
        answer = mean_logits(draws)
        assert not answer[1].isfinite().all()
        assert predict(answer).tolist() == [0, NO_ANSWER]


# ---- a defended network -------------------------------------------------------------------------


def test_takes_the_input_of_the_network() -> None:
    plain = network(precision="fp32")
    defended = DefendedNetwork(plain, [BitDepth(5)])
    assert not defended.training
    pixels = [np.full((3, 4, 4), 51, np.uint8)]
    assert torch.equal(defended.as_input(pixels), plain.as_input(pixels))


def test_defenses_act_from_left_to_right_and_before_the_resize() -> None:
    plain, x = network(), images(4, size=16)
    coarse_last = DefendedNetwork(plain, [Jpeg(20), BitDepth(2)])(x)
    assert torch.equal(coarse_last, plain(apply(BitDepth(2), apply(Jpeg(20), x))))
    assert not torch.equal(coarse_last, DefendedNetwork(plain, [BitDepth(2), Jpeg(20)])(x))
    assert not torch.equal(coarse_last, plain(apply(BitDepth(2), apply(Jpeg(20), plain.fit(x)))))


def test_squeezers_commute() -> None:
    x = images(4)  # rounding keeps ranks
    bits_last = apply(BitDepth(2), apply(Median(2), x))
    assert torch.equal(apply(Median(2), apply(BitDepth(2), x)), bits_last)


def test_padding_replaces_the_resize() -> None:
    body = Mean()
    plain = network(body)
    x = images(4, size=16)
    logits = DefendedNetwork(plain, [BitDepth(3), PAD])(x)
    assert body.sizes == [18]
    # keys are of the image as it was received, before the first defense
    padded = PAD.draw(apply(BitDepth(3), x), content_keys(x), SIZE, 0)
    assert torch.equal(logits, plain.logits(padded))


def test_padded_image_is_scaled_back_for_a_network_of_one_size() -> None:
    body = Mean()
    plain = network(body, fixed_size=True)
    x = images(4, size=16)
    logits = DefendedNetwork(plain, [PAD])(x)
    assert body.sizes == [12]
    assert torch.equal(logits, plain.logits(plain.fit(apply(PAD, x))))


def test_draws_are_averaged() -> None:
    body = Mean()
    plain, x = network(body), images(3)
    three = RandomResizePad(ratio=1.5, draws=3)
    probability = torch.zeros(3, CLASSES, dtype=torch.float64)
    for i, key in enumerate(content_keys(x)):
        for n in range(3):
            r, _, _ = three.place(key, SIZE, n)
            pixels = torch.arange(r) * SIZE // r
            colour = x[i][:, pixels][:, :, pixels].sum((1, 2)) + 0.5 * (18**2 - r**2)
            logits = body.linear((colour / 18**2 - 0.5) / 0.25)
            probability[i] += logits.softmax(0) / 3
    answer = DefendedNetwork(plain, [three])(x)
    assert torch.allclose(answer.exp(), probability, rtol=0, atol=1e-12)
    one = DefendedNetwork(plain, [PAD])(x)
    assert float((one.softmax(1) - probability).abs().max()) > 1e-3


def test_answer_does_not_feel_its_batch() -> None:
    defended, x = DefendedNetwork(network(), [RandomResizePad(ratio=1.5, draws=4)]), images(6)
    answer = defended(x)
    assert torch.equal(defended(x.flip(0)), answer.flip(0))
    others = torch.cat([x[:1], images(5, seed=9)])
    assert torch.equal(defended(others)[0], answer[0])


@pytest.mark.parametrize("defense", [Jpeg(75), Median(3), RandomResizePad(ratio=1.5, draws=2)])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_image_that_is_not_finite_gets_no_answer(defense: Defense | Ending, bad: float) -> None:
    x = images(3)
    defended = DefendedNetwork(network(), [defense])
    fine = defended(x)
    x[1, 0, 4, 4] = bad
    answer = defended(x)
    assert answer[1].isnan().all()
    assert torch.equal(answer[[0, 2]], fine[[0, 2]])


@pytest.mark.parametrize("defense", [Jpeg(75), RandomResizePad(ratio=1.5, draws=2)])
def test_logits_that_are_not_finite_stay_no_answer(defense: Defense | Ending) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[0.0, 1.0], [-torch.inf, 1.0], [torch.nan, 1.0]]).to(x.dtype)

    answer = DefendedNetwork(network(Broken()), [defense])(images(3))
    assert predict(answer).tolist() == [1, NO_ANSWER, NO_ANSWER]


# ---- wrong parameters ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "parameters", "text"),
    [
        (BitDepth, {"bits": 0}, "bits=0 cannot be: give a whole number, 1 to 8"),
        (BitDepth, {"bits": 9}, "bits=9"),
        (BitDepth, {"bits": 4.5}, "bits=4.5"),
        (BitDepth, {"bits": True}, "bits=True"),
        (Median, {"window": 1}, "window=1 cannot be: give a whole number, 2 to 100"),
        (Median, {"window": 2.0}, "window=2.0"),
        (Jpeg, {"quality": 0}, "quality=0 cannot be: give a whole number, 1 to 100"),
        (Jpeg, {"quality": 101}, "quality=101"),
        (Jpeg, {"quality": "high"}, "quality=high"),
        (RandomResizePad, {"ratio": 1}, "ratio=1 leaves nothing to draw"),
        (RandomResizePad, {"ratio": 0.9}, "ratio=0.9"),
        (RandomResizePad, {"ratio": float("inf")}, "ratio=inf"),
        (RandomResizePad, {"draws": 0}, "draws=0"),
        (RandomResizePad, {"seed": 0.5}, "seed=0.5"),
        (RandomResizePad, {"fill": -0.1}, "fill=-0.1"),
        (RandomResizePad, {"fill": 1.1}, "fill=1.1"),
    ],
)
def test_wrong_parameters(part: type, parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}") as e:
        part(**parameters)
    assert "\n" not in str(e.value)


def test_wrong_defenses_of_a_network() -> None:
    with pytest.raises(ValueError, match="defends nothing"):
        DefendedNetwork(network(), [])
    orders: list[list[Defense | Ending]] = [[PAD, BitDepth(5)], [PAD, PAD]]
    for defenses in orders:
        with pytest.raises(ValueError, match="put it last of the defenses"):
            DefendedNetwork(network(), defenses)
    with pytest.raises(ValueError, match=r"ratio=1.01 adds no pixel to 12 px: give 1.0833 or more"):
        DefendedNetwork(network(), [RandomResizePad(ratio=1.01)])
    DefendedNetwork(network(), [RandomResizePad(ratio=1.0833)])


# ---- the shipped defenses -----------------------------------------------------------------------

SHIPPED: dict[str, list[Defense | Ending]] = {
    "jpeg75": [Jpeg(75)],
    "jpeg50": [Jpeg(50)],
    "bits5": [BitDepth(5)],
    "median2": [Median(2)],
    "median3": [Median(3)],
    "squeeze": [BitDepth(5), Median(2)],
    "randpad": [RandomResizePad(ratio=331 / 299, draws=1, seed=0, fill=0.5)],
    "randpad10": [RandomResizePad(ratio=331 / 299, draws=10, seed=0, fill=0.5)],
    "smooth025": [Smoothing(sigma=0.25, draws=100, alpha=0.001, seed=0)],
    "smooth050": [Smoothing(sigma=0.5, draws=100, alpha=0.001, seed=0)],
    "smooth100": [Smoothing(sigma=1.0, draws=100, alpha=0.001, seed=0)],
    "deflect": [Deflection(deflections=200, window=10, sigma=0.04, seed=0)],
}


def test_shipped_defenses() -> None:
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("defense/standard")
    assert list(config) == ["defenses"]
    found = {}
    for name, node in config.defenses.items():
        parts = instantiate(node, _convert_="all")
        found[name] = list(parts) if isinstance(parts, list) else [parts]
        assert re.fullmatch("[a-z][a-z0-9_]*", str(name))
    assert found == SHIPPED
    x = images(4)
    plain = network()
    answers = [DefendedNetwork(plain, parts)(x) for parts in found.values()]
    for i, a in enumerate(answers):
        assert a.isfinite().all()
        assert not any(torch.equal(a, b) for b in [plain(x), *answers[:i]])
