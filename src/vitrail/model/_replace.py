"""Surgery: other parts on a model that is there."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .._init import INITS, Init
from .._layers import LayerNorm
from .._registry import PartSpec
from ..head import HeadFactory
from ..pool import PoolFactory
from ..position import PositionFactory
from ._backbone import Backbone
from ._parts import make_head, make_pool, make_position, needs_class_token
from ._readout import Readout
from ._vit import ViT


def replace(
    model: ViT,
    *,
    pool: str | PartSpec | PoolFactory | None = None,
    head: str | PartSpec | HeadFactory | None = None,
    position: str | PartSpec | PositionFactory | None = None,
    num_classes: int | Literal["keep"] | None = "keep",
    norm_order: Literal["norm_pool", "pool_norm"] | None = None,
    class_token: bool | Literal["keep"] | None = "keep",
    key: PRNGKeyArray,
) -> ViT:
    """The model with other parts: for a model that is trained, or was loaded.

    !!! example

        ```python
        model = vitrail.replace(model, pool="attention", num_classes=37, key=key)
        ```

    What is not named stays, and its arrays are the same arrays. What follows from a change follows: the head and the
    norm are made anew where their width changes, the head where the number of classes does, and the class token comes
    and goes with the pool that reads it, with its row of the position embedding. Registers stay.

    **Arguments:**

    - `model`: it stays as it is.
    - `pool`, `head`, `position`: the new parts, each as a registered name, a `PartSpec`, a class, or a
        `functools.partial` of one; `None` for those that stay.
    - `num_classes`: how many logits the head returns, `None` for `head="none"`; `"keep"` for as many as before.
    - `norm_order`: whether the final norm acts before or after the pool; `None` for as before. A norm whose width stays
        keeps its weights.
    - `class_token`: whether there is a class token, `None` for one where the pool needs it; `"keep"` for what the
        configuration says. A model that was built with `None` loses a class token that the new pool does not read:
        pass `True` to keep it, as one would for a backbone that learned with it.
    - `key`: for the weights of what is new.

    **Returns:**

    A new `ViT`, whose configuration says what it is now.

    **Raises:** `ValueError` where the new parts do not fit each other, as a pool that reads the class token does not
    fit `class_token=False`, or a head without classes a number of them; and what `ViTConfig.build` raises.
    """
    before = model.config
    config = dataclasses.replace(
        before,
        pool=before.pool if pool is None else pool,
        head=before.head if head is None else head,
        position=before.position if position is None else position,
        num_classes=before.num_classes if num_classes == "keep" else num_classes,
        norm_order=before.norm_order if norm_order is None else norm_order,
        class_token=before.class_token if class_token == "keep" else class_token,
    )
    pool_key, token_key, position_key, head_key = jax.random.split(key, 4)
    readout, backbone = model.readout, model.backbone

    new_pool = readout.pool if pool is None else make_pool(config, key=pool_key)
    has_class_token = needs_class_token(config, new_pool)
    backbone = _with_class_token(backbone, has_class_token, INITS[config.init], key=token_key)
    if position is not None:
        new_position = make_position(config, class_token=has_class_token, key=position_key)
        backbone = dataclasses.replace(backbone, position=new_position)

    old_norm = backbone.norm if readout.norm is None else readout.norm
    norm_first = config.norm_order == "norm_pool"
    width = config.token_dim if norm_first else new_pool.out_dim
    if old_norm is None or old_norm.weight.shape != (width,):
        old_norm = LayerNorm(width, eps=config.norm_eps)
    new_head = readout.head
    if head is not None or config.num_classes != before.num_classes or new_head.dim != new_pool.out_dim:
        new_head = make_head(config, new_pool.out_dim, key=head_key)
    return ViT(
        dataclasses.replace(backbone, norm=old_norm if norm_first else None),
        Readout(new_pool, None if norm_first else old_norm, new_head),
        config,
    )


def _with_class_token(backbone: Backbone, wanted: bool, init: Init, *, key: PRNGKeyArray) -> Backbone:
    """The backbone with a class token and its position, or without."""
    if wanted == (backbone.class_token is not None):
        return backbone
    token = row = None
    if wanted:
        token_key, row_key = jax.random.split(key)
        shape, dtype = (1, backbone.encoder.dim), jnp.dtype(jnp.float32)
        token, row = init.class_token(token_key, shape, dtype)[0], init.position(row_key, shape, dtype)[0]
    position = backbone.position.with_class_token(row)
    return dataclasses.replace(backbone, class_token=token, position=position)
