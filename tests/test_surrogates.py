"""Rules on a network's own modules: by hand, and on the demo's networks, folded or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from timm.layers.pool2d_same import MaxPool2dSame
from torch import Tensor, nn

from agr import load_attack
from agr.attacks import Attack, Linf
from agr.attacks.engine import Calls, craft
from agr.attacks.idle import idle_parts
from agr.attacks.objectives import Attribution, Importance
from agr.attacks.objectives import FeatureDistance as TAP
from agr.attacks.parts import Context, Pass
from agr.attacks.rules import (
    FeatureDiversity,
    Ghost,
    LinearReLU,
    Mixup,
    PerturbationDecay,
    SkipGradient,
    SmoothReLU,
    SoftMaxPool,
    TunedMixup,
)
from agr.attacks.stages import Flatten, Penalize, Relate, Reverse
from agr.attacks.surrogate import Surrogate
from agr.attacks.views import Diverse, Draws
from agr.config.compose import expand
from agr.models.branches import branch_ends, unknown_blocks
from agr.models.network import load_network
from agr.models.roles import inner_relus
from tests.conftest import CLASSES, EPS, demo_items, images
from tests.oracles.base import Draws as DrawsOf
from tests.oracles.base import Given, a_pool, ours
from tests.oracles.surrogates import noise, residual
from tests.transcriptions import surrogates as papers

RULES = ("sgm", "linbp", "bpa", "ilpd", "ghost", "dhf")


def context(x: Tensor, **changes: Any) -> Context:
    rows = torch.arange(len(x))
    given = {"x": x, "x0": x, "image": x, "point": x, "label": rows, "t": rows * 0, "steps": 2}
    given |= {"size": 0.1, "ball": Linf(EPS), "root": rows, "path": (), "grad": None, "pool": None}
    return Context(**given | {"fooled": rows < 0} | changes)  # type: ignore[arg-type]


def ruled(rule: Any, module: nn.Module, x: Tensor, c: Context | None = None) -> Tensor:
    """What a module makes of `x` under a rule."""
    own = module.forward
    p = Pass(c or context(x), "m", module, None, None, {})
    made: Tensor = rule.forward(own, p)(x)
    return made


def slope(rule: Any, module: nn.Module, x: Tensor) -> Tensor:
    """The gradient of the sum of a module's outputs under a rule; forwards it is as ever."""
    leaf = x.clone().requires_grad_()
    point = leaf * 1  # in-place modules refuse leaves
    out = ruled(rule, module, point)
    assert torch.equal(out, module(x.clone()))
    return torch.autograd.grad(out.sum(), leaf)[0]


@pytest.mark.parametrize("inplace", [False, True])
def test_relus_by_hand(inplace: bool) -> None:
    x = torch.tensor([[-2.0, -0.5, 0.5, 7.0]], dtype=torch.float64)
    for relu in (nn.ReLU(inplace), nn.ReLU6(inplace)):
        assert slope(LinearReLU(), relu, x).tolist() == [[1, 1, 1, 1]]
        leaf = x.clone().requires_grad_()
        silu = torch.autograd.grad(nn.functional.silu(leaf).sum(), leaf)[0]
        assert torch.allclose(slope(SmoothReLU(), relu, x), silu, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2), nn.MaxPool2d(3, 2, ceil_mode=True),
     nn.MaxPool2d((3, 2), (2, 1), (1, 0), dilation=(1, 2)), MaxPool2dSame(3, 2),
     MaxPool2dSame((2, 3), 2, dilation=(1, 2))],
)  # fmt: skip
@pytest.mark.parametrize("size", [6, 7])
def test_pools_share_gradients(pool: nn.MaxPool2d, size: int) -> None:
    """Hot, it is the maximum's own gradient; cold, each of a window has an equal share."""
    x = images(2, size=size) + 0.1 * torch.rand(2, 3, size, size, dtype=torch.float64) + 0.1
    leaf = x.clone().requires_grad_()
    true = torch.autograd.grad(pool(leaf).sum(), leaf)[0]
    assert torch.allclose(slope(SoftMaxPool(1e7), pool, x), true, rtol=0, atol=1e-3)
    whole = x[:, :, :6, :6]
    flat = slope(SoftMaxPool(0), nn.MaxPool2d(2), whole)
    assert torch.equal(flat, torch.full_like(whole, 1 / 4))


