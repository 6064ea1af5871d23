"""Rows of the records: an adversarial image, its cost and the predictions of every target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agr.data.decode import Pixels
from agr.evaluation.crafting import CraftedImage
from agr.evaluation.perceptual import AT_ONCE, perceptual_sizes
from agr.evaluation.predictions import Evaluator, Prediction
from agr.evaluation.selection import Chosen
from agr.records.progress import Todo
from agr.records.schema import PERCEPTUAL, within
from agr.utils.pixels import LEVELS, digest_of, write_png

Row = dict[str, Any]  # of the records, by column


def scored(evaluator: Evaluator, work: Todo, made: Sequence[CraftedImage]) -> dict[str, list[Row]]:
    """Score adversarial images and the iterates that are asked for, on the targets that lack them.

    Returns the rows of the tables "rows" (one per image and target) and "steps" (and step).
    """
    rows, predicted = _target_rows(evaluator, work, made)
    return {"rows": rows, "steps": _step_rows(evaluator, work, made, predicted)}


def _target_rows(
    evaluator: Evaluator, work: Todo, made: Sequence[CraftedImage]
) -> tuple[list[Row], dict[str, list[Prediction]]]:
    """Return the rows that are lacking, and the predictions of networks that were asked."""
    cell = evaluator.cell
    wanted = {m.item.tag.position for m in made}
    targets = [t for t in cell.targets if work.rows[t] & wanted]
    predicted = {
        name: _predictions(evaluator, name, made) for name in dict.fromkeys([cell.source, *targets])
    }
    c, white = cell.config, {t: cell.white_box(t) for t in targets}
    shared: Row = {"suite": cell.suite.name, "cell": cell.id, "source": cell.source}
    shared |= {"attack": c.attack.name, "attack_hash": cell.attack_hash, "norm": c.norm.name}
    shared |= {"eps": c.eps, "eps_effective": cell.eps_effective, "steps": c.steps, "seed": c.seed}
    rows = []
    sizes = _perceptual(evaluator, made)
    for i, m in enumerate(made):
        chosen = m.item.tag
        source = _both_predictions(evaluator, cell.source, chosen, predicted[cell.source][i])
        own = shared | _of_image(m) | sizes[i] | {f"source_{k}": v for k, v in source.items()}
        size = own[c.norm.name]
        # a smallest perturbation counts if it is one at all, and no larger than eps
        counts = not cell.smallest or (size > 0 and within(size, cell.eps_effective, c.quantize))
        for target in targets:
            if chosen.position in work.rows[target]:
                both = _both_predictions(evaluator, target, chosen, predicted[target][i])
                success = succeeded(cell.success, chosen.entry.label, chosen.target_label, both)
                success = success and counts
                place = {"target": target, "white_box": white[target]}
                rows.append(own | place | both | {"success": success})
    return rows, predicted


def _step_rows(
    evaluator: Evaluator,
    work: Todo,
    made: Sequence[CraftedImage],
    predicted: dict[str, list[Prediction]],
) -> list[Row]:
    """Return the rows of iterates; `predicted` are answers to the adversarial images themselves."""
    cell, rows = evaluator.cell, list[Row]()
    for (target, step), lacking in work.steps.items():
        some = [i for i, m in enumerate(made) if m.item.tag.position in lacking]
        # An attack that was over by then ended with the adversarial image, which is scored already.
        over = [(made[i].steps_used or 0) <= step and target in predicted for i in some]
        rest = [made[i] for i, known in zip(some, over, strict=True) if not known]
        iterates = [m._replace(image=m.iterates[step].image, prediction=None) for m in rest]
        new = iter(_predictions(evaluator, target, iterates))
        for i, known in zip(some, over, strict=True):
            chosen = made[i].item.tag
            adv = predicted[target][i] if known else next(new)
            both = _both_predictions(evaluator, target, chosen, adv)
            source = evaluator.clean_prediction(cell.source, chosen.image_id)
            assert source is not None  # `select` made it
            success = succeeded(cell.success, chosen.entry.label, chosen.target_label, both)
            place = {"target": target, "step": step, "source_clean_pred": source.pred}
            cost = {"backwards": made[i].iterates[step].backwards}
            del both["clean_conf"]
            rows.append(_named(chosen) | place | cost | both | {"success": success})
    return rows


def _perceptual(evaluator: Evaluator, made: Sequence[CraftedImage]) -> list[Row]:
    """Return the perceptual sizes of the perturbations, empty unless they are asked for."""
    c, blank = evaluator.cell.config, dict.fromkeys(PERCEPTUAL)
    if not (c.perceptual or c.lpips):
        return [blank] * len(made)
    found: list[Row] = []
    for start in range(0, len(made), AT_ONCE):
        some = made[start : start + AT_ONCE]
        images = [np.stack([m.image for m in some]), np.stack([m.item.pixels for m in some])]
        adversarial, clean = (torch.from_numpy(x).to(evaluator.device) for x in images)
        scale = LEVELS if adversarial.is_floating_point() else 1
        sizes = perceptual_sizes(clean, adversarial * scale, evaluator.lpips)
        found += [blank | of_image for of_image in sizes]
    return found


def _predictions(evaluator: Evaluator, name: str, made: Sequence[CraftedImage]) -> list[Prediction]:
    """Return a network's predictions for adversarial images; known ones aren't made again."""
    found: list[Prediction | None] = [None] * len(made)
    # A batch of another width could differ in the last bits.
    seen = name == evaluator.cell.source and evaluator.numeric.slots == evaluator.numeric.width
    for i, m in enumerate(made):
        if np.array_equal(m.image, m.item.pixels):
            found[i] = evaluator.clean_prediction(name, m.item.tag.image_id)
        elif seen and m.prediction:
            found[i] = Prediction(*m.prediction)
    rest = [m.image for m, known in zip(made, found, strict=True) if not known]
    new = iter(evaluator.predict(name, rest))
    return [known or next(new) for known in found]


def trace_rows(work: Todo, made: Sequence[CraftedImage]) -> list[Row]:
    """Make a row per image and iterate, of the images that lack a trace."""
    return [
        {"position": m.item.tag.position, "image_id": m.item.tag.image_id}
        | p._asdict()
        | {"l2": LEVELS * p.l2}
        for m in made
        if m.item.tag.position in work.trace
        for p in m.trace
    ]


def adversarial_rows(work: Todo, made: Sequence[CraftedImage], folder: Path) -> list[Row]:
    """Make rows of the images that are to be saved; also write them as PNG into `folder`."""
    rows = []
    for m in made:
        if m.item.tag.position in work.adversarials:
            pixels, clean = (x.transpose(1, 2, 0) for x in (m.image, m.item.pixels))
            folder.mkdir(exist_ok=True)
            path = folder / f"{m.item.tag.image_id}.png"
            write_png(path, np.ascontiguousarray(pixels), compress_level=1)
            height, width, _ = pixels.shape
            facts = {"height": height, "width": width}
            both = {"pixels": pixels.tobytes(), "clean_pixels": clean.tobytes()}
            rows.append(_of_image(m) | facts | both)
    return rows


def succeeded(rule: str, label: int, target_label: int | None, predictions: Row) -> bool:
    """Return whether a target was fooled, by the rule "label", "changed" or "targeted".

    A prediction of -1 (logits that are not finite) is not a success.
    """
    pred = predictions["adv_pred"]
    if rule == "targeted":
        return bool(pred >= 0 and pred == target_label)
    reference = label if rule == "label" else predictions["clean_pred"]
    return bool(pred >= 0 and reference >= 0 and pred != reference)


def image_hash(image: np.ndarray[Any, Any]) -> str:
    """Return the sha256 of an image (3, H, W), of its bytes in the order (H, W, 3)."""
    return digest_of(image.transpose(1, 2, 0))


def norms(clean: Pixels, image: np.ndarray[Any, Any]) -> dict[str, float]:
    """Measure a perturbation: linf, l2 and mean_abs in levels (0-255), rel_l2 and the cosine.

    Images are (3, H, W): uint8, or the adversarial one floating point in [0, 1].
    """
    x = clean.astype(np.float64)
    a = image.astype(np.float64) * (1 if image.dtype == np.uint8 else LEVELS)
    v = a - x
    # Not numpy's norm and dot: they start threads of their own, which cost more than they give.
    xx, aa, vv, xa = (float((p * q).sum()) for p, q in ((x, x), (a, a), (v, v), (x, a)))
    return {
        "linf": float(np.abs(v).max()),
        "l2": math.sqrt(vv),
        "mean_abs": float(np.abs(v).mean()),
        "rel_l2": math.sqrt(vv / xx) if xx else 0.0,
        "cosine": xa / math.sqrt(xx * aa) if xx and aa else 1.0,
    }


def _named(chosen: Chosen) -> Row:
    """Return the columns that name an image and its classes."""
    what = {"position": chosen.position, "image_id": chosen.image_id}
    return what | {"label": chosen.entry.label, "target_label": chosen.target_label}


def _of_image(m: CraftedImage) -> Row:
    """Return the columns of the image itself, whatever the target."""
    cost: Row = {"steps_used": m.steps_used, "first_success_step": m.first_success_step}
    cost |= {"forwards": m.forwards, "backwards": m.backwards, "flat": m.flat}
    cost |= {"found_linf": m.found[0], "found_l2": m.found[1]}
    return (
        _named(m.item.tag)
        | cost
        | {"adv_sha256": image_hash(m.image)}
        | norms(m.item.pixels, m.image)
    )


def _both_predictions(evaluator: Evaluator, name: str, chosen: Chosen, adv: Prediction) -> Row:
    clean = evaluator.clean_prediction(name, chosen.image_id)
    assert clean is not None  # `select` made it
    return {
        "clean_pred": clean.pred,
        "clean_conf": clean.conf,
        "adv_pred": adv.pred,
        "adv_conf": adv.conf,
    }
