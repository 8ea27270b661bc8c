"""What fits into a time: measured first, and then reduced step by step."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Integer

from .._files import read_object, write_whole
from ..images import Dataset, Examples
from ..model import ViT
from ._candidates import Group, find_block
from ._cost import Cost, time_probe
from ._options import ProbeOptions
from ._results import Skipped, name_layer
from ._tokens import LabProgress, SequenceForm

_SHARES: Final = (1.0, 0.5, 0.25, 0.125, 0.0625)
_USED: Final = 0.8
"""The share of the time that is planned; the rest is for what was not measured."""
_BACKWARD: Final = 3.5
"""How many times as long as the forward pass of a readout a step with it takes."""
_COMPILED: Final = 6
"""How many programs of about the same size are compiled for a pool."""
_FEWER_STEPS: Final = 300


@dataclass(frozen=True)
class Plan:
    """What is done of what was asked for."""

    options: ProbeOptions
    """How readouts are trained and tested."""
    share: float = 1.0
    """The share of the images of each class that is used."""
    dropped: tuple[str, ...] = ()
    """The cells that are left out, for lack of time."""
    notes: tuple[str, ...] = ()
    """What is done less, in sentences."""

    def keeps(self, group: Group, layer: int, pool: str) -> bool:
        """Whether a cell is not left out."""
        return name_cell(group, layer, pool) not in self.dropped

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What is left out, with the reason."""
        return tuple(Skipped(name, "the time is too short for it") for name in self.dropped)


def name_cell(group: Group, layer: int, pool: str) -> str:
    """A readout in words."""
    return f"{group}, layer {name_layer(layer)}, pool {pool}"


@runtime_checkable
class Bench(Protocol):
    """What loads and measures what is planned."""

    @property
    def folder(self) -> Path | None:
        """Where the plan is saved."""
        ...

    def load(self, group: Group) -> tuple[ViT, Dataset]:
        """The model at the resolution of a group, and the images for it."""
        ...

    def measure(self, group: Group, model: ViT) -> Mapping[int, Cost]:
        """What the backbone of a group costs up to each layer."""
        ...


@dataclass(frozen=True)
class _Measured:
    """What a group takes."""

    train: int
    test: int
    classes: int
    pass_seconds: float
    """Of the backbone, for an image."""
    pools: Mapping[str, tuple[float, float, float]]
    """Of each pool and head: the seconds to compile, for an image, and for an image in training."""


def make_plan(
    groups: Sequence[Group],
    options: ProbeOptions,
    minutes: float,
    bench: Bench,
    tell: Callable[[LabProgress], object],
) -> Plan:
    """Measures what backbones and pools take, and chooses the most that fits into the time. A plan that is saved in the
    folder for the same question is used again, so that a second call goes on."""
    asked = repr((minutes, options, [(str(group), group.layers, sorted(group.pools)) for group in groups]))
    path = None if bench.folder is None else bench.folder / "plan.json"
    if path is not None and path.exists() and (found := read_object(path)).get("asked") == asked:
        return _read_plan(found, options)
    measured: dict[str, _Measured] = {}
    for place, group in enumerate(groups):
        measured[str(group)] = _measure(group, *bench.load(group), bench)
        tell(LabProgress("plan", "measuring", place + 1, len(groups)))
    level, share, dropped = _choose(groups, measured, options, _USED * 60 * minutes)
    told = {"asked": asked, "level": level, "share": share, "dropped": dropped}
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda part: part.write_text(json.dumps(told, indent=1)))
    return _read_plan(told, options)


def _read_plan(told: Mapping[str, Any], options: ProbeOptions) -> Plan:
    levels = _list_levels(options)
    level, share = int(told["level"]), float(told["share"])
    notes = [note for note, _ in levels[1 : level + 1] if note]
    if share < 1:
        notes.append(f"{share:.3g} of the images of each class are used")
    lacking = (f"the time is short, so {', '.join(notes)}",) if notes else ()
    return Plan(levels[level][1], share, tuple(told["dropped"]), lacking)


