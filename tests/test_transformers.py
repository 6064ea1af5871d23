"""Rules on gradients inside of vision transformers, and PatchOut: PNA, TGR and ATT by parts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from agr.attacks import L2, Attack, Linf
from agr.attacks.engine import Calls, Item, craft
from agr.attacks.goal import Goal
from agr.attacks.gradient import Taker
from agr.attacks.idle import idle_parts
from agr.attacks.loss import CrossEntropy
from agr.attacks.rows import Host
from agr.attacks.rules import ConstantAttention, Regularize, Tune
from agr.attacks.rules.transformers import _shrunk
from agr.attacks.stages import Distance, MeanNormalize, Momentum
from agr.attacks.surrogate import Surrogate
from agr.attacks.views import PatchOut, SelfPaced
from agr.config.schema import NetworkConfig
from agr.models import roles
from agr.models.network import Network
from agr.models.sources import Ensemble
from tests.conftest import CLASSES, EPS, images
from tests.oracles.transformers import by_hand, timms
from tests.transcriptions.transformers_vit import Rules
from tests.transcriptions.transformers_vit import by_hand as logits_by_hand

SIDE = 32
PLAIN: dict[str, Any] = {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "num_heads": 3}
WINDOWS: dict[str, Any] = {"img_size": SIDE, "window_size": 4, "embed_dim": 8, "depths": (2, 1)}
POOLED: dict[str, Any] = {"img_size": SIDE, "patch_size": 8, "stride": 4, "base_dims": [8, 8]}
CONVOLVED: dict[str, Any] = {"img_size": SIDE, "init_channels": 8, "embed_dim": 32}
NETWORKS: dict[str, tuple[str, dict[str, Any], int]] = {  # with their number of blocks
    "vit": ("vit_tiny_patch16_224", PLAIN | {"depth": 3}, 3),
    "deit": ("deit_tiny_distilled_patch16_224", PLAIN | {"depth": 3}, 3),
    "swin": ("swin_tiny_patch4_window7_224", WINDOWS | {"num_heads": (2, 4)}, 3),
    "pit": ("pit_ti_224", POOLED | {"depth": [1, 2], "heads": [2, 4]}, 3),
    "visformer": (
        "visformer_tiny",
        CONVOLVED | {"depth": (1, 1, 2), "num_heads": 2, "attn_stage": "011"},
        3,
    ),
}
NOTHING = Tune(1.0, 1.0, 1.0, gamma=1.0, lam=0.0, truncated=0)  # changes no gradient


def body(name: str, **keys: Any) -> nn.Module:
    torch.manual_seed(0)
    architecture, arguments, _ = NETWORKS.get(name, (name, {}, 0))
    net = timm.create_model(architecture, num_classes=CLASSES, **arguments | keys)
    with torch.no_grad():
        for p in net.parameters():
            p *= 2 if p.dim() > 1 else 1
    return net.double().eval().requires_grad_(False)  # type: ignore[no-any-return]


def gradient(net: nn.Module, *rules: Any, n: int = 2) -> Tensor:
    """The gradient of an attack's step, under rules."""
    x = images(n, size=SIDE)
    y = torch.arange(n) % CLASSES
    attack = Attack(Linf(EPS), surrogate=rules, quantize="off")
    c = attack.context(attack.begin(x, y), x)
    goal, live = Goal(CrossEntropy(), None, (), False), torch.ones(n, dtype=torch.bool)
    spent = torch.zeros(n).long()
    taker = Taker(goal, Surrogate(net, rules), {}, y, live, spent, spent.clone())
    with torch.no_grad():
        return taker.through_views(c)


