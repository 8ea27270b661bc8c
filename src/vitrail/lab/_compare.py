"""Compares models, layers, resolutions and pools on a set of images."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from .._check import check_above_zero, check_not_negative
from ..model import ViT
from ._bench import LATE, Bench, ModelImages
from ._candidates import PoolChoice, choose_groups
from ._options import ProbeOptions
from ._plan import Plan, make_plan, read_plan
from ._results import Comparison
from ._rows import Row, Skipped
from ._statistics import compare_with_best
from ._tokens import LabProgress


def compare(
    models: ViT | Mapping[str, ViT],
    data: ModelImages,
    *,
    layers: Sequence[int] = (-1,),
    resolutions: Sequence[int | tuple[int, int]] | None = None,
    pools: Sequence[PoolChoice] | None = None,
    options: ProbeOptions = ProbeOptions(),
    minutes: float | None = None,
    folder: Path | str | None = None,
    token_budget: float = 2.0,
    report: Callable[[LabProgress], object] | None = None,
) -> Comparison:
    """Trains readouts on the tokens of frozen backbones, and ranks them: each model, at each resolution, with each pool
    on the tokens of each layer.

    !!! example

        ```python
        comparison = vitrail.compare(model, data, pools=["mean", "cls", "attention"])
        print(*comparison.conclusion)
        for row in comparison.rows:
            print(row.name, row.accuracy, row.margin, row.p_value)
        ```

    Each backbone runs once over the images for each resolution, for all layers together. A readout is a pool and a
    linear head. It is trained on the stored tokens with the learning rate that a search chose, once for each seed, and
    again on few images of each class. All runs of a seed see the images in the same order. Between the pool and the
    head is a fixed normalisation, measured on the untrained pool, like the batch norm without parameters in the linear
    probing of He et al. 2022 (MAE, arXiv:2111.06377).

    A layer, resolution or pool that fits no model is an error before anything runs. If it fits some of the models only,
    it is left out for the others, and `Comparison.skipped` gives the reason. A readout whose training fails is left
    out, too.

    **Arguments:**

    - `models`: a model, or several by name. Their backbones are used, their pools and heads are not. If the norm of one
        follows the pool, each pool has such a norm.
    - `data`: the images to learn from, and those to test on. A `Dataset` if all models read the same pixels. Otherwise
        a function that takes a model, at one of the resolutions, and loads the images for it: `lambda model:
        load_images("photos", image_size=model.config.image_size, preprocess=model.config.preprocess)`.
    - `layers`: the blocks whose tokens are read, counted from zero, or from the end if negative; -1 is the last. The
        final norm of the backbone is applied to each. Time and operations are those up to the block.
    - `resolutions`: the sizes of the images, one number for a square; `None` for that of each model.
    - `pools`: names, names with options, classes, or `functools.partial`s of them; `None` for every registered pool
        that fits.
    - `options`: how the readouts are trained and tested.
    - `minutes`: about how long this call may take; `None` for no limit. The speed of the images, a model and the pools
        is measured first. Then, as far as needed, it leaves out few-shot tests, all seeds but one, learning rates and
        steps, images (at least 100 test images stay), and last the slowest combinations. `Comparison.notes` lists what
        it left out.
    - `folder`: where each finished readout is saved; `None` for nowhere. A second call with the same folder continues
        after an interruption, and can add models, layers, resolutions and pools. If the first call had `minutes`, a
        second one uses the same options and the same share of the images. A pool that is a class counts as the same if
        its name and its results on random tokens are equal.
    - `token_budget`: the most memory for tokens, in GiB. More tokens are kept in a temporary file, in `folder` if it is
        given.
    - `report`: a function that is called with the `LabProgress`.

    **Returns:**

    A `Comparison`, the best first. The p-values are of a two-sided sign-flip test of the difference to the best, paired
    over the test images, after Holm's correction: a small one means that a readout is worse on such images.

    **Raises:** `ValueError` if a layer, a resolution or a pool fits no model, if `data` returns different classes or
    test images for two models, or other channels than a model reads, if all readouts fail, if `minutes` are not enough
    for one readout, if the folder has results of other images or options, or if this call has no `minutes` and an
    earlier one left something out; what a model that does not fit the images raises; `OSError` if there is no space for
    the tokens; `FloatingPointError` if tokens are not finite; `MissingExtraError` if optax or grain is not installed.
    """
    check_not_negative(token_budget=token_budget)
    check_above_zero(minutes=minutes)
    ends = None if minutes is None else time.monotonic() + 60 * minutes
    named = {"model": models} if isinstance(models, ViT) else dict(models)
    groups, skipped = choose_groups(named, layers, resolutions, pools)
    tell: Callable[[LabProgress], object] = (lambda progress: None) if report is None else report
    place = None if folder is None else Path(folder)
    before = None if place is None else read_plan(place, options, minutes)
    bench = Bench(named, data, groups, place, token_budget, tell)
    groups.sort(key=bench.is_new)  # those with results first: if others do not go together with them, nothing is run
    plan = before or Plan(options)
    if ends is not None:
        plan = make_plan(groups, options, before, ends, bench, tell)
    rows, lost = list[Row](), list[Skipped]()
    for group in groups:
        found, failed = bench.run_group(group, plan, ends)
        rows += found
        lost += failed
    if not rows and all(each.reason == LATE for each in lost):
        raise ValueError(
            f"minutes must be enough for one readout, got {minutes or 0:.3g}: pass more, or fewer models and pools"
        )
    if not rows:
        raise ValueError(f"all {len(lost)} readouts failed, the first is {lost[0].name}: {lost[0].reason}")
    ranked = _rank(rows)
    pictures = bench.pictures[ranked[0].model, ranked[0].resolution]
    notes = (*plan.notes, *_note_shots(plan.options, bench.smallest))
    return Comparison(ranked, (*skipped, *plan.skipped, *lost), bench.map_images, pictures, notes)


def _note_shots(options: ProbeOptions, smallest: int) -> tuple[str, ...]:
    """Notes the few-shot tests that a class has too few images for."""
    missing = [str(shots) for shots in options.shots if shots > smallest]
    if not missing:
        return ()
    return (f"not tested with {', '.join(missing)} images of each class, because one has {smallest:,} to learn from",)


def _rank(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Sorts the rows, the best first, and computes the p-values of the others."""
    best, *others = sorted(rows, key=lambda row: (-row.accuracy, row.milliseconds))
    p_values = compare_with_best([np.mean(row.correct, axis=0) for row in (best, *others)])
    ranked = (dataclasses.replace(row, p_value=p) for row, p in zip(others, p_values, strict=True))
    return (dataclasses.replace(best, p_value=None), *ranked)
