"""Evaluates the features of a model without training: by the nearest images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Integer, UInt8

from .._check import check_above_zero, check_positive
from ..images import Dataset, Preprocess
from ..model import ViT
from ._classifier import check_channels
from ._evaluate import apply_in_batches, check_outputs

NEIGHBOURS: Final = (10, 20, 100, 200)
"""How many neighbours vote in DINO and DINOv2. 20 is usually the best."""
TEMPERATURE: Final = 0.07
_TOP: Final = 5
_SIMILARITIES: Final = 2**25
"""How many similarities are in memory at a time."""


@dataclass(frozen=True)
class NearestNeighbours:
    """How held-out images are classified by the training images that are nearest to them."""

    neighbours: tuple[int, ...]
    """How many neighbours vote."""
    ranked: Int[np.ndarray, "neighbours images top"]
    """For each number of neighbours and each image, the five classes with the most votes, the first with the most; -1
    in place of classes without a vote."""
    labels: Integer[np.ndarray, " images"]
    """The true class of each image."""

    def __repr__(self) -> str:
        found = ", ".join(f"{accuracy:.1%} by {number}" for number, accuracy in self.accuracy.items())
        return f"<NearestNeighbours: {len(self.labels):,} images, {found}>"

    @property
    def accuracy(self) -> dict[int, float]:
        """For each number of neighbours, the fraction of the images whose class has the most votes."""
        return self._count(1)

    @property
    def top5_accuracy(self) -> dict[int, float]:
        """For each number of neighbours, the fraction of the images whose class is among the five with the most."""
        return self._count(_TOP)

    def _count(self, top: int) -> dict[int, float]:
        hits = np.any(self.ranked[..., :top] == self.labels[:, None], axis=-1).mean(axis=1)
        return {number: float(share) for number, share in zip(self.neighbours, hits, strict=True)}


def knn(
    model: ViT,
    data: Dataset,
    *,
    neighbours: int | Sequence[int] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    batch_size: int = 250,
) -> NearestNeighbours:
    """Classifies the held-out images of a data set by their nearest training images: a test of features without
    training.

    The features are the pooled vectors of the model. Each of the nearest training images, those with the highest
    cosine, votes for its class with the weight `exp(cosine / temperature)`.

    !!! example

        ```python
        found = vitrail.knn(model, data, neighbours=(10, 20))
        print(found.accuracy[20])
        ```

    ??? cite

        Wu et al., *Unsupervised Feature Learning via Non-Parametric Instance Discrimination*, 2018, arXiv:1805.01978;
        with these numbers in Caron et al. 2021 (DINO), arXiv:2104.14294, and Oquab et al. 2023 (DINOv2),
        arXiv:2304.07193.

    **Arguments:**

    - `model`: a ViT. Its head is not used.
    - `data`: the data set. The images of `train` vote on those of `test`.
    - `neighbours`: the number of images that vote, or several such numbers. The default has those of the papers, and
        needs at least 200 training images.
    - `temperature`: the temperature of the weights.
    - `batch_size`: the number of images that are computed at a time.

    **Returns:**

    A `NearestNeighbours`.

    **Raises:** `ValueError` if a number is not positive or there are fewer training images, or if the model does not
    take the images; `FloatingPointError` if features are not finite.
    """
    numbers = (neighbours,) if isinstance(neighbours, int) else tuple(neighbours)
    check_positive(neighbours=numbers, batch_size=batch_size)
    check_above_zero(temperature=temperature)
    if not numbers or max(numbers) > len(data.train):
        raise ValueError(
            f"neighbours must be one number or more of at most {len(data.train):,}, the training images, got "
            f"{neighbours}: pass neighbours={min(20, len(data.train))}, or more images"
        )
    check_channels(model, data)
    features = [
        apply_in_batches(_compute_features, model, part.images, data.preprocess, batch_size)
        for part in (data.train, data.test)
    ]
    for name, computed in zip(("training", "held-out"), features, strict=True):
        check_outputs(f"features of the {name} images", computed)
    ranked = rank_by_neighbours(
        features[0], data.train.labels, features[1], len(data.classes), neighbours=numbers, temperature=temperature
    )
    return NearestNeighbours(numbers, ranked, data.test.labels)


@eqx.filter_jit
def _compute_features(
    model: ViT, images: UInt8[Array, "batch height width channels"], preprocess: Preprocess
) -> Float[Array, "batch features"]:
    def compute_one(image: Float[Array, "height width channels"]) -> Float[Array, " features"]:
        features = model.readout.pool_tokens(model.backbone(image))
        if features.ndim != 1:
            raise ValueError(
                f"model must have a pool that returns one vector of an image, got the pool {model.config.pool} and "
                f"shape {features.shape}: use vitrail.replace(model, pool='mean')"
            )
        return features.astype(jnp.float32)

    return jax.vmap(compute_one)(preprocess.normalise(images))


def rank_by_neighbours(
    train: Float32[np.ndarray, "train features"],
    labels: Integer[np.ndarray, " train"],
    test: Float32[np.ndarray, "test features"],
    num_classes: int,
    *,
    neighbours: Sequence[int],
    temperature: float = TEMPERATURE,
) -> Int[np.ndarray, "neighbours test top"]:
    """Ranks the classes for features by the votes of their nearest neighbours, as `knn` does.

    **Arguments:**

    - `train`: the features that vote, of any length: cosines are compared.
    - `labels`: the class of each of them.
    - `test`: the features to classify.
    - `num_classes`: the number of classes.
    - `neighbours`: the numbers of neighbours that vote, each at most the number of rows of `train`.
    - `temperature`: the temperature of the weights.

    **Returns:**

    For each number of neighbours and each row of `test`, up to five classes with the most votes, the first with the
    most; -1 in place of classes without a vote.
    """
    train, test = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (train, test))
    most, top = max(neighbours), min(_TOP, num_classes)
    ranked = np.full((len(neighbours), len(test), top), -1)
    chunk = max(1, _SIMILARITIES // len(train))
    for start in range(0, len(test), chunk):
        similarity = test[start : start + chunk] @ train.T
        nearest = np.argpartition(-similarity, most - 1, axis=1)[:, :most]
        cosines = np.take_along_axis(similarity, nearest, axis=1).astype(np.float64)
        order = np.argsort(-cosines, axis=1, kind="stable")
        cosines, nearest = np.take_along_axis(cosines, order, axis=1), np.take_along_axis(nearest, order, axis=1)
        # Divided by the weight of the nearest, which changes no order of votes and cannot overflow.
        weights = np.exp((cosines - cosines[:, :1]) / temperature)
        for i, number in enumerate(neighbours):
            votes = _count_votes(labels[nearest[:, :number]], weights[:, :number], num_classes)
            best = np.argsort(-votes, axis=1, kind="stable")[:, :top]
            voted = np.take_along_axis(votes, best, axis=1) > 0
            ranked[i, start : start + chunk] = np.where(voted, best, -1)
    return ranked


def _count_votes(
    labels: Integer[np.ndarray, "images neighbours"],
    weights: Float[np.ndarray, "images neighbours"],
    num_classes: int,
) -> Float[np.ndarray, "images classes"]:
    rows = np.arange(len(labels))[:, None] * num_classes
    cells = (rows + labels.astype(np.int64)).ravel()
    return np.bincount(cells, weights.ravel(), len(labels) * num_classes).reshape(len(labels), num_classes)
