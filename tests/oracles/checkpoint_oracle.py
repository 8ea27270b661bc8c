"""The original libraries with random weights: their checkpoints, and what they make of images."""

import contextlib
import copy
import functools
import importlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint_cases import Arrays, Case, drawn, image_of
from safetensors.torch import load_file, save_file
from timm_oracle import timm

with contextlib.redirect_stderr(
    io.StringIO()
):  # dinov2 says there that xFormers, which it can do without, is not there
    dinov2 = importlib.import_module("dinov2.models.vision_transformer")
open_clip = importlib.import_module("open_clip")
segment_anything = importlib.import_module("segment_anything.modeling")
torchvision_vit = importlib.import_module("torchvision.models.vision_transformer")
transformers = importlib.import_module("transformers")

Images = Mapping[tuple[int, int], np.ndarray]
Tensors = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]
SIZES = ((16, 16), (24, 24), (20, 32))


def randomise(module: Any) -> Any:
    """The module with all that is saved drawn by its name: nothing hides behind zeros and ones."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(drawn(name, tuple(tensor.shape))))
    return module.eval()


def batch(image: np.ndarray) -> torch.Tensor:
    """One image as PyTorch has it."""
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def outputs(images: Images, run: Callable[[torch.Tensor], Tensors]) -> dict[tuple[int, int], Arrays]:
    """What a model gives for each image."""
    with torch.no_grad():
        return {
            size: {name: tensor[0].numpy().copy() for name, tensor in run(batch(image)).items()}
            for size, image in images.items()
        }


def saved(write: Callable[[str], object]) -> tuple[Shapes, dict[str, Any]]:
    """What a library writes: the tensors of the file by name and shape, and the settings beside them."""
    with tempfile.TemporaryDirectory() as folder:
        write(folder)
        tensors = load_file(Path(folder, "model.safetensors"))
        return shapes_of(tensors), json.loads(Path(folder, "config.json").read_text())


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    """The shapes of tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def tensors_by_name(shapes: Shapes) -> Tensors:
    """The tensors of a checkpoint, drawn by their names."""
    return {name: torch.from_numpy(drawn(name, shape)) for name, shape in shapes.items()}


