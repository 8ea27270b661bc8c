"""How long images, backbones and pools take, for a plan of the time."""

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import jax
import numpy as np

from ..model import ViT
from ._candidates import Group, find_block
from ._cost import count_flops, time_probe
from ._rows import name_layer
from ._tokens import LabProgress, SequenceForm

if TYPE_CHECKING:
    from ._bench import Bench
else:
    Bench = object  # a bench runs what is planned here

_MEASURING: Final = 0.2
"""The share of the time in which pools are measured."""
_DECODED: Final = 16
"""Of how many images it is measured how long one takes to decode."""


def name_cell(group: Group, layer: int, pool: str) -> str:
    """A readout in words."""
    return f"{group}, layer {name_layer(layer)}, pool {pool}"


@dataclass(frozen=True)
class Pace:
    """How long the first group takes, by which the time of the others is estimated."""

    train: int
    test: int
    classes: int
    load_seconds: float
    """To list the images, or to load all into memory."""
    decode_seconds: float
    """For an image; images in memory take next to nothing."""
    compile_seconds: float
    """To compile the backbone and to measure it."""
    seconds_per_flop: float
    """Of the backbone."""
    form: tuple[int, int]
    """The number and the width of the tokens."""
    pools: Mapping[str, tuple[float, float, float]]
    """Of each pool and head: the seconds to compile, for an image, and for an image in training."""

    def scale_pool(self, pool: str, form: tuple[int, int]) -> tuple[float, float, float]:
        """What a pool takes with tokens of another number and width. One that was not measured is as slow as any."""
        slowest = tuple(max(values) for values in zip(*self.pools.values(), strict=True))
        compiled, whole, trained = self.pools.get(pool, slowest)
        ratio = form[0] * form[1] ** 2 / (self.form[0] * self.form[1] ** 2)
        return compiled, whole * ratio, trained * ratio


@dataclass(frozen=True)
class Left:
    """What is left to do of a group."""

    cells: Mapping[str, str]
    """The pool of each cell that is not finished, by the name of the cell."""
    once_seconds: float
    """To load the images, unless they are loaded already, and to compile and measure the backbone."""
    image_seconds: float
    """To decode an image and to pass it through the backbone."""
    pools: Mapping[str, tuple[float, float, float]]
    """As in `Pace`."""


def list_left(group: Group, bench: Bench) -> dict[str, str]:
    """The pool of each cell that is not finished, by the name of the cell."""
    return {name_cell(group, *cell): cell[1] for cell in group.cells if not bench.is_finished(group, *cell)}


def measure_pace(
    group: Group, pools: Iterable[str], bench: Bench, ends: float, tell: Callable[[LabProgress], object]
) -> Pace:
    """Measures a group, with as many of the pools as there is time for, at least one."""
    started = time.monotonic()
    limit = started + _MEASURING * (ends - started)
    model, data = bench.load(group)
    loaded = time.monotonic()
    some = data.train.images[:_DECODED]
    decoded = time.monotonic()
    cost = bench.measure(group, model, _find_deepest(group, model))
    compiled = time.monotonic()
    form = SequenceForm.from_backbone(model.backbone)
    sequences = np.asarray(jax.random.normal(jax.random.key(0), (8, form.length, model.backbone.dim)))
    paces: dict[str, tuple[float, float, float]] = {}
    names = list(pools)
    for place, pool in enumerate(names):
        tell(LabProgress("plan", "measuring", place, len(names)))
        if paces and time.monotonic() > limit:
            break
        paces[pool] = time_probe(model.config, group.pools[pool], form, sequences, len(data.classes))
    return Pace(
        len(data.train),
        len(data.test),
        len(data.classes),
        load_seconds=loaded - started,
        decode_seconds=(decoded - loaded) / len(some),
        compile_seconds=compiled - decoded,
        seconds_per_flop=cost.milliseconds / 1e3 / cost.flops,
        form=(form.length, model.backbone.dim),
        pools=paces,
    )


def _find_deepest(group: Group, model: ViT) -> int:
    return max(group.layers, key=functools.partial(find_block, model))


def estimate_group(group: Group, cells: Mapping[str, str], pace: Pace, bench: Bench, *, is_loaded: bool) -> Left:
    """What is left of a group, and about how long it takes. The backbone is compiled for all layers together, and
    measured up to each."""
    model = bench.make_model(group)
    form = SequenceForm.from_backbone(model.backbone).length, model.backbone.dim
    flops = count_flops(model, _find_deepest(group, model))
    programs = len(group.layers) + (0 if is_loaded else 1)
    return Left(
        cells,
        (0.0 if is_loaded else pace.load_seconds) + programs * pace.compile_seconds,
        pace.decode_seconds + flops * pace.seconds_per_flop,
        {pool: pace.scale_pool(pool, form) for pool in cells.values()},
    )
