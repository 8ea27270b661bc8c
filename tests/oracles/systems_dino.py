"""DINO and DINOv2 in training: the backbones and heads of DINOv2's own package, under the names of checkpoints."""

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from checkpoint_oracle import Shapes, batch, dinov2, shapes_of, tensors_by_name
from system_cases import SystemCase

with contextlib.redirect_stderr(io.StringIO()):
    heads: Any = importlib.import_module("dinov2.layers.dino_head")

WIDTHS = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
HEAD = {"in_dim": 16, "hidden_dim": 10, "bottleneck_dim": 6}
SIZE = (16, 16)
SMALL = (8, 12)
"""The size of a small crop, for which the positions are resampled."""


def make_head(prototypes: int, layers: int = 3) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the package uses PyTorch's old normalisation of weights
        return heads.DINOHead(out_dim=prototypes, nlayers=layers, **HEAD)


def dino_case(image: np.ndarray, *, wrapper: str, beside: str = "", layers: int = 3) -> SystemCase:
    """DINO, whose backbone is that of DINOv2 without layer scales and mask token."""
    backbone = dinov2.DinoVisionTransformer(**WIDTHS, block_chunks=0)
    network = torch.nn.ModuleDict({"backbone": backbone, "head": make_head(20, layers)})
    shapes = shapes_of(network.state_dict())
    del shapes["backbone.mask_token"]
    return make_case("dino", network, image, shapes, wrapper, beside, hidden=False)


def dinov2_case(image: np.ndarray, *, chunks: int = 0, patch_head: bool = True, wrapper: str = "") -> SystemCase:
    """DINOv2: with a head for patches or one for all, its blocks in chunks or in one list."""
    backbone = dinov2.DinoVisionTransformer(**WIDTHS, init_values=1.0, block_chunks=chunks)
    parts = {"backbone": backbone, "dino_head": make_head(20)} | ({"ibot_head": make_head(12, 2)} if patch_head else {})
    network = torch.nn.ModuleDict(parts)
    return make_case("dinov2", network, image, shapes_of(network.state_dict()), wrapper, "", hidden=True)


def make_case(
    layout: str, network: Any, image: np.ndarray, shapes: Shapes, wrapper: str, beside: str, *, hidden: bool
) -> SystemCase:
    named = {f"{wrapper}{name}": shape for name, shape in shapes.items()}
    tensors = tensors_by_name(named)
    network.load_state_dict({name: tensors[f"{wrapper}{name}"] for name in shapes}, strict=False)
    if beside:
        named |= {f"{beside}{name}": shape for name, shape in shapes.items()} | {"dino_loss.center": (1, 20)}
    small = image[: SMALL[0], : SMALL[1]]
    inputs = {"image": image, "small": small}
    if hidden:
        inputs["hidden"] = np.random.RandomState(2).rand(16) < 0.4
    options = {"config": {"num_heads": 2}}
    return SystemCase(layout, named, inputs=inputs, outputs=run_network(network.eval(), inputs), options=options)


def run_network(network: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the heads and the backbone give for an image, a smaller one, and one of which patches are hidden."""
    parts = dict(network)
    head = parts["head"] if "head" in parts else parts["dino_head"]
    masks = torch.from_numpy(inputs["hidden"])[None] if "hidden" in inputs else None
    found: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for name, image, hidden in (
            ("image", inputs["image"], None),
            ("small", inputs["small"], None),
            *([("hidden", inputs["image"], masks)] if masks is not None else []),
        ):
            features = parts["backbone"](batch(image), hidden, is_training=True)
            patches = parts.get("ibot_head", head)(features["x_norm_patchtokens"])
            found |= {
                f"{name} scores": head(features["x_norm_clstoken"])[0].numpy(),
                f"{name} embedding": features["x_norm_clstoken"][0].numpy(),
                f"{name} patches": features["x_norm_patchtokens"][0].numpy(),
                f"{name} patch scores": patches[0].numpy(),
            }
    return found


CASES: dict[str, Callable[[np.ndarray], SystemCase]] = {
    "Meta DINO, the teacher of a run": partial(dino_case, wrapper="teacher.", beside="student.module."),
    "Meta DINO, the student alone": partial(dino_case, wrapper="module.", layers=1),
    "Meta DINOv2, one head for patches": partial(dinov2_case, chunks=2, wrapper="teacher."),
    "Meta DINOv2, one head for all": partial(dinov2_case, patch_head=False),
}
