"""How the names of a checkpoint and the arrays of a model map to each other, and the two ways across.

A layout is a tuple of `Rule`s. Nothing here knows any layout.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np

from .._extras import require
from ._errors import CheckpointError
from ._source import AbstractSource, NumpyArray, TensorInfo

ZEROS: Final = "0"
"""In place of a tensor: one that is not stored, because it is zero."""
_BLOCK: Final = "{i}"
_EACH: Final = ".*"
_MOST_AXES: Final = 32
"""That NumPy and einops can see; none that is needed has more than five."""


POSITION_ROWS: Final = ("backbone.position.class_token", "backbone.position.registers", "backbone.position.patches")
"""The rows of a learned position embedding, where one tensor of the file holds them all."""
FINAL_NORM: Final = ("backbone.norm.*", "readout.norm.*")
"""The final norm, of which a model has the one or the other."""


@dataclass(frozen=True)
class Rule:
    """Some tensors of a file, one after the other along their first axis, are some arrays of the model.

    `{i}` in a name stands for the number of a block: the array is then that block's part of a stacked one. `.*` at the
    end stands for `.weight` and `.bias`.
    """

    theirs: tuple[str, ...]
    """The names in the file; `ZEROS` for one that is zero and not stored."""
    ours: tuple[str, ...]
    """The paths in the model."""
    view: str = ""
    """How each of theirs is seen: a pattern of einops, such as `1 n d -> n d`."""
    sizes: tuple[tuple[str, int], ...] = ()
    """The lengths of axes in the view that nothing else says."""
    block: int | None = None
    """The number of the block among those stacked, where it is another than that of the block in the file."""
    mask: str = ""
    """The name of a tensor that theirs are multiplied by."""


def rule(theirs: str | Sequence[str], ours: str | Sequence[str], view: str = "", **options: Any) -> Rule:
    """A `Rule`, with single names as they are."""
    one, other = ((names,) if isinstance(names, str) else tuple(names) for names in (theirs, ours))
    return Rule(one, other, view, **options)


def block_rules(
    prefix: str,
    *,
    norm1: str,
    qkv: str | Sequence[str],
    project: str,
    norm2: str,
    hidden: str | Sequence[str],
    out: str,
    scales: tuple[str, str] | None = None,
    qk_norms: tuple[str, str] | None = None,
) -> tuple[Rule, ...]:
    """The rules of a block whose linear layers and norms have `.weight` and `.bias`: all of PyTorch's layouts.

    Names follow `prefix`; without any for `qkv`, these have rules of their own.
    """

    def names(theirs: str | Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{prefix}{name}.*" for name in ((theirs,) if isinstance(theirs, str) else theirs))

    pairs = [
        (norm1, "norm1"),
        (qkv, "attention.qkv"),
        (project, "attention.project"),
        (norm2, "norm2"),
        (hidden, "mlp.hidden"),
        (out, "mlp.out"),
        *zip(qk_norms or (), ("attention.q_norm", "attention.k_norm"), strict=False),
    ]
    rules = tuple(Rule(names(theirs), (f"backbone.encoder.stack.{ours}.*",)) for theirs, ours in pairs if theirs)
    scale_pairs = zip(scales or (), ("scale1", "scale2"), strict=False)
    return rules + tuple(
        Rule((f"{prefix}{theirs}",), (f"backbone.encoder.stack.{ours}",)) for theirs, ours in scale_pairs
    )


@dataclass(frozen=True)
class Slot:
    """One array of the model, or one block's part of it."""

    path: str
    block: int | None
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """A rule with numbers and names put in, whose tensors are there and fit."""

    rule: Rule
    theirs: tuple[str, ...]
    slots: tuple[Slot, ...]


@dataclass
class Plan:
    """What of a file goes where in a model, and what does not."""

    steps: dict[str, list[Step]] = field(default_factory=dict[str, list[Step]])
    """By the path of the array that they fill."""
    used: set[str] = field(default_factory=set[str])
    """The names in the file that something is filled from."""
    missing: list[str] = field(default_factory=list[str])
    """Sentences on what the model has and the file has not."""
    wrong: list[str] = field(default_factory=list[str])
    """Sentences on shapes and dtypes that do not fit."""


Arrays = Mapping[str, Any]
"""The arrays of a model by path: arrays, or shapes and dtypes."""


