"""What the lab trains: a pool and a linear head, on stored tokens, several of them side by side."""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Integer, PRNGKeyArray

from .._spec import PartSpec
from ..head import AbstractHead
from ..images import Augmentation
from ..model import Readout, ViTConfig
from ..pool import PoolFactory
from ..train import Recipe, check_outputs, cross_entropy, make_optimiser, make_schedule, make_targets
from ._tokens import SequenceForm

_BATCH: Final = 250
_REPORT_EVERY: Final = 50
_PLAIN_RATE: Final = Recipe(learning_rate=1.0, warmup=0.0, schedule="constant", augmentation=Augmentation())
"""The update of a step for a learning rate of one."""


def make_probe(
    config: ViTConfig, choice: str | PartSpec | PoolFactory, num_classes: int, *, key: PRNGKeyArray
) -> Readout:
    """Makes a readout for the tokens of a model: the pool, a norm if it follows the pool, and a linear head."""
    config = dataclasses.replace(config, pool=choice, head="linear", num_classes=num_classes, classes=None)
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


@final
class Probe(eqx.Module):
    """A readout with a `Standard` between its pool and its head; or the head alone, of what the pool returned."""

    part: Readout | AbstractHead
    standard: Standard
    form: SequenceForm | None = eqx.field(static=True)

    def __init__(self, part: Readout | AbstractHead, standard: Standard, form: SequenceForm | None):
        """**Arguments:**

        - `part`: the readout, or the head alone.
        - `standard`: what stands between pool and head.
        - `form`: how the sequence of an image is divided for the readout; `None` for a head alone.
        """
        self.part = part
        self.standard = standard
        self.form = form

    def __call__(self, x: Float[Array, "..."], *, key: PRNGKeyArray | None = None) -> Float[Array, " classes"]:
        """**Arguments:**

        - `x`: the tokens of one image, or for a head alone what the pool returned.
        - `key`: for what is random in training.

        **Returns:**

        The logits.
        """
        if not isinstance(self.part, Readout) or self.form is None:
            return cast(AbstractHead, self.part)(self.standard(x), key=key)
        pooled = self.part.pool_tokens(self.form.divide(x), key=key)
        return self.part.head(self.standard(pooled), key=key)


