"""Folders that vitrail writes for timm and transformers, opened by both as they are: the numbers and the pictures."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
import systems_image_text
import torch
from checkpoint_cases import TOLERANCE, drawn, image_of
from checkpoint_oracle import PICTURE, WIDTHS, batch, open_clip, randomise, transformers
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from timm_oracle import timm

import vitrail
from vitrail import HEADS, POOLS, POSITIONS, EncoderOptions, PartSpec, Preprocess, ViTConfig
from vitrail.encoder import WindowOptions
from vitrail.images import CLIP, HALF, IMAGENET
from vitrail.weights import LAYOUTS

SIZE = vitrail.EncoderSize(dim=16, depth=2, num_heads=2, mlp_dim=24)
WIDE = dataclasses.replace(SIZE, mlp_dim=32)
COVER = Preprocess("cover", "bicubic", *IMAGENET, crop=0.9)
SQUASH = Preprocess("squash", "bilinear", *HALF)
ASPECT = Preprocess("native", "bilinear", *HALF, patch_size=(4, 4), max_patches=25)
NAMES = ("a cat", "a dog", "être", "'\"", "e")


def base(**changes: Any) -> ViTConfig:
    """A small classifier."""
    usual = {"image_size": (16, 16), "patch_size": (4, 4), "size": SIZE, "num_classes": 5, "pool": "cls"}
    return ViTConfig(**{**usual, **changes})


def bare(**changes: Any) -> ViTConfig:
    """A small backbone without a head."""
    return base(**{"num_classes": None, "head": "none", **changes})


NO_BIAS = PartSpec("conv", (("bias", False),))
DINOV3 = PartSpec("rope", (("base", 100.0), ("rule", "dinov3")))
EVA02 = PartSpec("learned_rope", (("base", 10000.0), ("reference", (3, 5)), ("rule", "eva")))
SCALED = EncoderOptions(layer_scale=0.5)
GATED = EncoderOptions(layer_scale=0.5, activation="swiglu")
RAW = EncoderOptions(qkv_bias=False, qk_norm=True)
CLIP_ENCODER = EncoderOptions(pre_norm=True, norm_eps=1e-5, activation="quick_gelu")
PATCHES = POSITIONS.configure("learned", covers_prefix=False)
CLASS = POSITIONS.configure("learned", covers_prefix="class")
NATIVE = POSITIONS.configure("learned", covers_prefix=True, resize="bilinear_antialias")
RELATIVE = POSITIONS.configure("relative_bias", resize="geometric")
SHARED = POSITIONS.configure("relative_bias", resize="bilinear", shared=True)
OBLONG: dict[str, Any] = {"image_size": (12, 20)}


def mapped(mlp_dim: int = 24, activation: str = "gelu", eps: float = 1e-6) -> PartSpec:
    """SigLIP's pool."""
    return POOLS.configure("attention", num_heads=2, mlp_dim=mlp_dim, activation=activation, norm_eps=eps)


def rotary(name: str = "rope", **options: Any) -> PartSpec:
    """Rotary positions, and with `learned_rope` a table that covers the patches alone."""
    usual = {"base": 100.0, "offset": 0.0, **({"covers_prefix": False} if name == "learned_rope" else {})}
    return POSITIONS.configure(name, **{**usual, **options})


