"""Classification: the cross-entropy of labels, some of them mixed."""

from typing import Any, ClassVar, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, PRNGKeyArray

from ..._check import check_not_negative, check_rate
from ...images import Preprocess
from ._base import AbstractObjective, Batch, Outcome, Scalar, compare_with, normalise_images


@final
class ClassifyObjective(AbstractObjective):
    """The cross-entropy between the class of an image and the logits of a classifier.

    With `loss="softmax"` it is `-sum_k t_k log softmax(logits)_k`. With `loss="sigmoid"` each class is a question of
    its own, and it is `-sum_k t_k log sigmoid(logits)_k + (1 - t_k) log sigmoid(-logits)_k`.

    The target `t` is 1 for the class and 0 elsewhere, and is then smoothed. If two images are mixed, so are their
    targets.

    ??? cite

        Smoothing: Szegedy et al., *Rethinking the Inception Architecture*, CVPR 2016, arXiv:1512.00567. Mixup: Zhang et
        al., ICLR 2018, arXiv:1710.09412. CutMix: Yun et al., ICCV 2019, arXiv:1905.04899. Sigmoid loss: Beyer et al.,
        *Are we done with ImageNet?*, 2020, arXiv:2006.07159. One mixture for a batch, and an even choice between both
        kinds, as in timm's `Mixup`.
    """

    inputs: ClassVar[tuple[str, ...]] = ("image", "label")

    preprocess: Preprocess = eqx.field(static=True)
    loss: Literal["softmax", "sigmoid"] = eqx.field(static=True)
    smoothing: float = eqx.field(static=True)
    mixup: float = eqx.field(static=True)
    cutmix: float = eqx.field(static=True)

    def __init__(
        self,
        *,
        preprocess: Preprocess,
        loss: Literal["softmax", "sigmoid"] = "softmax",
        smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ):
        """**Arguments:**

        - `preprocess`: how pixels are normalised.
        - `loss`: `"softmax"` for one choice among all classes, `"sigmoid"` for yes or no to each class.
        - `smoothing`: the share of a target that is spread evenly over all classes.
        - `mixup`: mixes each image with another: both parameters of the Beta distribution of the share of the first. 0
            for no mixtures.
        - `cutmix`: pastes a box of another image: both parameters of the Beta distribution of the share that the first
            keeps. 0 for no boxes.
        """
        check_rate(smoothing=smoothing)
        check_not_negative(mixup=mixup, cutmix=cutmix)
        self.preprocess = preprocess
        self.loss = loss
        self.smoothing = smoothing
        self.mixup = mixup
        self.cutmix = cutmix

    def prepare(self, model: Any, *, key: PRNGKeyArray) -> Any:
        return model

    def __call__(
        self, model: Any, batch: Batch, *, carried: Any, progress: Scalar, key: PRNGKeyArray
    ) -> tuple[Scalar, Outcome]:
        mix_key, model_key = jax.random.split(key)
        images = normalise_images(self.preprocess, batch)
        images, partner = self._mix(images, key=mix_key)

        def classify(image: Float[Array, "height width channels"], key: PRNGKeyArray) -> Float[Array, " classes"]:
            return model(image, key=key)

        logits = jax.vmap(classify)(images, jax.random.split(model_key, len(images)))
        targets = make_targets(batch["label"], logits.shape[1], self.smoothing)
        targets = partner * targets + (1 - partner) * targets[::-1]
        accuracy = compare_with(jnp.argmax(targets, axis=1), logits)
        return cross_entropy(logits, targets, self.loss), Outcome({"accuracy": accuracy})

    def _mix(
        self, images: Float[Array, "batch height width channels"], *, key: PRNGKeyArray
    ) -> tuple[Float[Array, "batch height width channels"], Scalar]:
        """The images, each mixed with the one in its place from the end, and the share of the first."""
        if self.mixup == self.cutmix == 0:
            return images, jnp.ones(())
        share_key, box_key, kind_key = jax.random.split(key, 3)
        use_box = jax.random.bernoulli(kind_key) if self.mixup and self.cutmix else jnp.asarray(self.cutmix > 0)
        alpha = jnp.where(use_box, self.cutmix or 1.0, self.mixup or 1.0)
        share = jax.random.beta(share_key, alpha, alpha)
        height, width = images.shape[1:3]
        inside = draw_box(share, (height, width), key=box_key)
        boxed = jnp.where(inside[None, :, :, None], images[::-1], images)
        mixed = jnp.where(use_box, boxed, share * images + (1 - share) * images[::-1])
        return mixed, jnp.where(use_box, 1 - jnp.mean(inside.astype(jnp.float32)), share)


def draw_box(share: Scalar, size: tuple[int, int], *, key: PRNGKeyArray) -> Bool[Array, "height width"]:
    """A box with a random centre that covers `1 - share` of an image, less what is outside of it: a mask."""
    inside: list[Bool[Array, " places"]] = []
    for length, axis_key in zip(size, jax.random.split(key), strict=True):
        half = jnp.floor(length * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
        centre = jax.random.randint(axis_key, (), 0, length)
        places = jnp.arange(length)
        inside.append((places >= centre - half) & (places < centre + half))
    rows, cols = inside
    return rows[:, None] & cols[None, :]


def make_targets(
    labels: Integer[Array, " batch"], num_classes: int, smoothing: float = 0.0
) -> Float[Array, "batch classes"]:
    """Makes the targets of a cross-entropy from labels.

    **Arguments:**

    - `labels`: the class of each image.
    - `num_classes`: the number of classes.
    - `smoothing`: the share of a target that is spread evenly over all classes.

    **Returns:**

    The target of each image: a probability for each class.
    """
    one_hot = jax.nn.one_hot(labels.astype(jnp.int32), num_classes)
    return (1 - smoothing) * one_hot + smoothing / num_classes


def cross_entropy(
    logits: Float[Array, "batch classes"],
    targets: Float[Array, "batch classes"],
    loss: Literal["softmax", "sigmoid"] = "softmax",
) -> Scalar:
    """Computes the cross-entropy between logits and targets.

    **Arguments:**

    - `logits`: the logits of each image.
    - `targets`: the targets, as `make_targets` returns them.
    - `loss`: `"softmax"` for one choice among all classes, `"sigmoid"` for yes or no to each class: see
        `ClassifyObjective`.

    **Returns:**

    The mean over the images.
    """
    if loss == "sigmoid":
        each = targets * jax.nn.log_sigmoid(logits) + (1 - targets) * jax.nn.log_sigmoid(-logits)
    else:
        each = targets * jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.sum(each, axis=1))
