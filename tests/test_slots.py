"""The slots for rules, objectives and strategies, with parts that are easy to compute by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agr.attacks import Attack, Linf
from agr.attacks.contracts import Ask, AskMembers
from agr.attacks.engine import Calls, Item, craft
from agr.attacks.parts import Context, Pass, State
from agr.attacks.stages import Collect, Flatten, Integrate, Penalize, Reverse, Variance
from agr.attacks.views import DiversityEnsemble, Scale
from agr.config.cost import gradients_of
from agr.config.schema import NetworkConfig
from agr.models import roles
from agr.models.network import Network
from agr.models.sources import Ensemble, bodies_of
from agr.records.agreement import REPLACING
from tests.conftest import CLASSES, EPS, images, small_model


class Toy(nn.Module):
    """A network with a ReLU that is called, and one that isn't."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.act, self.unused = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Identity()
        self.head = nn.Linear(6, CLASSES)
        self.double().eval().requires_grad_(False)
        with torch.no_grad():
            self.conv.weight *= 5
            self.head.weight *= 20

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Mixed:
    """Features of a module, with a share of the clean image's."""

    name: str = "act"
    share: float = 0.5
    clean = True

    def find(self, network: nn.Module) -> dict[str, nn.Module]:
        return {self.name: network.get_submodule(self.name)}

    def forward(self, own: Callable[..., Any], p: Pass) -> Callable[..., Any]:
        assert p.clean is not None
        mixed: Tensor = p.clean * self.share
        return lambda x: own(x) * (1 - self.share) + mixed


@dataclass(frozen=True)
class Broken(Mixed):
    """A rule that fails in the middle of a pass."""

    clean = False

    def forward(self, own: Callable[..., Any], p: Pass) -> Callable[..., Any]:
        def fail(x: Tensor) -> Tensor:
            raise RuntimeError("in mid-pass")

        return fail


@dataclass(frozen=True)
class Along:
    """Features along the gradient that the label's logit has on the clean image."""

    layers = ("act",)
    once = 1
    targeted: bool = True

    def make(self, ask: Ask, y: Tensor, c: Context) -> State:
        _, (g,) = ask.gradients(c.image, lambda z, _: z.gather(1, y[:, None]).squeeze(1))
        return {"weights": g}

    def __call__(self, logits: Tensor, y: Tensor, features: list[Tensor], s: State) -> Tensor:
        return -(s["weights"] * features[0]).flatten(1).sum(1)


@dataclass(frozen=True)
class InTurn:
    """The gradients of an ensemble's members, one after the other, the last one twice as much."""

    def gradients(self, members: int) -> int:
        return members

    def init(self, x: Tensor) -> State:
        return {"last": torch.zeros_like(x)}

    def update(self, ask: AskMembers, members: int, s: State, c: Context) -> tuple[Tensor, State]:
        total = torch.zeros_like(c.x)
        for i in range(members):
            # Named by row: the same passes, each of a batch in which the others don't count.
            g = ask.gradient(c.image, torch.full((len(c.x),), i) if i else i, i)
            total = total + g * (2 if i == members - 1 else 1)
        return total + s["last"], {"last": total}


@dataclass(frozen=True)
class Weighed:
    """The gradient of all logits by their losses, and of one member that the key names."""

    def gradients(self, members: int) -> int:
        return members + 1

    def computed(self, members: int) -> int:
        return 3 * members

    def init(self, x: Tensor) -> State:
        return {}

    def update(self, ask: AskMembers, members: int, s: State, c: Context) -> tuple[Tensor, State]:
        losses = torch.stack([ask.loss(z) for z in ask.logits(c.image).unbind(1)], 1)
        g = ask.blended(c.image, losses.softmax(1), 0)
        return g + ask.gradient(c.image, c.root % members, 1, losses[:, 0]), s


def gradient(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(leaf), y, reduction="sum")
    return torch.autograd.grad(loss, leaf)[0]


def stepped(x: Tensor, x0: Tensor, g: Tensor, size: float) -> Tensor:
    moved = x + size * g.sign()
    return torch.minimum(torch.maximum(moved, x0 - EPS), x0 + EPS).clamp(0, 1)


def test_a_rule_acts_on_gradients_alone_and_is_gone_afterwards() -> None:
    model, x0 = Toy(), images(3)
    y = model(x0).argmax(1)
    clean = model.act(model.conv(x0))

    def ruled(x: Tensor) -> Tensor:
        return model.head((model.act(model.conv(x)) / 2 + clean / 2).mean((2, 3)))  # type: ignore[no-any-return]

    x = x0
    for _ in range(3):
        x = stepped(x, x0, gradient(ruled, x, y), EPS / 3)
    attack = Attack(Linf(EPS), steps=3, surrogate=(Mixed(),), quantize="off")
    assert torch.allclose(attack(model, x0, y), x, rtol=0, atol=1e-12)
    assert not torch.equal(x, Attack(Linf(EPS), steps=3, quantize="off")(model, x0, y))
    assert not any("forward" in vars(module) for module in model.modules())
    with pytest.raises(RuntimeError, match="in mid-pass"):
        Attack(Linf(EPS), surrogate=(Broken(),))(model, x0, y)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_module_that_is_never_called_is_an_error() -> None:
    model, x = Toy(), images(2)
    attack = Attack(Linf(EPS), surrogate=(Mixed("unused"),))
    with pytest.raises(ValueError, match="never called unused"):
        attack(model, x, model(x).argmax(1))
    assert not any("forward" in vars(module) for module in model.modules())
    with pytest.raises(ValueError, match="the model is a function"):
        attack(lambda x: model(x), x, model(x).argmax(1))


