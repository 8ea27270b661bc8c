"""A ViT in Flax NNX."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import CLASSES, EPS, PATCH, Case
from flax import nnx
from program import Program, adamw, cross_entropy, jax_program

from contenders.flax_linen import renamed

DISTRIBUTIONS = ("flax", "jax", "optax")


class Block(nnx.Module):
    def __init__(self, case: Case, rngs: nnx.Rngs):
        dim, dtype = case.dim, jnp.dtype(case.dtype)
        self.norm1 = nnx.LayerNorm(dim, epsilon=EPS, dtype=dtype, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            case.num_heads, dim, decode=False, deterministic=True, dtype=dtype, rngs=rngs
        )
        self.norm2 = nnx.LayerNorm(dim, epsilon=EPS, dtype=dtype, rngs=rngs)
        self.fc1 = nnx.Linear(dim, 4 * dim, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(4 * dim, dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(nnx.gelu(self.fc1(self.norm2(x)), approximate=False))


class ViT(nnx.Module):
    def __init__(self, case: Case, rngs: nnx.Rngs):
        dim, dtype, patch = case.dim, jnp.dtype(case.dtype), (PATCH, PATCH)
        self.embedding = nnx.Conv(3, dim, patch, strides=patch, padding="VALID", dtype=dtype, rngs=rngs)
        self.position = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, case.patches, dim)))
        self.blocks = nnx.List([Block(case, rngs) for _ in range(case.depth)])
        self.norm = nnx.LayerNorm(dim, epsilon=EPS, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(dim, CLASSES, dtype=dtype, rngs=rngs)

    def __call__(self, images: Any) -> Any:
        x = self.embedding(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = x + self.position[...].astype(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(axis=1))


def build(case: Case, weights: dict[str, Any] | None) -> Program:
    model = ViT(case, nnx.Rngs(0))
    if weights is not None:
        copy_weights(model, renamed(weights, case))

    @nnx.jit
    def forward(model: ViT, images: Any) -> Any:
        return model(images)

    @functools.partial(nnx.jit, donate_argnums=(0, 1))
    def update(model: ViT, optimiser: Any, images: Any, labels: Any) -> Any:
        loss, gradient = nnx.value_and_grad(lambda model: cross_entropy(model(images), labels))(model)
        optimiser.update(model, gradient)
        return loss

    if case.mode == "forward":
        classify = nnx.cached_partial(forward, model)
        return jax_program(case, model, lambda model, images: classify(images), update, None)
    optimiser = nnx.Optimizer(model, adamw(), wrt=nnx.Param)
    cached = nnx.cached_partial(update, model, optimiser)

    def step(model: ViT, optimiser: Any, images: Any, labels: Any) -> tuple[Any, Any, Any]:
        loss = cached(images, labels)  # which changes both in place
        return model, optimiser, jax.block_until_ready((loss, nnx.state(model)))[0]

    return jax_program(case, model, forward, step, optimiser)


def copy_weights(model: ViT, params: dict[str, Any]) -> None:
    def copy(module: Any, named: dict[str, np.ndarray]) -> None:
        for name, array in named.items():
            getattr(module, name)[...] = jnp.asarray(array)

    copy(model.embedding, params["embedding"])
    model.position[...] = jnp.asarray(params["pos_embedding"])
    copy(model.norm, params["encoder_norm"])
    copy(model.head, params["head"])
    for i, block in enumerate(model.blocks):
        named = params[f"encoderblock_{i}"]
        copy(block.norm1, named["LayerNorm_0"])
        copy(block.norm2, named["LayerNorm_1"])
        copy(block.fc1, named["Dense_0"])
        copy(block.fc2, named["Dense_1"])
        for part in ("query", "key", "value", "out"):
            copy(getattr(block.attention, part), named["MultiHeadDotProductAttention_0"][part])
