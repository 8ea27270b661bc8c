"""DPT and Depth Anything with random weights: their checkpoints, and the maps that they make of images."""

import functools
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from checkpoint_cases import Case, drawn
from checkpoint_oracle import Images, Shapes, Tensors, dinov2, outputs, saved, transformers
from dense_cases import fixed_of
from safetensors.torch import save_file

SMALL = {"hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
NECK = {"neck_hidden_sizes": [6, 5, 4, 7], "fusion_hidden_size": 8}
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
        {
            **VIT,
            "readout_type": "add",
            "add_projection": True,
            "fusion_hidden_size": 256,
            "reassemble_factors": [3, 2, 1, 1 / 3],
        },
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


def tensors_of(shapes: Shapes) -> Tensors:
    """The tensors of a checkpoint, by their names."""
    fixed = fixed_of(shapes)
    return {name: torch.from_numpy(fixed.get(name, drawn(name, shape))) for name, shape in shapes.items()}


def hugging_face_case(name: str, images: Images) -> Case:
    """One of the models of transformers, under the names that it writes."""
    layout, options = DPT[name]
    kind = name.split()[0]
    config = getattr(transformers, "DepthAnythingConfig" if layout == "hf_depth_anything" else "DPTConfig")
    if layout != "hf_dpt":
        norm = {"apply_layernorm": "before its norm" not in name}
        options = {**options, "backbone_config": transformers.Dinov2Config(**INNER, **norm)}
    if layout == "hf_depth_anything":
        options = {**options, "patch_size": 4, "reassemble_hidden_size": 16}
    model = getattr(transformers, kind)(config(**options))
    shapes, settings = saved(model.save_pretrained)
    shapes = {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}
    # The file has the names of the Hub, and memory those of version 5.
    with tempfile.TemporaryDirectory() as folder:
        model = load_hugging_face(Path(folder), kind, shapes, settings)
    if layout == "hf_dpt":  # its ViT takes squares alone
        images = {size: image for size, image in images.items() if size[0] == size[1]}

    def run(image: torch.Tensor) -> Tensors:
        found = model(image)
        depth = getattr(found, "predicted_depth", None)
        return {"map": (found.logits if depth is None else depth[:, None]).permute(0, 2, 3, 1)}

    return Case(layout, shapes, settings, outputs(images, run), fixed=fixed_of(shapes))


def load_hugging_face(folder: Path, kind: str, shapes: Shapes, settings: dict[str, Any]) -> Any:
    """A model of transformers with all drawn by the names of its file."""
    tensors = tensors_of(shapes)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(settings))
    return getattr(transformers, kind).from_pretrained(folder).eval()


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


def authors_case(version: int, images: Images) -> Case:
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

    def run(image: torch.Tensor) -> Tensors:
        found = backbone.get_intermediate_layers(image, layers, return_class_token=True)
        tokens = [torch.cat([class_token[:, None], patches], 1) for patches, class_token in found]
        rows, cols = image.shape[2] // 4, image.shape[3] // 4
        return {"map": whole.head(whole.neck(tokens, rows, cols), rows, cols)[..., None]}

    options: dict[str, Any] = {"config": {"num_heads": 2, "version": version, **kind}}
    return Case("depth_anything", shapes, None, outputs(images, run), options, fixed=fixed_of(shapes))


DENSE: dict[str, Callable[[Images], Case]] = {
    **{f"transformers {name}": functools.partial(hugging_face_case, name) for name in DPT},
    **{f"Depth Anything, version {version}": functools.partial(authors_case, version) for version in (1, 2)},
}
