"""A training step of vitrail's masked autoencoder."""

from typing import Any

import jax
import jax.numpy as jnp
from cases import DECODER_DEPTH, DECODER_DIM, DECODER_HEADS, PATCH, Case
from program import Program, equinox_program

import vitrail

DISTRIBUTIONS = ("vitrail", "jax", "equinox", "optax")


def build(case: Case, weights: dict[str, Any] | None) -> Program:
    assert weights is None
    assert case.mode == "mae"
    size = vitrail.EncoderSize(case.dim, case.depth, case.num_heads, 4 * case.dim)
    image = vitrail.ViTConfig(
        image_size=(case.image, case.image),
        patch_size=(PATCH, PATCH),
        size=size,
        position=vitrail.POSITIONS.configure("sincos2d", rule="mae"),
        pool="cls",
        head="none",
    )
    decoder = vitrail.EncoderSize(DECODER_DIM, DECODER_DEPTH, DECODER_HEADS, 4 * DECODER_DIM)
    execution = vitrail.Execution(compute_dtype=case.dtype)
    model = vitrail.MAEConfig(image=image, decoder=decoder).build(execution=execution, key=jax.random.key(0))

    def lose(model: Any, images: Any, labels: Any) -> Any:
        keys = jax.random.split(jax.random.key(labels[0]), case.batch)
        return jnp.mean(jax.vmap(lambda image, key: model.reconstruct(image, key=key).loss)(images, keys))

    return equinox_program(case, model, lambda model, image: model(image), lose=lose)
