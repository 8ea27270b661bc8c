"""What the lab trains: a pool and a linear head, on stored tokens."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Integer, PRNGKeyArray

from .._spec import PartSpec
from ..model import Readout, ViT
from ..train import (
    AbstractObjective,
    Batch,
    Outcome,
    Progress,
    Recipe,
    Scalar,
    Training,
    apply_in_batches,
    check_outputs,
    compare_with,
    cross_entropy,
    make_batches,
    make_targets,
    run_steps,
)
from ._tokens import SequenceForm, StoredTokens

_BATCH: Final = 250


def make_probe(model: ViT, choice: str | PartSpec, num_classes: int, *, key: PRNGKeyArray) -> Readout:
    """Makes a readout for the tokens of a model: the pool, a norm if it follows the pool, and a linear head."""
    config = dataclasses.replace(model.config, pool=choice, head="linear", num_classes=num_classes, classes=None)
    return config.build_readout(key=key)


@final
class Standard(eqx.Module):
    """A fixed shift of each channel and one scale for all, between the pool and the head.

    Pools differ in scale (the sum is the mean times the number of patches), and a learning rate that fits one would not
    fit another. With the linear head this is again a linear head.
    """

    mean: Float[Array, " features"]
    scale: Float[Array, ""]

    def __init__(self, features: Float32[np.ndarray, "images features"]):
        """**Arguments:**

        - `features`: of the images to learn from, by the untrained pool. They are shifted to a mean of zero, and scaled
            so that their mean variance is one.
        """
        deviation = float(features.astype(np.float64).var(axis=0).mean()) ** 0.5
        self.mean = jnp.asarray(np.mean(features, axis=0, dtype=np.float64), jnp.float32)
        self.scale = jnp.asarray(1 / deviation if deviation > 1e-12 else 1.0, jnp.float32)

    def __call__(self, features: Float[Array, " features"]) -> Float[Array, " features"]:
        """**Arguments:**

        - `features`: of one image.

        **Returns:**

        The shifted and scaled features.
        """
        return (features - self.mean) * self.scale


def draw_order(seed: int, length: int, recipe: Recipe) -> Sequence[Int[np.ndarray, " batch"]]:
    """Draws the images of each step of a run. They depend on the seed and not on the pool, so that runs are paired."""

    def keep_indices(which: Int[np.ndarray, " batch"]) -> Int[np.ndarray, " batch"]:
        return which

    _, feed = make_batches(keep_indices, length, epochs=recipe.epochs, batch_size=recipe.batch_size, seed=seed)
    return list(feed)


def train_probe(
    model: ViT,
    choice: str | PartSpec,
    stored: StoredTokens,
    labels: Integer[np.ndarray, " images"],
    num_classes: int,
    recipe: Recipe,
    seed: int,
    order: Sequence[Int[np.ndarray, " batch"]],
    report: Callable[[Progress], object],
) -> tuple[Readout, Standard]:
    """Trains a probe. The result depends on its seed and order, not on other pools."""
    probe_key, steps_key = jax.random.split(jax.random.key(seed))
    probe = make_probe(model, choice, num_classes, key=probe_key)
    features = compute_features(probe, stored.train, stored.form)
    standard = Standard(features)
    # A pool without parameters and randomness returns the same vectors in every step: only the head is trained.
    settled = _is_settled(probe, stored)
    inputs = features if settled else stored.train
    batches = ({"features": inputs[which], "label": labels[which]} for which in order)
    training = Training(_TokensObjective(standard, None if settled else stored.form), recipe, len(order))
    state = run_steps(training, training.start(probe, key=steps_key), batches, report=report)
    return training.choose_model(state), standard


def _is_settled(probe: Readout, stored: StoredTokens) -> bool:
    if probe.norm is not None or jax.tree.leaves(eqx.filter(probe.pool, eqx.is_inexact_array)):
        return False
    tokens = stored.form.divide(jnp.asarray(stored.train[0]))
    return bool(jnp.array_equal(probe.pool(tokens, key=jax.random.key(0)), probe.pool(tokens)))


def compute_features(
    probe: Readout, sequences: Float32[np.ndarray, "images tokens dim"], form: SequenceForm
) -> Float32[np.ndarray, "images features"]:
    """Computes what the pool returns for all images."""
    return apply_in_batches(_compute_batch_features, probe, sequences, form, _BATCH)


def compute_logits(
    probe: Readout, standard: Standard, sequences: Float32[np.ndarray, "images tokens dim"], form: SequenceForm
) -> Float32[np.ndarray, "images classes"]:
    """Computes the logits of all images, and raises a `FloatingPointError` if they are not finite."""
    logits = apply_in_batches(compute_batch_logits, (probe, standard), sequences, form, _BATCH)
    check_outputs("logits", logits)
    return logits


@eqx.filter_jit
def _compute_batch_features(
    probe: Readout, sequences: Float[Array, "batch tokens dim"], form: SequenceForm
) -> Float[Array, "batch features"]:
    def pool_one(sequence: Float[Array, "tokens dim"]) -> Float[Array, " features"]:
        return probe.pool_tokens(form.divide(sequence))

    return jax.vmap(pool_one)(sequences)


@eqx.filter_jit
def compute_batch_logits(
    probe_and_standard: tuple[Readout, Standard], sequences: Float[Array, "batch tokens dim"], form: SequenceForm
) -> Float[Array, "batch classes"]:
    """Computes the logits of a batch."""
    probe, standard = probe_and_standard

    def classify(sequence: Float[Array, "tokens dim"]) -> Float[Array, " classes"]:
        return probe.head(standard(probe.pool_tokens(form.divide(sequence))))

    return jax.vmap(classify)(sequences)


@final
class _TokensObjective(AbstractObjective):
    """The cross-entropy of a probe on stored tokens, or on what its pool makes of them."""

    inputs: ClassVar[tuple[str, ...]] = ("features", "label")

    standard: Standard
    form: SequenceForm | None = eqx.field(static=True)

    def __init__(self, standard: Standard, form: SequenceForm | None):
        self.standard = standard
        self.form = form

    def prepare(self, model: Any, *, key: PRNGKeyArray) -> Any:
        return model

    def __call__(
        self, model: Any, batch: Batch, *, carried: Any, progress: Scalar, key: PRNGKeyArray
    ) -> tuple[Scalar, Outcome]:
        def classify(features: Float[Array, "..."], key: PRNGKeyArray) -> Float[Array, " classes"]:
            if self.form is not None:
                features = model.pool_tokens(self.form.divide(features), key=key)
            return model.head(self.standard(features), key=key)

        logits = jax.vmap(classify)(batch["features"], jax.random.split(key, len(batch["features"])))
        loss = cross_entropy(logits, make_targets(batch["label"], logits.shape[1]))
        return loss, Outcome({"accuracy": compare_with(batch["label"], logits)})
