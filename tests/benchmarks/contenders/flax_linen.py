"""A ViT in Flax linen, in the style of big_vision: compact modules, `nn.MultiHeadDotProductAttention`."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import CLASSES, EPS, PATCH, Case, block_weights
from program import Program, adamw, cross_entropy, jax_program

DISTRIBUTIONS = ("flax", "jax", "optax")


class Block(nn.Module):
    num_heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        dim = x.shape[-1]
        y = nn.LayerNorm(epsilon=EPS, dtype=self.dtype)(x)
        x = x + nn.MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype, deterministic=True)(y, y)
        y = nn.Dense(4 * dim, dtype=self.dtype)(nn.LayerNorm(epsilon=EPS, dtype=self.dtype)(x))
        return x + nn.Dense(dim, dtype=self.dtype)(nn.gelu(y, approximate=False))


class ViT(nn.Module):
    dim: int
    depth: int
    num_heads: int
    dtype: Any

    @nn.compact
    def __call__(self, images: Any) -> Any:
        patch = (PATCH, PATCH)
        x = nn.Conv(self.dim, patch, strides=patch, padding="VALID", dtype=self.dtype, name="embedding")(images)
        x = x.reshape(x.shape[0], -1, self.dim)
        x = x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, *x.shape[1:])).astype(self.dtype)
        for i in range(self.depth):
            x = Block(self.num_heads, self.dtype, name=f"encoderblock_{i}")(x)
        x = nn.LayerNorm(epsilon=EPS, dtype=self.dtype, name="encoder_norm")(x)
        return nn.Dense(CLASSES, dtype=self.dtype, name="head")(x.mean(axis=1))


def build(case: Case, weights: dict[str, Any] | None) -> Program:
    module = ViT(case.dim, case.depth, case.num_heads, jnp.dtype(case.dtype))
    if weights is None:
        init = jax.jit(module.init)
        params = init(jax.random.key(0), jnp.zeros((1, case.image, case.image, 3)))["params"]
    else:
        params = jax.tree.map(jnp.asarray, renamed(weights, case))
    optimiser = adamw()

    def logits_of(params: Any, images: Any) -> Any:
        return module.apply({"params": params}, images)

    def step(params: Any, state: Any, images: Any, labels: Any) -> tuple[Any, Any, Any]:
        loss, gradient = jax.value_and_grad(lambda p: cross_entropy(logits_of(p, images), labels))(params)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = optimiser.init(params) if case.mode == "train" else None
    return jax_program(case, params, jax.jit(logits_of), jax.jit(step, donate_argnums=(0, 1)), state)


def renamed(weights: dict[str, np.ndarray], case: Case) -> dict[str, Any]:
    """The weights as Flax nests and lays them out."""
    heads = (case.num_heads, case.dim // case.num_heads)

    def norm(name: str, named: Any) -> dict[str, Any]:
        return {"scale": named[f"{name}.weight"], "bias": named[f"{name}.bias"]}

    def dense(name: str, named: Any) -> dict[str, Any]:
        return {"kernel": named[f"{name}.weight"].T, "bias": named[f"{name}.bias"]}

    kernel = weights["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    params: dict[str, Any] = {
        "embedding": {"kernel": kernel, "bias": weights["patch_embed.proj.bias"]},
        "pos_embedding": weights["pos_embed"],
        "encoder_norm": norm("norm", weights),
        "head": dense("head", weights),
    }
    for i in range(case.depth):
        block = block_weights(weights, i)
        kernels, biases = np.split(block["attn.qkv.weight"], 3), np.split(block["attn.qkv.bias"], 3)
        attention: dict[str, Any] = {
            name: {"kernel": k.T.reshape(case.dim, *heads), "bias": b.reshape(heads)}
            for name, k, b in zip(("query", "key", "value"), kernels, biases, strict=True)
        }
        out = block["attn.proj.weight"].T.reshape(*heads, case.dim)
        attention["out"] = {"kernel": out, "bias": block["attn.proj.bias"]}
        params[f"encoderblock_{i}"] = {
            "LayerNorm_0": norm("norm1", block),
            "MultiHeadDotProductAttention_0": attention,
            "LayerNorm_1": norm("norm2", block),
            "Dense_0": dense("mlp.fc1", block),
            "Dense_1": dense("mlp.fc2", block),
        }
    return params
