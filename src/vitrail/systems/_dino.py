"""DINO: an image model with the projection heads that self-distillation trains it by."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped

from .._spec import PartSpec
from .._tokens import Tokens
from ..head import HEADS, AbstractHead, HeadContext, HeadFactory, NoHead
from ..model import JSONConfig, ViT, ViTConfig
from ..nn import INITS, Dropout, Execution, ParameterKinds, split_key, to_dtype
from ._base import AbstractSystem


@dataclass(frozen=True, kw_only=True)
class DINOConfig(JSONConfig):
    """Describes a `DINO` by names and plain values."""

    image: ViTConfig
    """The image model. Its head is `"none"`: what its pool returns is the embedding of an image."""
    num_prototypes: int = 65536
    """The number of prototypes of `head`."""
    head: str | PartSpec | HeadFactory = "projection"
    """The head of the embedding."""
    patch_head: str | PartSpec | HeadFactory | None = None
    """The head of the patch tokens, as in iBOT and DINOv2; `None` to score them with `head`."""
    num_patch_prototypes: int | None = None
    """The number of prototypes of `patch_head`; `None` for the number of `head`."""
    mask_token: bool = False
    """Whether the model has a mask token, which replaces the tokens of hidden patches, as in iBOT and DINOv2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image.head not in ("none", PartSpec("none"), NoHead):
            raise ValueError(
                f"image must have the head 'none', because the projection head reads what its pool returns, got "
                f"{self.image.head}: use dataclasses.replace(image, head='none', num_classes=None)"
            )
        if self.num_patch_prototypes is not None and self.patch_head is None:
            raise ValueError(
                f"num_patch_prototypes needs a patch_head, got {self.num_patch_prototypes} and None: pass "
                "patch_head='projection', or leave num_patch_prototypes out"
            )

    def build(self, *, execution: Execution = Execution(), dropout: Dropout = Dropout(), key: PRNGKeyArray) -> "DINO":
        """Builds the model.

        **Arguments:**

        - `execution`: how the model is computed.
        - `dropout`: what is dropped in training.
        - `key`: the random key of the weights.

        **Returns:**

        A `DINO` with fresh weights.

        **Raises:** what `ViTConfig.build` raises.
        """
        image_key, head_key, patch_key = split_key(key, 3)
        image = self.image.build(execution=execution, dropout=dropout, key=image_key)
        token_dim, init = image.backbone.dim, INITS[self.image.init]
        context = HeadContext(
            dim=image.readout.pool.out_dim, num_classes=self.num_prototypes, token_dim=token_dim, init=init
        )
        head, patch_head = HEADS.build(self.head, context, key=head_key), None
        if self.patch_head is not None:
            prototypes = self.num_prototypes if self.num_patch_prototypes is None else self.num_patch_prototypes
            context = HeadContext(dim=token_dim, num_classes=prototypes, token_dim=token_dim, init=init)
            patch_head = HEADS.build(self.patch_head, context, key=patch_key)
        mask_token = jnp.zeros(self.image.size.dim, jnp.float32) if self.mask_token else None
        return DINO(image, head, patch_head, mask_token, self)


@final
class DINOOutput(eqx.Module):
    """What a `DINO` returns for an image, or for a batch of images with the axes of the batch first."""

    scores: Float[Array, "*batch prototypes"]
    """The scores of the prototypes for the image, in float32. The losses compare those of student and teacher."""
    embedding: Float[Array, "*batch features"]
    """What the pool returns, for instance the class token after the final norm."""
    patches: Float[Array, "*batch patches dim"]
    """The patch tokens after the final norm, for `DINO.score_patches`."""

    def __init__(
        self,
        scores: Float[Array, "*batch prototypes"],
        embedding: Float[Array, "*batch features"],
        patches: Float[Array, "*batch patches dim"],
    ):
        """**Arguments:** the fields."""
        self.scores = scores
        self.embedding = embedding
        self.patches = patches


