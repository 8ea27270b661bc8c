"""The settings of a training run."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, cast

from .._check import check_above_zero, check_not_negative, check_positive, check_rate
from .._spec import PartSpec
from ..images import Augmentation, TransformFactory
from ..model import JSONConfig
from ..nn import Dropout
from .objectives import ObjectiveFactory

_REFERENCE_BATCH: Final = 256


@dataclass(frozen=True)
class Recipe(JSONConfig):
    """The settings of training: objective, length, optimiser and augmentation.

    The defaults are those of `vitrail demo`, for a small model and a few thousand digits. `RECIPES` has the settings of
    papers.

    ??? cite

        Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019, arXiv:1711.05101, and *SGDR*, ICLR
        2017, arXiv:1608.03983. Lion: Chen et al. 2023, arXiv:2302.06675. Muon: Jordan et al. 2024.
    """

    epochs: int = 28
    """The number of passes over the training images."""
    batch_size: int = 64
    """The number of images in a step."""
    learning_rate: float = 6e-3
    """The highest learning rate."""
    warmup: float = 0.1
    """The fraction of the steps during which the learning rate rises from zero."""
    weight_decay: float = 0.05
    """The weight decay of linear and convolutional layers. Biases, norms, positions, prefix tokens and the queries of
    pools have none."""
    clip_norm: float | None = 1.0
    """The largest norm of a gradient: a larger gradient is scaled down to it. `None` for no limit."""
    augmentation: Augmentation = Augmentation(rotate=10.0, shift=2 / 28, scale=0.1)
    """The augmentation of a batch of training images, on the device."""
    transforms: tuple[str | PartSpec | TransformFactory, ...] = ()
    """The augmentation of each picture by Pillow, on the host, before that of the batch: names of `TRANSFORMS`, with or
    without options, in their order."""
    objective: str | PartSpec | ObjectiveFactory = "classify"
    """The objective: a name of `OBJECTIVES`, with or without options."""
    optimiser: Literal["adamw", "lion", "sgd", "muon"] = "adamw"
    """The optimiser of optax: AdamW, Lion, SGD with a momentum of 0.9, or Muon for matrices and AdamW for the rest."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to zero after the warm-up. With `"constant"` it does not fall."""
    beta2: float = 0.999
    """The decay rate of the mean of squared gradients in AdamW, and of the momentum in Lion."""
    scale_learning_rate: bool = False
    """Multiply `learning_rate` by `batch_size / 256` (Goyal et al. 2017, arXiv:1706.02677)."""
    layer_decay: float = 1.0
    """The factor of the learning rate from each block to the block before it (Clark et al. 2020, arXiv:2003.10555)."""
    train: tuple[str, ...] = ()
    """The parts to train, by the names of fields, such as `readout` or `readout.head`. Empty trains all parts. In a
    model with adapters, only the adapters and the parts named here are trained."""
    freeze: tuple[str, ...] = ()
    """The parts not to train, by the names of fields."""
    accumulate: int = 1
    """Split a batch into this many parts and add their gradients. The step is the same and needs less memory."""
    compute_dtype: Literal["float32", "bfloat16"] | None = None
    """The dtype of the forward pass, as in `vitrail.Execution`. Weights, gradients and the optimiser stay in float32.
    `None` keeps that of the model."""
    dropout: Dropout | None = None
    """The dropout of training. `None` keeps that of the model."""
    average: float = 0.0
    """The decay rate of the running mean of the weights, such as 0.9999 for long runs. 0 keeps no mean. At the first
    steps the rate is at most `(1 + step) / (10 + step)`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(epochs=self.epochs, batch_size=self.batch_size, accumulate=self.accumulate)
        check_rate(warmup=self.warmup, beta2=self.beta2, average=self.average)
        check_above_zero(learning_rate=self.learning_rate, clip_norm=self.clip_norm, layer_decay=self.layer_decay)
        check_not_negative(weight_decay=self.weight_decay)
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate must divide batch_size={self.batch_size}, got {self.accumulate}: change one of them"
            )

    def __repr__(self) -> str:
        """Only what is not a default."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        return f"Recipe({', '.join(f'{name}={_show(value)}' for name, value in values.items())})"

    @property
    def peak_learning_rate(self) -> float:
        """The highest learning rate for this size of a batch."""
        return self.learning_rate * (self.batch_size / _REFERENCE_BATCH if self.scale_learning_rate else 1)