# --- timm ---------------------------------------------------------------------------------------------------------

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
TIMM: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"mlp_ratio": 1.5},
    "vit_small_patch16_224": {"qk_norm": True, "qkv_bias": False},
    "vit_base_patch16_reg4_gap_256": {},
    "vit_base_patch16_siglip_gap_224": {"num_classes": 0},
    "vit_so150m_patch16_reg4_map_256": {},
    "deit_tiny_patch16_224": {},
    "deit_tiny_distilled_patch16_224": {},
    "deit3_small_patch16_224": {},
    "vit_small_patch14_dinov2": {"num_classes": 0},
    "vit_small_patch14_reg4_dinov2": {"num_classes": 0},
    "vit_giant_patch14_dinov2": {"mlp_ratio": 3.0, "num_classes": 0},
    "vit_base_patch16_clip_224": {},
    "vit_base_patch16_clip_quickgelu_224": {},
    "vit_base_patch16_siglip_224": {"num_classes": 0},
    "vit_so400m_patch16_siglip_256": {"num_classes": 0},
    "vit_small_patch16_dinov3": {"num_classes": 0},
    "vit_small_patch16_dinov3_qkvb": {"num_classes": 0},
    "vit_small_plus_patch16_dinov3_qkvb": {"mlp_ratio": 2.0, "num_classes": 0},
    "eva_giant_patch14_224": {},
    "eva_giant_patch14_clip_224": {},
    "vit_base_patch16_224_miil": {},
    "vit_small_patch16_lingbot": {"num_classes": 0},
    "vit_base_patch14_reg1_tipsv2": {"num_classes": 0},
    "aimv2_large_patch14_224": {"num_classes": 0},
    "aimv2_huge_patch14_336": {"img_size": (16, 24)},
    **{f"vit_tiny_patch16_224 {pool or 'no pool'}": {"global_pool": pool} for pool in ("avgmax", "max", "")},
    "vit_tiny_patch16_224 mean of all tokens": {"global_pool": "avg", "pool_include_prefix": True},
    "vit_tiny_patch16_224 other layers": {"act_layer": "quick_gelu", "norm_layer": "layernorm", "fc_norm": True},
}
"""By the architecture, and what is changed in it: its arguments."""
TIMM_ROPE: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_small_patch16_rope_224": ("timm_rope_vit", {}),
    "vit_base_patch16_rope_ape_224": ("timm_rope_vit", {"mlp_ratio": 1.5}),
    "vit_small_patch16_rope_mixed_224": ("timm_rope_vit", {}),
    "vit_large_patch16_rope_mixed_ape_224": ("timm_rope_vit", {"num_classes": 0}),
    "vit_medium_patch16_rope_reg1_gap_256": ("timm_rope", {"img_size": (16, 24)}),
    "vit_mediumd_patch16_rope_reg1_gap_256": ("timm_rope", {"ref_feat_shape": (5, 3)}),
    "vit_betwixt_patch16_rope_reg4_gap_256": ("timm_rope", {"num_classes": 0}),
    "vit_pe_core_tiny_patch16_384": ("timm_pe", {"attn_pool_num_heads": 4}),
    "vit_pe_core_base_patch16_224": ("timm_pe", {"ref_feat_shape": (5, 3), "num_classes": 0}),
    "vit_pe_core_gigantic_patch14_448": ("timm_pe", {"mlp_ratio": 1.5}),
    "vit_tiny_patch16_224 norms within, no biases": (
        "timm",
        {"proj_bias": False, "scale_attn_norm": True, "scale_mlp_norm": True, "final_norm": False},
    ),
    "vit_tiny_patch16_224 RMSNorm": ("timm", {"norm_layer": "rmsnorm", "qk_norm": True}),
    "vit_tiny_patch16_224 without positions": ("timm", {"pos_embed": "none"}),
    "eva02_tiny_patch14_224": ("timm_eva", {}),
    "eva02_base_patch14_448": ("timm_eva", {"ref_feat_shape": (5, 3)}),
    "eva02_base_patch16_clip_224": ("timm_eva", {"num_classes": 0}),
    "eva02_enormous_patch14_clip_224": ("timm_eva", {"mlp_ratio": 1.5}),
    "vit_pe_lang_large_patch14_448": ("timm_pe_features", {"num_classes": 0}),
    "vit_pe_lang_gigantic_patch14_448": ("timm_pe_features", {"num_classes": 0}),
    "vit_pe_spatial_small_patch16_512": ("timm_pe_features", {}),
}
"""Those whose queries and keys are rotated by rows and columns, and their relatives."""
TIMM_BEIT: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {},
    "beit_large_patch16_512": {"qkv_bias": False, "img_size": (16, 24), "num_classes": 0},
    "beitv2_base_patch16_224": {"mlp_ratio": 1.5, "init_values": None, "global_pool": "token"},
    "beitv2_large_patch16_224": {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "img_size": (20, 20)},
}
"""Those with tables of relative positions, which timm resamples where the size of images is set."""
NAFLEX = {"pos_embed_grid_size": (4, 4)}
TIMM_NAFLEX: dict[str, dict[str, Any]] = {
    "naflexvit_base_patch16_gap": {},
    "naflexvit_base_patch16_par_gap": {"reg_tokens": 2, "class_token": True},
    "naflexvit_base_patch16_parfac_gap": {"qkv_bias": False},
    "naflexvit_base_patch16_map": {"pos_embed_antialias": False, "attn_pool_num_heads": 4},
    "naflexvit_so150m2_patch16_reg1_map": {"pos_embed": "factorized", "qk_norm": True},
    "naflexvit_base_patch16_siglip": {"num_classes": 0},
    "naflexvit_so400m_patch16_siglip": {"num_classes": 0, "act_layer": "gelu", "pos_embed_align_corners": False},
}
"""What takes images of native aspect, too."""


def timm_case(name: str, images: Images) -> Case:
    """One of timm's architectures, made small and saved by timm itself."""
    naflex = name in TIMM_NAFLEX
    beit = name in TIMM_BEIT
    known, changed = TIMM_ROPE.get(name, (None, NAFLEX | TIMM_NAFLEX[name] if naflex else TIMM.get(name, {})))
    known, changed = ("timm_beit", TIMM_BEIT[name]) if beit else (known, changed)
    arguments = {**SMALL, **changed}
    name = name.partition(" ")[0]
    built: Any = randomise(
        timm.create_model(name, **({} if naflex or beit else {"dynamic_img_size": True}), **arguments)
    )
    shapes, settings = saved(
        lambda folder: timm.models.save_for_hf(built, folder, model_args=arguments, safe_serialization=True)
    )

    def run(image: torch.Tensor) -> Tensors:
        model = copy.deepcopy(built) if beit else built
        if beit:
            with warnings.catch_warnings(action="ignore"):  # of PyTorch, on how timm calls it
                model.set_input_size(tuple(image.shape[2:]))
        tokens = model.forward_features(image)
        named = {"tokens": tokens, "logits": model(image)}
        # The distilled model gives the mean of its two tokens there, which goes into neither head.
        return named if "distilled" in name else {**named, "pooled": model.forward_head(tokens, pre_logits=True)}

    eva = name.startswith("eva") or "dinov3" in name or "lingbot" in name
    known = "timm_aimv2" if name.startswith("aimv2") else known
    layout = known or ("timm_eva" if eva else "timm_naflex" if naflex else "timm")
    return Case(layout, shapes, settings, outputs(images, run))


