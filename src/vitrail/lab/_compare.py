"""Compares models, layers, resolutions and pools on a set of images."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import equinox as eqx
import jax
import numpy as np

from .. import __version__
from .._check import check_above_zero, check_not_negative
from .._files import claim_folder, read_object
from .._spec import PartSpec
from ..images import Dataset
from ..model import ViT
from ..nn import digest_arrays
from ..train import check_channels
from ._candidates import Group, PoolChoice, choose_groups, describe_error, resize
from ._cost import Cost, measure_backbone
from ._evaluate import evaluate_cell
from ._options import ProbeOptions
from ._plan import Plan, make_plan, name_cell, thin
from ._probe import make_probe
from ._results import Comparison, Row, Skipped
from ._saved import SavedGroup, count_finished
from ._statistics import compare_with_best
from ._tokens import LabProgress, SequenceForm, StoredTokens, store_tokens

_NUM_MAPS: Final = 4
_LATE: Final = "there was no time left"
ModelImages = Dataset | Callable[[ViT], Dataset]
"""Images that are as all models read them, or a function that loads them as a model does."""


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
    - `minutes`: about how long it may take. What the models and the pools take is measured first; then, as far as
        needed, few-shot tests are left out, there is one run, fewer rates and steps, fewer images, and last the slowest
        combinations are left out. `Comparison.notes` says what. `None` for no limit.
    - `folder`: each finished readout is saved there, so that a second call goes on after an interruption, and other
        models, layers, resolutions and pools can be added; `None` for nowhere. Of a class the name is compared, and
        what it computes on random tokens.
    - `token_budget`: how many GiB of tokens are held in memory. Larger ones are in a temporary file, in `folder` if it
        is given.
    - `report`: is called with the `LabProgress`.

    **Returns:**

    A `Comparison`, the best first. The p-values are of a two-sided sign-flip test of the difference to the best, paired
    over the test images, after Holm's correction: a small one means that a readout is worse on such images.

    **Raises:** `ValueError` if a value of an axis fits no model, if `data` has other classes or test images for another
    model, or other channels than a model reads, if all readouts fail, or if the folder has other results; what a model
    that does not fit the images raises; `OSError` if there is no space for the tokens; `FloatingPointError` if tokens
    are not finite; `MissingExtraError` if optax or grain is not installed.
    """
    check_not_negative(token_budget=token_budget)
    check_above_zero(minutes=minutes)
    named = {"model": models} if isinstance(models, ViT) else dict(models)
    groups, skipped = choose_groups(named, layers, resolutions, pools)
    tell: Callable[[LabProgress], object] = (lambda progress: None) if report is None else report
    bench = _Bench(named, data, None if folder is None else Path(folder), token_budget, tell)
    ends = None if minutes is None else time.monotonic() + 60 * minutes
    bench.open_saved(groups)
    plan = Plan(options) if minutes is None else make_plan(groups, options, minutes, bench, tell)
    if bench.folder is not None:
        facts = {"options": repr(plan.options), "share": str(plan.share), "vitrail": __version__}
        _forget_empty_run(bench.folder, facts)
        claim_folder(bench.folder / "run.json", facts)
    rows, lost = list[Row](), list[Skipped]()
    for group in groups:
        found, failed = bench.run_group(group, plan, ends)
        rows += found
        lost += failed
    if not rows and all(each.reason == _LATE for each in lost):
        raise ValueError(f"minutes must be enough for one readout, got {minutes}: pass more, or fewer models and pools")
    if not rows:
        raise ValueError(f"all {len(lost)} readouts failed, the first is {lost[0].name}: {lost[0].reason}")
    ranked = _rank(rows)
    pictures = bench.pictures[ranked[0].model, ranked[0].resolution]
    notes = (*plan.notes, *_note_shots(plan.options, bench.smallest))
    return Comparison(ranked, (*skipped, *plan.skipped, *lost), bench.map_images, pictures, notes)


def _forget_empty_run(folder: Path, facts: Mapping[str, str]) -> None:
    """Removes the record of a run that has finished nothing, so that there is nothing to mix other options with."""
    record = folder / "run.json"
    if record.exists() and facts.keys() <= read_object(record).keys() and not count_finished(folder):
        for path in (record, *folder.glob("cells/*/data.json")):
            path.unlink(missing_ok=True)


def _note_shots(options: ProbeOptions, smallest: int) -> tuple[str, ...]:
    """Notes the few-shot tests that a class has too few images for."""
    missing = [str(shots) for shots in options.shots if shots > smallest]
    if not missing:
        return ()
    return (f"not tested with {', '.join(missing)} images of each class, because one has {smallest:,} to learn from",)


