"""What a library's file has and its model of ours does not need, so that it can be written again."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .formats import NumpyArray, open_source
from .layouts import AnyLayout, Export, recognise


def read_kept(
    path: Path, layout: AnyLayout, export: Export[Any], prefix: str, written: Mapping[str, NumpyArray]
) -> dict[str, NumpyArray]:
    """The tensors that a library has beside those of a model, by the names that they are written under.

    **Arguments:**

    - `path`: the file or folder of the library that the model is from.
    - `layout`, `export`: how the model is written.
    - `prefix`: what the names begin with.
    - `written`: the tensors of the model by name.

    **Raises:** `ValueError` if the file has none, or is that of another model; what opening it raises.
    """
    with open_source(path) as source:
        checkpoint = recognise(source, {}, layout=layout.name, part="image")
        theirs = {name if name.startswith(export.bare) else prefix + name: name for name in checkpoint.tensors}
        for name, array in written.items():
            if name in theirs and checkpoint.tensors[theirs[name]].shape != array.shape:
                raise ValueError(
                    f"keep must be the file that the model is from, got {path}, whose {theirs[name]!r} is "
                    f"{checkpoint.tensors[theirs[name]]}, not {list(array.shape)}"
                )
        kept = {
            new: np.asarray(checkpoint.read(old), np.float32)
            for new, old in theirs.items()
            if new not in written and any(re.fullmatch(pattern, old) for pattern in export.kept)
        }
    if not kept:
        raise ValueError(
            f"keep must be a file with tensors that {layout.title} has beside this model, got {path}: leave it out"
        )
    return kept
