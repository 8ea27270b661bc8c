"""What the numbers of a model betray: arrays that nothing has filled, and blocks that nobody has trained.

A fresh matrix has independent numbers of one spread: its rows and columns are equally long up to chance, and its
largest singular value is the one that Marchenko and Pastur give. Training ends all three, in a minute.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np

from .formats import NumpyArray

Arrays = Mapping[str, NumpyArray]
_STACK: Final = ".stack."
_SMALLEST: Final = 48
"""Fewer rows or columns say too little."""
_CHANCE: Final = 5.0
"""How many standard deviations chance is given."""
_LARGEST_OF_NOISE: Final = 1.05
"""The largest singular value of a fresh matrix, as a share of Marchenko and Pastur's, with room for chance."""
_OUT_OF_FAMILY: Final = 10.0
"""How much larger or smaller the numbers of one block are than those of the others, to be said."""


@dataclass(frozen=True)
class Piece:
    """An array of the model, or the part of it that belongs to one block."""

    name: str
    """The name of the array, and the number of the block if it is of one."""
    array: NumpyArray
    """The numbers."""


def list_pieces(arrays: Arrays) -> Iterator[Piece]:
    """The arrays of a model, those of a stack block by block."""
    for name, array in arrays.items():
        if _STACK in name:
            yield from (Piece(f"{name} of block {i}", part) for i, part in enumerate(array))
        else:
            yield Piece(name, array)


def find_not_finite(arrays: Arrays) -> list[str]:
    """Where NaN or an infinity is."""
    return [piece.name for piece in list_pieces(arrays) if not np.isfinite(piece.array).all()]


def find_constant(arrays: Arrays) -> list[str]:
    """Which matrices and tables have one number throughout."""
    return [
        f"{piece.name} ({piece.array.flat[0] + 0.0:g} throughout)"
        for piece in list_pieces(arrays)
        if piece.array.ndim > 1
        and piece.array.size >= 16
        and np.ptp(piece.array) == 0
        # Registers without positions have zeros where a library wants some.
        and not (piece.name.endswith("position.registers") and piece.array.flat[0] == 0)
    ]


def find_untouched(arrays: Arrays) -> tuple[list[str], int]:
    """Which blocks have the norms and scales of a fresh model, all ones and zeros or one number; of how many blocks."""
    found: list[str] = []
    count = 0
    for stack in dict.fromkeys(name.partition(_STACK)[0] + _STACK for name in arrays if _STACK in name):
        own = {name: array for name, array in arrays.items() if name.startswith(stack)}
        norms = {n: a for n, a in own.items() if re.search(r"norm\d?\.weight$", n)}
        scales = [a for n, a in own.items() if re.search(r"\.scale\d$", n)]
        depth = len(next(iter(own.values())))
        if not norms or next(iter(norms.values()))[0].size < 2:
            continue
        count += depth
        for i in range(depth):
            ones = all((array[i] == 1).all() for array in norms.values())
            zeros = all(not own[bias][i].any() for n in norms if (bias := n.removesuffix("weight") + "bias") in own)
            if ones and zeros and all(np.ptp(array[i]) == 0 for array in scales):
                found.append(f"block {i} of {stack.removesuffix(_STACK)}")
    return found, count


def find_copies(arrays: Arrays) -> list[str]:
    """Which blocks have the same weights for queries, keys and values as an earlier one."""
    found: list[str] = []
    for name, array in arrays.items():
        if _STACK in name and name.endswith("qkv.weight"):
            first: dict[bytes, int] = {}
            for i, part in enumerate(array):
                before = first.setdefault(part.tobytes(), i)
                if before != i:
                    found.append(f"block {i} is block {before} ({name})")
    return found


def find_fresh(arrays: Arrays) -> tuple[list[str], int]:
    """Which matrices are as a fresh model has them; of how many that are large enough to tell."""
    matrices = [(piece.name, _flatten(piece.array)) for piece in list_pieces(arrays) if piece.array.ndim > 1]
    large = [(name, matrix) for name, matrix in matrices if min(matrix.shape) >= _SMALLEST and np.ptp(matrix) > 0]
    return [name for name, matrix in large if is_fresh(matrix)], len(large)


def _flatten(array: NumpyArray) -> NumpyArray:
    return array.reshape(array.shape[0], -1)


def is_fresh(matrix: NumpyArray) -> bool:
    """Whether a matrix looks as if its numbers were drawn independently, with one spread."""
    numbers = matrix.astype(np.float64)
    squares = numbers**2
    mean = squares.mean()
    # The spread of one square, in units of the mean: 2 for a normal distribution.
    spread = (squares**2).mean() / mean**2 - 1
    for axis in (0, 1):
        lengths = squares.mean(axis=axis) / mean
        unequal = lengths.var() * matrix.shape[axis] / max(spread, 1e-9)
        if unequal > 1 + _CHANCE * np.sqrt(2 / len(lengths)):
            return False
    expected = np.sqrt(mean) * (np.sqrt(matrix.shape[0]) + np.sqrt(matrix.shape[1]))
    return bool(_find_largest(numbers) < _LARGEST_OF_NOISE * expected)


def _find_largest(matrix: NumpyArray) -> float:
    """The largest singular value, from below, by the power method."""
    vector = cast(Any, np.random.RandomState(0).standard_normal(matrix.shape[1]))
    for _ in range(12):
        vector = matrix.T @ (matrix @ vector)
        vector /= np.linalg.norm(vector)
    return float(np.linalg.norm(matrix @ vector))


def find_out_of_family(arrays: Arrays) -> list[str]:
    """Which matrices of a block are much larger or smaller than those of the other blocks."""
    found: list[str] = []
    for name, array in arrays.items():
        if _STACK in name and array.ndim > 2 and len(array) > 2:
            sizes = np.sqrt((array.astype(np.float64) ** 2).reshape(len(array), -1).mean(axis=1))
            ratios = sizes / max(float(np.median(sizes)), 1e-30)
            found += [
                f"{name} of block {i} ({ratio:.2g} times the others)"
                for i, ratio in enumerate(ratios)
                if not 1 / _OUT_OF_FAMILY < ratio < _OUT_OF_FAMILY
            ]
    return found


def measure_structure(table: NumpyArray) -> tuple[float, float]:
    """How alike neighbours in a grid of positions are, from -1 to 1, and how many standard deviations of chance that
    is.

    **Arguments:**

    - `table`: `(rows, cols, dim)`.
    """
    centred = table.astype(np.float64) - table.mean(axis=(0, 1))
    centred /= np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), 1e-30)
    pairs = [(centred[1:] * centred[:-1]).sum(-1), (centred[:, 1:] * centred[:, :-1]).sum(-1)]
    alike = np.concatenate([each.ravel() for each in pairs])
    # The mean that was taken away makes fresh rows a little unlike each other.
    expected = -1 / max(table.shape[0] * table.shape[1] - 1, 1)
    mean = float(alike.mean())
    return mean, (mean - expected) * np.sqrt(len(alike) * table.shape[2])
