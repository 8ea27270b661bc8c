"""Self-distillation: a student learns what its own running mean says of another crop."""

import dataclasses
import math
from typing import Any, ClassVar, Final, Literal, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..._check import check_not_negative, check_positive, check_rate
from ...head import HEADS
from ...images import Crops, Preprocess
from ...model import ViT, replace
from ...systems import (
    DINO,
    DINOConfig,
    apply_to_crops,
    centre_scores,
    dino_loss,
    draw_hidden,
    ibot_loss,
    koleo_loss,
    pick_hidden,
    sinkhorn_knopp,
    update_centre,
    update_teacher,
)
from ._base import AbstractObjective, Batch, Outcome, Scalar, normalise_images

_TEMPERATURES: Final = (0.04, 0.07)
"""Of the teacher, at first and after `warmup`."""
_LARGE: Final = (0.32, 1.0)
_SMALL: Final = (0.05, 0.32)
"""The shares of an image that crops have."""
_HIDDEN: Final = (0.1, 0.5)
"""The smallest and the largest share of the patches that are hidden in half of the large crops."""


@final
class DINOObjective(AbstractObjective):
    """The cross-entropy between the teacher's probabilities for a large crop of an image and the student's for another
    crop: `dino_loss`. The teacher is the running mean of the student. `fit` returns the teacher, because its features
    are better (Caron et al. 2021, section 5.2).

    With `ibot` the student also predicts the teacher's probabilities for patches that are hidden from it (`ibot_loss`).
    With `koleo` the embeddings of a batch are spread apart (`koleo_loss`). Without both it is DINO; with both and
    `centring="sinkhorn"` it is DINOv2.

    The crops are made on the device from `"image"`. Or the transform `multi_crop` makes them on the host and changes
    their colours too; a batch then has the arrays of bytes `"large"` and `"small"` with the axes `(batch, crops,
    height, width, channels)`. The arguments `small_crops` and `small_size` are for crops made on the device.

    ??? cite

        Caron et al., *Emerging Properties in Self-Supervised Vision Transformers*, ICCV 2021, arXiv:2104.14294. Zhou
        et al., *iBOT*, ICLR 2022, arXiv:2111.07832. Oquab et al., *DINOv2*, 2023, arXiv:2304.07193.
    """

    takes_crops: ClassVar[bool] = True
    is_mean: ClassVar[bool] = False

    preprocess: Preprocess = eqx.field(static=True)
    prototypes: int = eqx.field(static=True)
    hidden_dim: int = eqx.field(static=True)
    bottleneck_dim: int = eqx.field(static=True)
    small_crops: int = eqx.field(static=True)
    small_size: tuple[int, int] | None = eqx.field(static=True)
    centring: Literal["mean", "sinkhorn"] = eqx.field(static=True)
    momentum: float = eqx.field(static=True)
    warmup: float = eqx.field(static=True)
    ibot: float = eqx.field(static=True)
    koleo: float = eqx.field(static=True)

    def __init__(
        self,
        *,
        preprocess: Preprocess,
        prototypes: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        small_crops: int = 8,
        small_size: tuple[int, int] | None = None,
        centring: Literal["mean", "sinkhorn"] = "mean",
        momentum: float = 0.996,
        warmup: float = 0.3,
        ibot: float = 0.0,
        koleo: float = 0.0,
    ):
        """**Arguments:**

        - `preprocess`: how pixels are normalised.
        - `prototypes`, `hidden_dim`, `bottleneck_dim`: the sizes of the projection head that is added to a `ViT`.
        - `small_crops`: the number of small crops of an image, beside two large ones.
        - `small_size`: their height and width in pixels; `None` for the whole number of patches nearest to 3/7 of the
            image.
        - `centring`: how the teacher's scores become probabilities: `centre_scores` or `sinkhorn_knopp`.
        - `momentum`: the share of the teacher that is kept in the first step; it grows to 1 along a cosine. After a run
            of n steps, `exp(-n (1 - momentum) / 2)` of the teacher is still its random start: use less than 0.996 for
            fewer than 2,500 steps.
        - `warmup`: the share of the run in which the teacher's temperature rises from 0.04 to 0.07.
        - `ibot`: the weight of the patch loss; 1 in the papers, 0 for none.
        - `koleo`: the weight of the KoLeo loss; 0.1 in DINOv2, 0 for none.
        """
        check_positive(prototypes=prototypes, hidden_dim=hidden_dim, bottleneck_dim=bottleneck_dim)
        check_rate(momentum=momentum, warmup=warmup)
        check_not_negative(ibot=ibot, koleo=koleo, small_crops=small_crops)
        self.preprocess = preprocess
        self.prototypes = prototypes
        self.hidden_dim = hidden_dim
        self.bottleneck_dim = bottleneck_dim
        self.small_crops = small_crops
        self.small_size = small_size
        self.centring = centring
        self.momentum = momentum
        self.warmup = warmup
        self.ibot = ibot
        self.koleo = koleo

    def prepare(self, model: Any, *, key: PRNGKeyArray) -> Any:
        if isinstance(model, DINO):
            if self.ibot and model.mask_token is None:
                raise ValueError("ibot needs a mask token, got a DINO without one: build it with mask_token=True")
            return model
        if not isinstance(model, ViT):
            raise ValueError(f"model must be a ViT or a DINO for the objective dino, got a {type(model).__name__}")
        image = replace(model, head="none", num_classes=None, preprocess=self.preprocess)
        head = HEADS.configure("projection", hidden_dim=self.hidden_dim, bottleneck_dim=self.bottleneck_dim)
        config = DINOConfig(image=image.config, num_prototypes=self.prototypes, head=head, mask_token=self.ibot > 0)
        return dataclasses.replace(config.build(key=key), image=image)

    def start(self, model: Any) -> Any:
        centre = jnp.zeros(model.config.num_prototypes, jnp.float32)
        number = model.config.num_patch_prototypes or model.config.num_prototypes
        return {"teacher": model, "centre": centre, "patch_centre": jnp.zeros(number, jnp.float32)}

    def add_inputs(self, model: Any, batch: Batch, *, seed: int, share: tuple[int, int] = (0, 1)) -> Batch:
        if not self.ibot or "hidden" in batch:
            return batch
        (part, parts), grid = share, model.config.image.grid
        number = parts * len(next(iter(batch.values())))
        hidden = draw_hidden(2 * number, grid, seed=seed, ratios=_HIDDEN)
        return {**batch, "hidden": np.split(hidden.reshape(number, 2, -1), parts)[part]}

    def __call__(
        self, model: Any, batch: Batch, *, carried: Any, progress: Scalar, key: PRNGKeyArray
    ) -> tuple[Scalar, Outcome]:
        carried = dict(carried)
        crop_key, large_key, small_key = jax.random.split(key, 3)
        large, small = self._cut(model, batch, key=crop_key)
        teacher, hidden = carried["teacher"], jnp.moveaxis(batch["hidden"], 1, 0) if self.ibot else None
        low, high = _TEMPERATURES
        temperature = low + (high - low) * jnp.clip(progress / (self.warmup or 1e-6), 0, 1)

        seen = apply_to_crops(teacher, large)  # without a key nothing is dropped
        targets, carried["centre"] = self._make_targets(seen.scores, carried["centre"], temperature)
        found = apply_to_crops(model, large, hidden=hidden, key=large_key)
        scores = found.scores
        if len(small):
            scores = jnp.concatenate([scores, apply_to_crops(model, small, key=small_key).scores])
        losses = {"dino": dino_loss(scores, targets)}
        if hidden is not None:
            places, counts = _pick_hidden(hidden)
            patches = teacher.score_patches(jnp.take_along_axis(seen.patches, places, axis=2))
            targets, carried["patch_centre"] = self._make_targets(patches, carried["patch_centre"], temperature, counts)
            patches = model.score_patches(jnp.take_along_axis(found.patches, places, axis=2))
            losses["ibot"] = ibot_loss(patches, targets, counts)
        if self.koleo:
            losses["koleo"] = jnp.sum(jax.vmap(koleo_loss)(found.embedding))
        weights = {"dino": 1.0, "ibot": self.ibot, "koleo": self.koleo}
        loss = sum((weights[name] * each for name, each in losses.items()), jnp.zeros(()))
        return loss, Outcome(losses, carried)

    def finish(self, model: Any, carried: Any, *, progress: Scalar) -> tuple[Any, Any]:
        momentum = 1 - (1 - self.momentum) * (1 + jnp.cos(math.pi * progress)) / 2
        return model, {**carried, "teacher": update_teacher(carried["teacher"], model, momentum)}

    def choose_model(self, model: Any, carried: Any) -> Any:
        return carried["teacher"]

    def _cut(
        self, model: DINO, batch: Batch, *, key: PRNGKeyArray
    ) -> tuple[Float[Array, "large batch height width channels"], Float[Array, "small batch rows cols channels"]]:
        if "large" in batch:
            large, small = (
                jnp.moveaxis(self.preprocess.normalise(cast(Array, batch[name])), 1, 0) for name in ("large", "small")
            )
            return large, small
        images, config = normalise_images(self.preprocess, batch), model.config.image
        (rows, cols), (height, width) = config.grid, config.patch_size
        size = self.small_size or (max(1, round(rows * 3 / 7)) * height, max(1, round(cols * 3 / 7)) * width)
        large_key, small_key = jax.random.split(key)
        large = Crops(number=2, size=config.image_size, scale=_LARGE)(images, key=large_key)
        if not self.small_crops:
            return large, large[:0]
        return large, Crops(number=self.small_crops, size=size, scale=_SMALL)(images, key=small_key)

    def _make_targets(
        self,
        scores: Float[Array, "*batch prototypes"],
        centre: Float[Array, " prototypes"],
        temperature: Scalar,
        mask: Bool[Array, "*batch"] | None = None,
    ) -> tuple[Float[Array, "*batch prototypes"], Float[Array, " prototypes"]]:
        """The teacher's probabilities, and the centre of the next step."""
        if self.centring == "sinkhorn":
            return sinkhorn_knopp(scores, temperature=temperature, mask=mask), centre
        return centre_scores(scores, centre, temperature=temperature), update_centre(centre, scores, mask=mask)


def _pick_hidden(
    hidden: Bool[Array, "crops batch patches"],
) -> tuple[Int[Array, "crops batch count 1"], Bool[Array, "crops batch count"]]:
    """The places of the hidden patches, as many for each crop, and which of them count."""
    count = max(1, int(hidden.shape[-1] * _HIDDEN[1]))

    def pick(hidden: Bool[Array, " patches"]) -> tuple[Int[Array, " count"], Bool[Array, " count"]]:
        return pick_hidden(hidden, count)

    places, counts = jax.vmap(jax.vmap(pick))(hidden)
    return places[..., None], counts
