"""The sizes of the literature by name."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from .._check import join_names
from ..encoder import EncoderSize

PRESETS: Final[Mapping[str, EncoderSize]] = MappingProxyType(
    {
        "Ti": EncoderSize(dim=192, depth=12, num_heads=3, mlp_dim=768),
        "S": EncoderSize(dim=384, depth=12, num_heads=6, mlp_dim=1536),
        "B": EncoderSize(dim=768, depth=12, num_heads=12, mlp_dim=3072),
        "L": EncoderSize(dim=1024, depth=24, num_heads=16, mlp_dim=4096),
        "H": EncoderSize(dim=1280, depth=32, num_heads=16, mlp_dim=5120),
        "g": EncoderSize(dim=1408, depth=40, num_heads=16, mlp_dim=6144),
        "So400m": EncoderSize(dim=1152, depth=27, num_heads=16, mlp_dim=4304),
    }
)
"""The sizes by name: Ti and S of Touvron et al. 2021 (DeiT, arXiv:2012.12877), B, L and H of Dosovitskiy et al. 2021
(arXiv:2010.11929, table 1), g of Zhai et al. 2022 (arXiv:2106.04560, table 2), So400m of Alabdulmohsin et al. 2023
(arXiv:2305.13035). DINOv2's own g is wider (1,536)."""


def parse_preset(name: str) -> tuple[EncoderSize, tuple[int, int]]:
    """Reads a name such as `"S/16"`, or `"S/16x8"` for patches 16 pixels high and 8 wide.

    **Raises:** `ValueError` if the name has another form, or no preset has that size.
    """
    match = re.fullmatch(r"([A-Za-z0-9]+)/([1-9]\d*)(?:x([1-9]\d*))?", name)
    if match is None or match[1] not in PRESETS:
        raise ValueError(
            f"name must be a size and a patch in pixels, as in 'S/16' or 'S/16x8', got {name!r}: the sizes are "
            f"{join_names(PRESETS)}; for another size, build a ViTConfig"
        )
    return PRESETS[match[1]], (int(match[2]), int(match[3] or match[2]))