def draw_order(seed: int, which: Int[np.ndarray, " images"], steps: int, batch_size: int) -> Int[np.ndarray, "..."]:
    """Draws the images of each step of a run: `(steps, batch)`. They depend on the seed and not on what is trained, so
    that runs are paired. Each image is in it as often as any other, or once more."""
    batch_size = min(batch_size, len(which))
    random = np.random.RandomState(seed)  # whose numbers no version of NumPy changes
    epochs = -(-steps * batch_size // len(which))
    order = np.concatenate([random.permutation(which) for _ in range(epochs)])
    return order[: steps * batch_size].reshape(steps, batch_size)


def is_settled(readout: Readout, form: SequenceForm, sequence: Float32[np.ndarray, "tokens dim"]) -> bool:
    """Whether a pool has neither parameters nor randomness: it is computed once, and only the head is trained."""
    if readout.norm is not None or jax.tree.leaves(eqx.filter(readout.pool, eqx.is_inexact_array)):
        return False
    tokens = form.divide(jnp.asarray(sequence))
    return bool(jnp.array_equal(readout.pool(tokens, key=jax.random.key(0)), readout.pool(tokens)))


def compute_features(
    readout: Readout, sequences: Float32[np.ndarray, "images tokens dim"], form: SequenceForm
) -> Float32[np.ndarray, "images features"]:
    """Computes what the pool returns for all images."""
    return _apply(_pool_batch, (readout, form), sequences, np.arange(len(sequences)))


def compute_logits(
    probe: Probe, inputs: Float32[np.ndarray, "images ..."], which: Int[np.ndarray, " chosen"]
) -> Float32[np.ndarray, "chosen classes"]:
    """Computes the logits of some images, and raises a `FloatingPointError` if they are not finite."""
    logits = _apply(classify_batch, probe, inputs, which)
    check_outputs("logits", logits)
    return logits


def _apply(
    function: Callable[..., Array],
    model: Any,
    inputs: Float32[np.ndarray, "images ..."],
    which: Int[np.ndarray, " chosen"],
) -> Float32[np.ndarray, "chosen ..."]:
    """Applies a compiled function to chosen inputs in batches of one size, so that it is compiled once."""
    size = min(_BATCH, len(which))
    filled = np.concatenate([which, np.repeat(which[-1:], -len(which) % size)])
    made = [np.asarray(function(model, jnp.asarray(inputs[part]))) for part in filled.reshape(-1, size)]
    return np.concatenate(made)[: len(which)]


@eqx.filter_jit
def _pool_batch(
    given: tuple[Readout, SequenceForm], sequences: Float[Array, "batch tokens dim"]
) -> Float[Array, "batch features"]:
    readout, form = given

    def pool_one(sequence: Float[Array, "tokens dim"]) -> Float[Array, " features"]:
        return readout.pool_tokens(form.divide(sequence))

    return jax.vmap(pool_one)(sequences)


@eqx.filter_jit
def classify_batch(probe: Probe, inputs: Float[Array, "batch ..."]) -> Float[Array, "batch classes"]:
    """Computes the logits of a batch."""

    def classify(x: Float[Array, "..."]) -> Float[Array, " classes"]:
        return probe(x)

    return jax.vmap(classify)(inputs)


@dataclass(frozen=True)
class Trained:
    """Probes that were trained side by side."""

    probes: tuple[tuple[Probe, ...], ...]
    """For each probe, as it is after the training with each learning rate."""
    finite: Bool[np.ndarray, "probes rates"]
    """Whether all losses were finite."""


def train_probes(
    probes: Sequence[Probe],
    rates: Sequence[float],
    inputs: Float32[np.ndarray, "images ..."],
    labels: Integer[np.ndarray, " images"],
    orders: Int[np.ndarray, "probes steps batch"],
    *,
    weight_decay: float,
    seed: int,
    report: Callable[[int, int], object],
) -> Trained:
    """Trains each probe once with each learning rate.

    Heads alone are trained side by side, a step of all in one compiled program. Readouts are trained one after the
    other, because of the memory that tokens take. The rule is AdamW with the schedule and the clipping of `Recipe`; the
    learning rate of each step is an input of the program, which is compiled once for all rates and lengths of a run.
    """
    steps, recipe = orders.shape[1], Recipe(weight_decay=weight_decay, augmentation=Augmentation())
    schedule = make_schedule(dataclasses.replace(recipe, learning_rate=1.0), steps)
    factors = np.asarray(rates, np.float32) * np.array([[float(schedule(step))] for step in range(steps)], np.float32)
    divided = [cast(tuple[Any, Any], eqx.partition(probe.part, eqx.is_inexact_array)) for probe in probes]
    setting = _Setting(divided[0][1], probes[0].form, dataclasses.replace(_PLAIN_RATE, weight_decay=weight_decay))
    keys = jax.random.split(jax.random.key(seed), steps)

    def train(state: _State, standard: Standard, places: Int[np.ndarray, "steps ..."], factors: Any, first: int):
        for step in range(steps):
            which = places[step]
            batch = jnp.asarray(inputs[which]), jnp.asarray(labels[which])
            state = _step((setting, jnp.asarray(factors[step]), standard, batch, keys[step]), state)
            if (step + 1) % _REPORT_EVERY == 0 or step + 1 == steps:
                jax.block_until_ready(state[2])
                report(first + step + 1, total)
        return state

    runs = [(i, j) for i in range(len(probes)) for j in range(len(rates))]
    if setting.form is None:
        total = steps
        stacked = _stack([_stack([arrays] * len(rates)) for arrays, _ in divided])
        start = stacked, _init(setting, stacked), jnp.ones((len(probes), len(rates)), bool)
        standards = _stack([probe.standard for probe in probes])
        state = train(start, standards, np.moveaxis(orders, 1, 0), factors, 0)
        states = {pair: jax.tree.map(operator.itemgetter(pair), (state[0], state[2])) for pair in runs}
    else:
        total = steps * len(runs)
        states = dict[tuple[int, int], Any]()
        for number, (i, j) in enumerate(runs):
            arrays = jax.tree.map(jnp.copy, divided[i][0])  # a step reuses the memory
            start = arrays, _init(setting, arrays), jnp.ones((), bool)
            state = train(start, probes[i].standard, orders[i], factors[:, j], number * steps)
            states[i, j] = state[0], state[2]

    def finish(i: int, j: int) -> Probe:
        part = cast(Readout | AbstractHead, eqx.combine(states[i, j][0], setting.fixed))
        return Probe(part, probes[i].standard, probes[i].form)

    made = tuple(tuple(finish(i, j) for j in range(len(rates))) for i in range(len(probes)))
    finite = np.array([bool(states[pair][1]) for pair in runs]).reshape(len(probes), len(rates))
    return Trained(made, finite)


def _stack(trees: Sequence[Any]) -> Any:
    def stack(*leaves: Array) -> Array:
        return jnp.stack(leaves)

    return jax.tree.map(stack, *trees)


@final
class _Setting(eqx.Module):
    """What is the same in all steps."""

    fixed: Any
    form: SequenceForm | None = eqx.field(static=True)
    recipe: Recipe = eqx.field(static=True)

    def __init__(self, fixed: Any, form: SequenceForm | None, recipe: Recipe):
        self.fixed = fixed
        self.form = form
        self.recipe = recipe


_State = tuple[Any, Any, Array]
"""What is trained, the state of the optimiser, and whether all losses were finite."""


@eqx.filter_jit
def _init(setting: _Setting, arrays: Any) -> Any:
    optimiser = make_optimiser(setting.recipe, 1)
    return optimiser.init(arrays) if setting.form is not None else jax.vmap(jax.vmap(optimiser.init))(arrays)


@eqx.filter_jit(donate="all-except-first")
def _step(given: tuple[_Setting, Array, Standard, tuple[Array, Array], Array], state: _State) -> _State:
    """A step of one readout; or of all heads, each with all rates."""
    setting, factor, standard, batch, key = given
    optimiser = make_optimiser(setting.recipe, 1)

    def step_one(state: _State, factor: Array, standard: Standard, inputs: Array, labels: Array) -> _State:
        arrays, inner, finite = state

        def compute_loss(arrays: Any) -> Float[Array, ""]:
            probe = Probe(cast(Readout | AbstractHead, eqx.combine(arrays, setting.fixed)), standard, setting.form)

            def classify(x: Float[Array, "..."], key: PRNGKeyArray) -> Float[Array, " classes"]:
                return probe(x, key=key)

            logits = jax.vmap(classify)(inputs, jax.random.split(key, len(inputs)))
            return cross_entropy(logits, make_targets(labels, logits.shape[1]))

        loss, gradient = jax.value_and_grad(compute_loss)(arrays)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
            updates, inner = optimiser.update(gradient, inner, arrays)

        def add(array: Array, update: Array) -> Array:
            return array + factor * update

        return jax.tree.map(add, arrays, updates), inner, finite & jnp.isfinite(loss)

    if setting.form is not None:
        return step_one(state, factor, standard, *batch)
    over_rates = jax.vmap(step_one, in_axes=(0, 0, None, None, None))
    return jax.vmap(over_rates, in_axes=(0, None, 0, 0, 0))(state, factor, standard, *batch)
