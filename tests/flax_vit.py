"""The ViT of big_vision and of vision_transformer in Flax linen, whose own numbering gives the published names."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from checkpoint_cases import Arrays, Case, drawn, image_of
from flax.traverse_util import flatten_dict, unflatten_dict

Images = Mapping[tuple[int, int], np.ndarray]


class MlpBlock(nn.Module):
    mlp_dim: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        hidden = nn.gelu(nn.Dense(self.mlp_dim)(x))
        return nn.Dense(x.shape[-1])(hidden)


class Block(nn.Module):
    """A pre-norm block. In the older code all submodules are numbered together, so it names them."""

    mlp_dim: int
    num_heads: int
    old: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        attention, norm2, mlp = (1, 2, 3) if self.old else (0, 1, 0)
        y = nn.LayerNorm(name="LayerNorm_0")(x)
        x = x + nn.MultiHeadDotProductAttention(
            num_heads=self.num_heads, deterministic=True, name=f"MultiHeadDotProductAttention_{attention}"
        )(y, y)
        return x + MlpBlock(self.mlp_dim, name=f"MlpBlock_{mlp}")(nn.LayerNorm(name=f"LayerNorm_{norm2}")(x))


class Transformer(nn.Module):
    depth: int
    mlp_dim: int
    num_heads: int
    old: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        if self.old:
            x = x + AddPosition(name="posembed_input")(x)
        for i in range(self.depth):
            x = Block(self.mlp_dim, self.num_heads, self.old, name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class AddPosition(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return self.param("pos_embedding", nn.initializers.normal(), (1, *x.shape[1:]))


class MAPHead(nn.Module):
    mlp_dim: int
    num_heads: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        probe = self.param("probe", nn.initializers.normal(), (1, 1, x.shape[-1]))
        x = nn.MultiHeadDotProductAttention(num_heads=self.num_heads, deterministic=True)(probe, x)
        return (x + MlpBlock(self.mlp_dim)(nn.LayerNorm()(x)))[:, 0]


class ViT(nn.Module):
    """`pool` is `tok`, `gap` or `map`; `old` is the code of vision_transformer."""

    pool: str
    old: bool = False
    positions: Any = None
    pre_logits: int | None = None
    dim: int = 16
    depth: int = 2
    mlp_dim: int = 24
    num_heads: int = 2
    num_classes: int | None = 5

    @nn.compact
    def __call__(self, image: Any) -> dict[str, Any]:
        x = nn.Conv(self.dim, (4, 4), strides=(4, 4), padding="VALID", name="embedding")(image)
        x = x.reshape(1, -1, self.dim)
        if not self.old:
            x = x + (
                self.param("pos_embedding", nn.initializers.normal(), x.shape)
                if self.positions is None
                else self.positions
            )
        if self.pool == "tok":
            x = jnp.concatenate([self.param("cls", nn.initializers.zeros, (1, 1, self.dim)), x], axis=1)
        x = tokens = Transformer(self.depth, self.mlp_dim, self.num_heads, self.old, name="Transformer")(x)
        x = pooled = {
            "tok": lambda: x[:, 0],
            "gap": lambda: x.mean(1),
            "map": lambda: MAPHead(self.mlp_dim, self.num_heads, name="MAPHead_0")(x),
        }[self.pool]()
        if self.pre_logits is not None:
            x = nn.tanh(nn.Dense(self.pre_logits, name="pre_logits")(x))
        logits = x if self.num_classes is None else nn.Dense(self.num_classes, name="head")(x)
        return {"tokens": tokens[0], "pooled": pooled[0], "logits": logits[0]}


def flat(params: Any) -> dict[str, Any]:
    """Parameters, or their shapes, by the names of an npz."""
    return {"/".join(path): leaf for path, leaf in flatten_dict(params).items()}


def nested(named: dict[str, np.ndarray]) -> Any:
    """The inverse of `flat`."""
    return unflatten_dict({tuple(name.split("/")): array for name, array in named.items()})


def case_of(pool: str, images: Images | None = None, **options: Any) -> Case:
    """A checkpoint of one of them, with random weights, and what it gives for images of some sizes."""
    module = ViT(pool, **options)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    names = {name: tuple(leaf.shape) for name, leaf in flat(shapes).items()}
    params = {name: drawn(name, shape) for name, shape in names.items()}
    found: dict[tuple[int, int], Arrays] = {}
    for size, image in (images or {size: image_of(size) for size in ((16, 16), (20, 32))}).items():
        moved = {
            n: zoomed(a, (size[0] // 4, size[1] // 4)) if n.endswith("pos_embedding") else a for n, a in params.items()
        }
        outputs = module.apply({"params": nested(moved)}, jnp.asarray(image)[None])
        found[size] = {name: np.asarray(value) for name, value in outputs.items()}
    return Case("vision_transformer" if module.old else "big_vision", names, None, found, npz=True)


def zoomed(table: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The 4 x 4 positions for another grid, as both libraries do it when they load; the class token's row stays."""
    prefix, patches = table[0, :-16], table[0, -16:].reshape(4, 4, -1)
    zoom = (grid[0] / 4, grid[1] / 4, 1)
    moved = scipy.ndimage.zoom(patches, zoom, order=1).reshape(grid[0] * grid[1], -1)
    return np.concatenate([prefix, moved])[None]


CASES: dict[str, Callable[..., Case]] = {
    "big_vision tok": functools.partial(case_of, "tok"),
    "big_vision gap": functools.partial(case_of, "gap"),
    "big_vision gap, no head": functools.partial(case_of, "gap", num_classes=None),
    "big_vision map": functools.partial(case_of, "map", num_classes=None),
    "vision_transformer": functools.partial(case_of, "tok", old=True),
    "vision_transformer with pre_logits": functools.partial(case_of, "tok", old=True, pre_logits=8),
}
"""By name, the checkpoints of Google's JAX code, restated in Flax."""
