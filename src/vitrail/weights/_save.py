"""A model to a file, in vitrail's own format or in another library's layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

import jax.numpy as jnp

from ..model import ViT, ViTConfig
from ._layouts import LAYOUTS
from ._native import arrays_of, write_arrays, write_native
from ._rules import written

WritableLayout = Literal[
    "vitrail",
    "timm",
    "timm_eva",
    "timm_sam",
    "hf_vit",
    "hf_dinov2",
    "hf_dinov3",
    "hf_clip",
    "hf_siglip",
    "hf_sam",
]
"""The layouts that `vitrail.save` writes."""


def save(model: ViT, path: Path | str, *, layout: WritableLayout = "vitrail") -> None:
    """Writes a model to a file: its arrays, its configuration and a digest of each array.

    The file is written next to its place and moved there when it is complete, so that an interruption leaves what was
    there before.

    **Arguments:**

    - `model`: whose parts are those that its configuration names. Exchange parts with `vitrail.replace`, which keeps
        the two in step.
    - `path`: of the file, usually ending in `.safetensors`.
    - `layout`: `"vitrail"`, or one of timm's or Hugging Face's, whose libraries then read the tensors under their own
        names. Such a file has no configuration: the library's own `config.json` goes with it.

    **Raises:** `ValueError` where the configuration holds code instead of names, does not describe the model, or has
    what the other layout has no name for; `OSError` where the file cannot be written; `MissingExtraError` where
    safetensors is not installed.
    """
    if layout == "vitrail":
        write_native(model, Path(path))
        return
    known = LAYOUTS[layout]
    written_prefix = cast(Callable[[ViTConfig], tuple[str, tuple[str, ...]]], known.written_prefix)
    config = model.config
    leaves = arrays_of(model)
    for name, leaf in leaves.items():
        if leaf.dtype != jnp.float32:
            raise ValueError(f"model must be float32 to be written as {layout!r}, but {name!r} is {leaf.dtype}")
    tensors = written(
        known.rules(config),
        leaves,
        config.size.depth,
        class_rows=model.prefix.shape[0] - config.num_registers,
        register_rows=config.num_registers,
    )
    prefix, bare = written_prefix(config)
    named = {name if name.startswith(bare) else prefix + name: array for name, array in tensors.items()}
    write_arrays(named, Path(path), {"format": "pt"})
