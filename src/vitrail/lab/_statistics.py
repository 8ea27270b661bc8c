"""Tests of differences, and nearest neighbours."""

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float, Float32, Int, Integer

_FLIPS: Final = 10_000
_NEIGHBOURS: Final = 20
_TEMPERATURE: Final = 0.07
_CHUNK: Final = 500


def compute_sign_flip_p_value(differences: Float[np.ndarray, " images"]) -> float:
    """The two-sided p-value of a mean difference under random signs: the paired randomisation test (Fisher 1935).

    It is exact for at most 12 differences that are not zero, and uses 10,000 draws with a fixed seed otherwise.
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
    return (extreme + 1) / (_FLIPS + 1)


def adjust_by_holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for several tests at once (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, p_values[int(index)] * (len(p_values) - rank)))
        adjusted[int(index)] = largest
    return adjusted


def predict_by_knn(
    train: Float32[np.ndarray, "train features"],
    labels: Integer[np.ndarray, " train"],
    test: Float32[np.ndarray, "test features"],
    num_classes: int,
) -> Int[np.ndarray, " test"]:
    """Predicts the class with the most votes of the 20 nearest by cosine, each with weight `exp(similarity / 0.07)`.

    Source: Wu et al. 2018, arXiv:1805.01978; with these numbers in Caron et al. 2021 (DINO), arXiv:2104.14294.
    """
    train, test = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (train, test))
    neighbours = min(_NEIGHBOURS, len(train))
    predicted: list[np.ndarray] = []
    for start in range(0, len(test), _CHUNK):
        similarity = test[start : start + _CHUNK] @ train.T
        nearest = np.argpartition(-similarity, neighbours - 1, axis=1)[:, :neighbours]
        weights = np.exp(np.take_along_axis(similarity, nearest, axis=1) / _TEMPERATURE)
        votes = np.zeros((len(similarity), num_classes))
        np.add.at(votes, (np.arange(len(similarity))[:, None], labels[nearest]), weights)
        predicted.append(np.argmax(votes, axis=1))
    return np.concatenate(predicted)
