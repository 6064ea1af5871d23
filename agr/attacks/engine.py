"""Engine that runs an attack over a stream: slots that are refilled as images are done.

A fixed number of slots holds one image's whole state each. One `Attack.tick` runs one forward and
one input gradient over all slots; images that are done leave, new ones take their slots, empty
slots are padded. Where most images are about to be done, a forward alone goes before, so that the
gradient isn't computed for slots that it is of no use to. Since the shape never changes and losses
are summed, an image's result is bitwise the same whatever its companions, its order or the point
where a run was taken up again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agr.attacks.attack import Attack, Observation
from agr.attacks.ball import row_norm
from agr.attacks.parts import State
from agr.models.network import Source
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


class Crafted(NamedTuple, Generic[Tag]):
    """An adversarial image and what it cost."""

    item: Item[Tag]
    image: NDArray[Any]  # (3, H, W): uint8, or floating point in [0, 1] when never quantised
    steps_used: int | None  # None where another library took them
    first_success_step: int | None
    forwards: int
    backwards: int
    trace: tuple[Point, ...] = ()
    # The source's, where it saw exactly this image: (class, confidence).
    prediction: tuple[int, float] | None = None


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
        if out.requires_grad:
            out.register_hook(self._backward)

    def _backward(self, gradient: Tensor) -> None:
        self.backwards += 1


@dataclass
class Slot(Generic[Tag]):
    """The bookkeeping of one image on its way."""

    item: Item[Tag]
    step: int = 0  # of its iterate
    seen: bool = False  # that iterate has been looked at
    trace: list[Point] = field(default_factory=list)


@dataclass
class Odds:
    """Counts of images that were done at each step so far."""

    steps: int
    looked: Counter[int] = field(default_factory=Counter)
    done: Counter[int] = field(default_factory=Counter)

    def note(self, step: int, done: bool) -> None:
        """Count a look at an iterate."""
        self.looked[step] += 1
        self.done[step] += done

    def of(self, slot: Slot[Any] | None) -> float:
        """Estimate the probability that an observation finds the slot's image done."""
        if slot is None or slot.seen:
            return 0.0
        if slot.step >= self.steps:
            return 1.0
        return self.done[slot.step] / self.looked[slot.step] if self.looked[slot.step] else 0.0


def craft(
    attack: Attack,
    network: Source,
    items: Iterable[Item[Tag]],
    slots: int,
    *,
    trace: bool = False,
    calls: Calls | None = None,
) -> Iterator[Crafted[Tag]]:
    """Attack every item on `network`; results come as they are done, not in order.

    Args:
        attack: what to run.
        network: the source, on its device.
        items: images of one shape, (3, H, W) uint8, read as slots become free.
        slots: images in flight; part of the numeric identity.
        trace: keep one `Point` per image and iterate.
        calls: counts whole passes over all slots, padding included.
    """
    calls = calls or Calls()
    state: State = {}
    held: list[Slot[Tag] | None] = [None] * slots
    odds, items = Odds(attack.steps), iter(items)
    watched = attack.direct or attack.stop is not None or trace
    while True:
        state = _refill(attack, network, state, held, items)
        if not any(held):
            return
        # An image of k steps costs k + 1 forwards and gradients, the last gradient for nothing, if
        # ticks do the looking, and 2k forwards and k gradients if a look alone goes before each.
        # With a gradient that takes 1.2 times as long as a forward, that is less for k < 2.2, and
        # with more gradients per step for more steps.
        alone = watched and sum(map(odds.of, held)) > slots / (2.2 * attack.gradients)
        before, seen = state, None
        with calls.attach(network):  # not while others use the network
            unseen = any(slot and not slot.seen for slot in held)
            if alone or (watched and unseen and not attack.direct):
                seen, state = attack.observe(network, state)
            if not alone:
                ticked, state = attack.tick(network, state)
                seen = seen or ticked
        more = (seen.more if seen else state["live"]).tolist()
        if not watched:  # nobody asks what the last iterate does
            more = (state["live"] & (state["t"] < attack.steps)).tolist()
        if trace and seen:
            _note(held, before, seen)
        steps = state["t"].tolist()
        for slot, goes_on, step in zip(held, more, steps, strict=True):
            if slot:
                if seen and not slot.seen:
                    odds.note(slot.step, not goes_on)
                slot.seen, slot.step = alone, step
        done = [row for row, slot in enumerate(held) if slot and not more[row]]
        yield from _harvest(attack, network, seen, state, held, done)


