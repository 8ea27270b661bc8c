"""Plans which tensors of a file fill which arrays of a model, and follows the plan in both directions."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np

from .._extras import require
from ._errors import CheckpointError
from ._rules import BLOCK, BOTH, ZEROS, Rule
from .formats import AbstractSource, NumpyArray, TensorInfo

_MOST_AXES: Final = 32
"""NumPy and einops take no more. No tensor of a model has more than five."""

Arrays = Mapping[str, Any]
"""The arrays of a model by name: arrays, or only their shapes and dtypes."""


@dataclass(frozen=True)
class Slot:
    """One array of the model, or the part of it that belongs to one block."""

    name: str
    block: int | None
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """A rule with numbers and endings put in. Its tensors are in the file and fit."""

    rule: Rule
    theirs: tuple[str, ...]
    slots: tuple[Slot, ...]


@dataclass
class Plan:
    """Which tensors of a file fill which arrays of a model, and what is wrong between the two."""

    steps: dict[str, list[Step]] = field(default_factory=dict[str, list[Step]])
    """By the name of the array that they fill."""
    used: set[str] = field(default_factory=set[str])
    """The names in the file that something is filled from."""
    missing: list[str] = field(default_factory=list[str])
    """What the model needs and the file lacks, in words."""
    wrong: list[str] = field(default_factory=list[str])
    """Which shapes and dtypes do not fit, in words."""


def make_plan(rules: Sequence[Rule], arrays: Arrays, theirs: Mapping[str, TensorInfo], *, convert: bool) -> Plan:
    """Compares what a file has with what a model needs. Nothing is read."""
    plan = Plan()
    planned: set[Slot] = set()
    for rule, slots in _expand(rules, arrays):
        there = tuple(name for name in rule.theirs if name == ZEROS or name in theirs)
        if planned.issuperset(slots) or not set(there) - {ZEROS}:
            continue
        plan.used.update(name for name in (*there, rule.mask) if name in theirs)
        planned.update(slots)
        misfit, too_short = _explain_misfit(rule, there, slots, theirs, convert=convert)
        if not misfit:
            for name in dict.fromkeys(slot.name for slot in slots):
                plan.steps.setdefault(name, []).append(Step(rule, there, slots))
        elif too_short and (absent := [name for name in rule.theirs if name not in there]):
            plan.missing.append(f"{', '.join(map(repr, absent))} beside {misfit}")
        else:
            plan.wrong.append(misfit)
    for rule, slots in _expand(rules, arrays):
        for slot in slots:
            if slot not in planned:
                planned.add(slot)
                names = " or ".join(repr(name) for name in rule.theirs if name != ZEROS)
                plan.missing.append(f"{names} for {slot.name!r}")
    known = {slot.name for slot in planned}
    plan.missing += [f"any tensor for {name!r}" for name in arrays if name not in known]
    return plan


def fill_array(steps: Sequence[Step], name: str, out: NumpyArray, source: AbstractSource) -> None:
    """Reads the tensors of one array of the model into it."""
    for step in steps:
        joined = np.atleast_1d(_read_joined(step, source))
        start = 0
        for slot in step.slots:
            rows = _count_rows(slot.shape, joined.ndim)
            if slot.name == name:
                part = out if slot.block is None else out[slot.block]
                part[...] = joined[start : start + rows].reshape(slot.shape)
            start += rows


def export_arrays(rules: Sequence[Rule], arrays: Arrays) -> dict[str, NumpyArray]:
    """Turns the arrays of a model that have names in a layout into its tensors.

    **Raises:** `ValueError` if an array is not zero and the layout does not store it, or has a shape that it does not
    store.
    """
    tensors: dict[str, NumpyArray] = {}
    done: set[Slot] = set()
    for rule, slots in _expand(rules, arrays):
        if done.issuperset(slots):
            continue
        done.update(slots)
        pieces = [arrays[s.name] if s.block is None else arrays[s.name][s.block] for s in slots]
        joined = np.concatenate([_fold_rows(np.asarray(piece), rule) for piece in pieces])
        parts = _get_parts(rule)
        splits = np.split(joined, np.cumsum(parts)[:-1] * (len(joined) // sum(parts)))
        for name, tensor in zip(rule.theirs, splits, strict=True):
            if name != ZEROS:
                before, _, after = rule.view.partition(" -> ")
                plain = tensor if slots[0].shape else tensor.reshape(())
                tensors[name] = _export_viewed(slots[0], tensor, f"{after} -> {before}", rule) if rule.view else plain
            elif np.any(tensor):
                raise ValueError(
                    f"{slots[0].name!r} must be zero where this layout does not store it, got other numbers: save the "
                    "model in vitrail's own format"
                )
    return tensors


def _export_viewed(slot: Slot, array: NumpyArray, pattern: str, rule: Rule) -> NumpyArray:
    """An array as a layout stores it."""
    einops = require("einops", extra="weights")
    try:
        return _rearrange(array, pattern, rule.sizes)
    except einops.EinopsError as error:
        raise ValueError(
            f"{slot.name!r} must have a shape that this layout stores, got {slot.shape}: save the model in vitrail's "
            "own format"
        ) from error


def list_unnamed(rules: Sequence[Rule], arrays: Arrays) -> list[str]:
    """The arrays of a model that have no names in a layout."""
    return sorted(arrays.keys() - {slot.name for _, slots in _expand(rules, arrays) for slot in slots})


def _expand(rules: Sequence[Rule], arrays: Arrays) -> Iterator[tuple[Rule, tuple[Slot, ...]]]:
    """Each rule for each ending and block, with those of its arrays that the model has; none if it has none."""
    for rule in rules:
        for ending in (".weight", ".bias") if rule.ours[0].endswith(BOTH) else ("",):
            names = [name for name in (_put(name, None, ending) for name in rule.ours) if name in arrays]
            if not names:
                continue
            depth: int = arrays[names[0]].shape[0] if BLOCK in rule.theirs[0] else 0
            for i in range(depth) if BLOCK in rule.theirs[0] else (rule.block,):
                slots = tuple(Slot(n, i, tuple(arrays[n].shape[0 if i is None else 1 :])) for n in names)
                theirs = tuple(_put(name, i, ending) for name in rule.theirs)
                yield dataclasses.replace(rule, theirs=theirs, mask=_put(rule.mask, i, ending)), slots


def _put(name: str, i: int | None, ending: str) -> str:
    """A name with the number of a block and an ending."""
    numbered = name if i is None else name.replace(BLOCK, str(i))
    return numbered.removesuffix(BOTH) + ending if numbered.endswith(BOTH) else numbered


def _explain_misfit(
    rule: Rule, there: tuple[str, ...], slots: tuple[Slot, ...], theirs: Mapping[str, TensorInfo], *, convert: bool
) -> tuple[str, bool]:
    """Returns why the tensors do not fit the arrays (empty if they do), and whether they only have too few rows."""
    infos = {name: theirs[name] for name in there if name != ZEROS}
    masks = {rule.mask: theirs[rule.mask]} if rule.mask in theirs else {}
    needed = ", ".join(f"{slot.name!r} as F32{list(slot.shape)}" for slot in slots)
    for name, info in {**infos, **masks}.items():
        if info.dtype != "F32" and not (convert and info.dtype in ("F64", "F16", "BF16")):
            can_convert = not convert and info.dtype.endswith(("F64", "F16"))
            hint = ": pass convert=True, or --convert, to make it float32" if can_convert else ""
            return f"{name!r} as {info}, but needs {needed}{hint}", False
    misfit = f"{', '.join(f'{name!r} as {info}' for name, info in infos.items())}, which does not fit {needed}"
    shapes = [shape for shape in (_view_shape(rule, info) for info in infos.values()) if shape]
    parts = dict(zip(rule.theirs, _get_parts(rule), strict=True))
    if any(mask.shape != info.shape for mask in masks.values() for info in infos.values()):
        return f"{rule.mask!r} as {theirs[rule.mask]} for {misfit}", False
    if len(shapes) < len(infos) or any(shape[1:] != shapes[0][1:] for shape in shapes):
        return misfit, False
    ndim = len(shapes[0])
    rows = sum(shape[0] for shape in shapes) + shapes[0][0] * there.count(ZEROS)
    missing_rows = sum(_count_rows(slot.shape, ndim) for slot in slots) - rows
    row_ratios = {shape[0] / parts[name] for name, shape in zip(infos, shapes, strict=True)}
    same_rows = missing_rows == 0 and len(row_ratios) == 1
    same_width = all(slot.shape[max(len(slot.shape) - ndim + 1, 0) :] == shapes[0][1:] for slot in slots)
    # A view says which axes have length one in the file; without one the arrays have the axes of the tensors.
    # A single number may have no axis or one.
    same_axes = rule.view or all(max(len(slot.shape), 1) == ndim for slot in slots)
    return "" if same_rows and same_width and same_axes else misfit, missing_rows > 0


def _get_parts(rule: Rule) -> tuple[int, ...]:
    return rule.parts or (1,) * len(rule.theirs)


def _fold_rows(array: NumpyArray, rule: Rule) -> NumpyArray:
    """An array of ours with all axes in one that its tensor joins with others."""
    ndim = array.ndim
    if rule.view:
        _, _, after = rule.view.partition(" -> ")
        ndim = len(re.sub(r"\([^)]*\)", "x", after).split())
    return array.reshape(-1, *array.shape[array.ndim - ndim + 1 :])


def _count_rows(shape: tuple[int, ...], ndim: int) -> int:
    """How many rows an array has once its leading axes are one."""
    return int(np.prod(shape[: len(shape) - ndim + 1], dtype=int))


def _view_shape(rule: Rule, info: TensorInfo) -> tuple[int, ...] | None:
    """The shape of a tensor after the view of a rule, with an axis at least; `None` if the view does not fit."""
    if 0 in info.shape or len(info.shape) > _MOST_AXES:
        return None
    if not rule.view:
        return info.shape or (1,)
    einops = require("einops", extra="weights")
    try:
        # All elements are one number, so that this takes no memory.
        return einops.rearrange(np.broadcast_to(np.zeros(()), info.shape), rule.view, **dict(rule.sizes)).shape
    except einops.EinopsError:
        return None


def _read_joined(step: Step, source: AbstractSource) -> NumpyArray:
    tensors = {name: _read_viewed(step.rule, name, source) for name in step.theirs if name != ZEROS}
    if len(step.theirs) == 1:
        return tensors[step.theirs[0]]
    zeros = np.zeros_like(next(iter(tensors.values())))
    return np.concatenate([tensors.get(name, zeros) for name in step.theirs])


def _read_viewed(rule: Rule, name: str, source: AbstractSource) -> NumpyArray:
    array = _read_float32(source, name)
    if rule.mask in source.tensors:
        array = array * _read_float32(source, rule.mask)
    return _rearrange(array, rule.view, rule.sizes) if rule.view else array


def _read_float32(source: AbstractSource, name: str) -> NumpyArray:
    array = source.read(name)
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32, copy=False)
    if array.dtype == np.float64 and np.any(np.isinf(converted) & np.isfinite(array)):
        raise CheckpointError(f"{source.path} has numbers in {name!r} that are too large for float32")
    return converted


def _rearrange(array: NumpyArray, pattern: str, sizes: tuple[tuple[str, int], ...]) -> NumpyArray:
    return cast(NumpyArray, require("einops", extra="weights").rearrange(array, pattern, **dict(sizes)))
