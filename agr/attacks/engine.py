"""Engine that runs an attack over a stream: slots that are refilled as images are done.

A fixed number of slots holds one image's whole state each. One `Attack.tick` takes a step over all
slots, of one or more forwards and input gradients; images that are done leave, new ones take their
slots, empty slots are padded. Where most images are about to be done, a forward alone goes before,
so that the gradient isn't computed for slots that it is of no use to. Since the shape never changes
and losses are summed, an image's result is bitwise the same whatever its companions, its order or
the point where a run was taken up again.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agr.attacks.attack import Attack
from agr.attacks.ball import row_norm
from agr.attacks.parts import Observation, State, leafwise
from agr.models.sources import Source
from agr.utils.pixels import to_levels

Tag = TypeVar("Tag")


class Item(NamedTuple, Generic[Tag]):
    """An image that is to be attacked; `tag` is the caller's and comes back with the result."""

    tag: Tag
    pixels: NDArray[np.uint8]  # (3, H, W)
    y: int  # the label, or the wanted label when the attack is targeted
    label: int | None = None  # the true class, where `y` is something else
    key: int = 0  # its randomness, a signed 64-bit number


class Point(NamedTuple):
    """One iterate of an image, for the trace."""

    step: int
    fooled: bool
    l2: float  # of the perturbation that the model saw, images in [0, 1]
    cosine: float  # between that image and the clean one


class Iterate(NamedTuple):
    """An iterate as it would be scored if the attack ended there, and its cost until then."""

    image: NDArray[Any]  # as `Crafted.image`
    forwards: int | None
    backwards: int | None


class Crafted(NamedTuple, Generic[Tag]):
    """An adversarial image and what it cost."""

    item: Item[Tag]
    image: NDArray[Any]  # (3, H, W): uint8, or floating point in [0, 1] when never quantised
    steps_used: int | None  # None where another library took them
    first_success_step: int | None
    forwards: int | None  # None of images that were made elsewhere
    backwards: int | None
    trace: tuple[Point, ...] = ()
    flat: bool | None = None  # every gradient was zero; None where nobody looked
    # The source's, where it saw exactly this image: (class, confidence).
    prediction: tuple[int, float] | None = None
    # Of a smallest perturbation before it was rounded: its L-infinity and L2 norm, in levels.
    found: tuple[float | None, float | None] = (None, None)
    iterates: Mapping[int, Iterate] = {}  # those that were asked for, by step


@dataclass
class Calls:
    """Forward and backward passes of a network, counted by hooks on the network itself."""

    forwards: int = 0
    backwards: int = 0

    def attach(self, network: torch.nn.Module) -> ExitStack:
        """Start counting, of an ensemble each member; the returned stack's `close()` ends it."""
        handles = ExitStack()
        for member in getattr(network, "members", [network]):
            handles.callback(member.register_forward_hook(self._forward).remove)
        return handles

    def _forward(self, module: torch.nn.Module, args: Any, out: Tensor) -> None:
        self.forwards += 1
        if out.requires_grad and args[0].requires_grad:  # a loss over features leaves `out` alone
            args[0].register_hook(self._backward)

    def _backward(self, gradient: Tensor) -> None:
        self.backwards += 1


def craft(
    attack: Attack,
    network: Source,
    items: Iterable[Item[Tag]],
    slots: int,
    *,
    trace: bool = False,
    keep: Collection[int] = (),
    calls: Calls | None = None,
) -> Iterator[Crafted[Tag]]:
    """Attack every item on `network`; results come as they are done, not in order.

    Args:
        attack: what to run.
        network: the source, on its device.
        items: images of one shape, (3, H, W) uint8, read as slots become free.
        slots: images in flight; part of the numeric identity.
        trace: keep one `Point` per image and iterate.
        keep: steps whose iterates are kept; of an image that is done before, its last one.
        calls: counts whole passes over all slots, padding included.
    """
    calls, items, source = calls or Calls(), iter(items), attack.bind(network)
    state: State = {}
    held: dict[int, Item[Tag]] = {}  # by row
    traces: dict[int, list[Point]] = defaultdict(list)
    kept: dict[int, dict[int, Iterate]] = defaultdict(dict)
    # Images observed at each step so far, and those of them that were done: after T steps, all.
    looked, ended = Counter({attack.steps: 1}), Counter({attack.steps: 1})
    watched = attack.direct or attack.stop is not None or trace
    # What is made before a first step takes passes of all slots, however many images are new.
    least = slots // 2 if attack.prepares else 1
    while True:
        free = [row for row in range(slots) if row not in held]
        waiting = len(free) < least
        if fresh := {} if waiting else dict(zip(free, items, strict=False)):
            state = _filled(attack, network, state, slots, fresh)
            held |= fresh
        if not held:
            return
        steps, observed = state["t"].tolist(), state["seen"].tolist()
        unseen = [row for row in sorted(held) if not observed[row]]
        # An image of k steps costs k + 1 forwards and gradients, the last gradient for nothing, if
        # ticks do the looking, and 2k forwards and k gradients if a look alone goes before each.
        # With a gradient that takes 1.2 times as long as a forward, that is less for k < 2.2, and
        # with more gradients per step for more steps.
        expected = sum(ended[steps[row]] / max(looked[steps[row]], 1) for row in unseen)
        alone = watched and expected > slots / (2.2 * attack.gradients())
        before, seen = state, None
        with calls.attach(network):  # not while others use the network
            if alone or (watched and unseen and not attack.direct):
                seen, state = attack.observe(source, state)
            if not alone:
                ticked, state = attack.tick(source, state)
                seen = seen or ticked
        more = (seen.more if seen else state["live"]).tolist()
        if not watched:  # nobody asks what the last iterate does
            more = (state["live"] & (state["t"] < attack.steps)).tolist()
        if seen:
            looked.update(steps[row] for row in unseen)
            ended.update(steps[row] for row in unseen if not more[row])
        if trace and seen:
            points = _points(before, seen)
            for row in unseen:
                traces[row].append(points[row])
        if keep:
            now = state["t"].tolist()
            due = [row for row in held if now[row] in keep and now[row] not in kept[row]]
            for row, iterate in zip(due, _iterates(attack, network, state, due), strict=True):
                kept[row][now[row]] = iterate
        done = {row: held.pop(row) for row in sorted(held) if not more[row]}
        results = _results(attack, network, seen, state, done, traces) if done else ()
        for row, result in zip(done, results, strict=True):
            last = Iterate(result.image, result.forwards, result.backwards)
            own = kept.pop(row, {})
            yield result._replace(iterates={step: own.get(step, last) for step in keep})


