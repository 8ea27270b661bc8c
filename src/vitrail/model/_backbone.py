"""The backbone: from an image to tokens."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from .._check import check_divisible, describe_value
from .._patched import PatchedImage
from .._tokens import Tokens
from ..encoder import Blocks, Encoder, Neck, WindowedEncoder
from ..nn import Dropout, Edit, Execution, Intermediate, Norm, ParameterKinds, to_dtype, to_jax
from ..patch import AbstractPatchEmbed
from ..position import AbstractPosition
from ._embed import embed_image, embed_patches


@final
class Backbone(eqx.Module):
    """Turns an image into `Tokens`: a Vision Transformer without its pool and its head.

    It takes one image, or a `PatchedImage` of any shape. Batch it with `jax.vmap(backbone)(images)`. A call is
    `encode(embed(image))`. Call both yourself to drop, mask or replace patches between them.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"class_token": "token", "registers": "token"}

    patch: AbstractPatchEmbed
    class_token: Float[Array, " dim"] | None
    registers: Float[Array, "registers dim"] | None
    position: AbstractPosition
    encoder: Encoder | WindowedEncoder
    neck: Neck | None
    norm: Norm | None
    image_size: tuple[int, int] = eqx.field(static=True)
    patch_size: tuple[int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)
    execution: Execution = eqx.field(static=True)
    dropout: Dropout = eqx.field(static=True)

    def __init__(
        self,
        *,
        patch: AbstractPatchEmbed,
        class_token: Float[Array, " dim"] | None,
        registers: Float[Array, "registers dim"] | None,
        position: AbstractPosition,
        encoder: Encoder | WindowedEncoder,
        neck: Neck | None,
        norm: Norm | None,
        image_size: tuple[int, int],
        patch_size: tuple[int, int],
        channels: int,
        execution: Execution = Execution(),
        dropout: Dropout = Dropout(),
    ):
        """**Arguments:**

        - `patch`: the patch embedding.
        - `class_token`, `registers`: the tokens before the patches; `None` for none.
        - `position`: the position embedding.
        - `encoder`: the blocks.
        - `neck`: changes the width of the tokens after the blocks; `None` for no neck.
        - `norm`: the final norm of the tokens; `None` for none.
        - `image_size`, `patch_size`: heights and widths in pixels.
        - `channels`: the number of channels of the images.
        - `execution`: how the backbone is computed.
        - `dropout`: what is dropped in training.

        **Raises:** `ValueError` if `execution.attention` does not support relative positions and the encoder has them.
        """
        relative = isinstance(encoder, WindowedEncoder) and encoder.windows.relative_grid is not None
        if relative and execution.attention not in ("auto", "plain"):
            raise ValueError(
                f"attention={execution.attention!r} cannot compute relative positions, whose table is as large as the "
                "scores: use Execution(attention='plain')"
            )
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
        self.execution = execution
        self.dropout = dropout

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
        """The width of the tokens that the backbone returns."""
        return self.encoder.dim if self.neck is None else self.neck.dim

    @property
    def blocks(self) -> Blocks:
        """The blocks one by one: `backbone.blocks[3]`, `len(backbone.blocks)`, a `for` loop."""
        return self.encoder.blocks

    def __call__(
        self,
        image: Shaped[Array | np.ndarray, "..."] | PatchedImage,
        *,
        edit: Mapping[Intermediate, Edit] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Tokens:
        """Computes the tokens of an image.

        **Arguments:**

        - `image`: one image, `Float[Array, "height width channels"]`, of the size and channels of the backbone, in JAX
            or NumPy. It is converted to the compute dtype. Or a `PatchedImage` of any size and shape.
        - `edit`: functions that replace intermediates of the blocks, by name. A function gets the value and the index
            of the block, and returns a value of the same shape:
            `{"mlp_branch": lambda x, layer: jnp.where(layer == 3, 0, x)}` removes the MLP of block 3.
        - `key`: for dropout and stochastic depth; `None` means inference.

        **Returns:**

        The tokens after the encoder and the final norm, in the compute dtype. In a model with `norm_order="pool_norm"`
        the norm is part of the readout, and the tokens are not normalised.

        **Raises:** `ValueError` or `TypeError` if the image does not fit.
        """
        return self.encode(self.embed(image), edit=edit, key=key)

    def embed(self, image: Shaped[Array | np.ndarray, "..."] | PatchedImage) -> Tokens:
        """Computes the tokens that the encoder reads: patch tokens, class token and registers, with positions.

        It is `place(make_tokens(image))`. The tokens of a `PatchedImage` have its grid as `own_grid`, and a mask.

        **Arguments:**

        - `image`: one image, as for `__call__`.

        **Returns:**

        The tokens, for `encode`.

        **Raises:** what `__call__` raises.
        """
        return self.place(self.make_tokens(image))

    def make_tokens(self, image: Shaped[Array | np.ndarray, "..."] | PatchedImage) -> Tokens:
        """Makes patch tokens, class token and registers, without positions. Use it to replace some patch tokens with a
        mask token before the positions are added.

        **Arguments:**

        - `image`: one image, as for `__call__`.

        **Returns:**

        The tokens, for `place`.

        **Raises:** what `__call__` raises.
        """
        dtype = jnp.dtype(self.execution.compute_dtype)
        patch, class_token, registers = to_dtype((self.patch, self.class_token, self.registers), dtype)
        if isinstance(image, PatchedImage):
            own_grid, mask = image.grid, image.mask
            patches = embed_patches(
                patch, image, patch_size=self.patch_size, channels=self.channels, dim=self.encoder.dim, dtype=dtype
            )
        else:
            own_grid, mask = None, None
            patches = embed_image(
                patch,
                image,
                image_size=self.image_size,
                grid=self.grid,
                channels=self.channels,
                dim=self.encoder.dim,
                dtype=dtype,
            )
        return Tokens(patches, self.grid, class_token=class_token, registers=registers, mask=mask, own_grid=own_grid)

    def place(self, tokens: Tokens) -> Tokens:
        """Adds the positions to tokens.

        **Arguments:**

        - `tokens`: as `make_tokens` returns them.

        **Returns:**

        The tokens, for `encode`.

        **Raises:** `ValueError` if the position embedding does not fit the tokens.
        """
        position = to_dtype(self.position, jnp.dtype(self.execution.compute_dtype))
        placed = position(tokens)
        structures = [cast(object, jax.tree.structure(tree)) for tree in (placed, tokens)]
        if structures[0] != structures[1] or jax.typeof(placed.sequence) != jax.typeof(tokens.sequence):
            raise ValueError(
                f"the position embedding {type(self.position).__name__} must return as many tokens as it gets, in "
                f"their dtype, got {describe_value(placed)} for {describe_value(tokens)}: fix that class, for "
                "instance with dataclasses.replace(tokens, patches=...)"
            )
        return placed

    def encode(
        self,
        tokens: Tokens,
        *,
        edit: Mapping[Intermediate, Edit] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Tokens:
        """Applies the encoder, the neck and the final norm.

        **Arguments:**

        - `tokens`: the tokens that `embed` returns, or a subset of them (`tokens.take(indices)`), or with a mask.
        - `edit`: as for `__call__`.
        - `key`: for dropout and stochastic depth; `None` means inference.

        **Returns:**

        The tokens after the final norm. Ignore the patch tokens where `tokens.mask` is false.
        """
        encoded = self.encoder(
            tokens.sequence,
            mask=tokens.sequence_mask,
            position=self.position.in_attention(tokens),
            execution=self.execution,
            dropout=self.dropout,
            edit=edit,
            key=key,
        )
        tokens = tokens.with_sequence(encoded)
        if self.neck is not None:
            tokens = to_dtype(self.neck, jnp.dtype(self.execution.compute_dtype))(tokens)
        return tokens if self.norm is None else tokens.map(self.norm)

    def activations(
        self,
        image: Shaped[Array | np.ndarray, "..."] | PatchedImage,
        *,
        at: Sequence[Intermediate] = ("tokens",),
        layers: Sequence[int] | None = None,
        form: Literal["sequence", "patches", "grid"] = "sequence",
        norm: bool = False,
        edit: Mapping[Intermediate, Edit] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[Intermediate, Float[Array, "layers ..."]]:
        """Returns intermediates of the blocks, for dense tasks and to look inside a model.

        !!! example

            ```python
            found = model.backbone.activations(image, at=("tokens", "attention_weights"), layers=[2, -1])
            found["tokens"]  # (2, tokens, dim)
            found["attention_weights"]  # (2, heads, tokens, tokens)
            ```

        **Arguments:**

        - `image`: one image, as for `__call__`.
        - `at`: the names of the intermediates: see [`INTERMEDIATES`][vitrail.INTERMEDIATES].
        - `layers`: the blocks, counted from zero, or from the end if negative; `None` for all. Blocks after the last of
            these are not computed.
        - `form`: the shape of tokens: `"sequence"` for class token, registers and patches in one axis; `"patches"` for
            the patches alone; `"grid"` for the patches by row and column.
        - `norm`: whether the final norm is applied to `"tokens"`.
        - `edit`, `key`: as for `__call__`.

        **Returns:**

        The intermediates by name. Each array has a leading axis over `layers`.

        **Raises:** `IndexError` if there is no such block; `ValueError` for an unknown name, for `"attention_weights"`
        with another form than `"sequence"`, for `norm=True` without `"tokens"` or in a backbone without a final norm or
        with a neck, and for an intermediate within the attention of an encoder with windows; and what `__call__`
        raises.
        """
        self._check_activations(at, form, norm)
        if form == "grid" and isinstance(image, PatchedImage):
            raise ValueError("form must be 'sequence' or 'patches' for a PatchedImage, whose grid is data, got 'grid'")
        tokens = self.embed(image)
        recorded = self.encoder.activations(
            tokens.sequence,
            at=at,
            layers=layers,
            mask=tokens.sequence_mask,
            position=self.position.in_attention(tokens),
            execution=self.execution,
            dropout=self.dropout,
            edit=edit,
            key=key,
        )
        if norm and self.norm is not None:
            recorded["tokens"] = self.norm(recorded["tokens"])
        if form == "sequence":
            return recorded
        for name, value in recorded.items():
            patches = value[..., tokens.num_prefix :, :]
            rows_cols = tokens.grid if form == "grid" else (patches.shape[-2],)
            recorded[name] = patches.reshape(*patches.shape[:-2], *rows_cols, patches.shape[-1])
        return recorded

    def _check_activations(self, at: Sequence[Intermediate], form: str, norm: bool) -> None:
        if "attention_weights" in at and form != "sequence":
            raise ValueError(
                f"form must be 'sequence' for 'attention_weights', which have two axes of tokens, got {form!r}: get "
                "them by another call"
            )
        if norm and ("tokens" not in at or self.norm is None or self.neck is not None):
            raise ValueError(
                "norm=True needs 'tokens' in at, and a backbone with a final norm and without a neck, got "
                f"at={tuple(at)}, {'a' if self.norm else 'no'} norm and {'a' if self.neck else 'no'} neck: use "
                "norm=False"
            )

    def resized(self, image_size: tuple[int, int], patch_size: tuple[int, int]) -> "Backbone":
        """Resamples the arrays that depend on the size of images or patches. All other arrays stay the same.

        **Arguments:**

        - `image_size`, `patch_size`: the new heights and widths in pixels.

        **Returns:**

        The backbone for these sizes. Each part is resampled by its own rule.

        **Raises:** `ValueError` if the image does not divide into patches, or if a part cannot be resized.
        """
        check_divisible("image_size", image_size, patch_size)
        old = to_jax(self)
        new = dataclasses.replace(old, image_size=image_size, patch_size=patch_size)
        return dataclasses.replace(
            new,
            patch=old.patch if patch_size == old.patch_size else old.patch.resized(patch_size),
            position=old.position.resized(new.grid),
            encoder=old.encoder.resized(new.grid) if isinstance(old.encoder, WindowedEncoder) else old.encoder,
        )
