"""Comparison of a cell's tables with each other, and with what its attack can have done."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from agr.config.cell import Cell
from agr.config.networks import undefended
from agr.config.security import targets_of
from agr.records.run_info import RunInfo
from agr.records.schema import PERCEPTUAL, ROWS, within
from agr.records.values import ABSTAINED

Series = pd.Series  # of any type

OF_A_TARGET = {"clean_pred", "clean_conf", "adv_pred", "adv_conf", "success"}
# Columns from here on are of the image, but for those.
OF_AN_IMAGE = [
    name for name in ROWS.names[ROWS.names.index("image_id") :] if name not in OF_A_TARGET
]
OF_A_LOOK = ["first_success_step", "forwards"]  # other ones where nobody looked at the iterates
OF_THE_IMAGE = [name for name in OF_AN_IMAGE if name not in OF_A_LOOK]
ASKED = {*PERCEPTUAL}  # null where a run wasn't asked for them
ONCE_FOOLED = "agr.attacks.stop.OnceFooled"
REPLACING = tuple(  # stages that take no gradient at the iterate
    f"agr.attacks.stages.{name}"
    for name in ("Penalize", "Flatten", "Reverse", "Integrate", "Collect", "Learn")
)
# A trace is of images in float32: so far are they from levels, per value, and their cosines.
FLOAT32, COSINE = 3e-5, 1e-6


def agreeing(cell: Cell, rows: pd.DataFrame) -> Iterator[str]:
    """Find images whose rows disagree, or whose perturbation is larger than the budget."""
    looked = rows if looks(cell) else rows[rows["first_success_step"].notna()]
    for frame, names in ((rows, OF_THE_IMAGE), (looked, OF_A_LOOK)):
        place = frame["position"]
        first = frame.drop_duplicates("position").set_index("position")[names]
        its = first.loc[place].set_axis(frame.index)
        for name in names:
            if _differ(frame[name], its[name]).any():  # values are counted where some do
                distinct = frame[name].groupby(place).nunique(dropna=name in ASKED)
                for position in distinct.index[distinct > 1]:
                    yield f"the rows of position {position} have different {name}"
    if rows[["position", "image_id"]].drop_duplicates()["image_id"].duplicated().any():
        yield "an image stands at two positions"
    norm = cell.config.norm.name
    beyond = rows[norm][~within(rows[norm], cell.eps_effective, cell.config.quantize)]
    if len(beyond) and not cell.smallest:
        yield f"{norm} is {beyond.max():g} of {cell.eps_effective:g} allowed (0-255 scale)"
    if (rows["steps_used"] > cell.config.steps).any():
        yield f"an image took more than {cell.config.steps} steps"


def successful(cell: Cell, rows: pd.DataFrame) -> Iterator[str]:
    """Find rows whose success isn't what their predictions say."""
    pred, clean = rows["adv_pred"], rows["clean_pred"]
    answered = pred >= 0  # -1: the logits were not finite
    if cell.success == "targeted":
        success = answered & (pred == rows["target_label"])
    else:
        reference = rows["label"] if cell.success == "label" else clean
        success = answered & (reference >= 0) & (pred != reference)
    if cell.smallest:
        size = rows[cell.config.norm.name]
        success &= (size > 0) & within(size, cell.eps_effective, cell.config.quantize)
    for row in rows[success != rows["success"]].to_dict("records"):
        yield f"success of {row['image_id']} on {row['target']} isn't what its predictions say"


def abstaining(cell: Cell, rows: pd.DataFrame) -> Iterator[str]:
    """Find abstentions of networks that no vote stands before."""
    for name in rows["target"].unique():
        bare, defenses = undefended(name, cell.config.defenses)
        if bare not in cell.suite.networks:  # behind a defense that an earlier session named
            continue
        parts = [cell.config.defenses[d] for d in defenses]
        if not any(part.endswith(".Smoothing") for part in targets_of(parts)):
            said = rows.loc[rows["target"] == name, ["clean_pred", "adv_pred"]]
            if wrong := int((said == ABSTAINED).any(axis=1).sum()):
                yield f"{wrong} rows of {name} abstain, which it never does"