def test_a_skip_factor_by_hand() -> None:
    x = images(2)
    assert torch.equal(slope(SkipGradient(0.2), nn.Identity(), x), torch.full_like(x, 0.2))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "seresnet18"])
def test_linear_branches_keep_their_norm(name: str) -> None:
    """A block's gradient is the shortcut's plus a branch gradient as long as the true one."""
    torch.manual_seed(0)
    body = timm.create_model(name, zero_init_last=False).double().eval().requires_grad_(False)
    block: Any = body.get_submodule("layer2.1")
    x = torch.randn(2, block.conv1.in_channels, 5, 5, dtype=torch.float64)
    got = slope(LinearReLU(), block, x)
    assert not any("forward" in vars(module) for module in block.modules())
    leaf = x.clone().requires_grad_()
    (end,) = branch_ends(block)
    kept: list[Tensor] = []
    handle = getattr(block, end).register_forward_hook(lambda m, a, out: kept.append(out.clone()))
    plain = torch.autograd.grad(block(leaf * 1).sum(), leaf)[0]
    handle.remove()
    shortcut = (kept[0] + x > 0).double()  # through the last ReLU
    assert not torch.allclose(got, plain)
    true, linear = plain - shortcut, got - shortcut
    a, b = (part.flatten(1).norm(dim=1) for part in (true, linear))
    assert torch.allclose(a, b, rtol=1e-9)


def test_depths() -> None:
    """0.5 is layer3.1 of a ResNet-50, as the authors of LinBP and BPA have it; 1/6 is DHF's."""
    with torch.device("meta"):
        bodies = {n: timm.create_model(f"resnet{n}") for n in (50, 101, 152)}
        lite, vgg = timm.create_model("tf_efficientnet_lite0"), timm.create_model("vgg16")
    assert next(iter(LinearReLU().find(bodies[50]))) == "layer3.1"
    assert next(iter(SmoothReLU().find(bodies[50]))) == "layer3.1.act1"
    assert LinearReLU("layer3.1").find(bodies[50]) == LinearReLU().find(bodies[50])
    assert len(FeatureDiversity().find(bodies[101])) == 3 * (33 - 5)
    assert len(FeatureDiversity().find(bodies[152])) == 3 * (50 - 8)
    assert [*PerturbationDecay().find(bodies[50])] == ["layer2"]
    assert len(SkipGradient().find(bodies[50])) == 16 - 4
    assert len(SkipGradient(first=True).find(bodies[50])) == 16
    assert [*Ghost().find(bodies[50])][:2] == ["layer1.0.downsample", "layer1.1"]
    assert len(LinearReLU(0).find(vgg)) == 15
    assert len(LinearReLU(0.5).find(vgg)) == 15 - 7
    assert len(LinearReLU(0).find(lite)) == 9
    assert len(Ghost(0, 0.9).find(vgg)) == 13 + 5 - 1
    with torch.device("meta"):  # these add nothing
        assert len(LinearReLU(0).find(timm.create_model("selecsls42"))) == 41
    said = Surrogate(bodies[50], (Ghost(0, 0.9),)).described()
    assert said == ["Ghost changes 17 modules (act1 (dropout), …, layer4.1 (dropout))"]


