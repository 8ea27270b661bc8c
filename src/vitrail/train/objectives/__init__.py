"""Objectives: what a model is trained for, one file each."""

from ._base import (
    AbstractObjective as AbstractObjective,
    Batch as Batch,
    ObjectiveContext as ObjectiveContext,
    ObjectiveFactory as ObjectiveFactory,
    Outcome as Outcome,
    Scalar as Scalar,
    check_kept as check_kept,
    check_returned as check_returned,
    compare_with as compare_with,
    normalise_images as normalise_images,
)
from ._classify import (
    ClassifyObjective as ClassifyObjective,
    cross_entropy as cross_entropy,
    make_targets as make_targets,
)
from ._clip import CLIPObjective as CLIPObjective, contrast as contrast, contrast_pairs as contrast_pairs
from ._dino import DINOObjective as DINOObjective
from ._mae import MAEObjective as MAEObjective
from ._probe import ProbeObjective as ProbeObjective
from ._table import OBJECTIVES as OBJECTIVES
