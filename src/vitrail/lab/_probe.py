"""What the lab trains: a pool and a linear head on kept tokens."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, PRNGKeyArray

from .._registry import PartSpec
from ..model import Readout, ViT
from ..train import Progress, Recipe
from ..train._batches import batches
from ..train._evaluate import in_batches
from ..train._loop import Scalar, cross_entropy, optimise
from ._kept import Kept, Layout

_BATCH: Final = 250


def make_probe(model: ViT, choice: str | PartSpec, num_classes: int, *, key: PRNGKeyArray) -> Readout:
    """A readout for the tokens of a model: that pool, the norm if it comes after the pool, and a linear head."""
    config = dataclasses.replace(model.config, pool=choice, head="linear", num_classes=num_classes)
    return config.build_readout(key=key)


@final
class Standard(eqx.Module):
    """A shift of each channel and one factor for all: what lies between the pool and the head, and stays as it is.

    Pools differ in scale (the sum is the mean times the number of patches), and a learning rate that suits one would
    not suit another. The map is affine, so that with the linear head it is a linear head again.
    """

    mean: Float[Array, " features"]
    scale: Float[Array, ""]

    def __init__(self, features: Float32[np.ndarray, "images features"]):
        """**Arguments:**

        - `features`: of the images to learn from, by the pool as it was drawn. Their mean becomes zero, and the root of
            the mean of their variances one.
        """
        deviation = float(features.astype(np.float64).var(axis=0).mean()) ** 0.5
        self.mean = jnp.asarray(np.mean(features, axis=0, dtype=np.float64), jnp.float32)
        self.scale = jnp.asarray(1 / deviation if deviation > 1e-12 else 1.0, jnp.float32)

    def __call__(self, features: Float[Array, " features"]) -> Float[Array, " features"]:
        """**Arguments:**

        - `features`: of one image.

        **Returns:**

        The same, shifted and scaled.
        """
        return (features - self.mean) * self.scale


def order_of(seed: int, length: int, recipe: Recipe) -> Sequence[Int[np.ndarray, " batch"]]:
    """Which images each step of a run sees. It depends on the seed and not on the pool, so that runs are paired."""
    _, feed = batches(_as_it_is, length, epochs=recipe.epochs, batch_size=recipe.batch_size, seed=seed)
    return list(feed)


def train_probe(
    model: ViT,
    choice: str | PartSpec,
    kept: Kept,
    labels: Int32[np.ndarray, " images"],
    num_classes: int,
    recipe: Recipe,
    seed: int,
    order: Sequence[Int[np.ndarray, " batch"]],
    report: Callable[[Progress], object],
) -> tuple[Readout, Standard]:
    """A trained probe. It depends on the seed and its order, and on no other pool that is trained."""
    probe_key, steps_key = jax.random.split(jax.random.key(seed))
    probe = make_probe(model, choice, num_classes, key=probe_key)
    features = all_features(probe, kept.train, kept.layout)
    standard = Standard(features)
    # A pool that neither learns nor draws gives the same vectors in every step: only its head is left to train.
    settled = _is_settled(probe, kept)
    inputs, loss = (features, _loss_of_features) if settled else (kept.train, _loss)
    feed = ((inputs[which], labels[which]) for which in order)
    fixed = standard, kept.layout, recipe.label_smoothing
    trained = optimise(probe, loss, feed, len(order), recipe, fixed=fixed, key=steps_key, report=report)
    return trained, standard


def _is_settled(probe: Readout, kept: Kept) -> bool:
    if probe.norm is not None or jax.tree.leaves(eqx.filter(probe.pool, eqx.is_inexact_array)):
        return False
    tokens = kept.layout.tokens(jnp.asarray(kept.train[0]))
    return bool(jnp.array_equal(probe.pool(tokens, key=jax.random.key(0)), probe.pool(tokens)))


def _as_it_is(which: Int[np.ndarray, " batch"]) -> Int[np.ndarray, " batch"]:
    return which


def all_features(
    probe: Readout, sequences: Float32[np.ndarray, "images tokens dim"], layout: Layout
) -> Float32[np.ndarray, "images features"]:
    """What the pool makes of all images."""
    return in_batches(_features, probe, sequences, layout, _BATCH)


def all_logits(
    probe: Readout, standard: Standard, sequences: Float32[np.ndarray, "images tokens dim"], layout: Layout
) -> Float32[np.ndarray, "images classes"]:
    """What the head says of all images."""
    return in_batches(logits_of, (probe, standard), sequences, layout, _BATCH)


@eqx.filter_jit
def _features(
    probe: Readout, sequences: Float[Array, "batch tokens dim"], layout: Layout
) -> Float[Array, "batch features"]:
    def features(sequence: Float[Array, "tokens dim"]) -> Float[Array, " features"]:
        return probe.pooled(layout.tokens(sequence))

    return jax.vmap(features)(sequences)


@eqx.filter_jit
def logits_of(
    probe_and_standard: tuple[Readout, Standard], sequences: Float[Array, "batch tokens dim"], layout: Layout
) -> Float[Array, "batch classes"]:
    """The logits of a batch."""
    probe, standard = probe_and_standard

    def logits(sequence: Float[Array, "tokens dim"]) -> Float[Array, " classes"]:
        return probe.head(standard(probe.pooled(layout.tokens(sequence))))

    return jax.vmap(logits)(sequences)


def _loss(
    probe: Any,
    sequences: Float[Array, "batch tokens dim"],
    labels: Int32[Array, " batch"],
    key: PRNGKeyArray,
    fixed: tuple[Standard, Layout, float],
) -> tuple[Scalar, Scalar]:
    standard, layout, smoothing = fixed

    def classify(sequence: Float[Array, "tokens dim"], key: PRNGKeyArray) -> Float[Array, " classes"]:
        return cast(Array, probe.head(standard(probe.pooled(layout.tokens(sequence), key=key)), key=key))

    logits = jax.vmap(classify)(sequences, jax.random.split(key, len(sequences)))
    return cross_entropy(logits, labels, smoothing)


def _loss_of_features(
    probe: Any,
    features: Float[Array, "batch features"],
    labels: Int32[Array, " batch"],
    key: PRNGKeyArray,
    fixed: tuple[Standard, Layout, float],
) -> tuple[Scalar, Scalar]:
    standard, _, smoothing = fixed

    def classify(features: Float[Array, " features"]) -> Float[Array, " classes"]:
        return cast(Array, probe.head(standard(features)))

    return cross_entropy(jax.vmap(classify)(features), labels, smoothing)