def _show(value: object) -> str:
    if isinstance(value, tuple):
        items = [_show(item) for item in cast("tuple[object, ...]", value)]
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    return str(value) if isinstance(value, PartSpec) else repr(value)


def _crop(low: float, interpolation: str = "bicubic") -> PartSpec:
    """A random resized crop of at least this share of a picture."""
    return PartSpec("random_resized_crop", (("interpolation", interpolation), ("scale", (low, 1.0))))


_PLAIN: Final = Augmentation()
_STRONG: Final = (("increasing", False), ("magnitude", 10.0), ("magnitude_std", 0.0), ("probability", 1.0))

RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "finetune": Recipe(
            epochs=20,
            batch_size=64,
            learning_rate=5e-4,
            scale_learning_rate=True,
            layer_decay=0.65,
            augmentation=_PLAIN,
            transforms=(_crop(0.08), "horizontal_flip", "rand_augment", "random_erasing"),
            objective=PartSpec("classify", (("cutmix", 1.0), ("mixup", 0.8), ("smoothing", 0.1))),
        ),
        "probe": Recipe(
            epochs=20,
            batch_size=128,
            learning_rate=3e-3,
            weight_decay=1e-4,
            augmentation=_PLAIN,
            objective="probe",
            train=("readout",),
        ),
        "scratch": Recipe(
            epochs=90,
            batch_size=1024,
            learning_rate=1e-3,
            warmup=10_000 / 112_590,
            weight_decay=1e-4 / 1e-3,
            augmentation=_PLAIN,
            transforms=(_crop(0.05, "bilinear"), "horizontal_flip", PartSpec("rand_augment", _STRONG)),
            objective=PartSpec("classify", (("mixup", 0.2),)),
        ),
        "mae": Recipe(
            epochs=800,
            batch_size=4096,
            learning_rate=1.5e-4,
            scale_learning_rate=True,
            warmup=0.05,
            beta2=0.95,
            clip_norm=None,
            augmentation=_PLAIN,
            transforms=(_crop(0.2), "horizontal_flip"),
            objective="mae",
        ),
        "dino": Recipe(
            epochs=100,
            batch_size=512,
            learning_rate=5e-4,
            scale_learning_rate=True,
            warmup=0.1,
            weight_decay=0.04,
            clip_norm=3.0,
            augmentation=_PLAIN,
            transforms=("multi_crop",),
            objective="dino",
        ),
        "clip": Recipe(
            epochs=32,
            batch_size=32_768,
            learning_rate=5e-4,
            warmup=2000 / 390_000,
            weight_decay=0.2,
            beta2=0.98,
            clip_norm=None,
            augmentation=_PLAIN,
            transforms=(_crop(0.9),),
            objective="clip",
        ),
    }
)
"""Recipes by name, with their sources.

- `finetune`: for a large pretrained model and many photographs. It is MAE's fine-tuning (He et al. 2022, table 9: base
  rate 5e-4 to 1e-3, layer decay 0.65 to 0.75, decay 0.05, smoothing 0.1, mixup 0.8, CutMix 1.0, RandAugment of
  magnitude 9; its code erases a box in a quarter of the images), with fewer epochs. A small model learns hardly
  anything in 20 epochs from a thousand small pictures: use `Recipe(learning_rate=3e-3)` there.
- `probe`: only the pool and the head are trained. `vitrail compare` finds a learning rate for your images.
- `scratch`: Beyer, Zhai and Kolesnikov, *Better plain ViT baselines for ImageNet-1k*, 2022, arXiv:2205.01580, for S/16:
  90 epochs, batch 1,024, rate 1e-3 with 10,000 steps of warm-up, a weight decay of 1e-4 that is not multiplied by the
  rate, gradient norm 1, crops of at least 5 % of a picture, flips, mixup 0.2, and two layers of RandAugment of
  magnitude 10, without Cutout.
- `mae`: He et al., *Masked Autoencoders Are Scalable Vision Learners*, 2022, table 8: crops of at least 20 %, flips.
- `dino`: Caron et al. 2021. The weight decay stays 0.04; the paper raises it to 0.4.
- `clip`: Radford et al. 2021, table 18, ViT-B; crops of at least 90 % as in open_clip.

The batch sizes are those of the papers, for many devices. For one machine, use a smaller one:
`dataclasses.replace(RECIPES["mae"], batch_size=64)`.
"""