def plan(rules: Sequence[Rule], ours: Arrays, theirs: Mapping[str, TensorInfo], depth: int, *, convert: bool) -> Plan:
    """Compares what a file has with what a model needs. Nothing is read."""
    made = Plan()
    planned: set[Slot] = set()
    for concrete, slots in _concrete(rules, ours, depth):
        free = tuple(slot for slot in slots if slot not in planned)
        stored = tuple(name for name in concrete.theirs if name != ZEROS)
        there = tuple(name for name in concrete.theirs if name == ZEROS or name in theirs)
        if not free or not set(there) - {ZEROS}:
            continue
        made.used.update(name for name in (*there, concrete.mask) if name in theirs)
        planned.update(slots)
        sentence, short = _misfit(concrete, there, slots, theirs, convert=convert)
        if sentence:
            absent = [name for name in stored if name not in theirs] if short else []
            (made.missing if absent else made.wrong).append(
                f"{', '.join(map(repr, absent))} beside {sentence}" if absent else sentence
            )
            continue
        for path in dict.fromkeys(slot.path for slot in slots):
            made.steps.setdefault(path, []).append(Step(concrete, there, slots))
    for concrete, slots in _concrete(rules, ours, depth):
        for slot in slots:
            if slot not in planned:
                planned.add(slot)
                made.missing.append(f"{' or '.join(repr(n) for n in concrete.theirs if n != ZEROS)} for {slot.path!r}")
    known = {slot.path for slot in planned}
    for path in ours:
        if path not in known:
            made.missing.append(f"whatever {path!r} would be filled from")
    return made


def fill(steps: Sequence[Step], path: str, out: NumpyArray, source: AbstractSource) -> None:
    """Reads what one array of the model is made of into it."""
    for step in steps:
        whole = _theirs(step, source)
        start = 0
        for slot in step.slots:
            rows = _num_rows(slot.shape, whole.ndim)
            if slot.path == path:
                part = out if slot.block is None else out[slot.block]
                part[...] = whole[start : start + rows].reshape(slot.shape)
            start += rows


def written(rules: Sequence[Rule], ours: Arrays, depth: int) -> dict[str, NumpyArray]:
    """The tensors of a layout for the arrays of a model: the way back."""
    found: dict[str, NumpyArray] = {}
    filled: set[Slot] = set()
    for concrete, slots in _concrete(rules, ours, depth):
        if set(slots) <= filled:
            continue
        filled.update(slots)
        parts = [ours[s.path] if s.block is None else ours[s.path][s.block] for s in slots]
        arrays = [np.asarray(part) for part in parts]
        whole = np.concatenate([a.reshape(-1, *a.shape[a.ndim - _width(concrete, a) + 1 :]) for a in arrays])
        pieces = np.split(whole, len(concrete.theirs))
        for name, piece in zip(concrete.theirs, pieces, strict=True):
            if name == ZEROS:
                if np.any(piece):
                    raise ValueError(
                        f"{slots[0].path!r} must be zero where this layout does not store it, but it is not: the model "
                        "was trained on; save it in vitrail's own format"
                    )
            else:
                before, _, after = concrete.view.partition(" -> ")
                found[name] = _rearrange(piece, f"{after} -> {before}", concrete.sizes) if concrete.view else piece
    if missed := sorted(ours.keys() - {slot.path for slot in filled}):
        raise ValueError(
            f"{missed[0]!r} must have a name in the layout to be written in it, but it has none: the model has a part "
            "that its library does not know; save it in vitrail's own format"
        )
    return found


def _width(concrete: Rule, array: NumpyArray) -> int:
    """How many axes an array of ours has beside others, or as the rule sees theirs."""
    if concrete.view:
        _, _, after = concrete.view.partition(" -> ")
        return len(re.sub(r"\([^)]*\)", "x", after).split())
    return array.ndim


def _concrete(rules: Sequence[Rule], ours: Arrays, depth: int) -> Iterator[tuple[Rule, tuple[Slot, ...]]]:
    """The rules for every block and every ending, with those of their arrays that the model has; none without."""
    for each in rules:
        endings = (".weight", ".bias") if each.ours[0].endswith(_EACH) else ("",)
        for i in range(depth) if _BLOCK in each.theirs[0] else (each.block,):

            def put(name: str, i: int | None = i, ending: str = "") -> str:
                named = name if i is None else name.replace(_BLOCK, str(i))
                return named.removesuffix(_EACH) + ending if named.endswith(_EACH) else named

            for ending in endings:
                slots = tuple(
                    Slot(path, i, tuple(ours[path].shape[0 if i is None else 1 :]))
                    for path in (put(name, None, ending) for name in each.ours)
                    if path in ours
                )
                if slots:
                    theirs = tuple(put(name, i, ending) for name in each.theirs)
                    yield dataclasses.replace(each, theirs=theirs, mask=put(each.mask, i)), slots


