"""The Vision Transformer: a configuration, and the parts that it names assembled into one forward pass."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from .._check import check_divisible, check_heads, check_image, check_positive
from .._init import INITS, InitName
from .._layers import LayerNorm, split_key, to_dtype
from .._registry import PartSpec
from .._tokens import Tokens
from ..encoder import NECK_EPS, Blocks, Encoder, EncoderOptions, EncoderSize, Neck
from ..head import AbstractHead, HeadFactory
from ..patch import AbstractPatchEmbed, PatchFactory
from ..pool import AbstractPool, PoolFactory
from ..position import AbstractPosition, PositionFactory
from ._json import from_json, to_json
from ._parts import make_head, make_patch, make_pool, make_position, wants_class_token
from ._preprocess import Preprocess


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Everything that says which Vision Transformer to build: names and plain values.

    A part is given by its registered name, by a `PartSpec` (`HEADS.configure("mlp", hidden_dim=64)`), or as a class
    or `functools.partial`, which JSON cannot hold. Two configurations that are equal build the same model from the same
    key; a `functools.partial` is equal to itself alone.
    """

    image_size: tuple[int, int]
    """Height and width of the images in pixels."""
    patch_size: tuple[int, int]
    """Height and width of a patch in pixels."""
    size: EncoderSize
    """Width, depth, heads and the MLP's width."""
    num_classes: int | None = None
    """How many logits the head returns; `None` for a head without classes."""
    channels: int = 3
    """Of the images."""
    patch: str | PartSpec | PatchFactory = "conv"
    """The patch embedding."""
    position: str | PartSpec | PositionFactory = "learned"
    """The position embedding."""
    pool: str | PartSpec | PoolFactory = "mean"
    """The pooling."""
    head: str | PartSpec | HeadFactory = "linear"
    """The head."""
    norm_order: Literal["norm_pool", "pool_norm"] = "norm_pool"
    """Whether the final norm acts on the tokens before the pool (the original), or on the pooled vector after it."""
    class_token: bool | None = None
    """Whether there is a class token; `None` for one where the pool needs it."""
    num_registers: int = 0
    """How many register tokens follow the class token (Darcet et al. 2024, arXiv:2309.16588)."""
    encoder: EncoderOptions = EncoderOptions()
    """The options of the encoder."""
    neck_dim: int | None = None
    """The width that a neck of two convolutions brings the tokens to before the final norm, as in SAM; `None` for no
    neck."""
    init: InitName = "trunc_normal"
    """The scheme that fresh weights are drawn by."""
    preprocess: Preprocess | None = None
    """How pictures are prepared for the weights, where these were loaded; `None` where nothing says it."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """What the forward pass computes in. Parameters and logits are float32 all the same, as are softmax and norms."""

    def __post_init__(self) -> None:
        check_positive(image_size=self.image_size, patch_size=self.patch_size, channels=self.channels)
        check_divisible("image_size", self.image_size, self.patch_size)
        check_heads("dim", self.size.dim, self.size.num_heads)
        if self.neck_dim is not None:
            check_positive(neck_dim=self.neck_dim)
        if isinstance(self.num_registers, bool) or self.num_registers < 0:
            raise ValueError(f"num_registers must not be negative, but {self.num_registers} came: pass 0 for none")
        if self.encoder.fused_attention and self.compute_dtype != "bfloat16":
            raise ValueError(
                f"compute_dtype must be 'bfloat16' with fused_attention, but {self.compute_dtype!r} came: the "
                "kernel of cuDNN is for half precision"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def norm_eps(self) -> float:
        """What the final norm adds to the variance."""
        return self.encoder.norm_eps if self.neck_dim is None else NECK_EPS

    @property
    def token_dim(self) -> int:
        """The width of a token where the pool reads it: that of the neck, or the encoder's."""
        return self.size.dim if self.neck_dim is None else self.neck_dim

    def norm_width(self, pool: AbstractPool) -> int:
        """The width of what the final norm acts on: a token, or what the pool gives."""
        return self.token_dim if self.norm_order == "norm_pool" else pool.out_dim

    def build(self, *, key: PRNGKeyArray) -> "ViT":
        """Resolves the names and assembles the model.

        **Arguments:**

        - `key`: for the weights.

        **Returns:**

        A `ViT` with fresh weights.

        **Raises:** `UnknownPartError`, `OptionError` or `PluginError` where a part is not to be had, `TypeError`
        where a factory makes something else, `ValueError` where parts do not fit each other.
        """
        patch_key, prefix_key, position_key, encoder_key, pool_key, head_key = jax.random.split(key, 6)
        encoder_key, neck_key = (encoder_key, None) if self.neck_dim is None else jax.random.split(encoder_key)
        dim, init = self.size.dim, INITS[self.init]

        pool = make_pool(self.pool, self.token_dim, grid=self.grid, init=init, key=pool_key)
        class_token = wants_class_token(self.class_token, pool, self.pool)
        class_key, registers_key = jax.random.split(prefix_key)
        prefix = jnp.concatenate(
            [
                init.class_token(class_key, (int(class_token), dim), jnp.dtype(jnp.float32)),
                init.registers(registers_key, (self.num_registers, dim), jnp.dtype(jnp.float32)),
            ]
        )

        return ViT(
            patch=make_patch(
                self.patch, dim, patch_size=self.patch_size, channels=self.channels, init=init, key=patch_key
            ),
            prefix=prefix,
            position=make_position(
                self.position,
                self.size,
                grid=self.grid,
                num_prefix=prefix.shape[0],
                has_class_token=class_token,
                init=init,
                key=position_key,
            ),
            encoder=Encoder(self.size, options=self.encoder, init=init, key=encoder_key),
            neck=None if neck_key is None else Neck(dim, self.token_dim, init=init, key=neck_key),
            norm=LayerNorm(self.norm_width(pool), eps=self.norm_eps),
            pool=pool,
            head=make_head(self.head, pool.out_dim, num_classes=self.num_classes, init=init, key=head_key),
            config=self,
        )

    def to_json(self) -> str:
        """The configuration as JSON, for `from_json`.

        **Returns:**

        A JSON object, indented.

        **Raises:** `ValueError` where a part was given as a class or `functools.partial`, which only code can name.
        """
        return to_json(self)

    @staticmethod
    def from_json(text: str) -> "ViTConfig":
        """The configuration that `to_json` wrote.

        **Arguments:**

        - `text`: a JSON object.

        **Returns:**

        A configuration equal to the one that was written.

        **Raises:** `ValueError` where the text is not JSON, or names a field that there is not, or twice, or lacks one;
        `TypeError` where a value has the wrong type. Parts are looked up by `build`.
        """
        return from_json(ViTConfig, text)


