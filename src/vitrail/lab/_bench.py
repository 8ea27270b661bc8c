"""Runs what is compared: the passes of the backbones, and the readouts of their tokens."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import equinox as eqx
import jax
import numpy as np

from .._spec import PartSpec
from ..images import Dataset
from ..model import ViT
from ..nn import digest_arrays
from ..train import check_channels
from ._candidates import Group, PoolChoice, describe_error, resize
from ._cost import Cost, measure_backbone
from ._evaluate import evaluate_cell
from ._options import ProbeOptions
from ._pace import name_cell
from ._plan import Plan, thin
from ._probe import make_probe
from ._rows import Row, Skipped
from ._saved import SavedGroup
from ._tokens import LabProgress, SequenceForm, StoredTokens, store_tokens

_NUM_MAPS: Final = 4
LATE: Final = "there was no time left"
"""Why a cell was not run that was planned."""
ModelImages = Dataset | Callable[[ViT], Dataset]
"""Images that are as all models read them, or a function that loads them as a model does."""


class Bench:
    """What all groups share: the models, the images and the folder."""

    def __init__(
        self,
        models: Mapping[str, ViT],
        data: ModelImages,
        groups: Sequence[Group],
        folder: Path | None,
        token_budget: float,
        tell: Callable[[LabProgress], object],
    ):
        """**Raises:** `ValueError` if images that are given do not fit each model, or if the folder has results of
        other models of these names.
        """
        self._models, self._data, self._token_budget, self._tell = models, data, token_budget, tell
        self._folder = folder
        self.map_images: tuple[int, ...] = ()
        self.pictures: dict[tuple[str, tuple[int, int]], Any] = {}
        self.smallest = 0
        self._told: str | None = None
        self._costs: dict[tuple[str, int], Cost] = {}
        self._loaded: tuple[Group, ViT, Dataset] | None = None
        if isinstance(data, Dataset):
            for group in groups:
                outline = cast(ViT, eqx.filter_eval_shape(resize, models[group.model], group.resolution))
                _check_images(outline, data, group)
        self._saved = {} if folder is None else self._open_saved(groups, folder)

    def _open_saved(self, groups: Sequence[Group], folder: Path) -> dict[str, SavedGroup]:
        """What is saved of each group."""
        digests: dict[str, str] = {}
        for group in groups:
            model = self._models[group.model]
            if group.model not in digests:
                arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array))]
                digests[group.model] = digest_arrays(arrays, repr((model.config, model.backbone.execution)))
        return {str(group): SavedGroup(folder, group, digests[group.model]) for group in groups}

    def is_new(self, group: Group) -> bool:
        """Whether the folder has no result of a group."""
        saved = self._saved.get(str(group))
        return saved is None or not saved.has_cells

    def is_finished(self, group: Group, layer: int, pool: str) -> bool:
        """Whether the result of a cell is in the folder."""
        saved = self._saved.get(str(group))
        return saved is not None and saved.is_finished(layer, pool)

    def make_model(self, group: Group) -> ViT:
        """The model at the resolution of a group."""
        return resize(self._models[group.model], group.resolution)

    def load(self, group: Group) -> tuple[ViT, Dataset]:
        """The model at the resolution of a group, and the images for it. They stay until others are loaded."""
        if self._loaded is not None and self._loaded[0] is group:
            return self._loaded[1:]
        self._loaded = None  # before others are in memory
        model = self.make_model(group)
        data = self._data if isinstance(self._data, Dataset) else self._data(model)
        _check_images(model, data, group)
        labels = [part.labels.astype(np.int32) for part in (data.train, data.test)]
        told = digest_arrays(labels, repr(data.classes))
        if self._told not in (None, told):
            raise ValueError(
                f"data must have the same images for all models, got others for {group}: load them from the same "
                "folder with the same seed"
            )
        self._told = told
        self._loaded = group, model, data
        return model, data

    def measure(self, group: Group, model: ViT, layer: int) -> Cost:
        """What the backbone of a group costs up to a layer, measured once."""
        saved = self._saved.get(str(group))
        cost = self._costs.get((str(group), layer)) or (saved and saved.read_cost(layer))
        self._costs[str(group), layer] = cost = cost or measure_backbone(model, layer)
        return cost

    def run_group(self, group: Group, plan: Plan, ends: float | None) -> tuple[list[Row], list[Skipped]]:
        """The rows of a group, and the cells that failed or for which there was no time."""
        cells = [cell for cell in group.cells if plan.keeps(group, *cell)]
        if not cells:
            return [], []
        if _is_over(ends) and not any(self.is_finished(group, *cell) for cell in cells):
            return [], [Skipped(name_cell(group, *cell), LATE) for cell in cells]
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
            saved.check_data(digest, (plan.options.seeds, len(data.test)), maps_shape)
            rows = {cell: saved.read(*cell, _print_pool(model, group.pools[cell[1]])) for cell in cells}
            plan.write(saved.folder)  # now that all is known to go together
            saved.claim()
        missing = [cell for cell, row in rows.items() if row is None]
        skipped: list[Skipped] = []
        if missing and not _is_over(ends):
            layers = tuple(dict.fromkeys(layer for layer, _ in missing))
            costs = {layer: self.measure(group, model, layer) for layer in layers}
            if saved is not None:
                saved.write_costs(costs)
            tell_pass = functools.partial(self._tell_progress, "backbone", str(group))
            with store_tokens(model, data, layers, self._token_budget, self._folder, tell_pass) as stored:
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
        skipped += [Skipped(name_cell(group, *cell), LATE) for cell in late]
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


def _check_images(model: ViT, data: Dataset, group: Group) -> None:
    """Raises a `ValueError` if a data set is not as the model of a group reads images."""
    check_channels(model, data)
    if data.image_size != model.config.image_size:
        raise ValueError(
            f"data must have images of {model.config.image_size} for {group}, got {data.image_size}: pass a function "
            "that loads them for the model that it gets"
        )


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