def test_an_objective_keeps_what_it_made_of_the_clean_image() -> None:
    model, x0 = Toy(), images(3)
    y = model(x0).argmax(1)
    leaf = model.act(model.conv(x0)).requires_grad_()
    logit = model.head(leaf.mean((2, 3))).gather(1, y[:, None]).sum()
    weights = torch.autograd.grad(logit, leaf)[0]
    for targeted, sign in ((False, -1), (True, 1)):
        x = x0
        for _ in range(3):
            point = x.clone().requires_grad_()
            value = (weights * model.act(model.conv(point))).sum()
            x = stepped(x, x0, sign * torch.autograd.grad(value, point)[0], EPS / 3)
        attack = Attack(Linf(EPS), steps=3, objective=Along(), targeted=targeted, quantize="off")
        assert torch.allclose(attack(model, x0, y), x, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="has no target"):
        Attack(Linf(EPS), objective=Along(targeted=False), targeted=True)
    with pytest.raises(ValueError, match="no layer act: use one of 0, 1"):
        Attack(Linf(EPS), objective=Along())(small_model(), x0, y)


def network(seed: int = 0) -> Network:
    config = NetworkConfig(
        architecture="", weights="", classes=CLASSES, size=12, mean=[0.0] * 3, std=[1.0] * 3
    )
    return Network(Toy(seed), config, "contiguous", "fp64")


def test_a_strategy_joins_the_members_gradients() -> None:
    members, x0 = [network(seed) for seed in (1, 2, 3)], images(3)
    source = Ensemble(members, "logits")
    y = source(x0).argmax(1)
    x, last = x0, torch.zeros_like(x0)
    for _ in range(3):
        a, b, c = (gradient(member, x, y) for member in members)
        total = a + b + 2 * c
        x, last = stepped(x, x0, total + last, EPS / 3), total
    attack = Attack(Linf(EPS), steps=3, ensemble=InTurn(), quantize="off")
    assert torch.allclose(attack(source, x0, y), x, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"InTurn needs a source of several networks: source=\[A"):
        attack(members[0], x0, y)
    with pytest.raises(ValueError, match="can't ask for more"):
        Attack(Linf(EPS), ensemble=InTurn(), chain=(Variance(),))
    assert gradients_of([], [], InTurn(), 3) == 3


@pytest.mark.parametrize("targeted", [False, True])
def test_a_strategy_weighs_logits_and_takes_a_member_by_row(targeted: bool) -> None:
    members, x0, key = [network(seed) for seed in (1, 2, 3)], images(3), torch.tensor([2, 4, 0])
    source, sign = Ensemble(members, "logits"), -1 if targeted else 1
    y = source(x0).argmax(1)
    rows = []
    for b in range(3):
        x, own = x0[b : b + 1], y[b : b + 1]
        losses = [sign * nn.functional.cross_entropy(m(x), own) for m in members]
        weights = torch.stack(losses).softmax(0)

        def blend(image: Tensor, weights: Tensor = weights) -> Tensor:
            return sum(w * m(image) for w, m in zip(weights, members, strict=True))  # type: ignore[return-value]

        def one(image: Tensor, b: int = b, weight: Tensor = losses[0]) -> Tensor:
            return weight * members[int(key[b]) % 3](image)

        g = sign * (gradient(blend, x, own) + gradient(one, x, own))
        rows.append(stepped(x, x, g, EPS))
    attack = Attack(Linf(EPS), steps=1, ensemble=Weighed(), quantize="off", targeted=targeted)
    assert torch.allclose(attack(source, x0, y, key), torch.cat(rows), rtol=0, atol=1e-12)
    assert (attack.gradients(3), gradients_of([], [], Weighed(), 3)) == (9, 4)


