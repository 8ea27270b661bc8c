"""Compiles a model for inference."""

from collections.abc import Callable
from typing import Any, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from .._patched import PatchedImage
from ._vit import ViT


@final
class CompiledViT:
    """A model compiled for inference on batches of images. [`vitrail.compile`][vitrail.compile] makes it.

    A call has less work in Python than with `eqx.filter_jit`, which looks for the arrays of the model at every call.

    It shares the arrays of the model, except under `Execution(scan=False)`, where the arrays of the blocks are copied.
    A training step that donates the buffers of the model (`donate="all"`) makes it invalid: compile the model that
    the step returns.
    """

    def __init__(self, model: ViT):
        """**Arguments:**

        - `model`: the model.
        """
        self._config = model.config
        scan = model.backbone.execution.scan
        apart = model if scan else eqx.tree_at(_stack_of, model, list(model.backbone.encoder.blocks))
        arrays, static = cast(tuple[Any, Any], eqx.partition(apart, eqx.is_array))
        self._arrays, structure = cast(tuple[list[Array], Any], jax.tree.flatten(arrays))

        def run(arrays: list[Array], images: Any) -> Array:
            ready: Any = eqx.combine(jax.tree.unflatten(structure, arrays), static)
            if not scan:  # XLA reads the arrays of each block where they are, and stacks none
                ready = eqx.tree_at(_stack_of, ready, jax.tree.map(_stack_leaves, *ready.backbone.encoder.stack))
            return cast(Array, jax.vmap(ready)(images))

        self._run: Callable[[list[Array], Any], Array] = jax.jit(run)

    def __repr__(self) -> str:
        height, width = self._config.image_size
        return f"<CompiledViT: batches of images of {height} x {width} x {self._config.channels}>"

    def __call__(
        self, images: Shaped[Array | np.ndarray, "..."] | PatchedImage
    ) -> Float[Array, "batch *tokens classes"]:
        """Computes the logits of a batch of images.

        **Arguments:**

        - `images`: a batch, `Float[Array, "batch height width channels"]`, or the `PatchedImage` that `pack` returns.
            Each batch size and dtype is compiled once.

        **Returns:**

        What the model returns for each image, in float32: `(batch, classes)`.

        **Raises:** `ValueError` or `TypeError` if the images do not fit the model.
        """
        if not isinstance(images, PatchedImage) and images.ndim != 4:
            raise ValueError(
                f"images must have shape (batch, height, width, channels), got {images.shape}: pass a single image as "
                "images[None]"
            )
        return self._run(self._arrays, images)


def _stack_of(model: ViT) -> Any:
    return model.backbone.encoder.stack


def _stack_leaves(*leaves: Float[Array, "..."]) -> Float[Array, "depth ..."]:
    return jnp.stack(leaves)


def compile(model: ViT) -> CompiledViT:
    """Compiles a model for inference on batches of images, with little work in Python at each call.

    !!! example

        ```python
        classify = vitrail.compile(model)
        logits = classify(images)  # (batch, classes)
        ```

    **Arguments:**

    - `model`: the model.

    **Returns:**

    A function of a batch of images, `Float[Array, "batch height width channels"]`, that returns what `jax.vmap(model)`
    returns. The first call with each batch size compiles. Under `Execution(scan=False)` it holds a second copy of the
    blocks, which is faster for large models on a CPU.
    """
    return CompiledViT(model)
