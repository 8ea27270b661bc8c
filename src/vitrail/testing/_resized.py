"""The check that a resized part keeps what was learned."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ._subject import Subject, are_equal, draw_part, list_parameters

_DRAWS = 4


def find_forgotten(
    subject: Subject, own: tuple[int, int], resize: Callable[[Any, tuple[int, int]], Any]
) -> Iterator[str]:
    """Yields how a part resized to twice its size lacks what it learned.

    A parameter of the same shape must stay as it is. One that grew must resemble the old one: the mean of each block of
    2 x 2 must go with the old number.
    """
    parts = [draw_part(subject, seed=seed) for seed in range(_DRAWS)]
    if not are_equal(resize(parts[0], own), parts[0]):
        yield "resized to its own grid, it must stay the same"
    before = [list_parameters(part) for part in parts]
    after = [list_parameters(resize(part, (2 * own[0], 2 * own[1]))) for part in parts]
    for path in before[0]:
        if path not in after[0]:
            yield f"resized must keep what was learned, but there is no parameter {path} any more"
            continue
        old, new = ([np.asarray(draw[path], np.float64) for draw in draws] for draws in (before, after))
        if not _resembles(np.stack(old), np.stack(new), own):
            yield (
                f"resized must keep what was learned, but the parameter {path} does not follow the one before: "
                "interpolate it"
            )


def _resembles(old: np.ndarray, new: np.ndarray, own: tuple[int, int]) -> bool:
    """Whether an array of several draws is the old one, or the old one at twice the size."""
    if old.shape == new.shape:
        return np.array_equal(old, new)
    shrunk = _shrink(old, new, own)
    if shrunk is None:  # it grew in a way of its own: it must at least depend on what was there
        return not any(np.array_equal(new[0], draw) for draw in new[1:])
    if np.ptp(shrunk) == 0:
        return bool(np.ptp(old) == 0)
    return bool(np.corrcoef(old.ravel(), shrunk.ravel())[0, 1] > 0.6)


def _shrink(old: np.ndarray, new: np.ndarray, own: tuple[int, int]) -> np.ndarray | None:
    """The new array with the mean of each block along the axes that doubled; `None` if other axes changed."""
    if old.ndim != new.ndim:
        return None
    for axis, (before, after) in enumerate(zip(old.shape, new.shape, strict=True)):
        first, shape = new.shape[:axis], new.shape[axis + 1 :]
        prefix = before - own[0] * own[1]
        if after == 2 * before:
            new = new.reshape(*first, before, 2, *shape).mean(axis=axis + 1)
        elif prefix >= 0 and after - prefix == 4 * own[0] * own[1]:  # one row for each cell, after those of the prefix
            rows, cells = np.split(new, [prefix], axis=axis)
            cells = cells.reshape(*first, own[0], 2, own[1], 2, *shape).mean(axis=(axis + 1, axis + 3))
            new = np.concatenate([rows, cells.reshape(*first, -1, *shape)], axis=axis)
        elif after != before:
            return None
    return new
