"""Random changes of pictures on the host, by Pillow, one file each."""

from ._base import (
    AbstractTransform as AbstractTransform,
    TransformContext as TransformContext,
    TransformFactory as TransformFactory,
)
from ._color_jitter import ColorJitter as ColorJitter
from ._horizontal_flip import HorizontalFlip as HorizontalFlip
from ._multi_crop import MultiCrop as MultiCrop
from ._rand_augment import RandAugment as RandAugment
from ._random_erasing import RandomErasing as RandomErasing
from ._random_resized_crop import RandomResizedCrop as RandomResizedCrop
from ._table import (
    TRANSFORMS as TRANSFORMS,
    augment as augment,
    make_transforms as make_transforms,
)
from ._three_augment import ThreeAugment as ThreeAugment