@pytest.mark.parametrize(
    ("rule", "architecture", "message"),
    [
        (SkipGradient(), "vgg16", r"\(VGG\) has no residual branch.*take another"),
        (FeatureDiversity(), "inception_v3", "no residual block.*take another"),
        (Ghost(), "vgg16", r"no residual block.*attack.surrogate.noise.spread=0"),
        (Ghost(0, 1), "resnet18", "leave the network as it is"),
        (SoftMaxPool(), "tf_efficientnet_lite0", "no max-pool.*attack.surrogate.pools=null"),
        (LinearReLU(), "vit_tiny_patch16_224", "no ReLU"),
        (LinearReLU("layer9"), "resnet18", "no module layer9.*such as layer1.0, layer1.1"),
        (LinearReLU("layer4.1.bn1"), "resnet18", "nothing from layer4.1.bn1 on.*begin earlier"),
        (
            LinearReLU(),
            "res2net50_14w_8s",
            r"16 blocks .*aren't known here \(Bottle2neck, such",
        ),
        (SkipGradient(), "crossvit_9_240", "6 blocks .*CrossAttentionBlock, such as blocks.0.fusi"),
        (SkipGradient(), "mobilenetv5_base", "UniversalInvertedResidual, MobileAttention, such"),
        (
            FeatureDiversity(),
            "efficientnet_b0",
            "blocks without a ReLU in the branch from start",
        ),
        (LinearReLU(), "mobilenetv3_small_050", "without a ReLU in the branch"),
        (SmoothReLU("fc"), "resnet18", "nothing from fc on"),
        (PerturbationDecay("layer9"), "resnet18", "no layer layer9: use one of act1, layer1"),
    ],
)
def test_what_a_network_lacks_is_named(rule: Any, architecture: str, message: str) -> None:
    with torch.device("meta"):
        body = timm.create_model(architecture)
    with pytest.raises(ValueError, match=message):
        rule.find(body)


