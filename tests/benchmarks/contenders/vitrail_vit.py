"""vitrail, with the options that its page on speed advises."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from cases import CLASSES, PATCH, Case, block_weights
from program import Program, equinox_program

import vitrail

DISTRIBUTIONS = ("vitrail", "jax", "equinox", "optax")


def build(case: Case, weights: dict[str, Any] | None) -> Program:
    size = vitrail.EncoderSize(case.dim, case.depth, case.num_heads, 4 * case.dim)
    gpu, forward = jax.default_backend() == "gpu", case.mode == "forward"
    fused = gpu and case.dtype == "bfloat16" and case.batch * case.patches > 196
    execution = vitrail.Execution(
        compute_dtype=case.dtype,
        scan=forward if gpu else not (forward and case.size == "B"),
        attention="cudnn" if fused else "auto",
    )
    config = vitrail.ViTConfig(
        image_size=(case.image, case.image),
        patch_size=(PATCH, PATCH),
        size=size,
        num_classes=CLASSES,
    )
    model = config.build(execution=execution, key=jax.random.key(0))
    if weights is not None:
        model = with_weights(model, weights)
    program = equinox_program(case, model, lambda model, image: model(image))
    if not forward:
        return program
    classify = vitrail.compile(model)
    return program._replace(run=lambda placed: jax.block_until_ready(classify(placed[0])))


def with_weights(model: Any, weights: dict[str, Any]) -> Any:
    def parts(model: Any) -> list[Any]:
        block = model.backbone.encoder.stack
        linear = (block.attention.qkv, block.attention.project, block.mlp.hidden, block.mlp.out)
        layers = (
            model.backbone.patch,
            *linear,
            block.norm1,
            block.norm2,
            model.backbone.norm,
            model.readout.head.linear,
        )
        return [model.backbone.position.patches, *(array for layer in layers for array in (layer.weight, layer.bias))]

    blocks = [block_weights(weights, i) for i in range(model.config.size.depth)]
    names = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "norm1", "norm2")
    stacked = [jnp.stack([block[f"{n}.{kind}"] for block in blocks]) for n in names for kind in ("weight", "bias")]
    patch, norm, head = (
        [jnp.asarray(weights[f"{name}.{kind}"]) for kind in ("weight", "bias")]
        for name in ("patch_embed.proj", "norm", "head")
    )
    position = jnp.asarray(weights["pos_embed"]).reshape(model.backbone.position.patches.shape)
    return eqx.tree_at(parts, model, [position, *patch, *stacked, *norm, *head])
