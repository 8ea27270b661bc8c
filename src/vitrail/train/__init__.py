"""Training on images: objectives, recipes, the step, `fit` and `evaluate`.

Its libraries are those of the extra `train`.
"""

from ._bar import show_progress as show_progress, write_board as write_board
from ._batches import make_batches as make_batches
from ._checkpoints import Checkpoints as Checkpoints
from ._classifier import (
    Classifier as Classifier,
    check_channels as check_channels,
    check_classifier as check_classifier,
)
from ._evaluate import (
    Evaluation as Evaluation,
    apply_in_batches as apply_in_batches,
    check_outputs as check_outputs,
    evaluate as evaluate,
    iterate_batches as iterate_batches,
)
from ._fit import fit as fit, make_objective as make_objective
from ._hosts import join_hosts as join_hosts, share_failure as share_failure
from ._knn import (
    NearestNeighbours as NearestNeighbours,
    knn as knn,
    rank_by_neighbours as rank_by_neighbours,
)
from ._loop import Progress as Progress, StopTraining as StopTraining, run_steps as run_steps
from ._match import match_texts as match_texts
from ._mesh import (
    collect as collect,
    find_shardings as find_shardings,
    make_divided as make_divided,
    make_mesh as make_mesh,
)
from ._optimiser import make_optimiser as make_optimiser, make_schedule as make_schedule
from ._recipe import RECIPES as RECIPES, Recipe as Recipe
from ._run import read_metrics as read_metrics, read_run as read_run
from ._state import Training as Training, TrainState as TrainState
from .objectives import (
    OBJECTIVES as OBJECTIVES,
    AbstractObjective as AbstractObjective,
    Batch as Batch,
    ClassifyObjective as ClassifyObjective,
    CLIPObjective as CLIPObjective,
    DINOObjective as DINOObjective,
    MAEObjective as MAEObjective,
    ObjectiveContext as ObjectiveContext,
    ObjectiveFactory as ObjectiveFactory,
    Outcome as Outcome,
    ProbeObjective as ProbeObjective,
    Scalar as Scalar,
    compare_with as compare_with,
    contrast as contrast,
    contrast_pairs as contrast_pairs,
    cross_entropy as cross_entropy,
    make_targets as make_targets,
    normalise_images as normalise_images,
)
