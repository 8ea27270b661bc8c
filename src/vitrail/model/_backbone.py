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
    """Turns an image into `Tokens`: all of a Vision Transformer but its pool and its head.

    It takes one image, or a `PatchedImage` of any shape; batch it with `jax.vmap(backbone)(images)`. `embed` and
    `encode` are its two halves, so that patches can be dropped, masked or replaced between them.
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
        - `class_token`, `registers`: what comes before the patches; `None` for none.
        - `position`: the position embedding.
        - `encoder`: the blocks.
        - `neck`: brings the tokens to another width; `None` for no neck.
        - `norm`: the final norm of the tokens; `None` for none.
        - `image_size`, `patch_size`: heights and widths in pixels.
        - `channels`: of the images.
        - `execution`: how it is computed.
        - `dropout`: what is dropped in training.

        **Raises:** `ValueError` if relative positions meet an attention strategy that does not take them.
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
        """The width of a token as it leaves the backbone."""
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
        """**Arguments:**

        - `image`: one image, `Float[Array, "height width channels"]`, of the backbone's size and channels. It may be a
            NumPy array, and is converted to the compute dtype. Or a `PatchedImage`, of any size and shape.
        - `edit`: functions that replace intermediates of the blocks, by name. Each takes the value and the number of
            the block, and returns the value to go on with:
            `{"mlp_branch": lambda x, layer: jnp.where(layer == 3, 0, x)}` removes the MLP of block 3.
        - `key`: for dropout and stochastic depth; `None` means inference.

        **Returns:**

        The tokens after the encoder and the final norm, in the compute dtype. In a model with `norm_order="pool_norm"`
        the norm belongs to the readout, so these are the tokens before it.

        **Raises:** `ValueError` or `TypeError` if the image does not fit.
        """
        return self.encode(self.embed(image), edit=edit, key=key)

    def embed(self, image: Shaped[Array | np.ndarray, "..."] | PatchedImage) -> Tokens:
        """The first half: makes patch tokens, adds the class token and the registers, then the positions.

        The tokens of a `PatchedImage` have its grid as their `own_grid`, and a mask.

        **Arguments:**

        - `image`: one image, as in a call.

        **Returns:**

        The tokens as the encoder reads them.

        **Raises:** what a call raises.
        """
        return self.place(self.make_tokens(image))

    def make_tokens(self, image: Shaped[Array | np.ndarray, "..."] | PatchedImage) -> Tokens:
        """Makes patch tokens and adds the class token and the registers. They have no positions yet, so that a mask
        token can take the place of some of them.

        **Arguments:**

        - `image`: one image, as in a call.

        **Returns:**

        The tokens for `place`.

        **Raises:** what a call raises.
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

        The tokens as the encoder reads them.

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
        """The second half: the encoder, the neck and the final norm.

        **Arguments:**

        - `tokens`: as `embed` returns them, or a subset of them (`tokens.take(indices)`), or with a mask.
        - `edit`: as in a call.
        - `key`: for dropout and stochastic depth; `None` means inference.

        **Returns:**

        The same tokens after the final norm. What a patch gives where `tokens.mask` is false means nothing.
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
        """Intermediates of the blocks: for dense tasks, and to look inside.

        !!! example

            ```python
            found = model.backbone.activations(image, at=("tokens", "attention_weights"), layers=[2, -1])
            found["tokens"]  # (2, tokens, dim)
            found["attention_weights"]  # (2, heads, tokens, tokens)
            ```

        **Arguments:**

        - `image`: one image, as in a call.
        - `at`: the names of the intermediates.
        - `layers`: the blocks, counted from zero, or from the end if negative; `None` for all. Blocks after the last of
            these do not run.
        - `form`: how tokens are returned: as one `"sequence"` with the class token and the registers first, as
            `"patches"` alone, or as the patches in a `"grid"` of rows and columns.
        - `norm`: whether the final norm is applied to `"tokens"`.
        - `edit`, `key`: as in a call.

        **Returns:**

        The intermediates by name, with a leading axis over `layers`.

        **Raises:** `IndexError` if there is no such block. `ValueError` for a name that no intermediate has, for
        `"attention_weights"` in another form than a sequence, or for `norm` without tokens or without a norm of their
        width; an encoder with windows has no intermediates within the attention. And what a call raises.
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
        """**Arguments:**

        - `image_size`, `patch_size`: the new heights and widths in pixels.

        **Returns:**

        The backbone for these sizes. Each part is resampled by its own rule; all other arrays stay the same.

        **Raises:** `ValueError` if the image does not divide into patches, or a part has no rule.
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
