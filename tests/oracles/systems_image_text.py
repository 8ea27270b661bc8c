"""CLIP, SigLIP and AIMv2 with both towers, of transformers and of open_clip, image towers of timm among them."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from checkpoint_cases import image_of
from checkpoint_oracle import (
    PICTURE,
    WIDTHS,
    Shapes,
    Tensors,
    batch,
    open_clip,
    saved,
    shapes_of,
    tensors_by_name,
    transformers,
)
from safetensors.torch import save_file
from system_cases import SystemCase
from timm_oracle import timm

SIZE = (16, 16)
LARGER = image_of((20, 32))
END = 19
TEXTS = [[18, 3, 7, END, 0, 0, 0, 0], [11, 4, 1, 6, 5, 9, 2, END], [4, END, END, END, END, END, END, END]]
"""Ids of three texts, the last of them padded with the end. The largest id is the end."""

# --- Hugging Face -------------------------------------------------------------------------------------------------

TEXT = {**WIDTHS, "vocab_size": 20, "max_position_embeddings": 8}
VISION = {**WIDTHS, **PICTURE}
HUGGING_FACE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "CLIPModel": ("hf_clip", "CLIP", {"text_config": {**TEXT, "eos_token_id": END}}),
    "CLIPModel of before July 2023": ("hf_clip", "CLIP", {"text_config": {**TEXT, "eos_token_id": 2}}),
    "CLIPModel of 2022": ("hf_clip", "CLIP", {"text_config": TEXT}),
    "MetaClip2Model": ("hf_clip", "MetaClip2", {"text_config": {**TEXT, "eos_token_id": 2, "hidden_act": "gelu"}}),
    "SiglipModel": ("hf_siglip", "Siglip", {"text_config": {**TEXT, "hidden_size": 20, "projection_size": 16}}),
    "Siglip2Model": (
        "hf_siglip",
        "Siglip2",
        {"text_config": TEXT, "vision_config": {**WIDTHS, "patch_size": 4, "num_patches": 16}},
    ),
    "Aimv2Model": ("hf_aimv2", "Aimv2", {"text_config": {**TEXT, "eos_token_id": END}, "projection_dim": 5}),
}


TWICE = {
    "CLIPModel of 2022": {
        "text_config_dict": {**TEXT, "eos_token_id": END, "hidden_act": "gelu"},
        "vision_config": {**VISION, "hidden_act": "gelu", "layer_norm_eps": 1e-3},
        "vision_config_dict": {**VISION, "num_attention_heads": 4},
    }
}
"""Settings that files of 2022 have a second time. They replace the first, and so do transformers' own defaults."""


def hugging_face_case(name: str, image: np.ndarray) -> SystemCase:
    """One of the models of transformers, under the names that it writes."""
    layout, family, options = HUGGING_FACE[name]
    config = {"vision_config": VISION, **({"projection_dim": 5} if layout == "hf_clip" else {}), **options}
    kind = getattr(transformers, f"{family}Model")
    shapes, settings = saved(kind(getattr(transformers, f"{family}Config")(**config)).save_pretrained)
    settings |= TWICE.get(name, {})
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors_by_name(shapes), Path(folder, "model.safetensors"), metadata={"format": "pt"})
        Path(folder, "config.json").write_text(json.dumps(settings))
        model = kind.from_pretrained(folder).eval()
    found = {"": run_transformers(model, batch(image))}
    if layout != "hf_aimv2":  # which has no rule for other sizes
        found["larger_"] = run_transformers(model, batch(LARGER))
    return make_case(layout, shapes, {"config.json": settings}, image, found)


APPLE = {
    "visual_projection": "image_projector",
    "text_projection": "text_projector",
    "logit_scale": "log_logit_scale",
    "vision_model.": "image_encoder.",
    "text_model.": "text_encoder.",
    "embeddings.patch_embed": "preprocessor.patchifier.proj",
    "embeddings.rms_norm": "preprocessor.patchifier.norm",
    "image_encoder.embeddings.position_embedding.weight": "image_encoder.preprocessor.pos_embed",
    "embeddings.token_embedding": "preprocessor.text_embedding",
    "embeddings.position_embedding.weight": "preprocessor.positional_embedding",
    "encoder.rms_norm": "encoder.trunk.post_trunk_norm",
    "encoder.layers": "trunk.blocks",
    "rms_norm": "norm_",
    "attention.out_proj": "attn.proj",
    **{f"attention.{part}_proj": "attn.qkv" for part in "qkv"},
    "ffn.gate_proj": "mlp.fc1",
    "ffn.down_proj": "mlp.fc2",
    "ffn.up_proj": "mlp.fc3",
    "k_proj": "k",
    "v_proj": "v",
    "output_proj": "linear",
}
"""Apple's names by transformers', as its conversion script of AIMv2 has them."""


