"""The backbone: an image becomes tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from .._check import check_divisible, check_image
from .._layers import LayerNorm, to_dtype
from .._tokens import Tokens
from ..encoder import Blocks, Encoder, Neck
from ..patch import AbstractPatchEmbed
from ..position import AbstractPosition


@final
class Backbone(eqx.Module):
    """Turns an image into `Tokens`: all of a Vision Transformer but its pool and its head.

    It takes one image; batch it with `jax.vmap(backbone)(images)`. `embed` and `encode` are its two halves, so that
    patches can be dropped, masked or replaced between them.
    """

    patch: AbstractPatchEmbed
    class_token: Float[Array, " dim"] | None
    registers: Float[Array, "registers dim"] | None
    position: AbstractPosition
    encoder: Encoder
    neck: Neck | None
    norm: LayerNorm | None
    image_size: tuple[int, int] = eqx.field(static=True)
    patch_size: tuple[int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)
    compute_dtype: Literal["float32", "bfloat16"] = eqx.field(static=True)

    def __init__(
        self,
        *,
        patch: AbstractPatchEmbed,
        class_token: Float[Array, " dim"] | None,
        registers: Float[Array, "registers dim"] | None,
        position: AbstractPosition,
        encoder: Encoder,
        neck: Neck | None,
        norm: LayerNorm | None,
        image_size: tuple[int, int],
        patch_size: tuple[int, int],
        channels: int,
        compute_dtype: Literal["float32", "bfloat16"] = "float32",
    ):
        """**Arguments:**

        - `patch`: the patch embedding.
        - `class_token`, `registers`: what comes before the patches; `None` for none.
        - `position`: the position embedding.
        - `encoder`: the blocks.
        - `neck`: brings the tokens to another width; `None` for no neck.
        - `norm`: the final norm of the tokens; `None` for none.
        - `image_size`, `patch_size`: heights and widths in pixels.
        - `channels`: of the images.
        - `compute_dtype`: the dtype to compute in.
        """
        self.patch = patch
        self.class_token = class_token
        self.registers = registers
        self.position = position
        self.encoder = encoder
        self.neck = neck
        self.norm = norm
        self.image_size = image_size
        self.patch_size = patch_size
        self.channels = channels
        self.compute_dtype = compute_dtype

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def num_registers(self) -> int:
        """The number of registers."""
        return 0 if self.registers is None else self.registers.shape[0]

    @property
    def num_prefix(self) -> int:
        """The number of tokens before the patches: the class token and the registers."""
        return int(self.class_token is not None) + self.num_registers

    @property
    def dim(self) -> int:
        """The width of a token as it leaves the backbone."""
        return self.encoder.dim if self.neck is None else self.neck.dim

    @property
    def blocks(self) -> Blocks:
        """The blocks one by one: `backbone.blocks[3]`, `len(backbone.blocks)`, a `for` loop."""
        return self.encoder.blocks

    def __call__(self, image: Shaped[Array | np.ndarray, "..."], *, key: PRNGKeyArray | None = None) -> Tokens:
        """**Arguments:**

        - `image`: one image, `Float[Array, "height width channels"]`, of the backbone's size and channels; a NumPy
            array will do. It is converted to `compute_dtype`.
        - `key`: for dropout and stochastic depth; `None` means inference.

        **Returns:**

        The tokens after the encoder and the final norm, in the compute dtype. In a model with `norm_order="pool_norm"`
        the norm belongs to the readout, so these are the tokens before it.

        **Raises:** `ValueError` or `TypeError` if the image does not fit.
        """
        return self.encode(self.embed(image), key=key)

    def embed(self, image: Shaped[Array | np.ndarray, "..."]) -> Tokens:
        """The first half: cuts the image into patch tokens, adds class token and registers, then the positions.

        **Arguments:**

        - `image`: one image, as in a call.

        **Returns:**

        The tokens as the encoder reads them.

        **Raises:** what a call raises.
        """
        check_image(image, self.image_size, self.channels)
        dtype = jnp.dtype(self.compute_dtype)
        patch, class_token, registers, position = to_dtype(
            (self.patch, self.class_token, self.registers, self.position), dtype
        )
        grid = patch(jnp.asarray(image, dtype))
        if grid.shape != (*self.grid, self.encoder.dim):
            raise ValueError(
                f"the patch embedding {type(self.patch).__name__} must return (rows, cols, dim) = "
                f"{(*self.grid, self.encoder.dim)}, got shape {grid.shape}: fix that class"
            )
        tokens = Tokens(grid.reshape(-1, self.encoder.dim), self.grid, class_token=class_token, registers=registers)
        placed = position(tokens)
        if jax.tree.structure(placed) != jax.tree.structure(tokens) or placed.sequence.shape != tokens.sequence.shape:
            raise ValueError(
                f"the position embedding {type(self.position).__name__} must return as many tokens as it gets, got "
                f"{placed} for {tokens}: fix that class, for instance with dataclasses.replace(tokens, patches=...)"
            )
        return placed

    def encode(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Tokens:
        """The second half: the encoder, the neck and the final norm.

        **Arguments:**

        - `tokens`: as `embed` returns them, or a subset of them (`tokens.take(indices)`), or with a mask.
        - `key`: for dropout and stochastic depth; `None` means inference.

        **Returns:**

        The same tokens after the final norm. What a patch gives where `tokens.mask` is false means nothing.
        """
        encoded = self.encoder(
            tokens.sequence,
            mask=tokens.sequence_mask,
            rotation=self.position.rotation(tokens),
            grid=tokens.grid,
            key=key,
        )
        tokens = tokens.with_sequence(encoded)
        if self.neck is not None:
            tokens = to_dtype(self.neck, jnp.dtype(self.compute_dtype))(tokens)
        return tokens if self.norm is None else tokens.map(self.norm)

    def features(
        self, image: Shaped[Array | np.ndarray, "..."], *, layers: Sequence[int]
    ) -> tuple[Float[Array, "rows cols dim"], ...]:
        """The patch tokens after some of the blocks, as grids: for dense tasks and for looking inside.

        **Arguments:**

        - `image`: one image, as in a call.
        - `layers`: which blocks, counted from 0, or from the end if negative: `layers=[2, 5, 8, -1]`.

        **Returns:**

        One grid for each of `layers`, in that order, as it leaves the block, without the final norm.

        **Raises:** `IndexError` if there is no such block, and what a call raises.
        """
        depth = len(self.blocks)
        for layer in layers:
            if not -depth <= layer < depth:
                raise IndexError(f"layers must be in [-{depth}, {depth}), got {layer}: there are {depth} blocks")
        tokens = self.embed(image)
        rotation = self.position.rotation(tokens)
        outputs = self.encoder.outputs(tokens.sequence, rotation=rotation, grid=tokens.grid)
        return tuple(tokens.with_sequence(outputs[layer]).patch_grid for layer in layers)

    def attention(self, image: Shaped[Array | np.ndarray, "..."]) -> Float[Array, "depth heads tokens tokens"]:
        """How much each token takes from each, in every block and head.

        **Arguments:**

        - `image`: one image, as in a call.

        **Returns:**

        The attention weights in float32: rows are queries and sum to one, columns are keys; class token and registers
        come first.

        **Raises:** `ValueError` if the encoder has windows, and what a call raises.
        """
        tokens = self.embed(image)
        return self.encoder.attention(tokens.sequence, rotation=self.position.rotation(tokens))

    def resized(self, image_size: tuple[int, int], patch_size: tuple[int, int]) -> "Backbone":
        """**Arguments:**

        - `image_size`, `patch_size`: the new heights and widths in pixels.

        **Returns:**

        The backbone for these sizes: patch embedding and position embedding are resampled by their own rules, all else
        is the same arrays.

        **Raises:** `ValueError` if the image does not divide into patches, or a part has no rule.
        """
        check_divisible("image_size", image_size, patch_size)
        resized = dataclasses.replace(self, image_size=image_size, patch_size=patch_size)
        return dataclasses.replace(
            resized,
            patch=self.patch if patch_size == self.patch_size else self.patch.resized(patch_size),
            position=self.position.resized(resized.grid),
        )