def _misfit(
    concrete: Rule, there: tuple[str, ...], slots: tuple[Slot, ...], theirs: Mapping[str, TensorInfo], *, convert: bool
) -> tuple[str, bool]:
    """A sentence where the tensors do not fit the arrays, the empty one where they do; and whether rows are short."""
    infos = {name: theirs[name] for name in there if name != ZEROS}
    masks = {concrete.mask: theirs[concrete.mask]} if concrete.mask in theirs else {}
    wanted = ", ".join(f"{slot.path!r} as F32{list(slot.shape)}" for slot in slots)
    for name, info in {**infos, **masks}.items():
        if info.dtype != "F32" and not (convert and info.dtype in ("F64", "F16", "BF16")):
            return f"{name!r} as {info}, where {wanted} is wanted" + (
                "" if convert or not info.dtype.endswith(("F64", "F16")) else ": convert=True makes it float32"
            ), False
    sentence = f"{', '.join(f'{name!r} as {info}' for name, info in infos.items())}, which does not fit {wanted}"
    shapes = [shape for shape in (_seen(concrete, info) for info in infos.values()) if shape]
    if any(mask.shape != info.shape for mask in masks.values() for info in infos.values()):
        return f"{concrete.mask!r} as {theirs[concrete.mask]} for {sentence}", False
    if len(shapes) < len(infos) or any(shape[1:] != shapes[0][1:] for shape in shapes):
        return sentence, False
    ndim = len(shapes[0])
    rows = sum(shape[0] for shape in shapes) + shapes[0][0] * there.count(ZEROS)
    missing_rows = sum(_num_rows(slot.shape, ndim) for slot in slots) - rows
    same_rows = missing_rows == 0 and len({shape[0] for shape in shapes}) == 1
    same_width = all(slot.shape[max(len(slot.shape) - ndim + 1, 0) :] == shapes[0][1:] for slot in slots)
    # A view says which axes are one in the file; without one the arrays have the axes that the tensors have.
    same_axes = concrete.view or all(len(slot.shape) == ndim for slot in slots)
    return "" if same_rows and same_width and same_axes else sentence, missing_rows > 0


def _seen(concrete: Rule, info: TensorInfo) -> tuple[int, ...] | None:
    """The shape of a tensor as the rule sees it; `None` where it cannot be seen so."""
    if 0 in info.shape or len(info.shape) > _MOST_AXES:
        return None
    if not concrete.view:
        return info.shape
    einops = require("einops", extra="weights")
    try:
        # All elements are one, so that this takes no memory.
        return einops.rearrange(np.broadcast_to(np.zeros(()), info.shape), concrete.view, **dict(concrete.sizes)).shape
    except einops.EinopsError:
        return None


def _num_rows(shape: tuple[int, ...], ndim: int) -> int:
    """How many rows an array has once its leading axes are one."""
    return int(np.prod(shape[: len(shape) - ndim + 1], dtype=int))


def _theirs(step: Step, source: AbstractSource) -> NumpyArray:
    read = {name: _read(step.rule, name, source) for name in step.theirs if name != ZEROS}
    if len(step.theirs) == 1:
        return read[step.theirs[0]]
    zeros = np.zeros_like(next(iter(read.values())))
    return np.concatenate([read.get(name, zeros) for name in step.theirs])


def _read(concrete: Rule, name: str, source: AbstractSource) -> NumpyArray:
    array = _as_float32(source, name)
    if concrete.mask in source.tensors:
        array = array * _as_float32(source, concrete.mask)
    return _rearrange(array, concrete.view, concrete.sizes) if concrete.view else array


def _as_float32(source: AbstractSource, name: str) -> NumpyArray:
    array = source.read(name)
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32, copy=False)
    if array.dtype == np.float64 and np.any(np.isinf(converted) & np.isfinite(array)):
        raise CheckpointError(f"{source.path} has numbers in {name!r} that are too large for float32")
    return converted


def _rearrange(array: NumpyArray, pattern: str, sizes: tuple[tuple[str, int], ...]) -> NumpyArray:
    return cast(NumpyArray, require("einops", extra="weights").rearrange(array, pattern, **dict(sizes)))
