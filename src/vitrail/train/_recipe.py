"""The numbers of a training run."""

from dataclasses import dataclass

from .._check import check_above_zero, check_not_negative, check_positive, check_rate
from ._augment import Augmentation


@dataclass(frozen=True)
class Recipe:
    """How to train: AdamW under a learning rate that rises linearly and falls along a cosine to zero.

    The defaults are those of `vitrail demo`, chosen for a small model on a few thousand digits.

    ??? cite

        Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019, arXiv:1711.05101, and *SGDR*, ICLR
        2017, arXiv:1608.03983; label smoothing: Szegedy et al. 2016, arXiv:1512.00567.
    """

    epochs: int = 28
    """How often each image is seen."""
    batch_size: int = 64
    """Images a step."""
    learning_rate: float = 6e-3
    """At its highest."""
    warmup: float = 0.1
    """The part of all steps in which the learning rate rises."""
    weight_decay: float = 0.05
    """Of matrices and kernels: not of biases, norms, positions, prefix tokens, nor what a pool holds besides its linear
    layers."""
    clip_norm: float = 1.0
    """Where the norm of a step's whole gradient is cut off."""
    label_smoothing: float = 0.0
    """The probability that is spread evenly over all classes."""
    augmentation: Augmentation = Augmentation(rotate=10.0, shift=2 / 28, scale=0.1)
    """What is done to the training images."""

    def __post_init__(self) -> None:
        check_positive(epochs=self.epochs, batch_size=self.batch_size)
        check_rate(warmup=self.warmup, label_smoothing=self.label_smoothing)
        check_above_zero(learning_rate=self.learning_rate, clip_norm=self.clip_norm)
        check_not_negative(weight_decay=self.weight_decay)
