"""Images: opened, resized, normalised and augmented, and data sets of them.

Loading pictures needs the extra `train` or `weights`, the digits the extra `demo`.
"""

from ._augment import Augmentation as Augmentation
from ._crops import Crops as Crops
from ._dataset import (
    Dataset as Dataset,
    Examples as Examples,
    hold_out as hold_out,
    hold_out_images as hold_out_images,
    measure_preprocess as measure_preprocess,
)
from ._equal import describe_equal as describe_equal, find_equal as find_equal
from ._idx import load_idx as load_idx
from ._load import load_images as load_images
from ._mnist import load_mnist as load_mnist
from ._open import FORMATS as FORMATS
from ._picture import to_picture as to_picture
from ._pictures import Pictures as Pictures
from ._preprocess import CLIP as CLIP, HALF as HALF, IMAGENET as IMAGENET, Preprocess as Preprocess
from ._problems import DataError as DataError, raise_problems as raise_problems
from ._records import RecordSource as RecordSource, load_records as load_records
from .transforms import (
    TRANSFORMS as TRANSFORMS,
    AbstractTransform as AbstractTransform,
    ColorJitter as ColorJitter,
    HorizontalFlip as HorizontalFlip,
    MultiCrop as MultiCrop,
    RandAugment as RandAugment,
    RandomErasing as RandomErasing,
    RandomResizedCrop as RandomResizedCrop,
    ThreeAugment as ThreeAugment,
    TransformContext as TransformContext,
    TransformFactory as TransformFactory,
    augment as augment,
    make_transforms as make_transforms,
)
