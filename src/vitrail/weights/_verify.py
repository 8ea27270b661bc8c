"""Verifies a file: is this the model that it claims?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np

from .._check import list_first
from ..nn import Execution, list_arrays
from ..systems import ImageText
from ._card import ModelCard, model_card
from ._errors import CheckpointError
from ._load import load
from ._names import locate
from ._original import explain_no_original, run_original
from ._probe import ROUNDING, compare_outputs, draw_picture, draw_text, run_probe
from ._read import Config
from ._statistics import (
    Arrays,
    find_constant,
    find_copies,
    find_fresh,
    find_not_finite,
    find_out_of_family,
    find_untouched,
    measure_structure,
)
from .formats import NumpyArray
from .layouts import Part

_SHOWN: Final = 3
_BFLOAT16: Final = 2.0**-9
"""The largest error of rounding to bfloat16, relative to the number."""
_ROUNDINGS: Final = 12
"""How often a block rounds what the next one reads: the results of its norms, its products and its sums."""
_AMPLIFIED: Final = 2.0
"""How much larger than a random walk of independent errors the error may be: norms and softmax make some larger."""
_OTHER_LIBRARY: Final = 1e-4
"""How far apart two libraries may be in float32, relative to the largest number."""
_CHANCE: Final = 5.0
_SMALLEST_GRID: Final = 7
"""On a smaller one, trained neighbours can be unlike each other."""


@dataclass(frozen=True)
class Check:
    """One check of a file."""

    name: str
    """What was looked at."""
    verdict: Literal["pass", "warn", "fail", "skip"]
    """`"warn"` if the file lacks something, `"skip"` if the check could not be made."""
    words: str
    """What was found."""


@dataclass(frozen=True)
class Verification:
    """What `verify` found."""

    path: Path
    """The file or folder."""
    checks: tuple[Check, ...]
    """All checks, in the order in which they were made. If a check fails that the others depend on, it is the last."""

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.verdict != "fail" for check in self.checks)


def verify(
    path: Path | str,
    *,
    layout: str | None = None,
    config: Config = None,
    prefix: str | None = None,
    part: Part = None,
    execution: Execution = Execution(),
) -> Verification:
    """Verifies that a file or folder is complete, trained, and the model that it claims to be.

    It checks the names and shapes, the settings, the licence, the preprocessing, the digests in a file of vitrail's
    own, the numbers, and the outputs for test pictures. If PyTorch and the library of the layout are installed, it also
    compares the outputs with those of that library.

    !!! example

        ```python
        found = vitrail.verify("model.safetensors")
        print(found.passed, *found.checks, sep="\\n")
        ```

    **Arguments:**

    - `path`, `layout`, `config`, `prefix`, `part`: as in `vitrail.load`.
    - `execution`: how you are going to compute the model. Its outputs are compared with those in float32 with plain
        attention.

    **Returns:**

    A `Verification`. A damaged or wrong file is a check that fails, not an error.

    **Raises:** `ValueError` if the arguments do not fit; `OSError` if the file cannot be read; `MissingExtraError` if
    safetensors or einops is not installed.
    """
    path = locate(path)
    reading: dict[str, Any] = {"layout": layout, "config": config, "prefix": prefix, "part": part}
    try:
        card = model_card(path, **reading)
        checks = _check_card(card)
        if any(check.verdict == "fail" for check in checks):
            return Verification(path, tuple(checks))
        model = cast(Any, load)(path, **reading, convert=True)
    except CheckpointError as error:
        return Verification(path, (Check("file", "fail", " ".join(str(error).split())),))
    if card.layout == "vitrail":
        checks.append(Check("digests", "pass", "each array has the digest with which it was saved"))
    arrays = {name: np.asarray(array) for name, array in list_arrays(model).items()}
    checks += _check_numbers(arrays)
    checks += _check_outputs(path, card, model, execution)
    return Verification(path, tuple(checks))


def _check_card(card: ModelCard) -> list[Check]:
    wrong = [*card.missing, *(f"{name!r}, which the layout does not know" for name in card.unknown)]
    names = f"{card.title}, {card.parameters:,} parameters"
    half = {dtype: count for dtype, count in card.dtypes.items() if dtype != "float32"}
    assumed = ", ".join(f"{name} {value}" for name, value in card.assumed.items() if name != "preprocess")
    preprocess = card.config.preprocess
    return [
        Check(
            "layout", "fail" if wrong else "pass", f"{names}; wrong: {list_first(wrong, _SHOWN)}" if wrong else names
        ),
        Check(
            "settings", "warn" if assumed else "pass", f"assumed {assumed}" if assumed else "all follow from the file"
        ),
        Check(
            "dtypes",
            "warn" if half else "pass",
            f"{', '.join(f'{count} in {dtype}' for dtype, count in half.items())}: verified as float32"
            if half
            else "float32",
        ),
        Check("licence", "warn" if card.licence is None else "pass", card.licence or "not known"),
        Check(
            "preprocess",
            "warn" if preprocess is None or "preprocess" in card.assumed else "pass",
            "not known"
            if preprocess is None
            else f"{preprocess.fit}, {preprocess.interpolation}"
            + (", assumed: that of the family" if "preprocess" in card.assumed else ""),
        ),
    ]


def _check_numbers(arrays: Arrays) -> list[Check]:
    broken = find_not_finite(arrays)
    checks = [_make("finite", broken, "not finite", "all numbers are finite")]
    if broken:
        return checks
    constant = find_constant(arrays)
    checks.append(_make("filled", constant, "one number throughout", "no matrix is constant"))
    copies = find_copies(arrays)
    checks.append(_make("blocks", copies, "copies", "no two blocks are the same"))
    checks += [_check_trained(arrays), *_check_positions(arrays)]
    odd = find_out_of_family(arrays)
    checks.append(_make("spread", odd, "out of family", "blocks have numbers of like size", verdict="warn"))
    return checks


def _check_trained(arrays: Arrays) -> Check:
    """Fresh matrices and untouched norms, in all blocks or in some."""
    (fresh, matrices), (untouched, blocks) = find_fresh(arrays), find_untouched(arrays)
    head = [name for name in fresh if "readout.head" in name]
    if matrices and len(fresh) == matrices:
        return Check("trained", "fail", f"all {matrices} matrices are as a fresh model has them: it is not trained")
    if blocks and len(untouched) == blocks and not matrices:
        return Check("trained", "fail", f"all norms of {blocks} blocks are ones and zeros: it is not trained")
    if found := [*(name for name in fresh if name not in head), *untouched]:
        return Check(
            "trained", "fail", f"as in a fresh model, and so not loaded or not trained: {list_first(found, _SHOWN)}"
        )
    if head:
        return Check("trained", "warn", f"the head is as a fresh model has it: {list_first(head, _SHOWN)}")
    if not matrices:
        return Check("trained", "skip", "all matrices are too small to tell")
    return Check("trained", "pass", f"none of {matrices} matrices is as a fresh model has it")


def _check_positions(arrays: Arrays) -> list[Check]:
    found: list[Check] = []
    for name, table in arrays.items():
        if name.endswith(("position.patches", "position.learned.patches")) and table.ndim == 3:
            if min(table.shape[:2]) < _SMALLEST_GRID:
                continue
            alike, deviations = measure_structure(table)
            words = f"neighbours in {name} are alike by {alike:.2f}"
            verdict = "pass" if deviations > _CHANCE else "warn"
            found.append(Check("positions", verdict, words + ("" if verdict == "pass" else ", as by chance")))
    return found


def _make(name: str, found: Sequence[str], what: str, good: str, *, verdict: Literal["warn", "fail"] = "fail") -> Check:
    return Check(name, verdict, f"{what}: {list_first(found, _SHOWN)}") if found else Check(name, "pass", good)


def _check_outputs(path: Path, card: ModelCard, model: Any, execution: Execution) -> list[Check]:
    plain = model.with_execution(Execution(attention="plain"))
    picture = draw_picture(model)
    ours, other = run_probe(plain, picture), run_probe(plain, draw_picture(model, seed=1))
    broken = [name for name, array in ours.items() if not np.isfinite(array).all()]
    if broken:
        return [Check("outputs", "fail", f"not finite for a drawn picture: {list_first(broken, _SHOWN)}")]
    same = [name for name, change in compare_outputs(ours, other).items() if change < 1e-6 and name != "text"]
    checks = [_make("outputs", same, "the same for two pictures", "finite, and different for two pictures")]
    checks.append(_check_execution(card, ours, run_probe(model.with_execution(execution), picture), execution))
    text = draw_text(model) if isinstance(model, ImageText) else None
    return [*checks, _check_original(path, card, ours, picture, text)]


def _check_execution(
    card: ModelCard, plain: dict[str, NumpyArray], found: dict[str, NumpyArray], execution: Execution
) -> Check:
    """Errors of independent roundings add up as a random walk does."""
    limit = ROUNDING
    if execution.compute_dtype == "bfloat16":
        limit = _AMPLIFIED * _BFLOAT16 * float(np.sqrt(_ROUNDINGS * card.config.size.depth))
    differences = {name: _measure_difference(found[name], array) for name, array in plain.items()}
    worst = max(differences, key=lambda name: differences[name])
    words = f"{execution.compute_dtype}: {worst} differs by {differences[worst]:.1e} from plain float32"
    good = differences[worst] <= limit
    return Check("execution", "pass" if good else "fail", f"{words}, {'within' if good else 'above'} {limit:.1e}")


def _measure_difference(found: NumpyArray, plain: NumpyArray) -> float:
    """The length of the difference relative to that of the output; infinite if there is NaN."""
    relative = float(np.linalg.norm(found - plain)) / max(float(np.linalg.norm(plain)), 1e-30)
    return float("inf") if np.isnan(relative) else relative


def _check_original(
    path: Path, card: ModelCard, ours: dict[str, NumpyArray], picture: NumpyArray, text: NumpyArray | None
) -> Check:
    if reason := explain_no_original(path, card):
        return Check("original", "skip", reason)
    try:
        theirs = run_original(path, card, picture, text)
    except Exception as error:  # another library can raise anything
        said = " ".join(str(error).split())[:200]
        return Check("original", "warn", f"its own library cannot open it: {type(error).__name__}: {said}")
    differences = compare_outputs({name: ours[name] for name in theirs}, theirs)
    worst = max(differences, key=lambda name: differences[name])
    words = f"{', '.join(sorted(theirs))} of its own library differ by {differences[worst]:.1e}"
    return Check("original", "pass" if differences[worst] <= _OTHER_LIBRARY else "fail", words)
