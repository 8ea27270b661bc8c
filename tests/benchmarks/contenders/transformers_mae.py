"""A training step of the masked autoencoder of transformers, which is that of the paper's authors."""

from typing import Any

import torch
from cases import DECODER_DEPTH, DECODER_DIM, DECODER_HEADS, PATCH, Case
from program import Program, torch_program
from transformers import ViTMAEConfig, ViTMAEForPreTraining

DISTRIBUTIONS = ("transformers", "torch")


class Loss(torch.nn.Module):
    """Gives the loss alone."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, images: Any) -> Any:
        return self.model(pixel_values=images).loss


def build(case: Case, weights: dict[str, Any] | None) -> Program:
    assert weights is None
    assert case.mode == "mae"
    config = ViTMAEConfig(
        hidden_size=case.dim,
        num_hidden_layers=case.depth,
        num_attention_heads=case.num_heads,
        intermediate_size=4 * case.dim,
        image_size=case.image,
        patch_size=PATCH,
        decoder_hidden_size=DECODER_DIM,
        decoder_num_hidden_layers=DECODER_DEPTH,
        decoder_num_attention_heads=DECODER_HEADS,
        decoder_intermediate_size=4 * DECODER_DIM,
        norm_pix_loss=True,
    )
    return torch_program(case, Loss(ViTMAEForPreTraining(config)), compiled=False)
