"""The parts that a configuration names, with fresh weights, and what they are assembled to."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .._init import INITS
from .._layers import LayerNorm
from ..encoder import Encoder, Neck
from ..head import HEADS, AbstractHead
from ..patch import PATCHES
from ..pool import POOLS, AbstractPool
from ..position import POSITIONS, AbstractPosition
from ._backbone import Backbone
from ._readout import Readout

if TYPE_CHECKING:
    from ._config import ViTConfig
else:
    ViTConfig = object  # a configuration builds with what is here

_FLOAT32 = jnp.dtype(jnp.float32)


def make_backbone(config: ViTConfig, *, class_token: bool, key: PRNGKeyArray) -> Backbone:
    """The backbone of a configuration, with a class token or without."""
    patch_key, class_key, registers_key, position_key, encoder_key, neck_key = jax.random.split(key, 6)
    dim, init = config.size.dim, INITS[config.init]
    patch = PATCHES.resolve(config.patch)(
        dim, patch_size=config.patch_size, channels=config.channels, init=init, key=patch_key
    )
    PATCHES.check(patch, config.patch)
    norm_first = config.norm_order == "norm_pool"
    registers = config.num_registers
    return Backbone(
        patch=patch,
        class_token=init.class_token(class_key, (1, dim), _FLOAT32)[0] if class_token else None,
        registers=init.registers(registers_key, (registers, dim), _FLOAT32) if registers else None,
        position=make_position(config, class_token=class_token, key=position_key),
        encoder=Encoder(config.size, options=config.encoder, init=init, key=encoder_key),
        neck=None if config.neck_dim is None else Neck(dim, config.neck_dim, init=init, key=neck_key),
        norm=LayerNorm(config.token_dim, eps=config.norm_eps) if norm_first else None,
        image_size=config.image_size,
        patch_size=config.patch_size,
        channels=config.channels,
        compute_dtype=config.compute_dtype,
    )


def make_position(config: ViTConfig, *, class_token: bool, key: PRNGKeyArray) -> AbstractPosition:
    """The position embedding of a configuration, for tokens with a class token or without."""
    position = POSITIONS.resolve(config.position)(
        config.size.dim,
        grid=config.grid,
        class_token=class_token,
        num_registers=config.num_registers,
        head_dim=config.size.dim // config.size.num_heads,
        init=INITS[config.init],
        key=key,
    )
    POSITIONS.check(position, config.position)
    return position


def make_pool(config: ViTConfig, *, key: PRNGKeyArray) -> AbstractPool:
    """The pool of a configuration."""
    factory = POOLS.resolve(config.pool, grid=config.grid, init=INITS[config.init])
    pool = factory(config.token_dim, key=key)
    POOLS.check(pool, config.pool)
    return pool


def needs_class_token(config: ViTConfig, pool: AbstractPool) -> bool:
    """Whether a model with that pool has a class token; a `ValueError` if the configuration denies one that the pool
    reads."""
    if pool.needs_class_token and config.class_token is False:
        raise ValueError(
            f"the pool {config.pool!r} reads the class token, got class_token=False: pass class_token=None, or use "
            "another pool"
        )
    return pool.needs_class_token if config.class_token is None else config.class_token


def make_readout(config: ViTConfig, pool: AbstractPool, *, key: PRNGKeyArray) -> Readout:
    """The readout of a configuration, with that pool: a norm if it comes after the pool, and the head."""
    norm = LayerNorm(pool.out_dim, eps=config.norm_eps) if config.norm_order == "pool_norm" else None
    return Readout(pool, norm, make_head(config, pool.out_dim, key=key))


def make_head(config: ViTConfig, dim: int, *, key: PRNGKeyArray) -> AbstractHead:
    """The head of a configuration, for a pooled vector of width `dim`."""
    factory = HEADS.resolve(config.head, token_dim=config.token_dim)
    head = factory(dim, num_classes=config.num_classes, init=INITS[config.init], key=key)
    HEADS.check(head, config.head)
    return head