def _refill(
    attack: Attack,
    network: Source,
    state: State,
    held: list[Slot[Tag] | None],
    items: Iterator[Item[Tag]],
) -> State:
    """Put new items into the free slots."""
    free = [row for row, slot in enumerate(held) if slot is None]
    fresh = list(islice(items, len(free)))
    if not fresh:
        return state
    device = network.device
    x0 = network.as_input([item.pixels for item in fresh])
    x0 = x0.contiguous(memory_format=network.memory_format)
    if not state:
        blank = torch.zeros_like(x0[:1]).expand(len(held), -1, -1, -1)
        blank = blank.contiguous(memory_format=network.memory_format)
        state = attack.begin(blank, torch.zeros(len(held), dtype=torch.int64, device=device))
        # Leaves of its own each: a fresh row is written into one of them at a time.
        state = _copied(state)
        state["live"] = torch.zeros_like(state["live"])
    rows = torch.tensor(free[: len(fresh)], device=device)
    y, label, key = (
        torch.tensor(values, device=device)
        for values in (
            [item.y for item in fresh],
            [item.y if item.label is None else item.label for item in fresh],
            [item.key for item in fresh],
        )
    )
    _put(state, rows, attack.begin(x0, y, key, label))
    for row, item in zip(free, fresh, strict=False):
        held[row] = Slot(item)
    return state


def _copied(state: State) -> State:
    return {k: _copied(v) if isinstance(v, dict) else v.clone() for k, v in state.items()}


def _put(state: State, rows: Tensor, fresh: State) -> None:
    """Write the rows of `fresh` into the rows `rows` of `state`, leaf by leaf, in place."""
    for key, value in fresh.items():
        if isinstance(value, dict):
            _put(state[key], rows, value)
        else:
            state[key][rows] = value


def _note(held: list[Slot[Tag] | None], state: State, observed: Observation) -> None:
    """Add the iterate that the model just saw to the trace of each slot."""
    seen, clean = observed.image.double(), state["x0"].double()
    l2 = row_norm(seen - clean).tolist()
    dot = (seen * clean).sum((1, 2, 3))
    cosine = (dot / (row_norm(seen) * row_norm(clean)).clamp_min(1e-30)).tolist()
    steps, fooled = state["t"].tolist(), observed.fooled.tolist()
    for row, slot in enumerate(held):
        if slot and not slot.seen:
            slot.trace.append(Point(steps[row], fooled[row], l2[row], cosine[row]))


def _harvest(
    attack: Attack,
    network: Source,
    seen: Observation | None,
    state: State,
    held: list[Slot[Tag] | None],
    done: list[int],
) -> Iterator[Crafted[Tag]]:
    """The results of the rows that are done; their slots become free."""
    if not done:
        return
    images = attack.final({k: state[k][done] for k in ("x", "x0")})
    if attack.quantize != "off":
        images = to_levels(images).to(torch.uint8)
    pixels = images.cpu().contiguous().numpy()
    steps, first = state["t"][done].tolist(), state["first"][done].tolist()
    members = len(getattr(network, "members", [network]))
    forwards = (members * state["forwards"][done]).tolist()
    backwards = (members * state["backwards"][done]).tolist()
    answers: list[tuple[int, float] | None] = [None] * len(done)
    if seen and attack.quantize != "end":
        answers = list(zip(seen.pred[done].tolist(), seen.conf[done].tolist(), strict=True))
    for i, row in enumerate(done):
        slot = held[row]
        assert slot is not None
        held[row] = None
        yield Crafted(
            slot.item,
            pixels[i],
            steps[i],
            first[i] if first[i] >= 0 else None,
            forwards[i],
            backwards[i],
            tuple(slot.trace),
            answers[i],
        )
