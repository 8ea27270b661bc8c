"""Training on images: data, a recipe, `fit`, `evaluate`, and a picture of the result.

Its libraries come with `pip install 'vitrail[train]'`, and with `'vitrail[demo]'` those of the pictures and the digits.
"""

from .._extras import MissingExtraError as MissingExtraError
from ._augment import Augmentation as Augmentation
from ._bar import progress_bar as progress_bar
from ._data import (
    DataError as DataError,
    Dataset as Dataset,
    Examples as Examples,
    Normalisation as Normalisation,
)
from ._evaluate import Evaluation as Evaluation, evaluate as evaluate
from ._fit import Classifier as Classifier, fit as fit
from ._folder import load_folder as load_folder
from ._idx import load_idx as load_idx
from ._load import load_images as load_images
from ._look import attention_map as attention_map
from ._loop import Progress as Progress
from ._mnist import load_mnist as load_mnist
from ._picture import draw_predictions as draw_predictions
from ._recipe import Recipe as Recipe