# --- Hugging Face -------------------------------------------------------------------------------------------------

WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
PICTURE = {"image_size": 16, "patch_size": 4}
HUGGING_FACE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ViTModel": ("hf_vit", "ViTConfig", {}),
    "ViTForImageClassification": ("hf_vit", "ViTConfig", {"num_labels": 5, "layer_norm_eps": 1e-6}),
    "DeiTModel": ("hf_vit", "DeiTConfig", {}),
    "DeiTForImageClassification": ("hf_vit", "DeiTConfig", {"num_labels": 5}),
    "DeiTForImageClassificationWithTeacher": ("hf_vit", "DeiTConfig", {"num_labels": 5}),
    "ViTMAEModel": ("hf_vit", "ViTMAEConfig", {"mask_ratio": 0.0}),
    "ViTMAEForPreTraining": (
        "hf_vit",
        "ViTMAEConfig",
        {
            "mask_ratio": 0.0,
            "decoder_hidden_size": 8,
            "decoder_intermediate_size": 8,
            "decoder_num_attention_heads": 2,
            "decoder_num_hidden_layers": 1,
        },
    ),
    "ViTModel with gelu_fast": ("hf_vit", "ViTConfig", {"hidden_act": "gelu_fast"}),
    "Dinov2Model": ("hf_dinov2", "Dinov2Config", {}),
    "Dinov2ForImageClassification": ("hf_dinov2", "Dinov2Config", {"num_labels": 5, "use_swiglu_ffn": True}),
    "Dinov2WithRegistersModel": ("hf_dinov2", "Dinov2WithRegistersConfig", {"use_swiglu_ffn": True}),
    "Dinov2WithRegistersForImageClassification": ("hf_dinov2", "Dinov2WithRegistersConfig", {"num_labels": 5}),
    "DINOv3ViTModel": ("hf_dinov3", "DINOv3ViTConfig", {"num_register_tokens": 4}),
    "DINOv3ViTModel gated": (
        "hf_dinov3",
        "DINOv3ViTConfig",
        {"num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"},
    ),
    "BeitModel": ("hf_beit", "BeitConfig", {"use_relative_position_bias": True, "use_mask_token": True}),
    "BeitModel without positions": ("hf_beit", "BeitConfig", {"use_mean_pooling": False, "hidden_act": "relu"}),
    "BeitForImageClassification": (
        "hf_beit",
        "BeitConfig",
        {"num_labels": 5, "use_absolute_position_embeddings": True, "use_mean_pooling": False},
    ),
    "BeitForMaskedImageModeling": (
        "hf_beit",
        "BeitConfig",
        {"use_shared_relative_position_bias": True, "vocab_size": 7},
    ),
    "Data2VecVisionForImageClassification": (
        "hf_beit",
        "Data2VecVisionConfig",
        {"num_labels": 5, "use_relative_position_bias": True, "layer_scale_init_value": 0.0},
    ),
    "CLIPVisionModel": ("hf_clip", "CLIPVisionConfig", {}),
    "CLIPVisionModelWithProjection": ("hf_clip", "CLIPVisionConfig", {"projection_dim": 5, "hidden_act": "gelu"}),
    "SiglipVisionModel": ("hf_siglip", "SiglipVisionConfig", {}),
    "SiglipForImageClassification": ("hf_siglip", "SiglipConfig", {"num_labels": 5}),
    "Siglip2VisionModel": ("hf_siglip", "Siglip2VisionConfig", {"num_patches": 16}),
    "Tipsv2VisionModel": ("hf_tipsv2", "Tipsv2VisionConfig", {}),
    "Tipsv2Model": ("hf_tipsv2", "Tipsv2Config", {"vision_config": {"use_swiglu_ffn": True}}),
    "Aimv2VisionModel": ("hf_aimv2", "Aimv2VisionConfig", {"rms_norm_eps": 1e-3}),
    "Aimv2VisionModel with biases": (
        "hf_aimv2",
        "Aimv2VisionConfig",
        {"use_head": False, "qkv_bias": True, "mlp_bias": True},
    ),
    "Aimv2VisionModel of native size": (
        "hf_aimv2",
        "Aimv2VisionConfig",
        {"is_native": True, "qkv_bias": True, "mlp_bias": True},
    ),
}

