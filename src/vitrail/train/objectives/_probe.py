"""A probe: a pool and a head on a backbone that is not trained."""

from typing import Any, ClassVar, final

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from ...images import Preprocess
from ...model import ViT
from ._base import AbstractObjective, Batch, Outcome, Scalar, compare_with, normalise_images
from ._classify import cross_entropy, make_targets


@final
class ProbeObjective(AbstractObjective):
    """The cross-entropy of `ClassifyObjective`, whose gradient ends before the readout: the backbone stays as it is.

    ??? cite

        Alain and Bengio, *Understanding intermediate layers using linear classifier probes*, 2016, arXiv:1610.01644.
    """

    inputs: ClassVar[tuple[str, ...]] = ("image", "label")

    preprocess: Preprocess = eqx.field(static=True)

    def __init__(self, *, preprocess: Preprocess):
        """**Arguments:**

        - `preprocess`: how pixels are normalised.
        """
        self.preprocess = preprocess

    def prepare(self, model: Any, *, key: PRNGKeyArray) -> Any:
        if not isinstance(model, ViT):
            raise ValueError(f"model must be a ViT to be probed, got a {type(model).__name__}: pass its image model")
        return model

    def __call__(
        self, model: Any, batch: Batch, *, carried: Any, progress: Scalar, key: PRNGKeyArray
    ) -> tuple[Scalar, Outcome]:
        def classify(image: Float[Array, "height width channels"], key: PRNGKeyArray) -> Float[Array, " classes"]:
            tokens = jax.lax.stop_gradient(model.backbone(image))
            return model.readout(tokens, key=key)

        images = normalise_images(self.preprocess, batch)
        logits = jax.vmap(classify)(images, jax.random.split(key, len(images)))
        loss = cross_entropy(logits, make_targets(batch["label"], logits.shape[1]))
        return loss, Outcome({"accuracy": compare_with(batch["label"], logits)})
