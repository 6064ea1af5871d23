"""The source of an attack as its gradients see it: with rules on its modules, and with features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from agr.attacks.parts import Context, Model, Objective, Pass, Pool, Rule, State
from agr.models.roles import fused_attentions, layer_of, unfused
from agr.models.sources import behind, bodies_of
from agr.utils.text import plural

RULES = 1 << 20  # use of a key: the draws of rules, apart from those of views
Features = list[Tensor]
Forward = Callable[..., Any]
Make = Callable[[int, str, nn.Module], Forward]  # place in the list, name, module


class Surrogate:
    """A model, the modules that an attack's rules change, and the layers of its objective.

    It answers as the model does, without rules. Raises ValueError where a rule or a layer isn't
    found.
    """

    def __init__(
        self,
        model: Model,
        rules: Sequence[Rule] = (),
        objective: Objective | None = None,
        pool: Pool | None = None,
    ):
        self.model, self.rules, self.pool = model, rules, pool
        self.takes_side = getattr(model, "takes_side", False)
        self.takes_draw = getattr(model, "takes_draw", False)
        self.members: list[Model] = list(getattr(behind(model), "members", [model]))
        bodies = bodies_of(model) if rules or objective else []
        self.found = [[rule.find(body) for rule in rules] for body in bodies]
        self.layers: dict[str, nn.Module] = {}
        if objective:
            if len(bodies) > 1:
                raise ValueError(
                    f"{type(objective).__name__} takes features of one network, and the source "
                    f"has {len(bodies)}: attack one of them"
                )
            self.layers = dict(layer_of(bodies[0], layer) for layer in objective.layers)
        wanted = any(getattr(rule, "unfused", False) for rule in rules)
        self.fused = [m for body in bodies for m in fused_attentions(body)] if wanted else []
        self.clean = [i for i, rule in enumerate(rules) if getattr(rule, "clean", False)]
        self._benign: dict[tuple[int, int], dict[str, Tensor]] = {}

    def described(self) -> list[str]:
        """Return a line for each rule, with the modules that it found, and for the layers."""
        lines = []
        for b, rules in enumerate(self.found):
            of = f" of network {b + 1}" if len(self.found) > 1 else ""
            for rule, modules in zip(self.rules, rules, strict=True):
                lines.append(f"{type(rule).__name__} changes {_listed(modules)}{of}")
        return [*lines, *([f"features of {_listed(self.layers)}"] if self.layers else [])]

    def __call__(self, *inputs: Any, **keys: Any) -> Tensor:
        """Return the model's own logits."""
        return self.model(*inputs, **keys)

    @contextmanager
    def ruled(self, c: Context, made: State, member: int | None = None) -> Iterator[Features]:
        """Put the rules on while a forward pass runs; features appear in the list that is yielded.

        `made` is what `record` returned; of an ensemble, `member` is the one that is asked.
        """
        found: dict[str, Tensor] = {}
        features: Features = []
        with ExitStack() as undo:
            undo.enter_context(unfused(self.fused))
            for b, rules in enumerate(self.found):
                if member is not None and b != member:
                    continue
                for i, (rule, modules) in enumerate(zip(self.rules, rules, strict=True)):
                    clean = made.get("clean", {}).get(f"{b} {i}", {})
                    benign = self._benign.get((b, i), {})
                    own = c.at(RULES, b, i)
                    undo.enter_context(replaced(modules, _with(rule, own, clean, benign)))
            undo.enter_context(recorded(self.layers, found))
            yield features
            features.extend(found[name] for name in self.layers)

    @torch.no_grad()
    def record(self, x0: Tensor) -> State:
        """Return what the modules of rules make of clean images, where rules need it."""
        made: State = {}
        for b, rules in enumerate(self.found):
            for i in self.clean:
                made[f"{b} {i}"] = self._made(b, rules[i], x0)
        return {"clean": made} if made else {}

    @torch.no_grad()
    def prepare(self) -> None:
        """Run the pool's images once, where rules mix them in."""
        for b, rules in enumerate(self.found):
            for i, rule in enumerate(self.rules):
                size = getattr(rule, "pool", 0)
                if size and self.pool and (b, i) not in self._benign:
                    images = self.pool.images[:size]
                    self._benign[b, i] = self._made(b, rules[i], images)

    def _made(self, b: int, modules: Mapping[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        with unfused(self.fused), recorded(modules, found):
            self.members[b](x)
        return {name: made.detach() for name, made in found.items()}


def _with(
    rule: Rule, c: Context, clean: Mapping[str, Tensor], benign: Mapping[str, Tensor]
) -> Make:
    def make(i: int, name: str, module: nn.Module) -> Forward:
        p = Pass(c.at(i), name, module, clean.get(name), benign.get(name))
        return rule.forward(module.forward, p)

    return make


@contextmanager
def replaced(modules: Mapping[str, nn.Module], make: Make) -> Iterator[None]:
    """Replace the forward passes of modules by those that `make` returns, for a while.

    Raises ValueError at the end if the network didn't call one of them: what a rule says about it
    would silently not be so.
    """
    called: Counter[str] = Counter()

    def counted(name: str, forward: Forward) -> Forward:
        def call(*inputs: Any, **keys: Any) -> Any:
            called[name] += 1
            return forward(*inputs, **keys)

        return call

    with ExitStack() as undo:
        for i, (name, module) in enumerate(modules.items()):
            undo.callback(_put_back, module, vars(module).get("forward"))
            module.forward = counted(name, make(i, name, module))
        yield
    if missing := [name for name in modules if not called[name]]:
        raise ValueError(
            f"the network never called {', '.join(missing[:5])}, which the attack changes or "
            "reads: its code takes another way there, so that the attack can't be run on it"
        )


def _listed(modules: Mapping[str, nn.Module]) -> str:
    names = [*modules]
    shown = ", ".join(names) if len(names) < 4 else f"{names[0]}, …, {names[-1]}"
    return f"{plural(len(names), 'module')} ({shown})"


def _put_back(module: nn.Module, forward: Forward | None) -> None:
    if forward is None:
        del module.forward
    else:
        module.forward = forward


def recorded(modules: Mapping[str, nn.Module], found: dict[str, Tensor]) -> Any:
    """Return a context in which `found` gets what each of `modules` returns last."""

    def make(_: int, name: str, module: nn.Module) -> Forward:
        own = module.forward

        def forward(*inputs: Any, **keys: Any) -> Any:
            found[name] = made = own(*inputs, **keys)
            if not isinstance(made, Tensor):
                raise ValueError(
                    f"{name} returns a {type(made).__name__}, and the attack reads a tensor there: "
                    "name another layer"
                )
            return made.clone()  # what follows may change it in place

        return forward

    return replaced(modules, make)
