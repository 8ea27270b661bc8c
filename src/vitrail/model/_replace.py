"""Surgery: replaces parts of a model."""

import dataclasses
from typing import Any, Protocol, TypeVar, overload, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import describe_value, join_names, list_first
from .._keep import KEEP, Keep
from .._spec import PartSpec
from .._typecheck import CallError
from ..dense import DenseReadoutFactory
from ..head import HeadFactory
from ..images import Preprocess
from ..nn import INITS, Init, keep_rows, list_arrays, split_key, to_jax
from ..pool import PoolFactory
from ..position import PositionFactory
from ._backbone import Backbone
from ._channels import ChannelRule, change_channels, check_channel_rule
from ._config import NormOrder
from ._parts import make_final_norm, make_head, make_pool, make_position, needs_class_token
from ._readout import Readout
from ._vit import ViT

_R = TypeVar("_R", bound="HasDenseReadout")


@runtime_checkable
class HasDenseReadout(Protocol):
    """A model whose dense readout can be replaced."""

    def replaced(
        self: _R,
        *,
        readout: str | PartSpec | DenseReadoutFactory | Keep = KEEP,
        num_classes: int | Keep | None = KEEP,
        classes: tuple[str, ...] | Keep | None = KEEP,
        preprocess: Preprocess | Keep | None = KEEP,
        key: PRNGKeyArray | None = None,
    ) -> _R:
        """The model with another dense readout."""
        ...


