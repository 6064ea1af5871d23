"""Columns of the records: rows, traces and saved adversarial images.

Each has its meaning and unit in the field's metadata (docs/reference/columns.md). Whatever a pixel
is counted in is in levels, the 0-255 scale that budgets are given in.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa

from agr.utils.pixels import EXACTLY

SCHEMA_VERSION = 8
UNROUNDED = 1 + 1e-6  # of the norms of images that were never rounded to 8 bits


LEVEL = "levels (0-255)"  # a unit


def within(size: Any, eps: float, quantize: str) -> Any:
    """Compare sizes of perturbations, numbers or a series, with a budget of the same scale."""
    return size <= eps * (UNROUNDED if quantize == "off" else EXACTLY)


def column(name: str, kind: pa.DataType, meaning: str, unit: str = "") -> pa.Field:
    """Return a column with its meaning and unit in its metadata."""
    return pa.field(name, kind, metadata={"meaning": meaning, "unit": unit})


# Unknown or absent values are null: a target label of an untargeted attack, a step of first
# success where there is none, or where nobody looked (an attack whose gradients are elsewhere looks
# at its iterates for a stop or a trace only). A prediction of -1 says that the logits were not
# finite.
ROWS = pa.schema(
    [
        column("suite", pa.string(), "name of the suite"),
        column("cell", pa.string(), "identity of the cell (agr.config.cell.Cell.id)"),
        column("attack", pa.string(), "name of the attack"),
        column("attack_hash", pa.string(), "hash of its parts and parameters"),
        column("norm", pa.string(), "linf | l2"),
        column("eps", pa.float64(), "budget as configured", LEVEL),
        column(
            "eps_effective",
            pa.float64(),
            "budget in effect: an L2 budget grows with the size of the images",
            LEVEL,
        ),
        column("steps", pa.int32(), "steps allowed, T", "steps"),
        column("seed", pa.int64(), "seed of the choice of images and target labels"),
        column("source", pa.string(), "network the image was crafted on; a+b: an ensemble"),
        column("target", pa.string(), "network that was scored; a/b: a with defense b"),
        column("white_box", pa.bool_(), "the target is the source, or one of its members"),
        column("position", pa.int32(), "place of the image in the selection, from 0"),
        column("image_id", pa.string(), "file name without its ending"),
        column("label", pa.int32(), "true class"),
        column("target_label", pa.int32(), "class a targeted attack wants"),
        column("adv_sha256", pa.string(), "of the scored image's bytes, (H, W, 3)"),
        column("clean_pred", pa.int32(), "target's class for the clean image"),
        column("clean_conf", pa.float32(), "its softmax probability", "0 to 1"),
        column("adv_pred", pa.int32(), "target's class for the adversarial image"),
        column("adv_conf", pa.float32(), "its softmax probability", "0 to 1"),
        column("source_clean_pred", pa.int32(), "source's class for the clean image"),
        column("source_clean_conf", pa.float32(), "its softmax probability", "0 to 1"),
        column("source_adv_pred", pa.int32(), "source's class for the adversarial image"),
        column("source_adv_conf", pa.float32(), "its softmax probability", "0 to 1"),
        column("success", pa.bool_(), "as the config's `success` says"),
        column(
            "first_success_step",
            pa.int32(),
            "first iterate seen to fool the source, from 0",
            "steps",
        ),
        column("steps_used", pa.int32(), "steps taken; null: another library's", "steps"),
        column("forwards", pa.int32(), "forward passes for this image, of every member"),
        column("backwards", pa.int32(), "gradients for this image, of every member"),
        column("flat", pa.bool_(), "every gradient for this image was zero; null: nobody looked"),
        column("linf", pa.float64(), "max |v| of the perturbation v", LEVEL),
        column("l2", pa.float64(), "||v||_2", LEVEL),
        column("mean_abs", pa.float64(), "mean |v|", LEVEL),
        column("rel_l2", pa.float64(), "||v||_2 / ||x||_2, x the clean image", "ratio"),
        column(
            "cosine", pa.float64(), "cosine similarity of clean and adversarial image", "-1 to 1"
        ),
        column(
            "found_linf",
            pa.float64(),
            "max |v| of a smallest perturbation before it was rounded to 8 bits; null: of no other",
            LEVEL,
        ),
        column("found_l2", pa.float64(), "||v||_2 of the same", LEVEL),
        column(
            "psnr",
            pa.float64(),
            "peak signal-to-noise ratio; null: nothing differs. This and the next two are null "
            "without perceptual=true or lpips=…",
            "dB",
        ),
        column(
            "ssim", pa.float64(), "structural similarity; null: an image below 11 px", "-1 to 1"
        ),
        column("ciede2000", pa.float64(), "mean CIEDE2000 colour difference", "ΔE"),
        column(
            "lpips",
            pa.float64(),
            "LPIPS 0.1, a distance of a network's features; null: without lpips=…",
        ),
    ]
)
PERCEPTUAL = ("psnr", "ssim", "ciede2000", "lpips")

TRACE = pa.schema(
    [
        *(ROWS.field(name) for name in ["position", "image_id"]),
        column(
            "step", pa.int32(), "iterate; 0 is the clean image, the last one is scored", "steps"
        ),
        column("fooled", pa.bool_(), "the source was fooled by it"),
        ROWS.field("l2"),
        column("cosine", pa.float64(), "cosine similarity with the clean image", "-1 to 1"),
    ]
)

STEPS = pa.schema(
    [
        *(ROWS.field(n) for n in ["position", "image_id", "label", "target_label", "target"]),
        column("step", pa.int32(), "iterate; of an attack that stopped before, its last", "steps"),
        column("backwards", pa.int32(), "gradients for this image until then, of every member"),
        *(ROWS.field(n) for n in ["clean_pred", "source_clean_pred", "adv_pred", "adv_conf"]),
        ROWS.field("success"),
    ]
)

ADVERSARIALS = pa.schema(
    [
        *(ROWS.field(name) for name in ["position", "image_id", "label", "target_label"]),
        column("adv_sha256", pa.string(), "of `pixels`"),
        column("height", pa.int32(), "of the images", "pixels"),
        column("width", pa.int32(), "of the images", "pixels"),
        column("pixels", pa.binary(), "uint8, (height, width, 3)"),
        column("clean_pixels", pa.binary(), "of the clean image, in the same geometry"),
        *(ROWS.field(n) for n in ["steps_used", "first_success_step", "forwards", "backwards"]),
        *(ROWS.field(name) for name in ["flat", "found_linf", "found_l2"]),
    ]
)

# Rows come last: a part counts once its rows are there.
TABLES = {"trace": TRACE, "steps": STEPS, "adversarials": ADVERSARIALS, "rows": ROWS}
KEYS = {
    "trace": ["position", "step"],
    "steps": ["position", "target", "step"],
    "adversarials": ["position"],
    "rows": ["position", "target"],
}
NULLABLE = {pa.int32(): pd.Int32Dtype()}  # integers stay integers where some are unknown
