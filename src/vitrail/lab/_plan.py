"""What fits into a time: measured first, and then reduced step by step."""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from jaxtyping import Integer

from .. import __version__
from .._files import check_facts, read_object, spell_fields, write_whole
from ..images import Dataset, Examples
from ._candidates import Group
from ._options import ProbeOptions
from ._pace import Left, Pace, estimate_group, list_left, measure_pace, name_cell
from ._rows import Skipped
from ._saved import count_finished
from ._tokens import LabProgress

if TYPE_CHECKING:
    from ._bench import Bench
else:
    Bench = object  # a bench runs what is planned here

_SHARES: Final = (1.0, 0.5, 0.25, 0.125, 0.0625)
_LEAST: Final = 100
"""At least this many test images are kept, if the data has them: few readouts on many images say more than many
readouts on few."""
_USED: Final = 0.8
"""The share of the time that is planned; the rest is for what was not measured."""
_BACKWARD: Final = 3.5
"""How many times as long as the forward pass of a readout a step with it takes."""
_COMPILED: Final = 6
"""How many programs of about the same size are compiled for a pool."""
_FEWER_STEPS: Final = 300
_RECORD: Final = "run.json"


@dataclass(frozen=True)
class Plan:
    """What is done of what was asked for."""

    asked: ProbeOptions
    """The options that were asked for."""
    level: int = 0
    """How many steps less is done than with these: the place in `_list_levels`."""
    share: float = 1.0
    """The share of the images of each class that is used."""
    dropped: tuple[str, ...] = ()
    """The cells that are left out, for lack of time."""

    @property
    def options(self) -> ProbeOptions:
        """How readouts are trained and tested."""
        return _list_levels(self.asked)[self.level][1]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is done less, in a sentence."""
        lacking = [note for note, _ in _list_levels(self.asked)[1 : self.level + 1] if note]
        if self.share < 1:
            lacking.append(f"{self.share:.3g} of the images of each class are used")
        return (f"the time is short, so {', '.join(lacking)}",) if lacking else ()

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What is left out, with the reason."""
        return tuple(Skipped(name, "the time is too short for it") for name in self.dropped)

    def keeps(self, group: Group, layer: int, pool: str) -> bool:
        """Whether a cell is not left out."""
        return name_cell(group, layer, pool) not in self.dropped

    def write(self, folder: Path) -> None:
        """Notes in the folder of the comparison what its results depend on, for `read_plan`."""
        record = {**_list_facts(self.asked), "level": self.level, "share": self.share}
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / _RECORD, lambda part: part.write_text(json.dumps(record, indent=2)))


def read_plan(folder: Path, asked: ProbeOptions, minutes: float | None) -> Plan | None:
    """The plan of the results that are in a folder, which all that is added there follows; `None` if there are none.

    **Raises:** `ValueError` if they are of other options, or if less than all is planned and there is no limit of time.
    """
    path, facts = folder / _RECORD, _list_facts(asked)
    if not path.exists():
        if count_finished(folder):
            raise ValueError(f"{folder} has results without {_RECORD}, which says of what: pass a new folder")
        return None
    found = read_object(path)
    if {*facts, "level", "share"} <= found.keys() and not count_finished(folder):
        return None  # there is nothing that other options would be mixed with
    check_facts(path, facts)
    level, share = found.get("level"), found.get("share")
    if level not in range(len(_list_levels(asked))) or share not in _SHARES:
        raise ValueError(f"{path} must have the level and the share of a plan, got {level!r} and {share!r}")
    plan = Plan(asked, cast(int, level), cast(float, share))
    if minutes is None and plan.notes:
        raise ValueError(
            f"{folder} has results of a run with a limit of time ({plan.notes[0]}): pass minutes to go on with it, or "
            "a new folder to do all"
        )
    return plan


def _list_facts(asked: ProbeOptions) -> dict[str, Any]:
    return {"options": spell_fields(asked), "vitrail": __version__}


def make_plan(
    groups: Sequence[Group],
    asked: ProbeOptions,
    before: Plan | None,
    ends: float,
    bench: Bench,
    tell: Callable[[LabProgress], object],
) -> Plan:
    """Measures what images, a backbone and the pools take, and chooses the most that fits into the time until `ends`.

    The first group is measured; the time of other backbones follows from their operations, and that of pools from the
    number and width of the tokens. Cells that are finished take none. If there are results of a plan `before`, its
    options and its images stay, so that all results can be compared: only which of the other cells are left out is
    chosen.
    """
    left = [(group, cells) for group in groups if (cells := list_left(group, bench))]
    if not left:
        return before or Plan(asked)
    first, cells = left[0]
    pace = measure_pace(first, dict.fromkeys(cells.values()), bench, ends, tell)
    taken = [estimate_group(group, cells, pace, bench, is_loaded=group is first) for group, cells in left]
    return _choose(taken, pace, asked, before, _USED * (ends - time.monotonic()))


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


def _choose(groups: Sequence[Left], pace: Pace, asked: ProbeOptions, before: Plan | None, seconds: float) -> Plan:
    """The first level and the largest share that fit; if none does, also the cells that are left out. If there are no
    results yet, one is kept."""
    levels: Sequence[int] = range(len(_list_levels(asked))) if before is None else (before.level,)
    enough = [share for share in _SHARES if share == 1 or share * pace.test >= _LEAST]
    shares = enough if before is None else [before.share]
    plan = Plan(asked)
    for share in shares:
        for level in levels:
            plan = Plan(asked, level, share)
            if sum(_estimate(groups, pace, plan).values()) <= seconds:
                return plan
    kept = 1 if before is None else 0
    while len(estimates := _estimate(groups, pace, plan)) > kept and sum(estimates.values()) > seconds:
        slowest = max(estimates, key=estimates.__getitem__)
        plan = dataclasses.replace(plan, dropped=tuple(sorted((*plan.dropped, slowest))))
    return plan


def _estimate(groups: Sequence[Left], pace: Pace, plan: Plan) -> dict[str, float]:
    """The seconds of each cell. What is done once for a group is divided over its cells."""
    options, seconds = plan.options, dict[str, float]()
    train, test = (max(1, round(plan.share * number)) for number in (pace.train, pace.test))
    visits = _count_visits(options, train, pace.classes)
    for taken in groups:
        left = {name: pool for name, pool in taken.cells.items() if name not in plan.dropped}
        for name, pool in left.items():
            compiled, whole, trained = taken.pools[pool]
            work = train * whole + test * options.seeds * whole + visits * _BACKWARD * trained
            once = taken.once_seconds + (train + test) * taken.image_seconds
            seconds[name] = once / len(left) + _COMPILED * compiled + work
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
