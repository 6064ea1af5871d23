"""Values that records can have: whoever can write them can forge their hashes too."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from agr.config.schema import LARGEST_SIDE
from agr.records.schema import PERCEPTUAL, TABLES
from agr.utils.pixels import LEVELS
from agr.utils.text import LONGEST_ID, is_name

NULLABLE = {"target_label", "first_success_step", "steps_used", "forwards", "backwards", "flat"}
NULLABLE |= {"found_linf", "found_l2", *PERCEPTUAL}
COMMON_ID = rf"^[0-9A-Za-z_-][0-9A-Za-z_.-]{{0,{LONGEST_ID - 1}}}\z"
SLACK = 1e-6  # of ranges: values are rounded
# Inclusive ranges by column; others that are numbers are finite and 0 or more.
ABSTAINED = -2  # in place of a class; -1: the logits were not finite
CLASS = (ABSTAINED, 2**31 - 1)
CLASSES = (
    *("label", "target_label", "clean_pred", "adv_pred"),
    *("source_clean_pred", "source_adv_pred"),
)
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(["clean_pred", "adv_pred", "source_clean_pred", "source_adv_pred"], CLASS),
    **dict.fromkeys(["clean_conf", "adv_conf", "source_clean_conf", "source_adv_conf"], (0, 1)),
    **dict.fromkeys(["linf", "mean_abs", "found_linf"], (0, LEVELS)),
    "seed": (-math.inf, math.inf),
    **dict.fromkeys(["cosine", "ssim"], (-1, 1)),
    "height": (1, LARGEST_SIDE),
    "width": (1, LARGEST_SIDE),
}
# Where logits were not finite, so isn't the probability.
UNANSWERED = {"clean_conf", "adv_conf", "source_clean_conf", "source_adv_conf"}


def faults(table: pa.Table, kind: str) -> Iterator[str]:
    """Find values that no run writes in some columns of rows, traces or saved images."""
    for field in TABLES[kind]:
        if field.name not in table.column_names or _plain(table[field.name], field):
            continue
        if wrong := _wrong(table[field.name].to_pandas(), field):
            yield f"{wrong} of the {kind} have a {field.name} that cannot be"


def is_plain(image_id: Any) -> bool:
    """Return whether an image id is one that can be a file's name."""
    return isinstance(image_id, str) and is_name(image_id, LONGEST_ID)


def _plain(values: pa.ChunkedArray, field: pa.Field) -> bool:
    """Return whether all values can be, as far as their extremes tell; else they are counted."""
    name, kind = field.name, field.type
    if values.null_count and name not in NULLABLE:
        return False
    if name == "image_id":  # most are; others are asked one by one
        return pc.all(pc.match_substring_regex(values, COMMON_ID)).as_py() is not False
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return True
    low, high = RANGES.get(name, (0, math.inf))
    least, most = pc.min_max(values).values()
    if not least.is_valid:
        return True
    unknown = pa.types.is_floating(kind) and pc.any(pc.is_nan(values)).as_py()
    return not unknown and low <= least.as_py() and most.as_py() <= high and most.as_py() < math.inf


def _wrong(values: pd.Series[Any], field: pa.Field) -> int:
    """Count the values of a column that cannot be."""
    name = field.name
    if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type)):
        bad = values.isna() & (name not in NULLABLE)
        if name == "image_id":
            bad |= values.isin([each for each in values.unique() if not is_plain(each)])
        return int(bad.sum())
    low, high = RANGES.get(name, (0, math.inf))
    numbers = values.to_numpy(dtype=float, na_value=math.nan)  # NaN lies in no range
    inside = (numbers >= low - SLACK) & (numbers <= high + SLACK) & ~np.isinf(numbers)
    if name in UNANSWERED | NULLABLE:
        inside |= np.isnan(numbers)
    return int((~inside).sum())