def _list_levels(options: ProbeOptions) -> list[tuple[str, ProbeOptions]]:
    """Options that take less and less time, and what each leaves out."""
    levels = [("", options)]

    def add(note: str, **changes: Any) -> None:
        lesser = dataclasses.replace(levels[-1][1], **changes)
        levels.append((note if lesser != levels[-1][1] else "", lesser))

    add("few-shot tests are left out", shots=())
    add("there is one run of each readout", seeds=1)
    rates = sorted(options.learning_rates)
    add("two learning rates are tried", learning_rates=tuple(rates[(len(rates) - 1) // 2 :][:2]))
    steps = _FEWER_STEPS if options.steps is None else min(options.steps, _FEWER_STEPS)
    add(f"a run has {steps} steps", steps=steps)
    return levels


def _measure(group: Group, model: ViT, data: Dataset, bench: Bench) -> _Measured:
    costs = bench.measure(group, model)
    deepest = max(group.layers, key=functools.partial(find_block, model))
    form = SequenceForm.from_backbone(model.backbone)
    sequences = np.asarray(jax.random.normal(jax.random.key(0), (8, form.length, model.backbone.dim)))
    pools = {
        name: time_probe(model.config, choice, form, sequences, len(data.classes))
        for name, choice in group.pools.items()
    }
    return _Measured(len(data.train), len(data.test), len(data.classes), costs[deepest].milliseconds / 1e3, pools)


def _choose(
    groups: Sequence[Group], measured: Mapping[str, _Measured], options: ProbeOptions, seconds: float
) -> tuple[int, float, list[str]]:
    """The first level and the largest share that fit; if none does, also the cells that are left out."""
    levels = _list_levels(options)
    for share in _SHARES:
        for level, (_, lesser) in enumerate(levels):
            if sum(_estimate(groups, measured, lesser, share, set()).values()) <= seconds:
                return level, share, []
    level, share, dropped = len(levels) - 1, _SHARES[-1], set[str]()
    while True:
        estimates = _estimate(groups, measured, levels[level][1], share, dropped)
        if sum(estimates.values()) <= seconds or len(estimates) == 1:
            return level, share, sorted(dropped)
        dropped.add(max(estimates, key=estimates.__getitem__))


def _estimate(
    groups: Sequence[Group],
    measured: Mapping[str, _Measured],
    options: ProbeOptions,
    share: float,
    dropped: set[str],
) -> dict[str, float]:
    """The seconds of each cell. The pass of the backbone is divided over the cells that read it."""
    seconds: dict[str, float] = {}
    for group in groups:
        taken = measured[str(group)]
        cells = {name_cell(group, *cell): cell for cell in group.cells}
        left = {name: cell for name, cell in cells.items() if name not in dropped}
        train, test = (max(1, round(share * number)) for number in (taken.train, taken.test))
        for name, (_, pool) in left.items():
            compiled, whole, trained = taken.pools[pool]
            visits = _count_visits(options, train, taken.classes)
            work = train * whole + test * options.seeds * whole + visits * _BACKWARD * trained
            seconds[name] = (train + test) * taken.pass_seconds / len(left) + _COMPILED * compiled + work
    return seconds


def _count_visits(options: ProbeOptions, images: int, classes: int) -> int:
    """How many images all steps of all runs of a cell see."""
    batch = min(options.batch_size, images)
    searches = 0 if len(options.learning_rates) == 1 else len(options.learning_rates) * options.seeds
    few = sum(options.draws * max(100 * 32, 10 * shots * classes) for shots in options.shots)
    return batch * (searches * options.count_search_steps(images) + options.seeds * options.count_steps(images)) + few


def thin(data: Dataset, share: float) -> Dataset:
    """The data set with a share of the images of each class, at least two to learn from and one to test on."""
    if share == 1:
        return data

    def choose(examples: Examples, least: int) -> Examples:
        return examples[_draw_share(examples.labels, share, least)]

    return dataclasses.replace(data, train=choose(data.train, 2), test=choose(data.test, 1))


def _draw_share(labels: Integer[np.ndarray, " images"], share: float, least: int) -> Integer[np.ndarray, " chosen"]:
    order = np.random.RandomState(0).permutation(len(labels))
    chosen: list[Any] = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        chosen.append(members[: max(least, round(share * len(members)))])
    return np.sort(np.concatenate(chosen))