ATTACKS = {
    # attack, members of the source, forwards and gradients of an image in 3 steps
    "rule": (Attack(Linf(EPS), steps=3, surrogate=(Mixed(),)), 1, 4, 3),
    "objective": (Attack(Linf(EPS), steps=3, objective=Along()), 1, 5, 4),
    "both": (Attack(Linf(EPS), steps=3, objective=Along(), surrogate=(Mixed(),)), 1, 5, 4),
    "strategy": (Attack(Linf(EPS), steps=3, ensemble=InTurn()), 3, 9, 9),
    "weighed": (Attack(Linf(EPS), steps=3, ensemble=Weighed()), 3, 21, 12),
    "replaces": (Attack(Linf(EPS), steps=3, chain=(Penalize(2),)), 1, 12, 12),
    "flatten": (Attack(Linf(EPS), steps=3, chain=(Flatten(2, penalty=9),)), 1, 6, 6),
    "late": (Attack(Linf(EPS), steps=3, chain=(Reverse(2, late=0.5),)), 1, 7, 7),
    "bare": (Attack(Linf(EPS), steps=3, views=(Scale(2),), chain=(Reverse(2, late=0),)), 1, 12, 12),
    "paths": (Attack(Linf(EPS), steps=3, chain=(Integrate(2),)), 1, 9, 9),
    "sample": (Attack(Linf(EPS), steps=3, chain=(Collect(2, sample=True),)), 1, 12, 12),
    "joint": (Attack(Linf(EPS), steps=3, views=(DiversityEnsemble(2), Scale(2))), 1, 24, 12),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_costs_and_bits_depend_on_no_companion(name: str) -> None:
    attack, count, forwards, backwards = ATTACKS[name]
    members = [network(seed) for seed in range(count)]
    source = Ensemble(members, "logits") if count > 1 else members[0]
    pixels = (images(7) * 255).round().to(torch.uint8)
    labels = source(pixels / 255.0).argmax(1).tolist()
    items = [
        Item(i, pixels[i].numpy(), labels[i], key=random.Random(i).getrandbits(60))
        for i in range(7)
    ]

    def made(
        chosen: list[Item[int]], calls: Calls, slots: int = 4
    ) -> dict[int, tuple[bytes, Any, Any]]:
        found = craft(attack, source, chosen, slots, calls=calls)
        return {m.item.tag: (m.image.tobytes(), m.forwards, m.backwards) for m in found}

    calls = Calls()
    expected = made(items, calls)
    assert {row[1:] for row in expected.values()} == {(forwards, backwards)}
    assert made(items[::-1], Calls()) == expected
    assert made(items[2:3], Calls()) == {2: expected[2]}
    alone = Calls()
    made(items[:1], alone, slots=1)  # in more, copies share passes
    assert alone == Calls(forwards, backwards)


def test_records_know_the_stages_that_take_no_gradient_at_the_iterate() -> None:
    from agr.attacks import stages

    classes = [kind for kind in vars(stages).values() if getattr(kind, "replaces", False)]
    assert {f"agr.attacks.stages.{kind.__name__}" for kind in classes} == {*REPLACING}
    with pytest.raises(ValueError, match="must be the first stage"):
        Attack(Linf(EPS), chain=(Variance(), Penalize()))


@pytest.mark.parametrize(
    ("architecture", "layers", "branches"),
    [
        ("resnet50", ["act1", "layer1", "layer2", "layer3", "layer4"], 16),
        ("tf_efficientnet_lite0", [f"blocks.{i}" for i in (0, 1, 2, 4, 6)], 9),
        ("inception_resnet_v2", None, 40),
        ("densenet121", None, 58),
        ("convnext_tiny", [f"stages.{i}" for i in range(4)], 18),
        ("vit_base_patch16_224", [f"blocks.{i}" for i in range(12)], 24),
        ("swin_tiny_patch4_window7_224", [f"layers.{i}" for i in range(4)], 24),
    ],
)
def test_roles_of_modules(architecture: str, layers: list[str] | None, branches: int) -> None:
    import timm

    with torch.device("meta"):
        body = timm.create_model(architecture)
    assert len(roles.residual_branches(body)) == branches
    assert layers is None or roles.layers(body) == layers
    names = roles.layers(body)
    depths = [roles.layer_of(body, depth)[0] for depth in (0.0, 1.0)]
    assert depths == [names[0], names[-1]]
    assert roles.layer_of(body, names[1])[0] == names[1]
    assert bodies_of(body) == [body]


def test_a_role_that_a_network_lacks_is_named() -> None:
    import timm

    with torch.device("meta"):
        vgg, vit = timm.create_model("vgg16"), timm.create_model("vit_tiny_patch16_224")
        lite = timm.create_model("tf_efficientnet_lite0")
    assert len(roles.max_pools(vgg)) == 5
    assert len(roles.relus(lite)) == 33  # ReLU6: stem, 1 + 15 x 2, head
    assert len(roles.attention_maps(vit)) == len(roles.mlps(vit)) == 12
    for role, body, message in (
        (roles.residual_branches, vgg, r"\(VGG\) has no residual branch"),
        (roles.max_pools, lite, r"\(EfficientNet\) has no max-pool"),
        (roles.attention_maps, vgg, r"\(VGG\) has no attention"),
        (roles.mlps, vgg, r"\(VGG\) has no transformer block"),
    ):
        with pytest.raises(ValueError, match=message):
            role(body)
    fused = roles.fused_attentions(vit)
    assert len(fused) == 12
    with roles.unfused(fused):
        assert roles.fused_attentions(vit) == []
    assert roles.fused_attentions(vit) == fused
