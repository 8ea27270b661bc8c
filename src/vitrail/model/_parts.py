"""The parts that a configuration names, with fresh weights, each checked for being one."""

from jaxtyping import PRNGKeyArray

from .._init import Init
from .._registry import PartSpec
from ..encoder import EncoderSize
from ..head import HEADS, AbstractHead, HeadFactory
from ..patch import PATCHES, AbstractPatchEmbed, PatchFactory
from ..pool import POOLS, AbstractPool, PoolFactory
from ..position import POSITIONS, AbstractPosition, PositionFactory


def make_patch(
    spec: str | PartSpec | PatchFactory,
    dim: int,
    *,
    patch_size: tuple[int, int],
    channels: int,
    init: Init,
    key: PRNGKeyArray,
) -> AbstractPatchEmbed:
    """The patch embedding."""
    patch = PATCHES.resolve(spec)(dim, patch_size=patch_size, channels=channels, init=init, key=key)
    PATCHES.check(patch, spec)
    return patch


def make_position(
    spec: str | PartSpec | PositionFactory,
    size: EncoderSize,
    *,
    grid: tuple[int, int],
    num_prefix: int,
    has_class_token: bool,
    init: Init,
    key: PRNGKeyArray,
) -> AbstractPosition:
    """The position embedding."""
    head_dim = size.dim // size.num_heads
    factory = POSITIONS.resolve(spec, has_class_token=has_class_token)
    position = factory(size.dim, grid=grid, num_prefix=num_prefix, head_dim=head_dim, init=init, key=key)
    POSITIONS.check(position, spec)
    return position


def make_pool(
    spec: str | PartSpec | PoolFactory, dim: int, *, grid: tuple[int, int], init: Init, key: PRNGKeyArray
) -> AbstractPool:
    """The pool."""
    pool = POOLS.resolve(spec, grid=grid, init=init)(dim, key=key)
    POOLS.check(pool, spec)
    return pool


def make_head(
    spec: str | PartSpec | HeadFactory, dim: int, *, num_classes: int | None, init: Init, key: PRNGKeyArray
) -> AbstractHead:
    """The head, for what a pool of `dim` gives."""
    head = HEADS.resolve(spec)(dim, num_classes=num_classes, init=init, key=key)
    HEADS.check(head, spec)
    return head


def wants_class_token(asked: bool | None, pool: AbstractPool, spec: str | PartSpec | PoolFactory) -> bool:
    """Whether a model with that pool has a class token; a `ValueError` where what was asked for does not agree."""
    if pool.needs_class_token and asked is False:
        raise ValueError(
            f"class_token must not be False for the pool {spec!r}, which reads the class token: make it None, "
            "for a class token where the pool needs one, or take another pool"
        )
    return pool.needs_class_token if asked is None else asked
