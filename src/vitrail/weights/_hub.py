"""A model from the Hugging Face Hub."""

import re
from typing import Any, Final, Literal

from jaxtyping import PRNGKeyArray

from .._extras import require
from .._registry import PartSpec
from ..head import HeadFactory
from ..model import ViT
from ..pool import PoolFactory
from ._load import Config, load

_FILES: Final = (
    "config.json",
    "preprocessor_config.json",
    "open_clip_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
)


def from_hub(
    repository: str,
    *,
    revision: str,
    moving: bool = False,
    layout: str | None = None,
    config: Config = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    pool: str | PartSpec | PoolFactory | None = None,
    head: str | PartSpec | HeadFactory | None = None,
    num_classes: int | Literal["keep"] | None = "keep",
    convert: bool = False,
    key: PRNGKeyArray | None = None,
) -> ViT:
    """Downloads a checkpoint with huggingface_hub, which keeps it, and loads it.

    !!! example

        ```python
        model = vitrail.from_hub("org/name", revision="<the 40 digits of a commit>")
        ```

    **Arguments:**

    - `repository`: `"organisation/name"`.
    - `revision`: the full hash of a commit, whose files never change; or a branch or tag, with `moving=True`.
    - `moving`: whether a branch or tag will do, which may hold other weights tomorrow.
    - all others: as in [`load`][vitrail.load].

    **Returns:**

    The model.

    **Raises:** `ValueError` where the revision is no commit and `moving` does not allow that; what huggingface_hub
    raises where the files are not to be had; what `load` raises; `MissingExtraError` where huggingface_hub is not
    installed.
    """
    if not moving and not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(
            f"revision must be the 40 digits of a commit, but {revision!r} came, which may stand for other weights "
            "tomorrow: take the commit from the repository's history, or pass moving=True"
        )
    hub: Any = require("huggingface_hub", extra="hub")
    folder: str = hub.snapshot_download(repository, revision=revision, allow_patterns=list(_FILES))
    return load(
        folder,
        layout=layout,
        config=config,
        image_size=image_size,
        patch_size=patch_size,
        pool=pool,
        head=head,
        num_classes=num_classes,
        convert=convert,
        key=key,
    )
