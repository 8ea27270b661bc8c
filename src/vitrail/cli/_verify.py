"""`vitrail verify`: whether a file is the model that it claims to be."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..nn import Execution
from ..weights import Verification, verify
from ._options import ReadOptions
from ._pictures import parse_settings


@dataclass(frozen=True)
class Verify(ReadOptions):
    """Checks that a file of weights is complete, trained, and computed correctly.

    The exit status is 1 if a check fails.
    """

    file: Path
    """A safetensors or npz file, an index of several, or a folder with one."""
    part: Literal["image"] | None = None
    """`image` takes only the image model of a system such as CLIP."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of the forward pass that is compared with float32."""


def run_verify(command: Verify) -> int:
    """Prints the checks and the verdict, and returns the exit status."""
    found = verify(
        command.file.as_posix(),
        layout=command.layout,
        config=parse_settings(command.config),
        prefix=command.prefix,
        part=command.part,
        execution=Execution(compute_dtype=command.dtype),
    )
    for line in _describe(command.file, found):
        print(line)
    return 0 if found.passed else 1


def _describe(file: Path, found: Verification) -> list[str]:
    lines = [f"{check.verdict:6}{check.name:12}{check.words}" for check in found.checks]
    counts = {kind: sum(check.verdict == kind for check in found.checks) for kind in ("fail", "warn", "skip")}
    beside = [f"{counts['warn']} to know"] if counts["warn"] else []
    beside += [f"{counts['skip']} not checked"] if counts["skip"] else []
    verdict = "is the model that it claims to be" if found.passed else f"fails {counts['fail']} of its checks"
    more = f" ({', '.join(beside)})" if beside else ""
    return [*lines, f"{file} {verdict}{more}"]
