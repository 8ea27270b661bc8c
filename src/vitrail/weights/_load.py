"""Loads a model: a Vision Transformer, at another size or with another ending if that is asked for, or a system."""

from pathlib import Path
from typing import Any, cast, overload

from jaxtyping import PRNGKeyArray

from .._keep import KEEP, Keep
from .._spec import PartSpec
from ..head import HeadFactory, NoHead
from ..model import ChannelRule, ViT, check_channel_rule, replace
from ..nn import Dropout, Execution
from ..pool import PoolFactory
from ..systems import AbstractSystem
from ._configuration import Shardings
from ._read import Config, read_model
from .layouts import Part


@overload
def load(
    path: Path | str,
    *,
    layout: str | None = None,
    config: Config = None,
    prefix: str | None = None,
    convert: bool = False,
    shardings: Shardings | None = None,
    execution: Execution = Execution(),
    dropout: Dropout = Dropout(),
) -> Any: ...
@overload
def load(
    path: Path | str,
    *,
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
def load(
    path: Path | str,
    *,
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
    """Loads a model from a file: vitrail's own, or a checkpoint of timm, Hugging Face, Meta, OpenAI, open_clip,
    torchvision, big_vision or vision_transformer.

    A file holds a `ViT`, or a system with a `ViT` in its field `image`, such as both towers of CLIP or MAE with its
    decoder. A type checker cannot know which, so annotate the result.

    !!! example

        ```python
        model: vitrail.ViT = vitrail.load("model.safetensors")
        model = vitrail.load("model.safetensors", pool="mean", num_classes=10, key=key)  # always a ViT
        model = vitrail.load("clip", part="image")  # the image tower of CLIP, a ViT
        model = vitrail.load("dinov2-s/14")  # downloaded from the Hub
        ```

    The layout is recognised by the names of the tensors. Settings that the tensors do not show, such as the activation
    or the number of heads, are read from the `config.json` beside the file. Without one, vitrail assumes the values of
    the published models of the layout; `vitrail inspect` shows them. A folder that `vitrail.save` wrote needs its
    `config.json`. Loading is strict: a missing or an unexpected tensor is an error.

    Each file is opened once. If it is replaced while it is read, the old file is read to its end. It is an error if the
    file is overwritten meanwhile, or if one file of several is replaced.

    **Arguments:**

    - `path`: a safetensors or npz file, the index of a checkpoint in several files (`model.safetensors.index.json`), or
        a folder with one of these. Or a name of [`list_models`][vitrail.list_models], such as `"dinov2-s/14"`, or
        `"hub:owner/name"` for any other repository of the Hugging Face Hub, to download it: see
        [`from_hub`][vitrail.from_hub].
    - `layout`: the name of the layout; `None` to recognise it.
    - `config`: the settings, in place of those beside the file: a configuration, settings as in the library's
        `config.json`, or the path of such a file. Settings that the layout does not read are an error, unless they are
        a whole `config.json`.
    - `prefix`: for a file of several models, the prefix of the tensors of one of them, such as `"teacher.backbone."`.
        The prefix of a single model is found without it. If the rest of the names are vitrail's own, pass the
        configuration too: `prefix="student.", config=model.config`.
    - `part`: `"image"` for only the image model of a system; `None` for all that the file holds. A `ViTConfig` as
        `config`, and each of the arguments from `image_size` to `channels`, also return only the image model.
    - `image_size`, `patch_size`: other sizes, in pixels. What depends on them is resampled, as in `ViT.resized`.
    - `pool`, `head`, `num_classes`: another pool or head, as in `vitrail.replace`. `num_classes=None` removes the head.
    - `channels`, `channel_rule`: another number of channels of the images, and how the weights of the new channels are
        made, as in `vitrail.replace`: as by timm's `in_chans` by default. The mean and the standard deviation of the
        preprocessing change with it.
    - `convert`: whether to convert float64, float16 and bfloat16 to float32. Without it they are an error.
    - `shardings`: how the arrays are divided over devices: a function from the model, with shapes in place of arrays,
        to a tree of shardings, such as `functools.partial(vitrail.train.find_shardings, mesh=mesh)`. Each array is
        divided when it is read, so no device holds the whole model. `None` for one device.
    - `execution`: how the model is computed.
    - `dropout`: what is dropped at random in training.
    - `key`: for new weights, if `pool`, `head` or `num_classes` needs some.

    **Returns:**

    The model: a `ViT`, or the system that the file holds. Its configuration names the parts, so that `vitrail.save` and
    `vitrail.replace` work on it.

    **Raises:** `CheckpointError` if the file is damaged, changes while it is read, has no known layout or does not fit
    it; `UnknownPartError` or `PluginError` if the file names a part that is not installed, with the package that it was
    from; `ValueError` if the arguments do not fit; `OSError` if the file cannot be read; `MissingExtraError` if einops
    is not installed.
    """
    sizes, ending = (image_size, patch_size), (pool, head, num_classes)
    check_channel_rule(channels, channel_rule)
    if sizes != (None, None) or ending != (KEEP, KEEP, KEEP) or channels is not KEEP:
        part = "image"
    model = cast(
        ViT | AbstractSystem,
        read_model(path, layout=layout, config=config, part=part, prefix=prefix, convert=convert, shardings=shardings),
    )
    model = model.with_execution(execution).with_dropout(dropout)
    if not isinstance(model, ViT):
        return model
    if sizes != (None, None):
        model = model.resized(model.config.image_size if image_size is None else image_size, patch_size=patch_size)
    if channels is not KEEP:
        model = replace(model, channels=channels, channel_rule=channel_rule)
    return model if ending == (KEEP, KEEP, KEEP) else _replace_ending(model, pool, head, num_classes, key)


def _replace_ending(
    model: ViT,
    pool: str | PartSpec | PoolFactory | Keep,
    head: str | PartSpec | HeadFactory | Keep,
    num_classes: int | Keep | None,
    key: PRNGKeyArray | None,
) -> ViT:
    """The model with another ending. A class token of the file stays, even if the new pool does not read it."""
    if num_classes is None and head is KEEP:
        head = "none"
    if num_classes is KEEP and head is not KEEP and _has_no_classes(head):
        num_classes = None
    if isinstance(num_classes, int) and head is KEEP and _has_no_classes(model.config.head):
        head = "linear"
    return replace(
        model,
        pool=pool,
        head=head,
        num_classes=num_classes,
        class_token=KEEP if model.backbone.class_token is None else True,
        key=key,
    )


def _has_no_classes(head: str | PartSpec | HeadFactory) -> bool:
    """Whether this is the head without classes, given in any way."""
    return head in ("none", PartSpec("none"), NoHead)
