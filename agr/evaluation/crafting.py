"""The adversarial images of a cell: crafted by its attack, saved by an earlier run, or given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from agr.attacks import Attack
from agr.attacks.ball import BALLS
from agr.attacks.build import build_attack, build_library
from agr.attacks.draws import key_of
from agr.attacks.engine import Calls, Crafted, Item, craft
from agr.attacks.library.batches import LibraryAttack, craft_chunks
from agr.attacks.parts import Pool
from agr.attacks.passes import refusal
from agr.config.cell import Cell
from agr.evaluation.given import GivenImages, images_in
from agr.evaluation.predictions import Evaluator
from agr.evaluation.selection import Chosen
from agr.models.defended import defenses_of
from agr.models.sources import Source
from agr.records.store import Records, image_of
from agr.utils.errors import ConfigError
from agr.utils.hashing import draw
from agr.utils.pixels import LEVELS

AnyAttack = Attack | LibraryAttack | GivenImages
CraftedImage = Crafted[Chosen]


def prepare(cell: Cell) -> AnyAttack:
    """Build the attack of a cell, and check its defenses. Raises ConfigError."""
    defenses_of(cell)
    return attack_of(cell)


def attack_of(cell: Cell) -> AnyAttack:
    """Build the attack of a cell, with its budget in effect.

    Raises ConfigError, also for sizes of images that the objective or a source doesn't take.
    """
    if cell.library is not None:
        return _library_attack(cell)
    if given := cell.config.attack.images:
        return images_in(given.folder, given.sha256)
    attack = build_attack(cell.config, cell.eps_scale)
    defenses = [d for s, own in defenses_of(cell).items() if s in cell.sources for d in own]
    if cell.config.eot > 1 and not any(d.random for d in defenses):
        raise ConfigError(
            f"eot={cell.config.eot}: no defense of {cell.source} is random, so that all draws are "
            "the same: use eot=1"
        )
    own = cell.geometry.size
    if fits := getattr(attack.objective, "fits", None):
        try:
            fits(own)
        except ValueError as e:
            raise ConfigError(f"attack={cell.config.attack.name}: attack.objective: {e}") from e
    side = attack.side(own)
    for name in cell.bare_sources:
        if side != own and cell.suite.networks[name].fixed_size:
            raise ConfigError(
                f"attack={cell.config.attack.name} makes copies of {side} px, and {name} takes "
                f"{cell.suite.networks[name].size} px only: add attack.views.diverse.back=true, "
                "which resizes them back"
            )
    return attack


def found_by(
    cell: Cell, attack: AnyAttack | None, source: Source, images: Tensor | None = None
) -> list[str]:
    """Describe what an attack's rules and objective find in its source, a line each.

    Raises ConfigError where they don't find it, or `graph=true` asks for what can't be; given
    `images`, also where a pass of the source doesn't call what they have found.
    """
    if not isinstance(attack, Attack):
        return []
    try:
        surrogate = attack.bind(source)
        found = surrogate.described()
        if images is not None:
            surrogate.try_out(images)
        if cell.config.graph is not False and (why := _unreplayed(cell, attack, source)):
            if cell.config.graph:
                raise ValueError(f"graph=true: {why}: use graph=null or false")
            found.append(f"graph=null: passes aren't replayed: {why}")
        return found
    except ValueError as e:
        raise ConfigError(f"attack={cell.config.attack.name} on {cell.source}: {e}") from e


def _unreplayed(cell: Cell, attack: Attack, source: Source) -> str | None:
    """Return why gradient passes aren't replayed as CUDA graphs, or None if they are."""
    if cell.config.graph is None and source.device.type != "cuda":
        return "there is no GPU"
    return refusal(attack, getattr(source, "members", [source]))


def _library_attack(cell: Cell) -> LibraryAttack:
    c = cell.config
    attack = LibraryAttack(
        build_library(c),
        BALLS[c.norm.name](cell.eps_effective / LEVELS),
        targeted=c.attack.targeted,
        classes=cell.classes,
        quantize=c.quantize,
    )
    shape = (3, cell.geometry.size, cell.geometry.size)
    try:
        attack.library.check(
            attack.ball, targeted=attack.targeted, classes=attack.classes, shape=shape
        )
    except ValueError as e:
        raise ConfigError(f"attack={c.attack.name}: {e}") from e
    read = attack.library.chunk, not attack.library.budget
    if read != (cell.chunk, cell.smallest):
        raise ConfigError(
            f"attack={c.attack.name}: write chunk: {read[0]} and budget: {not read[1]} into "
            "attack.library, where records and shards look for them"
        )
    return attack