PERCEPTION = rotary("learned_rope", rule="axial", base=10000.0, offset=1.0, reference=(4, 5), covers_prefix=True)
PERCEIVING = EncoderOptions(pre_norm=True, norm_eps=1e-5)
WITH_PREFIX = POOLS.configure(
    "attention", num_heads=4, mlp_dim=40, activation="gelu", norm_eps=1e-5, include_prefix=True
)
SAM: dict[str, Any] = {
    "size": dataclasses.replace(SIZE, depth=3),
    "pool": "none",
    "class_token": False,
    "position": PATCHES,
    "neck_dim": 6,
    "windows": WindowOptions(size=3, global_blocks=(1,), relative_grid=(4, 4)),
}
AIM: dict[str, Any] = {
    "class_token": False,
    "patch": PartSpec("conv", (("norm", "rms"), ("norm_eps", 1e-5))),
    "encoder": EncoderOptions(qkv_bias=False, bias=False, activation="swiglu", norm="rms", norm_eps=1e-5),
}
FOR_TIMM: dict[str, tuple[str, ViTConfig]] = {
    "plain": ("timm", base(preprocess=COVER, classes=NAMES)),
    "mean, norm after": ("timm", base(pool="mean", norm_order="pool_norm", class_token=True)),
    "mean, norm before, no class token": ("timm", base(pool="gap", class_token=False, preprocess=SQUASH)),
    "registers": ("timm", base(num_registers=3, encoder=SCALED)),
    "registers without positions": ("timm", base(num_registers=4, position=PATCHES, size=WIDE)),
    "registers, no class token": ("timm", base(num_registers=2, pool="mean", class_token=False)),
    "no positions": ("timm", base(position="none")),
    "oblong": ("timm", bare(**OBLONG, preprocess=dataclasses.replace(SQUASH, crop=0.9))),
    "oblong patches": ("timm", base(image_size=(16, 24), patch_size=(4, 8), num_classes=1)),
    "grey": ("timm", base(channels=1, preprocess=Preprocess("squash", "bicubic", (0.5,), (0.2,)))),
    "no bias": ("timm", base(encoder=RAW)),
    "gated": ("timm", bare(encoder=GATED)),
    "gated, no scale": ("timm", base(encoder=EncoderOptions(activation="swiglu"), num_registers=1)),
    "clip": ("timm", bare(encoder=CLIP_ENCODER, patch=NO_BIAS, preprocess=Preprocess("cover", "bicubic", *CLIP))),
    "quick": ("timm", base(encoder=EncoderOptions(activation="quick_gelu"))),
    "relu": ("timm", base(encoder=EncoderOptions(activation="relu"))),
    "map": ("timm", bare(pool=mapped(), class_token=False)),
    "map, tanh, class token": (
        "timm",
        base(pool=mapped(activation="gelu_tanh"), class_token=True, encoder=EncoderOptions(activation="gelu_tanh")),
    ),
    "distilled": (
        "timm",
        base(pool=POOLS.configure("cls", num_tokens=2), head="distilled", num_registers=1, class_token=True),
    ),
    "norms within, no biases": (
        "timm",
        base(norm_order="none", encoder=EncoderOptions(bias=False, attention_norm=True, mlp_norm=True)),
    ),
    "odd width": ("timm", bare(size=vitrail.EncoderSize(dim=12, depth=1, num_heads=2, mlp_dim=41))),
    "dinov3": ("timm_eva", bare(position=DINOV3, num_registers=4, encoder=dataclasses.replace(SCALED, norm_eps=1e-5))),
    "dinov3, mean, no bias, oblong": (
        "timm_eva",
        base(
            **OBLONG,
            position=DINOV3,
            num_registers=4,
            pool="mean",
            class_token=True,
            encoder=dataclasses.replace(SCALED, norm_eps=1e-5, qkv_bias=False),
            preprocess=SQUASH,
        ),
    ),
    "dinov3, gated": (
        "timm_eva",
        base(
            size=dataclasses.replace(SIZE, mlp_dim=21),
            position=DINOV3,
            num_registers=4,
            encoder=dataclasses.replace(GATED, norm_eps=1e-5),
            classes=NAMES,
        ),
    ),
    "eva": ("timm_eva", base(pool="mean", class_token=True, norm_order="pool_norm")),
    "eva-02": (
        "timm_eva",
        base(
            pool="mean",
            class_token=True,
            norm_order="pool_norm",
            position=EVA02,
            encoder=EncoderOptions(activation="swiglu"),
        ),
    ),
    "eva-02, class, norms": (
        "timm_eva",
        base(
            **OBLONG,
            position=EVA02,
            encoder=EncoderOptions(activation="swiglu", attention_norm=True, mlp_norm=True),
        ),
    ),
    "eva, class": ("timm_eva", base(num_registers=2, **OBLONG)),
    "beit": (
        "timm_beit",
        base(position=RELATIVE, pool="mean", class_token=True, norm_order="pool_norm", preprocess=COVER, classes=NAMES),
    ),
    "beit, shared, oblong patches, no bias": (
        "timm_beit",
        bare(position=SHARED, patch_size=(4, 8), image_size=(16, 32), encoder=EncoderOptions(qkv_bias=False)),
    ),
    "beit, class, norm after": ("timm_beit", base(position=RELATIVE, encoder=SCALED, norm_order="pool_norm")),
    "naflex": (
        "timm_naflex",
        base(
            pool="mean",
            class_token=False,
            num_registers=3,
            norm_order="pool_norm",
            position=POSITIONS.configure("learned", covers_prefix=False, keep_aspect=True),
            encoder=SCALED,
            preprocess=dataclasses.replace(ASPECT, interpolation="bicubic"),
            classes=NAMES,
        ),
    ),
    "naflex, map, oblong": (
        "timm_naflex",
        bare(
            **OBLONG,
            pool=mapped(mlp_dim=16, activation="gelu_tanh"),
            class_token=True,
            position=POSITIONS.configure("learned", covers_prefix=False, resize="bilinear_antialias"),
            encoder=EncoderOptions(activation="gelu_tanh", qkv_bias=False, qk_norm=True),
            preprocess=ASPECT,
        ),
    ),
    "naflex, factorized, grey": (
        "timm_naflex",
        bare(
            pool="cls",
            channels=1,
            position=POSITIONS.configure("factorized", resize="bilinear", keep_aspect=True),
            encoder=EncoderOptions(pre_norm=True),
            patch=NO_BIAS,
        ),
    ),
    "rope": ("timm_rope_vit", base(position=rotary(rule="axial", reference=None), encoder=SCALED, classes=NAMES)),
    "rope, mixed": ("timm_rope_vit", base(position=POSITIONS.configure("rope_mixed", base=10.0), encoder=SCALED)),
    "rope, positions": (
        "timm_rope_vit",
        bare(**OBLONG, position=rotary("learned_rope", rule="axial", reference=None), encoder=SCALED),
    ),
    "rope, mixed, positions": (
        "timm_rope_vit",
        base(position=POSITIONS.configure("learned_rope", base=10.0, covers_prefix=False, mixed=True), encoder=SCALED),
    ),
    "rope, registers": (
        "timm_rope",
        base(
            position=rotary(rule="eva", reference=(3, 5), base=10000.0),
            pool="mean",
            class_token=False,
            num_registers=2,
            norm_order="pool_norm",
            encoder=SCALED,
            preprocess=COVER,
        ),
    ),
    "perception encoder": (
        "timm_pe",
        base(position=PERCEPTION, pool=WITH_PREFIX, class_token=True, patch=NO_BIAS, encoder=PERCEIVING),
    ),
    "perception encoder, features": (
        "timm_pe_features",
        bare(
            **OBLONG,
            position=PERCEPTION,
            pool="mean",
            class_token=True,
            norm_order="none",
            patch=NO_BIAS,
            encoder=dataclasses.replace(PERCEIVING, layer_scale=0.1),
        ),
    ),
    "aimv2": ("timm_aimv2", base(**AIM, position=PATCHES, pool="mean", preprocess=COVER)),
    "sam": ("timm_sam", bare(**SAM, encoder=EncoderOptions(norm_eps=1e-5))),
    "sam, oblong, no bias": (
        "timm_sam",
        bare(
            **{**SAM, "windows": WindowOptions(size=2, global_blocks=(0, 2), relative_grid=(3, 5))},
            **OBLONG,
            channels=1,
            encoder=EncoderOptions(norm_eps=1e-5, qkv_bias=False),
        ),
    ),
}
FOR_TRANSFORMERS: dict[str, tuple[str, ViTConfig]] = {
    "vit": ("hf_vit", base(preprocess=SQUASH, classes=NAMES)),
    "vit, oblong": (
        "hf_vit",
        base(**OBLONG, preprocess=dataclasses.replace(SQUASH, crop=0.8), encoder=EncoderOptions(norm_eps=1e-12)),
    ),
    "vit, oblong patches, no bias": (
        "hf_vit",
        bare(image_size=(16, 24), patch_size=(4, 8), encoder=EncoderOptions(qkv_bias=False, activation="gelu_tanh")),
    ),
    "vit, one class": (
        "hf_vit",
        base(num_classes=1, channels=1, preprocess=Preprocess("cover", "lanczos", (0.5,), (0.2,))),
    ),
    "vit, pooler": ("hf_vit", base(head=HEADS.configure("linear", activation="tanh"), num_classes=16)),
    "vit, pooler of another size": ("hf_vit", base(head=HEADS.configure("linear", activation="relu"), num_classes=7)),
    "deit": ("hf_vit", base(num_registers=1, preprocess=Preprocess("squash", "bicubic", *IMAGENET, crop=0.875))),
    "deit, none": ("hf_vit", bare(num_registers=1)),
    "deit, teacher": (
        "hf_vit",
        base(pool=POOLS.configure("cls", num_tokens=2), head="distilled", num_registers=1, classes=NAMES),
    ),
    "ijepa": ("hf_vit", bare(pool="mean", class_token=False)),
    "ijepa, classes": ("hf_vit", base(pool="mean", class_token=False, preprocess=SQUASH)),
    "dinov2": ("hf_dinov2", bare(encoder=SCALED, size=WIDE, preprocess=COVER)),
    "dinov2, classes": ("hf_dinov2", base(pool="cls_mean", encoder=SCALED, size=WIDE, classes=NAMES)),
    "dinov2, gated": ("hf_dinov2", bare(encoder=GATED, size=SIZE)),
    "dinov2, registers": ("hf_dinov2", bare(encoder=SCALED, size=WIDE, num_registers=3, position=CLASS)),
    "dinov2, registers, classes": (
        "hf_dinov2",
        base(pool="cls_mean", encoder=GATED, num_registers=2, position=CLASS, image_size=(24, 24)),
    ),
    "dinov3": ("hf_dinov3", bare(position=DINOV3, encoder=SCALED, num_registers=4, preprocess=SQUASH)),
    "dinov3, no registers": ("hf_dinov3", bare(position=DINOV3, encoder=SCALED)),
    "dinov3, gated, oblong": (
        "hf_dinov3",
        bare(**OBLONG, position=DINOV3, encoder=dataclasses.replace(GATED, qkv_bias=False), num_registers=1),
    ),
    "beit": (
        "hf_beit",
        base(
            position=RELATIVE,
            pool="mean",
            class_token=True,
            norm_order="pool_norm",
            encoder=SCALED,
            preprocess=SQUASH,
            classes=NAMES,
        ),
    ),
    "beit, mean": ("hf_beit", bare(position=SHARED, pool="mean", class_token=True, norm_order="pool_norm")),
    "beit, learned": ("hf_beit", bare(encoder=dataclasses.replace(SCALED, norm_eps=1e-12, activation="gelu_tanh"))),
    "beit, no positions": ("hf_beit", base(position="none", encoder=SCALED, channels=1)),
    "clip": ("hf_clip", bare(encoder=CLIP_ENCODER, patch=NO_BIAS, preprocess=Preprocess("cover", "bicubic", *CLIP))),
    "clip, projected": (
        "hf_clip",
        base(
            encoder=dataclasses.replace(CLIP_ENCODER, activation="gelu"),
            patch=NO_BIAS,
            head=HEADS.configure("linear", bias=False),
        ),
    ),
    "siglip": ("hf_siglip", bare(pool=mapped(), class_token=False, preprocess=SQUASH)),
    "siglip, no pool": ("hf_siglip", bare(pool="mean", class_token=False)),
    "siglip, classes": ("hf_siglip", base(pool="mean", class_token=False, classes=NAMES)),
    "siglip 2": ("hf_siglip", bare(pool=mapped(), class_token=False, position=NATIVE, preprocess=ASPECT)),
    "siglip 2, classes": ("hf_siglip", base(pool="mean", class_token=False, position=NATIVE, classes=NAMES)),
    "aimv2": ("hf_aimv2", bare(**AIM, position=PATCHES, pool="mean", preprocess=COVER)),
    "aimv2, native, with the probe": (
        "hf_aimv2",
        bare(**AIM, position=POSITIONS.configure("sincos2d", rule="mae"), pool=POOLS.configure("aim", num_heads=2)),
    ),
    "sam": ("hf_sam", bare(**SAM, preprocess=Preprocess("pad", "bilinear", *IMAGENET))),
}
# What transformers has and no file of vitrail, and what is compared does not read.
UNUSED = ("pooler.", "mask_token", "register_tokens")
TEACHER, PROJECTION = "DeiTForImageClassificationWithTeacher", "CLIPVisionModelWithProjection"
PHOTOGRAPHS = [Image.fromarray(data.chelsea()), Image.fromarray(data.astronaut()).resize((61, 90))]


