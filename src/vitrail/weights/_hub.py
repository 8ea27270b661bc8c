"""Loads a model from the Hugging Face Hub."""

import re
from typing import Any, Final, overload

from jaxtyping import PRNGKeyArray

from .._extras import require
from .._keep import KEEP, Keep
from .._spec import PartSpec
from ..head import HeadFactory
from ..model import ViT
from ..nn import Dropout, Execution
from ..pool import PoolFactory
from ._load import load
from ._read import Config
from .layouts import Part

_FILES: Final = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "open_clip_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "bpe_simple_vocab_16e6.txt.gz",
)


@overload
def from_hub(
    repository: str,
    *,
    revision: str,
    moving: bool = False,
    layout: str | None = None,
    config: Config = None,
    prefix: str | None = None,
    convert: bool = False,
    execution: Execution = Execution(),
    dropout: Dropout = Dropout(),
) -> Any: ...
@overload
def from_hub(
    repository: str,
    *,
    revision: str,
    moving: bool = False,
    layout: str | None = None,
    config: Config = None,
    prefix: str | None = None,
    part: Part = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    pool: str | PartSpec | PoolFactory | Keep = KEEP,
    head: str | PartSpec | HeadFactory | Keep = KEEP,
    num_classes: int | Keep | None = KEEP,
    convert: bool = False,
    execution: Execution = Execution(),
    dropout: Dropout = Dropout(),
    key: PRNGKeyArray | None = None,
) -> ViT: ...
def from_hub(
    repository: str,
    *,
    revision: str,
    moving: bool = False,
    layout: str | None = None,
    config: Config = None,
    prefix: str | None = None,
    part: Part = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    pool: str | PartSpec | PoolFactory | Keep = KEEP,
    head: str | PartSpec | HeadFactory | Keep = KEEP,
    num_classes: int | Keep | None = KEEP,
    convert: bool = False,
    execution: Execution = Execution(),
    dropout: Dropout = Dropout(),
    key: PRNGKeyArray | None = None,
) -> Any:
    """Downloads a checkpoint with huggingface_hub, which caches it, and loads it.

    As with [`load`][vitrail.load], what the files hold is known once they are open: annotate the result for a type
    checker.

    !!! example

        ```python
        model: vitrail.ViT = vitrail.from_hub("org/name", revision="<the 40 digits of a commit>")
        ```

    **Arguments:**

    - `repository`: `"organisation/name"`.
    - `revision`: the full hash of a commit, whose files never change; or a branch or tag with `moving=True`.
    - `moving`: whether to accept a branch or tag, which may hold other weights tomorrow.
    - the others: as in [`load`][vitrail.load].

    **Returns:**

    What `load` returns.

    **Raises:** `ValueError` if the revision is not a commit and `moving` is not set; what huggingface_hub raises if it
    cannot download the files; what `load` raises; `MissingExtraError` if huggingface_hub is not installed.
    """
    if not moving and not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(
            f"revision must be the 40 digits of a commit, got {revision!r}, which can hold other weights tomorrow: "
            "take the commit from the history of the repository, or pass moving=True"
        )
    hub: Any = require("huggingface_hub", extra="hub")
    folder: str = hub.snapshot_download(repository, revision=revision, allow_patterns=list(_FILES))
    return load(
        folder,
        layout=layout,
        config=config,
        prefix=prefix,
        part=part,
        image_size=image_size,
        patch_size=patch_size,
        pool=pool,
        head=head,
        num_classes=num_classes,
        convert=convert,
        execution=execution,
        dropout=dropout,
        key=key,
    )