class _Bench:
    """What all groups share: the models, the images and the folder."""

    def __init__(
        self,
        models: Mapping[str, ViT],
        data: ModelImages,
        folder: Path | None,
        token_budget: float,
        tell: Callable[[LabProgress], object],
    ):
        self._models, self._data, self._token_budget, self._tell = models, data, token_budget, tell
        self.folder = folder
        self.map_images: tuple[int, ...] = ()
        self.pictures: dict[tuple[str, tuple[int, int]], Any] = {}
        self.smallest = 0
        self._told: str | None = None
        self._saved: dict[str, SavedGroup] = {}
        self._costs: dict[tuple[str, int], Cost] = {}

    def open_saved(self, groups: Sequence[Group]) -> None:
        """Looks for what is saved of each group, if there is a folder."""
        if self.folder is None:
            return
        digests: dict[str, str] = {}
        for group in groups:
            model = self._models[group.model]
            if group.model not in digests:
                arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array))]
                digests[group.model] = digest_arrays(arrays, repr((model.config, model.backbone.execution)))
            self._saved[str(group)] = SavedGroup(self.folder, group, {"model": digests[group.model]})

    def load(self, group: Group) -> tuple[ViT, Dataset]:
        """The model at the resolution of a group, and the images for it."""
        model = resize(self._models[group.model], group.resolution)
        data = self._data if isinstance(self._data, Dataset) else self._data(model)
        check_channels(model, data)
        if data.image_size != model.config.image_size:
            raise ValueError(
                f"data must have images of {model.config.image_size} for {group}, got {data.image_size}: pass a "
                "function that loads them for the model that it gets"
            )
        labels = [part.labels.astype(np.int32) for part in (data.train, data.test)]
        told = digest_arrays(labels, repr(data.classes))
        if self._told not in (None, told):
            raise ValueError(
                f"data must have the same images for all models, got others for {group}: load them from the same "
                "folder with the same seed"
            )
        self._told = told
        return model, data

    def measure(self, group: Group, model: ViT) -> dict[int, Cost]:
        """What the backbone of a group costs up to each layer, measured once."""
        saved = self._saved.get(str(group))
        costs: dict[int, Cost] = {}
        for layer in group.layers:
            cost = self._costs.get((str(group), layer)) or (saved and saved.read_cost(layer))
            if not cost:
                cost = measure_backbone(model, layer)
                if saved:
                    saved.write_cost(layer, cost)
            costs[layer] = self._costs[str(group), layer] = cost
        return costs

    def run_group(self, group: Group, plan: Plan, ends: float | None) -> tuple[list[Row], list[Skipped]]:
        """The rows of a group, and the cells that failed or for which there was no time."""
        cells = [cell for cell in group.cells if plan.keeps(group, *cell)]
        if not cells:
            return [], []
        model, data = self.load(group)
        data = thin(data, plan.share)
        _, first = np.unique(data.test.labels, return_index=True)
        self.map_images = tuple(int(place) for place in first[:_NUM_MAPS])
        self.smallest = int(np.bincount(data.train.labels, minlength=len(data.classes)).min())
        self.pictures[group.model, group.resolution] = np.asarray(data.test.images[np.array(self.map_images)])
        saved = self._saved.get(str(group))
        rows: dict[tuple[int, str], Row | None] = dict.fromkeys(cells)
        if saved is not None:
            digest = digest_arrays([], repr((data.train.digest, data.test.digest, data.classes, data.preprocess)))
            maps_shape = (len(self.map_images), *model.backbone.grid)
            saved.claim({"data": digest}, (plan.options.seeds, len(data.test)), maps_shape)
            rows = {cell: saved.read(*cell, _print_pool(model, group.pools[cell[1]])) for cell in cells}
        missing = [cell for cell, row in rows.items() if row is None]
        skipped: list[Skipped] = []
        if missing and not _is_over(ends):
            costs = self.measure(group, model)
            layers = tuple(dict.fromkeys(layer for layer, _ in missing))
            tell_pass = functools.partial(self._tell_progress, "backbone", str(group))
            with store_tokens(model, data, layers, self._token_budget, self.folder, tell_pass) as stored:
                for layer, pool in missing:
                    if _is_over(ends):
                        break
                    try:
                        row = self._run_cell(group, model, data, stored, layer, pool, costs[layer], plan.options)
                    except Exception as error:
                        skipped.append(Skipped(name_cell(group, layer, pool), describe_error(error)))
                        rows.pop((layer, pool))
                        continue
                    if saved is not None:
                        saved.write(row, _print_pool(model, group.pools[pool]))
                    rows[layer, pool] = row
        late = [cell for cell, row in rows.items() if row is None]
        skipped += [Skipped(name_cell(group, *cell), _LATE) for cell in late]
        return [row for row in rows.values() if row is not None], skipped

    def _run_cell(
        self,
        group: Group,
        model: ViT,
        data: Dataset,
        stored: StoredTokens,
        layer: int,
        pool: str,
        cost: Cost,
        options: ProbeOptions,
    ) -> Row:
        name = name_cell(group, layer, pool)
        make_row = functools.partial(
            Row,
            model=group.model,
            layer=layer,
            resolution=group.resolution,
            pool=pool,
            backbone_milliseconds=cost.milliseconds,
            flops=cost.flops,
            memory=cost.memory,
        )

        def tell(doing: str, done: int, total: int) -> None:
            self._tell_progress("readout", f"{name}, {doing}", done, total)

        tokens, choice = stored.get_layer(layer), group.pools[pool]
        return evaluate_cell(model, data, tokens, make_row, choice, options, self.map_images, tell)

    def _tell_progress(self, doing: Any, name: str, done: int, total: int) -> None:
        self._tell(LabProgress(doing, name, done, total))


def _is_over(ends: float | None) -> bool:
    return ends is not None and time.monotonic() >= ends


def _print_pool(model: ViT, choice: PoolChoice) -> str | None:
    """What a class computes on random tokens, to notice that it is another one of the same name; `None` for a name."""
    if isinstance(choice, str | PartSpec):
        return None
    form = SequenceForm.from_backbone(model.backbone)
    pool = make_probe(model.config, choice, 2, key=jax.random.key(0)).pool
    pooled = pool(form.divide(jax.random.normal(jax.random.key(1), (form.length, model.backbone.dim))))
    return digest_arrays([np.asarray(pooled)], "")


def _rank(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Sorts the rows, the best first, and computes the p-values of the others."""
    best, *others = sorted(rows, key=lambda row: (-row.accuracy, row.milliseconds))
    p_values = compare_with_best([np.mean(row.correct, axis=0) for row in (best, *others)])
    ranked = (dataclasses.replace(row, p_value=p) for row, p in zip(others, p_values, strict=True))
    return (dataclasses.replace(best, p_value=None), *ranked)
