"""A table of positions at other sizes, as the original code resamples it."""

import numpy as np
import torch
from checkpoint_cases import Arrays
from checkpoint_oracle import dinov2, torchvision_vit
from torch.nn.functional import interpolate

SIZES = ((9, 9), (4, 4), (5, 11), (8, 3), (1, 7))
TABLE = np.random.RandomState(0).standard_normal((6, 6, 8)).astype(np.float32)


def resampled() -> Arrays:
    """By `rule (rows, cols)`, what the rule's source gives; `table`, what it was given."""
    table = torch.from_numpy(TABLE)
    channels_first = table.permute(2, 0, 1)[None]
    found = {"table": table}
    for size in SIZES:

        def by_torch(mode: str, size: tuple[int, int] = size, **options: bool) -> torch.Tensor:
            return interpolate(channels_first, size=size, mode=mode, **options)[0].permute(1, 2, 0)

        found[f"torch_bicubic {size}"] = by_torch("bicubic")
        found[f"torch_bicubic_antialias {size}"] = by_torch("bicubic", antialias=True)
        found[f"bilinear {size}"] = by_torch("bilinear")
        found[f"bilinear_antialias {size}"] = by_torch("bilinear", antialias=True)
        found[f"torchvision_corners {size}"] = by_torch("bicubic", align_corners=True)
        found[f"dinov2_offset {size}"] = _dinov2(table, size)
        if size[0] == size[1]:  # all that torchvision's own function can do
            own = _torchvision(table, size[0])
            assert torch.equal(own, found[f"torchvision_corners {size}"])
    return {name: tensor.numpy().copy() for name, tensor in found.items()}


def _dinov2(table: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    model = dinov2.DinoVisionTransformer(6, 1, embed_dim=8, depth=1, num_heads=1, block_chunks=0)
    with torch.no_grad():
        model.pos_embed[:, 1:] = table.reshape(1, 36, 8)
        # It calls the height w, and the width h.
        found = model.interpolate_pos_encoding(torch.zeros(1, 1 + size[0] * size[1], 8), *size)
    return found[0, 1:].reshape(*size, 8)


def _torchvision(table: torch.Tensor, side: int) -> torch.Tensor:
    name = "encoder.pos_embedding"
    given = torch.cat([torch.zeros(1, 1, 8), table.reshape(1, 36, 8)], 1)
    found = torchvision_vit.interpolate_embeddings(side, 1, {name: given})[name]
    return found[0, 1:].reshape(side, side, 8)
