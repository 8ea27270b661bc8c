"""equimo's ViT."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from cases import CLASSES, EPS, PATCH, Case, block_weights
from equimo.vision.models.vit import VisionTransformer
from program import Program, equinox_program, in_dtype

DISTRIBUTIONS = ("equimo", "equinox", "jax", "optax")


def build(case: Case, weights: dict[str, Any] | None) -> Program:
    model = VisionTransformer(
        img_size=case.image,
        in_channels=3,
        dim=case.dim,
        patch_size=PATCH,
        num_heads=case.num_heads,
        depths=[case.depth],
        class_token=False,
        reg_tokens=0,
        global_pos_embed_cls=False,
        act_layer="exactgelu",
        global_pool="avg",
        num_classes=CLASSES,
        eps=EPS,
        key=jax.random.key(0),
    )
    if weights is not None:
        model = with_weights(model, weights)
    key = jax.random.key(1)

    def apply(model: Any, image: Any) -> Any:
        return in_dtype(model, case.dtype)(image.astype(case.dtype), key=key, inference=case.mode == "forward")

    return equinox_program(case, model, apply, channels_first=True)


def with_weights(model: Any, weights: dict[str, Any]) -> Any:
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    depth = sum(1 for name in weights if name.endswith("norm1.weight"))
    arrays = [weights["pos_embed"]]
    for name in ("patch_embed.proj", "norm", "head"):
        arrays += [weights[f"{name}.weight"], weights[f"{name}.bias"]]
    for i in range(depth):
        block = block_weights(weights, i)
        arrays += [block[f"{name}.{kind}"] for name in layers for kind in ("weight", "bias")]

    def leaves(model: Any) -> list[Any]:
        found: list[Any] = [model.patch_embed.proj, model.norm, model.head]
        for block in (block for chunk in model.blocks for block in chunk.blocks):
            attention, mlp = block.attn, block.mlp
            found += [block.prenorm, attention.qkv, attention.proj, block.norm, mlp.fc1, mlp.fc2]
        return [model.global_pos_embed.weight, *(array for layer in found for array in (layer.weight, layer.bias))]

    shaped = [jnp.asarray(a).reshape(leaf.shape) for a, leaf in zip(arrays, leaves(model), strict=True)]
    return eqx.tree_at(leaves, model, shaped)