@final
class ViT(eqx.Module):
    """A Vision Transformer, made of the parts that `vitrail.vit` or `ViTConfig.build` picked.

    It takes one image; batch it with `jax.vmap(model)(images)`. It is a PyTree like every Equinox module:
    `eqx.filter_jit` and `eqx.filter_grad` work on it, and it has no state. `config` says what it was built from;
    `vitrail.replace` exchanges a part and keeps `config` in step, which `eqx.tree_at` does not.
    """

    patch: AbstractPatchEmbed
    prefix: Float[Array, "prefix dim"]
    position: AbstractPosition
    encoder: Encoder
    neck: Neck | None
    norm: LayerNorm
    pool: AbstractPool
    head: AbstractHead
    config: ViTConfig = eqx.field(static=True)

    def __init__(
        self,
        *,
        patch: AbstractPatchEmbed,
        prefix: Float[Array, "prefix dim"],
        position: AbstractPosition,
        encoder: Encoder,
        neck: Neck | None,
        norm: LayerNorm,
        pool: AbstractPool,
        head: AbstractHead,
        config: ViTConfig,
    ):
        """**Arguments:**

        - `patch`: the patch embedding.
        - `prefix`: the prefix tokens, the class token first, then the registers; `(0, dim)` for none.
        - `position`: the position embedding.
        - `encoder`: the blocks.
        - `neck`: what brings the tokens to another width, or `None`.
        - `norm`: the final norm, of the tokens or of the pooled vector as `config.norm_order` says.
        - `pool`: the pooling.
        - `head`: the head.
        - `config`: what all this was built from.
        """
        self.patch = patch
        self.prefix = prefix
        self.position = position
        self.encoder = encoder
        self.neck = neck
        self.norm = norm
        self.pool = pool
        self.head = head
        self.config = config

    @property
    def blocks(self) -> Blocks:
        """The blocks one by one: `model.blocks[3]`, `len(model.blocks)`, a `for` loop."""
        return self.encoder.blocks

    def __call__(
        self, image: Shaped[Array | np.ndarray, "..."], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.head.out_dim}"]:
        """The whole forward pass.

        **Arguments:**

        - `image`: one image, `Float[Array, "height width channels"]`, of the size and channels of the configuration; a
            NumPy array will do. It is converted to `config.compute_dtype`.
        - `key`: for dropout, stochastic depth and whatever a part draws in training; `None` means inference.

        **Returns:**

        The logits, `(classes,)`, in float32; `(tokens, classes)` under the pool `none`; under the head `none`, what the
        pool gives.

        **Raises:** `ValueError` or `TypeError` where the image does not fit; both say how to mend it.
        """
        tokens_key, pool_key, head_key = split_key(key, 3)
        pool, head = to_dtype((self.pool, self.head), self._dtype)
        pooled = pool(self.tokens(image, key=tokens_key), key=pool_key)
        if self.config.norm_order == "pool_norm":
            pooled = self.norm(pooled)
        return head(pooled, key=head_key).astype(jnp.float32)

    def tokens(self, image: Shaped[Array | np.ndarray, "..."], *, key: PRNGKeyArray | None = None) -> Tokens:
        """What the pool reads.

        **Arguments:**

        - `image`: one image, `Float[Array, "height width channels"]`.
        - `key`: for dropout and stochastic depth; `None` means inference.

        **Returns:**

        The prefix and patch tokens after the encoder and the final norm, in the compute dtype. Under
        `norm_order="pool_norm"` the norm acts on the pooled vector, so these are the tokens before it.

        **Raises:** what calling the model raises.
        """
        tokens = self._embed(image)
        tokens = self.encoder(tokens, rotation=self.position.rotation(tokens), key=key)
        if self.neck is not None:
            tokens = to_dtype(self.neck, self._dtype)(tokens)
        return tokens.map(self.norm) if self.config.norm_order == "norm_pool" else tokens

    def features(
        self, image: Shaped[Array | np.ndarray, "..."], *, layers: Sequence[int]
    ) -> tuple[Float[Array, "rows cols dim"], ...]:
        """The patch tokens after some of the blocks, as grids: for dense tasks and for looking inside.

        **Arguments:**

        - `image`: one image, `Float[Array, "height width channels"]`.
        - `layers`: which blocks, counted from 0, or from the end where negative: `layers=[2, 5, 8, -1]`.

        **Returns:**

        One grid for each of `layers`, in that order, as it leaves the block: the final norm is not applied, for which
        there is `model.norm`.

        **Raises:** `IndexError` where there is no such block, and what calling the model raises.
        """
        depth = len(self.blocks)
        for layer in layers:
            if not -depth <= layer < depth:
                raise IndexError(f"layers must lie in [-{depth}, {depth}), but {layer} came: there are {depth} blocks")
        tokens = self._embed(image)
        outputs = self.encoder.outputs(tokens, rotation=self.position.rotation(tokens))
        return tuple(tokens.with_sequence(outputs[layer]).patch_grid for layer in layers)

    def attention(self, image: Shaped[Array | np.ndarray, "..."]) -> Float[Array, "depth heads tokens tokens"]:
        """How much each token takes from each, in every block and head.

        **Arguments:**

        - `image`: one image, `Float[Array, "height width channels"]`.

        **Returns:**

        The attention weights in float32: rows are queries and sum to one, columns are keys; the prefix tokens come
        first.

        **Raises:** what calling the model raises.
        """
        tokens = self._embed(image)
        return self.encoder.attention(tokens, rotation=self.position.rotation(tokens))

    def resized(self, image_size: int | tuple[int, int], *, patch_size: int | tuple[int, int] | None = None) -> "ViT":
        """The same model for images, or patches, of another size: what depends on it is resampled, all else is the same
        arrays.

        **Arguments:**

        - `image_size`: height and width in pixels, multiples of the patch size; one number for a square.
        - `patch_size`: height and width of a patch in pixels, as in FlexiViT; `None` for as before.

        **Returns:**

        A model whose configuration has the new sizes. The position embedding is resampled by its own rule.

        **Raises:** `ValueError` where the size does not divide into patches, or the patch embedding has no rule for
        other patches.
        """
        patches = self.config.patch_size if patch_size is None else pair(patch_size)
        config = dataclasses.replace(self.config, image_size=pair(image_size), patch_size=patches)
        return dataclasses.replace(
            self,
            patch=self.patch if patches == self.config.patch_size else self.patch.resized(patches),
            position=self.position.resized(config.grid),
            config=config,
        )

    @property
    def _dtype(self) -> jnp.dtype:
        return jnp.dtype(self.config.compute_dtype)

    def _embed(self, image: Shaped[Array | np.ndarray, "..."]) -> Tokens:
        """Cuts the image into patch tokens, puts the prefix before them and adds the positions."""
        check_image(image, self.config.image_size, self.config.channels)
        patch, prefix, position = to_dtype((self.patch, self.prefix, self.position), self._dtype)
        grid = patch(jnp.asarray(image, self._dtype))
        if grid.shape != (*self.config.grid, self.config.size.dim):
            raise ValueError(
                f"the patch embedding {type(self.patch).__name__} must return (rows, cols, dim) = "
                f"{(*self.config.grid, self.config.size.dim)}, but the shape {grid.shape} came: mend that class"
            )
        has_class_token = prefix.shape[0] > self.config.num_registers
        patches = grid.reshape(-1, grid.shape[-1])
        tokens = Tokens(prefix, patches, self.config.grid, has_class_token=has_class_token)
        placed = position(tokens)
        if jax.tree.structure(placed) != jax.tree.structure(tokens) or placed.sequence.shape != tokens.sequence.shape:
            raise ValueError(
                f"the position embedding {type(self.position).__name__} must return the tokens that came, moved, but "
                f"{tokens} came and {placed} went: mend that class, for instance by dataclasses.replace(tokens, ...)"
            )
        return placed


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """One number for both of height and width, or the two."""
    return (size, size) if isinstance(size, int) else size