def plain(net: nn.Module, n: int = 2) -> Tensor:
    x = images(n, size=SIDE).requires_grad_()
    loss = nn.functional.cross_entropy(net(x), torch.arange(n) % CLASSES, reduction="sum")
    return torch.autograd.grad(loss, x)[0]


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-9, atol=1e-12 * float(b.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_rules_reach_every_block(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule of each module runs backward, once, in scores and maps; from the last block on."""
    net, count = body(name), NETWORKS[name][2]
    expected = plain(net)
    for rule in (Regularize(), Regularize(at="map"), Tune()):
        seen: list[tuple[str, tuple[int, ...]]] = []
        own = type(rule).changed

        def changed(
            self: Any, kind: str, g: Tensor, shared: Any, own: Any = own, seen: Any = seen
        ) -> Tensor:
            seen.append((kind, tuple(g.shape)))
            return own(self, kind, g, shared)  # type: ignore[no-any-return]

        monkeypatch.setattr(type(rule), "changed", changed)
        assert not close(gradient(net, rule), expected)
        monkeypatch.undo()
        found = rule.find(net)
        kinds = Counter(kind for kind, _ in seen)
        assert kinds == {"attention": count, "qkv": count, "mlp": count}
        assert len(found) == 3 * count
        assert [kind for kind, _ in seen] == ["mlp", "attention", "qkv"] * count
        for kind, shape in seen:
            assert shape[0] == 2
            assert len(shape) == (4 if kind == "attention" else 3)
            assert kind != "qkv" or shape[2] % 3 == 0
    assert close(gradient(net, NOTHING), expected)
    # Without a gradient of the scores, the maps are constants: windows, bias and mask included.
    constant = gradient(net, ConstantAttention())
    assert close(gradient(net, replace(NOTHING, attention=0.0)), constant)
    assert close(gradient(net, replace(NOTHING, attention=0.0, at="map")), constant)
    assert close(gradient(net, replace(NOTHING, truncated=count)), constant)
    assert not close(constant, expected)


@pytest.mark.parametrize("at", ["scores", "map"])
def test_gradients_are_those_of_formulas(at: Any) -> None:
    """Attention's and the others' gradients times a number each, which no sign could show."""
    net, x = by_hand(), images(2, size=SIDE)
    rules = Rules(lambda _, g: 0.3 * g, lambda _, g: 0.6 * g, lambda _, g: 1.4 * g, at)
    expected = []
    for b in range(2):
        leaf = x[b].clone().requires_grad_()
        logits = logits_by_hand(net, leaf, rules)[0]
        expected += torch.autograd.grad(torch.logsumexp(logits, 0) - logits[b], leaf)
    rule = replace(NOTHING, attention=0.3, qkv=0.6, mlp=1.4, at=at)
    assert torch.allclose(gradient(timms(), rule), torch.stack(expected), rtol=0, atol=1e-12)


def test_extremes_by_hand() -> None:
    factor = torch.tensor([0.5, 0.0])[:, None, None]
    g = torch.tensor([[3.0, -2.0], [1.0, 3.0], [-2.0, 0.0]])  # ties: the first of equals
    tokens = _shrunk("mlp", torch.stack([g, g]), factor)
    assert torch.equal(tokens[0], torch.tensor([[1.5, -1.0], [1.0, 1.5], [-1.0, 0.0]]))
    assert torch.equal(tokens[1], torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    g = torch.tensor([[1.0, 9.0, 1.0], [1.0, 1.0, 1.0], [-8.0, 1.0, 1.0]])
    pairs = _shrunk("attention", torch.stack([g, g])[:, None], factor)[:, 0]
    # 9 is in row 0 and column 1, -8 in row 2 and column 0: lines cross at four places.
    half = torch.tensor([[0.25, 2.25, 0.5], [0.5, 0.5, 1.0], [-2.0, 0.25, 0.5]])
    assert torch.equal(pairs[0], half)
    assert torch.equal(pairs[1], torch.where(half == 1, g, 0.0))


def test_att_adapts_to_the_block_above() -> None:
    torch.manual_seed(0)
    rule, shared = Tune(gamma=0.5, lam=0.2, truncated=1), {}
    first, second = torch.randn(2, 4, 3).double(), 4 * torch.randn(2, 4, 3).double()
    made = rule.changed("qkv", first, shared)
    assert torch.equal(made, _shrunk("mlp", 0.7 * first, torch.full((2, 1, 1), 0.5)))
    ratio = ((0.7 * second).flatten(1).var(1) / made.flatten(1).var(1)).sqrt()
    factor = (0.5 + 0.2 * (1 - ratio)).clamp(0, 1)[:, None, None]
    assert torch.allclose(
        rule.changed("qkv", second, shared), _shrunk("mlp", 0.7 * second, factor), atol=1e-15
    )
    maps = torch.randn(2, 2, 3, 3).double()
    assert not rule.changed("attention", maps, shared).any()  # truncated; its variance is 0
    below = rule.changed("attention", maps, shared)
    assert torch.equal(below, _shrunk("attention", 0.45 * maps, torch.full((2, 1, 1), 0.5)))


def test_rules_are_gone_afterwards() -> None:
    net = body("vit")
    expected, fused = plain(net), roles.fused_attentions(net)
    assert len(fused) == 3
    attack = Attack(Linf(EPS), steps=2, surrogate=(Tune(),), views=(SelfPaced(patch=8),))
    x = images(2, size=SIDE)
    attack(net, x, torch.tensor([0, 1]))
    assert torch.equal(plain(net), expected)
    assert roles.fused_attentions(net) == fused

    @dataclass(frozen=True)
    class Fails(Regularize):
        def changed(self, kind: str, g: Tensor, shared: Any) -> Tensor:
            raise RuntimeError("in mid-pass")

    with pytest.raises(RuntimeError, match="in mid-pass"):
        Attack(Linf(EPS), surrogate=(Fails(),))(net, x, torch.tensor([0, 1]))
    assert torch.equal(plain(net), expected)
    assert roles.fused_attentions(net) == fused


class Gated(nn.Module):
    """A network whose attention map is not a softmax."""

    def __init__(self) -> None:
        super().__init__()
        inner = nn.Module()
        inner.qkv, inner.attn_drop = nn.Linear(3, 9), nn.Dropout(0.0)
        self.block = nn.Module()
        self.block.attn, self.block.mlp = inner, nn.Linear(3, CLASSES)
        self.double().eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.block.attn.qkv(x.flatten(2).mT[:, :9]).chunk(3, 2)  # type: ignore[operator, union-attr]
        mixed = self.block.attn.attn_drop((q @ k.mT).sigmoid()) @ v  # type: ignore[operator, union-attr]
        return self.block.mlp(mixed).mean(1)  # type: ignore[no-any-return, operator]


@pytest.mark.parametrize(
    ("net", "parts", "message"),
    [
        (lambda: body("resnet18"), {"surrogate": (ConstantAttention(),)}, "has no attention"),
        (lambda: body("resnet18"), {"surrogate": (Regularize(),)}, "has no attention"),
        (
            lambda: body("cait_xxs24_224", **PLAIN, depth=1),
            {"surrogate": (Tune(),)},
            r"has no qkv in blocks_token_only.0.attn \(ClassAttn\)",
        ),
        (
            lambda: body("beit_base_patch16_224", **PLAIN, depth=1),
            {"surrogate": (Regularize(),)},
            "never called blocks.0.attn.qkv",
        ),
        (Gated, {"surrogate": (Regularize(),)}, "block.attn.attn_drop .* with at=map"),
        (
            lambda: body("vit"),
            {"views": (SelfPaced(patch=8, block=4),)},
            "block=4 .* the network has 3 transformer blocks: use 3 or less",
        ),
        (lambda: body("vit"), {"views": (SelfPaced(patch=5),)}, "patch=5 doesn't divide"),
        (lambda: body("vit"), {"views": (PatchOut(patch=12),)}, "patch=12 doesn't divide"),
        (
            lambda: Ensemble([network("vit"), network("vit")], "logits"),
            {"views": (SelfPaced(),)},
            "SelfPaced takes features of one network, and the source has 2",
        ),
    ],
)
def test_what_cannot_be_attacked_is_named(
    net: Callable[[], nn.Module], parts: dict[str, Any], message: str
) -> None:
    x = images(1, size=SIDE)
    with pytest.raises(ValueError, match=message):
        Attack(Linf(EPS), steps=1, **parts)(net(), x, torch.tensor([0]))


def test_modules_that_are_never_called_are_found_by_one_pass() -> None:
    """As `agr check` tries them: a BEiT takes qkv.weight, and leaves the module alone."""
    source = Surrogate(body("beit_base_patch16_224", **PLAIN, depth=1), (Regularize(),))
    with pytest.raises(ValueError, match=r"never called blocks.0.attn.qkv"):
        source.try_out(images(1, size=SIDE))
    fine = body("vit")
    Surrogate(fine, (Regularize(), ConstantAttention())).try_out(images(1, size=SIDE))
    assert not any("forward" in vars(module) for module in fine.modules())
    said = Surrogate(fine, (Regularize(),)).described()
    assert said == [
        "Regularize changes 9 modules (3 attn_drop, 3 qkv, 3 mlp: blocks.0.attn.attn_drop, …, "
        "blocks.2.mlp)"
    ]


def test_a_class_tokens_attention_loses_columns() -> None:
    """As TGR's authors have it for CaiT; its queries are of one token, which is both extremes."""
    g = torch.tensor([[[[1.0, -2.0, 3.0, 0.5]]]])
    assert _shrunk("attention", g.clone(), g.new_zeros(1, 1, 1)).tolist() == [[[[1, 0, 0, 0.5]]]]
    cait = body("cait_xxs24_224", **PLAIN, depth=1)
    rule = Regularize(at="map")
    names = {name.removeprefix("blocks_token_only.0.attn.") for name in rule.find(cait)}
    assert {"q", "k", "v", "attn_drop"} <= names
    kept: dict[str, Tensor] = {}
    q = cait.get_submodule("blocks_token_only.0.attn.q")
    q.register_forward_hook(lambda m, i, z: z.register_hook(lambda g: kept.update(q=g)) and None)
    made = gradient(cait, rule)
    assert torch.equal(kept["q"], torch.zeros_like(kept["q"]))
    assert not close(made, plain(cait))
    assert kept["q"].any()


def test_maps_that_are_no_softmax_are_taken_at_the_map() -> None:
    rule = Regularize(at="map")
    assert not close(gradient(Gated(), rule), plain(Gated()))
    assert close(gradient(Gated(), replace(NOTHING, at="map")), plain(Gated()))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        (PatchOut, "kept", 1.1),
        (PatchOut, "patch", 0),
        (SelfPaced, "scale", -0.1),
        (SelfPaced, "offset", 2),
        (SelfPaced, "start", -1),
        (SelfPaced, "block", 0),
        (Regularize, "mlp", -1),
        (Regularize, "at", "softmax"),
        (Tune, "gamma", 1.5),
        (Tune, "lam", -0.1),
        (Tune, "truncated", 0.5),
        (Distance, "weight", -1),
    ],
)
def test_bad_parameters_are_named(part: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}={value} "):
        part(**{name: value})


