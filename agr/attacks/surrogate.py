"""The source of an attack as its gradients see it: with rules on its modules, and with features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from agr.attacks.ball import per_image
from agr.attacks.contracts import Objective, Rule, View
from agr.attacks.parts import Context, Model, Pass, Pool, State
from agr.models.roles import fused_attentions, layer_of, unfused
from agr.models.sources import behind, bodies_of, one_draw
from agr.utils.errors import Refused
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
        views: Sequence[View] = (),
    ):
        self.model, self.rules, self.pool = model, rules, pool
        self.takes_side = getattr(model, "takes_side", False)
        self.takes_draw = getattr(model, "takes_draw", False)
        self.is_random = getattr(behind(model), "is_random", False)
        self.members: list[Model] = list(getattr(behind(model), "members", [model]))
        reading = {j: view for j, view in enumerate(views) if getattr(view, "once", 0)}
        bodies = bodies_of(model) if rules or objective or reading else []
        self.found = [[rule.find(body) for rule in rules] for body in bodies]
        self.layers: dict[str, nn.Module] = {}
        for reader in (*([objective] if objective else []), *reading.values()):
            if len(bodies) > 1:
                raise ValueError(
                    f"{type(reader).__name__} takes features of one network, and the source "
                    f"has {len(bodies)}: attack one of them"
                )
        if objective:
            self.layers = dict(layer_of(bodies[0], layer) for layer in objective.layers)
        self.reading: dict[int, tuple[Any, dict[str, nn.Module]]] = {
            j: (view, view.find(bodies[0]))  # type: ignore[attr-defined]
            for j, view in reading.items()
        }
        self.read = [self.layers, *(modules for _, modules in self.reading.values())]
        for layers, found in product(self.read, self.found):
            _check_reach(rules, found, layers)
        wanted = any(getattr(rule, "unfused", False) for rule in rules)
        self.fused = [m for body in bodies for m in fused_attentions(body)] if wanted else []
        self.clean = [i for i, rule in enumerate(rules) if getattr(rule, "clean", False)]
        self.watches = any(getattr(rule, "watches", False) for rule in rules)
        # Passes for each that is asked: itself, and the references of rules.
        self.passes = 1 + sum(hasattr(rule, "reference") for rule in rules)
        self.graphs: Any = None  # `agr.attacks.passes.Graphs`, if gradient passes are replayed
        self._benign: dict[tuple[int, int], dict[str, Tensor]] = {}

    def described(self) -> list[str]:
        """Return a line for each rule, with the modules that it found, and for the layers."""
        lines = []
        for b, rules in enumerate(self.found):
            of = f" of network {b + 1}" if len(self.found) > 1 else ""
            for rule, modules in zip(self.rules, rules, strict=True):
                lines.append(f"{type(rule).__name__} changes {_listed(modules)}{of}")
        return [*lines, *(f"features of {_listed(modules)}" for modules in self.read if modules)]

    @torch.no_grad()
    def try_out(self, x: Tensor) -> None:
        """Run images. Raises ValueError where the network doesn't call what was found."""
        tried = [(modules, recorded(modules, {})) for modules in self.read]
        for found in self.found:
            for rule, modules in zip(self.rules, found, strict=True):
                tried.append((modules, replaced(modules, lambda *at: at[2].forward, _some(rule))))
        model: Any = self.model
        for modules, context in tried:
            if modules:
                with unfused(self.fused), context:
                    model(x, **one_draw(model, len(x)))

    def __call__(self, *inputs: Any, **keys: Any) -> Tensor:
        """Return the model's own logits."""
        return self.model(*inputs, **keys)

    @contextmanager
    def ruled(
        self,
        c: Context,
        made: State,
        member: int | None = None,
        layers: Mapping[str, nn.Module] | None = None,
        live: Tensor | None = None,
    ) -> Iterator[Features]:
        """Put the rules on while a forward pass runs; features appear in the list that is yielded.

        `made` is what `record` returned; of an ensemble, `member` is the one that is asked.
        Features are of `layers`, or those of the objective. Rules replace what they keep in `made`,
        in the rows of `live` (B,), or in none.
        """
        layers = self.layers if layers is None else layers
        found: dict[str, Tensor] = {}
        features: Features = []
        with ExitStack() as undo:
            undo.enter_context(unfused(self.fused))
            changes: list[tuple[dict[str, nn.Module], Make, bool]] = []
            for b, rules in enumerate(self.found):
                if member is not None and b != member:
                    continue
                for i, (rule, modules) in enumerate(zip(self.rules, rules, strict=True)):
                    clean = made.get("clean", {}).get(f"{b} {i}", {})
                    benign = self._benign.get((b, i), {})
                    kept = made.get("kept", {}).get(f"{b} {i}", {})
                    own = c.at(RULES, b, i)
                    own = own._replace(root=own.key, path=())  # once for all modules
                    reference = {}
                    if hasattr(rule, "reference"):
                        reference = self._made(b, i, rule.reference(own))
                    make = _with(rule, own, clean, benign, reference, kept, live)
                    changes.append((modules, make, _some(rule)))
            for change in changes:
                undo.enter_context(replaced(*change))
            undo.enter_context(recorded(layers, found))
            yield features
            features.extend(found[name] for name in layers)

    @torch.no_grad()
    def record(self, c: Context) -> State:
        """Return what the modules of rules make of clean images, and what rules begin with."""
        clean: State = {}
        kept: State = {}
        for b, rules in enumerate(self.found):
            for i, rule in enumerate(self.rules):
                if i in self.clean:
                    clean[f"{b} {i}"] = self._made(b, i, c.x0)
                if init := getattr(rule, "init", None):
                    benign = self._benign.get((b, i), {})
                    passes = {
                        n: Pass(c, n, m, None, benign.get(n), {}) for n, m in rules[i].items()
                    }
                    first = {name: init(p) for name, p in passes.items()}
                    kept[f"{b} {i}"] = {n: t for n, t in first.items() if t is not None}
        return {k: v for k, v in {"clean": clean, "kept": kept}.items() if v}

    def prepare(self) -> None:
        """Run the pool's images once, where rules mix them in."""
        for b in range(len(self.found)):
            for i, rule in enumerate(self.rules):
                size = getattr(rule, "pool", 0)
                if size and self.pool and (b, i) not in self._benign:
                    made = self._made(b, i, self.pool.images[:size])
                    one, two = (self._made(b, i, self.pool.images[[0] * n]) for n in (1, 2))
                    # Without tables, whose rows aren't images'.
                    rows = {n for n, t in one.items() if n in two and len(two[n]) == 2 * len(t)}
                    self._benign[b, i] = {n: made[n] for n in made if n in rows}

    @torch.no_grad()
    def _made(self, b: int, i: int, x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        with unfused(self.fused), recorded(self.found[b][i], found, _some(self.rules[i])):
            self.members[b](x)
        return {name: made.detach() for name, made in found.items()}


def _check_reach(
    rules: Sequence[Rule], found: Sequence[Mapping[str, nn.Module]], layers: Iterable[str]
) -> None:
    """Raise ValueError for a layer inside of a module for which a rule makes another gradient."""
    for rule, modules in zip(rules, found, strict=True):
        for layer, name in product(layers, modules if getattr(rule, "cuts", False) else ()):
            if layer.startswith(f"{name}."):
                raise ValueError(
                    f"the attack reads {layer}, which lies inside of {name}: {rule} lets no "
                    f"gradient reach the image from there, so give {name} as the layer, or the "
                    "rule a later start"
                )


def _some(rule: Rule) -> bool:
    return getattr(rule, "optional", False)


def _with(
    rule: Rule,
    c: Context,
    clean: Mapping[str, Tensor],
    benign: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    kept: dict[str, Tensor],
    live: Tensor | None,
) -> Make:
    shared: dict[str, Any] = {}

    def make(i: int, name: str, module: nn.Module) -> Forward:
        def keep(new: Tensor) -> None:
            assert live is not None
            kept[name] = torch.where(per_image(live, new), new, kept[name])

        state = kept.get(name)
        own = None if state is None or live is None else keep
        made = clean.get(name), benign.get(name), shared, reference.get(name)
        return rule.forward(module.forward, Pass(c.at(i), name, module, *made, state, own))

    return make


@contextmanager
def replaced(modules: Mapping[str, nn.Module], make: Make, some: bool = False) -> Iterator[None]:
    """Replace the forward passes of modules by those that `make` returns, for a while.

    Raises ValueError at the end if the network didn't call one of them, or with `some` if it called
    none: what a rule says about it would silently not be so.
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
    missing = [name for name in modules if not called[name]]
    if missing and not (some and called):
        raise ValueError(
            f"the network never called {', '.join(missing[:5])}, which the attack changes or "
            "reads: its code takes another way there, so that the attack can't be run on it"
        )


def check_shape(part: Any, place: str, own: Sequence[int], clean: Sequence[int]) -> None:
    """Raise Refused unless features of a copy have the shape of the clean image's."""
    if own != clean:
        raise Refused(
            f"{type(part).__name__} needs features{place} of the clean image's shape {[*clean]}, "
            f"and a copy's are {[*own]}: copies must keep the image's size, as with "
            "attack.views.diverse.back=true"
        )


def _listed(modules: Mapping[str, nn.Module]) -> str:
    """Return how many modules there are, also by roles, and their names: the ends of many."""
    names = [*modules]
    kinds = Counter(name.partition(" ")[0].rpartition(".")[2] for name in names)
    shown = ", ".join(names) if len(names) < 4 else f"{names[0]}, …, {names[-1]}"
    if 1 < len(kinds) < len(names) and not any(map(str.isdecimal, kinds)):
        shown = f"{', '.join(f'{n} {kind}' for kind, n in kinds.items())}: {shown}"
    return f"{plural(len(names), 'module')} ({shown})"


def _put_back(module: nn.Module, forward: Forward | None) -> None:
    if forward is None:
        del module.forward
    else:
        module.forward = forward


def recorded(modules: Mapping[str, nn.Module], found: dict[str, Tensor], some: bool = False) -> Any:
    """Return a context in which `found` gets what each of `modules` returns last."""

    def make(_: int, name: str, module: nn.Module) -> Forward:
        own = module.forward

        def forward(*inputs: Any, **keys: Any) -> Any:
            found[name] = made = own(*inputs, **keys)
            if not isinstance(made, Tensor):
                raise Refused(
                    f"{name} returns a {type(made).__name__}, and the attack reads a tensor there: "
                    "name another layer"
                )
            return made.clone()  # what follows may change it in place

        return forward

    return replaced(modules, make, some)
