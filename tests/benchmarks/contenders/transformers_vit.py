"""The mean-pool ViT of transformers: SigLIP's classifier, with exact GELU."""

from typing import Any

import numpy as np
import torch
from cases import CLASSES, EPS, PATCH, Case, block_weights
from program import Program, torch_program
from transformers import SiglipForImageClassification, SiglipVisionConfig

DISTRIBUTIONS = ("transformers", "torch")


class Logits(torch.nn.Module):
    """Gives the logits alone."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, images: Any) -> Any:
        return self.model(pixel_values=images).logits


def build(case: Case, weights: dict[str, Any] | None) -> Program:
    config = SiglipVisionConfig(
        hidden_size=case.dim,
        intermediate_size=4 * case.dim,
        num_hidden_layers=case.depth,
        num_attention_heads=case.num_heads,
        image_size=case.image,
        patch_size=PATCH,
        hidden_act="gelu",
        layer_norm_eps=EPS,
        vision_use_head=False,
    )
    whole = SiglipForImageClassification.config_class(vision_config=config.to_dict(), num_labels=CLASSES)
    model = SiglipForImageClassification(whole)
    if weights is not None:
        named = {name.removeprefix("vision_model."): tensor for name, tensor in model.state_dict().items()}
        found = {name: torch.from_numpy(array) for name, array in renamed(weights, case.depth).items()}
        assert named.keys() == found.keys(), named.keys() ^ found.keys()
        for name, tensor in named.items():
            tensor.copy_(found[name])
    return torch_program(case, Logits(model), compiled=False)


def renamed(weights: dict[str, Any], depth: int) -> dict[str, Any]:
    """The weights by the names of transformers."""
    found = {"embeddings.position_embedding.weight": weights["pos_embed"][0]}
    names = {
        "embeddings.patch_embedding": "patch_embed.proj",
        "post_layernorm": "norm",
        "classifier": "head",
    }
    for kind in ("weight", "bias"):
        found |= {f"{theirs}.{kind}": weights[f"{ours}.{kind}"] for theirs, ours in names.items()}
        for i in range(depth):
            block, layer = block_weights(weights, i), f"encoder.layers.{i}"
            for name, array in zip("qkv", np.split(block[f"attn.qkv.{kind}"], 3), strict=True):
                found[f"{layer}.self_attn.{name}_proj.{kind}"] = array
            for theirs, ours in (
                ("self_attn.out_proj", "attn.proj"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
                ("layer_norm1", "norm1"),
                ("layer_norm2", "norm2"),
            ):
                found[f"{layer}.{theirs}.{kind}"] = block[f"{ours}.{kind}"]
    return found
