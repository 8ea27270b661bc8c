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
    again on few images of each class. A run depends only on what it is of and its seed, and all see the images in
    the same order. Between the pool and the head there is a fixed shift and scale, measured on the untrained pool, as
    the batch norm without parameters in the linear probing of He et al. 2022 (MAE, arXiv:2111.06377).

    A value of an axis that fits no model is an error before anything runs. What does not fit one of several models is
    left out, and `Comparison.skipped` says why; so is a readout whose training fails.

    **Arguments:**

    - `models`: a model, or several by name. Their backbones are used, their pools and heads are not. If the norm of one
        follows the pool, each pool has such a norm.
    - `data`: the images to learn from, and those to test on. A `Dataset` if all models read the same pixels; else a
        function that is called with each model, at each resolution, and loads the images as its `config` says:
        `lambda model: load_images("photos", image_size=model.config.image_size, preprocess=model.config.preprocess)`.
    - `layers`: the blocks whose tokens are read, counted from zero, or from the end if negative; -1 is the last. The
        final norm of the backbone follows each. Blocks after it do not count in time and operations.
    - `resolutions`: the sizes of the images, one number for a square; `None` for that of each model.
    - `pools`: names, names with options, classes, or `functools.partial`s of them; `None` for every registered pool
        that fits.
    - `options`: how the readouts are trained and tested.
    - `minutes`: about how long this call may take. What the images, a model and the pools take is measured first; then,
        as far as needed, few-shot tests are left out, there is one run, fewer rates and steps, fewer images (but 100
        test images if there are so many), and last the slowest combinations are left out. `Comparison.notes` says what.
        `None` for no limit.
    - `folder`: each finished readout is saved there, so that a second call goes on after an interruption, and other
        models, layers, resolutions and pools can be added; `None` for nowhere. With `minutes`, what a second call adds
        has the options and the share of the images of the first, whatever its own minutes. Of a class the name is
        compared, and what it computes on random tokens. Nothing is written into a folder that is refused.
    - `token_budget`: how many GiB of tokens are held in memory. Larger ones are in a temporary file, in `folder` if it
        is given.
    - `report`: is called with the `LabProgress`.

    **Returns:**

    A `Comparison`, the best first. The p-values are of a two-sided sign-flip test of the difference to the best, paired
    over the test images, after Holm's correction: a small one means that a readout is worse on such images.

    **Raises:** `ValueError` if a value of an axis fits no model, if `data` has other classes or test images for another
    model, or other channels than a model reads, if all readouts fail, if `minutes` are not enough for one, or if the
    folder has other results, or those of a call with `minutes` which did less than this one without; what a model
    that does not fit the images raises; `OSError` if there is no space for the tokens; `FloatingPointError` if tokens
    are not finite; `MissingExtraError` if optax or grain is not installed.
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