def whole_chunks(cell: Cell, chosen: Sequence[Chosen], wanted: set[int]) -> list[Chosen]:
    """Return those of `chosen` that have to be attacked together for the positions `wanted`."""
    chunks = {position // cell.chunk for position in wanted}
    return [c for c in chosen if c.position // cell.chunk in chunks]


def crafted(
    evaluator: Evaluator,
    attack: AnyAttack,
    selected: Sequence[Chosen],
    wanted: set[int],
    calls: Calls,
) -> Iterator[CraftedImage]:
    """Attack the images at the positions `wanted` on the source; `selected` are of all shards.

    Raises ConfigError for what a part or a library refuses in the middle of a run.
    """
    c = evaluator.cell.config
    items = items_of(evaluator, whole_chunks(evaluator.cell, selected, wanted))
    if isinstance(attack, GivenImages):
        for item in items:
            image = attack.like(item.tag.image_id, item.pixels)
            yield Crafted(item, image, None, None, None, None)
        return
    try:
        if isinstance(attack, Attack):
            if attack.pool_size:
                pool = _pool(evaluator, attack.pool_size, attack.pool_of_classes)
                attack = replace(attack, pool=pool)
            slots, source = evaluator.numeric.slots, evaluator.source
            graph = c.graph is not False and not _unreplayed(evaluator.cell, attack, source)
            yield from craft(
                attack,
                source,
                items,
                slots,
                trace=c.trace,
                keep=evaluator.cell.score_steps,
                calls=calls,
                graph=graph,
            )
            return
        fit = None
        if attack.library.fit_images:
            fit = _fit_images(evaluator, attack.library.fit_images, selected)
        placed = ((item.tag.position, item) for item in items)
        made = craft_chunks(attack, evaluator.source, placed, seed=c.seed, fit=fit, calls=calls)
        yield from (m for m in made if m.item.tag.position in wanted)
    except ConfigError:
        raise
    except ValueError as e:
        raise ConfigError(f"attack={c.attack.name}: {e}") from e


def items_of(evaluator: Evaluator, chosen: Sequence[Chosen]) -> Iterator[Item[Chosen]]:
    """Yield the images to attack, decoded ahead, with the label that the attack works against."""
    by_id = {c.image_id: c for c in chosen}
    for entry, pixels in evaluator.images(c.entry for c in chosen):
        c = by_id[entry.image_id]
        key = key_of(draw(evaluator.cell.config.seed, "attack", entry.image_id))
        y = c.target_label
        if y is None:
            own = evaluator.clean_prediction(evaluator.cell.source, entry.image_id)
            prediction = evaluator.cell.config.attack.label == "prediction"
            y = own.pred if prediction and own else entry.label
        yield Item(c, pixels, y, entry.label, key)
        evaluator.images.drop([entry])


def _pool(evaluator: Evaluator, size: int, classes: int) -> Pool:
    """Return the `size` images that an attack may mix in, the first of an order of their own.

    Raises ConfigError where the first `classes` of them are all of one class.
    """
    c = evaluator.cell.config
    found = list(islice(evaluator.images(evaluator.images.order("pool")), size))
    if len(found) < size:
        raise ConfigError(
            f"attack={c.attack.name} mixes in images of a pool of {size}, and {c.data.root} has "
            f"{len(found)}: give a smaller pool"
        )
    labels = torch.tensor([entry.label for entry, _ in found], device=evaluator.device)
    if classes and len(labels[:classes].unique()) < 2:
        raise ConfigError(
            f"attack={c.attack.name} mixes in images of other classes, and the first {classes} of "
            "its pool have one class: use more images, or a larger pool"
        )
    return Pool(evaluator.source.as_input([pixels for _, pixels in found]), labels)


def _fit_images(evaluator: Evaluator, size: int, selected: Sequence[Chosen]) -> Tensor:
    """Return the images that a universal perturbation is fitted on: the last of the order.

    (size, 3, H, W), the same for every shard. Raises ConfigError where some are `selected` too.
    """
    order = evaluator.images.order()[::-1]
    found = list(islice(evaluator.images(order), size))
    if len(found) < size or {c.entry for c in selected} & {entry for entry, _ in found}:
        raise ConfigError(
            f"n_images={evaluator.cell.config.n_images} and attack.library.fit_images={size}: the "
            f"{len(order):,} images are too few to fit on others than are attacked: lower one"
        )
    return evaluator.source.as_input([pixels for _, pixels in found])


def saved(
    evaluator: Evaluator, records: Records, chosen: Sequence[Chosen]
) -> Iterator[CraftedImage]:
    """Yield adversarial images that an earlier run saved, as if they had just been crafted."""
    by_position = {c.position: c for c in chosen}
    for rows in records.saved_images(set(by_position)):
        entries = [by_position[row["position"]].entry for row in rows]
        clean = {entry.image_id: pixels for entry, pixels in evaluator.images(entries)}
        for row in rows:
            if row["image_id"] in clean:
                c = by_position[row["position"]]
                item = Item(c, clean[row["image_id"]], c.entry.label)
                image = image_of(row).transpose(2, 0, 1)
                cost = row["forwards"], row["backwards"]
                steps = row["steps_used"], row["first_success_step"]
                found = row["found_linf"], row["found_l2"]
                yield Crafted(item, image, *steps, *cost, (), row["flat"], found=found)
