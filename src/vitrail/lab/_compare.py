"""The comparison: one pass of the backbone, then every pool on its tokens."""

import dataclasses
import hashlib
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._check import check_not_negative, check_positive
from .._registry import PartSpec
from ..model import Readout, ViT
from ..pool import POOLS, AbstractPool, AbstractWeighingPool
from ..train import Augmentation, Dataset, Progress, Recipe
from ._kept import Kept, LabProgress, Layout, kept_tokens
from ._probe import Standard, all_features, all_logits, logits_of, make_probe, order_of, train_probe
from ._results import Comparison, Finished, PoolRow, SkippedPool
from ._statistics import holm, knn_predictions, sign_flip_p_value

PROBE_RECIPE: Final = Recipe(
    epochs=20, batch_size=128, learning_rate=3e-3, weight_decay=1e-4, augmentation=Augmentation()
)
"""The recipe of each pool and its head. There is no augmentation, as the backbone sees each image once."""

_SHOWN: Final = 4
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
    """Trains every pool, with a linear head, on the tokens of one frozen backbone, and says which is best.

    !!! example

        ```python
        comparison = vitrail.compare_pools(model, data, pools=["mean", "cls", "attention"])
        for row in comparison.rows:
            print(row.pool, row.accuracy, row.spread, row.p_value)
        ```

    The backbone runs once over the images; each pool is then trained on the tokens it gave, as often as there are
    seeds. A run depends on its pool and its seed alone, and all pools see the images in the same order. Between pool
    and head lies a fixed shift and scale, measured on the pool as it was drawn: it makes one learning rate fair to
    pools of different scale, as the batch norm without parameters does in the linear probing of He et al. 2022 (MAE,
    arXiv:2111.06377), and it folds into the head.

    **Arguments:**

    - `model`: the backbone. Its own pool and head are left out; where its norm comes after the pool, so does that of
        each pool.
    - `data`: what to learn from, and what to judge by.
    - `pools`: names, or names with options; `None` for every registered pool that can take part.
    - `seeds`: how many runs there are of each pool.
    - `recipe`: of each run, without augmentation.
    - `folder`: where each finished pool is kept, so that a second call goes on after an interruption; `None` for
        nowhere.
    - `token_budget`: how many GiB of tokens are kept in memory. If they are more, they lie in a temporary file, in
        `folder` if that is given.
    - `report`: is called with the `LabProgress`.

    **Returns:**

    A `Comparison`, the best pool first. The p-values are those of a two-sided sign-flip test, paired over the held-out
    images, of the difference to the best pool in the part of the runs that got an image right, after Holm's correction.
    They say how sure it is that a pool is worse on images such as these, with this backbone.

    **Raises:** `ValueError` where a pool that was named cannot take part, the recipe augments, or the folder holds
    another comparison; what a model that does not fit the images raises; `OSError` where the tokens have no room;
    `MissingExtraError` where optax or grain is not installed.
    """
    check_positive(seeds=seeds)
    check_not_negative(token_budget=token_budget)
    if recipe.augmentation != Augmentation():
        raise ValueError(
            f"recipe must have no augmentation, but {recipe.augmentation} came: the backbone sees each image once, as "
            "it is; take dataclasses.replace(recipe, augmentation=Augmentation())"
        )
    folder = None if folder is None else Path(folder)
    choices, skipped = _choose(model, pools)
    shown = _shown(data)
    finished = None if folder is None else Finished(folder, _describe(model, data, recipe, seeds))
    rows = {label: None if finished is None else finished.read(label) for label in choices}

    def tell(progress: LabProgress) -> None:
        if report is not None:
            report(progress)

    missing = [label for label, row in rows.items() if row is None]
    if missing:
        orders = [order_of(seed, len(data.train), recipe) for seed in range(seeds)]
        with kept_tokens(model, data, token_budget, folder, tell) as kept:
            for label in missing:
                try:
                    row = _judge(model, data, kept, label, choices[label], recipe, orders, shown, tell)
                except Exception as error:
                    if pools is not None:
                        raise
                    skipped.append(SkippedPool(label, _said(error)))  # one that fails must not take the others along
                    continue
                if finished is not None:
                    finished.write(row)
                rows[label] = row
    done = [row for row in rows.values() if row is not None]
    if not done:
        reasons = "; ".join(f"{pool.pool}: {pool.reason}" for pool in skipped)
        raise ValueError(f"data and model must suit at least one pool, but all failed: {reasons}")
    return Comparison(_ranked(done), tuple(skipped), shown)


def _choose(model: ViT, pools: Sequence[str | PartSpec] | None) -> tuple[dict[str, str | PartSpec], list[SkippedPool]]:
    """The pools that take part, by label, and those that cannot."""
    choices: dict[str, str | PartSpec] = {}
    skipped: list[SkippedPool] = []
    for choice in list(POOLS) if pools is None else pools:
        label = choice if isinstance(choice, str) else _label(choice)
        try:
            reason = _reason_against(model, choice)
        except Exception as error:
            if pools is not None:
                raise
            reason = _said(error)  # a plugin's, which must not take the others along
        if reason is not None and pools is not None:
            raise ValueError(f"pools must be such as can be compared on this model, but {label!r} came: {reason}")
        if reason is not None:
            skipped.append(SkippedPool(label, reason))
        elif label in choices:
            raise ValueError(f"pools must name each pool once, but {label!r} came twice")
        else:
            choices[label] = choice
    if not choices:
        raise ValueError("pools must name at least one pool, but none came")
    return choices, skipped


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _label(choice: PartSpec) -> str:
    return f"{choice.name}({', '.join(f'{option}={value!r}' for option, value in choice.options)})"


