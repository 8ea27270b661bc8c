"""Compares pools: runs the backbone once, then trains every pool on its tokens."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import __version__
from .._check import check_not_negative, check_positive
from .._spec import PartSpec
from ..images import Augmentation, Dataset
from ..model import Readout, ViT
from ..nn import count_parameters, digest_arrays
from ..pool import POOLS, AbstractPool, AbstractWeighingPool
from ..train import Progress, Recipe, check_channels, rank_by_neighbours
from ._probe import (
    Standard,
    compute_batch_logits,
    compute_features,
    compute_logits,
    draw_order,
    make_probe,
    train_probe,
)
from ._results import Comparison, FinishedPools, PoolRow, SkippedPool
from ._statistics import compare_with_best
from ._tokens import LabProgress, SequenceForm, StoredTokens, store_tokens

PROBE_RECIPE: Final = Recipe(
    epochs=20, batch_size=128, learning_rate=3e-3, weight_decay=1e-4, augmentation=Augmentation()
)
"""The recipe of each pool and its head. There is no augmentation, because the backbone sees each image once."""

_NUM_MAPS: Final = 4
_NEIGHBOURS: Final = 20
# With 48 to 768 digits of MNIST a probe has 20 to 44 % after 15 steps, 61 to 73 % after 30, 86 to 93 % after 60, and
# from 120 steps on what it has after a thousand, 88 to 95 %. The number of images matters far less.
_ENOUGH_STEPS: Final = 100
_TIMED_BATCH: Final = 50
_TIMED_CALLS: Final = 30


def compare_pools(
    model: ViT,
    data: Dataset,
    *,
    pools: Sequence[str | PartSpec] | None = None,
    seeds: int = 3,
    recipe: Recipe = PROBE_RECIPE,
    folder: Path | str | None = None,
    token_budget: float = 2.0,
    report: Callable[[LabProgress], object] | None = None,
) -> Comparison:
    """Trains every pool, with a linear head, on the tokens of one frozen backbone, and ranks them.

    !!! example

        ```python
        comparison = vitrail.compare_pools(model, data, pools=["mean", "cls", "attention"])
        for row in comparison.rows:
            print(row.pool, row.accuracy, row.spread, row.p_value)
        ```

    The backbone runs once over the images. Each pool is then trained on its tokens, once for each seed. A run depends
    only on its pool and seed, and all pools see the images in the same order. Between the pool and the head there
    is a fixed shift and scale, measured on the untrained pool: it makes one learning rate fair to pools of different
    scale, as the batch norm without parameters in the linear probing of He et al. 2022 (MAE, arXiv:2111.06377).

    **Arguments:**

    - `model`: its backbone is used, its pool and head are not. If its norm follows the pool, each pool has such a norm.
    - `data`: the images to learn from, and those to evaluate on. For loaded weights, load it with
        `preprocess=model.config.preprocess`.
    - `pools`: names, or names with options; `None` for every registered pool that fits.
    - `seeds`: the number of runs of each pool.
    - `recipe`: of each run, without augmentation.
    - `folder`: each finished pool is saved there, so that a second call continues after an interruption; `None` for
        nowhere.
    - `token_budget`: how many GiB of tokens are held in memory. Larger ones are in a temporary file, in `folder` if it
        is given.
    - `report`: is called with the `LabProgress`.

    **Returns:**

    A `Comparison`, the best pool first. The p-values are of a two-sided sign-flip test of the difference to the best
    pool, paired over the held-out images, after Holm's correction: a small one means that the pool is worse on such
    images, with this backbone. Its `notes` say if the images are too few for the recipe: a run of fewer than 100 steps
    ends before the head has learned what it can.

    **Raises:** `ValueError` if a named pool does not fit, the images have other channels than the model reads, the
    recipe augments, or the folder has another comparison; what a model that does not fit the images raises; `OSError`
    if there is no space for the tokens; `FloatingPointError` if tokens, a loss or logits are not finite;
    `MissingExtraError` if optax or grain is not installed.
    """
    check_positive(seeds=seeds)
    check_not_negative(token_budget=token_budget)
    if recipe.augmentation != Augmentation() or recipe.transforms:
        raise ValueError(
            f"recipe must have no augmentation and no transforms, got {recipe.augmentation} and {recipe.transforms}: "
            "use dataclasses.replace(recipe, augmentation=Augmentation(), transforms=()), because the backbone sees "
            "each image once"
        )
    check_channels(model, data)
    folder = None if folder is None else Path(folder)
    choices, skipped = _choose(model, pools)
    map_images = _pick_map_images(data)
    finished = None
    if folder is not None:
        finished = FinishedPools(
            folder,
            _describe(model, data, recipe, seeds),
            hits_shape=(seeds, len(data.test)),
            maps_shape=(len(map_images), *model.backbone.grid),
        )
    rows = {label: None if finished is None else finished.read(label) for label in choices}

    def tell(progress: LabProgress) -> None:
        if report is not None:
            report(progress)

    missing = [label for label, row in rows.items() if row is None]
    if missing:
        orders = [draw_order(seed, len(data.train), recipe) for seed in range(seeds)]
        with store_tokens(model, data, token_budget, folder, tell) as stored:
            for label in missing:
                try:
                    row = _evaluate_pool(model, data, stored, label, choices[label], recipe, orders, map_images, tell)
                except Exception as error:
                    if pools is not None:
                        raise
                    skipped.append(SkippedPool(label, _describe_error(error)))  # the others go on
                    continue
                if finished is not None:
                    finished.write(row)
                rows[label] = row
    done = [row for row in rows.values() if row is not None]
    if not done:
        reasons = "; ".join(f"{pool.pool}: {pool.reason}" for pool in skipped)
        raise ValueError(f"all pools failed: {reasons}")
    return Comparison(_rank(done), tuple(skipped), map_images, _note_limits(recipe, len(data.train)))


def _note_limits(recipe: Recipe, images: int) -> tuple[str, ...]:
    """Notes that a run has too few steps for its accuracy to be what the pool can reach."""
    steps = recipe.epochs * images // recipe.batch_size
    if steps >= _ENOUGH_STEPS:
        return ()
    epochs = -(-_ENOUGH_STEPS * recipe.batch_size // images)
    return (
        f"the images are too few for the recipe, so the accuracies are lower than what the pools can reach: {images:,} "
        f"images give {steps} steps, and {_ENOUGH_STEPS} are needed. Use more images, or epochs={epochs}",
    )


def _choose(model: ViT, pools: Sequence[str | PartSpec] | None) -> tuple[dict[str, str | PartSpec], list[SkippedPool]]:
    """The pools to compare, by label, and those that do not fit."""
    if isinstance(pools, str):
        raise ValueError(f"pools must be a sequence of names, got {pools!r}: pass ({pools!r},)")
    choices: dict[str, str | PartSpec] = {}
    skipped: list[SkippedPool] = []
    for choice in list(POOLS) if pools is None else pools:
        label = str(choice)
        try:
            reason = _find_misfit(model, choice)
        except Exception as error:
            if pools is not None:
                raise
            reason = _describe_error(error)  # of a plugin: the others go on
        if reason is not None and pools is not None:
            raise ValueError(f"pools has {label!r}, which cannot be compared on this model: {reason}")
        if reason is not None:
            skipped.append(SkippedPool(label, reason))
        elif label in choices:
            raise ValueError(f"pools must have each pool once, got {label!r} twice: remove one")
        else:
            choices[label] = choice
    if not choices:
        raise ValueError("pools must have at least one pool, got none")
    return choices, skipped


def _describe_error(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _find_misfit(model: ViT, choice: str | PartSpec) -> str | None:
    """Why a pool does not fit the model; `None` if it does. Only shapes are computed."""
    probe = cast(Readout, eqx.filter_eval_shape(make_probe, model, choice, 2, key=jax.random.key(0)))
    form = SequenceForm.from_backbone(model.backbone)
    if probe.pool.needs_class_token and not form.has_class_token:
        return "it reads the class token, and the backbone has none"

    def run(pool: AbstractPool, sequence: Float[Array, "tokens dim"]) -> Float[Array, "..."]:
        return pool(form.divide(sequence))

    sequence = jax.ShapeDtypeStruct((form.length, model.backbone.dim), jnp.float32)
    pooled = cast(jax.ShapeDtypeStruct, eqx.filter_eval_shape(run, probe.pool, sequence))
    return None if pooled.ndim == 1 else f"it returns shape {pooled.shape}, not one vector"


def _describe(model: ViT, data: Dataset, recipe: Recipe, seeds: int) -> dict[str, str]:
    """What the results depend on besides the pool."""
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array))]
    return {
        "model": digest_arrays(arrays, repr((model.config, model.backbone.execution))),
        "data": digest_arrays([], repr((data.train.digest, data.test.digest, data.classes, data.preprocess))),
        "recipe": repr(recipe),
        "seeds": str(seeds),
        "vitrail": __version__,
    }


def _pick_map_images(data: Dataset) -> tuple[int, ...]:
    """The first held-out image of each of the first four classes."""
    _, first = np.unique(data.test.labels, return_index=True)
    return tuple(int(index) for index in first[:_NUM_MAPS])


def _evaluate_pool(
    model: ViT,
    data: Dataset,
    stored: StoredTokens,
    label: str,
    choice: str | PartSpec,
    recipe: Recipe,
    orders: Sequence[Sequence[Int[np.ndarray, " batch"]]],
    map_images: tuple[int, ...],
    report: Callable[[LabProgress], object],
) -> PoolRow:
    """Trains a pool once for each seed, and computes its row."""
    classes, labels = len(data.classes), data.train.labels

    def run(seed: int) -> tuple[Readout, Standard]:
        name = f"{label}, run {seed + 1} of {len(orders)}"

        def tell(progress: Progress) -> None:
            report(LabProgress("pool", name, progress.step, progress.steps))

        return train_probe(model, choice, stored, labels, classes, recipe, seed, orders[seed], tell)

    runs = [run(seed) for seed in range(len(orders))]
    probe, standard = runs[0]
    logits = [compute_logits(*trained, stored.test, stored.form) for trained in runs]
    knn_accuracy = None
    if count_parameters(probe.pool) == 0:
        features = [compute_features(probe, part, stored.form) for part in (stored.train, stored.test)]
        numbers = (min(_NEIGHBOURS, len(labels)),)
        ranked = rank_by_neighbours(features[0], labels, features[1], classes, neighbours=numbers)
        knn_accuracy = float((ranked[0, :, 0] == data.test.labels).mean())
    return PoolRow(
        pool=label,
        correct=np.stack([np.argmax(x, axis=1) == data.test.labels for x in logits]),
        pool_parameters=count_parameters(probe.pool),
        head_parameters=count_parameters(probe.head),
        microseconds=_measure_microseconds(probe, standard, stored),
        needs_class_token=probe.pool.needs_class_token,
        knn_accuracy=knn_accuracy,
        maps=_compute_maps(probe.pool, stored, map_images),
    )


def _measure_microseconds(probe: Readout, standard: Standard, stored: StoredTokens) -> float:
    batch = jnp.asarray(stored.test[:_TIMED_BATCH])
    seconds: list[float] = []
    for _ in range(_TIMED_CALLS + 1):
        started = time.perf_counter()
        jax.block_until_ready(compute_batch_logits((probe, standard), batch, stored.form))
        seconds.append(time.perf_counter() - started)
    return 1e6 * statistics.median(seconds[1:]) / len(batch)  # the first compiles


def _compute_maps(
    pool: AbstractPool, stored: StoredTokens, map_images: tuple[int, ...]
) -> Float[np.ndarray, "images rows cols"] | None:
    if not isinstance(pool, AbstractWeighingPool):
        return None
    maps = [pool.weights(stored.form.divide(jnp.asarray(stored.test[index]))) for index in map_images]
    return np.stack([np.asarray(jnp.mean(m, axis=0), np.float64).reshape(stored.form.grid) for m in maps])


def _rank(rows: list[PoolRow]) -> tuple[PoolRow, ...]:
    """Sorts the rows, the best first, and computes the p-values of the others."""
    best, *others = sorted(rows, key=lambda row: (-row.accuracy, row.pool_parameters + row.head_parameters))
    p_values = compare_with_best([np.mean(row.correct, axis=0) for row in (best, *others)])
    ranked = (dataclasses.replace(row, p_value=p) for row, p in zip(others, p_values, strict=True))
    return (dataclasses.replace(best, p_value=None), *ranked)
