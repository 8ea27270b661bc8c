"""timm's pools with random weights: what goes in, what comes out, and every parameter, as NumPy arrays."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

# torchvision without its compiled half lacks two operators, which timm never calls but torchvision looks up.
TORCHVISION = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    TORCHVISION.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

timm = importlib.import_module("timm")
layers = importlib.import_module("timm.layers")
cait = importlib.import_module("timm.models.cait")
vision_transformer = importlib.import_module("timm.models.vision_transformer")

Arrays = dict[str, np.ndarray]
DIM, PREFIX, PATCHES = 24, 2, 7


def norm(dim: int, **options: Any) -> torch.nn.LayerNorm:
    """LayerNorm with the epsilon of timm's vision transformers."""
    return torch.nn.LayerNorm(dim, eps=1e-6, **options)


def cases(seed: int) -> dict[str, Arrays]:
    """By name, of each pool: `prefix`, `patches`, `output`, and its parameters under their own names."""
    torch.manual_seed(seed)
    sequence = torch.randn(1, PREFIX + PATCHES, DIM)

    def reduced(kind: str) -> Arrays:
        return given(sequence, vision_transformer.global_pool_nlc(sequence, kind, num_prefix_tokens=PREFIX))

    def attention(latents: int, heads: int, kind: str) -> Arrays:
        pool = layers.AttentionPoolLatent(
            DIM, num_heads=heads, latent_len=latents, pool_type=kind, norm_layer=norm, act_layer=torch.nn.GELU
        )
        return module(pool, sequence, lambda: pool(sequence[:, PREFIX:]))

    def lse() -> Arrays:
        pool = layers.LsePlus1d(r=1.7)
        return given(sequence, pool(sequence[:, PREFIX:]), r=pool.r)

    def simpool() -> Arrays:
        pool = layers.SimPool1d(DIM, gamma=None, norm_layer=norm)
        return module(pool, sequence, lambda: pool(sequence[:, PREFIX:]))

    def class_attention() -> Arrays:
        block = cait.LayerScaleBlockClassAttn(DIM, num_heads=3, qkv_bias=True, norm_layer=norm, init_values=0.1)
        token = torch.randn(1, 1, DIM)
        arrays = module(block, sequence, lambda: block(sequence[:, PREFIX:], token))
        return arrays | {"class_token": token[0].numpy()}

    return {
        "mean": reduced("avg"),
        "max": reduced("max"),
        "mean_max": reduced("avgmax"),
        "cls": reduced("token"),
        "attention": attention(1, 1, "token"),
        "attention of three heads": attention(1, 3, "token"),
        "attention of two latents": attention(2, 2, ""),
        "lse": lse(),
        "simpool": simpool(),
        "cait": class_attention(),
    }


def module(module: torch.nn.Module, sequence: torch.Tensor, call: Callable[[], torch.Tensor]) -> Arrays:
    """A module's case, with every parameter of it drawn anew: nothing hides behind zeros and ones."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape))
    return given(sequence, call(), **dict(module.named_parameters()))


def given(sequence: torch.Tensor, output: torch.Tensor, **parameters: torch.Tensor) -> Arrays:
    """The arrays of one image."""
    tensors = {"prefix": sequence[0, :PREFIX], "patches": sequence[0, PREFIX:], "output": output[0], **parameters}
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
