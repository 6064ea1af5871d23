"""Comparison of saved images with the rows that speak of them."""

from __future__ import annotations

import hashlib
import math
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from agr.records.appearance import CLOSE, appearances
from agr.records.folders import PNG
from agr.records.store import Records, image_of


def pictured(records: Records, rows: pd.DataFrame, positions: set[int]) -> Iterator[str]:
    """Find saved images at `positions` that aren't those that were scored."""
    facts = rows.drop_duplicates("position").set_index("position")
    known = facts["adv_sha256"]
    for some in records.saved_images(positions):
        for row in some:
            if not _is_image(row):
                yield f"the saved images of {row['image_id']} are not as large as they say"
                continue
            found = hashlib.sha256(row["pixels"]).hexdigest()
            if found != row["adv_sha256"] or known.get(row["position"]) != found:
                yield f"the saved image of {row['image_id']} is not the one that was scored"
            elif other := _other_sizes(row, facts.loc[row["position"]]):
                yield f"{other} of {row['image_id']} isn't that of its saved images"
            elif not _same_png(records.png_folder / f"{row['image_id']}.png", row):
                yield f"{PNG}/{row['image_id']}.png is not the image that was scored"


def _is_image(row: dict[str, Any]) -> bool:
    size = row["height"] * row["width"] * 3
    return all(len(row[k] or b"") == size for k in ("pixels", "clean_pixels"))


def _other_sizes(row: dict[str, Any], recorded: pd.Series[Any]) -> str | None:
    """Return the first measure of a row's two images that isn't what was recorded.

    LPIPS needs a network, and isn't looked at.
    """
    x, a = (image_of(row, k).astype(float) for k in ("clean_pixels", "pixels"))
    v, length = a - x, np.linalg.norm(x)
    found = {
        "linf": np.abs(v).max(),
        "l2": np.linalg.norm(v),
        "mean_abs": np.abs(v).mean(),
        "rel_l2": np.linalg.norm(v) / length if length else 0.0,
        "cosine": (x * a).sum() / (length * np.linalg.norm(a)) if length and a.any() else 1.0,
    }
    close = (math.isclose(found[k], recorded[k], rel_tol=1e-9, abs_tol=1e-12) for k in found)
    if other := next((k for k, same in zip(found, close, strict=True) if not same), None):
        return other
    known = recorded[list(CLOSE)].dropna().to_dict()
    seen = appearances(x, a) if known else {}
    far = (k for k, v in known.items() if not abs(seen.get(str(k), math.inf) - v) <= CLOSE[str(k)])
    return next(map(str, far), None)


def _same_png(path: Path, row: dict[str, Any]) -> bool:
    """Return whether an exported image, if it is still there, is the one of its row."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # a link, or a pipe, which would be waited for
            return False
        with Image.open(path) as image:
            if image.size != (row["width"], row["height"]):  # it may be huge
                return False
            return np.array_equal(np.asarray(image), image_of(row))
    except FileNotFoundError:
        return True
    except Exception:  # decoders raise whatever they like
        return False
