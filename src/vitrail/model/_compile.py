"""A model made ready for inference."""

from collections.abc import Callable
from typing import Any, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from ._vit import ViT


@final
class CompiledViT:
    """A model whose parameters were taken apart once, for many calls on small batches.

    `eqx.filter_jit` looks through the whole model at each call, to see what in it is an array. Here that is done when
    the model is made ready. It is inference: nothing is dropped.

    The arrays are the model's own, save those of the blocks of an encoder with `scan=False`: they are copied out of the
    stack, so that no call has to. A training step that gives up the model's buffers (`donate="all"`) takes them from
    this too: make a new one of the model that comes out.
    """

    def __init__(self, model: ViT):
        """**Arguments:**

        - `model`: whose logits are wanted.
        """
        scan = model.backbone.encoder.options.scan
        apart = model if scan else eqx.tree_at(_stack, model, list(model.backbone.encoder.blocks))
        arrays, static = cast(tuple[Any, Any], eqx.partition(apart, eqx.is_array))
        self._arrays, structure = cast(tuple[list[Array], Any], jax.tree.flatten(arrays))

        def run(arrays: list[Array], images: Any) -> Array:
            ready: Any = eqx.combine(jax.tree.unflatten(structure, arrays), static)
            if not scan:  # XLA takes each block's arrays as they came, and stacks none
                ready = eqx.tree_at(_stack, ready, jax.tree.map(_stacked, *ready.backbone.encoder.stack))
            return cast(Array, jax.vmap(ready)(images))

        self._run: Callable[[list[Array], Any], Array] = jax.jit(run)

    def __call__(self, images: Shaped[Array | np.ndarray, "..."]) -> Float[Array, "batch *tokens classes"]:
        """**Arguments:**

        - `images`: `Float[Array, "batch height width channels"]`, any number of images as the model wants them. Each
            number, and each dtype, is compiled once.

        **Returns:**

        What the model gives for each.

        **Raises:** `ValueError` or `TypeError` where the images do not fit; both say how to mend it.
        """
        if images.ndim != 4:
            raise ValueError(
                f"images must have four axes (batch, height, width, channels), but the shape {images.shape} came: a "
                "single image goes in as images[None]"
            )
        return self._run(self._arrays, images)


def _stack(model: ViT) -> Any:
    return model.backbone.encoder.stack


def _stacked(*leaves: Float[Array, "..."]) -> Float[Array, "depth ..."]:
    return jnp.stack(leaves)


def compile(model: ViT) -> CompiledViT:
    """A model made ready for inference on batches of images, with little to do in Python at each call.

    !!! example

        ```python
        classify = vitrail.compile(model)
        logits = classify(images)  # (batch, classes)
        ```

    **Arguments:**

    - `model`: whose logits are wanted.

    **Returns:**

    A function of images, `Float[Array, "batch height width channels"]`, that gives what `jax.vmap(model)` does. It is
    compiled at the first call with a number of images. Of an encoder with `scan=False` it holds the blocks a second
    time, apart from each other, which is faster for large models on a CPU.
    """
    return CompiledViT(model)
