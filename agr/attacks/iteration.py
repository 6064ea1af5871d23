"""The iteration of an attack: the steps of rows that share a batch.

`begin` makes the rows of a run, `observe` finds those that are done, `tick` moves every living row
by a step; the plain call and the engine with its slots share these. Nothing here holds a state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from agr.attacks.ball import nonzero, per_image
from agr.attacks.composition import Composition, look_aheads, replaces
from agr.attacks.draws import GRADIENT, OWN, START, STEPS, fold
from agr.attacks.goal import Goal
from agr.attacks.gradient import Taker
from agr.attacks.host import known
from agr.attacks.maker import Maker
from agr.attacks.members import Members
from agr.attacks.parts import (
    At,
    Context,
    Model,
    Observation,
    Seen,
    State,
    choose,
    leafwise,
    no_gradient,
)
from agr.attacks.rows import Host
from agr.attacks.step import step_size
from agr.attacks.surrogate import Surrogate
from agr.models.logits import confidence, is_fooled, joint, predict


@dataclass(frozen=True)
class Iteration(Composition):
    """The steps that an attack takes with a batch of rows: see `Attack`."""

    def begin(
        self, x0: Tensor, y: Tensor, key: Tensor | None = None, label: Tensor | None = None
    ) -> State:
        """Make the rows of a run.

        Args:
            x0: clean images (B, 3, H, W) in [0, 1].
            y: labels (B,), or target labels; -1 can't be attacked.
            key: randomness of each image, (B,) int64; by default its place in the batch.
            label: true classes (B,) where `y` is something else.
        """
        rows = torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
        key = torch.arange(len(x0), device=x0.device) if key is None else key
        x = x0.clone()
        if self.start:
            started = self.ball.project(self.start(x0, self.ball, fold(key, START)), x0)
            x = torch.where(per_image(y >= 0, x), started, x)  # an image without a label stays
        return {
            "x": x,
            "x0": x0,
            "y": y,
            "label": y if label is None else label,
            "key": key,
            "t": rows,
            "first": rows - 1,  # step of the first success, -1 while there is none
            "live": y >= 0,  # NO_ANSWER can't be attacked
            "seen": rows > 0,  # the iterate has been observed
            "flat": rows == 0,  # every gradient so far was zero
            "fooled": rows > 0,  # it has fooled the source in a gradient's pass, if a rule watches
            "forwards": rows,  # passes for the image: its observations and gradients
            "backwards": rows,
            "made": {},  # before the first step of each row, by `_prepared`
            "ensemble": self.ensemble.init(x0) if self.ensemble else {},
            "chain": {str(i): stage.init(x0) for i, stage in enumerate(self.chain)},
            "step": self.step.init(x0),
            "stop": self.stop.init(x0) if self.stop else {},
        }

    def tick(
        self, model: Model, s: State, host: Host | None = None
    ) -> tuple[Observation | None, State]:
        """Take one step with all rows that are not done.

        Where the gradient is that of the iterate (`direct`), its forward is an observation too:
        T steps cost T+1 forwards and T gradients, stop and trace included. Elsewhere there is
        none; call `observe` where it is wanted. A `host` answers what the device would be asked.
        """
        source, host = self.bind(model), host or Host()
        s = self._prepared(source, s, host)
        if not self.direct:
            more = s["live"] & (s["t"] < self.steps)
            if not host.goes_on(more, None, s):
                return None, s
            return None, self._step(source, None, self._shown(s), s, host.few(more))
        point, y = self._shown(s).detach().requires_grad_(), s["y"].clamp_min(0)
        with torch.enable_grad():
            if source.graphs:
                every = torch.ones_like(s["live"])
                logits, _, g = source.graphs(self._goal, point, point, y, 1.0, every)
            else:
                with source.ruled(self.context(s, point), s["made"]) as features:
                    logits = source(point)
            seen, s = self._observe(joint(logits.detach()), point.detach(), s)
            if not host.goes_on(seen.more, seen, s):
                return seen, s
            if not source.graphs:
                losses = self._goal.losses(logits, y, features, s["made"], point)
                g = self._goal.gradient(losses, point)
        return seen, self._step(source, g, point.detach(), s, host.few(seen.more))

    @torch.no_grad()
    def observe(self, model: Model, s: State) -> tuple[Observation, State]:
        """Find the rows that are done, by a forward pass that the next tick doesn't repeat.

        It pays where most rows are done: their gradients would be computed for nothing.
        """
        shown = self._shown(s)
        passes = len(self.bind(model).members) if self.ensemble else 1
        return self._observe(joint(model(shown)), shown, s, passes)

    def final(self, s: State) -> Tensor:
        """Return the adversarial images of the rows of `s`, (B, 3, H, W), as they are scored."""
        return s["x"] if self.quantize == "off" else self.ball.round(s["x"], s["x0"])

    def context(self, s: State, image: Tensor) -> Context:
        """Return what the parts of a step get to know."""
        size = step_size(self.size, self.ball.eps, self.steps) if self.ball.eps > 0 else 0.0
        return Context(
            x=s["x"],
            x0=s["x0"],
            image=image,
            point=image,
            label=s["label"],
            t=s["t"],
            steps=self.steps,
            size=size,
            ball=self.ball,
            root=s["key"],
            path=(STEPS, s["t"]),
            grad=no_gradient,
            pool=self.pool,
            fooled=s["fooled"],
        )

    @property
    def _goal(self) -> Goal:
        return Goal(self.loss, self.objective, self.views, self.targeted)

    def _shown(self, s: State) -> Tensor:
        return self.ball.round(s["x"], s["x0"]) if self.quantize == "always" else s["x"]

    def _prepared(self, source: Surrogate, s: State, host: Host) -> State:
        """Make what rows need before their first step; each row is charged for its own only."""
        if not self.prepares or not host.begins(s):
            return s
        fresh = s["live"] & (s["t"] == 0)
        clean = s | {"x": s["x0"]}
        c = self.context(clean, self._shown(clean)).at(OWN)
        members = len(source.members) if self.ensemble else 1
        maker = Maker(self._goal, source, s["y"].clamp_min(0), c, members)
        made = maker.make()
        return s | {
            "made": choose(fresh, made, s["made"]) if s["made"] else made,
            "forwards": s["forwards"] + fresh * maker.forwards,
            "backwards": s["backwards"] + fresh * maker.backwards,
        }

    def _observe(
        self, logits: Tensor, image: Tensor, s: State, passes: int = 1
    ) -> tuple[Observation, State]:
        pred, new = predict(logits), ~s["seen"]
        fooled = is_fooled(pred, s["y"], targeted=self.targeted)
        done, stop = s["t"] >= self.steps, s["stop"]
        if self.stop:
            seen = Seen(logits, fooled, s["y"], s["t"], self.targeted)
            stopped, after = self.stop.update(seen, stop)
            done, stop = done | stopped, choose(new, after, stop)
        more = s["live"] & ~(done & new)
        changed = {
            "first": torch.where((s["first"] < 0) & fooled & s["live"], s["t"], s["first"]),
            "live": more,
            "stop": stop,
            "seen": torch.ones_like(new),
            "forwards": s["forwards"] + new * passes,
        }
        return Observation(pred, confidence(logits), fooled, image, more), s | changed

    def _step(
        self, source: Surrogate, g: Tensor | None, image: Tensor, s: State, few: Tensor | None
    ) -> State:
        """Take one step with the living rows; `g` is the gradient at `image` if it is known.

        `few` are these rows, if they are few.
        """
        more = s["live"] & (s["t"] < self.steps)
        given, replaced = int(g is not None), replaces(self.chain)
        # Gradients of each row, beyond a `g` that is known, and forward passes alone.
        spent, looked, fooled = s["t"] * 0, s["t"] * 0, s["fooled"].clone()
        counts = (more, spent, looked, fooled if source.watches else None, few)
        made = leafwise(lambda own, _: own, s["made"], s["made"])  # dicts of its own
        taker = Taker(self._goal, source, made, s["y"].clamp_min(0), *counts)
        context, ensemble, ask = self.context(s, image), s["ensemble"], None

        def of_stage(i: int) -> Context:
            """Return the context of stage i, or for -1 of the gradient itself."""

            def slope(
                point: Tensor,
                use: int,
                make: Callable[[Tensor], Tensor] | None = None,
                *,
                rows: Tensor | None = None,
                bare: bool = False,
            ) -> tuple[Tensor, Tensor]:
                if rows is not None and not known((more & rows).any(), True):
                    return torch.zeros_like(more, dtype=point.dtype), torch.zeros_like(point)
                own = taker.of(rows, bare)
                return next(own.slopes([At(point, use, make)], context.at(i + 1, GRADIENT)))

            def grad(point: Tensor, use: int) -> Tensor:
                return slope(point, use)[1]

            def slopes(points: Iterable[At]) -> Iterator[tuple[Tensor, Tensor]]:
                return taker.slopes(points, context.at(i + 1, GRADIENT))

            return context._replace(grad=grad, slope=slope, slopes=slopes).at(i + 1, OWN)

        if g is None:
            for i in look_aheads(self.chain):
                ahead = self.chain[i].point(s["chain"][str(i)], context)  # type: ignore[attr-defined]
                context = context._replace(point=ahead)
            if self.ensemble:
                ask, own = Members(taker, context.at(0, GRADIENT)), context.at(0, OWN)
                g, ensemble = self.ensemble.update(ask, len(source.members), ensemble, own)
            elif replaced:
                g = torch.zeros_like(context.point)
            else:
                g = of_stage(-1).grad(context.point, 0)
        chain, first = {}, g
        for i, stage in enumerate(self.chain):
            g, chain[str(i)] = stage.update(g, s["chain"][str(i)], of_stage(i))
            first = g if replaced and i == 0 else first
        flat = s["flat"] & (ask.flat if ask else ~nonzero(first))
        x, step = self.step.update(g, s["step"], of_stage(len(self.chain)))
        if not known(x.sum().isfinite(), False):  # one pass where nothing is wrong
            x = torch.where(x.isfinite(), x, s["x0"])
        # Of rows that are done only the image and the counts still matter.
        moved = {
            "x": self.ball.project(x, s["x0"]),
            "t": s["t"] + 1,
            "flat": flat,
            "fooled": fooled,
            "seen": torch.zeros_like(s["seen"]),
            "forwards": s["forwards"] + spent * source.passes + looked,
            "backwards": s["backwards"] + spent + given,
        }
        inner = {"chain": chain, "step": step, "ensemble": ensemble, "made": made}
        return s | inner | choose(more, moved, s)