def apple_case(image: np.ndarray) -> SystemCase:
    """AIMv2 with both towers under Apple's names, converted to those of transformers and run by it."""
    config = {"vision_config": VISION, "text_config": {**TEXT, "eos_token_id": END}, "projection_dim": 5}
    model = transformers.Aimv2Model(transformers.Aimv2Config(**config)).eval()
    shapes, state = Shapes(), model.state_dict()
    names = {name: functools.reduce(lambda n, pair: n.replace(*pair), APPLE.items(), name) for name in state}
    for name, tensor in state.items():
        rows, *others = tensor.shape or (None,)
        stacked = (3 * rows, *others) if "qkv" in names[name] else tuple(tensor.shape)
        shapes[names[name]] = (1, *stacked) if "pos_embed" in names[name] else stacked
    tensors = tensors_by_name(shapes)
    for name, tensor in state.items():
        found = tensors[names[name]]
        part = name[name.index("attention.") + 10] if "qkv" in names[name] else ""
        state[name] = found.chunk(3)["qkv".index(part)] if part else found.reshape(tensor.shape)
    model.load_state_dict(state)
    settings = {"config.json": {"model_type": "aimv2", **config}}
    return make_case("aimv2", shapes, settings, image, {"": run_transformers(model, batch(image))})


def make_case(
    layout: str, shapes: Shapes, settings: dict[str, Any], image: np.ndarray, found: dict[str, Tensors]
) -> SystemCase:
    """A case of what was found for an image, and for a larger one."""
    inputs = {"image": image, "texts": np.asarray(TEXTS)}
    if "larger_" in found:
        inputs["larger_size"] = np.asarray(LARGER.shape[:2])
    given = {f"{size}{name}": tensor.numpy() for size, both in found.items() for name, tensor in both.items()}
    return SystemCase(layout, shapes, settings, inputs, {**given, "texts": given["texts"]})


@torch.no_grad()
def run_transformers(model: Any, image: torch.Tensor, texts: Any = TEXTS) -> Tensors:
    """The embeddings of an image and of the texts, and the logits."""
    if type(model).__name__ == "Siglip2Model":  # reads flattened patches, and is told how they lie
        rows, cols = image.shape[2] // 4, image.shape[3] // 4
        patches = image.reshape(1, 3, rows, 4, cols, 4).permute(0, 2, 4, 3, 5, 1).reshape(1, rows * cols, -1)
        mask = torch.ones(1, rows * cols, dtype=torch.int64)
        given = {"pixel_attention_mask": mask, "spatial_shapes": torch.tensor([[rows, cols]]), "pixel_values": patches}
    elif type(model).__name__ == "Aimv2Model":  # not causal without a mask, nor with "sdpa" and a mask of ones
        ends = torch.as_tensor(texts) == END
        given = {"pixel_values": image, "attention_mask": (ends.cumsum(1) - ends.int() == 0).int()}
    else:
        given = {"pixel_values": image, "interpolate_pos_encoding": True}
    found = model(input_ids=torch.as_tensor(texts), **given)
    return {"image": found.image_embeds[0], "texts": found.text_embeds, "similarity": found.logits_per_image[0]}


# --- open_clip ----------------------------------------------------------------------------------------------------