def test_distance_by_hand() -> None:
    x0 = torch.zeros(2, 3, 2, 2)
    x = x0.clone()
    x[0, 0, 0, 0], x[0, 1, 1, 1] = 0.3, -0.4
    attack = Attack(Linf(EPS))
    c = attack.context(attack.begin(x0, torch.zeros(2).long()), x)
    made, _ = Distance(weight=2.0).update(torch.ones_like(x), {}, c)
    assert torch.allclose(made - 1, 2 * (x - x0) / 0.5)
    assert Distance(weight=0.0).idle


def test_a_tuning_that_changes_nothing_says_so() -> None:
    assert NOTHING.idle
    assert not any(replace(NOTHING, **{k: 0.5}).idle for k in ("attention", "qkv", "mlp", "gamma"))
    assert not replace(NOTHING, lam=0.1).idle
    assert not replace(NOTHING, truncated=1).idle


def test_patch_out_keeps_its_share() -> None:
    x0, x = images(3, seed=1, size=64), images(3, seed=2, size=64)
    view = PatchOut()
    attack = Attack(Linf(EPS), views=(view,))
    c = attack.context(attack.begin(x0, torch.zeros(3).long()) | {"x": x}, x)
    made = view(x, 0, c).image
    patches = (made != x0).unflatten(3, (4, 16)).unflatten(2, (4, 16)).any(5).any(3).any(1)
    assert patches.flatten(1).sum(1).tolist() == [11] * 3  # 130 / 196 of 16
    assert len({tuple(row.flatten().tolist()) for row in patches}) == 3
    pixels = patches.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None]
    assert torch.equal(made, torch.where(pixels, x, x0))
    assert round(0.663265 * 196) == 130
    assert idle_parts(attack) == []
    assert idle_parts(replace(attack, views=(PatchOut(kept=1.0),))) == [PatchOut(kept=1.0)]


