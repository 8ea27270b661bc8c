"""Training on images: a recipe, `fit`, `evaluate`, and the loop that they share with the pooling lab.

Its libraries are those of the extra `train`.
"""

from ._bar import show_progress as show_progress
from ._batches import make_batches as make_batches
from ._evaluate import (
    Evaluation as Evaluation,
    apply_in_batches as apply_in_batches,
    check_outputs as check_outputs,
    evaluate as evaluate,
    iterate_batches as iterate_batches,
)
from ._fit import (
    Classifier as Classifier,
    check_channels as check_channels,
    check_classifier as check_classifier,
    fit as fit,
)
from ._knn import (
    NearestNeighbours as NearestNeighbours,
    knn as knn,
    rank_by_neighbours as rank_by_neighbours,
)
from ._loop import Progress as Progress, Scalar as Scalar, cross_entropy as cross_entropy, optimise as optimise
from ._recipe import Recipe as Recipe