OWN = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 4, "mlp_ratio": 1.5}
OPEN_TEXT = {"context_length": 8, "vocab_size": 20, "width": 8, "heads": 2, "layers": 2}
SIGLIP_TEXT = {
    **OPEN_TEXT,
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
}
MAP = {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"}
TOKEN = {"timm_pool": "token", "timm_proj": None}
OPEN_CLIP: dict[str, tuple[str, dict[str, Any]]] = {
    "both towers": ("openai_clip", {"vision_cfg": OWN, "text_cfg": OPEN_TEXT}),
    "both towers, quick": ("openai_clip", {"vision_cfg": OWN, "text_cfg": OPEN_TEXT, "quick_gelu": True}),
    "eos": (
        "openai_clip",
        {
            "vision_cfg": {**OWN, "norm_kwargs": {"eps": 1e-3}, "ls_init_value": 0.1},
            "text_cfg": {**OPEN_TEXT, "pool_type": "eos", "eos_id": END, "ls_init_value": 0.1},
            "init_logit_bias": -10,
        },
    ),
    "CLIPA": (
        "openai_clip",
        {
            "vision_cfg": {**OWN, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
            "text_cfg": {**OPEN_TEXT, "pool_type": "last", "no_causal_mask": True},
        },
    ),
    "custom_text, first, no projection": (
        "openai_clip",
        {
            "embed_dim": 8,
            "vision_cfg": {**OWN, "act_kwargs": {"approximate": "tanh"}},
            "text_cfg": {**OPEN_TEXT, "pool_type": "first", "proj_type": "none"},
            "custom_text": True,
        },
    ),
    "SigLIP": (
        "timm",
        {"embed_dim": 48, "vision_cfg": MAP, "text_cfg": SIGLIP_TEXT, "custom_text": True, "init_logit_bias": -10},
    ),
    "SigLIP 2": (
        "timm",
        {
            "embed_dim": 48,
            "vision_cfg": {**MAP, "timm_model_name": "vit_so400m_patch16_siglip_256"},
            "text_cfg": {**SIGLIP_TEXT, "act_kwargs": {"approximate": "tanh"}},
            "custom_text": True,
            "init_logit_bias": -10,
        },
    ),
    "timm, projected": (
        "timm",
        {
            "vision_cfg": {
                "timm_model_name": "vit_base_patch16_clip_quickgelu_224",
                "timm_pool": "avg",
                "timm_proj": "linear",
            },
            "text_cfg": OPEN_TEXT,
            "custom_text": True,
        },
    ),
    "timm, projected with a bias, flat": (
        "timm",
        {
            "vision_cfg": {
                "timm_model_name": "vit_base_patch16_224",
                "timm_pool": "token",
                "timm_proj": "linear",
                "timm_proj_bias": True,
            },
            "text_cfg": OPEN_TEXT,
        },
    ),
    "EVA-02": (
        "timm_eva",
        {
            "vision_cfg": {"timm_model_name": "eva02_base_patch16_clip_224", **TOKEN},
            "text_cfg": OPEN_TEXT,
            "custom_text": True,
        },
    ),
    "EVA": (
        "timm_eva",
        {
            "vision_cfg": {"timm_model_name": "eva_giant_patch14_224", **TOKEN},
            "text_cfg": OPEN_TEXT,
            "custom_text": True,
        },
    ),
}


def build_open_clip(config: dict[str, Any], size: tuple[int, int]) -> Any:
    """A model of open_clip's for images of a size. timm's models are narrow, with the heads of their architecture."""
    whole = {"embed_dim": 6, **config}
    kind = open_clip.CustomTextCLIP if whole.pop("custom_text", False) else open_clip.CLIP
    whole["vision_cfg"] = {**whole["vision_cfg"], "image_size": size}
    create = timm.create_model

    def create_small(name: str, **options: Any) -> Any:
        return create(name, img_size=size, patch_size=4, embed_dim=48, depth=2, **{"num_classes": 0, **options})

    with mock.patch.object(open_clip.timm_model.timm, "create_model", create_small):
        return kind(**whole, output_dict=True).eval()


def open_clip_case(name: str, image: np.ndarray) -> SystemCase:
    """One of open_clip's models, with its configuration; a larger image by its own resampling."""
    layout, config = OPEN_CLIP[name]
    state = build_open_clip(config, SIZE).state_dict()
    shapes = shapes_of({name: tensor for name, tensor in state.items() if tensor.is_floating_point()})
    found: dict[str, Tensors] = {}
    for size, picture in {"": image, "larger_": LARGER}.items():
        if layout == "openai_clip" or not size:
            tensors, model = tensors_by_name(shapes), build_open_clip(config, (picture.shape[0], picture.shape[1]))
            if size:
                open_clip.model.resize_pos_embed(tensors, model)
            model.load_state_dict(tensors)
            found[size] = run_open_clip(model, batch(picture))
    sized = {"embed_dim": 6, **config, "vision_cfg": {**config["vision_cfg"], "image_size": list(SIZE)}}
    case = make_case(
        layout, shapes, {"open_clip_config.json": {"model_cfg": sized, "preprocess_cfg": {}}}, image, found
    )
    case.writable = "custom_text" not in config
    return case


@torch.no_grad()
def run_open_clip(model: Any, image: torch.Tensor, texts: Any = TEXTS) -> Tensors:
    """The embeddings of an image and of the texts, and the logits."""
    texts = torch.as_tensor(texts)
    embedding, embeddings = model.encode_image(image, normalize=True), model.encode_text(texts, normalize=True)
    return {"image": embedding[0], "texts": embeddings, "similarity": model.get_logits(image, texts)[0][0]}


CASES: dict[str, Callable[[np.ndarray], SystemCase]] = {
    **{f"transformers {name}": functools.partial(hugging_face_case, name) for name in HUGGING_FACE},
    "Apple AIMv2": apple_case,
    **{f"open_clip {name}": functools.partial(open_clip_case, name) for name in OPEN_CLIP},
}
