"""DPT and Depth Anything with random weights: their checkpoints, and the maps that they make of images."""

import functools
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint_cases import Arrays, drawn
from checkpoint_oracle import Shapes, Tensors, batch, dinov2, saved, transformers
from safetensors.torch import save_file
from system_cases import SystemCase

SMALL = {"hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
NECK = {"neck_hidden_sizes": [6, 5, 4, 7], "fusion_hidden_size": 4}
VIT = {**SMALL, **NECK, "intermediate_size": 24, "backbone_out_indices": [0, 1, 3, 4]}
INNER = {**SMALL, "mlp_ratio": 2, "out_indices": [1, 2, 4, 5], "reshape_hidden_states": False}
DPT: dict[str, tuple[str, dict[str, Any]]] = {
    "DPTForDepthEstimation": ("hf_dpt", VIT),
    "DPTForDepthEstimation ignoring the class token": (
        "hf_dpt",
        {**VIT, "readout_type": "ignore", "use_batch_norm_in_fusion_residual": True},
    ),
    "DPTForDepthEstimation adding the class token": (
        "hf_dpt",
        {**VIT, "readout_type": "add", "reassemble_factors": [3, 2, 1, 1 / 3]},
    ),
    "DPTForDepthEstimation with a projection": (
        "hf_dpt",
        {**VIT, "add_projection": True, "fusion_hidden_size": 256},
    ),
    "DPTForSemanticSegmentation": ("hf_dpt", {**VIT, "num_labels": 5, "hidden_act": "relu"}),
    "DPTForDepthEstimation with DINOv2": ("hf_dpt_dinov2", NECK),
    "DPTForDepthEstimation with DINOv2 before its norm": ("hf_dpt_dinov2", {**NECK, "readout_type": "ignore"}),
    "DepthAnythingForDepthEstimation": ("hf_depth_anything", NECK),
    "DepthAnythingForDepthEstimation in metres": (
        "hf_depth_anything",
        {**NECK, "depth_estimation_type": "metric", "max_depth": 20, "head_hidden_size": 6},
    ),
}
LARGE = "DPTForDepthEstimation with a projection"
"""Its projection has 256 channels whatever else there is, too many for a fixture."""


def fixed_of(shapes: Shapes) -> Arrays:
    """What is not drawn around zero: variances, counters, and what ends a depth, so that few pixels are zero."""
    found: Arrays = {}
    for name, shape in shapes.items():
        if name.endswith("running_var"):
            found[name] = 0.5 + np.abs(drawn(name, shape))
        elif name.endswith("num_batches_tracked"):
            found[name] = np.zeros(shape, np.int64)
        elif len(shape) == 4 and shape[::2] == (1, 1):
            found[name] = np.abs(drawn(name, shape))
    return found


def tensors_of(shapes: Shapes) -> Tensors:
    """The tensors of a checkpoint, by their names."""
    fixed = fixed_of(shapes)
    return {name: torch.from_numpy(fixed.get(name, drawn(name, shape))) for name, shape in shapes.items()}


def images_of(image: np.ndarray, *, squares: bool) -> Arrays:
    """The image and one with an odd number of patches, by their sizes."""
    wide = np.pad(image, ((0, 4), (0, 4 if squares else 16), (0, 0)), "wrap")
    return {f"{each.shape[0]}x{each.shape[1]}": each for each in (image, wide)}


def hugging_face_case(name: str, image: np.ndarray) -> SystemCase:
    """One of the models of transformers, under the names that it writes."""
    layout, options = DPT[name]
    kind = name.split()[0]
    config = getattr(transformers, "DepthAnythingConfig" if layout == "hf_depth_anything" else "DPTConfig")
    if layout != "hf_dpt":
        norm = {"apply_layernorm": "before its norm" not in name}
        options = {**options, "backbone_config": transformers.Dinov2Config(**INNER, **norm)}
    if layout == "hf_depth_anything":
        options = {**options, "patch_size": 4, "reassemble_hidden_size": 16}
    shapes, settings = saved(getattr(transformers, kind)(config(**options)).save_pretrained)
    with tempfile.TemporaryDirectory() as folder:  # the file has the names of the Hub, and memory those of version 5
        save_file(tensors_of(shapes), Path(folder, "model.safetensors"), metadata={"format": "pt"})
        Path(folder, "config.json").write_text(json.dumps(settings))
        model = getattr(transformers, kind).from_pretrained(folder).eval()
    inputs = images_of(image, squares=layout == "hf_dpt")  # its ViT takes squares alone
    outputs: Arrays = {}
    with torch.no_grad():
        for size, given in inputs.items():
            found = model(batch(given))
            depth = getattr(found, "predicted_depth", None)
            outputs[size] = (found.logits if depth is None else depth[:, None])[0].permute(1, 2, 0).numpy()[::3, ::3]
    return SystemCase(layout, shapes, {"config.json": settings}, inputs=inputs, outputs=outputs, fixed=fixed_of(shapes))


RENAMED = {
    r"neck\.reassemble_stage\.layers\.(\d)\.projection": r"depth_head.projects.\1",
    r"neck\.reassemble_stage\.layers\.(\d)\.resize": r"depth_head.resize_layers.\1",
    r"residual_layer(\d)\.convolution(\d)": r"resConfUnit\1.conv\2",
    r"head\.conv1": "depth_head.scratch.output_conv1",
    r"head\.conv2": "depth_head.scratch.output_conv2.0",
    r"head\.conv3": "depth_head.scratch.output_conv2.2",
}
"""The names of transformers, and those of Depth Anything's own code."""


def rename(name: str) -> str:
    """The name in Depth Anything's own code of what transformers has under this one."""
    for pattern, new in RENAMED.items():
        name = re.sub(f"^{pattern}" if not pattern.startswith("residual") else pattern, new, name)
    name = re.sub(r"^neck\.convs\.(\d)", lambda found: f"depth_head.scratch.layer{int(found[1]) + 1}_rn", name)
    name = re.sub(
        r"^neck\.fusion_stage\.layers\.(\d)\.", lambda found: f"depth_head.scratch.refinenet{4 - int(found[1])}.", name
    )
    return name.replace(".projection.", ".out_conv.")


def authors_case(version: int, image: np.ndarray) -> SystemCase:
    """Depth Anything under its authors' names: the package `dinov2`, which they copied, and transformers' neck."""
    block = functools.partial(dinov2.Block, attn_class=dinov2.MemEffAttention)
    backbone = dinov2.DinoVisionTransformer(
        16, 4, embed_dim=16, depth=12, num_heads=2, mlp_ratio=1.5, init_values=1.0, block_chunks=0, block_fn=block
    )
    kind: dict[str, Any] = {"depth_estimation_type": "metric", "max_depth": 80} if version == 2 else {}
    whole = transformers.DepthAnythingForDepthEstimation(
        transformers.DepthAnythingConfig(
            **NECK,
            **kind,
            backbone_config=transformers.Dinov2Config(**INNER),
            patch_size=4,
            reassemble_hidden_size=16,
        )
    )
    shapes = {f"pretrained.{name}": tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    theirs = {n: tuple(t.shape) for n, t in whole.state_dict().items() if n.startswith(("neck.", "head."))}
    shapes |= {rename(name): shape for name, shape in theirs.items()}
    tensors = tensors_of(shapes)
    backbone.load_state_dict({n.removeprefix("pretrained."): t for n, t in tensors.items() if n.startswith("pre")})
    whole.load_state_dict({name: tensors[rename(name)] for name in theirs}, strict=False)
    backbone.eval()
    whole.eval()
    layers = (8, 9, 10, 11) if version == 1 else (2, 5, 8, 11)

    inputs, outputs = images_of(image, squares=False), Arrays()
    with torch.no_grad():
        for size, given in inputs.items():
            found = backbone.get_intermediate_layers(batch(given), layers, return_class_token=True)
            tokens = [torch.cat([class_token[:, None], patches], 1) for patches, class_token in found]
            rows, cols = given.shape[0] // 4, given.shape[1] // 4
            outputs[size] = whole.head(whole.neck(tokens, rows, cols), rows, cols)[0, ::3, ::3, None].numpy()
    return SystemCase(
        "depth_anything",
        shapes,
        inputs=inputs,
        outputs=outputs,
        options={"config": {"num_heads": 2, "version": version, **kind}},
        image_options={"config": {"num_heads": 2}},
        fixed=fixed_of(shapes),
    )


CASES: dict[str, Callable[[np.ndarray], SystemCase]] = {
    **{f"transformers {name}": functools.partial(hugging_face_case, name) for name in DPT if name != LARGE},
    **{f"Depth Anything, version {version}": functools.partial(authors_case, version) for version in (1, 2)},
}
SIZE = (16, 16)