def _reason_against(model: ViT, choice: str | PartSpec) -> str | None:
    """Why a pool cannot take part; `None` where it can. Nothing is computed."""
    probe = cast(Readout, eqx.filter_eval_shape(make_probe, model, choice, 2, key=jax.random.key(0)))
    layout = Layout.of(model.backbone)
    if probe.pool.needs_class_token and not layout.has_class_token:
        return "it reads the class token, and the backbone has none"

    def run(pool: AbstractPool, sequence: Float[Array, "tokens dim"]) -> Float[Array, "..."]:
        return pool(layout.tokens(sequence))

    sequence = jax.ShapeDtypeStruct((layout.length, model.backbone.dim), jnp.float32)
    made = cast(jax.ShapeDtypeStruct, eqx.filter_eval_shape(run, probe.pool, sequence))
    return None if made.ndim == 1 else f"it gives {made.shape}, and not one vector"


def _describe(model: ViT, data: Dataset, recipe: Recipe, seeds: int) -> dict[str, str]:
    """What the results depend on besides the pool."""
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array))]
    images = [data.train.images, data.train.labels, data.test.images, data.test.labels]
    return {
        "model": _digest(arrays, repr(model.config)),
        "data": _digest(images, repr((data.classes, data.normalisation))),
        "recipe": repr(recipe),
        "seeds": str(seeds),
        "vitrail": version("vitrail"),
    }


def _digest(arrays: Iterable[Any], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.asarray(array, order="C").tobytes())
    return digest.hexdigest()


def _shown(data: Dataset) -> tuple[int, ...]:
    """The first held-out image of each of the first four classes."""
    _, first = np.unique(data.test.labels, return_index=True)
    return tuple(int(index) for index in first[:_SHOWN])


def _judge(
    model: ViT,
    data: Dataset,
    kept: Kept,
    label: str,
    choice: str | PartSpec,
    recipe: Recipe,
    orders: Sequence[Sequence[Int[np.ndarray, " batch"]]],
    shown: tuple[int, ...],
    report: Callable[[LabProgress], object],
) -> PoolRow:
    """Trains a pool once for each seed, and finds out what its row says."""
    classes, labels = len(data.classes), data.train.labels

    def run(seed: int) -> tuple[Readout, Standard]:
        name = f"{label}, run {seed + 1} of {len(orders)}"

        def tell(progress: Progress) -> None:
            report(LabProgress("pool", name, progress.step, progress.steps))

        return train_probe(model, choice, kept, labels, classes, recipe, seed, orders[seed], tell)

    runs = [run(seed) for seed in range(len(orders))]
    probe, standard = runs[0]
    logits = [all_logits(*trained, kept.test, kept.layout) for trained in runs]
    knn_accuracy = None
    if _count(probe.pool) == 0:
        features = [all_features(probe, part, kept.layout) for part in (kept.train, kept.test)]
        nearest = knn_predictions(features[0], labels, features[1], classes)
        knn_accuracy = float((nearest == data.test.labels).mean())
    return PoolRow(
        pool=label,
        correct=np.stack([np.argmax(x, axis=1) == data.test.labels for x in logits]),
        pool_parameters=_count(probe.pool),
        head_parameters=_count(probe.head),
        microseconds=_microseconds(probe, standard, kept),
        needs_class_token=probe.pool.needs_class_token,
        knn_accuracy=knn_accuracy,
        looks=_looks(probe.pool, kept, shown),
    )


def _count(module: object) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(module, eqx.is_array)))


def _microseconds(probe: Readout, standard: Standard, kept: Kept) -> float:
    batch = jnp.asarray(kept.test[:_TIMED_BATCH])
    seconds: list[float] = []
    for _ in range(_TIMED_CALLS + 1):
        started = time.perf_counter()
        jax.block_until_ready(logits_of((probe, standard), batch, kept.layout))
        seconds.append(time.perf_counter() - started)
    return 1e6 * statistics.median(seconds[1:]) / len(batch)  # the first compiles


def _looks(pool: AbstractPool, kept: Kept, shown: tuple[int, ...]) -> Float[np.ndarray, "images rows cols"] | None:
    if not isinstance(pool, AbstractWeighingPool):
        return None
    maps = [pool.weights(kept.layout.tokens(jnp.asarray(kept.test[index]))) for index in shown]
    return np.stack([np.asarray(jnp.mean(m, axis=0), np.float64).reshape(kept.layout.grid) for m in maps])


def _ranked(rows: list[PoolRow]) -> tuple[PoolRow, ...]:
    """The best first, each other with the significance of its difference to the best."""
    best, *others = sorted(rows, key=lambda row: (-row.accuracy, row.pool_parameters + row.head_parameters))
    score = np.mean(best.correct, axis=0)
    p_values = holm([sign_flip_p_value(score - np.mean(row.correct, axis=0)) for row in others])
    judged = (dataclasses.replace(row, p_value=p) for row, p in zip(others, p_values, strict=True))
    return (dataclasses.replace(best, p_value=None), *judged)
