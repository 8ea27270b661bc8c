"""A model made ready for inference."""

from collections.abc import Callable
from typing import Any, cast, final

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from ._vit import ViT


@final
class CompiledViT:
    """A model whose parameters were taken apart once, for many calls on small batches.

    `eqx.filter_jit` looks through the whole model at each call, to see what in it is an array. Here that is done when
    the model is made ready. It is inference: nothing is dropped, and the parameters stay as they were then.
    """

    def __init__(self, model: ViT):
        """**Arguments:**

        - `model`: whose logits are wanted.
        """
        arrays, static = cast(tuple[Any, Any], eqx.partition(model, eqx.is_array))
        self._arrays, structure = cast(tuple[list[Array], Any], jax.tree.flatten(arrays))

        def run(arrays: list[Array], images: Any) -> Array:
            ready: Any = eqx.combine(jax.tree.unflatten(structure, arrays), static)
            return cast(Array, jax.vmap(ready)(images))

        self._run: Callable[[list[Array], Any], Array] = jax.jit(run)

    def __call__(
        self, images: Shaped[Array | np.ndarray, "batch height width channels"]
    ) -> Float[Array, "batch *tokens classes"]:
        """**Arguments:**

        - `images`: any number of images as the model wants them. Each number is compiled once.

        **Returns:**

        What the model gives for each.

        **Raises:** what calling the model raises.
        """
        return self._run(self._arrays, images)


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
    compiled at the first call with a number of images.
    """
    return CompiledViT(model)