@overload
def replace(
    model: ViT,
    *,
    pool: str | PartSpec | PoolFactory | Keep = KEEP,
    head: str | PartSpec | HeadFactory | Keep = KEEP,
    position: str | PartSpec | PositionFactory | Keep = KEEP,
    num_classes: int | Keep | None = KEEP,
    classes: tuple[str, ...] | Keep | None = KEEP,
    preprocess: Preprocess | Keep | None = KEEP,
    norm_order: NormOrder | Keep = KEEP,
    class_token: bool | Keep | None = KEEP,
    num_registers: int | Keep = KEEP,
    channels: int | Keep = KEEP,
    channel_rule: ChannelRule = "repeat",
    key: PRNGKeyArray | None = None,
) -> ViT: ...
@overload
def replace(
    model: _R,
    *,
    readout: str | PartSpec | DenseReadoutFactory | Keep = KEEP,
    num_classes: int | Keep | None = KEEP,
    classes: tuple[str, ...] | Keep | None = KEEP,
    preprocess: Preprocess | Keep | None = KEEP,
    key: PRNGKeyArray | None = None,
) -> _R: ...
def replace(
    model: Any,
    *,
    pool: str | PartSpec | PoolFactory | Keep = KEEP,
    head: str | PartSpec | HeadFactory | Keep = KEEP,
    readout: str | PartSpec | DenseReadoutFactory | Keep = KEEP,
    position: str | PartSpec | PositionFactory | Keep = KEEP,
    num_classes: int | Keep | None = KEEP,
    classes: tuple[str, ...] | Keep | None = KEEP,
    preprocess: Preprocess | Keep | None = KEEP,
    norm_order: NormOrder | Keep = KEEP,
    class_token: bool | Keep | None = KEEP,
    num_registers: int | Keep = KEEP,
    channels: int | Keep = KEEP,
    channel_rule: ChannelRule = "repeat",
    key: PRNGKeyArray | None = None,
) -> Any:
    """Replaces parts of a trained or loaded model.

    !!! example

        ```python
        model = vitrail.replace(model, pool="attention", num_classes=37, key=key)
        dense = vitrail.replace(dense, readout="dpt", num_classes=150, key=key)
        model = vitrail.replace(model, channels=4)  # red, green, blue and near infrared
        model = vitrail.replace(model, num_registers=4, key=key)
        ```

    The parts that you do not name keep their arrays, with these exceptions. The head is new if its width or the number
    of classes changes. The final norm is new if its width changes. The class token, with its row of the position
    embedding, is added if the new pool needs one, and may be removed: see `class_token`.

    **Arguments:**

    - `model`: a `ViT`, or a `Dense`, in which `readout`, `num_classes`, `classes` and `preprocess` can be replaced. It
        does not change.
    - `pool`, `head`, `position`: the new parts, each as a registered name, a `PartSpec`, a class, or a
        `functools.partial` of one.
    - `readout`: the new dense readout of a `Dense`, given in the same way. The readout is also new if the number of
        classes changes.
    - `num_classes`: the number of logits; `None` for `head="none"` and for a map of depth.
    - `classes`: the names of the classes; `None` if they are not known. If the number of classes changes, the old names
        are dropped.
    - `preprocess`: how pictures are prepared for the model; `None` if that is not known.
    - `norm_order`: `"norm_pool"`, `"pool_norm"` or `"none"`, as for [`vit`][vitrail.vit]. The norm keeps its weights if
        its width does not change.
    - `class_token`: whether there is a class token; `None` to have one only if the pool needs it. A model that was
        built with `None` loses its class token if the new pool does not read it. Pass `True` to keep the class token of
        a backbone that was trained with one.
    - `num_registers`: the number of registers. The first registers are kept. New ones are drawn after them, with rows
        of the position embedding if it has rows for registers. New registers change what the model computes, so train
        the model again.
    - `channels`: the number of channels of the images. The mean and the deviation of `preprocess` follow, unless
        `preprocess` is given.
    - `channel_rule`: how the weights of the new channels are made:
        - `"repeat"`: the weights of the old channels are repeated in turn and scaled by the old number over the new
          one; for a single channel they are summed. These are the numbers of timm's `in_chans`.
        - `"average"`: each old channel is the mean of the new ones.
        - `"zero"`: the first channels are the old ones, and the weights of the others are zero.
    - `key`: the random key of new weights. It may be left out if no weights are new.

    **Returns:**

    A new model of the same kind. Its configuration describes the new parts.

    **Raises:** `ValueError` if the new parts do not fit each other (for instance a pool that reads the class token and
    `class_token=False`), if there are new weights and no key, if the model does not have such a part, or if
    `channel_rule="zero"` would drop channels; `TypeError` if the model is not a `ViT` or a `Dense`; and what
    `ViTConfig.build` raises.
    """
    of_a_vit: dict[str, object] = {
        "pool": pool,
        "head": head,
        "position": position,
        "norm_order": norm_order,
        "class_token": class_token,
        "num_registers": num_registers,
        "channels": channels,
    }
    if isinstance(model, HasDenseReadout):
        if given := [name for name, value in of_a_vit.items() if value is not KEEP]:
            raise ValueError(
                f"a {type(model).__name__} has no {join_names(given)} to replace, but its image model has: make it of "
                "vitrail.replace(model.image, ...) with vitrail.make_dense"
            )
        return model.replaced(readout=readout, num_classes=num_classes, classes=classes, preprocess=preprocess, key=key)
    if not isinstance(model, ViT):
        raise CallError(
            f"model must be a ViT or a Dense, got {describe_value(model)}: pass one that was built or loaded, as the "
            "image model of a system, model.image"
        )
    if readout is not KEEP:
        raise ValueError("a ViT has no dense readout to replace: put one on it with vitrail.make_dense(model, readout)")
    check_channel_rule(channels, channel_rule)
    if channels is not KEEP:
        model = change_channels(model, channels, channel_rule)
    return _replace_parts(
        model,
        pool=pool,
        head=head,
        position=position,
        num_classes=num_classes,
        classes=classes,
        preprocess=preprocess,
        norm_order=norm_order,
        class_token=class_token,
        num_registers=num_registers,
        key=key,
    )