@final
class DINO(AbstractSystem):
    """An image model with the projection heads of self-distillation: the student of DINO, or its teacher.

    Student and teacher are two models of the same configuration. The student learns to predict the scores that the
    teacher gives to another crop of the same image ([`dino_loss`][vitrail.systems.dino_loss]) and to patches that are
    hidden from the student ([`ibot_loss`][vitrail.systems.ibot_loss]). The teacher is a running mean of the student
    ([`update_teacher`][vitrail.systems.update_teacher]). After training, keep `dino.image` and drop the heads.

    ??? cite

        Caron et al., *Emerging Properties in Self-Supervised Vision Transformers*, ICCV 2021, arXiv:2104.14294. Zhou
        et al., *iBOT: Image BERT Pre-Training with Online Tokenizer*, ICLR 2022, arXiv:2111.07832. Oquab et al.,
        *DINOv2: Learning Robust Visual Features without Supervision*, 2023, arXiv:2304.07193.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"mask_token": "token"}

    image: ViT
    head: AbstractHead
    patch_head: AbstractHead | None
    mask_token: Float[Array, " dim"] | None
    config: DINOConfig = eqx.field(static=True)

    def __init__(
        self,
        image: ViT,
        head: AbstractHead,
        patch_head: AbstractHead | None,
        mask_token: Float[Array, " dim"] | None,
        config: DINOConfig,
    ):
        """**Arguments:**

        - `image`: the image model, without a head.
        - `head`: scores the embedding of an image.
        - `patch_head`: scores patch tokens; `None` to score them with `head`.
        - `mask_token`: replaces the tokens of hidden patches; `None` if no patches are hidden.
        - `config`: the configuration of the model.
        """
        self.image = image
        self.head = head
        self.patch_head = patch_head
        self.mask_token = mask_token
        self.config = config

    def __call__(
        self,
        image: Shaped[Array | np.ndarray, "..."],
        *,
        hidden: Bool[Array | np.ndarray, " patches"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> DINOOutput:
        """Encodes an image and scores it.

        **Arguments:**

        - `image`: one image, `Float[Array, "height width channels"]`, of the size and channels of the image model.
        - `hidden`: true for each patch whose token is replaced by the mask token; `None` to hide no patch.
        - `key`: for what is random in training; `None` means inference.

        **Returns:**

        The scores of the prototypes, the embedding and the patch tokens.

        **Raises:** `ValueError` or `TypeError` if the image does not fit; `ValueError` if `hidden` has not one value
        for each patch, or if the model has no mask token.
        """
        encode_key, pool_key, head_key = split_key(key, 3)
        backbone = self.image.backbone
        tokens = self._hide(backbone.make_tokens(image), hidden)
        tokens = backbone.encode(backbone.place(tokens), key=encode_key)
        embedding = self.image.readout.pool_tokens(tokens, key=pool_key)
        return DINOOutput(_score(self.head, embedding, head_key), embedding, tokens.patches)

    def score_patches(
        self, patches: Float[Array, "*batch dim"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch prototypes"]:
        """Scores patch tokens with `patch_head`, or with `head` if there is no `patch_head`.

        With many prototypes the scores of all patches need much memory. Pass only the patches that the loss needs:
        [`pick_hidden`][vitrail.systems.pick_hidden].

        **Arguments:**

        - `patches`: some or all rows of `DINOOutput.patches`.
        - `key`: for what is random in the head in training; `None` means inference.

        **Returns:**

        The scores of the prototypes for each patch, in float32.
        """
        return _score(self.head if self.patch_head is None else self.patch_head, patches, key)

    def resized(self, image_size: int | tuple[int, int], *, patch_size: int | tuple[int, int] | None = None) -> "DINO":
        image = self.image.resized(image_size, patch_size=patch_size)
        return dataclasses.replace(self, image=image, config=dataclasses.replace(self.config, image=image.config))

    def _hide(self, tokens: Tokens, hidden: Bool[Array | np.ndarray, " patches"] | None) -> Tokens:
        """The tokens with the mask token in place of hidden patches."""
        if hidden is None:
            return tokens
        if self.mask_token is None:
            raise ValueError(
                "hidden needs a mask token, got a DINO without one: build it with DINOConfig(mask_token=True)"
            )
        count = tokens.patches.shape[0]
        if hidden.shape != (count,):
            raise ValueError(f"hidden must have one value for each of the {count} patches, got shape {hidden.shape}")
        mask_token = jnp.broadcast_to(self.mask_token.astype(tokens.patches.dtype), tokens.patches.shape)
        patches = jnp.where(jnp.asarray(hidden)[:, None], mask_token, tokens.patches)
        return dataclasses.replace(tokens, patches=patches)


def _score(
    head: AbstractHead, x: Float[Array, "*batch dim"], key: PRNGKeyArray | None
) -> Float[Array, "*batch prototypes"]:
    """The scores of a head, computed in the dtype of its input, in float32."""
    return to_dtype(head, x.dtype)(x, key=key).astype(jnp.float32)