BEIT = [name for name, (layout, *_) in HUGGING_FACE.items() if layout == "hf_beit"]
OTHERS = [name for name in HUGGING_FACE if name not in BEIT]


def hugging_face_case(name: str, images: Images, *, in_memory: bool = False) -> Case:
    """One of the models of transformers, under the names that it writes, or under those that it has in memory."""
    layout, config, options = HUGGING_FACE[name]
    settings: dict[str, Any] = {**WIDTHS, **PICTURE, **options}
    if config == "SiglipConfig":
        settings = {"vision_config": {**WIDTHS, **PICTURE}, "text_config": {**WIDTHS, "vocab_size": 8}, **options}
    if config == "Tipsv2Config":
        towers = {"vision_config": {**settings, **options["vision_config"]}, "text_config": {**WIDTHS, "vocab_size": 8}}
        settings = {"model_type": "tipsv2", **towers}
    kind = getattr(transformers, name.partition(" ")[0])
    model = randomise(kind(getattr(transformers, config)(**settings)))
    shapes, settings = saved(model.save_pretrained)
    if in_memory:
        shapes = shapes_of({key: tensor for key, tensor in model.state_dict().items() if tensor.is_floating_point()})
        layout += "_5" if layout in ("hf_vit", "hf_dinov2", "hf_dinov3") or name.startswith("Beit") else ""
    else:
        with tempfile.TemporaryDirectory() as folder:
            save_file(tensors_by_name(shapes), Path(folder, "model.safetensors"), metadata={"format": "pt"})
            Path(folder, "config.json").write_text(json.dumps(settings))
            model = kind.from_pretrained(folder).eval()
    if options.get("is_native") is None and layout == "hf_aimv2":
        images = {size: image for size, image in images.items() if size == (16, 16)}  # it has no rule for other sizes
    return Case(layout, shapes, settings, outputs(images, functools.partial(_hugging_face, model)))


def _hugging_face(model: Any, image: torch.Tensor) -> Tensors:
    kind = type(model).__name__
    anchored = {"interpolate_pos_encoding": True}
    if kind == "Siglip2VisionModel":
        return _siglip2(model, image)
    if kind.startswith(("Dinov2", "DINOv3", "Aimv2", "Tipsv2")):
        anchored = {}
    if kind.startswith("ViTMAE"):
        rows, cols = image.shape[2] // 4, image.shape[3] // 4
        anchored["noise"] = torch.arange(rows * cols, dtype=torch.float32)[None]  # sorted, so that no patch moves
    base = model.vision_model if kind == "SiglipForImageClassification" else model.base_model
    base = model if kind == "DINOv3ViTModel" else getattr(base, "vision_model", base) if kind == "Tipsv2Model" else base
    found = base(image, **anchored)
    tokens = found.last_hidden_state
    named: Tensors = {}
    if kind.startswith("CLIP"):
        tokens = getattr(base, "vision_model", base).post_layernorm(tokens)
        named["pooled"] = tokens[:, 0]
    if kind == "CLIPVisionModelWithProjection":
        named["logits"] = model(image, **anchored).image_embeds
    elif kind in ("SiglipVisionModel", "BeitModel", "Tipsv2VisionModel") or getattr(model, "use_head", False):
        named["pooled"] = found.pooler_output
    elif kind == "BeitForMaskedImageModeling":
        tokens = model.layernorm(tokens)
    elif kind in ("ViTModel", "DeiTModel"):
        named["logits"] = found.pooler_output
    elif "ForImageClassification" in kind:
        named["logits"] = model(image, **anchored).logits
    return {"tokens": tokens, **named}


def _siglip2(model: Any, image: torch.Tensor) -> Tensors:
    """NaFlex reads flattened patches, and is told how they lie."""
    rows, cols = image.shape[2] // 4, image.shape[3] // 4
    patches = image.reshape(1, 3, rows, 4, cols, 4).permute(0, 2, 4, 3, 5, 1).reshape(1, rows * cols, -1)
    mask = torch.ones(1, rows * cols, dtype=torch.int64)
    found = model(patches, pixel_attention_mask=mask, spatial_shapes=torch.tensor([[rows, cols]]))
    return {"tokens": found.last_hidden_state, "pooled": found.pooler_output}


# --- native aspect ------------------------------------------------------------------------------------------------

NATIVE_SIZES = ((16, 16), (8, 24), (4, 48), (40, 8), (20, 32))
"""The grid that the positions are made for, fewer patches, one row, ten rows, and more patches. A grid of one column is
left out: PyTorch 2.13's antialiased `interpolate` gives all its rows what the first one gets, on a CPU."""
MAX_PATCHES = 42
NATIVE_HUGGING_FACE: dict[str, tuple[str, dict[str, Any]]] = {
    "Siglip2VisionModel": ("Siglip2VisionConfig", {"num_patches": 16}),
    "Siglip2ForImageClassification": ("Siglip2Config", {"num_labels": 5}),
}


