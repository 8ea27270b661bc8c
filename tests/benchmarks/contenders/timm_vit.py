"""timm's ViT, eager, with PyTorch's fused attention."""

from typing import Any

import torch
from cases import CLASSES, PATCH, Case
from program import Program, torch_program
from timm.models.vision_transformer import VisionTransformer

DISTRIBUTIONS = ("timm", "torch")


def build(case: Case, weights: dict[str, Any] | None, *, compiled: bool = False) -> Program:
    model = VisionTransformer(
        img_size=case.image,
        patch_size=PATCH,
        num_classes=CLASSES,
        global_pool="avg",
        embed_dim=case.dim,
        depth=case.depth,
        num_heads=case.num_heads,
        class_token=False,
        fc_norm=False,
    )
    if weights is not None:
        model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return torch_program(case, model, compiled=compiled)
