"""Surgery: other parts on a model that is there."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._init import INITS
from .._layers import LayerNorm
from .._registry import PartSpec
from ..head import HeadFactory
from ..pool import PoolFactory
from ..position import AbstractPosition, PositionFactory
from ._parts import make_head, make_pool, make_position, wants_class_token
from ._vit import ViT, ViTConfig


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
    pool_key, prefix_key, position_key, head_key = jax.random.split(key, 4)
    init = INITS[config.init]

    new_pool, new_norm, new_head = model.pool, model.norm, model.head
    if pool is not None:
        new_pool = make_pool(config.pool, config.token_dim, grid=config.grid, init=init, key=pool_key)
    class_token = wants_class_token(config.class_token, new_pool, config.pool)
    prefix, new_position = _fit_class_token(model, config, class_token, key=prefix_key)
    if position is not None:
        new_position = make_position(
            config.position,
            config.size,
            grid=config.grid,
            num_prefix=prefix.shape[0],
            has_class_token=class_token,
            init=init,
            key=position_key,
        )
    if new_norm.weight.shape != (config.norm_width(new_pool),):
        new_norm = LayerNorm(config.norm_width(new_pool), eps=config.norm_eps)
    if head is not None or config.num_classes != before.num_classes or new_head.dim != new_pool.out_dim:
        new_head = make_head(config.head, new_pool.out_dim, num_classes=config.num_classes, init=init, key=head_key)
    return dataclasses.replace(
        model, prefix=prefix, position=new_position, norm=new_norm, pool=new_pool, head=new_head, config=config
    )


def _fit_class_token(
    model: ViT, config: ViTConfig, wanted: bool, *, key: PRNGKeyArray
) -> tuple[Float[Array, "prefix dim"], AbstractPosition]:
    """The prefix tokens and the position embedding, with a class token put before them or taken away."""
    has_class_token = model.prefix.shape[0] > config.num_registers
    if wanted == has_class_token:
        return model.prefix, model.position
    if not wanted:
        return model.prefix[1:], model.position.with_class_token(None)
    token_key, row_key = jax.random.split(key)
    init, shape, dtype = INITS[config.init], (1, config.size.dim), jnp.dtype(jnp.float32)
    prefix = jnp.concatenate([init.class_token(token_key, shape, dtype), model.prefix])
    return prefix, model.position.with_class_token(init.position(row_key, shape, dtype)[0])
