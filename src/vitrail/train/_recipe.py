"""The settings of a training run."""

from dataclasses import dataclass

from .._check import check_above_zero, check_not_negative, check_positive, check_rate
from ..images import Augmentation


@dataclass(frozen=True)
class Recipe:
    """How to train: AdamW, with a learning rate that rises linearly and falls along a cosine to zero.

    The defaults are those of `vitrail demo`, chosen for a small model on a few thousand digits.

    ??? cite

        Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019, arXiv:1711.05101, and *SGDR*, ICLR
        2017, arXiv:1608.03983; label smoothing: Szegedy et al. 2016, arXiv:1512.00567.
    """

    epochs: int = 28
    """How many times each image is seen."""
    batch_size: int = 64
    """The number of images in a step."""
    learning_rate: float = 6e-3
    """The highest learning rate."""
    warmup: float = 0.1
    """The fraction of the steps in which the learning rate rises."""
    weight_decay: float = 0.05
    """Acts on the weights of linear and convolutional layers, not on biases, norms, positions, prefix tokens or the
    queries of pools."""
    clip_norm: float = 1.0
    """The largest norm of the gradient of a step; a larger one is scaled down to it."""
    label_smoothing: float = 0.0
    """The probability that is spread evenly over all classes."""
    augmentation: Augmentation = Augmentation(rotate=10.0, shift=2 / 28, scale=0.1)
    """How training images are augmented."""

    def __post_init__(self) -> None:
        check_positive(epochs=self.epochs, batch_size=self.batch_size)
        check_rate(warmup=self.warmup, label_smoothing=self.label_smoothing)
        check_above_zero(learning_rate=self.learning_rate, clip_norm=self.clip_norm)
        check_not_negative(weight_decay=self.weight_decay)
