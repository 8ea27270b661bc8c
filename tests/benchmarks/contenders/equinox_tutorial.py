"""A ViT as Equinox's documentation writes one: `eqx.nn` layers, `jax.vmap` over tokens, the blocks in a list."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from cases import CLASSES, EPS, PATCH, Case, block_weights
from program import Program, equinox_program, in_dtype

DISTRIBUTIONS = ("equinox", "jax", "optax")


class Block(eqx.Module):
    norm1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.nn.LayerNorm
    fc1: eqx.nn.Linear
    fc2: eqx.nn.Linear

    def __init__(self, dim: int, num_heads: int, key: Any):
        keys = jax.random.split(key, 3)
        self.norm1 = eqx.nn.LayerNorm(dim, eps=EPS)
        self.attention = eqx.nn.MultiheadAttention(
            num_heads,
            dim,
            use_query_bias=True,
            use_key_bias=True,
            use_value_bias=True,
            use_output_bias=True,
            key=keys[0],
        )
        self.norm2 = eqx.nn.LayerNorm(dim, eps=EPS)
        self.fc1 = eqx.nn.Linear(dim, 4 * dim, key=keys[1])
        self.fc2 = eqx.nn.Linear(4 * dim, dim, key=keys[2])

    def __call__(self, x: Any) -> Any:
        y = jax.vmap(self.norm1)(x)
        x = x + self.attention(y, y, y)
        y = jax.vmap(self.fc1)(jax.vmap(self.norm2)(x))
        return x + jax.vmap(self.fc2)(jax.nn.gelu(y, approximate=False))


class ViT(eqx.Module):
    patch: eqx.nn.Conv2d
    position: Any
    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, case: Case, key: Any):
        patch_key, position_key, head_key, *keys = jax.random.split(key, 3 + case.depth)
        self.patch = eqx.nn.Conv2d(3, case.dim, PATCH, PATCH, key=patch_key)
        self.position = 0.02 * jax.random.normal(position_key, (case.patches, case.dim))
        self.blocks = [Block(case.dim, case.num_heads, key) for key in keys]
        self.norm = eqx.nn.LayerNorm(case.dim, eps=EPS)
        self.head = eqx.nn.Linear(case.dim, CLASSES, key=head_key)

    def __call__(self, image: Any) -> Any:
        x = self.patch(image)
        x = x.reshape(x.shape[0], -1).T + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(jax.vmap(self.norm)(x), axis=0))


def build(case: Case, weights: dict[str, Any] | None) -> Program:
    model = ViT(case, jax.random.key(0))
    if weights is not None:
        model = with_weights(model, weights)

    def apply(model: ViT, image: Any) -> Any:
        return in_dtype(model, case.dtype)(image.astype(case.dtype))

    return equinox_program(case, model, apply, channels_first=True)


def with_weights(model: ViT, weights: dict[str, Any]) -> ViT:
    arrays = [weights["pos_embed"][0]]
    for name in ("patch_embed.proj", "norm", "head"):
        arrays += [weights[f"{name}.weight"], weights[f"{name}.bias"]]
    for i in range(len(model.blocks)):
        block = block_weights(weights, i)
        queries, biases = jnp.split(block["attn.qkv.weight"], 3), jnp.split(block["attn.qkv.bias"], 3)
        arrays += [array for pair in zip(queries, biases, strict=True) for array in pair]
        for name in ("attn.proj", "norm1", "norm2", "mlp.fc1", "mlp.fc2"):
            arrays += [block[f"{name}.weight"], block[f"{name}.bias"]]

    def leaves(model: ViT) -> list[Any]:
        layers: list[Any] = [model.patch, model.norm, model.head]
        for block in model.blocks:
            attention = block.attention
            layers += [attention.query_proj, attention.key_proj, attention.value_proj, attention.output_proj]
            layers += [block.norm1, block.norm2, block.fc1, block.fc2]
        return [model.position, *(array for layer in layers for array in (layer.weight, layer.bias))]

    shaped = [jnp.asarray(a).reshape(leaf.shape) for a, leaf in zip(arrays, leaves(model), strict=True)]
    return eqx.tree_at(leaves, model, shaped)