def test_important_crops_keep_their_perturbation() -> None:
    """In the last step the share that is kept is offset + scale * importance."""
    n, steps, view = 400, 5, SelfPaced(patch=8, scale=0.5, offset=0.2, start=0.9)
    x0, x = torch.zeros(n, 3, 16, 16), torch.ones(n, 3, 16, 16)
    importance = torch.tensor([[0.0, 1.0], [0.4, 0.6]]).expand(n, 2, 2)
    attack = Attack(Linf(EPS), steps=steps, views=(view,))
    s = attack.begin(x0, torch.zeros(n).long()) | {"x": x}
    for t in (0, 2, 4):
        c = attack.context(s | {"t": torch.full((n,), t)}, x)._replace(
            made={"importance": importance}
        )
        kept = view(x, 0, c).image.mean(0)[0, ::8, ::8]
        share = 0.9 - (0.9 - (0.2 + 0.5 * importance[0])) * (t + 1) / steps
        assert (kept - share).abs().max() < 4 * (0.25 / n) ** 0.5
    assert idle_parts(attack) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_importance_of_patches(name: str) -> None:
    """It is between 0 and 1, and takes a gradient that is counted."""
    net = body(name)
    view = SelfPaced(patch=8, block=3)
    source = Surrogate(net, views=(view,))
    block = [*roles.blocks(net)][-3]
    assert source.described() == [f"features of 1 module ({block})"]
    x = images(2, size=SIDE)
    attack = Attack(Linf(EPS), steps=1, views=(view,))
    s = attack._prepared(source, attack.begin(x, torch.zeros(2).long()), Host())
    importance = s["made"]["view 0"]["importance"]
    assert importance.shape == (2, 4, 4)
    assert importance.flatten(1).amin(1).tolist() == [0, 0]
    assert importance.flatten(1).amax(1).tolist() == [1, 1]
    assert (s["forwards"].tolist(), s["backwards"].tolist()) == ([1, 1], [1, 1])