def _filled(
    attack: Attack, network: Source, state: State, slots: int, fresh: dict[int, Item[Tag]]
) -> State:
    """Return the state with new items in the rows that are their keys."""
    device = network.device
    x0 = network.as_input([item.pixels for item in fresh.values()])
    x0 = x0.contiguous(memory_format=network.memory_format)
    if not state:
        blank = torch.zeros_like(x0[:1]).expand(slots, -1, -1, -1)
        blank = blank.contiguous(memory_format=network.memory_format)
        state = attack.begin(blank, torch.zeros(slots, dtype=torch.int64, device=device))
        state["live"] = torch.zeros_like(state["live"])
    numbers = [(i.y, i.y if i.label is None else i.label, i.key) for i in fresh.values()]
    y, label, key = torch.tensor(numbers, device=device).unbind(1)
    rows = torch.tensor([*fresh], device=device)
    begun = attack.begin(x0, y, key, label)
    filled = leafwise(lambda new, old: old.index_put((rows,), new.to(old.dtype)), begun, state)
    return filled | {"made": state["made"]}  # of new rows it is made before their first step


def _points(state: State, observed: Observation) -> list[Point]:
    """Return the iterate of each row of `state` that the model just saw."""
    seen, clean = observed.image.double(), state["x0"].double()
    dot = (seen * clean).sum((1, 2, 3))
    cosine = dot / (row_norm(seen) * row_norm(clean)).clamp_min(1e-30)
    columns = state["t"], observed.fooled, row_norm(seen - clean), cosine
    return [Point(*values) for values in zip(*(c.tolist() for c in columns), strict=True)]


def _iterates(attack: Attack, network: Source, state: State, rows: list[int]) -> list[Iterate]:
    """Return the iterates of some rows of `state`."""
    if not rows:
        return []
    images = attack.final({k: state[k][rows] for k in ("x", "x0")})
    if attack.quantize != "off":
        images = to_levels(images).to(torch.uint8)
    # A strategy counts passes of single members.
    members = 1 if attack.ensemble else len(getattr(network, "members", [network]))
    costs = ((members * state[k][rows]).tolist() for k in ("forwards", "backwards"))
    return [*map(Iterate, images.cpu().contiguous().numpy(), *costs)]


def _results(
    attack: Attack,
    network: Source,
    seen: Observation | None,
    state: State,
    done: dict[int, Item[Tag]],
    traces: dict[int, list[Point]],
) -> Iterator[Crafted[Tag]]:
    """Yield the results of the rows that are done, and drop their traces."""
    rows = [*done]
    steps = state["t"][rows].tolist()
    first = [step if step >= 0 else None for step in state["first"][rows].tolist()]
    answers: list[tuple[int, float] | None] = [None] * len(rows)
    if seen and attack.quantize != "end":
        answers = list(zip(seen.pred[rows].tolist(), seen.conf[rows].tolist(), strict=True))
    own = [tuple(traces.pop(row, ())) for row in rows]
    columns: tuple[Iterable[Any], ...]
    flat = (state["flat"][rows] & (state["t"][rows] > 0)).tolist()
    images, forwards, backwards = zip(*_iterates(attack, network, state, rows), strict=True)
    columns = done.values(), images, steps, first, forwards, backwards, own, flat, answers
    yield from itertools.starmap(Crafted, zip(*columns, strict=True))