@pytest.mark.parametrize(
    ("architecture", "kinds"),
    [
        ("resnet18", {"BasicBlock"}),
        ("resnetv2_18", {"PreActBasic"}),
        ("resnetv2_50", {"PreActBottleneck"}),
        ("skresnet18", {"SelectiveKernelBasic"}),
        ("skresnet50", {"SelectiveKernelBottleneck"}),
        ("resnest14d", {"ResNestBottleneck"}),
        ("gernet_m", {"BasicBlock", "BottleneckBlock"}),
        ("cspresnet50", {"BottleneckBlock"}),
        ("regnetx_002", {"Bottleneck"}),
        ("mobilenetv2_050", {"InvertedResidual"}),
        ("eva02_tiny_patch14_224", {"EvaBlock"}),
        ("swinv2_tiny_window8_256", {"SwinTransformerV2Block"}),
    ],
)
@torch.no_grad()
def test_what_ends_a_branch_is_added_to_the_shortcut(architecture: str, kinds: set[str]) -> None:
    """What is added there comes out of the block, the same everywhere; ReLUs let it through."""
    torch.manual_seed(0)
    body = timm.create_model(architecture).double().eval()
    side = body.pretrained_cfg["input_size"][1] if hasattr(body, "blocks") else 64
    side = 256 if architecture.startswith("swin") else side
    given: dict[str, Any] = {}
    blocks = {name: b for name, b in body.named_modules() if branch_ends(b)}
    for name, block in blocks.items():
        block.register_forward_pre_hook(
            lambda m, a, k, name=name: given.setdefault(name, (a, k)) and None, with_kwargs=True
        )
    body(torch.rand(1, 3, side, side, dtype=torch.float64))
    assert {type(b).__name__ for b in blocks.values()} == kinds
    assert not unknown_blocks(body)
    for name, block in [*blocks.items()][:: max(1, len(blocks) // 4)]:
        ends = [getattr(block, end) for end in branch_ends(block)]
        for end in ends:
            out = []
            for more in (1e4, 2e4):
                hooks = [e.register_forward_hook(lambda m, i, z: z * 0) for e in ends]  # all others
                hooks[ends.index(end)].remove()
                hooks.append(end.register_forward_hook(lambda m, i, z, more=more: z + more))
                out.append(block(*given[name][0], **given[name][1]))
                for hook in hooks:
                    hook.remove()
            assert (out[1] - out[0] - 1e4).abs().max() < 1e-6, name
        if len(ends) > 1:
            continue
        order: list[str] = []
        inner = inner_relus(block)
        for part, module in {**inner, "end": ends[0]}.items():
            module.register_forward_hook(lambda m, i, z, to=order, part=part: to.append(part))
        block(*given[name][0], **given[name][1])
        assert {*order} == {*inner, "end"}
        assert order[-1] == "end"  # none is that after the addition


@pytest.mark.parametrize(
    "objective",
    [
        Importance("layer2.0.act1"),
        Attribution("layer2.0.downsample"),
        TAP(layers=[0, "layer2.1.bn1"]),
    ],
)
def test_a_layer_inside_of_a_cut_block_is_refused(objective: Any) -> None:
    """LinBP's blocks make their gradient by themselves, so that none would come from there."""
    attack = Attack(Linf(EPS), steps=1, objective=objective, surrogate=(LinearReLU("layer2.0"),))
    layer = objective.layers[-1]
    block = layer.rpartition(".")[0]
    message = (
        rf"reads {layer}, which lies inside of {block}: LinearReLU\(.*give {block} as the layer"
    )
    with pytest.raises(ValueError, match=message):
        attack.bind(residual())
    for mended in (
        replace(attack, objective=Importance(block, copies=2)),
        replace(attack, objective=Importance("layer1.1.bn1", copies=2)),
        replace(attack, surrogate=(SmoothReLU(),)),
    ):
        assert not torch.equal(mended(residual(), images(2)), images(2))


def test_places_are_checked() -> None:
    for start in (1.5, -0.1, "", True, None):
        with pytest.raises(ValueError, match="a depth from 0 to 1"):
            LinearReLU(start)  # type: ignore[arg-type]


IDLE: list[Any] = [
    (SkipGradient(1), SkipGradient(0.9, first=True)),
    (PerturbationDecay(gamma=1), PerturbationDecay(gamma=0.9)),
    (FeatureDiversity(0, 0, 1), FeatureDiversity(0, 0.1, 1)),
    (Mixup(0, pool=6), Mixup(0.9, pool=6)),
    (Mixup(1, 0, pool=6), Mixup(1, 0.1, pool=6)),
    (TunedMixup(0, pool=6), TunedMixup(0.9, pool=6)),
    (TunedMixup(1, 0, beta=0, pool=6), TunedMixup(1, 0, beta=0.1, pool=6)),
    (Flatten(2, 0, 0), Flatten(2, 0, 0.1)),
    (Penalize(2, 0, 0), Penalize(2, 0, 0.1)),
    (Relate(2, 0), Relate(2, 3.0)),
    (Reverse(2, 0), Reverse(2, 0.1)),
    (Reverse(2, late=1), Reverse(2, late=0.5)),
]


@pytest.mark.parametrize(("idle", "other"), IDLE, ids=str)
def test_rules_and_stages_say_that_they_change_nothing(idle: Any, other: Any) -> None:
    model, x = residual(), images(2)
    y = (model(x).argmax(1) + 1) % CLASSES  # fooled at once: what waits for it begins
    plain = Attack(Linf(EPS), steps=3, size="eps/2", quantize="off", pool=a_pool(x.shape[-1]))
    made = []
    for part in (None, idle, other):
        slot = "surrogate" if hasattr(part, "find") else "chain"
        attack = replace(plain, **{slot: (part,)}) if part else plain
        assert idle_parts(attack) == ([idle] if part is idle else [])
        made.append(attack(model, x, y))
    assert torch.allclose(made[0], made[1], rtol=0, atol=1e-12)
    assert not torch.allclose(made[0], made[2], rtol=0, atol=1e-12)


def test_references_and_clean_features_are_counted() -> None:
    """Forwards by hooks are those of records: ILPD two a gradient, DHF one more at the start."""
    cell = expand(["attack=ifgsm", "source=res152"])[0]
    config = cell.suite.networks["res152"]
    network = load_network(
        "res152", config, memory_format="channels_last", precision="fp32", device="cpu"
    )
    for rule, views, cost in (
        (PerturbationDecay(), (), (4, 2)),
        (PerturbationDecay(), (Draws(3),), (12, 6)),
        (FeatureDiversity(), (), (3, 2)),
        (Ghost(), (), (2, 2)),
        (LinearReLU(0.9), (), (2, 2)),
    ):
        calls = Calls()
        attack = Attack(Linf(EPS), steps=2, surrogate=(rule,), views=views)
        made = list(craft(attack, network, demo_items(cell, 2), 2, calls=calls))
        assert {(m.forwards, m.backwards) for m in made} == {cost}
        assert (calls.forwards, calls.backwards) == cost


def test_high_level_features_change_once_an_image_has_fooled_for_good() -> None:
    rule, relu = FeatureDiversity(keep=0), nn.ReLU()
    x = images(2)
    p = Pass(context(x, fooled=torch.tensor([False, True])), "m", relu, x, None, {})
    made = rule.forward(relu.forward, p)(x)
    assert torch.equal(made[0], x[0])
    assert torch.allclose(made[1], made[1].mean().expand_as(x[1]))
    model = residual()
    attack = Attack(Linf(EPS), steps=1, surrogate=(rule,))
    y = model(x).argmax(1)
    y[1] = (y[1] + 1) % CLASSES
    s = attack.begin(x, y)
    assert s["fooled"].tolist() == [False, False]
    source: Surrogate = attack.bind(model)
    _, s = attack.tick(source, s)
    assert s["fooled"].tolist() == [False, True]
    s |= {"y": model(s["x"]).argmax(1), "t": s["t"] * 0}  # not any more: it stays
    _, s = attack.tick(source, s)
    assert s["fooled"].tolist()[1]


class Placed(nn.Module):
    """A classifier with a table of 16 places, made by a linear layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.table = residual(), nn.Linear(2, CLASSES).double().requires_grad_(False)
        self.places = torch.rand(16, 2, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.table(self.places).mean(0)  # type: ignore[no-any-return]


@pytest.mark.parametrize("rule", [Mixup(1, pool=8), TunedMixup(1, pool=8)])
def test_what_is_no_image_is_not_mixed(rule: Mixup) -> None:
    """As many rows as two of each image of the pool, or one of each image that is attacked."""
    torch.manual_seed(0)
    model, x = Placed().eval(), images(16)
    attack = Attack(Linf(EPS), steps=2, size="eps/2", surrogate=(rule,), pool=a_pool(x.shape[-1]))
    y = model(x).argmax(1)
    whole = attack(model, x, y)
    assert torch.equal(whole[:3], attack(model, x[:3], y[:3]))
    assert not torch.equal(whole, replace(attack, surrogate=())(model, x, y))


def test_copies_have_references_of_their_own() -> None:
    """ILPD's n gradients a step, each with its own noise, are copies of the image itself."""
    model, x = residual(), images(2)
    y = model(x).argmax(1)
    attack = replace(ours("ilpd", "linf", "steps=3"), views=(Draws(2),))
    given = Given(model, x, y, DrawsOf(attack, x, y))
    theirs = papers.ilpd(model, x, y, EPS, EPS / 8, 3, *noise(given), n=2)
    assert torch.allclose(attack(model, x, y), theirs, rtol=0, atol=1e-12)


def test_copies_of_another_size_need_their_size_back() -> None:
    model, x = residual(), images(2)
    views = (Diverse(prob=1.0, ratio=1.5),)
    for rule in (PerturbationDecay(), FeatureDiversity()):
        attack = Attack(Linf(EPS), steps=1, surrogate=(rule,), views=views)
        message = rf"^{type(rule).__name__} needs features of layer1\S* .*diverse.back=true"
        with pytest.raises(ValueError, match=message):
            attack(model, x, model(x).argmax(1))
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("source", ["res152", "ir_v2"])
@pytest.mark.parametrize("name", RULES)
def test_folded_batch_norms_change_nothing(name: str, source: str) -> None:
    cell = expand([f"attack={name}", f"source={source}"])[0]
    network, folded = (
        load_network(
            source,
            cell.suite.networks[source],
            memory_format="channels_last",
            precision="fp64",
            device="cpu",
            folded=fold,
        )
        for fold in (False, True)
    )
    items = demo_items(cell, 2)
    x, y = network.as_input([i.pixels for i in items]), torch.tensor([i.y for i in items])
    attack = load_attack(name, norm="l2", steps=2, quantize="off", overrides=["attack.size=eps/2"])
    assert (
        attack.bind(network).described()[0].split(" (")[0]
        == (attack.bind(folded).described()[0].split(" (")[0])
    )
    assert torch.allclose(attack(network, x, y), attack(folded, x, y), rtol=0, atol=1e-9)
