"""Tests of differences, and what they say in words."""

import itertools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from .._check import list_first
from ..show import CERTAIN

_FLIPS: Final = 10_000
_CHUNK: Final = 500
_NAMED: Final = 4
"""How many models a sentence names."""
_SMALLEST: Final = 1e-9
"""No p-value is zero, nor printed as zero."""


def compute_sign_flip_p_value(differences: Float[np.ndarray, " images"]) -> float:
    """The two-sided p-value of a mean difference under random signs: the paired randomisation test (Fisher 1935).

    It is exact for at most 12 differences that are not zero. Otherwise it uses 10,000 draws with a fixed seed, or the
    bound of Hoeffding (1963) on sums with random signs where that is smaller, so that many tests can be corrected for.
    """
    differences = differences[differences != 0]
    observed = abs(float(differences.sum()))
    count = len(differences)
    if count == 0:
        return 1.0
    tolerance = 1e-9 * float(np.abs(differences).sum())
    if count <= 12:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=count)))
        return float(np.mean(np.abs(signs @ differences) >= observed - tolerance))
    rng = np.random.default_rng(0)
    extreme = 0
    for _ in range(_FLIPS // _CHUNK):
        signs = rng.integers(0, 2, (_CHUNK, count), dtype=np.int8) * 2 - 1
        extreme += int(np.sum(np.abs(signs @ differences) >= observed - tolerance))
    # The observed differences are one of the draws, so that no p-value is zero (Phipson and Smyth 2010).
    bound = 2 * math.exp(-(observed**2) / (2 * float(np.sum(differences**2))))
    return min((extreme + 1) / (_FLIPS + 1), max(bound, _SMALLEST))


def compare_with_best(scores: Sequence[Float[np.ndarray, " images"]]) -> list[float]:
    """Tests the difference of each model to the best: a two-sided sign-flip test, paired over the images, after the
    correction of Holm.

    **Arguments:**

    - `scores`: for each model, how good it is on each of the same images. The best model is the first.

    **Returns:**

    The p-values of all but the first: a small one means that the model is worse on such images.
    """
    return adjust_by_holm([compute_sign_flip_p_value(scores[0] - score) for score in scores[1:]])


def tell_p_values(accuracies: Sequence[float], p_values: Sequence[float]) -> tuple[str, ...]:
    """Formats p-values for a table.

    **Arguments:**

    - `accuracies`: the accuracies of all models, the best first.
    - `p_values`: the p-values of all but the first.

    **Returns:**

    For each model `best`, `tie` if its accuracy is that of the best, or its p-value with three digits, `<0.001` for
    smaller ones.
    """
    shown = ("<0.001" if p < 0.001 else f"{p:.3f}" for p in p_values)
    others = zip(accuracies[1:], shown, strict=True)
    return "best", *("tie" if accuracy == accuracies[0] else p for accuracy, p in others)


def conclude(
    names: Sequence[str], accuracies: Sequence[float], p_values: Sequence[float], highest: str, images: int
) -> tuple[str, ...]:
    """Says which model is best, and whether that is certain.

    **Arguments:**

    - `names`, `accuracies`: those of all models, the best first.
    - `p_values`: the p-values of all but the first, as `compare_with_best` returns them.
    - `highest`: the name of the measure, which can end with its highest value: `"accuracy, 91.0%"`.
    - `images`: the number of test images.

    **Returns:**

    A sentence, or two if there are several models.
    """
    ties = sum(accuracy == accuracies[0] for accuracy in accuracies)
    first = f"{names[0]} has the highest {highest}."
    if ties > 1:
        *some, last = names[:ties]
        tied = f"{', '.join(some)} and {last}" if ties <= _NAMED else list_first(names[:ties], _NAMED)
        first = f"There is a tie: {tied} have the highest {highest}."
    if len(names) == 1:
        return (first,)
    unsure = [name for name, p_value in zip(names[1:], p_values, strict=True) if p_value >= CERTAIN]
    worse = len(p_values) - len(unsure)
    it = "it" if ties == 1 else "the first of them"
    if worse == 0:
        second = f"No difference is certain: {images:,} test images do not tell the others from {it}."
    elif not unsure:
        second = "It is certainly better than all others."
    else:
        second = f"{it.capitalize()} is certainly better than {worse} of {len(p_values)} others, but not than "
        second += f"{list_first(unsure, _NAMED)}."
    return first, second


def adjust_by_holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for several tests at once (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, p_values[int(index)] * (len(p_values) - rank)))
        adjusted[int(index)] = largest
    return adjusted