BIASED = ("timm_eva", "timm_rope", "hf_dinov3", "timm_beit", "hf_beit")


def randomised(layout: str, config: Any) -> Any:
    """A model with every array drawn by its name. The bias of the keys is zero where no file stores one."""

    def draw(keys: Any, leaf: Any) -> Any:
        if not eqx.is_array(leaf):
            return leaf
        name = jax.tree_util.keystr(keys, simple=True, separator=".")
        array = drawn(name, leaf.shape)
        if name.endswith("stack.attention.qkv.bias") and layout in BIASED:
            array.reshape(config.size.depth, 3, -1)[:, 1] = 0
        return jax.numpy.asarray(array)

    return jax.tree_util.tree_map_with_path(draw, config.build(key=jax.random.key(0)))


def write(layout: Any, config: ViTConfig, folder: Path) -> vitrail.ViT:
    """The model that is in the folder now, as vitrail reads it."""
    vitrail.save(randomised(layout, config), folder, layout=layout)
    return vitrail.load(folder)


def picture(config: ViTConfig) -> np.ndarray:
    return image_of(config.image_size, config.channels)


def compare(ours: Any, theirs: torch.Tensor) -> None:
    found = theirs.detach().numpy()[0]
    assert np.shape(ours) == found.shape
    assert np.abs(np.asarray(ours) - found).max() <= TOLERANCE * np.abs(found).max()