def packed(images: Images) -> dict[str, torch.Tensor]:
    """A batch as both libraries take it: flattened patches, which of them count, and the grids."""
    patches = torch.zeros(len(images), MAX_PATCHES, 48)
    grids = torch.tensor([(height // 4, width // 4) for height, width in images])
    for i, image in enumerate(images.values()):
        rows, cols = grids[i].tolist()
        cut = image.reshape(rows, 4, cols, 4, 3).swapaxes(1, 2).reshape(rows * cols, 48)
        patches[i, : rows * cols] = torch.from_numpy(cut.copy())
    return {"patches": patches, "mask": torch.arange(MAX_PATCHES) < grids.prod(1, keepdim=True), "grids": grids}


def native_outputs(
    images: Images, prefix: int, run: Callable[[dict[str, torch.Tensor]], Tensors]
) -> dict[tuple[int, int], Arrays]:
    """What a model gives for each image of a packed batch, without the padding."""
    with torch.no_grad():
        found = run(packed(images))
    counts = [prefix + height * width // 16 for height, width in images]
    return {
        size: {n: (t[i, : counts[i]] if n == "tokens" else t[i]).numpy().copy() for n, t in found.items()}
        for i, size in enumerate(images)
    }


def with_native(images: Images) -> Images:
    """The images of each size of native aspect."""
    return {size: images.get(size, image_of(size)) for size in NATIVE_SIZES}


def native_timm_case(name: str, images: Images) -> Case:
    """One of timm's `naflexvit` on a packed batch."""
    images = with_native(images)
    arguments = {**SMALL, **NAFLEX, **TIMM_NAFLEX[name]}
    model: Any = randomise(timm.create_model(name, **arguments))
    shapes, settings = saved(
        lambda folder: timm.models.save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    )

    def run(batch: dict[str, torch.Tensor]) -> Tensors:
        cells = torch.arange(MAX_PATCHES)[None] % batch["grids"].prod(1, keepdim=True)
        cols = batch["grids"][:, 1:]
        given = {"patch_coord": torch.stack([cells // cols, cells % cols], -1), "patch_valid": batch["mask"]}
        features = model.forward_features(batch["patches"], **given)
        pooled = model.forward_head(**features, pre_logits=True)
        return {"tokens": features["patches"], "pooled": pooled, "logits": model.forward_head(**features)}

    found = native_outputs(images, model.num_prefix_tokens, run)
    return Case("timm_naflex", shapes, settings, found, max_patches=MAX_PATCHES)


def native_hugging_face_case(name: str, images: Images) -> Case:
    """One of the models of SigLIP 2 in transformers on a packed batch."""
    images = with_native(images)
    config, options = NATIVE_HUGGING_FACE[name]
    vision = {**WIDTHS, "patch_size": 4, "num_patches": 16}
    settings = {**vision, **options}
    if config == "Siglip2Config":
        settings = {"vision_config": vision, "text_config": {**WIDTHS, "vocab_size": 8}, **options}
    model = randomise(getattr(transformers, name)(getattr(transformers, config)(**settings)))
    shapes, settings = saved(model.save_pretrained)

    def run(batch: dict[str, torch.Tensor]) -> Tensors:
        mask = batch["mask"].long()
        given = {"pixel_attention_mask": mask, "spatial_shapes": batch["grids"]}
        if "ForImageClassification" in name:
            found = model(batch["patches"], **given, output_hidden_states=True)
            tokens = model.vision_model(
                batch["patches"], pixel_attention_mask=mask, spatial_shapes=batch["grids"]
            ).last_hidden_state
            return {"tokens": tokens, "logits": found.logits}
        found = model(batch["patches"], **given)
        return {"tokens": found.last_hidden_state, "pooled": found.pooler_output}

    return Case("hf_siglip", shapes, settings, native_outputs(images, 0, run), max_patches=MAX_PATCHES)


# --- open_clip, torchvision ---------------------------------------------------------------------------------------


def open_clip_case(act: str, images: Images) -> Case:
    """open_clip's CLIP of both towers, with one activation or the other; other sizes by its own resampling."""

    def build(size: tuple[int, int]) -> Any:
        vision = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 4, "image_size": size, "mlp_ratio": 1.5}
        text = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 2, "layers": 1}
        return open_clip.CLIP(5, vision, text, quick_gelu=act == "quick_gelu", output_dict=True).eval()

    native = next(iter(images))
    shapes = shapes_of({n: t for n, t in build(native).state_dict().items() if t.is_floating_point()})

    def run(image: torch.Tensor) -> Tensors:
        size = image.shape[2], image.shape[3]
        model, tensors = build(size), tensors_by_name(shapes)
        open_clip.model.resize_pos_embed(tensors, model)
        model.load_state_dict(tensors, strict=False)
        model.visual.output_tokens = True
        patches = model.visual(image)[1]
        return {"logits": model.visual(image)[0], "tokens": torch.cat([_normed_class(model.visual, image), patches], 1)}

    options = {"config": {"hidden_act": act, "num_heads": 2}}
    return Case("openai_clip", shapes, None, outputs(images, run), options)


def _normed_class(visual: Any, image: torch.Tensor) -> torch.Tensor:
    """The class token after the final norm, before the projection."""
    projection, visual.proj, visual.output_tokens = visual.proj, None, False
    token = visual(image)[:, None]
    visual.proj, visual.output_tokens = projection, True
    return token


def torchvision_case(hidden: int | None, images: Images) -> Case:
    """torchvision's ViT, with and without a hidden layer in its head; other sizes by its own resampling."""

    def build(size: int) -> Any:
        return torchvision_vit.VisionTransformer(
            size, 4, 2, 2, 16, 24, num_classes=5, representation_size=hidden
        ).eval()

    native = next(iter(images))[0]
    shapes = shapes_of(build(native).state_dict())

    def run(image: torch.Tensor) -> Tensors:
        model, tensors = build(image.shape[2]), tensors_by_name(shapes)
        resampled = torchvision_vit.interpolate_embeddings(image.shape[2], 4, tensors)
        model.load_state_dict(resampled)
        tokens = model._process_input(image)
        tokens = model.encoder(torch.cat([model.class_token, tokens], 1))
        return {"tokens": tokens, "pooled": tokens[:, 0], "logits": model(image)}

    squares = {size: image for size, image in images.items() if size[0] == size[1]}
    return Case("torchvision", shapes, None, outputs(squares, run), {"config": {"num_heads": 2}})


# --- Meta ---------------------------------------------------------------------------------------------------------


def dinov2_case(ffn: str, images: Images) -> Case:
    """The package `dinov2` itself."""
    block = functools.partial(dinov2.Block, attn_class=dinov2.MemEffAttention)
    model = dinov2.DinoVisionTransformer(
        16, 4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=1.5, init_values=1.0, ffn_layer=ffn, block_chunks=0,
        block_fn=block,
    )  # fmt: skip
    shapes = shapes_of(randomise(model).state_dict())

    def run(image: torch.Tensor) -> Tensors:
        found = model.forward_features(image)
        class_token = found["x_norm_clstoken"]
        tokens = torch.cat([class_token[:, None], found["x_norm_patchtokens"]], 1)
        return {"tokens": tokens, "pooled": class_token}

    return Case("dinov2", shapes, None, outputs(images, run), {"config": {"num_heads": 2}})


META: dict[str, tuple[str, str, dict[str, Any]]] = {
    "DINOv2 with registers": ("dinov2", "vit_small_patch14_reg4_dinov2", {}),
    "DINOv2 with registers and SwiGLU": ("dinov2", "vit_giant_patch14_reg4_dinov2", {"mlp_ratio": 3.0}),
    "DINOv3": ("dinov3", "vit_small_patch16_dinov3_qkvb", {"global_pool": "token"}),
    "DINOv3 with SwiGLU": ("dinov3", "vit_small_plus_patch16_dinov3_qkvb", {"global_pool": "token", "mlp_ratio": 2.0}),
    "AIMv2": ("aimv2", "aimv2_large_patch14_224", {}),
    "MAE": ("mae", "vit_tiny_patch16_224", {}),
    "DINO": ("dino", "vit_tiny_patch16_224", {}),
}
"""What has no package of Meta's, or is Apple's, and is converted and run by timm."""


def meta_case(name: str, images: Images) -> Case:
    """A checkpoint under Meta's or Apple's names, which timm converts to its own and runs."""
    layout, architecture, options = META[name]
    model = timm.create_model(architecture, dynamic_img_size=True, **{**SMALL, "num_classes": 0, **options}).eval()
    shapes = META_SHAPES[layout](shapes_of(model.state_dict()))
    filtered = importlib.import_module(type(model).__module__).checkpoint_filter_fn
    tensors = tensors_by_name(shapes)
    for key in shapes:
        if key.endswith("bias_mask"):
            tensors[key] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(shapes[key][0] // 3)
        if key.endswith("periods"):
            count = shapes[key][0]  # a quarter of a head's width
            tensors[key] = 100 ** (torch.arange(count) / count)
    fixed = {key: tensor.numpy() for key, tensor in tensors.items() if key.endswith(("bias_mask", "periods"))}
    of_mae = {key: tensor for key, tensor in tensors.items() if not key.startswith(("decoder", "mask_token"))}
    model.load_state_dict(filtered(of_mae if layout == "mae" else dict(tensors), model))

    def run(image: torch.Tensor) -> Tensors:
        if layout in ("mae", "dino"):
            # MAE's own fine-tuning resamples without antialiasing, as DINO does, and timm with it.
            model.set_input_size(tuple(image.shape[2:]))
            grid = image.shape[2] // 4, image.shape[3] // 4
            model.pos_embed.data = _bicubic(tensors["pos_embed"], *grid, offset=0.1 if layout == "dino" else 0)
        tokens = model.forward_features(image)
        return {"tokens": tokens, "pooled": model.forward_head(tokens, pre_logits=True)}

    heads = "num_attention_heads" if layout == "aimv2" else "num_heads"
    options: dict[str, Any] = {"config": {heads: 2}, **({"layout": "dino"} if layout == "dino" else {})}
    return Case(layout, shapes, None, outputs(images, run), options, fixed=fixed)


def _bicubic(table: torch.Tensor, rows: int, cols: int, *, offset: float) -> torch.Tensor:
    """A square table at another size as in MAE's `util/pos_embed.py`, or with an offset as in DINO's own model."""
    patches = table[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    resize = torch.nn.functional.interpolate
    if offset and (rows, cols) != (4, 4):
        resampled = resize(patches, scale_factor=((rows + offset) / 4, (cols + offset) / 4), mode="bicubic")
    else:
        resampled = resize(patches, size=(rows, cols), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], resampled.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def _dinov2_shapes(shapes: Shapes) -> Shapes:
    """timm's names and shapes as Meta's, whose table has a row for the class token."""
    swap = {"reg_token": "register_tokens"}
    if "blocks.0.ls1.gamma" in shapes and shapes["blocks.0.mlp.fc1.bias"] != shapes["blocks.0.mlp.fc2.weight"][1:]:
        swap |= {"mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"}
    renamed = {_swapped(name, swap): shape for name, shape in shapes.items()}
    return {**renamed, "pos_embed": (1, 17, 16), "mask_token": (1, 16)}


def _dinov3_shapes(shapes: Shapes) -> Shapes:
    """timm's names and shapes as Meta's, whose queries, keys and values have one bias and a mask of it."""
    swap = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    swap |= {"fc1_g": "w1", "fc1_x": "w2"} | ({"mlp.fc2": "mlp.w3"} if "blocks.0.mlp.fc1_g.bias" in shapes else {})
    renamed = {_swapped(name, swap): shape for name, shape in shapes.items() if not name.endswith("_bias")}
    biases = {f"blocks.{i}.attn.qkv.{name}": (48,) for i in range(2) for name in ("bias", "bias_mask")}
    return {**renamed, **biases, "mask_token": (1, 16), "rope_embed.periods": (2,)}


def _mae_shapes(shapes: Shapes) -> Shapes:
    """timm's names and shapes, and some of the decoder's."""
    decoder = {"decoder_embed.weight": (8, 16), "decoder_pos_embed": (1, 17, 8), "decoder_blocks.0.norm1.weight": (8,)}
    return {**shapes, **decoder, "mask_token": (1, 1, 8)}


def _swapped(name: str, swap: Mapping[str, str]) -> str:
    for old, new in swap.items():
        name = name.replace(old, new)
    return name


def _aimv2_shapes(shapes: Shapes) -> Shapes:
    """timm's names as Apple's."""
    swap = {"patch_embed": "preprocessor.patchifier", "pos_embed": "preprocessor.pos_embed", "blocks": "trunk.blocks"}
    swap |= {"norm1": "norm_1", "norm2": "norm_2", "fc1_g": "fc1", "fc1_x": "fc3"}
    renamed = {_swapped(name, swap): shape for name, shape in shapes.items()}
    return {"trunk.post_trunk_norm.weight": renamed.pop("norm.weight"), **renamed}


META_SHAPES: dict[str, Callable[[Shapes], Shapes]] = {
    "dinov2": _dinov2_shapes,
    "dinov3": _dinov3_shapes,
    "aimv2": _aimv2_shapes,
    "mae": _mae_shapes,
    "dino": dict,
}


# --- SAM ----------------------------------------------------------------------------------------------------------


def meta_sam_case(images: Images) -> Case:
    """The image encoder of the package `segment_anything`, whose names the file has within the whole model."""
    encoder = segment_anything.ImageEncoderViT(
        img_size=16, patch_size=4, embed_dim=16, depth=3, num_heads=2, mlp_ratio=1.5, out_chans=6, qkv_bias=True,
        use_rel_pos=True, window_size=3, global_attn_indexes=(1,),
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    whole = torch.nn.ModuleDict({"image_encoder": encoder, "mask_decoder": torch.nn.Linear(2, 2)})
    return _sam_case("sam", randomise(whole), None, lambda image: encoder(image), images)


def hf_sam_case(images: Images) -> Case:
    """The vision encoder of transformers."""
    sizes = {"num_hidden_layers": 3, "mlp_dim": 24, "output_channels": 6, "window_size": 3, "global_attn_indexes": [1]}
    model = randomise(transformers.SamVisionModel(transformers.SamVisionConfig(**{**WIDTHS, **PICTURE, **sizes})))
    _, settings = saved(model.save_pretrained)
    return _sam_case("hf_sam", model, settings, lambda image: model(image).last_hidden_state, images)


def timm_sam_case(images: Images) -> Case:
    """timm's encoder, which takes images of other sizes, too."""
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "mlp_ratio": 1.5}
    windows = {"window_size": 3, "global_attn_indexes": (1,), "neck_chans": 6}
    model = randomise(timm.create_model("samvit_base_patch16", **sizes, **windows))
    return _sam_case("timm_sam", model, None, model.forward_features, images, other_sizes=True)


def _sam_case(
    layout: str,
    model: Any,
    settings: dict[str, Any] | None,
    run: Callable[[torch.Tensor], torch.Tensor],
    images: Images,
    *,
    other_sizes: bool = False,
) -> Case:
    native = {size: image for size, image in images.items() if other_sizes or size == (16, 16)}
    found = outputs(native, lambda image: {"tokens": run(image).flatten(2).transpose(1, 2)})
    return Case(layout, shapes_of(model.state_dict()), settings, found)


# --- all ----------------------------------------------------------------------------------------------------------

CASES: dict[str, Callable[[Images], Case]] = {
    **{f"timm {name}": functools.partial(timm_case, name) for name in TIMM},
    **{f"transformers {name}": functools.partial(hugging_face_case, name) for name in OTHERS},
    **{
        f"transformers {name}, in memory": functools.partial(hugging_face_case, name, in_memory=True) for name in OTHERS
    },
    **{f"open_clip {act}": functools.partial(open_clip_case, act) for act in ("gelu", "quick_gelu")},
    "torchvision VisionTransformer": functools.partial(torchvision_case, None),
    "torchvision VisionTransformer with a hidden layer": functools.partial(torchvision_case, 8),
    **{f"Meta DINOv2 {ffn}": functools.partial(dinov2_case, ffn) for ffn in ("mlp", "swiglu")},
    **{f"{'Apple' if name == 'AIMv2' else 'Meta'} {name}": functools.partial(meta_case, name) for name in META},
    "Meta SAM": meta_sam_case,
    "transformers SamVisionModel": hf_sam_case,
    "timm samvit_base_patch16": timm_sam_case,
}
"""By name, the checkpoints that the originals make and run on one image."""
NATIVE_CASES: dict[str, Callable[[Images], Case]] = {
    **{f"timm {name}": functools.partial(timm_case, name) for name in list(TIMM_NAFLEX)[:3]},
    **{f"timm {name}, packed": functools.partial(native_timm_case, name) for name in TIMM_NAFLEX},
    **{
        f"transformers {name}, packed": functools.partial(native_hugging_face_case, name)
        for name in NATIVE_HUGGING_FACE
    },
}
"""Those that take images of native aspect, on one image and on a packed batch."""
BEIT_CASES: dict[str, Callable[[Images], Case]] = {
    **{f"timm {name}": functools.partial(timm_case, name) for name in TIMM_BEIT},
    **{f"transformers {name}": functools.partial(hugging_face_case, name) for name in BEIT},
    **{f"transformers {name}, in memory": functools.partial(hugging_face_case, name, in_memory=True) for name in BEIT},
}
"""BEiT and its relatives."""
ROPE_CASES: dict[str, Callable[[Images], Case]] = {
    f"timm {name}": functools.partial(timm_case, name) for name in TIMM_ROPE
}
"""Those with rotary positions of rows and columns."""
RECENT_CASES: dict[str, Callable[[Images], Case]] = {
    name: make
    for name, make in [
        (name, CASES.pop(name))
        for name in list(CASES)
        if any(part in name.lower() for part in ("aimv2", "tipsv2vision", "tipsv2model"))
    ]
    if "in memory" not in name  # where the names are the same
}
"""AIMv2, of all three that publish it, and TIPSv2."""
