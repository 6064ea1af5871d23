"""The images that hyperparameters are tuned on, and those that are ranked: enough, and apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from agr.config.cell import Cell
from agr.report.frames import selected
from agr.utils.errors import ConfigError


def check_enough(ranked: Sequence[Cell], tuning: Sequence[Cell]) -> None:
    """Choose the images of every source, before anything is attacked.

    In a process of its own, which gives the memory of its networks back. Clean predictions are kept
    for the runs. Raises ConfigError if the tuning split has too few images, or those ranked reach
    into it.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = pool.submit(_error, _by_source(ranked), _by_source(tuning)).result()
    if error:
        raise ConfigError(error)


def _by_source(cells: Iterable[Cell]) -> list[Cell]:
    return list({cell.source: cell for cell in cells}.values())


def _error(ranked: Sequence[Cell], tuning: Sequence[Cell]) -> str:
    """Return what `_check_enough` finds, as text: not every error can go to another process."""
    try:
        _check_enough(ranked, tuning)
    except ConfigError as e:
        return str(e)
    return ""


def _check_enough(ranked: Sequence[Cell], tuning: Sequence[Cell]) -> None:
    from agr.evaluation.images import in_tuning_split

    for cell in tuning:
        found, n = _chosen(cell), cell.config.n_images
        if len(found) < n:
            raise ConfigError(
                f"tuning_images={n}: the tuning split, the last quarter of the images, has "
                f"{len(found):,} that {_asked(cell)}: give {_at_most('tuning_images', len(found))}"
            )
    for cell in ranked:
        apart = [in_tuning_split(cell.config.seed, image) for image in _chosen(cell)]
        if True in apart:
            n = apart.index(True)
            raise ConfigError(
                f"n_images={cell.config.n_images}: outside the tuning split, the last quarter of "
                f"the images, there are {n:,} that {_asked(cell)}: give {_at_most('n_images', n)}"
            )


def _chosen(cell: Cell) -> list[str]:
    """Return the ids of the images that a cell would attack, in their order."""
    from agr.evaluation.determinism import settle
    from agr.evaluation.inputs import check_inputs
    from agr.evaluation.predictions import Evaluator
    from agr.evaluation.selection import select

    evaluator = Evaluator(cell, settle(cell, None), check_inputs(cell).manifest)
    return [c.image_id for c in select(evaluator, cell.config.n_images).chosen]


def _asked(cell: Cell) -> str:
    return f"{' and '.join(cell.selecting)} get right" if cell.selecting else "can be read"


def _at_most(key: str, n: int) -> str:
    return f"{key}={n} or fewer" if n else "more images"


def check_apart(ranked: Iterable[Cell], tuning: Iterable[Cell]) -> None:
    """Raise ConfigError if the records say that an image of a finished cell is on both sides."""
    both = _images(ranked) & _images(tuning)
    if both:
        raise ConfigError(
            f"{len(both):,} ranked images were tuned on, such as {min(both)}: give fewer n_images, "
            "or another outputs=… folder if the images have changed"
        )


def _images(cells: Iterable[Cell]) -> set[str]:
    frames = (selected(cell) for cell in cells)
    return {image for frame in frames if frame is not None for image in frame["image_id"].unique()}