def _replace_parts(
    model: ViT,
    *,
    pool: str | PartSpec | PoolFactory | Keep,
    head: str | PartSpec | HeadFactory | Keep,
    position: str | PartSpec | PositionFactory | Keep,
    num_classes: int | Keep | None,
    classes: tuple[str, ...] | Keep | None,
    preprocess: Preprocess | Keep | None,
    norm_order: NormOrder | Keep,
    class_token: bool | Keep | None,
    num_registers: int | Keep,
    key: PRNGKeyArray | None,
) -> ViT:
    model = to_jax(model)
    if num_registers is not KEEP and num_registers < model.config.num_registers:
        model = _drop_registers(model, num_registers)
    before = model.config
    if classes is KEEP and num_classes not in (KEEP, before.num_classes):
        classes = None
    config = dataclasses.replace(
        before,
        pool=before.pool if pool is KEEP else pool,
        head=before.head if head is KEEP else head,
        position=before.position if position is KEEP else position,
        num_classes=before.num_classes if num_classes is KEEP else num_classes,
        classes=before.classes if classes is KEEP else classes,
        preprocess=before.preprocess if preprocess is KEEP else preprocess,
        norm_order=before.norm_order if norm_order is KEEP else norm_order,
        class_token=before.class_token if class_token is KEEP else class_token,
        num_registers=before.num_registers if num_registers is KEEP else num_registers,
    )
    changed = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(before, f.name)}
    if changed <= {"classes", "preprocess"} and pool is KEEP and head is KEEP and position is KEEP:
        return dataclasses.replace(model, config=config)
    keys = split_key(jax.random.key(0) if key is None else key, 5)
    pool_key, token_key, position_key, head_key, registers_key = keys
    readout, backbone, init = model.readout, model.backbone, INITS[config.init]

    new_pool = readout.pool if pool is KEEP else make_pool(config, key=pool_key)
    has_class_token = needs_class_token(config, new_pool)
    backbone = _with_class_token(backbone, has_class_token, init, key=token_key)
    if (added := config.num_registers - before.num_registers) > 0:
        backbone = _add_registers(backbone, added, init, key=registers_key)
    if position is not KEEP:
        new_position = make_position(config, class_token=has_class_token, key=position_key)
        backbone = dataclasses.replace(backbone, position=new_position)

    old_norm = backbone.norm if readout.norm is None else readout.norm
    width = config.token_dim if config.norm_order == "norm_pool" else new_pool.out_dim
    if old_norm is None or old_norm.weight.shape != (width,):
        old_norm = make_final_norm(config, width)
    new_head = readout.head
    if head is not KEEP or config.num_classes != before.num_classes or new_head.dim != new_pool.out_dim:
        new_head = make_head(config, new_pool.out_dim, key=head_key)
    replaced = ViT(
        dataclasses.replace(backbone, norm=old_norm if config.norm_order == "norm_pool" else None),
        Readout(new_pool, old_norm if config.norm_order == "pool_norm" else None, new_head),
        config,
    )
    if key is None:
        _check_no_new_arrays(model, replaced)
    return replaced


def _check_no_new_arrays(old: ViT, new: ViT) -> None:
    """Raises a `ValueError` that names the arrays of a model that are not those of another."""
    known = {id(array) for array in list_arrays(old).values()}
    if fresh := [name for name, array in list_arrays(new).items() if id(array) not in known]:
        raise ValueError(
            "vitrail.load() and vitrail.replace() need a key for new weights, got None for "
            f"{list_first(list(map(repr, fresh)), 3)}: pass key=jax.random.key(0), or keep the parts that have these"
        )


def _with_class_token(backbone: Backbone, wanted: bool, init: Init, *, key: PRNGKeyArray) -> Backbone:
    """The backbone with a class token and its position, or without."""
    if wanted == (backbone.class_token is not None):
        return backbone
    token = row = None
    if wanted:
        token_key, row_key = split_key(key)
        shape, dtype = (1, backbone.encoder.dim), jnp.dtype(jnp.float32)
        token, row = init.class_token(token_key, shape, dtype)[0], init.position(row_key, shape, dtype)[0]
    position = backbone.position.with_class_token(row)
    return dataclasses.replace(backbone, class_token=token, position=position)


def _add_registers(backbone: Backbone, number: int, init: Init, *, key: PRNGKeyArray) -> Backbone:
    """The backbone with new registers after those that it has, and their positions."""
    tokens_key, rows_key = split_key(key)
    shape, dtype = (number, backbone.encoder.dim), jnp.dtype(jnp.float32)
    tokens, rows = init.registers(tokens_key, shape, dtype), init.position(rows_key, shape, dtype)
    return _with_registers(backbone, tokens, rows, kept=backbone.num_registers)


def _drop_registers(model: ViT, kept: int) -> ViT:
    """The model with its first registers alone, and their positions."""
    config = dataclasses.replace(model.config, num_registers=kept)
    return dataclasses.replace(model, backbone=_with_registers(model.backbone, None, None, kept=kept), config=config)


def _with_registers(
    backbone: Backbone,
    tokens: Float[Array, "added dim"] | None,
    rows: Float[Array, "added dim"] | None,
    *,
    kept: int,
) -> Backbone:
    """The backbone with its first registers, and these with their positions after them."""
    registers = keep_rows(backbone.registers, tokens, kept=kept)
    return dataclasses.replace(
        backbone, registers=registers, position=backbone.position.with_registers(rows, kept=kept)
    )