@eqx.filter_jit
def run(model: vitrail.ViT, image: np.ndarray) -> tuple[Any, Any]:
    return model.backbone(image).sequence, model(image)


@pytest.mark.parametrize("name", FOR_TIMM)
def test_timm_opens_the_folder(name: str, tmp_path: Path) -> None:
    layout, config = FOR_TIMM[name]
    model = write(layout, config, tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    tokens, logits = run(model, picture(config))
    found = theirs.forward_features(batch(picture(config)))
    if layout == "timm_sam":
        compare(tokens, found.flatten(2).transpose(1, 2))
        return
    compare(tokens, found)
    compare(logits, theirs(batch(picture(config))))
    assert theirs.pretrained_cfg.get("label_names") == (None if config.classes is None else list(config.classes))
    assert theirs.num_classes == (config.num_classes or 0)


@pytest.mark.parametrize("name", [name for name, (_, config) in FOR_TIMM.items() if config.preprocess])
def test_timm_prepares_pictures_as_the_folder_says(name: str, tmp_path: Path) -> None:
    layout, config = FOR_TIMM[name]
    preprocess = write(layout, config, tmp_path).config.preprocess
    assert preprocess is not None
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    said = timm.data.resolve_data_config(model=theirs)
    if layout == "timm_naflex":
        said |= {"naflex": True, "patch_size": 4, "max_seq_len": 25}
    transform = timm.data.create_transform(**said)
    for photograph in PHOTOGRAPHS:
        image = photograph.convert("L") if config.channels == 1 else photograph
        expected = transform(image).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(preprocess(image, config.image_size), expected, atol=1e-5)


def open_with_transformers(folder: Path) -> Any:
    """The model of the folder, by the class that its config.json names and by the one that finds that class."""
    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    named = getattr(transformers, architecture)
    # DeiT with a teacher is in none of the tables of transformers.
    auto = transformers.AutoModelForImageClassification if "Classification" in architecture else transformers.AutoModel
    model, info = (named if architecture in (TEACHER, PROJECTION) else auto).from_pretrained(
        folder, output_loading_info=True
    )
    assert type(model) is named
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert all(any(part in key for part in UNUSED) for key in info["missing_keys"])
    return model.eval()


def flatten(image: np.ndarray) -> dict[str, torch.Tensor]:
    """An image as SigLIP 2 of native aspect has it: patches, which of them are there, and the grid."""
    height, width, channels = image.shape
    patches = image.reshape(height // 4, 4, width // 4, 4, channels).swapaxes(1, 2).reshape(1, -1, 16 * channels)
    shapes = torch.tensor([[height // 4, width // 4]])
    mask = torch.ones(patches.shape[:2], dtype=torch.long)
    return {"pixel_values": torch.from_numpy(patches.copy()), "pixel_attention_mask": mask, "spatial_shapes": shapes}


@pytest.mark.parametrize("name", FOR_TRANSFORMERS)
def test_transformers_opens_the_folder(name: str, tmp_path: Path) -> None:
    layout, config = FOR_TRANSFORMERS[name]
    model = write(layout, config, tmp_path)
    theirs = open_with_transformers(tmp_path)
    given = {"pixel_values": batch(picture(config))}
    with torch.no_grad():
        found = theirs(**(flatten(picture(config)) if name.startswith("siglip 2") else given))
    tokens, logits = run(model, picture(config))
    if layout == "hf_sam":
        compare(tokens, found.last_hidden_state.flatten(2).transpose(1, 2))
        return
    if "last_hidden_state" in found and layout != "hf_clip":  # CLIP's final norm is only on its class token
        compare(tokens, found.last_hidden_state)
    for output in ("logits", "image_embeds", "pooler_output"):
        unread = output == "pooler_output" and config.head == "none" and layout == "hf_vit"  # drawn anew
        if found.get(output) is not None and not unread:
            compare(logits, found[output])
    if "logits" in found and config.classes is not None:
        assert theirs.config.id2label == dict(enumerate(config.classes))


@pytest.mark.parametrize("name", [name for name, (_, config) in FOR_TRANSFORMERS.items() if config.preprocess])
def test_transformers_prepares_pictures_as_the_folder_says(name: str, tmp_path: Path) -> None:
    layout, config = FOR_TRANSFORMERS[name]
    preprocess = write(layout, config, tmp_path).config.preprocess
    assert preprocess is not None
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    for photograph in PHOTOGRAPHS:
        image = photograph.convert("L") if config.channels == 1 else photograph
        found, expected = preprocess(image, config.image_size), processor(images=image, return_tensors="np")
        if name == "siglip 2":
            batch = vitrail.pack([found], 4, 25)
            np.testing.assert_allclose(batch.patches, expected["pixel_values"], atol=1e-5)
            np.testing.assert_array_equal(batch.mask, expected["pixel_attention_mask"])
            np.testing.assert_array_equal(batch.grid, expected["spatial_shapes"])
        else:
            np.testing.assert_allclose(found, expected["pixel_values"][0].transpose(1, 2, 0), atol=1e-5)


# Image and text --------------------------------------------------------------------------------------------------

TEXTS = np.asarray([[18, 3, 7, 19, 0, 0, 0, 0], [11, 4, 1, 6, 5, 9, 2, 19]])
PROJECTED = HEADS.configure("linear", bias=False)
QUICK = dataclasses.replace(CLIP_ENCODER, activation="quick_gelu")
COVER_CLIP = Preprocess("cover", "bicubic", *CLIP)


def text(**changes: Any) -> vitrail.TextConfig:
    """A small text tower, of CLIP."""
    usual = {"vocabulary": 20, "context": 8, "size": SIZE, "embed_dim": 5, "encoder": EncoderOptions(norm_eps=1e-5)}
    return vitrail.TextConfig(**{**usual, "pooling": "largest_id", **changes})


def clip(**changes: Any) -> ViTConfig:
    """CLIP's image tower."""
    exact = dataclasses.replace(CLIP_ENCODER, activation="gelu")
    return base(**{"encoder": exact, "patch": NO_BIAS, "head": PROJECTED, "preprocess": COVER_CLIP, **changes})


SIGLIP_TEXT = text(
    causal=False, pooling="last", projection_bias=True, embed_dim=16, encoder=EncoderOptions(activation="gelu_tanh")
)
BOTH_TOWERS: dict[str, tuple[str, ViTConfig, vitrail.TextConfig, bool]] = {
    "clip": ("hf_clip", clip(), text(pooling="end_of_text", end_of_text=19), False),
    "clip, largest id": ("hf_clip", clip(encoder=QUICK), text(size=dataclasses.replace(SIZE, num_heads=4)), False),
    "metaclip 2": ("hf_clip", clip(), text(pooling="end_of_text", end_of_text=2), False),
    "siglip": ("hf_siglip", bare(pool=mapped(), class_token=False, preprocess=SQUASH), SIGLIP_TEXT, True),
    "siglip 2": ("hf_siglip", bare(pool=mapped(), class_token=False, position=NATIVE), SIGLIP_TEXT, True),
    "aimv2": (
        "hf_aimv2",
        base(**AIM, position=PATCHES, pool=POOLS.configure("aim", num_heads=2), head=PROJECTED),
        text(
            pooling="end_of_text",
            end_of_text=19,
            encoder=EncoderOptions(qkv_bias=False, bias=False, activation="swiglu", norm="rms", norm_eps=1e-5),
        ),
        False,
    ),
    "open_clip": ("openai_clip", clip(), text(), False),
    "open_clip, quick, oblong, bias": (
        "openai_clip",
        clip(encoder=QUICK, **OBLONG, preprocess=dataclasses.replace(SQUASH, interpolation="bicubic")),
        text(encoder=EncoderOptions(norm_eps=1e-3, activation="quick_gelu"), pooling="end_of_text", end_of_text=7),
        True,
    ),
    "open_clip, mean, scaled": (
        "openai_clip",
        clip(
            encoder=EncoderOptions(norm_eps=1e-6, activation="gelu_tanh", layer_scale=0.1),
            pool="mean",
            norm_order="pool_norm",
            class_token=True,
        ),
        text(causal=False, pooling="last", projection_bias=True, encoder=EncoderOptions(layer_scale=1.0)),
        True,
    ),
    "open_clip, first, no projection": (
        "openai_clip",
        clip(num_classes=16),
        text(pooling="first", embed_dim=None),
        False,
    ),
}


@pytest.mark.parametrize("name", BOTH_TOWERS)
def test_both_towers_are_opened_by_their_library(name: str, tmp_path: Path) -> None:
    layout, image_config, text_config, has_bias = BOTH_TOWERS[name]
    config = vitrail.ImageTextConfig(image=image_config, text=text_config, has_bias=has_bias)
    vitrail.save(randomised(layout, config), tmp_path, layout=layout)  # type: ignore[arg-type]
    model = vitrail.load(tmp_path)
    image = picture(image_config)
    if layout == "openai_clip":
        theirs = open_clip.create_model(f"local-dir:{tmp_path}", require_pretrained=True).eval()
        found = systems_image_text.run_open_clip(theirs, batch(image), TEXTS)
    else:
        found = systems_image_text.run_transformers(open_with_transformers(tmp_path), batch(image), TEXTS)
    embedding, embeddings = eqx.filter_jit(model.embed_image)(image), jax.vmap(model.embed_text)(TEXTS)
    compare(embedding, found["image"][None])
    compare(embeddings, found["texts"][None])
    compare(model.similarity(embedding, embeddings), found["similarity"][None])


@pytest.mark.parametrize("name", [name for name, case in BOTH_TOWERS.items() if case[0] == "openai_clip"])
def test_open_clip_prepares_pictures_as_the_folder_says(name: str, tmp_path: Path) -> None:
    layout, image_config, text_config, has_bias = BOTH_TOWERS[name]
    config = vitrail.ImageTextConfig(image=image_config, text=text_config, has_bias=has_bias)
    vitrail.save(randomised(layout, config), tmp_path, layout=layout)  # type: ignore[arg-type]
    preprocess = vitrail.load(tmp_path).config.image.preprocess
    *_, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    for photograph in PHOTOGRAPHS:
        expected = transform(photograph).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(preprocess(photograph, image_config.image_size), expected, atol=1e-5)


def test_every_layout_that_vitrail_writes_is_opened_here() -> None:
    tested = {layout for layout, *_ in (*FOR_TIMM.values(), *FOR_TRANSFORMERS.values(), *BOTH_TOWERS.values())}
    known = (each for layout in LAYOUTS.values() for each in (layout, layout.image) if each is not None)
    kinds = (ViTConfig, vitrail.ImageTextConfig)  # other systems are opened in files of their own
    assert tested == {layout.name for layout in known if layout.export is not None and layout.kind in kinds}


@pytest.mark.parametrize(
    ("kind", "config", "layout"),
    [
        ("Dinov2Model", "Dinov2Config", "hf_dinov2"),
        ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", "hf_dinov2"),
        ("DINOv3ViTModel", "DINOv3ViTConfig", "hf_dinov3"),
        ("BeitModel", "BeitConfig", "hf_beit"),
    ],
)
def test_what_is_kept_is_missed_by_nobody(kind: str, config: str, layout: Any, tmp_path: Path) -> None:
    """transformers opens what is written without a missing or an unexpected key."""
    beit = {"use_mask_token": True, "use_relative_position_bias": True}
    options = {"Dinov2Model": {}, "BeitModel": beit}.get(kind, {"num_register_tokens": 4})
    original = randomise(getattr(transformers, kind)(getattr(transformers, config)(**WIDTHS, **PICTURE, **options)))
    original.save_pretrained(tmp_path / "read")
    vitrail.save(vitrail.load(tmp_path / "read"), tmp_path / "written", layout=layout, keep=tmp_path / "read")
    model, said = getattr(transformers, kind).from_pretrained(tmp_path / "written", output_loading_info=True)
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    state = original.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_other_channels_are_those_of_timm(name: str, channels: int, tmp_path: Path) -> None:
    """`in_chans` of timm, which adapts the weights of a file, and vitrail's `channels` on the same file."""
    options: dict[str, Any] = {"img_size": 28 if "14" in name else 32, "depth": 2, "num_classes": 7}
    trained = timm.create_model(name, **options)
    randomise(trained)
    file = tmp_path / "model.safetensors"
    save_file(trained.state_dict(), file)
    config = {"architecture": name, "num_classes": 7, "model_args": {"img_size": options["img_size"], "depth": 2}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    overlay = {"file": str(file), "num_classes": 7, "input_size": (3, options["img_size"], options["img_size"])}
    theirs = timm.create_model(name, pretrained=True, in_chans=channels, pretrained_cfg_overlay=overlay, **options)
    theirs.eval()
    ours = vitrail.load(tmp_path, channels=channels)
    assert ours.config.channels == channels
    images = np.random.RandomState(1).standard_normal((2, options["img_size"], options["img_size"], channels))
    images = images.astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    found = np.asarray(eqx.filter_jit(lambda model, batch: jax.vmap(model)(batch))(ours, images))
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()

    vitrail.save(ours, tmp_path / "again.safetensors")
    again = vitrail.load(tmp_path / "again.safetensors")
    assert eqx.tree_equal(again, ours)
