"""timm's ViT through `torch.compile`."""

from typing import Any

from cases import Case
from program import Program

from contenders import timm_vit

DISTRIBUTIONS = timm_vit.DISTRIBUTIONS


def build(case: Case, weights: dict[str, Any] | None) -> Program:
    return timm_vit.build(case, weights, compiled=True)
