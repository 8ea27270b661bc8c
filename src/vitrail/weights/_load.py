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

    A file holds a `ViT`, or a system with one in its field `image`, as CLIP's two towers or MAE with its decoder. What
    a file holds is known once it is open, so annotate the result for a type checker.

    !!! example

        ```python
        model: vitrail.ViT = vitrail.load("model.safetensors")
        model = vitrail.load("model.safetensors", pool="mean", num_classes=10, key=key)  # always a ViT
        model = vitrail.load("clip", part="image")  # the image tower of CLIP, a ViT
        model = vitrail.load("dinov2-s/14")  # downloaded from the Hub
        ```

    The names of the tensors tell the layout. What tensors do not tell, as the activation or the number of heads, is
    read from the `config.json` beside the file. Without one, vitrail assumes what the published models of the layout
    have; `vitrail inspect` shows it. A folder that `vitrail.save` wrote needs its `config.json`. Each tensor is used,
    or the layout says why the model does not need it. Each array of the model gets the numbers of the file.

    Each file is opened once. If another one takes its place meanwhile, the first is read to its end. It is an error if
    the file itself is overwritten, or if one of several is replaced: several files of tensors, or tensors and the
    settings beside them.

    **Arguments:**

    - `path`: a safetensors or npz file, the index of a checkpoint in several files (`model.safetensors.index.json`), or
        a folder with one of these. A text that is none of these can be a name of
        [`list_models`][vitrail.list_models], as `"dinov2-s/14"`, or `"hub:owner/name"` for any other repository of the
        Hugging Face Hub: [`from_hub`][vitrail.from_hub] says what is downloaded, and what can go wrong.
    - `layout`: the name of the layout; `None` to recognise it.
    - `config`: what the checkpoint is, in place of the settings beside the file: a configuration, of a `ViT` or of the
        system, settings as in the library's `config.json`, or the path of such a file. Settings that the layout does
        not read are an error, unless they are a whole `config.json`.
    - `prefix`: what the names of the tensors begin with, as `"teacher.backbone."`, in a file that has several models.
        The prefix of a single model is found without it. Where the names after it are vitrail's own, pass the
        configuration too: `prefix="student.", config=model.config`.
    - `part`: `"image"` for the image model of a system alone; `None` for all that the file holds. The image model is
        also what one of the next six arguments or a `ViTConfig` asks for.
    - `image_size`, `patch_size`: the sizes for the model to read. What depends on them is resampled, as in
        `ViT.resized`.
    - `pool`, `head`, `num_classes`: how the model ends, as in `vitrail.replace`. `num_classes=None` removes the head.
    - `channels`, `channel_rule`: the number of channels of the images, and what new ones are taken for, as in
        `vitrail.replace`: timm's `in_chans` by default. The mean and the deviation of the preprocessing follow.
    - `convert`: whether to convert float64, float16 and bfloat16 to float32. Without it they are an error.
    - `shardings`: returns how the arrays of the model are divided over devices, a tree of shardings for the model with
        shapes in place of its arrays, as `functools.partial(vitrail.train.find_shardings, mesh=mesh)` does. Each array
        is divided when it is read, so that no device holds the whole model. `None` for one device.
    - `execution`: how the model is computed.
    - `dropout`: what is dropped at random in training.
    - `key`: for new weights, which `pool`, `head` or `num_classes` can ask for.

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
