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
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agr.attacks.attack import Attack
from agr.attacks.host import fetched, mark, sent
from agr.attacks.parts import Observation, State, leafwise
from agr.attacks.passes import Calls as Calls
from agr.attacks.passes import Graphs, refusal
from agr.attacks.rows import Rows
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


def craft(
    attack: Attack,
    network: Source,
    items: Iterable[Item[Tag]],
    slots: int,
    *,
    trace: bool = False,
    keep: Collection[int] = (),
    calls: Calls | None = None,
    graph: bool = False,
) -> Iterator[Crafted[Tag]]:
    """Attack every item on `network`; results come as they are done, not in order.

    A GPU is asked once in a step at most, for the rows that go on (`Rows.ask`). Images that are
    done are copied from it while the next step runs, and come after that.

    Args:
        attack: what to run.
        network: the source, on its device.
        items: images of one shape, (3, H, W) uint8, read as slots become free.
        slots: images in flight; part of the numeric identity.
        trace: keep one `Point` per image and iterate.
        keep: steps whose iterates are kept; of an image that is done before, its last one.
        calls: counts whole passes over all slots, padding included.
        graph: replay gradient passes as CUDA graphs; ValueError where that can't be.
    """
    calls, items, source = calls or Calls(), iter(items), attack.bind(network)
    if graph:
        if why := refusal(attack, source.members):
            raise ValueError(f"graph=true: {why}: use graph=null or false")
        source.graphs = Graphs(source.model, calls)
    state: State = {}
    held: dict[int, Item[Tag]] = {}  # by row
    rows = Rows.of(slots, attack.steps, trace)
    traces: dict[int, list[Point]] = defaultdict(list)
    kept: dict[int, dict[int, _Image]] = defaultdict(dict)
    leaving: list[tuple[Item[Tag], _Image, list[Point], dict[int, _Image]]] = []
    copied = mark(network.device)
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
            for row, item in fresh.items():
                rows.fill(row, item.y)
            held |= fresh
        if not held:
            break
        steps = [*rows.steps]
        unseen = [row for row in sorted(held) if not rows.seen[row]]
        # An image of k steps costs k + 1 forwards and gradients, the last gradient for nothing, if
        # ticks do the looking, and 2k forwards and k gradients if a look alone goes before each.
        # With a gradient that takes 1.2 times as long as a forward, that is less for k < 2.2, and
        # with more gradients per step for more steps.
        expected = sum(ended[steps[row]] / max(looked[steps[row]], 1) for row in unseen)
        alone = watched and expected > slots / (2.2 * attack.gradients())
        seen = None
        with calls.attach(network):  # not while others use the network
            if alone or (watched and unseen and not attack.direct):
                seen, state = attack.observe(source, state)
                rows.ask(seen, state)
            if not alone:
                ticked, state = attack.tick(source, state, rows)
                seen = seen or ticked
                rows.step()
        if leaving:  # in the step before: their copies were made beside this one
            copied()
            yield from itertools.starmap(_crafted, leaving)
        more = rows.live if watched else rows.moving()  # nobody asks what the last iterate does
        if seen:
            looked.update(steps[row] for row in unseen)
            ended.update(steps[row] for row in unseen if not more[row])
        if trace and seen:
            for row in unseen:
                traces[row].append(Point(steps[row], *rows.point(row)))
        due = [row for row in held if rows.steps[row] in keep and rows.steps[row] not in kept[row]]
        for row, image in zip(due, _images(attack, network, None, state, due), strict=True):
            kept[row][rows.steps[row]] = image
        done = [row for row in sorted(held) if not more[row]]
        leaving = [
            (
                held.pop(row),
                image,
                traces.pop(row, []),
                dict.fromkeys(keep, image) | kept.pop(row, {}),
            )
            for row, image in zip(done, _images(attack, network, seen, state, done), strict=True)
        ]
        if leaving:
            copied = mark(network.device)
    copied()
    yield from itertools.starmap(_crafted, leaving)


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
    numbers = [(row, i.y, i.y if i.label is None else i.label, i.key) for row, i in fresh.items()]
    rows, y, label, key = sent(numbers, device).unbind(1)
    begun = attack.begin(x0, y, key, label)
    filled = leafwise(lambda new, old: old.index_put((rows,), new.to(old.dtype)), begun, state)
    return filled | {"made": state["made"]}  # of new rows it is made before their first step


class _Image(NamedTuple):
    """A row's image and its numbers, on their way to the host: they are there after a wait."""

    pixels: Tensor  # (3, H, W)
    numbers: Tensor  # float64: steps, first success, forwards, backwards, flat[, class, confidence]

    def iterate(self) -> Iterate:
        """Return the image and its cost."""
        _, _, forwards, backwards, *_ = self.numbers.tolist()
        return Iterate(self.pixels.numpy(), int(forwards), int(backwards))


def _images(
    attack: Attack, network: Source, seen: Observation | None, state: State, rows: list[int]
) -> list[_Image]:
    """Start to copy some rows of `state` to the host: images, numbers and what was `seen`."""
    if not rows:
        return []
    at = sent(rows, network.device)
    images = attack.final({k: state[k][at] for k in ("x", "x0")})
    if attack.quantize != "off":
        images = to_levels(images).to(torch.uint8)
    # A strategy counts passes of single members.
    members = 1 if attack.ensemble else len(getattr(network, "members", [network]))
    columns = [
        state["t"],
        state["first"],
        members * state["forwards"],
        members * state["backwards"],
    ]
    columns.append(state["flat"] & (state["t"] > 0))
    if seen and attack.quantize != "end":
        columns += [seen.pred, seen.conf]
    numbers = torch.stack([column[at].double() for column in columns], 1)
    both = fetched(images.contiguous()), fetched(numbers)
    return [*map(_Image, *both)]


def _crafted(
    item: Item[Tag], image: _Image, points: list[Point], iterates: dict[int, _Image]
) -> Crafted[Tag]:
    """Return the result of a row that is done, whose copies are there."""
    steps, first, _, _, flat, *answer = image.numbers.tolist()
    last = image.iterate()
    return Crafted(
        item,
        last.image,
        int(steps),
        int(first) if first >= 0 else None,
        last.forwards,
        last.backwards,
        tuple(points),
        bool(flat),
        (int(answer[0]), answer[1]) if answer else None,
        iterates={step: own.iterate() for step, own in iterates.items()},
    )