def of_the_source(cell: Cell, run: RunInfo, rows: pd.DataFrame) -> Iterator[str]:
    """Find rows that contradict what they say of the source."""
    own = rows[rows["target"] == cell.source]
    for name in ("clean_pred", "clean_conf", "adv_pred", "adv_conf"):
        if wrong := int(_differ(own[name], own[f"source_{name}"]).sum()):
            yield f"{wrong} rows of {cell.source} have another {name} than source_{name}"
    images = rows.drop_duplicates("position")
    first, steps = images["first_success_step"], images["steps_used"]
    yield from _at(images[first > steps], "position {} has a first_success_step after its last")
    if not cell.composed:
        return
    attacked = _attacked(cell, images) >= 0
    if (cell.config.attack.stop or {}).get("_target_") == ONCE_FOOLED:
        wrong_steps = attacked & (steps != first.fillna(cell.config.steps))
        yield from _at(images[wrong_steps], "position {} has other steps_used than its stop allows")
    fooled = _fooled(cell, images, images["source_adv_pred"])
    if looks(cell) and _last_is_seen(cell, run):
        unseen = attacked & fooled & first.isna()
        yield from _at(
            images[unseen], "position {} fooled the source and has no first_success_step"
        )


def traced(cell: Cell, run: RunInfo, rows: pd.DataFrame, trace: pd.DataFrame) -> Iterator[str]:
    """Find traces that lack a step, belong to no row, or tell something else than their rows."""
    facts = rows.drop_duplicates("position").set_index("position")
    there = trace["position"].isin(facts.index)
    yield from _at(trace[~there], "position {} has a trace and no row")
    trace = trace[there]
    its = facts.loc[trace["position"]].set_axis(trace.index)
    steps = its["steps_used"]
    count = trace.groupby("position")["step"].transform("count")
    lacking = (trace.groupby("position")["step"].transform("max") != steps) | (count != steps + 1)
    yield from _at(trace[lacking], "the trace of position {} lacks steps")

    def told(name: str, wrong: Series, step: str = "") -> Iterator[str]:
        text = f"the trace of position {{}} has another {name}{step} than its rows"
        return _at(trace[wrong], text)

    yield from told("image_id", trace["image_id"] != its["image_id"])
    looked = pd.Series(True, trace.index) if looks(cell) else its["first_success_step"].notna()
    fooled = trace["step"].where(trace["fooled"]).groupby(trace["position"]).transform("min")
    wrong = looked & (_attacked(cell, its) >= 0) & _differ(fooled, its["first_success_step"])
    yield from told("first_success_step", wrong)
    last, seen = trace["step"] == steps, _last_is_seen(cell, run)
    side = cell.geometry.size
    black = (its["rel_l2"] == 0) & (trace["cosine"] == 0)  # there is no angle
    if cell.config.quantize != "end":  # else the last iterate is rounded, and then scored
        far = (trace["l2"] - its["l2"]).abs() > FLOAT32 * (math.sqrt(3) * side + its["l2"])
        yield from told("l2", last & far, " at its last step")
        turned = (trace["cosine"] - its["cosine"]).abs() > COSINE
        yield from told("cosine", last & turned & ~black, " at its last step")
        if seen:
            other = trace["fooled"] != _fooled(cell, its, its["source_adv_pred"])
            yield from told("answer of the source", last & other, " at its last step")
    if cell.config.attack.start is None:
        begun = trace["step"] == 0
        moved = (trace["l2"] > FLOAT32 * side) | ((trace["cosine"] - 1).abs() > COSINE) & ~black
        yield from _at(trace[begun & moved], "the trace of position {} doesn't begin at its image")
        if seen:
            other = trace["fooled"] != _fooled(cell, its, its["source_clean_pred"])
            yield from told("answer of the source", begun & other, " at step 0")


