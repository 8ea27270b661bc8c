"""Loads a model from the Hugging Face Hub."""

from typing import Any, overload

from jaxtyping import PRNGKeyArray

from .._keep import KEEP, Keep
from .._spec import PartSpec
from ..head import HeadFactory
from ..model import ChannelRule, ViT
from ..nn import Dropout, Execution
from ..pool import PoolFactory
from ._configuration import Shardings
from ._fetch import fetch
from ._load import load
from ._names import resolve_name
from ._read import Config
from .layouts import Part


@overload
def from_hub(
    repository: str,
    *,
    revision: str | None = None,
    layout: str | None = None,
    config: Config = None,
    prefix: str | None = None,
    convert: bool = False,
    shardings: Shardings | None = None,
    execution: Execution = Execution(),
    dropout: Dropout = Dropout(),
) -> Any: ...
@overload
def from_hub(
    repository: str,
    *,
    revision: str | None = None,
    layout: str | None = None,
    config: Config = None,
    prefix: str | None = None,
    part: Part = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    pool: str | PartSpec | PoolFactory | Keep = KEEP,
    head: str | PartSpec | HeadFactory | Keep = KEEP,
    num_classes: int | Keep | None = KEEP,
    channels: int | Keep = KEEP,
    channel_rule: ChannelRule = "repeat",
    convert: bool = False,
    shardings: Shardings | None = None,
    execution: Execution = Execution(),
    dropout: Dropout = Dropout(),
    key: PRNGKeyArray | None = None,
) -> ViT: ...
def from_hub(
    repository: str,
    *,
    revision: str | None = None,
    layout: str | None = None,
    config: Config = None,
    prefix: str | None = None,
    part: Part = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    pool: str | PartSpec | PoolFactory | Keep = KEEP,
    head: str | PartSpec | HeadFactory | Keep = KEEP,
    num_classes: int | Keep | None = KEEP,
    channels: int | Keep = KEEP,
    channel_rule: ChannelRule = "repeat",
    convert: bool = False,
    shardings: Shardings | None = None,
    execution: Execution = Execution(),
    dropout: Dropout = Dropout(),
    key: PRNGKeyArray | None = None,
) -> Any:
    """Downloads a checkpoint with huggingface_hub, which caches it, and loads it.

    It downloads only the file of weights, the settings and the model card beside it, and for a text tower the
    tokenizer. The cache, the token, `HF_HUB_OFFLINE` and `HF_ENDPOINT` are those of huggingface_hub. Without a network,
    it loads what is in the cache. As with [`load`][vitrail.load], annotate the result for a type checker.

    !!! example

        ```python
        model: vitrail.ViT = vitrail.from_hub("timm/vit_small_patch14_dinov2.lvd142m")
        model = vitrail.from_hub("dinov2-s/14", num_classes=10, key=key)  # the same by its short name
        clip: vitrail.ImageText = vitrail.from_hub("clip-b/16")

        commit = vitrail.model_card("dinov2-s/14").commit  # what the branch is today
        model = vitrail.from_hub("dinov2-s/14", revision=commit)  # the same tomorrow
        ```

    **Arguments:**

    - `repository`: `"owner/name"`, or a name of [`list_models`][vitrail.list_models]. `"owner/name/file.safetensors"`
        is a file other than the main one (`model.safetensors`, its index, or `open_clip_model.safetensors`), and
        `"owner/name@revision"` another revision.
    - `revision`: a branch, a tag or a commit; `None` for the default branch, which can hold other weights tomorrow.
    - the other arguments: as in [`load`][vitrail.load].

    **Returns:**

    What `load` returns.

    **Raises:** `FileNotFoundError` if there is no such repository, revision or file; `PermissionError` if the
    repository is gated, or the token is refused; `ConnectionError` if the Hub cannot be reached and the files are not
    in the cache; `CheckpointError` if the repository has no weights that vitrail reads; what `load` raises;
    `MissingExtraError` if huggingface_hub is not installed.
    """
    return load(
        fetch(resolve_name(repository, revision)),
        layout=layout,
        config=config,
        prefix=prefix,
        part=part,
        image_size=image_size,
        patch_size=patch_size,
        pool=pool,
        head=head,
        num_classes=num_classes,
        channels=channels,
        channel_rule=channel_rule,
        convert=convert,
        shardings=shardings,
        execution=execution,
        dropout=dropout,
        key=key,
    )
