"""Builds the parts that a configuration names, and puts them together."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .._registry import Registry
from .._spec import PartSpec
from .._tokens import Tokens
from ..dense import READOUTS
from ..encoder import Encoder, Neck, WindowedEncoder, make_windowed_encoder
from ..head import HEADS, AbstractHead, HeadContext
from ..nn import INITS, Dropout, Execution, Norm, make_norm, split_key
from ..patch import PATCHES, PatchContext
from ..pool import POOLS, AbstractPool, PoolContext
from ..position import POSITIONS, AbstractPosition, PositionContext
from ._backbone import Backbone
from ._readout import Readout

if TYPE_CHECKING:
    from ._config import ViTConfig
else:
    ViTConfig = object  # a configuration builds with what is here

_FLOAT32 = jnp.dtype(jnp.float32)
_REGISTRIES: Final[Mapping[str, Registry[Any, Any]]] = MappingProxyType(
    {
        "patch": PATCHES,
        "position": POSITIONS,
        "pool": POOLS,
        "head": HEADS,
        "patch_head": HEADS,
        "readout": READOUTS,
    }
)
"""The registry of the part that a field of a configuration names."""


def make_backbone(
    config: ViTConfig, *, class_token: bool, execution: Execution, dropout: Dropout, key: PRNGKeyArray
) -> Backbone:
    """The backbone of a configuration, with a class token or without."""
    patch_key, class_key, registers_key, position_key, encoder_key, neck_key = split_key(key, 6)
    dim, init = config.size.dim, INITS[config.init]
    context = PatchContext(dim=dim, patch_size=config.patch_size, channels=config.channels, init=init)
    registers = config.num_registers
    return Backbone(
        patch=PATCHES.build(config.patch, context, key=patch_key),
        class_token=init.class_token(class_key, (1, dim), _FLOAT32)[0] if class_token else None,
        registers=init.registers(registers_key, (registers, dim), _FLOAT32) if registers else None,
        position=make_position(config, class_token=class_token, key=position_key),
        encoder=make_encoder(config, key=encoder_key),
        neck=None if config.neck_dim is None else Neck(dim, config.neck_dim, init=init, key=neck_key),
        norm=make_final_norm(config, config.token_dim) if config.norm_order == "norm_pool" else None,
        image_size=config.image_size,
        patch_size=config.patch_size,
        channels=config.channels,
        execution=execution,
        dropout=dropout,
    )


def make_encoder(config: ViTConfig, *, key: PRNGKeyArray) -> Encoder | WindowedEncoder:
    """The encoder of a configuration."""
    size, options, init = config.size, config.encoder, INITS[config.init]
    if config.windows is None:
        return Encoder(size, options=options, init=init, key=key)
    return make_windowed_encoder(size, options=options, windows=config.windows, grid=config.grid, init=init, key=key)


def make_position(config: ViTConfig, *, class_token: bool, key: PRNGKeyArray) -> AbstractPosition:
    """The position embedding of a configuration, for tokens with a class token or without.

    **Raises:** `ValueError` if it acts within attention, and there are windows.
    """
    context = PositionContext(
        dim=config.size.dim,
        grid=config.grid,
        class_token=class_token,
        num_registers=config.num_registers,
        head_dim=config.size.dim // config.size.num_heads,
        num_heads=config.size.num_heads,
        depth=config.size.depth,
        init=INITS[config.init],
    )
    position = POSITIONS.build(config.position, context, key=key)
    if config.windows is not None:

        def act() -> object:
            return position.in_attention(
                Tokens(jnp.zeros((config.grid[0] * config.grid[1], config.size.dim)), config.grid)
            )

        if eqx.filter_eval_shape(act) is not None:
            raise ValueError(
                f"{POSITIONS.describe(config.position)} acts within attention, which windows do not take: use "
                "position='learned', or the windows' own (WindowOptions(relative_grid=...))"
            )
    return position


def make_pool(config: ViTConfig, *, key: PRNGKeyArray) -> AbstractPool:
    """The pool of a configuration."""
    context = PoolContext(dim=config.token_dim, grid=config.grid, init=INITS[config.init])
    return POOLS.build(config.pool, context, key=key)


def needs_class_token(config: ViTConfig, pool: AbstractPool) -> bool:
    """Whether a model with that pool has a class token.

    **Raises:** `ValueError` if the pool reads a class token that the configuration excludes, or windows or a neck would
    get one.
    """
    if pool.needs_class_token and config.class_token is False:
        raise ValueError(
            f"{POOLS.describe(config.pool)} reads the class token, got class_token=False: use class_token=None or "
            "another pool"
        )
    needed = pool.needs_class_token if config.class_token is None else config.class_token
    if needed and (config.windows is not None or config.neck_dim is not None):
        raise ValueError(
            "windows and a neck take patches alone, got a class token: use class_token=None and a pool that does not "
            f"read it, in place of {POOLS.describe(config.pool)} and class_token={config.class_token}"
        )
    return needed


def make_readout(config: ViTConfig, pool: AbstractPool, *, key: PRNGKeyArray) -> Readout:
    """The readout of a configuration with that pool: a norm if it follows the pool, and the head."""
    norm = make_final_norm(config, pool.out_dim) if config.norm_order == "pool_norm" else None
    return Readout(pool, norm, make_head(config, pool.out_dim, key=key))


def make_final_norm(config: ViTConfig, dim: int) -> Norm:
    """The final norm of a configuration, wherever it stands."""
    return make_norm(config.encoder.norm, dim, eps=config.norm_eps)


def make_head(config: ViTConfig, dim: int, *, key: PRNGKeyArray) -> AbstractHead:
    """The head of a configuration, for a pooled vector of width `dim`."""
    context = HeadContext(dim=dim, num_classes=config.num_classes, token_dim=config.token_dim, init=INITS[config.init])
    return HEADS.build(config.head, context, key=key)


def list_plugins(config: object) -> dict[str, str]:
    """The parts of a configuration, and of those in it, that other packages provide.

    **Arguments:**

    - `config`: a configuration of any model.

    **Returns:**

    For each part in words, as `the pool 'mean_std'`, the package and the object in it: what to install where the part
    is missing.
    """
    found = dict[str, str]()
    for field in dataclasses.fields(config) if dataclasses.is_dataclass(config) else ():
        value, registry = getattr(config, field.name), _REGISTRIES.get(field.name)
        if registry is not None and isinstance(value, str | PartSpec):
            name = value if isinstance(value, str) else value.name
            entry = registry.get_entry(name)
            if entry.targets:
                found[f"the {registry.kind} {name!r}"] = f"{entry.origins[-1]} ({entry.targets[-1]})"
        else:
            found |= list_plugins(value)
    return found