def network(name: str) -> Network:
    config = NetworkConfig(
        architecture="", weights="", classes=CLASSES, size=SIDE, mean=[0.5] * 3, std=[0.5] * 3
    )
    return Network(body(name), config, "contiguous", "fp32")


MOMENTUM = MeanNormalize(), Momentum()
ATTACKS: dict[str, tuple[dict[str, Any], int]] = {  # with the gradients of three steps
    "pna": (
        {
            "views": (PatchOut(patch=8),),
            "surrogate": (ConstantAttention(),),
            "chain": (Distance(),),
        },
        3,
    ),
    "tgr": ({"surrogate": (Regularize(),), "chain": MOMENTUM}, 3),
    "att": (
        {"views": (SelfPaced(patch=8),), "surrogate": (Tune(),), "chain": MOMENTUM},
        4,
    ),
}


@pytest.mark.parametrize("ball", [Linf(EPS), L2(1.0)], ids=["linf", "l2"])
@pytest.mark.parametrize("source", ["vit", "swin"])
@pytest.mark.parametrize("name", ATTACKS)
def test_costs_and_bits_depend_on_no_companion(name: str, source: str, ball: Any) -> None:
    parts, passes = ATTACKS[name]
    attack, net = Attack(ball, steps=3, **parts), network(source)
    pixels = (images(5, size=SIDE) * 255).round().to(torch.uint8)
    items = [
        Item(i, pixels[i].numpy(), i % CLASSES, key=random.Random(i).getrandbits(60))
        for i in range(5)
    ]

    def made(chosen: list[Item[int]], calls: Calls) -> dict[int, tuple[bytes, Any, Any]]:
        found = craft(attack, net, chosen, 3, calls=calls)
        return {m.item.tag: (m.image.tobytes(), m.forwards, m.backwards) for m in found}

    expected = made(items, Calls())
    assert {row[1:] for row in expected.values()} == {(passes, passes)}
    assert made(items[::-1], Calls()) == expected
    alone = Calls()
    assert made(items[2:3], alone) == {2: expected[2]}
    assert alone == Calls(passes, passes)
    assert attack.once == passes - 3