def iterated(cell: Cell, rows: pd.DataFrame, steps: pd.DataFrame) -> Iterator[str]:
    """Find scored iterates that belong to no row, or tell something else than their rows."""
    key = ["position", "target"]
    place = pd.MultiIndex.from_frame(steps[key])
    facts = rows.set_index(key)
    there = place.isin(facts.index)
    yield from _at(steps[~there], "position {} has a scored iterate and no row of its target")
    steps = steps[there]
    its = facts.loc[place[there]].set_axis(steps.index)
    over = steps["step"] >= its["steps_used"]
    # of the image, and, once the attack is over, of its answers and costs
    for names, which in ((OF_ALL_STEPS, True), (OF_THE_LAST, over)):
        for name in names:
            text = f"an iterate of position {{}} has another {name} than its rows"
            yield from _at(steps[_differ(steps[name], its[name]) & which], text)
    most = cell.config.steps
    yield from _at(
        steps[~steps["step"].between(1, most)], f"position {{}} has a step beyond {most}"
    )
    order = steps.sort_values([*key, "step"])
    falls = order.groupby(key)["backwards"].diff() < 0
    beyond = steps["backwards"] > its["backwards"]
    yield from _at(order[falls | beyond[order.index]], "the gradients of position {} don't add up")
    if not cell.smallest:  # of another library, which has no steps
        yield from successful(cell, steps)


OF_ALL_STEPS = ("image_id", "label", "target_label", "clean_pred", "source_clean_pred")
OF_THE_LAST = ("adv_pred", "adv_conf", "backwards")


def saved(cell: Cell, rows: pd.DataFrame, facts: pd.DataFrame) -> Iterator[str]:
    """Find `facts` of saved images, all columns but their pixels, that aren't those of the rows."""
    known = rows.drop_duplicates("position").set_index("position")
    facts = facts[facts["position"].isin(known.index)]
    its = known.loc[facts["position"]].set_axis(facts.index)
    looked = facts["first_success_step"].notna() & its["first_success_step"].notna()
    for name in [name for name in facts if name in OF_AN_IMAGE]:
        wrong = _differ(facts[name], its[name])
        if name in OF_A_LOOK and not looks(cell):
            wrong &= looked
        text = f"the saved image of position {{}} has another {name} than its rows"
        yield from _at(facts[wrong], text)


def looks(cell: Cell) -> bool:
    """Return whether the attack looks at its iterates in every run, not for a trace alone."""
    a = cell.config.attack
    stages = [part for part in a.chain.values() if part]
    ahead = any(s.get("look_ahead") or s.get("_target_") in REPLACING for s in stages)
    copies = cell.config.eot or any(a.views.values())
    elsewhere = ahead or cell.foreign or copies or any(a.surrogate.values()) or a.ensemble
    return a.stop is not None or not elsewhere


def _last_is_seen(cell: Cell, run: RunInfo) -> bool:
    """Return whether the source's recorded answers are those that it gave in the attack.

    Another shape of the batch, or rounding, makes others.
    """
    shapes = [run.numeric, *run.narrowed]
    same = all(shape is not None and shape.slots == shape.width for shape in shapes)
    return same and len(shapes) == 1 and cell.config.quantize != "end"


def _attacked(cell: Cell, images: pd.DataFrame) -> Series:
    """Return the class that each image is moved away from, or to; -1: it isn't attacked."""
    a = cell.config.attack
    if a.targeted:
        return images["target_label"]
    return images["source_clean_pred" if a.label == "prediction" else "label"]


def _fooled(cell: Cell, images: pd.DataFrame, pred: Series) -> Series:
    y = _attacked(cell, images)
    return pred == y if cell.config.attack.targeted else (pred != y) & (pred >= 0)


def _differ(a: Series, b: Series) -> Series:
    """Compare values; unknown ones are alike."""
    return (a != b) & ~(a.isna() & b.isna())


def _at(rows: pd.DataFrame, text: str) -> Iterator[str]:
    return (text.format(position) for position in rows["position"].unique())
